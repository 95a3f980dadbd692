/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A cursor over received bytes: every getter checks what remains, a failed one makes all later ones fail, and a parser
 * ends by asking cursor_at_end(). Numbers are converted to host order here and nowhere else.
 */
#ifndef BULKHEAD_BASE_CURSOR_H
#define BULKHEAD_BASE_CURSOR_H

#include <endian.h>
#include <string.h>

#include "common/base/util.h"

struct cursor {
    const uint8_t *next;
    size_t left_bytes;
    bool failed;
};

static inline struct cursor cursor_init(const void *data, size_t len_bytes)
{
    return (struct cursor){ .next = data, .left_bytes = len_bytes };
}

/* The next len_bytes, or NULL when fewer remain. */
static inline const void *cursor_bytes(struct cursor *c, size_t len_bytes)
{
    const uint8_t *p = c->next;

    if (c->failed || c->left_bytes < len_bytes) {
        c->failed = true;
        return NULL;
    }
    c->next += len_bytes;
    c->left_bytes -= len_bytes;
    return p;
}

/* Big-endian numbers; 0 once the cursor has failed. */
static inline uint16_t cursor_be16(struct cursor *c)
{
    const void *p = cursor_bytes(c, 2);
    uint16_t v = 0;

    if (p != NULL)
        memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static inline uint32_t cursor_be32(struct cursor *c)
{
    const void *p = cursor_bytes(c, 4);
    uint32_t v = 0;

    if (p != NULL)
        memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t cursor_be64(struct cursor *c)
{
    const void *p = cursor_bytes(c, 8);
    uint64_t v = 0;

    if (p != NULL)
        memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

/* Whether everything was there and nothing is left over. */
static inline bool cursor_at_end(const struct cursor *c)
{
    return !c->failed && c->left_bytes == 0;
}

#endif
