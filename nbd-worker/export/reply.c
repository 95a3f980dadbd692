/* SPDX-License-Identifier: BSD-2-Clause */
/* Encodes replies. */
#include "nbd-worker/export/reply.h"

#include <errno.h>

size_t nbd_put_hole(uint8_t *to, enum nbd_form form, const struct nbd_request *request)
{
    struct nbd_payload_hole hole = { htobe64(request->offset), htobe32((uint32_t)request->len_bytes) };
    size_t n = nbd_put_chunk(to, form, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_HOLE, sizeof(hole));

    memcpy(to + n, &hole, sizeof(hole));
    return n + sizeof(hole);
}

size_t nbd_put_none(uint8_t *to, enum nbd_form form, const struct nbd_request *request)
{
    return nbd_put_chunk(to, form, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
}

size_t nbd_put_error(uint8_t *to, enum nbd_form form, const struct nbd_request *request, uint32_t error,
                     const char *text)
{
    size_t text_len = strnlen(text, NBD_REPLY_TEXT_MAX);
    struct nbd_payload_error payload = {
        .error = htobe32(error),
        .message_len_bytes = htobe16((uint16_t)text_len),
    };
    size_t n = nbd_put_chunk(to, form, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR,
                             (uint32_t)(sizeof(payload) + text_len));

    memcpy(to + n, &payload, sizeof(payload));
    memcpy(to + n + sizeof(payload), text, text_len);
    return n + sizeof(payload) + text_len;
}

size_t nbd_put_status_head(uint8_t *to, enum nbd_form form, const struct nbd_request *request, uint16_t flags,
                           const struct nbd_context *context, size_t len_bytes)
{
    struct nbd_payload_status_ext payload = {
        .context_id = htobe32(nbd_context_id(context)),
        .count = htobe32((uint32_t)(len_bytes / sizeof(struct nbd_block_descriptor_ext))),
    };
    bool extended = form == NBD_FORM_EXTENDED;
    /* The other form is the same without the count. */
    size_t head_bytes = nbd_status_head_bytes(form) - nbd_chunk_bytes(form);
    size_t n = nbd_put_chunk(to, form, request, flags,
                             extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
                             (uint32_t)(head_bytes + len_bytes));

    memcpy(to + n, &payload, head_bytes);
    return n + head_bytes;
}

static size_t put_descriptor(uint8_t *to, enum nbd_form form, uint64_t len_bytes, uint32_t status)
{
    if (form == NBD_FORM_EXTENDED) {
        struct nbd_block_descriptor_ext wire = { htobe64(len_bytes), htobe64(status) };

        memcpy(to, &wire, sizeof(wire));
        return sizeof(wire);
    } else {
        /* All extents together cover at most the 32 bits of the request's length. */
        struct nbd_block_descriptor wire = { htobe32((uint32_t)len_bytes), htobe32(status) };

        memcpy(to, &wire, sizeof(wire));
        return sizeof(wire);
    }
}

size_t nbd_put_descriptors(void *to, enum nbd_form form, const struct nbd_context *context,
                           const struct block_extent *extents, unsigned count)
{
    uint64_t len_bytes = 0;
    size_t n = 0;

    for (unsigned i = 0; i < count; i++) {
        uint32_t status = context->status(&extents[i]);
        bool last = i + 1 == count || context->status(&extents[i + 1]) != status;

        len_bytes += extents[i].len_bytes;
        if (!last)
            continue;
        n += put_descriptor((uint8_t *)to + n, form, len_bytes, status);
        len_bytes = 0;
    }
    return n;
}

uint32_t nbd_error_of(int code)
{
    static const struct {
        int code;
        uint32_t error;
    } errors[] = {
        { -EPERM, NBD_EPERM },   { -EACCES, NBD_EPERM },  { -EROFS, NBD_EPERM },       { -EIO, NBD_EIO },
        { -ENOMEM, NBD_ENOMEM }, { -EINVAL, NBD_EINVAL }, { -ENOSPC, NBD_ENOSPC },     { -EDQUOT, NBD_ENOSPC },
        { -EFBIG, NBD_ENOSPC },  { -ENOTSUP, NBD_ENOTSUP }, { -ESHUTDOWN, NBD_ESHUTDOWN },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++)
        if (errors[i].code == code)
            return errors[i].error;
    return NBD_EIO;
}

const char *nbd_error_text(int code)
{
    const char *text = strerrordesc_np(-code);

    return text != NULL ? text : "unknown error";
}
