/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option strings. The grammar is QEMU's, also in that of a key that comes twice the last value counts; a list with
 * holes and a key that is a value and has keys below it are refused. The text is an operator's or a management
 * program's; it is read strictly because a typo here exports the wrong thing.
 */
#include "monitor/qmp/keyval.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-lexer.h"

static const struct keyval_word chardev_words[] = {
    { "server", "server", "on" },
    { "wait", "wait", "on" },
    { "nowait", "wait", "off" },
    { "nodelay", "nodelay", "on" },
};

const struct keyval_syntax keyval_blockdev = { .implied_key = "driver" };
const struct keyval_syntax keyval_export = { .implied_key = "type" };
const struct keyval_syntax keyval_nbd_server = { .implied_key = NULL };
const struct keyval_syntax keyval_chardev = { .implied_key = "backend",
                                              .words = chardev_words,
                                              .word_count = ARRAY_SIZE(chardev_words) };
const struct keyval_syntax keyval_object = { .implied_key = "qom-type", .secret = true };
const struct keyval_syntax keyval_monitor = { .implied_key = "chardev" };

/* ---- Keys ---- */

static size_t name_length(const char *text)
{
    size_t len = 0;

    while (isalnum((unsigned char)text[len]) || text[len] == '-' || text[len] == '_')
        len++;
    return len;
}

/* The length of a key's first part. A downstream name, "__org.example_name", has dots before its last underscore. */
static size_t fragment_length(const char *key)
{
    size_t prefix = 0;

    if (key[0] == '_' && key[1] == '_') {
        prefix = 2;
        while (isalnum((unsigned char)key[prefix]) || key[prefix] == '-' || key[prefix] == '.')
            prefix++;
        if (key[prefix] != '_')
            prefix = 0;
    }
    return prefix + name_length(key + prefix);
}

static struct cJSON *add_object(struct cJSON *parent, const char *name)
{
    struct cJSON *child = cJSON_CreateObject();

    if (child != NULL && !cJSON_AddItemToObject(parent, name, child)) {
        cJSON_Delete(child);
        child = NULL;
    }
    return child;
}

static int fail_memory(struct error *err)
{
    return error_set(err, -ENOMEM, "out of memory");
}

/* Add value at the end of one more part of key, the first key_len bytes of which are done; *node moves down. */
static int step(struct cJSON **node, const char *key, size_t key_len, const char *name, const char *value,
                struct error *err)
{
    struct cJSON *child = cJSON_GetObjectItemCaseSensitive(*node, name);
    bool last = key[key_len] == '\0';

    if (child != NULL && last == (bool)cJSON_IsObject(child))
        return error_set(err, -EINVAL, "Parameters '%.*s.*' used inconsistently: as a value, and as options of its own",
                         (int)MIN(key_len, (size_t)64), key);
    if (child != NULL && last)
        return cJSON_SetValuestring(child, value) != NULL ? 0 : fail_memory(err);
    if (last)
        return cJSON_AddStringToObject(*node, name, value) != NULL ? 0 : fail_memory(err);
    if (child == NULL)
        child = add_object(*node, name);
    if (child == NULL)
        return fail_memory(err);
    *node = child;
    return 0;
}

static int put(struct cJSON *root, const char *key, const char *value, struct error *err)
{
    struct cJSON *node = root;
    const char *p = key;

    for (unsigned depth = 0;; depth++) {
        size_t len = fragment_length(p);
        bool last = p[len] == '\0';
        _cleanup_free_ char *name = NULL;
        int r;

        if (len == 0 || (!last && p[len] != '.'))
            return error_set(err, -EINVAL, "Invalid parameter '%.64s'", key);
        if (depth >= KEYVAL_DEPTH_MAX)
            return error_set(err, -EINVAL, "option '%.64s...' has too many dots", key);
        name = strndup(p, len);
        if (name == NULL)
            return fail_memory(err);
        r = step(&node, key, (size_t)(p - key) + len, name, value, err);
        if (r < 0 || last)
            return r;
        p += len + 1;
    }
}

/* ---- Lists: objects whose names are 0, 1, 2, ... ---- */

static bool is_index(const char *name)
{
    size_t digits = strspn(name, "0123456789");

    return digits > 0 && name[digits] == '\0';
}

static bool has_index(const struct cJSON *object)
{
    const struct cJSON *child;

    cJSON_ArrayForEach(child, object)
    {
        if (is_index(child->string))
            return true;
    }
    return false;
}

/* Move the children to an array, in the order of their numbers. */
static int move_items(struct cJSON *object, struct cJSON *array, struct error *err)
{
    unsigned count = (unsigned)cJSON_GetArraySize(object);

    for (unsigned i = 0; i < count; i++) {
        char name[16];
        struct cJSON *item;

        snprintf(name, sizeof(name), "%u", i);
        item = cJSON_DetachItemFromObjectCaseSensitive(object, name);
        if (item == NULL)
            return error_set(err, -EINVAL,
                             "Parameter '%.64s.%s' missing: a list is numbered 0, 1, 2 and so on, and there is '%.64s'",
                             object->string, name, object->child->string);
        if (!cJSON_AddItemToArray(array, item)) {
            cJSON_Delete(item);
            return fail_memory(err);
        }
    }
    return 0;
}

/* Turn what looks like a list into one, from the bottom up. The root stays an object. */
static int make_lists(struct cJSON *object, struct error *err)
{
    struct cJSON *child = object->child;

    while (child != NULL) {
        struct cJSON *next = child->next;
        int r = cJSON_IsObject(child) ? make_lists(child, err) : 0;

        if (r < 0)
            return r;
        if (cJSON_IsObject(child) && has_index(child)) {
            struct cJSON *array = cJSON_CreateArray();

            r = array != NULL ? move_items(child, array, err) : fail_memory(err);
            if (r < 0) {
                cJSON_Delete(array);
                return r;
            }
            /* It keeps its name: the child is turned into the array in place. */
            child->type = cJSON_Array | (child->type & ~0xff);
            child->child = TAKE_PTR(array->child);
            cJSON_Delete(array);
        }
        child = next;
    }
    return 0;
}

/* ---- The string ---- */

/* A value up to a single comma, with ",," for one: a copy for the caller. *text moves behind its comma. */
static char *parse_value(const char **text)
{
    char *value = malloc(strlen(*text) + 1);
    const char *p = *text;
    size_t len = 0;

    if (value == NULL)
        return NULL;
    while (*p != '\0' && (*p != ',' || p[1] == ',')) {
        p += *p == ',';
        value[len++] = *p++;
    }
    value[len] = '\0';
    *text = p + (*p == ',');
    return value;
}

/* What stands without '=': the value of the implied key, or a word. */
static int parse_bare(const struct keyval_syntax *syntax, const char *text, bool first, struct cJSON *root,
                      struct error *err)
{
    if (first && syntax->implied_key != NULL && text[0] != '\0')
        return put(root, syntax->implied_key, text, err);
    for (unsigned i = 0; i < syntax->word_count; i++) {
        if (strcmp(syntax->words[i].word, text) == 0)
            return put(root, syntax->words[i].key, syntax->words[i].value, err);
    }
    return error_set(err, -EINVAL, "Expected '=' after parameter '%.64s'", text);
}

static int parse_pair(const struct keyval_syntax *syntax, const char **text, bool first, struct cJSON *root,
                      struct error *err)
{
    size_t len = strcspn(*text, "=,");
    bool bare = (*text)[len] != '=';
    _cleanup_(free_wiped_pointer) char *key = strndup(*text, len);
    _cleanup_(free_wiped_pointer) char *value = NULL;

    if (key == NULL)
        return fail_memory(err);
    *text += len + ((*text)[len] != '\0');
    if (bare)
        return parse_bare(syntax, key, first, root, err);
    value = parse_value(text);
    return value != NULL ? put(root, key, value, err) : fail_memory(err);
}

static int parse_pairs(const struct keyval_syntax *syntax, const char *text, struct cJSON *root, struct error *err)
{
    int r = 0;

    for (bool first = true; r == 0 && *text != '\0'; first = false)
        r = parse_pair(syntax, &text, first, root, err);
    if (r == -EINVAL && syntax->secret)
        return error_set(err, r, "Expected parameters as name=value, with two commas for one in a value");
    return r == 0 ? make_lists(root, err) : r;
}

int keyval_parse(const struct keyval_syntax *syntax, const char *text, struct cJSON **ret_json,
                 enum schema_form *ret_form, struct error *err)
{
    struct cJSON *root;
    int r;

    if (strnlen(text, KEYVAL_TEXT_MAX + 1) > KEYVAL_TEXT_MAX)
        return error_set(err, -EINVAL, "an option has more than %d bytes", KEYVAL_TEXT_MAX);
    if (text[0] == '{') {
        *ret_form = SCHEMA_FORM_JSON;
        return json_parse(text, strlen(text), ret_json, err);
    }
    root = cJSON_CreateObject();
    r = root != NULL ? parse_pairs(syntax, text, root, err) : fail_memory(err);
    if (r < 0) {
        cJSON_Delete(root);
        return r;
    }
    *ret_form = SCHEMA_FORM_KEYVAL;
    *ret_json = root;
    return 0;
}

int keyval_decode(const struct keyval_syntax *syntax, const char *text, const struct schema_type *type, void *ret_value,
                  struct error *err)
{
    enum schema_form form = SCHEMA_FORM_KEYVAL;
    struct cJSON *json = NULL;
    int r = keyval_parse(syntax, text, &json, &form, err);

    if (r < 0) {
        memset(ret_value, 0, type->size_bytes);
        return r;
    }
    r = schema_decode(type, json, form, ret_value, err);
    cJSON_Delete(json);
    return r;
}
