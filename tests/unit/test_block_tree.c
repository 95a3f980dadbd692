/* SPDX-License-Identifier: BSD-2-Clause */
/* The front door: node tables that make no sense, and requests that a client must not make. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/block/driver.h"

#define SIZE 65536u

/* A null-co node below a raw node below a blkdebug node. */
static void add_stack(struct block_fixture *f, uint32_t flags)
{
    unsigned null = fixture_add_node(f, IPC_DRIVER_NULL_CO, IPC_NODE_HAS_SIZE, -1, -1);
    unsigned raw = fixture_add_node(f, IPC_DRIVER_RAW, flags, -1, (int)null);

    f->specs[null].size_bytes = SIZE;
    fixture_add_node(f, IPC_DRIVER_BLKDEBUG, 0, -1, (int)raw);
}

static void test_every_driver_row_is_complete(void **state)
{
    for (unsigned i = 0; block_drivers[i] != NULL; i++) {
        const struct block_driver *driver = block_drivers[i];

        assert_true(driver->id != 0);
        assert_true(strlen(driver->name) > 0);
        assert_non_null(driver->open);
        for (unsigned op = 0; op < BLOCK_OP_MAX; op++)
            assert_true(driver->submit[op] != NULL || (driver->flags & BLOCK_DRIVER_NEEDS_CHILD));
        for (unsigned j = 0; j < i; j++) {
            assert_true(block_drivers[j]->id != driver->id);
            assert_string_not_equal(block_drivers[j]->name, driver->name);
        }
    }
}

static void test_a_stack_of_nodes_opens(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;

    add_stack(f, 0);
    assert_int_equal(fixture_open(f), 0);
    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, SIZE);
    assert_false(info.read_only);
}

static void test_a_read_only_child_makes_its_parents_read_only(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;
    uint8_t byte = 0;

    add_stack(f, IPC_NODE_READ_ONLY);
    assert_int_equal(fixture_open(f), 0);
    block_node_info(f->root, &info);
    assert_true(info.read_only);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, &byte, 1), -EPERM);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 0, NULL, 1), -EPERM);
    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, 0, 0, NULL, 1), -EPERM);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
}

/* ---- Tables that make no sense ---- */

static void break_no_driver(struct block_fixture *f)
{
    f->specs[1].driver = 0;
}

static void break_unknown_driver(struct block_fixture *f)
{
    f->specs[1].driver = 4711;
}

static void break_endless_name(struct block_fixture *f)
{
    memset(f->specs[1].name, 'x', sizeof(f->specs[1].name));
}

static void break_child_of_itself(struct block_fixture *f)
{
    f->specs[1].child_index = 1;
}

static void break_child_after_parent(struct block_fixture *f)
{
    f->specs[1].child_index = 2;
}

static void break_child_far_away(struct block_fixture *f)
{
    f->specs[1].child_index = INT32_MAX;
}

static void break_negative_child(struct block_fixture *f)
{
    f->specs[1].child_index = INT32_MIN;
}

static void break_missing_child(struct block_fixture *f)
{
    f->specs[2].child_index = -1;
}

static void break_child_of_two(struct block_fixture *f)
{
    f->specs[2].child_index = 0;
}

static void break_child_of_a_leaf(struct block_fixture *f)
{
    f->specs[0].child_index = 0;
}

static void break_descriptor_where_none_belongs(struct block_fixture *f)
{
    f->specs[0].fd_index = 0;
}

static void break_missing_descriptor(struct block_fixture *f)
{
    f->specs[0].driver = IPC_DRIVER_FILE;
}

static void break_descriptor_out_of_range(struct block_fixture *f)
{
    f->specs[0].driver = IPC_DRIVER_FILE;
    f->specs[0].fd_index = 1;
}

static void break_no_nodes(struct block_fixture *f)
{
    f->spec_count = 0;
}

static void break_loose_node(struct block_fixture *f)
{
    f->specs[2] = f->specs[0];
}

static void test_tables_that_make_no_tree_are_refused(void **state)
{
    static void (*const breakages[])(struct block_fixture * f) = {
        break_no_driver,
        break_unknown_driver,
        break_endless_name,
        break_child_of_itself,
        break_child_after_parent,
        break_child_far_away,
        break_negative_child,
        break_missing_child,
        break_child_of_two,
        break_child_of_a_leaf,
        break_descriptor_where_none_belongs,
        break_missing_descriptor,
        break_descriptor_out_of_range,
        break_no_nodes,
        break_loose_node,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(breakages); i++) {
        struct block_fixture f;

        fixture_init(&f);
        fixture_add_fd(&f, open("/dev/null", O_RDONLY | O_CLOEXEC));
        add_stack(&f, 0);
        breakages[i](&f);
        if (fixture_open(&f) != -EINVAL)
            fail_msg("breakage %u was accepted", i);
        assert_true(strlen(f.err.text) > 0);
        assert_null(f.tree);
        fixture_done(&f);
    }
}

static void test_one_descriptor_cannot_serve_two_nodes(void **state)
{
    struct block_fixture *f = *state;
    int index = fixture_add_fd(f, fixture_temp_file(variant->place, SIZE, 0));

    fixture_add_node(f, IPC_DRIVER_FILE, 0, index, -1);
    fixture_add_node(f, IPC_DRIVER_FILE, 0, index, -1);
    assert_int_equal(fixture_open(f), -EINVAL);
}

static void test_too_many_nodes_are_refused(void **state)
{
    struct block_tree *tree = NULL;
    struct ipc_node specs[1] = { 0 };
    struct error err = { 0 };

    assert_int_equal(block_tree_open(specs, IPC_NODES_MAX + 1, NULL, 0, &tree, &err), -EINVAL);
    assert_int_equal(block_tree_open(specs, 1, NULL, IPC_IMAGE_FDS_MAX + 1, &tree, &err), -EINVAL);
}

static void test_the_error_names_the_node(void **state)
{
    struct block_fixture *f = *state;
    int index = fixture_add_fd(f, open("/dev/null", O_RDWR | O_CLOEXEC));

    fixture_add_node(f, IPC_DRIVER_FILE, 0, index, -1);
    assert_int_equal(fixture_open(f), -EINVAL);
    assert_non_null(strstr(f->err.text, "node0"));
    assert_non_null(strstr(f->err.text, "regular file"));
}

/* ---- Requests ---- */

static void test_ranges_beyond_the_end_are_refused(void **state)
{
    static const struct {
        uint64_t offset;
        uint64_t len_bytes;
    } ranges[] = {
        { SIZE, 1 }, { SIZE - 1, 2 }, { 0, SIZE + 1 }, { UINT64_MAX, 2 }, { 2, UINT64_MAX }, { SIZE + 1, 0 }
    };
    static const struct {
        enum block_op op;
        int error;
    } ops[] = {
        { BLOCK_OP_READ, -EINVAL },         { BLOCK_OP_WRITE, -ENOSPC }, { BLOCK_OP_DISCARD, -EINVAL },
        { BLOCK_OP_WRITE_ZEROES, -ENOSPC }, { BLOCK_OP_CACHE, -EINVAL },
    };
    struct block_fixture *f = *state;

    add_stack(f, 0);
    assert_int_equal(fixture_open(f), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(ranges); j++) {
            int ret = fixture_io(f, ops[i].op, 0, ranges[j].offset, NULL, ranges[j].len_bytes);

            if (ret != ops[i].error)
                fail_msg("operation %u, range %u: %d", ops[i].op, j, ret);
        }
    }
}

static void test_empty_requests_are_done_at_once(void **state)
{
    struct block_fixture *f = *state;

    add_stack(f, 0);
    assert_int_equal(fixture_open(f), 0);
    for (unsigned op = 0; op < BLOCK_OP_STATUS; op++)
        assert_int_equal(fixture_io(f, op, 0, SIZE, NULL, 0), 0);
}

static void test_status_of_nothing_or_into_nothing_is_refused(void **state)
{
    struct block_fixture *f = *state;
    struct block_extent extent;

    add_stack(f, 0);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(fixture_status(f, 0, 0, &extent, 1), -EINVAL);
    assert_int_equal(fixture_status(f, 0, 512, &extent, 0), -EINVAL);
    assert_int_equal(fixture_status(f, SIZE, 1, &extent, 1), -EINVAL);
}

static void test_an_unknown_operation_is_refused(void **state)
{
    struct block_fixture *f = *state;

    add_stack(f, 0);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_MAX, 0, 0, NULL, 1), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_every_driver_row_is_complete),
        FIXTURE_TEST(test_a_stack_of_nodes_opens),
        FIXTURE_TEST(test_a_read_only_child_makes_its_parents_read_only),
        FIXTURE_TEST(test_tables_that_make_no_tree_are_refused),
        FIXTURE_TEST(test_one_descriptor_cannot_serve_two_nodes),
        FIXTURE_TEST(test_too_many_nodes_are_refused),
        FIXTURE_TEST(test_the_error_names_the_node),
        FIXTURE_TEST(test_ranges_beyond_the_end_are_refused),
        FIXTURE_TEST(test_empty_requests_are_done_at_once),
        FIXTURE_TEST(test_status_of_nothing_or_into_nothing_is_refused),
        FIXTURE_TEST(test_an_unknown_operation_is_refused),
    };

    variant = &variants[2]; /* nothing here depends on engines */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
