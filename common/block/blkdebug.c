/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blkdebug: fails requests that its rules name, hands on the rest. For tests of everything above it.
 */
#include "common/block/driver.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

struct debug_state {
    unsigned rule_count;
    struct debug_rule {
        struct ipc_inject_rule spec;
        atomic_bool spent; /* a rule of once */
    } rules[IPC_RULES_MAX];
};

#define ERRNO_MAX 4095 /* what the kernel's own interface allows */

static int debug_open(struct block_node *node, const struct block_open_args *args, struct error *err)
{
    const struct ipc_node *spec = args->spec;
    struct debug_state *debug = node->state;

    if (spec->rule_count > IPC_RULES_MAX)
        return error_set(err, -EINVAL, "inject-error: %u rules are more than %u", spec->rule_count, IPC_RULES_MAX);
    for (unsigned i = 0; i < spec->rule_count; i++) {
        if (spec->rules[i].errno_code <= 0 || spec->rules[i].errno_code > ERRNO_MAX)
            return error_set(err, -EINVAL, "inject-error: errno %d of rule %u is not an error number",
                             spec->rules[i].errno_code, i);
        debug->rules[i].spec = spec->rules[i];
    }
    debug->rule_count = spec->rule_count;
    node->info = node->child->info;
    node->info.read_only |= (spec->flags & IPC_NODE_READ_ONLY) != 0;
    return 0;
}

static bool rule_matches(const struct ipc_inject_rule *rule, const struct block_request *req)
{
    uint64_t byte;

    if ((rule->op_mask & (1u << req->op)) == 0)
        return false;
    if (rule->sector == -1)
        return true;
    if (req->op == BLOCK_OP_FLUSH || rule->sector < 0 || !u64_mul((uint64_t)rule->sector, BLOCK_SECTOR_BYTES, &byte))
        return false;
    return req->offset < byte + BLOCK_SECTOR_BYTES && byte < req->offset + req->len_bytes;
}

static int debug_submit(struct block_node *node, struct block_request *req)
{
    struct debug_state *debug = node->state;

    for (unsigned i = 0; i < debug->rule_count; i++) {
        struct debug_rule *rule = &debug->rules[i];

        if (!rule_matches(&rule->spec, req))
            continue;
        if (!rule->spec.once || !atomic_exchange(&rule->spent, true))
            return -rule->spec.errno_code;
    }
    return block_node_submit(node->child, req);
}

const struct block_driver block_driver_blkdebug = {
    .id = IPC_DRIVER_BLKDEBUG,
    .name = "blkdebug",
    .flags = BLOCK_DRIVER_NEEDS_CHILD,
    .state_bytes = sizeof(struct debug_state),
    .open = debug_open,
    .submit = {
        [BLOCK_OP_READ] = debug_submit,
        [BLOCK_OP_WRITE] = debug_submit,
        [BLOCK_OP_FLUSH] = debug_submit,
        [BLOCK_OP_DISCARD] = debug_submit,
        [BLOCK_OP_WRITE_ZEROES] = debug_submit,
        [BLOCK_OP_CACHE] = debug_submit,
        [BLOCK_OP_STATUS] = debug_submit,
    },
};
