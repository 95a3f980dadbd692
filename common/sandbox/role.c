/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rows of the workers: which system calls each role makes once it is locked down, and why. What is not here kills
 * the process. Add a call only with its reason, and as narrow as its arguments allow (docs/HACKING.md).
 *
 * After lock-down nothing is opened and nothing is created: no path, no socket, no process, no ring, no new kind of
 * descriptor. What a worker will ever need exists before it reads its first byte of an image or a client.
 */
#include "common/sandbox/role-rows.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/base/util.h"

/* clang-format off */
static const struct sandbox_call loop_calls[] = {
    CALL(epoll_pwait2), CALL(epoll_wait), CALL(epoll_pwait), SANDBOX_FUTEX_CALLS, CALL(read), CALL(write),
    CALL(epoll_ctl),    CALL(close),      CALL(sched_yield),
};
SET(loop, SANDBOX_ALLOW,
    "wait for descriptors and other threads (futexes that inherit no priority and move nobody to another queue); eventfds "
    "and the status pipe are read and written; clients are closed");

static const struct sandbox_call memory_calls[] = {
    CALL_WITHOUT_BITS(mmap, 2, PROT_EXEC),
    CALL_WITHOUT_BITS(mprotect, 2, PROT_EXEC),
    CALL(munmap),
    CALL_EQ(madvise, 2, MADV_DONTNEED),
    CALL(brk),
    CALL_EQ(mremap, 3, MREMAP_MAYMOVE),
};
SET(memory, SANDBOX_ALLOW,
    "malloc; never executable, so that no new code can be brought in, and never in the place of another mapping");

static const struct sandbox_call process_calls[] = {
    CALL(rt_sigreturn),    CALL(rt_sigprocmask), CALL(restart_syscall), CALL(exit),
    CALL(exit_group),      CALL(gettid),         CALL(getpid),          CALL_SELF(tgkill, 0),
    CALL(set_robust_list), CALL(rseq),           CALL_EQ(prctl, 0, PR_SET_NAME),
};
SET(process, SANDBOX_ALLOW,
    "end, return from a signal handler, abort() (a signal to itself only); a thread that was made before lock-down may "
    "still be on its way through the C library's start code: robust list, rseq, its name");

static const struct sandbox_call time_calls[] = {
    CALL(clock_gettime), CALL(clock_nanosleep), CALL(gettimeofday), CALL(nanosleep), CALL(getrandom),
};
SET(time, SANDBOX_ALLOW, "clocks where the vDSO cannot serve them, latencies, random numbers of the C library");

static const struct sandbox_call observe_calls[] = {
    CALL_EQ(prctl, 0, PR_GET_SECCOMP),
};
SET(observe, SANDBOX_ALLOW, "see for itself that the filter is in force; READY reports it");

static const struct sandbox_call control_calls[] = {
    CALL(recvmsg),
};
SET(control, SANDBOX_ALLOW,
    "control messages with descriptors come in; sendmsg is missing: a worker cannot pass a descriptor on, to nobody");

static const struct sandbox_call stream_calls[] = {
    CALL(recvfrom),
    CALL_EQ(sendto, 4, 0), /* no address: no datagram to somebody else */
    CALL(shutdown),
};
SET(stream, SANDBOX_ALLOW, "bytes of a peer's connected stream socket");

static const struct sandbox_call client_calls[] = {
    CALL(readv),
    CALL(writev),
    CALL(sendfile),
    CALL(splice),
    CALL_EQ(fcntl, 1, F_SETPIPE_SZ),
    CALL_EQ_BOTH(setsockopt, 1, IPPROTO_TCP, 2, TCP_NODELAY), /* no other one: some bring whole protocols with them */
    CALL_EQ(fcntl, 1, F_GETFL),
};
SET(client, SANDBOX_ALLOW,
    "NBD requests and replies in batches; what the page cache holds goes out without a copy, and large writes come in "
    "by way of a pipe that is there from the start");

static const struct sandbox_call directory_calls[] = {
    CALL_EQ(fcntl, 1, F_GET_SEALS),
    CALL(fstat),
    CALL_EQ(newfstatat, 3, AT_EMPTY_PATH), /* fstat() of the C library */
};
SET(directory, SANDBOX_ALLOW, "the export directory is a memfd; its size and seals are checked before it is mapped");

static const struct sandbox_call image_calls[] = {
    CALL(preadv2),
    CALL(pwritev2),
    CALL(io_uring_enter),
    CALL_EQ(io_uring_register, 1, IORING_UNREGISTER_FILES),
    CALL(pread64),
    CALL(pwrite64),
    CALL(fdatasync),
    CALL_EQ(fallocate, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
    CALL_EQ(fallocate, 1, FALLOC_FL_ZERO_RANGE),
    CALL_EQ(fallocate, 1, FALLOC_FL_KEEP_SIZE),
    CALL(lseek),
    CALL_EQ(fadvise64, 3, POSIX_FADV_WILLNEED),
#ifndef WITH_SANITIZERS /* whose set has it, for their stacks */
    CALL_EQ(madvise, 2, MADV_DONTDUMP),
#endif
    CALL_EQ(madvise, 2, MADV_POPULATE_READ),
    CALL(mincore),
    CALL(fstat),
    CALL_EQ(newfstatat, 3, AT_EMPTY_PATH),
    CALL_EQ(statx, 2, AT_EMPTY_PATH), /* the alignment that O_DIRECT wants */
    CALL(fstatfs),
    CALL_EQ(ioctl, 1, BLKDISCARD),
    CALL_EQ(ioctl, 1, BLKZEROOUT),
    CALL_EQ(ioctl, 1, BLKGETSIZE64),
    CALL_EQ(ioctl, 1, BLKSSZGET),
    CALL_EQ(ioctl, 1, BLKPBSZGET),
    CALL_EQ(ioctl, 1, BLKIOMIN),
    CALL_EQ(ioctl, 1, BLKIOOPT),
};
SET(image, SANDBOX_ALLOW,
    "I/O on image descriptors, by ring or by the pool's threads; a ring gives its files back at the end, and takes no other "
    "ones; holes, zeros and space without a change of size; images in memory are mapped; ioctls of a host device: its "
    "sizes, discard, zeros");

#ifdef WITH_SANITIZERS
static const struct sandbox_call sanitizer_calls[] = {
    CALL(rt_sigaction), CALL(sigaltstack), CALL(sched_getaffinity), CALL(getrlimit), CALL(prlimit64), CALL(uname),
    CALL(sysinfo),      CALL(getrusage),
    CALL_EQ(madvise, 2, MADV_HUGEPAGE), CALL_EQ(madvise, 2, MADV_NOHUGEPAGE), CALL_EQ(madvise, 2, MADV_FREE),
    CALL_EQ(madvise, 2, MADV_DONTDUMP),
};
SET(sanitizer, SANDBOX_ALLOW, "the run-time of sanitizers: signal stacks and sizes; only in builds for tests");

static const struct sandbox_call sanitizer_refused_calls[] = {
    CALL(openat), CALL(open), CALL(readlink), CALL(readlinkat), CALL(stat), CALL(lstat), CALL(access), CALL(getcwd),
    CALL(clone),  CALL(pipe), CALL(pipe2),    CALL_WITHOUT_BITS(statx, 2, AT_EMPTY_PATH),  CALL_EQ(ioctl, 1, TCGETS),
};
SET(sanitizer_refused, SANDBOX_REFUSE, "what the run-time of sanitizers tries for a report, and can do without");
#define SET_UNEXPECTED &set_sanitizer, &set_sanitizer_refused
#else
/*
 * Calls that no code of ours makes but that tell an attacker and give him next to nothing, and that the C library or
 * another one may start to make with its next version. They are as forbidden as all others; but the process says which
 * one it was before it dies, so that an operator's log names it.
 */
static const struct sandbox_call unexpected_calls[] = {
    CALL(sysinfo),
    CALL(uname),
    CALL(getrusage),
    CALL(times),
    CALL(getrlimit),
    CALL(prlimit64),
    CALL(sched_getaffinity),
    CALL(sched_getparam),
    CALL(sched_getscheduler),
    CALL(getcpu),
    CALL(getuid),
    CALL(geteuid),
    CALL(getgid),
    CALL(getegid),
    CALL(getppid),
    CALL(getcwd),
    CALL(readlink),
    CALL(readlinkat),
    CALL(stat),
    CALL(lstat),
    CALL_WITHOUT_BITS(statx, 2, AT_EMPTY_PATH),
    CALL_NE(newfstatat, 3, AT_EMPTY_PATH),
    CALL(access),
    CALL(faccessat),
    CALL(faccessat2),
    CALL(rt_sigaction),
    CALL(sigaltstack),
    CALL(membarrier),
    CALL(poll),
    CALL(ppoll),
    CALL(select),
    CALL(pselect6),
    CALL(sendmmsg),
    CALL(recvmmsg),
    CALL(getsockopt),
    CALL(getsockname),
    CALL(getpeername),
    CALL(clock_getres),
    CALL(time),
    CALL(getitimer),
    CALL(dup),
    CALL(dup2),
    CALL(dup3),
};
SET(unexpected, SANDBOX_TRAP, "made by nothing of ours, harmless, and worth a name in the log if a library makes one");
#define SET_UNEXPECTED &set_unexpected
#endif

/* Of all workers but those that send descriptors. */
static const struct sandbox_call unexpected_send_calls[] = {
    CALL(sendmsg),
};
SET(unexpected_send, SANDBOX_TRAP, "as unexpected");

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

static const struct sandbox_call vhost_calls[] = {
    CALL(sendmsg),
    CALL_EQ(statx, 2, AT_EMPTY_PATH | AT_STATX_DONT_SYNC),
    CALL_EQ(name_to_handle_at, 4, AT_EMPTY_PATH),
    CALL_EQ(fcntl, 1, F_GET_SEALS),
    CALL_EQ(readv, 2, 0), /* of nothing */
    CALL_EQ(writev, 2, 0),
    CALL_EQ(memfd_create, 1, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL),
    CALL_EQ(memfd_create, 1, MFD_CLOEXEC | MFD_ALLOW_SEALING),
    CALL_EQ(fallocate, 1, 0),
    CALL_EQ(fcntl, 1, F_ADD_SEALS),
    CALL_EQ(fcntl, 1, F_GETFL),
};
SET(vhost, SANDBOX_ALLOW,
    "what a front-end passed is looked at, without asking whoever is behind it; the inflight buffer is made, sealed, and "
    "its descriptor sent to the front-end, which is what sendmsg is for (docs/decisions/)");

static const struct sandbox_call door_calls[] = {
    CALL_EQ(accept4, 3, SOCK_CLOEXEC | SOCK_NONBLOCK),
    CALL_EQ_BOTH(socketpair, 0, AF_UNIX, 1, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK),
    CALL_EQ_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_SNDBUF),
    CALL(sendmsg),
    CALL_EQ(statx, 2, AT_EMPTY_PATH | AT_STATX_DONT_SYNC),
    CALL_EQ(name_to_handle_at, 4, AT_EMPTY_PATH),
    CALL_EQ(fcntl, 1, F_GET_SEALS),
    CALL_EQ(readv, 2, 0), /* of nothing */
    CALL_EQ(writev, 2, 0),
};
SET(door, SANDBOX_ALLOW,
    "front-ends are accepted on the listening socket; what they pass is looked at, without asking whoever is behind it, "
    "and sent on to the worker in a stream of its own for each front-end (docs/decisions/vhost-door.md)");

static const struct sandbox_call fuse_calls[] = {
    CALL(writev),
    CALL(ftruncate),
    CALL(splice),
    CALL_EQ(fcntl, 1, F_GETFL),
    CALL_EQ(fcntl, 1, F_SETPIPE_SZ),
    CALL_EQ(madvise, 2, MADV_COLLAPSE),
};
SET(fuse, SANDBOX_ALLOW,
    "requests of /dev/fuse are read, answers written, large ones by way of a pipe; what clients see can be resized");

static const struct sandbox_call signer_calls[] = {
    CALL(pread64),
};
SET(signer, SANDBOX_ALLOW, "the file with the keys is read, once; negotiators are answered on stream sockets");

static const struct sandbox_call_set *const signer_sets[] = {
    &set_loop,    &set_stream,  &set_signer,    &set_memory,    &set_process,         &set_time,
    &set_control, &set_observe, &set_directory, SET_UNEXPECTED, &set_unexpected_send, NULL,
};

static const struct sandbox_call_set *const negotiator_sets[] = {
    &set_loop,    &set_stream,    &set_memory,    &set_process,         &set_time, &set_control,
    &set_observe, &set_directory, SET_UNEXPECTED, &set_unexpected_send, NULL,
};

static const struct sandbox_call_set *const export_sets[] = {
    &set_loop, &set_stream,  &set_client,  &set_image,     &set_memory,          &set_process,
    &set_time, &set_control, &set_observe, SET_UNEXPECTED, &set_unexpected_send, NULL,
};

static const struct sandbox_call_set *const vhost_sets[] = {
    &set_loop,    &set_stream,  &set_image, &set_memory,    &set_process, &set_time,
    &set_control, &set_observe, &set_vhost, SET_UNEXPECTED, NULL,
};

static const struct sandbox_call_set *const door_sets[] = {
    &set_loop, &set_stream,  &set_door,    &set_memory,    &set_process,
    &set_time, &set_control, &set_observe, SET_UNEXPECTED, NULL,
};

static const struct sandbox_call_set *const fuse_sets[] = {
    &set_loop,    &set_image, &set_memory,    &set_process,         &set_time, &set_control,
    &set_observe, &set_fuse,  SET_UNEXPECTED, &set_unexpected_send, NULL,
};

/*
 * A worker needs its descriptors (0 to 4, loops, ring, image, clients), nothing else. The ring's kernel threads count as
 * processes, hence room for them; with ones's own user namespace only one's own count.
 */
static const struct sandbox_rlimit negotiator_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },     { RLIMIT_NOFILE, 32, false, false }, { RLIMIT_FSIZE, 0, false, false },
    { RLIMIT_MSGQUEUE, 0, false, false }, { RLIMIT_NPROC, 0, true, false },    { RLIMIT_MEMLOCK, 0, true, false },
};

static const struct sandbox_rlimit export_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },  { RLIMIT_NOFILE, SANDBOX_EXPORT_FDS_MAX, false, false },
    { RLIMIT_MSGQUEUE, 0, false, false },
    { RLIMIT_NPROC, 512, true, true }, { RLIMIT_MEMLOCK, 0, true, false },
};

static const struct sandbox_rlimit vhost_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },  { RLIMIT_NOFILE, SANDBOX_VHOST_FDS_MAX, .part = SANDBOX_VHOST_PART },
    { RLIMIT_MSGQUEUE, 0, false, false },
    { RLIMIT_NPROC, 512, true, true }, { RLIMIT_MEMLOCK, 0, true, false },
};

/* A message can bring 253 descriptors. */
static const struct sandbox_rlimit door_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },     { RLIMIT_NOFILE, SANDBOX_DOOR_FDS_MAX, .part = SANDBOX_DOOR_PART },
    { RLIMIT_FSIZE, 0, false, false },    { RLIMIT_MSGQUEUE, 0, false, false },
    { RLIMIT_NPROC, 0, true, false },     { RLIMIT_MEMLOCK, 0, true, false },
};

/* One descriptor for each handshake that is under way. */
static const struct sandbox_rlimit signer_rlimits[] = {
    { RLIMIT_CORE, 0, false, false },     { RLIMIT_NOFILE, 600, false, false }, { RLIMIT_FSIZE, 0, false, false },
    { RLIMIT_MSGQUEUE, 0, false, false }, { RLIMIT_NPROC, 0, true, false },     { RLIMIT_MEMLOCK, 0, true, false },
};

#define WORKER_REQUIRED (IPC_LAYER_NO_NEW_PRIVS | IPC_LAYER_SECCOMP)

/* clang-format on */
static const struct sandbox_role role_nbd_negotiator = {
    .name = "nbd-negotiator",
    .program = "bulkhead-nbd-negotiate",
    .ipc_role = IPC_ROLE_NBD_NEGOTIATOR,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = negotiator_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = negotiator_rlimits,
    .rlimit_count = ARRAY_SIZE(negotiator_rlimits),
};

static const struct sandbox_role role_nbd_export = {
    .name = "nbd-export",
    .program = "bulkhead-nbd-export",
    .ipc_role = IPC_ROLE_NBD_EXPORT,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = export_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = export_rlimits,
    .rlimit_count = ARRAY_SIZE(export_rlimits),
};

static const struct sandbox_role role_vhost = {
    .name = "vhost",
    .program = "bulkhead-vhost",
    .ipc_role = IPC_ROLE_VHOST,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = vhost_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = vhost_rlimits,
    .rlimit_count = ARRAY_SIZE(vhost_rlimits),
};

static const struct sandbox_role role_fuse = {
    .name = "fuse",
    .program = "bulkhead-fuse",
    .ipc_role = IPC_ROLE_FUSE,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = fuse_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = export_rlimits,
    .rlimit_count = ARRAY_SIZE(export_rlimits),
};

static const struct sandbox_role role_nbd_negotiator_tls = {
    .name = "nbd-negotiator-tls",
    .program = "bulkhead-nbd-negotiate-tls",
    .ipc_role = IPC_ROLE_NBD_NEGOTIATOR_TLS,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = negotiator_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = negotiator_rlimits,
    .rlimit_count = ARRAY_SIZE(negotiator_rlimits),
};

static const struct sandbox_role role_tls_signer = {
    .name = "tls-signer",
    .program = "bulkhead-tls-sign",
    .ipc_role = IPC_ROLE_TLS_SIGNER,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = signer_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = signer_rlimits,
    .rlimit_count = ARRAY_SIZE(signer_rlimits),
};

static const struct sandbox_role role_vhost_door = {
    .name = "vhost-door",
    .program = "bulkhead-vhost-door",
    .ipc_role = IPC_ROLE_VHOST_DOOR,
    .layers = IPC_LAYERS_ALL,
    .required = WORKER_REQUIRED,
    .call_sets = door_sets,
    .default_action = SANDBOX_KILL,
    .rlimits = door_rlimits,
    .rlimit_count = ARRAY_SIZE(door_rlimits),
};

const struct sandbox_role *const sandbox_roles[] = {
    &sandbox_role_monitor,
    &role_nbd_negotiator,
    &role_nbd_export,
    &role_vhost,
    &role_fuse,
    &role_nbd_negotiator_tls,
    &role_tls_signer,
    &sandbox_role_opener,
    &sandbox_role_resolver,
    &role_vhost_door,
    NULL,
};

const struct sandbox_role *sandbox_role_find(uint32_t ipc_role)
{
    for (unsigned i = 0; sandbox_roles[i] != NULL; i++)
        if (ipc_role != 0 && sandbox_roles[i]->ipc_role == ipc_role)
            return sandbox_roles[i];
    return NULL;
}

static const struct {
    uint32_t bit;
    const char *name;
} layer_names[] = {
    { IPC_LAYER_NO_NEW_PRIVS, "no-new-privs" },
    { IPC_LAYER_NON_DUMPABLE, "non-dumpable" },
    { IPC_LAYER_USER_NS, "user-namespace" },
    { IPC_LAYER_MOUNT_NS, "mount-namespace" },
    { IPC_LAYER_PID_NS, "pid-namespace" },
    { IPC_LAYER_NET_NS, "net-namespace" },
    { IPC_LAYER_IPC_NS, "ipc-namespace" },
    { IPC_LAYER_UTS_NS, "uts-namespace" },
    { IPC_LAYER_CGROUP_NS, "cgroup-namespace" },
    { IPC_LAYER_EMPTY_ROOT, "empty-root" },
    { IPC_LAYER_NO_CAPABILITIES, "no-capabilities" },
    { IPC_LAYER_RLIMITS, "rlimits" },
    { IPC_LAYER_LANDLOCK, "landlock" },
    { IPC_LAYER_SECCOMP, "seccomp" },
};

const char *sandbox_layer_name(uint32_t layer_bit)
{
    for (unsigned i = 0; i < ARRAY_SIZE(layer_names); i++)
        if (layer_names[i].bit == layer_bit)
            return layer_names[i].name;
    return NULL;
}
