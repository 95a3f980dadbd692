/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of the types of QEMU's qapi/introspect.json. */
#include "monitor/qmp/introspect.h"

static const struct schema_value json_type_values[] = {
    [JSON_TYPE_STRING] = { "string", "A string." },
    [JSON_TYPE_NUMBER] = { "number", "A number." },
    [JSON_TYPE_INT] = { "int", "A number without fraction." },
    [JSON_TYPE_BOOLEAN] = { "boolean", "true or false." },
    [JSON_TYPE_NULL] = { "null", "null." },
    [JSON_TYPE_OBJECT] = { "object", "An object." },
    [JSON_TYPE_ARRAY] = { "array", "An array." },
    [JSON_TYPE_VALUE] = { "value", "Any value." },
};
static const struct schema_type schema_json_type =
    SCHEMA_TYPE_ENUM("JSONType", json_type_values, "Types of JSON, with int split off from number.");

static const struct schema_value meta_type_values[] = {
    [SCHEMA_META_BUILTIN] = { "builtin", "A type that is predefined." },
    [SCHEMA_META_ENUM] = { "enum", "A string out of a list." },
    [SCHEMA_META_ARRAY] = { "array", "An array." },
    [SCHEMA_META_OBJECT] = { "object", "An object, whose members may depend on one of them." },
    [SCHEMA_META_ALTERNATE] = { "alternate", "One of several types that JSON tells apart." },
    [SCHEMA_META_COMMAND] = { "command", "A command." },
    [SCHEMA_META_EVENT] = { "event", "An event." },
};
static const struct schema_type schema_meta_type =
    SCHEMA_TYPE_ENUM("SchemaMetaType", meta_type_values, "Kinds of things that the schema describes.");

#define FEATURES_DOC "Special features, for example 'deprecated'."

static const struct schema_member builtin_members[] = {
    SCHEMA_MEMBER(struct schema_info, builtin.json_type, "json-type", schema_json_type, "The type in JSON."),
};
static const struct schema_type schema_info_builtin =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoBuiltin", builtin_members, "A predefined type.");

static const struct schema_member enum_member_members[] = {
    SCHEMA_MEMBER(struct schema_info_enum_member, name, "name", schema_str, "The value."),
};
static const struct schema_type schema_enum_member = SCHEMA_TYPE_STRUCT(
    struct schema_info_enum_member, "SchemaInfoEnumMember", enum_member_members, "A value of an enum.");
static const struct schema_type schema_enum_member_list =
    SCHEMA_TYPE_ARRAY("[SchemaInfoEnumMember]", schema_enum_member);

static const struct schema_member enum_members[] = {
    SCHEMA_MEMBER(struct schema_info, enum_.members, "members", schema_enum_member_list, "The values."),
    { .name = "values",
      .type = &schema_str_list,
      .offset = offsetof(struct schema_info, enum_.values),
      .has_offset = SCHEMA_NO_HAS,
      .flags = SCHEMA_DEPRECATED,
      .doc = "The values, in an older form." },
};
static const struct schema_type schema_info_enum =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoEnum", enum_members, "An enum.");

static const struct schema_member array_members[] = {
    SCHEMA_MEMBER(struct schema_info, array.element_type, "element-type", schema_str, "The type of its elements."),
};
static const struct schema_type schema_info_array =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoArray", array_members, "An array.");

static const struct schema_member object_member_members[] = {
    SCHEMA_MEMBER(struct schema_info_object_member, name, "name", schema_str, "The member's name."),
    SCHEMA_MEMBER(struct schema_info_object_member, type, "type", schema_str, "The member's type."),
    SCHEMA_MEMBER_OPT(struct schema_info_object_member, default_value, "default", schema_any,
                      "null if the member is optional."),
    SCHEMA_MEMBER_OPT(struct schema_info_object_member, features, "features", schema_str_list, FEATURES_DOC),
};
static const struct schema_type schema_object_member = SCHEMA_TYPE_STRUCT(
    struct schema_info_object_member, "SchemaInfoObjectMember", object_member_members, "A member of an object.");
static const struct schema_type schema_object_member_list =
    SCHEMA_TYPE_ARRAY("[SchemaInfoObjectMember]", schema_object_member);

static const struct schema_member object_variant_members[] = {
    SCHEMA_MEMBER(struct schema_info_object_variant, case_, "case", schema_str, "A value of the tag."),
    SCHEMA_MEMBER(struct schema_info_object_variant, type, "type", schema_str,
                  "The type whose members the object has then."),
};
static const struct schema_type schema_object_variant =
    SCHEMA_TYPE_STRUCT(struct schema_info_object_variant, "SchemaInfoObjectVariant", object_variant_members,
                       "Members that an object has for one value of its tag.");
static const struct schema_type schema_object_variant_list =
    SCHEMA_TYPE_ARRAY("[SchemaInfoObjectVariant]", schema_object_variant);

static const struct schema_member object_members[] = {
    SCHEMA_MEMBER(struct schema_info, object.members, "members", schema_object_member_list,
                  "Members that it always has."),
    SCHEMA_MEMBER_OPT(struct schema_info, object.tag, "tag", schema_str, "The member on which others depend."),
    SCHEMA_MEMBER_OPT(struct schema_info, object.variants, "variants", schema_object_variant_list,
                      "The members that depend on the tag."),
};
static const struct schema_type schema_info_object =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoObject", object_members, "An object.");

static const struct schema_member alternate_member_members[] = {
    SCHEMA_MEMBER(struct schema_info_alternate_member, type, "type", schema_str, "One of the types."),
};
static const struct schema_type schema_alternate_member =
    SCHEMA_TYPE_STRUCT(struct schema_info_alternate_member, "SchemaInfoAlternateMember", alternate_member_members,
                       "A type that an alternate may have.");
static const struct schema_type schema_alternate_member_list =
    SCHEMA_TYPE_ARRAY("[SchemaInfoAlternateMember]", schema_alternate_member);

static const struct schema_member alternate_members[] = {
    SCHEMA_MEMBER(struct schema_info, alternate.members, "members", schema_alternate_member_list, "The types."),
};
static const struct schema_type schema_info_alternate =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoAlternate", alternate_members, "An alternate.");

static const struct schema_member command_members[] = {
    SCHEMA_MEMBER(struct schema_info, command.arg_type, "arg-type", schema_str, "The type of its arguments."),
    SCHEMA_MEMBER(struct schema_info, command.ret_type, "ret-type", schema_str, "The type of what it returns."),
};
static const struct schema_type schema_info_command =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoCommand", command_members, "A command.");

static const struct schema_member event_members[] = {
    SCHEMA_MEMBER(struct schema_info, event.arg_type, "arg-type", schema_str, "The type of its data."),
};
static const struct schema_type schema_info_event =
    SCHEMA_TYPE_STRUCT(struct schema_info, "SchemaInfoEvent", event_members, "An event.");

static const struct schema_member info_members[] = {
    SCHEMA_MEMBER(struct schema_info, name, "name", schema_str, "The thing's name."),
    SCHEMA_MEMBER(struct schema_info, meta_type, "meta-type", schema_meta_type, "What kind of thing it is."),
    SCHEMA_MEMBER_OPT(struct schema_info, features, "features", schema_str_list, FEATURES_DOC),
};
static const struct schema_variant info_variants[] = {
    [SCHEMA_META_BUILTIN] = { &schema_info_builtin },     [SCHEMA_META_ENUM] = { &schema_info_enum },
    [SCHEMA_META_ARRAY] = { &schema_info_array },         [SCHEMA_META_OBJECT] = { &schema_info_object },
    [SCHEMA_META_ALTERNATE] = { &schema_info_alternate }, [SCHEMA_META_COMMAND] = { &schema_info_command },
    [SCHEMA_META_EVENT] = { &schema_info_event },
};
static const struct schema_type schema_schema_info = SCHEMA_TYPE_UNION(
    struct schema_info, "SchemaInfo", meta_type, info_members, info_variants, "A command, an event or a type.");
const struct schema_type schema_schema_info_list = SCHEMA_TYPE_ARRAY("[SchemaInfo]", schema_schema_info);
