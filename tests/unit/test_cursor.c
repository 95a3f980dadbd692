/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include "common/base/cursor.h"

static const uint8_t bytes[] = { 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6 };

static void test_numbers_are_big_endian(void **state)
{
    struct cursor c = cursor_init(bytes, sizeof(bytes));

    assert_true(cursor_be64(&c) == 0x123456789abcdef0u);
    assert_int_equal(cursor_be32(&c), 0x01020304);
    assert_int_equal(cursor_be16(&c), 0x0506);
    assert_true(cursor_at_end(&c));
}

static void test_too_few_bytes_fail_for_good(void **state)
{
    struct cursor c = cursor_init(bytes, 3);

    assert_int_equal(cursor_be32(&c), 0);
    assert_int_equal(cursor_be16(&c), 0);
    assert_null(cursor_bytes(&c, 1));
    assert_false(cursor_at_end(&c));
}

static void test_left_over_bytes_are_not_the_end(void **state)
{
    struct cursor c = cursor_init(bytes, 3);

    assert_int_equal(cursor_be16(&c), 0x1234);
    assert_false(cursor_at_end(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_big_endian),
        cmocka_unit_test(test_too_few_bytes_fail_for_good),
        cmocka_unit_test(test_left_over_bytes_are_not_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
