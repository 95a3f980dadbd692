/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All QMP commands and events. The list is data: it makes the command table (commands.c), feeds query-commands and
 * query-qmp-schema, and prints the reference page. To add a command: its types in types.h and types-*.c, a row here,
 * and a handler qmp_run_<c name>() in the folder whose business it is.
 */
#ifndef BULKHEAD_MONITOR_QMP_COMMANDS_H
#define BULKHEAD_MONITOR_QMP_COMMANDS_H

#include "monitor/qmp/qmp.h"
#include "monitor/qmp/types.h"

/* X(name, c name, arguments, result, flags, documentation) */
#define QMP_COMMANDS(X)                                                                                                \
    X("qmp_capabilities", qmp_capabilities, &schema_qmp_capabilities_args, NULL, QMP_COMMAND_PRECONFIG,                \
      "Ends the negotiation that each session starts with; before it, no other command is taken.")                     \
    X("query-version", query_version, NULL, &schema_version_info, 0,                                                   \
      "Tells which version this is, and whose interface it has.")                                                      \
    X("query-commands", query_commands, NULL, &schema_command_info_list, 0, "Lists all commands.")                     \
    X("query-qmp-schema", query_qmp_schema, NULL, &schema_schema_info_list, 0,                                         \
      "Describes all commands, events and types for programs.")                                                        \
    X("quit", quit, NULL, NULL, 0,                                                                                     \
      "Ends all exports in order and the program; the events of the exports come before the reply.")                   \
    X("blockdev-add", blockdev_add, &schema_blockdev_options, NULL, 0, "Makes a block node, which needs a node-name.") \
    X("blockdev-del", blockdev_del, &schema_blockdev_del_args, NULL, 0, "Removes a block node that nothing uses.")     \
    X("block_resize", block_resize, &schema_block_resize_args, NULL, 0,                                                \
      "Makes a node larger or smaller, with its image; virtual machines that use it are told.")                        \
    X("query-named-block-nodes", query_named_block_nodes, &schema_query_named_block_nodes_args,                        \
      &schema_block_device_info_list, 0, "Lists all block nodes.")                                                     \
    X("nbd-server-start", nbd_server_start, &schema_nbd_server_start_args, NULL, 0,                                    \
      "Starts to listen for NBD clients; there is one NBD server.")                                                    \
    X("nbd-server-stop", nbd_server_stop, NULL, NULL, 0,                                                               \
      "Stops listening for NBD clients and removes all NBD exports, whoever is connected.")                            \
    X("nbd-server-add", nbd_server_add, &schema_nbd_server_add_args, NULL, QMP_COMMAND_DEPRECATED,                     \
      "Exports a node over NBD; use block-export-add.")                                                                \
    X("nbd-server-remove", nbd_server_remove, &schema_nbd_server_remove_args, NULL, QMP_COMMAND_DEPRECATED,            \
      "Removes an NBD export; use block-export-del.")                                                                  \
    X("block-export-add", block_export_add, &schema_block_export_options, NULL, 0,                                     \
      "Exports a block node; answers when clients can be served.")                                                     \
    X("block-export-del", block_export_del, &schema_block_export_del_args, NULL, 0,                                    \
      "Removes an export; BLOCK_EXPORT_DELETED tells when it is gone.")                                                \
    X("query-block-exports", query_block_exports, NULL, &schema_block_export_info_list, 0, "Lists all exports.")       \
    X("object-add", object_add, &schema_object_options, NULL, 0,                                                       \
      "Makes an object: a secret, credentials for TLS, or a list of who is let in.")                                   \
    X("object-del", object_del, &schema_object_del_args, NULL, 0,                                                      \
      "Removes an object; who uses it already, as the NBD server its credentials, keeps what it was.")                 \
    X("qom-list", qom_list, &schema_qom_list_args, &schema_object_property_info_list, 0,                               \
      "Lists what is at a path: /, /objects, or /objects/ID.")                                                         \
    X("__org.bulkhead_query-nbd-server", query_nbd_server, NULL, &schema_nbd_server_info, 0,                           \
      "Tells how many NBD clients there are, may be, and were turned away.")                                           \
    X("__org.bulkhead_query-workers", query_workers, NULL, &schema_worker_info_list, 0,                                \
      "Lists all worker processes with what confines them and what they hold.")

#define QMP_DECLARE_HANDLER(name, c_name, args, ret, flags, doc)                                                       \
    void qmp_run_##c_name(struct monitor *monitor, const void *args_value, struct qmp_reply *reply);
QMP_COMMANDS(QMP_DECLARE_HANDLER)

/* commands.c: every handler must be linked in. */
extern const struct qmp_command qmp_commands[];
extern const unsigned qmp_command_count;

struct qmp_event {
    const char *name;
    const struct schema_type *type; /* NULL: no data */
    const char *doc;                /* one sentence */
};

extern const struct qmp_event qmp_events[];
extern const unsigned qmp_event_count;

#endif
