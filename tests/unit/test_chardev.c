/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <event2/event.h>

#include "monitor/qmp/chardev.h"
#include "monitor/qmp/commands.h"
#include "monitor/qmp/keyval.h"

struct monitor {
    struct event_base *base;
    struct qmp *qmp;
    struct chardev_set *set;
    char dir[64];
    char path[100];
};

struct qmp *monitor_qmp(struct monitor *monitor)
{
    return monitor->qmp;
}

static const struct qmp_command commands[] = {
    { "qmp_capabilities", &schema_qmp_capabilities_args, NULL, qmp_run_qmp_capabilities, QMP_COMMAND_PRECONFIG, "" },
};

static int setup(void **state)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    struct error err;

    strcpy(monitor->dir, "/tmp/bulkhead-test-XXXXXX");
    if (mkdtemp(monitor->dir) == NULL)
        return -1;
    snprintf(monitor->path, sizeof(monitor->path), "%s/qmp", monitor->dir);
    monitor->base = event_base_new();
    *state = monitor;
    if (qmp_new(monitor, monitor->base, commands, ARRAY_SIZE(commands), &monitor->qmp, &err) < 0)
        return -1;
    qmp_serve(monitor->qmp);
    return chardev_set_new(monitor->base, monitor->qmp, &monitor->set, &err);
}

static int teardown(void **state)
{
    struct monitor *monitor = *state;

    chardev_set_free(monitor->set);
    qmp_free(monitor->qmp);
    event_base_free(monitor->base);
    if (rmdir(monitor->dir) < 0) /* nothing is left in it */
        return -1;
    free(monitor);
    return 0;
}

/* ---- Helpers ---- */

/* Options as on the command line; @ stands for the path of the socket. */
static int add(struct monitor *monitor, const char *text, struct error *err)
{
    struct chardev_options options;
    char filled[300];
    const char *at = strchr(text, '@');
    int r;

    snprintf(filled, sizeof(filled), "%.*s%s%s", at != NULL ? (int)(at - text) : (int)strlen(text), text,
             at != NULL ? monitor->path : "", at != NULL ? at + 1 : "");
    memset(err, 0, sizeof(*err));
    r = keyval_decode(&keyval_chardev, filled, &schema_chardev_options, &options, err);
    if (r == 0)
        r = chardev_add(monitor->set, &options, err);
    schema_clear(&schema_chardev_options, &options);
    return r;
}

static int add_monitor(struct monitor *monitor, const char *text, struct error *err)
{
    struct monitor_options options;
    int r;

    memset(err, 0, sizeof(*err));
    r = keyval_decode(&keyval_monitor, text, &schema_monitor_options, &options, err);
    if (r == 0)
        r = chardev_add_monitor(monitor->set, &options, err);
    schema_clear(&schema_monitor_options, &options);
    return r;
}

static void assert_added(struct monitor *monitor, const char *text)
{
    struct error err;

    if (add(monitor, text, &err) < 0)
        fail_msg("%s: %s", text, err.text);
}

static int connect_to(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    strcpy(addr.sun_path, path);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static int listen_at(const char *path, int flags)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);

    strcpy(addr.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* What has come on fd after some turns of the loop. */
static const char *receive(struct monitor *monitor, int fd)
{
    static char text[4096];
    ssize_t n = -1;

    for (unsigned i = 0; i < 1000 && n < 0; i++) {
        event_base_loop(monitor->base, EVLOOP_NONBLOCK);
        n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
    }
    text[MAX(n, 0)] = '\0';
    return text;
}

static void assert_greeted(struct monitor *monitor, int fd)
{
    assert_non_null(strstr(receive(monitor, fd), "\"QMP\""));
}

/* ---- Servers ---- */

static void test_a_server_takes_several_clients(void **state)
{
    struct monitor *monitor = *state;
    struct error err;
    int fds[3];

    assert_added(monitor, "socket,id=c,path=@,server=on,wait=off");
    assert_int_equal(add_monitor(monitor, "c", &err), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = connect_to(monitor->path);
        assert_greeted(monitor, fds[i]);
    }
    assert_int_equal(qmp_session_count(monitor->qmp), 3);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
        close(fds[i]);
    receive(monitor, -1);
    assert_int_equal(qmp_session_count(monitor->qmp), 0);
}

static void test_clients_that_come_before_the_monitor_wait(void **state)
{
    struct monitor *monitor = *state;
    struct error err;
    int fds[6]; /* more than may wait */

    assert_added(monitor, "socket,id=c,path=@,server,nowait");
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = connect_to(monitor->path);
        assert_string_equal(receive(monitor, fds[i]), "");
    }
    assert_int_equal(add_monitor(monitor, "chardev=c,mode=control,pretty=on,id=m", &err), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        assert_non_null(strstr(receive(monitor, fds[i]), "{\n    \"QMP\""));
        close(fds[i]);
    }
}

static void connect_once(evutil_socket_t fd, short what, void *arg)
{
    static int client = -1;

    close_fd(&client);
    if (arg != NULL)
        client = connect_to(arg);
}

static void test_a_waiting_server_starts_when_a_client_came(void **state)
{
    struct monitor *monitor = *state;
    struct timeval soon = { 0, 20000 };

    event_base_once(monitor->base, -1, EV_TIMEOUT, connect_once, monitor->path, &soon);
    assert_added(monitor, "socket,id=c,path=@,server=on");
    connect_once(-1, 0, NULL);
}

static void break_loop(evutil_socket_t fd, short what, void *arg)
{
    event_base_loopbreak(arg);
}

static void test_the_wait_can_be_ended(void **state)
{
    struct monitor *monitor = *state;
    struct timeval soon = { 0, 20000 };
    struct error err;
    struct stat st;

    event_base_once(monitor->base, -1, EV_TIMEOUT, break_loop, monitor->base, &soon);
    assert_int_equal(add(monitor, "socket,id=c,path=@,server=on,wait=on", &err), -EINTR);
    assert_string_equal(err.text, "chardev 'c': interrupted while waiting for a client");
    assert_int_equal(stat(monitor->path, &st), -1);
}

static void test_an_inherited_socket_can_listen(void **state)
{
    struct monitor *monitor = *state;
    struct error err;
    char text[100];
    int listener = listen_at(monitor->path, 0);
    int fd;

    snprintf(text, sizeof(text), "socket,id=c,fd=%d,server=on,wait=off", listener);
    assert_added(monitor, text);
    assert_int_equal(add_monitor(monitor, "c", &err), 0);
    fd = connect_to(monitor->path);
    assert_greeted(monitor, fd);
    close(fd);
    unlink(monitor->path); /* the path is its maker's */
}

/* ---- Clients ---- */

static void test_a_chardev_connects_unless_told_otherwise(void **state)
{
    struct monitor *monitor = *state;
    struct error err;
    int listener = listen_at(monitor->path, SOCK_CLOEXEC);
    int fd;

    assert_added(monitor, "socket,id=c,path=@");
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(add_monitor(monitor, "c", &err), 0);
    assert_greeted(monitor, fd);
    close(fd);
    close(listener);
    unlink(monitor->path);
}

static void test_an_inherited_socket_can_be_a_client(void **state)
{
    struct monitor *monitor = *state;
    struct error err;
    char text[100];
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    snprintf(text, sizeof(text), "socket,id=c,fd=%d", fds[1]);
    assert_added(monitor, text);
    assert_int_equal(add_monitor(monitor, "c", &err), 0);
    assert_greeted(monitor, fds[0]);
    close(fds[0]);
}

static void test_the_null_chardev_has_no_clients(void **state)
{
    struct error err;

    assert_added(*state, "null,id=n");
    assert_int_equal(add_monitor(*state, "n", &err), 0);
}

/* Descriptors 0 and 1 are replaced for a while. */
static void test_stdio_serves_one_client_and_is_left_as_it_was(void **state)
{
    struct monitor *monitor = *state;
    int saved_in = fcntl(0, F_DUPFD_CLOEXEC, 10);
    int saved_out = fcntl(1, F_DUPFD_CLOEXEC, 10);
    struct error err;
    char text[1000] = "";
    int in[2];
    int out[2];
    int r;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    dup2(in[0], 0);
    dup2(out[1], 1);
    r = add(monitor, "stdio,id=c", &err);
    if (r == 0)
        r = add_monitor(monitor, "c", &err);
    if (r == 0)
        r = add(monitor, "stdio,id=second", &err) == -EBUSY ? 0 : -1;
    if (r == 0)
        r = write(in[1], "{\"execute\":\"qmp_capabilities\"}", 30) == 30 ? 0 : -1;
    close(in[1]); /* the end of input */
    for (unsigned i = 0; i < 100; i++)
        event_base_loop(monitor->base, EVLOOP_NONBLOCK);
    if (r == 0 && ((fcntl(0, F_GETFL) | fcntl(1, F_GETFL)) & O_NONBLOCK))
        r = -1;
    dup2(saved_in, 0);
    dup2(saved_out, 1);
    close(saved_in);
    close(saved_out);
    close(in[0]);
    close(out[1]);
    assert_int_equal(r, 0);
    assert_true(read(out[0], text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "{\"return\": {}}\r\n"));
    assert_int_equal(read(out[0], text, sizeof(text)), 0);
    close(out[0]);
    assert_int_equal(qmp_session_count(monitor->qmp), 0);
}

/* Plain files cannot be waited for; a script of commands may be one. */
static void test_stdio_may_be_files(void **state)
{
    struct monitor *monitor = *state;
    int saved_in = fcntl(0, F_DUPFD_CLOEXEC, 10);
    int saved_out = fcntl(1, F_DUPFD_CLOEXEC, 10);
    FILE *in = tmpfile();
    FILE *out = tmpfile();
    struct error err;
    char text[1000] = "";
    int r;

    fputs("{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"nonsense\"}\n", in);
    fflush(in);
    rewind(in);
    dup2(fileno(in), 0);
    dup2(fileno(out), 1);
    r = add(monitor, "stdio,id=c", &err);
    if (r == 0)
        r = add_monitor(monitor, "c", &err);
    for (unsigned i = 0; i < 100; i++)
        event_base_loop(monitor->base, EVLOOP_NONBLOCK);
    dup2(saved_in, 0);
    dup2(saved_out, 1);
    close(saved_in);
    close(saved_out);
    assert_int_equal(r, 0);
    rewind(out);
    assert_true(fread(text, 1, sizeof(text) - 1, out) > 0);
    assert_non_null(strstr(text, "{\"return\": {}}\r\n"));
    assert_non_null(strstr(text, "CommandNotFound"));
    assert_int_equal(qmp_session_count(monitor->qmp), 0);
    fclose(in);
    fclose(out);
}

/* ---- Wrong options ---- */

static void test_wrong_options_are_refused(void **state)
{
    static const struct {
        const char *options;
        const char *text;
    } cases[] = {
        { "socket,id=1", "Parameter 'id' expects an identifier: a letter and then letters, digits, '-', '.' or '_'" },
        { "socket,id=used,path=@", "attempt to add duplicate property 'used': there is a chardev of that id already" },
        { "socket,id=c", "chardev 'c': a socket needs one of the options 'path', 'port' (with 'host') and 'fd'" },
        { "socket,id=c,path=@,port=1",
          "chardev 'c': a socket needs one of the options 'path', 'port' (with 'host') and 'fd'" },
        { "socket,id=c,host=h", "chardev 'c': Parameter 'port' is missing" },
        { "socket,id=c,path=@,telnet=on", "chardev 'c': option 'telnet' is not supported: leave it out" },
        { "socket,id=c,path=@,tls-creds=t", "chardev 'c': option 'tls-creds' is not supported: use a unix socket" },
        { "socket,id=c,path=@,reconnect=5",
          "chardev 'c': option 'reconnect' is not supported: set it to 0, or let the client connect (server=on)" },
        { "socket,id=c,path=@,wait=on", "chardev 'c': option 'wait' needs server=on" },
        { "socket,id=c,path=/nonexistent/socket",
          "chardev 'c': Failed to connect to '/nonexistent/socket': No such file or directory" },
        { "socket,id=c,fd=99", "chardev 'c': descriptor '99' is not a socket that was passed in: Bad file descriptor" },
        { "stdio,id=c,mux=on", "chardev 'c': option 'mux' is not supported: leave it out" },
        { "stdio,id=c,logfile=l", "chardev 'c': option 'logfile' is not supported: leave it out" },
        { "pty,id=c", "Parameter 'backend' does not accept value 'pty': qemu-storage-daemon has it, bulkhead does not "
                      "support it; there is 'socket', 'stdio' and 'null'" },
    };
    struct error err;

    assert_added(*state, "null,id=used");
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_true(add(*state, cases[i].options, &err) < 0);
        assert_string_equal(err.text, cases[i].text);
    }
}

static void test_wrong_monitors_are_refused(void **state)
{
    struct error err;

    assert_added(*state, "null,id=c");
    assert_int_equal(add_monitor(*state, "other", &err), -ENOENT);
    assert_string_equal(err.text, "chardev \"other\" not found: give its --chardev before");
    assert_int_equal(add_monitor(*state, "c,mode=readline", &err), -EINVAL);
    assert_string_equal(err.text, "option 'mode' must be 'control': there is no human monitor");
    assert_int_equal(add_monitor(*state, "c", &err), 0);
    assert_int_equal(add_monitor(*state, "c", &err), -EBUSY);
    assert_string_equal(err.text, "Device 'c' is in use: the chardev has a monitor already");
}

static void test_the_number_of_chardevs_is_limited(void **state)
{
    struct error err;
    char text[32];

    for (unsigned i = 0; i < CHARDEVS_MAX; i++) {
        snprintf(text, sizeof(text), "null,id=c%u", i);
        assert_added(*state, text);
    }
    assert_int_equal(add(*state, "null,id=more", &err), -EMFILE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_server_takes_several_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clients_that_come_before_the_monitor_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_waiting_server_starts_when_a_client_came, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_wait_can_be_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_inherited_socket_can_listen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_chardev_connects_unless_told_otherwise, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_inherited_socket_can_be_a_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_null_chardev_has_no_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_serves_one_client_and_is_left_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdio_may_be_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_options_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_monitors_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_number_of_chardevs_is_limited, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
