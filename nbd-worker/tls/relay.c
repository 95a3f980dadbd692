/* SPDX-License-Identifier: BSD-2-Clause */
/* See relay.h. The client is hostile; the worker may have been taken over. Neither can make the buffers grow. */
#include "nbd-worker/tls/relay.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define WARNINGS_MAX 16

int relay_init(struct relay *relay, struct tls_channel *channel, int fd)
{
    int r;

    *relay = (struct relay){ .channel = channel, .fd = fd };
    r = tls_buffer_init(&relay->up, RELAY_UP_BYTES);
    if (r == 0)
        r = tls_buffer_init(&relay->down, RELAY_DOWN_BYTES);
    if (r < 0)
        relay_done(relay);
    return r;
}

void relay_done(struct relay *relay)
{
    tls_buffer_done(&relay->up);
    tls_buffer_done(&relay->down);
}

void relay_ready(struct relay *relay, bool client, bool worker)
{
    relay->client_dry &= !client;
    relay->worker_dry &= !worker;
    if (client)
        relay->full = relay->holding = false;
}

/* ---- Each returns 1 if it made progress, 0 if it could not, or -errno with err ---- */

/* A client that is gone without close_notify has ended, too: NBD has its own word for a goodbye, NBD_CMD_DISC. */
static int end_of_client(struct relay *relay)
{
    relay->client_ended = true;
    return 1;
}

/* What the client sent. A socket that gave less than there was room for is not asked again before it says that it has more. */
static int receive_up(struct relay *relay)
{
    struct tls_channel *channel = relay->channel;
    size_t before = tls_buffer_used(&channel->in), room = tls_buffer_room(&channel->in);
    int r;

    if (relay->client_dry || relay->client_ended || channel->eof || room < TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD)
        return 0;
    r = tls_channel_fill(channel);
    relay->client_dry = r != 1 || tls_buffer_used(&channel->in) - before < room;
    return r == 1;
}

static void look_at_record(struct relay *relay, size_t len_bytes)
{
    relay->full = len_bytes == TLS_RECORD_BYTES;
    if (!relay->full) {
        relay->saw += relay->saw == RELAY_SAW_FULL;
        return;
    }
    if (relay->saw == RELAY_SAW_NEXT)
        relay->holds = RELAY_HOLDS;
    relay->saw = RELAY_SAW_FULL;
}

static void look_at_answer(struct relay *relay)
{
    relay->saw = RELAY_SAW_NOTHING;
    relay->holds -= relay->holds > 0;
}

static int decrypt_one(struct relay *relay, struct error *err)
{
    ssize_t n = gnutls_record_recv(relay->channel->session, relay->up.data + relay->up.end, TLS_RECORD_BYTES);

    if (n > 0) {
        relay->up.end += relay->up_ended ? 0 : (size_t)n; /* nobody wants it any more */
        look_at_record(relay, (size_t)n);
        relay->warnings = 0;
        return 1;
    }
    if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
        return 0;
    if (n == 0 || n == GNUTLS_E_PREMATURE_TERMINATION || relay->channel->eof)
        return end_of_client(relay);
    if (n == GNUTLS_E_REHANDSHAKE)
        return error_set(err, -EPROTO, "the client asked to renegotiate");
    if (!gnutls_error_is_fatal((int)n) && relay->warnings++ < WARNINGS_MAX)
        return 1;
    return error_set(err, -EPROTO, "the client's TLS: %s", gnutls_strerror((int)n));
}

/* All records that have arrived and have room, so that the worker gets them with one send. */
static int decrypt(struct relay *relay, struct error *err)
{
    int progress = 0;
    int r = 1;

    while (r > 0 && !relay->client_ended && tls_buffer_room(&relay->up) >= TLS_RECORD_BYTES) {
        r = decrypt_one(relay, err);
        progress |= r > 0;
    }
    return r < 0 ? r : progress;
}

static int send_up(struct relay *relay)
{
    size_t used = tls_buffer_used(&relay->up);
    ssize_t n;

    if (relay->up_ended)
        return 0;
    if (used == 0 && relay->client_ended) {
        shutdown(relay->fd, SHUT_WR);
        relay->up_ended = true;
        return 1;
    }
    if (used == 0)
        return 0;
    n = send(relay->fd, relay->up.data + relay->up.start, used, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
        tls_buffer_take(&relay->up, (size_t)n);
        return 1;
    }
    if (errno == EAGAIN || errno == EINTR)
        return errno == EINTR;
    /* The worker does not listen any more; what it sent before may still be on its way. */
    tls_buffer_take(&relay->up, used);
    relay->up_ended = true;
    return 1;
}

static int receive_down(struct relay *relay)
{
    size_t room = tls_buffer_room(&relay->down);
    ssize_t n;

    if (relay->worker_ended || relay->worker_dry || room == 0)
        return 0;
    n = recv(relay->fd, relay->down.data + relay->down.end, room, MSG_DONTWAIT);
    relay->worker_dry = n > 0 && (size_t)n < room;
    if (n > 0) {
        relay->down.end += (size_t)n;
        look_at_answer(relay);
        return 1;
    }
    if (n < 0 && errno == EINTR)
        return 1;
    if (n < 0 && errno == EAGAIN) {
        relay->worker_dry = true;
        return 0;
    }
    relay->worker_ended = true;
    return 1;
}

/* As many records as the channel takes; then close_notify, once the worker has ended. */
static int encrypt(struct relay *relay, struct error *err)
{
    int progress = 0;

    while (tls_channel_has_room(relay->channel)) {
        size_t used = tls_buffer_used(&relay->down);
        ssize_t n;

        if (used == 0 && (!relay->worker_ended || relay->said_bye))
            break;
        if (used == 0) {
            gnutls_bye(relay->channel->session, GNUTLS_SHUT_WR);
            relay->said_bye = true;
            return 1;
        }
        n = gnutls_record_send(relay->channel->session, relay->down.data + relay->down.start,
                               MIN(used, TLS_RECORD_BYTES));
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
            break;
        if (n < 0)
            return error_set(err, -EPROTO, "encrypting for the client: %s", gnutls_strerror((int)n));
        tls_buffer_take(&relay->down, (size_t)n);
        progress = 1;
    }
    return progress;
}

static int flush(struct relay *relay, struct error *err)
{
    size_t before = tls_buffer_used(&relay->channel->out);
    int r;

    if (before == 0)
        return 0;
    r = tls_channel_flush(relay->channel);
    if (r < 0 && r != -EAGAIN)
        return error_set(err, r, "sending to the client: %s", strerror(-r));
    return tls_buffer_used(&relay->channel->out) < before;
}

static int round_of(struct relay *relay, struct error *err)
{
    int progress = receive_up(relay), r = decrypt(relay, err);

    if (r < 0)
        return r;
    progress |= r | send_up(relay) | receive_down(relay);
    r = encrypt(relay, err);
    if (r < 0)
        return r;
    progress |= r;
    r = flush(relay, err);
    return r < 0 ? r : progress | r;
}

static void wait_for(struct relay *relay, uint32_t *ret_client_events, uint32_t *ret_worker_events)
{
    const struct tls_channel *channel = relay->channel;
    bool listens = !relay->client_ended && !channel->eof && tls_buffer_room(&relay->up) >= TLS_RECORD_BYTES;

    relay->holding = listens && relay->full && relay->holds > 0;
    *ret_client_events = (listens && !relay->holding ? EPOLLIN : 0) |
                         (tls_buffer_used(&channel->out) > 0 ? EPOLLOUT : 0);
    *ret_worker_events = (!relay->worker_ended && tls_buffer_room(&relay->down) > 0 ? EPOLLIN : 0) |
                         (!relay->up_ended && tls_buffer_used(&relay->up) > 0 ? EPOLLOUT : 0);
}

enum relay_result relay_run(struct relay *relay, uint32_t *ret_client_events, uint32_t *ret_worker_events,
                            struct error *err)
{
    int progress = 1;

    for (unsigned i = 0; i < RELAY_ROUNDS_MAX && progress > 0; i++)
        progress = round_of(relay, err);
    if (progress < 0)
        return RELAY_FAILED;
    if (relay->said_bye && tls_buffer_used(&relay->channel->out) == 0)
        return RELAY_OVER;
    if (progress > 0)
        return RELAY_AGAIN;
    wait_for(relay, ret_client_events, ret_worker_events);
    return RELAY_WAIT;
}
