/* SPDX-License-Identifier: BSD-2-Clause */
/* See channel.h. */
#include "nbd-worker/tls/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int tls_buffer_init(struct tls_buffer *buffer, size_t size_bytes)
{
    *buffer = (struct tls_buffer){ .data = malloc(size_bytes), .size_bytes = size_bytes };
    return buffer->data == NULL ? -ENOMEM : 0;
}

void tls_buffer_done(struct tls_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct tls_buffer){ 0 };
}

size_t tls_buffer_room(struct tls_buffer *buffer)
{
    size_t used = tls_buffer_used(buffer);

    /* Moving is cheap when little is left, and needed when there is no room for a record. */
    if (buffer->start > 0 && (used <= buffer->size_bytes / 8 ||
                              buffer->size_bytes - buffer->end < TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD)) {
        memmove(buffer->data, buffer->data + buffer->start, used);
        buffer->start = 0;
        buffer->end = used;
    }
    return buffer->size_bytes - buffer->end;
}

void tls_buffer_take(struct tls_buffer *buffer, size_t len_bytes)
{
    buffer->start += len_bytes;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

int tls_channel_init(struct tls_channel *channel, int fd)
{
    int r;

    *channel = (struct tls_channel){ .fd = fd };
    r = tls_buffer_init(&channel->in, TLS_CHANNEL_IN_BYTES);
    if (r == 0)
        r = tls_buffer_init(&channel->out, TLS_CHANNEL_OUT_BYTES);
    if (r < 0)
        tls_channel_done(channel);
    return r;
}

void tls_channel_done(struct tls_channel *channel)
{
    tls_buffer_done(&channel->in);
    tls_buffer_done(&channel->out);
}

/* ---- GnuTLS's side ---- */

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t len_bytes)
{
    struct tls_channel *channel = ptr;
    size_t n = MIN(len_bytes, tls_buffer_used(&channel->in));

    if (n == 0 && !channel->eof) {
        gnutls_transport_set_errno(channel->session, EAGAIN);
        return -1;
    }
    memcpy(data, channel->in.data + channel->in.start, n);
    tls_buffer_take(&channel->in, n);
    return (ssize_t)n;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
    const struct tls_channel *channel = ptr;

    return tls_buffer_used(&channel->in) > 0 || channel->eof;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t len_bytes)
{
    struct tls_channel *channel = ptr;
    size_t n = MIN(len_bytes, tls_buffer_room(&channel->out));

    if (n == 0) {
        gnutls_transport_set_errno(channel->session, EAGAIN);
        return -1;
    }
    memcpy(channel->out.data + channel->out.end, data, n);
    channel->out.end += n;
    return (ssize_t)n;
}

void tls_channel_attach(struct tls_channel *channel, gnutls_session_t session)
{
    channel->session = session;
    gnutls_transport_set_ptr(session, channel);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
    gnutls_transport_set_push_function(session, push);
}

/* ---- The socket's side ---- */

int tls_channel_fill(struct tls_channel *channel)
{
    size_t room = tls_buffer_room(&channel->in);
    ssize_t n;

    if (room == 0)
        return -ENOBUFS;
    if (channel->eof)
        return -EAGAIN;
    do
        n = recv(channel->fd, channel->in.data + channel->in.end, room, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return -EAGAIN;
    if (n <= 0)
        channel->eof = true; /* a connection that failed has ended, too */
    else
        channel->in.end += (size_t)n;
    return 1;
}

int tls_channel_flush(struct tls_channel *channel)
{
    while (tls_buffer_used(&channel->out) > 0) {
        ssize_t n = send(channel->fd, channel->out.data + channel->out.start, tls_buffer_used(&channel->out),
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return errno == EWOULDBLOCK ? -EAGAIN : -errno;
        if (n > 0)
            tls_buffer_take(&channel->out, (size_t)n);
    }
    return 0;
}

bool tls_channel_has_room(struct tls_channel *channel)
{
    return tls_buffer_room(&channel->out) >= TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD;
}
