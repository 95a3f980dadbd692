/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>

#include "common/base/util.h"

static void test_sums_and_products_tell_of_overflow(void **state)
{
    uint64_t value = 7;

    assert_false(u64_add(UINT64_MAX, 1, &value));
    assert_false(u64_mul(UINT64_MAX / 2, 3, &value));
    assert_int_equal(value, 7);
    assert_true(u64_add(UINT64_MAX - 1, 1, &value));
    assert_true(value == UINT64_MAX);
    assert_true(u64_mul(1u << 31, 2, &value));
    assert_true(value == UINT64_C(1) << 32);
}

static void test_ranges_do_not_wrap(void **state)
{
    assert_true(range_within(0, 0, 0));
    assert_true(range_within(512, 512, 1024));
    assert_false(range_within(512, 513, 1024));
    assert_false(range_within(1025, 0, 1024));
    assert_false(range_within(UINT64_MAX, 2, 1024));
    assert_false(range_within(2, UINT64_MAX, 1024));
}

static void test_rounding(void **state)
{
    assert_int_equal(round_up(1, 512), 512);
    assert_int_equal(round_up(512, 512), 512);
    assert_int_equal(round_down(1023, 512), 512);
    assert_true(is_power_of_2(4096));
    assert_false(is_power_of_2(0));
    assert_false(is_power_of_2(4097));
}

static void test_close_fd_empties_the_variable_and_keeps_errno(void **state)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int same = fd;

    assert_true(fd >= 0);
    errno = EAGAIN;
    close_fd(&fd);
    assert_int_equal(fd, -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(fcntl(same, F_GETFD), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_and_products_tell_of_overflow),
        cmocka_unit_test(test_ranges_do_not_wrap),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_close_fd_empties_the_variable_and_keeps_errno),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
