/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph of block nodes: names, references, and what a worker is told of a tree. The monitor opens image files and
 * locks them; what is in them it never reads, that is the workers' business.
 *
 * A node lives as long as somebody refers to it: the monitor (blockdev-add), a node above it, an export, or an
 * operation that is under way. While its image is being opened a node has its name, and cannot be used for anything
 * yet.
 *
 * What depends on an image is done by the opener and heard of later: from the loop, or before the call returns.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_NODE_H
#define BULKHEAD_MONITOR_GRAPH_NODE_H

#include <sys/queue.h>

#include "common/ipc/ipc-protocol.h"
#include "monitor/graph/image.h"

struct graph;
struct graph_node;
struct monitor;

/* What a node that is made on the way takes from the one above it, unless its options say otherwise. */
struct node_flags {
    bool read_only;
    bool auto_read_only;
    bool direct;
    bool no_flush;
    bool force_share;
    bool discard_unmap;
};

/* One driver, one row of a table (drivers.c). Sizes are bytes and multiples of 512. */
struct node_driver {
    const char *name;
    enum blockdev_driver id;
    enum ipc_driver ipc_id;
    /*
     * Set up what the driver has in the node; an image is not opened yet, and may have any size. On an error nothing
     * may be left but node->child.
     */
    int (*open)(struct graph_node *node, const struct blockdev_options *options, struct error *err);
    void (*close)(struct graph_node *node); /* NULL: nothing to do */
    /* The image below is open: does the node fit? NULL: nothing to check. */
    int (*check)(struct graph_node *node, struct error *err);
    uint64_t (*size)(const struct graph_node *node);
    /* How large what is below must be for the node to have that size. NULL: it cannot be resized. */
    int (*size_below)(const struct graph_node *node, uint64_t size_bytes, uint64_t *ret_below_bytes, struct error *err);
    /* Fill in the driver's own fields of a zeroed row. */
    void (*describe)(const struct graph_node *node, struct ipc_node *row);
};

struct graph_node {
    TAILQ_ENTRY(graph_node) link;
    struct graph *graph;
    const struct node_driver *driver;
    char name[IPC_NODE_NAME_MAX];
    unsigned refs;
    bool named;   /* made by blockdev-add, which has one of the references */
    bool opening; /* blockdev-add is still at it */
    struct node_flags flags;
    struct graph_node *child; /* the node below; NULL: none */

    /* The driver's own. */
    struct image *image;   /* file, host_device */
    uint32_t engine;       /* file, host_device: enum ipc_engine */
    uint64_t offset_bytes; /* raw */
    bool has_size;         /* raw */
    uint64_t size_bytes;   /* raw, null-co */
    uint64_t latency_ns;   /* null-co */
    bool read_zeroes;      /* null-co */
    unsigned rule_count;   /* blkdebug */
    struct ipc_inject_rule rules[IPC_RULES_MAX];
};

const struct node_driver *node_driver_find(enum blockdev_driver id);
extern const struct node_driver node_drivers[];
extern const unsigned node_driver_count;

/* How the outcome of an operation is heard of, once. err is NULL if it succeeded. */
typedef void graph_done_fn(void *opaque, const struct error *err);

int graph_new(struct monitor *monitor, struct graph **ret_graph, struct error *err);
void graph_free(struct graph *graph); /* NULL is fine; no export may refer to a node; whoever waits is answered */

/* Make the node that options describe and those below it. They have passed blockdev_options_check(), and are borrowed.
 */
void graph_add(struct graph *graph, const struct blockdev_options *options, graph_done_fn *done, void *opaque);

/* Remove a node that nothing but blockdev-add refers to; done when its image is closed. -ENOENT, -EBUSY or -EPERM. */
void graph_del(struct graph *graph, const char *name, graph_done_fn *done, void *opaque);

struct graph_node *graph_find(const struct graph *graph, const char *name); /* NULL: none that can be used */

/* The same with the reason: -ENOENT, or -EBUSY while it is being opened. */
int graph_look_up(const struct graph *graph, const char *name, struct graph_node **ret_node, struct error *err);

/* All nodes that can be used, the newest first; NULL after the last one. */
struct graph_node *graph_first(const struct graph *graph);
struct graph_node *graph_next(const struct graph_node *node);

struct graph_node *graph_node_ref(struct graph_node *node);
void graph_node_unref(struct graph_node *node); /* NULL is fine */

struct monitor *graph_node_monitor(const struct graph_node *node);

/* For drivers: resolve a reference, or make the node that is defined in its place. Sets node->child. */
int graph_node_open_child(struct graph_node *node, const struct blockdev_ref *ref, struct error *err);

/*
 * As it was when its image was looked at last. graph_refresh() looks at all images, but waits no longer than timeout_ms
 * for any, and not at all for one that hangs.
 */
uint64_t graph_node_size(const struct graph_node *node);
void graph_refresh(struct graph *graph, unsigned timeout_ms, void (*done)(void *opaque), void *opaque);

/* Make it size_bytes long, with the image below it. Workers that use it must be told (export_set_node_resized()). */
void graph_node_resize(struct graph_node *node, uint64_t size_bytes, graph_done_fn *done, void *opaque);
bool graph_node_read_only(const struct graph_node *node);      /* it or a node below it */
struct image *graph_node_image(const struct graph_node *node); /* at the bottom; NULL: none */

/*
 * An export is about to make use of a node: refers to it. 0 or -EPERM (writable on a read-only node). The locks of its
 * image come with image_serve(), which must be undone by image_unuse() before graph_node_unref().
 */
int graph_node_check_use(const struct graph_node *node, bool writable, struct error *err);

/*
 * Fill in what BOOT says of nodes: rows, counts, engine; children before parents. The descriptor of an image is not
 * among what is given here: the opener puts it in.
 */
void graph_node_describe(const struct graph_node *node, bool writable, struct ipc_boot *boot);

#endif
