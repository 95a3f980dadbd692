/* SPDX-License-Identifier: BSD-2-Clause */
/* See credentials.h. Trusts the monitor to have sealed what it sent, after having seen the seals. */
#include "nbd-worker/tls/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#ifdef __aarch64__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

int tls_error(struct error *err, int code, const char *what)
{
    return error_set(err, -EINVAL, "%s: %s", what, gnutls_strerror(code));
}

int tls_credentials_check(const void *data, size_t len_bytes, struct error *err)
{
    struct tls_credentials header;

    if (len_bytes < sizeof(header) || len_bytes > TLS_CREDENTIALS_BYTES_MAX)
        return error_set(err, -EINVAL, "credentials of %zu bytes", len_bytes);
    memcpy(&header, data, sizeof(header));
    if (header.magic != TLS_CREDENTIALS_MAGIC || header.len_bytes != len_bytes)
        return error_set(err, -EINVAL, "credentials with a wrong magic number or length");
    if (header.kind < TLS_KIND_X509 || header.kind > TLS_KIND_ANON)
        return error_set(err, -EINVAL, "credentials of unknown kind %u", header.kind);
    if ((header.flags & ~TLS_FLAGS_ALL) != 0 || header.reserved != 0)
        return error_set(err, -EINVAL, "credentials with unknown flags 0x%x", header.flags);
    for (unsigned i = 0; i < TLS_SECTION_MAX; i++)
        if (header.sections[i].offset < sizeof(header) ||
            !range_within(header.sections[i].offset, header.sections[i].len_bytes, len_bytes))
            return error_set(err, -EINVAL, "section %u is outside of the credentials", i);
    if (header.sections[TLS_SECTION_PRIORITY].len_bytes >= TLS_PRIORITY_MAX)
        return error_set(err, -EINVAL, "the priority string is too long");
    return 0;
}

int tls_view_map(int fd, struct tls_view *ret_view, struct error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;
    void *map;
    int r;

    if (seals < 0 || (seals & SEALS) != SEALS)
        return error_set(err, -EPERM, "the credentials are not sealed");
    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot look at the credentials: %s", strerror(errno));
    if (st.st_size <= 0 || (uint64_t)st.st_size > TLS_CREDENTIALS_BYTES_MAX)
        return error_set(err, -EINVAL, "the credentials have the wrong size");
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "cannot map the credentials: %s", strerror(errno));
    r = tls_credentials_check(map, (size_t)st.st_size, err);
    if (r < 0) {
        munmap(map, (size_t)st.st_size);
        return r;
    }
    *ret_view = (struct tls_view){ .credentials = map, .len_bytes = (size_t)st.st_size };
    return 0;
}

void tls_view_unmap(struct tls_view *view)
{
    if (view->credentials != NULL)
        munmap((void *)(uintptr_t)view->credentials, view->len_bytes);
    *view = (struct tls_view){ 0 };
}

gnutls_datum_t tls_view_section(const struct tls_view *view, enum tls_section section)
{
    const uint8_t *start = (const uint8_t *)view->credentials;

    return (gnutls_datum_t){
        .data = (unsigned char *)(uintptr_t)(start + view->credentials->sections[section].offset),
        .size = view->credentials->sections[section].len_bytes,
    };
}

/* ---- Priorities ---- */

/* The NBD specification asks for TLS 1.2 at least ("TLS versions"). */
#define PRIORITY_DEFAULT "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"

/*
 * GnuTLS prefers ChaCha20 to AES with 128 bits, the one that a shared key comes to otherwise (TLS 1.3 ties the hash of the
 * cipher suite to it). Where the processor has instructions for AES that is several times as fast.
 */
#define PRIORITY_AES_FIRST ":-CHACHA20-POLY1305:+CHACHA20-POLY1305:%SERVER_PRECEDENCE"

bool tls_processor_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & (HWCAP_AES | HWCAP_PMULL)) == (HWCAP_AES | HWCAP_PMULL);
#else
    return false;
#endif
}

/* What follows the operator's words. RSA and DHE with RSA would need the key for other things than signing a handshake. */
static const char *const priority_suffixes[] = {
    [TLS_KIND_X509] = ":-RSA:-DHE-RSA",
    [TLS_KIND_PSK] = ":+ECDHE-PSK:+DHE-PSK",
    [TLS_KIND_ANON] = ":+ANON-ECDH:+ANON-DH",
};

int tls_priority_make(const struct tls_view *view, gnutls_priority_t *ret_priority, struct error *err)
{
    gnutls_datum_t own = tls_view_section(view, TLS_SECTION_PRIORITY);
    const char *words = tls_processor_has_aes() ? PRIORITY_DEFAULT PRIORITY_AES_FIRST : PRIORITY_DEFAULT;
    char text[TLS_PRIORITY_MAX + 64];
    const char *bad = NULL;
    int r;

    snprintf(text, sizeof(text), "%.*s%s", own.size > 0 ? (int)own.size : (int)strlen(words),
             own.size > 0 ? (const char *)own.data : words, priority_suffixes[view->credentials->kind]);
    r = gnutls_priority_init(ret_priority, text, &bad);
    if (r < 0)
        return error_set(err, -EINVAL, "the priority string '%.200s' is wrong at '%.60s': %s", text,
                         bad != NULL ? bad : "", gnutls_strerror(r));
    return 0;
}
