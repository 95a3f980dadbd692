/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See peer.h. The operator's certificates are parsed before a byte of the client has been read; the client's own
 * certificate is parsed by GnuTLS in this process, which holds no key, no image and one client.
 */
#include "nbd-worker/tls/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <gnutls/crypto.h>
#include <gnutls/x509.h>

#include "common/ipc/tls-signer.h"

#define CHAIN_MAX 16 /* certificates of server-cert.pem */

static void give_reason(struct tls_peer *peer, const char *text, const char *detail)
{
    snprintf(peer->reason, sizeof(peer->reason), "%s%s", text, detail);
}

/* ---- The signer ---- */

/* 0 with a reply that fits the protocol, or -EIO. */
static int ask(struct tls_peer *peer, struct tls_signer_request *request, const void *data, size_t len_bytes,
               struct tls_signer_reply *reply)
{
    ssize_t n;

    if (len_bytes > sizeof(request->data))
        return -EIO;
    request->magic = TLS_SIGNER_MAGIC;
    request->len_bytes = (uint32_t)len_bytes;
    memcpy(request->data, data, len_bytes);
    n = send(peer->signer_fd, request, sizeof(*request), MSG_NOSIGNAL);
    if (n == (ssize_t)sizeof(*request))
        n = recv(peer->signer_fd, reply, sizeof(*reply), MSG_TRUNC);
    if (n != (ssize_t)sizeof(*reply) || reply->magic != TLS_SIGNER_MAGIC || reply->len_bytes > sizeof(reply->data)) {
        give_reason(peer, "the signer did not answer", "");
        return -EIO;
    }
    return 0;
}

static int sign(void *userdata, uint32_t op, gnutls_sign_algorithm_t algorithm, const gnutls_datum_t *data,
                gnutls_datum_t *signature)
{
    struct tls_signer_request request = { .op = op, .algorithm = (uint32_t)algorithm };
    struct tls_peer *peer = userdata;
    struct tls_signer_reply reply;

    if (ask(peer, &request, data->data, data->size, &reply) < 0)
        return GNUTLS_E_PK_SIGN_FAILED;
    if (reply.code != 0 || reply.len_bytes == 0) {
        give_reason(peer, "the signer refused to sign: ", strerror(-reply.code));
        return GNUTLS_E_PK_SIGN_FAILED;
    }
    signature->data = gnutls_malloc(reply.len_bytes);
    if (signature->data == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    memcpy(signature->data, reply.data, reply.len_bytes);
    signature->size = reply.len_bytes;
    return 0;
}

/*
 * With PKCS 1 signatures, which TLS 1.2 may use, GnuTLS wraps the hash itself (a DigestInfo, RFC 8017, section 9.2) and asks
 * for a raw signature. A signer makes none: it gets the hash and its name, and wraps it again.
 */
static int sign_digest_info(struct tls_peer *peer, const gnutls_datum_t *info, gnutls_datum_t *signature)
{
    uint8_t hash[64];
    unsigned hash_bytes = sizeof(hash);
    gnutls_digest_algorithm_t digest;
    int r = gnutls_decode_ber_digest_info(info, &digest, hash, &hash_bytes);

    if (r < 0)
        return r;
    return sign(peer, TLS_SIGNER_HASH, gnutls_pk_to_sign(GNUTLS_PK_RSA, digest),
                &(gnutls_datum_t){ .data = hash, .size = hash_bytes }, signature);
}

static int sign_hash(gnutls_privkey_t key, gnutls_sign_algorithm_t algorithm, void *userdata, unsigned flags,
                     const gnutls_datum_t *hash, gnutls_datum_t *signature)
{
    if (algorithm == GNUTLS_SIGN_RSA_RAW)
        return sign_digest_info(userdata, hash, signature);
    return sign(userdata, TLS_SIGNER_HASH, algorithm, hash, signature);
}

static int sign_data(gnutls_privkey_t key, gnutls_sign_algorithm_t algorithm, void *userdata, unsigned flags,
                     const gnutls_datum_t *data, gnutls_datum_t *signature)
{
    return sign(userdata, TLS_SIGNER_DATA, algorithm, data, signature);
}

/* What GnuTLS wants to know of a key that it does not have: all of it is in the certificate. */
static int key_info(gnutls_privkey_t key, unsigned flags, void *userdata)
{
    const struct tls_peer *peer = userdata;

    if ((flags & GNUTLS_PRIVKEY_INFO_HAVE_SIGN_ALGO) != 0)
        return (int)gnutls_sign_supports_pk_algorithm(GNUTLS_FLAGS_TO_SIGN_ALGO(flags), peer->key_algorithm);
    if ((flags & GNUTLS_PRIVKEY_INFO_PK_ALGO) != 0)
        return (int)peer->key_algorithm;
    if ((flags & GNUTLS_PRIVKEY_INFO_PK_ALGO_BITS) != 0)
        return (int)peer->key_bits;
    return -1;
}

/* ---- Certificates ---- */

static int refuse_certificate(struct tls_peer *peer, unsigned status)
{
    gnutls_datum_t text = { 0 };

    if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0)
        give_reason(peer, "the client's certificate was refused: ", (const char *)text.data);
    else
        give_reason(peer, "the client's certificate was refused", "");
    gnutls_free(text.data);
    return GNUTLS_E_CERTIFICATE_ERROR;
}

/* Chain, times, revocation, purpose. Called within the handshake, so that the client gets an alert. */
static int verify_certificate(gnutls_session_t session)
{
    struct tls_peer *peer = gnutls_session_get_ptr(session);
    gnutls_typed_vdata_st purpose = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
                                      .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT };
    unsigned status = 0;
    int r;

    if (gnutls_certificate_type_get(session) != GNUTLS_CRT_X509) {
        give_reason(peer, "the client has a certificate that is not X.509", "");
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    r = gnutls_certificate_verify_peers(session, &purpose, 1, &status);
    if (r < 0) {
        give_reason(peer, "the client's certificate could not be checked: ", gnutls_strerror(r));
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    return status == 0 ? 0 : refuse_certificate(peer, status);
}

/* The server's chain with a key that is elsewhere. */
static int use_chain(struct tls_peer *peer, const struct tls_view *view, struct error *err)
{
    gnutls_datum_t pem = tls_view_section(view, TLS_SECTION_CERT);
    gnutls_pcert_st *chain = gnutls_calloc(CHAIN_MAX, sizeof(*chain));
    unsigned count = CHAIN_MAX;
    gnutls_privkey_t key;
    int r;

    if (chain == NULL || gnutls_privkey_init(&key) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    r = gnutls_pcert_list_import_x509_raw(chain, &count, &pem, GNUTLS_X509_FMT_PEM, 0);
    if (r < 0)
        return tls_error(err, r, "server-cert.pem");
    peer->key_algorithm = (gnutls_pk_algorithm_t)gnutls_pubkey_get_pk_algorithm(chain[0].pubkey, &peer->key_bits);
    r = gnutls_privkey_import_ext4(key, peer, sign_data, sign_hash, NULL, NULL, key_info, 0);
    /* That key and certificate belong together the signer has seen; here it would cost a signature. */
    gnutls_certificate_set_flags(peer->x509, GNUTLS_CERTIFICATE_SKIP_KEY_CERT_MATCH);
    if (r == 0)
        r = gnutls_certificate_set_key(peer->x509, NULL, 0, chain, (int)count, key);
    return r < 0 ? tls_error(err, r, "server-cert.pem") : 0;
}

static int init_x509(struct tls_peer *peer, const struct tls_view *view, struct error *err)
{
    gnutls_datum_t ca = tls_view_section(view, TLS_SECTION_CA);
    gnutls_datum_t crl = tls_view_section(view, TLS_SECTION_CRL);
    int r = gnutls_certificate_allocate_credentials(&peer->x509);

    if (r < 0)
        return tls_error(err, r, "credentials");
    r = gnutls_certificate_set_x509_trust_mem(peer->x509, &ca, GNUTLS_X509_FMT_PEM);
    if (r < 0)
        return tls_error(err, r, "ca-cert.pem");
    if (crl.size > 0 && (r = gnutls_certificate_set_x509_crl_mem(peer->x509, &crl, GNUTLS_X509_FMT_PEM)) < 0)
        return tls_error(err, r, "ca-crl.pem");
    r = use_chain(peer, view, err);
    if (r < 0)
        return r;
    if (peer->dh != NULL)
        gnutls_certificate_set_dh_params(peer->x509, peer->dh);
    if (peer->verify_peer)
        gnutls_certificate_set_verify_function(peer->x509, verify_certificate);
    gnutls_certificate_server_set_request(peer->session, peer->verify_peer ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
    r = gnutls_credentials_set(peer->session, GNUTLS_CRD_CERTIFICATE, peer->x509);
    return r < 0 ? tls_error(err, r, "credentials") : 0;
}

/* ---- Pre-shared keys ---- */

/* The key of the one user that the client claims to be; 1: let GnuTLS go on with a random key, so that nobody learns who exists. */
static int find_key(gnutls_session_t session, const gnutls_datum_t *username, gnutls_datum_t *key)
{
    struct tls_signer_request request = { .op = TLS_SIGNER_PSK };
    struct tls_peer *peer = gnutls_session_get_ptr(session);
    struct tls_signer_reply reply;

    if (username->size == 0 || username->size > sizeof(request.data) ||
        ask(peer, &request, username->data, username->size, &reply) < 0 || reply.code != 0) {
        if (peer->reason[0] == '\0')
            give_reason(peer, "the client gave the name of an unknown user", "");
        return 1;
    }
    key->data = gnutls_malloc(reply.len_bytes);
    if (key->data == NULL)
        return -1;
    memcpy(key->data, reply.data, reply.len_bytes);
    key->size = reply.len_bytes;
    explicit_bzero(&reply, sizeof(reply));
    return 0;
}

static int init_psk(struct tls_peer *peer, const struct tls_view *view, struct error *err)
{
    int r = gnutls_psk_allocate_server_credentials(&peer->psk);

    if (r < 0)
        return tls_error(err, r, "credentials");
    gnutls_psk_set_server_credentials_function2(peer->psk, find_key);
    if (peer->dh != NULL)
        gnutls_psk_set_server_dh_params(peer->psk, peer->dh);
    r = gnutls_credentials_set(peer->session, GNUTLS_CRD_PSK, peer->psk);
    return r < 0 ? tls_error(err, r, "credentials") : 0;
}

static int init_anon(struct tls_peer *peer, const struct tls_view *view, struct error *err)
{
    int r = gnutls_anon_allocate_server_credentials(&peer->anon);

    if (r < 0)
        return tls_error(err, r, "credentials");
    if (peer->dh != NULL)
        gnutls_anon_set_server_dh_params(peer->anon, peer->dh);
    else
        gnutls_anon_set_server_known_dh_params(peer->anon, GNUTLS_SEC_PARAM_MEDIUM);
    r = gnutls_credentials_set(peer->session, GNUTLS_CRD_ANON, peer->anon);
    return r < 0 ? tls_error(err, r, "credentials") : 0;
}

/* ---- The session ---- */

static int load_dh(struct tls_peer *peer, const struct tls_view *view, struct error *err)
{
    gnutls_datum_t pem = tls_view_section(view, TLS_SECTION_DH);
    int r;

    if (pem.size == 0)
        return 0;
    r = gnutls_dh_params_init(&peer->dh);
    if (r == 0)
        r = gnutls_dh_params_import_pkcs3(peer->dh, &pem, GNUTLS_X509_FMT_PEM);
    return r < 0 ? tls_error(err, r, "dh-params.pem") : 0;
}

int tls_peer_init(struct tls_peer *peer, const struct tls_view *view, int *signer_fd, struct error *err)
{
    static int (*const inits[])(struct tls_peer *, const struct tls_view *, struct error *) = {
        [TLS_KIND_X509] = init_x509,
        [TLS_KIND_PSK] = init_psk,
        [TLS_KIND_ANON] = init_anon,
    };
    int r;

    *peer = (struct tls_peer){ .signer_fd = TAKE_FD(*signer_fd), .kind = view->credentials->kind };
    peer->verify_peer = (view->credentials->flags & TLS_VERIFY_PEER) != 0;
    /* No tickets: a resumed session would outlive what its certificate and the lists say by then. */
    r = gnutls_init(&peer->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS);
    if (r < 0)
        return tls_error(err, r, "session");
    gnutls_session_set_ptr(peer->session, peer);
    r = tls_priority_make(view, &peer->priority, err);
    if (r == 0 && (r = gnutls_priority_set(peer->session, peer->priority)) < 0)
        r = tls_error(err, r, "priority");
    if (r == 0)
        r = load_dh(peer, view, err);
    if (r == 0)
        r = inits[peer->kind](peer, view, err);
    return r;
}

void tls_peer_done(struct tls_peer *peer)
{
    if (peer->session != NULL)
        gnutls_deinit(peer->session);
    if (peer->x509 != NULL)
        gnutls_certificate_free_credentials(peer->x509);
    if (peer->psk != NULL)
        gnutls_psk_free_server_credentials(peer->psk);
    if (peer->anon != NULL)
        gnutls_anon_free_server_credentials(peer->anon);
    if (peer->priority != NULL)
        gnutls_priority_deinit(peer->priority);
    if (peer->dh != NULL)
        gnutls_dh_params_deinit(peer->dh);
    close_fd(&peer->signer_fd);
    *peer = (struct tls_peer){ .signer_fd = -1 };
}

/* ---- Who it is ---- */

static int take_identity(struct ipc_status_tls_peer *ret, const void *name, size_t len_bytes, struct error *err)
{
    const unsigned char *bytes = name;

    if (len_bytes == 0 || len_bytes >= sizeof(ret->identity))
        return error_set(err, -EPROTO, "the client's name has %zu bytes, expected 1 to %zu", len_bytes,
                         sizeof(ret->identity) - 1);
    for (size_t i = 0; i < len_bytes; i++)
        if (bytes[i] < 0x20 || bytes[i] == 0x7f)
            return error_set(err, -EPROTO, "the client's name has control characters");
    memcpy(ret->identity, name, len_bytes);
    ret->has_identity = 1;
    return 0;
}

static int identify_x509(struct tls_peer *peer, struct ipc_status_tls_peer *ret, struct error *err)
{
    unsigned count = 0;
    const gnutls_datum_t *chain;
    gnutls_x509_crt_t cert;
    char dn[IPC_TLS_IDENTITY_MAX];
    size_t len = sizeof(dn);
    int r;

    if (!peer->verify_peer)
        return 0; /* it was not asked, so whatever it says is nobody's word */
    chain = gnutls_certificate_get_peers(peer->session, &count);
    if (chain == NULL || count == 0)
        return error_set(err, -EPROTO, "the client has no certificate");
    if (gnutls_x509_crt_init(&cert) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    r = gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER);
    if (r == 0)
        r = gnutls_x509_crt_get_dn(cert, dn, &len);
    gnutls_x509_crt_deinit(cert);
    if (r == GNUTLS_E_SHORT_MEMORY_BUFFER)
        return error_set(err, -EPROTO, "the client's name has %zu bytes, at most %zu are accepted", len, sizeof(dn) - 1);
    if (r < 0)
        return error_set(err, -EPROTO, "the client's certificate: %s", gnutls_strerror(r));
    return take_identity(ret, dn, len, err);
}

static int identify_psk(struct tls_peer *peer, struct ipc_status_tls_peer *ret, struct error *err)
{
    gnutls_datum_t name = { 0 };
    int r = gnutls_psk_server_get_username2(peer->session, &name);

    if (r < 0)
        return error_set(err, -EPROTO, "the client's user name: %s", gnutls_strerror(r));
    return take_identity(ret, name.data, name.size, err);
}

static int identify_nobody(struct tls_peer *peer, struct ipc_status_tls_peer *ret, struct error *err)
{
    return 0;
}

int tls_peer_identify(struct tls_peer *peer, struct ipc_status_tls_peer *ret, struct error *err)
{
    static int (*const by_kind[])(struct tls_peer *, struct ipc_status_tls_peer *, struct error *) = {
        [TLS_KIND_X509] = identify_x509,
        [TLS_KIND_PSK] = identify_psk,
        [TLS_KIND_ANON] = identify_nobody,
    };
    char *text = gnutls_session_get_desc(peer->session);

    close_fd(&peer->signer_fd);
    snprintf(ret->session, sizeof(ret->session), "%.*s", (int)sizeof(ret->session) - 1, text != NULL ? text : "");
    gnutls_free(text);
    return by_kind[peer->kind](peer, ret, err);
}
