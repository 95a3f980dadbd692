/* SPDX-License-Identifier: BSD-2-Clause */
/* The record relay between a TLS client and a worker, both played by the test over socket pairs. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "nbd-worker/tls/relay.h"

#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.2:+ANON-ECDH"

struct end {
    struct tls_channel channel;
    gnutls_session_t session;
    int fd;
};

struct fixture {
    struct end server;
    struct end client;
    gnutls_anon_server_credentials_t server_creds;
    gnutls_anon_client_credentials_t client_creds;
    int worker_fd; /* the test's end */
    int relay_fd;
    struct relay relay;
    struct error err;
};

static void end_start(struct end *end, int fd, unsigned flags, void *creds)
{
    end->fd = fd;
    assert_int_equal(gnutls_init(&end->session, flags | GNUTLS_NONBLOCK), 0);
    assert_int_equal(gnutls_priority_set_direct(end->session, PRIORITY, NULL), 0);
    assert_int_equal(gnutls_credentials_set(end->session, GNUTLS_CRD_ANON, creds), 0);
    assert_int_equal(tls_channel_init(&end->channel, fd), 0);
    tls_channel_attach(&end->channel, end->session);
}

static int step(struct end *end)
{
    int r = gnutls_handshake(end->session);

    tls_channel_flush(&end->channel);
    tls_channel_fill(&end->channel);
    return r;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int net[2];
    int pair[2];
    int rs = -1;
    int rc = -1;

    if (f == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, net) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
        return -1;
    gnutls_anon_allocate_server_credentials(&f->server_creds);
    gnutls_anon_allocate_client_credentials(&f->client_creds);
    end_start(&f->server, net[0], GNUTLS_SERVER, f->server_creds);
    end_start(&f->client, net[1], GNUTLS_CLIENT, f->client_creds);
    for (unsigned i = 0; i < 20 && (rs != 0 || rc != 0); i++) {
        rc = rc != 0 ? step(&f->client) : 0;
        rs = rs != 0 ? step(&f->server) : 0;
    }
    f->relay_fd = pair[0];
    f->worker_fd = pair[1];
    *state = f;
    return rs == 0 && rc == 0 ? relay_init(&f->relay, &f->server.channel, f->relay_fd) : -1;
}

static void end_done(struct end *end)
{
    gnutls_deinit(end->session);
    tls_channel_done(&end->channel);
    close_fd(&end->fd);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    relay_done(&f->relay);
    end_done(&f->server);
    end_done(&f->client);
    close_fd(&f->worker_fd);
    close_fd(&f->relay_fd);
    gnutls_anon_free_server_credentials(f->server_creds);
    gnutls_anon_free_client_credentials(f->client_creds);
    free(f);
    return 0;
}

/* What epoll would say, as far as it was asked. */
static bool announce(struct fixture *f, uint32_t client_events, uint32_t worker_events)
{
    struct pollfd fds[2] = { { .fd = f->server.fd, .events = (short)client_events },
                             { .fd = f->relay_fd, .events = (short)worker_events } };

    assert_return_code(poll(fds, 2, 0), errno);
    relay_ready(&f->relay, (fds[0].revents & POLLIN) != 0, (fds[1].revents & POLLIN) != 0);
    return (fds[0].revents & fds[0].events) != 0 || (fds[1].revents & fds[1].events) != 0;
}

static bool end_of_hold(struct fixture *f)
{
    bool was = f->relay.holding;

    if (was)
        relay_ready(&f->relay, true, false);
    return was;
}

/* Until it would wait; a hold takes no time. */
static enum relay_result run(struct fixture *f, uint32_t *client_events, uint32_t *worker_events)
{
    enum relay_result result;

    do
        result = relay_run(&f->relay, client_events, worker_events, &f->err);
    while (result == RELAY_AGAIN ||
           (result == RELAY_WAIT && (announce(f, *client_events, *worker_events) || end_of_hold(f))));
    return result;
}

static enum relay_result run_quietly(struct fixture *f)
{
    uint32_t events[2];

    return run(f, &events[0], &events[1]);
}

static void client_send(struct fixture *f, const void *data, size_t len_bytes)
{
    assert_int_equal(gnutls_record_send(f->client.session, data, len_bytes), len_bytes);
    assert_int_equal(tls_channel_flush(&f->client.channel), 0);
}

/* What the client has received: bytes, 0 (close_notify) or GnuTLS's error. */
static ssize_t client_receive(struct fixture *f, void *data, size_t len_bytes)
{
    ssize_t n;

    while ((n = gnutls_record_recv(f->client.session, data, len_bytes)) == GNUTLS_E_AGAIN)
        if (tls_channel_fill(&f->client.channel) != 1)
            break;
    return n;
}

static void test_bytes_go_both_ways(void **state)
{
    struct fixture *f = *state;
    char buffer[16] = "";

    client_send(f, "question", 8);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 8);
    assert_memory_equal(buffer, "question", 8);
    assert_int_equal(send(f->worker_fd, "answer", 6, 0), 6);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 6);
    assert_memory_equal(buffer, "answer", 6);
}

static void test_it_waits_for_both_sides_when_idle(void **state)
{
    struct fixture *f = *state;
    uint32_t client_events;
    uint32_t worker_events;

    assert_int_equal(run(f, &client_events, &worker_events), RELAY_WAIT);
    assert_int_equal(client_events, EPOLLIN);
    assert_int_equal(worker_events, EPOLLIN);
}

/* The client does not read: what the worker sends piles up to a bound, and what the client sends still goes through. */
static void test_directions_are_independent(void **state)
{
    static char chunk[65536];
    struct fixture *f = *state;
    uint32_t client_events = 0;
    uint32_t worker_events = EPOLLIN;
    size_t taken = 0;
    char buffer[16];

    memset(chunk, 'd', sizeof(chunk));
    for (unsigned i = 0; i < 200 && (worker_events & EPOLLIN) != 0; i++) {
        ssize_t n = send(f->worker_fd, chunk, sizeof(chunk), MSG_DONTWAIT);

        taken += n > 0 ? (size_t)n : 0;
        assert_int_equal(run(f, &client_events, &worker_events), RELAY_WAIT);
    }
    assert_int_equal(worker_events & EPOLLIN, 0); /* it has enough, and stopped reading */
    assert_true((client_events & EPOLLOUT) != 0);
    assert_in_range(taken, RELAY_DOWN_BYTES, 4u << 20);
    client_send(f, "through", 7);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 7);
    for (size_t got = 0; got < taken;) { /* and all of it arrives, in order */
        ssize_t n = client_receive(f, chunk, sizeof(chunk));

        if (n > 0)
            got += (size_t)n;
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(chunk[i], 'd');
        assert_int_equal(run_quietly(f), RELAY_WAIT);
    }
}

/* The worker does not read: the client is not read any more, and not a byte is lost. */
static void test_a_worker_that_does_not_read_holds_the_client(void **state)
{
    static char chunk[16384];
    struct fixture *f = *state;
    uint32_t client_events = EPOLLIN;
    uint32_t worker_events = 0;
    size_t sent = 0;
    size_t got = 0;

    for (unsigned i = 0; i < 500 && (client_events & EPOLLIN) != 0; i++) {
        memset(chunk, (int)(sent / sizeof(chunk)), sizeof(chunk));
        if (tls_channel_has_room(&f->client.channel)) {
            assert_int_equal(gnutls_record_send(f->client.session, chunk, sizeof(chunk)), sizeof(chunk));
            sent += sizeof(chunk);
        }
        tls_channel_flush(&f->client.channel);
        assert_int_equal(run(f, &client_events, &worker_events), RELAY_WAIT);
    }
    assert_int_equal(client_events & EPOLLIN, 0);
    assert_true((worker_events & EPOLLOUT) != 0);
    while (got < sent) {
        ssize_t n = recv(f->worker_fd, chunk, sizeof(chunk), MSG_DONTWAIT);

        for (ssize_t i = 0; i < n; i++)
            assert_int_equal((uint8_t)chunk[i], (uint8_t)((got + (size_t)i) / sizeof(chunk)));
        got += n > 0 ? (size_t)n : 0;
        tls_channel_flush(&f->client.channel);
        assert_int_equal(run_quietly(f), RELAY_WAIT);
    }
}

/* Until it would wait, or hold. */
static uint32_t run_into_hold(struct fixture *f)
{
    uint32_t events[2];
    enum relay_result result;

    do
        result = relay_run(&f->relay, &events[0], &events[1], &f->err);
    while (result == RELAY_AGAIN || (result == RELAY_WAIT && announce(f, events[0], events[1])));
    assert_int_equal(result, RELAY_WAIT);
    assert_int_equal(f->relay.holding, (events[0] & EPOLLIN) == 0);
    return events[0];
}

static const char full_record[TLS_RECORD_BYTES];

/* The start of a large write's payload, or all of it. */
static void client_sends_write(struct fixture *f, unsigned records)
{
    client_send(f, "header", 6);
    for (unsigned i = 0; i < records; i++)
        client_send(f, full_record, sizeof(full_record));
}

static void answer(struct fixture *f)
{
    char buffer[16];

    assert_int_equal(send(f->worker_fd, "answer", 6, 0), 6);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 6);
}

static size_t come_to_worker(struct fixture *f)
{
    static char buffer[1 << 20];
    ssize_t n = recv(f->worker_fd, buffer, sizeof(buffer), MSG_DONTWAIT);

    return n > 0 ? (size_t)n : 0;
}

static void test_client_that_sends_much_is_not_listened_to_for_a_while(void **state)
{
    struct fixture *f = *state;

    client_sends_write(f, 1);
    client_sends_write(f, 1);
    assert_int_equal(run_into_hold(f), 0);
    assert_int_equal(come_to_worker(f), 2 * (6 + TLS_RECORD_BYTES)); /* what has come does not wait */
    for (unsigned i = 0; i < 3; i++) {
        client_send(f, full_record, sizeof(full_record));
        assert_int_equal(run_into_hold(f), 0);
        assert_int_equal(come_to_worker(f), 0);
    }
    assert_true(end_of_hold(f));
    assert_int_equal(run_into_hold(f), 0);
    assert_int_equal(come_to_worker(f), 3 * TLS_RECORD_BYTES);
    assert_true(end_of_hold(f));
    assert_int_equal(run_into_hold(f), EPOLLIN); /* nothing came meanwhile */
    client_send(f, full_record, sizeof(full_record));
    client_send(f, "and no more", 11);
    assert_int_equal(run_into_hold(f), EPOLLIN);
    assert_int_equal(come_to_worker(f), TLS_RECORD_BYTES + 11);
}

/* It could only lose time. */
static void test_client_with_one_request_at_a_time_is_always_listened_to(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 3; i++) {
        client_sends_write(f, 2);
        assert_int_equal(run_into_hold(f), EPOLLIN);
        client_send(f, full_record, sizeof(full_record));
        client_send(f, "an odd end", 10);
        assert_int_equal(run_into_hold(f), EPOLLIN);
        assert_int_equal(come_to_worker(f), 6 + 3 * TLS_RECORD_BYTES + 10);
        answer(f);
    }
}

static void test_holds_end_when_a_client_waits_for_its_answers(void **state)
{
    struct fixture *f = *state;

    client_sends_write(f, 1);
    client_sends_write(f, 1);
    answer(f);
    for (unsigned i = 0; i < RELAY_HOLDS; i++) {
        client_sends_write(f, 1);
        assert_int_equal(run_into_hold(f), i + 1 < RELAY_HOLDS ? 0 : EPOLLIN);
        end_of_hold(f);
        answer(f);
        come_to_worker(f);
    }
}

static void test_answers_go_through_a_hold(void **state)
{
    struct fixture *f = *state;
    char buffer[16];

    client_sends_write(f, 1);
    client_sends_write(f, 1);
    assert_int_equal(run_into_hold(f), 0);
    assert_int_equal(send(f->worker_fd, "answer", 6, 0), 6);
    assert_int_equal(run_into_hold(f), 0);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 6);
}

static void test_close_notify_becomes_an_end_of_the_stream(void **state)
{
    struct fixture *f = *state;
    char buffer[16];

    client_send(f, "last", 4);
    gnutls_bye(f->client.session, GNUTLS_SHUT_WR);
    tls_channel_flush(&f->client.channel);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 4);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 0);
    assert_int_equal(send(f->worker_fd, "still", 5, 0), 5); /* half of it is open */
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 5);
}

static void test_a_client_that_vanishes_ends_the_stream(void **state)
{
    struct fixture *f = *state;
    char buffer[16];

    client_send(f, "last", 4);
    shutdown(f->client.fd, SHUT_WR);
    assert_int_equal(run_quietly(f), RELAY_WAIT);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 4);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), 0), 0);
}

static void test_the_end_of_the_worker_becomes_close_notify(void **state)
{
    struct fixture *f = *state;
    char buffer[16];

    assert_int_equal(send(f->worker_fd, "bye", 3, 0), 3);
    close_fd(&f->worker_fd);
    assert_int_equal(run_quietly(f), RELAY_OVER);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 3);
    assert_int_equal(client_receive(f, buffer, sizeof(buffer)), 0);
}

static void test_errors_a_changed_record_ends_it(void **state)
{
    struct fixture *f = *state;
    uint8_t *byte;
    char buffer[16];

    assert_int_equal(gnutls_record_send(f->client.session, "secret", 6), 6);
    byte = f->client.channel.out.data + f->client.channel.out.end - 1;
    *byte ^= 1;
    tls_channel_flush(&f->client.channel);
    assert_int_equal(run_quietly(f), RELAY_FAILED);
    assert_int_equal(recv(f->worker_fd, buffer, sizeof(buffer), MSG_DONTWAIT), -1);
}

static void test_errors_garbage_ends_it(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(send(f->client.fd, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
    assert_int_equal(run_quietly(f), RELAY_FAILED);
    assert_non_null(strstr(f->err.text, "the client's TLS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes_go_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_waits_for_both_sides_when_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directions_are_independent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_worker_that_does_not_read_holds_the_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_that_sends_much_is_not_listened_to_for_a_while, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_with_one_request_at_a_time_is_always_listened_to, setup, teardown),
        cmocka_unit_test_setup_teardown(test_holds_end_when_a_client_waits_for_its_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers_go_through_a_hold, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close_notify_becomes_an_end_of_the_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_vanishes_ends_the_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_end_of_the_worker_becomes_close_notify, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_a_changed_record_ends_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_garbage_ends_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
