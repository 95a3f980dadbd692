/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-nbd-negotiate-tls: takes one NBD client through STARTTLS and its handshake and stays as the record relay
 * between it and the export's worker. It may hold that client's socket, the session's keys, the export directory and a
 * socket to a signer; it must never hold a server's private key, an image or a second client.
 */
#include <errno.h>
#include <string.h>

#include "common/base/log.h"
#include "common/worker/worker.h"
#include "nbd-worker/tls/client.h"

struct negotiator {
    struct worker *worker;
    struct tls_client client;
    bool used;
};

static int negotiator_setup(struct worker *worker, struct error *err)
{
    struct negotiator *negotiator = calloc(1, sizeof(*negotiator));

    if (negotiator == NULL)
        return error_set(err, -ENOMEM, "no memory for the handshake");
    negotiator->worker = worker;
    worker->role_state = negotiator;
    return 0;
}

static void count_client(struct negotiator *negotiator, bool there)
{
    atomic_store(&negotiator->worker->page->fds_clients, there);
    atomic_store(&negotiator->worker->page->clients, there);
}

static void negotiator_report(struct tls_client *client, const struct ipc_status *status)
{
    worker_report(container_of(client, struct negotiator, client)->worker, status);
}

static void negotiator_over(struct tls_client *client)
{
    struct negotiator *negotiator = container_of(client, struct negotiator, client);

    count_client(negotiator, false);
    worker_exit(negotiator->worker);
}

static int start(struct negotiator *negotiator, const struct ipc_negotiate *negotiate, int *fds, struct error *err)
{
    struct nbd_directory_view directory = { 0 };
    struct tls_view view = { 0 };
    int r = nbd_directory_map(fds[1], &directory, err);

    if (r == 0)
        r = tls_view_map(fds[2], &view, err);
    negotiator->client.report = negotiator_report;
    negotiator->client.over = negotiator_over;
    if (r == 0)
        r = tls_client_start(&negotiator->client, negotiator->worker->control_loop, fds, &view, &directory,
                             negotiate->client_id, negotiate->handshake_max_ms, err);
    tls_view_unmap(&view);
    nbd_directory_unmap(&directory);
    return r;
}

static int negotiator_negotiate(struct worker *worker, const void *message, int *fds)
{
    struct negotiator *negotiator = worker->role_state;
    struct error err = { 0 };
    int r;

    if (negotiator->used) {
        log_error("a second client was given to one negotiator");
        return -EPROTO;
    }
    negotiator->used = true;
    r = start(negotiator, message, fds, &err);
    if (r < 0)
        log_error("%s", err.text);
    else
        count_client(negotiator, true);
    return r;
}

static int negotiator_permit(struct worker *worker, const void *message, int *fds)
{
    struct negotiator *negotiator = worker->role_state;
    const struct ipc_tls_permit *permit = message;

    return negotiator->used ? tls_client_permit(&negotiator->client, permit->client_id) : -EPROTO;
}

static int negotiator_relay(struct worker *worker, const void *message, int *fds)
{
    struct negotiator *negotiator = worker->role_state;
    const struct ipc_tls_relay *relay = message;

    return negotiator->used ? tls_client_relay(&negotiator->client, relay->client_id, &fds[0]) : -EPROTO;
}

static void negotiator_drain(struct worker *worker)
{
    struct negotiator *negotiator = worker->role_state;

    if (negotiator->used)
        tls_client_drain(&negotiator->client);
    else
        worker_exit(worker);
}

static const struct worker_message messages[] = {
    { .type = IPC_NEGOTIATE_TLS, .handle = negotiator_negotiate },
    { .type = IPC_TLS_PERMIT, .handle = negotiator_permit },
    { .type = IPC_TLS_RELAY, .handle = negotiator_relay },
};

int main(int argc, char **argv)
{
    static const struct worker_class negotiator_class = {
        .ipc_role = IPC_ROLE_NBD_NEGOTIATOR_TLS,
        .setup = negotiator_setup,
        .drain = negotiator_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &negotiator_class);
}
