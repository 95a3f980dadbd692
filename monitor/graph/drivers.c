/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drivers as the monitor knows them: what their options mean, how large a node is, what a worker is told. How requests
 * are carried out is known to the workers' block layer alone.
 */
#include <errno.h>
#include <string.h>

#include "common/io/request.h"
#include "monitor/graph/node.h"

#define SECTOR_BYTES 512

/* ---- file, host_device ---- */

static uint32_t engine_from_options(const struct blockdev_options_file *file)
{
    static const uint32_t engines[] = {
        [BLOCKDEV_AIO_THREADS] = IPC_ENGINE_THREADS,
        [BLOCKDEV_AIO_NATIVE] = IPC_ENGINE_URING,
        [BLOCKDEV_AIO_IO_URING] = IPC_ENGINE_URING,
    };

    return file->has_aio ? engines[file->aio] : IPC_ENGINE_AUTO;
}

static int image_driver_open(struct graph_node *node, const struct blockdev_options *options, struct error *err)
{
    const struct image_options image_options = {
        .filename = options->file.filename,
        .device = options->driver == BLOCKDEV_DRIVER_HOST_DEVICE,
        .read_only = node->flags.read_only,
        .auto_read_only = node->flags.auto_read_only,
        .direct = node->flags.direct,
        .force_share = node->flags.force_share,
        .locking = options->file.locking,
    };

    node->engine = engine_from_options(&options->file);
    return image_new(graph_node_monitor(node), &image_options, &node->image, err);
}

static void image_driver_close(struct graph_node *node)
{
    image_close(node->image);
    node->image = NULL;
}

static int image_driver_check(struct graph_node *node, struct error *err)
{
    node->flags.read_only = node->image->read_only;
    return 0;
}

static uint64_t image_driver_size(const struct graph_node *node)
{
    return round_up(node->image->size_bytes, SECTOR_BYTES);
}

static int same_size_below(const struct graph_node *node, uint64_t size_bytes, uint64_t *ret_below_bytes,
                           struct error *err)
{
    *ret_below_bytes = size_bytes;
    return 0;
}

static void image_driver_describe(const struct graph_node *node, struct ipc_node *row)
{
}

/* ---- raw ---- */

static int raw_check(struct graph_node *node, struct error *err)
{
    uint64_t below = graph_node_size(node->child);

    if (node->has_size && node->size_bytes % SECTOR_BYTES != 0)
        return error_set(err, -EINVAL, "member 'size' (%llu) is no multiple of %d",
                         (unsigned long long)node->size_bytes, SECTOR_BYTES);
    if (node->offset_bytes > below)
        return error_set(err, -EINVAL, "member 'offset' (%llu) is beyond the end (%llu) of node '%s'",
                         (unsigned long long)node->offset_bytes, (unsigned long long)below, node->child->name);
    if (node->has_size && !range_within(node->offset_bytes, node->size_bytes, below))
        return error_set(err, -EINVAL, "members 'offset' (%llu) and 'size' (%llu) end beyond the end (%llu) of node '%s'",
                         (unsigned long long)node->offset_bytes, (unsigned long long)node->size_bytes,
                         (unsigned long long)below, node->child->name);
    return 0;
}

static int raw_open(struct graph_node *node, const struct blockdev_options *options, struct error *err)
{
    int r = graph_node_open_child(node, &options->raw.file, err);

    if (r < 0)
        return r;
    node->offset_bytes = options->raw.offset;
    node->has_size = options->raw.has_size;
    node->size_bytes = options->raw.has_size ? options->raw.size : 0;
    return 0;
}

static uint64_t raw_size(const struct graph_node *node)
{
    uint64_t below = graph_node_size(node->child);

    if (node->has_size)
        return node->size_bytes;
    return below > node->offset_bytes ? round_down(below - node->offset_bytes, SECTOR_BYTES) : 0;
}

static int raw_size_below(const struct graph_node *node, uint64_t size_bytes, uint64_t *ret_below_bytes,
                          struct error *err)
{
    if (node->has_size)
        return error_set(err, -ENOTSUP, "node '%s' has a fixed size", node->name);
    if (!u64_add(node->offset_bytes, size_bytes, ret_below_bytes))
        return error_set(err, -EFBIG, "node '%s': no image can be that large", node->name);
    return 0;
}

static void raw_describe(const struct graph_node *node, struct ipc_node *row)
{
    row->offset_bytes = node->offset_bytes;
    row->size_bytes = node->size_bytes;
    row->flags |= node->has_size ? IPC_NODE_HAS_SIZE : 0;
}

/* ---- null-co ---- */

static int null_open(struct graph_node *node, const struct blockdev_options *options, struct error *err)
{
    if (options->null_co.size > INT64_MAX - (SECTOR_BYTES - 1))
        return error_set(err, -EINVAL, "member 'size' is larger than any image can be");
    node->size_bytes = round_up((uint64_t)options->null_co.size, SECTOR_BYTES);
    node->latency_ns = options->null_co.latency_ns;
    node->read_zeroes = options->null_co.read_zeroes;
    return 0;
}

static uint64_t null_size(const struct graph_node *node)
{
    return node->size_bytes;
}

static void null_describe(const struct graph_node *node, struct ipc_node *row)
{
    row->size_bytes = node->size_bytes;
    row->latency_ns = node->latency_ns;
    row->flags |= IPC_NODE_HAS_SIZE | (node->read_zeroes ? IPC_NODE_READ_ZEROES : 0);
}

/* ---- blkdebug ---- */

static struct ipc_inject_rule rule_from_options(const struct blkdebug_inject_error *options)
{
    static const uint32_t ops[] = {
        [BLKDEBUG_IO_TYPE_READ] = 1u << BLOCK_OP_READ,
        [BLKDEBUG_IO_TYPE_WRITE] = 1u << BLOCK_OP_WRITE,
        [BLKDEBUG_IO_TYPE_WRITE_ZEROES] = 1u << BLOCK_OP_WRITE_ZEROES,
        [BLKDEBUG_IO_TYPE_DISCARD] = 1u << BLOCK_OP_DISCARD,
        [BLKDEBUG_IO_TYPE_FLUSH] = 1u << BLOCK_OP_FLUSH,
        [BLKDEBUG_IO_TYPE_BLOCK_STATUS] = 1u << BLOCK_OP_STATUS,
    };
    const uint32_t all = 1u << BLOCK_OP_READ | 1u << BLOCK_OP_WRITE | 1u << BLOCK_OP_WRITE_ZEROES |
                         1u << BLOCK_OP_DISCARD | 1u << BLOCK_OP_FLUSH;

    return (struct ipc_inject_rule){
        .op_mask = options->has_iotype ? ops[options->iotype] : all,
        .errno_code = (int32_t)options->errno_code,
        .once = options->once,
        .sector = options->has_sector ? options->sector : -1,
    };
}

static int blkdebug_open(struct graph_node *node, const struct blockdev_options *options, struct error *err)
{
    const struct blockdev_options_blkdebug *blkdebug = &options->blkdebug;

    node->rule_count = (unsigned)MIN(blkdebug->inject_error.count, IPC_RULES_MAX);
    for (unsigned i = 0; i < node->rule_count; i++)
        node->rules[i] = rule_from_options(&blkdebug->inject_error.items[i]);
    return graph_node_open_child(node, &blkdebug->image, err);
}

static uint64_t blkdebug_size(const struct graph_node *node)
{
    return graph_node_size(node->child);
}

static void blkdebug_describe(const struct graph_node *node, struct ipc_node *row)
{
    row->rule_count = node->rule_count;
    memcpy(row->rules, node->rules, sizeof(row->rules));
}

/* clang-format off */
const struct node_driver node_drivers[] = {
    { "file",        BLOCKDEV_DRIVER_FILE,        IPC_DRIVER_FILE,        image_driver_open, image_driver_close,
      image_driver_check, image_driver_size, same_size_below, image_driver_describe },
    { "host_device", BLOCKDEV_DRIVER_HOST_DEVICE, IPC_DRIVER_HOST_DEVICE, image_driver_open, image_driver_close,
      image_driver_check, image_driver_size, same_size_below, image_driver_describe },
    { "raw",         BLOCKDEV_DRIVER_RAW,         IPC_DRIVER_RAW,         raw_open,          NULL,
      raw_check,          raw_size,          raw_size_below,  raw_describe },
    { "null-co",     BLOCKDEV_DRIVER_NULL_CO,     IPC_DRIVER_NULL_CO,     null_open,         NULL,
      NULL,               null_size,         NULL,            null_describe },
    { "blkdebug",    BLOCKDEV_DRIVER_BLKDEBUG,    IPC_DRIVER_BLKDEBUG,    blkdebug_open,     NULL,
      NULL,               blkdebug_size,     same_size_below, blkdebug_describe },
};
/* clang-format on */
const unsigned node_driver_count = ARRAY_SIZE(node_drivers);

const struct node_driver *node_driver_find(enum blockdev_driver id)
{
    for (unsigned i = 0; i < node_driver_count; i++) {
        if (node_drivers[i].id == id)
            return &node_drivers[i];
    }
    return NULL;
}
