/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "monitor/qmp/socket.h"
#include "tests/unit/passed.h"

struct fixture {
    char dir[64];
    char path[100];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->dir, "/tmp/bulkhead-test-XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/socket", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    unlink(f->path);
    if (rmdir(f->dir) < 0)
        return -1;
    free(f);
    return 0;
}

static struct socket_address unix_address(const char *path)
{
    return (struct socket_address){ .type = SOCKET_ADDRESS_UNIX, .unix_ = { .path = path, .tight = true } };
}

static struct socket_address inet_address(const char *host, const char *port)
{
    return (struct socket_address){ .type = SOCKET_ADDRESS_INET, .inet = { .host = host, .port = port } };
}

static int try_listen(const struct socket_address *addr, struct socket_listeners *ret_listeners, struct error *err)
{
    memset(err, 0, sizeof(*err));
    return socket_listen(addr, SOCKET_FD_INHERITED, SOCKET_REFUSES_DESCRIPTORS, ret_listeners, err);
}

/* Whether a client gets through. */
static void assert_connects(const struct socket_address *addr, const struct socket_listeners *listeners)
{
    struct error err = { 0 };
    char peer[100];
    int client = -1;
    int server = -EAGAIN;

    if (socket_connect(addr, SOCKET_FD_INHERITED, &client, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < listeners->count && server < 0; i++)
        server = socket_accept(listeners, listeners->fds[i]);
    assert_true(server >= 0);
    assert_int_equal(fcntl(server, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fcntl(server, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    socket_peer_name(server, peer, sizeof(peer));
    assert_string_not_equal(peer, "unknown");
    close(server);
    close(client);
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* ---- unix ---- */

static void test_a_unix_socket_is_removed_when_it_is_closed(void **state)
{
    struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners;
    struct error err;

    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    assert_int_equal(listeners.count, 1);
    assert_connects(&addr, &listeners);
    assert_int_equal(socket_accept(&listeners, listeners.fds[0]), -EAGAIN);
    socket_listeners_done(&listeners);
    assert_false(exists(f->path));
    socket_listeners_done(&listeners);
}

static void test_a_socket_of_somebody_else_at_the_path_is_not_removed(void **state)
{
    struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners first;
    struct socket_listeners second;
    struct error err;

    assert_int_equal(try_listen(&addr, &first, &err), 0);
    unlink(f->path);
    assert_int_equal(try_listen(&addr, &second, &err), 0);
    socket_listeners_done(&first);
    assert_true(exists(f->path));
    socket_listeners_done(&second);
    assert_false(exists(f->path));
}

static void test_a_stale_socket_is_replaced_and_a_live_one_refused(void **state)
{
    struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners;
    struct socket_listeners other;
    struct error err;
    char expected[200];

    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    snprintf(expected, sizeof(expected),
             "Failed to bind socket to %s: Address already in use by another program: end it or choose another path",
             f->path);
    assert_int_equal(try_listen(&addr, &other, &err), -EADDRINUSE);
    assert_string_equal(err.text, expected);
    close_fd(&listeners.fds[0]); /* as if it had been killed */
    assert_true(exists(f->path));
    assert_int_equal(try_listen(&addr, &other, &err), 0);
    assert_connects(&addr, &other);
    socket_listeners_done(&listeners);
    socket_listeners_done(&other);
}

static void test_a_file_that_is_no_socket_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners;
    struct error err;

    close(open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(try_listen(&addr, &listeners, &err), -EEXIST);
    assert_non_null(strstr(err.text, "exists and is not a socket"));
    assert_true(exists(f->path));
}

static void test_paths_that_cannot_be_are_refused(void **state)
{
    char path[110] = "";
    struct socket_address addr = unix_address(path);
    struct socket_listeners listeners;
    struct error err;

    memset(path, 'p', 108);
    path[108] = '\0';
    assert_int_equal(try_listen(&addr, &listeners, &err), -ENAMETOOLONG);
    assert_string_equal(err.text, "the path of the socket has 108 bytes, more than 107: "
                                  "'pppppppppppppppppppppppppppppppp...'");
    path[0] = '\0';
    assert_int_equal(try_listen(&addr, &listeners, &err), -EINVAL);
    addr = unix_address("/nonexistent/socket");
    assert_int_equal(try_listen(&addr, &listeners, &err), -ENOENT);
    assert_string_equal(err.text, "Failed to bind socket to /nonexistent/socket: No such file or directory");
}

static void test_an_abstract_socket_has_no_file(void **state)
{
    struct socket_address addr = unix_address("bulkhead-test-abstract");
    struct socket_address padded = unix_address("bulkhead-test-abstract");
    struct socket_listeners listeners;
    struct socket_listeners other;
    struct error err;
    int fd;

    addr.unix_.abstract = padded.unix_.abstract = true;
    padded.unix_.tight = false;
    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    assert_null(listeners.path);
    assert_connects(&addr, &listeners);
    assert_int_equal(socket_connect(&padded, SOCKET_FD_INHERITED, &fd, &err), -ECONNREFUSED);
    assert_int_equal(try_listen(&padded, &other, &err), 0); /* another name */
    assert_int_equal(try_listen(&addr, &other, &err), -EADDRINUSE);
    socket_listeners_done(&listeners);
    socket_listeners_done(&other);
}

/* Whether a client is refused at once; a copy of the listening socket is what a process has that is being started. */
static void assert_refused_despite_a_copy(const struct socket_address *addr, struct socket_listeners *listeners)
{
    int copy = fcntl(listeners->fds[0], F_DUPFD_CLOEXEC, 0);
    struct error err = { 0 };
    int fd = -1;

    assert_true(copy >= 0);
    socket_listeners_stop(listeners);
    assert_int_equal(socket_connect(addr, SOCKET_FD_INHERITED, &fd, &err), -ECONNREFUSED);
    socket_listeners_done(listeners);
    close(copy);
}

static void test_a_socket_that_stopped_refuses_while_another_process_has_it(void **state)
{
    struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    char path[110];
    struct socket_address other_name = unix_address(path);
    struct socket_listeners listeners;
    struct error err;

    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    snprintf(path, sizeof(path), "%s2", f->path);
    assert_int_equal(link(f->path, path), 0);
    assert_refused_despite_a_copy(&other_name, &listeners);
    assert_int_equal(access(f->path, F_OK), -1); /* removed while it listened, so that nobody took it for left over */
    unlink(path);
}

/* ---- inet ---- */

static uint16_t port_of(int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    uint16_t port;

    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    memcpy(&port, (char *)&addr + 2, 2); /* at the same place in both families */
    return (uint16_t)(port << 8 | port >> 8);
}

static void test_tcp_on_a_port_that_the_system_chooses(void **state)
{
    struct socket_address addr = inet_address("127.0.0.1", "0");
    struct socket_listeners listeners;
    struct error err;
    char port[8];

    addr.inet.numeric = true;
    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    assert_int_equal(listeners.count, 1);
    snprintf(port, sizeof(port), "%u", port_of(listeners.fds[0]));
    addr.inet.port = port;
    assert_connects(&addr, &listeners);
    socket_listeners_done(&listeners);
}

static void test_a_port_that_stopped_refuses_and_is_free_while_another_process_has_it(void **state)
{
    struct socket_address addr = inet_address("127.0.0.1", "0");
    struct socket_listeners listeners;
    struct socket_listeners again;
    struct error err;
    char port[8];
    int copy;

    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    snprintf(port, sizeof(port), "%u", port_of(listeners.fds[0]));
    addr.inet.port = port;
    copy = fcntl(listeners.fds[0], F_DUPFD_CLOEXEC, 0);
    assert_refused_despite_a_copy(&addr, &listeners);
    assert_int_equal(try_listen(&addr, &again, &err), 0);
    assert_connects(&addr, &again);
    socket_listeners_done(&again);
    close(copy);
}

static void test_all_addresses_of_a_name_have_the_same_port(void **state)
{
    struct socket_address addr = inet_address("", "0");
    struct socket_listeners listeners;
    struct error err;

    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    assert_in_range(listeners.count, 1, SOCKET_LISTENERS_MAX);
    for (unsigned i = 1; i < listeners.count; i++)
        assert_int_equal(port_of(listeners.fds[i]), port_of(listeners.fds[0]));
    socket_listeners_done(&listeners);
}

static void test_a_range_of_ports_gives_the_first_free_one(void **state)
{
    struct socket_address addr = inet_address("127.0.0.1", "0");
    struct socket_listeners first;
    struct socket_listeners second;
    struct error err;
    char port[8];
    unsigned number;

    assert_int_equal(try_listen(&addr, &first, &err), 0);
    number = port_of(first.fds[0]);
    snprintf(port, sizeof(port), "%u", number);
    addr.inet.port = port;
    assert_int_equal(try_listen(&addr, &second, &err), -EADDRINUSE);
    assert_non_null(
        strstr(err.text, "Failed to find an available port: Address already in use, host '127.0.0.1' port "));
    addr.inet.has_to = true;
    addr.inet.to = (uint16_t)MIN(number + 200, 65535u);
    assert_int_equal(try_listen(&addr, &second, &err), 0);
    assert_in_range(port_of(second.fds[0]), number + 1, addr.inet.to);
    socket_listeners_done(&first);
    socket_listeners_done(&second);
}

static void test_wishes_for_ipv4_and_ipv6_choose_the_family(void **state)
{
    static const struct {
        bool has_ipv4, ipv4, has_ipv6, ipv6;
        const char *host;
        int code;
    } cases[] = {
        { true, true, false, false, "127.0.0.1", 0 },
        { true, false, false, false, "127.0.0.1", -EADDRNOTAVAIL },
        { false, false, true, true, "127.0.0.1", -EADDRNOTAVAIL },
        { false, false, true, false, "127.0.0.1", 0 },
        { true, true, true, true, "127.0.0.1", 0 },
        { true, false, true, false, "127.0.0.1", -EINVAL },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct socket_address addr = inet_address(cases[i].host, "0");
        struct socket_listeners listeners;
        struct error err;

        addr.inet.has_ipv4 = cases[i].has_ipv4;
        addr.inet.ipv4 = cases[i].ipv4;
        addr.inet.has_ipv6 = cases[i].has_ipv6;
        addr.inet.ipv6 = cases[i].ipv6;
        assert_int_equal(try_listen(&addr, &listeners, &err), cases[i].code);
        if (cases[i].code == 0)
            socket_listeners_done(&listeners);
    }
}

static void test_wrong_ports_and_hosts_are_refused(void **state)
{
    static const struct {
        const char *host;
        const char *port;
        unsigned to;
        const char *text;
    } cases[] = {
        { "127.0.0.1", "65536", 0, "port 65536 is beyond 65535" },
        { "127.0.0.1", "99999999999999999999", 0, "port 99999999999999999999 is beyond 65535" },
        { "127.0.0.1", "", 0, "the port is empty; port 0 lets the system choose one" },
        { "127.0.0.1", "http-ish", 0,
          "address resolution failed for 127.0.0.1:http-ish: Servname not supported for "
          "ai_socktype" },
        { "127.0.0.1", "10", 9, "the range of ports '10' to 9 is empty" },
        { "127.0.0.1", "http", 90, "the range of ports 'http' to 90 is empty" },
        { "192.0.2.77", "0", 0, "Failed to bind socket: Cannot assign requested address, host '192.0.2.77' port 0" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct socket_address addr = inet_address(cases[i].host, cases[i].port);
        struct socket_listeners listeners;
        struct error err;

        addr.inet.has_to = cases[i].to != 0;
        addr.inet.to = (uint16_t)cases[i].to;
        assert_true(try_listen(&addr, &listeners, &err) < 0);
        assert_string_equal(err.text, cases[i].text);
    }
}

/* ---- fd ---- */

static int try_fd(const char *text, enum socket_fd_source source, struct error *err)
{
    struct socket_address addr = { .type = SOCKET_ADDRESS_FD, .fd = { .str = text } };
    struct socket_listeners listeners;
    int r = socket_listen(&addr, source, SOCKET_REFUSES_DESCRIPTORS, &listeners, err);

    if (r == 0)
        socket_listeners_done(&listeners);
    return r;
}

static int listening_fd(const struct fixture *f, int flags)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);

    strcpy(addr.sun_path, f->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static void test_an_inherited_listening_socket_is_taken_by_number_only_from_the_command_line(void **state)
{
    struct fixture *f = *state;
    int fd = listening_fd(f, 0);
    struct error err;
    char text[16];

    snprintf(text, sizeof(text), "%d", fd);
    assert_int_equal(try_fd(text, SOCKET_FD_NAMED, &err), -ENOENT);
    assert_non_null(strstr(err.text, "numbers are for the command line only"));
    assert_int_equal(try_fd(text, SOCKET_FD_INHERITED, &err), 0);
    assert_true(exists(f->path)); /* not ours to remove */
}

static void test_whoever_shares_an_inherited_socket_goes_on_to_listen(void **state)
{
    struct fixture *f = *state;
    int fd = listening_fd(f, 0);
    struct socket_listeners theirs = { .fds = { fcntl(fd, F_DUPFD_CLOEXEC, 0) }, .count = 1, .passed_in = true };
    struct socket_address addr = { .type = SOCKET_ADDRESS_FD };
    struct socket_listeners listeners;
    struct error err;
    char text[16];

    snprintf(text, sizeof(text), "%d", fd);
    addr.fd.str = text;
    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    socket_listeners_stop(&listeners);
    socket_listeners_done(&listeners);
    addr = unix_address(f->path);
    assert_connects(&addr, &theirs);
    socket_listeners_done(&theirs);
}

static void test_wrong_descriptors_are_refused(void **state)
{
    static const char *const texts[] = { "", "x", "-1", "99", "99999999999", "1 ", "0x5", "03" };
    struct error err;
    char text[16];
    int fds[2];

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        assert_true(try_fd(texts[i], SOCKET_FD_INHERITED, &err) < 0);
    assert_int_equal(pipe(fds), 0);
    snprintf(text, sizeof(text), "%d", fds[0]);
    assert_int_equal(try_fd(text, SOCKET_FD_INHERITED, &err), -ENOTSOCK);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    snprintf(text, sizeof(text), "%d", fds[0]);
    assert_int_equal(try_fd(text, SOCKET_FD_INHERITED, &err), -EPROTOTYPE);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    snprintf(text, sizeof(text), "%d", fds[0]);
    assert_int_equal(try_fd(text, SOCKET_FD_INHERITED, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is a socket that does not listen"));
    close(fds[0]);
    close(fds[1]);
}

static void test_a_vsock_address_is_two_numbers(void **state)
{
    struct socket_address addr = { .type = SOCKET_ADDRESS_VSOCK, .vsock = { .cid = "2", .port = "4294967296" } };
    struct socket_listeners listeners;
    struct error err;

    assert_int_equal(try_listen(&addr, &listeners, &err), -EINVAL);
    assert_string_equal(err.text, "the cid '2' or port '4294967296' of vsock is not a number of 32 bits");
}

/* ---- Descriptors that clients pass ---- */

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static int connect_to(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(un.sun_path, path, strlen(path));
    assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return fd;
}

static bool kernel_can_refuse(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);

    return getsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &on, &len) == 0;
}

static void check_passing(const char *path, enum socket_passing passing, int expected)
{
    struct socket_address addr = unix_address(path);
    struct socket_listeners listeners;
    struct error err = { 0 };
    int client, server;

    assert_int_equal(socket_listen(&addr, SOCKET_FD_INHERITED, passing, &listeners, &err), 0);
    client = connect_to(path);
    assert_int_equal(pass(client, 1), expected);
    server = socket_accept(&listeners, listeners.fds[0]);
    assert_true(server >= 0);
    assert_int_equal(pass(client, 1), expected);
    assert_int_equal(send(client, "y", 1, MSG_NOSIGNAL), 1);
    socket_close_client(&server);
    assert_int_equal(server, -1);
    close_fd(&client);
    socket_listeners_done(&listeners);
}

static void test_descriptors_are_refused_before_and_after_a_client_is_accepted(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (!kernel_can_refuse(fd))
        SKIP("this kernel cannot refuse descriptors (Linux 6.16 can)");
    check_passing(f->path, SOCKET_REFUSES_DESCRIPTORS, -EPERM);
}

static void test_descriptors_are_taken_where_they_are_wanted(void **state)
{
    struct fixture *f = *state;

    check_passing(f->path, SOCKET_TAKES_DESCRIPTORS, 0);
}

static void test_closing_a_client_waits_for_nothing_that_it_passed(void **state)
{
    uint64_t before;
    int pair[2], peers[3];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
        int fd = lingering(&peers[i]);

        assert_int_equal(pass(pair[0], fd), 0);
        close_fd(&fd);
    }
    close_fd(&pair[0]);
    before = now_ns();
    socket_close_client(&pair[1]);
    assert_true(now_ns() - before < LINGER_SECONDS * 1000000000ull / 2);
    for (unsigned i = 0; i < ARRAY_SIZE(peers); i++)
        close_fd(&peers[i]);
}

/* ---- Several at once ---- */

#define RACERS 4
#define RACES  60

/* Listens at the moment that all do, says whether it could, and serves until it is killed. */
static void race(const struct fixture *f, int start, int report)
{
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners = { .count = 0 };
    struct error err;
    char byte;
    int r;

    if (read(start, &byte, 1) != 0)
        _exit(1);
    r = try_listen(&addr, &listeners, &err);
    byte = r == 0 ? 'l' : 'r';
    if (write(report, &byte, 1) != 1)
        _exit(1);
    pause();
    _exit(0);
}

static unsigned count_winners(int report)
{
    unsigned winners = 0;
    char bytes[RACERS];

    for (unsigned got = 0; got < RACERS;) {
        ssize_t n = read(report, bytes + got, RACERS - got);

        assert_true(n > 0);
        got += (unsigned)n;
    }
    for (unsigned i = 0; i < RACERS; i++)
        winners += bytes[i] == 'l';
    return winners;
}

static void test_of_several_that_find_a_stale_socket_one_gets_its_place(void **state)
{
    const struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);

    for (unsigned round = 0; round < RACES; round++) {
        pid_t pids[RACERS];
        int start[2];
        int report[2];
        int client = -1;

        assert_true(pipe(start) == 0 && pipe(report) == 0);
        for (unsigned i = 0; i < RACERS; i++) {
            pids[i] = fork();
            if (pids[i] == 0) {
                close(start[1]);
                race(f, start[0], report[1]);
            }
        }
        close(start[0]);
        close(start[1]);
        assert_int_equal(count_winners(report[0]), 1); /* in the first round there is no socket, later a stale one */
        assert_int_equal(socket_connect(&addr, SOCKET_FD_INHERITED, &client, NULL), 0);
        close_fd(&client);
        for (unsigned i = 0; i < RACERS; i++) {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
        }
        close(report[0]);
        close(report[1]);
    }
}

/* As if the server had been killed. */
static void leave_stale(const struct socket_address *addr)
{
    struct socket_listeners listeners;
    struct error err;

    assert_int_equal(try_listen(addr, &listeners, &err), 0);
    close(listeners.fds[0]);
    free(listeners.path);
}

static void test_a_stale_socket_in_a_folder_of_ours_is_replaced_whoever_locks_the_folder(void **state)
{
    static const mode_t modes[] = { 0700, 0755, 0711 };
    const struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners;
    struct error err;
    int folder = open(f->dir, O_RDONLY | O_DIRECTORY);

    assert_int_equal(flock(folder, LOCK_EX), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        assert_int_equal(chmod(f->dir, modes[i]), 0);
        leave_stale(&addr);
        assert_int_equal(try_listen(&addr, &listeners, &err), 0);
        assert_connects(&addr, &listeners);
        socket_listeners_done(&listeners);
    }
    close(folder);
}

static void test_a_stale_socket_in_a_folder_that_others_write_to_and_lock_stays(void **state)
{
    static const mode_t modes[] = { 01777, 0770, 0702 };
    const struct fixture *f = *state;
    struct socket_address addr = unix_address(f->path);
    struct socket_listeners listeners;
    struct error err;
    int folder = open(f->dir, O_RDONLY | O_DIRECTORY);

    assert_int_equal(flock(folder, LOCK_EX), 0);
    leave_stale(&addr); /* to make a new one is nobody else's business */
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        assert_int_equal(chmod(f->dir, modes[i]), 0);
        assert_int_equal(try_listen(&addr, &listeners, &err), -EBUSY);
    }
    assert_int_equal(try_listen(&addr, &listeners, &err), -EBUSY);
    assert_non_null(strstr(err.text, "cannot be locked"));
    close(folder);
    assert_int_equal(try_listen(&addr, &listeners, &err), 0);
    socket_listeners_done(&listeners);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_unix_socket_is_removed_when_it_is_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_socket_of_somebody_else_at_the_path_is_not_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stale_socket_is_replaced_and_a_live_one_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_of_several_that_find_a_stale_socket_one_gets_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stale_socket_in_a_folder_of_ours_is_replaced_whoever_locks_the_folder,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stale_socket_in_a_folder_that_others_write_to_and_lock_stays, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_is_no_socket_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors_are_refused_before_and_after_a_client_is_accepted, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_descriptors_are_taken_where_they_are_wanted, setup, teardown),
        cmocka_unit_test(test_closing_a_client_waits_for_nothing_that_it_passed),
        cmocka_unit_test(test_paths_that_cannot_be_are_refused),
        cmocka_unit_test(test_an_abstract_socket_has_no_file),
        cmocka_unit_test_setup_teardown(test_a_socket_that_stopped_refuses_while_another_process_has_it, setup,
                                        teardown),
        cmocka_unit_test(test_tcp_on_a_port_that_the_system_chooses),
        cmocka_unit_test(test_a_port_that_stopped_refuses_and_is_free_while_another_process_has_it),
        cmocka_unit_test(test_all_addresses_of_a_name_have_the_same_port),
        cmocka_unit_test(test_a_range_of_ports_gives_the_first_free_one),
        cmocka_unit_test(test_wishes_for_ipv4_and_ipv6_choose_the_family),
        cmocka_unit_test(test_wrong_ports_and_hosts_are_refused),
        cmocka_unit_test_setup_teardown(
            test_an_inherited_listening_socket_is_taken_by_number_only_from_the_command_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whoever_shares_an_inherited_socket_goes_on_to_listen, setup, teardown),
        cmocka_unit_test(test_wrong_descriptors_are_refused),
        cmocka_unit_test(test_a_vsock_address_is_two_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
