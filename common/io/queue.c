/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Engines and their queues. During a turn of its loop a queue collects requests; its hook hands them to the ring or the
 * pool at the end of the turn, all at once, and continues those that are finished. Trusts requests (same process); must
 * not allocate, create descriptors or start threads after io_engine_new().
 *
 * Threads: a queue belongs to the thread of its loop. Others only push to `finished` and wake the loop.
 */
#include "common/io/queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "common/base/log.h"
#include "common/io/pool.h"
#include "common/io/ring.h"

/* Threads of the pool. With a ring they do only what it cannot: extents, bounce buffers, zeros written out. */
#define POOL_THREADS_WITH_RING 4
#define POOL_THREADS_ALONE     16

struct io_queue {
    struct io_engine *engine;
    struct io_loop *loop;
    struct io_hook hook;

    struct io_ring ring;             /* only of an io_uring engine */
    struct io_watch ring_watch;      /* its descriptor is readable when a completion is there */
    struct io_request_list for_ring; /* collected in this turn, or left over because the ring was full */
    struct io_request_list for_pool;

    _Atomic(struct block_request *) finished; /* by other threads; newest first */
    struct io_task finished_task;

    struct block_request *delayed; /* by time */
    struct block_request *last_delayed;
    struct io_timer delay_timer;
};

struct io_engine {
    bool use_ring;
    const int *image_fds;
    struct io_pool *pool;
    unsigned queue_count;
    struct io_queue queues[];
};

/* ---- Finishing ---- */

static void queue_continue(struct block_request *req, int result)
{
    if (req->after != NULL) {
        result = req->after(req, result);
        if (result == BLOCK_PENDING)
            return;
    }
    req->complete(req, result);
}

void io_queue_complete_remote(struct io_queue *queue, struct block_request *req, int result)
{
    struct block_request *head = atomic_load_explicit(&queue->finished, memory_order_relaxed);

    req->result = result;
    do {
        req->next = head;
    } while (!atomic_compare_exchange_weak(&queue->finished, &head, req));
    /* Whoever finds the list empty wakes the loop, for all that come until it looks. */
    if (head == NULL)
        io_loop_post(queue->loop, &queue->finished_task);
}

static void queue_run_finished(struct io_task *task)
{
    struct io_queue *queue = container_of(task, struct io_queue, finished_task);
    struct block_request *req = atomic_exchange(&queue->finished, NULL), *ordered = NULL;

    while (req != NULL) {
        struct block_request *next = req->next;

        req->next = ordered;
        ordered = req;
        req = next;
    }
    while (ordered != NULL) {
        req = ordered;
        ordered = req->next;
        if (req->result == BLOCK_PENDING)
            io_request_list_append(&queue->for_pool, req); /* work that lets others have their turn */
        else
            queue_continue(req, req->result);
    }
}

/* On a pool thread. */
static void pool_execute(struct block_request *req, uint8_t *scratch, void *arg)
{
    const struct io_engine *engine = arg;
    int result;

    if (req->work != NULL)
        result = req->work(req, scratch);
    else
        result = io_request_run(req, engine->image_fds[req->fd_index]);
    io_queue_complete_remote(req->queue, req, result);
}

/* ---- The ring ---- */

static bool is_transfer(const struct block_request *req)
{
    return req->engine_op == BLOCK_OP_READ || req->engine_op == BLOCK_OP_WRITE;
}

static void queue_ring_finished(struct io_queue *queue, struct block_request *req, int res)
{
    /* The kernel could not get a worker for it (RLIMIT_NPROC, a signal): our own threads can do it. */
    if (res == -EAGAIN || res == -ECANCELED) {
        io_request_list_append(&queue->for_pool, req);
        return;
    }
    if (is_transfer(req)) {
        res = io_request_transferred(req, res);
    } else if (res == -EINTR) {
        res = BLOCK_PENDING;
    }
    if (res == BLOCK_PENDING)
        io_request_list_append(&queue->for_ring, req);
    else
        queue_continue(req, MIN(res, 0));
}

static bool queue_reap(struct io_queue *queue)
{
    struct block_request *req;
    bool any = false;
    int res;

    while ((req = io_ring_reap(&queue->ring, &res)) != NULL) {
        queue_ring_finished(queue, req, res);
        any = true;
    }
    return any;
}

/* Completions before the hooks of the turn, so that exports answer in the same turn. */
static void queue_ring_ready(struct io_watch *watch, uint32_t events)
{
    queue_reap(container_of(watch, struct io_queue, ring_watch));
}

static void queue_fill_ring(struct io_queue *queue)
{
    while (queue->for_ring.head != NULL && io_ring_prepare(&queue->ring, queue->for_ring.head))
        io_request_list_pop(&queue->for_ring);
}

/* Returns true if there is more to do at once. */
static bool queue_run_ring(struct io_queue *queue)
{
    bool more;
    int ret;

    queue_fill_ring(queue);
    ret = io_ring_submit(&queue->ring);
    more = queue_reap(queue);
    /* -EAGAIN, -EBUSY: the kernel is short of memory or has completions to hand over first. */
    if (ret < 0 && ret != -EAGAIN && ret != -EBUSY) {
        /* The ring is ours and valid, and the requests that it holds would be lost. */
        log_error("io_uring_enter: %s", strerror(-ret));
        abort();
    }
    return more || ret < 0 || (queue->for_ring.head != NULL && queue->ring.in_flight == 0);
}

static bool queue_hook(struct io_hook *hook)
{
    struct io_queue *queue = container_of(hook, struct io_queue, hook);
    bool more = false;

    if (queue->engine->use_ring)
        more = queue_run_ring(queue);
    io_pool_submit(queue->engine->pool, &queue->for_pool);
    return more;
}

/* ---- Submitting ---- */

/* Every way into a queue asks this, so that BLOCK_REQ_INLINE_ONLY holds whatever a driver does. */
static bool inline_only(const struct block_request *req)
{
    return (req->flags & BLOCK_REQ_INLINE_ONLY) != 0;
}

int io_queue_submit(struct io_queue *queue, struct block_request *req)
{
    if (inline_only(req))
        return -EAGAIN;
    req->queue = queue;
    req->work = NULL;
    io_request_list_append(queue->engine->use_ring ? &queue->for_ring : &queue->for_pool, req);
    return BLOCK_PENDING;
}

int io_queue_call(struct io_queue *queue, struct block_request *req,
                  int (*work)(struct block_request *req, uint8_t *scratch))
{
    if (inline_only(req))
        return -EAGAIN;
    req->queue = queue;
    req->work = work;
    io_request_list_append(&queue->for_pool, req);
    return BLOCK_PENDING;
}

int io_queue_offload(struct io_queue *queue, struct block_request *req,
                     int (*work)(struct block_request *req, uint8_t *scratch))
{
    struct io_request_list list;

    if (inline_only(req))
        return -EAGAIN;
    req->queue = queue;
    req->work = work;
    io_request_list_init(&list);
    io_request_list_append(&list, req);
    io_pool_submit(queue->engine->pool, &list);
    return BLOCK_PENDING;
}

struct io_loop *io_queue_loop(const struct io_queue *queue)
{
    return queue->loop;
}

/* ---- Delays ---- */

static void queue_delay_expired(struct io_timer *timer)
{
    struct io_queue *queue = container_of(timer, struct io_queue, delay_timer);
    uint64_t now = now_ns();

    while (queue->delayed != NULL && queue->delayed->when_ns <= now) {
        struct block_request *req = queue->delayed;

        queue->delayed = req->next;
        if (queue->delayed == NULL)
            queue->last_delayed = NULL;
        queue_continue(req, req->result);
    }
    if (queue->delayed != NULL)
        io_loop_timer_set(queue->loop, timer, queue->delayed->when_ns);
}

int io_queue_delay(struct io_queue *queue, struct block_request *req, uint64_t delay_ns, int result)
{
    struct block_request **at = &queue->delayed;

    if (inline_only(req))
        return -EAGAIN;
    req->queue = queue;
    req->result = result;
    if (!u64_add(now_ns(), delay_ns, &req->when_ns))
        req->when_ns = UINT64_MAX;
    if (queue->last_delayed != NULL && queue->last_delayed->when_ns <= req->when_ns)
        at = &queue->last_delayed->next;
    while (*at != NULL && (*at)->when_ns <= req->when_ns)
        at = &(*at)->next;
    req->next = *at;
    *at = req;
    if (req->next == NULL)
        queue->last_delayed = req;
    if (queue->delayed == req)
        io_loop_timer_set(queue->loop, &queue->delay_timer, req->when_ns);
    return BLOCK_PENDING;
}

/* ---- Life ---- */

static int queue_init(struct io_queue *queue, struct io_engine *engine, struct io_loop *loop, unsigned fd_count,
                      struct error *err)
{
    int ret;

    queue->engine = engine;
    queue->loop = loop;
    queue->ring.uring.ring_fd = -1;
    queue->hook.run = queue_hook;
    queue->finished_task.run = queue_run_finished;
    queue->delay_timer.expired = queue_delay_expired;
    io_request_list_init(&queue->for_ring);
    io_request_list_init(&queue->for_pool);
    if (!engine->use_ring)
        return 0;
    ret = io_ring_init(&queue->ring, engine->image_fds, fd_count, err);
    if (ret < 0)
        return ret;
    queue->ring_watch = (struct io_watch){ .fd = queue->ring.uring.ring_fd, .ready = queue_ring_ready };
    ret = io_loop_watch(loop, &queue->ring_watch, EPOLLIN | EPOLLET);
    return ret < 0 ? error_set(err, ret, "cannot watch an io_uring: %s", strerror(-ret)) : 0;
}

static void queue_done(struct io_queue *queue)
{
    if (queue->loop != NULL)
        io_loop_unwatch(queue->loop, &queue->ring_watch);
    io_ring_done(&queue->ring);
}

static int engine_try(const struct io_engine_config *config, bool use_ring, struct io_engine **ret_engine,
                      struct error *err)
{
    struct io_engine *engine = calloc(1, sizeof(*engine) + config->loop_count * sizeof(engine->queues[0]));
    unsigned threads = config->pool_threads;
    int ret = 0;

    if (engine == NULL)
        return error_set(err, -ENOMEM, "no memory for an I/O engine");
    engine->use_ring = use_ring;
    engine->image_fds = config->image_fds;
    for (; ret == 0 && engine->queue_count < config->loop_count; engine->queue_count++) {
        ret = queue_init(&engine->queues[engine->queue_count], engine, config->loops[engine->queue_count],
                         config->image_fd_count, err);
    }
    if (threads == 0)
        threads = use_ring ? POOL_THREADS_WITH_RING : POOL_THREADS_ALONE;
    if (ret == 0 && (engine->pool = io_pool_new(threads, IO_SCRATCH_BYTES, pool_execute, engine, err)) == NULL)
        ret = err != NULL ? err->code : -ENOMEM;
    if (ret < 0) {
        io_engine_free(engine);
        return ret;
    }
    for (unsigned i = 0; i < engine->queue_count; i++)
        io_loop_add_hook(engine->queues[i].loop, &engine->queues[i].hook);
    *ret_engine = engine;
    return 0;
}

int io_engine_new(const struct io_engine_config *config, struct io_engine **ret_engine, struct error *err)
{
    struct error why;

    if (config->kind == IO_ENGINE_URING)
        return engine_try(config, true, ret_engine, err);
    if (config->kind == IO_ENGINE_AUTO) {
        if (engine_try(config, true, ret_engine, &why) == 0)
            return 0;
        log_info("I/O by threads instead of io_uring: %s", why.text);
    }
    return engine_try(config, false, ret_engine, err);
}

void io_engine_free(struct io_engine *engine)
{
    if (engine == NULL)
        return;
    io_pool_free(engine->pool);
    for (unsigned i = 0; i < engine->queue_count; i++)
        queue_done(&engine->queues[i]);
    free(engine);
}

void io_engine_release_files(struct io_engine *engine)
{
    for (unsigned i = 0; i < engine->queue_count; i++)
        io_ring_release_files(&engine->queues[i].ring);
}

const char *io_engine_name(const struct io_engine *engine)
{
    return engine->use_ring ? "io_uring" : "threads";
}

struct io_queue *io_engine_queue(struct io_engine *engine, unsigned index)
{
    return &engine->queues[index];
}
