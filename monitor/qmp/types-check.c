/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checks of decoded options that the types cannot express and that need no state: what is not supported is refused by
 * name rather than ignored. Handlers run these before they do anything.
 */
#include "monitor/qmp/types.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/ipc/ipc-protocol.h"

bool qmp_id_wellformed(const char *id, size_t max)
{
    size_t len = strlen(id);

    if (len == 0 || len > max || !isalpha((unsigned char)id[0]))
        return false;
    for (size_t i = 1; i < len; i++) {
        if (!isalnum((unsigned char)id[i]) && strchr("-._", id[i]) == NULL)
            return false;
    }
    return true;
}

static int check_id(const char *invalid, const char *id, size_t max, struct error *err)
{
    if (qmp_id_wellformed(id, max))
        return 0;
    return error_set(err, -EINVAL,
                     "%s: '%.64s' is not a letter and then letters, digits, '-', '.' or '_', at most %zu in all",
                     invalid, id, max);
}

/* A row of what is known but refused. */
struct refusal {
    bool given;
    const char *member;
    const char *instead; /* what to do */
};

static int check_refusals(const struct refusal *rows, unsigned count, struct error *err)
{
    for (unsigned i = 0; i < count; i++) {
        if (rows[i].given)
            return error_set(err, -EINVAL, "member '%s' is not supported: %s", rows[i].member, rows[i].instead);
    }
    return 0;
}

/* ---- Nodes ---- */

static int check_ref(const char *member, const struct blockdev_ref *ref, struct error *err)
{
    int r;

    if (ref->branch == BLOCKDEV_REF_REFERENCE)
        return 0;
    r = blockdev_options_check(ref->definition, err);
    return r < 0 ? error_prepend(err, "%s", member) : 0;
}

static int check_file(const struct blockdev_options *options, struct error *err)
{
    const struct blockdev_options_file *file = &options->file;
    const struct refusal rows[] = {
        { file->pr_manager != NULL, "pr-manager", "there are no persistent reservations, leave it out" },
        { file->x_check_cache_dropped, "x-check-cache-dropped", "it is a debugging aid of QEMU, leave it out" },
    };

    if (file->filename[0] == '\0')
        return error_set(err, -EINVAL, "member 'filename' is empty");
    if (file->has_aio && file->aio == BLOCKDEV_AIO_NATIVE && !options->cache.direct)
        return error_set(err, -EINVAL, "member 'aio': native needs cache.direct=on");
    return check_refusals(rows, ARRAY_SIZE(rows), err);
}

static int check_raw(const struct blockdev_options *options, struct error *err)
{
    uint64_t end;

    if (options->raw.has_size && (!u64_add(options->raw.offset, options->raw.size, &end) || end > INT64_MAX))
        return error_set(err, -EINVAL, "members 'offset' and 'size' end beyond the largest offset of a file");
    return check_ref("file", &options->raw.file, err);
}

static int check_null(const struct blockdev_options *options, struct error *err)
{
    if (options->null_co.latency_ns > INT64_MAX)
        return error_set(err, -EINVAL, "member 'latency-ns' must be at most %lld", (long long)INT64_MAX);
    return 0;
}

static int check_inject_errors(const struct blockdev_options_blkdebug *blkdebug, struct error *err)
{
    if (blkdebug->inject_error.count > IPC_RULES_MAX)
        return error_set(err, -EINVAL, "member 'inject-error' has %zu elements, more than %d",
                         blkdebug->inject_error.count, IPC_RULES_MAX);
    for (size_t i = 0; i < blkdebug->inject_error.count; i++) {
        if (blkdebug->inject_error.items[i].has_state)
            return error_set(err, -EINVAL, "member 'inject-error.%zu.state' is not supported: rules have no states", i);
    }
    return 0;
}

static int check_blkdebug(const struct blockdev_options *options, struct error *err)
{
    static const char instead[] = "leave it out";
    const struct blockdev_options_blkdebug *blkdebug = &options->blkdebug;
    const struct refusal rows[] = {
        { blkdebug->config != NULL, "config", "give the rules in inject-error" },
        { blkdebug->has_align, "align", instead },
        { blkdebug->has_max_transfer, "max-transfer", instead },
        { blkdebug->has_opt_write_zero, "opt-write-zero", instead },
        { blkdebug->has_max_write_zero, "max-write-zero", instead },
        { blkdebug->has_opt_discard, "opt-discard", instead },
        { blkdebug->has_max_discard, "max-discard", instead },
    };
    int r = check_refusals(rows, ARRAY_SIZE(rows), err);

    if (r == 0)
        r = check_inject_errors(blkdebug, err);
    if (r == 0)
        r = check_ref("image", &blkdebug->image, err);
    return r;
}

int blockdev_options_check(const struct blockdev_options *options, struct error *err)
{
    static int (*const by_driver[BLOCKDEV_DRIVER_MAX])(const struct blockdev_options *, struct error *) = {
        [BLOCKDEV_DRIVER_FILE] = check_file,         [BLOCKDEV_DRIVER_HOST_DEVICE] = check_file,
        [BLOCKDEV_DRIVER_RAW] = check_raw,           [BLOCKDEV_DRIVER_NULL_CO] = check_null,
        [BLOCKDEV_DRIVER_BLKDEBUG] = check_blkdebug,
    };
    const struct refusal rows[] = {
        { options->detect_zeroes != BLOCKDEV_DETECT_ZEROES_OFF, "detect-zeroes", "set it to off or leave it out" },
    };
    int r = 0;

    if (options->node_name != NULL)
        r = check_id("Invalid node-name", options->node_name, IPC_NODE_NAME_MAX - 1, err);
    if (r == 0 && options->force_share && !options->read_only)
        r = error_set(err, -EINVAL, "member 'force-share' needs read-only=on");
    if (r == 0)
        r = check_refusals(rows, ARRAY_SIZE(rows), err);
    if (r == 0)
        r = by_driver[options->driver](options, err);
    return r;
}

/* ---- The NBD server and exports ---- */

int nbd_server_options_check(const struct nbd_server_options *options, struct error *err)
{
    const struct socket_address *addr = &options->addr;
    const struct refusal rows[] = {
        { options->tls_authz != NULL && options->tls_creds == NULL, "tls-authz",
          "without tls-creds nobody proves who he is" },
        { addr->type == SOCKET_ADDRESS_INET && addr->inet.mptcp, "mptcp", "leave it out" },
    };

    if (addr->type == SOCKET_ADDRESS_INET && addr->inet.has_ipv4 && addr->inet.has_ipv6 && !addr->inet.ipv4 &&
        !addr->inet.ipv6)
        return error_set(err, -EINVAL, "members 'ipv4' and 'ipv6' are both off: that leaves no address");
    return check_refusals(rows, ARRAY_SIZE(rows), err);
}

static int check_export_nbd(const struct block_export_options *options, struct error *err)
{
    const struct block_export_options_nbd *nbd = &options->nbd;
    const struct refusal rows[] = {
        { nbd->bitmaps.count > 0, "bitmaps", "there are no dirty bitmaps, leave it out" },
    };

    if (nbd->name != NULL && strlen(nbd->name) >= IPC_NAME_MAX)
        return error_set(err, -EINVAL, "member 'name' must be at most %d bytes", IPC_NAME_MAX - 1);
    if (nbd->description != NULL && strlen(nbd->description) >= IPC_NAME_MAX)
        return error_set(err, -EINVAL, "member 'description' must be at most %d bytes", IPC_NAME_MAX - 1);
    return check_refusals(rows, ARRAY_SIZE(rows), err);
}

#define POLL_MAX_NS 1000000000u /* longer is a busy loop in disguise */

static int check_export_vhost_user_blk(const struct block_export_options *options, struct error *err)
{
    const struct block_export_options_vhost_user_blk *vhost = &options->vhost_user_blk;
    uint64_t block = vhost->logical_block_size;

    if (vhost->addr.type != SOCKET_ADDRESS_UNIX && vhost->addr.type != SOCKET_ADDRESS_FD)
        return error_set(err, -EINVAL,
                         "Only socket address types 'unix' and 'fd' are supported: vhost-user needs a unix socket");
    if (block < IPC_VHOST_BLOCK_MIN || block > IPC_VHOST_BLOCK_MAX || (block & (block - 1)) != 0)
        return error_set(err, -EINVAL, "parameter logical-block-size must be a power of 2 between %u and %u",
                         IPC_VHOST_BLOCK_MIN, IPC_VHOST_BLOCK_MAX);
    if (vhost->num_queues == 0)
        return error_set(err, -EINVAL, "num-queues must be greater than 0");
    if (vhost->num_queues > IPC_VHOST_QUEUES_MAX)
        return error_set(err, -EINVAL, "num-queues must be at most %u", IPC_VHOST_QUEUES_MAX);
    if (vhost->poll_max_ns > POLL_MAX_NS)
        return error_set(err, -EINVAL, "member '__org.bulkhead_poll-max-ns' must be at most %u", POLL_MAX_NS);
    return 0;
}

static int check_export_fuse(const struct block_export_options *options, struct error *err)
{
    const char *mountpoint = options->fuse.mountpoint;

    if (mountpoint[0] == '\0')
        return error_set(err, -EINVAL, "member 'mountpoint' must not be empty");
    if (strlen(mountpoint) >= PATH_MAX)
        return error_set(err, -EINVAL, "member 'mountpoint' must be at most %d bytes", PATH_MAX - 1);
    return 0;
}

int block_export_options_check(const struct block_export_options *options, struct error *err)
{
    static int (*const by_type[BLOCK_EXPORT_TYPE_MAX])(const struct block_export_options *, struct error *) = {
        [BLOCK_EXPORT_TYPE_NBD] = check_export_nbd,
        [BLOCK_EXPORT_TYPE_VHOST_USER_BLK] = check_export_vhost_user_blk,
        [BLOCK_EXPORT_TYPE_FUSE] = check_export_fuse,
    };
    const struct refusal rows[] = {
        { options->iothread != NULL, "iothread", "there are no iothread objects, each export has its own threads" },
    };
    int r = check_id("Invalid block export id", options->id, IPC_EXPORT_ID_MAX - 1, err);

    if (r == 0)
        r = check_refusals(rows, ARRAY_SIZE(rows), err);
    if (r == 0)
        r = by_type[options->type](options, err);
    return r;
}
