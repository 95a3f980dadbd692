/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A worker's life from the monitor's side, with a real process in the real sandbox (stub-worker.c, which does what its
 * export id says): spawn, READY, messages, drain, and every way to end badly.
 */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/sandbox/sandbox.h"
#include "monitor/worker/worker-private.h"

#define WAIT_MAX_S 20

struct fixture {
    struct event_base *base;
    struct worker_set *set;
    struct worker_handle *worker;
    bool ready;
    bool failed;
    bool gone;
    struct ipc_status_ready facts;
    struct error failure;
    struct worker_exit exit;
    struct ipc_status status; /* the last one */
    unsigned statuses;
};

static unsigned log_lines;
static char last_log[LOG_TEXT_MAX];

static void count_log(enum log_level level, const char *text)
{
    log_lines++;
    snprintf(last_log, sizeof(last_log), "%s", text);
}

/* ---- Callbacks ---- */

static void on_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct fixture *f = opaque;

    assert_false(f->ready || f->failed || f->gone);
    f->ready = true;
    f->facts = *ready;
}

static void on_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    struct fixture *f = opaque;

    assert_false(f->ready || f->failed || f->gone);
    f->failed = true;
    f->failure = *err;
}

static int on_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct fixture *f = opaque;

    assert_false(f->gone);
    f->status = *status;
    f->statuses++;
    if (status->type == IPC_STATUS_IO_ERROR && worker_may_log(worker))
        log_error("as an export would");
    return 0;
}

static void on_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct fixture *f = opaque;

    assert_false(f->gone);
    assert_int_equal(worker_get_state(worker), WORKER_GONE);
    f->gone = true;
    f->exit = *why;
    f->worker = NULL;
}

static const struct worker_ops ops = { on_ready, on_failed, on_status, on_gone };

/* ---- Fixture ---- */

static struct sandbox_role stub_role;
static const struct sandbox_role *const roles[] = { &stub_role, NULL };

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char dir[512];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    struct error err;

    if (f == NULL || n < 0)
        return -1;
    dir[n] = '\0';
    *strrchr(dir, '/') = '\0';
    stub_role = *sandbox_role_find(IPC_ROLE_NBD_EXPORT);
    stub_role.program = "stub-worker";
    log_set_sink(count_log);
    log_lines = 0;
    last_log[0] = '\0';
    f->base = event_base_new();
    if (worker_set_new_from(f->base, roles, dir, &f->set, &err) < 0)
        return -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    worker_set_free(f->set);
    event_base_free(f->base);
    free(f);
    log_set_sink(NULL);
    return 0;
}

/* A worker without image descriptors: its one node is null-co. */
static struct ipc_boot *boot_of(const char *export_id)
{
    static struct ipc_boot boot;

    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_EXPORT;
    boot.io_threads = 1;
    boot.node_count = 1;
    boot.export_flags = IPC_EXPORT_WRITABLE;
    boot.nodes[0] = (struct ipc_node){
        .driver = IPC_DRIVER_NULL_CO,
        .flags = IPC_NODE_HAS_SIZE,
        .fd_index = -1,
        .child_index = -1,
        .size_bytes = 1 << 20,
        .name = "null0",
    };
    snprintf(boot.export_id, sizeof(boot.export_id), "%s", export_id);
    return &boot;
}

static void start(struct fixture *f, const char *export_id)
{
    struct error err = { 0 };

    if (worker_spawn(f->set, boot_of(export_id), NULL, &ops, f, &f->worker, &err) < 0)
        fail_msg("%s", err.text);
    assert_false(f->ready || f->failed || f->gone); /* only from the loop */
}

/* Runs the loop until *what; a test that waits too long fails. */
static void wait_for(struct fixture *f, const bool *what)
{
    uint64_t end = now_ns() + UINT64_C(1000000000) * WAIT_MAX_S;
    struct timeval tick = { .tv_usec = 50000 };
    struct event *timer = event_new(f->base, -1, EV_PERSIST, (event_callback_fn)(void (*)(void))log_get_level, NULL);

    event_add(timer, &tick);
    while (!*what && now_ns() < end)
        event_base_loop(f->base, EVLOOP_ONCE);
    event_free(timer);
    assert_true(*what);
}

static void start_and_wait(struct fixture *f, const char *export_id)
{
    start(f, export_id);
    wait_for(f, &f->ready);
}

static void assert_ended(struct fixture *f, int exit_status, int signal, const char *text)
{
    wait_for(f, &f->gone);
    assert_int_equal(f->exit.exit_status, exit_status);
    assert_int_equal(f->exit.signal, signal);
    if (strstr(f->exit.text, text) == NULL)
        fail_msg("'%s' does not say '%s'", f->exit.text, text);
    assert_int_equal(worker_set_count(f->set), 0);
}

/* ---- The good life ---- */

static void test_ready_tells_facts_and_layers(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    assert_int_equal(f->facts.size_bytes, 1 << 20);
    assert_int_equal(f->facts.export_flags, IPC_EXPORT_WRITABLE);
    assert_int_equal(f->facts.layers & stub_role.required, stub_role.required);
    /* What the host offers is in force, all of it. */
    assert_int_equal(f->facts.layers, f->set->host_layers);
    assert_int_equal(worker_get_state(f->worker), WORKER_RUNNING);
    assert_int_equal(worker_get_page(f->worker)->fds_images, 0);
    assert_int_equal(worker_get_page(f->worker)->fds_internal, f->facts.fd_count);
}

static void test_drain_ends_it_in_order(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    worker_drain(f->worker, 10000);
    assert_int_equal(worker_get_state(f->worker), WORKER_DRAINING);
    assert_ended(f, 0, 0, "in order");
    assert_true(f->exit.expected);
}

static void test_drain_before_ready_is_kept(void **state)
{
    struct fixture *f = *state;

    start(f, "ok");
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
    assert_false(f->ready || f->failed);
}

static void test_a_client_reaches_the_worker(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .client_id = 5, .export_serial = 1 } };
    int ends[2];
    char text[8] = { 0 };
    bool answered = false;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    start_and_wait(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), &ends[1], 1), 0);
    while (!answered) {
        event_base_loop(f->base, EVLOOP_ONCE);
        answered = f->statuses == 1;
    }
    assert_int_equal(f->status.client_gone.client_id, 5);
    assert_string_equal(f->status.client_gone.text, "served?"); /* made printable */
    assert_int_equal(read(ends[0], text, 5), 5);
    assert_string_equal(text, "hello");
    close(ends[0]);
    close(ends[1]);
}

static void test_the_c_library_lives_on_after_lock_down(void **state)
{
    struct fixture *f = *state;

    log_set_level(LOG_LEVEL_INFO);
    start(f, "libc");
    wait_for(f, &f->gone);
    assert_ended(f, 0, 0, "in order");
    assert_non_null(strstr(last_log, "libc worked"));
}

static void test_log_lines_are_bounded(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "flood");
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
    assert_true(log_lines > 10 && log_lines < 100);
}

static void test_io_errors_are_bounded(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 15 } };

    start_and_wait(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), (int[]){ 0 }, 1), 0);
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
    assert_int_equal(f->statuses, 2); /* one for 1000 errors, one for the client */
}

static void test_what_its_records_make_its_owner_log_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 16 } };

    start_and_wait(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), (int[]){ 0 }, 1), 0);
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
    assert_int_equal(f->statuses, 2001);
    assert_true(log_lines > 10 && log_lines < 100);
}

static void test_image_descriptors_are_the_only_ones_of_files(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = boot_of("ok");
    char path[] = "/tmp/bulkhead-test-XXXXXX";
    int image = mkstemp(path);
    unsigned files = 0;
    unsigned all = 0;
    char dir_path[64];
    struct dirent *entry;
    DIR *dir;

    assert_true(image >= 0 && ftruncate(image, 1 << 20) == 0);
    boot->nodes[0] = (struct ipc_node){ .driver = IPC_DRIVER_FILE, .child_index = -1, .name = "file0" };
    boot->image_fd_count = 1;
    assert_int_equal(worker_spawn(f->set, boot, &image, &ops, f, &f->worker, NULL), 0);
    wait_for(f, &f->ready);
    snprintf(dir_path, sizeof(dir_path), "/proc/%d/fd", (int)worker_get_pid(f->worker));
    dir = opendir(dir_path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char target[256] = "";

        if (entry->d_name[0] == '.')
            continue;
        all++;
        if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) > 0 && target[0] == '/' &&
            strcmp(target, "/dev/null") != 0)
            files++;
    }
    if (dir != NULL) {
        closedir(dir);
        assert_int_equal(all, f->facts.fd_count);
#ifndef WITH_SANITIZERS
        assert_int_equal(files, 1);
#endif
    }
    assert_int_equal(worker_get_page(f->worker)->fds_images, 1);
    unlink(path);
    close(image);
    if (dir == NULL)
        SKIP("a non-dumpable process shows its descriptors to root only");
}

/* ---- Ends ---- */

static void test_failed_start_is_told_once_and_printable(void **state)
{
    struct fixture *f = *state;

    start(f, "fail");
    wait_for(f, &f->failed);
    assert_int_equal(f->failure.code, -ENOMEDIUM);
    assert_string_equal(f->failure.text, "there is ?[31mnothing? to serve");
    assert_ended(f, 1, 0, "status 1");
    assert_false(f->ready);
}

static void test_crash_while_starting_is_a_failed_start(void **state)
{
    struct fixture *f = *state;

    start(f, "crash");
    wait_for(f, &f->failed);
    assert_non_null(strstr(f->failure.text, "ended while it started"));
#ifndef WITH_SANITIZERS
    assert_ended(f, -1, SIGSEGV, "signal 11 (Segmentation fault)");
    assert_non_null(strstr(last_log, "crashed with signal 11 at offset 0x"));
#else
    wait_for(f, &f->gone);
#endif
    assert_false(f->exit.expected);
}

static void test_kill_9_is_seen(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    kill(worker_get_pid(f->worker), SIGKILL);
    assert_ended(f, -1, SIGKILL, "signal 9 (Killed)");
    assert_false(f->exit.expected);
}

#ifndef WITH_SANITIZERS
/* It is the init of its pid namespace, which signals without a handler do not reach. */
static void test_a_fatal_signal_from_outside_is_fatal(void **state)
{
    static const int fatal[] = { SIGSEGV, SIGABRT };
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    kill(worker_get_pid(f->worker), fatal[0]);
    assert_ended(f, -1, SIGSEGV, "signal 11 (Segmentation fault)");
    *f = (struct fixture){ .base = f->base, .set = f->set };
    start_and_wait(f, "ok");
    kill(worker_get_pid(f->worker), fatal[1]);
    assert_ended(f, 128 + SIGABRT, 0, "abort()");
}
#endif

static void test_signals_of_a_terminal_are_not_for_workers(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    kill(worker_get_pid(f->worker), SIGINT);
    kill(worker_get_pid(f->worker), SIGTERM);
    kill(worker_get_pid(f->worker), SIGHUP);
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
}

static void test_exit_status_is_told(void **state)
{
    struct fixture *f = *state;

    start(f, "exit");
    assert_ended(f, 7, 0, "status 7");
    assert_true(f->failed);
}

static void test_abort_is_told(void **state)
{
    struct fixture *f = *state;

    start(f, "abort");
    assert_ended(f, 128 + SIGABRT, 0, "abort()");
    assert_non_null(strstr(last_log, "abort()"));
}

static void test_forbidden_call_kills(void **state)
{
    struct fixture *f = *state;

    start(f, "attack");
    assert_ended(f, -1, SIGSYS, "its sandbox killed it");
    assert_int_equal(f->exit.blocked_nr, -1);
}

#ifndef WITH_SANITIZERS
static void test_trapped_call_is_named(void **state)
{
    struct fixture *f = *state;

    start(f, "sysinfo");
    assert_ended(f, -1, SIGSYS, "the system call sysinfo, which its role does not have");
    assert_int_equal(f->exit.blocked_nr, SYS_sysinfo);
}
#endif

static void test_crash_on_a_message_is_seen(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 13 } };

    start_and_wait(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), (int[]){ 0 }, 1), 0);
    wait_for(f, &f->gone);
    assert_false(f->exit.expected);
}

static void test_message_that_the_role_refuses_ends_it(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 14 } };

    start_and_wait(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), (int[]){ 0 }, 1), 0);
    assert_ended(f, 1, 0, "status 1");
    assert_non_null(strstr(last_log, "CLIENT could not be handled"));
}

static void test_kill_by_the_owner_is_expected(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ok");
    worker_kill(f->worker, "the test says so");
    worker_kill(f->worker, "and again");
    assert_ended(f, -1, SIGKILL, "the monitor ended it: the test says so");
    assert_true(f->exit.expected);
}

static void test_drain_that_is_ignored_ends_in_sigkill(void **state)
{
    struct fixture *f = *state;

    start_and_wait(f, "ignore-drain");
    worker_drain(f->worker, 100);
    assert_ended(f, -1, SIGKILL, "did not finish its requests in time");
    assert_true(f->exit.expected);
}

static void test_drain_of_one_that_hangs_while_starting(void **state)
{
    struct fixture *f = *state;

    start(f, "hang");
    worker_drain(f->worker, 100);
    assert_ended(f, -1, SIGKILL, "did not finish");
    assert_false(f->ready || f->failed);
}

static void test_ready_of_one_that_was_found_dead_is_not_taken(void **state)
{
    struct fixture *f = *state;
    struct pollfd pfd;

    start(f, "ok");
    pfd = (struct pollfd){ .fd = f->worker->status_fd, .events = POLLIN };
    assert_int_equal(poll(&pfd, 1, WAIT_MAX_S * 1000), 1);
    f->worker->dying = true;
    assert_true(status_run(f->worker, 16));
    assert_false(f->ready);
    assert_int_equal(worker_get_state(f->worker), WORKER_CREATING);
    kill(worker_get_pid(f->worker), SIGKILL);
    wait_for(f, &f->gone);
    assert_false(f->ready);
}

/* The write end of a pipe that takes the place of the worker's status pipe, as if it had sent that to somebody. */
static int take_over_status_pipe(struct fixture *f)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    event_del(f->worker->status_event);
    assert_true(dup3(ends[0], f->worker->status_fd, O_CLOEXEC) >= 0);
    event_add(f->worker->status_event, NULL);
    close(ends[0]);
    return ends[1];
}

static int fill(int pipe_fd, int status_fd)
{
    struct ipc_status status = { .magic = IPC_MAGIC, .type = IPC_STATUS_LOG };
    int bytes = 0;

    while (write(pipe_fd, &status, sizeof(status)) > 0)
        ;
    assert_int_equal(ioctl(status_fd, FIONREAD, &bytes), 0);
    return bytes;
}

static int left_in(int status_fd)
{
    int bytes = 0;

    assert_int_equal(ioctl(status_fd, FIONREAD, &bytes), 0);
    return bytes;
}

static void test_whoever_has_the_status_pipe_of_a_lost_one_does_not_keep_the_monitor_busy(void **state)
{
    struct fixture *f = *state;
    int writer, full;

    start_and_wait(f, "ok");
    writer = take_over_status_pipe(f);
    kill(worker_get_pid(f->worker), SIGKILL);
    while (!worker_is_lost(f->worker))
        event_base_loop(f->base, EVLOOP_ONCE);
    fill(writer, f->worker->status_fd);
    while (left_in(f->worker->status_fd) > 0)
        event_base_loop(f->base, EVLOOP_ONCE);
    full = fill(writer, f->worker->status_fd);
    for (unsigned i = 0; i < 5; i++)
        event_base_loop(f->base, EVLOOP_NONBLOCK);
    assert_int_equal(left_in(f->worker->status_fd), full);
    assert_false(f->gone);
    close(writer);
    wait_for(f, &f->gone);
}

/* ---- Broken protocol ---- */

static void assert_protocol_kill(struct fixture *f, const char *export_id, const char *text)
{
    start(f, export_id);
    assert_ended(f, -1, SIGKILL, text);
    assert_false(f->exit.expected);
    assert_false(f->ready);
    assert_true(f->failed);
}

static void test_errors_short_record(void **state)
{
    assert_protocol_kill(*state, "short-record", "it broke the protocol: status record of 5 bytes");
}

static void test_errors_unknown_record(void **state)
{
    assert_protocol_kill(*state, "wrong-type", "unknown status record type 77");
}

static void test_errors_record_in_the_wrong_state(void **state)
{
    assert_protocol_kill(*state, "wrong-state", "CLIENT_GONE: not in state 0");
}

static void test_errors_ready_without_required_layers(void **state)
{
    assert_protocol_kill(*state, "ready-without-layers", "READY was not accepted");
}

static void test_errors_closed_status_pipe(void **state)
{
    assert_protocol_kill(*state, "close-pipe", "closed its status pipe");
}

static void test_errors_control_socket_that_is_shut_down(void **state)
{
    assert_protocol_kill(*state, "shut-control", "shut its control socket down");
}

static void test_errors_control_socket_that_is_half_shut_down(void **state)
{
    assert_protocol_kill(*state, "stop-writing-control", "shut its control socket down");
}

static void test_errors_control_socket_that_is_written_to(void **state)
{
    assert_protocol_kill(*state, "write-control", "wrote to its control socket");
}

/* Which shows in what is sent to it. */
static void test_errors_control_socket_that_takes_nothing(void **state)
{
    struct timespec tick = { .tv_nsec = 10000000 };
    struct fixture *f = *state;
    struct ipc_drain drain;
    int r = 0;

    signal(SIGPIPE, SIG_IGN);
    start(f, "stop-reading-control");
    for (unsigned i = 0; i < 500 && r == 0; i++) {
        r = worker_send(f->worker, IPC_DRAIN, &drain, sizeof(drain), NULL, 0);
        nanosleep(&tick, NULL);
    }
    assert_int_equal(r, -EPIPE);
    assert_ended(f, -1, SIGKILL, "shut its control socket down");
    assert_false(f->exit.expected);
}

static void test_errors_messages_that_do_not_fit_are_not_sent(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 1 } };
    struct ipc_negotiate negotiate = { 0 };
    int fds[2] = { 0, 0 };

    start(f, "ok");
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), fds, 1), -EINVAL); /* state */
    wait_for(f, &f->ready);
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), fds, 2), -EINVAL);
    assert_int_equal(worker_send(f->worker, IPC_CLIENT, &client, sizeof(client) - 1, fds, 1), -EINVAL);
    assert_int_equal(worker_send(f->worker, IPC_NEGOTIATE, &negotiate, sizeof(negotiate), fds, 2), -EINVAL); /* role */
    worker_drain(f->worker, 10000);
    assert_ended(f, 0, 0, "in order");
}

static void test_errors_worker_that_does_not_read(void **state)
{
    struct fixture *f = *state;
    struct ipc_client client = { .negotiated = { .export_serial = 1 } };
    int r = 0;

    start_and_wait(f, "ok");
    kill(worker_get_pid(f->worker), SIGSTOP);
    for (unsigned i = 0; i < 100000 && r == 0; i++)
        r = worker_send(f->worker, IPC_CLIENT, &client, sizeof(client), (int[]){ 0 }, 1);
    assert_int_equal(r, -EAGAIN);
    assert_ended(f, -1, SIGKILL, "does not read its control socket");
    assert_false(f->exit.expected);
}

/* ---- Spawn ---- */

static void test_errors_boot_that_does_not_fit_is_not_sent(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = boot_of("ok");
    struct error err;

    boot->nodes[0].driver = 99;
    assert_int_equal(worker_spawn(f->set, boot, NULL, &ops, f, &f->worker, &err), -EPROTO);
    assert_non_null(strstr(err.text, "unknown driver 99"));
    assert_int_equal(worker_set_count(f->set), 0);
}

static void test_errors_unknown_role(void **state)
{
    struct fixture *f = *state;
    struct ipc_boot *boot = boot_of("ok");

    boot->role = IPC_ROLE_NBD_NEGOTIATOR; /* not in this set */
    assert_int_equal(worker_spawn(f->set, boot, NULL, &ops, f, &f->worker, NULL), -EINVAL);
}

static void test_errors_missing_binary(void **state)
{
    struct fixture *f = *state;
    struct worker_set *set = NULL;
    struct error err;

    assert_int_equal(worker_set_new_from(f->base, roles, "/nonexistent", &set, &err), -ENOENT);
    assert_non_null(strstr(err.text, "stub-worker"));
    assert_null(set);
}

static void test_freeing_the_set_ends_all(void **state)
{
    struct fixture *f = *state;
    pid_t pid;

    start_and_wait(f, "ignore-drain");
    pid = worker_get_pid(f->worker);
    worker_set_free(f->set);
    f->set = NULL;
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    assert_false(f->gone);
}

#define WORKER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORKER_TEST(test_ready_tells_facts_and_layers),
        WORKER_TEST(test_drain_ends_it_in_order),
        WORKER_TEST(test_drain_before_ready_is_kept),
        WORKER_TEST(test_a_client_reaches_the_worker),
        WORKER_TEST(test_the_c_library_lives_on_after_lock_down),
        WORKER_TEST(test_log_lines_are_bounded),
        WORKER_TEST(test_io_errors_are_bounded),
        WORKER_TEST(test_what_its_records_make_its_owner_log_is_bounded),
        WORKER_TEST(test_image_descriptors_are_the_only_ones_of_files),
        WORKER_TEST(test_failed_start_is_told_once_and_printable),
        WORKER_TEST(test_crash_while_starting_is_a_failed_start),
        WORKER_TEST(test_kill_9_is_seen),
#ifndef WITH_SANITIZERS
        WORKER_TEST(test_a_fatal_signal_from_outside_is_fatal),
#endif
        WORKER_TEST(test_signals_of_a_terminal_are_not_for_workers),
        WORKER_TEST(test_exit_status_is_told),
        WORKER_TEST(test_abort_is_told),
        WORKER_TEST(test_forbidden_call_kills),
#ifndef WITH_SANITIZERS
        WORKER_TEST(test_trapped_call_is_named),
#endif
        WORKER_TEST(test_crash_on_a_message_is_seen),
        WORKER_TEST(test_message_that_the_role_refuses_ends_it),
        WORKER_TEST(test_kill_by_the_owner_is_expected),
        WORKER_TEST(test_drain_that_is_ignored_ends_in_sigkill),
        WORKER_TEST(test_drain_of_one_that_hangs_while_starting),
        WORKER_TEST(test_ready_of_one_that_was_found_dead_is_not_taken),
        WORKER_TEST(test_whoever_has_the_status_pipe_of_a_lost_one_does_not_keep_the_monitor_busy),
        WORKER_TEST(test_errors_short_record),
        WORKER_TEST(test_errors_unknown_record),
        WORKER_TEST(test_errors_record_in_the_wrong_state),
        WORKER_TEST(test_errors_ready_without_required_layers),
        WORKER_TEST(test_errors_closed_status_pipe),
        WORKER_TEST(test_errors_control_socket_that_is_shut_down),
        WORKER_TEST(test_errors_control_socket_that_is_half_shut_down),
        WORKER_TEST(test_errors_control_socket_that_is_written_to),
        WORKER_TEST(test_errors_control_socket_that_takes_nothing),
        WORKER_TEST(test_errors_messages_that_do_not_fit_are_not_sent),
        WORKER_TEST(test_errors_worker_that_does_not_read),
        WORKER_TEST(test_errors_boot_that_does_not_fit_is_not_sent),
        WORKER_TEST(test_errors_unknown_role),
        WORKER_TEST(test_errors_missing_binary),
        WORKER_TEST(test_freeing_the_set_ends_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
