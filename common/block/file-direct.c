/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * O_DIRECT: aligned requests go to the engine as they are. Others go through the scratch buffer of a pool thread; where
 * they cover parts of blocks these are read, modified and written back, under a range lock that the dispatcher took.
 *
 * A file whose size is not a multiple of the alignment can grow to one by such a write: the kernel takes whole blocks.
 */
#include "common/block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PROBE_MIN_BYTES 512u
#define PROBE_MAX_BYTES 65536u
#define UNKNOWN_BYTES   4096u /* safe on every device, where we cannot find out */

/* ---- Alignment ---- */

/* Ask the kernel (Linux 6.1 and later). False: it does not know. */
static bool probe_by_statx(struct file_state *file)
{
    struct statx stx;

    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 || !(stx.stx_mask & STATX_DIOALIGN) ||
        stx.stx_dio_offset_align == 0)
        return false;
    file->align = MAX(stx.stx_dio_offset_align, PROBE_MIN_BYTES);
    file->memory_align = MAX(stx.stx_dio_mem_align, 1u);
    return true;
}

/* The smallest read that the descriptor does not refuse. */
static int probe_by_reading(struct file_state *file, struct error *err)
{
    uint8_t *buf = mmap(NULL, PROBE_MAX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t align = PROBE_MIN_BYTES;
    ssize_t n;
    int saved_errno;

    if (buf == MAP_FAILED)
        return error_set(err, -errno, "no memory to probe the alignment of O_DIRECT");
    /* If a single byte is fine, then nobody looked: the file starts with a hole, or is empty. */
    n = pread(file->fd, buf, 1, 0);
    if (n >= 0)
        align = UNKNOWN_BYTES;
    while (n < 0 && errno == EINVAL && align <= PROBE_MAX_BYTES) {
        n = pread(file->fd, buf, align, 0);
        if (n < 0 && errno == EINVAL)
            align *= 2;
    }
    saved_errno = errno;
    munmap(buf, PROBE_MAX_BYTES);
    if (n < 0)
        return error_set(err, -saved_errno, "cannot read from it with cache.direct: %s", strerror(saved_errno));
    file->align = align;
    file->memory_align = MIN(align, UNKNOWN_BYTES);
    return 0;
}

static void probe_device(struct file_state *file)
{
    int sector_bytes = 0;

    if (ioctl(file->fd, BLKSSZGET, &sector_bytes) < 0 || sector_bytes < (int)PROBE_MIN_BYTES)
        sector_bytes = UNKNOWN_BYTES;
    file->align = (uint32_t)sector_bytes;
    file->memory_align = PROBE_MIN_BYTES;
}

int file_probe_direct(struct file_state *file, struct error *err)
{
    if (file->block_device)
        probe_device(file);
    else if (!probe_by_statx(file))
        return probe_by_reading(file, err);
    return 0;
}

bool file_range_aligned(const struct file_state *file, const struct block_request *req)
{
    return ((req->offset | req->len_bytes) & (file->align - 1)) == 0;
}

static bool buffers_aligned(const struct file_state *file, const struct block_request *req)
{
    uintptr_t bases = 0, lengths = 0;

    for (unsigned i = 0; i < req->iov_count; i++) {
        bases |= (uintptr_t)req->iov[i].iov_base;
        lengths |= req->iov[i].iov_len;
    }
    return (bases & (file->memory_align - 1)) == 0 && (lengths & (file->align - 1)) == 0;
}

int file_direct_begin(struct file_state *file, struct block_request *req)
{
    if (file_range_aligned(file, req) && buffers_aligned(file, req))
        return io_queue_submit(req->queue, req);
    return io_queue_call(req->queue, req, file_direct_bounce);
}

/* ---- Through the scratch buffer ---- */

/* Read whole blocks; behind the end of the file are zeros. */
static int read_blocks(const struct file_state *file, uint8_t *buf, size_t bytes, uint64_t offset)
{
    while (bytes > 0) {
        ssize_t n = pread(file->fd, buf, bytes, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 || (size_t)n % file->align != 0) {
            memset(buf + n, 0, bytes - (size_t)n);
            return 0;
        }
        buf += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int write_blocks(const struct file_state *file, uint8_t *buf, size_t bytes, uint64_t offset, int rw_flags)
{
    while (bytes > 0) {
        struct iovec iov = { .iov_base = buf, .iov_len = bytes };
        ssize_t n = pwritev2(file->fd, &iov, 1, (off_t)offset, rw_flags);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 || (size_t)n % file->align != 0)
            return -EIO;
        buf += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Fill the parts of the first and the last block of [start, end) that [from, to) leaves out with what is there now. */
static int read_edges(const struct file_state *file, uint8_t *scratch, uint64_t start, uint64_t end, uint64_t from,
                      uint64_t to)
{
    uint64_t last = end - file->align;
    int ret = 0;

    if (from != start || (to != end && last == start))
        ret = read_blocks(file, scratch, file->align, start);
    if (ret == 0 && to != end && last != start)
        ret = read_blocks(file, scratch + (last - start), file->align, last);
    return ret;
}

static int bounce_write(const struct file_state *file, struct block_request *req, uint8_t *scratch, uint64_t start,
                        uint64_t end, size_t bytes)
{
    uint64_t from = req->offset;
    int ret = read_edges(file, scratch, start, end, from, from + bytes);

    if (ret < 0)
        return ret;
    if (req->iov_count > 0) {
        io_request_gather(req, scratch + (from - start), bytes);
    } else {
        memset(scratch + (from - start), 0, bytes);
        io_request_advance(req, bytes);
    }
    return write_blocks(file, scratch, end - start, start, req->rw_flags);
}

static int bounce_read(const struct file_state *file, struct block_request *req, uint8_t *scratch, uint64_t start,
                       uint64_t end, size_t bytes)
{
    int ret = read_blocks(file, scratch, end - start, start);

    if (ret == 0)
        io_request_scatter(req, scratch + (req->offset - start), bytes);
    return ret;
}

int file_direct_bounce(struct block_request *req, uint8_t *scratch)
{
    const struct file_state *file = req->node->state;
    uint64_t slice_end = MIN(req->done_bytes + FILE_SLICE_BYTES, req->len_bytes);
    int ret = 0;

    while (ret == 0 && req->done_bytes < slice_end) {
        uint64_t left = req->len_bytes - req->done_bytes;
        uint64_t start = round_down(req->offset, file->align);
        uint64_t end = MIN(round_up(req->offset + left, file->align), start + IO_SCRATCH_BYTES);
        size_t bytes = MIN(left, end - req->offset);

        if (req->op == BLOCK_OP_READ)
            ret = bounce_read(file, req, scratch, start, end, bytes);
        else
            ret = bounce_write(file, req, scratch, start, end, bytes);
    }
    return ret == 0 && req->done_bytes < req->len_bytes ? BLOCK_PENDING : ret;
}
