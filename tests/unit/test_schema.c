/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/types.h"

static int decode_as(enum schema_form form, const struct schema_type *type, const char *text, void *value,
                     struct error *err)
{
    struct cJSON *json = cJSON_Parse(text);
    int r;

    assert_non_null(json);
    memset(err, 0, sizeof(*err));
    r = schema_decode(type, json, form, value, err);
    cJSON_Delete(json);
    return r;
}

static int decode(const struct schema_type *type, const char *text, void *value, struct error *err)
{
    return decode_as(SCHEMA_FORM_JSON, type, text, value, err);
}

static bool is_zero(const void *data, size_t len)
{
    const unsigned char *p = data;

    while (len > 0 && *p == 0) {
        p++;
        len--;
    }
    return len == 0;
}

/* ---- What is right ---- */

static void test_members_and_defaults_are_decoded(void **state)
{
    struct block_export_options export;
    struct error err;

    assert_int_equal(decode(&schema_block_export_options,
                            "{\"type\":\"nbd\",\"id\":\"e\",\"node-name\":\"n\",\"writable\":true}", &export, &err),
                     0);
    assert_int_equal(export.type, BLOCK_EXPORT_TYPE_NBD);
    assert_string_equal(export.id, "e");
    assert_string_equal(export.node_name, "n");
    assert_true(export.writable);
    assert_false(export.writethrough);
    assert_null(export.nbd.name);
    schema_clear(&schema_block_export_options, &export);
    assert_true(is_zero(&export, sizeof(export)));
}

static void test_a_reference_is_a_name_or_a_definition(void **state)
{
    struct blockdev_options node;
    struct error err;

    assert_int_equal(
        decode(&schema_blockdev_options, "{\"driver\":\"raw\",\"file\":\"disk0\",\"size\":512}", &node, &err), 0);
    assert_int_equal(node.raw.file.branch, BLOCKDEV_REF_REFERENCE);
    assert_string_equal(node.raw.file.reference, "disk0");
    assert_true(node.raw.has_size);
    assert_int_equal(node.raw.size, 512);
    schema_clear(&schema_blockdev_options, &node);

    assert_int_equal(decode(&schema_blockdev_options,
                            "{\"driver\":\"raw\",\"file\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
                            "\"filename\":\"/x\",\"cache\":{\"direct\":true}}}}",
                            &node, &err),
                     0);
    assert_int_equal(node.raw.file.branch, BLOCKDEV_REF_DEFINITION);
    assert_string_equal(node.raw.file.definition->raw.file.definition->file.filename, "/x");
    assert_true(node.raw.file.definition->raw.file.definition->cache.direct);
    assert_false(node.raw.file.definition->raw.file.definition->cache.no_flush);
    schema_clear(&schema_blockdev_options, &node);
}

static void test_lists_are_decoded(void **state)
{
    struct blockdev_options node;
    struct error err;

    assert_int_equal(decode(&schema_blockdev_options,
                            "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":[{\"event\":\"none\"},"
                            "{\"event\":\"none\",\"iotype\":\"write\",\"errno\":28,\"sector\":-1,\"once\":true}]}",
                            &node, &err),
                     0);
    assert_int_equal(node.blkdebug.inject_error.count, 2);
    assert_false(node.blkdebug.inject_error.items[0].has_iotype);
    assert_int_equal(node.blkdebug.inject_error.items[0].errno_code, EIO);
    assert_int_equal(node.blkdebug.inject_error.items[1].iotype, BLKDEBUG_IO_TYPE_WRITE);
    assert_int_equal(node.blkdebug.inject_error.items[1].errno_code, ENOSPC);
    assert_int_equal(node.blkdebug.inject_error.items[1].sector, -1);
    schema_clear(&schema_blockdev_options, &node);
}

static void test_the_legacy_address_fills_the_same_struct(void **state)
{
    struct nbd_server_options legacy;
    struct nbd_server_options flat;
    struct error err;

    assert_int_equal(decode(&schema_nbd_server_start_args,
                            "{\"addr\":{\"type\":\"inet\",\"data\":{\"host\":\"::\",\"port\":\"0\"}}}", &legacy, &err),
                     0);
    assert_int_equal(decode(&schema_nbd_server_options,
                            "{\"addr\":{\"type\":\"inet\",\"host\":\"::\",\"port\":\"0\"},\"max-connections\":0}",
                            &flat, &err),
                     0);
    assert_string_equal(legacy.addr.inet.host, flat.addr.inet.host);
    assert_string_equal(legacy.addr.inet.port, flat.addr.inet.port);
    assert_int_equal(legacy.max_connections, 100);
    assert_int_equal(flat.max_connections, 0);
    assert_int_equal(legacy.handshake_max_seconds, 10);
    assert_int_equal(flat.handshake_max_seconds, 10);
    schema_clear(&schema_nbd_server_start_args, &legacy);
    schema_clear(&schema_nbd_server_options, &flat);
}

static void test_command_lines_spell_scalars_as_text(void **state)
{
    struct blockdev_options node;
    struct error err;

    assert_int_equal(decode_as(SCHEMA_FORM_KEYVAL, &schema_blockdev_options,
                               "{\"driver\":\"raw\",\"offset\":\"4k\",\"size\":\"1.5M\",\"read-only\":\"yes\","
                               "\"file\":{\"driver\":\"null-co\",\"latency-ns\":\"0x10\",\"read-zeroes\":\"on\"}}",
                               &node, &err),
                     0);
    assert_int_equal(node.raw.offset, 4096);
    assert_int_equal(node.raw.size, 3 << 19);
    assert_true(node.read_only);
    assert_int_equal(node.raw.file.definition->null_co.latency_ns, 16);
    assert_int_equal(node.raw.file.definition->null_co.size, INT64_C(1) << 30);
    schema_clear(&schema_blockdev_options, &node);
}

static void test_the_ends_of_ranges_are_taken(void **state)
{
    struct blockdev_options node;
    struct error err;

    assert_int_equal(
        decode(&schema_blockdev_options, "{\"driver\":\"null-co\",\"size\":9007199254740992}", &node, &err), 0);
    assert_true(node.null_co.size == INT64_C(9007199254740992));
    assert_int_equal(decode_as(SCHEMA_FORM_KEYVAL, &schema_blockdev_options,
                               "{\"driver\":\"null-co\",\"size\":\"9223372036854775807\"}", &node, &err),
                     0);
    assert_true(node.null_co.size == INT64_MAX);
}

/* ---- What is wrong ---- */

static const struct wrong {
    const struct schema_type *type;
    enum schema_form form;
    const char *json;
    const char *text;
} wrong[] = {
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "{}", "Parameter 'node-name' is missing" },
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "[]", "Invalid parameter type for 'arguments', expected: object" },
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "{\"node-name\":1}",
      "Invalid parameter type for 'node-name', expected: string" },
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "{\"node-name\":null}",
      "Invalid parameter type for 'node-name', expected: string" },
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "{\"node-name\":\"a\",\"x\":1}", "Parameter 'x' is unexpected" },
    { &schema_blockdev_del_args, SCHEMA_FORM_JSON, "{\"Node-name\":\"a\"}", "Parameter 'Node-name' is unexpected" },
    { &schema_block_export_del_args, SCHEMA_FORM_JSON, "{\"id\":\"a\",\"mode\":\"soft\"}",
      "Parameter 'mode' does not accept value 'soft'; there is 'safe', 'hard', '__org.bulkhead_hide' and "
      "'__org.bulkhead_soft'" },
    { &schema_block_export_del_args, SCHEMA_FORM_JSON, "{\"id\":\"a\",\"mode\":1}",
      "Invalid parameter type for 'mode', expected: string" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"node-name\":\"a\"}", "Parameter 'driver' is missing" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"raw\"}", "Parameter 'file' is missing" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"raw\",\"file\":1}",
      "Invalid parameter type for 'file', expected: string or object" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\"}}",
      "Parameter 'file.filename' is missing" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON,
      "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"x\",\"offset\":1}}",
      "Parameter 'file.offset' is unexpected" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"filename\":\"x\"}",
      "Parameter 'filename' is unexpected" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"size\":\"1G\"}",
      "Invalid parameter type for 'size', expected: integer" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"size\":1.5}",
      "Parameter 'size' expects integer" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"size\":-1}",
      "Parameter 'size' expects a value between 0 and 9223372036854775807" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"read-zeroes\":\"on\"}",
      "Invalid parameter type for 'read-zeroes', expected: boolean" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"null-co\",\"cache\":{\"direct\":1}}",
      "Invalid parameter type for 'cache.direct', expected: boolean" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON,
      "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":[{\"event\":\"none\"},{\"event\":\"none\",\"errno\":0}"
      "]}",
      "Parameter 'inject-error.1.errno' expects a value between 1 and 4095" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON,
      "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":[{\"event\":\"none\",\"sector\":-2}]}",
      "Parameter 'inject-error.0.sector' expects a value between -1 and 18014398509481983" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON,
      "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":[{\"event\":\"l1_update\"}]}",
      "Parameter 'inject-error.0.event' does not accept value 'l1_update'; there is 'none'" },
    { &schema_blockdev_options, SCHEMA_FORM_JSON, "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":{}}",
      "Invalid parameter type for 'inject-error', expected: array" },
    { &schema_nbd_server_start_args, SCHEMA_FORM_JSON, "{\"addr\":{\"type\":\"unix\"}}",
      "Parameter 'addr.data' is missing" },
    { &schema_nbd_server_start_args, SCHEMA_FORM_JSON, "{\"addr\":{\"type\":\"unix\",\"path\":\"/x\"}}",
      "Parameter 'addr.path' is unexpected" },
    { &schema_nbd_server_start_args, SCHEMA_FORM_JSON,
      "{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"/x\"}},\"max-connections\":4294967296}",
      "Parameter 'max-connections' expects a value between 0 and 4294967295" },
    { &schema_nbd_server_start_args, SCHEMA_FORM_JSON,
      "{\"addr\":{\"type\":\"inet\",\"data\":{\"host\":\"h\",\"port\":\"1\",\"to\":65536}}}",
      "Parameter 'addr.data.to' expects a value between 0 and 65535" },
    { &schema_nbd_server_start_args, SCHEMA_FORM_JSON,
      "{\"addr\":{\"type\":\"inet\",\"data\":{\"host\":\"h\",\"port\":1}}}",
      "Invalid parameter type for 'addr.data.port', expected: string" },
    { &schema_nbd_server_options, SCHEMA_FORM_KEYVAL, "{\"addr\":{\"type\":\"tcp\"}}",
      "Parameter 'addr.type' does not accept value 'tcp'; there is 'inet', 'unix', 'vsock' and 'fd'" },
    { &schema_nbd_server_options, SCHEMA_FORM_KEYVAL, "{\"addr\":\"/x\"}",
      "Invalid parameter type for 'addr', expected: object, with options of its own" },
    { &schema_blockdev_options, SCHEMA_FORM_KEYVAL, "{\"driver\":\"null-co\",\"size\":\"1Q\"}",
      "Parameter 'size' expects integer: a number of bytes, with a suffix k, M, G, T, P or E if you like" },
    { &schema_blockdev_options, SCHEMA_FORM_KEYVAL, "{\"driver\":\"null-co\",\"size\":\"-1\"}",
      "Parameter 'size' expects a value between 0 and 9223372036854775807" },
    { &schema_blockdev_options, SCHEMA_FORM_KEYVAL, "{\"driver\":\"null-co\",\"latency-ns\":\"1k\"}",
      "Parameter 'latency-ns' expects integer" },
    { &schema_blockdev_options, SCHEMA_FORM_KEYVAL, "{\"driver\":\"null-co\",\"read-zeroes\":\"maybe\"}",
      "Parameter 'read-zeroes' expects 'on' or 'off'" },
    { &schema_blockdev_options, SCHEMA_FORM_KEYVAL,
      "{\"driver\":\"blkdebug\",\"image\":\"a\",\"inject-error\":\"none\"}",
      "Invalid parameter type for 'inject-error', expected: array: name.0, name.1, ..." },
};

static void test_wrong_values_are_refused_with_the_members_path(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        unsigned char value[sizeof(struct blockdev_options)];
        struct error err;

        assert_true(wrong[i].type->size_bytes <= sizeof(value));
        memset(value, 0xff, sizeof(value));
        if (decode_as(wrong[i].form, wrong[i].type, wrong[i].json, value, &err) != -EINVAL)
            fail_msg("taken: %s", wrong[i].json);
        assert_string_equal(err.text, wrong[i].text);
        assert_int_equal(err.class, ERROR_CLASS_GENERIC);
        assert_true(is_zero(value, wrong[i].type->size_bytes));
    }
}

/* The texts are what the lexer leaves beside the double. */
static void test_integers_are_read_exactly(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } cases[] = {
        { "1.0", false, 0 },
        { "1e3", false, 0 },
        { "9007199254740993", true, UINT64_C(9007199254740993) },
        { "18446744073709551615", true, UINT64_MAX },
        { "18446744073709551616", false, 0 },
        { "-9223372036854775809", false, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cJSON json = { .type = cJSON_Number, .valuedouble = 1, .valuestring = (char *)cases[i].text };
        uint64_t value;
        struct error err;

        assert_int_equal(schema_decode(&schema_uint64, &json, SCHEMA_FORM_JSON, &value, &err) == 0, cases[i].ok);
        assert_true(value == cases[i].value);
    }
}

static void test_an_array_may_not_be_too_long(void **state)
{
    struct cJSON *json = cJSON_CreateArray();
    SCHEMA_LIST(const char *) list;
    struct error err;

    for (unsigned i = 0; i < SCHEMA_ITEMS_MAX; i++)
        cJSON_AddItemToArray(json, cJSON_CreateString("x"));
    assert_int_equal(schema_decode(&schema_str_list, json, SCHEMA_FORM_JSON, &list, &err), 0);
    schema_clear(&schema_str_list, &list);
    cJSON_AddItemToArray(json, cJSON_CreateString("x"));
    assert_int_equal(schema_decode(&schema_str_list, json, SCHEMA_FORM_JSON, &list, &err), -EINVAL);
    assert_string_equal(err.text, "'arguments' has 4097 elements, more than 4096");
    cJSON_Delete(json);
}

static void test_a_long_name_is_cut_in_the_text(void **state)
{
    char name[1000];
    struct cJSON *json = cJSON_CreateObject();
    struct blockdev_del_args args;
    struct error err;

    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    cJSON_AddTrueToObject(json, name);
    assert_int_equal(schema_decode(&schema_blockdev_del_args, json, SCHEMA_FORM_JSON, &args, &err), -EINVAL);
    assert_true(strlen(err.text) < 120);
    assert_non_null(strstr(err.text, "is unexpected"));
    cJSON_Delete(json);
}

/* ---- Encoding ---- */

static void assert_encodes(const struct schema_type *type, const void *value, const char *expected)
{
    struct cJSON *json = schema_encode(type, value);
    char *text = cJSON_PrintUnformatted(json);

    assert_string_equal(text, expected);
    free(text);
    cJSON_Delete(json);
}

static void test_values_are_encoded_without_absent_members(void **state)
{
    struct worker_gone gone = { .role = "nbd-export", .pid = 7, .reason = "killed", .has_signal = true, .signal = 9 };

    assert_encodes(&schema_worker_gone, &gone,
                   "{\"role\":\"nbd-export\",\"pid\":7,\"reason\":\"killed\",\"signal\":9}");
}

static void test_lists_of_structs_and_enums_are_encoded(void **state)
{
    struct block_export_info items[] = { { "a", BLOCK_EXPORT_TYPE_NBD, "n", false },
                                         { "b", BLOCK_EXPORT_TYPE_NBD, "m", true } };
    struct block_export_info_list list = { items, 2 };

    assert_encodes(&schema_block_export_info_list, &list,
                   "[{\"id\":\"a\",\"type\":\"nbd\",\"node-name\":\"n\",\"shutting-down\":false},"
                   "{\"id\":\"b\",\"type\":\"nbd\",\"node-name\":\"m\",\"shutting-down\":true}]");
}

static void test_integers_of_64_bits_are_encoded_exactly(void **state)
{
    struct version_info info = { { INT64_MAX, INT64_MIN, 9007199254740993 }, "p" };

    assert_encodes(
        &schema_version_info, &info,
        "{\"qemu\":{\"micro\":9007199254740993,\"minor\":-9223372036854775808,\"major\":9223372036854775807},"
        "\"package\":\"p\"}");
}

static void test_unions_and_alternates_are_encoded(void **state)
{
    struct blockdev_options below = { .driver = BLOCKDEV_DRIVER_NULL_CO, .null_co = { .size = 5 } };
    struct blockdev_options node = { .driver = BLOCKDEV_DRIVER_RAW,
                                     .node_name = "n",
                                     .raw = { .file = { BLOCKDEV_REF_DEFINITION, { .definition = &below } } } };

    assert_encodes(
        &schema_blockdev_options, &node,
        "{\"driver\":\"raw\",\"node-name\":\"n\",\"cache\":{},\"detect-zeroes\":\"off\","
        "\"file\":{\"driver\":\"null-co\",\"cache\":{},\"detect-zeroes\":\"off\",\"size\":5,\"latency-ns\":0,"
        "\"read-zeroes\":false},\"offset\":0}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members_and_defaults_are_decoded),
        cmocka_unit_test(test_a_reference_is_a_name_or_a_definition),
        cmocka_unit_test(test_lists_are_decoded),
        cmocka_unit_test(test_the_legacy_address_fills_the_same_struct),
        cmocka_unit_test(test_command_lines_spell_scalars_as_text),
        cmocka_unit_test(test_the_ends_of_ranges_are_taken),
        cmocka_unit_test(test_wrong_values_are_refused_with_the_members_path),
        cmocka_unit_test(test_integers_are_read_exactly),
        cmocka_unit_test(test_an_array_may_not_be_too_long),
        cmocka_unit_test(test_a_long_name_is_cut_in_the_text),
        cmocka_unit_test(test_values_are_encoded_without_absent_members),
        cmocka_unit_test(test_lists_of_structs_and_enums_are_encoded),
        cmocka_unit_test(test_integers_of_64_bits_are_encoded_exactly),
        cmocka_unit_test(test_unions_and_alternates_are_encoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
