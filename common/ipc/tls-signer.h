/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a TLS negotiator may ask of a signer: one SOCK_SEQPACKET datagram each way, of fixed size. A negotiator parses
 * what the network sends, so whatever it asks is hostile; a signer holds keys, and answers with a signature that is good
 * for one thing, or the key of one user.
 */
#ifndef BULKHEAD_IPC_TLS_SIGNER_H
#define BULKHEAD_IPC_TLS_SIGNER_H

#include <stdint.h>

#define TLS_SIGNER_MAGIC 0x73676e72u

/*
 * The longest that is signed without a hash: RFC 8446, section 4.4.3: 64 spaces, a context string, 0, a transcript hash of at most 64
 * bytes; RFC 8422, section 5.4: two randoms, curve, point.
 */
#define TLS_SIGNER_INPUT_MAX  256
#define TLS_SIGNER_OUTPUT_MAX 2048 /* RSA of 16384 bits */
#define TLS_SIGNER_ASKS_MAX   2    /* of one negotiator: a handshake asks once */

enum tls_signer_op {
    TLS_SIGNER_HASH = 1, /* algorithm with a hash, and the hash: RSA, RSA-PSS, ECDSA */
    TLS_SIGNER_DATA,     /* algorithm without, and what the handshake signs: Ed25519, Ed448 */
    TLS_SIGNER_PSK,      /* the name of a user */
};

struct tls_signer_request {
    uint32_t magic;
    uint32_t op;        /* enum tls_signer_op */
    uint32_t algorithm; /* HASH, DATA: gnutls_sign_algorithm_t; else 0 */
    uint32_t len_bytes; /* of data; the rest is 0 */
    uint8_t data[TLS_SIGNER_INPUT_MAX];
};

struct tls_signer_reply {
    uint32_t magic;
    int32_t code; /* 0; -ENOENT: no such user; -EPERM: refused; -EIO: signing failed */
    uint32_t len_bytes;
    uint8_t data[TLS_SIGNER_OUTPUT_MAX]; /* signature or key; the rest is 0 */
};

#endif
