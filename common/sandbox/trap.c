/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Last words. A trapped system call, an abort() and a crash leave a record on the status pipe, so that the log can say
 * what happened; then the process dies. Everything here is async-signal-safe, and nothing here protects anything: the
 * call has been refused already, and a process that has been taken over can write any record without it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/ipc/status.h"
#include "common/sandbox/sandbox.h"

#define WRITE_TRIES 1000 /* the pipe may be full, and the monitor about to read */

static int trap_status_fd = -1; /* a signal handler has no argument of ours */
#ifndef WITH_SANITIZERS
static int *volatile trap_nowhere;
#endif

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
static void aborted(int signal, siginfo_t *info, void *context)
{
    static const char text[] =
        "abort() was called: a failed assertion, or the C library found the heap or stack damaged";
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_LOG;
    status.log.level = LOG_LEVEL_ERROR;
    memcpy(status.log.text, text, sizeof(text));
    write_record(&status);
    _exit(128 + SIGABRT);
}

#ifndef WITH_SANITIZERS                 /* whose run-time has handlers, and more to say */
extern const char __executable_start[]; /* by the linker */

static char *append_hex(char *to, uintptr_t value)
{
    unsigned digits = 1;

    while (digits < 2 * sizeof(value) && value >> (4 * digits) != 0)
        digits++;
    while (digits-- > 0)
        *to++ = "0123456789abcdef"[value >> (4 * digits) & 15];
    return to;
}

/* Where in the binary, for addr2line: the offset tells nothing of the address layout. */
static uintptr_t crash_offset(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP] - (uintptr_t)__executable_start;
#elif defined(__aarch64__)
    return (uintptr_t)context->uc_mcontext.pc - (uintptr_t)__executable_start;
#else
    return 0;
#endif
}

/*
 * The handler is gone when this runs (SA_RESETHAND): back at the instruction at fault, the signal comes again and is
 * fatal. One that somebody has sent, which the init of a pid namespace would ignore without a handler, gets a fault.
 */
static void crashed(int signal, siginfo_t *info, void *context)
{
    static const char text[] = "crashed with signal ";
    struct ipc_status status;
    char *to = status.log.text;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_LOG;
    status.log.level = LOG_LEVEL_ERROR;
    to = mempcpy(to, text, sizeof(text) - 1);
    if (signal >= 10)
        *to++ = (char)('0' + signal / 10);
    *to++ = (char)('0' + signal % 10);
    to = mempcpy(to, " at offset 0x", 13);
    append_hex(to, crash_offset(context));
    write_record(&status);
    if (info->si_code <= 0)
        *trap_nowhere = 0;
}
#endif

static int handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags, struct error *err)
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

    if (sigaction(signal, &action, NULL) < 0)
        return error_set(err, -errno, "cannot install a signal handler: %s", strerror(errno));
    return 0;
}

int sandbox_report_traps(int status_fd, struct error *err)
{
    int r;

    trap_status_fd = status_fd;
    r = handle(SIGSYS, trapped, SA_NODEFER, err);
    if (r == 0)
        r = handle(SIGABRT, aborted, 0, err);
#ifndef WITH_SANITIZERS
    static const int crashes[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

    for (unsigned i = 0; i < ARRAY_SIZE(crashes) && r == 0; i++)
        r = handle(crashes[i], crashed, SA_RESETHAND, err);
#endif
    return r;
}
