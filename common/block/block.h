/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block nodes inside a worker: a tree is built from the node table of the BOOT message, after lock-down, and an export
 * submits requests to its root. An export knows nothing of drivers, a driver nothing of exports.
 */
#ifndef BULKHEAD_BLOCK_BLOCK_H
#define BULKHEAD_BLOCK_BLOCK_H

#include <time.h>

#include "common/base/error.h"
#include "common/io/queue.h"
#include "common/ipc/ipc-protocol.h"

struct block_tree;

/* What an export may know of its root node. Sizes are bytes. */
struct block_info {
    uint64_t size_bytes;      /* rounded up to a multiple of 512 */
    /*
     * Requests need no alignment; this is what is natural: 1, or the alignment of O_DIRECT. The size need not be a
     * multiple of it, apart from that STATUS answers in multiples of it, for requests that are.
     */
    uint32_t min_block_bytes;
    uint32_t preferred_block_bytes;
    uint32_t max_transfer_bytes; /* 0: no limit of the node's own */
    bool read_only;
    bool fast_zero; /* WRITE_ZEROES with NO_FALLBACK usually works */
};

/*
 * Open the nodes that specs[0..count) describe, children before parents, the last being the root. image_fds are the
 * descriptors of the BOOT message in its order, the same as in the engine's configuration; they are borrowed.
 * Everything read from an image is read here or later, hence inside the sandbox. 0 or -errno; err names the node.
 */
int block_tree_open(const struct ipc_node *specs, unsigned count, const int *image_fds, unsigned image_fd_count,
                    struct block_tree **ret_tree, struct error *err);
void block_tree_close(struct block_tree *tree); /* NULL is fine; no request may be pending */

struct block_node *block_tree_root(const struct block_tree *tree);
void block_node_info(const struct block_node *node, struct block_info *ret_info);

/* The size as it is now: block_node_resize() and block_node_refresh() change it on other threads while requests run. */
uint64_t block_node_size(const struct block_node *node);

/*
 * Submit req (see request.h) from the thread of queue. The range must lie within size_bytes, else -EINVAL (-ENOSPC for
 * WRITE and WRITE_ZEROES); what changes a read-only node is -EPERM. Errors of the storage come as they are (-EIO,
 * -ENOSPC, ...). Any alignment is accepted; buffers that are page-aligned spare a copy where the node is O_DIRECT.
 */
int block_submit(struct block_node *node, struct io_queue *queue, struct block_request *req);

/*
 * What of the node is really stored, and when it was last changed. 0, or -ENOTSUP for a node that stores nothing. Does
 * not wait for a device.
 */
struct block_usage {
    uint64_t allocated_bytes;
    struct timespec changed;
};
int block_node_usage(const struct block_node *node, struct block_usage *ret_usage);

/*
 * Two calls that may block: make them on a pool thread (io_queue_call()).
 *
 * block_node_resize() makes the node size_bytes long, to the byte where it is a file; what is new reads as zeros. The
 * node's size_bytes is that, rounded up to 512. Whoever calls it holds the permission to resize. -ENOTSUP for a node
 * whose size is fixed, -EPERM for one that is read-only, -EFBIG, or the error of the storage.
 *
 * block_node_allocate() reserves storage for a range within the node; its content stays. -EOPNOTSUPP where that cannot
 * be done.
 */
int block_node_resize(struct block_node *node, uint64_t size_bytes);
int block_node_allocate(struct block_node *node, uint64_t offset, uint64_t len_bytes);

/*
 * Somebody else has resized the image: find out what sizes node and those below it have now. Does not block for I/O;
 * requests may be under way. 0 or -errno, then sizes are as before.
 */
int block_node_refresh(struct block_node *node);

/*
 * Where [offset, offset + len) can be read directly from one image descriptor without blocking and without further work
 * of a driver (that is, within the file's size, from a file system in memory or, as far as a look tells, from the page
 * cache): fills the descriptor and the offset in it and returns true. For sendfile and splice. Whoever cuts the file
 * meanwhile makes them come up short.
 */
bool block_node_map(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd, uint64_t *ret_offset);

/*
 * The same for splice to the image: where the range can be written directly without waiting for a device (that is, in a
 * file system in memory, where there is nothing to flush either). Who writes asks again for each part, because the
 * image may be resized in between, and takes every failure to block_submit(), which knows what to make of it.
 */
bool block_node_map_write(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd,
                          uint64_t *ret_offset);

#endif
