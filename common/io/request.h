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

#include <sys/types.h>
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
/*
 * READ, WRITE: large, and the caller has others to go on with: where this thread could do it at once, leave it to a thread
 * of the pool, which begins now.
 */
#define BLOCK_REQ_OFFLOAD (1u << 5)

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

    /* Private to the layers below the export; block_submit() sets them up. */
    struct block_request *next;
    struct block_node *node;
    struct io_queue *queue;
    /*
     * What a driver does when the engine is through with a step of it, on the queue's thread, before the export hears
     * of it: takes the result of the step and returns the next one, BLOCK_PENDING if it has started a further step.
     * NULL: nothing, the result is the request's.
     */
    int (*after)(struct block_request *req, int result);
    int (*work)(struct block_request *req, uint8_t *scratch); /* of io_queue_call() */
    void *driver_private;
    enum block_op engine_op; /* what the engine executes: op, or FLUSH as the last step of a FUA request */
    uint64_t done_bytes;     /* of READ and WRITE */
    uint64_t when_ns;        /* of io_queue_delay() */
    int fd_index;            /* which of the worker's image descriptors (fixed file) */
    unsigned step;
    int rw_flags; /* RWF_* of preadv2/pwritev2 */
    int fallocate_mode;
    int result;
    bool offload; /* too large to be executed by the thread that submits it, even if the data is in the page cache */
    /* A range lock (common/block/range.h): which bytes, and its place in the list. */
    bool range_exclusive;
    bool range_held;
    uint64_t range_start;
    uint64_t range_end;
    struct block_request *range_next;
    struct block_request *range_prev;
};

/*
 * Executes the steps that touch a file. Result: 0, -errno, or BLOCK_PENDING while there is more to transfer.
 *
 * io_request_transferred() accounts for res, what preadv2(), pwritev2() or their ring operation returned: it moves
 * offset and iov on, and fills the rest of a read with zeros at the end of the file.
 * io_request_transfer() makes one call and accounts for it. -EAGAIN: would block (with RWF_NOWAIT).
 * io_request_run() does the whole of engine_op: READ, WRITE, FLUSH, DISCARD and WRITE_ZEROES (by fallocate_mode),
 * CACHE; it blocks.
 */
int io_request_transferred(struct block_request *req, ssize_t res);
int io_request_transfer(struct block_request *req, int fd, int rw_flags);
int io_request_run(struct block_request *req, int fd);

/*
 * Moving bytes between the vector of a READ or WRITE and a buffer: scatter fills the vector, gather reads it. All three
 * move offset, done_bytes and the vector on; bytes may not exceed what is left. advance alone also serves WRITE_ZEROES.
 */
void io_request_advance(struct block_request *req, size_t bytes);
void io_request_scatter(struct block_request *req, const uint8_t *from, size_t bytes);
void io_request_gather(struct block_request *req, uint8_t *to, size_t bytes);

/* The longest vector that the kernel takes at once. */
static inline int io_request_iov_count(const struct block_request *req)
{
    return (int)MIN(req->iov_count, 1024u); /* UIO_MAXIOV */
}

#endif
