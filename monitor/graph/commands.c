/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about nodes: thin, the work is in node.c. Arguments are decoded; what clients ask for is hostile. */
#include <errno.h>

#include "monitor/export/export.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"
#include "monitor/qmp/commands.h"

/* For all images together to be looked at, before a query is answered with what was known of them. */
#define QUERY_MS 40

static void answer(void *opaque, const struct error *err)
{
    struct qmp_reply *reply = opaque;

    if (err != NULL)
        qmp_reply_error(reply, err);
    else
        qmp_reply_ok(reply, NULL);
}

void qmp_run_blockdev_add(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct blockdev_options *options = args;
    struct error err = { 0 };
    int r = blockdev_options_check(options, &err);

    if (r == 0)
        r = monitor_check_running(monitor, &err);
    if (r < 0)
        answer(reply, &err);
    else
        graph_add(monitor->graph, options, answer, reply);
}

void qmp_run_blockdev_del(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct blockdev_del_args *del = args;

    graph_del(monitor->graph, del->node_name, answer, reply);
}

/* ---- block_resize ---- */

struct resizing {
    struct monitor *monitor;
    struct graph_node *node;
    struct qmp_reply *reply;
};

static void resized(void *opaque, const struct error *err)
{
    struct resizing resizing = *(struct resizing *)opaque;

    free(opaque);
    if (err == NULL)
        export_set_node_resized(resizing.monitor->exports, resizing.node, NULL);
    answer(resizing.reply, err);
}

static int find_to_resize(struct monitor *monitor, const struct block_resize_args *resize, struct graph_node **ret_node,
                          struct error *err)
{
    int r;

    /* QEMU's "device" is the name of a block backend, of which there are none. */
    if ((resize->device != NULL) == (resize->node_name != NULL))
        return error_set(err, -EINVAL, "Cannot find device='' nor node-name='': give 'node-name', and no 'device'");
    if (resize->device != NULL)
        return error_set(err, -ENODEV, "Cannot find device='%.100s' nor node-name='': nodes are named by 'node-name'",
                         resize->device);
    r = graph_look_up(monitor->graph, resize->node_name, ret_node, err);
    return r < 0 ? r : export_set_check_lost(monitor->exports, *ret_node, err);
}

void qmp_run_block_resize(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct block_resize_args *resize = args;
    struct resizing *resizing = calloc(1, sizeof(*resizing));
    struct graph_node *node = NULL;
    struct error err = { 0 };
    int r = resizing == NULL ? error_set(&err, -ENOMEM, "out of memory") : find_to_resize(monitor, resize, &node, &err);

    if (r < 0) {
        free(resizing);
        answer(reply, &err);
        return;
    }
    *resizing = (struct resizing){ monitor, node, reply };
    graph_node_resize(node, resize->size, resized, resizing);
}

/* ---- query-named-block-nodes ---- */

static void fill_info(const struct graph_node *node, struct block_device_info *info)
{
    const struct image *image = graph_node_image(node);

    *info = (struct block_device_info){
        .file = image != NULL ? image->filename : "null-co://",
        .node_name = node->name,
        .ro = node->flags.read_only,
        .drv = node->driver->name,
        .active = true,
        .cache = { .writeback = true, .direct = node->flags.direct, .no_flush = node->flags.no_flush },
    };
    info->image = (struct image_info){
        .filename = info->file,
        .format = node->driver->name,
        .has_actual_size = image != NULL && image->has_allocated,
        .actual_size = image != NULL ? (int64_t)image->allocated_bytes : 0,
        .virtual_size = (int64_t)graph_node_size(node),
    };
}

static size_t count_nodes(const struct graph *graph)
{
    size_t count = 0;

    for (const struct graph_node *node = graph_first(graph); node != NULL; node = graph_next(node))
        count++;
    return count;
}

struct nodes_query {
    struct monitor *monitor;
    struct qmp_reply *reply;
};

static void answer_query(void *opaque)
{
    struct nodes_query query = *(struct nodes_query *)opaque;
    const struct graph *graph = query.monitor->graph;
    struct block_device_info_list list = { .items = calloc(count_nodes(graph) + 1, sizeof(*list.items)) };

    free(opaque);
    if (list.items == NULL) {
        qmp_reply_error(query.reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
        return;
    }
    for (const struct graph_node *node = graph_first(graph); node != NULL; node = graph_next(node))
        fill_info(node, &list.items[list.count++]);
    qmp_reply_ok(query.reply, &list);
    free(list.items);
}

void qmp_run_query_named_block_nodes(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    struct nodes_query *query = malloc(sizeof(*query));

    if (query == NULL) {
        qmp_reply_error(reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
        return;
    }
    *query = (struct nodes_query){ monitor, reply };
    graph_refresh(monitor->graph, QUERY_MS, answer_query, query);
}
