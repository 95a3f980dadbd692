/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server's side of one TLS session: credentials without any private key, the way to the signer, and who the client
 * proved to be.
 */
#ifndef BULKHEAD_NBD_WORKER_TLS_PEER_H
#define BULKHEAD_NBD_WORKER_TLS_PEER_H

#include <gnutls/abstract.h>

#include "common/ipc/ipc-protocol.h"
#include "nbd-worker/tls/credentials.h"

struct tls_peer {
    gnutls_session_t session;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk;
    gnutls_anon_server_credentials_t anon;
    gnutls_dh_params_t dh;
    gnutls_priority_t priority;
    gnutls_pk_algorithm_t key_algorithm; /* x509 */
    unsigned key_bits;
    uint32_t kind;
    bool verify_peer;
    int signer_fd; /* blocking, with a time limit */
    char reason[256]; /* why the client or the signer made the handshake fail; "" if GnuTLS knows better */
};

/* Takes signer_fd over. 0 or -EINVAL; then too tls_peer_done() is to be called. */
int tls_peer_init(struct tls_peer *peer, const struct tls_view *view, int *signer_fd, struct error *err);
void tls_peer_done(struct tls_peer *peer);

/* After the handshake: fills in who it is and what was agreed on, and lets go of the signer. 0 or -EPROTO. */
int tls_peer_identify(struct tls_peer *peer, struct ipc_status_tls_peer *ret, struct error *err);

#endif
