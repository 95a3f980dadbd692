/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See client.h. A function per phase, which does what can be done without waiting and says what to wait for. Until the
 * STARTTLS that the client sent is answered exactly its bytes are read, and what lies behind it is refused: the two sides
 * of TLS begin with nothing in their hands.
 */
#include "nbd-worker/tls/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"

#define WARNING_ALERTS_MAX 8

/* What a phase ends a turn with. */
enum turn { TURN_AGAIN, TURN_WAIT, TURN_OVER };

/* ---- The end ---- */

static void report_gone(struct tls_client *client)
{
    struct handshake *hs = &client->handshake;
    struct ipc_status status = { .type = IPC_STATUS_CLIENT_GONE };

    status.client_gone.client_id = client->client_id;
    status.client_gone.error = hs->left_in_order ? 0 : 1;
    snprintf(status.client_gone.text, sizeof(status.client_gone.text), "%s", hs->reason);
    client->report(client, &status);
}

static void finish(struct tls_client *client)
{
    bool relayed = client->phase == TLS_PHASE_RELAY;

    if (client->phase == TLS_PHASE_OVER)
        return;
    client->phase = TLS_PHASE_OVER;
    tls_client_stop(client);
    if (!relayed) /* else the export's worker tells, whose client it is */
        report_gone(client);
    client->over(client);
}

static enum turn refuse(struct tls_client *client, const char *text)
{
    handshake_end(&client->handshake, false, "%s", text);
    return TURN_OVER;
}

/* ---- In clear ---- */

/* Bytes behind STARTTLS before its answer: a client has to wait, so somebody else put them there ("NBD_OPT_STARTTLS"). */
static bool has_injected_bytes(const struct tls_client *client)
{
    uint8_t byte;

    return recv(client->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static enum turn send_clear(struct tls_client *client, const uint8_t *data, size_t len_bytes, uint32_t *ret_events)
{
    ssize_t n;

    if (client->handshake.state == HANDSHAKE_STARTTLS && client->handshake.out_sent_bytes == 0 &&
        has_injected_bytes(client))
        return refuse(client, "bytes came behind NBD_OPT_STARTTLS before it was answered: somebody may have put them there");
    n = send(client->watch.fd, data, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
        handshake_sent(&client->handshake, (size_t)n);
        return TURN_AGAIN;
    }
    if (errno == EINTR)
        return TURN_AGAIN;
    *ret_events = EPOLLOUT;
    return errno == EAGAIN ? TURN_WAIT : refuse(client, "sending to the client failed before TLS");
}

static enum turn receive_clear(struct tls_client *client, uint8_t *buffer, size_t len_bytes, uint32_t *ret_events)
{
    ssize_t n = recv(client->watch.fd, buffer, len_bytes, MSG_DONTWAIT);

    if (n > 0) {
        handshake_received(&client->handshake, (size_t)n);
        return TURN_AGAIN;
    }
    if (n < 0 && errno == EINTR)
        return TURN_AGAIN;
    *ret_events = EPOLLIN;
    if (n < 0 && errno == EAGAIN)
        return TURN_WAIT;
    return refuse(client, "the client closed the connection before TLS");
}

static enum turn turn_clear(struct tls_client *client, uint32_t *ret_events)
{
    struct handshake *hs = &client->handshake;
    const uint8_t *data;
    uint8_t *buffer;
    size_t n = handshake_output(hs, &data);

    if (n > 0)
        return send_clear(client, data, n, ret_events);
    if (hs->state == HANDSHAKE_STARTTLS) {
        client->phase = TLS_PHASE_HANDSHAKE;
        return TURN_AGAIN;
    }
    n = handshake_wanted(hs, &buffer);
    return n > 0 ? receive_clear(client, buffer, n, ret_events) : TURN_OVER;
}

/* ---- Through TLS ---- */

/* The session has used up what there was: receive, or wait. */
static enum turn need_input(struct tls_client *client, uint32_t *ret_events)
{
    int r = tls_channel_flush(&client->channel);

    if (r < 0 && r != -EAGAIN)
        return refuse(client, "sending to the client failed");
    *ret_events = EPOLLIN | (r == -EAGAIN ? EPOLLOUT : 0);
    return tls_channel_fill(&client->channel) == 1 ? TURN_AGAIN : TURN_WAIT;
}

/* All that waits has to go out before anything else happens. TURN_AGAIN: it has. */
static enum turn flush_first(struct tls_client *client, uint32_t *ret_events)
{
    int r = tls_channel_flush(&client->channel);

    *ret_events = EPOLLOUT;
    if (r == 0)
        return TURN_AGAIN;
    return r == -EAGAIN ? TURN_WAIT : refuse(client, "sending to the client failed");
}

static enum turn handshake_failed(struct tls_client *client, int code)
{
    const struct tls_peer *peer = &client->peer;
    struct handshake *hs = &client->handshake;

    gnutls_alert_send_appropriate(peer->session, code);
    tls_channel_flush(&client->channel);
    if (peer->reason[0] != '\0')
        handshake_end(hs, false, "TLS handshake: %s", peer->reason);
    else if (client->channel.eof)
        handshake_end(hs, false, "TLS handshake: the client closed the connection%s",
                      code == GNUTLS_E_FATAL_ALERT_RECEIVED ? " with an alert" : "");
    else if (code == GNUTLS_E_FATAL_ALERT_RECEIVED)
        handshake_end(hs, false, "TLS handshake: the client refused: %s",
                      gnutls_alert_get_name(gnutls_alert_get(peer->session)));
    else if (peer->kind == TLS_KIND_PSK && code != GNUTLS_E_NO_CIPHER_SUITES && code != GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
        handshake_end(hs, false, "TLS handshake: %s (perhaps the key is wrong)", gnutls_strerror(code));
    else
        handshake_end(hs, false, "TLS handshake: %s", gnutls_strerror(code));
    return TURN_OVER;
}

static enum turn tell_who_it_is(struct tls_client *client)
{
    struct ipc_status status = { .type = IPC_STATUS_TLS_PEER };
    struct error err = { 0 };

    status.tls_peer.client_id = client->client_id;
    if (tls_peer_identify(&client->peer, &status.tls_peer, &err) < 0)
        return refuse(client, err.text);
    client->phase = TLS_PHASE_PERMIT;
    client->report(client, &status);
    return TURN_WAIT;
}

static enum turn turn_handshake(struct tls_client *client, uint32_t *ret_events)
{
    unsigned warnings = 0;
    enum turn turn;
    int r;

    do
        r = gnutls_handshake(client->peer.session);
    while (r < 0 && r != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(r) && warnings++ < WARNING_ALERTS_MAX);
    if (r == GNUTLS_E_AGAIN)
        return need_input(client, ret_events);
    if (r < 0)
        return handshake_failed(client, r);
    turn = flush_first(client, ret_events); /* called again, gnutls_handshake() of a finished one would begin anew */
    if (turn == TURN_OVER)
        return turn;
    *ret_events = 0;
    return tell_who_it_is(client);
}

static enum turn turn_nothing(struct tls_client *client, uint32_t *ret_events)
{
    *ret_events = 0;
    return TURN_WAIT;
}

static enum turn send_record(struct tls_client *client, const uint8_t *data, size_t len_bytes, uint32_t *ret_events)
{
    ssize_t n;

    if (!tls_channel_has_room(&client->channel))
        return flush_first(client, ret_events);
    n = gnutls_record_send(client->peer.session, data, MIN(len_bytes, TLS_RECORD_BYTES));
    if (n < 0)
        return refuse(client, gnutls_strerror((int)n));
    handshake_sent(&client->handshake, (size_t)n);
    return TURN_AGAIN;
}

static enum turn receive_record(struct tls_client *client, uint8_t *buffer, size_t len_bytes, uint32_t *ret_events)
{
    ssize_t n = gnutls_record_recv(client->peer.session, buffer, len_bytes);

    if (n > 0) {
        handshake_received(&client->handshake, (size_t)n);
        return TURN_AGAIN;
    }
    if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
        return need_input(client, ret_events);
    if (n == 0 || client->channel.eof)
        return refuse(client, "the client closed the connection during the handshake");
    handshake_end(&client->handshake, false, "the client's TLS: %s", gnutls_strerror((int)n));
    return TURN_OVER;
}

static enum turn negotiated(struct tls_client *client)
{
    struct ipc_status status = { .type = IPC_STATUS_NEGOTIATED };

    handshake_result(&client->handshake, client->client_id, &status.negotiated);
    client->phase = TLS_PHASE_HANDOFF;
    client->report(client, &status);
    return TURN_AGAIN;
}

static enum turn turn_haggle(struct tls_client *client, uint32_t *ret_events)
{
    struct handshake *hs = &client->handshake;
    const uint8_t *data;
    uint8_t *buffer;
    enum turn turn;
    size_t n = handshake_output(hs, &data);

    if (n > 0)
        return send_record(client, data, n, ret_events);
    n = handshake_wanted(hs, &buffer);
    if (n > 0)
        return receive_record(client, buffer, n, ret_events);
    if (hs->state == HANDSHAKE_ENDED)
        gnutls_bye(client->peer.session, GNUTLS_SHUT_WR);
    turn = flush_first(client, ret_events);
    if (turn != TURN_AGAIN)
        return hs->state == HANDSHAKE_ENDED ? TURN_OVER : turn;
    return hs->state == HANDSHAKE_NEGOTIATED ? negotiated(client) : TURN_OVER;
}

static void run_task(struct io_task *task);

static enum turn turn_relay(struct tls_client *client, uint32_t *ret_events)
{
    uint32_t worker_events = 0;
    struct error err = { 0 };

    switch (relay_run(&client->relay, ret_events, &worker_events, &err)) {
    case RELAY_AGAIN:
        if (!client->task_posted)
            io_loop_post(client->loop, &client->task);
        client->task_posted = true;
        return TURN_WAIT;
    case RELAY_WAIT:
        if (client->relay.holding && client->hold.when_ns == 0)
            io_loop_timer_set(client->loop, &client->hold, now_ns() + RELAY_HOLD_NS);
        if (io_loop_watch(client->loop, &client->worker_watch, worker_events) == 0)
            return TURN_WAIT;
        error_set(&err, -EIO, "the stream to the export's worker cannot be watched");
        break;
    case RELAY_OVER:
        return TURN_OVER;
    case RELAY_FAILED:
        break;
    }
    log_info("NBD client %llu: %s", (unsigned long long)client->client_id, err.text);
    return TURN_OVER;
}

static enum turn (*const turns[])(struct tls_client *client, uint32_t *ret_events) = {
    [TLS_PHASE_CLEAR] = turn_clear,   [TLS_PHASE_HANDSHAKE] = turn_handshake, [TLS_PHASE_PERMIT] = turn_nothing,
    [TLS_PHASE_HAGGLE] = turn_haggle, [TLS_PHASE_HANDOFF] = turn_nothing,     [TLS_PHASE_RELAY] = turn_relay,
};

static void run(struct tls_client *client)
{
    enum turn turn = TURN_AGAIN;
    uint32_t events = 0;

    while (turn == TURN_AGAIN && client->phase != TLS_PHASE_OVER) {
        events = 0;
        turn = turns[client->phase](client, &events);
    }
    if (client->phase == TLS_PHASE_OVER)
        return;
    if (turn == TURN_WAIT && io_loop_watch(client->loop, &client->watch, events) < 0)
        turn = refuse(client, "the client's socket cannot be watched");
    if (turn == TURN_OVER)
        finish(client);
}

static void run_task(struct io_task *task)
{
    struct tls_client *client = container_of(task, struct tls_client, task);

    client->task_posted = false;
    if (client->phase != TLS_PHASE_OVER)
        run(client);
}

static bool may_receive(uint32_t events)
{
    return (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
}

static void client_ready(struct io_watch *watch, uint32_t events)
{
    struct tls_client *client = container_of(watch, struct tls_client, watch);

    relay_ready(&client->relay, may_receive(events), false);
    run(client);
}

static void worker_ready(struct io_watch *watch, uint32_t events)
{
    struct tls_client *client = container_of(watch, struct tls_client, worker_watch);

    relay_ready(&client->relay, false, may_receive(events));
    run(client);
}

static void hold_over(struct io_timer *timer)
{
    struct tls_client *client = container_of(timer, struct tls_client, hold);

    relay_ready(&client->relay, true, false);
    run(client);
}

static void expired(struct io_timer *timer)
{
    struct tls_client *client = container_of(timer, struct tls_client, timer);

    handshake_end(&client->handshake, false, "the client did not finish the handshake in time");
    finish(client);
}

/* ---- For the owner ---- */

int tls_client_start(struct tls_client *client, struct io_loop *loop, int *fds, const struct tls_view *view,
                     struct nbd_directory_view *directory, uint64_t client_id, uint32_t max_ms, struct error *err)
{
    int r;

    client->loop = loop;
    client->watch = (struct io_watch){ .fd = TAKE_FD(fds[0]), .ready = client_ready };
    client->worker_watch = (struct io_watch){ .fd = -1, .ready = worker_ready };
    client->timer = (struct io_timer){ .expired = expired };
    client->hold = (struct io_timer){ .expired = hold_over };
    client->task = (struct io_task){ .run = run_task };
    client->client_id = client_id;
    r = tls_peer_init(&client->peer, view, &fds[3], err);
    if (r == 0)
        r = tls_channel_init(&client->channel, client->watch.fd);
    if (r < 0)
        return r;
    tls_channel_attach(&client->channel, client->peer.session);
    r = io_loop_watch(loop, &client->watch, EPOLLOUT);
    if (r < 0)
        return error_set(err, r, "the client's socket cannot be watched: %s", strerror(-r));
    client->directory = *directory;
    *directory = (struct nbd_directory_view){ 0 };
    handshake_init(&client->handshake, &client->directory);
    handshake_require_tls(&client->handshake);
    if (max_ms != 0)
        io_loop_timer_set(loop, &client->timer, now_ns() + (uint64_t)max_ms * 1000000u);
    return 0;
}

int tls_client_permit(struct tls_client *client, uint64_t client_id)
{
    if (client->phase != TLS_PHASE_PERMIT || client_id != client->client_id)
        return client->phase == TLS_PHASE_OVER ? 0 : -EPROTO;
    handshake_tls_started(&client->handshake);
    client->phase = TLS_PHASE_HAGGLE;
    run(client);
    return 0;
}

int tls_client_relay(struct tls_client *client, uint64_t client_id, int *fd)
{
    if (client->phase != TLS_PHASE_HANDOFF || client_id != client->client_id)
        return client->phase == TLS_PHASE_OVER ? 0 : -EPROTO;
    io_loop_timer_cancel(client->loop, &client->timer);
    nbd_directory_unmap(&client->directory);
    client->worker_watch.fd = TAKE_FD(*fd);
    client->phase = TLS_PHASE_RELAY;
    if (relay_init(&client->relay, &client->channel, client->worker_watch.fd) < 0) {
        log_error("NBD client %llu: no memory for the relay", (unsigned long long)client->client_id);
        finish(client);
        return 0;
    }
    run(client);
    return 0;
}

void tls_client_drain(struct tls_client *client)
{
    if (client->phase == TLS_PHASE_RELAY)
        return;
    handshake_end(&client->handshake, false, "the server gave it up");
    finish(client);
}

void tls_client_stop(struct tls_client *client)
{
    io_loop_timer_cancel(client->loop, &client->timer);
    io_loop_timer_cancel(client->loop, &client->hold);
    if (client->watch.fd >= 0)
        io_loop_unwatch(client->loop, &client->watch);
    if (client->worker_watch.fd >= 0)
        io_loop_unwatch(client->loop, &client->worker_watch);
    close_fd(&client->watch.fd);
    close_fd(&client->worker_watch.fd);
    relay_done(&client->relay);
    tls_channel_done(&client->channel);
    tls_peer_done(&client->peer);
    nbd_directory_unmap(&client->directory);
}
