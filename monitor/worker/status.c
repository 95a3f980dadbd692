/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Records of a worker, each checked against the catalogue before anybody sees it. Every byte is hostile; a record that
 * breaks a rule is the last one that is read, and kills the sender.
 */
#include "common/ipc/status.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/worker/worker-private.h"

#define LOG_LINES_PER_WINDOW 50
#define LOG_WINDOW_NS        UINT64_C(10000000000)

void status_tell_failed(struct worker_handle *worker, const struct error *err)
{
    if (worker->failed_told || worker->is_ready)
        return;
    worker->failed_told = true;
    worker->ops->failed(worker, err, worker->opaque);
}

/* ---- One handler per type; -errno: a protocol error ---- */

static int handle_ready(struct worker_handle *worker, struct ipc_status *status)
{
    uint32_t missing = worker->role->required & ~status->ready.layers;

#ifdef WITH_DEVELOPER_AIDS
    missing = 0;
#endif
    if (missing != 0 || worker->failed_told)
        return -EPERM;
    worker->ready = status->ready;
    worker->is_ready = true;
    if (worker->state != WORKER_CREATING) /* asked to go meanwhile: nobody waits for it */
        return 0;
    worker->state = WORKER_RUNNING;
    if (!worker->hung_up)
        event_del(worker->timer);
    worker->ops->ready(worker, &worker->ready, worker->opaque);
    return 0;
}

static int handle_failed(struct worker_handle *worker, struct ipc_status *status)
{
    struct error err;

    if (worker->is_ready)
        return -EPROTO;
    ipc_text_sanitize(status->failed.text);
    error_set(&err, status->failed.code, "%s", status->failed.text);
    status_tell_failed(worker, &err);
    return 0;
}

/* A worker may not fill the disk with its log, nor with what its owner logs of it. */
bool worker_may_log(struct worker_handle *worker)
{
    uint64_t now = now_ns();

    if (now - worker->log_window_ns >= LOG_WINDOW_NS) {
        if (worker->log_suppressed > 0)
            log_warning("worker %s %d: %u log lines suppressed", worker->role->name, (int)worker->pid,
                        worker->log_suppressed);
        worker->log_window_ns = now;
        worker->log_lines = 0;
        worker->log_suppressed = 0;
    }
    if (worker->log_lines >= LOG_LINES_PER_WINDOW) {
        worker->log_suppressed++;
        return false;
    }
    worker->log_lines++;
    return true;
}

static int handle_log(struct worker_handle *worker, struct ipc_status *status)
{
    if (!worker_may_log(worker))
        return 0;
    ipc_text_sanitize(status->log.text);
    log_message((enum log_level)status->log.level, "worker %s %d%s%s: %s", worker->role->name, (int)worker->pid,
                worker->export_id[0] != '\0' ? " of " : "", worker->export_id, status->log.text);
    return 0;
}

/* The process dies next, of itself; this only keeps what it died of. */
static int handle_blocked(struct worker_handle *worker, struct ipc_status *status)
{
    if (status->blocked.nr < 0)
        return -EPROTO;
    worker->blocked_nr = status->blocked.nr;
    worker->blocked_arch = status->blocked.arch;
    return 0;
}

static int handle_client_gone(struct worker_handle *worker, struct ipc_status *status)
{
    ipc_text_sanitize(status->client_gone.text);
    return worker->ops->status(worker, status, worker->opaque);
}

static int handle_by_owner(struct worker_handle *worker, struct ipc_status *status)
{
    return worker->ops->status(worker, status, worker->opaque);
}

static int handle_signer_loaded(struct worker_handle *worker, struct ipc_status *status)
{
    ipc_text_sanitize(status->signer_loaded.text);
    return worker->ops->status(worker, status, worker->opaque);
}

/* The identity stays as it is, since it is compared: whoever logs it makes it printable first. */
static int handle_resolved(struct worker_handle *worker, struct ipc_status *status)
{
    ipc_text_sanitize(status->resolved.text);
    return worker->ops->status(worker, status, worker->opaque);
}

static int handle_tls_peer(struct worker_handle *worker, struct ipc_status *status)
{
    ipc_text_sanitize(status->tls_peer.session);
    return worker->ops->status(worker, status, worker->opaque);
}

static const struct {
    enum ipc_status_type type;
    int (*handle)(struct worker_handle *worker, struct ipc_status *status);
} handlers[] = {
    { IPC_STATUS_READY, handle_ready },
    { IPC_STATUS_FAILED, handle_failed },
    { IPC_STATUS_LOG, handle_log },
    { IPC_STATUS_BLOCKED, handle_blocked },
    { IPC_STATUS_NEGOTIATED, handle_by_owner },
    { IPC_STATUS_CLIENT_GONE, handle_client_gone },
    { IPC_STATUS_IO_ERROR, handle_by_owner },
    { IPC_STATUS_FUSE_SERVING, handle_by_owner },
    { IPC_STATUS_FUSE_RESIZE, handle_by_owner },
    { IPC_STATUS_FUSE_RESIZED, handle_by_owner },
    { IPC_STATUS_FUSE_GONE, handle_by_owner },
    { IPC_STATUS_TLS_PEER, handle_tls_peer },
    { IPC_STATUS_SIGNER_LOADED, handle_signer_loaded },
    { IPC_STATUS_RESOLVED, handle_resolved },
    { IPC_STATUS_NBD_PROBED, handle_by_owner },
    { IPC_STATUS_CLIENT_LEFT, handle_by_owner },
};

/* ---- The walk ---- */

static int dispatch(struct worker_handle *worker, struct ipc_status *status, struct error *err)
{
    int r = ipc_status_check(status, worker->state, worker->role->ipc_role, &worker->seen_types, err);

    for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(handlers); i++) {
        if ((uint32_t)handlers[i].type != status->type)
            continue;
        r = handlers[i].handle(worker, status);
        if (r < 0)
            return error_set(err, r, "status record %s was not accepted: %s", ipc_status_rule_find(status->type)->name,
                             strerror(-r));
        return 0;
    }
    return r;
}

bool status_run(struct worker_handle *worker, unsigned max)
{
    struct ipc_status status;
    struct error err = { 0 };

    for (unsigned i = 0; i < max; i++) {
        int r = status_read(worker->status_fd, &status, &err);

        if (r == -EAGAIN)
            return true;
        if (r == 0)
            return false;
        if (worker->killed || worker->dying) /* not listened to any more; only the end of the pipe means something */
            continue;
        if (r > 0)
            r = dispatch(worker, &status, &err);
        if (r < 0)
            supervise_kill(worker, false, "it broke the protocol: %s", err.text);
    }
    return true;
}
