/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding of replies (NBD proto.md, "Simple reply message", "Structured reply chunk message", "Extended
 * reply chunk message"). Pure: every function
 * writes to a buffer of at least NBD_REPLY_HEAD_MAX bytes and returns how many it wrote.
 */
#ifndef BULKHEAD_NBD_WORKER_EXPORT_REPLY_H
#define BULKHEAD_NBD_WORKER_EXPORT_REPLY_H

#include <endian.h>
#include <string.h>

#include "common/io/request.h"
#include "common/net/nbd-protocol.h"
#include "nbd-worker/context.h"
#include "nbd-worker/export/request.h"

#define NBD_REPLY_TEXT_MAX  96 /* longer texts are cut */
#define NBD_CHUNK_BYTES_MAX sizeof(struct nbd_extended_chunk)
#define NBD_REPLY_HEAD_MAX  (NBD_CHUNK_BYTES_MAX + sizeof(struct nbd_payload_error) + NBD_REPLY_TEXT_MAX)

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

static inline size_t nbd_chunk_bytes(enum nbd_form form)
{
    return form == NBD_FORM_EXTENDED ? sizeof(struct nbd_extended_chunk) : sizeof(struct nbd_chunk);
}

/* The header of a chunk, structured or extended; a payload of len_bytes follows. */
static inline size_t nbd_put_chunk(uint8_t *to, enum nbd_form form, const struct nbd_request *request, uint16_t flags,
                                   uint16_t type, uint32_t len_bytes)
{
    if (form == NBD_FORM_EXTENDED) {
        struct nbd_extended_chunk chunk = {
            .magic = htobe32(NBD_EXTENDED_REPLY_MAGIC),
            .flags = htobe16(flags),
            .type = htobe16(type),
            .cookie = request->cookie,
            .offset = htobe64(request->offset),
            .len_bytes = htobe64(len_bytes),
        };

        memcpy(to, &chunk, sizeof(chunk));
        return sizeof(chunk);
    } else {
        struct nbd_chunk chunk = {
            .magic = htobe32(NBD_STRUCTURED_REPLY_MAGIC),
            .flags = htobe16(flags),
            .type = htobe16(type),
            .cookie = request->cookie,
            .len_bytes = htobe32(len_bytes),
        };

        memcpy(to, &chunk, sizeof(chunk));
        return sizeof(chunk);
    }
}

/* The head of NBD_REPLY_TYPE_OFFSET_DATA for all that request asks for; the data follow. */
static inline size_t nbd_put_data_head(uint8_t *to, enum nbd_form form, const struct nbd_request *request,
                                       uint16_t flags)
{
    struct nbd_payload_data data = { htobe64(request->offset) };
    size_t n = nbd_put_chunk(to, form, request, flags, NBD_REPLY_TYPE_OFFSET_DATA,
                             (uint32_t)(sizeof(data) + request->len_bytes));

    memcpy(to + n, &data, sizeof(data));
    return n + sizeof(data);
}

/* NBD_REPLY_TYPE_OFFSET_HOLE for all that request asks for, final. */
size_t nbd_put_hole(uint8_t *to, enum nbd_form form, const struct nbd_request *request);

/* NBD_REPLY_TYPE_NONE, final. */
size_t nbd_put_none(uint8_t *to, enum nbd_form form, const struct nbd_request *request);

/* NBD_REPLY_TYPE_ERROR, final, with a text for people. */
size_t nbd_put_error(uint8_t *to, enum nbd_form form, const struct nbd_request *request, uint32_t error,
                     const char *text);

/* What a status chunk for count extents takes at most, and its head in fact. */
#define NBD_STATUS_MAX(count)                                                                                          \
    (NBD_CHUNK_BYTES_MAX + sizeof(struct nbd_payload_status_ext) + (count) * sizeof(struct nbd_block_descriptor_ext))

static inline size_t nbd_status_head_bytes(enum nbd_form form)
{
    return nbd_chunk_bytes(form) +
           (form == NBD_FORM_EXTENDED ? sizeof(struct nbd_payload_status_ext) : sizeof(struct nbd_payload_status));
}

/* The head of NBD_REPLY_TYPE_BLOCK_STATUS or its extended form; descriptors of len_bytes in all follow. */
size_t nbd_put_status_head(uint8_t *to, enum nbd_form form, const struct nbd_request *request, uint16_t flags,
                           const struct nbd_context *context, size_t len_bytes);

/*
 * Turn count extents into descriptors of a context. extents and to may be the same memory (no descriptor is larger than
 * an extent). Neighbours of equal status become one. Returns the bytes written.
 */
size_t nbd_put_descriptors(void *to, enum nbd_form form, const struct nbd_context *context,
                           const struct block_extent *extents, unsigned count);

/* The NBD error for a negative errno of the storage ("Error values"). */
uint32_t nbd_error_of(int code);

/* A text for people, of static storage. */
const char *nbd_error_text(int code);

#endif
