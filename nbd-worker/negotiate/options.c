/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options, one row each. Strings of a client are compared and counted, never printed into replies: an error text
 * that repeated them would make this server say what a client wants it to say.
 */
#include "nbd-worker/negotiate/options.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "common/base/cursor.h"
#include "nbd-worker/context.h"

uint16_t nbd_transmission_flags(const struct handshake *hs, const struct nbd_directory_entry *entry)
{
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if ((entry->flags & NBD_DIRECTORY_WRITABLE) == 0)
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
    if ((entry->flags & NBD_DIRECTORY_WRITABLE) != 0 && (entry->flags & NBD_DIRECTORY_FAST_ZERO) != 0)
        flags |= NBD_FLAG_SEND_FAST_ZERO;
    if ((entry->flags & NBD_DIRECTORY_MULTI_CONN) != 0)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (hs->structured_reply || hs->extended_headers)
        flags |= NBD_FLAG_SEND_DF;
    if (hs->extended_headers && handshake_contexts_for(hs, entry->serial) != 0)
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return flags;
}

/* ---- Parse ---- */

static int parse_nothing(const uint8_t *data, size_t len_bytes, struct option_request *ret_request, struct error *err)
{
    return len_bytes == 0 ? 0 : error_set(err, -EINVAL, "the option takes no data");
}

static int parse_name(const uint8_t *data, size_t len_bytes, struct option_request *ret_request, struct error *err)
{
    ret_request->name = (const char *)data;
    ret_request->name_len_bytes = len_bytes;
    return 0;
}

/* 32 bits of length and a string. */
static int take_string(struct cursor *c, const char **ret_string, size_t *ret_len_bytes, struct error *err)
{
    uint32_t len_bytes = cursor_be32(c);
    const char *string = cursor_bytes(c, len_bytes);

    if (string == NULL)
        return error_set(err, -EINVAL, "a string is longer than the data of the option");
    if (len_bytes > NBD_MAX_STRING)
        return error_set(err, -EINVAL, "a string has more than %u bytes", NBD_MAX_STRING);
    *ret_string = string;
    *ret_len_bytes = len_bytes;
    return 0;
}

static int parse_info(const uint8_t *data, size_t len_bytes, struct option_request *ret_request, struct error *err)
{
    struct cursor c = cursor_init(data, len_bytes);
    int rc = take_string(&c, &ret_request->name, &ret_request->name_len_bytes, err);
    uint16_t count;

    if (rc < 0)
        return rc;
    count = cursor_be16(&c);
    for (unsigned i = 0; i < count && !c.failed; i++) {
        uint16_t info = cursor_be16(&c);

        /* "The server MUST ignore any information requests it does not understand." */
        if (!c.failed && info <= NBD_INFO_BLOCK_SIZE)
            ret_request->infos |= 1u << info;
    }
    if (!cursor_at_end(&c))
        return error_set(err, -EINVAL, "the number of information requests does not fit the data of the option");
    return 0;
}

static int parse_query(struct cursor *c, struct option_request *ret_request, struct error *err)
{
    const char *query;
    size_t len_bytes;
    int rc = take_string(c, &query, &len_bytes, err);

    if (rc < 0)
        return rc;
    if (memchr(query, ':', len_bytes) == NULL)
        return error_set(err, -EINVAL, "a meta context query lacks the colon that ends its namespace");
    ret_request->contexts |= nbd_context_match(query, len_bytes, false);
    ret_request->wildcards |= nbd_context_match(query, len_bytes, true);
    return 0;
}

static int parse_meta(const uint8_t *data, size_t len_bytes, struct option_request *ret_request, struct error *err)
{
    struct cursor c = cursor_init(data, len_bytes);
    int rc = take_string(&c, &ret_request->name, &ret_request->name_len_bytes, err);

    if (rc == 0) {
        ret_request->query_count = cursor_be32(&c);
        if (c.failed)
            rc = error_set(err, -EINVAL, "the number of queries is missing");
    }
    /* Each turn takes at least the four bytes of a length, so a lie about the count ends with the data. */
    for (uint32_t i = 0; rc == 0 && i < ret_request->query_count; i++)
        rc = parse_query(&c, ret_request, err);
    if (rc == 0 && !cursor_at_end(&c))
        rc = error_set(err, -EINVAL, "the option has data after its last query");
    return rc;
}

/* ---- Check ---- */

static uint32_t check_export(const struct handshake *hs, struct option_request *request, struct error *err)
{
    request->entry = nbd_directory_find(hs->directory, request->name, request->name_len_bytes);
    if (request->entry != NULL)
        return 0;
    if (request->name_len_bytes == 0)
        error_set(err, -ENOENT, "there is no default export; ask for one by name");
    else
        error_set(err, -ENOENT, "there is no export of this name");
    return NBD_REP_ERR_UNKNOWN;
}

static uint32_t check_export_name(const struct handshake *hs, struct option_request *request, struct error *err)
{
    if (!hs->extended_headers)
        return check_export(hs, request, err);
    /* extension-ext-header: the client MUST NOT use it; 64-bit sizes of blocks could not be agreed on. */
    error_set(err, -EINVAL, "after NBD_OPT_EXTENDED_HEADERS only NBD_OPT_GO leads to an export");
    return NBD_REP_ERR_EXT_HEADER_REQD;
}

static uint32_t check_structured_reply(const struct handshake *hs, struct option_request *request, struct error *err)
{
    if (!hs->extended_headers)
        return 0;
    error_set(err, -EINVAL, "extended headers have been negotiated, which take the place of structured replies");
    return NBD_REP_ERR_EXT_HEADER_REQD;
}

static uint32_t check_set_meta(const struct handshake *hs, struct option_request *request, struct error *err)
{
    if (!hs->structured_reply && !hs->extended_headers) {
        error_set(err, -EINVAL, "meta contexts need NBD_OPT_STRUCTURED_REPLY or NBD_OPT_EXTENDED_HEADERS first");
        return NBD_REP_ERR_INVALID;
    }
    return check_export(hs, request, err);
}

static uint32_t check_tls(const struct handshake *hs, struct option_request *request, struct error *err)
{
    if (hs->tls == HANDSHAKE_TLS_REQUIRED)
        return 0;
    if (hs->tls == HANDSHAKE_TLS_ACTIVE) {
        /* "NBD_OPT_STARTTLS": if TLS is in use already, the answer is ERR_INVALID. */
        error_set(err, -EINVAL, "TLS is in use already");
        return NBD_REP_ERR_INVALID;
    }
    error_set(err, -EPERM, "TLS is not configured on this server");
    return NBD_REP_ERR_POLICY;
}

/* ---- Handle ---- */

static void choose(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    hs->chosen_serial = entry->serial;
    hs->state = HANDSHAKE_NEGOTIATED;
}

static void handle_export_name(struct handshake *hs, const struct option_request *request)
{
    static const uint8_t padding[NBD_EXPORT_NAME_PAD];
    struct nbd_export_name_reply reply = {
        .size_bytes = htobe64(request->entry->size_bytes),
        .flags = htobe16(nbd_transmission_flags(hs, request->entry)),
    };

    handshake_put(hs, &reply, sizeof(reply));
    if (!hs->no_zeroes)
        handshake_put(hs, padding, sizeof(padding));
    choose(hs, request->entry);
}

static void handle_abort(struct handshake *hs, const struct option_request *request)
{
    handshake_put_reply(hs, NBD_REP_ACK, 0);
    /* An operator who looks for the reason finds it: what it asked for before was refused for want of TLS. */
    if (hs->tls == HANDSHAKE_TLS_REQUIRED && hs->options_seen > 1)
        handshake_end(hs, false, "the client asked without TLS, which this server requires, and gave up");
    else
        handshake_end(hs, true, "the client ended the handshake with NBD_OPT_ABORT");
}

static void put_server(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    uint32_t name_len = htobe32(entry->name_len_bytes);
    size_t strings_len = (size_t)entry->name_len_bytes + entry->description_len_bytes;

    handshake_put_reply(hs, NBD_REP_SERVER, sizeof(name_len) + strings_len);
    handshake_put(hs, &name_len, sizeof(name_len));
    handshake_put(hs, nbd_directory_name(hs->directory, entry), strings_len);
}

void nbd_option_list_continue(struct handshake *hs)
{
    const struct nbd_directory *directory = hs->directory->directory;

    while (hs->list_next < directory->count &&
           sizeof(hs->out) - hs->out_len_bytes >= HANDSHAKE_REPLY_MAX + sizeof(struct nbd_option_reply))
        put_server(hs, &directory->entries[hs->list_next++]);
    if (hs->list_next < directory->count)
        return;
    hs->listing = false;
    handshake_put_reply(hs, NBD_REP_ACK, 0);
}

static void handle_list(struct handshake *hs, const struct option_request *request)
{
    hs->listing = true;
    hs->list_next = 0;
    nbd_option_list_continue(hs);
}

static void put_info_export(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    struct nbd_info_export info = {
        .type = htobe16(NBD_INFO_EXPORT),
        .size_bytes = htobe64(entry->size_bytes),
        .flags = htobe16(nbd_transmission_flags(hs, entry)),
    };

    handshake_put_reply(hs, NBD_REP_INFO, sizeof(info));
    handshake_put(hs, &info, sizeof(info));
}

static void put_info_string(struct handshake *hs, uint16_t type, const char *string, size_t len_bytes)
{
    uint16_t be_type = htobe16(type);

    handshake_put_reply(hs, NBD_REP_INFO, sizeof(be_type) + len_bytes);
    handshake_put(hs, &be_type, sizeof(be_type));
    handshake_put(hs, string, len_bytes);
}

static void put_info_name(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    put_info_string(hs, NBD_INFO_NAME, nbd_directory_name(hs->directory, entry), entry->name_len_bytes);
}

static void put_info_description(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    if (entry->description_len_bytes > 0)
        put_info_string(hs, NBD_INFO_DESCRIPTION, nbd_directory_description(hs->directory, entry),
                        entry->description_len_bytes);
}

static void put_info_block_size(struct handshake *hs, const struct nbd_directory_entry *entry)
{
    struct nbd_info_block_size info = {
        .type = htobe16(NBD_INFO_BLOCK_SIZE),
        .minimum_bytes = htobe32(entry->min_block_bytes),
        .preferred_bytes = htobe32(entry->preferred_block_bytes),
        .max_payload_bytes = htobe32(entry->max_payload_bytes),
    };

    handshake_put_reply(hs, NBD_REP_INFO, sizeof(info));
    handshake_put(hs, &info, sizeof(info));
}

static void handle_info(struct handshake *hs, const struct option_request *request)
{
    static void (*const put[])(struct handshake *hs, const struct nbd_directory_entry *entry) = {
        [NBD_INFO_EXPORT] = put_info_export,
        [NBD_INFO_NAME] = put_info_name,
        [NBD_INFO_DESCRIPTION] = put_info_description,
        [NBD_INFO_BLOCK_SIZE] = put_info_block_size,
    };
    uint32_t infos = request->infos | 1u << NBD_INFO_EXPORT;

    for (unsigned i = 0; i < ARRAY_SIZE(put); i++)
        if ((infos & 1u << i) != 0)
            put[i](hs, request->entry);
    handshake_put_reply(hs, NBD_REP_ACK, 0);
}

static void handle_go(struct handshake *hs, const struct option_request *request)
{
    handle_info(hs, request);
    choose(hs, request->entry);
}

static void handle_structured_reply(struct handshake *hs, const struct option_request *request)
{
    hs->structured_reply = true;
    handshake_put_reply(hs, NBD_REP_ACK, 0);
}

static void handle_extended_headers(struct handshake *hs, const struct option_request *request)
{
    hs->extended_headers = true;
    handshake_put_reply(hs, NBD_REP_ACK, 0);
}

static void put_contexts(struct handshake *hs, uint32_t contexts, bool with_ids)
{
    for (unsigned i = 0; i < nbd_contexts_count; i++) {
        const struct nbd_context *context = &nbd_contexts[i];
        /* "NBD_OPT_LIST_META_CONTEXT": the id is reserved and SHOULD be zero. */
        uint32_t be_id = htobe32(with_ids ? nbd_context_id(context) : 0);

        if ((contexts & context->bit) == 0)
            continue;
        handshake_put_reply(hs, NBD_REP_META_CONTEXT, sizeof(be_id) + strlen(context->name));
        handshake_put(hs, &be_id, sizeof(be_id));
        handshake_put(hs, context->name, strlen(context->name));
    }
    handshake_put_reply(hs, NBD_REP_ACK, 0);
}

static void handle_list_meta(struct handshake *hs, const struct option_request *request)
{
    uint32_t contexts = request->query_count == 0 ? IPC_NBD_CONTEXTS_ALL : request->contexts | request->wildcards;

    put_contexts(hs, contexts & request->entry->contexts, false);
}

static void handle_set_meta(struct handshake *hs, const struct option_request *request)
{
    hs->contexts = request->contexts & request->entry->contexts;
    hs->contexts_serial = request->entry->serial;
    put_contexts(hs, hs->contexts, true);
}

static void handle_tls(struct handshake *hs, const struct option_request *request)
{
    handshake_put_reply(hs, NBD_REP_ACK, 0);
    hs->state = HANDSHAKE_STARTTLS;
}

/* ---- The table ---- */

#define OPTION_INFO_DATA_MAX (4 + NBD_MAX_STRING + 2 + 2 * 64)

const struct nbd_option nbd_options[] = {
    { NBD_OPT_EXPORT_NAME, "NBD_OPT_EXPORT_NAME", .data_max_bytes = NBD_MAX_STRING, .without_reply = true,
      .parse = parse_name, .check = check_export_name, .handle = handle_export_name },
    { NBD_OPT_ABORT, "NBD_OPT_ABORT", .ignores_data = true, .in_clear = true, .parse = parse_nothing,
      .handle = handle_abort },
    { NBD_OPT_LIST, "NBD_OPT_LIST", .parse = parse_nothing, .handle = handle_list },
    { NBD_OPT_STARTTLS, "NBD_OPT_STARTTLS", .in_clear = true, .parse = parse_nothing, .check = check_tls,
      .handle = handle_tls },
    { NBD_OPT_INFO, "NBD_OPT_INFO", .data_max_bytes = OPTION_INFO_DATA_MAX, .parse = parse_info,
      .check = check_export, .handle = handle_info },
    { NBD_OPT_GO, "NBD_OPT_GO", .data_max_bytes = OPTION_INFO_DATA_MAX, .parse = parse_info, .check = check_export,
      .handle = handle_go },
    { NBD_OPT_STRUCTURED_REPLY, "NBD_OPT_STRUCTURED_REPLY", .parse = parse_nothing,
      .check = check_structured_reply, .handle = handle_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, "NBD_OPT_LIST_META_CONTEXT", .data_max_bytes = HANDSHAKE_OPTION_BYTES_MAX,
      .parse = parse_meta, .check = check_export, .handle = handle_list_meta },
    { NBD_OPT_SET_META_CONTEXT, "NBD_OPT_SET_META_CONTEXT", .data_max_bytes = HANDSHAKE_OPTION_BYTES_MAX,
      .resets_contexts = true, .parse = parse_meta, .check = check_set_meta, .handle = handle_set_meta },
    { NBD_OPT_EXTENDED_HEADERS, "NBD_OPT_EXTENDED_HEADERS", .parse = parse_nothing,
      .handle = handle_extended_headers },
};
const unsigned nbd_options_count = ARRAY_SIZE(nbd_options);

const struct nbd_option *nbd_option_find(uint32_t option)
{
    for (unsigned i = 0; i < ARRAY_SIZE(nbd_options); i++)
        if (nbd_options[i].option == option)
            return &nbd_options[i];
    return NULL;
}

static void refuse(struct handshake *hs, const struct nbd_option *option, uint32_t reply, const struct error *err)
{
    if (option->without_reply)
        handshake_end(hs, false, "%s: %s", option->name, err->text);
    else
        handshake_put_error(hs, reply, err->text);
}

void nbd_option_run(struct handshake *hs, const struct nbd_option *option, const uint8_t *data, size_t len_bytes)
{
    struct option_request request = { 0 };
    struct error err = { 0 };
    uint32_t reply = 0;

    if (option->parse(data, len_bytes, &request, &err) < 0)
        reply = NBD_REP_ERR_INVALID;
    else if (option->check != NULL)
        reply = option->check(hs, &request, &err);
    if (reply != 0)
        refuse(hs, option, reply, &err);
    else
        option->handle(hs, &request);
}
