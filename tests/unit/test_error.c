/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "common/base/error.h"

static void test_set_returns_the_code_and_fills_the_text(void **state)
{
    struct error err = { 0 };

    assert_int_equal(error_set(&err, -ENOENT, "node '%s' does not exist", "disk0"), -ENOENT);
    assert_int_equal(err.code, -ENOENT);
    assert_int_equal(err.class, ERROR_CLASS_GENERIC);
    assert_string_equal(err.text, "node 'disk0' does not exist");
}

static void test_set_without_an_error_still_returns_the_code(void **state)
{
    assert_int_equal(error_set(NULL, -EIO, "lost"), -EIO);
}

static void test_context_of_an_error_that_nobody_wants_goes_nowhere(void **state)
{
    assert_true(error_prepend(NULL, "node '%s'", "disk0") < 0);
    assert_true(error_append(NULL, ": %s", "try again") < 0);
}

static void test_append_puts_context_behind(void **state)
{
    struct error err = { 0 };

    error_set(&err, -EACCES, "Permission denied");
    assert_int_equal(error_append(&err, ": see '%s'", "disk0"), -EACCES);
    assert_string_equal(err.text, "Permission denied: see 'disk0'");
}

static void test_prepend_puts_context_first(void **state)
{
    struct error err = { 0 };

    error_set(&err, -EACCES, "Permission denied");
    assert_int_equal(error_prepend(&err, "node '%s'", "disk0"), -EACCES);
    assert_string_equal(err.text, "node 'disk0': Permission denied");
}

static void test_long_texts_are_cut_not_overrun(void **state)
{
    struct error err = { 0 };
    char longer[2 * ERROR_TEXT_MAX];

    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    error_set(&err, -EINVAL, "%s", longer);
    assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
    error_prepend(&err, "option");
    assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
    assert_memory_equal(err.text, "option: xx", 10);
}

static void test_every_class_has_a_name(void **state)
{
    for (int class = 0; class < ERROR_CLASS_MAX; class++)
        assert_non_null(error_class_name(class));
    assert_string_equal(error_class_name(ERROR_CLASS_DEVICE_NOT_FOUND), "DeviceNotFound");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_returns_the_code_and_fills_the_text),
        cmocka_unit_test(test_set_without_an_error_still_returns_the_code),
        cmocka_unit_test(test_context_of_an_error_that_nobody_wants_goes_nowhere),
        cmocka_unit_test(test_append_puts_context_behind),
        cmocka_unit_test(test_prepend_puts_context_first),
        cmocka_unit_test(test_long_texts_are_cut_not_overrun),
        cmocka_unit_test(test_every_class_has_a_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
