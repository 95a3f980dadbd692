/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type nbd: names, the clients that a worker serves, and what the worker reports of them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "common/sandbox/role.h"
#include "monitor/export/nbd-private.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"
#include "monitor/startup/limits.h"

static struct nbd_export *find_name(const struct export_set *set, const char *name)
{
    /* All exports, also those that are not listed yet or any more. */
    for (struct export *export = export_set_first(set); export != NULL; export = export_next(export)) {
        struct nbd_export *nbd = export->priv;

        if (export->type == &export_type_nbd && strcmp(nbd->name, name) == 0)
            return nbd;
    }
    return NULL;
}

static void free_nbd_export(struct nbd_export *nbd)
{
    free(nbd->name);
    free(nbd->description);
    free(nbd);
}

static int new_nbd_export(struct export *export, const char *name, const struct block_export_options_nbd *options,
                          struct error *err)
{
    struct nbd_export *nbd = calloc(1, sizeof(*nbd));

    if (nbd == NULL || (nbd->name = strdup(name)) == NULL ||
        (options->description != NULL && (nbd->description = strdup(options->description)) == NULL)) {
        if (nbd != NULL)
            free_nbd_export(nbd);
        return error_set(err, -ENOMEM, "out of memory");
    }
    nbd->export = export;
    nbd->server = export->monitor->nbd_server;
    nbd->serial = nbd->server->next_serial++;
    nbd->contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION |
                    (options->allocation_depth ? IPC_NBD_CONTEXT_ALLOCATION_DEPTH : 0);
    TAILQ_INIT(&nbd->clients.list);
    export->priv = nbd;
    return 0;
}

static int nbd_prepare(struct export *export, const struct block_export_options *options, struct error *err)
{
    struct nbd_server *server = export->monitor->nbd_server;
    const char *name = options->nbd.name != NULL ? options->nbd.name : options->node_name;

    if (server->state != NBD_SERVER_RUNNING)
        return error_set(err, -ENOTCONN, "NBD server not running (nbd-server-start or --nbd-server starts it)");
    if (find_name(export->set, name) != NULL)
        return error_set(err, -EEXIST, "NBD server already has export named '%.100s'", name);
    if (server->export_count >= NBD_DIRECTORY_EXPORTS_MAX)
        return error_set(err, -ENOSPC, "there are already %d NBD exports", NBD_DIRECTORY_EXPORTS_MAX);
    return new_nbd_export(export, name, &options->nbd, err);
}

/* A worker that is sent a descriptor and has no room for it has lost a message, and ends. */
static unsigned find_clients_max(const struct export *export)
{
    uint32_t used = worker_get_ready(export->worker)->fd_count;
    uint32_t room = MIN(limits_descriptors(), SANDBOX_EXPORT_FDS_MAX);

    return used < room ? room - used : 0;
}

static int nbd_running(struct export *export, struct error *err)
{
    struct nbd_export *nbd = export->priv;

    if (nbd->server->state != NBD_SERVER_RUNNING)
        return error_set(err, -ENOTCONN, "the NBD server has been stopped");
    nbd->clients_max = find_clients_max(export);
    nbd->size_bytes = worker_get_ready(export->worker)->size_bytes;
    TAILQ_INSERT_TAIL(&nbd->server->exports, nbd, link);
    nbd->server->export_count++;
    nbd->listed = true;
    nbd_server_directory_changed(nbd->server);
    return 0;
}

/* Clients of this export only: a worker that names another one's is told off. */
static struct nbd_client *find_client(const struct nbd_export *nbd, uint64_t id)
{
    struct nbd_client *client;

    TAILQ_FOREACH(client, &nbd->clients.list, link) {
        if (client->id == id)
            return client;
    }
    return NULL;
}

static int nbd_status(struct export *export, const struct ipc_status *status)
{
    struct nbd_client *client;

    if (status->type != IPC_STATUS_CLIENT_GONE)
        return -EPROTO;
    client = find_client(export->priv, status->client_gone.client_id);
    if (client == NULL)
        return -EPROTO;
    nbd_client_end(client, status->client_gone.error ? status->client_gone.text : NULL);
    return 0;
}

/* New clients are told the new size; the protocol has no way to tell those that are connected. */
static void nbd_resized(struct export *export)
{
    struct nbd_export *nbd = export->priv;

    nbd->size_bytes = graph_node_size(export->node);
    if (nbd->listed)
        nbd_server_directory_changed(nbd->server);
}

static unsigned nbd_clients(const struct export *export)
{
    const struct nbd_export *nbd = export->priv;

    return nbd->clients.count;
}

/* Any handshake that a negotiator leads may be over as far as the client knows. */
static bool nbd_unsettled(const struct export *export)
{
    const struct nbd_export *nbd = export->priv;

    return nbd->listed && nbd->server->handshaking.count > 0;
}

static void nbd_hide(struct export *export, bool soft)
{
    struct ipc_nbd_shut_down message = { 0 };

    /* If that fails the worker is about to die, which will be heard of. */
    if (soft)
        (void)worker_send(export->worker, IPC_NBD_SHUT_DOWN, &message, sizeof(message), NULL, 0);
}

static void nbd_close(struct export *export)
{
    struct nbd_export *nbd = export->priv;

    if (!nbd->listed)
        return;
    TAILQ_REMOVE(&nbd->server->exports, nbd, link);
    nbd->server->export_count--;
    nbd->listed = false;
    nbd_server_directory_changed(nbd->server);
}

static void nbd_free(struct export *export)
{
    struct nbd_export *nbd = export->priv;
    struct nbd_client *client;

    while ((client = TAILQ_FIRST(&nbd->clients.list)) != NULL)
        nbd_client_end(client, NULL);
    free_nbd_export(nbd);
    export->priv = NULL;
}

const struct export_type export_type_nbd = {
    .id = BLOCK_EXPORT_TYPE_NBD,
    .ipc_role = IPC_ROLE_NBD_EXPORT,
    .prepare = nbd_prepare,
    .running = nbd_running,
    .status = nbd_status,
    .resized = nbd_resized,
    .clients = nbd_clients,
    .unsettled = nbd_unsettled,
    .hide = nbd_hide,
    .close = nbd_close,
    .free = nbd_free,
};
