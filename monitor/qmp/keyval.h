/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option strings of the command line: "file,node-name=a,cache.direct=on" with dotted keys, lists as name.0, name.1,
 * ...,
 * ",," for a comma in a value; or JSON, if it starts with '{', through the same strict lexer as QMP. Pure.
 */
#ifndef BULKHEAD_MONITOR_QMP_KEYVAL_H
#define BULKHEAD_MONITOR_QMP_KEYVAL_H

#include "monitor/qmp/schema.h"

/* A word that may stand without a value: "server" for "server=on". */
struct keyval_word {
    const char *word;
    const char *key;
    const char *value;
};

/* How one command-line option is written. */
struct keyval_syntax {
    const char *implied_key; /* of a first value without key; NULL: none */
    const struct keyval_word *words;
    unsigned word_count;
    bool secret; /* a value may be a secret, and what looks like a name the rest of one: it is not told in errors */
};

extern const struct keyval_syntax keyval_blockdev;   /* --blockdev: driver */
extern const struct keyval_syntax keyval_export;     /* --export: type */
extern const struct keyval_syntax keyval_nbd_server; /* --nbd-server: none */
extern const struct keyval_syntax keyval_chardev;    /* --chardev: backend; server, nowait, ... */
extern const struct keyval_syntax keyval_object;     /* --object: qom-type */
extern const struct keyval_syntax keyval_monitor;    /* --monitor: chardev */

#define KEYVAL_TEXT_MAX  65536 /* bytes of an option string */
#define KEYVAL_DEPTH_MAX 32    /* dots in a key */

/*
 * Parse text into a tree that the caller frees, and say how its scalars are spelt. 0 or -EINVAL (-ENOMEM); err names
 * the key at fault.
 */
int keyval_parse(const struct keyval_syntax *syntax, const char *text, struct cJSON **ret_json,
                 enum schema_form *ret_form, struct error *err);

/* Parse and decode; *ret_value as for schema_decode(). */
int keyval_decode(const struct keyval_syntax *syntax, const char *text, const struct schema_type *type, void *ret_value,
                  struct error *err);

#endif
