/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a signer holds and answers. Requests come from processes that parse what the network sends: each is checked
 * against what a handshake needs before the key is touched.
 */
#ifndef BULKHEAD_NBD_WORKER_SIGNER_SIGNER_H
#define BULKHEAD_NBD_WORKER_SIGNER_SIGNER_H

#include <gnutls/abstract.h>

#include "common/ipc/tls-signer.h"
#include "nbd-worker/tls/credentials.h"

#define PSK_USERS_MAX 4096
#define PSK_NAME_MAX  128 /* bytes */
#define PSK_KEY_MAX   64

struct psk_user {
    char name[PSK_NAME_MAX + 1];
    uint8_t key[PSK_KEY_MAX];
    size_t key_len_bytes;
};

struct signer_keys {
    gnutls_privkey_t key; /* x509, else NULL */
    struct psk_user *users; /* psk, else NULL */
    size_t user_count;
};

/*
 * Check the credentials and load the keys (NULL without). The password is not NUL-terminated; NULL: none. 0, or -EINVAL
 * with what is wrong with which file.
 */
int signer_load(const struct tls_view *view, const char *keys, size_t keys_len_bytes, const char *password,
                struct signer_keys *ret_keys, struct error *err);
void signer_keys_done(struct signer_keys *keys);

/* Parse keys.psk: lines "user:hexadecimal key". 0 or -EINVAL. */
int signer_parse_psk(const char *text, size_t len_bytes, struct signer_keys *keys, struct error *err);

/* Whether a request is one that a handshake makes. Pure. 0 or -EPROTO, -EPERM. */
int signer_check(const struct tls_signer_request *request, struct error *err);

/* Answer a request that has been checked. */
void signer_answer(const struct signer_keys *keys, const struct tls_signer_request *request,
                   struct tls_signer_reply *ret_reply);

/* ---- Certificates (sanity.c) ---- */

/* The certificates of a server as a client would see them. 0 or -EINVAL. */
int signer_check_certificates(const struct tls_view *view, gnutls_privkey_t key, struct error *err);

#endif
