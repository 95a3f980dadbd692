/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A block layer for tests of exports: an image in memory, which can be told to finish requests at once, to keep them
 * pending until asked, or to fail them. Linked in place of common/block.
 */
#ifndef BULKHEAD_TESTS_UNIT_FAKE_BLOCK_H
#define BULKHEAD_TESTS_UNIT_FAKE_BLOCK_H

#include <errno.h>
#include <string.h>

#include "common/block/block.h"

#define FAKE_PENDING_MAX 4096
#define FAKE_LOG_MAX     64

struct fake_block {
    uint8_t *data;
    uint64_t size_bytes;
    bool pend;      /* keep requests until fake_complete() */
    int error;      /* fail them with this */
    int map_fd;     /* for block_node_map(); -1: not mappable */
    bool map_writes; /* map_fd for block_node_map_write(), too */
    struct block_request *pending[FAKE_PENDING_MAX];
    unsigned pending_count;
    uint64_t pending_bytes;
    unsigned inline_attempts;
    void (*observe)(void); /* before each request; may be NULL */
    const struct block_extent *extents; /* answer to STATUS */
    unsigned extent_count;
    struct { /* the last requests: what the export asked for */
        enum block_op op;
        unsigned flags;
        uint64_t offset;
        uint64_t len_bytes;
        unsigned extents_max;
    } log[FAKE_LOG_MAX];
    unsigned log_count;
};

static struct fake_block fake;

static inline int fake_execute(struct block_request *req)
{
    uint8_t *at = fake.data + req->offset;

    if (fake.error != 0)
        return fake.error;
    switch (req->op) {
    case BLOCK_OP_READ:
        memcpy(req->iov[0].iov_base, at, req->iov[0].iov_len);
        break;
    case BLOCK_OP_WRITE:
        memcpy(at, req->iov[0].iov_base, req->iov[0].iov_len);
        break;
    case BLOCK_OP_WRITE_ZEROES:
        memset(at, 0, req->len_bytes);
        break;
    case BLOCK_OP_STATUS:
        if (fake.extent_count == 0) {
            req->extents[0] = (struct block_extent){ req->len_bytes, 0 };
            req->extents_count = 1;
            break;
        }
        req->extents_count = MIN(fake.extent_count, req->extents_max);
        memcpy(req->extents, fake.extents, req->extents_count * sizeof(*fake.extents));
        break;
    default:
        break;
    }
    return 0;
}

int block_submit(struct block_node *node, struct io_queue *queue, struct block_request *req)
{
    if (fake.observe != NULL)
        fake.observe();
    if (fake.log_count < FAKE_LOG_MAX) {
        fake.log[fake.log_count].op = req->op;
        fake.log[fake.log_count].flags = req->flags;
        fake.log[fake.log_count].offset = req->offset;
        fake.log[fake.log_count].len_bytes = req->len_bytes;
        fake.log[fake.log_count].extents_max = req->op == BLOCK_OP_STATUS ? req->extents_max : 0;
        fake.log_count++;
    }
    if ((req->flags & BLOCK_REQ_INLINE_ONLY) != 0) {
        fake.inline_attempts++;
        return fake.pend ? -EAGAIN : fake_execute(req);
    }
    if (!fake.pend)
        return fake_execute(req);
    fake.pending[fake.pending_count++] = req;
    fake.pending_bytes += req->len_bytes;
    return BLOCK_PENDING;
}

uint64_t block_node_size(const struct block_node *node)
{
    return fake.size_bytes;
}

bool block_node_map(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd, uint64_t *ret_offset)
{
    if (fake.map_fd < 0)
        return false;
    *ret_fd = fake.map_fd;
    *ret_offset = offset;
    return true;
}

bool block_node_map_write(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd,
                          uint64_t *ret_offset)
{
    return fake.map_writes && block_node_map(node, offset, len_bytes, ret_fd, ret_offset);
}

/* Complete the pending request of that index. */
static inline void fake_complete(unsigned index)
{
    struct block_request *req = fake.pending[index];

    fake.pending_bytes -= req->len_bytes;
    fake.pending[index] = fake.pending[--fake.pending_count];
    req->complete(req, fake_execute(req));
}

#endif
