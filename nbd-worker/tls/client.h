/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One client of a server that requires TLS, from its first byte to its last: the part in clear up to STARTTLS, the TLS
 * handshake, the wait for the monitor's permit, option haggling through TLS, the wait for the export's worker, and the
 * relay between the two.
 */
#ifndef BULKHEAD_NBD_WORKER_TLS_CLIENT_H
#define BULKHEAD_NBD_WORKER_TLS_CLIENT_H

#include "common/io/loop.h"
#include "nbd-worker/negotiate/handshake.h"
#include "nbd-worker/tls/channel.h"
#include "nbd-worker/tls/peer.h"
#include "nbd-worker/tls/relay.h"

enum tls_phase {
    TLS_PHASE_CLEAR,
    TLS_PHASE_HANDSHAKE,
    TLS_PHASE_PERMIT, /* the monitor has been told who it is */
    TLS_PHASE_HAGGLE,
    TLS_PHASE_HANDOFF, /* the monitor has been told what was negotiated */
    TLS_PHASE_RELAY,
    TLS_PHASE_OVER,
};

struct tls_client {
    struct io_loop *loop;
    enum tls_phase phase;
    struct io_watch watch;        /* the client's socket */
    struct io_watch worker_watch; /* the stream to the export's worker; fd -1: none yet */
    struct io_timer timer;
    struct io_timer hold; /* of the relay */
    struct io_task task; /* the relay goes on */
    bool task_posted;
    uint64_t client_id;
    struct nbd_directory_view directory;
    struct tls_peer peer;
    struct tls_channel channel;
    struct relay relay;
    /* From the loop: a record for the monitor. */
    void (*report)(struct tls_client *client, const struct ipc_status *status);
    /* Once, from the loop: there is nothing left to do. Both sockets are closed. */
    void (*over)(struct tls_client *client);
    struct handshake handshake;
};

/*
 * Start with a non-blocking socket. Takes over fds[0] (client) and fds[3] (signer) and, on success, directory. max_ms:
 * how long it may take until it is handed off; 0: no limit. 0 or -errno; then tls_client_stop() is to be called, too.
 */
int tls_client_start(struct tls_client *client, struct io_loop *loop, int *fds, const struct tls_view *view,
                     struct nbd_directory_view *directory, uint64_t client_id, uint32_t max_ms, struct error *err);

/* The monitor lets it in. -EPROTO: nobody asked. */
int tls_client_permit(struct tls_client *client, uint64_t client_id);

/* The monitor handed it off: takes fd over. -EPROTO: nobody asked. */
int tls_client_relay(struct tls_client *client, uint64_t client_id, int *fd);

/* Before the relay: give it up. While it relays: the export's worker has ended or is about to, and the relay ends of itself. */
void tls_client_drain(struct tls_client *client);

void tls_client_stop(struct tls_client *client);

#endif
