/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What engines and drivers share in executing a request: continuing after a short transfer, the end of the file, and
 * the blocking execution that a pool thread does. Trusts the request (same process) and nothing about the file: it may
 * be shorter than it was, or full. Must not allocate.
 */
#include "common/io/request.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* The largest block of O_DIRECT: to go on from a multiple of it is never refused for the offset. */
#define DIRECT_BLOCK_MAX_BYTES 65536

void io_request_advance(struct block_request *req, size_t bytes)
{
    req->offset += bytes;
    req->done_bytes += bytes;
    while (req->iov_count > 0 && bytes >= req->iov->iov_len) {
        bytes -= req->iov->iov_len;
        req->iov++;
        req->iov_count--;
    }
    if (bytes > 0 && req->iov_count > 0) {
        req->iov->iov_base = (uint8_t *)req->iov->iov_base + bytes;
        req->iov->iov_len -= bytes;
    }
}

void io_request_scatter(struct block_request *req, const uint8_t *from, size_t bytes)
{
    while (bytes > 0) {
        size_t n = MIN(bytes, req->iov->iov_len);

        memcpy(req->iov->iov_base, from, n);
        io_request_advance(req, n);
        from += n;
        bytes -= n;
    }
}

void io_request_gather(struct block_request *req, uint8_t *to, size_t bytes)
{
    while (bytes > 0) {
        size_t n = MIN(bytes, req->iov->iov_len);

        memcpy(to, req->iov->iov_base, n);
        io_request_advance(req, n);
        to += n;
        bytes -= n;
    }
}

/* What lies behind the end of the file reads as zeros: the file was cut, or its size is no multiple of 512. */
static int request_fill_with_zeros(struct block_request *req)
{
    for (unsigned i = 0; i < req->iov_count; i++)
        memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
    io_request_advance(req, req->len_bytes - req->done_bytes);
    return 0;
}

int io_request_transferred(struct block_request *req, ssize_t res)
{
    if (res == -EINTR)
        return BLOCK_PENDING;
    if (req->engine_op == BLOCK_OP_READ) {
        /* O_DIRECT refuses to go on from where the file ended within a block, be that a whole sector. */
        bool odd_end = res == -EINVAL && req->done_bytes > 0 && req->offset % DIRECT_BLOCK_MAX_BYTES != 0;

        if (res == 0 || odd_end)
            return request_fill_with_zeros(req);
    } else if (res == 0) {
        return -EIO; /* a write that takes nothing and says no error would be tried for ever */
    }
    if (res < 0)
        return (int)res;
    io_request_advance(req, (size_t)res);
    return req->done_bytes < req->len_bytes ? BLOCK_PENDING : 0;
}

/* One piece and no flags is what most requests are, and what the kernel does fastest. */
static ssize_t transfer_plain(const struct block_request *req, int fd)
{
    if (req->engine_op == BLOCK_OP_READ)
        return pread(fd, req->iov->iov_base, req->iov->iov_len, (off_t)req->offset);
    return pwrite(fd, req->iov->iov_base, req->iov->iov_len, (off_t)req->offset);
}

static ssize_t transfer_vector(const struct block_request *req, int fd, int rw_flags)
{
    if (req->engine_op == BLOCK_OP_READ)
        return preadv2(fd, req->iov, io_request_iov_count(req), (off_t)req->offset, rw_flags);
    return pwritev2(fd, req->iov, io_request_iov_count(req), (off_t)req->offset, rw_flags);
}

int io_request_transfer(struct block_request *req, int fd, int rw_flags)
{
    ssize_t n;

    if (req->iov_count == 1 && rw_flags == 0)
        n = transfer_plain(req, fd);
    else
        n = transfer_vector(req, fd, rw_flags);
    return io_request_transferred(req, n < 0 ? -errno : n);
}

/* ---- Blocking execution ---- */

static int run_transfer(struct block_request *req, int fd)
{
    int ret;

    do {
        ret = io_request_transfer(req, fd, req->rw_flags);
    } while (ret == BLOCK_PENDING);
    return ret;
}

static int run_flush(struct block_request *req, int fd)
{
    return fdatasync(fd) < 0 ? -errno : 0;
}

static int run_fallocate(struct block_request *req, int fd)
{
    int ret;

    do {
        ret = fallocate(fd, req->fallocate_mode, (off_t)req->offset, (off_t)req->len_bytes);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int run_cache(struct block_request *req, int fd)
{
    return -posix_fadvise(fd, (off_t)req->offset, (off_t)req->len_bytes, POSIX_FADV_WILLNEED);
}

/* Engines never see STATUS: it has no ring operation, and comes as a call. */
static int run_nothing(struct block_request *req, int fd)
{
    return -ENOTSUP;
}

static int (*const run_table[BLOCK_OP_MAX])(struct block_request *req, int fd) = {
    [BLOCK_OP_READ] = run_transfer,     [BLOCK_OP_WRITE] = run_transfer,         [BLOCK_OP_FLUSH] = run_flush,
    [BLOCK_OP_DISCARD] = run_fallocate, [BLOCK_OP_WRITE_ZEROES] = run_fallocate, [BLOCK_OP_CACHE] = run_cache,
    [BLOCK_OP_STATUS] = run_nothing,
};

int io_request_run(struct block_request *req, int fd)
{
    return run_table[req->engine_op](req, fd);
}
