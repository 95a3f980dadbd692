/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type vhost-user-blk: a listening socket for each, made here and served by the export's door, a process of
 * its own that hands front-ends on to the worker, so that no byte of a front-end comes near the monitor. A door that
 * was given a descriptor which must not be closed says so and is given up, whether it can end or not
 * (docs/decisions/vhost-door.md); the next one takes its place.
 */
#include <errno.h>
#include <event2/event.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "monitor/export/export.h"
#include "monitor/monitor.h"

#define DOORS_GIVEN_UP_MAX 8    /* of one export, that have not ended: with more of them nobody is let in */
#define DOOR_END_MS        1000 /* for a door to close its sockets and exit; then it is killed */
#define DOOR_GONE_MS       2000 /* for the end of it to be seen; then the export ends without */
#define DOOR_RETRY_MS      100  /* after one has died, or could not be started */

struct vhost_export;

struct vhost_door {
    LIST_ENTRY(vhost_door) link; /* of the export, while there is one */
    struct vhost_export *vhost;  /* NULL: the export is gone */
    struct worker_handle *worker;
    bool given_up;
};

struct vhost_export {
    struct export *export;
    struct socket_listeners listeners;
    uint32_t queues;
    uint32_t logical_block_bytes;
    LIST_HEAD(, vhost_door) doors;
    struct vhost_door *door; /* the one that front-ends come through; NULL: none at the moment */
    unsigned given_up;       /* of doors */
    struct event *timer;     /* to start another door; after close(): to wait no longer for this one */
    bool started;
    bool closed;
};

static void door_start(struct vhost_export *vhost);

/* After close(): the door has ended, or had the time to. The export may be gone when this returns. */
static void door_waited_for(struct vhost_export *vhost)
{
    evtimer_del(vhost->timer);
    vhost->door = NULL;
    export_closed(vhost->export);
}

/* A descriptor that was passed in may be a stream socket of any family. */
static int check_family(int fd, struct error *err)
{
    int family = 0;
    socklen_t len = sizeof(family);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) < 0 || family != AF_UNIX)
        return error_set(err, -EINVAL, "vhost-user needs a unix socket: only it can pass the guest's memory on");
    return 0;
}

/* ---- The door ---- */

static void door_start_later(struct vhost_export *vhost)
{
    const struct timeval tv = { .tv_usec = DOOR_RETRY_MS * 1000 };

    evtimer_add(vhost->timer, &tv);
}

/* Two ends of a new link: to the door with the listening socket, to the worker. */
static int door_connect(struct vhost_export *vhost, struct error *err)
{
    struct ipc_vhost_listen listen = { .queues = vhost->queues, .logical_block_bytes = vhost->logical_block_bytes };
    struct ipc_vhost_door serve = { 0 };
    _cleanup_close_ int door_end = -1, worker_end = -1;
    int r = channel_new(&door_end, &worker_end, err);

    if (r < 0)
        return r;
    r = worker_send(vhost->export->worker, IPC_VHOST_LISTEN, &listen, sizeof(listen), &worker_end, 1);
    if (r == 0)
        r = worker_send(vhost->door->worker, IPC_VHOST_DOOR, &serve, sizeof(serve),
                        (const int[]){ vhost->listeners.fds[0], door_end }, 2);
    return r < 0 ? error_set(err, r, "its worker or its door does not take the link between them: %s", strerror(-r))
                 : 0;
}

static void door_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct vhost_door *door = opaque;
    struct vhost_export *vhost = door->vhost;
    struct error err = { 0 };
    int r;

    if (vhost == NULL || vhost->closed || vhost->door != door || vhost->export->worker == NULL)
        return;
    r = door_connect(vhost, &err);
    if (!vhost->started) {
        vhost->started = true;
        export_started(vhost->export, r < 0 ? &err : NULL);
    } else if (r < 0) {
        log_error("export '%s': %s", vhost->export->id, err.text);
        worker_kill(worker, "it did not take the link to the export's worker");
    }
}

static void door_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    struct vhost_door *door = opaque;
    struct vhost_export *vhost = door->vhost;

    if (vhost == NULL || vhost->closed)
        return;
    if (vhost->started) {
        log_error("export '%s': another door could not start: %s", vhost->export->id, err->text);
        return;
    }
    vhost->started = true;
    export_started(vhost->export, err);
}

/* It has a descriptor that it dares not close: whether it ends is none of our business any more. */
static void door_give_up(struct vhost_export *vhost, struct vhost_door *door)
{
    door->given_up = true;
    vhost->given_up++;
    vhost->door = NULL;
    worker_drain(door->worker, DOOR_END_MS);
    if (vhost->closed)
        door_waited_for(vhost);
    else if (vhost->given_up < DOORS_GIVEN_UP_MAX)
        door_start(vhost);
    else
        log_error("export '%s': %u of its doors have not ended; nobody is let in until one has", vhost->export->id,
                  vhost->given_up);
}

static int door_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct vhost_door *door = opaque;

    if (status->type != IPC_STATUS_CLIENT_GONE)
        return -EPROTO;
    if (door->vhost == NULL || door->vhost->door != door)
        return 0;
    if (worker_may_log(worker))
        log_warning("export '%s': a front-end was dropped: %s", door->vhost->export->id, status->client_gone.text);
    door_give_up(door->vhost, door);
    return 0;
}

static void door_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct vhost_door *door = opaque;
    struct vhost_export *vhost = door->vhost;
    bool was_waited_for = vhost != NULL && vhost->door == door;

    if (vhost == NULL) {
        free(door);
        return;
    }
    if (door->given_up)
        vhost->given_up--;
    if (vhost->door == door)
        vhost->door = NULL;
    if (!why->expected && !door->given_up) {
        log_error("export '%s': its door, process %d, is gone: %s; the front-end was disconnected", vhost->export->id,
                  (int)worker_get_pid(worker), why->text);
        export_send_worker_gone(vhost->export->monitor, worker, vhost->export->id, why);
    }
    LIST_REMOVE(door, link);
    free(door);
    if (!vhost->closed && vhost->started && vhost->door == NULL && !evtimer_pending(vhost->timer, NULL))
        door_start_later(vhost);
    else if (vhost->closed && was_waited_for)
        door_waited_for(vhost);
}

static const struct worker_ops door_ops = {
    .ready = door_ready,
    .failed = door_failed,
    .status = door_status,
    .gone = door_gone,
};

static int door_spawn(struct vhost_export *vhost, struct error *err)
{
    struct ipc_boot boot = { .role = IPC_ROLE_VHOST_DOOR };
    struct vhost_door *door = calloc(1, sizeof(*door));
    int r;

    if (door == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(boot.export_id, vhost->export->id, sizeof(boot.export_id));
    r = worker_spawn(vhost->export->monitor->workers, &boot, NULL, &door_ops, door, &door->worker, err);
    if (r < 0) {
        free(door);
        return r;
    }
    door->vhost = vhost;
    LIST_INSERT_HEAD(&vhost->doors, door, link);
    vhost->door = door;
    return 0;
}

/* Another one, after the first. */
static void door_start(struct vhost_export *vhost)
{
    struct error err = { 0 };

    if (door_spawn(vhost, &err) == 0)
        return;
    log_error("export '%s': another door could not start: %s", vhost->export->id, err.text);
    door_start_later(vhost);
}

/* ---- The export ---- */

static void timer_expired(evutil_socket_t fd, short what, void *arg)
{
    struct vhost_export *vhost = arg;

    if (vhost->closed)
        door_waited_for(vhost);
    else if (vhost->door == NULL)
        door_start(vhost);
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
    if (r == 0) {
        vhost->timer = evtimer_new(export->monitor->base, timer_expired, vhost);
        r = vhost->timer == NULL ? error_set(err, -ENOMEM, "out of memory") : 0;
    }
    if (r < 0) {
        socket_listeners_done(&vhost->listeners);
        free(vhost);
        return r;
    }
    LIST_INIT(&vhost->doors);
    vhost->export = export;
    vhost->queues = wanted->num_queues;
    vhost->logical_block_bytes = (uint32_t)wanted->logical_block_size;
    export->io_threads = MIN(export->io_threads, vhost->queues); /* a queue belongs to one thread */
    export->poll_max_ns = wanted->poll_max_ns;
    export->priv = vhost;
    return 0;
}

/* The worker serves; its door comes next. */
static int vhost_running(struct export *export, struct error *err)
{
    int r = door_spawn(export->priv, err);

    return r < 0 ? r : EXPORT_STARTS_LATER;
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

/* The name of the socket goes at once. A door that is well ends in a moment. */
static void vhost_close(struct export *export)
{
    struct vhost_export *vhost = export->priv;
    const struct timeval tv = timeval_of_ms(DOOR_GONE_MS);

    vhost->closed = vhost->started = true;
    evtimer_del(vhost->timer);
    socket_listeners_done(&vhost->listeners);
    if (vhost->door == NULL)
        return;
    worker_drain(vhost->door->worker, DOOR_END_MS);
    evtimer_add(vhost->timer, &tv);
}

static bool vhost_closing(const struct export *export)
{
    const struct vhost_export *vhost = export->priv;

    return vhost->door != NULL;
}

/* Doors that have not ended belong to nobody from now on. */
static void vhost_free(struct export *export)
{
    struct vhost_export *vhost = export->priv;
    struct vhost_door *door;

    while ((door = LIST_FIRST(&vhost->doors)) != NULL) {
        LIST_REMOVE(door, link);
        door->vhost = NULL;
    }
    event_free(vhost->timer);
    free(vhost);
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
    .closing = vhost_closing,
    .free = vhost_free,
};
