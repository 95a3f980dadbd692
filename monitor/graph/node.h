/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph of block nodes: names, references, and what a worker is told of a tree. The monitor opens image files and
 * locks them; what is in them it never reads, that is the workers' business.
 *
 * A node lives as long as somebody refers to it: the monitor (blockdev-add), a node above it, an export.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_NODE_H
#define BULKHEAD_MONITOR_GRAPH_NODE_H

#include <sys/queue.h>

#include "common/ipc/ipc-protocol.h"
#include "monitor/graph/image.h"

struct graph;
struct graph_node;

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
    /* Set up what the driver has in the node. On an error nothing may be left but node->child. */
    int (*open)(struct graph_node *node, const struct blockdev_options *options, struct error *err);
    void (*close)(struct graph_node *node); /* NULL: nothing to do */
    int (*size)(const struct graph_node *node, uint64_t *ret_size_bytes, struct error *err);
    int (*resize)(struct graph_node *node, uint64_t size_bytes, struct error *err); /* NULL: cannot */
    /* Fill in the driver's own fields of a zeroed row. */
    void (*describe)(const struct graph_node *node, struct ipc_node *row);
};

struct graph_node {
    TAILQ_ENTRY(graph_node) link;
    struct graph *graph;
    const struct node_driver *driver;
    char name[IPC_NODE_NAME_MAX];
    unsigned refs;
    bool named; /* made by blockdev-add, which has one of the references */
    struct node_flags flags;
    struct graph_node *child; /* the node below; NULL: none */

    /* The driver's own. */
    struct image *image;        /* file, host_device */
    uint32_t engine;            /* file, host_device: enum ipc_engine */
    uint64_t offset_bytes;      /* raw */
    bool has_size;              /* raw */
    uint64_t size_bytes;        /* raw, null-co */
    uint64_t latency_ns;        /* null-co */
    bool read_zeroes;           /* null-co */
    unsigned rule_count;        /* blkdebug */
    struct ipc_inject_rule rules[IPC_RULES_MAX];
};

const struct node_driver *node_driver_find(enum blockdev_driver id);
extern const struct node_driver node_drivers[];
extern const unsigned node_driver_count;

int graph_new(struct graph **ret_graph, struct error *err);
void graph_free(struct graph *graph); /* NULL is fine; no export may refer to a node */

/* Make the node that options describe and those below it. They have passed blockdev_options_check(). 0 or -errno. */
int graph_add(struct graph *graph, const struct blockdev_options *options, struct error *err);

/* Remove a node that nothing but blockdev-add refers to. 0, -ENOENT, -EBUSY or -EPERM. */
int graph_del(struct graph *graph, const char *name, struct error *err);

struct graph_node *graph_find(const struct graph *graph, const char *name); /* NULL: none */

/* All nodes, the newest first; NULL after the last one. */
struct graph_node *graph_first(const struct graph *graph);
struct graph_node *graph_next(const struct graph_node *node);

struct graph_node *graph_node_ref(struct graph_node *node);
void graph_node_unref(struct graph_node *node); /* NULL is fine */

/* For drivers: resolve a reference, or make the node that is defined in its place. Sets node->child. */
int graph_node_open_child(struct graph_node *node, const struct blockdev_ref *ref, struct error *err);

int graph_node_size(const struct graph_node *node, uint64_t *ret_size_bytes, struct error *err);
/* Make it size_bytes long, with the image below it. Workers that use it must be told (export_set_node_resized()). */
int graph_node_resize(struct graph_node *node, uint64_t size_bytes, struct error *err);
bool graph_node_read_only(const struct graph_node *node); /* it or a node below it */
struct image *graph_node_image(const struct graph_node *node); /* at the bottom; NULL: none */

/*
 * An export makes use of a node: refers to it and holds the locks of its image. 0, -EPERM (writable on a read-only
 * node), -EAGAIN (another program is in the way), other -errno.
 */
int graph_node_use(struct graph_node *node, bool writable, struct error *err);
void graph_node_unuse(struct graph_node *node, bool writable);

/*
 * The worker of an export that makes use of a node may change its size until graph_node_end_resize(). 0, -ENOTSUP (it has
 * no image), -EAGAIN (another program relies on the size), other -errno.
 */
int graph_node_begin_resize(struct graph_node *node, struct error *err);
void graph_node_end_resize(struct graph_node *node);

/*
 * Fill in what BOOT says of nodes: rows, counts, engine; children before parents. Descriptors of the images are opened
 * anew, for reading only unless writable; the caller owns ret_fds[0..boot->image_fd_count). 0 or -errno.
 */
int graph_node_describe(const struct graph_node *node, bool writable, struct ipc_boot *boot,
                        int ret_fds[IPC_IMAGE_FDS_MAX], struct error *err);

#endif
