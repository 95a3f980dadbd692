/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-lexer.h"
#include "monitor/qmp/json-print.h"

static void assert_prints(const struct cJSON *json, bool pretty, const char *expected)
{
    size_t len;
    char *text = json_print(json, pretty, &len);

    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
    free(text);
}

static void assert_string_prints(const char *string, const char *expected)
{
    struct cJSON json = { .type = cJSON_String, .valuestring = (char *)string };

    assert_prints(&json, false, expected);
}

static void test_strings_are_ascii(void **state)
{
    assert_string_prints("a\"b\\c/\b\f\n\r\t\x01\x7f", "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u007f\"");
    assert_string_prints("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\"\\u00e9\\u20ac\\ud83d\\ude00\"");
}

/* File names need not be UTF-8; what is shown of them must be. */
static void test_bytes_that_are_not_utf8_are_replaced(void **state)
{
    assert_string_prints("a\x80z", "\"a\\ufffdz\"");
    assert_string_prints("\xc3", "\"\\ufffd\"");
    assert_string_prints("\xc3z", "\"\\ufffdz\"");
    assert_string_prints("\xc0\xaf", "\"\\ufffd\\ufffd\"");
    assert_string_prints("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");
    assert_string_prints("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
    assert_string_prints("\xff\xfe", "\"\\ufffd\\ufffd\"");
}

static void test_numbers_come_out_as_they_went_in(void **state)
{
    static const char *const numbers[] = { "0",
                                           "-1",
                                           "1234567890123456",
                                           "9007199254740992",
                                           "-9007199254740993",
                                           "18446744073709551616",
                                           "0.1",
                                           "1.50",
                                           "1e3",
                                           "-2.5E-10",
                                           "1.0" };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct cJSON *json;

        assert_int_equal(json_parse(numbers[i], strlen(numbers[i]), &json, NULL), 0);
        assert_prints(json, false, numbers[i]);
        cJSON_Delete(json);
    }
}

static void test_pretty_text_is_indented(void **state)
{
    static const char text[] = "{\"a\":[1,{}],\"b\":{\"c\":null},\"d\":[]}";
    struct cJSON *json;

    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    assert_prints(json, false, "{\"a\": [1, {}], \"b\": {\"c\": null}, \"d\": []}");
    assert_prints(
        json, true,
        "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": {\n        \"c\": null\n    },\n    \"d\": []\n}");
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings_are_ascii),
        cmocka_unit_test(test_bytes_that_are_not_utf8_are_replaced),
        cmocka_unit_test(test_numbers_come_out_as_they_went_in),
        cmocka_unit_test(test_pretty_text_is_indented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
