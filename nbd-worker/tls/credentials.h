/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The public part of a tls-creds object as signer and negotiator see it: the monitor's sealed memfd, mapped read-only and
 * checked before anything in it is used; then GnuTLS gets to see the sections, in a process that is locked down.
 */
#ifndef BULKHEAD_NBD_WORKER_TLS_CREDENTIALS_H
#define BULKHEAD_NBD_WORKER_TLS_CREDENTIALS_H

#include <gnutls/gnutls.h>

#include "common/base/error.h"
#include "common/ipc/tls-credentials.h"

struct tls_view {
    const struct tls_credentials *credentials;
    size_t len_bytes; /* of the mapping */
};

/* Map the memfd fd (borrowed), which must be sealed. 0, -EPERM (not sealed), -EINVAL (bad contents) or -errno. */
int tls_view_map(int fd, struct tls_view *ret_view, struct error *err);
void tls_view_unmap(struct tls_view *view);

/* Whether data[0..len_bytes) is well-formed. Pure. 0 or -EINVAL. */
int tls_credentials_check(const void *data, size_t len_bytes, struct error *err);

/* A section; size 0: there is none. */
gnutls_datum_t tls_view_section(const struct tls_view *view, enum tls_section section);

/*
 * The priorities of a session: the operator's or the default, with what the kind of credentials needs, and without what
 * needs a private key in the negotiator (RSA key exchange). 0 or -EINVAL; err names what GnuTLS did not understand.
 */
int tls_priority_make(const struct tls_view *view, gnutls_priority_t *ret_priority, struct error *err);

/* Then the default prefers AES. */
bool tls_processor_has_aes(void);

/* -EINVAL with "what: GnuTLS's words". */
int tls_error(struct error *err, int code, const char *what);

#endif
