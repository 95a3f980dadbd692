/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about exports and the NBD server: thin, the work is in export.c and nbd-server.c. */
#include <errno.h>

#include "monitor/export/export.h"
#include "monitor/export/nbd-server.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"
#include "monitor/qmp/commands.h"

void qmp_run_nbd_server_start(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    nbd_server_start(monitor->nbd_server, args, SOCKET_FD_NAMED, reply);
}

void qmp_run_nbd_server_stop(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    nbd_server_stop(monitor->nbd_server, reply);
}

void qmp_run_block_export_add(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    export_add(monitor->exports, args, SOCKET_FD_NAMED, reply);
}

void qmp_run_block_export_del(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct block_export_del_args *del = args;

    export_del(monitor->exports, del->id, del->mode, reply);
}

void qmp_run_query_block_exports(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    struct block_export_info_list list = { 0 };
    const struct export *export;
    size_t count = 0;

    for (export = export_set_first(monitor->exports); export != NULL; export = export_next(export))
        count++;
    list.items = calloc(count + 1, sizeof(*list.items));
    if (list.items == NULL) {
        qmp_reply_error(reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
        return;
    }
    for (export = export_set_first(monitor->exports); export != NULL; export = export_next(export)) {
        if (export->add_reply != NULL) /* for clients there is none before the reply to block-export-add */
            continue;
        list.items[list.count++] = (struct block_export_info){
            .id = export->id,
            .type = export->type->id,
            .node_name = export->node->name,
            .shutting_down = export->state == EXPORT_DRAINING,
        };
    }
    qmp_reply_ok(reply, &list);
    free(list.items);
}
