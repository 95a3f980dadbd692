/* SPDX-License-Identifier: BSD-2-Clause */
/* Parses and checks requests. Pure; everything in a request is the client's choice. */
#include "nbd-worker/export/request.h"

#include <endian.h>
#include <string.h>

bool nbd_request_parse(const uint8_t *header, struct nbd_request *ret_request)
{
    struct nbd_request_header wire;

    memcpy(&wire, header, sizeof(wire));
    if (be32toh(wire.magic) != NBD_REQUEST_MAGIC)
        return false;
    ret_request->cookie = wire.cookie;
    ret_request->offset = be64toh(wire.offset);
    ret_request->len_bytes = be32toh(wire.len_bytes);
    ret_request->flags = be16toh(wire.flags);
    ret_request->type = be16toh(wire.type);
    ret_request->command = NULL;
    if (ret_request->type < NBD_CMD_MAX && nbd_commands[ret_request->type].handle != NULL)
        ret_request->command = &nbd_commands[ret_request->type];
    return true;
}

static uint32_t refuse(uint32_t error, const char *text, const char **ret_text)
{
    *ret_text = text;
    return error;
}

/* "Command flags": FUA is for all commands; some others count only if what they need was negotiated. */
static uint16_t allowed_flags(const struct nbd_command *command, const struct nbd_limits *limits)
{
    uint16_t flags = command->flags | NBD_CMD_FLAG_FUA;

    if (!limits->structured_reply)
        flags &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (!limits->fast_zero)
        flags &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    return flags;
}

uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_limits *limits, const char **ret_text)
{
    const struct nbd_command *command = request->command;

    if (command == NULL)
        return refuse(NBD_EINVAL, "unknown command", ret_text);
    if (command->unchecked)
        return 0;
    if ((request->flags & ~allowed_flags(command, limits)) != 0)
        return refuse(NBD_EINVAL, "the command has a flag that is unknown, not negotiated or not for it", ret_text);
    if (command->no_range) {
        if (request->offset != 0 || request->len_bytes != 0)
            return refuse(NBD_EINVAL, "the command takes no offset and no length", ret_text);
        return 0;
    }
    if (command->writes && limits->read_only)
        return refuse(NBD_EPERM, "the export is read-only", ret_text);
    /* "Size constraints": the client MUST NOT ask for more; EINVAL is what QEMU says, too. */
    if (command->carries_payload && request->len_bytes > NBD_MAX_PAYLOAD)
        return refuse(NBD_EINVAL, "the request is larger than the maximum payload of 32 MiB", ret_text);
    if (!range_within(request->offset, request->len_bytes, limits->size_bytes))
        return refuse(command->beyond_end, "the request goes beyond the end of the export", ret_text);
    if (request->type == NBD_CMD_BLOCK_STATUS && limits->contexts == 0)
        return refuse(NBD_EINVAL, "no meta context was negotiated for this export", ret_text);
    if (request->type == NBD_CMD_BLOCK_STATUS && request->len_bytes == 0)
        return refuse(NBD_EINVAL, "a block status request needs a length", ret_text);
    return 0;
}
