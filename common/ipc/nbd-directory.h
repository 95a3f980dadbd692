/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a negotiator may know of the exports: a snapshot in a sealed memfd that the monitor makes anew at each change
 * and passes along with every client. A negotiator maps it read-only; it holds no image and learns nothing else.
 */
#ifndef BULKHEAD_IPC_NBD_DIRECTORY_H
#define BULKHEAD_IPC_NBD_DIRECTORY_H

#include "common/ipc/ipc-protocol.h"

#define NBD_DIRECTORY_MAGIC       0x6e626464u
#define NBD_DIRECTORY_EXPORTS_MAX 65536

/* Flags of an entry. */
#define NBD_DIRECTORY_WRITABLE   (1u << 0)
#define NBD_DIRECTORY_FAST_ZERO  (1u << 1)
#define NBD_DIRECTORY_MULTI_CONN (1u << 2)

struct nbd_directory_entry {
    uint64_t serial; /* never 0, never reused while the monitor lives */
    uint64_t size_bytes;
    uint32_t flags;
    uint32_t min_block_bytes;
    uint32_t preferred_block_bytes;
    uint32_t max_payload_bytes;
    uint32_t contexts; /* IPC_NBD_CONTEXT_* on offer */
    uint32_t name_len_bytes;
    uint32_t description_len_bytes;
    uint32_t strings_offset; /* from the start of the file: name, then description, without NUL */
};

struct nbd_directory {
    uint32_t magic;
    uint32_t count;
    uint64_t len_bytes; /* of the whole file */
    struct nbd_directory_entry entries[];
};

#endif
