/* SPDX-License-Identifier: BSD-2-Clause */
/* Encodes replies. */
#include "nbd-worker/export/reply.h"

#include <errno.h>

size_t nbd_put_none(uint8_t *to, uint64_t cookie)
{
    struct nbd_chunk chunk = nbd_chunk(cookie, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);

    memcpy(to, &chunk, sizeof(chunk));
    return sizeof(chunk);
}

size_t nbd_put_error(uint8_t *to, uint64_t cookie, uint32_t error, const char *text)
{
    size_t text_len = strnlen(text, NBD_REPLY_TEXT_MAX);
    struct nbd_chunk_error head = {
        .chunk = nbd_chunk(cookie, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR,
                           (uint32_t)(sizeof(head.error) + sizeof(head.message_len_bytes) + text_len)),
        .error = htobe32(error),
        .message_len_bytes = htobe16((uint16_t)text_len),
    };

    memcpy(to, &head, sizeof(head));
    memcpy(to + sizeof(head), text, text_len);
    return sizeof(head) + text_len;
}

size_t nbd_put_status_head(uint8_t *to, uint64_t cookie, uint32_t context_id, unsigned count)
{
    uint32_t len_bytes = (uint32_t)(sizeof(uint32_t) + count * sizeof(struct nbd_block_descriptor));
    struct nbd_chunk_status head = {
        .chunk = nbd_chunk(cookie, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_BLOCK_STATUS, len_bytes),
        .context_id = htobe32(context_id),
    };

    memcpy(to, &head, sizeof(head));
    return sizeof(head);
}

static uint32_t status_of(const struct block_extent *extent)
{
    return ((extent->flags & BLOCK_EXTENT_HOLE) != 0 ? NBD_STATE_HOLE : 0) |
           ((extent->flags & BLOCK_EXTENT_ZERO) != 0 ? NBD_STATE_ZERO : 0);
}

unsigned nbd_put_descriptors(void *to, const struct block_extent *extents, unsigned count)
{
    struct nbd_block_descriptor *out = to;
    uint64_t len_bytes = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        uint32_t status = status_of(&extents[i]);
        bool last = i + 1 == count || status_of(&extents[i + 1]) != status;

        len_bytes += extents[i].len_bytes;
        if (!last)
            continue;
        /* Together they cover at most the 32 bits of the request's length. */
        out[n++] = (struct nbd_block_descriptor){ htobe32((uint32_t)len_bytes), htobe32(status) };
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
