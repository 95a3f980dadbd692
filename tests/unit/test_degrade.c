/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a worker does without when the host does not offer it, and what it does not do without. Each test is a process
 * in a user namespace of its own, whose limits and system calls it may spoil without anybody else noticing.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "common/sandbox/sandbox.h"
#include "tests/unit/one_worker.h"

#define EXIT_SKIP 77

static struct one_worker one;

static void no_log(enum log_level level, const char *text)
{
}

/* ---- Spoiling ---- */

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    close_fd(&fd);
    return ok;
}

/* A user namespace in which we are root, so that its limits are ours to set. */
static void enter_user_namespace(void)
{
    char uid_map[64];
    char gid_map[64];

    snprintf(uid_map, sizeof(uid_map), "0 %u 1", (unsigned)geteuid());
    snprintf(gid_map, sizeof(gid_map), "0 %u 1", (unsigned)getegid());
    if (unshare(CLONE_NEWUSER) < 0 || !write_text("/proc/self/setgroups", "deny") ||
        !write_text("/proc/self/uid_map", uid_map) || !write_text("/proc/self/gid_map", gid_map))
        _exit(EXIT_SKIP);
}

static void allow_no_more(const char *kind)
{
    char path[128];

    snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kind);
    if (!write_text(path, "0"))
        _exit(EXIT_SKIP);
}

/* As on a kernel without it: inherited by the worker, like a container's filter. */
static void take_call_away(const char *name)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);

    if (ctx == NULL || seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), seccomp_syscall_resolve_name(name), 0) < 0 ||
        seccomp_load(ctx) < 0)
        _exit(EXIT_SKIP);
    seccomp_release(ctx);
}

static void run_alone(void (*attempt)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        log_set_sink(no_log);
        enter_user_namespace();
        attempt();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == EXIT_SKIP)
        SKIP("this host does not allow a user namespace that can be spoilt");
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* cmocka's asserts belong to its own process. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: %s; %s\n", __LINE__, #condition, one.failure.text);                              \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* A worker starts, serves and ends, with all layers but these. */
static void expect_all_but(uint32_t missing)
{
    CHECK(one_worker_open(&one) == 0);
    CHECK(one.set->host_layers == (IPC_LAYERS_ALL & ~missing));
    CHECK(one_worker_run(&one) == 0);
    CHECK(one.ready && one.exit.exit_status == 0);
    CHECK(one.facts.layers == (IPC_LAYERS_ALL & ~missing));
    one_worker_close(&one);
}

/* ---- Done without ---- */

static void without_user_namespaces(void)
{
    allow_no_more("user");
    expect_all_but(SANDBOX_LAYERS_NAMESPACES | IPC_LAYER_EMPTY_ROOT);
}

static void without_mount_namespaces(void)
{
    allow_no_more("mnt");
    expect_all_but(IPC_LAYER_MOUNT_NS | IPC_LAYER_EMPTY_ROOT);
}

static void without_net_namespaces(void)
{
    allow_no_more("net");
    expect_all_but(IPC_LAYER_NET_NS);
}

static void without_landlock(void)
{
    take_call_away("landlock_create_ruleset");
    expect_all_but(IPC_LAYER_LANDLOCK);
}

static void without_io_uring(void)
{
    take_call_away("io_uring_setup");
    expect_all_but(0);
    CHECK(one.facts.engine == IPC_ENGINE_THREADS);
}

static void test_no_user_namespaces_means_no_other_ones(void **state)
{
    run_alone(without_user_namespaces);
}

static void test_no_mount_namespaces_means_no_empty_root(void **state)
{
    run_alone(without_mount_namespaces);
}

static void test_no_net_namespaces_costs_nothing_else(void **state)
{
    run_alone(without_net_namespaces);
}

static void test_no_landlock_costs_nothing_else(void **state)
{
    run_alone(without_landlock);
}

static void test_no_io_uring_means_threads(void **state)
{
    run_alone(without_io_uring);
}

/* ---- Not done without ---- */

static void with_a_limit_that_is_reached_later(void)
{
    CHECK(one_worker_open(&one) == 0);
    allow_no_more("net");
    CHECK(one_worker_run(&one) == -ENOSPC);
    CHECK(strstr(one.failure.text, "/proc/sys/user") != NULL);
    CHECK(worker_set_count(one.set) == 0);
}

static void without_seccomp(void)
{
    take_call_away("seccomp");
    CHECK(one_worker_open(&one) == 0);
    CHECK(one_worker_run(&one) == 0);
    CHECK(!one.ready && one.exit.exit_status == 1);
    CHECK(strstr(one.failure.text, "seccomp") != NULL);
}

static void test_errors_namespaces_refused_after_the_start(void **state)
{
    run_alone(with_a_limit_that_is_reached_later);
}

static void test_errors_no_seccomp_no_worker(void **state)
{
    run_alone(without_seccomp);
}

static void monitor_without_seccomp(void)
{
    take_call_away("seccomp");
    CHECK(sandbox_lock_monitor(&one.failure) < 0);
    CHECK(strstr(one.failure.text, "seccomp") != NULL);
}

static void test_errors_no_seccomp_no_monitor(void **state)
{
    run_alone(monitor_without_seccomp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_user_namespaces_means_no_other_ones),
        cmocka_unit_test(test_no_mount_namespaces_means_no_empty_root),
        cmocka_unit_test(test_no_net_namespaces_costs_nothing_else),
        cmocka_unit_test(test_no_landlock_costs_nothing_else),
        cmocka_unit_test(test_no_io_uring_means_threads),
        cmocka_unit_test(test_errors_namespaces_refused_after_the_start),
        cmocka_unit_test(test_errors_no_seccomp_no_worker),
        cmocka_unit_test(test_errors_no_seccomp_no_monitor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
