/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A client's part of option haggling, for fuzz targets: the first byte of the input says how finely the rest arrives.
 * Whatever comes, the handshake never wants more than it has room for, and offers nothing to read while it has something
 * to send.
 */
#ifndef BULKHEAD_FUZZ_HAGGLE_H
#define BULKHEAD_FUZZ_HAGGLE_H

#include <assert.h>
#include <string.h>

#include "nbd-worker/negotiate/handshake.h"

static void haggle_drain(struct handshake *hs)
{
    const uint8_t *out;
    uint8_t *in;
    size_t n;

    while ((n = handshake_output(hs, &out)) > 0) {
        assert(out >= hs->out && n <= sizeof(hs->out));
        assert(handshake_wanted(hs, &in) == 0);
        handshake_sent(hs, n > 3 ? n - 3 : n);
    }
}

/* answered() is called whenever all has been sent, at the start too; NULL: of no interest. */
static void haggle(struct handshake *hs, const uint8_t *data, size_t size, void (*answered)(struct handshake *hs))
{
    size_t piece = size > 0 && data[0] > 0 ? data[0] : SIZE_MAX, at = 1, n;
    uint8_t *in;

    haggle_drain(hs);
    if (answered != NULL)
        answered(hs);
    while (at < size && (n = handshake_wanted(hs, &in)) > 0) {
        assert(in >= hs->in && in + n <= hs->in + sizeof(hs->in));
        n = MIN(MIN(n, size - at), piece);
        memcpy(in, data + at, n);
        handshake_received(hs, n);
        at += n;
        haggle_drain(hs);
        if (answered != NULL)
            answered(hs);
    }
}

#endif
