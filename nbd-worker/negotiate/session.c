/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves bytes between the client's socket and the handshake. Receives exactly what the handshake wants: what comes
 * after it belongs to the export's worker, which gets a descriptor of the same socket.
 */
#include "nbd-worker/negotiate/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void tell(struct session *session)
{
    const struct handshake *hs = &session->handshake;
    struct ipc_status status = { .magic = IPC_MAGIC };

    if (hs->state == HANDSHAKE_NEGOTIATED) {
        status.type = IPC_STATUS_NEGOTIATED;
        handshake_result(hs, session->client_id, &status.negotiated);
    } else {
        status.type = IPC_STATUS_CLIENT_GONE;
        status.client_gone.client_id = session->client_id;
        status.client_gone.error = hs->left_in_order ? 0 : 1;
        snprintf(status.client_gone.text, sizeof(status.client_gone.text), "%s", hs->reason);
    }
    session_stop(session);
    session->over(session, &status);
}

/* Returns whether to go on: false if the socket is full or the handshake has ended. */
static bool send_some(struct session *session, const uint8_t *data, size_t len_bytes)
{
    ssize_t n = send(session->watch.fd, data, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n >= 0) {
        handshake_sent(&session->handshake, (size_t)n);
        return true;
    }
    if (errno == EAGAIN || errno == EINTR)
        return errno == EINTR;
    /* Nobody listens any more: what the handshake still had to say does not matter. */
    handshake_sent(&session->handshake, len_bytes);
    session->handshake.listing = false;
    handshake_end(&session->handshake, false, "sending to the client failed during the handshake: %s",
                  strerror(errno));
    return false;
}

static bool receive_some(struct session *session, uint8_t *buffer, size_t len_bytes)
{
    ssize_t n = recv(session->watch.fd, buffer, len_bytes, MSG_DONTWAIT);

    if (n > 0) {
        handshake_received(&session->handshake, (size_t)n);
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (n == 0)
        handshake_end(&session->handshake, false, "the client closed the connection during the handshake");
    else
        handshake_end(&session->handshake, false, "receiving from the client failed during the handshake: %s",
                      strerror(errno));
    return false;
}

/* As far as the socket allows; returns the events to wait for, 0 when it is over. */
static uint32_t session_run(struct session *session)
{
    struct handshake *hs = &session->handshake;
    const uint8_t *data;
    uint8_t *buffer;
    size_t n;

    for (;;) {
        n = handshake_output(hs, &data);
        if (n > 0) {
            if (!send_some(session, data, n) && hs->state != HANDSHAKE_ENDED)
                return EPOLLOUT;
            continue;
        }
        n = handshake_wanted(hs, &buffer);
        if (n == 0)
            return 0;
        if (!receive_some(session, buffer, n) && hs->state != HANDSHAKE_ENDED)
            return EPOLLIN;
    }
}

static void session_turn(struct session *session)
{
    uint32_t events = session_run(session);

    if (events != 0 && io_loop_watch(session->loop, &session->watch, events) < 0) {
        handshake_end(&session->handshake, false, "the client's socket cannot be watched");
        events = 0;
    }
    if (events == 0)
        tell(session);
}

static void session_ready(struct io_watch *watch, uint32_t events)
{
    session_turn(container_of(watch, struct session, watch));
}

static void session_expired(struct io_timer *timer)
{
    struct session *session = container_of(timer, struct session, timer);

    handshake_end(&session->handshake, false, "the client did not finish the handshake in time");
    tell(session);
}

int session_start(struct session *session, struct io_loop *loop, int *client_fd, struct nbd_directory_view *directory,
                  uint64_t client_id, uint32_t max_ms, void (*over)(struct session *, const struct ipc_status *))
{
    int rc;

    session->loop = loop;
    session->watch = (struct io_watch){ .fd = *client_fd, .ready = session_ready };
    session->timer = (struct io_timer){ .expired = session_expired };
    session->client_id = client_id;
    session->over = over;
    /* The first turn comes from the loop: the socket is writable, and the first byte is there as a rule. */
    rc = io_loop_watch(loop, &session->watch, EPOLLOUT);
    if (rc < 0) {
        session->watch.fd = -1;
        return rc;
    }
    *client_fd = -1;
    session->directory = *directory;
    *directory = (struct nbd_directory_view){ 0 };
    handshake_init(&session->handshake, &session->directory);
    if (max_ms != 0)
        io_loop_timer_set(loop, &session->timer, now_ns() + (uint64_t)max_ms * 1000000u);
    return 0;
}

void session_stop(struct session *session)
{
    if (session->watch.fd < 0)
        return;
    io_loop_timer_cancel(session->loop, &session->timer);
    io_loop_unwatch(session->loop, &session->watch);
    close_fd(&session->watch.fd);
    nbd_directory_unmap(&session->directory);
}
