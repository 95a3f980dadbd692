/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type fuse. The worker comes first and opens the image; when it is READY the mounter mounts, and the worker
 * gets the descriptors. At the end it is the other way round: what is mounted is unmounted, then the worker is drained.
 * No export is gone for QMP clients before its mount is.
 *
 * The monitor never looks at a mount point: that is the mounter's, which knows how to do it without waiting for a
 * worker.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/export/export.h"
#include "monitor/export/mounter.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"

_Static_assert((int)MOUNTER_ALLOW_OTHER_OFF == (int)FUSE_ALLOW_OTHER_OFF &&
                   (int)MOUNTER_ALLOW_OTHER_ON == (int)FUSE_ALLOW_OTHER_ON &&
                   (int)MOUNTER_ALLOW_OTHER_AUTO == (int)FUSE_ALLOW_OTHER_AUTO,
               "one numbering of allow-other");
_Static_assert(MOUNTER_DEVICES_MAX == IPC_FUSE_DEVICES_MAX, "as many as a message takes");

#define RESIZED_INTERVAL_US 20000

enum mount_state {
    MOUNT_NONE,        /* not yet, or not any more */
    MOUNT_ASKED,       /* the mounter is at it */
    MOUNT_THERE,       /* mounted; the worker has the descriptors */
    MOUNT_SAFE_REMOVE, /* the mounter tries whether it is in use */
    MOUNT_REMOVED,     /* the mounter is asked to detach it */
};

struct fuse_export {
    struct export *export;
    enum mount_state state;
    char *path;
    enum mounter_allow_other allow_other;
    bool growable;
    bool resizing;     /* the permission to resize is held: always if growable, else while the worker resizes */
    bool resize_asked; /* the worker waits for it */
    bool ending;       /* to be detached as soon as the mounter has answered */
    uint64_t mount;    /* the mounter's name for it */
    uint64_t device;   /* as it is mounted: st_dev; 0: it is not */
    uint64_t resize_serial;
    struct event *resized_timer;
};

static void tell_others(evutil_socket_t fd, short what, void *arg);

static int fuse_prepare(struct export *export, const struct block_export_options *options, struct error *err)
{
    struct fuse_export *fuse = calloc(1, sizeof(*fuse));

    if (fuse == NULL || (fuse->path = strdup(options->fuse.mountpoint)) == NULL ||
        (fuse->resized_timer = evtimer_new(export->monitor->base, tell_others, fuse)) == NULL) {
        if (fuse != NULL)
            free(fuse->path);
        free(fuse);
        return error_set(err, -ENOMEM, "out of memory");
    }
    fuse->export = export;
    fuse->growable = options->fuse.growable;
    fuse->allow_other = (enum mounter_allow_other)options->fuse.allow_other;
    export->priv = fuse;
    return 0;
}

/* ---- Unmounting ---- */

static void log_remark(const struct fuse_export *fuse, const struct mounter_reply *reply)
{
    if (reply->text[0] != '\0')
        log_warning("export '%s': %s", fuse->export->id, reply->text);
}

static void detached(void *opaque, const struct mounter_reply *reply, int *fds)
{
    struct fuse_export *fuse = opaque;

    log_remark(fuse, reply);
    fuse->state = MOUNT_NONE;
    export_closed(fuse->export);
}

/* Make the file below visible again, whoever has the mount open. */
static void detach(struct fuse_export *fuse)
{
    struct error err;

    fuse->state = MOUNT_REMOVED;
    if (mounter_unmount(fuse->export->monitor->mounter, fuse->mount, true, detached, fuse, &err) == 0)
        return;
    log_error("export '%s': '%s' stays mounted: %s", fuse->export->id, fuse->path, err.text);
    fuse->state = MOUNT_NONE;
}

/* After an answer of the mounter that had to be waited for, when the export has ended meanwhile. */
static void end_mount(struct fuse_export *fuse)
{
    if (fuse->state == MOUNT_THERE)
        detach(fuse);
    if (fuse->state == MOUNT_NONE)
        export_closed(fuse->export);
}

static void fuse_close(struct export *export)
{
    struct fuse_export *fuse = export->priv;

    fuse->ending = true;
    if (fuse->state == MOUNT_THERE)
        detach(fuse);
    else if (fuse->state == MOUNT_ASKED)
        mounter_cancel(export->monitor->mounter, fuse);
}

static bool fuse_closing(const struct export *export)
{
    const struct fuse_export *fuse = export->priv;

    return fuse->state != MOUNT_NONE && fuse->state != MOUNT_THERE;
}

static struct image *image_of(const struct fuse_export *fuse)
{
    return graph_node_image(fuse->export->node);
}

static void fuse_release(struct export *export)
{
    struct fuse_export *fuse = export->priv;

    if (fuse->resizing)
        image_end_resize(image_of(fuse));
    fuse->resizing = false;
}

static uint64_t fuse_device(const struct export *export)
{
    const struct fuse_export *fuse = export->priv;

    return fuse->device;
}

static void fuse_free(struct export *export)
{
    struct fuse_export *fuse = export->priv;

    if (export->node != NULL && image_of(fuse) != NULL)
        image_forget(image_of(fuse), fuse);
    export->resizing = fuse->resizing; /* nothing has released it: the worker is lost */
    event_free(fuse->resized_timer);
    free(fuse->path);
    free(fuse);
    export->priv = NULL;
}

/* ---- mode=safe ---- */

/* A mount that nobody uses can be unmounted the plain way, and one that is in use cannot: the kernel decides. */
static void safely_unmounted(void *opaque, const struct mounter_reply *reply, int *fds)
{
    struct fuse_export *fuse = opaque;
    struct error err = { 0 };

    fuse->state = reply->code == 0 ? MOUNT_NONE : MOUNT_THERE;
    if (fuse->ending) { /* it is on its way out for another reason */
        end_mount(fuse);
    } else if (reply->code == 0) {
        export_drain(fuse->export);
    } else {
        error_set(&err, reply->code, "export '%s' still in use (mode 'hard' ends it all the same): %s",
                  fuse->export->id, reply->text);
        export_keep(fuse->export, &err);
    }
}

static int fuse_remove_safely(struct export *export, struct error *err)
{
    struct fuse_export *fuse = export->priv;
    int r;

    if (fuse->state != MOUNT_THERE)
        return error_set(err, -EBUSY, "export '%s' is just being started", export->id);
    r = mounter_unmount(export->monitor->mounter, fuse->mount, false, safely_unmounted, fuse, err);
    if (r == 0)
        fuse->state = MOUNT_SAFE_REMOVE;
    return r;
}

/* ---- Mounting ---- */

static int send_devices(struct fuse_export *fuse, const struct mounter_reply *reply, const int *fds)
{
    struct ipc_fuse_serve serve = {
        .flags = (fuse->growable && fuse->resizing ? IPC_FUSE_GROWABLE : 0) |
                 (fuse->resizing ? IPC_FUSE_MAY_RESIZE : 0) | (reply->allow_other ? IPC_FUSE_ALLOW_OTHER : 0),
        .uid = geteuid(),
        .gid = getegid(),
    };

    return worker_send(fuse->export->worker, IPC_FUSE_SERVE, &serve, sizeof(serve), fds, reply->devices);
}

static void mounted(void *opaque, const struct mounter_reply *reply, int *fds)
{
    struct fuse_export *fuse = opaque;
    struct export *export = fuse->export;
    struct error err = { 0 };
    int r = reply->code;

    if (r < 0)
        error_set(&err, r, "%s", reply->text);
    else
        log_remark(fuse, reply);
    fuse->state = r == 0 ? MOUNT_THERE : MOUNT_NONE;
    fuse->mount = reply->mount;
    fuse->device = reply->device;
    if (r == 0 && !fuse->ending && send_devices(fuse, reply, fds) < 0)
        r = error_set(&err, -EPIPE, "its worker does not listen");
    /* From here on only the worker has them, so that the connection ends with it. */
    for (unsigned i = 0; i < reply->devices; i++)
        close(fds[i]);
    if (fuse->ending)
        end_mount(fuse);
    else if (r < 0)
        export_started(export, &err);
    /* Else FUSE_SERVING will come. */
}

/*
 * What is in the page cache goes to clients by way of a pipe, which is no larger than that; what comes from a device
 * with O_DIRECT comes best in one piece.
 */
static uint32_t max_read(const struct export *export)
{
    const struct image *image = graph_node_image(export->node);

    return image != NULL && image->direct ? MOUNTER_READ_MAX : MOUNTER_READ_MAX / 2;
}

static int ask_for_mount(struct fuse_export *fuse, struct error *err)
{
    struct export *export = fuse->export;
    unsigned pairs = MIN(export->io_threads, MOUNTER_PAIRS_MAX);
    int r = mounter_mount(export->monitor->mounter, fuse->path, export->id, fuse->allow_other, pairs, max_read(export),
                          mounted, fuse, err);

    if (r == 0)
        fuse->state = MOUNT_ASKED;
    return r;
}

/* A growable one may be resized from the start. */
static void may_resize(void *opaque, const struct error *err)
{
    struct fuse_export *fuse = opaque;
    struct error failure = err != NULL ? *err : (struct error){ 0 };

    if (fuse->export->worker == NULL) { /* the right would come after fuse_release() */
        if (err == NULL)
            image_end_resize(image_of(fuse));
        return;
    }
    fuse->resizing = err == NULL;
    if (fuse->ending)
        return;
    if (failure.code == 0)
        ask_for_mount(fuse, &failure);
    if (failure.code != 0)
        export_started(fuse->export, &failure);
}

static int fuse_running(struct export *export, struct error *err)
{
    struct fuse_export *fuse = export->priv;
    int r;

    /* What stores nothing has no size to guard, and none that could change. */
    if (fuse->growable && export->writable && image_of(fuse) != NULL)
        r = image_begin_resize(image_of(fuse), may_resize, fuse, err);
    else
        r = ask_for_mount(fuse, err);
    return r < 0 ? r : EXPORT_STARTS_LATER;
}

/* ---- What the worker says ---- */

static int serving(struct fuse_export *fuse, const struct ipc_status *status)
{
    struct export *export = fuse->export;

    if (fuse->state == MOUNT_NONE || fuse->state == MOUNT_ASKED)
        return -EPROTO;
    log_debug("export '%s' is served on '%s' by FUSE protocol 7.%u, requests of up to %u bytes", export->id, fuse->path,
              status->fuse_serving.protocol_minor, status->fuse_serving.max_write_bytes);
    if (!fuse->ending)
        export_started(export, NULL);
    return 0;
}

/* Somebody unmounted it by hand, or aborted the connection, or the kernel is none that libfuse knows. */
static int gone(struct fuse_export *fuse, const struct ipc_status *status)
{
    struct export *export = fuse->export;
    struct error err = { 0 };

    if (fuse->state == MOUNT_NONE || fuse->ending || fuse->state == MOUNT_SAFE_REMOVE)
        return 0;
    error_set(&err, -EIO, "'%s' %s", fuse->path,
              status->fuse_gone.code == -ENODEV ? "was unmounted by somebody else"
                                                : "lost its connection to the kernel");
    if (export->state == EXPORT_CREATING) {
        export_started(export, &err);
        return 0;
    }
    log_warning("export '%s': %s: the export ends", export->id, err.text);
    export_drain(export);
    return 0;
}

static void answer_resize(struct fuse_export *fuse, const struct error *err)
{
    struct ipc_fuse_resize answer = { .serial = fuse->resize_serial, .code = err != NULL ? err->code : 0 };

    fuse->resize_asked = false;
    fuse->resizing = err == NULL;
    if (err != NULL && worker_may_log(fuse->export->worker))
        log_warning("export '%s': a client wanted to change the size: %s", fuse->export->id, err->text);
    worker_send(fuse->export->worker, IPC_FUSE_RESIZE, &answer, sizeof(answer), NULL, 0);
}

/* The worker may be about to end, and wait for the answer all the same. */
static void resize_permitted(void *opaque, const struct error *err)
{
    struct fuse_export *fuse = opaque;

    if (fuse->export->worker != NULL)
        answer_resize(fuse, err);
    else if (err == NULL)
        image_end_resize(image_of(fuse));
}

/* An export that is not growable may be resized as by block_resize: if no other program relies on the size. */
static int resize(struct fuse_export *fuse, const struct ipc_status *status)
{
    struct error err = { 0 };
    int r;

    if (!fuse->export->writable || fuse->growable || fuse->resizing || fuse->resize_asked)
        return -EPROTO;
    fuse->resize_asked = true;
    fuse->resize_serial = status->fuse_resize.serial;
    if (image_of(fuse) == NULL)
        r = error_set(&err, -ENOTSUP, "node '%s' has no image whose size could be changed", fuse->export->node->name);
    else
        r = image_begin_resize(image_of(fuse), resize_permitted, fuse, &err);
    if (r < 0)
        answer_resize(fuse, &err);
    return 0;
}

/* Other exports of the image hear of it soon, and not too often. */
static void looked_again(void *opaque, const struct error *err)
{
    struct fuse_export *fuse = opaque;

    export_set_node_resized(fuse->export->set, fuse->export->node, fuse->export);
}

static void tell_others(evutil_socket_t fd, short what, void *arg)
{
    struct fuse_export *fuse = arg;

    if (image_refresh(image_of(fuse), OPENER_DEADLINE_MS, looked_again, fuse, NULL) < 0)
        looked_again(fuse, NULL);
}

static int resized(struct fuse_export *fuse, const struct ipc_status *status)
{
    static const struct timeval soon = { .tv_usec = RESIZED_INTERVAL_US };

    if (!fuse->resizing || (!fuse->growable && fuse->resize_serial != status->fuse_resize.serial))
        return -EPROTO;
    if (!fuse->growable) {
        image_end_resize(image_of(fuse));
        fuse->resizing = false;
    }
    if (!evtimer_pending(fuse->resized_timer, NULL))
        evtimer_add(fuse->resized_timer, &soon);
    return 0;
}

static int fuse_status(struct export *export, const struct ipc_status *status)
{
    static const struct {
        enum ipc_status_type type;
        int (*handle)(struct fuse_export *fuse, const struct ipc_status *status);
    } rows[] = {
        { IPC_STATUS_FUSE_SERVING, serving },
        { IPC_STATUS_FUSE_GONE, gone },
        { IPC_STATUS_FUSE_RESIZE, resize },
        { IPC_STATUS_FUSE_RESIZED, resized },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].type == status->type)
            return rows[i].handle(export->priv, status);
    }
    return -EPROTO;
}

/* How often the file is open, as the worker counts. */
static unsigned fuse_clients(const struct export *export)
{
    return export->worker != NULL ? atomic_load(&worker_get_page(export->worker)->clients) : 0;
}

const struct export_type export_type_fuse = {
    .id = BLOCK_EXPORT_TYPE_FUSE,
    .ipc_role = IPC_ROLE_FUSE,
    .prepare = fuse_prepare,
    .running = fuse_running,
    .status = fuse_status,
    .clients = fuse_clients,
    .remove_safely = fuse_remove_safely,
    .close = fuse_close,
    .closing = fuse_closing,
    .release = fuse_release,
    .device = fuse_device,
    .free = fuse_free,
};
