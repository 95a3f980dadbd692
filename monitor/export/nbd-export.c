/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type nbd: names, the clients that a worker serves, and what the worker reports of them.
 */
#include <errno.h>
#include <event2/event.h>
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

/* ---- Whether its worker answers ---- */

#define ANSWER_MAX_MS 400

static void set_silent(struct nbd_export *nbd, bool silent)
{
    struct nbd_client *client;

    if (nbd->silent == silent)
        return;
    nbd->silent = silent;
    TAILQ_FOREACH (client, &nbd->clients.list, link)
        nbd_client_count(client, !silent && !client->left);
    if (silent)
        log_warning(
            "export '%s': its worker does not answer; its %u clients do not count against max-connections meanwhile",
            nbd->export->id, nbd->clients.count);
    else
        log_warning("export '%s': its worker answers again", nbd->export->id);
}

static void no_answer(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_export *nbd = arg;

    if (nbd->export->worker != NULL && worker_get_state(nbd->export->worker) == WORKER_RUNNING)
        set_silent(nbd, true);
}

void nbd_export_probe(struct nbd_export *nbd)
{
    struct ipc_nbd_probe message = { .serial = nbd->probe_serial + 1 };
    const struct timeval tv = timeval_of_ms(ANSWER_MAX_MS);

    if (nbd->silent || evtimer_pending(nbd->probe_timer, NULL)) {
        nbd->probe_again = true; /* the answer that is owed may have been on its way before what it should tell of */
        return;
    }
    nbd->probe_again = false;
    /* If that fails the worker is about to die, or to finish, which will be heard of. */
    if (worker_send(nbd->export->worker, IPC_NBD_PROBE, &message, sizeof(message), NULL, 0) < 0)
        return;
    nbd->probe_serial++;
    evtimer_add(nbd->probe_timer, &tv);
}

void nbd_exports_probe(struct nbd_server *server)
{
    struct nbd_export *nbd;

    TAILQ_FOREACH (nbd, &server->exports, link) {
        if (nbd->clients.count > 0)
            nbd_export_probe(nbd);
    }
}

static int probed(struct nbd_export *nbd, uint64_t serial)
{
    if (serial != nbd->probe_serial || (!nbd->silent && !evtimer_pending(nbd->probe_timer, NULL)))
        return -EPROTO;
    evtimer_del(nbd->probe_timer);
    nbd->unanswered = 0;
    set_silent(nbd, false);
    if (nbd->probe_again)
        nbd_export_probe(nbd);
    else if (nbd->server->tls_creds == NULL) /* with TLS a relay has to notice first, which is waited for */
        export_recounted(nbd->export);
    return 0;
}

static void nbd_recount(struct export *export)
{
    nbd_export_probe(export->priv);
}

/* ---- Life ---- */

static void free_nbd_export(struct nbd_export *nbd)
{
    if (nbd->probe_timer != NULL)
        event_free(nbd->probe_timer);
    free(nbd->name);
    free(nbd->description);
    free(nbd);
}

static int new_nbd_export(struct export *export, const char *name, const struct block_export_options_nbd *options,
                          struct error *err)
{
    struct nbd_export *nbd = calloc(1, sizeof(*nbd));

    if (nbd == NULL || (nbd->name = strdup(name)) == NULL ||
        (nbd->probe_timer = evtimer_new(export->monitor->base, no_answer, nbd)) == NULL ||
        (options->description != NULL && (nbd->description = strdup(options->description)) == NULL)) {
        if (nbd != NULL)
            free_nbd_export(nbd);
        return error_set(err, -ENOMEM, "out of memory");
    }
    nbd->export = export;
    nbd->server = export->monitor->nbd_server;
    nbd->max_connections = options->max_connections;
    nbd->serial = nbd->server->next_serial++;
    nbd->contexts =
        IPC_NBD_CONTEXT_BASE_ALLOCATION | (options->allocation_depth ? IPC_NBD_CONTEXT_ALLOCATION_DEPTH : 0);
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

    TAILQ_FOREACH (client, &nbd->clients.list, link) {
        if (client->id == id)
            return client;
    }
    return NULL;
}

static int client_gone(struct nbd_export *nbd, const struct ipc_status_client_gone *gone)
{
    struct nbd_client *client = find_client(nbd, gone->client_id);

    if (client == NULL)
        return -EPROTO;
    nbd_client_end(client, gone->error ? gone->text : NULL);
    return 0;
}

static int client_left(struct nbd_export *nbd, const struct ipc_status_client_left *left)
{
    struct nbd_client *client = find_client(nbd, left->client_id);

    if (client == NULL || client->left)
        return -EPROTO;
    client->left = true;
    nbd_client_count(client, false);
    return 0;
}

static int nbd_status(struct export *export, const struct ipc_status *status)
{
    struct nbd_export *nbd = export->priv;

    if (status->type == IPC_STATUS_CLIENT_GONE)
        return client_gone(nbd, &status->client_gone);
    if (status->type == IPC_STATUS_CLIENT_LEFT)
        return client_left(nbd, &status->client_left);
    return status->type == IPC_STATUS_NBD_PROBED ? probed(nbd, status->nbd_probed.serial) : -EPROTO;
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

    return nbd->listed && (nbd->server->handshaking.count > 0 || nbd->server->admitted.count > 0);
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
    .recount = nbd_recount,
    .hide = nbd_hide,
    .close = nbd_close,
    .free = nbd_free,
};
