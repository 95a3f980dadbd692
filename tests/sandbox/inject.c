/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Makes a thread of another process execute one system call, as an attacker would who has taken that thread over, and
 * tells what came of it. For tests only: needs root, ptrace and x86-64.
 *
 *     inject TID CALL [ARGUMENT...]
 *
 * An argument is a number, str:TEXT (the address of a string in the target), buf:HEX (of these bytes), or rights:FD (of
 * a struct msghdr, for sendmsg, with one byte and as many copies of a descriptor as may be). Prints one line, exit
 * status 0:
 *
 *     executed RESULT     the kernel did it
 *     refused ERRNO       the call returned an error
 *     trapped             SIGSYS was delivered to a handler; the call was not executed
 *     killed SIGNAL       the process died of it
 *
 * A thread that sleeps in a system call is stopped, and made to run the same syscall instruction again with other
 * registers. The seccomp filter is asked after the stop at system-call entry, so that it sees what the test put there.
 */
#include <ctype.h>
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_MAX  6
#define SCRATCH_BYTES  2048
#define BELOW_STACK    4096 /* below what the thread uses, red zone included */
#define RIGHTS_MAX     253  /* SCM_MAX_FD */
#define SYSCALL_STOP   (SIGTRAP | 0x80)
#define SYSCALL_OPCODE 0x050f
#define ATTEMPTS_MAX   1000 /* 5 ms apart */

#ifdef __x86_64__

struct call {
    long nr;
    unsigned long long arguments[ARGUMENTS_MAX];
    uint8_t scratch[SCRATCH_BYTES]; /* what pointers point to, placed at scratch_address */
    size_t scratch_used;
    unsigned long long scratch_address;
};

static void die(const char *what)
{
    fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- Arguments ---- */

static unsigned long long place(struct call *call, const void *bytes, size_t len_bytes)
{
    unsigned long long address = call->scratch_address + call->scratch_used;

    if (call->scratch_used + len_bytes > sizeof(call->scratch)) {
        fprintf(stderr, "inject: too many bytes\n");
        exit(1);
    }
    memcpy(call->scratch + call->scratch_used, bytes, len_bytes);
    call->scratch_used += (len_bytes + 15) & ~(size_t)15;
    return address;
}

static unsigned long long place_hex(struct call *call, const char *hex)
{
    uint8_t bytes[SCRATCH_BYTES];
    size_t len_bytes = 0;
    unsigned value;

    for (; isxdigit((unsigned char)hex[0]) && len_bytes < sizeof(bytes); hex += 2) {
        if (sscanf(hex, "%2x", &value) != 1)
            break;
        bytes[len_bytes++] = (uint8_t)value;
    }
    return place(call, bytes, len_bytes);
}

static unsigned long long place_rights(struct call *call, int fd)
{
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
    } control = {
        .header = { .cmsg_len = CMSG_LEN(RIGHTS_MAX * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS }
    };
    struct iovec iov = { .iov_len = 1 };
    struct msghdr message = { .msg_iovlen = 1, .msg_controllen = sizeof(control) };

    for (unsigned i = 0; i < RIGHTS_MAX; i++)
        memcpy(CMSG_DATA(&control.header) + i * sizeof(fd), &fd, sizeof(fd));
    iov.iov_base = (void *)(uintptr_t)place(call, "x", 1);
    message.msg_iov = (void *)(uintptr_t)place(call, &iov, sizeof(iov));
    message.msg_control = (void *)(uintptr_t)place(call, &control, sizeof(control));
    return place(call, &message, sizeof(message));
}

static unsigned long long parse_argument(struct call *call, const char *text)
{
    char *end;
    unsigned long long value;

    if (strncmp(text, "str:", 4) == 0)
        return place(call, text + 4, strlen(text + 4) + 1);
    if (strncmp(text, "buf:", 4) == 0)
        return place_hex(call, text + 4);
    if (strncmp(text, "rights:", 7) == 0)
        return place_rights(call, atoi(text + 7));
    value = text[0] == '-' ? (unsigned long long)strtoll(text, &end, 0) : strtoull(text, &end, 0);
    if (*end != '\0') {
        fprintf(stderr, "inject: '%s' is no number\n", text);
        exit(1);
    }
    return value;
}

static void parse_call(struct call *call, int argc, char **argv)
{
    char *end;

    call->nr = strtol(argv[0], &end, 0);
    if (*end != '\0')
        call->nr = seccomp_syscall_resolve_name(argv[0]);
    if (call->nr < 0) {
        fprintf(stderr, "inject: there is no system call '%s'\n", argv[0]);
        exit(1);
    }
    for (int i = 1; i < argc && i <= ARGUMENTS_MAX; i++)
        call->arguments[i - 1] = parse_argument(call, argv[i]);
}

/* ---- The thread ---- */

/* Waits for a stop; prints the end of the process and exits if that is what comes. */
static int wait_stop(pid_t tid)
{
    int status;

    if (waitpid(tid, &status, __WALL) != tid)
        die("waitpid");
    if (WIFSIGNALED(status)) {
        printf("killed %s\n", sigabbrev_np(WTERMSIG(status)));
        exit(0);
    }
    if (WIFEXITED(status)) {
        /* Another thread died of it, or a handler ended the process. */
        printf("killed exit-%d\n", WEXITSTATUS(status));
        exit(0);
    }
    return status;
}

/* Whether the thread stands just behind a syscall instruction. */
static bool is_in_syscall(pid_t tid, const struct user_regs_struct *regs)
{
    return (ptrace(PTRACE_PEEKTEXT, tid, regs->rip - 2, NULL) & 0xffff) == SYSCALL_OPCODE;
}

/* A thread that is caught at work between two calls, as on a busy machine, is let run to the next one. */
static void stop_in_syscall(pid_t tid, struct user_regs_struct *ret_regs)
{
    const struct timespec pause = { .tv_nsec = 5 * 1000 * 1000 };

    if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD) < 0)
        die("PTRACE_SEIZE");
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++) {
        if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
            die("PTRACE_INTERRUPT");
        wait_stop(tid);
        if (ptrace(PTRACE_GETREGS, tid, NULL, ret_regs) < 0)
            die("PTRACE_GETREGS");
        if (is_in_syscall(tid, ret_regs))
            return;
        if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
            die("PTRACE_CONT");
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "inject: thread %d sleeps in no system call\n", (int)tid);
    exit(1);
}

static void write_memory(pid_t tid, unsigned long long address, const void *bytes, size_t len_bytes)
{
    struct iovec local = { (void *)(uintptr_t)bytes, len_bytes };
    struct iovec remote = { (void *)(uintptr_t)address, len_bytes };

    if (len_bytes > 0 && process_vm_writev(tid, &local, 1, &remote, 1, 0) != (ssize_t)len_bytes)
        die("process_vm_writev");
}

/* Runs the call up to its exit; returns the result. */
static long long execute(pid_t tid, const struct user_regs_struct *at_stop, const struct call *call)
{
    struct user_regs_struct regs = *at_stop;

    regs.rip = at_stop->rip - 2; /* the syscall instruction */
    regs.rax = (unsigned long long)call->nr;
    regs.orig_rax = (unsigned long long)-1; /* nothing to restart */
    regs.rdi = call->arguments[0];
    regs.rsi = call->arguments[1];
    regs.rdx = call->arguments[2];
    regs.r10 = call->arguments[3];
    regs.r8 = call->arguments[4];
    regs.r9 = call->arguments[5];
    if (ptrace(PTRACE_SETREGS, tid, NULL, &regs) < 0)
        die("PTRACE_SETREGS");
    for (unsigned stops = 0; stops < 2;) { /* entry, exit */
        if (ptrace(PTRACE_SYSCALL, tid, NULL, NULL) < 0)
            die("PTRACE_SYSCALL");
        if (WSTOPSIG(wait_stop(tid)) == SYSCALL_STOP)
            stops++;
    }
    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        die("PTRACE_GETREGS");
    return (long long)regs.rax;
}

/* Whether SIGSYS waits for delivery: the filter forbade the call. */
static bool is_forbidden(pid_t tid)
{
    char path[64];
    char line[256];
    unsigned long long pending = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
    file = fopen(path, "re");
    if (file == NULL)
        die(path);
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "SigPnd: %llx", &pending) == 1)
            break;
    fclose(file);
    return (pending & (1ull << (SIGSYS - 1))) != 0;
}

/* Goes on with a forbidden call: the process dies at once, or the signal is for a handler. */
static void tell_forbidden(pid_t tid)
{
    for (;;) {
        int status;

        if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0 && errno != ESRCH)
            die("PTRACE_CONT");
        status = wait_stop(tid);
        if (WSTOPSIG(status) == SIGSYS && status >> 16 == 0) {
            printf("trapped\n");
            ptrace(PTRACE_DETACH, tid, NULL, SIGSYS);
            return;
        }
    }
}

static void tell(long long result)
{
    if (result < 0 && result > -4096)
        printf("refused %s\n", strerrorname_np((int)-result) != NULL ? strerrorname_np((int)-result) : "?");
    else
        printf("executed %lld\n", result);
}

int main(int argc, char **argv)
{
    static struct call call;
    struct user_regs_struct regs;
    uint8_t before[SCRATCH_BYTES];
    struct iovec local = { before, sizeof(before) };
    struct iovec remote;
    long long result;
    pid_t tid;

    if (argc < 3) {
        fprintf(stderr, "usage: inject TID CALL [ARGUMENT...]\n");
        return 2;
    }
    tid = atoi(argv[1]);
    stop_in_syscall(tid, &regs);
    call.scratch_address = (regs.rsp - BELOW_STACK - SCRATCH_BYTES) & ~0xfull;
    parse_call(&call, argc - 2, argv + 2);
    remote = (struct iovec){ (void *)(uintptr_t)call.scratch_address, sizeof(before) };
    if (process_vm_readv(tid, &local, 1, &remote, 1, 0) != sizeof(before))
        die("process_vm_readv");
    write_memory(tid, call.scratch_address, call.scratch, call.scratch_used);
    result = execute(tid, &regs, &call);
    if (is_forbidden(tid)) {
        tell_forbidden(tid);
        return 0;
    }
    /* As if nothing had been: the interrupted call is made again. */
    write_memory(tid, call.scratch_address, before, sizeof(before));
    if (ptrace(PTRACE_SETREGS, tid, NULL, &regs) < 0 || ptrace(PTRACE_DETACH, tid, NULL, NULL) < 0)
        die("cannot let go of the thread");
    tell(result);
    return 0;
}

#else

int main(void)
{
    fprintf(stderr, "inject: only for x86-64\n");
    return 77;
}

#endif
