/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The public part of a tls-creds object, as the monitor hands it to the signer and to negotiators: a sealed memfd with
 * the files of the credentials' folder as they were read, unparsed. Private keys, pre-shared keys and passwords are
 * never in it; the signer gets those as descriptors (docs/tls.md).
 */
#ifndef BULKHEAD_IPC_TLS_CREDENTIALS_H
#define BULKHEAD_IPC_TLS_CREDENTIALS_H

#include <stdint.h>

#define TLS_CREDENTIALS_MAGIC 0x746c7363u
#define TLS_FILE_BYTES_MAX    (1u << 20) /* of each file */
#define TLS_PRIORITY_MAX      512        /* with NUL */
#define TLS_PASSWORD_MAX      1024       /* of a private key */

enum tls_kind { TLS_KIND_X509 = 1, TLS_KIND_PSK, TLS_KIND_ANON };

enum tls_section {
    TLS_SECTION_PRIORITY, /* text without NUL; empty: the default */
    TLS_SECTION_CA,       /* ca-cert.pem */
    TLS_SECTION_CRL,      /* ca-crl.pem */
    TLS_SECTION_CERT,     /* server-cert.pem */
    TLS_SECTION_DH,       /* dh-params.pem */
    TLS_SECTION_MAX,
};

#define TLS_VERIFY_PEER  (1u << 0)
#define TLS_SANITY_CHECK (1u << 1)
#define TLS_FLAGS_ALL    (TLS_VERIFY_PEER | TLS_SANITY_CHECK)

struct tls_credentials {
    uint32_t magic;
    uint32_t kind;  /* enum tls_kind */
    uint32_t flags; /* TLS_* */
    uint32_t reserved;
    uint64_t len_bytes; /* of all of it */
    struct {
        uint32_t offset; /* from the start */
        uint32_t len_bytes; /* 0: there is none */
    } sections[TLS_SECTION_MAX];
};

/* The most that one can have. */
#define TLS_CREDENTIALS_BYTES_MAX (sizeof(struct tls_credentials) + TLS_SECTION_MAX * (size_t)TLS_FILE_BYTES_MAX)

#endif
