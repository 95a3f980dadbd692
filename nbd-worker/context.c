/* SPDX-License-Identifier: BSD-2-Clause */
/* The meta contexts, one row each. Queries are a client's bytes: compared, never copied. */
#include "nbd-worker/context.h"

#include <string.h>

#include "common/net/nbd-protocol.h"

/* "The base:allocation metadata context". */
static uint32_t allocation_status(const struct block_extent *extent)
{
    return ((extent->flags & BLOCK_EXTENT_HOLE) != 0 ? NBD_STATE_HOLE : 0) |
           ((extent->flags & BLOCK_EXTENT_ZERO) != 0 ? NBD_STATE_ZERO : 0);
}

/*
 * QEMU's docs/interop/nbd.txt: 0 unallocated, 1 in the exported image itself, more: so far down its chain of backing
 * images. No format here has a backing image, and what has none is all its own, holes too, as with QEMU.
 */
static uint32_t allocation_depth(const struct block_extent *extent)
{
    return 1;
}

const struct nbd_context nbd_contexts[] = {
    { IPC_NBD_CONTEXT_BASE_ALLOCATION, "base:allocation", allocation_status },
    { IPC_NBD_CONTEXT_ALLOCATION_DEPTH, "qemu:allocation-depth", allocation_depth },
};
const unsigned nbd_contexts_count = ARRAY_SIZE(nbd_contexts);

uint32_t nbd_context_match(const char *query, size_t len_bytes, bool wildcards)
{
    bool wildcard = wildcards && len_bytes > 0 && query[len_bytes - 1] == ':';
    uint32_t bits = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(nbd_contexts); i++) {
        size_t name_len = strlen(nbd_contexts[i].name);

        if ((len_bytes == name_len || (wildcard && len_bytes < name_len)) &&
            memcmp(query, nbd_contexts[i].name, len_bytes) == 0)
            bits |= nbd_contexts[i].bit;
    }
    return bits;
}
