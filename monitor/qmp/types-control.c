/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of the types of QEMU's qapi/control.json: the protocol itself and --monitor. */
#include "monitor/qmp/types.h"

static const struct schema_value qmp_capability_values[] = {
    [QMP_CAPABILITY_OOB] = { "oob", "Out-of-band commands; not offered, so enabling it is an error." },
};
static const struct schema_type schema_qmp_capability =
    SCHEMA_TYPE_ENUM("QMPCapability", qmp_capability_values, "Extensions of the protocol.");
static const struct schema_type schema_qmp_capability_list =
    SCHEMA_TYPE_ARRAY("[QMPCapability]", schema_qmp_capability);

static const struct schema_member qmp_capabilities_members[] = {
    SCHEMA_MEMBER_OPT(struct qmp_capabilities_args, enable, "enable", schema_qmp_capability_list,
                      "Capabilities to enable, of those that the greeting offers."),
};
const struct schema_type schema_qmp_capabilities_args = SCHEMA_TYPE_STRUCT(
    struct qmp_capabilities_args, "qmp_capabilities-arg", qmp_capabilities_members, "Arguments of qmp_capabilities.");

static const struct schema_member version_triple_members[] = {
    SCHEMA_MEMBER(struct version_triple, micro, "micro", schema_int, "The micro version."),
    SCHEMA_MEMBER(struct version_triple, minor, "minor", schema_int, "The minor version."),
    SCHEMA_MEMBER(struct version_triple, major, "major", schema_int, "The major version."),
};
static const struct schema_type schema_version_triple =
    SCHEMA_TYPE_STRUCT(struct version_triple, "VersionTriple", version_triple_members, "A version in three parts.");

static const struct schema_member version_info_members[] = {
    SCHEMA_MEMBER(struct version_info, qemu, "qemu", schema_version_triple,
                  "The QEMU version whose storage daemon's interface this is."),
    SCHEMA_MEMBER(struct version_info, package, "package", schema_str, "The program and its own version."),
};
const struct schema_type schema_version_info =
    SCHEMA_TYPE_STRUCT(struct version_info, "VersionInfo", version_info_members, "What is running.");

static const struct schema_member command_info_members[] = {
    SCHEMA_MEMBER(struct command_info, name, "name", schema_str, "The command's name."),
};
static const struct schema_type schema_command_info =
    SCHEMA_TYPE_STRUCT(struct command_info, "CommandInfo", command_info_members, "A command.");
const struct schema_type schema_command_info_list = SCHEMA_TYPE_ARRAY("[CommandInfo]", schema_command_info);

static const struct schema_value monitor_mode_values[] = {
    [MONITOR_MODE_READLINE] = { "readline", "QEMU's human monitor; bulkhead has none and refuses it." },
    [MONITOR_MODE_CONTROL] = { "control", "QMP." },
};
static const struct schema_type schema_monitor_mode =
    SCHEMA_TYPE_ENUM("MonitorMode", monitor_mode_values, "What is spoken on a monitor.");

static const struct schema_member monitor_options_members[] = {
    SCHEMA_MEMBER_OPT(struct monitor_options, id, "id", schema_str, "A name for the monitor."),
    SCHEMA_MEMBER_DEF(struct monitor_options, mode, "mode", schema_monitor_mode, "control", "What is spoken."),
    SCHEMA_MEMBER_DEF(struct monitor_options, pretty, "pretty", schema_bool, "off",
                      "Whether replies and events are indented for people to read."),
    SCHEMA_MEMBER(struct monitor_options, chardev, "chardev", schema_str, "The chardev that clients come through."),
};
const struct schema_type schema_monitor_options =
    SCHEMA_TYPE_STRUCT(struct monitor_options, "MonitorOptions", monitor_options_members,
                       "What --monitor takes; 'chardev=' may be left out.");
