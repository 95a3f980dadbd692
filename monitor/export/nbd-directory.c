/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The snapshot of the export directory that negotiators get; see common/ipc/nbd-directory.h. Numbers in it that come
 * from workers have been checked by the catalogue and are brought into NBD's ranges here.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "monitor/export/nbd-private.h"

#define MAX_PAYLOAD_BYTES       (32u << 20)
#define MIN_BLOCK_MAX_BYTES     65536u /* NBD proto.md, "Block size constraints": minimum at most 64 KiB */
#define PREFERRED_MIN_BYTES     512u
#define PREFERRED_MAX_BYTES     MAX_PAYLOAD_BYTES
#define DEFAULT_PREFERRED       4096u
#define NBD_DIRECTORY_BYTES_MAX (UINT32_MAX / 2) /* offsets are 32 bits wide */

static uint32_t description_len(const struct nbd_export *nbd)
{
    return nbd->description != NULL ? (uint32_t)strlen(nbd->description) : 0;
}

/*
 * "Block size constraints": the size SHOULD be a multiple of the minimum, which QEMU's client takes for granted. What
 * is natural for the node may be larger; its worker serves smaller requests all the same.
 */
static uint32_t min_block(const struct nbd_export *nbd, const struct ipc_status_ready *ready)
{
    return common_unit(MIN(MAX(ready->min_block_bytes, 1), MIN_BLOCK_MAX_BYTES), nbd->size_bytes);
}

static void fill_entry(struct nbd_directory_entry *entry, const struct nbd_export *nbd)
{
    const struct ipc_status_ready *ready = worker_get_ready(nbd->export->worker);
    uint32_t min = min_block(nbd, ready);
    uint32_t preferred = ready->preferred_block_bytes != 0 ? ready->preferred_block_bytes : DEFAULT_PREFERRED;

    preferred = MIN(MAX(MAX(preferred, min), PREFERRED_MIN_BYTES), PREFERRED_MAX_BYTES);
    *entry = (struct nbd_directory_entry){
        .serial = nbd->serial,
        .size_bytes = nbd->size_bytes,
        /* One worker serves all connections of an export: a flush on one covers the writes of all. */
        .flags = (nbd->export->writable ? NBD_DIRECTORY_WRITABLE : 0) |
                 (ready->can_fast_zero ? NBD_DIRECTORY_FAST_ZERO : 0) | NBD_DIRECTORY_MULTI_CONN,
        .min_block_bytes = min,
        .preferred_block_bytes = preferred,
        .max_payload_bytes = MAX_PAYLOAD_BYTES,
        .contexts = nbd->contexts,
        .name_len_bytes = (uint32_t)strlen(nbd->name),
        .description_len_bytes = description_len(nbd),
    };
}

static void fill(struct nbd_directory *directory, const struct nbd_export_list *exports, unsigned count,
                 size_t len_bytes)
{
    uint32_t strings = (uint32_t)(sizeof(*directory) + count * sizeof(directory->entries[0]));
    const struct nbd_export *nbd;
    unsigned i = 0;

    *directory = (struct nbd_directory){ .magic = NBD_DIRECTORY_MAGIC, .count = count, .len_bytes = len_bytes };
    TAILQ_FOREACH (nbd, exports, link) {
        struct nbd_directory_entry *entry = &directory->entries[i++];

        fill_entry(entry, nbd);
        entry->strings_offset = strings;
        memcpy((char *)directory + strings, nbd->name, entry->name_len_bytes);
        strings += entry->name_len_bytes;
        if (nbd->description != NULL)
            memcpy((char *)directory + strings, nbd->description, entry->description_len_bytes);
        strings += entry->description_len_bytes;
    }
}

static size_t total_len(const struct nbd_export_list *exports, unsigned count)
{
    size_t len = sizeof(struct nbd_directory) + count * sizeof(struct nbd_directory_entry);
    const struct nbd_export *nbd;

    TAILQ_FOREACH (nbd, exports, link)
        len += strlen(nbd->name) + description_len(nbd);
    return len;
}

int nbd_directory_make(const struct nbd_export_list *exports, unsigned count, int *ret_fd, struct error *err)
{
    size_t len = total_len(exports, count);
    _cleanup_close_ int fd = memfd_create("bulkhead-nbd-directory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *map;

    if (len > NBD_DIRECTORY_BYTES_MAX)
        return error_set(err, -E2BIG, "the names and descriptions of all exports are too long together");
    if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
        return error_set(err, -errno, "cannot make the directory of exports: %s", strerror(errno));
    map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "cannot map the directory of exports: %s", strerror(errno));
    fill(map, exports, count, len);
    munmap(map, len);
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return error_set(err, -errno, "cannot seal the directory of exports: %s", strerror(errno));
    *ret_fd = TAKE_FD(fd);
    return 0;
}
