/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nodes, their names and references; see node.h. Options come from QMP clients and have been decoded and checked; names
 * and depths are bounded here.
 */
#include "monitor/graph/node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"

TAILQ_HEAD(node_list, graph_node);

/* An operation that somebody waits for. */
struct waiting {
    LIST_ENTRY(waiting) link;
    struct graph_node *node; /* referred to; NULL: it is gone already */
    struct image *image;     /* that it waits for; NULL: it is gone */
    graph_done_fn *done;
    void *opaque;
    struct error failure; /* it is to be told when all is closed */
};
LIST_HEAD(waiting_list, waiting);

struct graph {
    struct monitor *monitor;
    struct node_list nodes;
    struct waiting_list waiting;
    uint64_t next_unnamed; /* for #blockNNN */
};

int graph_new(struct monitor *monitor, struct graph **ret_graph, struct error *err)
{
    struct graph *graph = calloc(1, sizeof(*graph));

    if (graph == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    graph->monitor = monitor;
    TAILQ_INIT(&graph->nodes);
    LIST_INIT(&graph->waiting);
    *ret_graph = graph;
    return 0;
}

/* ---- Waiting ---- */

static struct waiting *wait_new(struct graph *graph, struct graph_node *node, graph_done_fn *done, void *opaque)
{
    struct waiting *waiting = calloc(1, sizeof(*waiting));

    if (waiting == NULL)
        return NULL;
    waiting->node = node;
    waiting->image = node != NULL ? graph_node_image(node) : NULL;
    waiting->done = done;
    waiting->opaque = opaque;
    LIST_INSERT_HEAD(&graph->waiting, waiting, link);
    return waiting;
}

/* Answer whoever waits, and forget that he did. */
static void wait_over(struct waiting *waiting, const struct error *err)
{
    struct waiting own = *waiting;
    struct error failure = err != NULL ? *err : (struct error){ 0 }; /* which may be the one in waiting */

    LIST_REMOVE(waiting, link);
    free(waiting);
    own.done(own.opaque, err != NULL ? &failure : NULL);
}

static void out_of_memory(graph_done_fn *done, void *opaque)
{
    done(opaque, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
}

/* ---- The end ---- */

/* Nothing of what is under way comes to an end any more. */
static void end_waiting(struct graph *graph)
{
    static const struct error err = { .code = -ESHUTDOWN, .text = "the program ends" };
    struct waiting *waiting;

    while ((waiting = LIST_FIRST(&graph->waiting)) != NULL) {
        struct graph_node *node = waiting->node;

        if (waiting->image != NULL) {
            image_forget(waiting->image, waiting);
            image_notify_closed(waiting->image, NULL, NULL);
        }
        wait_over(waiting, &err);
        graph_node_unref(node);
    }
}

void graph_free(struct graph *graph)
{
    struct graph_node *node;

    if (graph == NULL)
        return;
    end_waiting(graph);
    /* Named nodes hold all others; removing one may remove any number of others, so start over each time. */
    do {
        TAILQ_FOREACH(node, &graph->nodes, link)
        {
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

/* ---- Names ---- */

static struct graph_node *find_any(const struct graph *graph, const char *name)
{
    struct graph_node *node;

    TAILQ_FOREACH(node, &graph->nodes, link)
    {
        if (strcmp(node->name, name) == 0)
            return node;
    }
    return NULL;
}

struct graph_node *graph_find(const struct graph *graph, const char *name)
{
    struct graph_node *node = find_any(graph, name);

    return node != NULL && !node->opening ? node : NULL;
}

int graph_look_up(const struct graph *graph, const char *name, struct graph_node **ret_node, struct error *err)
{
    struct graph_node *node = find_any(graph, name);

    if (node == NULL)
        return error_set(err, -ENOENT, "Failed to find node with node-name='%.100s': Cannot find device='' nor node-name='%.100s'", name, name);
    if (node->opening)
        return error_set(err, -EBUSY, "node '%s' is still being opened", name);
    *ret_node = node;
    return 0;
}

static struct graph_node *skip_opening(struct graph_node *node)
{
    while (node != NULL && node->opening)
        node = TAILQ_NEXT(node, link);
    return node;
}

struct graph_node *graph_first(const struct graph *graph)
{
    return skip_opening(TAILQ_FIRST(&graph->nodes));
}

struct graph_node *graph_next(const struct graph_node *node)
{
    return skip_opening(TAILQ_NEXT(node, link));
}

/* ---- References ---- */

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

struct monitor *graph_node_monitor(const struct graph_node *node)
{
    return node->graph->monitor;
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
        return error_set(err, -EINVAL, "Invalid node-name: '%.100s'", wanted);
    if (find_any(graph, wanted) != NULL)
        return error_set(err, -EEXIST, "Duplicate nodes with node-name='%s'", wanted);
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
    if (r == 0 && find_any(graph, node->name) != NULL) {
        if (node->driver->close != NULL)
            node->driver->close(node);
        r = error_set(err, -EEXIST, "Duplicate nodes with node-name='%s'", node->name);
    }
    if (r < 0) {
        graph_node_unref(node->child);
        free(node);
        return r;
    }
    node->refs = 1;
    node->opening = true;
    TAILQ_INSERT_HEAD(&graph->nodes, node, link);
    *ret_node = node;
    return 0;
}

int graph_node_open_child(struct graph_node *node, const struct blockdev_ref *ref, struct error *err)
{
    struct graph_node *child;
    int r;

    if (ref->branch == BLOCKDEV_REF_DEFINITION)
        return node_new(node->graph, ref->definition, &node->flags, &node->child, err);
    r = graph_look_up(node->graph, ref->reference, &child, err);
    if (r == -ENOENT)
        error_set(err, r, "Cannot find device='%.100s' nor node-name='%.100s'", ref->reference, ref->reference);
    if (r == 0)
        node->child = graph_node_ref(child);
    return r;
}

/* The image is open. From the bottom up, since a node looks at the size of the one below. */
static int check_opened(struct graph_node *node, struct error *err)
{
    int r = node->child != NULL && node->child->opening ? check_opened(node->child, err) : 0;

    return r == 0 && node->driver->check != NULL ? node->driver->check(node, err) : r;
}

static void image_is_closed(void *opaque, bool closed)
{
    struct waiting *waiting = opaque;

    wait_over(waiting, waiting->failure.code != 0 ? &waiting->failure : NULL);
}

/* Whether nothing but node holds the image below it. */
static bool holds_image_alone(const struct graph_node *node)
{
    for (; node != NULL && node->refs == 1; node = node->child) {
        if (node->image != NULL)
            return true;
    }
    return false;
}

/* Let go of the node; what goes with it has gone when whoever waits hears of it. */
static void unref_and_answer(struct waiting *waiting)
{
    struct graph_node *node = TAKE_PTR(waiting->node);
    struct image *image = TAKE_PTR(waiting->image);

    if (holds_image_alone(node)) {
        waiting->image = NULL;
        image_notify_closed(image, image_is_closed, waiting);
        graph_node_unref(node);
    } else {
        graph_node_unref(node);
        image_is_closed(waiting, true);
    }
}

static void make_usable(struct graph_node *node)
{
    for (; node != NULL && node->opening; node = node->child)
        node->opening = false;
}

/* err: its image could not be opened, or looked at. */
static void add_opened(void *opaque, const struct error *err)
{
    struct waiting *waiting = opaque;

    if (err != NULL)
        waiting->failure = *err;
    else
        check_opened(waiting->node, &waiting->failure);
    if (waiting->failure.code != 0) {
        unref_and_answer(waiting);
        return;
    }
    make_usable(waiting->node);
    waiting->node->named = true;
    wait_over(waiting, NULL);
}

static void open_image(struct waiting *waiting)
{
    struct image *image = waiting->image;
    struct error err = { 0 };
    int r;

    if (image == NULL) {
        add_opened(waiting, NULL);
        return;
    }
    if (image->open) /* a node that is there already refers to it: what size has it now? */
        r = image_refresh(image, OPENER_DEADLINE_MS, add_opened, waiting, &err);
    else
        r = image_open(image, add_opened, waiting, &err);
    if (r < 0)
        add_opened(waiting, &err);
}

void graph_add(struct graph *graph, const struct blockdev_options *options, graph_done_fn *done, void *opaque)
{
    struct graph_node *node = NULL;
    struct waiting *waiting = NULL;
    struct error err = { 0 };
    int r = 0;

    if (options->node_name == NULL)
        r = error_set(&err, -EINVAL, "'node-name' must be specified for the root node, which is used by it");
    if (r == 0)
        r = node_new(graph, options, NULL, &node, &err);
    if (r == 0 && (waiting = wait_new(graph, node, done, opaque)) == NULL) {
        graph_node_unref(node);
        r = error_set(&err, -ENOMEM, "out of memory");
    }
    if (r < 0)
        done(opaque, &err);
    else
        open_image(waiting);
}

static int check_del(const struct graph_node *node, struct error *err)
{
    if (!node->named)
        return error_set(err, -EPERM, "node '%s' was made on the way by another node and goes away with it",
                         node->name);
    if (node->refs > 1)
        return error_set(err, -EBUSY, "Node %s is in use by an export or another node", node->name);
    return 0;
}

void graph_del(struct graph *graph, const char *name, graph_done_fn *done, void *opaque)
{
    struct graph_node *node = NULL;
    struct waiting *waiting = NULL;
    struct error err = { 0 };
    int r = graph_look_up(graph, name, &node, &err);

    if (r == 0)
        r = check_del(node, &err);
    if (r == 0 && (waiting = wait_new(graph, node, done, opaque)) == NULL)
        r = error_set(&err, -ENOMEM, "out of memory");
    if (r < 0)
        done(opaque, &err);
    else
        unref_and_answer(waiting);
}

/* ---- Sizes ---- */

uint64_t graph_node_size(const struct graph_node *node)
{
    return node->driver->size(node);
}

/* Those who wait for a number of images. */
struct refresh {
    unsigned pending;
    void (*done)(void *opaque);
    void *opaque;
};

static void refreshed(void *opaque)
{
    struct refresh *refresh = opaque;
    struct refresh own = *refresh;

    if (--refresh->pending > 0)
        return;
    free(refresh);
    own.done(own.opaque);
}

/* A device that is gone has no size; that must not hide the other nodes. */
static void image_refreshed(void *opaque, const struct error *err)
{
    if (err != NULL)
        log_debug("%s", err->text);
    refreshed(opaque);
}

void graph_refresh(struct graph *graph, unsigned timeout_ms, void (*done)(void *opaque), void *opaque)
{
    struct refresh *refresh = calloc(1, sizeof(*refresh));

    if (refresh == NULL) {
        done(opaque);
        return;
    }
    *refresh = (struct refresh){ .pending = 1, .done = done, .opaque = opaque };
    for (struct graph_node *node = graph_first(graph); node != NULL; node = graph_next(node)) {
        if (node->image != NULL && !image_is_late(node->image) &&
            image_refresh(node->image, timeout_ms, image_refreshed, refresh, NULL) == 0)
            refresh->pending++;
    }
    refreshed(refresh);
}

/* The size that the image below node must have. */
static int find_image_size(const struct graph_node *node, uint64_t size_bytes, uint64_t *ret_image_bytes,
                           struct error *err)
{
    int r;

    if (node->flags.read_only)
        return error_set(err, -EACCES, "Image is read-only: node '%s'", node->name);
    if (node->driver->size_below == NULL)
        return error_set(err, -ENOTSUP, "node '%s': the driver '%s' cannot be resized", node->name, node->driver->name);
    if (size_bytes > INT64_MAX - 511)
        return error_set(err, -EFBIG, "node '%s': no image can be that large", node->name);
    r = node->driver->size_below(node, size_bytes, &size_bytes, err);
    if (r < 0 || node->child != NULL)
        return r < 0 ? r : find_image_size(node->child, size_bytes, ret_image_bytes, err);
    *ret_image_bytes = size_bytes;
    return 0;
}

static void image_resized(void *opaque, const struct error *err)
{
    struct waiting *waiting = opaque;
    struct graph_node *node = waiting->node;

    wait_over(waiting, err);
    graph_node_unref(node);
}

void graph_node_resize(struct graph_node *node, uint64_t size_bytes, graph_done_fn *done, void *opaque)
{
    struct waiting *waiting;
    struct error err = { 0 };
    int r = find_image_size(node, size_bytes, &size_bytes, &err);

    if (r < 0) {
        done(opaque, &err);
        return;
    }
    waiting = wait_new(node->graph, node, done, opaque);
    if (waiting == NULL) {
        out_of_memory(done, opaque);
        return;
    }
    graph_node_ref(node);
    r = image_resize(waiting->image, size_bytes, image_resized, waiting, &err);
    if (r < 0)
        image_resized(waiting, &err);
}

/* ---- Properties of a tree ---- */

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
            return error_set(err, -EPERM, "Cannot export read-only node as writable: node '%s'", below->name);
    }
    return 0;
}

int graph_node_check_use(const struct graph_node *node, bool writable, struct error *err)
{
    return writable ? check_writable(node, err) : 0;
}

/* ---- What BOOT says of a tree ---- */

static uint32_t row_flags(const struct graph_node *node, bool writable)
{
    return (node->flags.read_only || !writable ? IPC_NODE_READ_ONLY : 0) |
           (node->flags.discard_unmap ? IPC_NODE_DISCARD_UNMAP : 0) | (node->flags.direct ? IPC_NODE_CACHE_DIRECT : 0) |
           (node->flags.no_flush ? IPC_NODE_NO_FLUSH : 0);
}

/* The rows of node and of what is below it. Depth is bounded by IPC_NODES_MAX. */
static void add_rows(const struct graph_node *node, bool writable, struct ipc_boot *boot)
{
    struct ipc_node *row;

    if (node->child != NULL)
        add_rows(node->child, writable, boot);
    row = &boot->nodes[boot->node_count];
    memset(row, 0, sizeof(*row));
    row->driver = node->driver->ipc_id;
    row->flags = row_flags(node, writable);
    row->fd_index = -1;
    row->child_index = node->child != NULL ? (int32_t)boot->node_count - 1 : -1;
    memcpy(row->name, node->name, sizeof(row->name));
    node->driver->describe(node, row);
    boot->node_count++;
    if (node->image == NULL)
        return;
    row->fd_index = (int32_t)boot->image_fd_count++;
    boot->engine = node->engine;
}

void graph_node_describe(const struct graph_node *node, bool writable, struct ipc_boot *boot)
{
    boot->node_count = 0;
    boot->image_fd_count = 0;
    boot->engine = IPC_ENGINE_AUTO;
    add_rows(node, writable, boot);
}
