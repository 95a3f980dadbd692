/* SPDX-License-Identifier: BSD-2-Clause */
/* The check of BOOT: one that fits, and for each field the value that does not. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/ipc/catalogue.h"

static struct ipc_boot boot; /* several KiB; made anew by each test's set-up */

static int set_up(void **state)
{
    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_EXPORT;
    boot.layers = IPC_LAYERS_ALL;
    boot.engine = IPC_ENGINE_AUTO;
    boot.io_threads = 1;
    boot.node_count = 2;
    boot.image_fd_count = 1;
    strcpy(boot.export_id, "disk0");
    boot.nodes[0] = (struct ipc_node){ .driver = IPC_DRIVER_FILE, .fd_index = 0, .child_index = -1, .name = "file0" };
    boot.nodes[1] = (struct ipc_node){ .driver = IPC_DRIVER_RAW, .fd_index = -1, .child_index = 0, .name = "raw0" };
    return 0;
}

static int check(void)
{
    return ipc_boot_check(&boot, 1 + boot.image_fd_count, NULL);
}

/* Set one field to a value, see it refused, and set it back. */
#define ASSERT_REFUSED(field, value)                                                                                   \
    do {                                                                                                               \
        __typeof__(field) _good = (field);                                                                             \
        (field) = (value);                                                                                             \
        assert_int_equal(check(), -EPROTO);                                                                            \
        (field) = _good;                                                                                               \
        assert_int_equal(check(), 0);                                                                                  \
    } while (0)

static void test_good_one_is_accepted(void **state)
{
    assert_int_equal(check(), 0);
}

static void test_role_without_images_is_accepted(void **state)
{
    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_NEGOTIATOR;
    assert_int_equal(check(), 0);
}

static void test_errors_enums_and_masks(void **state)
{
    ASSERT_REFUSED(boot.role, 0);
    ASSERT_REFUSED(boot.role, UINT32_MAX);
    ASSERT_REFUSED(boot.layers, IPC_LAYERS_ALL + 1);
    ASSERT_REFUSED(boot.engine, IPC_ENGINE_THREADS + 1);
    ASSERT_REFUSED(boot.log_level, 99);
    ASSERT_REFUSED(boot.export_flags, 1u << 31);
}

static void test_errors_counts(void **state)
{
    ASSERT_REFUSED(boot.io_threads, 0);
    ASSERT_REFUSED(boot.io_threads, IPC_IO_THREADS_MAX + 1);
    ASSERT_REFUSED(boot.node_count, 0);
    ASSERT_REFUSED(boot.node_count, IPC_NODES_MAX + 1);
    ASSERT_REFUSED(boot.node_count, UINT32_MAX);
    ASSERT_REFUSED(boot.image_fd_count, IPC_IMAGE_FDS_MAX + 1);
    ASSERT_REFUSED(boot.image_fd_count, 0);
}

static void test_errors_descriptors_that_did_not_come(void **state)
{
    assert_int_equal(ipc_boot_check(&boot, 1, NULL), -EPROTO);
    assert_int_equal(ipc_boot_check(&boot, 3, NULL), -EPROTO);
}

static void test_errors_images_for_a_role_without(void **state)
{
    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_NEGOTIATOR;
    ASSERT_REFUSED(boot.image_fd_count, 1);
    ASSERT_REFUSED(boot.io_threads, 1);
    ASSERT_REFUSED(boot.export_flags, IPC_EXPORT_WRITABLE);
    ASSERT_REFUSED(boot.node_count, 1);
}

static void test_errors_strings_without_an_end(void **state)
{
    memset(boot.export_id, 'x', sizeof(boot.export_id));
    assert_int_equal(check(), -EPROTO);
    set_up(state);
    memset(boot.nodes[1].name, 'x', sizeof(boot.nodes[1].name));
    assert_int_equal(check(), -EPROTO);
}

static void test_errors_node_indices(void **state)
{
    ASSERT_REFUSED(boot.nodes[0].fd_index, -1);
    ASSERT_REFUSED(boot.nodes[0].fd_index, 1);
    ASSERT_REFUSED(boot.nodes[0].fd_index, INT_MIN);
    ASSERT_REFUSED(boot.nodes[0].child_index, 0);
    ASSERT_REFUSED(boot.nodes[1].fd_index, 0);
    ASSERT_REFUSED(boot.nodes[1].child_index, -1);
    ASSERT_REFUSED(boot.nodes[1].child_index, 1); /* itself: a child comes before its parent */
    ASSERT_REFUSED(boot.nodes[1].child_index, 2);
    ASSERT_REFUSED(boot.nodes[1].child_index, INT_MIN);
}

static void test_errors_node_fields(void **state)
{
    struct error err;

    ASSERT_REFUSED(boot.nodes[1].driver, 0);
    ASSERT_REFUSED(boot.nodes[1].driver, UINT32_MAX);
    ASSERT_REFUSED(boot.nodes[0].flags, IPC_NODE_READ_ZEROES);
    ASSERT_REFUSED(boot.nodes[0].flags, 1u << 31);
    ASSERT_REFUSED(boot.nodes[1].offset_bytes, UINT64_MAX);
    ASSERT_REFUSED(boot.nodes[1].size_bytes, (uint64_t)INT64_MAX + 1);
    ASSERT_REFUSED(boot.nodes[1].reserved, 1);
    boot.nodes[1].driver = 77;
    assert_int_equal(ipc_boot_check(&boot, 2, &err), -EPROTO);
    assert_string_equal(err.text, "node 1: unknown driver 77");
}

static void test_errors_offset_plus_size_that_wraps(void **state)
{
    boot.nodes[1].offset_bytes = INT64_MAX;
    boot.nodes[1].size_bytes = INT64_MAX;
    assert_int_equal(check(), -EPROTO);
}

static void test_errors_injection_rules(void **state)
{
    ASSERT_REFUSED(boot.nodes[1].rule_count, 1); /* raw has none */
    boot.nodes[1].driver = IPC_DRIVER_BLKDEBUG;
    boot.nodes[1].rule_count = 1;
    boot.nodes[1].rules[0] = (struct ipc_inject_rule){ .op_mask = 1, .errno_code = EIO, .sector = -1 };
    assert_int_equal(check(), 0);
    ASSERT_REFUSED(boot.nodes[1].rule_count, IPC_RULES_MAX + 1);
    ASSERT_REFUSED(boot.nodes[1].rules[0].op_mask, 0);
    ASSERT_REFUSED(boot.nodes[1].rules[0].op_mask, 1u << 7);
    ASSERT_REFUSED(boot.nodes[1].rules[0].errno_code, 0);
    ASSERT_REFUSED(boot.nodes[1].rules[0].errno_code, -EIO);
    ASSERT_REFUSED(boot.nodes[1].rules[0].errno_code, 4096);
    ASSERT_REFUSED(boot.nodes[1].rules[0].once, 2);
    ASSERT_REFUSED(boot.nodes[1].rules[0].reserved, 1);
    ASSERT_REFUSED(boot.nodes[1].rules[0].sector, -2);
}

#define BOOT_TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOOT_TEST(test_good_one_is_accepted),
        BOOT_TEST(test_role_without_images_is_accepted),
        BOOT_TEST(test_errors_enums_and_masks),
        BOOT_TEST(test_errors_counts),
        BOOT_TEST(test_errors_descriptors_that_did_not_come),
        BOOT_TEST(test_errors_images_for_a_role_without),
        BOOT_TEST(test_errors_strings_without_an_end),
        BOOT_TEST(test_errors_node_indices),
        BOOT_TEST(test_errors_node_fields),
        BOOT_TEST(test_errors_offset_plus_size_that_wraps),
        BOOT_TEST(test_errors_injection_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
