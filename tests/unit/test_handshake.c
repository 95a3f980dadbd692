/* SPDX-License-Identifier: BSD-2-Clause */
/* The handshake as a client sees it, byte for byte: each rule of proto.md with the twin that breaks it. */
#include "tests/unit/unit.h"

#include <endian.h>
#include <errno.h>

#include "common/base/cursor.h"
#include "nbd-worker/negotiate/options.h"
#include "tests/unit/nbd_directory.h"
#include "tests/unit/nbd_docs.h"

#define FLAGS_BOTH   (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)
#define OUT_MAX      (1u << 20)
#define MANY_EXPORTS 200

static const struct test_export exports[] = {
    { "disk", "a disk", { .serial = 7, .size_bytes = 1 << 20, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION,
                          .flags = NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_FAST_ZERO | NBD_DIRECTORY_MULTI_CONN } },
    { "rom", "", { .serial = 8, .size_bytes = 4096, .min_block_bytes = 512,
                   .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION } },
    { "bare", "", { .serial = 9, .size_bytes = 4096 } },
    { "rich", "", { .serial = 10, .size_bytes = 4096, .contexts = IPC_NBD_CONTEXTS_ALL } },
};

/* One client: what it sends goes in by small pieces, what it gets is collected. */
struct client {
    struct nbd_directory_view view;
    struct handshake hs;
    size_t piece_bytes;
    uint8_t out[OUT_MAX];
    size_t out_bytes;
    struct cursor got; /* over out */
    size_t not_taken_bytes; /* of what was sent, that the handshake did not want */
};

static void client_drain(struct client *c)
{
    const uint8_t *data;
    size_t n;

    while ((n = handshake_output(&c->hs, &data)) > 0) {
        n = MIN(n, c->piece_bytes);
        assert_true(c->out_bytes + n <= sizeof(c->out));
        memcpy(c->out + c->out_bytes, data, n);
        c->out_bytes += n;
        c->got.left_bytes += n;
        handshake_sent(&c->hs, n);
    }
}

static void client_send(struct client *c, const void *data, size_t len_bytes)
{
    const uint8_t *p = data;
    uint8_t *buffer;

    while (len_bytes > 0) {
        size_t n = handshake_wanted(&c->hs, &buffer);

        if (n == 0)
            break;
        n = MIN(MIN(n, len_bytes), c->piece_bytes);
        memcpy(buffer, p, n);
        p += n;
        len_bytes -= n;
        handshake_received(&c->hs, n);
        client_drain(c);
    }
    c->not_taken_bytes = len_bytes;
}

static struct client *client_start(const struct test_export *list, unsigned count, uint32_t flags)
{
    struct client *c = calloc(1, sizeof(*c));
    uint32_t be_flags = htobe32(flags);

    c->view.directory = test_directory_new(list, count);
    c->piece_bytes = SIZE_MAX;
    c->got = cursor_init(c->out, 0);
    handshake_init(&c->hs, &c->view);
    client_drain(c);
    assert_int_equal(c->out_bytes, 0);
    client_send(c, &be_flags, sizeof(be_flags));
    return c;
}

static struct client *client_new(uint32_t flags)
{
    return client_start(exports, ARRAY_SIZE(exports), flags);
}

static void client_free(struct client *c)
{
    free((void *)(uintptr_t)c->view.directory);
    free(c);
}

static void send_header(struct client *c, uint32_t option, uint32_t len_bytes)
{
    struct nbd_option_header header = { htobe64(NBD_NEW_VERSION), htobe32(option), htobe32(len_bytes) };

    client_send(c, &header, sizeof(header));
}

static void send_option(struct client *c, uint32_t option, const void *data, size_t len_bytes)
{
    send_header(c, option, (uint32_t)len_bytes);
    client_send(c, data, len_bytes);
}

struct data {
    uint8_t bytes[1024];
    size_t len_bytes;
};

static void data_number(struct data *d, uint64_t value, unsigned width)
{
    for (unsigned i = 0; i < width; i++)
        d->bytes[d->len_bytes++] = (uint8_t)(value >> 8 * (width - 1 - i));
}

static void data_string(struct data *d, const char *s)
{
    data_number(d, strlen(s), 4);
    memcpy(d->bytes + d->len_bytes, s, strlen(s));
    d->len_bytes += strlen(s);
}

static void send_info(struct client *c, uint32_t option, const char *name, unsigned count, const uint16_t *infos)
{
    struct data d = { .len_bytes = 0 };

    data_string(&d, name);
    data_number(&d, count, 2);
    for (unsigned i = 0; i < count; i++)
        data_number(&d, infos[i], 2);
    send_option(c, option, d.bytes, d.len_bytes);
}

static void send_meta(struct client *c, uint32_t option, const char *name, unsigned count, const char *const *queries)
{
    struct data d = { .len_bytes = 0 };

    data_string(&d, name);
    data_number(&d, count, 4);
    for (unsigned i = 0; i < count; i++)
        data_string(&d, queries[i]);
    send_option(c, option, d.bytes, d.len_bytes);
}

/* The next option reply; its data are left in *ret_data. */
static uint32_t get_reply(struct client *c, uint32_t option, struct cursor *ret_data)
{
    uint32_t type, len_bytes;

    assert_true(cursor_be64(&c->got) == NBD_REP_MAGIC);
    assert_int_equal(cursor_be32(&c->got), option);
    type = cursor_be32(&c->got);
    len_bytes = cursor_be32(&c->got);
    *ret_data = cursor_init(cursor_bytes(&c->got, len_bytes), len_bytes);
    assert_false(c->got.failed);
    return type;
}

static void assert_reply(struct client *c, uint32_t option, uint32_t type)
{
    struct cursor data;

    assert_int_equal(get_reply(c, option, &data), type);
    if (type == NBD_REP_ACK)
        assert_true(cursor_at_end(&data));
    assert_true(cursor_at_end(&c->got));
}

static void assert_text(struct cursor *data, const char *text)
{
    const char *p = cursor_bytes(data, strlen(text));

    assert_non_null(p);
    assert_memory_equal(p, text, strlen(text));
    assert_true(cursor_at_end(data));
}

static void assert_ended(struct client *c, const char *reason)
{
    assert_int_equal(c->hs.state, HANDSHAKE_ENDED);
    assert_true(handshake_is_over(&c->hs));
    assert_false(c->hs.left_in_order);
    assert_non_null(strstr(c->hs.reason, reason));
}

/* ---- Client flags ---- */

static void test_client_flags(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    assert_int_equal(c->hs.state, HANDSHAKE_OPTION_HEADER);
    assert_int_equal(c->out_bytes, 0);
    client_free(c);
}

static void test_errors_unknown_client_flag(void **state)
{
    struct client *c = client_new(FLAGS_BOTH | 4);

    assert_ended(c, "unknown client flags");
    client_free(c);
}

static void test_errors_option_without_fixed_newstyle(void **state)
{
    struct client *c = client_new(0);

    send_header(c, NBD_OPT_LIST, 0);
    assert_ended(c, "without NBD_FLAG_C_FIXED_NEWSTYLE");
    client_free(c);
}

static void test_errors_option_magic(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);
    struct nbd_option_header header = { htobe64(NBD_MAGIC), htobe32(NBD_OPT_LIST), 0 };

    client_send(c, &header, sizeof(header));
    assert_ended(c, "wrong option magic");
    client_free(c);
}

/* ---- EXPORT_NAME ---- */

static void test_export_name_with_zeroes(void **state)
{
    struct client *c = client_new(0);

    send_option(c, NBD_OPT_EXPORT_NAME, "disk", 4);
    assert_true(cursor_be64(&c->got) == 1 << 20);
    assert_int_equal(cursor_be16(&c->got), NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                                               NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                                               NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
                                               NBD_FLAG_SEND_FAST_ZERO);
    assert_int_equal(c->got.left_bytes, NBD_EXPORT_NAME_PAD);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    client_free(c);
}

static void test_export_name_without_zeroes(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_EXPORT_NAME, "rom", 3);
    assert_true(cursor_be64(&c->got) == 4096);
    assert_int_equal(cursor_be16(&c->got), NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH |
                                               NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE);
    assert_true(cursor_at_end(&c->got));
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    client_free(c);
}

static void test_errors_export_name_unknown(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_EXPORT_NAME, "disc", 4);
    assert_ended(c, "no export of this name");
    client_free(c);
}

static void test_errors_export_name_without_default(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_EXPORT_NAME, "", 0);
    assert_ended(c, "no default export");
    client_free(c);
}

static void test_errors_export_name_too_long(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_header(c, NBD_OPT_EXPORT_NAME, NBD_MAX_STRING + 1);
    assert_ended(c, "cannot be refused otherwise");
    client_free(c);
}

static void test_default_export(void **state)
{
    static const struct test_export one = { "", "", { .serial = 3, .size_bytes = 512 } };
    struct client *c = client_start(&one, 1, FLAGS_BOTH);

    send_info(c, NBD_OPT_GO, "", 0, NULL);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    assert_int_equal(c->hs.chosen_serial, 3);
    client_free(c);
}

/* ---- INFO and GO ---- */

static void test_go_then_not_one_byte_more(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);
    struct ipc_nbd_negotiated result;
    struct cursor data;
    uint8_t request[28] = { 0x25, 0x60, 0x95, 0x13 };

    send_info(c, NBD_OPT_GO, "disk", 0, NULL);
    assert_int_equal(get_reply(c, NBD_OPT_GO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_EXPORT);
    assert_true(cursor_be64(&data) == 1 << 20);
    assert_int_equal(cursor_be16(&data) & NBD_FLAG_SEND_DF, 0);
    assert_true(cursor_at_end(&data));
    assert_reply(c, NBD_OPT_GO, NBD_REP_ACK);
    assert_true(handshake_is_over(&c->hs));
    client_send(c, request, sizeof(request));
    assert_int_equal(c->not_taken_bytes, sizeof(request));
    handshake_result(&c->hs, 42, &result);
    assert_int_equal(result.client_id, 42);
    assert_int_equal(result.export_serial, 7);
    assert_int_equal(result.flags, 0);
    assert_int_equal(result.contexts, 0);
    client_free(c);
}

static void test_request_sent_along_with_go_is_left_alone(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);
    struct data d = { .len_bytes = 0 };

    data_number(&d, NBD_NEW_VERSION, 8);
    data_number(&d, NBD_OPT_GO, 4);
    data_number(&d, 4 + 4 + 2, 4);
    data_string(&d, "disk");
    data_number(&d, 0, 2);
    data_number(&d, NBD_REQUEST_MAGIC, 4);
    client_send(c, d.bytes, d.len_bytes);
    assert_int_equal(c->not_taken_bytes, 4);
    client_free(c);
}

static void test_info_gives_what_is_asked_for(void **state)
{
    static const uint16_t infos[] = { NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, 99, NBD_INFO_NAME };
    struct client *c = client_new(FLAGS_BOTH);
    struct cursor data;

    send_info(c, NBD_OPT_INFO, "disk", ARRAY_SIZE(infos), infos);
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_EXPORT);
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_NAME);
    assert_text(&data, "disk");
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_DESCRIPTION);
    assert_text(&data, "a disk");
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(cursor_be32(&data), 1);
    assert_int_equal(cursor_be32(&data), 4096);
    assert_int_equal(cursor_be32(&data), NBD_MAX_PAYLOAD);
    assert_true(cursor_at_end(&data));
    assert_reply(c, NBD_OPT_INFO, NBD_REP_ACK);
    assert_int_equal(c->hs.state, HANDSHAKE_OPTION_HEADER);
    client_free(c);
}

static void test_no_description_is_not_sent(void **state)
{
    static const uint16_t info = NBD_INFO_DESCRIPTION;
    struct client *c = client_new(FLAGS_BOTH);
    struct cursor data;

    send_info(c, NBD_OPT_INFO, "rom", 1, &info);
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    assert_int_equal(cursor_be16(&data), NBD_INFO_EXPORT);
    assert_reply(c, NBD_OPT_INFO, NBD_REP_ACK);
    client_free(c);
}

static void test_errors_go_unknown_export_can_be_repeated(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_info(c, NBD_OPT_GO, "disc", 0, NULL);
    assert_reply(c, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
    send_info(c, NBD_OPT_GO, "disk", 0, NULL);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    client_free(c);
}

static void test_errors_info_data(void **state)
{
    static const struct {
        uint32_t name_len_bytes;
        unsigned name_sent_bytes;
        uint16_t count;
        unsigned tail_bytes;
    } bad[] = {
        { 5, 4, 0, 0 },          /* the name takes a byte of the count */
        { UINT32_MAX, 4, 0, 0 }, /* the name is longer than all */
        { 4, 4, 1, 0 },          /* an information request is missing */
        { 4, 4, 1, 1 },          /* or half of it */
        { 4, 4, 0, 2 },          /* data after the end */
    };
    struct client *c = client_new(FLAGS_BOTH);

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct data d = { .len_bytes = 0 };

        data_number(&d, bad[i].name_len_bytes, 4);
        memcpy(d.bytes + d.len_bytes, "disk", bad[i].name_sent_bytes);
        d.len_bytes += bad[i].name_sent_bytes;
        data_number(&d, bad[i].count, 2);
        data_number(&d, 0, bad[i].tail_bytes);
        send_option(c, NBD_OPT_GO, d.bytes, d.len_bytes);
        assert_reply(c, NBD_OPT_GO, NBD_REP_ERR_INVALID);
    }
    send_option(c, NBD_OPT_GO, "", 0);
    assert_reply(c, NBD_OPT_GO, NBD_REP_ERR_INVALID);
    client_free(c);
}

static void test_errors_info_too_big(void **state)
{
    static const uint8_t zeroes[NBD_MAX_STRING + 1024];
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_INFO, zeroes, sizeof(zeroes));
    assert_reply(c, NBD_OPT_INFO, NBD_REP_ERR_TOO_BIG);
    client_free(c);
}

/* ---- LIST, ABORT and what is not supported ---- */

static void test_list(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);
    struct cursor data;

    send_option(c, NBD_OPT_LIST, "", 0);
    for (unsigned i = 0; i < ARRAY_SIZE(exports); i++) {
        assert_int_equal(get_reply(c, NBD_OPT_LIST, &data), NBD_REP_SERVER);
        assert_int_equal(cursor_be32(&data), strlen(exports[i].name));
        assert_memory_equal(cursor_bytes(&data, strlen(exports[i].name)), exports[i].name, strlen(exports[i].name));
        assert_text(&data, exports[i].description);
    }
    assert_reply(c, NBD_OPT_LIST, NBD_REP_ACK);
    client_free(c);
}

/* Longer than the output buffer: the list is made in pieces, and nothing is received before its end. */
static void test_long_list(void **state)
{
    static char description[NBD_MAX_STRING + 1];
    struct test_export many[MANY_EXPORTS];
    struct client *c;
    struct cursor data;
    uint8_t *buffer;

    memset(description, 'x', NBD_MAX_STRING);
    for (unsigned i = 0; i < MANY_EXPORTS; i++)
        many[i] = (struct test_export){ "export", description, { 0 } };
    c = client_start(many, MANY_EXPORTS, FLAGS_BOTH);
    c->piece_bytes = 1000;
    send_option(c, NBD_OPT_LIST, "", 0);
    for (unsigned i = 0; i < MANY_EXPORTS; i++)
        assert_int_equal(get_reply(c, NBD_OPT_LIST, &data), NBD_REP_SERVER);
    assert_reply(c, NBD_OPT_LIST, NBD_REP_ACK);
    assert_int_equal(handshake_wanted(&c->hs, &buffer), sizeof(struct nbd_option_header));
    client_free(c);
}

static void test_errors_list_with_data(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_LIST, "x", 1);
    assert_reply(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
    client_free(c);
}

static void test_abort(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_ABORT, "", 0);
    assert_reply(c, NBD_OPT_ABORT, NBD_REP_ACK);
    assert_int_equal(c->hs.state, HANDSHAKE_ENDED);
    assert_true(c->hs.left_in_order);
    client_free(c);
}

/* "A server SHOULD ignore any data sent by the client rather than rejecting the request as invalid." */
static void test_abort_ignores_data(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_ABORT, "going", 5);
    assert_reply(c, NBD_OPT_ABORT, NBD_REP_ACK);
    assert_true(c->hs.left_in_order);
    client_free(c);
}

static void test_unknown_option_is_skipped(void **state)
{
    static const uint8_t zeroes[HANDSHAKE_OPTION_BYTES_MAX * 3 + 17];
    struct client *c = client_new(FLAGS_BOTH);

    c->piece_bytes = 20000;
    send_option(c, 12345, zeroes, sizeof(zeroes));
    assert_reply(c, 12345, NBD_REP_ERR_UNSUP);
    send_option(c, NBD_OPT_EXTENDED_HEADERS + 1, "", 0);
    assert_reply(c, NBD_OPT_EXTENDED_HEADERS + 1, NBD_REP_ERR_UNSUP);
    send_option(c, NBD_OPT_STARTTLS, "", 0);
    assert_reply(c, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
    send_option(c, NBD_OPT_STARTTLS, "x", 1);
    assert_reply(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
    client_free(c);
}

static void test_limit_of_bytes(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_header(c, 12345, HANDSHAKE_BYTES_MAX);
    assert_ended(c, "exceed");
    client_free(c);
}

static void test_limit_of_options(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    for (unsigned i = 0; i < HANDSHAKE_OPTIONS_MAX; i++) {
        c->out_bytes = 0;
        c->got = cursor_init(c->out, 0);
        send_header(c, NBD_OPT_STRUCTURED_REPLY, 0);
        assert_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    }
    send_header(c, NBD_OPT_STRUCTURED_REPLY, 0);
    assert_ended(c, "more than");
    client_free(c);
}

/* ---- Structured replies and meta contexts ---- */

static const char *const allocation[] = { "base:allocation" };

static struct client *client_structured(void)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_STRUCTURED_REPLY, "", 0);
    assert_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
    return c;
}

static void assert_context(struct client *c, uint32_t option, uint32_t id)
{
    struct cursor data;

    assert_int_equal(get_reply(c, option, &data), NBD_REP_META_CONTEXT);
    assert_int_equal(cursor_be32(&data), id);
    assert_text(&data, "base:allocation");
    assert_reply(c, option, NBD_REP_ACK);
}

static uint32_t contexts_after_go(struct client *c, const char *name)
{
    struct ipc_nbd_negotiated result;

    send_info(c, NBD_OPT_GO, name, 0, NULL);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    handshake_result(&c->hs, 1, &result);
    assert_int_equal(result.flags, IPC_NBD_STRUCTURED_REPLY);
    return result.contexts;
}

static void test_structured_reply_offers_df(void **state)
{
    struct client *c = client_structured();
    struct cursor data;

    send_info(c, NBD_OPT_INFO, "disk", 0, NULL);
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    cursor_bytes(&data, 10);
    assert_true((cursor_be16(&data) & NBD_FLAG_SEND_DF) != 0);
    client_free(c);
}

static void test_errors_structured_reply_with_data(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_STRUCTURED_REPLY, "x", 1);
    assert_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
    assert_false(c->hs.structured_reply);
    client_free(c);
}

static void test_set_meta_context(void **state)
{
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    assert_int_equal(contexts_after_go(c, "disk"), IPC_NBD_CONTEXT_BASE_ALLOCATION);
    client_free(c);
}

static void test_contexts_of_another_export_do_not_count(void **state)
{
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    assert_int_equal(contexts_after_go(c, "rom"), 0);
    client_free(c);
}

static void test_set_meta_context_replaces(void **state)
{
    static const char *const other[] = { "x-other:thing" };
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, other);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    assert_int_equal(contexts_after_go(c, "disk"), 0);
    client_free(c);
}

/* "Issuing this command replaces all previously-set metadata contexts (including when this command fails)." */
static void test_failed_set_meta_context_forgets(void **state)
{
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disc", 1, allocation);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
    assert_int_equal(contexts_after_go(c, "disk"), 0);
    client_free(c);
}

static void test_set_meta_context_ignores_wildcard_and_none(void **state)
{
    static const char *const wildcard[] = { "base:", "base:unknown" };
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 2, wildcard);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 0, NULL);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    client_free(c);
}

static void test_context_that_the_export_does_not_offer(void **state)
{
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "bare", 1, allocation);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "bare", 0, NULL);
    assert_reply(c, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
    client_free(c);
}

static void test_errors_set_meta_context_without_structured_reply(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    client_free(c);
}

static void test_list_meta_context(void **state)
{
    static const char *const wildcard[] = { "base:" };
    static const char *const others[] = { "qemu:allocation-depth", "base:other" };
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disk", 0, NULL);
    assert_context(c, NBD_OPT_LIST_META_CONTEXT, 0);
    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disk", 1, wildcard);
    assert_context(c, NBD_OPT_LIST_META_CONTEXT, 0);
    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_LIST_META_CONTEXT, 0);
    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disk", 2, others);
    assert_reply(c, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disc", 0, NULL);
    assert_reply(c, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
    client_free(c);
}

static void test_several_contexts(void **state)
{
    static const char *const both[] = { "qemu:allocation-depth", "x-no:such", "base:allocation", "base:allocation" };
    static const char *const wildcards[] = { "qemu:", "base:" };
    struct client *c = client_structured();
    struct cursor data;

    send_meta(c, NBD_OPT_LIST_META_CONTEXT, "disk", 4, both); /* of which it offers one */
    assert_context(c, NBD_OPT_LIST_META_CONTEXT, 0);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t option = i == 0 ? NBD_OPT_SET_META_CONTEXT : NBD_OPT_LIST_META_CONTEXT;

        if (i == 2)
            send_meta(c, option, "rich", 2, wildcards);
        else
            send_meta(c, option, "rich", 4, both);
        assert_int_equal(get_reply(c, option, &data), NBD_REP_META_CONTEXT);
        assert_int_equal(cursor_be32(&data), i == 0 ? 1 : 0);
        assert_text(&data, "base:allocation");
        assert_int_equal(get_reply(c, option, &data), NBD_REP_META_CONTEXT);
        assert_int_equal(cursor_be32(&data), i == 0 ? 2 : 0);
        assert_text(&data, "qemu:allocation-depth");
        assert_reply(c, option, NBD_REP_ACK);
    }
    assert_int_equal(contexts_after_go(c, "rich"), IPC_NBD_CONTEXTS_ALL);
    client_free(c);
}

static void test_errors_meta_context_data(void **state)
{
    static const char *const no_colon[] = { "base" };
    struct client *c = client_structured();
    struct data d = { .len_bytes = 0 };

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, no_colon);
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    data_string(&d, "disk");
    send_option(c, NBD_OPT_SET_META_CONTEXT, d.bytes, d.len_bytes); /* no count */
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    data_number(&d, UINT32_MAX, 4);
    send_option(c, NBD_OPT_SET_META_CONTEXT, d.bytes, d.len_bytes); /* no queries */
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    data_number(&d, 1000, 4);
    data_number(&d, 'x', 1);
    send_option(c, NBD_OPT_SET_META_CONTEXT, d.bytes, d.len_bytes); /* a query beyond the end */
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    d.len_bytes = 8;
    data_number(&d, 0, 4);
    data_number(&d, 0, 4);
    send_option(c, NBD_OPT_SET_META_CONTEXT, d.bytes, d.len_bytes); /* data after the last */
    assert_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    client_free(c);
}

/* ---- Extended headers ---- */

static struct client *client_extended(void)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_EXTENDED_HEADERS, "", 0);
    assert_reply(c, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
    return c;
}

static uint16_t flags_of(struct client *c, const char *name)
{
    struct cursor data;

    send_info(c, NBD_OPT_INFO, name, 0, NULL);
    assert_int_equal(get_reply(c, NBD_OPT_INFO, &data), NBD_REP_INFO);
    cursor_bytes(&data, 10);
    assert_reply(c, NBD_OPT_INFO, NBD_REP_ACK);
    return cursor_be16(&data);
}

static void test_extended_headers_are_reported(void **state)
{
    struct client *c = client_extended();
    struct ipc_nbd_negotiated result;

    send_info(c, NBD_OPT_GO, "disk", 0, NULL);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    handshake_result(&c->hs, 1, &result);
    assert_int_equal(result.flags, IPC_NBD_EXTENDED_HEADERS);
    client_free(c);
}

/* They take the place of structured replies, also before contexts. */
static void test_extended_headers_allow_contexts(void **state)
{
    struct client *c = client_extended();

    assert_int_equal(flags_of(c, "disk") & (NBD_FLAG_SEND_DF | NBD_FLAG_BLOCK_STATUS_PAYLOAD), NBD_FLAG_SEND_DF);
    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    assert_true((flags_of(c, "disk") & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0);
    assert_true((flags_of(c, "rom") & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0); /* the contexts are not for it */
    client_free(c);
}

static void test_payload_is_not_offered_without_extended_headers(void **state)
{
    struct client *c = client_structured();

    send_meta(c, NBD_OPT_SET_META_CONTEXT, "disk", 1, allocation);
    assert_context(c, NBD_OPT_SET_META_CONTEXT, 1);
    assert_true((flags_of(c, "disk") & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0);
    client_free(c);
}

static void test_structured_then_extended(void **state)
{
    struct client *c = client_structured();
    struct ipc_nbd_negotiated result;

    send_option(c, NBD_OPT_EXTENDED_HEADERS, "", 0);
    assert_reply(c, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
    send_info(c, NBD_OPT_GO, "disk", 0, NULL);
    handshake_result(&c->hs, 1, &result);
    assert_int_equal(result.flags, IPC_NBD_FLAGS_ALL);
    client_free(c);
}

static void test_errors_structured_reply_after_extended_headers(void **state)
{
    struct client *c = client_extended();

    send_option(c, NBD_OPT_STRUCTURED_REPLY, "", 0);
    assert_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
    client_free(c);
}

static void test_errors_export_name_after_extended_headers(void **state)
{
    struct client *c = client_extended();

    send_option(c, NBD_OPT_EXPORT_NAME, "disk", 4);
    assert_ended(c, "NBD_OPT_EXTENDED_HEADERS");
    client_free(c);
}

static void test_errors_extended_headers_with_data(void **state)
{
    struct client *c = client_new(FLAGS_BOTH);

    send_option(c, NBD_OPT_EXTENDED_HEADERS, "x", 1);
    assert_reply(c, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
    assert_false(c->hs.extended_headers);
    client_free(c);
}

/* ---- The table and pieces ---- */

static void test_docs_have_every_row(void **state)
{
    for (unsigned i = 0; i < nbd_options_count; i++)
        assert_documented(nbd_options[i].name);
}

static void test_option_table(void **state)
{
    for (unsigned i = 0; i < nbd_options_count; i++) {
        const struct nbd_option *option = &nbd_options[i];

        assert_ptr_equal(nbd_option_find(option->option), option); /* hence no duplicates */
        assert_true(strncmp(option->name, "NBD_OPT_", 8) == 0);
        assert_non_null(option->parse);
        assert_non_null(option->handle);
        assert_true(option->data_max_bytes <= HANDSHAKE_OPTION_BYTES_MAX);
        assert_false(option->ignores_data && option->data_max_bytes > 0);
    }
    assert_null(nbd_option_find(0));
}

static void test_byte_by_byte(void **state)
{
    static const uint16_t info = NBD_INFO_NAME;
    struct client *c = client_new(FLAGS_BOTH);

    c->piece_bytes = 1;
    send_option(c, 4, "skipped", 7);
    assert_reply(c, 4, NBD_REP_ERR_UNSUP);
    send_info(c, NBD_OPT_GO, "disk", 1, &info);
    assert_int_equal(c->hs.state, HANDSHAKE_NEGOTIATED);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_flags),
        cmocka_unit_test(test_errors_unknown_client_flag),
        cmocka_unit_test(test_errors_option_without_fixed_newstyle),
        cmocka_unit_test(test_errors_option_magic),
        cmocka_unit_test(test_export_name_with_zeroes),
        cmocka_unit_test(test_export_name_without_zeroes),
        cmocka_unit_test(test_errors_export_name_unknown),
        cmocka_unit_test(test_errors_export_name_without_default),
        cmocka_unit_test(test_errors_export_name_too_long),
        cmocka_unit_test(test_default_export),
        cmocka_unit_test(test_go_then_not_one_byte_more),
        cmocka_unit_test(test_request_sent_along_with_go_is_left_alone),
        cmocka_unit_test(test_info_gives_what_is_asked_for),
        cmocka_unit_test(test_no_description_is_not_sent),
        cmocka_unit_test(test_errors_go_unknown_export_can_be_repeated),
        cmocka_unit_test(test_errors_info_data),
        cmocka_unit_test(test_errors_info_too_big),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_long_list),
        cmocka_unit_test(test_errors_list_with_data),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_abort_ignores_data),
        cmocka_unit_test(test_unknown_option_is_skipped),
        cmocka_unit_test(test_limit_of_bytes),
        cmocka_unit_test(test_limit_of_options),
        cmocka_unit_test(test_structured_reply_offers_df),
        cmocka_unit_test(test_errors_structured_reply_with_data),
        cmocka_unit_test(test_set_meta_context),
        cmocka_unit_test(test_contexts_of_another_export_do_not_count),
        cmocka_unit_test(test_set_meta_context_replaces),
        cmocka_unit_test(test_failed_set_meta_context_forgets),
        cmocka_unit_test(test_set_meta_context_ignores_wildcard_and_none),
        cmocka_unit_test(test_context_that_the_export_does_not_offer),
        cmocka_unit_test(test_errors_set_meta_context_without_structured_reply),
        cmocka_unit_test(test_list_meta_context),
        cmocka_unit_test(test_several_contexts),
        cmocka_unit_test(test_errors_meta_context_data),
        cmocka_unit_test(test_option_table),
        cmocka_unit_test(test_extended_headers_are_reported),
        cmocka_unit_test(test_extended_headers_allow_contexts),
        cmocka_unit_test(test_payload_is_not_offered_without_extended_headers),
        cmocka_unit_test(test_structured_then_extended),
        cmocka_unit_test(test_errors_structured_reply_after_extended_headers),
        cmocka_unit_test(test_errors_export_name_after_extended_headers),
        cmocka_unit_test(test_errors_extended_headers_with_data),
        cmocka_unit_test(test_docs_have_every_row),
        cmocka_unit_test(test_byte_by_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
