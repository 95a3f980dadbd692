/* SPDX-License-Identifier: BSD-2-Clause */
/* Parses and checks requests. Pure; everything in a request is the client's choice. */
#include "nbd-worker/export/request.h"

#include <endian.h>
#include <string.h>

#include "common/base/cursor.h"
#include "nbd-worker/context.h"

static bool parse_compact(const uint8_t *header, struct nbd_request *ret_request)
{
    struct nbd_request_header wire;

    memcpy(&wire, header, sizeof(wire));
    ret_request->cookie = wire.cookie;
    ret_request->offset = be64toh(wire.offset);
    ret_request->len_bytes = be32toh(wire.len_bytes);
    ret_request->flags = be16toh(wire.flags);
    ret_request->type = be16toh(wire.type);
    return be32toh(wire.magic) == NBD_REQUEST_MAGIC;
}

static bool parse_extended(const uint8_t *header, struct nbd_request *ret_request)
{
    struct nbd_extended_request wire;

    memcpy(&wire, header, sizeof(wire));
    ret_request->cookie = wire.cookie;
    ret_request->offset = be64toh(wire.offset);
    ret_request->len_bytes = be64toh(wire.len_bytes);
    ret_request->flags = be16toh(wire.flags);
    ret_request->type = be16toh(wire.type);
    return be32toh(wire.magic) == NBD_EXTENDED_REQUEST_MAGIC;
}

bool nbd_request_parse(const uint8_t *header, const struct nbd_limits *limits, struct nbd_request *ret_request)
{
    bool extended = limits->form == NBD_FORM_EXTENDED, has_payload;

    if (!(extended ? parse_extended(header, ret_request) : parse_compact(header, ret_request)))
        return false;
    ret_request->command = NULL;
    if (ret_request->type < NBD_CMD_MAX && nbd_commands[ret_request->type].handle != NULL)
        ret_request->command = &nbd_commands[ret_request->type];
    /*
     * Where the next header begins must not depend on what else is wrong with this one. A write has its data, with the
     * flag or without: QEMU does not set it. Extended requests of any other type say themselves whether they have a
     * payload.
     */
    has_payload = (ret_request->command != NULL && ret_request->command->has_payload) ||
                  (extended && (ret_request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0);
    ret_request->payload_bytes = has_payload ? ret_request->len_bytes : 0;
    ret_request->contexts = limits->contexts;
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

    if (limits->form == NBD_FORM_SIMPLE)
        flags &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (!limits->fast_zero)
        flags &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    /* NBD_FLAG_BLOCK_STATUS_PAYLOAD is set only if there are contexts. */
    if (limits->form == NBD_FORM_EXTENDED && (command->has_payload || limits->contexts != 0))
        flags |= command->has_payload || command->may_have_payload ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
    return flags;
}

static uint32_t check_range(const struct nbd_request *request, uint64_t size_bytes, const char **ret_text)
{
    const struct nbd_command *command = request->command;

    /* "Size constraints": the client MUST NOT ask for more; EINVAL is what QEMU says, too. */
    if (command->carries_payload && request->len_bytes > NBD_MAX_PAYLOAD)
        return refuse(NBD_EINVAL, "the request is larger than the maximum payload of 32 MiB", ret_text);
    if (!range_within(request->offset, request->len_bytes, size_bytes))
        return refuse(command->beyond_end, "the request goes beyond the end of the export", ret_text);
    if (request->type == NBD_CMD_BLOCK_STATUS && request->len_bytes == 0)
        return refuse(NBD_EINVAL, "a block status request needs a length", ret_text);
    return 0;
}

/* At least one context, and no more than there are: all must be different. */
static uint32_t check_status_payload(const struct nbd_request *request, const struct nbd_limits *limits,
                                     const char **ret_text)
{
    uint64_t ids_max = (uint64_t)__builtin_popcount(limits->contexts) * sizeof(uint32_t);
    uint64_t ids_bytes = request->payload_bytes - sizeof(struct nbd_status_request);

    if (request->payload_bytes < sizeof(struct nbd_status_request) + sizeof(uint32_t) || ids_bytes > ids_max ||
        ids_bytes % sizeof(uint32_t) != 0)
        return refuse(NBD_EINVAL, "the payload must be a length and between one and all of the context ids", ret_text);
    return 0;
}

uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_limits *limits, uint64_t size_bytes,
                           const char **ret_text)
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
    if (request->type == NBD_CMD_BLOCK_STATUS && limits->contexts == 0)
        return refuse(NBD_EINVAL, "no meta context was negotiated for this export", ret_text);
    if (command->may_have_payload && (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0)
        return check_status_payload(request, limits, ret_text);
    return check_range(request, size_bytes, ret_text);
}

uint32_t nbd_request_take_payload(struct nbd_request *request, const uint8_t *payload, const struct nbd_limits *limits,
                                  uint64_t size_bytes, const char **ret_text)
{
    struct cursor c = cursor_init(payload, (size_t)request->payload_bytes);

    request->len_bytes = cursor_be64(&c);
    request->contexts = 0;
    while (!c.failed && c.left_bytes > 0) {
        uint32_t bit = nbd_context_bit(cursor_be32(&c)) & limits->contexts;

        if (bit == 0)
            return refuse(NBD_EINVAL, "the payload has a context id that was not negotiated", ret_text);
        if ((request->contexts & bit) != 0)
            return refuse(NBD_EINVAL, "the payload has a context id twice", ret_text);
        request->contexts |= bit;
    }
    return check_range(request, size_bytes, ret_text);
}
