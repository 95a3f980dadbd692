/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The record relay: plaintext of a TLS session to a stream and back, each direction with its own bounded buffers and
 * flow control, so that one that stands still does not stop the other. The ends of both streams are passed on:
 * close_notify becomes a shutdown, and an end of the stream a close_notify.
 */
#ifndef BULKHEAD_NBD_WORKER_TLS_RELAY_H
#define BULKHEAD_NBD_WORKER_TLS_RELAY_H

#include <sys/epoll.h>

#include "nbd-worker/tls/channel.h"

#define RELAY_UP_BYTES   (256u << 10) /* decrypted, on the way to the export's worker */
#define RELAY_DOWN_BYTES (128u << 10) /* on the way to the client, not yet encrypted */
#define RELAY_ROUNDS_MAX 8            /* in one call, so that the loop gets to other things */
#define RELAY_HOLD_NS    200000u      /* see relay_run() */
#define RELAY_HOLDS      64           /* answers for which it is remembered that the client does not wait for them */

struct relay {
    struct tls_channel *channel; /* borrowed */
    int fd;                      /* borrowed: to the worker, O_NONBLOCK */
    struct tls_buffer up;
    struct tls_buffer down;
    bool client_dry;   /* nothing to receive from it before its socket says so */
    bool client_ended; /* no more comes from it */
    bool up_ended;     /* no more goes to the worker */
    bool worker_dry;
    bool worker_ended; /* no more comes from it */
    bool said_bye;
    unsigned warnings; /* alerts in a row that mean nothing */
    bool full;         /* the last record was as large as they get: more will follow */
    enum { RELAY_SAW_NOTHING, RELAY_SAW_FULL, RELAY_SAW_NEXT } saw; /* from the client since the last answer to it */
    unsigned holds;    /* as many answers, before there are no more holds */
    bool holding;      /* the client is not listened to for a while */
};

int relay_init(struct relay *relay, struct tls_channel *channel, int fd);
void relay_done(struct relay *relay);

enum relay_result {
    RELAY_WAIT,   /* for the events */
    RELAY_AGAIN,  /* there is more to do at once */
    RELAY_OVER,   /* the worker has ended and all of it is sent */
    RELAY_FAILED, /* err says why; both sides are to be closed */
};

/* The socket of the client, of the worker, may have something to receive: epoll says so, or a hold is over. */
void relay_ready(struct relay *relay, bool client, bool worker);

/*
 * Move what can be moved.
 *
 * A client that sends much makes one record after the other, and to be woken for each, and to wake the worker, costs
 * more than all else. So after a record of full size the client is not listened to for RELAY_HOLD_NS: relay->holding is
 * set, and relay_ready() is to be called when that time is over. Nothing that has been received waits meanwhile.
 *
 * It would make a client wait that has one request in flight: the last record of each could be late. So there are holds
 * only if what a client sends looks like several requests at a time: behind full records a small one, as the header of
 * the next request is, and then full ones again, with no answer in between.
 */
enum relay_result relay_run(struct relay *relay, uint32_t *ret_client_events, uint32_t *ret_worker_events,
                            struct error *err);

#endif
