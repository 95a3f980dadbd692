/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one request structure: exports fill it, drivers translate it, engines execute it. It is embedded in the export's
 * own slot (container_of), so no layer allocates per request.
 *
 * Life of a request: block_submit() either finishes it at once and returns its result (0 or -errno; complete() is not
 * called), or returns BLOCK_PENDING and calls complete() later, once, on the thread that owns the queue.
 */
#ifndef BULKHEAD_IO_REQUEST_H
#define BULKHEAD_IO_REQUEST_H

#include <sys/uio.h>

#include "common/base/util.h"

struct block_node;
struct block_request;
struct io_queue;

enum block_op {
    BLOCK_OP_READ,
    BLOCK_OP_WRITE,
    BLOCK_OP_FLUSH,        /* all writes completed before it are on stable storage after it */
    BLOCK_OP_DISCARD,      /* a hint: contents become undefined */
    BLOCK_OP_WRITE_ZEROES, /* reads as zeros afterwards */
    BLOCK_OP_CACHE,        /* a hint: will be read soon */
    BLOCK_OP_STATUS,       /* fills extents */
    BLOCK_OP_MAX,
};

/* Flags of a request. */
#define BLOCK_REQ_FUA         (1u << 0) /* WRITE, WRITE_ZEROES, DISCARD: on stable storage before completion */
#define BLOCK_REQ_MAY_UNMAP   (1u << 1) /* WRITE_ZEROES: may deallocate */
#define BLOCK_REQ_NO_FALLBACK (1u << 2) /* WRITE_ZEROES: fail with -ENOTSUP rather than write zeros out */
/*
 * READ, WRITE: finish at once or fail with -EAGAIN, nothing having been queued. Lets an export read into and write from
 * buffers that will not live on (part of the data may have been transferred; the caller submits all of it again).
 */
#define BLOCK_REQ_INLINE_ONLY (1u << 3)
/* READ, WRITE: an attempt with INLINE_ONLY has just failed with -EAGAIN: queue the request without trying again. */
#define BLOCK_REQ_NO_INLINE (1u << 4)

#define BLOCK_PENDING 1

/* One extent of BLOCK_OP_STATUS. */
struct block_extent {
    uint64_t len_bytes;
    uint32_t flags;
};
#define BLOCK_EXTENT_ZERO (1u << 0) /* reads as zeros */
#define BLOCK_EXTENT_HOLE (1u << 1) /* not allocated */

typedef void block_complete_fn(struct block_request *req, int result);

struct block_request {
    /* Set by the export. offset and iov are consumed: layers below translate and advance them. */
    enum block_op op;
    unsigned flags;
    uint64_t offset;
    uint64_t len_bytes; /* of WRITE and READ: also the sum of iov */
    struct iovec *iov;
    unsigned iov_count;
    struct block_extent *extents; /* STATUS: where to put them; together they cover at most len_bytes from offset */
    unsigned extents_max;
    unsigned extents_count; /* STATUS: set on success, at least 1 */
    block_complete_fn *complete;

    /* Private to the layers below the export. */
    struct block_request *next;
    struct block_node *node;
    struct io_queue *queue;
    uint64_t done_bytes;
    void *driver_private;
    int fd_index; /* which of the worker's image descriptors (fixed file) */
    unsigned step;
    int rw_flags; /* RWF_* of preadv2/pwritev2 */
    int fallocate_mode;
    int result;
};

#endif
