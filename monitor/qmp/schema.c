/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Builtin types, freeing and encoding. Everything here works on values of our own: what a handler fills in, or what
 * schema-decode.c has checked.
 */
#include "monitor/qmp/schema.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/schema-internal.h"

const struct schema_type schema_str = { .kind = SCHEMA_STRING, .name = "str", .size_bytes = sizeof(const char *) };
const struct schema_type schema_bool = { .kind = SCHEMA_BOOL, .name = "bool", .size_bytes = sizeof(bool) };
const struct schema_type schema_any = { .kind = SCHEMA_ANY, .name = "any", .size_bytes = sizeof(struct cJSON *) };
const struct schema_type schema_int = {
    .kind = SCHEMA_INT, .name = "int", .size_bytes = sizeof(int64_t), .min = INT64_MIN, .max = INT64_MAX
};
const struct schema_type schema_uint16 = {
    .kind = SCHEMA_INT, .name = "uint16", .size_bytes = sizeof(uint16_t), .is_unsigned = true, .max = UINT16_MAX
};
const struct schema_type schema_uint32 = {
    .kind = SCHEMA_INT, .name = "uint32", .size_bytes = sizeof(uint32_t), .is_unsigned = true, .max = UINT32_MAX
};
const struct schema_type schema_uint64 = {
    .kind = SCHEMA_INT, .name = "uint64", .size_bytes = sizeof(uint64_t), .is_unsigned = true, .max = UINT64_MAX
};
const struct schema_type schema_size = { .kind = SCHEMA_INT,
                                         .flags = SCHEMA_SIZE,
                                         .name = "size",
                                         .size_bytes = sizeof(uint64_t),
                                         .is_unsigned = true,
                                         .max = INT64_MAX };
const struct schema_type schema_str_list = {
    .kind = SCHEMA_ARRAY, .name = "[str]", .size_bytes = sizeof(struct schema_list), .element = &schema_str
};

const char *schema_enum_name(const struct schema_type *type, unsigned value)
{
    assert(type->kind == SCHEMA_ENUM);
    return value < type->count ? type->values[value].name : NULL;
}

unsigned schema_load_enum(const void *slot)
{
    unsigned value;

    memcpy(&value, slot, sizeof(value));
    return value;
}

void *schema_load_pointer(const void *slot)
{
    void *pointer;

    memcpy(&pointer, slot, sizeof(pointer));
    return pointer;
}

const struct schema_variant *schema_active_variant(const struct schema_type *type, const void *value)
{
    unsigned tag = schema_load_enum((const char *)value + type->tag_offset);
    const struct schema_variant *variant;

    if (tag >= type->variant_count)
        return NULL;
    variant = &type->variants[tag];
    return variant->type != NULL ? variant : NULL;
}

/* ---- Freeing ---- */

static void clear_slot(const struct schema_type *type, unsigned flags, void *slot)
{
    void *boxed;

    if (!(flags & SCHEMA_BOXED)) {
        schema_clear(type, slot);
        return;
    }
    boxed = schema_load_pointer(slot);
    if (boxed != NULL)
        schema_clear(type, boxed);
    free(boxed);
}

static void clear_members(const struct schema_type *type, char *value)
{
    for (unsigned i = 0; i < type->count; i++) {
        const struct schema_member *member = &type->members[i];

        clear_slot(member->type, member->flags, value + member->offset);
    }
}

static void clear_variant(const struct schema_type *type, char *value)
{
    const struct schema_variant *variant = schema_active_variant(type, value);

    if (variant != NULL)
        clear_slot(variant->type, variant->flags, value + variant->offset);
}

static void clear_items(const struct schema_type *type, void *value)
{
    struct schema_list list;

    memcpy(&list, value, sizeof(list));
    for (size_t i = 0; i < list.count; i++)
        schema_clear(type->element, (char *)list.items + i * type->element->size_bytes);
    free(list.items);
}

void schema_clear(const struct schema_type *type, void *value)
{
    switch (type->kind) {
    case SCHEMA_STRING:
        free_wiped(schema_load_pointer(value));
        break;
    case SCHEMA_ANY:
        cJSON_Delete(schema_load_pointer(value));
        break;
    case SCHEMA_UNION:
        clear_variant(type, value); /* while the tag still stands */
        clear_members(type, value);
        break;
    case SCHEMA_STRUCT:
        clear_members(type, value);
        break;
    case SCHEMA_ALTERNATE:
        clear_variant(type, value);
        break;
    case SCHEMA_ARRAY:
        clear_items(type, value);
        break;
    case SCHEMA_BOOL:
    case SCHEMA_INT:
    case SCHEMA_ENUM:
        break;
    }
    memset(value, 0, type->size_bytes);
}

/* ---- Encoding ---- */

static struct cJSON *encode_int(const struct schema_type *type, const void *value)
{
    char text[24];

    if (type->is_unsigned)
        snprintf(text, sizeof(text), "%" PRIu64, schema_load_unsigned(type, value));
    else
        snprintf(text, sizeof(text), "%" PRId64, schema_load_signed(type, value));
    /* Not a cJSON number: those are doubles and round above 2^53. */
    return cJSON_CreateRaw(text);
}

static struct cJSON *encode_string(const char *text)
{
    /* A str that must be there and is not would be a handler's mistake: not worth the monitor's life. */
    return cJSON_CreateString(text != NULL ? text : "");
}

static struct cJSON *encode_slot(const struct schema_type *type, unsigned flags, const void *slot)
{
    return schema_encode(type, flags & SCHEMA_BOXED ? schema_load_pointer(slot) : slot);
}

static bool is_pointer(const struct schema_member *member)
{
    return (member->flags & SCHEMA_BOXED) || member->type->kind == SCHEMA_STRING || member->type->kind == SCHEMA_ANY;
}

/* Whether an optional member is there to be encoded. */
static bool is_present(const struct schema_member *member, const char *value)
{
    struct schema_list list;

    if (!(member->flags & SCHEMA_OPTIONAL))
        return true;
    if (member->has_offset != SCHEMA_NO_HAS)
        return *(const bool *)(value + member->has_offset);
    if (is_pointer(member))
        return schema_load_pointer(value + member->offset) != NULL;
    if (member->type->kind != SCHEMA_ARRAY)
        return true;
    memcpy(&list, value + member->offset, sizeof(list));
    return list.count > 0;
}

static bool encode_members(const struct schema_type *type, const char *value, struct cJSON *object)
{
    for (unsigned i = 0; i < type->count; i++) {
        const struct schema_member *member = &type->members[i];
        struct cJSON *item;

        if (!is_present(member, value))
            continue;
        item = encode_slot(member->type, member->flags, value + member->offset);
        if (item == NULL)
            return false;
        if (!cJSON_AddItemToObjectCS(object, member->name, item)) {
            cJSON_Delete(item);
            return false;
        }
    }
    return true;
}

static struct cJSON *encode_object(const struct schema_type *type, const char *value)
{
    struct cJSON *object = cJSON_CreateObject();
    const struct schema_variant *variant = type->kind == SCHEMA_UNION ? schema_active_variant(type, value) : NULL;
    bool ok = object != NULL && encode_members(type, value, object);

    if (ok && variant != NULL)
        ok = encode_members(variant->type, value + variant->offset, object);
    if (!ok) {
        cJSON_Delete(object);
        return NULL;
    }
    return object;
}

static struct cJSON *encode_alternate(const struct schema_type *type, const char *value)
{
    const struct schema_variant *variant = schema_active_variant(type, value);

    assert(variant != NULL);
    return encode_slot(variant->type, variant->flags, value + variant->offset);
}

static struct cJSON *encode_array(const struct schema_type *type, const void *value)
{
    struct cJSON *array = cJSON_CreateArray();
    struct schema_list list;

    memcpy(&list, value, sizeof(list));
    for (size_t i = 0; array != NULL && i < list.count; i++) {
        struct cJSON *item = schema_encode(type->element, (char *)list.items + i * type->element->size_bytes);

        if (item == NULL || !cJSON_AddItemToArray(array, item)) {
            cJSON_Delete(item);
            cJSON_Delete(array);
            array = NULL;
        }
    }
    return array;
}

struct cJSON *schema_encode(const struct schema_type *type, const void *value)
{
    switch (type->kind) {
    case SCHEMA_STRING:
        return encode_string(schema_load_pointer(value));
    case SCHEMA_BOOL:
        return cJSON_CreateBool(*(const bool *)value);
    case SCHEMA_INT:
        return encode_int(type, value);
    case SCHEMA_ENUM:
        return encode_string(schema_enum_name(type, schema_load_enum(value)));
    case SCHEMA_STRUCT:
    case SCHEMA_UNION:
        return encode_object(type, value);
    case SCHEMA_ALTERNATE:
        return encode_alternate(type, value);
    case SCHEMA_ARRAY:
        return encode_array(type, value);
    case SCHEMA_ANY:
        return cJSON_Duplicate(schema_load_pointer(value), true);
    }
    return NULL;
}

bool schema_name_in(const char *const *names, const char *name)
{
    for (; names != NULL && *names != NULL; names++) {
        if (strcmp(*names, name) == 0)
            return true;
    }
    return false;
}
