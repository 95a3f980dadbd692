/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who is let in: authz-simple, authz-list, authz-list-file. Rules are the operator's; an identity is text that a client
 * chose and a CA signed, or a user name, and is only ever compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "monitor/graph/objects-private.h"
#include "monitor/qmp/json-lexer.h"

/* ---- Matching ---- */

/* To the next character of UTF-8. */
static const char *next_character(const char *text)
{
    text++;
    while (((unsigned char)*text & 0xc0) == 0x80)
        text++;
    return text;
}

bool authz_glob_matches(const char *pattern, const char *text)
{
    const char *star = NULL; /* the last one seen; it takes up to resume */
    const char *resume = NULL;

    while (*text != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            resume = text;
        } else if (*pattern == '?') {
            pattern++;
            text = next_character(text);
        } else if (*pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star;
            text = resume = next_character(resume);
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

static bool list_allows(const struct authz_list *list, const char *identity, struct error *why)
{
    for (size_t i = 0; i < list->rules.count; i++) {
        const struct authz_rule *rule = &list->rules.items[i];

        if (rule->format == AUTHZ_FORMAT_GLOB ? !authz_glob_matches(rule->match, identity)
                                              : strcmp(rule->match, identity) != 0)
            continue;
        if (rule->policy == AUTHZ_POLICY_DENY)
            error_set(why, -EACCES, "rule %zu denies it", i);
        return rule->policy == AUTHZ_POLICY_ALLOW;
    }
    if (list->policy == AUTHZ_POLICY_DENY)
        error_set(why, -EACCES, "no rule allows it");
    return list->policy == AUTHZ_POLICY_ALLOW;
}

bool authz_allows(struct object_set *set, const char *authz_id, const char *identity, struct error *why)
{
    const struct object *object = object_find(set, authz_id);

    if (object == NULL)
        error_set(why, -EACCES, "there is no object '%.100s'", authz_id);
    else if (object->type->allows == NULL)
        error_set(why, -EACCES, "object '%.100s' is no authorization object", authz_id);
    else if (identity == NULL)
        error_set(why, -EACCES, "the client has no identity");
    else
        return object->type->allows(object, identity, why);
    return false;
}

/* ---- authz-simple ---- */

static int simple_make(struct object *object, const struct object_options *options, struct error *err)
{
    object->priv = strdup(options->authz_simple.identity);
    return object->priv == NULL ? error_set(err, -ENOMEM, "out of memory") : 0;
}

static void simple_free(struct object *object)
{
    free(object->priv);
}

static bool simple_allows(const struct object *object, const char *identity, struct error *why)
{
    if (strcmp(object->priv, identity) == 0)
        return true;
    error_set(why, -EACCES, "it is not the one that is let in");
    return false;
}

const struct object_type object_type_authz_simple = {
    .id = OBJECT_TYPE_AUTHZ_SIMPLE,
    .make = simple_make,
    .free = simple_free,
    .allows = simple_allows,
};

/* ---- authz-list ---- */

/* A list of one's own. */
static int copy_list(const struct authz_list *from, struct authz_list *ret_list, struct error *err)
{
    cJSON *json = schema_encode(&schema_authz_list, from);
    int r = json == NULL ? error_set(err, -ENOMEM, "out of memory")
                         : schema_decode(&schema_authz_list, json, SCHEMA_FORM_JSON, ret_list, err);

    cJSON_Delete(json);
    return r;
}

static int list_make(struct object *object, const struct object_options *options, struct error *err)
{
    struct authz_list *list = calloc(1, sizeof(*list));
    int r = list == NULL ? error_set(err, -ENOMEM, "out of memory") : copy_list(&options->authz_list, list, err);

    if (r < 0)
        free(list);
    else
        object->priv = list;
    return r;
}

static void list_free(struct object *object)
{
    schema_clear(&schema_authz_list, object->priv);
    free(object->priv);
}

static bool list_object_allows(const struct object *object, const char *identity, struct error *why)
{
    return list_allows(object->priv, identity, why);
}

const struct object_type object_type_authz_list = {
    .id = OBJECT_TYPE_AUTHZ_LIST,
    .make = list_make,
    .free = list_free,
    .allows = list_object_allows,
};

/* ---- authz-list-file ---- */

struct list_file {
    char *filename;
    bool refresh;
    struct stat seen; /* when it was read */
    bool broken;      /* the last time: nobody is let in until it is mended */
    struct authz_list list;
};

static int read_list(const char *filename, struct authz_list *ret_list, struct error *err)
{
    cJSON *json = NULL;
    char *text = NULL;
    size_t len;
    int r = file_read_small(AT_FDCWD, filename, JSON_MESSAGE_BYTES_MAX, &text, &len, err);

    if (r == 0)
        r = json_parse(text, len, &json, err);
    if (r == 0)
        r = schema_decode(&schema_authz_list, json, SCHEMA_FORM_JSON, ret_list, err);
    cJSON_Delete(json);
    free(text);
    return r < 0 ? error_prepend(err, "file '%.200s'", filename) : 0;
}

static bool has_changed(const struct stat *a, const struct stat *b)
{
    return a->st_dev != b->st_dev || a->st_ino != b->st_ino || a->st_size != b->st_size ||
           a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec ||
           a->st_ctim.tv_sec != b->st_ctim.tv_sec || a->st_ctim.tv_nsec != b->st_ctim.tv_nsec;
}

/* Read it if it is another one than last time. A broken or missing file is looked at each time. */
static int refresh(struct list_file *file, struct error *err)
{
    struct authz_list fresh = { 0 };
    struct stat st;
    int r = 0;

    if (stat(file->filename, &st) < 0) {
        file->broken = true;
        return error_set(err, -errno, "cannot look at file '%.200s': %s", file->filename, strerror(errno));
    }
    if (!file->broken && !has_changed(&st, &file->seen))
        return 0;
    r = read_list(file->filename, &fresh, err);
    file->broken = r < 0;
    if (r < 0)
        return r;
    schema_clear(&schema_authz_list, &file->list);
    file->list = fresh;
    file->seen = st; /* of before it was read: a change meanwhile is seen the next time */
    return 0;
}

static int list_file_make(struct object *object, const struct object_options *options, struct error *err)
{
    struct list_file *file = calloc(1, sizeof(*file));
    int r = 0;

    if (file == NULL || (file->filename = strdup(options->authz_list_file.filename)) == NULL)
        r = error_set(err, -ENOMEM, "out of memory");
    if (r == 0) {
        file->refresh = options->authz_list_file.refresh;
        file->broken = true;
        r = refresh(file, err);
    }
    if (r < 0) {
        if (file != NULL)
            free(file->filename);
        free(file);
        return r;
    }
    object->priv = file;
    return 0;
}

static void list_file_free(struct object *object)
{
    struct list_file *file = object->priv;

    schema_clear(&schema_authz_list, &file->list);
    free(file->filename);
    free(file);
}

static bool list_file_allows(const struct object *object, const char *identity, struct error *why)
{
    struct list_file *file = object->priv;

    if (file->refresh && refresh(file, why) < 0)
        return false;
    return list_allows(&file->list, identity, why);
}

const struct object_type object_type_authz_list_file = {
    .id = OBJECT_TYPE_AUTHZ_LIST_FILE,
    .make = list_file_make,
    .free = list_file_free,
    .allows = list_file_allows,
};
