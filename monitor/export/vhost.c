/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type vhost-user-blk: a listening socket for each, made here and served by the worker, so that no byte of a
 * front-end comes near the monitor.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "monitor/export/export.h"

struct vhost_export {
    struct socket_listeners listeners;
    uint32_t queues;
    uint32_t logical_block_bytes;
};

/* A descriptor that was passed in may be a stream socket of any family. */
static int check_family(int fd, struct error *err)
{
    int family = 0;
    socklen_t len = sizeof(family);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) < 0 || family != AF_UNIX)
        return error_set(err, -EINVAL, "vhost-user needs a unix socket: only it can pass the guest's memory on");
    return 0;
}

static int vhost_prepare(struct export *export, const struct block_export_options *options, struct error *err)
{
    const struct block_export_options_vhost_user_blk *wanted = &options->vhost_user_blk;
    struct vhost_export *vhost = calloc(1, sizeof(*vhost));
    int r;

    if (vhost == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = socket_listen(&wanted->addr, export->fd_source, SOCKET_TAKES_DESCRIPTORS, &vhost->listeners, err);
    if (r == 0)
        r = check_family(vhost->listeners.fds[0], err);
    if (r < 0) {
        socket_listeners_done(&vhost->listeners);
        free(vhost);
        return r;
    }
    vhost->queues = wanted->num_queues;
    vhost->logical_block_bytes = (uint32_t)wanted->logical_block_size;
    export->io_threads = MIN(export->io_threads, vhost->queues); /* a queue belongs to one thread */
    export->poll_max_ns = wanted->poll_max_ns;
    export->priv = vhost;
    return 0;
}

static int vhost_running(struct export *export, struct error *err)
{
    struct vhost_export *vhost = export->priv;
    struct ipc_vhost_listen listen = { .queues = vhost->queues, .logical_block_bytes = vhost->logical_block_bytes };
    int r = worker_send(export->worker, IPC_VHOST_LISTEN, &listen, sizeof(listen), vhost->listeners.fds, 1);

    if (r < 0)
        return error_set(err, r, "its worker does not take the listening socket: %s", strerror(-r));
    return 0;
}

static int vhost_status(struct export *export, const struct ipc_status *status)
{
    if (status->type != IPC_STATUS_CLIENT_GONE)
        return -EPROTO;
    if (!worker_may_log(export->worker)) /* a front-end can come and go as often as it likes */
        return 0;
    if (status->client_gone.error)
        log_warning("export '%s': front-end %llu was dropped: %s", export->id,
                    (unsigned long long)status->client_gone.client_id, status->client_gone.text);
    else
        log_info("export '%s': front-end %llu left: %s", export->id, (unsigned long long)status->client_gone.client_id,
                 status->client_gone.text);
    return 0;
}

/* The worker accepts by itself; what it says of its one client is believed, for it concerns nobody else. */
static unsigned vhost_clients(const struct export *export)
{
    const struct worker_page *page = export->worker != NULL ? worker_get_page(export->worker) : NULL;

    return page != NULL && atomic_load(&page->clients) != 0;
}

/* The worker has the same socket and stops to accept when it drains; its name goes at once. */
static void vhost_close(struct export *export)
{
    struct vhost_export *vhost = export->priv;

    socket_listeners_done(&vhost->listeners);
}

static void vhost_free(struct export *export)
{
    free(export->priv);
    export->priv = NULL;
}

const struct export_type export_type_vhost_user_blk = {
    .id = BLOCK_EXPORT_TYPE_VHOST_USER_BLK,
    .ipc_role = IPC_ROLE_VHOST,
    .prepare = vhost_prepare,
    .running = vhost_running,
    .status = vhost_status,
    .clients = vhost_clients,
    .close = vhost_close,
    .free = vhost_free,
};
