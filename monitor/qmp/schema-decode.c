/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding: a cJSON tree that the strict lexer or the option parser made becomes a C struct, or an error that names the
 * member at fault. The tree is a client's: its depth is bounded by the lexer, everything else is checked here. Nothing
 * is done with a value before all of it is decoded.
 */
#include "monitor/qmp/schema.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/schema-internal.h"
#include "monitor/qmp/schema-scalar.h"

/* How much of a client's text an error repeats. */
#define QUOTE_MAX 64

/* Where in the tree we are; one step per level, on the stack. */
struct path {
    const struct path *parent;
    const char *name; /* NULL: an array's element */
    size_t index;
    unsigned depth; /* of parents */
};

struct decoder {
    enum schema_form form;
    struct error *err;
};

static int decode_value(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                        const struct cJSON *json, void *slot);

/* ---- Errors ---- */

static size_t path_print(const struct path *path, char *text, size_t size)
{
    size_t len = path->parent != NULL ? path_print(path->parent, text, size) : 0;
    const char *dot = len > 0 ? "." : "";
    int more;

    if (path->name == NULL && path->parent == NULL)
        return 0;
    if (path->name != NULL)
        more = snprintf(text + len, size - len, "%s%.*s", dot, QUOTE_MAX, path->name);
    else
        more = snprintf(text + len, size - len, "%s%zu", dot, path->index);
    return MIN(len + (size_t)more, size - 1);
}

/* "Parameter 'a.b'", or what the whole is called. */
static void path_describe(const struct decoder *decoder, const struct path *path, char *text, size_t size)
{
    char dotted[256] = "";
    bool json = decoder->form == SCHEMA_FORM_JSON;

    if (path_print(path, dotted, sizeof(dotted)) == 0)
        snprintf(text, size, "%s", json ? "'arguments'" : "the value");
    else
        snprintf(text, size, "Parameter '%s'", dotted);
}

static int fail(const struct decoder *decoder, const struct path *path, const char *what)
{
    char subject[300];

    path_describe(decoder, path, subject, sizeof(subject));
    return error_set(decoder->err, -EINVAL, "%s %s", subject, what);
}

static int fail_type(const struct decoder *decoder, const struct path *path, const char *expected)
{
    char dotted[256] = "arguments";

    path_print(path, dotted, sizeof(dotted));
    return error_set(decoder->err, -EINVAL, "Invalid parameter type for '%s', expected: %s", dotted, expected);
}

static int fail_child(const struct decoder *decoder, const struct path *parent, const char *name, const char *what)
{
    struct path path = { parent, name, 0, parent->depth + 1 };

    return fail(decoder, &path, what);
}

static int fail_memory(const struct decoder *decoder)
{
    return error_set(decoder->err, -ENOMEM, "out of memory");
}

/* ---- Scalars ---- */

static bool is_keyval_text(const struct decoder *decoder, const struct cJSON *json)
{
    return decoder->form == SCHEMA_FORM_KEYVAL && cJSON_IsString(json);
}

static int decode_string(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                         const struct cJSON *json, void *slot)
{
    char *copy;

    if (!cJSON_IsString(json))
        return fail_type(decoder, path, "string");
    copy = strdup(json->valuestring);
    if (copy == NULL)
        return fail_memory(decoder);
    memcpy(slot, &copy, sizeof(copy));
    return 0;
}

static int decode_bool(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                       const struct cJSON *json, void *slot)
{
    bool value = cJSON_IsTrue(json);

    if (is_keyval_text(decoder, json)) {
        if (!scalar_parse_bool(json->valuestring, &value))
            return fail(decoder, path, "expects 'on' or 'off'");
    } else if (!cJSON_IsBool(json)) {
        return fail_type(decoder, path, "boolean");
    }
    *(bool *)slot = value;
    return 0;
}

/* A whole number, its sign apart from its magnitude. */
static bool parse_json_int(const struct cJSON *json, bool *ret_negative, uint64_t *ret_magnitude)
{
    double magnitude;

    if (json->valuestring != NULL) /* a number that valuedouble does not tell, see json_lexer_feed() */
        return scalar_parse_int(json->valuestring, ret_negative, ret_magnitude);
    magnitude = fabs(json->valuedouble);
    if (!(magnitude <= 9007199254740992.0) || magnitude != floor(magnitude))
        return false;
    *ret_negative = json->valuedouble < 0;
    *ret_magnitude = (uint64_t)magnitude;
    return true;
}

static int fail_range(const struct decoder *decoder, const struct path *path, const struct schema_type *type)
{
    char what[100];

    snprintf(what, sizeof(what), "expects a value between %" PRId64 " and %" PRIu64, type->min, type->max);
    return fail(decoder, path, what);
}

static bool in_range(const struct schema_type *type, bool negative, uint64_t magnitude)
{
    if (negative)
        return type->min < 0 && magnitude <= (uint64_t) - (type->min + 1) + 1;
    return magnitude <= type->max && (type->min <= 0 || magnitude >= (uint64_t)type->min);
}

static int decode_int(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                      const struct cJSON *json, void *slot)
{
    bool negative = false;
    uint64_t magnitude;
    bool size = type->flags & SCHEMA_SIZE;

    if (is_keyval_text(decoder, json)) {
        if (size && json->valuestring[0] != '-') {
            if (!scalar_parse_size(json->valuestring, &magnitude))
                return fail(decoder, path,
                            "expects integer: a number of bytes, with a suffix k, M, G, T, P or E if you like");
        } else if (!scalar_parse_int(json->valuestring, &negative, &magnitude)) {
            return fail(decoder, path, "expects integer");
        }
    } else if (!cJSON_IsNumber(json)) {
        return fail_type(decoder, path, "integer");
    } else if (!parse_json_int(json, &negative, &magnitude)) {
        return fail(decoder, path, "expects integer");
    }
    if (!in_range(type, negative, magnitude))
        return fail_range(decoder, path, type);
    schema_store_int(type, slot, negative ? -magnitude : magnitude);
    return 0;
}

static int fail_enum(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                     const char *text)
{
    bool elsewhere = schema_name_in(type->elsewhere, text);
    char what[400];
    size_t len;

    len = (size_t)snprintf(what, sizeof(what), "does not accept value '%.*s'%s", QUOTE_MAX, text,
                           elsewhere ? ": qemu-storage-daemon has it, bulkhead does not support it" : "");
    for (unsigned i = 0; i < type->count && len < sizeof(what) - 1; i++) {
        const char *before = i == 0 ? "; there is " : (i + 1 < type->count ? ", " : " and ");

        len += (size_t)snprintf(what + len, sizeof(what) - len, "%s'%s'", before, type->values[i].name);
    }
    return fail(decoder, path, what);
}

static int decode_enum(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                       const struct cJSON *json, void *slot)
{
    if (!cJSON_IsString(json))
        return fail_type(decoder, path, "string");
    for (unsigned i = 0; i < type->count; i++) {
        if (strcmp(type->values[i].name, json->valuestring) == 0) {
            memcpy(slot, &i, sizeof(i));
            return 0;
        }
    }
    return fail_enum(decoder, path, type, json->valuestring);
}

static int decode_any(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                      const struct cJSON *json, void *slot)
{
    struct cJSON *copy = cJSON_Duplicate(json, true);

    if (copy == NULL)
        return fail_memory(decoder);
    memcpy(slot, &copy, sizeof(copy));
    return 0;
}

/* ---- Structs and unions ---- */

static int decode_slot(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                       unsigned flags, const struct cJSON *json, void *slot)
{
    void *boxed;

    if (!(flags & SCHEMA_BOXED))
        return decode_value(decoder, path, type, json, slot);
    boxed = calloc(1, type->size_bytes);
    if (boxed == NULL)
        return fail_memory(decoder);
    memcpy(slot, &boxed, sizeof(boxed));
    return decode_value(decoder, path, type, json, boxed);
}

/* Defaults are in the tables, in command-line spelling; a test decodes them all. */
static int decode_default(const struct decoder *decoder, const struct path *path, const struct schema_member *member,
                          char *value)
{
    struct decoder keyval = { SCHEMA_FORM_KEYVAL, decoder->err };
    struct cJSON empty = { .type = cJSON_Object };
    struct cJSON text = { .type = cJSON_String, .valuestring = (char *)member->default_value };
    bool is_empty = strcmp(member->default_value, "{}") == 0;

    return decode_slot(&keyval, path, member->type, member->flags, is_empty ? &empty : &text, value + member->offset);
}

static int decode_member(const struct decoder *decoder, const struct path *path, const struct schema_member *member,
                         const struct cJSON *object, char *value)
{
    const struct cJSON *json = cJSON_GetObjectItemCaseSensitive(object, member->name);
    struct path child = { path, member->name, 0, path->depth + 1 };

    if (json == NULL && !(member->flags & SCHEMA_OPTIONAL))
        return fail(decoder, &child, "is missing");
    if (json == NULL)
        return member->default_value != NULL ? decode_default(decoder, &child, member, value) : 0;
    if (member->has_offset != SCHEMA_NO_HAS)
        *(bool *)(value + member->has_offset) = true;
    return decode_slot(decoder, &child, member->type, member->flags, json, value + member->offset);
}

static int decode_members(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                          const struct cJSON *object, char *value)
{
    for (unsigned i = 0; i < type->count; i++) {
        int r = decode_member(decoder, path, &type->members[i], object, value);

        if (r < 0)
            return r;
    }
    return 0;
}

static const struct schema_member *find_member(const struct schema_type *type, const char *name)
{
    for (unsigned i = 0; type != NULL && i < type->count; i++) {
        if (strcmp(type->members[i].name, name) == 0)
            return &type->members[i];
    }
    return NULL;
}

/* Unknown members come first: a misspelt name is the likely reason for a missing one. */
static int check_names(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                       const struct schema_type *variant, const struct cJSON *object)
{
    const struct cJSON *child;

    cJSON_ArrayForEach(child, object)
    {
        if (find_member(type, child->string) == NULL && find_member(variant, child->string) == NULL)
            return fail_child(decoder, path, child->string, "is unexpected");
    }
    return 0;
}

static int check_object(const struct decoder *decoder, const struct path *path, const struct cJSON *json)
{
    if (!cJSON_IsObject(json))
        return fail_type(decoder, path,
                         decoder->form == SCHEMA_FORM_JSON ? "object" : "object, with options of its own");
    return 0;
}

static int decode_struct(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                         const struct cJSON *json, void *slot)
{
    int r = check_object(decoder, path, json);

    if (r == 0)
        r = check_names(decoder, path, type, NULL, json);
    if (r == 0)
        r = decode_members(decoder, path, type, json, slot);
    return r;
}

static int decode_tag(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                      const struct cJSON *json, char *value)
{
    for (unsigned i = 0; i < type->count; i++) {
        if (type->members[i].offset == type->tag_offset)
            return decode_member(decoder, path, &type->members[i], json, value);
    }
    return -EINVAL; /* a table without its tag: a test excludes it */
}

static int decode_union(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                        const struct cJSON *json, void *slot)
{
    char *value = slot;
    const struct schema_variant *variant;
    int r = check_object(decoder, path, json);

    if (r == 0)
        r = decode_tag(decoder, path, type, json, value);
    if (r < 0)
        return r;
    variant = schema_active_variant(type, value);
    r = check_names(decoder, path, type, variant != NULL ? variant->type : NULL, json);
    if (r == 0)
        r = decode_members(decoder, path, type, json, value);
    if (r == 0 && variant != NULL)
        r = decode_members(decoder, path, variant->type, json, value + variant->offset);
    return r;
}

/* ---- Alternates and arrays ---- */

static bool branch_takes(const struct schema_type *type, const struct cJSON *json)
{
    switch (type->kind) {
    case SCHEMA_STRING:
    case SCHEMA_ENUM:
        return cJSON_IsString(json);
    case SCHEMA_BOOL:
        return cJSON_IsBool(json);
    case SCHEMA_INT:
        return cJSON_IsNumber(json);
    case SCHEMA_STRUCT:
    case SCHEMA_UNION:
        return cJSON_IsObject(json);
    case SCHEMA_ARRAY:
        return cJSON_IsArray(json);
    default:
        return false;
    }
}

static int decode_alternate(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                            const struct cJSON *json, void *slot)
{
    for (unsigned i = 0; i < type->variant_count; i++) {
        const struct schema_variant *branch = &type->variants[i];

        if (!branch_takes(branch->type, json))
            continue;
        memcpy((char *)slot + type->tag_offset, &i, sizeof(i));
        return decode_slot(decoder, path, branch->type, branch->flags, json, (char *)slot + branch->offset);
    }
    return fail_type(decoder, path, "string or object"); /* so are all alternates; a test sees to it */
}

static int decode_array(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                        const struct cJSON *json, void *slot)
{
    size_t max = type->count > 0 ? type->count : SCHEMA_ITEMS_MAX;
    size_t count = (size_t)cJSON_GetArraySize(json);
    struct schema_list list = { NULL, count };
    struct path child = { path, NULL, 0, path->depth + 1 };
    const struct cJSON *item;
    int r = 0;

    if (!cJSON_IsArray(json))
        return fail_type(decoder, path, decoder->form == SCHEMA_FORM_JSON ? "array" : "array: name.0, name.1, ...");
    if (count > max) {
        char what[64];

        snprintf(what, sizeof(what), "has %zu elements, more than %zu", count, max);
        return fail(decoder, path, what);
    }
    if (count == 0)
        return 0;
    list.items = calloc(count, type->element->size_bytes);
    if (list.items == NULL)
        return fail_memory(decoder);
    memcpy(slot, &list, sizeof(list));
    cJSON_ArrayForEach(item, json)
    {
        r = decode_value(decoder, &child, type->element, item,
                         (char *)list.items + child.index * type->element->size_bytes);
        if (r < 0)
            break;
        child.index++;
    }
    return r;
}

/* ---- All ---- */

static int decode_value(const struct decoder *decoder, const struct path *path, const struct schema_type *type,
                        const struct cJSON *json, void *slot)
{
    static int (*const by_kind[])(const struct decoder *, const struct path *, const struct schema_type *,
                                  const struct cJSON *, void *) = {
        [SCHEMA_STRING] = decode_string,       [SCHEMA_BOOL] = decode_bool,     [SCHEMA_INT] = decode_int,
        [SCHEMA_ENUM] = decode_enum,           [SCHEMA_STRUCT] = decode_struct, [SCHEMA_UNION] = decode_union,
        [SCHEMA_ALTERNATE] = decode_alternate, [SCHEMA_ARRAY] = decode_array,   [SCHEMA_ANY] = decode_any,
    };

    if (path->depth > SCHEMA_DEPTH_MAX)
        return fail(decoder, path, "is nested too deeply");
    return by_kind[type->kind](decoder, path, type, json, slot);
}

int schema_decode(const struct schema_type *type, const struct cJSON *json, enum schema_form form, void *ret_value,
                  struct error *err)
{
    struct decoder decoder = { form, err };
    struct path top = { NULL, NULL, 0, 0 };
    int r;

    memset(ret_value, 0, type->size_bytes);
    r = decode_value(&decoder, &top, type, json, ret_value);
    if (r < 0)
        schema_clear(type, ret_value);
    return r;
}
