/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The grammar of JSON (RFC 8259) and what QMP adds to it: no member twice, no integer rounded, bounds on everything.
 * Tokens come from the lexer and are a client's choice.
 */
#include "monitor/qmp/json-tree.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

const char json_out_of_memory[] = "out of memory";
const char json_too_deep[] = "values are nested too deeply";
const char json_too_many_values[] = "the message has too many values";
const char json_too_many_members[] = "an object has too many members";

static struct cJSON *top(const struct json_tree *tree)
{
    return tree->depth > 0 ? tree->stack[tree->depth - 1] : NULL;
}

/* ---- The grammar ---- */

static bool value_may_come(const struct json_tree *tree)
{
    return tree->expect == JSON_EXPECT_VALUE || tree->expect == JSON_EXPECT_VALUE_OR_END;
}

static bool key_may_come(const struct json_tree *tree)
{
    return tree->expect == JSON_EXPECT_KEY || tree->expect == JSON_EXPECT_KEY_OR_END;
}

static const char *expectation(const struct json_tree *tree)
{
    static const char *const texts[] = {
        [JSON_EXPECT_VALUE] = "a value is expected",
        [JSON_EXPECT_VALUE_OR_END] = "a value or ']' is expected",
        [JSON_EXPECT_KEY_OR_END] = "a member's name in quotes or '}' is expected",
        [JSON_EXPECT_KEY] = "a member's name in quotes is expected",
        [JSON_EXPECT_COLON] = "':' is expected",
        [JSON_EXPECT_COMMA_OR_END] = "',' or ']' is expected",
    };

    if (tree->expect == JSON_EXPECT_COMMA_OR_END && cJSON_IsObject(top(tree)))
        return "',' or '}' is expected";
    return texts[tree->expect];
}

const char *json_tree_check_string(const struct json_tree *tree)
{
    return value_may_come(tree) || key_may_come(tree) ? NULL : expectation(tree);
}

/* Put item, which is taken over, where the tree has its place for it. */
static const char *add_value(struct json_tree *tree, struct cJSON *item)
{
    char *key;
    bool ok;

    if (item == NULL)
        return json_out_of_memory;
    if (tree->depth == 0) {
        tree->root = item;
    } else {
        key = TAKE_PTR(tree->keys[tree->depth - 1]);
        ok = key != NULL ? cJSON_AddItemToObject(top(tree), key, item) : cJSON_AddItemToArray(top(tree), item);
        free_wiped(key);
        if (!ok) {
            cJSON_Delete(item);
            return json_out_of_memory;
        }
    }
    tree->expect = JSON_EXPECT_COMMA_OR_END;
    return ++tree->values > JSON_VALUES_MAX ? json_too_many_values : NULL;
}

const char *json_tree_open(struct json_tree *tree, bool object)
{
    struct cJSON *item;
    const char *problem;

    if (!value_may_come(tree))
        return expectation(tree);
    if (tree->depth == JSON_DEPTH_MAX)
        return json_too_deep;
    item = object ? cJSON_CreateObject() : cJSON_CreateArray();
    problem = add_value(tree, item);
    if (problem != NULL)
        return problem;
    tree->stack[tree->depth++] = item;
    tree->expect = object ? JSON_EXPECT_KEY_OR_END : JSON_EXPECT_VALUE_OR_END;
    return NULL;
}

const char *json_tree_close(struct json_tree *tree, bool object)
{
    enum json_expect empty = object ? JSON_EXPECT_KEY_OR_END : JSON_EXPECT_VALUE_OR_END;

    if (tree->depth == 0 || (bool)cJSON_IsObject(top(tree)) != object ||
        (tree->expect != JSON_EXPECT_COMMA_OR_END && tree->expect != empty))
        return expectation(tree);
    tree->depth--;
    tree->expect = JSON_EXPECT_COMMA_OR_END;
    return NULL;
}

const char *json_tree_comma(struct json_tree *tree)
{
    if (tree->depth == 0 || tree->expect != JSON_EXPECT_COMMA_OR_END)
        return expectation(tree);
    tree->expect = cJSON_IsObject(top(tree)) ? JSON_EXPECT_KEY : JSON_EXPECT_VALUE;
    return NULL;
}

const char *json_tree_colon(struct json_tree *tree)
{
    if (tree->expect != JSON_EXPECT_COLON)
        return expectation(tree);
    tree->expect = JSON_EXPECT_VALUE;
    return NULL;
}

/* ---- Strings ---- */

static const char *check_key(struct json_tree *tree, const char *key)
{
    const struct cJSON *child;
    unsigned count = 0;

    cJSON_ArrayForEach(child, top(tree))
    {
        if (strcmp(child->string, key) == 0) {
            snprintf(tree->problem, sizeof(tree->problem), "duplicate member '%.64s'", key);
            return tree->problem;
        }
        count++;
    }
    return count >= JSON_MEMBERS_MAX ? json_too_many_members : NULL;
}

const char *json_tree_string(struct json_tree *tree, char *text)
{
    struct cJSON *item;

    if (text == NULL)
        return json_out_of_memory;
    if (key_may_come(tree)) {
        tree->keys[tree->depth - 1] = text;
        tree->expect = JSON_EXPECT_COLON;
        return check_key(tree, text);
    }
    item = value_may_come(tree) ? cJSON_CreateString(text) : NULL;
    free_wiped(text);
    return value_may_come(tree) ? add_value(tree, item) : expectation(tree);
}

/* ---- Numbers and words ---- */

/* A double holds every integer up to 2^53, and none beyond for sure. */
#define EXACT_INTEGER_MAX 9007199254740992.0

static const char *add_number(struct json_tree *tree, const char *text)
{
    double value = strtod(text, NULL);
    bool integer = text[strcspn(text, ".eE")] == '\0';
    struct cJSON *item;

    if (!isfinite(value))
        return "a number is too large";
    item = cJSON_CreateNumber(value);
    if (item != NULL && (!integer || fabs(value) >= EXACT_INTEGER_MAX)) {
        item->valuestring = strdup(text);
        if (item->valuestring == NULL) {
            cJSON_Delete(item);
            item = NULL;
        }
    }
    return add_value(tree, item);
}

const char *json_tree_word(struct json_tree *tree, const char *text)
{
    if (!value_may_come(tree))
        return expectation(tree);
    if (text[0] == '-' || isdigit((unsigned char)text[0]))
        return add_number(tree, text);
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
        return add_value(tree, cJSON_CreateBool(text[0] == 't'));
    if (strcmp(text, "null") == 0)
        return add_value(tree, cJSON_CreateNull());
    return expectation(tree);
}

/* ---- All of it ---- */

void json_wipe_what_is_freed(void)
{
    cJSON_Hooks hooks = { .malloc_fn = malloc, .free_fn = free_wiped };

    cJSON_InitHooks(&hooks);
}

struct cJSON *json_tree_take(struct json_tree *tree)
{
    struct cJSON *root = tree->depth == 0 ? TAKE_PTR(tree->root) : NULL;

    if (root != NULL)
        json_tree_clear(tree);
    return root;
}

void json_tree_clear(struct json_tree *tree)
{
    for (unsigned i = 0; i < tree->depth; i++)
        free_wiped(TAKE_PTR(tree->keys[i]));
    cJSON_Delete(tree->root);
    tree->root = NULL;
    tree->depth = tree->values = 0;
    tree->expect = JSON_EXPECT_VALUE;
}
