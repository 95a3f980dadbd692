/* SPDX-License-Identifier: BSD-2-Clause */
/* The set of objects: ids, references, and the table of kinds; see objects.h. */
#include "monitor/graph/objects-private.h"

#include <errno.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/monitor.h"
#include "monitor/qmp/qmp.h"

static const struct object_type *const object_types[OBJECT_TYPE_MAX] = {
    [OBJECT_TYPE_AUTHZ_LIST] = &object_type_authz_list,
    [OBJECT_TYPE_AUTHZ_LIST_FILE] = &object_type_authz_list_file,
    [OBJECT_TYPE_AUTHZ_SIMPLE] = &object_type_authz_simple,
    [OBJECT_TYPE_SECRET] = &object_type_secret,
    [OBJECT_TYPE_TLS_CREDS_ANON] = &object_type_tls_creds_anon,
    [OBJECT_TYPE_TLS_CREDS_PSK] = &object_type_tls_creds_psk,
    [OBJECT_TYPE_TLS_CREDS_X509] = &object_type_tls_creds_x509,
};

int object_set_new(struct monitor *monitor, struct object_set **ret_set, struct error *err)
{
    struct object_set *set = calloc(1, sizeof(*set));

    if (set == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    set->monitor = monitor;
    TAILQ_INIT(&set->list);
    LIST_INIT(&set->signers);
    *ret_set = set;
    return 0;
}

static void unlink_object(struct object *object)
{
    TAILQ_REMOVE(&object->set->list, object, link);
    object->set->count--;
    object_unref(object);
}

void object_set_free(struct object_set *set)
{
    const struct error err = { .code = -ESHUTDOWN, .text = "the program ends" };
    struct object *object;

    if (set == NULL)
        return;
    set->closing = true;
    while ((object = TAILQ_FIRST(&set->list)) != NULL) {
        if (object->add_reply != NULL)
            qmp_reply_error(TAKE_PTR(object->add_reply), &err);
        unlink_object(object);
    }
    tls_signers_free(set);
    free(set);
}

void object_unref(struct object *object)
{
    if (object == NULL || --object->refs > 0)
        return;
    object->type->free(object);
    free(object);
}

/* Also a pending one. */
static struct object *find_any(const struct object_set *set, const char *id)
{
    struct object *object;

    TAILQ_FOREACH(object, &set->list, link) {
        if (strcmp(object->id, id) == 0)
            return object;
    }
    return NULL;
}

struct object *object_find(const struct object_set *set, const char *id)
{
    struct object *object = find_any(set, id);

    return object != NULL && object->add_reply == NULL ? object : NULL;
}

static int check_add(const struct object_set *set, const struct object_options *options, struct error *err)
{
    int r = object_options_check(options, err);

    if (r == 0)
        r = monitor_check_running(set->monitor, err);
    if (r == 0 && find_any(set, options->id) != NULL)
        r = error_set(err, -EEXIST, "attempt to add duplicate property '%s': there is an object of that id already",
                      options->id);
    if (r == 0 && set->count >= OBJECTS_MAX)
        r = error_set(err, -ENOSPC, "there are already %d objects", OBJECTS_MAX);
    return r;
}

static int new_object(struct object_set *set, const struct object_options *options, struct object **ret_object,
                      struct error *err)
{
    struct object *object = calloc(1, sizeof(*object));
    int r;

    if (object == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    object->set = set;
    object->type = object_types[options->type];
    object->refs = 1;
    memcpy(object->id, options->id, strlen(options->id) + 1); /* object_options_check() has measured it */
    r = object->type->make(object, options, err);
    if (r < 0) {
        free(object);
        return r;
    }
    TAILQ_INSERT_TAIL(&set->list, object, link);
    set->count++;
    *ret_object = object;
    return r;
}

void object_add(struct object_set *set, const struct object_options *options, struct qmp_reply *reply)
{
    struct object *object = NULL;
    struct error err = { 0 };
    int r = check_add(set, options, &err);

    if (r == 0)
        r = new_object(set, options, &object, &err);
    if (r < 0)
        qmp_reply_error(reply, &err);
    else if (r == OBJECT_PENDING)
        object->add_reply = reply;
    else
        qmp_reply_ok(reply, NULL);
}

void object_made(struct object *object, const struct error *err)
{
    struct qmp_reply *reply = TAKE_PTR(object->add_reply);

    if (err != NULL) {
        struct error own = *err; /* which may be the object's */

        unlink_object(object);
        qmp_reply_error(reply, &own);
    } else {
        qmp_reply_ok(reply, NULL);
    }
}

int object_del(struct object_set *set, const char *id, struct error *err)
{
    struct object *object = find_any(set, id);

    if (object == NULL)
        return error_set(err, -ENOENT, "object '%.100s' not found", id);
    if (object->add_reply != NULL)
        return error_set(err, -EBUSY, "object '%s' is still being made", id);
    unlink_object(object);
    return 0;
}

static const struct object *skip_pending(const struct object *object)
{
    while (object != NULL && object->add_reply != NULL)
        object = TAILQ_NEXT(object, link);
    return object;
}

const struct object *object_first(const struct object_set *set)
{
    return skip_pending(TAILQ_FIRST(&set->list));
}

const struct object *object_next(const struct object *object)
{
    return skip_pending(TAILQ_NEXT(object, link));
}

const char *object_id(const struct object *object)
{
    return object->id;
}

const char *object_type_name(const struct object *object)
{
    return schema_enum_name(&schema_object_type, object->type->id);
}
