/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The check of BOOT, field by field. The worker runs it before it uses anything of the message; the monitor runs it
 * before it sends, so that a mistake on its side is an error there and not a dead worker.
 */
#include <errno.h>
#include <string.h>

#include "common/base/log.h"
#include "common/ipc/catalogue.h"
#include "common/ipc/worker-page.h"

#define ERRNO_MAX 4095

#define ROLES_WITHOUT_IMAGE                                                                                            \
    (IPC_ROLE_BIT(IPC_ROLE_NBD_NEGOTIATOR) | IPC_ROLE_BIT(IPC_ROLE_NBD_NEGOTIATOR_TLS) |                               \
     IPC_ROLE_BIT(IPC_ROLE_TLS_SIGNER) | IPC_ROLE_BIT(IPC_ROLE_OPENER) | IPC_ROLE_BIT(IPC_ROLE_VHOST_DOOR) | \
     IPC_ROLE_BIT(IPC_ROLE_RESOLVER))

/* What each driver's row in the node table must look like. */
struct driver_shape {
    uint32_t driver;
    bool has_fd;
    bool has_child;
    bool has_rules;
    uint32_t flags; /* IPC_NODE_* that it knows */
};

static const struct driver_shape driver_shapes[] = {
    { IPC_DRIVER_FILE, true, false, false,
      IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_CACHE_DIRECT | IPC_NODE_NO_FLUSH },
    { IPC_DRIVER_HOST_DEVICE, true, false, false,
      IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_CACHE_DIRECT | IPC_NODE_NO_FLUSH },
    { IPC_DRIVER_RAW, false, true, false,
      IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_CACHE_DIRECT | IPC_NODE_NO_FLUSH | IPC_NODE_HAS_SIZE },
    { IPC_DRIVER_NULL_CO, false, false, false,
      IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_CACHE_DIRECT | IPC_NODE_NO_FLUSH | IPC_NODE_READ_ZEROES |
          IPC_NODE_HAS_SIZE },
    { IPC_DRIVER_BLKDEBUG, false, true, true,
      IPC_NODE_READ_ONLY | IPC_NODE_DISCARD_UNMAP | IPC_NODE_CACHE_DIRECT | IPC_NODE_NO_FLUSH },
};

static const struct driver_shape *driver_shape_find(uint32_t driver)
{
    for (unsigned i = 0; i < ARRAY_SIZE(driver_shapes); i++)
        if (driver_shapes[i].driver == driver)
            return &driver_shapes[i];
    return NULL;
}

/* An index that must be there (within [0, limit)) or must not be there (-1). */
static bool index_fits(int32_t index, bool wanted, uint32_t limit)
{
    return wanted ? index >= 0 && (uint32_t)index < limit : index == -1;
}

static int check_rules(const struct ipc_node *node, const struct driver_shape *shape, struct error *err)
{
    if (node->rule_count > (shape->has_rules ? IPC_RULES_MAX : 0))
        return error_set(err, -EPROTO, "%u rules", node->rule_count);
    for (unsigned i = 0; i < node->rule_count; i++) {
        const struct ipc_inject_rule *rule = &node->rules[i];

        if (rule->op_mask == 0 || rule->op_mask >= (1u << WORKER_PAGE_OPS))
            return error_set(err, -EPROTO, "rule %u: unknown operations 0x%x", i, rule->op_mask);
        if (rule->errno_code <= 0 || rule->errno_code > ERRNO_MAX)
            return error_set(err, -EPROTO, "rule %u: %d is no errno", i, rule->errno_code);
        if (rule->once > 1 || rule->reserved != 0 || rule->sector < -1)
            return error_set(err, -EPROTO, "rule %u: a field is out of range", i);
    }
    return 0;
}

static int check_node(const struct ipc_boot *boot, unsigned index, struct error *err)
{
    const struct ipc_node *node = &boot->nodes[index];
    const struct driver_shape *shape = driver_shape_find(node->driver);

    if (shape == NULL)
        return error_set(err, -EPROTO, "unknown driver %u", node->driver);
    if ((node->flags & ~shape->flags) != 0)
        return error_set(err, -EPROTO, "unknown flags 0x%x", node->flags & ~shape->flags);
    if (!index_fits(node->fd_index, shape->has_fd, boot->image_fd_count))
        return error_set(err, -EPROTO, "descriptor index %d", node->fd_index);
    if (!index_fits(node->child_index, shape->has_child, index))
        return error_set(err, -EPROTO, "child index %d", node->child_index);
    if (!range_within(node->offset_bytes, node->size_bytes, INT64_MAX))
        return error_set(err, -EPROTO, "offset and size are beyond 2^63 - 1");
    if (memchr(node->name, '\0', sizeof(node->name)) == NULL)
        return error_set(err, -EPROTO, "name is not terminated");
    if (node->reserved != 0)
        return error_set(err, -EPROTO, "reserved field is not 0");
    return check_rules(node, shape, err);
}

/* Roles without an image have no part of BOOT that speaks of one. */
static int check_export_fields(const struct ipc_boot *boot, struct error *err)
{
    bool wants_nodes = (IPC_ROLE_BIT(boot->role) & ROLES_WITHOUT_IMAGE) == 0;

    if (boot->image_fd_count > IPC_IMAGE_FDS_MAX || boot->node_count > IPC_NODES_MAX)
        return error_set(err, -EPROTO, "%u nodes with %u descriptors", boot->node_count, boot->image_fd_count);
    if (wants_nodes != (boot->node_count > 0) || (!wants_nodes && boot->image_fd_count > 0))
        return error_set(err, -EPROTO, "%u nodes with %u descriptors for role %u", boot->node_count,
                         boot->image_fd_count, boot->role);
    if (boot->io_threads > IPC_IO_THREADS_MAX || wants_nodes != (boot->io_threads > 0))
        return error_set(err, -EPROTO, "%u I/O threads for role %u", boot->io_threads, boot->role);
    if ((boot->export_flags & ~(wants_nodes ? IPC_EXPORT_FLAGS_ALL : 0)) != 0)
        return error_set(err, -EPROTO, "unknown export flags 0x%x", boot->export_flags);
    if (memchr(boot->export_id, '\0', sizeof(boot->export_id)) == NULL)
        return error_set(err, -EPROTO, "export id is not terminated");
    return 0;
}

int ipc_boot_check(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_boot *boot = message;
    int r;

    if (boot->role < IPC_ROLE_NBD_NEGOTIATOR || boot->role > IPC_ROLE_RESOLVER)
        return error_set(err, -EPROTO, "unknown role %u", boot->role);
    if ((boot->layers & ~IPC_LAYERS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown sandbox layers 0x%x", boot->layers);
    if (boot->engine > IPC_ENGINE_THREADS)
        return error_set(err, -EPROTO, "unknown engine %u", boot->engine);
    if (boot->log_level > LOG_LEVEL_DEBUG)
        return error_set(err, -EPROTO, "unknown log level %u", boot->log_level);
    r = check_export_fields(boot, err);
    if (r < 0)
        return r;
    if (fd_count != 1 + boot->image_fd_count)
        return error_set(err, -EPROTO, "%u descriptors instead of %u", fd_count, 1 + boot->image_fd_count);
    for (unsigned i = 0; i < boot->node_count; i++) {
        r = check_node(boot, i, err);
        if (r < 0) {
            error_prepend(err, "node %u", i);
            return r;
        }
    }
    return 0;
}
