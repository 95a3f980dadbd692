/* SPDX-License-Identifier: BSD-2-Clause */
/* Large reads from the page cache of an image that somebody has cut: what lies behind its end reads as zeros. */
#include "tests/unit/unit.h"

#include <signal.h>

#include "tests/unit/nbd_peer.h"

#define READ_BYTES (4u << 20)

/* The image as it was, in fake.data and a file that ends at end_bytes. */
static void map_image(size_t end_bytes)
{
    fake.map_fd = memfd_create("image", MFD_CLOEXEC);
    fill(0, READ_BYTES);
    assert_int_equal(pwrite(fake.map_fd, fake.data, READ_BYTES, 0), READ_BYTES);
    assert_int_equal(ftruncate(fake.map_fd, (off_t)end_bytes), 0);
}

/* READ_BYTES of which end_bytes are the image's. */
static void assert_cut_data(struct cursor *c, size_t end_bytes)
{
    const uint8_t *data = cursor_bytes(c, READ_BYTES);

    assert_non_null(data);
    assert_memory_equal(data, fake.data, end_bytes);
    for (size_t i = end_bytes; i < READ_BYTES; i++)
        assert_int_equal(data[i], 0);
}

static void assert_flush_is_next(struct peer *peer)
{
    request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
    assert_simple(peer, 2, 0);
    assert_int_equal(fx->io_errors, 0);
    close_fd(&fake.map_fd);
}

static void check_simple(size_t end_bytes)
{
    struct peer *peer = simple_peer();

    map_image(end_bytes);
    request(peer, NBD_CMD_READ, 0, 1, 0, READ_BYTES);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_cut_data(&peer->at, end_bytes);
    assert_flush_is_next(peer);
}

static void check_structured(size_t end_bytes)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    map_image(end_bytes);
    request(peer, NBD_CMD_READ, NBD_CMD_FLAG_DF, 1, 0, READ_BYTES);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, false, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 0);
    assert_cut_data(&payload, end_bytes);
    assert_int_equal(get_chunk(peer, 1, true, &payload), NBD_REPLY_TYPE_NONE);
    assert_flush_is_next(peer);
}

static void test_simple_read_wholly_behind_the_end(void **state)
{
    check_simple(0);
}

static void test_simple_read_across_the_end(void **state)
{
    check_simple((1 << 20) + 1000);
}

static void test_structured_read_wholly_behind_the_end(void **state)
{
    check_structured(0);
}

static void test_structured_read_across_the_end(void **state)
{
    check_structured((1 << 20) + 1000);
}

/* To a client that does not hurry. */
static void test_image_that_is_cut_while_it_is_sent(void **state)
{
    struct peer *peer = simple_peer();

    map_image(READ_BYTES);
    request(peer, NBD_CMD_READ, 0, 1, 0, READ_BYTES);
    turns();
    assert_int_equal(ftruncate(fake.map_fd, READ_BYTES / 2 + 100), 0);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_cut_data(&peer->at, READ_BYTES / 2 + 100);
    assert_flush_is_next(peer);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_simple_read_wholly_behind_the_end),     TEST(test_simple_read_across_the_end),
        TEST(test_structured_read_wholly_behind_the_end), TEST(test_structured_read_across_the_end),
        TEST(test_image_that_is_cut_while_it_is_sent),
    };

    signal(SIGPIPE, SIG_IGN); /* as the worker does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
