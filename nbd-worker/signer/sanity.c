/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Certificates of a server, looked at when the object is made, so that a mistake is an error for the operator and not a
 * riddle for each client. With sanity-check off only what could never work is refused.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include <gnutls/x509.h>

#include "nbd-worker/signer/signer.h"

/* Certificates of one file. */
struct chain {
    const char *file;
    bool is_ca;
    gnutls_x509_crt_t *certs;
    unsigned count;
};

static void chain_done(struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++)
        gnutls_x509_crt_deinit(chain->certs[i]);
    gnutls_free(chain->certs);
}

static int chain_load(struct chain *chain, const struct tls_view *view, enum tls_section section, struct error *err)
{
    gnutls_datum_t pem = tls_view_section(view, section);
    int r = gnutls_x509_crt_list_import2(&chain->certs, &chain->count, &pem, GNUTLS_X509_FMT_PEM, 0);

    return r < 0 ? tls_error(err, r, chain->file) : 0;
}

static int crl_load(const struct tls_view *view, gnutls_x509_crl_t **ret_crls, unsigned *ret_count, struct error *err)
{
    gnutls_datum_t pem = tls_view_section(view, TLS_SECTION_CRL);
    int r;

    if (pem.size == 0)
        return 0;
    r = gnutls_x509_crl_list_import2(ret_crls, ret_count, &pem, GNUTLS_X509_FMT_PEM, 0);
    return r < 0 ? tls_error(err, r, "ca-crl.pem") : 0;
}

/* ---- One certificate ---- */

static int check_times(const struct chain *chain, gnutls_x509_crt_t cert, struct error *err)
{
    time_t now = time(NULL);

    if (gnutls_x509_crt_get_expiration_time(cert) < now)
        return error_set(err, -EINVAL, "%s: the certificate has expired", chain->file);
    if (gnutls_x509_crt_get_activation_time(cert) > now)
        return error_set(err, -EINVAL, "%s: the certificate is not yet valid", chain->file);
    return 0;
}

static int check_constraints(const struct chain *chain, gnutls_x509_crt_t cert, struct error *err)
{
    int is_ca = gnutls_x509_crt_get_ca_status(cert, NULL);

    if (is_ca < 0 && is_ca != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
        return tls_error(err, is_ca, chain->file);
    if (chain->is_ca && is_ca <= 0)
        return error_set(err, -EINVAL, "%s: the certificate is not that of a CA (basic constraints)", chain->file);
    if (!chain->is_ca && is_ca > 0)
        return error_set(err, -EINVAL, "%s: the certificate is that of a CA (basic constraints), a server needs another",
                         chain->file);
    return 0;
}

static int check_usage(const struct chain *chain, gnutls_x509_crt_t cert, struct error *err)
{
    unsigned wanted = chain->is_ca ? GNUTLS_KEY_KEY_CERT_SIGN : GNUTLS_KEY_DIGITAL_SIGNATURE;
    unsigned usage = 0;
    unsigned critical = 0;
    int r = gnutls_x509_crt_get_key_usage(cert, &usage, &critical);

    if (r == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
        return 0;
    if (r < 0)
        return tls_error(err, r, chain->file);
    if ((usage & wanted) == 0 && critical != 0)
        return error_set(err, -EINVAL, "%s: the certificate may not be used to %s (key usage)", chain->file,
                         chain->is_ca ? "sign others" : "sign a handshake");
    return 0;
}

static int check_purpose(const struct chain *chain, gnutls_x509_crt_t cert, struct error *err)
{
    char oid[128];
    size_t len;
    unsigned critical;
    unsigned i;

    for (i = 0;; i++) {
        int r;

        len = sizeof(oid);
        r = gnutls_x509_crt_get_key_purpose_oid(cert, i, oid, &len, &critical);
        if (r == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
            break;
        if (r == GNUTLS_E_SHORT_MEMORY_BUFFER)
            continue;
        if (r < 0)
            return tls_error(err, r, chain->file);
        if (strcmp(oid, GNUTLS_KP_TLS_WWW_SERVER) == 0 || strcmp(oid, GNUTLS_KP_ANY) == 0)
            return 0;
    }
    return i == 0 ? 0 : error_set(err, -EINVAL, "%s: the certificate is not for a TLS server (key purpose)", chain->file);
}

static int check_one(const struct chain *chain, gnutls_x509_crt_t cert, struct error *err)
{
    int r = check_times(chain, cert, err);

    if (r == 0)
        r = check_constraints(chain, cert, err);
    if (r == 0)
        r = check_usage(chain, cert, err);
    if (r == 0 && !chain->is_ca)
        r = check_purpose(chain, cert, err);
    return r;
}

/* ---- All of them together ---- */

static int check_signed(const struct chain *server, const struct chain *ca, gnutls_x509_crl_t *crls, unsigned crl_count,
                        struct error *err)
{
    unsigned status = 0;
    int r = gnutls_x509_crt_list_verify(server->certs, server->count, ca->certs, ca->count, crls, crl_count, 0, &status);
    gnutls_datum_t text = { 0 };

    if (r < 0)
        return tls_error(err, r, "server-cert.pem");
    if (status == 0)
        return 0;
    r = gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    error_set(err, -EINVAL, "server-cert.pem does not go with ca-cert.pem: %s", r == 0 ? (char *)text.data : "?");
    gnutls_free(text.data);
    return -EINVAL;
}

static int key_id(gnutls_pubkey_t pubkey, uint8_t *ret_id, size_t *len)
{
    int r = gnutls_pubkey_get_key_id(pubkey, GNUTLS_KEYID_USE_SHA256, ret_id, len);

    gnutls_pubkey_deinit(pubkey);
    return r;
}

static int check_key_fits(const struct chain *server, gnutls_privkey_t key, struct error *err)
{
    gnutls_pubkey_t ours = NULL;
    gnutls_pubkey_t theirs = NULL;
    uint8_t ids[2][32] = { { 0 } };
    size_t lens[2] = { 32, 32 };
    int r;

    if (gnutls_pubkey_init(&ours) < 0 || gnutls_pubkey_init(&theirs) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    r = gnutls_pubkey_import_privkey(ours, key, 0, 0);
    if (r == 0)
        r = gnutls_pubkey_import_x509(theirs, server->certs[0], 0);
    if (r == 0) {
        r = key_id(ours, ids[0], &lens[0]);
        if (r == 0)
            r = key_id(theirs, ids[1], &lens[1]);
    }
    if (r < 0)
        return tls_error(err, r, "server-key.pem");
    if (lens[0] != lens[1] || memcmp(ids[0], ids[1], lens[0]) != 0)
        return error_set(err, -EINVAL, "server-key.pem is not the key of server-cert.pem");
    return 0;
}

static int check_sanity(const struct tls_view *view, const struct chain *server, const struct chain *ca,
                        struct error *err)
{
    gnutls_x509_crl_t *crls = NULL;
    unsigned crl_count = 0;
    int r = crl_load(view, &crls, &crl_count, err);

    if (r == 0 && (view->credentials->flags & TLS_SANITY_CHECK) != 0) {
        r = check_one(server, server->certs[0], err);
        for (unsigned i = 0; r == 0 && i < ca->count; i++)
            r = check_one(ca, ca->certs[i], err);
        if (r == 0)
            r = check_signed(server, ca, crls, crl_count, err);
    }
    for (unsigned i = 0; i < crl_count; i++)
        gnutls_x509_crl_deinit(crls[i]);
    gnutls_free(crls);
    return r;
}

int signer_check_certificates(const struct tls_view *view, gnutls_privkey_t key, struct error *err)
{
    _cleanup_(chain_done) struct chain server = { .file = "server-cert.pem" };
    _cleanup_(chain_done) struct chain ca = { .file = "ca-cert.pem", .is_ca = true };
    int r = chain_load(&ca, view, TLS_SECTION_CA, err);

    if (r == 0)
        r = chain_load(&server, view, TLS_SECTION_CERT, err);
    if (r == 0)
        r = check_sanity(view, &server, &ca, err);
    if (r == 0)
        r = check_key_fits(&server, key, err);
    return r;
}
