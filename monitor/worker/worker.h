/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor's side of a worker process: spawn, supervise, talk. Everything that comes back is hostile input: records
 * are checked for size, magic, type and the worker's state before an owner sees them, and how many are read per turn of
 * the loop is bounded. A worker that breaks the rules is killed.
 *
 * Life: creating -> running -> draining -> gone. gone() is called exactly once, from the loop, after the process has
 * been reaped and nothing that it had open is open any more: a request that it left behind in a ring may live on for a
 * while. The handle is freed after it returns.
 *
 * A worker that SIGKILL does not end, or whose requests the storage does not answer, is lost after a while: lost() lets
 * the owner go on without it. gone() follows when it comes to its end after all.
 */
#ifndef BULKHEAD_MONITOR_WORKER_WORKER_H
#define BULKHEAD_MONITOR_WORKER_WORKER_H

#include <sys/types.h>

#include "common/base/error.h"
#include "common/ipc/catalogue.h"
#include "common/ipc/worker-page.h"

struct event_base;
struct worker_set; /* all workers of the monitor, and the worker binaries, opened at start */
struct worker_handle;

/* Why a worker is gone. */
struct worker_exit {
    bool expected;         /* after worker_drain() or worker_kill() */
    int exit_status;       /* -1 if killed by a signal */
    int signal;            /* 0 if it exited */
    int blocked_nr;        /* the blocked system call that it reported, -1: none */
    char blocked_call[64]; /* its name, "" if none */
    char text[256]; /* a sentence: "it was killed by signal 11 (Segmentation fault)", "the monitor ended it: ..." */
};

/* How an owner hears of its worker; all run from the loop, never from within worker_spawn() or worker_send(). */
struct worker_ops {
    void (*ready)(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque);
    /*
     * Could not start, by its own word or because it died; gone() follows. Unless the owner drains or kills it first,
     * exactly one of ready() and failed() is called. Text is sanitized.
     */
    void (*failed)(struct worker_handle *worker, const struct error *err, void *opaque);
    /* NEGOTIATED, CLIENT_GONE, IO_ERROR (texts sanitized); LOG and BLOCKED are handled by the set. -errno: a protocol
     * error, the worker is killed. */
    int (*status)(struct worker_handle *worker, const struct ipc_status *status, void *opaque);
    void (*gone)(struct worker_handle *worker, const struct worker_exit *why, void *opaque);
    /* The process has ended, but not what it left behind: it takes nothing any more. gone() follows. NULL: never mind.
     */
    void (*dead)(struct worker_handle *worker, void *opaque);
    /* It cannot be ended, at least not now; at most once. NULL: the owner waits for gone(). */
    void (*lost)(struct worker_handle *worker, void *opaque);
};

/*
 * Open the worker binaries (next to the monitor's own binary in a build tree, else in LIBEXECDIR). As root, before the
 * account is changed to one that may not be able to go there. 0 or -errno.
 */
int worker_set_new(struct event_base *base, struct worker_set **ret_set, struct error *err);

/* Learn which layers the host offers to the account that we are; before the first worker is spawned. 0 or -errno. */
int worker_set_probe(struct worker_set *set, struct error *err);

/*
 * Kills and reaps whatever is left, without callbacks; one deadline for all. How many could not be ended and are left
 * behind.
 */
unsigned worker_set_free(struct worker_set *set);

/*
 * Start a worker of boot->role. boot's header, role-independent fields and layers are filled in here; the caller sets
 * role, export and node fields. fds are the image descriptors, borrowed (duplicates travel). 0 or -errno.
 */
int worker_spawn(struct worker_set *set, const struct ipc_boot *boot, const int *image_fds,
                 const struct worker_ops *ops, void *opaque, struct worker_handle **ret_worker, struct error *err);

/* BOOT, for somebody else to send. */
struct worker_boot {
    struct ipc_boot message;
    int control_fd; /* on which it is to be sent; the worker's, and valid as long as its handle */
    int page_fd;    /* the first of its descriptors, before the images; the caller's */
};

/* The same without the descriptors of its images: it waits for its BOOT. */
int worker_spawn_unbooted(struct worker_set *set, const struct ipc_boot *boot, const struct worker_ops *ops,
                          void *opaque, struct worker_boot *ret_boot, struct worker_handle **ret_worker,
                          struct error *err);

/*
 * Send a message with borrowed descriptors. Never blocks: a worker whose socket is full is not listening and gets
 * killed (-EAGAIN). message starts with a struct ipc_header, which is filled in here. 0, -EINVAL when the message does
 * not fit the catalogue or the worker's state, -EPIPE when it has just died (gone() follows), other -errno of
 * sendmsg().
 */
int worker_send(struct worker_handle *worker, enum ipc_type type, void *message, size_t len_bytes, const int *fds,
                unsigned fd_count);

/* Ask it to finish; SIGKILL after timeout_ms. Called again, it gives another timeout. */
void worker_drain(struct worker_handle *worker, unsigned timeout_ms);

/* SIGKILL now; gone() follows with expected set, or lost() before it. */
void worker_kill(struct worker_handle *worker, const char *why);

enum worker_state worker_get_state(const struct worker_handle *worker);
pid_t worker_get_pid(const struct worker_handle *worker);
bool worker_is_lost(const struct worker_handle *worker);
const char *worker_get_export_id(const struct worker_handle *worker); /* NULL: it serves none */
uint32_t worker_get_role(const struct worker_handle *worker);
const char *worker_get_role_name(const struct worker_handle *worker);
const struct ipc_status_ready *worker_get_ready(const struct worker_handle *worker); /* NULL before READY */
const struct worker_page *worker_get_page(const struct worker_handle *worker);       /* read-only mapping */
void *worker_get_opaque(const struct worker_handle *worker);

/*
 * Whether one more line may be logged that this worker's records give cause to; they share one budget with the lines
 * that it sends itself. What is not logged is counted and told of later.
 */
bool worker_may_log(struct worker_handle *worker);

/* Walk all workers that are not gone; stops when visit returns false. */
void worker_set_foreach(struct worker_set *set, bool (*visit)(struct worker_handle *worker, void *arg), void *arg);
unsigned worker_set_count(const struct worker_set *set);

#endif
