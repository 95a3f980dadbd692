/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a driver is: one row of block_drivers[]. It knows nothing of exports and gives I/O that may block to the queue
 * of the request. docs/block-layer.md tells how to add one.
 */
#ifndef BULKHEAD_BLOCK_DRIVER_H
#define BULKHEAD_BLOCK_DRIVER_H

#include "common/block/block.h"

struct block_node {
    const struct block_driver *driver;
    struct block_node *child; /* NULL for a driver that has none */
    struct block_info info;   /* read_only is set from the node's flags before open; open sets the rest */
    void *state;              /* driver->state_bytes of zeros before open */
    char name[IPC_NODE_NAME_MAX];
};

/* What a driver's open is given beside the node. */
struct block_open_args {
    const struct ipc_node *spec; /* indices, flags and name are checked; everything else is the driver's to check */
    int fd;                      /* the image descriptor; -1 for a driver without; borrowed */
};

#define BLOCK_DRIVER_NEEDS_FD    (1u << 0)
#define BLOCK_DRIVER_NEEDS_CHILD (1u << 1)

struct block_driver {
    uint32_t id; /* enum ipc_driver */
    const char *name;
    unsigned flags; /* BLOCK_DRIVER_*; what is not needed must not be there */
    size_t state_bytes;
    int (*open)(struct block_node *node, const struct block_open_args *args, struct error *err);
    void (*close)(struct block_node *node); /* NULL: nothing to do; also called after a failed open */
    /*
     * By operation; NULL: hand it to the child as it is. The range lies within the node and is not empty (FLUSH has
     * none), a node that is written to is not read-only. Returns like block_submit(). What ends in the engine sets
     * req->node, and req->after if there is more to do after it.
     */
    int (*submit[BLOCK_OP_MAX])(struct block_node *node, struct block_request *req);
    /* NULL: no. Translates *offset; the range lies within the node. */
    bool (*map)(struct block_node *node, bool to_write, uint64_t *offset, uint64_t len_bytes, int *ret_fd);
    /* NULL: the child's, or without a child not supported. See block.h; the range lies within the node. */
    int (*usage)(const struct block_node *node, struct block_usage *ret_usage);
    int (*resize)(struct block_node *node, uint64_t size_bytes);
    int (*allocate)(struct block_node *node, uint64_t offset, uint64_t len_bytes);
    /* The size as it is now, after the child's is known. NULL: the child's, or without a child what it was. */
    int (*refresh)(struct block_node *node, uint64_t *ret_size_bytes);
};

extern const struct block_driver *const block_drivers[]; /* NULL-terminated */

extern const struct block_driver block_driver_file;
extern const struct block_driver block_driver_host_device;
extern const struct block_driver block_driver_raw;
extern const struct block_driver block_driver_null_co;
extern const struct block_driver block_driver_blkdebug;

/* Hand req to node as it is now, without the checks of block_submit(): from a driver to its child. */
static inline int block_node_submit(struct block_node *node, struct block_request *req)
{
    while (node->driver->submit[req->op] == NULL)
        node = node->child;
    return node->driver->submit[req->op](node, req);
}

/* Images are whole sectors: a size is rounded up, and what lies beyond the end of the file reads as zeros. */
#define BLOCK_SECTOR_BYTES 512u

/* The largest size: offsets stay positive as off_t, whatever alignment they are rounded up to. */
#define BLOCK_SIZE_MAX (((uint64_t)INT64_MAX >> 20) << 20)

#endif
