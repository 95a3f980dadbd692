/* SPDX-License-Identifier: BSD-2-Clause */
/* Resizing nodes, reserving storage for them, and what they store. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE 65536u

static uint64_t root_size(const struct block_fixture *f)
{
    struct block_info info;

    block_node_info(f->root, &info);
    return info.size_bytes;
}

static off_t file_size(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return st.st_size;
}

static void test_file_grows_to_the_byte_and_reads_as_zeros(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_open_file(f, SIZE, 0);
    uint8_t bytes[1024];

    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, SIZE, bytes, 512), -ENOSPC);
    assert_int_equal(block_node_resize(f->root, SIZE + 700), 0);
    assert_int_equal(file_size(fd), SIZE + 700);
    assert_int_equal(root_size(f), SIZE + 1024);
    memset(bytes, 7, sizeof(bytes));
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, SIZE, bytes, 1024), 0);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        assert_int_equal(bytes[i], 0);
}

static void test_file_shrinks_and_forgets_what_was_there(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_open_file(f, SIZE, 0);
    struct block_extent extents[4];
    uint8_t bytes[4096];

    memset(bytes, 7, sizeof(bytes));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 8192, bytes, sizeof(bytes)), 0);
    assert_int_equal(fixture_status(f, 8192, 4096, extents, 4), 1);
    assert_int_equal(extents[0].flags, 0);
    assert_int_equal(block_node_resize(f->root, 8192), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 8192, bytes, sizeof(bytes)), -EINVAL);
    assert_int_equal(block_node_resize(f->root, SIZE), 0);
    assert_int_equal(file_size(fd), SIZE);
    assert_int_equal(fixture_status(f, 8192, 4096, extents, 4), 1);
    assert_int_equal(extents[0].flags, BLOCK_EXTENT_ZERO | BLOCK_EXTENT_HOLE);
}

static void test_read_only_file_keeps_its_size(void **state)
{
    struct block_fixture *f = *state;

    fixture_open_file(f, SIZE, IPC_NODE_READ_ONLY);
    assert_int_equal(block_node_resize(f->root, SIZE * 2), -EPERM);
    assert_int_equal(block_node_allocate(f->root, 0, SIZE), -EPERM);
}

static void test_size_beyond_the_limit_is_refused(void **state)
{
    struct block_fixture *f = *state;

    fixture_open_file(f, SIZE, 0);
    assert_int_equal(block_node_resize(f->root, UINT64_MAX), -EFBIG);
    assert_int_equal(block_node_resize(f->root, INT64_MAX), -EFBIG);
    assert_int_equal(root_size(f), SIZE);
}

static void test_allocation_shows_in_the_usage_and_keeps_content(void **state)
{
    struct block_fixture *f = *state;
    struct block_usage before, after;
    uint8_t bytes[512], got[512];

    fixture_open_file(f, SIZE, 0);
    memset(bytes, 7, sizeof(bytes));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 4096, bytes, sizeof(bytes)), 0);
    assert_int_equal(block_node_usage(f->root, &before), 0);
    assert_int_equal(block_node_allocate(f->root, 0, SIZE), 0);
    assert_int_equal(block_node_usage(f->root, &after), 0);
    assert_true(after.allocated_bytes >= SIZE && before.allocated_bytes < after.allocated_bytes);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 4096, got, sizeof(got)), 0);
    assert_memory_equal(bytes, got, sizeof(got));
    assert_int_equal(block_node_allocate(f->root, 0, 0), 0);
    assert_int_equal(block_node_allocate(f->root, SIZE, 1), -ENOSPC);
    assert_int_equal(block_node_allocate(f->root, 1, UINT64_MAX), -ENOSPC);
}

static void open_raw(struct block_fixture *f, uint32_t flags, uint64_t offset_bytes, uint64_t size_bytes)
{
    int fd = fixture_temp_file(variant->place, SIZE, 0);
    unsigned file = fixture_add_node(f, IPC_DRIVER_FILE, 0, fixture_add_fd(f, fd), -1);
    unsigned raw = fixture_add_node(f, IPC_DRIVER_RAW, flags, -1, (int)file);

    f->specs[raw].offset_bytes = offset_bytes;
    f->specs[raw].size_bytes = size_bytes;
    assert_int_equal(fixture_open(f), 0);
}

static void test_raw_resizes_its_child_behind_its_offset(void **state)
{
    struct block_fixture *f = *state;
    struct block_usage usage;
    uint8_t bytes[512] = { 1 };

    open_raw(f, 0, 4096, 0);
    assert_int_equal(block_node_resize(f->root, SIZE), 0);
    assert_int_equal(root_size(f), SIZE);
    assert_int_equal(file_size(f->fds[0]), SIZE + 4096);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, SIZE - 512, bytes, sizeof(bytes)), 0);
    assert_int_equal(file_size(f->fds[0]), SIZE + 4096);
    assert_int_equal(block_node_allocate(f->root, 0, SIZE), 0);
    assert_int_equal(block_node_usage(f->root, &usage), 0);
    assert_true(usage.allocated_bytes >= SIZE);
}

/* What the monitor does for block_resize. */
static void test_a_size_that_somebody_else_changed_is_found(void **state)
{
    struct block_fixture *f = *state;
    uint8_t bytes[512] = { 1 };

    open_raw(f, 0, 4096, 0);
    assert_int_equal(root_size(f), SIZE - 4096);
    assert_int_equal(ftruncate(f->fds[0], SIZE * 2 + 100), 0);
    assert_int_equal(root_size(f), SIZE - 4096);
    assert_int_equal(block_node_refresh(f->root), 0);
    assert_int_equal(root_size(f), SIZE * 2 + 512 - 4096);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, SIZE, bytes, sizeof(bytes)), 0);
    assert_int_equal(ftruncate(f->fds[0], 100), 0);
    assert_int_equal(block_node_refresh(f->root), 0);
    assert_int_equal(root_size(f), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, bytes, sizeof(bytes)), -EINVAL);
}

static void test_a_window_with_a_size_keeps_it(void **state)
{
    struct block_fixture *f = *state;

    open_raw(f, IPC_NODE_HAS_SIZE, 0, 4096);
    assert_int_equal(ftruncate(f->fds[0], SIZE * 2), 0);
    assert_int_equal(block_node_refresh(f->root), 0);
    assert_int_equal(root_size(f), 4096);
}

static void test_window_with_a_size_is_not_resized(void **state)
{
    struct block_fixture *f = *state;

    open_raw(f, IPC_NODE_HAS_SIZE, 0, 4096);
    assert_int_equal(block_node_resize(f->root, 8192), -ENOTSUP);
    assert_int_equal(root_size(f), 4096);
}

static void test_node_without_storage_supports_none_of_it(void **state)
{
    struct block_fixture *f = *state;
    struct block_usage usage;

    fixture_add_node(f, IPC_DRIVER_NULL_CO, 0, -1, -1);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(block_node_resize(f->root, 8192), -ENOTSUP);
    assert_int_equal(block_node_allocate(f->root, 0, 8192), -EOPNOTSUPP);
    assert_int_equal(block_node_usage(f->root, &usage), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_file_grows_to_the_byte_and_reads_as_zeros),
        FIXTURE_TEST(test_file_shrinks_and_forgets_what_was_there),
        FIXTURE_TEST(test_read_only_file_keeps_its_size),
        FIXTURE_TEST(test_size_beyond_the_limit_is_refused),
        FIXTURE_TEST(test_allocation_shows_in_the_usage_and_keeps_content),
        FIXTURE_TEST(test_raw_resizes_its_child_behind_its_offset),
        FIXTURE_TEST(test_window_with_a_size_is_not_resized),
        FIXTURE_TEST(test_a_size_that_somebody_else_changed_is_found),
        FIXTURE_TEST(test_a_window_with_a_size_keeps_it),
        FIXTURE_TEST(test_node_without_storage_supports_none_of_it),
    };

    return RUN_VARIANTS("size", tests);
}
