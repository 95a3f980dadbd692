/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who is let in: authz-simple, authz-list, authz-list-file. Rules are the operator's; an identity is text that a client
 * chose and a CA signed, or a user name, and is only ever compared.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#include <cjson/cJSON.h>

#include "monitor/graph/files.h"
#include "monitor/graph/objects-private.h"
#include "monitor/monitor.h"
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

/* Somebody who wants to know whether it has changed. */
struct list_waiter {
    STAILQ_ENTRY(list_waiter) link;
    authz_refreshed_fn *done;
    void *opaque;
};

STAILQ_HEAD(list_waiters, list_waiter);

struct list_file {
    struct object *object;
    char *filename;
    bool refresh;
    struct opener_task *task; /* NULL: it was read once and for all */
    bool reading;
    bool broken; /* the last time: nobody is let in until it is mended */
    struct error why;
    struct authz_list list;
    struct list_waiters waiters; /* for what is being read */
    struct list_waiters later;   /* they came after that had begun: for the next time */
};

static int parse_list(int fd, struct authz_list *ret_list, struct error *err)
{
    cJSON *json = NULL;
    char *text = NULL;
    size_t len = 0;
    int r = files_take(fd, JSON_MESSAGE_BYTES_MAX, &text, &len, err);

    if (r == 0)
        r = json_parse(text, len, &json, err);
    if (r == 0)
        r = schema_decode(&schema_authz_list, json, SCHEMA_FORM_JSON, ret_list, err);
    cJSON_Delete(json);
    free(text);
    return r;
}

static void take_list(struct list_file *file, const struct opener_reply *reply, int fd)
{
    struct authz_list fresh = { 0 };
    int r;

    memset(&file->why, 0, sizeof(file->why));
    r = reply->code < 0 ? files_error(reply, file->filename, &file->why) : parse_list(fd, &fresh, &file->why);
    file->broken = r < 0;
    if (r < 0) {
        error_prepend(&file->why, "file '%.200s'", file->filename);
        return;
    }
    schema_clear(&schema_authz_list, &file->list);
    file->list = fresh;
}

/* Those that are there now, in the order in which they came. */
static void tell(struct list_waiters *waiters, bool cancelled)
{
    struct list_waiters told = STAILQ_HEAD_INITIALIZER(told);
    struct list_waiter *waiter;

    STAILQ_CONCAT(&told, waiters);
    while ((waiter = STAILQ_FIRST(&told)) != NULL) {
        struct list_waiter own = *waiter;

        STAILQ_REMOVE_HEAD(&told, link);
        free(waiter);
        own.done(own.opaque, cancelled);
    }
}

static void stop_reading(struct list_file *file)
{
    if (file->task == NULL)
        return;
    opener_task_forget(file->task, file);
    opener_task_end(TAKE_PTR(file->task), NULL, NULL);
}

static void list_came(void *opaque, const struct opener_reply *reply, int fd);

/* Its child keeps for the next time, unless it has died: then there is another one. */
static int read_list(struct list_file *file, struct error *err)
{
    bool kept = file->task != NULL;
    int r = 0;

    if (file->task == NULL)
        r = opener_task_new(file->object->set->monitor->opener, NULL, NULL, &file->task, err);
    if (r == 0)
        r = files_read(file->task, file->filename, JSON_MESSAGE_BYTES_MAX, list_came, file, err);
    file->reading = r == 0;
    if (r < 0)
        stop_reading(file);
    return r == -EPIPE && kept ? read_list(file, err) : r;
}

/* For those that came while the last time was under way. */
static void read_for_later_ones(struct list_file *file)
{
    STAILQ_CONCAT(&file->waiters, &file->later);
    if (file->reading || STAILQ_EMPTY(&file->waiters))
        return;
    if (read_list(file, &file->why) < 0) {
        file->broken = true;
        tell(&file->waiters, false);
    }
}

static void list_came(void *opaque, const struct opener_reply *reply, int fd)
{
    struct list_file *file = opaque;
    struct object *object = file->object;

    file->reading = false;
    take_list(file, reply, fd);
    if (!file->refresh || reply->code == -EPIPE)
        stop_reading(file);
    if (object->add_reply != NULL) {
        object_made(object, file->broken ? &file->why : NULL);
        return;
    }
    tell(&file->waiters, false);
    read_for_later_ones(file);
}

static void list_file_free(struct object *object)
{
    struct list_file *file = object->priv;

    stop_reading(file);
    tell(&file->waiters, true);
    tell(&file->later, true);
    schema_clear(&schema_authz_list, &file->list);
    free(file->filename);
    free(file);
}

static int list_file_make(struct object *object, const struct object_options *options, struct error *err)
{
    struct list_file *file = calloc(1, sizeof(*file));
    int r;

    if (file == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    file->object = object;
    file->refresh = options->authz_list_file.refresh;
    STAILQ_INIT(&file->waiters);
    STAILQ_INIT(&file->later);
    object->priv = file;
    file->filename = strdup(options->authz_list_file.filename);
    r = file->filename == NULL ? error_set(err, -ENOMEM, "out of memory") : read_list(file, err);
    if (r < 0) {
        list_file_free(object);
        return r;
    }
    return OBJECT_PENDING;
}

static bool list_file_allows(const struct object *object, const char *identity, struct error *why)
{
    struct list_file *file = object->priv;

    if (file->broken) {
        *why = file->why;
        return false;
    }
    return list_allows(&file->list, identity, why);
}

static void wait_for_list(struct list_file *file, authz_refreshed_fn *done, void *opaque)
{
    struct list_waiters *waiters = file->reading ? &file->later : &file->waiters;
    struct list_waiter *waiter = calloc(1, sizeof(*waiter));
    int r = waiter == NULL ? error_set(&file->why, -ENOMEM, "out of memory") : 0;

    if (r == 0 && !file->reading)
        r = read_list(file, &file->why);
    if (r < 0) {
        free(waiter);
        file->broken = true;
        done(opaque, false);
        return;
    }
    waiter->done = done;
    waiter->opaque = opaque;
    STAILQ_INSERT_TAIL(waiters, waiter, link);
}

void authz_refresh(struct object_set *set, const char *authz_id, authz_refreshed_fn *done, void *opaque)
{
    const struct object *object = object_find(set, authz_id);
    struct list_file *file = object != NULL && object->type == &object_type_authz_list_file ? object->priv : NULL;

    if (file != NULL && file->refresh)
        wait_for_list(file, done, opaque);
    else
        done(opaque, false);
}

const struct object_type object_type_authz_list_file = {
    .id = OBJECT_TYPE_AUTHZ_LIST_FILE,
    .make = list_file_make,
    .free = list_file_free,
    .allows = list_file_allows,
};
