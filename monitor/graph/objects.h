/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Objects: what object-add makes. A secret, credentials for TLS, lists of who is let in. An object that is removed
 * while somebody uses it lives on for that user, as in QEMU; its id is free at once. Who is let in is looked up by id
 * each time it is asked, and an object that is not there lets nobody in.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_OBJECTS_H
#define BULKHEAD_MONITOR_GRAPH_OBJECTS_H

#include "common/base/error.h"
#include "monitor/qmp/types.h"

struct monitor;
struct object;
struct object_set;
struct qmp_reply;

#define OBJECTS_MAX 1024

int object_set_new(struct monitor *monitor, struct object_set **ret_set, struct error *err);
void object_set_free(struct object_set *set); /* the workers are gone, no callback will come; NULL is fine */

/* Make an object; reply is answered when it can be used, or with the reason why not. options are borrowed. */
void object_add(struct object_set *set, const struct object_options *options, struct qmp_reply *reply);

/* Free an id. 0 or -ENOENT, -EBUSY (it is still being made). */
int object_del(struct object_set *set, const char *id, struct error *err);

/* Walk those that are there. */
const struct object *object_first(const struct object_set *set);
const struct object *object_next(const struct object *object);
const char *object_id(const struct object *object);
const char *object_type_name(const struct object *object); /* as qom-type */

/* Give back a reference; NULL is fine. */
void object_unref(struct object *object);

/* ---- Authorization (authz.c) ---- */

/*
 * Lists in files may have changed: have done called when this one has been looked at again, from the loop, or at once if there
 * is nothing to look at. cancelled: it never will be, the object is gone; nothing may be done but to give up opaque.
 */
typedef void authz_refreshed_fn(void *opaque, bool cancelled);
void authz_refresh(struct object_set *set, const char *authz_id, authz_refreshed_fn *done, void *opaque);

/*
 * Whether the object of that id lets in who proved to be identity (NULL: nobody in particular). The identity is text
 * that a client chose. If not, why says so for the log.
 */
bool authz_allows(struct object_set *set, const char *authz_id, const char *identity, struct error *why);

/* Whether text fits a pattern: '*' is any text, '?' one character of UTF-8. Time is bounded by the product of both. */
bool authz_glob_matches(const char *pattern, const char *text);

/* ---- Credentials (tls-creds.c) ---- */

/* A reference to credentials for a server. 0, -ENOENT, or -EINVAL if it is something else. */
int tls_creds_get(struct object_set *set, const char *id, struct object **ret_creds, struct error *err);

/* What a negotiator needs for one client. */
struct tls_grant {
    int credentials_fd; /* borrowed: sealed memfd, common/ipc/tls-credentials.h */
    int signer_fd;      /* the caller's: a socket to the signer, good for one handshake */
};

/* 0, or -EAGAIN while the signer is not there. */
int tls_creds_grant(struct object *creds, struct tls_grant *ret_grant, struct error *err);

#endif
