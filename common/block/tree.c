/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Trees of block nodes: built from the node table that came with BOOT, checked before any driver sees it, and the front
 * door of all requests. The table comes from the monitor; nonsense in it is an error, never a crash. Requests come from
 * an export, whose client chose offset and length: both are checked here and nowhere below.
 */
#include "common/block/driver.h"

#include <errno.h>
#include <string.h>

struct block_tree {
    unsigned count;
    struct block_node nodes[]; /* children before parents, the root last */
};

const struct block_driver *const block_drivers[] = {
    &block_driver_file,    &block_driver_host_device, &block_driver_raw,
    &block_driver_null_co, &block_driver_blkdebug,    NULL,
};

static const struct block_driver *driver_find(uint32_t id)
{
    for (unsigned i = 0; block_drivers[i] != NULL; i++) {
        if (block_drivers[i]->id == id)
            return block_drivers[i];
    }
    return NULL;
}

/* ---- Checking the table ---- */

static int spec_check(const struct ipc_node *spec, unsigned index, unsigned image_fd_count, struct error *err)
{
    const struct block_driver *driver;

    if (memchr(spec->name, '\0', sizeof(spec->name)) == NULL)
        return error_set(err, -EINVAL, "node %u: its name does not end", index);
    driver = driver_find(spec->driver);
    if (driver == NULL)
        return error_set(err, -EINVAL, "node '%s': there is no driver with number %u", spec->name, spec->driver);
    if (driver->flags & BLOCK_DRIVER_NEEDS_FD) {
        if (spec->fd_index < 0 || (unsigned)spec->fd_index >= image_fd_count)
            return error_set(err, -EINVAL, "node '%s': descriptor %d is not one of %u", spec->name, spec->fd_index,
                             image_fd_count);
    } else if (spec->fd_index != -1) {
        return error_set(err, -EINVAL, "node '%s': driver %s takes no descriptor", spec->name, driver->name);
    }
    if (driver->flags & BLOCK_DRIVER_NEEDS_CHILD) {
        if (spec->child_index < 0 || (unsigned)spec->child_index >= index)
            return error_set(err, -EINVAL, "node '%s': its child %d is not among the nodes before it", spec->name,
                             spec->child_index);
    } else if (spec->child_index != -1) {
        return error_set(err, -EINVAL, "node '%s': driver %s takes no child", spec->name, driver->name);
    }
    return 0;
}

/* Every node but the root has one parent; every descriptor at most one node. */
static int specs_check(const struct ipc_node *specs, unsigned count, unsigned image_fd_count, struct error *err)
{
    bool has_parent[IPC_NODES_MAX] = { false };
    bool fd_used[IPC_IMAGE_FDS_MAX] = { false };

    if (count == 0 || count > IPC_NODES_MAX || image_fd_count > IPC_IMAGE_FDS_MAX)
        return error_set(err, -EINVAL, "%u nodes with %u descriptors make no tree", count, image_fd_count);
    for (unsigned i = 0; i < count; i++) {
        int ret = spec_check(&specs[i], i, image_fd_count, err);

        if (ret < 0)
            return ret;
        if (specs[i].child_index >= 0) {
            if (has_parent[specs[i].child_index])
                return error_set(err, -EINVAL, "node '%s': its child has another parent", specs[i].name);
            has_parent[specs[i].child_index] = true;
        }
        if (specs[i].fd_index >= 0) {
            if (fd_used[specs[i].fd_index])
                return error_set(err, -EINVAL, "node '%s': its descriptor belongs to another node", specs[i].name);
            fd_used[specs[i].fd_index] = true;
        }
    }
    for (unsigned i = 0; i + 1 < count; i++) {
        if (!has_parent[i])
            return error_set(err, -EINVAL, "node '%s' is not part of the tree", specs[i].name);
    }
    return 0;
}

/* ---- Opening ---- */

static int node_open(struct block_tree *tree, const struct ipc_node *spec, const int *image_fds, struct error *err)
{
    struct block_node *node = &tree->nodes[tree->count];
    struct block_open_args args = { .spec = spec, .fd = spec->fd_index >= 0 ? image_fds[spec->fd_index] : -1 };
    int ret;

    node->driver = driver_find(spec->driver);
    memcpy(node->name, spec->name, sizeof(node->name));
    node->child = spec->child_index >= 0 ? &tree->nodes[spec->child_index] : NULL;
    node->info.read_only =
        (spec->flags & IPC_NODE_READ_ONLY) != 0 || (node->child != NULL && node->child->info.read_only);
    node->state = calloc(1, MAX(node->driver->state_bytes, (size_t)1));
    if (node->state == NULL)
        return error_set(err, -ENOMEM, "node '%s': no memory", node->name);
    tree->count++; /* from here on block_tree_close() sees to it */
    ret = node->driver->open(node, &args, err);
    if (ret < 0) {
        error_prepend(err, "node '%s'", node->name);
        return ret;
    }
    return 0;
}

int block_tree_open(const struct ipc_node *specs, unsigned count, const int *image_fds, unsigned image_fd_count,
                    struct block_tree **ret_tree, struct error *err)
{
    struct block_tree *tree;
    int ret = specs_check(specs, count, image_fd_count, err);

    if (ret < 0)
        return ret;
    tree = calloc(1, sizeof(*tree) + count * sizeof(tree->nodes[0]));
    if (tree == NULL)
        return error_set(err, -ENOMEM, "no memory for %u nodes", count);
    for (unsigned i = 0; i < count && ret == 0; i++)
        ret = node_open(tree, &specs[i], image_fds, err);
    if (ret < 0) {
        block_tree_close(tree);
        return ret;
    }
    *ret_tree = tree;
    return 0;
}

void block_tree_close(struct block_tree *tree)
{
    if (tree == NULL)
        return;
    while (tree->count > 0) {
        struct block_node *node = &tree->nodes[--tree->count];

        if (node->driver->close != NULL)
            node->driver->close(node);
        free(node->state);
    }
    free(tree);
}

struct block_node *block_tree_root(const struct block_tree *tree)
{
    return (struct block_node *)&tree->nodes[tree->count - 1];
}

void block_node_info(const struct block_node *node, struct block_info *ret_info)
{
    *ret_info = node->info;
    ret_info->size_bytes = block_node_size(node);
}

/* ---- Requests ---- */

/* What each operation does to the node, and which error a range beyond its end is. */
static const struct op_rule {
    bool changes;
    bool has_range;
    int beyond_end;
} op_rules[BLOCK_OP_MAX] = {
    [BLOCK_OP_READ] = { false, true, -EINVAL },
    [BLOCK_OP_WRITE] = { true, true, -ENOSPC },
    [BLOCK_OP_FLUSH] = { false, false, 0 },
    [BLOCK_OP_DISCARD] = { true, true, -EINVAL },
    [BLOCK_OP_WRITE_ZEROES] = { true, true, -ENOSPC },
    [BLOCK_OP_CACHE] = { false, true, -EINVAL },
    [BLOCK_OP_STATUS] = { false, true, -EINVAL },
};

int block_submit(struct block_node *node, struct io_queue *queue, struct block_request *req)
{
    const struct op_rule *rule;

    if (req->op >= BLOCK_OP_MAX)
        return -EINVAL;
    rule = &op_rules[req->op];
    if (rule->changes && node->info.read_only)
        return -EPERM;
    if (rule->has_range && !range_within(req->offset, req->len_bytes, block_node_size(node)))
        return rule->beyond_end;
    if (req->op == BLOCK_OP_STATUS && (req->len_bytes == 0 || req->extents_max == 0))
        return -EINVAL;
    if (rule->has_range && req->len_bytes == 0)
        return 0;
    req->queue = queue;
    req->after = NULL;
    req->engine_op = req->op;
    req->done_bytes = 0;
    req->step = 0;
    req->rw_flags = 0;
    req->offload = false;
    req->range_held = false;
    return block_node_submit(node, req);
}

static bool node_map(struct block_node *node, bool to_write, uint64_t offset, uint64_t len_bytes, int *ret_fd,
                     uint64_t *ret_offset)
{
    if (node->driver->map == NULL || !range_within(offset, len_bytes, block_node_size(node)))
        return false;
    *ret_offset = offset;
    return node->driver->map(node, to_write, ret_offset, len_bytes, ret_fd);
}

bool block_node_map(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd, uint64_t *ret_offset)
{
    return node_map(node, false, offset, len_bytes, ret_fd, ret_offset);
}

bool block_node_map_write(struct block_node *node, uint64_t offset, uint64_t len_bytes, int *ret_fd,
                          uint64_t *ret_offset)
{
    return !node->info.read_only && node_map(node, true, offset, len_bytes, ret_fd, ret_offset);
}
