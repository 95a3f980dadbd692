/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Roles: what each process of bulkhead may do, one row each. The table is the authority; spawn, lock-down, tests and
 * documentation walk it. Which layers mean what: docs/sandbox.md.
 */
#ifndef BULKHEAD_SANDBOX_ROLE_H
#define BULKHEAD_SANDBOX_ROLE_H

#include <stdbool.h>
#include <sys/resource.h>

#include "common/ipc/ipc-protocol.h"

/* What happens at a system call. */
enum sandbox_action {
    SANDBOX_ALLOW = 1,
    SANDBOX_TRAP,   /* the process reports the call by name, then dies (docs/decisions/) */
    SANDBOX_REFUSE, /* the call fails with EACCES: for the run-time of sanitizers only */
    SANDBOX_ABSENT, /* the call fails with ENOSYS, as on a kernel that does not have it */
    SANDBOX_KILL,
};

/* Conditions on an argument beyond those of enum scmp_compare. */
#define SANDBOX_EQ_SELF 100 /* the process's own id, known when the filter is made */

/* One system call; with a condition, its row counts only when that holds. */
struct sandbox_call {
    const char *name;
    unsigned arg; /* condition: argument number */
    int op;       /* enum scmp_compare or SANDBOX_EQ_SELF; 0: no condition */
    uint64_t value_a;
    uint64_t value_b;  /* SCMP_CMP_MASKED_EQ: the value, value_a being the mask */
    unsigned also_arg; /* a second condition: this argument (never the first) equals also_value; 0: there is none */
    uint64_t also_value;
};

/* A named set of them, shared between roles. */
struct sandbox_call_set {
    const char *name;
    const char *why; /* for docs and review */
    enum sandbox_action action;
    const struct sandbox_call *calls; /* hot ones first */
    unsigned count;
};

struct sandbox_rlimit {
    int resource;
    rlim_t value; /* soft and hard; a lower limit that is in force already stays */
    /* Set after threads and rings exist, which it would stop; the others are set before anything is parsed. */
    bool late;
    /* Counts the whole account unless the worker has a user namespace of its own: set only if it has. */
    bool needs_user_ns;
    unsigned part; /* and at most this part (1 / part) of the limit in force; 0: all of it */
};

/* Descriptors of a worker that serves an export, where the host's own limit allows as many. */
#define SANDBOX_EXPORT_FDS_MAX 8192

/*
 * The kernel counts descriptors that have been sent and not received by account, and refuses to send more to whose own
 * RLIMIT_NOFILE is below that count. So those that may send some and face a guest have lower limits than the monitor, the opener
 * and the mounter, and the worker a lower one than the door: at its limit each has to stop, while the others may go on. A
 * message brings 253 of them at most, and each thread may have one on its way when the limit is passed.
 */
#define SANDBOX_VHOST_FDS_MAX 1024 /* three for each of 256 queues, memory, images, the worker's own */
#define SANDBOX_VHOST_PART    4
#define SANDBOX_DOOR_FDS_MAX  2048
#define SANDBOX_DOOR_PART     2

struct sandbox_role {
    const char *name;    /* as query-workers shows it */
    const char *program; /* file name of the worker binary; NULL for the monitor */
    uint32_t ipc_role;   /* enum ipc_role; 0 for the monitor */
    uint32_t layers;     /* enum ipc_layer that this role uses where the host offers them */
    uint32_t required;   /* those without which it does not start */
    /* NULL-terminated. A call has one unconditional row, or several whose conditions exclude each other. */
    const struct sandbox_call_set *const *call_sets;
    enum sandbox_action default_action; /* of all calls that no set names */
    const struct sandbox_rlimit *rlimits;
    unsigned rlimit_count;
};

extern const struct sandbox_role sandbox_role_monitor;
extern const struct sandbox_role sandbox_role_opener;
extern const struct sandbox_role sandbox_role_resolver;
extern const struct sandbox_role *const sandbox_roles[]; /* NULL-terminated; all, the monitor first */

/* The row of an enum ipc_role, or NULL. */
const struct sandbox_role *sandbox_role_find(uint32_t ipc_role);

/* Name of one layer bit, as query-workers spells it ("seccomp", "user-namespace", ...); NULL for an unknown bit. */
const char *sandbox_layer_name(uint32_t layer_bit);

#endif
