/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a thread gets requests: one read(2) each, into the buffer of a free slot, since /dev/fuse gives one at a time.
 * Without a free slot it reads no more: the kernel keeps what it has, and clients wait.
 */
#include <errno.h>
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <sys/mman.h>

#include "common/base/log.h"
#include "fuse-worker/export.h"
#include "fuse-worker/ops.h"

/*
 * So many requests without I/O in flight, and the descriptor is no longer watched by the loop: a watch costs the kernel
 * a little for each request, to begin and to end it costs a system call each.
 */
#define WATCH_ROUNDS 64

#define HUGE_PAGE_BYTES 2097152u
#define LARGE_BYTES     262144u /* of a request */
#define LARGE_ROUNDS    32

static _Thread_local struct fx_thread *current_thread;

struct fx_thread *fx_thread_current(void)
{
    return current_thread;
}

/* ---- Slots ---- */

static bool has_free_slot(const struct fx_thread *thread)
{
    for (unsigned i = 0; i < ARRAY_SIZE(thread->free_slots); i++) {
        if (thread->free_slots[i] != 0)
            return true;
    }
    return false;
}

/* Always the first free one: its buffer is in the processor's cache, and those behind it can be given back. */
static struct fx_slot *slot_get(struct fx_thread *thread)
{
    for (unsigned i = 0; i < ARRAY_SIZE(thread->free_slots); i++) {
        unsigned bit;

        if (thread->free_slots[i] == 0)
            continue;
        bit = (unsigned)__builtin_ctzll(thread->free_slots[i]);
        thread->free_slots[i] &= thread->free_slots[i] - 1;
        return &thread->slots[i * 64 + bit];
    }
    return NULL;
}

void fx_slot_put(struct fx_slot *slot)
{
    unsigned index = (unsigned)(slot - slot->thread->slots);

    slot->thread->free_slots[index / 64] |= 1ull << index % 64;
}

/* After a burst of large requests: give back the memory of most buffers. All slots but one are free. */
static void slots_trim(struct fx_thread *thread)
{
    for (unsigned i = FX_SLOTS; i-- > 0 && thread->dirty_slots > FX_WARM_SLOTS;) {
        struct fx_slot *slot = &thread->slots[i];

        if (!slot->dirty)
            continue;
        madvise(slot->data, FX_IO_BYTES_MAX, MADV_DONTNEED);
        slot->dirty = false;
        thread->dirty_slots--;
    }
}

/*
 * A client that makes large requests one by one has them in the first buffer. As one huge page it saves the kernel, which
 * looks up each page of it for the copy, a twentieth of the CPU time of a write of 1 MiB. It takes 2 MiB, hence only who
 * makes such requests gets it. An attempt may fail, for want of memory or because somebody is just using it; the next
 * one is made after twice as many requests.
 */
static void consider_huge_page(struct fx_thread *thread)
{
    unsigned count = ++thread->large_requests;

    if (!thread->has_huge_page && count >= LARGE_ROUNDS && is_power_of_2(count))
        thread->has_huge_page = madvise(thread->buffers, HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0;
}

void fx_slot_fill(struct fx_slot *slot, size_t bytes)
{
    struct fx_thread *thread = slot->thread;

    if (bytes <= FX_PAGE_BYTES)
        return;
    if (!slot->dirty)
        thread->dirty_slots++;
    slot->dirty = true;
    if (bytes >= LARGE_BYTES && slot == thread->slots)
        consider_huge_page(thread);
}

int fx_thread_init(struct fx_export *export, struct fx_thread *thread)
{
    size_t bytes = (size_t)FX_SLOTS * FX_BUFFER_BYTES + HUGE_PAGE_BYTES;
    uint8_t *memory;

    thread->export = export;
    thread->blocking_fd = -1;
    thread->watch.fd = -1;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    thread->buffers = memory + (-(uintptr_t)memory & (HUGE_PAGE_BYTES - 1));
    for (unsigned i = 0; i < FX_SLOTS; i++) {
        thread->slots[i].thread = thread;
        thread->slots[i].data = thread->buffers + (size_t)i * FX_BUFFER_BYTES + FX_PAGE_BYTES;
        fx_slot_put(&thread->slots[i]);
    }
    return io_pipe_init(&thread->pipe);
}

void fx_thread_begin_pending(struct fx_thread *thread)
{
    atomic_fetch_add_explicit(&thread->pending, 1, memory_order_relaxed);
}

void fx_thread_end_pending(struct fx_thread *thread)
{
    atomic_fetch_sub_explicit(&thread->pending, 1, memory_order_relaxed);
}

static bool has_pending(const struct fx_thread *thread)
{
    return atomic_load_explicit(&thread->pending, memory_order_relaxed) > 0;
}

void fx_count(struct fx_thread *thread, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
              int result)
{
    struct worker_page *page = thread->export->worker->page;

    worker_page_add(&page->ops[req->op], 1);
    if (result >= 0) {
        worker_page_add(&page->bytes[req->op], len_bytes);
        return;
    }
    worker_page_add(&page->errors[req->op], 1);
    worker_report_io_error(thread->export->worker, req, offset, len_bytes, result);
}

/* ---- Requests ---- */

/* From any thread, once: the mount is gone, nothing will ever come again. */
static void tell_gone(struct fx_export *export, int code)
{
    if (atomic_exchange(&export->gone_posted, true))
        return;
    export->gone_code = code;
    io_loop_post(export->worker->control_loop, &export->gone_task);
}

static void hand_to_libfuse(struct fx_thread *thread, struct fx_slot *slot, const struct fuse_in_header *in,
                            size_t bytes)
{
    struct fuse_buf buf = { .mem = (void *)(uintptr_t)in, .size = bytes };
    struct fuse_session *session = thread->export->session;
    bool is_init = in->opcode == FUSE_INIT;

    thread->reply_fd = slot->reply_fd;
    thread->answers_init_with_mappings = is_init && fx_ops_offers_shared_mappings(in, bytes);
    fuse_session_process_buf(session, &buf);
    thread->answers_init_with_mappings = false;
    fx_slot_put(slot);
    if (is_init)
        fx_ops_init_done(thread->export);
    if (fuse_session_exited(session)) {
        log_error("the kernel's FUSE protocol is none that libfuse %s knows", fuse_pkgversion());
        tell_gone(thread->export, -EPROTO);
    }
}

static void dispatch(struct fx_thread *thread, struct fx_slot *slot, size_t bytes)
{
    const struct fuse_in_header *in = (const void *)(slot->data - FX_HEAD_BYTES);

    if (bytes < sizeof(*in) || in->len != bytes) {
        log_error("a request of %zu bytes came from /dev/fuse that says it has %u", bytes, in->len);
        fx_slot_put(slot);
        return;
    }
    slot->unique = in->unique;
    fx_slot_fill(slot, bytes);
    if (!fx_io_dispatch(slot, in))
        hand_to_libfuse(thread, slot, in, bytes);
}

/* Read one request and work on it; false: there is none, or no slot for it. */
static bool serve_one(struct fx_thread *thread, int fd)
{
    struct fx_slot *slot = slot_get(thread);
    ssize_t n;

    if (slot == NULL)
        return false;
    n = read(fd, slot->data - FX_HEAD_BYTES, FX_READ_BYTES);
    if (n > 0) {
        slot->reply_fd = fd;
        dispatch(thread, slot, (size_t)n);
        return true;
    }
    fx_slot_put(slot);
    if (n < 0 && (errno == ENOENT || errno == EINTR)) /* the request was taken back by the kernel */
        return true;
    if (n == 0 || errno != EAGAIN) {
        thread->ended = true;
        tell_gone(thread->export, n == 0 ? -ENODEV : -errno);
    }
    return false;
}

static void device_ready(struct io_watch *watch, uint32_t events)
{
    struct fx_thread *thread = container_of(watch, struct fx_thread, watch);
    unsigned count = 0;

    while (count < FX_TURN_MAX && serve_one(thread, watch->fd))
        count++;
    if (thread->ended)
        io_loop_unwatch(thread->loop, watch);
}

/* ---- Waiting ---- */

/* EPOLLEXCLUSIVE: a request wakes one of the threads that wait, as it does with those that block in read(2). */
static void watch_device(struct fx_thread *thread, bool on)
{
    bool is_on = thread->watch.events != 0;

    if (on == is_on)
        return;
    if (on)
        io_loop_watch(thread->loop, &thread->watch, EPOLLIN | EPOLLEXCLUSIVE);
    else
        io_loop_unwatch(thread->loop, &thread->watch);
}

/*
 * Before the loop sleeps. Returns true, so that it takes another turn, as soon as a request is under way; until then
 * nobody else has anything to say to this thread.
 */
static bool before_sleep(struct io_hook *hook)
{
    struct fx_thread *thread = container_of(hook, struct fx_thread, hook);

    if (thread->ended)
        return false;
    if (!has_pending(thread) && thread->dirty_slots > FX_WARM_SLOTS)
        slots_trim(thread);
    if (thread->blocking_fd < 0 || has_pending(thread)) {
        watch_device(thread, has_free_slot(thread));
        thread->blocked_rounds = 0;
        return false;
    }
    while (!has_pending(thread) && !thread->ended) {
        if (++thread->blocked_rounds == WATCH_ROUNDS)
            watch_device(thread, false);
        serve_one(thread, thread->blocking_fd);
    }
    return true;
}

/* While the loop polls, which is asked for by poll-max-ns: look for requests without waiting. */
static bool run_hook(struct io_hook *hook)
{
    struct fx_thread *thread = container_of(hook, struct fx_thread, hook);

    if (thread->export->worker->boot.poll_max_ns == 0 || thread->ended)
        return false;
    return serve_one(thread, thread->watch.fd);
}

static void begin(struct io_task *task)
{
    struct fx_thread *thread = container_of(task, struct fx_thread, begin_task);

    current_thread = thread;
    thread->hook = (struct io_hook){ .run = run_hook, .before_sleep = before_sleep };
    io_loop_add_hook(thread->loop, &thread->hook);
}

void fx_thread_start(struct fx_thread *thread, int nonblocking_fd, int blocking_fd)
{
    thread->watch = (struct io_watch){ .fd = nonblocking_fd, .ready = device_ready };
    /* Polling and blocking exclude each other. */
    thread->blocking_fd = thread->export->worker->boot.poll_max_ns == 0 ? blocking_fd : -1;
    thread->begin_task.run = begin;
    io_loop_post(thread->loop, &thread->begin_task);
}
