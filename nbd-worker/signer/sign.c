/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests of negotiators: what is signed, with which algorithm, how long it may be. A hash cannot be told from another
 * hash; that is why a negotiator gets next to none signed, and why the key should be good for nothing but this server.
 */
#include <errno.h>
#include <string.h>

#include "nbd-worker/signer/signer.h"

struct algorithm {
    gnutls_sign_algorithm_t algorithm;
    uint32_t op;
    uint32_t hash_bytes; /* HASH */
};

/* RFC 8446, section 4.2.3, and the PKCS 1 ones that TLS 1.2 may use; nothing with SHA-1. */
static const struct algorithm algorithms[] = {
    { GNUTLS_SIGN_RSA_PSS_RSAE_SHA256, TLS_SIGNER_HASH, 32 },
    { GNUTLS_SIGN_RSA_PSS_RSAE_SHA384, TLS_SIGNER_HASH, 48 },
    { GNUTLS_SIGN_RSA_PSS_RSAE_SHA512, TLS_SIGNER_HASH, 64 },
    { GNUTLS_SIGN_RSA_PSS_SHA256, TLS_SIGNER_HASH, 32 },
    { GNUTLS_SIGN_RSA_PSS_SHA384, TLS_SIGNER_HASH, 48 },
    { GNUTLS_SIGN_RSA_PSS_SHA512, TLS_SIGNER_HASH, 64 },
    { GNUTLS_SIGN_RSA_SHA256, TLS_SIGNER_HASH, 32 },
    { GNUTLS_SIGN_RSA_SHA384, TLS_SIGNER_HASH, 48 },
    { GNUTLS_SIGN_RSA_SHA512, TLS_SIGNER_HASH, 64 },
    { GNUTLS_SIGN_ECDSA_SECP256R1_SHA256, TLS_SIGNER_HASH, 32 },
    { GNUTLS_SIGN_ECDSA_SECP384R1_SHA384, TLS_SIGNER_HASH, 48 },
    { GNUTLS_SIGN_ECDSA_SECP521R1_SHA512, TLS_SIGNER_HASH, 64 },
    { GNUTLS_SIGN_ECDSA_SHA256, TLS_SIGNER_HASH, 32 },
    { GNUTLS_SIGN_ECDSA_SHA384, TLS_SIGNER_HASH, 48 },
    { GNUTLS_SIGN_ECDSA_SHA512, TLS_SIGNER_HASH, 64 },
    { GNUTLS_SIGN_EDDSA_ED25519, TLS_SIGNER_DATA, 0 },
    { GNUTLS_SIGN_EDDSA_ED448, TLS_SIGNER_DATA, 0 },
};

static const struct algorithm *find_algorithm(const struct tls_signer_request *request)
{
    for (unsigned i = 0; i < ARRAY_SIZE(algorithms); i++)
        if ((uint32_t)algorithms[i].algorithm == request->algorithm && algorithms[i].op == request->op)
            return &algorithms[i];
    return NULL;
}

/* RFC 8446, section 4.4.3: 64 spaces, the context string of a server, a zero, the hash of the transcript. */
static bool is_certificate_verify(const uint8_t *data, size_t len_bytes)
{
    static const char context[] = "TLS 1.3, server CertificateVerify"; /* with its NUL */
    size_t fixed_bytes = 64 + sizeof(context);

    if (len_bytes != fixed_bytes + 32 && len_bytes != fixed_bytes + 48)
        return false;
    for (unsigned i = 0; i < 64; i++)
        if (data[i] != ' ')
            return false;
    return memcmp(data + 64, context, sizeof(context)) == 0;
}

/* RFC 8422, section 5.4: both randoms, named_curve (3), the curve, its point with a length of one byte. */
static bool is_server_key_exchange(const uint8_t *data, size_t len_bytes)
{
    static const struct {
        uint16_t curve;
        uint8_t point_bytes;
    } curves[] = { { 23, 65 }, { 24, 97 }, { 25, 133 }, { 29, 32 }, { 30, 56 } };

    if (len_bytes < 68 || data[64] != 3 || len_bytes != 68u + data[67])
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(curves); i++)
        if (curves[i].curve == (data[65] << 8 | data[66]))
            return curves[i].point_bytes == data[67];
    return false;
}

static int check_padding(const struct tls_signer_request *request, struct error *err)
{
    for (size_t i = request->len_bytes; i < sizeof(request->data); i++)
        if (request->data[i] != 0)
            return error_set(err, -EPROTO, "bytes after the end are not 0");
    return 0;
}

int signer_check(const struct tls_signer_request *request, struct error *err)
{
    const struct algorithm *algorithm = find_algorithm(request);

    if (request->magic != TLS_SIGNER_MAGIC || request->len_bytes == 0 || request->len_bytes > sizeof(request->data))
        return error_set(err, -EPROTO, "wrong magic number or length");
    if (request->op == TLS_SIGNER_PSK) {
        if (request->algorithm != 0 || request->len_bytes > PSK_NAME_MAX)
            return error_set(err, -EPROTO, "a user name of %u bytes with algorithm %u", request->len_bytes,
                             request->algorithm);
        return check_padding(request, err);
    }
    if (algorithm == NULL)
        return error_set(err, -EPERM, "operation %u with algorithm %u is none of a handshake", request->op,
                         request->algorithm);
    if (request->op == TLS_SIGNER_HASH && request->len_bytes != algorithm->hash_bytes)
        return error_set(err, -EPERM, "a hash of %u bytes for algorithm %u", request->len_bytes, request->algorithm);
    if (request->op == TLS_SIGNER_DATA && !is_certificate_verify(request->data, request->len_bytes) &&
        !is_server_key_exchange(request->data, request->len_bytes))
        return error_set(err, -EPERM, "it is not what a handshake signs");
    return check_padding(request, err);
}

static int put(struct tls_signer_reply *reply, const void *data, size_t len_bytes)
{
    if (len_bytes > sizeof(reply->data))
        return -EIO;
    memcpy(reply->data, data, len_bytes);
    reply->len_bytes = (uint32_t)len_bytes;
    return 0;
}

static int sign(gnutls_privkey_t key, const struct tls_signer_request *request, struct tls_signer_reply *reply)
{
    gnutls_datum_t data = { .data = (unsigned char *)(uintptr_t)request->data, .size = request->len_bytes };
    gnutls_sign_algorithm_t algorithm = (gnutls_sign_algorithm_t)request->algorithm;
    gnutls_datum_t signature = { 0 };
    int r;

    if (key == NULL || !gnutls_sign_supports_pk_algorithm(algorithm, (unsigned)gnutls_privkey_get_pk_algorithm(key, NULL)))
        return -EPERM;
    if (request->op == TLS_SIGNER_HASH)
        r = gnutls_privkey_sign_hash2(key, algorithm, 0, &data, &signature);
    else
        r = gnutls_privkey_sign_data2(key, algorithm, 0, &data, &signature);
    if (r < 0)
        return -EIO;
    r = put(reply, signature.data, signature.size);
    gnutls_free(signature.data);
    return r;
}

static int find_user(const struct signer_keys *keys, const struct tls_signer_request *request,
                     struct tls_signer_reply *reply)
{
    if (keys->users == NULL)
        return -EPERM;
    for (size_t i = 0; i < keys->user_count; i++) {
        const struct psk_user *user = &keys->users[i];

        if (strlen(user->name) == request->len_bytes && memcmp(user->name, request->data, request->len_bytes) == 0)
            return put(reply, user->key, user->key_len_bytes);
    }
    return -ENOENT;
}

void signer_answer(const struct signer_keys *keys, const struct tls_signer_request *request,
                   struct tls_signer_reply *ret_reply)
{
    memset(ret_reply, 0, sizeof(*ret_reply));
    ret_reply->magic = TLS_SIGNER_MAGIC;
    ret_reply->code = request->op == TLS_SIGNER_PSK ? find_user(keys, request, ret_reply)
                                                    : sign(keys->key, request, ret_reply);
}
