/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The row of the resolver, which has what the C library needs to find a host's addresses: the network, and the files that say
 * whom to ask. No network namespace and no empty root, since they would take these away. It holds nothing worth having, and
 * lives as long as one name takes.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/base/util.h"
#include "common/sandbox/role-rows.h"

/* clang-format off */
static const struct sandbox_call names_calls[] = {
    CALL_EQ(socket, 0, AF_INET), CALL_EQ(socket, 0, AF_INET6), CALL_EQ(socket, 0, AF_NETLINK),
    CALL(connect), CALL(bind), CALL(getsockname), CALL(getpeername), CALL_EQ(setsockopt, 1, IPPROTO_IP),
    CALL_EQ(setsockopt, 1, IPPROTO_IPV6), CALL(sendto), CALL(sendmmsg),
    CALL(recvfrom), CALL(recvmsg), CALL(poll), CALL(ppoll), CALL_EQ(ioctl, 1, FIONREAD),
    CALL_WITHOUT_BITS(openat, 2, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC),
    CALL(fstat), CALL(newfstatat), CALL(lseek), CALL(pread64), CALL(uname), CALL(getuid), CALL(geteuid), CALL(getgid),
    CALL(getegid), CALL(access), CALL(readlink), CALL_EQ(fcntl, 1, F_GETFL),
};
SET(names, SANDBOX_ALLOW,
    "ask name servers, by datagram and stream, and the kernel for the host's own addresses; read hosts, services, resolv.conf");

static const struct sandbox_call daemon_calls[] = {
    CALL_EQ(socket, 0, AF_UNIX),
};
SET(daemon, SANDBOX_REFUSE, "the C library looks for a daemon that caches names (nscd), and can do without");

static const struct sandbox_call loop_calls[] = {
    CALL(epoll_wait), CALL(epoll_pwait), CALL(epoll_pwait2), CALL(epoll_ctl), SANDBOX_FUTEX_CALLS, CALL(read), CALL(write),
    CALL(close), CALL(sched_yield),
};
SET(loop, SANDBOX_ALLOW, "wait for the control socket; the status pipe");

static const struct sandbox_call memory_calls[] = {
    CALL_WITHOUT_BITS(mmap, 2, PROT_EXEC), CALL_WITHOUT_BITS(mprotect, 2, PROT_EXEC), CALL(munmap),
    CALL_EQ(madvise, 2, MADV_DONTNEED), CALL(brk), CALL_EQ(mremap, 3, MREMAP_MAYMOVE),
};
SET(memory, SANDBOX_ALLOW, "malloc; never executable");

static const struct sandbox_call process_calls[] = {
    CALL(rt_sigreturn), CALL(rt_sigprocmask), CALL(restart_syscall), CALL(exit), CALL(exit_group), CALL(gettid),
    CALL(getpid), CALL_SELF(tgkill, 0), CALL(set_robust_list), CALL(rseq),
    CALL_EQ(prctl, 0, PR_SET_NAME), CALL_EQ(prctl, 0, PR_GET_SECCOMP),
    CALL(clock_gettime), CALL(gettimeofday), CALL(getrandom), CALL(clock_nanosleep), CALL(nanosleep),
};
SET(process, SANDBOX_ALLOW, "end, abort(), clocks; seeing that the filter is in force");

#ifdef WITH_SANITIZERS
static const struct sandbox_call sanitizer_calls[] = {
    CALL(rt_sigaction), CALL(sigaltstack), CALL(sched_getaffinity), CALL(getrlimit), CALL(prlimit64), CALL(sysinfo),
    CALL(getrusage),    CALL_EQ(madvise, 2, MADV_HUGEPAGE), CALL_EQ(madvise, 2, MADV_NOHUGEPAGE),
    CALL_EQ(madvise, 2, MADV_FREE), CALL_EQ(madvise, 2, MADV_DONTDUMP),
};
SET(sanitizer, SANDBOX_ALLOW, "the run-time of sanitizers; only in builds for tests");
#endif

static const struct sandbox_call_set *const resolver_sets[] = {
    &set_names, &set_daemon, &set_loop, &set_memory, &set_process,
#ifdef WITH_SANITIZERS
    &set_sanitizer,
#endif
    NULL,
};

static const struct sandbox_rlimit resolver_rlimits[] = {
    { RLIMIT_CORE, 0, false, false }, { RLIMIT_NOFILE, 64, false, false }, { RLIMIT_FSIZE, 0, false, false },
    { RLIMIT_MSGQUEUE, 0, false, false }, { RLIMIT_MEMLOCK, 0, true, false },
};

/* clang-format on */
const struct sandbox_role sandbox_role_resolver = {
    .name = "resolver",
    .program = "bulkhead-resolver",
    .ipc_role = IPC_ROLE_RESOLVER,
    .layers = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_NON_DUMPABLE | IPC_LAYER_NO_CAPABILITIES | IPC_LAYER_RLIMITS |
              IPC_LAYER_SECCOMP,
    .required = IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_SECCOMP,
    .call_sets = resolver_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = resolver_rlimits,
    .rlimit_count = ARRAY_SIZE(resolver_rlimits),
};
