/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The row of the opener: it has what the account may do to paths, and next to nothing else. It and its children share one
 * filter: a child is a fork of it, after lock-down. No namespaces and no Landlock, since they would take the paths away.
 * What no row names kills the process, which is one child with one path, or the opener, which is replaced.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "common/base/util.h"
#include "common/sandbox/role-rows.h"

/* clang-format off */
static const struct sandbox_call task_calls[] = {
    CALL_EQ(clone, 0, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD),
    CALL(recvmsg), CALL(sendmsg), CALL(close), CALL(close_range), CALL(dup2), CALL(read), CALL(write),
    CALL(epoll_wait), CALL(epoll_pwait), CALL(epoll_pwait2), CALL(epoll_ctl),
};
SET(task, SANDBOX_ALLOW,
    "fork a child for each task (no thread, no namespace, and exec is missing); requests come in and descriptors go out on "
    "sockets that it was given");

static const struct sandbox_call path_calls[] = {
    CALL_WITHOUT_BITS(openat, 2, O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY)),
    CALL(statx), CALL(newfstatat), CALL(fstat), CALL(fstatfs), CALL(faccessat), CALL(faccessat2), CALL(access),
    CALL(readlink), CALL(readlinkat), CALL(getdents64), CALL(lseek), CALL(pread64), CALL(ftruncate),
    CALL_EQ(ioctl, 1, BLKGETSIZE64), CALL_EQ(ioctl, 1, BLKROGET),
    CALL_EQ(fcntl, 1, F_OFD_SETLK), CALL_EQ(fcntl, 1, F_OFD_GETLK), CALL_EQ(fcntl, 1, F_ADD_SEALS),
    CALL_EQ(fcntl, 1, F_GETFL), CALL(memfd_create), CALL(getuid), CALL(geteuid), CALL(getgid), CALL(getegid),
};
SET(path, SANDBOX_ALLOW,
    "open what is there (nothing is created), measure, lock and resize it; small files go to the monitor in a memfd; why a "
    "path cannot be opened is found out by looking at the folders on its way");

static const struct sandbox_call memory_calls[] = {
    CALL_WITHOUT_BITS(mmap, 2, PROT_EXEC), CALL_WITHOUT_BITS(mprotect, 2, PROT_EXEC), CALL(munmap),
    CALL_EQ(madvise, 2, MADV_DONTNEED), CALL(brk), CALL_EQ(mremap, 3, MREMAP_MAYMOVE),
};
SET(memory, SANDBOX_ALLOW, "malloc; never executable");

static const struct sandbox_call process_calls[] = {
    CALL(rt_sigreturn), CALL(rt_sigprocmask), CALL(restart_syscall), CALL(exit), CALL(exit_group), CALL(gettid),
    CALL(getpid), CALL_SELF(tgkill, 0), CALL(set_robust_list), CALL(rseq), SANDBOX_FUTEX_CALLS, CALL(sched_yield),
    CALL_EQ(prctl, 0, PR_SET_NAME), CALL_EQ(prctl, 0, PR_GET_SECCOMP),
    CALL(clock_gettime), CALL(gettimeofday), CALL(getrandom), CALL(clock_nanosleep), CALL(nanosleep),
};
SET(process, SANDBOX_ALLOW, "end, abort(), what fork() does in the child, clocks; seeing that the filter is in force");

#ifdef WITH_SANITIZERS
static const struct sandbox_call sanitizer_calls[] = {
    CALL(rt_sigaction), CALL(sigaltstack), CALL(sched_getaffinity), CALL(getrlimit), CALL(prlimit64), CALL(uname),
    CALL(sysinfo),      CALL(getrusage),
    CALL_EQ(madvise, 2, MADV_HUGEPAGE), CALL_EQ(madvise, 2, MADV_NOHUGEPAGE), CALL_EQ(madvise, 2, MADV_FREE),
    CALL_EQ(madvise, 2, MADV_DONTDUMP),
};
SET(sanitizer, SANDBOX_ALLOW, "the run-time of sanitizers; only in builds for tests");

static const struct sandbox_call sanitizer_refused_calls[] = {
    CALL(open), CALL(stat), CALL(lstat), CALL(getcwd), CALL(pipe), CALL(pipe2), CALL_EQ(ioctl, 1, TCGETS),
};
SET(sanitizer_refused, SANDBOX_REFUSE, "what the run-time of sanitizers tries for a report, and can do without");
#endif

static const struct sandbox_call_set *const opener_sets[] = {
    &set_task, &set_path, &set_memory, &set_process,
#ifdef WITH_SANITIZERS
    &set_sanitizer, &set_sanitizer_refused,
#endif
    NULL,
};

static const struct sandbox_rlimit opener_rlimits[] = {
    { RLIMIT_CORE, 0, false, false }, { RLIMIT_NOFILE, SANDBOX_EXPORT_FDS_MAX, false, false }, { RLIMIT_MSGQUEUE, 0, false, false },
    { RLIMIT_MEMLOCK, 0, true, false },
};

/* clang-format on */
const struct sandbox_role sandbox_role_opener = {
    .name = "opener",
    .program = "bulkhead-opener",
    .ipc_role = IPC_ROLE_OPENER,
    .layers = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_NON_DUMPABLE | IPC_LAYER_NO_CAPABILITIES | IPC_LAYER_RLIMITS |
              IPC_LAYER_SECCOMP,
    .required = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_SECCOMP,
    .call_sets = opener_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = opener_rlimits,
    .rlimit_count = ARRAY_SIZE(opener_rlimits),
};
