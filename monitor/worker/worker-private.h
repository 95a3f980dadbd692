/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What set, supervision and status handling share.
 */
#ifndef BULKHEAD_MONITOR_WORKER_WORKER_PRIVATE_H
#define BULKHEAD_MONITOR_WORKER_WORKER_PRIVATE_H

#include "common/sandbox/role.h"
#include "monitor/worker/spawn.h"
#include "monitor/worker/worker.h"

#define WORKER_ROLES_MAX 12

struct event;

struct worker_set {
    struct event_base *base;
    const struct sandbox_role *const *roles;        /* NULL-terminated */
    struct spawn_binary binaries[WORKER_ROLES_MAX]; /* of roles[i] */
    uint32_t host_layers;                           /* layers that this host offers */
    uint64_t spawner_ns[IPC_NAMESPACES];
    int null_fd;
    struct worker_handle *workers;
    unsigned count;
    struct event *look_timer; /* for supervise_look() */
};

struct worker_handle {
    struct worker_set *set;
    struct worker_handle *next;
    struct worker_handle **link; /* what points here */
    const struct sandbox_role *role;
    char export_id[IPC_EXPORT_ID_MAX];
    enum worker_state state;
    pid_t pid;
    int pidfd;
    int control_fd;
    int status_fd;
    struct event *pidfd_event;
    struct event *status_event;
    struct event *control_event;
    struct event *timer; /* for whatever is expected of it next: see supervise.c */
    const struct worker_ops *ops;
    void *opaque;
    const struct worker_page *page;

    uint32_t seen_types; /* of ipc_status_check() */
    struct ipc_status_ready ready;
    bool is_ready;
    bool has_images;
    bool failed_told; /* the owner has heard that it could not start */
    bool killed;      /* SIGKILL has been sent */
    bool asked_to_go; /* worker_drain() or worker_kill() */
    bool hung_up;     /* its control socket takes nothing any more */
    bool silent;      /* its status pipe has ended: nothing that it had open is open any more */
    bool dying;       /* its first thread is gone, the rest will be */
    bool reaped;      /* the process is gone */
    bool lost;        /* it has been given up */
    bool exited;      /* once reaped: by itself, with exit_code as its status; else exit_code is the signal */
    int exit_code;
    char reason[160]; /* why the monitor ended it; "" if it did not */
    int blocked_nr;   /* -1: none */
    uint32_t blocked_arch;

    /* Log lines: so many per window, the rest is counted. */
    uint64_t log_window_ns;
    unsigned log_lines;
    unsigned log_suppressed;
};

/*
 * The same as worker_set_new() for other roles and another place to look for binaries: unit tests bring a worker of
 * their own. roles must outlive the set.
 */
int worker_set_new_from(struct event_base *base, const struct sandbox_role *const *roles, const char *dir,
                        struct worker_set **ret_set, struct error *err);

/* supervise.c */
int supervise_start(struct worker_handle *worker, struct error *err);
/* Look now and then whether workers have begun to end; from when there is one that may take long about it. */
int supervise_look(struct worker_set *set);
/* waitid() says how it ended, or that it still runs (false). */
bool supervise_reap(struct worker_handle *worker);
/* SIGKILL with a reason, which the first caller gives; expected: on behalf of the owner. */
void supervise_kill(struct worker_handle *worker, bool expected, const char *fmt, ...) _printf_(3, 4);
/* Arm the one timer; what happens when it expires depends on the state. */
void supervise_set_timer(struct worker_handle *worker, unsigned timeout_ms);
/* Unlink and free, without a word to the owner. The process must be reaped or never have been. */
void supervise_free(struct worker_handle *worker);

/* status.c: read and handle at most max records; those of a killed one are dropped. False at the end of the pipe. */
bool status_run(struct worker_handle *worker, unsigned max);
/* Tell the owner that the worker could not start, once. */
void status_tell_failed(struct worker_handle *worker, const struct error *err);

/* reason.c; for a worker that has been reaped */
void reason_fill(const struct worker_handle *worker, struct worker_exit *ret);

#endif
