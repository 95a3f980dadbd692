/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-print.h"
#include "monitor/qmp/keyval.h"
#include "monitor/qmp/types.h"

static void test_strings_become_trees(void **state)
{
    static const struct {
        const struct keyval_syntax *syntax;
        const char *text;
        const char *json;
    } cases[] = {
        { &keyval_blockdev, "", "{}" },
        { &keyval_blockdev, "driver=file,filename=/x", "{\"driver\": \"file\", \"filename\": \"/x\"}" },
        { &keyval_blockdev, "file,filename=/x,", "{\"driver\": \"file\", \"filename\": \"/x\"}" },
        { &keyval_blockdev, "file", "{\"driver\": \"file\"}" },
        { &keyval_export, "nbd,id=e", "{\"type\": \"nbd\", \"id\": \"e\"}" },
        { &keyval_monitor, "qmp0,pretty=on", "{\"chardev\": \"qmp0\", \"pretty\": \"on\"}" },
        { &keyval_blockdev, "file,a=1,driver=raw,a=2,b.c=3,b.c=4",
          "{\"driver\": \"raw\", \"a\": \"2\", \"b\": {\"c\": \"4\"}}" },
        { &keyval_blockdev, "a=", "{\"a\": \"\"}" },
        { &keyval_blockdev, "a=b=c", "{\"a\": \"b=c\"}" },
        { &keyval_blockdev, "a=x,,y,b=,,,c=,,", "{\"a\": \"x,y\", \"b\": \",\", \"c\": \",\"}" },
        { &keyval_blockdev, "a.b=1,a.c.d=2,e=3", "{\"a\": {\"b\": \"1\", \"c\": {\"d\": \"2\"}}, \"e\": \"3\"}" },
        { &keyval_blockdev, "a.0=x,a.1=y", "{\"a\": [\"x\", \"y\"]}" },
        { &keyval_blockdev, "a.1=y,a.0=x", "{\"a\": [\"x\", \"y\"]}" },
        { &keyval_blockdev, "a.0.b=1,a.0.c=2,a.1.b.0=3", "{\"a\": [{\"b\": \"1\", \"c\": \"2\"}, {\"b\": [\"3\"]}]}" },
        { &keyval_blockdev, "__org.bulkhead_x.y=1,z_a-b=2",
          "{\"__org.bulkhead_x\": {\"y\": \"1\"}, \"z_a-b\": \"2\"}" },
        { &keyval_chardev, "socket,id=c,path=/x,server,nowait",
          "{\"backend\": \"socket\", \"id\": \"c\", \"path\": \"/x\", \"server\": \"on\", \"wait\": \"off\"}" },
        { &keyval_blockdev, "{\"a\": [1, true]}", "{\"a\": [1, true]}" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cJSON *json = NULL;
        enum schema_form form;
        struct error err;
        size_t len;
        char *text;

        if (keyval_parse(cases[i].syntax, cases[i].text, &json, &form, &err) < 0)
            fail_msg("%s: %s", cases[i].text, err.text);
        text = json_print(json, false, &len);
        assert_string_equal(text, cases[i].json);
        assert_int_equal(form, cases[i].text[0] == '{' ? SCHEMA_FORM_JSON : SCHEMA_FORM_KEYVAL);
        free(text);
        cJSON_Delete(json);
    }
}

static void test_malformed_strings_are_refused(void **state)
{
    static const struct {
        const struct keyval_syntax *syntax;
        const char *text;
        const char *error;
    } cases[] = {
        { &keyval_nbd_server, "unix", "Expected '=' after parameter 'unix'" },
        { &keyval_blockdev, "file,rest", "Expected '=' after parameter 'rest'" },
        { &keyval_blockdev, ",a=b", "Expected '=' after parameter ''" },
        { &keyval_blockdev, "a=b,,,,c,d", "Expected '=' after parameter 'd'" },
        { &keyval_blockdev, "server", NULL },
        { &keyval_blockdev, "file,server", "Expected '=' after parameter 'server'" },
        { &keyval_blockdev, "=x", "Invalid parameter ''" },
        { &keyval_blockdev, "a..b=x", "Invalid parameter 'a..b'" },
        { &keyval_blockdev, ".a=x", "Invalid parameter '.a'" },
        { &keyval_blockdev, "a.=x", "Invalid parameter 'a.'" },
        { &keyval_blockdev, "a b=x", "Invalid parameter 'a b'" },
        { &keyval_blockdev, "\xc3\xa9=x", "Invalid parameter '\xc3\xa9'" },
        { &keyval_blockdev, "a=1,a.b=2",
          "Parameters 'a.*' used inconsistently: as a value, and as options of its own" },
        { &keyval_blockdev, "a.b=1,a=2",
          "Parameters 'a.*' used inconsistently: as a value, and as options of its own" },
        { &keyval_blockdev, "a.1=x",
          "Parameter 'a.0' missing: a list is numbered 0, 1, 2 and so on, and there is '1'" },
        { &keyval_blockdev, "a.0=x,a.2=y",
          "Parameter 'a.1' missing: a list is numbered 0, 1, 2 and so on, and there is '2'" },
        { &keyval_blockdev, "a.0=x,a.b=y",
          "Parameter 'a.1' missing: a list is numbered 0, 1, 2 and so on, and there is 'b'" },
        { &keyval_blockdev, "a.00=x",
          "Parameter 'a.0' missing: a list is numbered 0, 1, 2 and so on, and there is '00'" },
        { &keyval_blockdev, "{\"a\":1,\"a\":2}", "JSON parse error at byte 10: duplicate member 'a'" },
        { &keyval_blockdev, "{\"a\":1", "JSON parse error: it ends too early" },
        { &keyval_blockdev, "{} x", "JSON parse error at byte 3: there is more after the value" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cJSON *json = NULL;
        enum schema_form form;
        struct error err;
        int r = keyval_parse(cases[i].syntax, cases[i].text, &json, &form, &err);

        assert_int_equal(r, cases[i].error != NULL ? -EINVAL : 0);
        if (cases[i].error != NULL)
            assert_string_equal(err.text, cases[i].error);
        cJSON_Delete(json);
    }
}

static int parse_repeated(const char *unit, size_t times, const char *end, struct error *err)
{
    char *text = calloc(1, strlen(unit) * times + strlen(end) + 1);
    struct cJSON *json = NULL;
    enum schema_form form;
    int r;

    for (size_t i = 0; i < times; i++)
        memcpy(text + i * strlen(unit), unit, strlen(unit));
    strcat(text, end);
    r = keyval_parse(&keyval_blockdev, text, &json, &form, err);
    cJSON_Delete(json);
    free(text);
    return r;
}

static void test_length_and_depth_are_limited(void **state)
{
    struct error err;

    assert_int_equal(parse_repeated("x", KEYVAL_TEXT_MAX, "", &err), 0);
    assert_int_equal(parse_repeated("x", KEYVAL_TEXT_MAX + 1, "", &err), -EINVAL);
    assert_string_equal(err.text, "an option has more than 65536 bytes");
    assert_int_equal(parse_repeated("a.", KEYVAL_DEPTH_MAX - 1, "a=1", &err), 0);
    assert_int_equal(parse_repeated("a.", KEYVAL_DEPTH_MAX, "a=1", &err), -EINVAL);
    assert_non_null(strstr(err.text, "has too many dots"));
}

static void test_options_are_decoded_in_both_forms(void **state)
{
    static const char *const texts[] = {
        "raw,node-name=d,file.driver=file,file.filename=/a,,b,size=1M,cache.direct=on",
        "{\"driver\":\"raw\",\"node-name\":\"d\",\"file\":{\"driver\":\"file\",\"filename\":\"/a,b\"},\"size\":1048576,"
        "\"cache\":{\"direct\":true}}",
    };

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
        struct blockdev_options node;
        struct error err;

        assert_int_equal(keyval_decode(&keyval_blockdev, texts[i], &schema_blockdev_options, &node, &err), 0);
        assert_string_equal(node.node_name, "d");
        assert_string_equal(node.raw.file.definition->file.filename, "/a,b");
        assert_int_equal(node.raw.size, 1 << 20);
        assert_true(node.cache.direct);
        schema_clear(&schema_blockdev_options, &node);
    }
}

static void test_wrong_options_are_named(void **state)
{
    struct monitor_options monitor;
    struct error err;

    memset(&monitor, 0xff, sizeof(monitor));
    assert_int_equal(keyval_decode(&keyval_monitor, "c,pretty=maybe", &schema_monitor_options, &monitor, &err),
                     -EINVAL);
    assert_string_equal(err.text, "Parameter 'pretty' expects 'on' or 'off'");
    assert_null(monitor.chardev);
    memset(&monitor, 0xff, sizeof(monitor));
    assert_int_equal(keyval_decode(&keyval_monitor, "c,c", &schema_monitor_options, &monitor, &err), -EINVAL);
    assert_null(monitor.chardev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings_become_trees),         cmocka_unit_test(test_malformed_strings_are_refused),
        cmocka_unit_test(test_length_and_depth_are_limited), cmocka_unit_test(test_options_are_decoded_in_both_forms),
        cmocka_unit_test(test_wrong_options_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
