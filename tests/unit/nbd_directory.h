/* SPDX-License-Identifier: BSD-2-Clause */
/* Builds export directories for tests of the negotiator. */
#ifndef BULKHEAD_TESTS_UNIT_NBD_DIRECTORY_H
#define BULKHEAD_TESTS_UNIT_NBD_DIRECTORY_H

#include <stdlib.h>
#include <string.h>

#include "nbd-worker/negotiate/directory.h"

struct test_export {
    const char *name;
    const char *description;
    struct nbd_directory_entry entry; /* zero members get defaults */
};

/* The caller frees it. */
static inline struct nbd_directory *test_directory_new(const struct test_export *exports, unsigned count)
{
    size_t entries_end = sizeof(struct nbd_directory) + count * sizeof(struct nbd_directory_entry);
    size_t len_bytes = entries_end, offset = entries_end;
    struct nbd_directory *directory;

    for (unsigned i = 0; i < count; i++)
        len_bytes += strlen(exports[i].name) + strlen(exports[i].description);
    directory = calloc(1, len_bytes);
    directory->magic = NBD_DIRECTORY_MAGIC;
    directory->count = count;
    directory->len_bytes = len_bytes;
    for (unsigned i = 0; i < count; i++) {
        struct nbd_directory_entry *entry = &directory->entries[i];

        *entry = exports[i].entry;
        entry->serial = entry->serial != 0 ? entry->serial : i + 1;
        entry->min_block_bytes = entry->min_block_bytes != 0 ? entry->min_block_bytes : 1;
        entry->preferred_block_bytes = entry->preferred_block_bytes != 0 ? entry->preferred_block_bytes : 4096;
        entry->max_payload_bytes = entry->max_payload_bytes != 0 ? entry->max_payload_bytes : 32u << 20;
        entry->name_len_bytes = (uint32_t)strlen(exports[i].name);
        entry->description_len_bytes = (uint32_t)strlen(exports[i].description);
        entry->strings_offset = (uint32_t)offset;
        memcpy((char *)directory + offset, exports[i].name, entry->name_len_bytes);
        offset += entry->name_len_bytes;
        memcpy((char *)directory + offset, exports[i].description, entry->description_len_bytes);
        offset += entry->description_len_bytes;
    }
    return directory;
}

#endif
