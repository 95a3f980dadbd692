/* SPDX-License-Identifier: BSD-2-Clause */
/* Discarding and zeroing: what the file holds afterwards, what the file system has freed, and every way to get there.
 */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/block/file.h"

#define SIZE (4u * 1024 * 1024)

int __real_fallocate(int fd, int mode, off_t offset, off_t len_bytes);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len_bytes);

/* A file system that answers so to a hole behind the end of the file; 0: as the real one does. */
static atomic_int error_behind_end;
static atomic_uint fallocate_count;

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len_bytes)
{
    struct stat st;

    fallocate_count++;
    if (error_behind_end != 0 && fstat(fd, &st) == 0 && offset + len_bytes > st.st_size) {
        errno = error_behind_end;
        return -1;
    }
    return __real_fallocate(fd, mode, offset, len_bytes);
}

static int open_full_file(struct block_fixture *f, uint32_t node_flags)
{
    uint8_t *bytes = malloc(SIZE);
    int fd = fixture_open_file(f, SIZE, node_flags);

    memset(bytes, 0xab, SIZE);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, bytes, SIZE), 0);
    assert_int_equal(fsync(fd), 0);
    free(bytes);
    return fd;
}

static blkcnt_t blocks_of(int fd)
{
    struct stat st;

    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fstat(fd, &st), 0);
    return st.st_blocks;
}

/* [start, end) is zeros, everything else as it was. */
static void check_zeros(struct block_fixture *f, uint64_t start, uint64_t end)
{
    uint8_t *bytes = malloc(SIZE);

    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, bytes, SIZE), 0);
    for (uint64_t i = 0; i < SIZE; i++) {
        uint8_t expected = i >= start && i < end ? 0 : 0xab;

        if (bytes[i] != expected)
            fail_msg("byte %llu is %u", (unsigned long long)i, bytes[i]);
    }
    free(bytes);
}

static struct file_state *state_of(const struct block_fixture *f)
{
    return f->root->state;
}

/* ---- DISCARD ---- */

static void test_discard_frees_blocks_with_discard_unmap(void **state)
{
    static const uint64_t lengths[] = { 512 * 1024, 3 * 1024 * 1024 }; /* inline in memory, and not */

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        struct block_fixture f;
        blkcnt_t before;
        int fd;

        fixture_init(&f);
        fd = open_full_file(&f, IPC_NODE_DISCARD_UNMAP);
        before = blocks_of(fd);
        assert_int_equal(fixture_io(&f, BLOCK_OP_DISCARD, 0, 65536, NULL, lengths[i]), 0);
        assert_true(blocks_of(fd) <= before - (blkcnt_t)(lengths[i] / 512) + 64);
        check_zeros(&f, 65536, 65536 + lengths[i]);
        fixture_done(&f);
    }
}

static void test_discard_works_where_a_hole_behind_the_end_is_refused(void **state)
{
    static const int errors[] = { EIO, EINVAL, EOPNOTSUPP, ENOSPC, EFBIG, EPERM };

    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
        struct block_fixture f;
        blkcnt_t before;
        int fd;

        error_behind_end = errors[i];
        fixture_init(&f);
        fd = open_full_file(&f, IPC_NODE_DISCARD_UNMAP);
        before = blocks_of(fd);
        assert_int_equal(fixture_io(&f, BLOCK_OP_DISCARD, 0, 0, NULL, SIZE / 4), 0);
        assert_true(blocks_of(fd) <= before - SIZE / 4 / 512);
        assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, SIZE / 4, NULL, SIZE / 4), 0);
        assert_true(blocks_of(fd) <= before - SIZE / 2 / 512);
        check_zeros(&f, 0, SIZE / 2);
        fixture_done(&f);
    }
    error_behind_end = 0;
}

/* It may be in use elsewhere, and grow meanwhile: what is no hole any more must not be made one. */
static void test_opening_a_file_does_not_touch_it(void **state)
{
    struct block_fixture *f = *state;

    fallocate_count = 0;
    fixture_open_file(f, SIZE, IPC_NODE_DISCARD_UNMAP);
    assert_int_equal(fallocate_count, 0);
}

static void test_discard_does_nothing_with_discard_ignore(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full_file(f, 0);
    blkcnt_t before = blocks_of(fd);

    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, BLOCK_REQ_FUA, 0, NULL, SIZE), 0);
    assert_true(blocks_of(fd) == before);
    check_zeros(f, 0, 0);
}

static void test_discard_where_the_file_system_cannot_is_a_success(void **state)
{
    struct block_fixture *f = *state;

    open_full_file(f, IPC_NODE_DISCARD_UNMAP);
    atomic_store(&state_of(f)->no_discard, true);
    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, BLOCK_REQ_FUA, 0, NULL, SIZE), 0);
    check_zeros(f, 0, 0);
}

static void test_a_discard_that_turns_out_to_be_unsupported_is_remembered(void **state)
{
    struct block_request req = { .op = BLOCK_OP_DISCARD, .flags = BLOCK_REQ_FUA };
    struct block_fixture *f = *state;

    open_full_file(f, IPC_NODE_DISCARD_UNMAP);
    assert_int_equal(file_discard_next(state_of(f), &req, -EOPNOTSUPP), 0);
    assert_true(atomic_load(&state_of(f)->no_discard));
    assert_int_equal(file_discard_next(state_of(f), &req, -EIO), -EIO);
}

/* ---- WRITE_ZEROES ---- */

static void test_zeroes_with_any_flags_and_any_alignment(void **state)
{
    static const unsigned flags[] = {
        0,
        BLOCK_REQ_MAY_UNMAP,
        BLOCK_REQ_FUA,
        BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_FUA,
        BLOCK_REQ_NO_FALLBACK,
        BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK,
    };
    static const struct {
        uint64_t offset;
        uint64_t len_bytes;
    } ranges[] = { { 0, SIZE }, { 4096, 8192 }, { 1000, 3 }, { 511, 70000 }, { 65536, 2 * 1024 * 1024 + 1 } };

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(ranges); j++) {
            struct block_fixture f;

            fixture_init(&f);
            open_full_file(&f, IPC_NODE_DISCARD_UNMAP);
            assert_int_equal(
                fixture_io(&f, BLOCK_OP_WRITE_ZEROES, flags[i], ranges[j].offset, NULL, ranges[j].len_bytes), 0);
            check_zeros(&f, ranges[j].offset, ranges[j].offset + ranges[j].len_bytes);
            fixture_done(&f);
        }
    }
}

static void test_zeroes_free_blocks_only_if_both_sides_want_it(void **state)
{
    static const struct {
        uint32_t node_flags;
        unsigned request_flags;
        bool frees;
    } cases[] = {
        { IPC_NODE_DISCARD_UNMAP, BLOCK_REQ_MAY_UNMAP, true },
        { IPC_NODE_DISCARD_UNMAP, 0, false },
        { 0, BLOCK_REQ_MAY_UNMAP, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct block_fixture f;
        blkcnt_t before;
        int fd;

        fixture_init(&f);
        fd = open_full_file(&f, cases[i].node_flags);
        before = blocks_of(fd);
        assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE_ZEROES, cases[i].request_flags, 0, NULL, SIZE), 0);
        if (cases[i].frees)
            assert_true(blocks_of(fd) < 128);
        else
            assert_true(blocks_of(fd) >= before - 64);
        check_zeros(&f, 0, SIZE);
        fixture_done(&f);
    }
}

/* Take away one means after the other: each time the next one does it, and in the end zeros are written out. */
static void test_every_way_down_to_written_zeros(void **state)
{
    for (unsigned missing = 0; missing < 8; missing++) {
        for (unsigned fast = 0; fast < 2; fast++) {
            unsigned flags = BLOCK_REQ_MAY_UNMAP | (fast ? BLOCK_REQ_NO_FALLBACK : 0u);
            bool possible = !(missing & 1) || !(missing & 2);
            struct block_fixture f;
            int ret;

            fixture_init(&f);
            open_full_file(&f, IPC_NODE_DISCARD_UNMAP);
            atomic_store(&state_of(&f)->no_punch_hole, missing & 1);
            atomic_store(&state_of(&f)->no_zero_range, (missing & 2) || variant->place == PLACE_MEMORY);
            atomic_store(&state_of(&f)->no_allocate, missing & 4);
            if (variant->place == PLACE_MEMORY)
                possible = !(missing & 1);
            ret = fixture_io(&f, BLOCK_OP_WRITE_ZEROES, flags, 1000, NULL, 2 * 1024 * 1024);
            assert_int_equal(ret, possible || !fast ? 0 : -ENOTSUP);
            check_zeros(&f, 1000, ret == 0 ? 1000 + 2 * 1024 * 1024 : 1000);
            fixture_done(&f);
        }
    }
}

/* More than a slice, written out. */
static void test_many_zeros_are_written_in_slices(void **state)
{
    const uint64_t len_bytes = 2 * FILE_SLICE_BYTES + 12345;
    struct block_fixture *f = *state;
    uint8_t *got = malloc(len_bytes + 2);
    uint8_t byte = 9;

    fixture_open_file(f, 32u * 1024 * 1024, 0);
    atomic_store(&state_of(f)->no_punch_hole, true);
    atomic_store(&state_of(f)->no_zero_range, true);
    for (uint64_t at = 0; at < len_bytes + 2; at += 4097)
        assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, at, &byte, 1), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, len_bytes + 1, &byte, 1), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 1, NULL, len_bytes), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, len_bytes + 2), 0);
    for (uint64_t i = 0; i < len_bytes + 2; i++)
        assert_int_equal(got[i], i == 0 || i == len_bytes + 1 ? 9 : 0);
    free(got);
}

static void test_what_a_file_system_cannot_is_not_tried_again(void **state)
{
    struct block_fixture *f = *state;

    open_full_file(f, 0);
    if (variant->place == PLACE_DISK)
        return; /* file systems on disks know ZERO_RANGE; tmpfs does not */
    assert_false(atomic_load(&state_of(f)->no_zero_range));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 0, NULL, 4096), 0);
    assert_true(atomic_load(&state_of(f)->no_zero_range));
    check_zeros(f, 0, 4096);
}

static void test_an_error_that_is_no_lack_of_support_ends_the_request(void **state)
{
    struct block_request req = { .op = BLOCK_OP_WRITE_ZEROES };
    struct block_fixture *f = *state;

    open_full_file(f, 0);
    assert_int_equal(file_zero_next(state_of(f), &req, -EIO), -EIO);
    assert_int_equal(file_zero_next(state_of(f), &req, -ENOSPC), -ENOSPC);
}

static void test_zeroes_in_the_rounded_tail_stay_in_it(void **state)
{
    struct block_fixture *f = *state;
    struct stat st;
    uint8_t got[24];
    int fd = fixture_open_file(f, 1000, 0);

    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 990, NULL, 34), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 1000, got, 24), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size <= 1024);
}

/* ---- A block device ---- */

static void test_a_block_device_works_like_a_file(void **state)
{
    struct block_fixture *f = *state;
    uint8_t *bytes = malloc(SIZE), *got = malloc(SIZE);
    int backing = fixture_temp_file(variant->place, SIZE, 0);
    struct block_extent extent;
    struct block_info info;
    int fd = fixture_loop_device(backing);

    if (fd < 0) {
        close_fd(&backing);
        free(bytes);
        free(got);
        SKIP("cannot set up a loop device: %s", strerror(errno));
    }
    fixture_add_node(f, IPC_DRIVER_HOST_DEVICE, IPC_NODE_DISCARD_UNMAP, fixture_add_fd(f, fd), -1);
    assert_int_equal(fixture_open(f), 0);
    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, SIZE);
    memset(bytes, 0xab, SIZE);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, bytes, SIZE), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, 4096, NULL, 65536), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 1024 * 1024 + 1, NULL, 4000), 0); /* written out */
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_NO_FALLBACK, 1, NULL, 4000), -ENOTSUP);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_NO_FALLBACK, 4096, NULL, 4096), -ENOTSUP);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
    memset(bytes + 4096, 0, 65536);
    memset(bytes + 1024 * 1024 + 1, 0, 4000);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, SIZE), 0);
    assert_memory_equal(got, bytes, SIZE);
    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, BLOCK_REQ_FUA, 2 * 1024 * 1024 + 100, NULL, 1024 * 1024), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, 0, 100, NULL, 200), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, 2 * 1024 * 1024 + 100), 0);
    assert_memory_equal(got, bytes, 2 * 1024 * 1024 + 100);
    assert_int_equal(fixture_status(f, 0, SIZE, &extent, 1), 1);
    assert_int_equal(extent.flags, 0);
    close_fd(&backing);
    free(bytes);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_discard_frees_blocks_with_discard_unmap),
        FIXTURE_TEST(test_discard_works_where_a_hole_behind_the_end_is_refused),
        FIXTURE_TEST(test_opening_a_file_does_not_touch_it),
        FIXTURE_TEST(test_discard_does_nothing_with_discard_ignore),
        FIXTURE_TEST(test_discard_where_the_file_system_cannot_is_a_success),
        FIXTURE_TEST(test_a_discard_that_turns_out_to_be_unsupported_is_remembered),
        FIXTURE_TEST(test_zeroes_with_any_flags_and_any_alignment),
        FIXTURE_TEST(test_zeroes_free_blocks_only_if_both_sides_want_it),
        FIXTURE_TEST(test_every_way_down_to_written_zeros),
        FIXTURE_TEST(test_many_zeros_are_written_in_slices),
        FIXTURE_TEST(test_what_a_file_system_cannot_is_not_tried_again),
        FIXTURE_TEST(test_an_error_that_is_no_lack_of_support_ends_the_request),
        FIXTURE_TEST(test_zeroes_in_the_rounded_tail_stay_in_it),
        FIXTURE_TEST(test_a_block_device_works_like_a_file),
    };

    return RUN_VARIANTS("zero", tests);
}
