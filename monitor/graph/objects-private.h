/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kinds of objects share. */
#ifndef BULKHEAD_MONITOR_GRAPH_OBJECTS_PRIVATE_H
#define BULKHEAD_MONITOR_GRAPH_OBJECTS_PRIVATE_H

#include <sys/queue.h>

#include "common/ipc/ipc-protocol.h"
#include "monitor/graph/objects.h"

struct tls_signer;

TAILQ_HEAD(object_list, object);
LIST_HEAD(tls_signer_list, tls_signer);

/* make() returns this when object_made() will be called later. */
#define OBJECT_PENDING 1

/* A kind of objects, one row. */
struct object_type {
    enum object_type_id id;
    /* 0: it is there; OBJECT_PENDING; or -errno with nothing left behind. Keeps what it needs in object->priv. */
    int (*make)(struct object *object, const struct object_options *options, struct error *err);
    /* After make() succeeded, or was pending. */
    void (*free)(struct object *object);
    /* Authorization objects only. */
    bool (*allows)(const struct object *object, const char *identity, struct error *why);
};

extern const struct object_type object_type_secret;
extern const struct object_type object_type_authz_simple;
extern const struct object_type object_type_authz_list;
extern const struct object_type object_type_authz_list_file;
extern const struct object_type object_type_tls_creds_x509;
extern const struct object_type object_type_tls_creds_psk;
extern const struct object_type object_type_tls_creds_anon;

struct object {
    TAILQ_ENTRY(object) link;
    struct object_set *set;
    const struct object_type *type;
    char id[IPC_EXPORT_ID_MAX];
    unsigned refs;               /* one is the list's */
    struct qmp_reply *add_reply; /* owed while it is pending */
    void *priv;
};

struct object_set {
    struct monitor *monitor;
    struct object_list list;
    unsigned count;
    struct tls_signer_list signers; /* all, also those whose object is gone and that are about to end */
    bool closing; /* no worker is left, no callback will come */
};

/* One that is there and not pending, or NULL. */
struct object *object_find(const struct object_set *set, const char *id);

/* A pending object is there; or err says why it could not be made, and it is gone when this returns. */
void object_made(struct object *object, const struct error *err);

/* ---- secret.c ---- */

/* The bytes of a secret, valid as long as it is there. 0, -ENOENT or -EINVAL. */
int secret_get(const struct object_set *set, const char *id, const uint8_t **ret_data, size_t *ret_len_bytes,
               struct error *err);

/* Strict base64 (RFC 4648, section 4), in which newlines are skipped. At most len * 3 / 4 bytes go to ret. */
int secret_decode_base64(const char *text, size_t len, uint8_t *ret, size_t *ret_len_bytes, struct error *err);

/* ---- tls-creds.c ---- */

/* The end: forget the signers that have not been heard to end, whose objects are gone. */
void tls_signers_free(struct object_set *set);

/* ---- tls-files.c: has files opened and copied, parses nothing ---- */

struct tls_files; /* that are being opened */

/*
 * How the outcome is heard of, from the loop, once. credentials_fd: sealed memfd of the public ones. key_fd: one with the
 * file of private or pre-shared keys, not read here; -1: this kind has none. Both are the callee's; with err there are none.
 */
typedef void tls_files_done_fn(void *opaque, int credentials_fd, int key_fd, const struct error *err);

/* Open the files of a tls-creds object's folder. 0, or -errno and done is not called. */
int tls_files_start(struct monitor *monitor, const struct object_options *options, tls_files_done_fn *done, void *opaque,
                    struct tls_files **ret_files, struct error *err);
void tls_files_free(struct tls_files *files); /* also from within done; NULL is fine */

#endif
