/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading, writing and flushing an image that is buffered by the page cache. What is cached is done at once, on the
 * thread that submits; what would block goes to the engine.
 *
 * Write-back errors. Linux reports a failed write-back to one fsync of each open file, then takes the pages for clean:
 * a second fsync says success although the data is gone. So the first failure is kept, and every later FLUSH of the
 * node fails with it, until the export is made anew. O_DIRECT has no such pages; there a flush may be tried again.
 */
#include "common/block/file.h"

#include <errno.h>

/* Try without blocking. Returns -EAGAIN if (the rest of) it has to go to the engine. */
static int transfer_nowait(struct file_state *file, struct block_request *req, atomic_bool *unsupported)
{
    int ret;

    if (file->in_memory || req->len_bytes > FILE_INLINE_MAX_BYTES || (req->flags & (BLOCK_REQ_NO_INLINE | BLOCK_REQ_OFFLOAD)) != 0 ||
        atomic_load_explicit(unsupported, memory_order_relaxed))
        return -EAGAIN;
    ret = io_request_transfer(req, file->fd, RWF_NOWAIT);
    if (ret == -EOPNOTSUPP) {
        atomic_store(unsupported, true);
        return -EAGAIN;
    }
    return ret == BLOCK_PENDING ? -EAGAIN : ret;
}

int file_read_begin(struct file_state *file, struct block_request *req)
{
    int ret;

    if (file->direct)
        return file_direct_begin(file, req);
    ret = transfer_nowait(file, req, &file->no_nowait_read);
    return ret == -EAGAIN ? file_execute(file, req) : ret;
}

int file_write_begin(struct file_state *file, struct block_request *req)
{
    int ret = -EAGAIN;

    if ((req->flags & BLOCK_REQ_FUA) && file->needs_flush)
        req->rw_flags = RWF_DSYNC;
    if (file->direct)
        return file_direct_begin(file, req);
    if (req->rw_flags == 0)
        ret = transfer_nowait(file, req, &file->no_nowait_write);
    return ret == -EAGAIN ? file_execute(file, req) : ret;
}

static void keep_flush_error(struct file_state *file, int error)
{
    int none = 0;

    if (!file->direct)
        atomic_compare_exchange_strong(&file->flush_error, &none, error);
}

/*
 * A write that syncs may be the one that is told of an earlier write's lost pages, so that the next flush would not be.
 * A full disk is no such case: it is found before anything is written.
 */
int file_write_next(struct file_state *file, struct block_request *req, int result)
{
    if (result == -EIO && req->rw_flags != 0)
        keep_flush_error(file, result);
    return result;
}

int file_flush_begin(struct file_state *file, struct block_request *req)
{
    int error = atomic_load(&file->flush_error);

    if (!file->needs_flush || error != 0)
        return error;
    req->engine_op = BLOCK_OP_FLUSH;
    return io_queue_submit(req->queue, req);
}

int file_flush_next(struct file_state *file, struct block_request *req, int result)
{
    if (result < 0)
        keep_flush_error(file, result);
    return result;
}

int file_cache_begin(struct file_state *file, struct block_request *req)
{
    return file->in_memory || file->direct ? 0 : file_execute(file, req);
}
