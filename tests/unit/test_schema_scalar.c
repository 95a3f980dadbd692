/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include "common/base/util.h"
#include "monitor/qmp/schema-scalar.h"

static void test_bools_have_four_spellings_each(void **state)
{
    static const char *const on[] = { "on", "yes", "true", "y" };
    static const char *const off[] = { "off", "no", "false", "n" };
    static const char *const neither[] = { "", "1", "0", "ON", "oN", "on ", "tru", "t" };
    bool value;

    for (unsigned i = 0; i < ARRAY_SIZE(on); i++) {
        value = false;
        assert_true(scalar_parse_bool(on[i], &value));
        assert_true(value);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(off); i++) {
        value = true;
        assert_true(scalar_parse_bool(off[i], &value));
        assert_false(value);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(neither); i++)
        assert_false(scalar_parse_bool(neither[i], &value));
}

static void test_integers_are_decimal_or_hexadecimal(void **state)
{
    static const struct {
        const char *text;
        bool negative;
        uint64_t magnitude;
    } cases[] = {
        { "0", false, 0 },
        { "-0", false, 0 },
        { "+7", false, 7 },
        { "-1", true, 1 },
        { "0x10", false, 16 },
        { "0XfF", false, 255 },
        { "18446744073709551615", false, UINT64_MAX },
        { "-9223372036854775808", true, UINT64_C(1) << 63 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        bool negative;
        uint64_t magnitude;

        assert_true(scalar_parse_int(cases[i].text, &negative, &magnitude));
        assert_int_equal(negative, cases[i].negative);
        assert_true(magnitude == cases[i].magnitude);
    }
}

static void test_what_is_no_integer_is_refused(void **state)
{
    static const char *const cases[] = { "",
                                         "-",
                                         "+",
                                         " 1",
                                         "1 ",
                                         "1.0",
                                         "1e3",
                                         "0x",
                                         "0xg",
                                         "010",
                                         "00",
                                         "-010",
                                         "1k",
                                         "abc",
                                         "--1",
                                         "+-1",
                                         "18446744073709551616",
                                         "0x10000000000000000" };
    bool negative;
    uint64_t magnitude;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_false(scalar_parse_int(cases[i], &negative, &magnitude));
}

static void test_sizes_take_suffixes_and_fractions(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        { "0", 0 },
        { "512", 512 },
        { "512B", 512 },
        { "4k", 4096 },
        { "4K", 4096 },
        { "1M", UINT64_C(1) << 20 },
        { "2g", UINT64_C(2) << 30 },
        { "1T", UINT64_C(1) << 40 },
        { "1P", UINT64_C(1) << 50 },
        { "15E", UINT64_C(15) << 60 },
        { "1.5G", UINT64_C(3) << 29 },
        { "0.5k", 512 },
        { "0.000000000000000001E", 1 },
        { "0x1000", 4096 },
        { "0x1E", 30 },
        { "18446744073709551615", UINT64_MAX },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t bytes;

        assert_true(scalar_parse_size(cases[i].text, &bytes));
        assert_true(bytes == cases[i].bytes);
    }
}

static void test_what_is_no_size_is_refused(void **state)
{
    static const char *const cases[] = { "",
                                         "k",
                                         "-1",
                                         "+1",
                                         "1kk",
                                         "1 k",
                                         "1.5",
                                         "1.k",
                                         ".5k",
                                         "1.5B",
                                         "16E",
                                         "1X",
                                         "010",
                                         "0x1k",
                                         "1.5.5k",
                                         "15.9999999999999999999E",
                                         "18446744073709551616",
                                         "1e3" };
    uint64_t bytes;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (scalar_parse_size(cases[i], &bytes))
            fail_msg("'%s' was taken", cases[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bools_have_four_spellings_each),
        cmocka_unit_test(test_integers_are_decimal_or_hexadecimal),
        cmocka_unit_test(test_what_is_no_integer_is_refused),
        cmocka_unit_test(test_sizes_take_suffixes_and_fractions),
        cmocka_unit_test(test_what_is_no_size_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
