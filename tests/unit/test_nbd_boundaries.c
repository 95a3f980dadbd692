/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the next request begins: whatever a request is, however it is refused, its payload is never read as requests.
 * Every payload here is made of requests that would change the image, and behind it comes one that must be understood.
 */
#include "tests/unit/unit.h"

#include <signal.h>

#include "tests/unit/nbd_peer.h"

#define COOKIE      0x1111u
#define SMUGGLED    0xbadu
#define NEXT        0x2222u
#define PAYLOAD_MAX (NBD_PIECES_FROM_BYTES + 4096) /* large enough for a write in pieces */

static uint8_t sent[PAYLOAD_MAX + 2 * NBD_HEADER_BYTES_MAX];

static const uint16_t types[] = {
    NBD_CMD_READ,         NBD_CMD_WRITE,        NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_CACHE,
    NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS, NBD_CMD_MAX,   100,          0xffff
};

static size_t put_header(enum nbd_form form, uint8_t *to, uint16_t type, uint16_t flags, uint64_t cookie,
                         uint64_t offset, uint64_t len)
{
    struct nbd_extended_request wide = { htobe32(NBD_EXTENDED_REQUEST_MAGIC),
                                         htobe16(flags),
                                         htobe16(type),
                                         htobe64(cookie),
                                         htobe64(offset),
                                         htobe64(len) };
    struct nbd_request_header compact = header(type, flags, cookie, offset, (uint32_t)len);

    if (form == NBD_FORM_EXTENDED)
        memcpy(to, &wide, sizeof(wide));
    else
        memcpy(to, &compact, sizeof(compact));
    return nbd_header_bytes(form);
}

/* len_bytes of requests that zero the image. */
static void put_smuggled(enum nbd_form form, uint8_t *to, size_t len_bytes)
{
    for (size_t at = 0; at < len_bytes; at += nbd_header_bytes(form)) {
        uint8_t one[NBD_HEADER_BYTES_MAX];

        put_header(form, one, NBD_CMD_WRITE_ZEROES, 0, SMUGGLED, 0, SIZE);
        memcpy(to + at, one, MIN(nbd_header_bytes(form), len_bytes - at));
    }
}

/* The specification's rule, and what QEMU makes of it. */
static bool has_payload(enum nbd_form form, uint16_t type, uint16_t flags)
{
    return type == NBD_CMD_WRITE || (form == NBD_FORM_EXTENDED && (flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0);
}

/* Take the next reply or chunk; returns its cookie. */
static uint64_t take_reply(struct peer *peer, uint64_t read_bytes)
{
    uint32_t magic = cursor_be32(&peer->at), error;
    uint64_t cookie, len_bytes;

    if (magic == NBD_SIMPLE_REPLY_MAGIC) {
        error = cursor_be32(&peer->at);
        cookie = cursor_be64(&peer->at);
        len_bytes = error == 0 && cookie == COOKIE ? read_bytes : 0;
    } else {
        assert_true(magic == NBD_STRUCTURED_REPLY_MAGIC || magic == NBD_EXTENDED_REPLY_MAGIC);
        cursor_be32(&peer->at); /* flags and type */
        cookie = cursor_be64(&peer->at);
        if (magic == NBD_EXTENDED_REPLY_MAGIC)
            cursor_be64(&peer->at);
        len_bytes = magic == NBD_EXTENDED_REPLY_MAGIC ? cursor_be64(&peer->at) : cursor_be32(&peer->at);
    }
    cursor_bytes(&peer->at, (size_t)len_bytes);
    assert_false(peer->at.failed);
    return cookie;
}

static void send_in_steps(struct peer *peer, size_t len_bytes, size_t step_bytes)
{
    for (size_t at = 0; at < len_bytes; at += step_bytes) {
        peer_send(peer, sent + at, MIN(step_bytes, len_bytes - at));
        if (step_bytes < len_bytes)
            turns();
    }
}

static unsigned zeroes_logged(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fake.log_count; i++)
        count += fake.log[i].op == BLOCK_OP_WRITE_ZEROES && fake.log[i].len_bytes == SIZE;
    return count;
}

/* One request with whatever payload it has, and NEXT: both are answered, and nothing else is. */
static void check_one(struct peer *peer, enum nbd_form form, uint16_t type, uint16_t flags, uint64_t offset,
                      size_t len_bytes, size_t step_bytes)
{
    size_t n = put_header(form, sent, type, flags, COOKIE, offset, len_bytes);
    uint64_t cookie;

    if (has_payload(form, type, flags)) {
        put_smuggled(form, sent + n, len_bytes);
        n += len_bytes;
    }
    n += put_header(form, sent + n, NBD_CMD_FLUSH, 0, NEXT, 0, 0);
    fake.log_count = 0;
    peer->got_bytes = 0;
    peer->at = cursor_init(peer->got, 0);
    send_in_steps(peer, n, step_bytes);
    settle_all(peer);
    do {
        cookie = take_reply(peer, type == NBD_CMD_READ ? len_bytes : 0);
        assert_true(cookie == COOKIE || cookie == NEXT);
    } while (cookie != NEXT);
    assert_true(cursor_at_end(&peer->at));
    assert_int_equal(zeroes_logged(), 0);
}

static void check_commands(enum nbd_form form, uint32_t contexts, uint64_t offset)
{
    static const size_t lengths[] = { 0, 12, 3 * 28, 3 * 32, 5000 };
    uint32_t flags = form == NBD_FORM_SIMPLE ? 0 : IPC_NBD_STRUCTURED_REPLY;
    struct peer *peer = peer_join(0, form == NBD_FORM_EXTENDED ? IPC_NBD_EXTENDED_HEADERS : flags, contexts);

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        for (unsigned bit = 0; bit <= 16; bit++) {
            uint16_t one = (uint16_t)(1u << bit >> 1);

            for (unsigned k = 0; k < ARRAY_SIZE(lengths); k++)
                check_one(peer, form, types[i], one, offset, lengths[k], SIZE_MAX);
            check_one(peer, form, types[i], one, offset, 3 * 32, 31);
            check_one(peer, form, types[i], one | NBD_CMD_FLAG_PAYLOAD_LEN, offset, 3 * 28, SIZE_MAX);
        }
        check_one(peer, form, types[i], 0, offset, PAYLOAD_MAX, 40000);
        check_one(peer, form, types[i], NBD_CMD_FLAG_PAYLOAD_LEN, offset, PAYLOAD_MAX, 40000);
    }
}

#define IN_EACH_FORM(name, prepare, contexts, offset)                                                                  \
    static void test_##name##_simple(void **state)                                                                     \
    {                                                                                                                  \
        prepare;                                                                                                       \
        check_commands(NBD_FORM_SIMPLE, 0, offset);                                                                    \
    }                                                                                                                  \
    static void test_##name##_structured(void **state)                                                                 \
    {                                                                                                                  \
        prepare;                                                                                                       \
        check_commands(NBD_FORM_STRUCTURED, contexts, offset);                                                         \
    }                                                                                                                  \
    static void test_##name##_extended(void **state)                                                                   \
    {                                                                                                                  \
        prepare;                                                                                                       \
        check_commands(NBD_FORM_EXTENDED, contexts, offset);                                                           \
    }

#define ALL IPC_NBD_CONTEXTS_ALL

IN_EACH_FORM(any_command, (void)0, ALL, 4096)
IN_EACH_FORM(without_contexts, (void)0, 0, 4096)
IN_EACH_FORM(beyond_the_end, (void)0, ALL, SIZE - 1)
IN_EACH_FORM(an_offset_that_wraps, (void)0, ALL, UINT64_MAX - 5)
IN_EACH_FORM(a_read_only_export, fx->export.read_only = true, ALL, 4096)
IN_EACH_FORM(an_export_that_shuts_down, nbd_export_shut_down(&fx->export), ALL, 4096)
IN_EACH_FORM(storage_that_fails, fake.error = -EIO, ALL, 4096)
IN_EACH_FORM(an_export_that_writes_through, fx->export.writethrough = true, ALL, 4096)

/* What no buffer could hold is not skipped either: the client ends, and nothing of it is read any more. */
static void test_errors_extended_payload_beyond_the_maximum(void **state)
{
    static const uint16_t flags[] = { 0, NBD_CMD_FLAG_PAYLOAD_LEN };

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        struct peer *peer = peer_join(i, IPC_NBD_EXTENDED_HEADERS, 0);
        size_t n = put_header(NBD_FORM_EXTENDED, sent, NBD_CMD_WRITE, flags[i], COOKIE, 0, NBD_MAX_PAYLOAD + 1ull);

        put_smuggled(NBD_FORM_EXTENDED, sent + n, PAYLOAD_MAX);
        peer_send(peer, sent, n + PAYLOAD_MAX);
        assert_nothing_left(peer);
        assert_true(fx->gone[i]);
        assert_non_null(strstr(fx->reason[i], "32 MiB"));
    }
    assert_int_equal(fake.log_count, 0);
}

/* QEMU's client says nothing of a payload, and means one. */
static void test_an_extended_write_needs_no_flag(void **state)
{
    struct peer *peer = extended_peer();

    for (unsigned i = 0; i < PAYLOAD_MAX; i++)
        sent[i] = (uint8_t)(i * 7 + (i >> 9));
    extended_request(peer, NBD_CMD_WRITE, 0, 1, 4096, 512);
    peer_send(peer, sent, 512);
    assert_extended_none(peer, 1, 4096);
    assert_memory_equal(fake.data + 4096, sent, 512);
    extended_request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 2, 8192, 512);
    peer_send(peer, sent, 512);
    assert_extended_none(peer, 2, 8192);
    assert_memory_equal(fake.data + 8192, sent, 512);
    extended_request(peer, NBD_CMD_WRITE, 0, 3, 1 << 20, PAYLOAD_MAX);
    peer_send(peer, sent, PAYLOAD_MAX);
    assert_extended_none(peer, 3, 1 << 20);
    assert_memory_equal(fake.data + (1 << 20), sent, PAYLOAD_MAX);
}

#define TEST(name)           cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_EACH_FORM(name) TEST(test_##name##_simple), TEST(test_##name##_structured), TEST(test_##name##_extended)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST_EACH_FORM(any_command),
        TEST_EACH_FORM(without_contexts),
        TEST_EACH_FORM(beyond_the_end),
        TEST_EACH_FORM(an_offset_that_wraps),
        TEST_EACH_FORM(a_read_only_export),
        TEST_EACH_FORM(an_export_that_shuts_down),
        TEST_EACH_FORM(storage_that_fails),
        TEST_EACH_FORM(an_export_that_writes_through),
        TEST(test_errors_extended_payload_beyond_the_maximum),
        TEST(test_an_extended_write_needs_no_flag),
    };

    signal(SIGPIPE, SIG_IGN); /* as the worker does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
