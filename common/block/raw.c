/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw: its child, or a window of it (offset, size). Only translates: the I/O is the child's.
 */
#include "common/block/driver.h"

#include <errno.h>
#include <inttypes.h>

struct raw_state {
    uint64_t offset_bytes;
    bool has_size;
};

static int raw_open(struct block_node *node, const struct block_open_args *args, struct error *err)
{
    const struct ipc_node *spec = args->spec;
    struct raw_state *raw = node->state;
    uint64_t child_bytes = node->child->info.size_bytes;
    uint64_t size_bytes;

    if (spec->offset_bytes > child_bytes)
        return error_set(err, -EINVAL, "offset %" PRIu64 " is beyond the end of its child, which has %" PRIu64 " bytes",
                         spec->offset_bytes, child_bytes);
    size_bytes = child_bytes - spec->offset_bytes;
    if (spec->flags & IPC_NODE_HAS_SIZE) {
        if (spec->size_bytes > size_bytes)
            return error_set(err, -EINVAL,
                             "offset %" PRIu64 " and size %" PRIu64
                             " reach beyond the end of its child, which has %" PRIu64 " bytes",
                             spec->offset_bytes, spec->size_bytes, child_bytes);
        size_bytes = spec->size_bytes;
    }
    /* Rounding up would reach beyond the window. */
    if (size_bytes % BLOCK_SECTOR_BYTES != 0)
        return error_set(err, -EINVAL,
                         "size must be a multiple of %u; offset %" PRIu64 " of a child of %" PRIu64
                         " bytes makes it %" PRIu64,
                         BLOCK_SECTOR_BYTES, spec->offset_bytes, child_bytes, size_bytes);
    raw->offset_bytes = spec->offset_bytes;
    raw->has_size = (spec->flags & IPC_NODE_HAS_SIZE) != 0;
    node->info = node->child->info;
    node->info.read_only |= (spec->flags & IPC_NODE_READ_ONLY) != 0;
    node->info.size_bytes = size_bytes;
    /* Blocks of the child are none of ours if the window does not begin with one. */
    node->info.min_block_bytes = common_unit(node->info.min_block_bytes, spec->offset_bytes);
    return 0;
}

static int raw_submit(struct block_node *node, struct block_request *req)
{
    const struct raw_state *raw = node->state;

    req->offset += raw->offset_bytes;
    return block_node_submit(node->child, req);
}

static bool raw_map(struct block_node *node, bool to_write, uint64_t *offset, uint64_t len_bytes, int *ret_fd)
{
    const struct raw_state *raw = node->state;

    if (node->child->driver->map == NULL)
        return false;
    *offset += raw->offset_bytes;
    return node->child->driver->map(node->child, to_write, offset, len_bytes, ret_fd);
}

/* A window that has a size of its own keeps it. */
static int raw_resize(struct block_node *node, uint64_t size_bytes)
{
    const struct raw_state *raw = node->state;

    return raw->has_size ? -ENOTSUP : block_node_resize(node->child, raw->offset_bytes + size_bytes);
}

static int raw_refresh(struct block_node *node, uint64_t *ret_size_bytes)
{
    const struct raw_state *raw = node->state;
    uint64_t child_bytes = block_node_size(node->child);

    if (raw->has_size)
        *ret_size_bytes = block_node_size(node);
    else
        *ret_size_bytes = child_bytes > raw->offset_bytes ? round_down(child_bytes - raw->offset_bytes, BLOCK_SECTOR_BYTES) : 0;
    return 0;
}

static int raw_allocate(struct block_node *node, uint64_t offset, uint64_t len_bytes)
{
    const struct raw_state *raw = node->state;

    return block_node_allocate(node->child, raw->offset_bytes + offset, len_bytes);
}

const struct block_driver block_driver_raw = {
    .id = IPC_DRIVER_RAW,
    .name = "raw",
    .flags = BLOCK_DRIVER_NEEDS_CHILD,
    .state_bytes = sizeof(struct raw_state),
    .open = raw_open,
    .submit = {
        [BLOCK_OP_READ] = raw_submit,
        [BLOCK_OP_WRITE] = raw_submit,
        [BLOCK_OP_DISCARD] = raw_submit,
        [BLOCK_OP_WRITE_ZEROES] = raw_submit,
        [BLOCK_OP_CACHE] = raw_submit,
        [BLOCK_OP_STATUS] = raw_submit,
    },
    .map = raw_map,
    .resize = raw_resize,
    .refresh = raw_refresh,
    .allocate = raw_allocate,
};
