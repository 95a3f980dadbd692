/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What query-qmp-schema returns: the tables of commands, events and types as QAPI's SchemaInfo (qapi/introspect.json).
 */
#ifndef BULKHEAD_MONITOR_QMP_INTROSPECT_H
#define BULKHEAD_MONITOR_QMP_INTROSPECT_H

#include "monitor/qmp/commands.h"

enum schema_meta_type {
    SCHEMA_META_BUILTIN,
    SCHEMA_META_ENUM,
    SCHEMA_META_ARRAY,
    SCHEMA_META_OBJECT,
    SCHEMA_META_ALTERNATE,
    SCHEMA_META_COMMAND,
    SCHEMA_META_EVENT,
    SCHEMA_META_MAX,
};

enum json_type {
    JSON_TYPE_STRING,
    JSON_TYPE_NUMBER,
    JSON_TYPE_INT,
    JSON_TYPE_BOOLEAN,
    JSON_TYPE_NULL,
    JSON_TYPE_OBJECT,
    JSON_TYPE_ARRAY,
    JSON_TYPE_VALUE,
    JSON_TYPE_MAX,
};

struct schema_features {
    const char **items;
    size_t count;
};

struct schema_info_enum_member {
    const char *name;
};

struct schema_info_object_member {
    const char *name;
    const char *type;
    struct cJSON *default_value; /* null if the member is optional, else NULL */
    struct schema_features features;
};

struct schema_info_object_variant {
    const char *case_;
    const char *type;
};

struct schema_info_alternate_member {
    const char *type;
};

/* SchemaInfo */
struct schema_info {
    const char *name;
    enum schema_meta_type meta_type;
    struct schema_features features;
    union {
        struct {
            enum json_type json_type;
        } builtin;
        struct {
            SCHEMA_LIST(struct schema_info_enum_member) members;
            SCHEMA_LIST(const char *) values;
        } enum_;
        struct {
            const char *element_type;
        } array;
        struct {
            SCHEMA_LIST(struct schema_info_object_member) members;
            const char *tag;
            SCHEMA_LIST(struct schema_info_object_variant) variants;
        } object;
        struct {
            SCHEMA_LIST(struct schema_info_alternate_member) members;
        } alternate;
        struct {
            const char *arg_type;
            const char *ret_type;
        } command;
        struct {
            const char *arg_type;
        } event;
    };
};

struct introspection;

/* NULL: out of memory. Strings are those of the tables. */
struct introspection *introspection_new(const struct qmp_command *commands, unsigned command_count,
                                        const struct qmp_event *events, unsigned event_count);
void introspection_free(struct introspection *introspection);

/* A value of schema_schema_info_list. */
const void *introspection_list(const struct introspection *introspection);

/*
 * Call visit for each type that commands and events use, directly or not, once; builtin types included. Stops when it
 * returns false.
 */
bool schema_visit_types(const struct qmp_command *commands, unsigned command_count, const struct qmp_event *events,
                        unsigned event_count, bool (*visit)(const struct schema_type *type, void *arg), void *arg);

#endif
