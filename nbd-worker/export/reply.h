/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding of replies (NBD proto.md, "Simple reply message", "Structured reply chunk message"). Pure: every function
 * writes to a buffer of at least NBD_REPLY_HEAD_MAX bytes and returns how many it wrote.
 */
#ifndef BULKHEAD_NBD_WORKER_EXPORT_REPLY_H
#define BULKHEAD_NBD_WORKER_EXPORT_REPLY_H

#include <endian.h>
#include <string.h>

#include "common/io/request.h"
#include "common/net/nbd-protocol.h"

#define NBD_REPLY_TEXT_MAX 96 /* longer texts are cut */
#define NBD_REPLY_HEAD_MAX (sizeof(struct nbd_chunk_error) + NBD_REPLY_TEXT_MAX)

/* cookies are as they came. */
static inline size_t nbd_put_simple(uint8_t *to, uint64_t cookie, uint32_t error)
{
    struct nbd_simple_reply reply = {
        .magic = htobe32(NBD_SIMPLE_REPLY_MAGIC),
        .error = htobe32(error),
        .cookie = cookie,
    };

    memcpy(to, &reply, sizeof(reply));
    return sizeof(reply);
}

static inline struct nbd_chunk nbd_chunk(uint64_t cookie, uint16_t flags, uint16_t type, uint32_t len_bytes)
{
    return (struct nbd_chunk){
        .magic = htobe32(NBD_STRUCTURED_REPLY_MAGIC),
        .flags = htobe16(flags),
        .type = htobe16(type),
        .cookie = cookie,
        .len_bytes = htobe32(len_bytes),
    };
}

/* The head of NBD_REPLY_TYPE_OFFSET_DATA; data_bytes follow. */
static inline size_t nbd_put_data_head(uint8_t *to, uint64_t cookie, uint16_t flags, uint64_t offset,
                                       uint32_t data_bytes)
{
    struct nbd_chunk_data head = {
        .chunk = nbd_chunk(cookie, flags, NBD_REPLY_TYPE_OFFSET_DATA, data_bytes + (uint32_t)sizeof(offset)),
        .offset = htobe64(offset),
    };

    memcpy(to, &head, sizeof(head));
    return sizeof(head);
}

/* NBD_REPLY_TYPE_NONE, final. */
size_t nbd_put_none(uint8_t *to, uint64_t cookie);

/* NBD_REPLY_TYPE_ERROR, final, with a text for people. */
size_t nbd_put_error(uint8_t *to, uint64_t cookie, uint32_t error, const char *text);

/* The head of NBD_REPLY_TYPE_BLOCK_STATUS; count descriptors follow. */
size_t nbd_put_status_head(uint8_t *to, uint64_t cookie, uint32_t context_id, unsigned count);

/*
 * Turn count extents into descriptors of base:allocation. extents and to may be the same memory (a descriptor is the
 * smaller one). Neighbours of equal status become one. Returns the number of descriptors.
 */
unsigned nbd_put_descriptors(void *to, const struct block_extent *extents, unsigned count);

/* The NBD error for a negative errno of the storage ("Error values"). */
uint32_t nbd_error_of(int code);

/* A text for people, of static storage. */
const char *nbd_error_text(int code);

#endif
