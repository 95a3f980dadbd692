/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-nbd-export: serves the transmission phase of one NBD export. It holds the image's descriptors and sockets of
 * clients whose handshake is over; it must never hold a listening socket, a TLS key or another export's image.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "common/worker/worker.h"
#include "nbd-worker/export/export.h"

static void tell_gone(struct nbd_export *export, uint64_t client_id, bool in_order, const char *text)
{
    struct ipc_status status = {
        .magic = IPC_MAGIC,
        .type = IPC_STATUS_CLIENT_GONE,
        .client_gone = { .client_id = client_id, .error = in_order ? 0 : 1 },
    };

    snprintf(status.client_gone.text, sizeof(status.client_gone.text), "%.*s",
             (int)sizeof(status.client_gone.text) - 1, text);
    worker_report(export->opaque, &status);
}

static void tell_left(struct nbd_export *export, uint64_t client_id)
{
    const struct ipc_status status = {
        .magic = IPC_MAGIC,
        .type = IPC_STATUS_CLIENT_LEFT,
        .client_left = { .client_id = client_id },
    };

    worker_report(export->opaque, &status);
}

static void tell_probed(struct nbd_export *export, uint64_t serial)
{
    const struct ipc_status status = {
        .magic = IPC_MAGIC,
        .type = IPC_STATUS_NBD_PROBED,
        .nbd_probed = { .serial = serial },
    };

    worker_report(export->opaque, &status);
}

static void tell_io_error(struct nbd_export *export, const struct block_request *req,
                          const struct nbd_request *request, int code)
{
    worker_report_io_error(export->opaque, req, request->offset, request->len_bytes, code);
}

static void tell_drained(struct nbd_export *export)
{
    worker_exit(export->opaque);
}

static int export_setup(struct worker *worker, struct error *err)
{
    struct nbd_export *export = calloc(1, sizeof(*export));

    if (export == NULL)
        return error_set(err, -ENOMEM, "no memory for the export");
    export->opaque = worker;
    export->page = worker->page;
    export->control_loop = worker->control_loop;
    export->read_only = (worker->boot.export_flags & IPC_EXPORT_WRITABLE) == 0;
    export->writethrough = (worker->boot.export_flags & IPC_EXPORT_WRITETHROUGH) != 0;
    export->client_gone = tell_gone;
    export->io_error = tell_io_error;
    export->drained = tell_drained;
    export->client_left = tell_left;
    export->probed = tell_probed;
    if (nbd_export_init(export, worker->boot.io_threads) < 0) {
        free(export);
        return error_set(err, -ENOMEM, "no memory for the buffers of %u I/O threads", worker->boot.io_threads);
    }
    worker->role_state = export;
    return 0;
}

static int export_start(struct worker *worker, struct error *err)
{
    struct nbd_export *export = worker->role_state;

    if (!export->read_only && worker->info.read_only)
        return error_set(err, -EROFS, "the export is writable, but its node is read-only");
    export->root = worker->root;
    export->fast_zero = worker->info.fast_zero;
    for (unsigned i = 0; i < export->thread_count; i++)
        nbd_export_set_thread(export, i, worker->io_threads[i].loop, worker->io_threads[i].queue);
    return 0;
}

static int export_client(struct worker *worker, const void *message, int *fds)
{
    struct nbd_export *export = worker->role_state;
    const struct ipc_client *client = message;
    struct error err = { 0 };
    int rc = nbd_export_add_client(export, &fds[0], &client->negotiated, &err);

    /* A record that cannot be is an error of the monitor; the others are between this worker and the client. */
    if (rc == -EINVAL) {
        log_error("%s", err.text);
        return rc;
    }
    if (rc < 0)
        tell_gone(export, client->negotiated.client_id, false, err.text);
    return 0;
}

static int export_probe(struct worker *worker, const void *message, int *fds)
{
    const struct ipc_nbd_probe *probe = message;
    int rc = nbd_export_probe(worker->role_state, probe->serial);

    if (rc < 0)
        log_error("a second probe came before the first was answered");
    return rc;
}

static int export_shut_down(struct worker *worker, const void *message, int *fds)
{
    nbd_export_shut_down(worker->role_state);
    return 0;
}

static void export_drain(struct worker *worker)
{
    nbd_export_drain(worker->role_state);
}

static const struct worker_message messages[] = {
    { .type = IPC_CLIENT, .handle = export_client },
    { .type = IPC_NBD_SHUT_DOWN, .handle = export_shut_down },
    { .type = IPC_NBD_PROBE, .handle = export_probe },
};

int main(int argc, char **argv)
{
    static const struct worker_class export_class = {
        .ipc_role = IPC_ROLE_NBD_EXPORT,
        .setup = export_setup,
        .start = export_start,
        .drain = export_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &export_class);
}
