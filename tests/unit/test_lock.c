/* SPDX-License-Identifier: BSD-2-Clause */
/* The monitor's own lock-down: what it may still do, and what kills it. Each in a process of its own. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/sandbox/sandbox.h"
#include "tests/unit/one_worker.h"

/* The monitor is never root; a test may be. */
static void become_nobody(void)
{
    const unsigned nobody = 65534;

    if (geteuid() == 0 &&
        (setgroups(0, NULL) < 0 || setresgid(nobody, nobody, nobody) < 0 || setresuid(nobody, nobody, nobody) < 0))
        _exit(98);
}

/* Runs attempt() in a locked process; returns its wait status. What attempt() returns is the exit status. */
static int run_locked(int (*attempt)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = { 0 };

        become_nobody();
        if (sandbox_lock_monitor(&err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            _exit(99);
        }
        _exit(attempt());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_fine(int (*attempt)(void))
{
    int status = run_locked(attempt);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#ifndef WITH_SANITIZERS
static void assert_killed(int (*attempt)(void))
{
    int status = run_locked(attempt);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}
#endif

static int look_at_itself(void)
{
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                   prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2
               ? 0
               : 1;
}

/* A listener, a file with a lock, an event loop: a day's work. */
static int do_its_work(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "lock-test" };
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1 };
    struct event_base *base = event_base_new();
    char dir[] = "/tmp/bulkhead-test-XXXXXX";
    int listener;
    int file;
    int ok;

    if (base == NULL || mkdtemp(dir) == NULL || chdir(dir) < 0)
        return 1;
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    file = open("image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ok = listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         listen(listener, 5) == 0 && file >= 0 && ftruncate(file, 4096) == 0 && fcntl(file, F_OFD_SETLK, &lock) == 0 &&
         event_base_loop(base, EVLOOP_NONBLOCK) >= 0;
    unlink("image");
    unlink("lock-test");
    rmdir(dir);
    return ok ? 0 : 2;
}

static int call_a_kernel_of_the_future(void)
{
    return syscall(9999) == -1 && errno == ENOSYS ? 0 : 1;
}

static int make_a_packet_socket(void)
{
    return syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0) == -1 && errno == ENOSYS ? 0 : 1;
}

static int signal_another_process(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0) == -1 && errno == ENOSYS ? 0 : 1;
}

#ifndef WITH_SANITIZERS
static int call_ptrace(void)
{
    return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
}

static int call_execve(void)
{
    return execve("/bin/true", (char *[]){ NULL }, (char *[]){ NULL });
}
#endif

static int call_setns(void)
{
    return (int)syscall(SYS_setns, -1, 0);
}

static int call_setuid(void)
{
    return (int)syscall(SYS_setuid, getuid());
}

static void test_layers_are_in_force(void **state)
{
    assert_fine(look_at_itself);
}

static void test_it_can_do_its_work(void **state)
{
    assert_fine(do_its_work);
}

static void test_unknown_calls_fail_as_on_an_older_kernel(void **state)
{
    assert_fine(call_a_kernel_of_the_future);
    assert_fine(make_a_packet_socket);
    assert_fine(signal_another_process);
}

static void test_errors_attacks_kill(void **state)
{
    int status;

#ifndef WITH_SANITIZERS
    assert_killed(call_ptrace);
    assert_killed(call_execve);
#endif
    status = run_locked(call_setns);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = run_locked(call_setuid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

/* ---- Workers of a locked monitor ---- */

static struct one_worker one;

static int spawn_a_worker(void)
{
    if (one_worker_run(&one) < 0 || !one.ready) {
        fprintf(stderr, "%s\n", one.failure.text);
        return 1;
    }
    if (one.exit.exit_status != 0)
        return 2;
    return one.facts.layers == one.set->host_layers ? 0 : 3;
}

/* The filter is inherited, and must let a worker through its own lock-down with every layer. */
static void test_its_workers_get_every_layer(void **state)
{
    assert_int_equal(one_worker_open(&one), 0);
    assert_fine(spawn_a_worker);
    one_worker_close(&one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_are_in_force),
        cmocka_unit_test(test_it_can_do_its_work),
        cmocka_unit_test(test_unknown_calls_fail_as_on_an_older_kernel),
        cmocka_unit_test(test_errors_attacks_kill),
        cmocka_unit_test(test_its_workers_get_every_layer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
