/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Last words. A trapped system call and an abort() leave a record on the status pipe, so that the event can say what
 * happened; then the process dies. Everything here is async-signal-safe, and nothing here protects anything: the call
 * has been refused already, and a process that has been taken over can write any record without it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/ipc/status.h"
#include "common/sandbox/sandbox.h"

#define WRITE_TRIES 1000 /* the pipe may be full, and the monitor about to read */

static int trap_status_fd = -1; /* a signal handler has no argument of ours */

static void write_record(const struct ipc_status *status)
{
    for (unsigned i = 0; i < WRITE_TRIES; i++) {
        if (status_write(trap_status_fd, status) != -EAGAIN)
            return;
        sched_yield();
    }
}

static void trapped(int signal, siginfo_t *info, void *context)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_BLOCKED;
    status.blocked.arch = info->si_arch;
    status.blocked.nr = info->si_syscall;
    write_record(&status);
    syscall(SYS_ptrace, 0, 0, 0, 0); /* in no role's table: the filter kills */
    _exit(128 + SIGSYS);
}

/*
 * In a pid namespace of its own a worker is its init, which ignores the SIGABRT that abort() sends (pid_namespaces(7));
 * with a handler it is delivered.
 */
static void aborted(int signal)
{
    static const char text[] = "abort() was called: a failed assertion, or the C library found the heap or stack damaged";
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_LOG;
    status.log.level = LOG_LEVEL_ERROR;
    memcpy(status.log.text, text, sizeof(text));
    write_record(&status);
    _exit(128 + SIGABRT);
}

int sandbox_report_traps(int status_fd, struct error *err)
{
    struct sigaction on_trap = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER };
    struct sigaction on_abort = { .sa_handler = aborted };

    trap_status_fd = status_fd;
    if (sigaction(SIGSYS, &on_trap, NULL) < 0 || sigaction(SIGABRT, &on_abort, NULL) < 0)
        return error_set(err, -errno, "cannot install signal handlers: %s", strerror(errno));
    return 0;
}
