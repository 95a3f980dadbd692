/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "monitor/mounter/fusermount.h"
#include "monitor/mounter/mount-table.h"

#define FUSE_LINE                                                                                                      \
    "104 29 0:52 / /srv/a\\040b\\134c rw,nosuid,nodev,relatime shared:7 master:1 - fuse.bulkhead bulkhead:e0 "         \
    "rw,user_id=999,group_id=995,default_permissions"

static void test_fuse_mount_is_parsed(void **state)
{
    struct mount_row row;

    assert_true(mount_row_parse(FUSE_LINE, &row));
    assert_true(row.id == 104 && row.parent_id == 29);
    assert_true(row.dev_major == 0 && row.dev_minor == 52);
    assert_string_equal(row.path, "/srv/a b\\c");
    assert_string_equal(row.type, "fuse.bulkhead");
    assert_string_equal(row.source, "bulkhead:e0");
    assert_true(row.has_user_id && row.user_id == 999);
}

static void test_line_without_optional_fields_is_parsed(void **state)
{
    struct mount_row row;

    assert_true(mount_row_parse("29 1 8:1 / / rw - ext4 /dev/sda1 rw,xuser_id=5", &row));
    assert_string_equal(row.path, "/");
    assert_false(row.has_user_id);
}

static void test_line_ends_at_its_newline(void **state)
{
    struct mount_row row;

    assert_true(mount_row_parse("29 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 1 8:1 / /b rw - fuse x user_id=7\n", &row));
    assert_false(row.has_user_id);
    assert_false(mount_row_parse("29 1 8:1 / / rw\n30 1 8:1 / /b rw - fuse x user_id=7\n", &row));
}

static void test_malformed_lines_are_refused(void **state)
{
    static const char *const lines[] = {
        "",
        "x",
        "29",
        "29 1 8 / / rw - ext4 a rw",
        "29 1 8:1",
        "29 1 8:1 /",
        "29 1 8:1 / /",
        "29 1 8:1 / / rw shared:1",
        "29 1 8:1 / / rw -",
        "29 1 8:1 / / rw - ext4",
        "29 1 8:1 / / rw - "
        "a123456789a123456789a123456789a123456789a123456789a123456789a123456789 b rw",
    };
    struct mount_row row;

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        assert_false(mount_row_parse(lines[i], &row));
}

static void test_row_is_found_by_id_only(void **state)
{
    static const char table[] = "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n" FUSE_LINE "\n";
    struct mount_row row;

    assert_true(mount_table_find(table, 104, &row));
    assert_string_equal(row.type, "fuse.bulkhead");
    assert_true(mount_table_find(table, 29, &row));
    assert_false(mount_table_find(table, 10, &row));
    assert_false(mount_table_find("", 29, &row));
}

static void test_cover_is_a_mount_on_the_root_of_another(void **state)
{
    struct mount_row row;

    assert_true(mount_row_parse("104 29 0:52 / /a rw - fuse.bulkhead e rw", &row));
    assert_false(
        mount_table_is_covered("29 1 8:1 / / rw - ext4 s rw\n104 29 0:52 / /a rw - fuse.bulkhead e rw\n", &row));
    assert_true(
        mount_table_is_covered("104 29 0:52 / /a rw - fuse.bulkhead e rw\n105 104 0:53 / /a rw - fuse e rw\n", &row));
    assert_false(mount_table_is_covered("105 104 0:53 / /a/b rw - fuse e rw\n", &row));
}

static void test_table_of_this_process_is_read(void **state)
{
    struct error err;
    char *table;
    struct mount_row row;

    assert_int_equal(mount_table_read("/proc/self/mountinfo", &table, &err), 0);
    assert_true(mount_row_parse(table, &row));
    free(table);
    assert_int_equal(mount_table_read("/proc/self/nonexistent", &table, &err), -ENOENT);
}

static void test_messages_of_the_helper_get_advice(void **state)
{
    assert_non_null(
        strstr(fusermount_hint("option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf"),
               "allow-other=off"));
    assert_string_equal(fusermount_hint("something new"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuse_mount_is_parsed),
        cmocka_unit_test(test_line_without_optional_fields_is_parsed),
        cmocka_unit_test(test_line_ends_at_its_newline),
        cmocka_unit_test(test_malformed_lines_are_refused),
        cmocka_unit_test(test_row_is_found_by_id_only),
        cmocka_unit_test(test_cover_is_a_mount_on_the_root_of_another),
        cmocka_unit_test(test_table_of_this_process_is_read),
        cmocka_unit_test(test_messages_of_the_helper_get_advice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
