/* SPDX-License-Identifier: BSD-2-Clause */
/* A lint of all tables: what the decoder, the introspection and the reference page take for granted of them. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/commands.h"
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/introspect.h"
#include "monitor/qmp/json-print.h"

#define COMMAND_ROW(command_name, c_name, args_type, ret_type, command_flags, text)                                    \
    { .name = command_name, .args = args_type, .ret = ret_type, .flags = command_flags, .doc = text },

static const struct qmp_command commands[] = { QMP_COMMANDS(COMMAND_ROW) };

/* What the command line decodes, as commands and events need not use these. */
static const struct qmp_event options[] = {
    { "--monitor", &schema_monitor_options, "." },
    { "--chardev", &schema_chardev_options, "." },
    { "--nbd-server", &schema_nbd_server_options, "." },
};

static void assert_sentence(const char *name, const char *doc)
{
    if (doc == NULL || strlen(doc) < 3 || doc[strlen(doc) - 1] != '.')
        fail_msg("'%s' is not documented by a sentence", name);
}

static void assert_all_types(bool (*visit)(const struct schema_type *type, void *arg), void *arg)
{
    assert_true(schema_visit_types(commands, ARRAY_SIZE(commands), qmp_events, qmp_event_count, visit, arg));
    assert_true(schema_visit_types(NULL, 0, options, ARRAY_SIZE(options), visit, arg));
}

/* ---- Rows ---- */

static void test_names_of_commands_and_events_are_unique(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        assert_true(strlen(commands[i].name) > 0);
        assert_sentence(commands[i].name, commands[i].doc);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(commands[i].name, commands[j].name);
        for (unsigned j = 0; j < qmp_event_count; j++)
            assert_string_not_equal(commands[i].name, qmp_events[j].name);
    }
    for (unsigned i = 0; i < qmp_event_count; i++) {
        assert_sentence(qmp_events[i].name, qmp_events[i].doc);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(qmp_events[i].name, qmp_events[j].name);
    }
}

static void test_arguments_are_structs_or_unions(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        assert_false(schema_name_in(elsewhere_commands, commands[i].name));
        if (commands[i].args != NULL)
            assert_true(commands[i].args->kind == SCHEMA_STRUCT || commands[i].args->kind == SCHEMA_UNION);
    }
}

/* ---- Types ---- */

/* A name that only qemu-storage-daemon has must not be here as well. */
static void assert_not_in(const char *const *names, const char *name)
{
    if (schema_name_in(names, name))
        fail_msg("'%s' is said to be only elsewhere", name);
}

static void check_enum(const struct schema_type *type)
{
    assert_int_equal(type->size_bytes, sizeof(unsigned));
    assert_true(type->count > 0);
    for (unsigned i = 0; i < type->count; i++) {
        if (type->values[i].name == NULL)
            fail_msg("a value of %s has no name", type->name);
        assert_sentence(type->values[i].name, type->values[i].doc);
        assert_not_in(type->elsewhere, type->values[i].name);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(type->values[i].name, type->values[j].name);
    }
}

/* Whether absence of an optional member can be told from its value. */
static bool absence_shows(const struct schema_member *member)
{
    enum schema_kind kind = member->type->kind;

    return member->has_offset != SCHEMA_NO_HAS || member->default_value != NULL || (member->flags & SCHEMA_BOXED) ||
           kind == SCHEMA_STRING || kind == SCHEMA_ANY || kind == SCHEMA_ARRAY;
}

static void check_member(const struct schema_type *type, const struct schema_member *member)
{
    size_t size = member->flags & SCHEMA_BOXED ? sizeof(void *) : member->type->size_bytes;
    bool optional = member->flags & SCHEMA_OPTIONAL;

    assert_sentence(member->name, member->doc);
    if (member->offset + size > type->size_bytes)
        fail_msg("member '%s' of %s lies outside of its struct", member->name, type->name);
    if (optional && !absence_shows(member))
        fail_msg("member '%s' of %s: nobody can tell whether it is there", member->name, type->name);
    if (!optional && (member->has_offset != SCHEMA_NO_HAS || member->default_value != NULL))
        fail_msg("member '%s' of %s is not optional but looks like it", member->name, type->name);
    if (member->has_offset != SCHEMA_NO_HAS)
        assert_true(member->has_offset < type->size_bytes && member->has_offset != member->offset);
}

static void check_members(const struct schema_type *type, const struct schema_type *base)
{
    for (unsigned i = 0; i < type->count; i++) {
        check_member(type, &type->members[i]);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(type->members[i].name, type->members[j].name);
        for (unsigned j = 0; base != NULL && j < base->count; j++)
            assert_string_not_equal(type->members[i].name, base->members[j].name);
    }
}

static void check_union(const struct schema_type *type)
{
    const struct schema_member *tag = NULL;

    for (unsigned i = 0; i < type->count; i++) {
        if (type->members[i].offset == type->tag_offset)
            tag = &type->members[i];
    }
    assert_non_null(tag);
    assert_int_equal(tag->type->kind, SCHEMA_ENUM);
    assert_int_equal(tag->type->count, type->variant_count);
    for (unsigned i = 0; i < type->variant_count; i++) {
        const struct schema_variant *variant = &type->variants[i];

        if (variant->type == NULL)
            continue;
        assert_int_equal(variant->type->kind, SCHEMA_STRUCT);
        assert_int_equal(variant->flags, 0);
        assert_true(variant->offset + variant->type->size_bytes <= type->size_bytes);
        check_members(variant->type, type);
    }
}

/* The decoder says "must be a string or an object" of all. */
static void check_alternate(const struct schema_type *type)
{
    unsigned strings = 0;
    unsigned objects = 0;

    for (unsigned i = 0; i < type->variant_count; i++) {
        enum schema_kind kind = type->variants[i].type->kind;

        strings += kind == SCHEMA_STRING;
        objects += kind == SCHEMA_STRUCT || kind == SCHEMA_UNION;
    }
    assert_int_equal(strings, 1);
    assert_int_equal(objects, 1);
    assert_int_equal(type->variant_count, 2);
}

static void check_array(const struct schema_type *type)
{
    char name[100];

    snprintf(name, sizeof(name), "[%s]", type->element->name);
    assert_string_equal(type->name, name);
    assert_int_equal(type->size_bytes, sizeof(SCHEMA_LIST(void)));
}

static bool check_type(const struct schema_type *type, void *arg)
{
    assert_true(strlen(type->name) > 0);
    if (type->kind >= SCHEMA_ENUM && type->kind <= SCHEMA_ALTERNATE)
        assert_sentence(type->name, type->doc);
    if (type->kind == SCHEMA_ENUM)
        check_enum(type);
    if (type->kind == SCHEMA_STRUCT || type->kind == SCHEMA_UNION)
        check_members(type, NULL);
    if (type->kind == SCHEMA_UNION)
        check_union(type);
    if (type->kind == SCHEMA_ALTERNATE)
        check_alternate(type);
    if (type->kind == SCHEMA_ARRAY)
        check_array(type);
    return true;
}

static void test_types_are_complete_and_documented(void **state)
{
    assert_all_types(check_type, NULL);
}

struct names {
    const struct schema_type *types[400];
    unsigned count;
};

static bool check_type_name(const struct schema_type *type, void *arg)
{
    struct names *names = arg;

    for (unsigned i = 0; i < names->count; i++) {
        if (names->types[i] == type)
            return true;
        if (strcmp(names->types[i]->name, type->name) == 0)
            fail_msg("two types are called %s", type->name);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        assert_string_not_equal(commands[i].name, type->name);
    assert_true(names->count < ARRAY_SIZE(names->types));
    names->types[names->count++] = type;
    return true;
}

static void test_names_of_types_are_unique(void **state)
{
    struct names names = { .count = 0 };

    assert_all_types(check_type_name, &names);
}

/* Decode an object of nothing but this member's default. */
static bool check_defaults(const struct schema_type *type, void *arg)
{
    for (unsigned i = 0; (type->kind == SCHEMA_STRUCT || type->kind == SCHEMA_UNION) && i < type->count; i++) {
        const struct schema_member *member = &type->members[i];
        const struct schema_member copy = { .name = member->name,
                                            .type = member->type,
                                            .has_offset = SCHEMA_NO_HAS,
                                            .default_value = member->default_value,
                                            .flags = member->flags };
        const struct schema_type alone = {
            .kind = SCHEMA_STRUCT, .size_bytes = member->type->size_bytes, .members = &copy, .count = 1
        };
        struct cJSON empty = { .type = cJSON_Object };
        struct error err = { 0 };
        void *value = calloc(1, MAX(alone.size_bytes, sizeof(void *)));

        if (member->default_value != NULL && schema_decode(&alone, &empty, SCHEMA_FORM_JSON, value, &err) < 0)
            fail_msg("the default of '%s' in %s: %s", member->name, type->name, err.text);
        schema_clear(&alone, value);
        free(value);
    }
    return true;
}

static void test_all_defaults_can_be_decoded(void **state)
{
    assert_all_types(check_defaults, NULL);
}

/* ---- Introspection ---- */

static const struct cJSON *find_info(const struct cJSON *schema, const char *name)
{
    const struct cJSON *info;

    cJSON_ArrayForEach(info, schema)
    {
        if (strcmp(cJSON_GetObjectItem(info, "name")->valuestring, name) == 0)
            return info;
    }
    fail_msg("the schema speaks of %s but does not describe it", name);
    return NULL;
}

/* Every type that is named is described. */
static void check_references(const struct cJSON *schema, const struct cJSON *json)
{
    static const char *const references[] = { "type", "arg-type", "ret-type", "element-type" };
    const struct cJSON *child;

    cJSON_ArrayForEach(child, json)
    {
        for (unsigned i = 0; child->string != NULL && i < ARRAY_SIZE(references); i++) {
            if (strcmp(child->string, references[i]) == 0)
                find_info(schema, child->valuestring);
        }
        check_references(schema, child);
    }
}

static void assert_info(const struct cJSON *schema, const char *name, const char *expected)
{
    size_t len;
    char *text = json_print(find_info(schema, name), false, &len);

    assert_string_equal(text, expected);
    free(text);
}

static void test_the_introspection_describes_everything_it_speaks_of(void **state)
{
    struct introspection *introspection =
        introspection_new(commands, ARRAY_SIZE(commands), qmp_events, qmp_event_count);
    struct cJSON *schema = schema_encode(&schema_schema_info_list, introspection_list(introspection));

    check_references(schema, schema);
    assert_info(schema, "block-export-add",
                "{\"name\": \"block-export-add\", \"meta-type\": \"command\", \"arg-type\": \"BlockExportOptions\", "
                "\"ret-type\": \"Empty\"}");
    assert_info(schema, "BLOCK_EXPORT_DELETED",
                "{\"name\": \"BLOCK_EXPORT_DELETED\", \"meta-type\": \"event\", \"arg-type\": "
                "\"BLOCK_EXPORT_DELETED-arg\"}");
    assert_info(schema, "int", "{\"name\": \"int\", \"meta-type\": \"builtin\", \"json-type\": \"int\"}");
    assert_info(schema, "[str]", "{\"name\": \"[str]\", \"meta-type\": \"array\", \"element-type\": \"str\"}");
    assert_info(schema, "BlockdevRef",
                "{\"name\": \"BlockdevRef\", \"meta-type\": \"alternate\", \"members\": [{\"type\": "
                "\"BlockdevOptions\"}, {\"type\": \"str\"}]}");
    assert_info(schema, "BlockExportRemoveMode",
                "{\"name\": \"BlockExportRemoveMode\", \"meta-type\": \"enum\", \"members\": [{\"name\": \"safe\"}, "
                "{\"name\": \"hard\"}, {\"name\": \"__org.bulkhead_hide\"}, {\"name\": \"__org.bulkhead_soft\"}], "
                "\"values\": [\"safe\", \"hard\", \"__org.bulkhead_hide\", \"__org.bulkhead_soft\"]}");
    cJSON_Delete(schema);
    introspection_free(introspection);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_of_commands_and_events_are_unique),
        cmocka_unit_test(test_arguments_are_structs_or_unions),
        cmocka_unit_test(test_types_are_complete_and_documented),
        cmocka_unit_test(test_names_of_types_are_unique),
        cmocka_unit_test(test_all_defaults_can_be_decoded),
        cmocka_unit_test(test_the_introspection_describes_everything_it_speaks_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
