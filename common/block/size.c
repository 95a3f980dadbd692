/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What concerns a node as a whole, apart from requests: its size, and what of it is stored. Drivers do it by rows of
 * their table; a driver without a row leaves it to its child.
 */
#include <errno.h>

#include "common/block/driver.h"

uint64_t block_node_size(const struct block_node *node)
{
    return __atomic_load_n(&node->info.size_bytes, __ATOMIC_RELAXED);
}

int block_node_usage(const struct block_node *node, struct block_usage *ret_usage)
{
    if (node->driver->usage != NULL)
        return node->driver->usage(node, ret_usage);
    return node->child != NULL ? block_node_usage(node->child, ret_usage) : -ENOTSUP;
}

static int resize_self(struct block_node *node, uint64_t size_bytes)
{
    if (node->driver->resize != NULL)
        return node->driver->resize(node, size_bytes);
    return node->child != NULL ? block_node_resize(node->child, size_bytes) : -ENOTSUP;
}

int block_node_resize(struct block_node *node, uint64_t size_bytes)
{
    int ret;

    if (node->info.read_only)
        return -EPERM;
    if (size_bytes > BLOCK_SIZE_MAX)
        return -EFBIG;
    ret = resize_self(node, size_bytes);
    if (ret == 0)
        __atomic_store_n(&node->info.size_bytes, round_up(size_bytes, BLOCK_SECTOR_BYTES), __ATOMIC_RELAXED);
    return ret;
}

int block_node_refresh(struct block_node *node)
{
    uint64_t size_bytes = block_node_size(node);
    int ret = 0;

    if (node->child != NULL) {
        ret = block_node_refresh(node->child);
        size_bytes = block_node_size(node->child);
    }
    if (ret == 0 && node->driver->refresh != NULL)
        ret = node->driver->refresh(node, &size_bytes);
    if (ret == 0)
        __atomic_store_n(&node->info.size_bytes, size_bytes, __ATOMIC_RELAXED);
    return ret;
}

int block_node_allocate(struct block_node *node, uint64_t offset, uint64_t len_bytes)
{
    if (node->info.read_only)
        return -EPERM;
    if (!range_within(offset, len_bytes, block_node_size(node)))
        return -ENOSPC;
    if (len_bytes == 0)
        return 0;
    if (node->driver->allocate != NULL)
        return node->driver->allocate(node, offset, len_bytes);
    return node->child != NULL ? block_node_allocate(node->child, offset, len_bytes) : -EOPNOTSUPP;
}
