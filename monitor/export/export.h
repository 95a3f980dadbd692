/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports: creating -> running -> draining -> gone, one worker each. What is common to all types is in export.c; a type
 * is a row of export_types[] with its own file. Workers are hostile: what they report has the right shape when it comes
 * here, and nothing more.
 */
#ifndef BULKHEAD_MONITOR_EXPORT_EXPORT_H
#define BULKHEAD_MONITOR_EXPORT_EXPORT_H

#include <sys/queue.h>

#include "monitor/qmp/qmp.h"
#include "monitor/qmp/socket.h"
#include "monitor/qmp/types.h"
#include "monitor/worker/worker.h"

struct event;
struct export;
struct export_set;
struct graph_node;
struct monitor;

#define EXPORT_DRAIN_MS  10000 /* for requests in flight to finish; then the worker is killed */
#define EXPORT_RECOUNT_MS 200 /* for mode=safe to hear of clients that have just left */
#define EXPORT_SETTLE_MS 250   /* for modes safe, hide and soft to wait for clients that are on their way */

/* A type of exports, one row. All run on the loop. */
struct export_type {
    enum block_export_type id;
    enum ipc_role ipc_role;
    /*
     * Before anything else is done: what of the options and the monitor's state the type needs, kept in export->priv.
     * 0 or -errno with nothing to clean up.
     */
    int (*prepare)(struct export *export, const struct block_export_options *options, struct error *err);
    /*
     * The worker is READY; -errno ends the export with an error for the client. May send messages to the worker. With
     * EXPORT_STARTS_LATER the client has to wait until export_started(). NULL: nothing to do.
     */
    int (*running)(struct export *export, struct error *err);
    /* A status record that only this type knows; -errno: the worker broke protocol. NULL: there is none. */
    int (*status)(struct export *export, const struct ipc_status *status);
    /* The node has another size, and the worker has been told. NULL: nothing to do. */
    void (*resized)(struct export *export);
    /* How many clients would notice if it went away: mode=safe refuses. */
    unsigned (*clients)(const struct export *export);
    /*
     * Whether some client may have been told already that it is connected, though it is not counted yet: modes
     * safe, hide and soft wait a moment. NULL: cannot be.
     */
    bool (*unsettled)(const struct export *export);
    /*
     * Have clients() tell who is there now: export_recounted() follows. A client that has just closed its connection
     * may not have been missed yet. NULL: it is told soon, and mode=safe waits a moment.
     */
    void (*recount)(struct export *export);
    /*
     * mode=safe, when only a try can tell whether somebody uses it: 0 if that is under way; export_drain() or
     * export_keep() ends it. NULL: clients() tells.
     */
    int (*remove_safely)(struct export *export, struct error *err);
    /*
     * Modes hide and soft, after close(), with clients connected; soft: what they ask for from now on fails. The last
     * one that leaves calls export_client_left(). NULL: the type does not know these modes.
     */
    void (*hide)(struct export *export, bool soft);
    /* No new client from now on; called once if prepare() succeeded, before free(). NULL: nothing to do. */
    void (*close)(struct export *export);
    /*
     * Whether something that has to end before the export does is still under way, after close(); export_closed() follows
     * then. The worker is drained only after that. NULL: no.
     */
    bool (*closing)(const struct export *export);
    /* Its worker is gone: give back what it has of the image beside its use. NULL: nothing. */
    void (*release)(struct export *export);
    /* The device (st_dev) that it is mounted as; 0: none. NULL: the type does not mount. */
    uint64_t (*device)(const struct export *export);
    /* Its worker is gone, or never was. */
    void (*free)(struct export *export);
};

#define EXPORT_STARTS_LATER 1

extern const struct export_type export_type_nbd;
extern const struct export_type export_type_vhost_user_blk;
extern const struct export_type export_type_fuse;

extern const struct export_type *const export_types[];
extern const unsigned export_type_count;
const struct export_type *export_type_find(enum block_export_type id); /* NULL: not in this build */

/* What there is to say of a worker that is gone. */
struct worker_end {
    const char *role;
    pid_t pid;
    struct worker_exit why;
};

enum export_state { EXPORT_CREATING, EXPORT_RUNNING, EXPORT_DRAINING };

struct export {
    TAILQ_ENTRY(export) link;
    struct export_set *set;
    struct monitor *monitor;
    const struct export_type *type;
    char id[IPC_EXPORT_ID_MAX];
    struct graph_node *node; /* referred to */
    bool uses_image;         /* the node's image is locked for it */
    bool writable;
    bool writethrough;
    enum socket_fd_source fd_source; /* where descriptors of its options may come from */
    /* What prepare() may change before the worker is made. */
    unsigned io_threads;
    uint64_t poll_max_ns;
    bool closed;   /* type->close() has been called */
    bool hidden;   /* it ends when the last client has left */
    bool lost;     /* its worker cannot be ended; it goes on without it */
    bool left;     /* and has ended: only what its worker may still do to the node is left of it */
    bool resizing; /* of one that is left: image_begin_resize() is in force */
    struct worker_end last; /* of one that is left */
    bool resized_early; /* the image was, while the worker was made: what it says of the size is old */
    enum export_state state;
    struct worker_handle *worker;   /* NULL while it is made, and when it is gone */
    struct qmp_reply *add_reply;    /* owed while creating */
    struct qmp_reply *del_reply;    /* owed while draining, if a client waits for the end; or while unsettled */
    struct event *settle_timer;     /* NULL unless it was needed */
    uint64_t settle_until_ns;
    uint64_t recount_until_ns;
    bool recounted;
    enum block_export_remove_mode del_mode; /* while unsettled */
    struct error failure;           /* why it could not start */
    void *priv;                     /* the type's own */
};

int export_set_new(struct monitor *monitor, struct export_set **ret_set, struct error *err);
void export_set_free(struct export_set *set); /* the workers are gone, no callback will come; NULL is fine */

/* Start an export; reply is answered when its worker serves, or with the reason why not. */
void export_add(struct export_set *set, const struct block_export_options *options, enum socket_fd_source fd_source,
                struct qmp_reply *reply);

/* Remove one; see export.c for when reply is answered. */
void export_del(struct export_set *set, const char *id, enum block_export_remove_mode mode, struct qmp_reply *reply);

/* Remove all of one type, or of any, whoever is connected, and call done when they are gone: at once if there is none. */
#define EXPORT_TYPE_ANY BLOCK_EXPORT_TYPE_MAX
void export_set_remove_all(struct export_set *set, enum block_export_type type, void (*done)(void *opaque),
                           void *opaque);

/*
 * The image of node has been resized: tell the workers of all exports that stand on it, and their types; but not by, whose
 * worker did it (NULL: nobody's).
 */
void export_set_node_resized(struct export_set *set, const struct graph_node *node, const struct export *by);

/*
 * Whether the node's image may be written to or resized by somebody new. -EBUSY: a worker that could not be ended may
 * still write to it. Locks do not tell, since they are ours.
 */
int export_set_check_lost(const struct export_set *set, const struct graph_node *node, struct error *err);

/* For type->running() and the like: end this export, whose clients lose their connection. */
void export_drain(struct export *export);

/* What running() put off has come to its end: the export serves (err is NULL), or could not start. */
void export_started(struct export *export, const struct error *err);

/* For types with recount(): clients() is right. */
void export_recounted(struct export *export);

/* For types with hide(): clients() has become smaller. */
void export_client_left(struct export *export);

/* What close() began is through. The export may be gone when this returns. */
void export_closed(struct export *export);

/* What remove_safely() began has found it in use: it goes on, and whoever wanted it removed hears why. */
void export_keep(struct export *export, const struct error *err);

/* The id of the export that is mounted as that device (st_dev); NULL: it is none of ours. */
const char *export_set_find_mount(const struct export_set *set, uint64_t device);

struct export *export_set_first(const struct export_set *set);
struct export *export_next(const struct export *export);

/* Tell QMP clients that a worker ended before it was told to. export_id may be NULL. */
void export_send_worker_gone(struct monitor *monitor, struct worker_handle *worker, const char *export_id,
                             const struct worker_exit *why);

#endif
