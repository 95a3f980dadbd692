/* SPDX-License-Identifier: BSD-2-Clause */
/* A lint of the roles' table, and what a role's filter does to calls: each in a process of its own. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/ipc/status.h"
#include "common/sandbox/filter.h"
#include "common/sandbox/landlock.h"
#include "common/sandbox/sandbox.h"

/* ---- Lint ---- */

static void assert_text(const char *text)
{
    assert_non_null(text);
    assert_true(strlen(text) > 0);
}

static void lint_call(const struct sandbox_role *role, const struct sandbox_call *call)
{
    unsigned unconditional = 0;
    unsigned same_condition = 0;
    unsigned all = 0;

    assert_text(call->name);
    assert_int_not_equal(seccomp_syscall_resolve_name(call->name), __NR_SCMP_ERROR);
    assert_true(call->arg < 6 && call->also_arg < 6);
    assert_true(call->also_arg == 0 || (call->op != 0 && call->also_arg != call->arg));
    for (unsigned i = 0; role->call_sets[i] != NULL; i++) {
        for (unsigned k = 0; k < role->call_sets[i]->count; k++) {
            const struct sandbox_call *other = &role->call_sets[i]->calls[k];

            if (strcmp(other->name, call->name) != 0)
                continue;
            all++;
            unconditional += other->op == 0;
            same_condition += other->op == call->op && other->arg == call->arg && other->value_a == call->value_a &&
                              other->value_b == call->value_b &&
                              other->also_arg == call->also_arg && other->also_value == call->also_value;
        }
    }
    if (same_condition != 1 || (unconditional != 0 && all != 1))
        fail_msg("%s: '%s' has %u rows, %u of them without a condition", role->name, call->name, all, unconditional);
}

static void test_lint_of_the_roles(void **state)
{
    for (unsigned i = 0; sandbox_roles[i] != NULL; i++) {
        const struct sandbox_role *role = sandbox_roles[i];

        assert_text(role->name);
        assert_true((role->program == NULL) == (role->ipc_role == 0));
        assert_true((role->layers & ~IPC_LAYERS_ALL) == 0);
        assert_true((role->required & ~role->layers) == 0);
        assert_true((role->required & IPC_LAYER_SECCOMP) != 0);
        assert_true((role->required & IPC_LAYER_NO_NEW_PRIVS) != 0);
        assert_true(role->rlimit_count > 0);
        assert_true(role->default_action == SANDBOX_KILL || role == &sandbox_role_monitor);
        if (role->ipc_role != 0)
            assert_ptr_equal(sandbox_role_find(role->ipc_role), role);
        for (unsigned k = 0; role->call_sets[k] != NULL; k++) {
            assert_text(role->call_sets[k]->name);
            assert_text(role->call_sets[k]->why);
            assert_true(role->call_sets[k]->count > 0);
            for (unsigned c = 0; c < role->call_sets[k]->count; c++)
                lint_call(role, &role->call_sets[k]->calls[c]);
        }
    }
    assert_null(sandbox_role_find(0));
    assert_null(sandbox_role_find(99));
}

/*
 * What the role that hands out a buffer needs, the one that accepts its clients, the one that opens paths in children, and
 * what makes a ring let go of its files: with arguments pinned (role.c, role-opener.c).
 */
static bool is_excepted(const struct sandbox_role *role, const char *call)
{
    static const struct {
        uint32_t ipc_role;
        const char *call;
    } exceptions[] = {
        { IPC_ROLE_VHOST, "sendmsg" },  { IPC_ROLE_VHOST, "memfd_create" },
        { IPC_ROLE_VHOST_DOOR, "accept4" }, { IPC_ROLE_VHOST_DOOR, "sendmsg" }, { IPC_ROLE_VHOST_DOOR, "socketpair" },
        { IPC_ROLE_OPENER, "sendmsg" }, { IPC_ROLE_OPENER, "openat" },  { IPC_ROLE_OPENER, "memfd_create" },
        { IPC_ROLE_OPENER, "clone" },
        { IPC_ROLE_RESOLVER, "openat" }, { IPC_ROLE_RESOLVER, "socket" }, { IPC_ROLE_RESOLVER, "connect" },
        { IPC_ROLE_RESOLVER, "bind" },
    };

    if (strcmp(call, "io_uring_register") == 0)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(exceptions); i++)
        if (role->ipc_role == exceptions[i].ipc_role && strcmp(call, exceptions[i].call) == 0)
            return true;
    return false;
}

static void test_workers_are_not_allowed_what_opens_or_creates(void **state)
{
    static const char *const never[] = {
        "open",      "openat",   "openat2",  "creat",       "socket",           "socketpair",     "connect",
        "bind",      "listen",   "accept",   "accept4",     "sendmsg",          "clone",          "clone3",
        "fork",      "vfork",    "execve",   "execveat",    "ptrace",           "mount",          "unshare",
        "setns",     "kill",     "tkill",    "pidfd_open",  "io_uring_setup",   "io_uring_register", "memfd_create",
        "pipe",      "pipe2",    "eventfd2", "prlimit64",   "process_vm_readv", "bpf",            "seccomp",
        "open_tree", "shmget",   "keyctl",   "userfaultfd", "perf_event_open",  "capset",
    };

    for (unsigned i = 1; sandbox_roles[i] != NULL; i++)
        for (unsigned k = 0; sandbox_roles[i]->call_sets[k] != NULL; k++)
            for (unsigned c = 0; c < sandbox_roles[i]->call_sets[k]->count; c++)
                for (unsigned n = 0; n < ARRAY_SIZE(never); n++)
                    if (sandbox_roles[i]->call_sets[k]->action == SANDBOX_ALLOW &&
                        !is_excepted(sandbox_roles[i], never[n]))
#ifdef WITH_SANITIZERS
                        if (strcmp(never[n], "prlimit64") != 0)
#endif
                            assert_string_not_equal(sandbox_roles[i]->call_sets[k]->calls[c].name, never[n]);
}

static void test_every_layer_has_a_name(void **state)
{
    for (unsigned bit = 0; bit < 32; bit++)
        assert_true((sandbox_layer_name(1u << bit) != NULL) == ((IPC_LAYERS_ALL & (1u << bit)) != 0));
}

static void test_landlock_rights_grow_with_the_abi(void **state)
{
    struct landlock_rights before = { 0 };
    size_t size_before = 0;

    for (unsigned abi = 1; abi < 20; abi++) {
        size_t size;
        struct landlock_rights rights = landlock_rights_of(abi, &size);

        assert_true((before.fs & ~rights.fs) == 0 && (before.net & ~rights.net) == 0);
        assert_true((before.scoped & ~rights.scoped) == 0);
        assert_true(size >= size_before && size <= sizeof(rights));
        before = rights;
        size_before = size;
    }
    landlock_rights_of(0, &size_before);
    assert_int_equal(size_before, 0);
}

static void test_docs_have_every_layer_and_set(void **state)
{
    char page[65536] = "";
    char path[512];
    char name[64];
    FILE *file;

    if (getenv("srcdir") == NULL) /* set by `make check` */
        SKIP("srcdir is not set: run it by `make check`");
    snprintf(path, sizeof(path), "%s/docs/sandbox.md", getenv("srcdir"));
    file = fopen(path, "re");
    assert_non_null(file);
    assert_in_range(fread(page, 1, sizeof(page) - 1, file), 1, sizeof(page) - 2);
    fclose(file);
    for (unsigned bit = 0; bit < 32; bit++) {
        if (sandbox_layer_name(1u << bit) == NULL)
            continue;
        snprintf(name, sizeof(name), "`%s`", sandbox_layer_name(1u << bit));
        if (strstr(page, name) == NULL)
            fail_msg("%s does not name the layer %s", path, name);
    }
    for (unsigned i = 1; sandbox_roles[i] != NULL; i++) {
        assert_non_null(strstr(page, sandbox_roles[i]->name));
        for (unsigned k = 0; sandbox_roles[i]->call_sets[k] != NULL; k++) {
            snprintf(name, sizeof(name), "`%s`", sandbox_roles[i]->call_sets[k]->name);
#ifndef WITH_SANITIZERS
            if (strstr(page, name) == NULL)
                fail_msg("%s does not name the set %s", path, name);
#endif
        }
    }
}

/* ---- What a filter does ---- */

/* Runs attempt() under the filter of a role in a process of its own; returns its wait status. */
static int run_filtered(const struct sandbox_role *role, void (*attempt)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        if (sandbox_filter_load(role, false, NULL) < 0)
            _exit(99);
        attempt();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_killed(uint32_t ipc_role, void (*attempt)(void))
{
    int status = run_filtered(sandbox_role_find(ipc_role), attempt);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void assert_runs(uint32_t ipc_role, void (*attempt)(void))
{
    int status = run_filtered(sandbox_role_find(ipc_role), attempt);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void call_nothing(void)
{
}

static void call_socket(void)
{
    syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
}

static void call_ptrace(void)
{
    syscall(SYS_ptrace, 0, 0, 0, 0);
}

static void call_mmap(void)
{
    if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        _exit(1);
}

static void call_mmap_exec(void)
{
    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void call_mprotect_exec(void)
{
    mprotect((void *)((uintptr_t)call_mmap_exec & ~UINT64_C(4095)), 4096, PROT_READ | PROT_EXEC);
}

static void call_signal_to_itself(void)
{
    if (syscall(SYS_tgkill, getpid(), gettid(), 0) < 0)
        _exit(1);
}

static void call_signal_to_another(void)
{
    syscall(SYS_tgkill, 1, 1, 0);
}

static void call_sendto_without_address(void)
{
    send(-1, "", 1, MSG_NOSIGNAL);
}

static void call_sendto_with_address(void)
{
    struct sockaddr address = { .sa_family = AF_UNIX };

    sendto(-1, "", 1, MSG_NOSIGNAL, &address, sizeof(address));
}

static void call_nodelay(void)
{
    int one = 1;

    setsockopt(-1, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void call_upper_layer_protocol(void)
{
    setsockopt(-1, IPPROTO_TCP, TCP_ULP, "tls", 4);
}

static void call_socket_level_option(void)
{
    int one = 1;

    setsockopt(-1, SOL_SOCKET, SO_DEBUG, &one, sizeof(one)); /* the number of TCP_NODELAY */
}

static void call_pread(void)
{
    char byte;

    syscall(SYS_pread64, -1, &byte, 1, 0);
}

static void call_getfl(void)
{
    fcntl(0, F_GETFL);
}

static void call_setfl(void)
{
    fcntl(0, F_SETFL, 0);
}

static void test_filter_lets_a_role_live(void **state)
{
    for (unsigned i = 1; sandbox_roles[i] != NULL; i++) {
        assert_runs(sandbox_roles[i]->ipc_role, call_nothing);
        assert_runs(sandbox_roles[i]->ipc_role, call_mmap);
        assert_runs(sandbox_roles[i]->ipc_role, call_signal_to_itself);
        if (sandbox_roles[i]->ipc_role != IPC_ROLE_FUSE && sandbox_roles[i]->ipc_role != IPC_ROLE_OPENER)
            assert_runs(sandbox_roles[i]->ipc_role, call_sendto_without_address);
        /* Who only deals with sockets of the monitor's making has no need to look. */
        if (sandbox_roles[i]->ipc_role == IPC_ROLE_NBD_EXPORT)
            assert_runs(sandbox_roles[i]->ipc_role, call_getfl);
    }
}

/* Its clients are behind /dev/fuse: it has no socket but the control socket. */
static void test_fuse_role_sends_to_nobody(void **state)
{
    assert_killed(IPC_ROLE_FUSE, call_sendto_without_address);
}

static void test_errors_forbidden_calls_kill(void **state)
{
    for (unsigned i = 1; sandbox_roles[i] != NULL; i++) {
        if (sandbox_roles[i]->ipc_role != IPC_ROLE_RESOLVER) /* to which it is refused */
            assert_killed(sandbox_roles[i]->ipc_role, call_socket);
        assert_killed(sandbox_roles[i]->ipc_role, call_ptrace);
        assert_killed(sandbox_roles[i]->ipc_role, call_mmap_exec);
        assert_killed(sandbox_roles[i]->ipc_role, call_mprotect_exec);
        assert_killed(sandbox_roles[i]->ipc_role, call_signal_to_another);
        if (sandbox_roles[i]->ipc_role != IPC_ROLE_RESOLVER) /* which asks the kernel so for the host's addresses */
            assert_killed(sandbox_roles[i]->ipc_role, call_sendto_with_address);
        assert_killed(sandbox_roles[i]->ipc_role, call_setfl);
    }
}

/* TCP has options that attach kernel TLS, another congestion control or MPTCP's machinery: attack surface, no use. */
static void test_one_socket_option_is_left_to_one_role(void **state)
{
    assert_runs(IPC_ROLE_NBD_EXPORT, call_nodelay);
    assert_killed(IPC_ROLE_NBD_EXPORT, call_upper_layer_protocol);
    assert_killed(IPC_ROLE_NBD_EXPORT, call_socket_level_option);
    for (unsigned i = 1; sandbox_roles[i] != NULL; i++)
        if (sandbox_roles[i]->ipc_role != IPC_ROLE_NBD_EXPORT)
            assert_killed(sandbox_roles[i]->ipc_role, call_nodelay);
}

static void test_image_io_is_for_exports_only(void **state)
{
    assert_runs(IPC_ROLE_NBD_EXPORT, call_pread);
    assert_killed(IPC_ROLE_NBD_NEGOTIATOR, call_pread);
}

#ifdef __x86_64__
static void call_x32(void)
{
    syscall(0x40000000 + SYS_getpid);
}

static void call_i386(void)
{
    long r;

    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); /* getpid of the other architecture */
}

static void test_errors_other_architectures_kill(void **state)
{
    for (unsigned i = 0; sandbox_roles[i] != NULL; i++) {
        int status = run_filtered(sandbox_roles[i], call_x32);

        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
        status = run_filtered(sandbox_roles[i], call_i386);
        assert_true(WIFSIGNALED(status)); /* SIGSYS, or SIGSEGV on a kernel without it */
    }
}
#endif

/* ---- All threads ---- */

static void *call_socket_in_a_while(void *arg)
{
    char byte;

    if (read(*(int *)arg, &byte, 1) == 1)
        call_socket();
    return NULL;
}

static void test_filter_covers_threads_that_were_there_before(void **state)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        pthread_t thread;
        int ends[2];

        if (pipe(ends) < 0 || pthread_create(&thread, NULL, call_socket_in_a_while, &ends[0]) != 0)
            _exit(98);
        if (sandbox_filter_load(sandbox_role_find(IPC_ROLE_NBD_EXPORT), false, NULL) < 0)
            _exit(99);
        if (write(ends[1], "", 1) != 1)
            _exit(97);
        for (;;)
            sched_yield();
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

/* ---- Last words ---- */

static int last_words(void (*attempt)(void), struct ipc_status *ret, int *ret_wait_status)
{
    int monitor = -1;
    int worker = -1;
    pid_t pid;
    int r;

    assert_int_equal(status_pipe_new(&monitor, &worker, NULL), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (sandbox_report_traps(worker, NULL) < 0 ||
            sandbox_filter_load(sandbox_role_find(IPC_ROLE_NBD_EXPORT), false, NULL) < 0)
            _exit(99);
        attempt();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, ret_wait_status, 0), pid);
    close_fd(&worker);
    r = status_read(monitor, ret, NULL);
    close_fd(&monitor);
    return r;
}

#ifndef WITH_SANITIZERS
static void call_sysinfo(void)
{
    syscall(SYS_sysinfo, NULL);
}

static void test_a_trapped_call_is_named_and_fatal(void **state)
{
    struct ipc_status status;
    char name[32];
    int wait_status;

    assert_int_equal(last_words(call_sysinfo, &status, &wait_status), 1);
    assert_int_equal(status.type, IPC_STATUS_BLOCKED);
    sandbox_call_name(status.blocked.arch, status.blocked.nr, name, sizeof(name));
    assert_string_equal(name, "sysinfo");
    assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSYS);
}
#endif

static void test_abort_leaves_a_record(void **state)
{
    struct ipc_status status;
    int wait_status;

    assert_int_equal(last_words(abort, &status, &wait_status), 1);
    assert_int_equal(status.type, IPC_STATUS_LOG);
    assert_non_null(strstr(status.log.text, "abort()"));
    assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 128 + SIGABRT);
}

static void test_an_unknown_call_has_its_number_for_a_name(void **state)
{
    char name[32];

    sandbox_call_name(seccomp_arch_native(), 99999, name, sizeof(name));
    assert_string_equal(name, "number 99999");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lint_of_the_roles),
        cmocka_unit_test(test_workers_are_not_allowed_what_opens_or_creates),
        cmocka_unit_test(test_every_layer_has_a_name),
        cmocka_unit_test(test_landlock_rights_grow_with_the_abi),
        cmocka_unit_test(test_docs_have_every_layer_and_set),
        cmocka_unit_test(test_filter_lets_a_role_live),
        cmocka_unit_test(test_fuse_role_sends_to_nobody),
        cmocka_unit_test(test_errors_forbidden_calls_kill),
        cmocka_unit_test(test_one_socket_option_is_left_to_one_role),
        cmocka_unit_test(test_image_io_is_for_exports_only),
#ifdef __x86_64__
        cmocka_unit_test(test_errors_other_architectures_kill),
#endif
        cmocka_unit_test(test_filter_covers_threads_that_were_there_before),
#ifndef WITH_SANITIZERS
        cmocka_unit_test(test_a_trapped_call_is_named_and_fatal),
#endif
        cmocka_unit_test(test_abort_leaves_a_record),
        cmocka_unit_test(test_an_unknown_call_has_its_number_for_a_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
