/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * clone3 into new namespaces, descriptors into their places, exec. The child runs with the monitor's memory until exec,
 * so it calls nothing but system calls, and stays non-dumpable: no other process of the account can read that memory. It
 * holds the monitor's descriptors until its first steps, which close them. exec gives every worker its own address space
 * layout.
 */
#include "monitor/worker/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/ipc/status.h"
#include "common/sandbox/sandbox.h"

#define FIRST_HIGH_FD 16 /* above every place that a descriptor is to take */

extern char **environ;

/* ---- clone3 ---- */

static uint64_t clone_flags_of(uint32_t namespaces)
{
    uint64_t flags = 0;

    for (unsigned i = 0; i < IPC_NAMESPACES; i++)
        if ((namespaces & sandbox_namespaces[i].layer) != 0)
            flags |= sandbox_namespaces[i].clone_flag;
    return flags;
}

/* Like fork(); handlers are reset, so that no code of the monitor's runs in the child. */
static pid_t clone_process(uint32_t namespaces, int *ret_pidfd)
{
    int pidfd = -1;
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND | clone_flags_of(namespaces),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

    if (pid < 0)
        return -errno;
    if (pid > 0)
        *ret_pidfd = pidfd;
    return pid;
}

/* ---- In the child, before exec: system calls only ---- */

static void child_failed(int status_fd, const char *what) __attribute__((noreturn));
static void child_failed(int status_fd, const char *what)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_FAILED;
    status.failed.code = errno > 0 ? -errno : -EIO;
    memcpy(status.failed.text, what, MIN(strlen(what), sizeof(status.failed.text) - 1));
    status_write(status_fd, &status);
    _exit(127);
}

/* All descriptors first go where nothing is in the way, then to their places; the rest is closed, the binary's by exec.
 */
static int place_fds(const struct spawn_request *request, int *status_fd, bool keep_stdio)
{
    int null_fd = fcntl(request->null_fd, F_DUPFD_CLOEXEC, FIRST_HIGH_FD);
    int control_fd = fcntl(request->control_fd, F_DUPFD_CLOEXEC, FIRST_HIGH_FD);
    int binary_fd = fcntl(request->binary->fd, F_DUPFD_CLOEXEC, FIRST_HIGH_FD);
    int high_status_fd = fcntl(request->status_fd, F_DUPFD_CLOEXEC, FIRST_HIGH_FD);

    if (null_fd < 0 || control_fd < 0 || binary_fd < 0 || high_status_fd < 0)
        return -1;
    *status_fd = high_status_fd;
    for (int fd = 0; fd <= 2 && !keep_stdio; fd++) {
#ifdef WITH_SANITIZERS
        if (fd == 2) /* where reports go */
            break;
#endif
        if (dup2(null_fd, fd) < 0)
            return -1;
    }
    if (dup2(control_fd, 3) < 0 || dup2(high_status_fd, 4) < 0)
        return -1;
    *status_fd = 4;
    if (dup3(binary_fd, 5, O_CLOEXEC) < 0 || syscall(SYS_close_range, 6, ~0u, 0) < 0)
        return -1;
    return 5;
}

struct child_exec {
    const char *aid_path; /* developer aids: executed instead of the binary */
    char *const *argv;
    char *const *envp;
};

static void run_child(const struct spawn_request *request, const struct child_exec *exec) __attribute__((noreturn));
static void run_child(const struct spawn_request *request, const struct child_exec *exec)
{
    int status_fd = request->status_fd;
    sigset_t none;
    int binary_fd = place_fds(request, &status_fd, exec->aid_path != NULL);

    if (binary_fd < 0)
        child_failed(status_fd, "cannot put descriptors into their places");
    if ((request->namespaces & IPC_LAYER_USER_NS) != 0 && !sandbox_keep_capabilities())
        child_failed(status_fd, "cannot keep the capabilities over the new user namespace");
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (exec->aid_path != NULL)
        execve(exec->aid_path, exec->argv, exec->envp);
    else
        syscall(SYS_execveat, binary_fd, "", exec->argv, exec->envp, AT_EMPTY_PATH);
    child_failed(status_fd, "cannot execute the worker binary");
}

/* ---- Environment and developer aids ---- */

#define ENVIRONMENT_MAX 8

/* Empty, but for what the run-time of sanitizers reads. */
static char *const *environment(char *list[ENVIRONMENT_MAX])
{
    unsigned count = 0;

#ifdef WITH_DEVELOPER_AIDS
    return environ;
#endif
#ifdef WITH_SANITIZERS
    for (char **entry = environ; *entry != NULL && count < ENVIRONMENT_MAX - 1; entry++)
        if (strncmp(*entry, "ASAN_OPTIONS=", 13) == 0 || strncmp(*entry, "UBSAN_OPTIONS=", 14) == 0)
            list[count++] = *entry;
#endif
    list[count] = NULL;
    return list;
}

#ifdef WITH_DEVELOPER_AIDS
/* BULKHEAD_AID_NBD_EXPORT="valgrind -q": the command that a role runs under. */
static const char *aid_of(const struct sandbox_role *role)
{
    char name[64];
    char *at = name + snprintf(name, sizeof(name), "BULKHEAD_AID_");

    for (const char *from = role->name; *from != '\0' && at < name + sizeof(name) - 1; from++)
        *at++ = *from == '-' ? '_' : (char)(*from >= 'a' && *from <= 'z' ? *from - 'a' + 'A' : *from);
    *at = '\0';
    return getenv(name);
}
#endif

/* For the operator, behind the kernel's word. */
static const char *hint(int code)
{
    if (code == -EAGAIN)
        return " (a limit on processes: TasksMax=, LimitNPROC=, ulimit -u)";
    return code == -ENOSPC || code == -EUSERS ? " (a limit in /proc/sys/user on namespaces)" : "";
}

int spawn_process(const struct spawn_request *request, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
    char *list[ENVIRONMENT_MAX];
    char *argv[] = { (char *)(uintptr_t)request->role->program, (char *)(uintptr_t)request->title, NULL };
    struct child_exec exec = { .argv = argv, .envp = environment(list) };
    sigset_t all;
    sigset_t before;
    pid_t pid;

#ifdef WITH_DEVELOPER_AIDS
    char script[512];
    char *aid_argv[] = { (char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", script,
                         (char *)(uintptr_t)request->binary->path, NULL };

    if (aid_of(request->role) != NULL) {
        snprintf(script, sizeof(script), "exec %s \"$0\"", aid_of(request->role));
        exec.aid_path = "/bin/sh";
        exec.argv = aid_argv;
    }
#endif
    /* A signal for the monitor that arrives between clone3 and exec is the monitor's. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = clone_process(request->namespaces, ret_pidfd);
    if (pid == 0)
        run_child(request, &exec);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return error_set(err, pid, "cannot start a process of role %s: %s%s", request->role->name, strerror(-pid), hint(pid));
    *ret_pid = pid;
    return 0;
}

/* ---- Binaries ---- */

static int open_in(const char *dir, const struct sandbox_role *role, struct spawn_binary *ret)
{
    struct stat st;

    if (snprintf(ret->path, sizeof(ret->path), "%s/%s", dir, role->program) >= (int)sizeof(ret->path))
        return -ENAMETOOLONG;
    ret->fd = open(ret->path, O_PATH | O_CLOEXEC);
    if (ret->fd < 0)
        return -errno;
    if (fstat(ret->fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111) != 0)
        return 0;
    close_fd(&ret->fd);
    return -EACCES;
}

int spawn_binary_open(const struct sandbox_role *role, const char *dir, struct spawn_binary *ret_binary,
                      struct error *err)
{
    struct spawn_binary binary = { .fd = -1 };
    int r = open_in(dir, role, &binary);

    if (r < 0)
        r = open_in(LIBEXECDIR, role, &binary);
    if (r < 0)
        return error_set(err, r, "cannot find the worker binary %s, neither in %s nor in %s: %s", role->program, dir,
                         LIBEXECDIR, strerror(-r));
    *ret_binary = binary;
    return 0;
}

void spawn_binary_close(struct spawn_binary *binary)
{
    close_fd(&binary->fd);
}

/* ---- What the host offers ---- */

static void run_probe(const struct spawn_binary *binary, char *const *argv) __attribute__((noreturn));
static void run_probe(const struct spawn_binary *binary, char *const *argv)
{
    char *const none[] = { NULL };

    if (sandbox_keep_capabilities())
        syscall(SYS_execveat, binary->fd, "", argv, none, AT_EMPTY_PATH);
    _exit(127);
}

/*
 * Whether a worker with these namespaces can be made, and its account mapped. -EAGAIN: there may be no more processes
 * now, which says nothing about the host.
 */
static int probe(const struct spawn_binary *binary, uint32_t namespaces)
{
    _cleanup_close_ int pidfd = -1;
    char uid[16];
    char gid[16];
    char option[] = SANDBOX_TRY_IDS;
    char name[] = "bulkhead-try";
    char *const argv[] = { name, option, uid, gid, NULL };
    siginfo_t info = { 0 };
    pid_t pid;

    snprintf(uid, sizeof(uid), "%u", (unsigned)geteuid());
    snprintf(gid, sizeof(gid), "%u", (unsigned)getegid());
    pid = clone_process(namespaces, &pidfd);
    if (pid == 0)
        run_probe(binary, argv);
    if (pid < 0)
        return pid == -EAGAIN ? -EAGAIN : 0;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
        if (errno != EINTR)
            return 0;
    return info.si_code == CLD_EXITED && info.si_status == 0;
}

static int probe_each(const struct spawn_binary *binary, uint32_t *ret_offered)
{
    int r = probe(binary, IPC_LAYER_USER_NS);

    *ret_offered = r > 0 ? IPC_LAYER_USER_NS : 0;
    for (unsigned i = 0; i < IPC_NAMESPACES && *ret_offered != 0 && r >= 0; i++) {
        uint32_t layer = sandbox_namespaces[i].layer;

        if (layer == IPC_LAYER_USER_NS)
            continue;
        r = probe(binary, IPC_LAYER_USER_NS | layer);
        if (r > 0)
            *ret_offered |= layer;
    }
    return r;
}

int spawn_probe_namespaces(const struct spawn_binary *binary, uint32_t *ret_offered, struct error *err)
{
    uint32_t offered = SANDBOX_LAYERS_NAMESPACES;
    int r = probe(binary, SANDBOX_LAYERS_NAMESPACES);

    if (r == 0)
        r = probe_each(binary, &offered);
    if (r < 0)
        return error_set(err, r, "cannot start a process, to see what this host offers: %s%s", strerror(-r), hint(r));
    *ret_offered = offered;
    return 0;
}
