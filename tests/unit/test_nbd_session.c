/* SPDX-License-Identifier: BSD-2-Clause */
/* The negotiator's I/O: exactly the bytes of the handshake, no waiting for ever, one word at the end. */
#include "tests/unit/unit.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "nbd-worker/negotiate/session.h"
#include "tests/unit/nbd_directory.h"

#define MANY_EXPORTS 500

struct fixture {
    struct io_loop *loop;
    struct session *session;
    int peer_fd;
    unsigned words;
    struct ipc_status word;
};

static struct fixture fx;

static void on_over(struct session *session, const struct ipc_status *status)
{
    fx.words++;
    fx.word = *status;
}

static int directory_fd(void)
{
    static char description[1001];
    static struct test_export exports[MANY_EXPORTS];
    struct nbd_directory *directory;
    int fd = memfd_create("directory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    memset(description, 'd', sizeof(description) - 1);
    for (unsigned i = 0; i < MANY_EXPORTS; i++)
        exports[i] = (struct test_export){ "disk", description, { .size_bytes = 512 } };
    directory = test_directory_new(exports, MANY_EXPORTS);
    assert_int_equal(write(fd, directory, directory->len_bytes), directory->len_bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
    free(directory);
    return fd;
}

static int set_up(void **state)
{
    struct nbd_directory_view view;
    _cleanup_close_ int fd = directory_fd();
    int pair[2];

    fx = (struct fixture){ .loop = io_loop_new(NULL), .session = calloc(1, sizeof(struct session)) };
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(nbd_directory_map(fd, &view, NULL), 0);
    fx.peer_fd = pair[0];
    assert_int_equal(session_start(fx.session, fx.loop, &pair[1], &view, 9, 50, on_over), 0);
    assert_int_equal(pair[1], -1);
    assert_null(view.directory);
    return 0;
}

static int tear_down(void **state)
{
    session_stop(fx.session);
    free(fx.session);
    close_fd(&fx.peer_fd);
    io_loop_free(fx.loop);
    return 0;
}

static void turns(void)
{
    for (unsigned i = 0; i < 16; i++) {
        io_loop_stop(fx.loop);
        io_loop_run(fx.loop);
    }
}

static void say(const void *data, size_t len_bytes)
{
    assert_int_equal(send(fx.peer_fd, data, len_bytes, MSG_NOSIGNAL), len_bytes);
}

static void say_flags(void)
{
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);

    say(&flags, sizeof(flags));
}

static void say_option(uint32_t option, const void *data, uint32_t len_bytes)
{
    struct nbd_option_header header = { htobe64(NBD_NEW_VERSION), htobe32(option), htobe32(len_bytes) };

    say(&header, sizeof(header));
    say(data, len_bytes);
}

static size_t hear(void *data, size_t max_bytes)
{
    ssize_t n = recv(fx.peer_fd, data, max_bytes, 0);

    return n < 0 ? 0 : (size_t)n;
}

static void test_the_first_request_stays_in_the_socket(void **state)
{
    static const char request[28] = "\x25\x60\x95\x13 the first request.....";
    _cleanup_close_ int copy = fcntl(fx.session->watch.fd, F_DUPFD_CLOEXEC, 0);
    char got[64];

    say_flags();
    say_option(NBD_OPT_EXPORT_NAME, "disk", 4);
    say(request, sizeof(request));
    turns();
    assert_int_equal(fx.words, 1);
    assert_int_equal(fx.word.type, IPC_STATUS_NEGOTIATED);
    assert_int_equal(fx.word.negotiated.client_id, 9);
    assert_int_equal(fx.word.negotiated.export_serial, 1);
    assert_int_equal(recv(copy, got, sizeof(got), 0), sizeof(request));
    assert_memory_equal(got, request, sizeof(request));
    assert_int_equal(hear(got, sizeof(got)), sizeof(struct nbd_export_name_reply));
}

static void test_a_long_list_waits_for_a_slow_reader(void **state)
{
    static char got[65536];
    size_t total = 0, n;

    say_flags();
    say_option(NBD_OPT_LIST, "", 0);
    say_option(NBD_OPT_ABORT, "", 0);
    turns();
    assert_int_equal(fx.words, 0);
    do {
        n = hear(got, sizeof(got));
        total += n;
        turns();
    } while (n > 0);
    assert_int_equal(fx.words, 1);
    assert_int_equal(fx.word.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(fx.word.client_gone.error, 0);
    assert_int_equal(total, MANY_EXPORTS * (20 + 4 + 4 + 1000) + 20 + 20);
}

static void wait_for_the_word(void)
{
    while (fx.words == 0)
        turns();
}

static void test_errors_silence(void **state)
{
    say_flags();
    wait_for_the_word();
    assert_int_equal(fx.word.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(fx.word.client_gone.error, 1);
    assert_non_null(strstr(fx.word.client_gone.text, "in time"));
}

/* Not even a client that reads nothing while much is to be sent can stay. */
static void test_errors_a_reader_that_is_too_slow(void **state)
{
    say_flags();
    say_option(NBD_OPT_LIST, "", 0);
    wait_for_the_word();
    assert_int_equal(fx.word.client_gone.error, 1);
    assert_non_null(strstr(fx.word.client_gone.text, "in time"));
}

static void test_errors_peer_closes(void **state)
{
    close_fd(&fx.peer_fd);
    turns();
    assert_int_equal(fx.words, 1);
    assert_int_equal(fx.word.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(fx.word.client_gone.error, 1);
}

/* "The server SHOULD gracefully handle the client sending an NBD_OPT_ABORT and closing the connection." */
static void test_abort_and_close_at_once(void **state)
{
    char got[64];

    turns();
    hear(got, sizeof(got));
    say_flags();
    say_option(NBD_OPT_ABORT, "", 0);
    close_fd(&fx.peer_fd);
    turns();
    assert_int_equal(fx.words, 1);
    assert_int_equal(fx.word.client_gone.error, 0);
}

static void test_errors_export_chosen_but_nobody_there(void **state)
{
    char got[64];

    turns();
    hear(got, sizeof(got));
    say_flags();
    say_option(NBD_OPT_EXPORT_NAME, "disk", 4);
    close_fd(&fx.peer_fd);
    turns();
    assert_int_equal(fx.words, 1);
    assert_int_equal(fx.word.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(fx.word.client_gone.error, 1);
}

static void test_stop_tells_nobody(void **state)
{
    char byte;

    session_stop(fx.session);
    session_stop(fx.session);
    turns();
    assert_int_equal(fx.words, 0);
    assert_int_equal(recv(fx.peer_fd, &byte, 1, 0), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_first_request_stays_in_the_socket),
        TEST(test_a_long_list_waits_for_a_slow_reader),
        TEST(test_errors_silence),
        TEST(test_errors_a_reader_that_is_too_slow),
        TEST(test_errors_peer_closes),
        TEST(test_abort_and_close_at_once),
        TEST(test_errors_export_chosen_but_nobody_there),
        TEST(test_stop_tells_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
