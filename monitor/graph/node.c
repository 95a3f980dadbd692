/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nodes, their names and references; see node.h. Options come from QMP clients and have been decoded and checked; names
 * and depths are bounded here.
 */
#include "monitor/graph/node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

TAILQ_HEAD(node_list, graph_node);

struct graph {
    struct node_list nodes;
    uint64_t next_unnamed; /* for #blockNNN */
};

int graph_new(struct graph **ret_graph, struct error *err)
{
    struct graph *graph = calloc(1, sizeof(*graph));

    if (graph == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    TAILQ_INIT(&graph->nodes);
    *ret_graph = graph;
    return 0;
}

void graph_free(struct graph *graph)
{
    struct graph_node *node;

    if (graph == NULL)
        return;
    /* Named nodes hold all others; removing one may remove any number of others, so start over each time. */
    do {
        TAILQ_FOREACH(node, &graph->nodes, link) {
            if (node->named)
                break;
        }
        if (node != NULL) {
            node->named = false;
            graph_node_unref(node);
        }
    } while (node != NULL);
    free(graph);
}

struct graph_node *graph_find(const struct graph *graph, const char *name)
{
    struct graph_node *node;

    TAILQ_FOREACH(node, &graph->nodes, link) {
        if (strcmp(node->name, name) == 0)
            return node;
    }
    return NULL;
}

struct graph_node *graph_first(const struct graph *graph)
{
    return TAILQ_FIRST(&graph->nodes);
}

struct graph_node *graph_next(const struct graph_node *node)
{
    return TAILQ_NEXT(node, link);
}

struct graph_node *graph_node_ref(struct graph_node *node)
{
    node->refs++;
    return node;
}

void graph_node_unref(struct graph_node *node)
{
    while (node != NULL && --node->refs == 0) {
        struct graph_node *child = node->child;

        TAILQ_REMOVE(&node->graph->nodes, node, link);
        if (node->driver->close != NULL)
            node->driver->close(node);
        free(node);
        node = child;
    }
}

/* ---- Making nodes ---- */

/* Option, else what the node above has, else false. */
static bool inherit(bool given, bool value, const struct node_flags *above, bool above_value)
{
    return given ? value : above != NULL && above_value;
}

static struct node_flags flags_from_options(const struct blockdev_options *options, const struct node_flags *above)
{
    static const struct node_flags none;
    const struct node_flags *up = above != NULL ? above : &none;

    return (struct node_flags){
        .read_only = inherit(options->has_read_only, options->read_only, above, up->read_only),
        .auto_read_only = inherit(options->has_auto_read_only, options->auto_read_only, above, up->auto_read_only),
        .direct = inherit(options->cache.has_direct, options->cache.direct, above, up->direct),
        .no_flush = inherit(options->cache.has_no_flush, options->cache.no_flush, above, up->no_flush),
        .force_share = inherit(options->has_force_share, options->force_share, above, up->force_share),
        /* Below another node the one above decides, unless told otherwise. */
        .discard_unmap = options->has_discard ? options->discard == BLOCKDEV_DISCARD_UNMAP : above != NULL,
    };
}

static int choose_name(struct graph *graph, const char *wanted, char name[IPC_NODE_NAME_MAX], struct error *err)
{
    if (wanted == NULL) {
        snprintf(name, IPC_NODE_NAME_MAX, "#block%03llu", (unsigned long long)graph->next_unnamed++);
        return 0;
    }
    /* Clients cannot make names with '#', so that ours never collide. */
    if (!qmp_id_wellformed(wanted, IPC_NODE_NAME_MAX - 1))
        return error_set(err, -EINVAL, "'%.100s' is no well-formed node-name", wanted);
    if (graph_find(graph, wanted) != NULL)
        return error_set(err, -EEXIST, "there is already a node with node-name '%s'", wanted);
    snprintf(name, IPC_NODE_NAME_MAX, "%s", wanted);
    return 0;
}

static unsigned height(const struct graph_node *node)
{
    unsigned nodes = 0;

    for (; node != NULL; node = node->child)
        nodes++;
    return nodes;
}

static int open_driver(struct graph_node *node, const struct blockdev_options *options, struct error *err)
{
    int r = node->driver->open(node, options, err);

    if (r == 0 && height(node) > IPC_NODES_MAX) {
        if (node->driver->close != NULL)
            node->driver->close(node);
        r = error_set(err, -E2BIG, "more than %d nodes on top of each other", IPC_NODES_MAX);
    }
    return r;
}

static int node_new(struct graph *graph, const struct blockdev_options *options, const struct node_flags *above,
                    struct graph_node **ret_node, struct error *err)
{
    struct graph_node *node = calloc(1, sizeof(*node));
    int r;

    if (node == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    node->graph = graph;
    node->driver = node_driver_find(options->driver);
    node->flags = flags_from_options(options, above);
    r = choose_name(graph, options->node_name, node->name, err);
    if (r == 0 && node->flags.force_share && !node->flags.read_only)
        r = error_set(err, -EINVAL, "node '%s': force-share needs read-only", node->name);
    if (r == 0)
        r = open_driver(node, options, err);
    /* A node below may have been given the same name meanwhile. */
    if (r == 0 && graph_find(graph, node->name) != NULL) {
        if (node->driver->close != NULL)
            node->driver->close(node);
        r = error_set(err, -EEXIST, "node-name '%s' is given twice", node->name);
    }
    if (r < 0) {
        graph_node_unref(node->child);
        free(node);
        return r;
    }
    node->refs = 1;
    TAILQ_INSERT_HEAD(&graph->nodes, node, link);
    *ret_node = node;
    return 0;
}

int graph_node_open_child(struct graph_node *node, const struct blockdev_ref *ref, struct error *err)
{
    struct graph_node *child;

    if (ref->branch == BLOCKDEV_REF_DEFINITION)
        return node_new(node->graph, ref->definition, &node->flags, &node->child, err);
    child = graph_find(node->graph, ref->reference);
    if (child == NULL)
        return error_set(err, -ENOENT, "there is no node with node-name '%.100s'", ref->reference);
    node->child = graph_node_ref(child);
    return 0;
}

int graph_add(struct graph *graph, const struct blockdev_options *options, struct error *err)
{
    struct graph_node *node;
    int r;

    if (options->node_name == NULL)
        return error_set(err, -EINVAL, "member 'node-name' is missing: a node needs a name to be used by");
    r = node_new(graph, options, NULL, &node, err);
    if (r < 0)
        return r;
    node->named = true;
    return 0;
}

int graph_del(struct graph *graph, const char *name, struct error *err)
{
    struct graph_node *node = graph_find(graph, name);

    if (node == NULL)
        return error_set(err, -ENOENT, "there is no node with node-name '%.100s'", name);
    if (!node->named)
        return error_set(err, -EPERM, "node '%s' was made on the way by another node and goes away with it", name);
    if (node->refs > 1)
        return error_set(err, -EBUSY, "node '%s' is in use by an export or another node", name);
    graph_node_unref(node);
    return 0;
}

/* ---- Properties of a tree ---- */

int graph_node_size(const struct graph_node *node, uint64_t *ret_size_bytes, struct error *err)
{
    return node->driver->size(node, ret_size_bytes, err);
}

int graph_node_resize(struct graph_node *node, uint64_t size_bytes, struct error *err)
{
    if (node->driver->resize == NULL)
        return error_set(err, -ENOTSUP, "node '%s': the driver '%s' cannot be resized", node->name, node->driver->name);
    if (node->flags.read_only)
        return error_set(err, -EACCES, "node '%s' is read-only", node->name);
    if (size_bytes > INT64_MAX - 511)
        return error_set(err, -EFBIG, "node '%s': no image can be that large", node->name);
    return node->driver->resize(node, size_bytes, err);
}

bool graph_node_read_only(const struct graph_node *node)
{
    for (; node != NULL; node = node->child) {
        if (node->flags.read_only)
            return true;
    }
    return false;
}

struct image *graph_node_image(const struct graph_node *node)
{
    while (node->child != NULL)
        node = node->child;
    return node->image;
}

static int check_writable(const struct graph_node *node, struct error *err)
{
    for (const struct graph_node *below = node; below != NULL; below = below->child) {
        if (below->flags.read_only)
            return error_set(err, -EPERM, "node '%s' is read-only", below->name);
    }
    return 0;
}

int graph_node_use(struct graph_node *node, bool writable, struct error *err)
{
    struct image *image = graph_node_image(node);
    int r = writable ? check_writable(node, err) : 0;

    if (r == 0 && image != NULL)
        r = image_use(image, writable, err);
    if (r < 0)
        return r;
    graph_node_ref(node);
    return 0;
}

void graph_node_unuse(struct graph_node *node, bool writable)
{
    struct image *image = graph_node_image(node);

    if (image != NULL)
        image_unuse(image, writable);
    graph_node_unref(node);
}

int graph_node_begin_resize(struct graph_node *node, struct error *err)
{
    struct image *image = graph_node_image(node);

    if (image == NULL)
        return error_set(err, -ENOTSUP, "node '%s' has no image whose size could be changed", node->name);
    return image_begin_resize(image, err);
}

void graph_node_end_resize(struct graph_node *node)
{
    image_end_resize(graph_node_image(node));
}

/* ---- What BOOT says of a tree ---- */

static uint32_t row_flags(const struct graph_node *node, bool writable)
{
    return (node->flags.read_only || !writable ? IPC_NODE_READ_ONLY : 0) |
           (node->flags.discard_unmap ? IPC_NODE_DISCARD_UNMAP : 0) |
           (node->flags.direct ? IPC_NODE_CACHE_DIRECT : 0) | (node->flags.no_flush ? IPC_NODE_NO_FLUSH : 0);
}

static int add_image(const struct graph_node *node, bool writable, struct ipc_boot *boot, struct ipc_node *row,
                     int *fds, struct error *err)
{
    int r = image_open_for_worker(node->image, writable, &fds[boot->image_fd_count], err);

    if (r < 0)
        return r;
    row->fd_index = (int32_t)boot->image_fd_count++;
    boot->engine = node->engine;
    return 0;
}

/* The rows of node and of what is below it. Depth is bounded by IPC_NODES_MAX. */
static int add_rows(const struct graph_node *node, bool writable, struct ipc_boot *boot, int *fds, struct error *err)
{
    struct ipc_node *row;
    int r;

    if (node->child != NULL) {
        r = add_rows(node->child, writable, boot, fds, err);
        if (r < 0)
            return r;
    }
    row = &boot->nodes[boot->node_count];
    memset(row, 0, sizeof(*row));
    row->driver = node->driver->ipc_id;
    row->flags = row_flags(node, writable);
    row->fd_index = -1;
    row->child_index = node->child != NULL ? (int32_t)boot->node_count - 1 : -1;
    memcpy(row->name, node->name, sizeof(row->name));
    node->driver->describe(node, row);
    boot->node_count++;
    return node->image != NULL ? add_image(node, writable, boot, row, fds, err) : 0;
}

int graph_node_describe(const struct graph_node *node, bool writable, struct ipc_boot *boot,
                        int ret_fds[IPC_IMAGE_FDS_MAX], struct error *err)
{
    int r;

    boot->node_count = 0;
    boot->image_fd_count = 0;
    boot->engine = IPC_ENGINE_AUTO;
    r = add_rows(node, writable, boot, ret_fds, err);
    if (r < 0) {
        for (unsigned i = 0; i < boot->image_fd_count; i++)
            close_fd(&ret_fds[i]);
    }
    return r;
}
