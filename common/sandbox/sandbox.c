/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stages of lock-down in their order. Each layer is one row: how to put it in force, how to see that it is. May
 * run before anything hostile has been read; must not open anything that outlives it.
 */
#include "common/sandbox/sandbox.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/sandbox/filter.h"
#include "common/sandbox/layers.h"

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

const struct sandbox_namespace sandbox_namespaces[IPC_NAMESPACES] = {
    { IPC_LAYER_USER_NS, CLONE_NEWUSER, "user" },       { IPC_LAYER_MOUNT_NS, CLONE_NEWNS, "mnt" },
    { IPC_LAYER_PID_NS, CLONE_NEWPID, "pid" },          { IPC_LAYER_NET_NS, CLONE_NEWNET, "net" },
    { IPC_LAYER_IPC_NS, CLONE_NEWIPC, "ipc" },          { IPC_LAYER_UTS_NS, CLONE_NEWUTS, "uts" },
    { IPC_LAYER_CGROUP_NS, CLONE_NEWCGROUP, "cgroup" },
};

void sandbox_read_namespaces(uint64_t ret_inodes[IPC_NAMESPACES])
{
    for (unsigned i = 0; i < IPC_NAMESPACES; i++) {
        char path[64];
        struct stat st;

        snprintf(path, sizeof(path), "/proc/self/ns/%s", sandbox_namespaces[i].file);
        ret_inodes[i] = stat(path, &st) == 0 ? st.st_ino : 0;
    }
}

static uint32_t observe_namespaces(const uint64_t spawner_ns[IPC_NAMESPACES])
{
    uint64_t own[IPC_NAMESPACES];
    uint32_t observed = 0;

    sandbox_read_namespaces(own);
    for (unsigned i = 0; i < IPC_NAMESPACES; i++)
        if (own[i] != 0 && spawner_ns[i] != 0 && own[i] != spawner_ns[i])
            observed |= sandbox_namespaces[i].layer;
    return observed;
}

/* The layers of stage one that this process puts in force itself, in order. */
struct layer {
    uint32_t bit;
    uint32_t needs; /* other layers, observed before */
    int (*enforce)(struct sandbox *sandbox, struct error *err);
    bool (*observe)(const struct sandbox *sandbox);
};

static const struct layer layers[] = {
    /* A new root while there are capabilities over the new mount namespace. */
    { IPC_LAYER_EMPTY_ROOT, IPC_LAYER_USER_NS | IPC_LAYER_MOUNT_NS, layer_enforce_empty_root,
      layer_observe_empty_root },
    { IPC_LAYER_NO_CAPABILITIES, 0, layer_enforce_no_capabilities, layer_observe_no_capabilities },
    { IPC_LAYER_NO_NEW_PRIVS, 0, layer_enforce_no_new_privs, layer_observe_no_new_privs },
    { IPC_LAYER_NON_DUMPABLE, 0, layer_enforce_non_dumpable, layer_observe_non_dumpable },
    { IPC_LAYER_RLIMITS, 0, layer_enforce_rlimits_early, NULL }, /* observed when the late ones are set */
    { IPC_LAYER_LANDLOCK, IPC_LAYER_NO_NEW_PRIVS, layer_enforce_landlock, layer_observe_landlock },
};

static int put_in_force(struct sandbox *sandbox, const struct layer *layer, struct error *err)
{
    bool required = (sandbox->role->required & layer->bit) != 0;
    struct error why = { 0 };
    int r;

    if ((sandbox->asked & layer->bit) == 0 || (sandbox->observed & layer->needs) != layer->needs)
        return 0;
    r = layer->enforce(sandbox, &why);
    if (r == 0) {
        if (layer->observe != NULL && layer->observe(sandbox))
            sandbox->observed |= layer->bit;
        return 0;
    }
    if (required)
        return error_set(err, r, "sandbox layer %s: %s", sandbox_layer_name(layer->bit), why.text);
    log_debug("sandbox layer %s is not in force: %s", sandbox_layer_name(layer->bit), why.text);
    return 0;
}

static int map_ids(const struct sandbox *sandbox, struct error *err)
{
    int r = (sandbox->observed & IPC_LAYER_USER_NS) != 0 ? sandbox_map_ids(&sandbox->ids) : 0;

    return r < 0 ? error_set(err, r, "cannot map the account into the new user namespace: %s", strerror(-r)) : 0;
}

int sandbox_enter(struct sandbox *sandbox, const uint64_t spawner_ns[IPC_NAMESPACES], struct error *err)
{
    int r;

    sandbox->observed = observe_namespaces(spawner_ns);
    r = map_ids(sandbox, err);
    for (unsigned i = 0; i < ARRAY_SIZE(layers) && r == 0; i++)
        r = put_in_force(sandbox, &layers[i], err);
    return r;
}

static int check_required(const struct sandbox *sandbox, struct error *err)
{
    uint32_t missing = sandbox->role->required & sandbox->asked & ~sandbox->observed;

    for (unsigned bit = 0; bit < 32; bit++)
        if ((missing & (1u << bit)) != 0)
            return error_set(err, -EPERM, "sandbox layer %s is required and not in force",
                             sandbox_layer_name(1u << bit));
    return 0;
}

int sandbox_lock(struct sandbox *sandbox, struct error *err)
{
    int r;

    if ((sandbox->asked & IPC_LAYER_RLIMITS) != 0 && layer_enforce_rlimits_late(sandbox, NULL) == 0 &&
        layer_observe_rlimits(sandbox))
        sandbox->observed |= IPC_LAYER_RLIMITS;
    if ((sandbox->asked & IPC_LAYER_SECCOMP) != 0) {
        r = sandbox_filter_load(sandbox->role, sandbox->log_only, err);
        if (r < 0)
            return r;
        if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2) /* SECCOMP_MODE_FILTER */
            sandbox->observed |= IPC_LAYER_SECCOMP;
    }
    r = check_required(sandbox, err);
    if (sandbox->log_only) /* it forbids nothing, and a query must not say that it does */
        sandbox->observed &= ~IPC_LAYER_SECCOMP;
    return r;
}

#ifdef WITH_DEVELOPER_AIDS
void sandbox_apply_developer_aids(struct sandbox *sandbox)
{
    const char *mode = getenv("BULKHEAD_SANDBOX");

    if (mode == NULL)
        return;
    if (strcmp(mode, "off") == 0)
        sandbox->asked = 0;
    else if (strcmp(mode, "log") == 0)
        sandbox->log_only = true;
}
#else
void sandbox_apply_developer_aids(struct sandbox *sandbox)
{
}
#endif

int sandbox_lock_monitor(struct error *err)
{
    uint64_t spawner_ns[IPC_NAMESPACES] = { 0 };
    struct sandbox sandbox = { .role = &sandbox_role_monitor, .asked = sandbox_role_monitor.layers };
    int r;

    sandbox_apply_developer_aids(&sandbox);
#ifdef WITH_DEVELOPER_AIDS
    for (char **entry = environ; *entry != NULL; entry++)
        if (strncmp(*entry, "BULKHEAD_AID_", 13) == 0) /* what runs a role may need anything, and inherits the filter */
            sandbox.asked = 0;
#endif
    r = sandbox_enter(&sandbox, spawner_ns, err);
    if (r == 0)
        r = sandbox_lock(&sandbox, err);
    return r;
}
