/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor's side of the opener (monitor/opener/): tasks, each of which is a child process that may hang, and
 * requests to them, each of which has a deadline. Nothing here waits.
 *
 * A task's requests are carried out one after the other. One that is late has been answered for its owner; what the
 * child then says of it all the same is only a reason to say what is wanted once more (recovered()). So is the end of
 * one behind which others were late, of which the child has never heard. A task counts as hanging if a request takes
 * OPENER_RELEASE_MS at least, however short the time is that its owner gives it.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_OPENER_H
#define BULKHEAD_MONITOR_GRAPH_OPENER_H

#include "monitor/opener/opener-protocol.h"

struct monitor;
struct opener;
struct opener_task;

#define OPENER_DEADLINE_MS 10000 /* for a path to be opened, looked at, resized */
#define OPENER_RELEASE_MS  2000  /* for locks to be given back, and for an image to be closed */
#define OPENER_LATE_MAX    64    /* tasks that hang: beyond that no more are begun */

/* How the owner of a request hears of its outcome, from the loop, once. The descriptor, or -1, is the callee's. */
typedef void opener_done_fn(void *opaque, const struct opener_reply *reply, int fd);

struct opener_ask {
    const void *message; /* a struct of the protocol, whose header is filled in here */
    size_t len_bytes;
    int fds[OPENER_FDS_MAX]; /* borrowed; duplicates travel */
    unsigned fd_count;
    unsigned timeout_ms;
    /* Called when the request is about to be sent, to fill in what may have changed since. NULL: nothing. */
    void (*prepare)(void *opaque, union opener_message *message);
    opener_done_fn *done;
    void *opaque;
};

struct opener_task_ops {
    /* The path of OPEN lies on that device: 0, or -errno with the reason why it may not be opened. NULL: it may. */
    int (*found)(void *opaque, uint64_t device, struct error *err);
    /* A request that was late, or that kept others waiting for too long, has ended. NULL: nothing to do. */
    void (*recovered)(void *opaque);
};

/* A child for a task: gets its socket, which is the callee's. 0 or -errno. */
typedef int opener_launch_fn(void *opaque, int sock, struct error *err);

/* Nothing is started yet. 0 or -errno. */
int opener_new(struct monitor *monitor, struct opener **ret_opener, struct error *err);
/* Waits a moment for images to be closed; no callback comes. NULL is fine. How many hang, and are left behind. */
unsigned opener_free(struct opener *opener);

/* Start the process, when workers can be spawned. 0 or -errno. */
int opener_start(struct opener *opener, struct error *err);

/* For unit tests: children come from launch instead. */
void opener_set_launch(struct opener *opener, opener_launch_fn *launch, void *opaque);

/* Nothing is under way: nobody waits for an answer, or for a child to end. */
bool opener_is_idle(const struct opener *opener);

/* A task without a request yet. ops may be NULL. 0, -EBUSY while too many hang, other -errno. */
int opener_task_new(struct opener *opener, const struct opener_task_ops *ops, void *opaque,
                    struct opener_task **ret_task, struct error *err);

/* Ask. 0, or -errno and done is not called. */
int opener_task_ask(struct opener_task *task, const struct opener_ask *ask, struct error *err);

/* Whoever owns requests with that opaque does not want to hear of them any more; they are carried out all the same. */
void opener_task_forget(struct opener_task *task, const void *opaque);

/* A request was not answered in time, nor within OPENER_RELEASE_MS, and the child is still at it. */
bool opener_task_is_late(const struct opener_task *task);

/*
 * End it: the child closes what it has. Requests that wait are dropped. done, which may be NULL, is called from the
 * loop: when all is closed, or after OPENER_RELEASE_MS. The task is not the caller's any more.
 */
void opener_task_end(struct opener_task *task, void (*done)(void *opaque, bool closed), void *opaque);

/* One that has a single request: ask, then end. 0, or -errno and done is not called. */
int opener_run(struct opener *opener, const struct opener_ask *ask, struct error *err);

#endif
