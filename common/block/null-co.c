/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * null-co: takes everything, keeps nothing, answers after latency-ns.
 *
 * Reads are always zeros. Without read-zeroes their content is said to be undefined, but a buffer left as it is would
 * hand a client what another client wrote, or our memory; so read-zeroes only decides what STATUS promises.
 */
#include "common/block/driver.h"

#include <errno.h>
#include <string.h>

#define NULL_DEFAULT_BYTES (UINT64_C(1) << 30) /* as in QEMU */

struct null_state {
    uint64_t latency_ns;
    bool read_zeroes;
};

static int null_open(struct block_node *node, const struct block_open_args *args, struct error *err)
{
    const struct ipc_node *spec = args->spec;
    struct null_state *null = node->state;

    node->info.size_bytes = spec->flags & IPC_NODE_HAS_SIZE ? spec->size_bytes : NULL_DEFAULT_BYTES;
    if (node->info.size_bytes > BLOCK_SIZE_MAX)
        return error_set(err, -EFBIG, "size is too large");
    node->info.size_bytes = round_up(node->info.size_bytes, BLOCK_SECTOR_BYTES);
    node->info.min_block_bytes = 1;
    node->info.preferred_block_bytes = 4096;
    node->info.fast_zero = !node->info.read_only;
    null->latency_ns = spec->latency_ns;
    null->read_zeroes = (spec->flags & IPC_NODE_READ_ZEROES) != 0;
    return 0;
}

static int null_finish(const struct block_node *node, struct block_request *req)
{
    const struct null_state *null = node->state;

    return null->latency_ns == 0 ? 0 : io_queue_delay(req->queue, req, null->latency_ns, 0);
}

static int null_read(struct block_node *node, struct block_request *req)
{
    for (unsigned i = 0; i < req->iov_count; i++)
        memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
    return null_finish(node, req);
}

static int null_change(struct block_node *node, struct block_request *req)
{
    return null_finish(node, req);
}

static int null_cache(struct block_node *node, struct block_request *req)
{
    return 0;
}

static int null_status(struct block_node *node, struct block_request *req)
{
    const struct null_state *null = node->state;

    req->extents[0].len_bytes = req->len_bytes;
    req->extents[0].flags = BLOCK_EXTENT_HOLE | (null->read_zeroes ? BLOCK_EXTENT_ZERO : 0u);
    req->extents_count = 1;
    return 0;
}

const struct block_driver block_driver_null_co = {
    .id = IPC_DRIVER_NULL_CO,
    .name = "null-co",
    .state_bytes = sizeof(struct null_state),
    .open = null_open,
    .submit = {
        [BLOCK_OP_READ] = null_read,
        [BLOCK_OP_WRITE] = null_change,
        [BLOCK_OP_FLUSH] = null_change,
        [BLOCK_OP_DISCARD] = null_change,
        [BLOCK_OP_WRITE_ZEROES] = null_change,
        [BLOCK_OP_CACHE] = null_cache,
        [BLOCK_OP_STATUS] = null_status,
    },
};
