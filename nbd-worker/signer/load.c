/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Credentials into keys. What is parsed here is the operator's, in a process that can do nothing but this; errors are
 * for the one who typed object-add.
 */
#include <errno.h>
#include <string.h>

#include "nbd-worker/signer/signer.h"

/* ---- keys.psk ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int parse_key(const char *hex, size_t len, struct psk_user *user)
{
    if (len == 0 || len % 2 != 0 || len / 2 > PSK_KEY_MAX)
        return -EINVAL;
    for (size_t i = 0; i < len / 2; i++) {
        int high = hex_digit(hex[2 * i]);
        int low = hex_digit(hex[2 * i + 1]);

        if (high < 0 || low < 0)
            return -EINVAL;
        user->key[i] = (uint8_t)(high << 4 | low);
    }
    user->key_len_bytes = len / 2;
    return 0;
}

static int parse_line(const char *line, size_t len, unsigned number, struct psk_user *user, struct error *err)
{
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - line) : 0;

    if (name_len == 0 || name_len > PSK_NAME_MAX)
        return error_set(err, -EINVAL, "keys.psk, line %u: expected a user name of at most %d bytes and a colon", number,
                         PSK_NAME_MAX);
    for (size_t i = 0; i < name_len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            return error_set(err, -EINVAL, "keys.psk, line %u: a user name with control characters", number);
    memcpy(user->name, line, name_len);
    if (parse_key(colon + 1, len - name_len - 1, user) < 0)
        return error_set(err, -EINVAL, "keys.psk, line %u: expected a key of 1 to %d bytes in hexadecimal", number,
                         PSK_KEY_MAX);
    return 0;
}

int signer_parse_psk(const char *text, size_t len_bytes, struct signer_keys *keys, struct error *err)
{
    const char *end = text + len_bytes;
    unsigned number = 0;

    keys->users = calloc(PSK_USERS_MAX, sizeof(*keys->users));
    if (keys->users == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t len = newline != NULL ? (size_t)(newline - text) : (size_t)(end - text);
        int r = 0;

        number++;
        if (len > 0 && text[len - 1] == '\r')
            len--;
        if (len > 0 && keys->user_count == PSK_USERS_MAX)
            return error_set(err, -E2BIG, "keys.psk has more than %d users", PSK_USERS_MAX);
        if (len > 0)
            r = parse_line(text, len, number, &keys->users[keys->user_count++], err);
        if (r < 0)
            return r;
        text = newline != NULL ? newline + 1 : end;
    }
    return keys->user_count > 0 ? 0 : error_set(err, -EINVAL, "keys.psk has no user");
}

/* ---- server-key.pem ---- */

static int load_key(const char *pem, size_t len_bytes, const char *password, gnutls_privkey_t *ret_key,
                    struct error *err)
{
    gnutls_datum_t data = { .data = (unsigned char *)(uintptr_t)pem, .size = (unsigned)len_bytes };
    gnutls_privkey_t key;
    int r = gnutls_privkey_init(&key);

    if (r < 0)
        return tls_error(err, r, "server-key.pem");
    r = gnutls_privkey_import_x509_raw(key, &data, GNUTLS_X509_FMT_PEM, password, 0);
    if (r < 0) {
        gnutls_privkey_deinit(key);
        if (r == GNUTLS_E_DECRYPTION_FAILED)
            return error_set(err, -EINVAL, "server-key.pem: %s",
                             password != NULL ? "the password is wrong" : "it is encrypted and needs a passwordid");
        return tls_error(err, r, "server-key.pem");
    }
    *ret_key = key;
    return 0;
}

static int check_dh(const struct tls_view *view, struct error *err)
{
    gnutls_datum_t pem = tls_view_section(view, TLS_SECTION_DH);
    gnutls_dh_params_t params;
    int r;

    if (pem.size == 0)
        return 0;
    r = gnutls_dh_params_init(&params);
    if (r < 0)
        return tls_error(err, r, "dh-params.pem");
    r = gnutls_dh_params_import_pkcs3(params, &pem, GNUTLS_X509_FMT_PEM);
    gnutls_dh_params_deinit(params);
    return r < 0 ? tls_error(err, r, "dh-params.pem") : 0;
}

static int check_priority(const struct tls_view *view, struct error *err)
{
    gnutls_priority_t priority;
    int r = tls_priority_make(view, &priority, err);

    if (r == 0)
        gnutls_priority_deinit(priority);
    return r;
}

int signer_load(const struct tls_view *view, const char *keys, size_t keys_len_bytes, const char *password,
                struct signer_keys *ret_keys, struct error *err)
{
    uint32_t kind = view->credentials->kind;
    struct signer_keys loaded = { 0 };
    int r = check_priority(view, err);

    if (r == 0)
        r = check_dh(view, err);
    if (r == 0 && (keys == NULL) != (kind == TLS_KIND_ANON))
        r = error_set(err, -EINVAL, "credentials of kind %u %s keys", kind, keys == NULL ? "without" : "with");
    if (r == 0 && kind == TLS_KIND_PSK)
        r = signer_parse_psk(keys, keys_len_bytes, &loaded, err);
    if (r == 0 && kind == TLS_KIND_X509)
        r = load_key(keys, keys_len_bytes, password, &loaded.key, err);
    if (r == 0 && kind == TLS_KIND_X509)
        r = signer_check_certificates(view, loaded.key, err);
    if (r < 0) {
        signer_keys_done(&loaded);
        return r;
    }
    *ret_keys = loaded;
    return 0;
}

void signer_keys_done(struct signer_keys *keys)
{
    if (keys->key != NULL)
        gnutls_privkey_deinit(keys->key);
    if (keys->users != NULL)
        explicit_bzero(keys->users, PSK_USERS_MAX * sizeof(*keys->users));
    free(keys->users);
    *keys = (struct signer_keys){ 0 };
}
