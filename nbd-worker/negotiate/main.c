/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-nbd-negotiate: takes one NBD client through its handshake, reports how it ended, and exits. It holds that
 * client's socket and the export directory; it must never hold an image or a second client.
 */
#include <errno.h>
#include <string.h>

#include "common/base/log.h"
#include "common/worker/worker.h"
#include "nbd-worker/negotiate/session.h"

struct negotiator {
    struct worker *worker;
    struct session session;
    bool used;
};

static int negotiator_setup(struct worker *worker, struct error *err)
{
    struct negotiator *negotiator = calloc(1, sizeof(*negotiator));

    if (negotiator == NULL)
        return error_set(err, -ENOMEM, "no memory for the handshake");
    negotiator->worker = worker;
    negotiator->session.watch.fd = -1;
    worker->role_state = negotiator;
    return 0;
}

static void negotiator_over(struct session *session, const struct ipc_status *status)
{
    struct negotiator *negotiator = container_of(session, struct negotiator, session);

    worker_report(negotiator->worker, status);
    worker_exit(negotiator->worker);
}

static int negotiator_negotiate(struct worker *worker, const void *message, int *fds)
{
    struct negotiator *negotiator = worker->role_state;
    const struct ipc_negotiate *negotiate = message;
    struct nbd_directory_view directory = { 0 };
    struct error err = { 0 };
    int rc;

    if (negotiator->used) {
        log_error("a second client was given to one negotiator");
        return -EPROTO;
    }
    negotiator->used = true;
    rc = nbd_directory_map(fds[1], &directory, &err);
    if (rc < 0) {
        log_error("%s", err.text);
        return rc;
    }
    rc = session_start(&negotiator->session, worker->control_loop, &fds[0], &directory, negotiate->client_id,
                       negotiate->handshake_max_ms, negotiator_over);
    if (rc < 0) {
        log_error("the client's socket cannot be watched: %s", strerror(-rc));
    } else {
        atomic_store(&worker->page->fds_clients, 1);
        atomic_store(&worker->page->clients, 1);
        worker_page_add(&worker->page->clients_total, 1);
    }
    nbd_directory_unmap(&directory);
    return rc;
}

static void negotiator_drain(struct worker *worker)
{
    struct negotiator *negotiator = worker->role_state;

    session_stop(&negotiator->session);
    worker_exit(worker);
}

static const struct worker_message messages[] = {
    { .type = IPC_NEGOTIATE, .handle = negotiator_negotiate },
};

int main(int argc, char **argv)
{
    static const struct worker_class negotiator_class = {
        .ipc_role = IPC_ROLE_NBD_NEGOTIATOR,
        .setup = negotiator_setup,
        .drain = negotiator_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &negotiator_class);
}
