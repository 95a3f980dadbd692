/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See queue.h. The guest and its front-end are hostile: the ring code hands over checked pieces of memory, whose bytes
 * may change at any moment. Nothing here allocates, locks or makes a system call per request beyond the I/O itself.
 */
#include "vhost-worker/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "vhost-worker/descriptor.h"

#define TURN_MAX      256u         /* requests of one queue before the others of its thread get their turn */
#define OFFLOAD_BYTES (256u << 10) /* so large a copy is worth another thread, if there is more to do meanwhile */
#define SHOW_MAX      16u          /* finished requests that the driver may have to wait for */
#define SHOW_BYTES    (1u << 20)   /* more of them at least: it makes new ones while those behind these are copied */

/* ---- Breaking and stopping ---- */

void vhost_signal_fd(int fd)
{
    uint64_t one = 1;

    /* Not blocking; a full counter is as good a signal as any. */
    if (fd >= 0) {
        ssize_t n _unused_ = write(fd, &one, sizeof(one));
    }
}

/* The ring is not touched again. The reason is the control thread's to read from here on. */
static void queue_break(struct vhost_queue *q)
{
    if (q->is_broken)
        return;
    q->is_broken = true;
    io_loop_unwatch(q->thread->io->loop, &q->kick);
    vhost_signal_fd(q->err_fd);
    io_loop_post(q->shared->worker->control_loop, &q->broken_task);
}

static void check_memory(struct vhost_queue *q)
{
    if (q->is_broken)
        return;
    if (vhost_mapping_broken())
        error_set(&q->broken_error, -EFAULT, "memory of the guest has gone: its file was cut");
    else if (q->ring.log_failed)
        error_set(&q->broken_error, -EPROTO, "queue %u: a write beyond the end of the dirty log", q->index);
    else
        return;
    queue_break(q);
}

static void thread_remove(struct vhost_thread *thread, struct vhost_queue *q)
{
    struct vhost_queue **at = &thread->running;

    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
}

static void add_counters(struct vhost_queue *q)
{
    struct worker_page *page = q->shared->worker->page;

    for (unsigned i = 0; i < WORKER_PAGE_OPS; i++) {
        if (q->ops[i] == 0)
            continue;
        worker_page_add(&page->ops[i], q->ops[i]);
        worker_page_add(&page->bytes[i], q->bytes[i]);
        if (q->errors[i] != 0)
            worker_page_add(&page->errors[i], q->errors[i]);
        q->ops[i] = q->bytes[i] = q->errors[i] = 0;
    }
    q->counted = false;
}

/* Let the driver see what is finished. */
static void queue_show(struct vhost_queue *q)
{
    vring_publish(&q->ring);
    if (vring_must_notify(&q->ring))
        vhost_signal_fd(q->call_fd);
}

/* The same at the end of a batch. */
static void queue_flush(struct vhost_queue *q)
{
    if (q->counted)
        add_counters(q);
    check_memory(q);
    if (q->is_broken)
        return;
    queue_show(q);
    if (q->shared->log_all)
        vhost_signal_fd(q->shared->log_fd);
    check_memory(q);
}

static void queue_check_stopped(struct vhost_queue *q)
{
    if (!q->is_stopping || q->slots.in_use > 0)
        return;
    queue_flush(q);
    /* A driver that was told that it need not kick would wait for ever for whoever serves the ring next. */
    if (!q->is_broken)
        vring_want_notify(&q->ring, true);
    check_memory(q);
    q->is_running = q->is_stopping = false;
    thread_remove(q->thread, q);
    io_loop_post(q->shared->worker->control_loop, &q->stopped_task);
}

/* ---- Requests ---- */

static void log_data(struct vhost_queue *q, struct vhost_slot *slot)
{
    const struct iovec *iov = vhost_slots_written(&q->slots, slot);

    for (unsigned i = 0; iov != NULL && i < slot->chain.in_count; i++) {
        if (!vhost_dirty_log_mark_host(&q->shared->log, &q->shared->memory, iov[i].iov_base, iov[i].iov_len))
            q->ring.log_failed = true;
    }
}

/* Give a request back to the driver; it becomes visible with the next flush. */
static void slot_finish(struct vhost_queue *q, struct vhost_slot *slot, uint8_t status)
{
    /* What was not written may not be counted as written (2.7.8.2): without data the status is out of reach, too. */
    uint32_t len_bytes = status == VIRTIO_BLK_S_OK || slot->chain.in_bytes == 1 ? slot->blk.in_len_bytes : 0;

    if (!q->is_broken) {
        *slot->blk.status_byte = status;
        log_data(q, slot);
        vring_push(&q->ring, &slot->chain, len_bytes);
    }
    vhost_slots_give_back(&q->slots, slot);
}

static void count(struct vhost_queue *q, const struct vhost_slot *slot, int result)
{
    enum block_op op = slot->blk.op;

    if (op == BLOCK_OP_MAX)
        return;
    q->counted = true;
    q->ops[op]++;
    if (result == 0)
        q->bytes[op] += slot->blk.len_bytes;
    else
        q->errors[op]++;
}

/* Of several ranges the one that failed is told, which is the last that was submitted. */
static void report_error(struct vhost_queue *q, const struct vhost_slot *slot, int result)
{
    const struct blk_request *blk = &slot->blk;
    const struct blk_range *range = blk->action == BLK_RANGES ? &blk->ranges[slot->range_next - 1] : NULL;

    worker_report_io_error(q->shared->worker, &slot->io, range != NULL ? range->offset : blk->offset,
                           range != NULL ? range->len_bytes : blk->len_bytes, result);
}

/* The block layer is done with the request. */
static void slot_result(struct vhost_queue *q, struct vhost_slot *slot, int result)
{
    count(q, slot, result);
    check_memory(q); /* a copy from or to memory that has gone does not fail by itself */
    if (result == -EFAULT && !q->is_broken) {
        /* Our own buffers are always there: the kernel met a hole where the guest's memory was. */
        error_set(&q->broken_error, -EFAULT, "queue %u: memory of the guest has gone: its file was cut", q->index);
        queue_break(q);
    } else if (result < 0 && result != -ENOTSUP) {
        report_error(q, slot, result);
    }
    slot_finish(q, slot, blk_status(result));
}

static void slot_complete(struct block_request *io, int result);

/* Submit the ranges from range_next on, one after the other. Returns 0, -errno or BLOCK_PENDING. */
static int slot_submit_ranges(struct vhost_queue *q, struct vhost_slot *slot)
{
    int ret = 0;

    while (ret == 0 && slot->range_next < slot->blk.range_count) {
        const struct blk_range *range = &slot->blk.ranges[slot->range_next++];

        slot->io = (struct block_request){ .op = slot->blk.op,
                                           .flags = range->flags,
                                           .offset = range->offset,
                                           .len_bytes = range->len_bytes,
                                           .complete = slot_complete };
        ret = block_submit(q->shared->worker->root, q->thread->io->queue, &slot->io);
    }
    return ret;
}

/* A request that was pending is done, on the queue's own thread. */
static void slot_complete(struct block_request *io, int result)
{
    struct vhost_slot *slot = container_of(io, struct vhost_slot, io);
    struct vhost_queue *q = slot->queue;

    if (result == 0 && slot->blk.action == BLK_RANGES) {
        result = slot_submit_ranges(q, slot);
        if (result == BLOCK_PENDING)
            return;
    }
    slot_result(q, slot, result);
    /* The thread's hook flushes at the end of this turn. */
}

/*
 * Reads of a file go side by side. Writes do not, because file systems let one at a time into a file: more threads
 * would but wait for each other.
 */
static bool is_worth_a_thread(const struct vhost_queue *q, const struct vhost_slot *slot)
{
    return slot->blk.op == BLOCK_OP_READ && slot->blk.len_bytes >= OFFLOAD_BYTES &&
           (q->slots.in_use > 1 || vring_available(&q->ring));
}

/* Execute a request that was taken. Returns whether it is finished. */
static bool slot_start(struct vhost_queue *q, struct vhost_slot *slot)
{
    int ret;

    switch (slot->blk.action) {
    case BLK_FINISH:
        count(q, slot, slot->blk.status == VIRTIO_BLK_S_OK ? 0 : -EIO);
        slot_finish(q, slot, slot->blk.status);
        return true;
    case BLK_RANGES:
        slot->range_next = 0;
        ret = slot_submit_ranges(q, slot);
        break;
    case BLK_TRANSFER:
    case BLK_FLUSH:
    default:
        slot->io.op = slot->blk.op;
        slot->io.flags = slot->blk.flags;
        if (is_worth_a_thread(q, slot))
            slot->io.flags |= BLOCK_REQ_OFFLOAD;
        slot->io.offset = slot->blk.offset;
        slot->io.len_bytes = slot->blk.len_bytes;
        slot->io.iov = slot->blk.iov;
        slot->io.iov_count = slot->blk.iov_count;
        slot->io.complete = slot_complete;
        ret = block_submit(q->shared->worker->root, q->thread->io->queue, &slot->io);
        break;
    }
    if (ret == BLOCK_PENDING)
        return false;
    slot_result(q, slot, ret);
    return true;
}

/* Take one request off the ring. 1, 0: none is available, or -errno: the ring is broken. */
static int slot_take(struct vhost_queue *q, struct vhost_slot **ret_slot)
{
    struct iovec *iov;
    int ret = vhost_slots_take(&q->slots, &q->ring, ret_slot, &iov, &q->broken_error);

    if (ret <= 0)
        return ret;
    ret = blk_request_parse(&q->shared->device, &(*ret_slot)->chain, iov, &(*ret_slot)->blk, &q->broken_error);
    if (ret == 0)
        return 1;
    vhost_slots_give_back(&q->slots, *ret_slot);
    return ret;
}

/* Serve what is available, up to a turn's worth. Returns whether there was anything. */
static bool queue_serve(struct vhost_queue *q)
{
    unsigned taken, finished = 0;
    uint64_t finished_bytes = 0;

    vring_want_notify(&q->ring, false);
    for (taken = 0; taken < TURN_MAX && !q->is_broken; taken++) {
        struct vhost_slot *slot;
        int ret;

        /* The ring bounds what is in flight, so there is a slot unless the bound was just reached. */
        if (!vhost_slots_available(&q->slots))
            break;
        ret = slot_take(q, &slot);
        if (ret == 0)
            break;
        if (ret < 0) {
            error_prepend(&q->broken_error, "queue %u", q->index);
            queue_break(q);
            break;
        }
        if (slot_start(q, slot)) {
            finished++;
            finished_bytes += slot->blk.len_bytes;
        }
        /* A driver that sleeps is woken before all of a batch is done: it makes the next one while this goes on. */
        if ((finished == SHOW_MAX || finished_bytes > SHOW_BYTES) && !q->is_broken) {
            queue_show(q);
            finished = 0;
            finished_bytes = 0;
        }
    }
    queue_flush(q);
    return taken > 0;
}

/* Without a slot it goes on with the first request that comes back. */
static bool may_serve(const struct vhost_queue *q)
{
    return q->kicked && !q->is_stopping && !q->is_broken && vhost_slots_available(&q->slots);
}

static void on_kick(struct io_watch *watch, uint32_t events)
{
    struct vhost_queue *q = container_of(watch, struct vhost_queue, kick);

    if (q->kick_is_stream) {
        uint8_t buffer[64];
        ssize_t n = read(watch->fd, buffer, sizeof(buffer));

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            io_loop_unwatch(q->thread->io->loop, &q->kick);
            return;
        }
    }
    q->kicked = true;
    if (may_serve(q))
        queue_serve(q);
}

static bool thread_run(struct io_hook *hook)
{
    struct vhost_thread *thread = container_of(hook, struct vhost_thread, hook);
    struct vhost_queue *next;
    bool progress = false;

    for (struct vhost_queue *q = thread->running; q != NULL; q = next) {
        next = q->next;
        if (may_serve(q) && vring_available(&q->ring))
            progress |= queue_serve(q);
        else if (q->counted || q->ring.unpublished > 0)
            queue_flush(q);
        queue_check_stopped(q);
    }
    return progress;
}

/* Last before sleep: from here on kicks are needed. */
static bool thread_before_sleep(struct io_hook *hook)
{
    struct vhost_thread *thread = container_of(hook, struct vhost_thread, hook);
    bool work = false;

    for (struct vhost_queue *q = thread->running; q != NULL; q = q->next) {
        if (!may_serve(q))
            continue;
        vring_want_notify(&q->ring, true);
        work |= vring_available(&q->ring);
    }
    return work;
}

/* ---- Life ---- */

void vhost_thread_init(struct vhost_thread *thread, struct worker_io_thread *io)
{
    thread->io = io;
    thread->running = NULL;
    thread->hook = (struct io_hook){ .run = thread_run, .before_sleep = thread_before_sleep };
    io_loop_add_hook(io->loop, &thread->hook);
}

static void run_start(struct io_task *task)
{
    struct vhost_queue *q = container_of(task, struct vhost_queue, start_task);
    int ret;

    q->is_running = true;
    q->next = q->thread->running;
    q->thread->running = q;
    /* An eventfd raises an event with each write, so its counter need not be read back. */
    ret = io_loop_watch(q->thread->io->loop, &q->kick, q->kick_is_stream ? EPOLLIN : EPOLLIN | EPOLLET);
    if (ret < 0) {
        error_set(&q->broken_error, ret, "queue %u: its kick descriptor cannot be watched: %s", q->index,
                  strerror(-ret));
        queue_break(q);
    } else if (may_serve(q)) {
        queue_serve(q);
    }
}

static void run_stop(struct io_task *task)
{
    struct vhost_queue *q = container_of(task, struct vhost_queue, stop_task);

    q->is_stopping = true;
    io_loop_unwatch(q->thread->io->loop, &q->kick);
    queue_check_stopped(q);
}

static void run_stopped(struct io_task *task)
{
    struct vhost_queue *q = container_of(task, struct vhost_queue, stopped_task);

    q->stopped(q);
}

static void run_broken(struct io_task *task)
{
    struct vhost_queue *q = container_of(task, struct vhost_queue, broken_task);

    q->broken(q);
}

void vhost_queue_init(struct vhost_queue *q, struct vhost_shared *shared, struct vhost_thread *thread, unsigned index)
{
    *q = (struct vhost_queue){
        .shared = shared,
        .thread = thread,
        .index = index,
        .kick_fd = -1,
        .call_fd = -1,
        .err_fd = -1,
        .start_task = { .run = run_start },
        .stop_task = { .run = run_stop },
        .stopped_task = { .run = run_stopped },
        .broken_task = { .run = run_broken },
    };
}

void vhost_queue_reset(struct vhost_queue *q)
{
    vring_done(&q->ring);
    vhost_inflight_close(&q->inflight);
    vhost_slots_release(&q->slots);
    q->kicked = false;
    close_fd(&q->kick_fd);
    close_fd(&q->call_fd);
    close_fd(&q->err_fd);
}

int vhost_queue_set_kick(struct vhost_queue *q, int fd, struct error *err)
{
    enum vhost_descriptor kind = vhost_descriptor_kind(fd);

    if (kind != VHOST_DESCRIPTOR_EVENT && kind != VHOST_DESCRIPTOR_STREAM)
        return error_set(err, -EINVAL, "the kick descriptor is neither an eventfd nor a pipe");
    q->kick_is_stream = kind == VHOST_DESCRIPTOR_STREAM;
    close_fd(&q->kick_fd);
    q->kick_fd = fd;
    return 0;
}

/*
 * An eventfd blocks when its counter is full, which takes a front-end that wants that; it hurts itself. A pipe is full
 * when nobody reads it for a while.
 */
int vhost_signal_fd_check(int fd, struct error *err)
{
    enum vhost_descriptor kind = vhost_descriptor_kind(fd);

    if (kind == VHOST_DESCRIPTOR_EVENT)
        return 0;
    if (kind != VHOST_DESCRIPTOR_STREAM)
        return error_set(err, -EINVAL, "the descriptor is neither an eventfd nor a pipe");
    if (!(fcntl(fd, F_GETFL) & O_NONBLOCK))
        return error_set(err, -EINVAL, "the descriptor is a pipe or socket that blocks");
    return 0;
}

int vhost_queue_start(struct vhost_queue *q, struct error *err)
{
    int ret = vhost_slots_make(&q->slots, q, q->ring.size, q->shared->log_all, err);

    if (ret < 0)
        return ret;
    q->is_stopping = q->is_broken = false;
    q->kick = (struct io_watch){ .fd = q->kick_fd, .ready = on_kick };
    io_loop_post(q->thread->io->loop, &q->start_task);
    return 0;
}

void vhost_queue_stop(struct vhost_queue *q)
{
    io_loop_post(q->thread->io->loop, &q->stop_task);
}
