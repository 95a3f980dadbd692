/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For tests that run in a process of their own: one stub worker from spawn to its end, and what it reported.
 */
#ifndef BULKHEAD_TESTS_UNIT_ONE_WORKER_H
#define BULKHEAD_TESTS_UNIT_ONE_WORKER_H

#include <event2/event.h>
#include <string.h>
#include <unistd.h>

#include "monitor/worker/worker-private.h"

struct one_worker {
    struct event_base *base;
    struct worker_set *set;
    bool ready;
    bool gone;
    struct ipc_status_ready facts;
    struct error failure; /* of worker_spawn(), or told by the worker */
    struct worker_exit exit;
};

static void one_worker_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct one_worker *one = opaque;

    one->ready = true;
    one->facts = *ready;
    worker_drain(worker, 10000);
}

static void one_worker_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    ((struct one_worker *)opaque)->failure = *err;
}

static void one_worker_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct one_worker *one = opaque;

    one->gone = true;
    one->exit = *why;
    event_base_loopbreak(one->base);
}

static int one_worker_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    return 0;
}

/* The set, with the stub in the place of the nbd-export role. 0 or -errno. */
static int one_worker_open(struct one_worker *one)
{
    static struct sandbox_role stub_role;
    static const struct sandbox_role *const roles[] = { &stub_role, NULL };
    char dir[512];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);

    if (n < 0)
        return -1;
    dir[n] = '\0';
    *strrchr(dir, '/') = '\0';
    stub_role = *sandbox_role_find(IPC_ROLE_NBD_EXPORT);
    stub_role.program = "stub-worker";
    memset(one, 0, sizeof(*one));
    one->base = event_base_new();
    return worker_set_new_from(one->base, roles, dir, &one->set, &one->failure);
}

/* Spawn it and run it to its end. 0, or what worker_spawn() returned. */
static int one_worker_run(struct one_worker *one)
{
    static const struct worker_ops ops = { one_worker_ready, one_worker_failed, one_worker_status, one_worker_gone };
    struct ipc_boot boot = { .role = IPC_ROLE_NBD_EXPORT, .io_threads = 1, .node_count = 1 };
    struct worker_handle *worker;
    int r;

    boot.nodes[0] = (struct ipc_node){ .driver = IPC_DRIVER_NULL_CO, .fd_index = -1, .child_index = -1 };
    r = worker_spawn(one->set, &boot, NULL, &ops, one, &worker, &one->failure);
    if (r == 0)
        event_base_dispatch(one->base);
    return r;
}

static void one_worker_close(struct one_worker *one)
{
    worker_set_free(one->set);
    event_base_free(one->base);
}

#endif
