/* SPDX-License-Identifier: BSD-2-Clause */
/* An export directory of any bytes: what passes the check can be walked, searched and read without leaving it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/net/nbd-protocol.h"
#include "nbd-worker/negotiate/directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_directory *copy = malloc(size + 1); /* aligned, and the sanitizer sees its end */
    struct nbd_directory_view view = { copy, size };
    unsigned sum = 0;

    memcpy(copy, data, size);
    if (nbd_directory_check(copy, size, NULL) == 0) {
        for (unsigned i = 0; i < copy->count; i++) {
            const struct nbd_directory_entry *entry = &copy->entries[i];
            const char *name = nbd_directory_name(&view, entry);
            const char *description = nbd_directory_description(&view, entry);

            for (unsigned j = 0; j < entry->name_len_bytes; j++)
                sum += (unsigned char)name[j];
            for (unsigned j = 0; j < entry->description_len_bytes; j++)
                sum += (unsigned char)description[j];
            assert(nbd_directory_find(&view, name, entry->name_len_bytes) != NULL);
        }
    }
    free(copy);
    return (int)(sum & 0); /* keep the reads */
}
