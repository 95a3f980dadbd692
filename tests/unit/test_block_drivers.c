/* SPDX-License-Identifier: BSD-2-Clause */
/* raw, null-co and blkdebug: the drivers without an image of their own. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <string.h>

#define SIZE 65536u

/* ---- raw ---- */

static int open_raw(struct block_fixture *f, uint32_t flags, uint64_t offset_bytes, uint64_t size_bytes, int *ret_ret)
{
    int fd = fixture_temp_file(variant->place, SIZE, 0);
    unsigned file = fixture_add_node(f, IPC_DRIVER_FILE, IPC_NODE_DISCARD_UNMAP, fixture_add_fd(f, fd), -1);
    unsigned raw = fixture_add_node(f, IPC_DRIVER_RAW, flags, -1, (int)file);

    f->specs[raw].offset_bytes = offset_bytes;
    f->specs[raw].size_bytes = size_bytes;
    *ret_ret = fixture_open(f);
    return fd;
}

static void test_raw_is_a_window_of_its_child(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;
    uint8_t bytes[1024], got[1024];
    int ret, fd;

    fd = open_raw(f, IPC_NODE_HAS_SIZE, 1000, 2048, &ret);
    assert_int_equal(ret, 0);
    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, 2048);
    pattern_fill(bytes, 0, sizeof(bytes), 1);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 1024, bytes, 1024), 0);
    assert_int_equal(pread(fd, got, 1024, 1000 + 1024), 1024);
    assert_memory_equal(got, bytes, 1024);
    memset(got, 0, sizeof(got));
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 1024, got, 1024), 0);
    assert_memory_equal(got, bytes, 1024);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 1025, bytes, 1024), -ENOSPC);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
}

static void test_raw_zeroes_and_maps_at_its_offset(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent extents[4];
    uint8_t *bytes = malloc(SIZE), *got = malloc(SIZE);
    uint64_t offset;
    int ret, fd, mapped_fd = -1;
    bool mapped;

    fd = open_raw(f, 0, 8192, 0, &ret);
    assert_int_equal(ret, 0);
    memset(bytes, 7, SIZE);
    assert_int_equal(pwrite(fd, bytes, SIZE, 0), SIZE);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, 4096, NULL, 8192), 0);
    assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
    memset(bytes + 8192 + 4096, 0, 8192);
    assert_memory_equal(got, bytes, SIZE);
    assert_int_equal(fixture_status(f, 0, SIZE - 8192, extents, 4), 3);
    assert_int_equal(extents[0].len_bytes, 4096);
    assert_int_equal(extents[0].flags, 0);
    assert_int_equal(extents[1].len_bytes, 8192);
    assert_int_equal(extents[1].flags, BLOCK_EXTENT_ZERO | BLOCK_EXTENT_HOLE);
    assert_int_equal(extents[2].len_bytes, SIZE - 8192 - 4096 - 8192);
    /* Just written, hence in the page cache; a disk's file system need not be able to tell. */
    mapped = block_node_map(f->root, 100, 1000, &mapped_fd, &offset);
    assert_true(mapped || variant->place == PLACE_DISK);
    if (mapped) {
        assert_int_equal(mapped_fd, fd);
        assert_int_equal(offset, 8192 + 100);
    }
    assert_false(block_node_map(f->root, SIZE - 8192, 1, &mapped_fd, &offset));
    /* To write to a disk's file system may always wait. */
    mapped = block_node_map_write(f->root, 200, 1000, &mapped_fd, &offset);
    assert_int_equal(mapped, variant->place == PLACE_MEMORY);
    if (mapped) {
        assert_int_equal(mapped_fd, fd);
        assert_int_equal(offset, 8192 + 200);
    }
    assert_false(block_node_map_write(f->root, SIZE - 8192, 1, &mapped_fd, &offset));
    free(bytes);
    free(got);
}

static void test_raw_windows_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        uint32_t flags;
        uint64_t offset_bytes;
        uint64_t size_bytes;
    } windows[] = {
        { 0, SIZE + 512, 0 },           { IPC_NODE_HAS_SIZE, 512, SIZE },       { IPC_NODE_HAS_SIZE, UINT64_MAX, 512 },
        { IPC_NODE_HAS_SIZE, 0, 1000 }, { IPC_NODE_HAS_SIZE, 512, UINT64_MAX }, { 0, 100, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(windows); i++) {
        struct block_fixture f;
        int ret;

        fixture_init(&f);
        open_raw(&f, windows[i].flags, windows[i].offset_bytes, windows[i].size_bytes, &ret);
        if (ret != -EINVAL)
            fail_msg("window %u: %d", i, ret);
        fixture_done(&f);
    }
}

static void test_a_raw_window_may_be_empty(void **state)
{
    struct block_fixture *f = *state;
    uint8_t byte = 0;
    int ret;

    open_raw(f, IPC_NODE_HAS_SIZE, SIZE, 0, &ret);
    assert_int_equal(ret, 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), -EINVAL);
}

/* ---- null-co ---- */

static void open_null(struct block_fixture *f, uint32_t flags, uint64_t size_bytes, uint64_t latency_ns)
{
    unsigned null = fixture_add_node(f, IPC_DRIVER_NULL_CO, flags, -1, -1);

    f->specs[null].size_bytes = size_bytes;
    f->specs[null].latency_ns = latency_ns;
    assert_int_equal(fixture_open(f), 0);
}

static void test_null_has_a_size(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;

    open_null(f, IPC_NODE_HAS_SIZE, 1000, 0);
    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, 1024);
}

static void test_null_has_one_gibibyte_by_default(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;

    open_null(f, 0, 0, 0);
    block_node_info(f->root, &info);
    assert_true(info.size_bytes == UINT64_C(1) << 30);
}

static void test_null_never_gives_away_what_a_buffer_held(void **state)
{
    struct block_fixture *f = *state;
    uint8_t buf[512];

    open_null(f, 0, 0, 0);
    memset(buf, 0xaa, sizeof(buf));
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, buf, sizeof(buf)), 0);
    for (unsigned i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0);
}

static void test_null_promises_zeros_only_with_read_zeroes(void **state)
{
    for (unsigned zeroes = 0; zeroes < 2; zeroes++) {
        struct block_extent extent;
        struct block_fixture f;

        fixture_init(&f);
        open_null(&f, zeroes ? IPC_NODE_READ_ZEROES : 0, 0, 0);
        assert_int_equal(fixture_status(&f, 4096, 8192, &extent, 1), 1);
        assert_int_equal(extent.len_bytes, 8192);
        assert_int_equal(extent.flags & BLOCK_EXTENT_ZERO, zeroes ? BLOCK_EXTENT_ZERO : 0);
        fixture_done(&f);
    }
}

static void test_null_takes_its_latency(void **state)
{
    struct block_fixture *f = *state;
    uint64_t start = now_ns();
    uint8_t buf[16];

    open_null(f, 0, 0, 2000000);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, buf, sizeof(buf)), 0);
    assert_true(now_ns() - start >= 2000000);
}

static void test_null_latencies_overlap(void **state)
{
    struct block_fixture *f = *state;
    struct block_call calls[50] = { 0 };
    uint64_t start = now_ns();

    open_null(f, 0, 0, 20000000);
    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
        calls[i].req = (struct block_request){ .op = BLOCK_OP_WRITE, .offset = i, .len_bytes = 1 };
        assert_int_equal(call_start(f, &calls[i]), BLOCK_PENDING);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
        assert_int_equal(call_wait(f, &calls[i]), 0);
    assert_true(now_ns() - start < 50 * UINT64_C(20000000));
}

/* ---- blkdebug ---- */

static void open_debug(struct block_fixture *f, const struct ipc_inject_rule *rules, unsigned count)
{
    unsigned null = fixture_add_node(f, IPC_DRIVER_NULL_CO, 0, -1, -1);
    unsigned debug = fixture_add_node(f, IPC_DRIVER_BLKDEBUG, 0, -1, (int)null);

    f->specs[debug].rule_count = count;
    memcpy(f->specs[debug].rules, rules, count * sizeof(rules[0]));
    assert_int_equal(fixture_open(f), 0);
}

static void test_blkdebug_fails_the_operations_of_its_rule(void **state)
{
    const struct ipc_inject_rule rule = { .op_mask = 1u << BLOCK_OP_WRITE | 1u << BLOCK_OP_FLUSH,
                                          .errno_code = EIO,
                                          .sector = -1 };
    struct block_fixture *f = *state;
    uint8_t byte = 0;

    open_debug(f, &rule, 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, &byte, 1), -EIO);
        assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), -EIO);
        assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), 0);
    }
}

static void test_blkdebug_lets_nobody_past_it(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_temp_file(variant->place, SIZE, 0);
    unsigned file = fixture_add_node(f, IPC_DRIVER_FILE, 0, fixture_add_fd(f, fd), -1);
    uint64_t offset;

    fixture_add_node(f, IPC_DRIVER_BLKDEBUG, 0, -1, (int)file);
    assert_int_equal(fixture_open(f), 0);
    assert_false(block_node_map(f->root, 0, 4096, &fd, &offset));
    assert_false(block_node_map_write(f->root, 0, 4096, &fd, &offset));
}

static void test_blkdebug_fails_what_touches_its_sector(void **state)
{
    const struct ipc_inject_rule rule = { .op_mask = 1u << BLOCK_OP_READ, .errno_code = ENOSPC, .sector = 3 };
    struct block_fixture *f = *state;
    uint8_t buf[1024];

    open_debug(f, &rule, 1);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 512, buf, 1024), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 513, buf, 1024), -ENOSPC);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 2047, buf, 1), -ENOSPC);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 2048, buf, 512), 0);
}

static void test_blkdebug_once_is_once(void **state)
{
    const struct ipc_inject_rule rules[] = {
        { .op_mask = 1u << BLOCK_OP_READ, .errno_code = EIO, .once = 1, .sector = -1 },
        { .op_mask = 1u << BLOCK_OP_READ, .errno_code = ENOMEM, .once = 1, .sector = -1 },
    };
    struct block_fixture *f = *state;
    uint8_t byte;

    open_debug(f, rules, 2);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), -EIO);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), -ENOMEM);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), 0);
}

static void test_blkdebug_refuses_rules_that_are_none(void **state)
{
    static const struct {
        unsigned count;
        int errno_code;
    } bad[] = { { IPC_RULES_MAX + 1, EIO }, { 1, 0 }, { 1, -EIO }, { 1, 5000 } };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct block_fixture f;
        unsigned null, debug;

        fixture_init(&f);
        null = fixture_add_node(&f, IPC_DRIVER_NULL_CO, 0, -1, -1);
        debug = fixture_add_node(&f, IPC_DRIVER_BLKDEBUG, 0, -1, (int)null);
        f.specs[debug].rule_count = bad[i].count;
        f.specs[debug].rules[0].errno_code = bad[i].errno_code;
        assert_int_equal(fixture_open(&f), -EINVAL);
        assert_non_null(strstr(f.err.text, "inject-error"));
        fixture_done(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_raw_is_a_window_of_its_child),
        FIXTURE_TEST(test_raw_zeroes_and_maps_at_its_offset),
        FIXTURE_TEST(test_raw_windows_that_do_not_fit_are_refused),
        FIXTURE_TEST(test_a_raw_window_may_be_empty),
        FIXTURE_TEST(test_null_has_a_size),
        FIXTURE_TEST(test_null_has_one_gibibyte_by_default),
        FIXTURE_TEST(test_null_never_gives_away_what_a_buffer_held),
        FIXTURE_TEST(test_null_promises_zeros_only_with_read_zeroes),
        FIXTURE_TEST(test_null_takes_its_latency),
        FIXTURE_TEST(test_null_latencies_overlap),
        FIXTURE_TEST(test_blkdebug_fails_the_operations_of_its_rule),
        FIXTURE_TEST(test_blkdebug_lets_nobody_past_it),
        FIXTURE_TEST(test_blkdebug_fails_what_touches_its_sector),
        FIXTURE_TEST(test_blkdebug_once_is_once),
        FIXTURE_TEST(test_blkdebug_refuses_rules_that_are_none),
    };

    return RUN_VARIANTS("drivers", tests);
}
