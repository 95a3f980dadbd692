/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The row of the monitor. It opens images, listens, and starts workers, so it may do far more than they; and since a
 * child inherits the filter, everything that a worker does before its own lock-down must be here too: its namespaces,
 * its empty root, exec with the dynamic linker, its threads and rings. What is left out: becoming or tracing another
 * process, the kernel's configuration, new executables by path, and every call whose only user would be an attacker.
 *
 * What no row names is answered as by a kernel that does not have it (docs/decisions/): the monitor is the one process
 * whose death ends all exports, and a new C library may try a new call first. Known attack surface kills.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/base/util.h"
#include "common/sandbox/role-rows.h"

/* clang-format off */
static const struct sandbox_call loop_calls[] = {
    CALL(epoll_wait),    CALL(epoll_pwait),   CALL(epoll_pwait2),     CALL(epoll_ctl),       CALL(epoll_create1),
    CALL(epoll_create),  CALL(eventfd2),      CALL(timerfd_create),   CALL(timerfd_settime), CALL(timerfd_gettime),
    CALL(poll),          CALL(ppoll),         CALL(select),           CALL(pselect6),        CALL(pipe),
    CALL(pipe2),         CALL(signalfd4),     CALL(read),             CALL(write),           CALL(readv),
    CALL(writev),        CALL(close),         CALL(close_range),      CALL(dup),             CALL(dup2),
    CALL(dup3),          CALL(fcntl),         CALL(clock_gettime),    CALL(clock_getres),    CALL(gettimeofday),
    CALL(setitimer),     CALL(time),          CALL(nanosleep),     CALL(clock_nanosleep),  CALL(getrandom),       CALL(restart_syscall),
};
SET(loop, SANDBOX_ALLOW, "the event loop and plain descriptors");

static const struct sandbox_call memory_calls[] = {
    CALL(mmap), CALL(mprotect), CALL(munmap), CALL_EQ(mremap, 3, MREMAP_MAYMOVE), CALL(brk), CALL(memfd_create),
    CALL_EQ(madvise, 2, MADV_DONTNEED), CALL_EQ(madvise, 2, MADV_FREE), CALL_EQ(madvise, 2, MADV_DONTDUMP),
    CALL_EQ(madvise, 2, MADV_HUGEPAGE), CALL_EQ(madvise, 2, MADV_NOHUGEPAGE), CALL_EQ(madvise, 2, MADV_POPULATE_READ),
    CALL_EQ(madvise, 2, MADV_COLLAPSE),
};
SET(memory, SANDBOX_ALLOW, "malloc, shared pages; executable too, since a child's dynamic linker needs it");

static const struct sandbox_call process_calls[] = {
    SANDBOX_FUTEX_CALLS,   CALL(set_robust_list), CALL(rseq),           CALL(sched_yield),       CALL(sched_getaffinity),
    CALL(rt_sigaction),    CALL(rt_sigprocmask),  CALL(rt_sigreturn),   CALL(rt_sigtimedwait),   CALL(sigaltstack),
    CALL(exit),            CALL(exit_group),      CALL(gettid),         CALL(getpid),            CALL(getppid),
    CALL(getpgrp),         CALL(getuid),          CALL(geteuid),        CALL(getgid),            CALL(getegid),
    CALL(getgroups),       CALL(getresuid),       CALL(getresgid),      CALL(uname),             CALL(sysinfo),
    CALL(getrusage),       CALL(prlimit64),       CALL(getrlimit),      CALL(setrlimit),         CALL(getcpu),
    CALL(times),           CALL(umask),           CALL(setsid),         CALL(membarrier),        CALL(getpriority),
    CALL_SELF(tgkill, 0),  CALL(capget),          CALL(sched_getparam), CALL(sched_getscheduler),
};
SET(process, SANDBOX_ALLOW, "facts about itself, signals to itself, limits of the children");

static const struct sandbox_call file_calls[] = {
    CALL(openat),    CALL(open),      CALL(newfstatat), CALL(fstat),      CALL(stat),       CALL(lstat),
    CALL(statx),     CALL(statfs),    CALL(fstatfs),    CALL(access),     CALL(faccessat),  CALL(faccessat2),
    CALL(readlink),  CALL(readlinkat), CALL(getdents64), CALL(getcwd),    CALL(chdir),      CALL(fchdir),
    CALL(lseek),     CALL(pread64),   CALL(preadv),     CALL(preadv2),    CALL(pwrite64),   CALL(pwritev),
    CALL(pwritev2),  CALL(ftruncate), CALL(fsync),       CALL(fdatasync),  CALL(fadvise64),
    CALL(flock),     CALL(unlink),    CALL(unlinkat),   CALL(rename),     CALL(renameat),   CALL(renameat2),
    CALL(link),      CALL(linkat),    CALL(mkdir),      CALL(mkdirat),    CALL(rmdir),      CALL(fchmod),    CALL(fchownat),
    CALL(chmod),     CALL(fchmodat),  CALL(sync_file_range), CALL(sendfile), CALL(splice),
    CALL(mincore),
    CALL_EQ(fallocate, 1, 0), CALL_EQ(fallocate, 1, FALLOC_FL_KEEP_SIZE), CALL_EQ(fallocate, 1, FALLOC_FL_ZERO_RANGE),
    CALL_EQ(fallocate, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
};
SET(file, SANDBOX_ALLOW, "open, lock and size images; pid file, sockets in the file system; the dynamic linker");

static const struct sandbox_call ioctl_calls[] = {
    CALL_EQ(ioctl, 1, FIONREAD),    CALL_EQ(ioctl, 1, FIONBIO),     CALL_EQ(ioctl, 1, FIOCLEX),
    CALL_EQ(ioctl, 1, TCGETS),      CALL_EQ(ioctl, 1, TIOCGWINSZ),  CALL_EQ(ioctl, 1, BLKGETSIZE64),
    CALL_EQ(ioctl, 1, BLKSSZGET),   CALL_EQ(ioctl, 1, BLKPBSZGET),  CALL_EQ(ioctl, 1, BLKIOMIN),
    CALL_EQ(ioctl, 1, BLKIOOPT),    CALL_EQ(ioctl, 1, BLKDISCARD),  CALL_EQ(ioctl, 1, BLKZEROOUT),
    CALL_EQ(ioctl, 1, BLKROGET),    CALL_EQ(ioctl, 1, BLKFLSBUF),
};
SET(ioctl, SANDBOX_ALLOW, "is this a terminal, how large is this device; what a worker's own filter allows");

static const struct sandbox_call socket_calls[] = {
    CALL_EQ(socket, 0, AF_UNIX), CALL_EQ(socket, 0, AF_INET), CALL_EQ(socket, 0, AF_INET6),
    CALL_EQ(socket, 0, AF_VSOCK),
    CALL_EQ(socket, 0, AF_NETLINK), /* getaddrinfo() asks for the host's addresses */
    CALL_EQ(socketpair, 0, AF_UNIX),
    CALL(bind), CALL(listen), CALL(accept4), CALL(accept), CALL(connect), CALL(shutdown), CALL(getsockname),
    CALL(getpeername), CALL(getsockopt), CALL(setsockopt), CALL(sendmsg), CALL(sendmmsg), CALL(recvmsg),
    CALL(recvmmsg), CALL(sendto), CALL(recvfrom),
};
SET(socket, SANDBOX_ALLOW, "QMP, listeners, control sockets, name resolution; no packet, raw or exotic families");

static const struct sandbox_call spawn_calls[] = {
    CALL(clone3), CALL(clone), /* namespaces are in a struct of clone3, out of a filter's reach */
    CALL_EQ(execveat, 4, AT_EMPTY_PATH),
    CALL(waitid), CALL(wait4), CALL(pidfd_send_signal), CALL(pidfd_open),
};
SET(spawn, SANDBOX_ALLOW,
    "start workers from binaries opened at start (execve by path is missing), supervise by pidfd");

static const struct sandbox_call confine_calls[] = {
    CALL(arch_prctl), CALL(set_tid_address), CALL(mount), CALL(umount2), CALL(pivot_root), CALL(capset),
    CALL(landlock_create_ruleset), CALL(landlock_restrict_self),
    CALL(io_uring_setup), CALL(io_uring_register), CALL(io_uring_enter),
    /* libseccomp asks for the strict mode with flags that it does not have, to see whether the call is there. */
    CALL_EQ(seccomp, 0, SECCOMP_SET_MODE_STRICT), CALL_EQ(seccomp, 0, SECCOMP_SET_MODE_FILTER),
    CALL_EQ(seccomp, 0, SECCOMP_GET_ACTION_AVAIL),
    CALL_EQ(prctl, 0, PR_SET_PDEATHSIG), CALL_EQ(prctl, 0, PR_GET_PDEATHSIG), CALL_EQ(prctl, 0, PR_SET_DUMPABLE),
    CALL_EQ(prctl, 0, PR_GET_DUMPABLE), CALL_EQ(prctl, 0, PR_SET_NAME), CALL_EQ(prctl, 0, PR_GET_NAME),
    CALL_EQ(prctl, 0, PR_SET_SECCOMP), CALL_EQ(prctl, 0, PR_GET_SECCOMP), CALL_EQ(prctl, 0, PR_SET_NO_NEW_PRIVS),
    CALL_EQ(prctl, 0, PR_GET_NO_NEW_PRIVS), CALL_EQ(prctl, 0, PR_CAPBSET_READ), CALL_EQ(prctl, 0, PR_CAPBSET_DROP),
    CALL_EQ(prctl, 0, PR_SET_SECUREBITS), CALL_EQ(prctl, 0, PR_GET_SECUREBITS), CALL_EQ(prctl, 0, PR_CAP_AMBIENT),
    CALL_EQ(prctl, 0, PR_SET_VMA),
};
SET(confine, SANDBOX_ALLOW,
    "what a worker does between exec and its own lock-down; every one of them only takes rights");

#ifdef WITH_SANITIZERS
static const struct sandbox_call sanitizer_calls[] = {
    CALL(execve), CALL(kill), CALL_EQ(personality, 0, 0xffffffff), CALL_EQ(prctl, 0, PR_SET_PTRACER),
    CALL_EQ(prctl, 0, PR_GET_KEEPCAPS), CALL(ptrace), CALL(process_vm_readv), CALL(getdents),
};
SET(sanitizer, SANDBOX_ALLOW,
    "the run-time of sanitizers at exit looks for leaks by tracing itself; only in builds for tests");
#endif

static const struct sandbox_call attack_calls[] = {
#ifndef WITH_SANITIZERS
    CALL(ptrace),
    CALL(process_vm_readv),
    CALL(execve),
#endif
    CALL(process_vm_writev),
    CALL(process_madvise),
    CALL(pidfd_getfd),
    CALL(kcmp),
    CALL(bpf),
    CALL(perf_event_open),
    CALL(userfaultfd),
    CALL(keyctl),
    CALL(add_key),
    CALL(request_key),
    CALL(setns),
    CALL(unshare),
    CALL(chroot),
    CALL(open_tree),
    CALL(move_mount),
    CALL(fsopen),
    CALL(fsconfig),
    CALL(fsmount),
    CALL(fspick),
    CALL(mount_setattr),
    CALL(open_by_handle_at),
    CALL(mknod),
    CALL(mknodat),
    CALL(kexec_load),
    CALL(kexec_file_load),
    CALL(init_module),
    CALL(finit_module),
    CALL(delete_module),
    CALL(reboot),
    CALL(swapon),
    CALL(swapoff),
    CALL(acct),
    CALL(quotactl),
    CALL(settimeofday),
    CALL(clock_settime),
    CALL(adjtimex),
    CALL(clock_adjtime),
    CALL(sethostname),
    CALL(setdomainname),
    CALL(syslog),
    CALL(fanotify_init),
    CALL(move_pages),
    CALL(migrate_pages),
    CALL(setuid),
    CALL(setgid),
    CALL(setreuid),
    CALL(setregid),
    CALL(setresuid),
    CALL(setresgid),
    CALL(setfsuid),
    CALL(setfsgid),
    CALL(setgroups),
#ifdef __x86_64__
    CALL(iopl),
    CALL(ioperm),
    CALL(modify_ldt),
#endif
};
SET(attack, SANDBOX_KILL, "reach into other processes, other namespaces or the kernel: nothing of ours ever does");

static const struct sandbox_call_set *const monitor_sets[] = {
    &set_loop,   &set_memory, &set_process, &set_file,      &set_ioctl, &set_socket, &set_spawn, &set_confine,
#ifdef WITH_SANITIZERS
    &set_sanitizer,
#endif
    &set_attack, NULL,
};

static const struct sandbox_rlimit monitor_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },
};

/* clang-format on */
const struct sandbox_role sandbox_role_monitor = {
    .name = "monitor",
    .program = NULL,
    .ipc_role = 0,
    .layers = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_NON_DUMPABLE | IPC_LAYER_NO_CAPABILITIES | IPC_LAYER_RLIMITS |
              IPC_LAYER_SECCOMP,
    .required = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_SECCOMP,
    .call_sets = monitor_sets,
    .default_action = SANDBOX_ABSENT,
    .rlimits = monitor_rlimits,
    .rlimit_count = ARRAY_SIZE(monitor_rlimits),
};
