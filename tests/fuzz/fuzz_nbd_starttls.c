/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option haggling of a server that requires TLS: first what a client says in clear, and once it has been told to begin
 * TLS, the rest of the input as if it came through TLS. The first byte says how finely it arrives. Nothing may be agreed
 * on in clear, and nothing of it may be left when TLS begins.
 */
#include <assert.h>

#include "nbd-worker/negotiate/handshake.h"
#include "tests/fuzz/haggle.h"
#include "tests/unit/nbd_directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct test_export exports[] = {
    { "disk", "a disk", { .serial = 7, .size_bytes = 1 << 20, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION,
                          .flags = NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_FAST_ZERO } },
};

static bool agreed_on_anything(const struct handshake *hs)
{
    return hs->structured_reply || hs->extended_headers || hs->contexts != 0 || hs->contexts_serial != 0 ||
           hs->chosen_serial != 0 || hs->state == HANDSHAKE_NEGOTIATED;
}

static void check_tls(struct handshake *hs)
{
    uint8_t *in;

    assert(hs->tls == HANDSHAKE_TLS_ACTIVE || !agreed_on_anything(hs));
    if (hs->state != HANDSHAKE_STARTTLS)
        return;
    assert(handshake_wanted(hs, &in) == 0); /* not a byte that belongs to TLS */
    handshake_tls_started(hs);
    assert(!agreed_on_anything(hs));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct handshake hs;
    static struct nbd_directory_view view;

    if (view.directory == NULL)
        view.directory = test_directory_new(exports, ARRAY_SIZE(exports));
    handshake_init(&hs, &view);
    handshake_require_tls(&hs);
    haggle(&hs, data, size, check_tls);
    assert(hs.state != HANDSHAKE_NEGOTIATED || (hs.tls == HANDSHAKE_TLS_ACTIVE && hs.chosen_serial == 7));
    return 0;
}
