/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * query-qmp-schema: walks the tables of commands, events and types and describes them as SchemaInfo. Works on tables of
 * our own only.
 */
#include "monitor/qmp/introspect.h"

#include <string.h>

#include <cjson/cJSON.h>

/* The type of what has no members. */
static const struct schema_type schema_empty = { .kind = SCHEMA_STRUCT, .name = "Empty", .doc = "Nothing." };

/* ---- Walking the types ---- */

/* All types that have been seen; there are a few hundred at most. */
struct walk {
    const struct schema_type **types;
    unsigned count;
    unsigned size;
    bool failed;
};

/* All integer types are one on the wire. */
static const struct schema_type *canonical(const struct schema_type *type)
{
    if (type == NULL)
        return &schema_empty;
    return type->kind == SCHEMA_INT ? &schema_int : type;
}

static void walk_type(struct walk *walk, const struct schema_type *type);

static bool walk_add(struct walk *walk, const struct schema_type *type)
{
    for (unsigned i = 0; i < walk->count; i++) {
        if (walk->types[i] == type)
            return false;
    }
    if (walk->count == walk->size) {
        unsigned size = MAX(2 * walk->size, 64u);
        const struct schema_type **types = reallocarray(walk->types, size, sizeof(*types));

        if (types == NULL) {
            walk->failed = true;
            return false;
        }
        walk->types = types;
        walk->size = size;
    }
    walk->types[walk->count++] = type;
    return true;
}

static void walk_type(struct walk *walk, const struct schema_type *any_type)
{
    const struct schema_type *type = canonical(any_type);

    if (!walk_add(walk, type))
        return;
    if (type->kind == SCHEMA_STRUCT || type->kind == SCHEMA_UNION) {
        for (unsigned i = 0; i < type->count; i++)
            walk_type(walk, type->members[i].type);
    }
    for (unsigned i = 0; i < type->variant_count; i++)
        walk_type(walk, type->variants[i].type);
    if (type->kind == SCHEMA_ARRAY)
        walk_type(walk, type->element);
}

static void walk_all(struct walk *walk, const struct qmp_command *commands, unsigned command_count,
                     const struct qmp_event *events, unsigned event_count)
{
    for (unsigned i = 0; i < command_count; i++) {
        walk_type(walk, commands[i].args);
        walk_type(walk, commands[i].ret);
    }
    for (unsigned i = 0; i < event_count; i++)
        walk_type(walk, events[i].type);
}

bool schema_visit_types(const struct qmp_command *commands, unsigned command_count, const struct qmp_event *events,
                        unsigned event_count, bool (*visit)(const struct schema_type *type, void *arg), void *arg)
{
    struct walk walk = { NULL };
    bool go_on = true;

    walk_all(&walk, commands, command_count, events, event_count);
    for (unsigned i = 0; i < walk.count && go_on; i++)
        go_on = visit(walk.types[i], arg);
    free(walk.types);
    return go_on && !walk.failed;
}

/* ---- Describing ---- */

struct introspection {
    SCHEMA_LIST(struct schema_info) list;
    struct cJSON *null;
    const char *deprecated[1];
    bool failed;
};

static struct schema_features features(struct introspection *introspection, bool deprecated)
{
    return (struct schema_features){ introspection->deprecated, deprecated ? 1 : 0 };
}

/* Memory for count items; counts are those of tables. */
static void *new_items(struct introspection *introspection, size_t count, size_t size)
{
    void *items = calloc(MAX(count, (size_t)1), size);

    if (items == NULL)
        introspection->failed = true;
    return items;
}

static void describe_builtin(struct introspection *introspection, const struct schema_type *type,
                             struct schema_info *info)
{
    static const enum json_type types[] = { [SCHEMA_STRING] = JSON_TYPE_STRING,
                                            [SCHEMA_BOOL] = JSON_TYPE_BOOLEAN,
                                            [SCHEMA_INT] = JSON_TYPE_INT,
                                            [SCHEMA_ANY] = JSON_TYPE_VALUE };

    info->meta_type = SCHEMA_META_BUILTIN;
    info->builtin.json_type = types[type->kind];
}

static void describe_enum(struct introspection *introspection, const struct schema_type *type, struct schema_info *info)
{
    info->meta_type = SCHEMA_META_ENUM;
    info->enum_.members.items = new_items(introspection, type->count, sizeof(*info->enum_.members.items));
    info->enum_.values.items = new_items(introspection, type->count, sizeof(*info->enum_.values.items));
    if (introspection->failed)
        return;
    info->enum_.members.count = info->enum_.values.count = type->count;
    for (unsigned i = 0; i < type->count; i++)
        info->enum_.members.items[i].name = info->enum_.values.items[i] = type->values[i].name;
}

static void describe_array(struct introspection *introspection, const struct schema_type *type,
                           struct schema_info *info)
{
    info->meta_type = SCHEMA_META_ARRAY;
    info->array.element_type = canonical(type->element)->name;
}

static void describe_variants(struct introspection *introspection, const struct schema_type *type,
                              struct schema_info *info)
{
    const struct schema_type *tag = NULL;

    for (unsigned i = 0; i < type->count; i++) {
        if (type->members[i].offset == type->tag_offset) {
            info->object.tag = type->members[i].name;
            tag = type->members[i].type;
        }
    }
    info->object.variants.items = new_items(introspection, type->variant_count, sizeof(*info->object.variants.items));
    if (introspection->failed)
        return;
    info->object.variants.count = type->variant_count;
    for (unsigned i = 0; i < type->variant_count; i++) {
        info->object.variants.items[i].case_ = schema_enum_name(tag, i);
        info->object.variants.items[i].type = canonical(type->variants[i].type)->name;
    }
}

static void describe_object(struct introspection *introspection, const struct schema_type *type,
                            struct schema_info *info)
{
    info->meta_type = SCHEMA_META_OBJECT;
    info->object.members.items = new_items(introspection, type->count, sizeof(*info->object.members.items));
    if (introspection->failed)
        return;
    info->object.members.count = type->count;
    for (unsigned i = 0; i < type->count; i++) {
        const struct schema_member *member = &type->members[i];

        info->object.members.items[i] = (struct schema_info_object_member){
            .name = member->name,
            .type = canonical(member->type)->name,
            .default_value = member->flags & SCHEMA_OPTIONAL ? introspection->null : NULL,
            .features = features(introspection, member->flags & SCHEMA_DEPRECATED),
        };
    }
    if (type->kind == SCHEMA_UNION)
        describe_variants(introspection, type, info);
}

static void describe_alternate(struct introspection *introspection, const struct schema_type *type,
                               struct schema_info *info)
{
    info->meta_type = SCHEMA_META_ALTERNATE;
    info->alternate.members.items =
        new_items(introspection, type->variant_count, sizeof(*info->alternate.members.items));
    if (introspection->failed)
        return;
    info->alternate.members.count = type->variant_count;
    for (unsigned i = 0; i < type->variant_count; i++)
        info->alternate.members.items[i].type = canonical(type->variants[i].type)->name;
}

static void describe_type(struct introspection *introspection, const struct schema_type *type, struct schema_info *info)
{
    static void (*const by_kind[])(struct introspection *, const struct schema_type *, struct schema_info *) = {
        [SCHEMA_STRING] = describe_builtin, [SCHEMA_BOOL] = describe_builtin,        [SCHEMA_INT] = describe_builtin,
        [SCHEMA_ANY] = describe_builtin,    [SCHEMA_ENUM] = describe_enum,           [SCHEMA_STRUCT] = describe_object,
        [SCHEMA_UNION] = describe_object,   [SCHEMA_ALTERNATE] = describe_alternate, [SCHEMA_ARRAY] = describe_array,
    };

    info->name = type->name;
    by_kind[type->kind](introspection, type, info);
}

static void describe_all(struct introspection *introspection, const struct walk *walk,
                         const struct qmp_command *commands, unsigned command_count, const struct qmp_event *events,
                         unsigned event_count)
{
    struct schema_info *info = introspection->list.items;

    for (unsigned i = 0; i < command_count; i++, info++) {
        info->name = commands[i].name;
        info->meta_type = SCHEMA_META_COMMAND;
        info->features = features(introspection, commands[i].flags & QMP_COMMAND_DEPRECATED);
        info->command.arg_type = canonical(commands[i].args)->name;
        info->command.ret_type = canonical(commands[i].ret)->name;
    }
    for (unsigned i = 0; i < event_count; i++, info++) {
        info->name = events[i].name;
        info->meta_type = SCHEMA_META_EVENT;
        info->event.arg_type = canonical(events[i].type)->name;
    }
    for (unsigned i = 0; i < walk->count && !introspection->failed; i++, info++)
        describe_type(introspection, walk->types[i], info);
}

struct introspection *introspection_new(const struct qmp_command *commands, unsigned command_count,
                                        const struct qmp_event *events, unsigned event_count)
{
    struct introspection *introspection = calloc(1, sizeof(*introspection));
    struct walk walk = { NULL };

    if (introspection == NULL)
        return NULL;
    introspection->deprecated[0] = "deprecated";
    introspection->null = cJSON_CreateNull();
    walk_all(&walk, commands, command_count, events, event_count);
    introspection->list.count = command_count + event_count + walk.count;
    introspection->list.items = new_items(introspection, introspection->list.count, sizeof(struct schema_info));
    if (walk.failed || introspection->null == NULL)
        introspection->failed = true;
    if (!introspection->failed)
        describe_all(introspection, &walk, commands, command_count, events, event_count);
    free(walk.types);
    if (introspection->failed) {
        introspection_free(introspection);
        return NULL;
    }
    return introspection;
}

const void *introspection_list(const struct introspection *introspection)
{
    return &introspection->list;
}

static void free_info(struct schema_info *info)
{
    switch (info->meta_type) {
    case SCHEMA_META_ENUM:
        free(info->enum_.members.items);
        free(info->enum_.values.items);
        break;
    case SCHEMA_META_OBJECT:
        free(info->object.members.items);
        free(info->object.variants.items);
        break;
    case SCHEMA_META_ALTERNATE:
        free(info->alternate.members.items);
        break;
    default:
        break;
    }
}

void introspection_free(struct introspection *introspection)
{
    if (introspection == NULL)
        return;
    for (size_t i = 0; introspection->list.items != NULL && i < introspection->list.count; i++)
        free_info(&introspection->list.items[i]);
    free(introspection->list.items);
    cJSON_Delete(introspection->null);
    free(introspection);
}
