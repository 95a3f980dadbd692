/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about objects: thin, the work is in objects.c. What clients ask for is hostile. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "monitor/graph/objects.h"
#include "monitor/monitor.h"
#include "monitor/qmp/commands.h"

#define PATH_OBJECTS "/objects"
#define TYPE_TEXT_MAX 64

void qmp_run_object_add(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    object_add(monitor->objects, args, reply);
}

void qmp_run_object_del(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct object_del_args *del = args;
    struct error err = { 0 };

    if (object_del(monitor->objects, del->id, &err) < 0)
        qmp_reply_error(reply, &err);
    else
        qmp_reply_ok(reply, NULL);
}

/* ---- qom-list ---- */

static struct object_property_info type_property = { .name = "type", .type = "string" };

static void list_objects(const struct object_set *set, struct qmp_reply *reply)
{
    struct object_property_info_list list = { 0 };
    char (*types)[TYPE_TEXT_MAX] = calloc(OBJECTS_MAX, sizeof(*types));

    list.items = calloc(OBJECTS_MAX + 1, sizeof(*list.items));
    if (types == NULL || list.items == NULL) {
        qmp_reply_error(reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
    } else {
        list.items[list.count++] = type_property;
        for (const struct object *object = object_first(set); object != NULL; object = object_next(object)) {
            char *type = types[list.count - 1];

            snprintf(type, TYPE_TEXT_MAX, "child<%s>", object_type_name(object));
            list.items[list.count++] = (struct object_property_info){ .name = object_id(object), .type = type };
        }
        qmp_reply_ok(reply, &list);
    }
    free(list.items);
    free(types);
}

static bool is_object(const struct object_set *set, const char *path)
{
    const struct object *object = NULL;

    if (strncmp(path, PATH_OBJECTS "/", strlen(PATH_OBJECTS "/")) == 0)
        for (object = object_first(set); object != NULL; object = object_next(object))
            if (strcmp(object_id(object), path + strlen(PATH_OBJECTS "/")) == 0)
                return true;
    return false;
}

void qmp_run_qom_list(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct qom_list_args *list = args;
    struct object_property_info root[] = { type_property, { .name = "objects", .type = "child<container>" } };
    struct object_property_info_list root_list = { .items = root, .count = ARRAY_SIZE(root) };
    struct error err = { 0 };

    if (strcmp(list->path, PATH_OBJECTS) == 0) {
        list_objects(monitor->objects, reply);
    } else if (strcmp(list->path, "/") == 0) {
        qmp_reply_ok(reply, &root_list);
    } else if (is_object(monitor->objects, list->path)) {
        root_list.count = 1; /* of an object only the type is shown: its other properties may be secret */
        qmp_reply_ok(reply, &root_list);
    } else {
        error_set_class(&err, -ENOENT, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%.200s' not found: there is nothing at that path", list->path);
        qmp_reply_error(reply, &err);
    }
}
