/* SPDX-License-Identifier: BSD-2-Clause */
/* The opener without its process: each task has a child of the test, which runs what the opener's children run. */
#ifndef BULKHEAD_TESTS_UNIT_OPENER_CHILDREN_H
#define BULKHEAD_TESTS_UNIT_OPENER_CHILDREN_H

#include <event2/event.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "monitor/graph/opener.h"
#include "monitor/monitor.h"
#include "monitor/opener/child.h"

static int launch_child(void *opaque, int sock, struct error *err)
{
    if (fork() == 0) {
        dup2(sock, 3);
        syscall(SYS_close_range, 4, ~0u, 0);
        child_run(3);
    }
    close(sock);
    return 0;
}

/* monitor has its loop. */
static int start_opener(struct monitor *monitor)
{
    signal(SIGCHLD, SIG_IGN);
    if (opener_new(monitor, &monitor->opener, NULL) < 0)
        return -1;
    opener_set_launch(monitor->opener, launch_child, NULL);
    return 0;
}

/* Until all that was asked of the opener has been answered. */
static void let_opener_finish(struct monitor *monitor)
{
    while (!opener_is_idle(monitor->opener))
        event_base_loop(monitor->base, EVLOOP_ONCE);
}

#endif
