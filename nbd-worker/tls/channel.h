/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Between a socket and a TLS session: a buffer each way, so that one recv() brings many records and one send() takes
 * many away, and GnuTLS itself never touches the socket. Both are bounded; a session that finds no room or no bytes is
 * told so (GNUTLS_E_AGAIN).
 */
#ifndef BULKHEAD_NBD_WORKER_TLS_CHANNEL_H
#define BULKHEAD_NBD_WORKER_TLS_CHANNEL_H

#include <gnutls/gnutls.h>

#include "common/base/error.h"

#define TLS_RECORD_BYTES      16384u         /* of plaintext: RFC 8446, section 5.1 */
#define TLS_RECORD_OVERHEAD   512u           /* header, padding, tag, with much to spare */
#define TLS_CHANNEL_IN_BYTES  (256u << 10)
#define TLS_CHANNEL_OUT_BYTES (256u << 10)

struct tls_buffer {
    uint8_t *data;
    size_t size_bytes;
    size_t start;
    size_t end;
};

int tls_buffer_init(struct tls_buffer *buffer, size_t size_bytes);
void tls_buffer_done(struct tls_buffer *buffer);
static inline size_t tls_buffer_used(const struct tls_buffer *buffer)
{
    return buffer->end - buffer->start;
}
/* Room at the end, after what is there has moved to the start if that is worth it. */
size_t tls_buffer_room(struct tls_buffer *buffer);
void tls_buffer_take(struct tls_buffer *buffer, size_t len_bytes);

struct tls_channel {
    int fd; /* borrowed, O_NONBLOCK */
    gnutls_session_t session; /* borrowed */
    struct tls_buffer in;
    struct tls_buffer out;
    bool eof; /* the socket has nothing more to read */
};

int tls_channel_init(struct tls_channel *channel, int fd);
void tls_channel_done(struct tls_channel *channel);

/* Have the session send and receive through the channel. */
void tls_channel_attach(struct tls_channel *channel, gnutls_session_t session);

/* Receive what there is room for. 1: something came (or the end, see eof); -EAGAIN: nothing yet; -ENOBUFS: no room. */
int tls_channel_fill(struct tls_channel *channel);

/* Send as much as goes. 0: all is sent; -EAGAIN: the socket is full; other -errno. */
int tls_channel_flush(struct tls_channel *channel);

/* Whether a whole record fits behind what waits to be sent. */
bool tls_channel_has_room(struct tls_channel *channel);

#endif
