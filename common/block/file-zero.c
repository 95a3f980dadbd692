/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Discarding and zeroing by fallocate(): a table of ways, best first. What a file system cannot do is remembered, and
 * not tried again. Zeros written out, on a pool thread, are the last resort.
 */
#include "common/block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#define PUNCH    (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO     FALLOC_FL_ZERO_RANGE
#define ALLOCATE FALLOC_FL_KEEP_SIZE

/* The step of a request whose fallocate() is through and that waits for the flush of FUA. */
#define STEP_FUA UINT16_MAX

static bool is_unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY;
}

static atomic_bool *mode_unsupported(struct file_state *file, int mode)
{
    if (mode == PUNCH)
        return &file->no_punch_hole;
    return mode == ZERO ? &file->no_zero_range : &file->no_allocate;
}

/* A fallocate() is through: there may be holes in the range. */
static void note_holes(struct file_state *file, const struct block_request *req)
{
    atomic_fetch_add(&file->unmap_count, 1);
    file_mapping_forget(file, req->offset, req->len_bytes);
}

int file_finish_fua(struct file_state *file, struct block_request *req)
{
    note_holes(file, req);
    if (!(req->flags & BLOCK_REQ_FUA))
        return 0;
    req->step = STEP_FUA;
    return file_flush_begin(file, req);
}

/* ---- DISCARD ---- */

/* Whole blocks only: a device refuses parts of them. False: none is left. */
static bool shrink_to_blocks(const struct file_state *file, struct block_request *req)
{
    uint64_t start = round_up(req->offset, file->align);
    uint64_t end = round_down(req->offset + req->len_bytes, file->align);

    if (start >= end)
        return false;
    req->offset = start;
    req->len_bytes = end - start;
    return true;
}

static int discard_on_device(struct block_request *req, uint8_t *scratch)
{
    const struct file_state *file = req->node->state;
    uint64_t range[2] = { req->offset, req->len_bytes };

    return ioctl(file->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

/* A hint: where it cannot be followed, nothing was asked for. */
int file_discard_begin(struct file_state *file, struct block_request *req)
{
    int ret;

    if (!file->discard_unmap || atomic_load(&file->no_discard))
        return 0;
    if (file->block_device)
        return shrink_to_blocks(file, req) ? io_queue_call(req->queue, req, discard_on_device) : 0;
    req->fallocate_mode = PUNCH;
    ret = file_execute(file, req);
    return ret == BLOCK_PENDING ? ret : file_discard_next(file, req, ret);
}

int file_discard_next(struct file_state *file, struct block_request *req, int result)
{
    if (req->step == STEP_FUA)
        return file_flush_next(file, req, result);
    if (is_unsupported(result)) {
        atomic_store(&file->no_discard, true);
        return 0;
    }
    return result < 0 ? result : file_finish_fua(file, req);
}

/* ---- WRITE_ZEROES ---- */

static const struct zero_way {
    bool unmaps;      /* only if the client may and the node shall unmap */
    bool on_devices;  /* devices take it */
    bool always_fast; /* on a device too; else the kernel may write zeros out itself */
    unsigned mode_count;
    int modes[2]; /* one after the other */
} zero_ways[] = {
    { .unmaps = true, .on_devices = true, .always_fast = true, .mode_count = 1, .modes = { PUNCH } },
    { .on_devices = true, .mode_count = 1, .modes = { ZERO } },
    { .mode_count = 2, .modes = { PUNCH, ALLOCATE } }, /* tmpfs */
};

/* req->step while the engine works: which mode of which way. */
#define STEP(way, mode)   ((way)*2 + (mode))
#define STEP_WAY(step)    ((step) / 2)
#define STEP_MODE(step)   ((step) % 2)
#define STEP_WRITES_ZEROS STEP(ARRAY_SIZE(zero_ways), 0)

static bool way_is_usable(struct file_state *file, const struct block_request *req, const struct zero_way *way)
{
    if (way->unmaps && !(file->discard_unmap && (req->flags & BLOCK_REQ_MAY_UNMAP)))
        return false;
    if (file->block_device && (!way->on_devices || !file_range_aligned(file, req)))
        return false;
    if (file->block_device && !way->always_fast && (req->flags & BLOCK_REQ_NO_FALLBACK))
        return false;
    for (unsigned i = 0; i < way->mode_count; i++) {
        if (atomic_load(mode_unsupported(file, way->modes[i])))
            return false;
    }
    return true;
}

/* Set req->step to the first step of the first usable way from `way` on. */
static void zero_choose(struct file_state *file, struct block_request *req, unsigned way)
{
    while (way < ARRAY_SIZE(zero_ways) && !way_is_usable(file, req, &zero_ways[way]))
        way++;
    req->step = STEP(way, 0);
}

static int zero_start_step(struct file_state *file, struct block_request *req)
{
    if (req->step != STEP_WRITES_ZEROS) {
        req->fallocate_mode = zero_ways[STEP_WAY(req->step)].modes[STEP_MODE(req->step)];
        return file_execute(file, req);
    }
    if (req->flags & BLOCK_REQ_NO_FALLBACK)
        return -ENOTSUP;
    if ((req->flags & BLOCK_REQ_FUA) && file->needs_flush)
        req->rw_flags = RWF_DSYNC;
    return io_queue_call(req->queue, req, file_write_zeros);
}

/* Steps until the engine has one, or all is done. */
static int zero_advance(struct file_state *file, struct block_request *req, int result)
{
    while (true) {
        unsigned way = STEP_WAY(req->step);

        if (is_unsupported(result)) {
            atomic_store(mode_unsupported(file, req->fallocate_mode), true);
            zero_choose(file, req, way + 1);
        } else if (result < 0) {
            return result;
        } else if (STEP_MODE(req->step) + 1 < zero_ways[way].mode_count) {
            note_holes(file, req); /* also if the next mode fails */
            req->step++;
        } else {
            return file_finish_fua(file, req);
        }
        result = zero_start_step(file, req);
        if (result == BLOCK_PENDING || req->step == STEP_WRITES_ZEROS)
            return result;
    }
}

int file_zero_begin(struct file_state *file, struct block_request *req)
{
    int ret;

    req->iov_count = 0;
    zero_choose(file, req, 0);
    ret = zero_start_step(file, req);
    return ret == BLOCK_PENDING || req->step == STEP_WRITES_ZEROS ? ret : zero_advance(file, req, ret);
}

int file_zero_next(struct file_state *file, struct block_request *req, int result)
{
    if (req->step == STEP_FUA)
        return file_flush_next(file, req, result);
    if (req->step == STEP_WRITES_ZEROS)
        return file_write_next(file, req, result);
    return zero_advance(file, req, result);
}

int file_write_zeros(struct block_request *req, uint8_t *scratch)
{
    const struct file_state *file = req->node->state;
    uint64_t slice_end = MIN(req->done_bytes + FILE_SLICE_BYTES, req->len_bytes);

    if (file->direct)
        return file_direct_bounce(req, scratch);
    memset(scratch, 0, IO_SCRATCH_BYTES);
    while (req->done_bytes < slice_end) {
        struct iovec iov = { .iov_base = scratch, .iov_len = MIN(req->len_bytes - req->done_bytes, IO_SCRATCH_BYTES) };
        ssize_t n = pwritev2(file->fd, &iov, 1, (off_t)req->offset, req->rw_flags);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        io_request_advance(req, (size_t)n);
    }
    return req->done_bytes < req->len_bytes ? BLOCK_PENDING : 0;
}
