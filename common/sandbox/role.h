/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Roles: what each process of bulkhead may do, one row each. The table is the authority; spawn, lock-down, tests and
 * documentation walk it. Which layers mean what: docs/threat-model.md.
 */
#ifndef BULKHEAD_SANDBOX_ROLE_H
#define BULKHEAD_SANDBOX_ROLE_H

#include <sys/resource.h>

#include "common/ipc/ipc-protocol.h"

/* One system call that is allowed; with a condition, only when it holds. */
struct sandbox_call {
    const char *name;
    unsigned arg; /* condition: argument number */
    int op;       /* enum scmp_compare; 0: no condition */
    uint64_t value_a;
    uint64_t value_b; /* SCMP_CMP_MASKED_EQ: the value, value_a being the mask */
};

/* A named set of them, shared between roles. */
struct sandbox_call_set {
    const char *name;
    const char *why; /* for docs and review */
    const struct sandbox_call *calls;
    unsigned count;
};

struct sandbox_rlimit {
    int resource;
    rlim_t value; /* soft and hard */
};

struct sandbox_role {
    const char *name;    /* as query-workers shows it */
    const char *program; /* file name of the worker binary; NULL for the monitor */
    uint32_t ipc_role;   /* enum ipc_role; 0 for the monitor */
    uint32_t layers;     /* enum ipc_layer that this role uses where the host offers them */
    uint32_t required;   /* those without which it does not start */
    const struct sandbox_call_set *const *call_sets; /* NULL-terminated */
    const struct sandbox_rlimit *rlimits;
    unsigned rlimit_count;
};

extern const struct sandbox_role sandbox_role_monitor;
extern const struct sandbox_role *const sandbox_roles[]; /* NULL-terminated; all, the monitor first */

/* The row of an enum ipc_role, or NULL. */
const struct sandbox_role *sandbox_role_find(uint32_t ipc_role);

/* Name of one layer bit, as query-workers spells it ("seccomp", "user-namespace", ...); NULL for an unknown bit. */
const char *sandbox_layer_name(uint32_t layer_bit);

#endif
