/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool of threads: one list of work under one lock. A request here costs system calls that take far longer than
 * the lock is held. Must not allocate per request.
 */
#include "common/io/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Enough for the calls that are made here; AddressSanitizer's frames are several times as large. */
#ifdef WITH_SANITIZERS
#define POOL_STACK_BYTES (1024 * 1024)
#else
#define POOL_STACK_BYTES (128 * 1024)
#endif

struct io_pool {
    pthread_mutex_t lock;
    pthread_cond_t has_work;
    struct io_request_list list;
    unsigned idle; /* threads that wait for has_work */
    bool stop;
    io_pool_execute_fn *execute;
    void *arg;
    uint8_t *scratch;     /* of all threads; costs address space until it is used */
    size_t scratch_bytes; /* of one */
    size_t scratch_total;
    unsigned thread_count; /* started */
    struct io_pool_thread {
        pthread_t id;
        struct io_pool *pool;
        uint8_t *scratch;
    } threads[];
};

static void *pool_thread(void *arg)
{
    const struct io_pool_thread *thread = arg;
    struct io_pool *pool = thread->pool;

    prctl(PR_SET_NAME, "io-pool", 0, 0, 0); /* pthread_setname_np() would open a file of /proc */
    pthread_mutex_lock(&pool->lock);
    while (true) {
        struct block_request *req = io_request_list_pop(&pool->list);

        if (req == NULL && pool->stop)
            break;
        if (req == NULL) {
            pool->idle++;
            pthread_cond_wait(&pool->has_work, &pool->lock);
            pool->idle--;
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        pool->execute(req, thread->scratch, pool->arg);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void io_pool_submit(struct io_pool *pool, struct io_request_list *list)
{
    unsigned wake;

    if (list->head == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    *pool->list.tail = list->head;
    pool->list.tail = list->tail;
    pool->list.count += list->count;
    wake = MIN(list->count, pool->idle);
    pthread_mutex_unlock(&pool->lock);
    io_request_list_init(list);
    while (wake-- > 0)
        pthread_cond_signal(&pool->has_work);
}

/* Signals are the main thread's business; those that a fault or the sandbox raises must reach the thread itself. */
static void pool_block_signals(sigset_t *ret_before)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS };
    sigset_t set;

    sigfillset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_SETMASK, &set, ret_before);
}

static int pool_start_threads(struct io_pool *pool, unsigned count)
{
    pthread_attr_t attr;
    sigset_t before;
    int ret = 0;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, POOL_STACK_BYTES);
    pool_block_signals(&before);
    while (ret == 0 && pool->thread_count < count) {
        struct io_pool_thread *thread = &pool->threads[pool->thread_count];

        thread->pool = pool;
        thread->scratch = pool->scratch + pool->thread_count * pool->scratch_bytes;
        ret = pthread_create(&thread->id, &attr, pool_thread, thread);
        pool->thread_count += ret == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -ret;
}

struct io_pool *io_pool_new(unsigned thread_count, size_t scratch_bytes, io_pool_execute_fn *execute, void *arg,
                            struct error *err)
{
    struct io_pool *pool = calloc(1, sizeof(*pool) + thread_count * sizeof(pool->threads[0]));
    int ret;

    if (pool == NULL) {
        error_set(err, -ENOMEM, "no memory for a pool of %u threads", thread_count);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->has_work, NULL);
    io_request_list_init(&pool->list);
    pool->execute = execute;
    pool->arg = arg;
    pool->scratch_bytes = scratch_bytes;
    pool->scratch =
        mmap(NULL, thread_count * scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool->scratch == MAP_FAILED) {
        pool->scratch = NULL;
        error_set(err, -errno, "no memory for the buffers of %u I/O threads", thread_count);
        io_pool_free(pool);
        return NULL;
    }
    pool->scratch_total = thread_count * scratch_bytes;
    ret = pool_start_threads(pool, thread_count);
    if (ret < 0) {
        error_set(err, ret, "cannot start thread %u of %u of the I/O pool: %s", pool->thread_count + 1, thread_count,
                  strerror(-ret));
        io_pool_free(pool);
        return NULL;
    }
    return pool;
}

void io_pool_free(struct io_pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_broadcast(&pool->has_work);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i].id, NULL);
    pthread_cond_destroy(&pool->has_work);
    pthread_mutex_destroy(&pool->lock);
    if (pool->scratch != NULL)
        munmap(pool->scratch, pool->scratch_total);
    free(pool);
}
