/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <string.h>

#include "common/block/file.h"

#define KIB  1024u
#define SIZE (1024 * KIB)
#define HOLE (BLOCK_EXTENT_ZERO | BLOCK_EXTENT_HOLE)

/* Data at [64k, 128k) and [512k, 768k), holes elsewhere. */
static int open_sparse(struct block_fixture *f)
{
    static const struct {
        uint32_t offset;
        uint32_t len_bytes;
    } data[] = { { 64 * KIB, 64 * KIB }, { 512 * KIB, 256 * KIB } };
    uint8_t *bytes = malloc(256 * KIB);
    int fd = fixture_open_file(f, SIZE, IPC_NODE_DISCARD_UNMAP);

    memset(bytes, 1, 256 * KIB);
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
        assert_int_equal(pwrite(fd, bytes, data[i].len_bytes, data[i].offset), data[i].len_bytes);
    free(bytes);
    return fd;
}

static void check_extents(const struct block_extent *got, const struct block_extent *expected, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(got[i].len_bytes, expected[i].len_bytes);
        assert_int_equal(got[i].flags, expected[i].flags);
    }
}

static void test_holes_and_data_are_told_apart(void **state)
{
    static const struct block_extent expected[] = {
        { 64 * KIB, HOLE }, { 64 * KIB, 0 }, { 384 * KIB, HOLE }, { 256 * KIB, 0 }, { 256 * KIB, HOLE },
    };
    struct block_fixture *f = *state;
    struct block_extent got[8];

    open_sparse(f);
    assert_int_equal(fixture_status(f, 0, SIZE, got, 8), 5);
    check_extents(got, expected, 5);
}

/* As qemu-storage-daemon says it. */
static void test_what_follows_the_last_byte_of_a_file_is_a_hole(void **state)
{
    static const struct block_extent expected[] = { { 1000, 0 }, { 24, HOLE } };
    struct block_fixture *f = *state;
    struct block_extent got[4];
    uint8_t bytes[1024];
    int fd = fixture_open_file(f, 1000, 0);

    memset(bytes, 1, sizeof(bytes));
    assert_int_equal(pwrite(fd, bytes, 1000, 0), 1000);
    for (unsigned again = 0; again < 2; again++) { /* the second time the data is known */
        assert_int_equal(fixture_status(f, 0, 1024, got, 4), 2);
        check_extents(got, expected, 2);
        assert_int_equal(fixture_status(f, 0, 1024, got, 1), 1);
        check_extents(got, expected, 1);
    }
    assert_int_equal(fixture_status(f, 999, 25, got, 4), 2);
    assert_int_equal(got[0].len_bytes, 1);
    assert_int_equal(fixture_status(f, 1000, 24, got, 4), 1);
    assert_int_equal(got[0].flags, HOLE);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 1000, bytes, 24), 0); /* the file grows */
    assert_int_equal(fixture_status(f, 0, 1024, got, 4), 1);
    assert_int_equal(got[0].len_bytes, 1024);
    assert_int_equal(got[0].flags, 0);
}

/* Who asks for whole blocks is told of whole blocks, up to the end of what was asked for. */
static void test_extents_of_a_direct_file_are_whole_blocks(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent got[4];
    int fd = fixture_open_file(f, 9000, IPC_NODE_CACHE_DIRECT);
    struct file_state *file = f->root->state;

    if (!file->direct)
        return;
    file->align = 4096;
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(ftruncate(fd, 9000), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 8192, &(uint8_t){ 1 }, 1), 0);
    assert_int_equal(ftruncate(fd, 9000), 0);
    assert_int_equal(fixture_status(f, 0, 9216, got, 4), 2);
    check_extents(got, (const struct block_extent[]){ { 8192, HOLE }, { 1024, 0 } }, 2);
}

static void test_as_many_extents_as_there_is_room_for(void **state)
{
    static const struct block_extent expected[] = { { 64 * KIB, HOLE }, { 64 * KIB, 0 } };
    struct block_fixture *f = *state;
    struct block_extent got[8] = { 0 };

    open_sparse(f);
    for (unsigned max = 1; max <= 2; max++) {
        assert_int_equal(fixture_status(f, 0, SIZE, got, max), max);
        check_extents(got, expected, max);
        assert_int_equal(got[max].len_bytes, 0);
    }
}

static void test_extents_never_reach_beyond_the_range(void **state)
{
    static const struct {
        uint64_t offset;
        uint64_t len_bytes;
        uint32_t flags;
    } cases[] = {
        { 0, 1, HOLE },          { 1000, 999, HOLE },       { 64 * KIB, 1, 0 },    { 64 * KIB + 777, 1000, 0 },
        { 128 * KIB - 1, 1, 0 }, { 600 * KIB + 1, 512, 0 }, { SIZE - 1, 1, HOLE },
    };
    struct block_fixture *f = *state;
    struct block_extent got[4];

    open_sparse(f);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(fixture_status(f, cases[i].offset, cases[i].len_bytes, got, 4), 1);
        assert_int_equal(got[0].len_bytes, cases[i].len_bytes);
        assert_int_equal(got[0].flags, cases[i].flags);
    }
}

static void test_a_known_extent_of_data_is_answered_at_once(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent got[4];
    struct block_call call = { 0 };

    open_sparse(f);
    assert_int_equal(fixture_status(f, 512 * KIB, 1024, got, 4), 1);
    call.req = (struct block_request){
        .op = BLOCK_OP_STATUS, .offset = 600 * KIB, .len_bytes = SIZE - 600 * KIB, .extents = got, .extents_max = 1
    };
    assert_int_equal(call_start(f, &call), 0);
    assert_int_equal(call.req.extents_count, 1);
    assert_int_equal(got[0].len_bytes, 168 * KIB);
    assert_int_equal(got[0].flags, 0);
    call.req.len_bytes = 1024; /* within it, whatever there is room for */
    call.req.extents_max = 4;
    assert_int_equal(call_start(f, &call), 0);
    assert_int_equal(got[0].len_bytes, 1024);
}

static void test_what_follows_a_known_extent_is_looked_for(void **state)
{
    static const struct block_extent expected[] = { { 32 * KIB, 0 }, { 384 * KIB, HOLE }, { 256 * KIB, 0 }, { 256 * KIB, HOLE } };
    struct block_fixture *f = *state;
    struct block_extent got[8];

    open_sparse(f);
    assert_int_equal(fixture_status(f, 64 * KIB, 1024, got, 8), 1);
    assert_int_equal(fixture_status(f, 96 * KIB, SIZE - 96 * KIB, got, 8), 4);
    check_extents(got, expected, 4);
}

static void test_what_was_unmapped_is_no_longer_data(void **state)
{
    static const enum block_op ops[] = { BLOCK_OP_DISCARD, BLOCK_OP_WRITE_ZEROES };
    struct block_fixture *f = *state;
    struct block_extent got[4];

    open_sparse(f);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        uint64_t offset = 512 * KIB + i * 64 * KIB;

        assert_int_equal(fixture_status(f, offset, 64 * KIB, got, 4), 1);
        assert_int_equal(got[0].flags, 0);
        assert_int_equal(fixture_io(f, ops[i], BLOCK_REQ_MAY_UNMAP, offset, NULL, 64 * KIB), 0);
        assert_int_equal(fixture_status(f, offset, 64 * KIB, got, 4), 1);
        assert_int_equal(got[0].flags, HOLE);
    }
}

static void test_what_was_written_is_data(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent got[4];
    uint8_t bytes[4096] = { 1 };

    open_sparse(f);
    assert_int_equal(fixture_status(f, 256 * KIB, 4096, got, 4), 1);
    assert_int_equal(got[0].flags, HOLE);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 256 * KIB, bytes, sizeof(bytes)), 0);
    assert_int_equal(fixture_status(f, 256 * KIB, 4096, got, 4), 1);
    assert_int_equal(got[0].flags, 0);
}

static void test_a_file_that_was_cut_is_a_hole(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent got[4];
    int fd = open_sparse(f);

    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(fixture_status(f, 0, SIZE, got, 4), 1);
    assert_int_equal(got[0].len_bytes, SIZE);
    assert_int_equal(got[0].flags, HOLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_holes_and_data_are_told_apart),
        FIXTURE_TEST(test_what_follows_the_last_byte_of_a_file_is_a_hole),
        FIXTURE_TEST(test_extents_of_a_direct_file_are_whole_blocks),
        FIXTURE_TEST(test_as_many_extents_as_there_is_room_for),
        FIXTURE_TEST(test_extents_never_reach_beyond_the_range),
        FIXTURE_TEST(test_a_known_extent_of_data_is_answered_at_once),
        FIXTURE_TEST(test_what_follows_a_known_extent_is_looked_for),
        FIXTURE_TEST(test_what_was_unmapped_is_no_longer_data),
        FIXTURE_TEST(test_what_was_written_is_data),
        FIXTURE_TEST(test_a_file_that_was_cut_is_a_hole),
    };

    return RUN_VARIANTS("status", tests);
}
