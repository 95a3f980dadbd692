/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding of arguments: the first byte chooses a command or an option, the rest is JSON. What is decoded must come out
 * of the encoder as something that is decoded again; the checks that follow decoding must cope with it.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/commands.h"
#include "monitor/qmp/json-lexer.h"
#include "monitor/qmp/json-print.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct schema_type *const types[] = {
    &schema_blockdev_options,
    &schema_block_export_options,
    &schema_nbd_server_start_args,
    &schema_nbd_server_options,
    &schema_block_export_del_args,
    &schema_blockdev_del_args,
    &schema_qmp_capabilities_args,
    &schema_chardev_options,
    &schema_monitor_options,
    &schema_str_list,
    &schema_query_named_block_nodes_args,
};

static void check(const struct schema_type *type, const void *value)
{
    struct error err = { 0 };

    if (type == &schema_blockdev_options)
        blockdev_options_check(value, &err);
    else if (type == &schema_block_export_options)
        block_export_options_check(value, &err);
    else if (type == &schema_nbd_server_options || type == &schema_nbd_server_start_args)
        nbd_server_options_check(value, &err);
}

static void check_round_trip(const struct schema_type *type, const void *value)
{
    struct cJSON *json = schema_encode(type, value);
    struct cJSON *read = NULL;
    void *again = calloc(1, type->size_bytes);
    struct error err = { 0 };
    size_t len;
    char *text = json_print(json, true, &len);

    /* Defaults are spelt out, so that it may have grown beyond what is read. */
    if (json_parse(text, len, &read, &err) == 0) {
        assert(schema_decode(type, read, SCHEMA_FORM_JSON, again, &err) == 0);
        schema_clear(type, again);
    }
    free(text);
    free(again);
    cJSON_Delete(read);
    cJSON_Delete(json);
}

static void decode(const struct schema_type *type, const struct cJSON *json, enum schema_form form)
{
    struct error err = { 0 };
    unsigned char *value = malloc(type->size_bytes);

    memset(value, 0xff, type->size_bytes);
    if (schema_decode(type, json, form, value, &err) == 0) {
        check(type, value);
        check_round_trip(type, value);
        schema_clear(type, value);
    } else {
        assert(err.text[0] != '\0');
        for (size_t i = 0; i < type->size_bytes; i++)
            assert(value[i] == 0);
    }
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cJSON *json = NULL;
    struct error err;

    if (size < 2 || json_parse((const char *)data + 1, size - 1, &json, &err) < 0)
        return 0;
    decode(types[data[0] % ARRAY_SIZE(types)], json, SCHEMA_FORM_JSON);
    decode(types[data[0] % ARRAY_SIZE(types)], json, SCHEMA_FORM_KEYVAL);
    cJSON_Delete(json);
    return 0;
}
