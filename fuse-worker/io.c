/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The operations that clients wait for most, straight on the kernel's protocol (linux/fuse.h): libfuse allocates and
 * locks for each request. No allocation here; two system calls for a request whose data is at hand, one to get it and
 * one to answer.
 *
 * Coherence: every open file is FOPEN_DIRECT_IO, so that the kernel keeps no copy of the data but of what is mapped,
 * and what other exports of the node write is read at once. Pages of mappings that were changed come as WRITE with
 * FUSE_WRITE_CACHE: they belong to the file as it was, so they never make it longer. Writes of several clients run in
 * parallel (FOPEN_PARALLEL_DIRECT_WRITES, Linux 6.2; older kernels do not look at the bit).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fuse-worker/export.h"

/* What fh of an open file tells. */
#define FH_WRITES 1u

#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

/*
 * One piece of memory, which the kernel takes with less ado than a vector: the answer's header ends where the data
 * begins, and what is not the data goes to its end. False: nobody takes the answer. ENOENT says that the request was
 * given up, ENODEV that the mount is gone, which the next read will find too.
 */
static bool reply(struct fx_slot *slot, int result, const void *body, size_t body_bytes)
{
    size_t bytes = sizeof(struct fuse_out_header) + (result < 0 ? 0 : body_bytes);
    struct fuse_out_header out = {
        .len = (uint32_t)bytes,
        .error = result < 0 ? result : 0,
        .unique = slot->unique,
    };
    uint8_t *start = body == slot->data ? slot->data - sizeof(out) : slot->data - bytes;
    ssize_t n;

    memcpy(start, &out, sizeof(out));
    if (body != slot->data && bytes > sizeof(out))
        memcpy(start + sizeof(out), body, body_bytes);
    n = write(slot->reply_fd, start, bytes);
    fx_slot_put(slot);
    return n > 0;
}

/* ---- READ ---- */

static void read_done(struct fx_slot *slot, int result)
{
    fx_count(slot->thread, &slot->req, slot->offset, slot->bytes, result);
    reply(slot, result, slot->data, slot->bytes);
}

static void read_complete(struct block_request *req, int result)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);

    fx_thread_end_pending(slot->thread);
    read_done(slot, result);
}

static int submit(struct fx_slot *slot)
{
    int r = block_submit(slot->thread->export->root, slot->thread->queue, &slot->req);

    if (r == BLOCK_PENDING)
        fx_thread_begin_pending(slot->thread);
    return r;
}

static void prepare(struct fx_slot *slot, enum block_op op, uint64_t offset, size_t bytes, block_complete_fn *complete)
{
    struct block_request *req = &slot->req;

    slot->offset = offset;
    slot->bytes = bytes;
    slot->iov = (struct iovec){ .iov_base = slot->data, .iov_len = bytes };
    req->op = op;
    req->flags = 0;
    req->offset = offset;
    req->len_bytes = bytes;
    req->iov = &slot->iov;
    req->iov_count = 1;
    req->complete = complete;
}

/* So much of what is asked for lies before the end: also while the file is just being cut. */
static size_t readable(const struct fx_export *export, uint64_t offset, uint64_t bytes)
{
    uint64_t size = MIN(atomic_load_explicit(&export->size_bytes, memory_order_relaxed), block_node_size(export->root));

    return offset >= size ? 0 : MIN(bytes, size - offset);
}

/* True if it is answered. */
static bool read_spliced(struct fx_slot *slot)
{
    if (!fx_splice_read(slot, slot->offset, slot->bytes))
        return false;
    fx_count(slot->thread, &slot->req, slot->offset, slot->bytes, 0);
    fx_slot_put(slot);
    return true;
}

static void handle_read(struct fx_slot *slot, const struct fuse_in_header *in)
{
    const struct fuse_read_in *arg = (const void *)(in + 1);
    const struct fx_export *export = slot->thread->export;
    uint64_t offset = arg->offset;
    size_t bytes = readable(export, offset, arg->size), before;
    int r;

    if (arg->size > FX_IO_BYTES_MAX) {
        reply(slot, -EINVAL, NULL, 0);
        return;
    }
    do {
        if (bytes == 0) {
            reply(slot, 0, NULL, 0);
            return;
        }
        prepare(slot, BLOCK_OP_READ, offset, bytes, read_complete);
        if (read_spliced(slot))
            return;
        fx_slot_fill(slot, bytes);
        r = submit(slot);
        before = bytes;
        bytes = readable(export, offset, before);
    } while (r == -EINVAL && bytes < before);
    if (r != BLOCK_PENDING)
        read_done(slot, r);
}

/* ---- WRITE ---- */

static void write_done(struct fx_slot *slot, int result)
{
    struct fuse_write_out out = { .size = (uint32_t)slot->bytes };

    fx_count(slot->thread, &slot->req, slot->offset, slot->bytes, result);
    reply(slot, result, &out, sizeof(out));
}

static void write_complete(struct block_request *req, int result)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);

    fx_thread_end_pending(slot->thread);
    write_done(slot, result);
}

static void grow_then_write(struct fx_slot *slot);
static void write_again(struct fx_slot *slot);

static void write_submit(struct fx_slot *slot)
{
    int r;

    slot->req.complete = write_complete;
    r = submit(slot);
    if (r == -ENOSPC && slot->cuts_left > 0)
        write_again(slot);
    else if (r != BLOCK_PENDING)
        write_done(slot, r);
}

/*
 * Somebody may have cut the file since its size was looked at, and somebody else made it longer again, so that another
 * look would tell nothing. A disk that is full says so every time.
 */
static void write_again(struct fx_slot *slot)
{
    slot->cuts_left--;
    if (slot->may_grow) {
        grow_then_write(slot);
        return;
    }
    slot->bytes = readable(slot->thread->export, slot->offset, slot->bytes);
    if (slot->bytes == 0) {
        reply(slot, -ENOSPC, NULL, 0);
        return;
    }
    slot->iov.iov_len = slot->req.len_bytes = slot->bytes;
    write_submit(slot);
}

/* On a pool thread: make room behind the end before it is written to. */
static int grow_work(struct block_request *req, uint8_t *scratch)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);

    return fx_size_set(slot->thread->export, slot->offset + slot->bytes, true);
}

static void grow_complete(struct block_request *req, int result)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);

    fx_thread_end_pending(slot->thread);
    if (result < 0)
        write_done(slot, result);
    else
        write_submit(slot);
}

static void grow_then_write(struct fx_slot *slot)
{
    slot->req.complete = grow_complete;
    slot->req.after = NULL;
    fx_thread_begin_pending(slot->thread);
    io_queue_call(slot->thread->queue, &slot->req, grow_work);
}

static void handle_write(struct fx_slot *slot, const struct fuse_in_header *in)
{
    const struct fuse_write_in *arg = (const void *)(in + 1);
    struct fx_export *export = slot->thread->export;
    uint64_t size = atomic_load_explicit(&export->size_bytes, memory_order_relaxed);
    uint64_t bytes = arg->size, end;
    bool may_grow = export->growable && (arg->write_flags & FUSE_WRITE_CACHE) == 0;

    if (in->len != FX_HEAD_BYTES + bytes || bytes > FX_IO_BYTES_MAX || !u64_add(arg->offset, bytes, &end)) {
        reply(slot, -EINVAL, NULL, 0);
        return;
    }
    if (!export->writable) {
        reply(slot, -EROFS, NULL, 0);
        return;
    }
    if (end > size && !may_grow) {
        /* Up to the end, as a device does; at the end the disk is full. */
        if (arg->offset >= size) {
            reply(slot, -ENOSPC, NULL, 0);
            return;
        }
        bytes = size - arg->offset;
    }
    prepare(slot, BLOCK_OP_WRITE, arg->offset, bytes, write_complete);
    slot->may_grow = may_grow;
    slot->cuts_left = FX_CUTS_MAX;
    if (export->writethrough || (arg->flags & (O_SYNC | O_DSYNC)) != 0)
        slot->req.flags |= BLOCK_REQ_FUA;
    if (end > size && may_grow)
        grow_then_write(slot);
    else
        write_submit(slot);
}

/* ---- OPEN and others ---- */

static void open_done(struct fx_slot *slot, int result)
{
    struct worker_page *page = slot->thread->export->worker->page;
    struct fuse_open_out out = {
        .fh = slot->fh,
        .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
    };

    if (result < 0) {
        reply(slot, result, NULL, 0);
        return;
    }
    atomic_fetch_add(&page->clients, 1);
    worker_page_add(&page->clients_total, 1);
    /* Who gave up opening releases nothing. */
    if (!reply(slot, 0, &out, sizeof(out)))
        atomic_fetch_sub(&page->clients, 1);
}

/* On a pool thread. What has a fixed size (a device, a window of an image) keeps it. */
static int empty_work(struct block_request *req, uint8_t *scratch)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);
    int r = fx_size_set(slot->thread->export, 0, false);

    return r == -ENOTSUP ? 0 : r;
}

static void empty_complete(struct block_request *req, int result)
{
    struct fx_slot *slot = container_of(req, struct fx_slot, req);

    fx_thread_end_pending(slot->thread);
    open_done(slot, result);
}

static void empty_then_open(struct fx_slot *slot)
{
    slot->req.complete = empty_complete;
    slot->req.after = NULL;
    fx_thread_begin_pending(slot->thread);
    io_queue_call(slot->thread->queue, &slot->req, empty_work);
}

/*
 * O_TRUNC comes along with OPEN (FUSE_ATOMIC_O_TRUNC), which tells it from truncate(2). A file that can grow is
 * emptied, and its size becomes what is written. One that cannot grow would take nothing any more, and dd, cp and a
 * shell's ">" mean to write to it: it keeps its size and its data, as a device does.
 */
static void handle_open(struct fx_slot *slot, const struct fuse_in_header *in)
{
    const struct fuse_open_in *arg = (const void *)(in + 1);
    struct fx_export *export = slot->thread->export;
    bool writes = (arg->flags & O_ACCMODE) != O_RDONLY, empties = (arg->flags & O_TRUNC) != 0;

    slot->fh = writes ? FH_WRITES : 0;
    if (!export->writable && (writes || empties))
        open_done(slot, -EROFS);
    else if (empties && export->growable)
        empty_then_open(slot);
    else
        open_done(slot, 0);
}

static void handle_release(struct fx_slot *slot, const struct fuse_in_header *in)
{
    atomic_fetch_sub(&slot->thread->export->worker->page->clients, 1);
    reply(slot, 0, NULL, 0);
}

/* "Not supported" makes the kernel never ask again: requests here end soon by themselves. */
static void handle_interrupt(struct fx_slot *slot, const struct fuse_in_header *in)
{
    reply(slot, -ENOSYS, NULL, 0);
}

static const struct {
    uint32_t opcode;
    size_t arg_bytes; /* at least */
    void (*handle)(struct fx_slot *slot, const struct fuse_in_header *in);
} fast_ops[] = {
    { FUSE_READ, sizeof(struct fuse_read_in), handle_read },
    { FUSE_WRITE, sizeof(struct fuse_write_in), handle_write },
    { FUSE_OPEN, sizeof(struct fuse_open_in), handle_open },
    { FUSE_RELEASE, sizeof(struct fuse_release_in), handle_release },
    { FUSE_INTERRUPT, sizeof(struct fuse_interrupt_in), handle_interrupt },
};

bool fx_io_dispatch(struct fx_slot *slot, const struct fuse_in_header *in)
{
    for (size_t i = 0; i < ARRAY_SIZE(fast_ops); i++) {
        if (fast_ops[i].opcode != in->opcode || in->len < sizeof(*in) + fast_ops[i].arg_bytes)
            continue;
        fast_ops[i].handle(slot, in);
        return true;
    }
    return false;
}
