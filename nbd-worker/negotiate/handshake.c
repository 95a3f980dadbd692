/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option haggling. Every byte that comes in is an attacker's: lengths are checked before anything is received for them,
 * and what one client can use up is bounded by the constants in the header. Options themselves are in options.c.
 */
#include "nbd-worker/negotiate/handshake.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cursor.h"
#include "nbd-worker/negotiate/options.h"

static void expect(struct handshake *hs, enum handshake_state state, uint64_t len_bytes)
{
    hs->state = state;
    hs->wanted_bytes = len_bytes;
    hs->have_bytes = 0;
}

void handshake_init(struct handshake *hs, const struct nbd_directory_view *directory)
{
    memset(hs, 0, offsetof(struct handshake, out));
    hs->directory = directory;
    expect(hs, HANDSHAKE_CLIENT_FLAGS, sizeof(uint32_t));
}

void handshake_end(struct handshake *hs, bool in_order, const char *fmt, ...)
{
    va_list args;

    if (hs->state == HANDSHAKE_ENDED)
        return;
    hs->state = HANDSHAKE_ENDED;
    hs->left_in_order = in_order;
    va_start(args, fmt);
    vsnprintf(hs->reason, sizeof(hs->reason), fmt, args);
    va_end(args);
}

void handshake_require_tls(struct handshake *hs)
{
    hs->tls = HANDSHAKE_TLS_REQUIRED;
}

void handshake_tls_started(struct handshake *hs)
{
    /* "NBD_OPT_STARTTLS": both sides discard what they learned before. The client's flags stay, they are sent once. */
    hs->tls = HANDSHAKE_TLS_ACTIVE;
    hs->structured_reply = false;
    hs->extended_headers = false;
    hs->contexts = 0;
    hs->contexts_serial = 0;
    hs->chosen_serial = 0;
    hs->listing = false;
    expect(hs, HANDSHAKE_OPTION_HEADER, sizeof(struct nbd_option_header));
}

bool handshake_is_over(const struct handshake *hs)
{
    return (hs->state == HANDSHAKE_NEGOTIATED || hs->state == HANDSHAKE_ENDED) &&
           hs->out_sent_bytes == hs->out_len_bytes;
}

/* ---- Output ---- */

void handshake_put(struct handshake *hs, const void *data, size_t len_bytes)
{
    memcpy(hs->out + hs->out_len_bytes, data, len_bytes);
    hs->out_len_bytes += len_bytes;
}

void handshake_put_reply(struct handshake *hs, uint32_t type, size_t len_bytes)
{
    struct nbd_option_reply reply = {
        .magic = htobe64(NBD_REP_MAGIC),
        .option = htobe32(hs->option_number),
        .type = htobe32(type),
        .len_bytes = htobe32((uint32_t)len_bytes),
    };

    handshake_put(hs, &reply, sizeof(reply));
}

void handshake_put_error(struct handshake *hs, uint32_t type, const char *text)
{
    size_t len_bytes = strlen(text);

    handshake_put_reply(hs, type, len_bytes);
    handshake_put(hs, text, len_bytes);
}

size_t handshake_output(struct handshake *hs, const uint8_t **ret_data)
{
    if (hs->out_sent_bytes == hs->out_len_bytes && hs->listing) {
        hs->out_sent_bytes = hs->out_len_bytes = 0;
        nbd_option_list_continue(hs);
    }
    *ret_data = hs->out + hs->out_sent_bytes;
    return hs->out_len_bytes - hs->out_sent_bytes;
}

void handshake_sent(struct handshake *hs, size_t len_bytes)
{
    hs->out_sent_bytes += len_bytes;
    if (hs->out_sent_bytes == hs->out_len_bytes)
        hs->out_sent_bytes = hs->out_len_bytes = 0;
}

/* ---- Input ---- */

static void take_client_flags(struct handshake *hs)
{
    struct cursor c = cursor_init(hs->in, sizeof(uint32_t));
    uint32_t flags = cursor_be32(&c);

    /* "Client flags": the server MUST drop the connection if the client sets an unknown flag. */
    if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) != 0) {
        handshake_end(hs, false, "the client set unknown client flags (0x%x)", flags);
        return;
    }
    hs->fixed_newstyle = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;
    hs->no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
    expect(hs, HANDSHAKE_OPTION_HEADER, sizeof(struct nbd_option_header));
}

/* Limits that end the connection: beyond them a client only costs. False if it has been ended. */
static bool option_within_limits(struct handshake *hs, uint32_t len_bytes)
{
    if (++hs->options_seen > HANDSHAKE_OPTIONS_MAX)
        handshake_end(hs, false, "the client sent more than %u options", HANDSHAKE_OPTIONS_MAX);
    else if (hs->bytes_seen + len_bytes > HANDSHAKE_BYTES_MAX)
        handshake_end(hs, false, "the options of the client exceed %u bytes", HANDSHAKE_BYTES_MAX);
    else if (!hs->fixed_newstyle && hs->option_number != NBD_OPT_EXPORT_NAME)
        /* "Option types": EXPORT_NAME is the only valid option in nonfixed newstyle negotiation. */
        handshake_end(hs, false, "the client sent option %u without NBD_FLAG_C_FIXED_NEWSTYLE", hs->option_number);
    return hs->state != HANDSHAKE_ENDED;
}

/* The reply to an option whose data are not parsed; 0: it ignores data. */
static uint32_t skip_reply(const struct nbd_option *option)
{
    if (option == NULL)
        return NBD_REP_ERR_UNSUP;
    if (option->ignores_data)
        return 0;
    return option->data_max_bytes == 0 ? NBD_REP_ERR_INVALID : NBD_REP_ERR_TOO_BIG;
}

static void finish_skip(struct handshake *hs)
{
    static const struct option_request nothing;
    char text[64];

    expect(hs, HANDSHAKE_OPTION_HEADER, sizeof(struct nbd_option_header));
    if (hs->skip_reply == 0) {
        hs->option->handle(hs, &nothing);
        return;
    }
    if (hs->skip_reply == NBD_REP_ERR_TLS_REQD)
        snprintf(text, sizeof(text), "this server requires TLS: begin with NBD_OPT_STARTTLS");
    else if (hs->option == NULL)
        snprintf(text, sizeof(text), "option %u is not supported", hs->option_number);
    else if (hs->skip_reply == NBD_REP_ERR_INVALID)
        snprintf(text, sizeof(text), "%s takes no data", hs->option->name);
    else
        snprintf(text, sizeof(text), "%s has more data than the %u bytes that are accepted", hs->option->name,
                 hs->option->data_max_bytes);
    handshake_put_error(hs, hs->skip_reply, text);
}

static void take_option_data(struct handshake *hs)
{
    const struct nbd_option *option = hs->option;
    size_t len_bytes = (size_t)hs->wanted_bytes;

    expect(hs, HANDSHAKE_OPTION_HEADER, sizeof(struct nbd_option_header));
    nbd_option_run(hs, option, hs->in, len_bytes);
}

/* "TLS support", FORCEDTLS: each other option is answered by ERR_TLS_REQD, and EXPORT_NAME has no such answer. */
static void refuse_in_clear(struct handshake *hs, uint32_t len_bytes)
{
    if (hs->option != NULL && hs->option->without_reply) {
        handshake_end(hs, false, "the client asked for an export without TLS, which this server requires");
        return;
    }
    hs->skip_reply = NBD_REP_ERR_TLS_REQD;
    expect(hs, HANDSHAKE_OPTION_SKIP, len_bytes);
}

static void take_option_header(struct handshake *hs)
{
    struct cursor c = cursor_init(hs->in, sizeof(struct nbd_option_header));
    uint64_t magic = cursor_be64(&c);
    uint32_t len_bytes;

    hs->option_number = cursor_be32(&c);
    len_bytes = cursor_be32(&c);
    if (magic != NBD_NEW_VERSION) {
        handshake_end(hs, false, "the client sent the wrong option magic 0x%llx", (unsigned long long)magic);
        return;
    }
    if (!option_within_limits(hs, len_bytes))
        return;
    hs->option = nbd_option_find(hs->option_number);
    if (hs->option != NULL && hs->option->resets_contexts)
        hs->contexts = 0;
    if (hs->tls == HANDSHAKE_TLS_REQUIRED && (hs->option == NULL || !hs->option->in_clear)) {
        refuse_in_clear(hs, len_bytes);
        return;
    }
    if (hs->option != NULL && len_bytes <= hs->option->data_max_bytes) {
        expect(hs, HANDSHAKE_OPTION_DATA, len_bytes);
    } else if (hs->option != NULL && hs->option->without_reply) {
        handshake_end(hs, false, "%s has %u bytes of data, which cannot be refused otherwise", hs->option->name,
                      len_bytes);
    } else {
        hs->skip_reply = skip_reply(hs->option);
        expect(hs, HANDSHAKE_OPTION_SKIP, len_bytes);
    }
}

static void (*const take[])(struct handshake *hs) = {
    [HANDSHAKE_CLIENT_FLAGS] = take_client_flags,
    [HANDSHAKE_OPTION_HEADER] = take_option_header,
    [HANDSHAKE_OPTION_DATA] = take_option_data,
    [HANDSHAKE_OPTION_SKIP] = finish_skip,
};

size_t handshake_wanted(struct handshake *hs, uint8_t **ret_buffer)
{
    uint64_t left_bytes = hs->wanted_bytes - hs->have_bytes;

    if (hs->state >= ARRAY_SIZE(take) || hs->out_sent_bytes < hs->out_len_bytes || hs->listing)
        return 0;
    /* Skipped data go nowhere: always to the start of the buffer. */
    *ret_buffer = hs->state == HANDSHAKE_OPTION_SKIP ? hs->in : hs->in + hs->have_bytes;
    return (size_t)MIN(left_bytes, sizeof(hs->in));
}

void handshake_received(struct handshake *hs, size_t len_bytes)
{
    hs->have_bytes += len_bytes;
    hs->bytes_seen += len_bytes;
    /* An option without data is complete with its header. */
    while (hs->state < ARRAY_SIZE(take) && hs->have_bytes == hs->wanted_bytes)
        take[hs->state](hs);
}

uint32_t handshake_contexts_for(const struct handshake *hs, uint64_t serial)
{
    /* "Metadata querying": contexts count only if they were set for the export that is used. */
    return hs->contexts_serial == serial ? hs->contexts : 0;
}

void handshake_result(const struct handshake *hs, uint64_t client_id, struct ipc_nbd_negotiated *ret_negotiated)
{
    *ret_negotiated = (struct ipc_nbd_negotiated){
        .client_id = client_id,
        .export_serial = hs->chosen_serial,
        .flags = (hs->structured_reply ? IPC_NBD_STRUCTURED_REPLY : 0) |
                 (hs->extended_headers ? IPC_NBD_EXTENDED_HEADERS : 0),
        .contexts = handshake_contexts_for(hs, hs->chosen_serial),
    };
}
