/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about nodes: thin, the work is in node.c. Arguments are decoded; what clients ask for is hostile. */
#include <errno.h>

#include "monitor/export/export.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"
#include "monitor/qmp/commands.h"

static void answer(struct qmp_reply *reply, int r, const struct error *err)
{
    if (r < 0)
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
        r = graph_add(monitor->graph, options, &err);
    answer(reply, r, &err);
}

void qmp_run_blockdev_del(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct blockdev_del_args *del = args;
    struct error err = { 0 };
    int r = graph_del(monitor->graph, del->node_name, &err);

    answer(reply, r, &err);
}

/* QEMU's "device" is the name of a block backend, of which there are none. */
void qmp_run_block_resize(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    const struct block_resize_args *resize = args;
    struct graph_node *node = NULL;
    struct error err = { 0 };
    int r = 0;

    if ((resize->device != NULL) == (resize->node_name != NULL))
        r = error_set(&err, -EINVAL, "give 'node-name'");
    else if (resize->device != NULL)
        r = error_set(&err, -ENODEV, "there is no device '%.100s'; nodes are named by 'node-name'", resize->device);
    else if ((node = graph_find(monitor->graph, resize->node_name)) == NULL)
        r = error_set(&err, -ENOENT, "there is no node with node-name '%.100s'", resize->node_name);
    if (r == 0)
        r = graph_node_resize(node, resize->size, &err);
    if (r == 0)
        export_set_node_resized(monitor->exports, node, NULL);
    answer(reply, r, &err);
}

/* A device that is gone has no size; that must not hide the other nodes. */
static void fill_info(const struct graph_node *node, struct block_device_info *info)
{
    const struct image *image = graph_node_image(node);
    uint64_t allocated = 0;
    uint64_t size = 0;

    graph_node_size(node, &size, NULL);
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
        .has_actual_size = image != NULL && image_allocated(image, &allocated),
        .virtual_size = (int64_t)size,
    };
    info->image.actual_size = (int64_t)allocated;
}

static size_t count_nodes(const struct graph *graph)
{
    size_t count = 0;

    for (const struct graph_node *node = graph_first(graph); node != NULL; node = graph_next(node))
        count++;
    return count;
}

void qmp_run_query_named_block_nodes(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    struct block_device_info_list list = { .items = calloc(count_nodes(monitor->graph) + 1, sizeof(*list.items)) };

    if (list.items == NULL) {
        qmp_reply_error(reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
        return;
    }
    for (const struct graph_node *node = graph_first(monitor->graph); node != NULL; node = graph_next(node))
        fill_info(node, &list.items[list.count++]);
    qmp_reply_ok(reply, &list);
    free(list.items);
}
