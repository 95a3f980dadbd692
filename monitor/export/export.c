/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life cycle of exports; see export.h.
 *
 * block-export-del answers as qemu-storage-daemon does: an export without clients is gone, and its event sent, before
 * the reply; one whose clients are dropped (mode=hard) is gone when its event comes, after the reply. A client whose
 * handshake just ended may know that it is connected before we do, so mode=safe waits a moment while there are any
 * such; and one that has just gone may not have been missed by the worker, so it is asked before mode=safe refuses.
 *
 * An export whose worker is lost (monitor/worker/worker.h) ends for clients of QMP, the NBD server, and the end of the
 * program: its event comes and its id is free. Its use of the node goes on until the worker is gone, and with it the
 * locks.
 */
#include "monitor/export/export.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"

#define IO_THREADS_MAX 4

TAILQ_HEAD(export_list, export);

/* Somebody who waits until all exports of a type are gone. */
struct waiter {
    TAILQ_ENTRY(waiter) link;
    enum block_export_type type;
    void (*done)(void *opaque);
    void *opaque;
};
TAILQ_HEAD(waiter_list, waiter);

struct export_set {
    struct monitor *monitor;
    struct export_list exports;
    struct export_list left; /* of them only a lost worker is left */
    struct waiter_list waiters;
    struct waiter shutdown_waiter; /* so that the end cannot fail for want of memory */
    unsigned io_threads;           /* of each worker */
};

const struct export_type *const export_types[] = { &export_type_nbd, &export_type_vhost_user_blk, &export_type_fuse };
const unsigned export_type_count = ARRAY_SIZE(export_types);

const struct export_type *export_type_find(enum block_export_type id)
{
    for (unsigned i = 0; i < export_type_count; i++) {
        if (export_types[i]->id == id)
            return export_types[i];
    }
    return NULL;
}

int export_set_new(struct monitor *monitor, struct export_set **ret_set, struct error *err)
{
    struct export_set *set = calloc(1, sizeof(*set));
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (set == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    set->monitor = monitor;
    set->io_threads = cpus < 1 ? 1 : (unsigned)MIN(cpus, IO_THREADS_MAX);
    TAILQ_INIT(&set->exports);
    TAILQ_INIT(&set->left);
    TAILQ_INIT(&set->waiters);
    *ret_set = set;
    return 0;
}

struct export *export_set_first(const struct export_set *set)
{
    return TAILQ_FIRST(&set->exports);
}

struct export *export_next(const struct export *export)
{
    return TAILQ_NEXT(export, link);
}

static struct export *find(const struct export_set *set, const char *id)
{
    struct export *export;

    TAILQ_FOREACH(export, &set->exports, link)
    {
        if (strcmp(export->id, id) == 0)
            return export;
    }
    return NULL;
}

const char *export_set_find_mount(const struct export_set *set, uint64_t device)
{
    const struct export *export;

    TAILQ_FOREACH(export, &set->exports, link)
    {
        if (device != 0 && export->type->device != NULL && export->type->device(export) == device)
            return export->id;
    }
    return NULL;
}

/* ---- Waiting for the end ---- */

static bool any_left(const struct export_set *set, enum block_export_type type)
{
    struct export *export;

    TAILQ_FOREACH(export, &set->exports, link)
    {
        if (type == EXPORT_TYPE_ANY || export->type->id == type)
            return true;
    }
    return false;
}

static void run_waiters(struct export_set *set)
{
    struct waiter *waiter = TAILQ_FIRST(&set->waiters);

    while (waiter != NULL) {
        struct waiter *next = TAILQ_NEXT(waiter, link);
        struct waiter due = *waiter;

        if (!any_left(set, waiter->type)) {
            TAILQ_REMOVE(&set->waiters, waiter, link);
            if (waiter != &set->shutdown_waiter)
                free(waiter);
            due.done(due.opaque);
        }
        waiter = next;
    }
}

void export_set_remove_all(struct export_set *set, enum block_export_type type, void (*done)(void *opaque),
                           void *opaque)
{
    struct waiter *waiter = type == EXPORT_TYPE_ANY ? &set->shutdown_waiter : calloc(1, sizeof(*waiter));
    struct export *export;

    TAILQ_FOREACH(export, &set->exports, link)
    {
        if (type == EXPORT_TYPE_ANY || export->type->id == type)
            export_drain(export);
    }
    if (waiter == NULL) { /* they go all the same, only nobody waits */
        done(opaque);
        return;
    }
    *waiter = (struct waiter){ .type = type, .done = done, .opaque = opaque };
    TAILQ_INSERT_TAIL(&set->waiters, waiter, link);
    run_waiters(set);
}

/* ---- The end of one export ---- */

static void send_worker_gone(struct monitor *monitor, const struct worker_end *end, const char *export_id)
{
    const struct worker_exit *why = &end->why;
    const struct worker_gone data = {
        .role = end->role,
        .pid = end->pid,
        .export_id = export_id,
        .reason = why->text,
        .has_signal = why->signal != 0,
        .signal = why->signal,
        .has_exit_status = why->exit_status >= 0,
        .exit_status = why->exit_status,
        .system_call = why->blocked_call[0] != '\0' ? why->blocked_call : NULL,
    };

    qmp_send_event(monitor, "__org.bulkhead_WORKER_GONE", &schema_worker_gone, &data);
}

void export_send_worker_gone(struct monitor *monitor, struct worker_handle *worker, const char *export_id,
                             const struct worker_exit *why)
{
    const struct worker_end end = { worker_get_role_name(worker), worker_get_pid(worker), *why };

    send_worker_gone(monitor, &end, export_id);
}

static void close_once(struct export *export)
{
    if (export->closed)
        return;
    export->closed = true;
    if (export->type->close != NULL)
        export->type->close(export);
}

static void answer(struct qmp_reply **reply, const struct error *err)
{
    struct qmp_reply *owed = TAKE_PTR(*reply);

    if (owed == NULL)
        return;
    if (err != NULL)
        qmp_reply_error(owed, err);
    else
        qmp_reply_ok(owed, NULL);
}

/* Nothing of it is left afterwards, unless its worker is lost. */
static void export_free(struct export *export)
{
    export->state = EXPORT_DRAINING; /* a last client that leaves has nothing to end any more */
    close_once(export);
    export->type->free(export);
    if (export->node != NULL && graph_node_image(export->node) != NULL)
        image_forget(graph_node_image(export->node), export);
    TAILQ_REMOVE(&export->set->exports, export, link);
    if (export->settle_timer != NULL)
        event_free(export->settle_timer);
    export->left = export->lost;
    if (export->left) {
        TAILQ_INSERT_TAIL(&export->set->left, export, link);
        return;
    }
    graph_node_unref(export->node);
    free(export);
}

static void log_death(const struct export *export, const struct worker_exit *why)
{
    log_error("export '%s': its worker, process %d, is gone: %s; its clients were disconnected, other exports are not "
              "affected",
              export->id, (int)worker_get_pid(export->worker), why->text);
}

/* An export that clients of QMP have seen ends: nothing of it is left when they hear of it. */
static void end_created(struct export *export)
{
    struct monitor *monitor = export->monitor;
    char id[IPC_EXPORT_ID_MAX];
    const struct block_export_deleted data = { id };

    memcpy(id, export->id, sizeof(id));
    export_free(export);
    qmp_send_event(monitor, "BLOCK_EXPORT_DELETED", &schema_block_export_deleted, &data);
}

/* One that never was: the client that asked for it hears why. */
static void end_uncreated(struct export *export)
{
    struct qmp_reply *add_reply = TAKE_PTR(export->add_reply);
    struct error failure = export->failure;

    if (failure.code == 0)
        error_set(&failure, -ECANCELED, "export '%s' was removed while it started", export->id);
    export_free(export);
    answer(&add_reply, &failure);
}

static bool is_closing(const struct export *export)
{
    return export->type->closing != NULL && export->type->closing(export);
}

/* The image is not in use by it any more, or never was. */
static void end_unused(void *opaque, const struct error *err)
{
    struct export *export = opaque;
    struct export_set *set = export->set;
    struct qmp_reply *del_reply = TAKE_PTR(export->del_reply);

    if (export->add_reply == NULL)
        end_created(export);
    else
        end_uncreated(export);
    answer(&del_reply, NULL);
    run_waiters(set);
}

/* Its worker is gone, and so is whatever else it had, but for the locks of its image; those stay if the worker is lost. */
static void end(struct export *export)
{
    if (export->type->release != NULL && !export->lost)
        export->type->release(export);
    if (!export->uses_image || export->lost) {
        end_unused(export, NULL);
        return;
    }
    export->uses_image = false;
    image_unuse(graph_node_image(export->node), export->writable, end_unused, export);
}

/* No client can be given to its worker any more. It ends, unless something is to end before. */
static void end_without_worker(struct export *export)
{
    export->state = EXPORT_DRAINING;
    close_once(export);
    if (!is_closing(export))
        end(export);
}

static void worker_is_dead(struct worker_handle *worker, void *opaque)
{
    struct export *export = opaque;

    export->state = EXPORT_DRAINING;
    close_once(export);
}

static void worker_is_lost_to(struct worker_handle *worker, void *opaque)
{
    struct export *export = opaque;
    const struct worker_lost data = {
        .role = worker_get_role_name(worker),
        .pid = worker_get_pid(worker),
        .export_id = export->id,
    };

    qmp_send_event(export->monitor, "__org.bulkhead_WORKER_LOST", &schema_worker_lost, &data);
    if (export->add_reply != NULL && export->failure.code == 0)
        error_set(&export->failure, -EIO, "export '%s' could not start, and its worker, process %d, cannot be ended",
                  export->id, (int)worker_get_pid(worker));
    export->lost = true;
    end_without_worker(export);
}

/* Its image is free again, and then it is said. */
static void end_left(void *opaque, const struct error *err)
{
    struct export *export = opaque;

    send_worker_gone(export->monitor, &export->last, export->id);
    TAILQ_REMOVE(&export->set->left, export, link);
    graph_node_unref(export->node);
    free(export);
}

/* What a lost worker had under way can do nothing to the image any more. */
static void lost_is_gone(struct export *export, struct worker_handle *worker, const struct worker_exit *why)
{
    struct image *image = graph_node_image(export->node);

    log_info("process %d of the former export '%s' is gone at last: %s", (int)worker_get_pid(worker), export->id,
             why->text);
    export->worker = NULL;
    export->last = (struct worker_end){ worker_get_role_name(worker), worker_get_pid(worker), *why };
    if (export->resizing)
        image_end_resize(image);
    if (export->uses_image)
        image_unuse(image, export->writable, end_left, export);
    else
        end_left(export, NULL);
}

/* All that the worker had is closed. Locks are given back from here on and not before. */
static void worker_is_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct export *export = opaque;
    bool was_created = export->add_reply == NULL;

    if (export->left) {
        lost_is_gone(export, worker, why);
        return;
    }
    if (was_created && !why->expected) {
        log_death(export, why);
        export_send_worker_gone(export->monitor, worker, export->id, why);
    } else if (!was_created && !why->expected && export->failure.code == 0) {
        error_set(&export->failure, -EIO, "export '%s' could not start, its worker is gone: %s", export->id, why->text);
    }
    export->worker = NULL;
    export->lost = false;
    end_without_worker(export);
}

void export_closed(struct export *export)
{
    if (export->worker != NULL && !export->lost)
        worker_drain(export->worker, EXPORT_DRAIN_MS);
    else
        end(export);
}

void export_drain(struct export *export)
{
    if (export->state == EXPORT_DRAINING)
        return;
    export->state = EXPORT_DRAINING;
    close_once(export);
    if (!is_closing(export))
        worker_drain(export->worker, EXPORT_DRAIN_MS);
}

void export_client_left(struct export *export)
{
    if (export->hidden && export->type->clients(export) == 0)
        export_drain(export);
}

/* Whether the trees of two nodes end in one image, whatever lies between. */
static bool share_image(const struct graph_node *a, const struct graph_node *b)
{
    const struct image *image = graph_node_image(a);

    return image != NULL && image == graph_node_image(b);
}

static void tell_resized(struct export *export)
{
    struct ipc_node_resized message = { 0 };

    if (worker_send(export->worker, IPC_NODE_RESIZED, &message, sizeof(message), NULL, 0) == 0 &&
        export->type->resized != NULL)
        export->type->resized(export);
}

void export_set_node_resized(struct export_set *set, const struct graph_node *node, const struct export *by)
{
    struct export *export;

    TAILQ_FOREACH(export, &set->exports, link)
    {
        if (export == by || export->state == EXPORT_DRAINING || !share_image(export->node, node))
            continue;
        /* One that is being made may have looked at the image before, and takes the message when it runs. */
        if (export->state == EXPORT_RUNNING)
            tell_resized(export);
        else
            export->resized_early = true;
    }
}

void export_set_free(struct export_set *set)
{
    struct export *export;
    struct waiter *waiter;

    if (set == NULL)
        return;
    while ((export = TAILQ_FIRST(&set->exports)) != NULL) {
        answer(&export->add_reply, &(struct error){ .code = -ESHUTDOWN, .text = "the program ends" });
        answer(&export->del_reply, NULL);
        export_free(export);
    }
    while ((export = TAILQ_FIRST(&set->left)) != NULL) {
        TAILQ_REMOVE(&set->left, export, link);
        if (graph_node_image(export->node) != NULL)
            image_forget(graph_node_image(export->node), export);
        graph_node_unref(export->node);
        free(export);
    }
    while ((waiter = TAILQ_FIRST(&set->waiters)) != NULL) {
        TAILQ_REMOVE(&set->waiters, waiter, link);
        if (waiter != &set->shutdown_waiter)
            free(waiter);
    }
    free(set);
}

/* ---- Its worker ---- */

static void worker_is_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct export *export = opaque;
    int r = 0;

    if (export->state != EXPORT_CREATING) /* it is on its way out */
        return;
    /* An export that may not write must not have said that it can. */
    if (!export->writable && (ready->export_flags & IPC_EXPORT_WRITABLE) != 0)
        r = error_set(&export->failure, -EPROTO, "its worker claims to be writable");
    if (r == 0 && export->type->running != NULL)
        r = export->type->running(export, &export->failure);
    if (r != EXPORT_STARTS_LATER)
        export_started(export, r < 0 ? &export->failure : NULL);
}

void export_started(struct export *export, const struct error *err)
{
    if (err != NULL) {
        export->failure = *err;
        error_prepend(&export->failure, "export '%s'", export->id);
        export->state = EXPORT_DRAINING;
        close_once(export);
        worker_kill(export->worker, "it could not be put into service");
        return;
    }
    export->state = EXPORT_RUNNING;
    log_debug("export '%s' is served by process %d", export->id, (int)worker_get_pid(export->worker));
    if (export->resized_early)
        tell_resized(export);
    answer(&export->add_reply, NULL);
}

static void worker_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    struct export *export = opaque;

    export->failure = *err;
    error_prepend(&export->failure, "export '%s' could not start", export->id);
}

static void log_io_error(const struct export *export, const struct ipc_status_io_error *io_error)
{
    static const char *const names[WORKER_PAGE_OPS] = { "read",         "write",    "flush", "discard",
                                                        "write-zeroes", "prefetch", "status" };
    char more[64] = "";

    if (io_error->suppressed > 0)
        snprintf(more, sizeof(more), " (and %llu more like it)", (unsigned long long)io_error->suppressed);
    log_warning("export '%s': %s of %llu bytes at %llu failed: %s%s", export->id,
                io_error->op < WORKER_PAGE_OPS ? names[io_error->op] : "request",
                (unsigned long long)io_error->len_bytes, (unsigned long long)io_error->offset,
                strerror(-io_error->code), more);
}

static int worker_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct export *export = opaque;

    if (status->type == IPC_STATUS_IO_ERROR) {
        if (worker_may_log(worker)) /* it limits them itself, as long as it is what we think it is */
            log_io_error(export, &status->io_error);
        return 0;
    }
    return export->type->status != NULL ? export->type->status(export, status) : -EPROTO;
}

static const struct worker_ops export_worker_ops = {
    .ready = worker_is_ready,
    .failed = worker_failed,
    .status = worker_status,
    .dead = worker_is_dead,
    .lost = worker_is_lost_to,
    .gone = worker_is_gone,
};

/* Reading, modifying and writing a block is one step within a worker, and not between two. */
static void warn_of_partial_writes(const struct export *export)
{
    const struct image *image = graph_node_image(export->node);

    if (export->writable && image != NULL && image->direct && image->writers > 1)
        log_warning("export '%s': '%s' has another writable export, and cache.direct: writes to parts of one block by "
                    "both can undo each other",
                    export->id, image->filename);
}

/* The worker has its image, and the image is locked. */
static void image_served(void *opaque, const struct error *err)
{
    struct export *export = opaque;

    if (err == NULL) {
        export->uses_image = true;
        warn_of_partial_writes(export);
        return;
    }
    export->failure = *err;
    export->state = EXPORT_DRAINING;
    close_once(export);
    if (export->worker != NULL)
        worker_kill(export->worker, "it could not have its image");
}

/* The opener gives it its image, and with it its BOOT. */
static int spawn_with_image(struct export *export, struct image *image, const struct ipc_boot *boot, struct error *err)
{
    struct worker_boot complete;
    int r = worker_spawn_unbooted(export->monitor->workers, boot, &export_worker_ops, export, &complete,
                                  &export->worker, err);

    if (r < 0)
        return r;
    r = image_serve(image, export->writable, &complete.message, complete.control_fd, complete.page_fd, image_served,
                    export, err);
    close_fd(&complete.page_fd);
    if (r < 0) /* it ends like one that could not start */
        image_served(export, err);
    return 0;
}

static int start_worker(struct export *export, struct error *err)
{
    struct image *image = graph_node_image(export->node);
    struct ipc_boot boot = {
        .role = export->type->ipc_role,
        .io_threads = export->io_threads,
        .poll_max_ns = export->poll_max_ns,
        .export_flags =
            (export->writable ? IPC_EXPORT_WRITABLE : 0) | (export->writethrough ? IPC_EXPORT_WRITETHROUGH : 0),
    };

    memcpy(boot.export_id, export->id, sizeof(boot.export_id));
    graph_node_describe(export->node, export->writable, &boot);
    if (image != NULL)
        return spawn_with_image(export, image, &boot, err);
    return worker_spawn(export->monitor->workers, &boot, NULL, &export_worker_ops, export, &export->worker, err);
}

/* ---- Commands ---- */

int export_set_check_lost(const struct export_set *set, const struct graph_node *node, struct error *err)
{
    const struct export *export;

    TAILQ_FOREACH (export, &set->left, link) {
        if (export->writable && export->worker != NULL && share_image(export->node, node))
            return error_set(err, -EBUSY,
                             "node '%s': process %d, which served the former export '%s', could not be ended, and what "
                             "it was writing may still reach the image; the event __org.bulkhead_WORKER_GONE tells "
                             "when it is over",
                             node->name, (int)worker_get_pid(export->worker), export->id);
    }
    return 0;
}

static int use_node(struct export *export, const char *node_name, struct error *err)
{
    struct graph_node *node = NULL;
    int r = graph_look_up(export->monitor->graph, node_name, &node, err);

    if (r == 0)
        r = graph_node_check_use(node, export->writable, err);
    if (r == 0 && export->writable)
        r = export_set_check_lost(export->set, node, err);
    if (r == 0)
        export->node = graph_node_ref(node);
    return r;
}

static int check_add(const struct export_set *set, const struct block_export_options *options, struct error *err)
{
    int r = block_export_options_check(options, err);

    if (r == 0)
        r = monitor_check_running(set->monitor, err);
    if (r == 0 && find(set, options->id) != NULL)
        r = error_set(err, -EEXIST, "Block export id '%s' is already in use", options->id);
    if (r == 0 && export_type_find(options->type) == NULL)
        r = error_set(err, -EINVAL, "exports of type '%s' are not part of this build",
                      schema_enum_name(&schema_block_export_type, options->type));
    return r;
}

static int export_new(struct export_set *set, const struct block_export_options *options,
                      enum socket_fd_source fd_source, struct export **ret_export, struct error *err)
{
    struct export *export;
    int r = check_add(set, options, err);

    if (r < 0)
        return r;
    export = calloc(1, sizeof(*export));
    if (export == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    export->set = set;
    export->monitor = set->monitor;
    export->type = export_type_find(options->type);
    export->writable = options->writable;
    export->writethrough = options->writethrough;
    export->fd_source = fd_source;
    export->io_threads = set->io_threads;
    snprintf(export->id, sizeof(export->id), "%s", options->id);
    r = export->type->prepare(export, options, err);
    if (r < 0) {
        free(export);
        return r;
    }
    TAILQ_INSERT_HEAD(&set->exports, export, link);
    *ret_export = export;
    return 0;
}

void export_add(struct export_set *set, const struct block_export_options *options, enum socket_fd_source fd_source,
                struct qmp_reply *reply)
{
    struct export *export = NULL;
    struct error err = { 0 };
    int r = export_new(set, options, fd_source, &export, &err);

    if (r == 0)
        r = use_node(export, options->node_name, &err);
    if (r == 0)
        r = start_worker(export, &err);
    if (r < 0) {
        if (export != NULL)
            export_free(export);
        qmp_reply_error(reply, &err);
        return;
    }
    export->add_reply = reply;
}

static int check_del(const struct export *export, const char *id, enum block_export_remove_mode mode, struct error *err)
{
    if (export == NULL)
        return error_set(err, -ENOENT, "Export '%.100s' is not found", id);
    if (export->state == EXPORT_DRAINING || (export->del_reply != NULL && mode != BLOCK_EXPORT_REMOVE_HARD))
        return error_set(err, -EBUSY, "Export '%s' is already shutting down", id);
    if ((mode == BLOCK_EXPORT_REMOVE_HIDE || mode == BLOCK_EXPORT_REMOVE_SOFT) && export->type->hide == NULL)
        return error_set(err, -ENOTSUP, "export '%s' is of a type that knows no mode but 'safe' and 'hard'", id);
    return 0;
}

/* New clients do not find it any more; it ends with the last one that is there, or now. */
static void hide(struct export *export)
{
    close_once(export);
    if (export->type->clients(export) == 0) {
        export_drain(export);
        return;
    }
    export->hidden = true;
    export->type->hide(export, export->del_mode == BLOCK_EXPORT_REMOVE_SOFT);
    answer(&export->del_reply, NULL);
}

static void remove_unless_used(struct export *export)
{
    struct qmp_reply *reply = TAKE_PTR(export->del_reply);
    struct error err = { 0 };

    if (export->type->clients(export) > 0) {
        error_set(&err, -EBUSY, "export '%s' still in use, clients are connected: %u (mode 'hard' drops them)",
                  export->id, export->type->clients(export));
        qmp_reply_error(reply, &err);
    } else {
        export->del_reply = reply;
        export_drain(export);
    }
}

/*
 * A client that has been told that it is in may not have been heard of yet, and counts as one that is in. mode=safe is
 * decided by the first; hide and soft wait for all, since those that are not in when it ends are turned away.
 */
static bool is_settled(const struct export *export)
{
    if (export->del_mode == BLOCK_EXPORT_REMOVE_SAFE && export->type->clients(export) > 0)
        return export->recounted || now_ns() >= export->recount_until_ns;
    return export->type->unsettled == NULL || !export->type->unsettled(export) || now_ns() >= export->settle_until_ns;
}

static void settle(struct export *export)
{
    const struct timeval tick = { .tv_usec = 2000 };

    /* Somebody else was faster, and the reply comes with its end; or it has been answered. */
    if (export->state == EXPORT_DRAINING || export->del_reply == NULL)
        return;
    if (!is_settled(export) && export->settle_timer != NULL && evtimer_add(export->settle_timer, &tick) == 0)
        return;
    if (export->del_mode == BLOCK_EXPORT_REMOVE_SAFE)
        remove_unless_used(export);
    else
        hide(export);
}

static void settle_again(evutil_socket_t fd, short what, void *arg)
{
    settle(arg);
}

static void start_to_settle(struct export *export, enum block_export_remove_mode mode)
{
    export->del_mode = mode;
    if (export->settle_timer == NULL)
        export->settle_timer = evtimer_new(export->monitor->base, settle_again, export);
    export->settle_until_ns = now_ns() + EXPORT_SETTLE_MS * UINT64_C(1000000);
    export->recount_until_ns = now_ns() + EXPORT_RECOUNT_MS * UINT64_C(1000000);
    export->recounted = false;
    if (mode == BLOCK_EXPORT_REMOVE_SAFE && export->type->recount != NULL && export->type->clients(export) > 0)
        export->type->recount(export);
    settle(export);
}

void export_recounted(struct export *export)
{
    export->recounted = true;
    settle(export);
}

void export_keep(struct export *export, const struct error *err)
{
    answer(&export->del_reply, err);
}

static void try_to_remove(struct export *export)
{
    struct error err = { 0 };

    if (export->type->remove_safely(export, &err) < 0)
        export_keep(export, &err);
}

void export_del(struct export_set *set, const char *id, enum block_export_remove_mode mode, struct qmp_reply *reply)
{
    struct export *export = find(set, id);
    struct error err = { 0 };

    if (check_del(export, id, mode, &err) < 0) {
        qmp_reply_error(reply, &err);
        return;
    }
    if (export->del_reply != NULL || (mode == BLOCK_EXPORT_REMOVE_HARD && export->type->clients(export) > 0)) {
        export_drain(export);
        qmp_reply_ok(reply, NULL);
        return;
    }
    export->del_reply = reply;
    if (mode == BLOCK_EXPORT_REMOVE_SAFE && export->type->remove_safely != NULL)
        try_to_remove(export);
    else if (mode != BLOCK_EXPORT_REMOVE_HARD)
        start_to_settle(export, mode);
    else
        export_drain(export);
}
