/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A strict, incremental JSON reader: bytes of a QMP client in, cJSON trees out. Sources: RFC 8259, and QEMU's
 * docs/interop/qmp-spec for single-quoted strings and for how a client forces the reader into a known-good state.
 */
#ifndef BULKHEAD_MONITOR_QMP_JSON_LEXER_H
#define BULKHEAD_MONITOR_QMP_JSON_LEXER_H

#include "common/base/error.h"

struct cJSON;
struct json_lexer;

#define JSON_MESSAGE_BYTES_MAX (256u << 10) /* of one top-level value */
#define JSON_DEPTH_MAX         1024
#define JSON_VALUES_MAX        16384 /* of one top-level value, all levels counted */
#define JSON_MEMBERS_MAX       256   /* of one object */
#define JSON_TOKEN_MAX         1024  /* bytes of a number or word */

enum json_result {
    JSON_MORE,  /* all bytes are used, the value is not complete */
    JSON_VALUE, /* a top-level value is complete */
    JSON_ERROR, /* something is wrong; what belongs to it is skipped by the next calls */
};

struct json_lexer *json_lexer_new(void); /* NULL: out of memory */
void json_lexer_free(struct json_lexer *lexer);

/*
 * Read from data until a value is complete or an error shows, at most len_bytes; *ret_used says how many bytes were
 * used. On JSON_VALUE the caller owns *ret_value; on JSON_ERROR err says what and where.
 *
 * Numbers are exact: one that was written with a fraction or an exponent, or whose integer a double may not hold (2^53
 * and beyond), carries its text in valuestring; any other has none and is the integer valuedouble.
 *
 * A message that breaks the grammar or a limit is one error, which comes when its brackets are closed (or when nothing
 * says that they will ever be). A character that is part of no token is an error at once and ends its message; what
 * follows is skipped up to one of {}[],: or a line's end. Such characters are also control characters and the bytes
 * 0xFE and 0xFF anywhere, and so every client has a way to a known-good state (qmp-spec, "Forcing the JSON parser into
 * known-good state").
 */
enum json_result json_lexer_feed(struct json_lexer *lexer, const char *data, size_t len_bytes, size_t *ret_used,
                                 struct cJSON **ret_value, struct error *err);

/* Whether a value has begun that is not complete. */
bool json_lexer_is_inside(const struct json_lexer *lexer);

/* Read a text that is exactly one value. 0 or -EINVAL (-ENOMEM). */
int json_parse(const char *text, size_t len_bytes, struct cJSON **ret_value, struct error *err);

#endif
