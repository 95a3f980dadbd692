/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lock-down in stages, each of which takes rights for good, and the measuring of what really came of it. A worker calls
 *
 *   sandbox_enter()  first of all: empty root, no capabilities, no_new_privs, non-dumpable, limits, Landlock. After it
 *                    the process may still make threads, rings and descriptors, and open nothing.
 *   sandbox_lock()   when everything exists: the last limits and seccomp, on all threads. After it the process may do
 *                    what its role's row allows.
 *
 * The namespaces themselves are made by the spawner (clone3). Layers that the host does not offer are left out unless
 * the role requires them; what is in force is observed, never assumed.
 */
#ifndef BULKHEAD_SANDBOX_SANDBOX_H
#define BULKHEAD_SANDBOX_SANDBOX_H

#include "common/base/error.h"
#include "common/sandbox/role.h"

/* Of the account, as the spawner's user namespace has them. */
struct sandbox_ids {
    uint32_t uid;
    uint32_t gid;
};

struct sandbox {
    const struct sandbox_role *role;
    uint32_t asked;    /* layers that the spawner asks for; a role's required ones are always asked */
    uint32_t observed; /* in force, as measured by this process */
    struct sandbox_ids ids;
    unsigned landlock_abi;
    bool log_only; /* developer aids: seccomp logs instead of forbidding */
};

#define SANDBOX_LAYERS_NAMESPACES                                                                                      \
    (IPC_LAYER_USER_NS | IPC_LAYER_MOUNT_NS | IPC_LAYER_PID_NS | IPC_LAYER_NET_NS | IPC_LAYER_IPC_NS |                 \
     IPC_LAYER_UTS_NS | IPC_LAYER_CGROUP_NS)

/* One kind of namespace, in the order of IPC_NAMESPACES. */
struct sandbox_namespace {
    uint32_t layer;
    uint64_t clone_flag;
    const char *file; /* in /proc/PID/ns */
};
extern const struct sandbox_namespace sandbox_namespaces[IPC_NAMESPACES];

/* Inode numbers of this process's namespaces; 0 where it cannot tell. */
void sandbox_read_namespaces(uint64_t ret_inodes[IPC_NAMESPACES]);

/*
 * In a process that clone3 has just made in a user namespace of its own, before exec: keep the capabilities over that
 * namespace, which exec would take from a process whose ids have no mapping yet. System calls only. false: see errno.
 */
bool sandbox_keep_capabilities(void);

/*
 * user_namespaces(7): the account becomes id 0 of the user namespace that this process was started in, and nobody else has
 * an id there. After exec, never before: the files below /proc/self are root's unless the process is dumpable, and one
 * with a copy of the spawner's memory must not be. 0 or -errno.
 */
#define SANDBOX_TRY_IDS "--try-ids" /* first argument of a worker that is to do this and exit: UID GID follow */
int sandbox_map_ids(const struct sandbox_ids *ids);

/*
 * Stage one. sandbox->role, ->asked and ->ids are set by the caller; spawner_ns are the spawner's namespaces. 0 or -errno: the
 * process must end.
 */
int sandbox_enter(struct sandbox *sandbox, const uint64_t spawner_ns[IPC_NAMESPACES], struct error *err);

/* Stage two. 0 with all required layers in force, or -errno: the process must end. */
int sandbox_lock(struct sandbox *sandbox, struct error *err);

/*
 * In builds with --enable-developer-aids the environment variable BULKHEAD_SANDBOX may say "log" (forbidden calls are
 * logged by the kernel and done) or "off" (no layer is put in force). In others this does nothing.
 */
void sandbox_apply_developer_aids(struct sandbox *sandbox);

/*
 * Lock the monitor down: no_new_privs, non-dumpable, no capabilities, its filter. When the account is what it will be,
 * and everything that needs rights of which a child process must not be deprived (the mounter) has been started.
 */
int sandbox_lock_monitor(struct error *err);

/*
 * Have a trapped system call (SANDBOX_TRAP), abort() and a crash reported as status records on status_fd before the
 * process dies. Installs signal handlers, which no role may do later; call before sandbox_lock().
 */
int sandbox_report_traps(int status_fd, struct error *err);

#endif
