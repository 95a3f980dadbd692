/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The schema: QAPI types as tables. One set of tables decodes arguments into C structs, frees them, encodes replies and
 * events, answers query-qmp-schema and prints the reference page. Sources: QEMU's docs/devel/qapi-code-gen (type
 * system) and qapi/introspect.json.
 *
 * How a QAPI type looks in C:
 *
 *   str               const char *, NULL: absent; owned by the value when decoded
 *   bool              bool
 *   int, uint16, ...  int64_t, uint16_t, ... as size_bytes and the range say; size: uint64_t
 *   enum              a C enum whose values index the table of names
 *   struct            a C struct; a member that is a struct lies inline, or is a pointer if the row says SCHEMA_BOXED
 *   union             a struct of the common members, among them the tag, and a C union of the variants
 *   alternate         a struct of an int, the index of the branch, and the branches
 *   array             SCHEMA_LIST(T): items and count
 *   any               struct cJSON *, owned by the value when decoded
 *
 * An optional member is a NULL pointer (str, any, boxed), or has a bool beside it, or a default.
 */
#ifndef BULKHEAD_MONITOR_QMP_SCHEMA_H
#define BULKHEAD_MONITOR_QMP_SCHEMA_H

#include "common/base/error.h"

struct cJSON;
struct schema_type;

enum schema_kind {
    SCHEMA_STRING,
    SCHEMA_BOOL,
    SCHEMA_INT,
    SCHEMA_ENUM,
    SCHEMA_STRUCT,
    SCHEMA_UNION,
    SCHEMA_ALTERNATE,
    SCHEMA_ARRAY,
    SCHEMA_ANY,
};

/* How long an array that a client sends may be, unless its type says less. */
#define SCHEMA_ITEMS_MAX 4096
#define SCHEMA_DEPTH_MAX 64 /* of members within members */

/* A list in C, for arrays of T. */
#define SCHEMA_LIST(T)                                                                                                 \
    struct {                                                                                                           \
        T *items;                                                                                                      \
        size_t count;                                                                                                  \
    }

/* One value of an enum. */
struct schema_value {
    const char *name;
    const char *doc; /* one sentence */
};

#define SCHEMA_NO_HAS SIZE_MAX

#define SCHEMA_OPTIONAL   (1u << 0)
#define SCHEMA_BOXED      (1u << 1) /* the C member is a pointer to the value; for types that contain themselves */
#define SCHEMA_DEPRECATED (1u << 2)
#define SCHEMA_SIZE       (1u << 3) /* of a type: command-line text may have a suffix k, M, G, T, P, E */

struct schema_member {
    const char *name; /* as on the wire */
    const struct schema_type *type;
    size_t offset;
    size_t has_offset;         /* of the bool that says whether an optional member is there, or SCHEMA_NO_HAS */
    const char *default_value; /* what an absent member is decoded as, in command-line spelling; "{}": all defaults */
    unsigned flags;
    const char *doc; /* one sentence */
};

/* The members that a union has for one value of its tag, or one branch of an alternate. */
struct schema_variant {
    const struct schema_type *type; /* NULL: no members of its own */
    size_t offset;
    unsigned flags; /* SCHEMA_BOXED */
};

struct schema_type {
    enum schema_kind kind;
    unsigned flags;
    const char *name;  /* QAPI's */
    const char *doc;   /* one sentence; NULL for builtin types and arrays */
    size_t size_bytes; /* of the C value */

    bool is_unsigned; /* int: the C type */
    int64_t min;      /* int: the range */
    uint64_t max;

    const struct schema_value *values;   /* enum */
    const char *const *elsewhere;        /* enum: values that only qemu-storage-daemon has, to say so; NULL ends them */
    const struct schema_member *members; /* struct, union */
    size_t tag_offset;                   /* union: of the tag; alternate: of the int with the branch */
    const struct schema_variant *variants; /* union: indexed by the tag; alternate: by the branch */
    const struct schema_type *element;     /* array */
    unsigned count;                        /* of values or members; array: most items (0: SCHEMA_ITEMS_MAX) */
    unsigned variant_count;
};

/* ---- To write tables ---- */

#define SCHEMA_MEMBER(c_type, field, wire_name, member_type, text)                                                     \
    {                                                                                                                  \
        .name = (wire_name), .type = &(member_type), .offset = offsetof(c_type, field), .has_offset = SCHEMA_NO_HAS,   \
        .doc = (text)                                                                                                  \
    }

/* Optional, has_<field> says whether it is there. */
#define SCHEMA_MEMBER_HAS(c_type, field, wire_name, member_type, text)                                                 \
    {                                                                                                                  \
        .name = (wire_name), .type = &(member_type), .offset = offsetof(c_type, field),                                \
        .has_offset = offsetof(c_type, has_##field), .flags = SCHEMA_OPTIONAL, .doc = (text)                           \
    }

/* Optional, NULL (str, any, boxed) or zero items (array) when absent. */
#define SCHEMA_MEMBER_OPT(c_type, field, wire_name, member_type, text)                                                 \
    {                                                                                                                  \
        .name = (wire_name), .type = &(member_type), .offset = offsetof(c_type, field), .has_offset = SCHEMA_NO_HAS,   \
        .flags = SCHEMA_OPTIONAL, .doc = (text)                                                                        \
    }

/* Optional, value in its place when absent. */
#define SCHEMA_MEMBER_DEF(c_type, field, wire_name, member_type, value, text)                                          \
    {                                                                                                                  \
        .name = (wire_name), .type = &(member_type), .offset = offsetof(c_type, field), .has_offset = SCHEMA_NO_HAS,   \
        .default_value = (value), .flags = SCHEMA_OPTIONAL, .doc = (text)                                              \
    }

#define SCHEMA_TYPE_STRUCT(c_type, qapi_name, member_table, text)                                                      \
    {                                                                                                                  \
        .kind = SCHEMA_STRUCT, .name = (qapi_name), .doc = (text), .size_bytes = sizeof(c_type),                       \
        .members = (member_table), .count = ARRAY_SIZE(member_table)                                                   \
    }

#define SCHEMA_TYPE_UNION(c_type, qapi_name, tag, member_table, variant_table, text)                                   \
    {                                                                                                                  \
        .kind = SCHEMA_UNION, .name = (qapi_name), .doc = (text), .size_bytes = sizeof(c_type),                        \
        .members = (member_table), .count = ARRAY_SIZE(member_table), .tag_offset = offsetof(c_type, tag),             \
        .variants = (variant_table), .variant_count = ARRAY_SIZE(variant_table)                                        \
    }

#define SCHEMA_TYPE_ALTERNATE(c_type, qapi_name, branch_field, branch_table, text)                                     \
    {                                                                                                                  \
        .kind = SCHEMA_ALTERNATE, .name = (qapi_name), .doc = (text), .size_bytes = sizeof(c_type),                    \
        .tag_offset = offsetof(c_type, branch_field), .variants = (branch_table),                                      \
        .variant_count = ARRAY_SIZE(branch_table)                                                                      \
    }

#define SCHEMA_TYPE_ENUM(qapi_name, value_table, text)                                                                 \
    {                                                                                                                  \
        .kind = SCHEMA_ENUM, .name = (qapi_name), .doc = (text), .size_bytes = sizeof(unsigned),                       \
        .values = (value_table), .count = ARRAY_SIZE(value_table)                                                      \
    }

#define SCHEMA_TYPE_ENUM_OF_MORE(qapi_name, value_table, elsewhere_table, text)                                        \
    {                                                                                                                  \
        .kind = SCHEMA_ENUM, .name = (qapi_name), .doc = (text), .size_bytes = sizeof(unsigned),                       \
        .values = (value_table), .count = ARRAY_SIZE(value_table), .elsewhere = (elsewhere_table)                      \
    }

/* qapi_name is "[<element>]". */
#define SCHEMA_TYPE_ARRAY(qapi_name, element_type)                                                                     \
    {                                                                                                                  \
        .kind = SCHEMA_ARRAY, .name = (qapi_name), .size_bytes = sizeof(SCHEMA_LIST(void)), .element = &(element_type) \
    }

/* Builtin types. */
extern const struct schema_type schema_str;
extern const struct schema_type schema_bool;
extern const struct schema_type schema_int; /* int64_t */
extern const struct schema_type schema_uint16;
extern const struct schema_type schema_uint32;
extern const struct schema_type schema_uint64;
extern const struct schema_type schema_size; /* uint64_t, up to INT64_MAX: offsets are off_t */
extern const struct schema_type schema_any;
extern const struct schema_type schema_str_list; /* SCHEMA_LIST(const char *) */

/* ---- To use them ---- */

/* How scalars are spelt: JSON types, or the strings of a command line ("on", "4k"). */
enum schema_form { SCHEMA_FORM_JSON, SCHEMA_FORM_KEYVAL };

/*
 * Decode json into *ret_value, which has type->size_bytes bytes. Unknown, missing, ill-typed and out-of-range members
 * are errors that name the member with its dotted path; duplicates are the lexer's to refuse. 0 or -EINVAL (-ENOMEM);
 * on an error nothing is left to free and *ret_value is zero.
 */
int schema_decode(const struct schema_type *type, const struct cJSON *json, enum schema_form form, void *ret_value,
                  struct error *err);

/* Free what a decoded value owns, not the value itself; it is zeroed. */
void schema_clear(const struct schema_type *type, void *value);

/* A cJSON tree that the caller owns; NULL: out of memory. */
struct cJSON *schema_encode(const struct schema_type *type, const void *value);

/* The name of an enum's value, NULL when out of range. */
const char *schema_enum_name(const struct schema_type *type, unsigned value);

/* Whether name is in a list of names that NULL ends; no list is an empty one. */
bool schema_name_in(const char *const *names, const char *name);

#endif
