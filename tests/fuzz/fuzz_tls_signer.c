/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a negotiator that is under somebody's control may ask of a signer. The first byte chooses the keys, the rest is the
 * request, as one datagram. What passes the check is answered: with a signature, with the key of exactly the user that was
 * named, or with an error and nothing else.
 */
#include <assert.h>
#include <string.h>

#include "nbd-worker/signer/signer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char users[] = "alice:0102030405060708\nbob:ffeeddccbbaa99887766554433221100\n";
static struct signer_keys all_keys[3]; /* shared ones, ECDSA, Ed25519 */

static gnutls_privkey_t make_key(gnutls_pk_algorithm_t algorithm, unsigned bits)
{
    gnutls_privkey_t key;

    assert(gnutls_privkey_init(&key) == 0 && gnutls_privkey_generate(key, algorithm, bits, 0) == 0);
    return key;
}

static void make_keys(void)
{
    assert(signer_parse_psk(users, strlen(users), &all_keys[0], NULL) == 0);
    all_keys[1].key = make_key(GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1));
    all_keys[2].key = make_key(GNUTLS_PK_EDDSA_ED25519, 0);
}

static bool all_zero(const uint8_t *data, size_t len_bytes)
{
    while (len_bytes > 0 && data[len_bytes - 1] == 0)
        len_bytes--;
    return len_bytes == 0;
}

static void check_key_of_user(const struct tls_signer_request *request, const struct tls_signer_reply *reply)
{
    bool alice = request->len_bytes == 5 && memcmp(request->data, "alice", 5) == 0;
    bool bob = request->len_bytes == 3 && memcmp(request->data, "bob", 3) == 0;

    assert(reply->code != 0 || (alice && reply->len_bytes == 8) || (bob && reply->len_bytes == 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tls_signer_request request;
    struct tls_signer_reply reply;
    const struct signer_keys *keys;

    if (size != 1 + sizeof(request)) /* the worker drops whoever sends another length */
        return 0;
    if (all_keys[0].users == NULL)
        make_keys();
    keys = &all_keys[data[0] % ARRAY_SIZE(all_keys)];
    memcpy(&request, data + 1, sizeof(request));
    if (signer_check(&request, NULL) < 0)
        return 0;
    signer_answer(keys, &request, &reply);
    assert(reply.magic == TLS_SIGNER_MAGIC && reply.len_bytes <= sizeof(reply.data));
    assert((reply.code == 0) == (reply.len_bytes > 0));
    assert(all_zero(reply.data + reply.len_bytes, sizeof(reply.data) - reply.len_bytes));
    if (request.op == TLS_SIGNER_PSK)
        check_key_of_user(&request, &reply);
    else
        assert(reply.code != 0 || keys->key != NULL);
    return 0;
}
