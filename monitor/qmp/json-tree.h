/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The grammar of JSON, and the cJSON tree that grows while a message is read. The lexer hands in tokens one by one.
 * Each function returns NULL, or what is wrong in words; the tree is then good for json_tree_clear() only.
 */
#ifndef BULKHEAD_MONITOR_QMP_JSON_TREE_H
#define BULKHEAD_MONITOR_QMP_JSON_TREE_H

#include "monitor/qmp/json-lexer.h"

/* What may come next. */
enum json_expect {
    JSON_EXPECT_VALUE,
    JSON_EXPECT_VALUE_OR_END, /* after [ */
    JSON_EXPECT_KEY_OR_END,   /* after { */
    JSON_EXPECT_KEY,          /* after , in an object */
    JSON_EXPECT_COLON,
    JSON_EXPECT_COMMA_OR_END,
};

/* All zero is an empty tree. */
struct json_tree {
    struct cJSON *root;
    struct cJSON *stack[JSON_DEPTH_MAX]; /* open containers */
    char *keys[JSON_DEPTH_MAX];          /* of the member whose value comes next */
    unsigned depth;
    unsigned values;
    enum json_expect expect;
    char problem[100];
};

/* Those that the lexer tells from others. */
extern const char json_out_of_memory[];
extern const char json_too_deep[];
extern const char json_too_many_values[];
extern const char json_too_many_members[];

const char *json_tree_open(struct json_tree *tree, bool object);
const char *json_tree_close(struct json_tree *tree, bool object);
const char *json_tree_comma(struct json_tree *tree);
const char *json_tree_colon(struct json_tree *tree);
/* A string, as a value or a member's name; takes text over, NULL: out of memory. */
const char *json_tree_string(struct json_tree *tree, char *text);
/* A well-formed number, or a word; at most JSON_TOKEN_MAX bytes. */
const char *json_tree_word(struct json_tree *tree, const char *text);

/*
 * From here on cJSON overwrites what it frees, as the lexer and the tree do: a command may have held a secret. Once, before
 * anything is parsed.
 */
void json_wipe_what_is_freed(void);

/* Whether a string may come next, and if not, what may. */
const char *json_tree_check_string(const struct json_tree *tree);

/* The whole value, or NULL when it is not complete; the tree is empty then. */
struct cJSON *json_tree_take(struct json_tree *tree);
void json_tree_clear(struct json_tree *tree);

#endif
