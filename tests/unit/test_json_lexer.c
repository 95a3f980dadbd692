/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-lexer.h"
#include "monitor/qmp/json-print.h"

/* Feed text in chunks and write down what comes out, one line each: the value in compact form, or "! " and the error.
 */
static void transcribe(const char *text, size_t len, size_t chunk, char *out, size_t out_size)
{
    struct json_lexer *lexer = json_lexer_new();
    size_t offset = 0;
    size_t out_len = 0;

    out[0] = '\0';
    while (offset < len) {
        struct cJSON *value = NULL;
        struct error err = { 0 };
        size_t used = 0;
        size_t now = MIN(chunk, len - offset);
        enum json_result result = json_lexer_feed(lexer, text + offset, now, &used, &value, &err);

        assert_true(used <= now);
        assert_true(result != JSON_MORE || used == now);
        offset += used;
        if (result == JSON_VALUE) {
            size_t printed_len;
            char *printed = json_print(value, false, &printed_len);

            out_len += (size_t)snprintf(out + out_len, out_size - out_len, "%s\n", printed);
            free(printed);
            cJSON_Delete(value);
        } else if (result == JSON_ERROR) {
            out_len += (size_t)snprintf(out + out_len, out_size - out_len, "! %s\n", err.text);
        }
    }
    json_lexer_free(lexer);
}

static void assert_transcript_of(const char *text, size_t len, const char *expected)
{
    static const size_t chunks[] = { 1, 2, 3, 7, SIZE_MAX };
    static char out[65536];

    for (unsigned i = 0; i < ARRAY_SIZE(chunks); i++) {
        transcribe(text, len, chunks[i], out, sizeof(out));
        assert_string_equal(out, expected);
    }
}

static void assert_transcript(const char *text, const char *expected)
{
    assert_transcript_of(text, strlen(text), expected);
}

/* ---- What is right ---- */

static void test_values_of_all_types_are_read(void **state)
{
    assert_transcript("{\"a\": [1, -2, true, false, null, \"x\", {}, []]}\n",
                      "{\"a\": [1, -2, true, false, null, \"x\", {}, []]}\n");
    assert_transcript("[0,-0,10,9007199254740992,-9007199254740992,1.5,-0.25,1e3,1E-2,2.5e+1]",
                      "[0, 0, 10, 9007199254740992, -9007199254740992, 1.5, -0.25, 1e3, 1E-2, 2.5e+1]\n");
    assert_transcript(" \t\r\n[\t\r\n ]", "[]\n");
}

static void test_several_values_in_one_write_come_one_by_one(void **state)
{
    assert_transcript("{}{\"a\":1}[]\n\n{\"b\":2}\r\n", "{}\n{\"a\": 1}\n[]\n{\"b\": 2}\n");
}

static void test_values_without_brackets_end_with_what_follows(void **state)
{
    assert_transcript("1 true\nnull{}\"a\"\"b\"", "1\ntrue\nnull\n{}\n\"a\"\n\"b\"\n");
}

static void test_escapes_are_undone(void **state)
{
    assert_transcript("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\'\"]", "[\"\\\"\\\\/\\b\\f\\n\\r\\t'\"]\n");
    assert_transcript("[\"\\u0041\\u00e9\\u20ac\\uD83D\\uDE00\"]", "[\"A\\u00e9\\u20ac\\ud83d\\ude00\"]\n");
    assert_transcript("[\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"]",
                      "[\"\\u007f\\u0080\\u07ff\\u0800\\ud7ff\\uffff\\ud800\\udc00\\udbff\\udfff\"]\n");
}

static void test_single_quotes_are_taken_as_qmp_says(void **state)
{
    assert_transcript("{'a': 'b\"c', \"d'\": '\\''}", "{\"a\": \"b\\\"c\", \"d'\": \"'\"}\n");
}

static void test_names_that_differ_in_case_are_different(void **state)
{
    assert_transcript("{\"a\":1,\"A\":2}", "{\"a\": 1, \"A\": 2}\n");
}

/* A double cannot tell 2^53 from its successor, nor 1.0 from 1; the text can. */
static void test_numbers_that_a_double_does_not_tell_keep_their_text(void **state)
{
    static const char *const texts[] = {
        "1.0", "1e0", "9007199254740992", "9007199254740993", "-9007199254740993", "18446744073709551616",
    };
    struct cJSON *value;
    struct error err;

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
        assert_int_equal(json_parse(texts[i], strlen(texts[i]), &value, &err), 0);
        assert_string_equal(value->valuestring, texts[i]);
        cJSON_Delete(value);
    }
    assert_int_equal(json_parse("-9007199254740991", 17, &value, &err), 0);
    assert_null(value->valuestring);
    assert_true(value->valuedouble == -9007199254740991.0);
    cJSON_Delete(value);
}

/* ---- What is wrong: one error, and the next message is read ---- */

static const struct wrong {
    const char *json;
    const char *error; /* without "! JSON parse error " */
} wrong[] = {
    { "{\"a\":}", "at byte 6: a value is expected" },
    { "{\"a\" 1}", "at byte 6: ':' is expected" },
    { "{\"a\":1 \"b\":2}", "at byte 8: ',' or '}' is expected" },
    { "{\"a\":1,}", "at byte 8: a member's name in quotes is expected" },
    { "{,}", "at byte 2: a member's name in quotes or '}' is expected" },
    { "{a:1}", "at byte 2: a member's name in quotes or '}' is expected" },
    { "{1:2}", "at byte 2: a member's name in quotes or '}' is expected" },
    { "{\"a\":{\"b\":[}}}", "at byte 12: a value or ']' is expected" },
    { "[1,]", "at byte 4: a value is expected" },
    { "[1 2]", "at byte 4: ',' or ']' is expected" },
    { "[,1]", "at byte 2: a value or ']' is expected" },
    { "[1:2]", "at byte 3: ',' or ']' is expected" },
    { "[\"a\":1]", "at byte 5: ',' or ']' is expected" },
    { "[nul]", "at byte 4: a value or ']' is expected" },
    { "[-]", "at byte 3: a number is malformed" },
    { "[1.]", "at byte 4: a number is malformed" },
    { "[1e]", "at byte 4: a number is malformed" },
    { "[1e+]", "at byte 5: a number is malformed" },
    { "[0x10]", "at byte 3: ',' or ']' is expected" },
    { "[1e999]", "at byte 6: a number is too large" },
    { "{\"a\":1,\"a\":2}", "at byte 10: duplicate member 'a'" },
    { "{\"a\":1,\"\\u0061\":2}", "at byte 15: duplicate member 'a'" },
    { "{\"a\":{\"b\":1,\"c\":[],\"b\":{}}}", "at byte 22: duplicate member 'b'" },
    { "[\"\\u0000\"]", "at byte 8: \\u0000 is not allowed" },
    { "[\"a\\u0000b]\"]", "at byte 9: \\u0000 is not allowed" },
    { "[\"\\ud800\"]", "at byte 9: a surrogate is alone" },
    { "[\"\\ud800x\"]", "at byte 9: a surrogate is alone" },
    { "[\"\\ud800\\n\"]", "at byte 10: a surrogate is alone" },
    { "[\"\\ud800\\\"]\"]", "at byte 10: a surrogate is alone" },
    { "[\"\\ud800\\u0041\"]", "at byte 14: a surrogate is alone" },
    { "[\"\\ud800\\ud800\"]", "at byte 14: a surrogate is alone" },
    { "[\"\\udc00\"]", "at byte 8: a surrogate is alone" },
    { "[\"\\u12\"]", "at byte 7: \\u needs four hexadecimal digits" },
    { "[\"\\u12g4\"]", "at byte 7: \\u needs four hexadecimal digits" },
    { "[\"\\x41\"]", "at byte 4: a backslash is followed by what cannot be escaped" },
    { "[\"\\0\"]", "at byte 4: a backslash is followed by what cannot be escaped" },
    { "[\"\x80\"]", "at byte 3: the text is not UTF-8" },
    { "[\"\xc0\xaf\"]", "at byte 3: the text is not UTF-8" },
    { "[\"\xc1\xbf\"]", "at byte 3: the text is not UTF-8" },
    { "[\"\xc2\"]", "at byte 4: the text is not UTF-8" },
    { "[\"\xe0\x9f\xbf\"]", "at byte 4: the text is not UTF-8" },
    { "[\"\xe2\x82\"]", "at byte 5: the text is not UTF-8" },
    { "[\"\xed\xa0\x80\"]", "at byte 4: the text is not UTF-8" },
    { "[\"\xf0\x8f\xbf\xbf\"]", "at byte 4: the text is not UTF-8" },
    { "[\"\xf4\x90\x80\x80\"]", "at byte 4: the text is not UTF-8" },
    { "[\"\xf5\x80\x80\x80\"]", "at byte 3: the text is not UTF-8" },
    { "{\"a\":a,\"b\":\"}{\",\"c\":{\"d\":[]}}", "at byte 6: a value is expected" },
    { "[a, 'it is \"]' ]", "at byte 2: a value or ']' is expected" },
    { "[a, \"\\\"]\" ]", "at byte 2: a value or ']' is expected" },
};

static void test_a_wrong_message_gives_one_error_and_the_next_is_read(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        char text[200];
        char expected[300];

        snprintf(text, sizeof(text), "%s{\"next\":true}", wrong[i].json);
        snprintf(expected, sizeof(expected), "! JSON parse error %s\n{\"next\": true}\n", wrong[i].error);
        assert_transcript(text, expected);
    }
}

/* Each character that is part of no token is one error; what follows is skipped up to one of {}[],: or a line's end. */
static const struct wrong rejected[] = {
    { "@@@\r\n{}", "1: this character has no place here" },
    { "@ \t\"x\" 1 nul {}", "1: this character has no place here" },
    { "[@\n{}", "2: this character has no place here" },
    { "\x80\n{}", "1: a byte beyond ASCII outside of a string" },
    { "\x7f{}", "1: this character has no place here" },
    { "True\n{}", "1: this character has no place here" },
    { "[[[01\n{}", "5: a number is malformed" },
    { "-\n[]{}", "2: a number is malformed" },
    { "{\"a\": [\xff{}", "8: a byte that UTF-8 never has" },
    { "{\"a\": \"x\xfe{}", "9: a byte that UTF-8 never has" },
    { "{\"a\": \"x\x01{}", "9: a control character in a string must be escaped" },
    { "{\"a\": \"x\\\x01{}", "10: a control character in a string must be escaped" },
    { "{\"a\": \"x\\u00\n{}", "13: a control character in a string must be escaped" },
    { "{\"a\": \"x\n{}", "9: a control character in a string must be escaped" },
    { "{\"a\": \"x\ty\n{}", "9: a control character in a string must be escaped" },
    { "{\"a\": \"\\x\x1b{}", "10: a control character in a string must be escaped" },
    { "[a \x1b{}", "4: a control character" },
};

static void test_a_character_that_belongs_nowhere_ends_the_message(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rejected); i++) {
        char expected[200];

        snprintf(expected, sizeof(expected), "! JSON parse error at byte %s\n%s{}\n", rejected[i].error,
                 strstr(rejected[i].json, "[]{}") != NULL ? "[]\n" : "");
        assert_transcript(rejected[i].json, expected);
    }
}

/* How many errors come before the next message is read; qemu-storage-daemon gives as many. */
static const struct {
    const char *text;
    unsigned errors;
} resyncs[] = {
    { "@}\n", 2 },    { "@,\n", 2 },       { "@\nabc\n", 2 },         { "@\x01\xff", 3 },
    { "[.5]", 2 },    { "[01]", 2 },       { "[\"a\x01z\"]", 2 },     { "[\"a\x01z\"]\xff", 3 },
    { "nul\xff", 2 }, { "}]", 2 },         { "\"abc{\"de,f", 4 },     { "{\"a\": @\"x\"]", 2 },
    { "{[}]", 1 },    { "{\"a\": -}", 1 }, { "\"\\x\" \"\xc3\"", 2 }, { "\"a\nb\n", 1 },
};

static void test_the_number_of_errors_says_where_reading_went_on(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(resyncs); i++) {
        char text[100];
        char out[1000];
        unsigned errors = 0;
        const char *p;

        snprintf(text, sizeof(text), "%s{\"next\":true}", resyncs[i].text);
        transcribe(text, strlen(text), 1, out, sizeof(out));
        for (p = out; p[0] == '"'; p = strchr(p, '\n') + 1) /* a string is a message, too */
            errors++;
        for (; p[0] == '!'; p = strchr(p, '\n') + 1)
            errors++;
        assert_string_equal(p, "{\"next\": true}\n");
        assert_int_equal(errors, resyncs[i].errors);
    }
}

static void test_a_bracket_that_does_not_fit_ends_the_message(void **state)
{
    assert_transcript("[\"a\"}{}", "! JSON parse error at byte 5: ',' or ']' is expected\n{}\n");
    assert_transcript("{\"a\"]{}", "! JSON parse error at byte 5: ':' is expected\n{}\n");
    assert_transcript("{\"a\":]\n{}", "! JSON parse error at byte 6: a value is expected\n{}\n");
}

static void test_a_nul_is_a_control_character(void **state)
{
    assert_transcript_of("[\"a\0b\n{}", 8,
                         "! JSON parse error at byte 4: a control character in a string must be escaped\n{}\n");
    assert_transcript_of("[\0{}", 4, "! JSON parse error at byte 2: a control character\n{}\n");
}

/* ---- Limits ---- */

static void test_depth_is_limited(void **state)
{
    char text[2 * (JSON_DEPTH_MAX + 1) + 3] = "";
    char expected[sizeof(text) + 2];

    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    snprintf(expected, sizeof(expected), "%s\n", text);
    assert_transcript(text, expected);

    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    strcpy(text + JSON_DEPTH_MAX + 1, "{}");
    assert_transcript(text, "! JSON parse error at byte 1025: values are nested too deeply\n{}\n");
}

static void test_length_is_limited(void **state)
{
    size_t len = JSON_MESSAGE_BYTES_MAX + 10;
    char *text = malloc(len + 3);
    struct json_lexer *lexer = json_lexer_new();
    struct cJSON *value = NULL;
    struct error err;
    size_t used;

    memset(text, 'x', len);
    memcpy(text, "[\"", 2);
    memcpy(text + JSON_MESSAGE_BYTES_MAX - 2, "\"]", 2);
    assert_int_equal(json_lexer_feed(lexer, text, len, &used, &value, &err), JSON_VALUE);
    assert_int_equal(used, JSON_MESSAGE_BYTES_MAX);
    cJSON_Delete(value);

    memset(text, 'x', len);
    memcpy(text, "[\"", 2);
    memcpy(text + len - 2, "\"]{}", 4);
    assert_int_equal(json_lexer_feed(lexer, text, len + 2, &used, &value, &err), JSON_ERROR);
    assert_string_equal(err.text, "JSON parse error at byte 262145: the message is too long");
    assert_int_equal(json_lexer_feed(lexer, text + used, len + 2 - used, &used, &value, &err), JSON_VALUE);
    assert_true(cJSON_IsObject(value));
    cJSON_Delete(value);
    json_lexer_free(lexer);
    free(text);
}

/* The limit may fall on any byte of an escape or a character, which is given up then. */
static void test_a_message_that_is_too_long_amid_a_character_is_one_error(void **state)
{
    static const char *const characters[] = { "\\ud800x", "\\ud83d\\ude00", "\\u00e9", "\\n", "\xf0\x9f\x98\x80" };
    static char text[JSON_MESSAGE_BYTES_MAX + 40];
    char out[1000];

    for (unsigned i = 0; i < ARRAY_SIZE(characters); i++) {
        for (size_t inside = 0; inside <= strlen(characters[i]); inside++) {
            memset(text, 'a', sizeof(text));
            text[0] = '"';
            strcpy(text + JSON_MESSAGE_BYTES_MAX - inside, characters[i]);
            strcat(text + JSON_MESSAGE_BYTES_MAX - inside, "\"{}");
            transcribe(text, strlen(text), SIZE_MAX, out, sizeof(out));
            assert_memory_equal(out, "! JSON parse error at byte ", 27);
            assert_string_equal(strchr(out, '\n'), "\n{}\n");
        }
    }
}

static void test_length_of_a_number_is_limited(void **state)
{
    char text[JSON_TOKEN_MAX + 5];
    char expected[JSON_TOKEN_MAX + 20];

    memset(text, '1', sizeof(text));
    memcpy(text, "[0.", 3);
    strcpy(text + 1 + JSON_TOKEN_MAX, "]");
    snprintf(expected, sizeof(expected), "%s\n", text);
    assert_transcript(text, expected);
    strcpy(text + 1 + JSON_TOKEN_MAX, "1]");
    assert_transcript(text, "! JSON parse error at byte 1026: a number or word is too long\n");
}

/* How many of unit fit in one message before an error comes; its text is in err. */
static unsigned count_units(const char *begin, const char *(*unit)(unsigned), unsigned tries, struct error *err)
{
    struct json_lexer *lexer = json_lexer_new();
    struct cJSON *value = NULL;
    unsigned i = 0;
    size_t used;

    assert_int_equal(json_lexer_feed(lexer, begin, strlen(begin), &used, &value, err), JSON_MORE);
    while (i < tries && json_lexer_feed(lexer, unit(i), strlen(unit(i)), &used, &value, err) == JSON_MORE)
        i++;
    json_lexer_free(lexer);
    return i;
}

static const char *number_unit(unsigned i)
{
    return "1,";
}

static const char *member_unit(unsigned i)
{
    static char text[40];

    snprintf(text, sizeof(text), "\"m%u\":1,", i);
    return text;
}

static void test_the_number_of_values_is_limited(void **state)
{
    struct error err;

    /* The array is one value itself. */
    assert_int_equal(count_units("[", number_unit, 1000000, &err), JSON_VALUES_MAX - 1);
    assert_non_null(strstr(err.text, "the message has too many values"));
}

static void test_the_number_of_members_is_limited(void **state)
{
    struct error err;

    assert_int_equal(count_units("{", member_unit, 1000000, &err), JSON_MEMBERS_MAX);
    assert_non_null(strstr(err.text, "an object has too many members"));
}

/* ---- Whole texts ---- */

static void test_a_whole_text_is_exactly_one_value(void **state)
{
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        { "{} ", NULL },
        { "12", NULL },
        { "", "JSON parse error: it ends too early" },
        { "{", "JSON parse error: it ends too early" },
        { "{} {}", "JSON parse error at byte 3: there is more after the value" },
        { "1 x", "JSON parse error at byte 2: there is more after the value" },
        { "tru", "JSON parse error at byte 3: a value is expected" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cJSON *value = NULL;
        struct error err;
        int r = json_parse(cases[i].text, strlen(cases[i].text), &value, &err);

        assert_int_equal(r, cases[i].error != NULL ? -EINVAL : 0);
        if (cases[i].error != NULL)
            assert_string_equal(err.text, cases[i].error);
        cJSON_Delete(value);
    }
}

static void test_the_lexer_knows_whether_it_is_inside_a_message(void **state)
{
    struct json_lexer *lexer = json_lexer_new();
    struct cJSON *value;
    struct error err;
    size_t used;

    assert_false(json_lexer_is_inside(lexer));
    json_lexer_feed(lexer, " \n", 2, &used, &value, &err);
    assert_false(json_lexer_is_inside(lexer));
    json_lexer_feed(lexer, "{\"a", 3, &used, &value, &err);
    assert_true(json_lexer_is_inside(lexer));
    json_lexer_free(lexer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_of_all_types_are_read),
        cmocka_unit_test(test_several_values_in_one_write_come_one_by_one),
        cmocka_unit_test(test_values_without_brackets_end_with_what_follows),
        cmocka_unit_test(test_escapes_are_undone),
        cmocka_unit_test(test_single_quotes_are_taken_as_qmp_says),
        cmocka_unit_test(test_names_that_differ_in_case_are_different),
        cmocka_unit_test(test_numbers_that_a_double_does_not_tell_keep_their_text),
        cmocka_unit_test(test_a_wrong_message_gives_one_error_and_the_next_is_read),
        cmocka_unit_test(test_a_character_that_belongs_nowhere_ends_the_message),
        cmocka_unit_test(test_the_number_of_errors_says_where_reading_went_on),
        cmocka_unit_test(test_a_bracket_that_does_not_fit_ends_the_message),
        cmocka_unit_test(test_a_nul_is_a_control_character),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_length_is_limited),
        cmocka_unit_test(test_a_message_that_is_too_long_amid_a_character_is_one_error),
        cmocka_unit_test(test_length_of_a_number_is_limited),
        cmocka_unit_test(test_the_number_of_values_is_limited),
        cmocka_unit_test(test_the_number_of_members_is_limited),
        cmocka_unit_test(test_a_whole_text_is_exactly_one_value),
        cmocka_unit_test(test_the_lexer_knows_whether_it_is_inside_a_message),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
