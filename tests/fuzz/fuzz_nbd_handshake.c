/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option haggling with whatever a client may say. The first byte of the input says how finely it arrives. Whatever
 * comes: the handshake never wants more than it has room for, offers nothing to read while it has something to send,
 * and ends.
 */
#include <assert.h>

#include "nbd-worker/negotiate/handshake.h"
#include "tests/fuzz/haggle.h"
#include "tests/unit/nbd_directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct test_export exports[] = {
    { "disk", "a disk", { .serial = 7, .size_bytes = 1 << 20, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION,
                          .flags = NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_FAST_ZERO | NBD_DIRECTORY_MULTI_CONN } },
    { "", "", { .serial = 8, .size_bytes = 512, .min_block_bytes = 512 } },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct handshake hs;
    static struct nbd_directory_view view;
    struct ipc_nbd_negotiated result;

    if (view.directory == NULL)
        view.directory = test_directory_new(exports, ARRAY_SIZE(exports));
    handshake_init(&hs, &view);
    haggle(&hs, data, size, NULL);
    if (hs.state == HANDSHAKE_NEGOTIATED) {
        handshake_result(&hs, 1, &result);
        assert(result.export_serial == 7 || result.export_serial == 8);
        assert(result.contexts == 0 || result.flags != 0);
        assert(result.contexts == 0 || result.export_serial == 7);
    }
    return 0;
}
