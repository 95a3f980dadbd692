/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/types.h"

union options {
    struct blockdev_options blockdev;
    struct nbd_server_options server;
    struct block_export_options export;
};

static int check_value(const struct schema_type *type, const union options *value, struct error *err)
{
    if (type == &schema_blockdev_options)
        return blockdev_options_check(&value->blockdev, err);
    if (type == &schema_nbd_server_options)
        return nbd_server_options_check(&value->server, err);
    return block_export_options_check(&value->export, err);
}

static int check(const struct schema_type *type, const char *text, struct error *err)
{
    struct cJSON *json = cJSON_Parse(text);
    union options value;
    int r;

    assert_non_null(json);
    if (schema_decode(type, json, SCHEMA_FORM_JSON, &value, err) < 0)
        fail_msg("%s: %s", text, err->text);
    r = check_value(type, &value, err);
    schema_clear(type, &value);
    cJSON_Delete(json);
    return r;
}

static void test_what_is_supported_passes(void **state)
{
    static const struct {
        const struct schema_type *type;
        const char *json;
    } cases[] = {
        { &schema_blockdev_options, "{\"driver\":\"file\",\"filename\":\"/x\",\"node-name\":\"a.b-c_d\"}" },
        { &schema_blockdev_options,
          "{\"driver\":\"file\",\"filename\":\"/x\",\"aio\":\"native\",\"cache\":{\"direct\":true}}" },
        { &schema_blockdev_options, "{\"driver\":\"raw\",\"file\":\"#block123\",\"offset\":1,\"size\":512}" },
        { &schema_blockdev_options, "{\"driver\":\"file\",\"filename\":\"/"
                                    "x\",\"read-only\":true,\"force-share\":true,\"detect-zeroes\":\"off\"}" },
        { &schema_nbd_server_options, "{\"addr\":{\"type\":\"unix\",\"path\":\"/x\"}}" },
        { &schema_block_export_options,
          "{\"type\":\"nbd\",\"id\":\"e0\",\"node-name\":\"n\",\"name\":\"any / name\",\"bitmaps\":[]}" },
    };
    struct error err;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(check(cases[i].type, cases[i].json, &err), 0);
}

static void test_what_is_not_supported_is_refused_by_name(void **state)
{
    static const struct {
        const struct schema_type *type;
        const char *json;
        const char *text;
    } cases[] = {
        { &schema_blockdev_options, "{\"driver\":\"null-co\",\"node-name\":\"\"}",
          "Invalid node-name: '' is not a letter and then letters, digits, '-', '.' or '_', at most 31 in all" },
        { &schema_blockdev_options, "{\"driver\":\"null-co\",\"node-name\":\"1a\"}",
          "Invalid node-name: '1a' is not a letter and then letters, digits, '-', '.' or '_', at most 31 in all" },
        { &schema_blockdev_options, "{\"driver\":\"null-co\",\"node-name\":\"a23456789012345678901234567890123\"}",
          "Invalid node-name: 'a23456789012345678901234567890123' is not a letter and then letters, digits, '-', '.' "
          "or '_', at most 31 in all" },
        { &schema_blockdev_options, "{\"driver\":\"null-co\",\"detect-zeroes\":\"unmap\"}",
          "member 'detect-zeroes' is not supported: set it to off or leave it out" },
        { &schema_blockdev_options, "{\"driver\":\"null-co\",\"force-share\":true}",
          "member 'force-share' needs read-only=on" },
        { &schema_blockdev_options, "{\"driver\":\"file\",\"filename\":\"\"}", "member 'filename' is empty" },
        { &schema_blockdev_options, "{\"driver\":\"file\",\"filename\":\"x\",\"pr-manager\":\"p\"}",
          "member 'pr-manager' is not supported: there are no persistent reservations, leave it out" },
        { &schema_blockdev_options, "{\"driver\":\"host_device\",\"filename\":\"x\",\"aio\":\"native\"}",
          "member 'aio': native needs cache.direct=on" },
        { &schema_blockdev_options, "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"\"}}",
          "file: member 'filename' is empty" },
        { &schema_blockdev_options, "{\"driver\":\"blkdebug\",\"image\":\"a\",\"align\":512}",
          "member 'align' is not supported: leave it out" },
        { &schema_blockdev_options,
          "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":[{\"event\":\"none\",\"state\":1}]}",
          "member 'inject-error.0.state' is not supported: rules have no states" },
        { &schema_nbd_server_options, "{\"addr\":{\"type\":\"unix\",\"path\":\"/x\"},\"tls-authz\":\"t\"}",
          "member 'tls-authz' is not supported: without tls-creds nobody proves who he is" },
        { &schema_nbd_server_options,
          "{\"addr\":{\"type\":\"inet\",\"host\":\"h\",\"port\":\"1\",\"ipv4\":false,\"ipv6\":false}}",
          "members 'ipv4' and 'ipv6' are both off: that leaves no address" },
        { &schema_block_export_options, "{\"type\":\"nbd\",\"id\":\"e 0\",\"node-name\":\"n\"}",
          "Invalid block export id: 'e 0' is not a letter and then letters, digits, '-', '.' or '_', at most 127 in "
          "all" },
        { &schema_block_export_options, "{\"type\":\"nbd\",\"id\":\"e\",\"node-name\":\"n\",\"bitmaps\":[\"b\"]}",
          "member 'bitmaps' is not supported: there are no dirty bitmaps, leave it out" },
        { &schema_block_export_options, "{\"type\":\"nbd\",\"id\":\"e\",\"node-name\":\"n\",\"iothread\":\"i\"}",
          "member 'iothread' is not supported: there are no iothread objects, each export has its own threads" },
    };
    struct error err;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(check(cases[i].type, cases[i].json, &err), -EINVAL);
        assert_string_equal(err.text, cases[i].text);
    }
}

static void test_an_export_name_has_at_most_4096_bytes(void **state)
{
    static char name[4098];
    struct block_export_options export = { .id = "e", .node_name = "n", .nbd = { .name = name } };
    struct error err;

    memset(name, 'x', 4096);
    assert_int_equal(block_export_options_check(&export, &err), 0);
    name[4096] = 'x';
    assert_int_equal(block_export_options_check(&export, &err), -EINVAL);
    assert_string_equal(err.text, "member 'name' must be at most 4096 bytes");
}

static void test_more_rules_than_a_worker_takes_are_refused(void **state)
{
    struct blkdebug_inject_error rules[9] = { 0 };
    struct blockdev_options node = { .driver = BLOCKDEV_DRIVER_BLKDEBUG,
                                     .blkdebug = { .image = { BLOCKDEV_REF_REFERENCE, { .reference = "a" } } } };
    struct error err;

    node.blkdebug.inject_error.items = rules;
    node.blkdebug.inject_error.count = 8;
    assert_int_equal(blockdev_options_check(&node, &err), 0);
    node.blkdebug.inject_error.count = 9;
    assert_int_equal(blockdev_options_check(&node, &err), -EINVAL);
    assert_string_equal(err.text, "member 'inject-error' has 9 elements, more than 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_supported_passes),
        cmocka_unit_test(test_what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(test_an_export_name_has_at_most_4096_bytes),
        cmocka_unit_test(test_more_rules_than_a_worker_takes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
