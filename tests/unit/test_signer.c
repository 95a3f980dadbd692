/* SPDX-License-Identifier: BSD-2-Clause */
/* What a signer takes for a request of a handshake, files of shared keys, and the credentials' memfd: pure parts. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nbd-worker/signer/signer.h"

static struct tls_signer_request request_of(uint32_t op, uint32_t algorithm, size_t len_bytes)
{
    struct tls_signer_request request = { .magic = TLS_SIGNER_MAGIC, .op = op, .algorithm = algorithm };

    request.len_bytes = (uint32_t)len_bytes;
    memset(request.data, 'x', MIN(len_bytes, sizeof(request.data)));
    return request;
}

static void test_hashes_of_the_right_length(void **state)
{
    static const struct {
        uint32_t algorithm;
        size_t len_bytes;
    } rows[] = {
        { GNUTLS_SIGN_RSA_PSS_RSAE_SHA256, 32 }, { GNUTLS_SIGN_RSA_SHA384, 48 },
        { GNUTLS_SIGN_ECDSA_SECP521R1_SHA512, 64 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct tls_signer_request good = request_of(TLS_SIGNER_HASH, rows[i].algorithm, rows[i].len_bytes);
        struct tls_signer_request shorter = request_of(TLS_SIGNER_HASH, rows[i].algorithm, rows[i].len_bytes - 1);
        struct tls_signer_request longer = request_of(TLS_SIGNER_HASH, rows[i].algorithm, rows[i].len_bytes + 1);

        assert_int_equal(signer_check(&good, NULL), 0);
        assert_int_equal(signer_check(&shorter, NULL), -EPERM);
        assert_int_equal(signer_check(&longer, NULL), -EPERM);
        good.data[255] = 1;
        assert_int_equal(signer_check(&good, NULL), -EPROTO);
    }
}

static void test_errors_algorithms_of_no_handshake(void **state)
{
    static const uint32_t algorithms[] = { 0, GNUTLS_SIGN_RSA_SHA1, GNUTLS_SIGN_RSA_MD5, GNUTLS_SIGN_RSA_RAW,
                                           GNUTLS_SIGN_DSA_SHA256, GNUTLS_SIGN_ECDSA_SHA1, 9999, UINT32_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(algorithms); i++) {
        struct tls_signer_request request = request_of(TLS_SIGNER_HASH, algorithms[i], 32);

        assert_int_equal(signer_check(&request, NULL), -EPERM);
    }
}

static void test_errors_frame(void **state)
{
    struct tls_signer_request request = request_of(TLS_SIGNER_HASH, GNUTLS_SIGN_RSA_SHA256, 32);

    request.magic++;
    assert_int_equal(signer_check(&request, NULL), -EPROTO);
    request = request_of(TLS_SIGNER_HASH, GNUTLS_SIGN_RSA_SHA256, 0);
    assert_int_equal(signer_check(&request, NULL), -EPROTO);
    request.len_bytes = TLS_SIGNER_INPUT_MAX + 1;
    assert_int_equal(signer_check(&request, NULL), -EPROTO);
    request.len_bytes = UINT32_MAX;
    assert_int_equal(signer_check(&request, NULL), -EPROTO);
    request = request_of(0, GNUTLS_SIGN_RSA_SHA256, 32);
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request = request_of(TLS_SIGNER_DATA, GNUTLS_SIGN_RSA_SHA256, 32);
    assert_int_equal(signer_check(&request, NULL), -EPERM);
}

static struct tls_signer_request certificate_verify(const char *context, size_t hash_bytes)
{
    struct tls_signer_request request = request_of(TLS_SIGNER_DATA, GNUTLS_SIGN_EDDSA_ED25519, 0);
    size_t len = 64 + strlen(context) + 1;

    memset(request.data, ' ', 64);
    memcpy(request.data + 64, context, strlen(context) + 1);
    memset(request.data + len, 0xab, hash_bytes);
    request.len_bytes = (uint32_t)(len + hash_bytes);
    return request;
}

static void test_data_is_what_a_handshake_signs(void **state)
{
    struct tls_signer_request request = certificate_verify("TLS 1.3, server CertificateVerify", 32);

    assert_int_equal(signer_check(&request, NULL), 0);
    request.data[10] = 'x';
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request = certificate_verify("TLS 1.3, server CertificateVerify", 33);
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request = certificate_verify("TLS 1.3, client CertificateVerify", 32);
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request = request_of(TLS_SIGNER_DATA, GNUTLS_SIGN_EDDSA_ED25519, 100);
    assert_int_equal(signer_check(&request, NULL), -EPERM);
}

static void test_data_of_tls_12(void **state)
{
    struct tls_signer_request request = request_of(TLS_SIGNER_DATA, GNUTLS_SIGN_EDDSA_ED25519, 68 + 32);

    request.data[64] = 3; /* named_curve */
    request.data[65] = 0;
    request.data[66] = 29; /* x25519 */
    request.data[67] = 32;
    assert_int_equal(signer_check(&request, NULL), 0);
    request.data[64] = 1;
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request.data[64] = 3;
    request.data[67] = 31;
    assert_int_equal(signer_check(&request, NULL), -EPERM);
    request.data[67] = 32;
    request.data[66] = 23; /* its points have 65 bytes */
    assert_int_equal(signer_check(&request, NULL), -EPERM);
}

/* ---- Shared keys ---- */

static int parse(const char *text, struct signer_keys *keys)
{
    int r;

    memset(keys, 0, sizeof(*keys));
    r = signer_parse_psk(text, strlen(text), keys, NULL);
    if (r < 0)
        signer_keys_done(keys);
    return r;
}

static void test_users_and_their_keys(void **state)
{
    struct tls_signer_request request = request_of(TLS_SIGNER_PSK, 0, 3);
    struct tls_signer_reply reply;
    struct signer_keys keys;

    assert_int_equal(parse("alice:0102\r\n\nbob:FFfe", &keys), 0);
    assert_int_equal(keys.user_count, 2);
    memcpy(request.data, "bob", 3);
    assert_int_equal(signer_check(&request, NULL), 0);
    signer_answer(&keys, &request, &reply);
    assert_int_equal(reply.code, 0);
    assert_int_equal(reply.len_bytes, 2);
    assert_memory_equal(reply.data, "\xff\xfe", 2);
    request.len_bytes = 2; /* "bo" */
    request.data[2] = 0;
    signer_answer(&keys, &request, &reply);
    assert_int_equal(reply.code, -ENOENT);
    assert_int_equal(reply.len_bytes, 0);
    request = request_of(TLS_SIGNER_HASH, GNUTLS_SIGN_RSA_SHA256, 32);
    signer_answer(&keys, &request, &reply); /* there is no key to sign with */
    assert_int_equal(reply.code, -EPERM);
    signer_keys_done(&keys);
}

static void test_errors_files_of_shared_keys(void **state)
{
    static const char *const texts[] = { "", "\n\n", "alice", "alice:", "alice:0", "alice:0g", ":00", "a\x01:00" };
    struct signer_keys keys;

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        if (parse(texts[i], &keys) != -EINVAL)
            fail_msg("'%s' was taken", texts[i]);
}

static void test_errors_user_name_too_long(void **state)
{
    struct tls_signer_request request = request_of(TLS_SIGNER_PSK, 0, PSK_NAME_MAX + 1);

    assert_int_equal(signer_check(&request, NULL), -EPROTO);
    request = request_of(TLS_SIGNER_PSK, GNUTLS_SIGN_RSA_SHA256, 3);
    assert_int_equal(signer_check(&request, NULL), -EPROTO);
}

/* ---- The credentials' memfd ---- */

static struct tls_credentials good_credentials(void)
{
    struct tls_credentials credentials = { .magic = TLS_CREDENTIALS_MAGIC, .kind = TLS_KIND_ANON };

    credentials.len_bytes = sizeof(credentials);
    for (unsigned i = 0; i < TLS_SECTION_MAX; i++)
        credentials.sections[i].offset = sizeof(credentials);
    return credentials;
}

static void test_credentials(void **state)
{
    struct tls_credentials c = good_credentials();
    struct tls_view view = { .credentials = &c, .len_bytes = sizeof(c) };
    gnutls_priority_t priority;

    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), 0);
    assert_int_equal(tls_view_section(&view, TLS_SECTION_CA).size, 0);
    for (uint32_t kind = TLS_KIND_X509; kind <= TLS_KIND_ANON; kind++) {
        c.kind = kind;
        assert_int_equal(tls_priority_make(&view, &priority, NULL), 0);
        gnutls_priority_deinit(priority);
    }
}

/* The place of a cipher in what a priority string comes to. */
static unsigned place_of(const char *text, gnutls_cipher_algorithm_t cipher)
{
    struct {
        struct tls_credentials credentials;
        char text[TLS_PRIORITY_MAX];
    } file = { .credentials = good_credentials() };
    struct tls_view view = { .credentials = &file.credentials, .len_bytes = sizeof(file) };
    gnutls_priority_t priority;
    const unsigned *list;
    int count;

    strcpy(file.text, text);
    file.credentials.sections[TLS_SECTION_PRIORITY].len_bytes = (uint32_t)strlen(text);
    assert_int_equal(tls_priority_make(&view, &priority, NULL), 0);
    count = gnutls_priority_cipher_list(priority, &list);
    for (int i = 0; i < count; i++)
        if (list[i] == cipher)
            count = i;
    gnutls_priority_deinit(priority);
    return (unsigned)count;
}

static void test_the_faster_cipher_comes_first_unless_the_operator_says(void **state)
{
    bool aes_first = place_of("", GNUTLS_CIPHER_AES_128_GCM) < place_of("", GNUTLS_CIPHER_CHACHA20_POLY1305);

    assert_int_equal(aes_first, tls_processor_has_aes());
    assert_true(place_of("", GNUTLS_CIPHER_AES_256_GCM) < place_of("", GNUTLS_CIPHER_AES_128_GCM));
    assert_true(place_of("NORMAL", GNUTLS_CIPHER_CHACHA20_POLY1305) < place_of("NORMAL", GNUTLS_CIPHER_AES_128_GCM));
}

static void test_errors_credentials(void **state)
{
    struct tls_credentials c = good_credentials();

    assert_int_equal(tls_credentials_check(&c, sizeof(c) - 1, NULL), -EINVAL);
    c.len_bytes++;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c = good_credentials();
    c.magic++;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c = good_credentials();
    c.kind = 0;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c = good_credentials();
    c.flags = 1u << 31;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c = good_credentials();
    c.sections[TLS_SECTION_CA].len_bytes = 1;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c = good_credentials();
    c.sections[TLS_SECTION_CA].offset = 0;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
    c.sections[TLS_SECTION_CA].offset = UINT32_MAX;
    c.sections[TLS_SECTION_CA].len_bytes = UINT32_MAX;
    assert_int_equal(tls_credentials_check(&c, sizeof(c), NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hashes_of_the_right_length),
        cmocka_unit_test(test_errors_algorithms_of_no_handshake),
        cmocka_unit_test(test_errors_frame),
        cmocka_unit_test(test_data_is_what_a_handshake_signs),
        cmocka_unit_test(test_data_of_tls_12),
        cmocka_unit_test(test_users_and_their_keys),
        cmocka_unit_test(test_errors_files_of_shared_keys),
        cmocka_unit_test(test_errors_user_name_too_long),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_the_faster_cipher_comes_first_unless_the_operator_says),
        cmocka_unit_test(test_errors_credentials),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
