/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about exports and the NBD server: thin, the work is in export.c and nbd-server.c. */
#include <errno.h>
#include <string.h>

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

void qmp_run_query_nbd_server(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    struct nbd_server_info info = nbd_server_get_info(monitor->nbd_server);

    qmp_reply_ok(reply, &info);
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

/* The deprecated commands: an NBD export whose id is its name. */
void qmp_run_nbd_server_add(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct nbd_server_add_args *add = args;
    const struct graph_node *node = graph_find(monitor->graph, add->device);
    const struct block_export_options options = {
        .type = BLOCK_EXPORT_TYPE_NBD,
        .id = add->name != NULL ? add->name : add->device,
        .node_name = add->device,
        /* Unlike block-export-add it exports a read-only node read-only, whatever was asked for. */
        .writable = add->writable && (node == NULL || !graph_node_read_only(node)),
        .nbd = { .name = add->name, .description = add->description },
    };
    struct error err = { 0 };

    if (add->bitmap != NULL) {
        error_set(&err, -EINVAL, "member 'bitmap' is not supported: there are no dirty bitmaps, leave it out");
        qmp_reply_error(reply, &err);
        return;
    }
    export_add(monitor->exports, &options, SOCKET_FD_NAMED, reply);
}

void qmp_run_nbd_server_remove(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct nbd_server_remove_args *remove = args;
    const struct export *export;
    struct error err = { 0 };

    for (export = export_set_first(monitor->exports); export != NULL; export = export_next(export)) {
        if (strcmp(export->id, remove->name) != 0 || export->type->id == BLOCK_EXPORT_TYPE_NBD)
            continue;
        error_set(&err, -EINVAL, "export '%s' is not of type nbd; block-export-del removes it", export->id);
        qmp_reply_error(reply, &err);
        return;
    }
    export_del(monitor->exports, remove->name, remove->mode, reply);
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
            .shutting_down = export->state == EXPORT_DRAINING || export->hidden,
        };
    }
    qmp_reply_ok(reply, &list);
    free(list.items);
}
