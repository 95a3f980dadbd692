/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-opener: opens, measures and resizes what the monitor names, so that the monitor never waits for a path. It
 * gets one socket for each task and forks a child for it (child.c); it touches no path itself and so never hangs. May
 * hold the sockets that are being handed on; must never see a byte of an image or of a client, or make a socket.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/worker/worker.h"
#include "monitor/opener/child.h"

#define CHILD_SOCK 3

static int opener_setup(struct worker *worker, struct error *err)
{
    signal(SIGCHLD, SIG_IGN); /* nobody waits for the children */
    return 0;
}

/* Nothing of the opener's is left in the child but the socket of its task. */
static _Noreturn void become_child(int sock)
{
    if (dup2(sock, CHILD_SOCK) < 0)
        _exit(1);
    syscall(SYS_close_range, CHILD_SOCK + 1, ~0u, 0);
    child_run(CHILD_SOCK);
}

static int run_task(struct worker *worker, const void *message, int *fds)
{
    struct opener_reply reply = { .header.type = OPENER_REPLY };
    pid_t pid = fork();

    if (pid == 0)
        become_child(fds[0]);
    if (pid < 0) {
        struct error err = { 0 };

        reply.code = error_set(&err, -errno,
                               "cannot start a process to open files: %s (a limit on processes: "
                               "TasksMax=, LimitNPROC=, ulimit -u)",
                               strerror(errno));
        memcpy(reply.text, err.text, sizeof(reply.text));
        child_send(fds[0], &reply, -1);
    }
    return 0;
}

static void opener_drain(struct worker *worker)
{
    worker_exit(worker);
}

int main(int argc, char **argv)
{
    static const struct worker_message messages[] = {
        { IPC_OPENER_TASK, run_task },
    };
    static const struct worker_class class = {
        .ipc_role = IPC_ROLE_OPENER,
        .setup = opener_setup,
        .drain = opener_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &class);
}
