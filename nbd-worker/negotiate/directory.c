/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Maps and checks the export directory. Trusts nothing in it until nbd_directory_check() has passed; the seals make the
 * check last.
 */
#include "nbd-worker/negotiate/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/net/nbd-protocol.h"

#define DIRECTORY_SEALS       (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)
#define DIRECTORY_FLAGS       (NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_FAST_ZERO | NBD_DIRECTORY_MULTI_CONN)
#define DIRECTORY_LEN_MAX     (1ull << 30) /* more than NBD_DIRECTORY_EXPORTS_MAX entries with the longest strings */
#define PREFERRED_MINIMUM     512u         /* proto.md, "Size constraints" */

static int check_sizes(const struct nbd_directory_entry *entry, unsigned index, struct error *err)
{
    if (!is_power_of_2(entry->min_block_bytes) || entry->min_block_bytes > NBD_MAX_BLOCK_MINIMUM)
        return error_set(err, -EINVAL, "entry %u has a minimum block size of %u", index, entry->min_block_bytes);
    if (!is_power_of_2(entry->preferred_block_bytes) || entry->preferred_block_bytes < PREFERRED_MINIMUM ||
        entry->preferred_block_bytes < entry->min_block_bytes)
        return error_set(err, -EINVAL, "entry %u has a preferred block size of %u", index,
                         entry->preferred_block_bytes);
    if (entry->max_payload_bytes < entry->preferred_block_bytes)
        return error_set(err, -EINVAL, "entry %u has a maximum payload of %u", index, entry->max_payload_bytes);
    return 0;
}

static int check_entry(const struct nbd_directory_entry *entry, unsigned index, uint64_t strings_start,
                       uint64_t len_bytes, struct error *err)
{
    uint64_t strings_len = (uint64_t)entry->name_len_bytes + entry->description_len_bytes;

    if (entry->serial == 0)
        return error_set(err, -EINVAL, "entry %u has no serial", index);
    if ((entry->flags & ~DIRECTORY_FLAGS) != 0 || (entry->contexts & ~IPC_NBD_CONTEXTS_ALL) != 0)
        return error_set(err, -EINVAL, "entry %u has unknown flags", index);
    if (entry->name_len_bytes > NBD_MAX_STRING || entry->description_len_bytes > NBD_MAX_STRING)
        return error_set(err, -EINVAL, "entry %u has too long a name or description", index);
    if (entry->strings_offset < strings_start || !range_within(entry->strings_offset, strings_len, len_bytes))
        return error_set(err, -EINVAL, "the strings of entry %u lie outside of the directory", index);
    return check_sizes(entry, index, err);
}

int nbd_directory_check(const void *data, size_t len_bytes, struct error *err)
{
    const struct nbd_directory *directory = data;
    uint64_t strings_start;

    if (len_bytes < sizeof(*directory))
        return error_set(err, -EINVAL, "the export directory has only %zu bytes", len_bytes);
    if (directory->magic != NBD_DIRECTORY_MAGIC)
        return error_set(err, -EINVAL, "the export directory has the wrong magic 0x%x", directory->magic);
    if (directory->len_bytes != len_bytes)
        return error_set(err, -EINVAL, "the export directory says it has %llu bytes, but has %zu",
                         (unsigned long long)directory->len_bytes, len_bytes);
    if (directory->count > NBD_DIRECTORY_EXPORTS_MAX)
        return error_set(err, -EINVAL, "the export directory says it has %u entries", directory->count);
    strings_start = sizeof(*directory) + (uint64_t)directory->count * sizeof(directory->entries[0]);
    if (strings_start > len_bytes)
        return error_set(err, -EINVAL, "the export directory is too short for %u entries", directory->count);
    for (unsigned i = 0; i < directory->count; i++) {
        int rc = check_entry(&directory->entries[i], i, strings_start, len_bytes, err);

        if (rc < 0)
            return rc;
    }
    return 0;
}

static int check_seals(int fd, struct error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0)
        return error_set(err, -errno, "the export directory is no memfd: %m");
    if ((seals & DIRECTORY_SEALS) != DIRECTORY_SEALS)
        return error_set(err, -EPERM, "the export directory is not sealed (seals 0x%x)", (unsigned)seals);
    return 0;
}

int nbd_directory_map(int fd, struct nbd_directory_view *ret_view, struct error *err)
{
    struct nbd_directory_view view;
    struct stat st;
    int rc = check_seals(fd, err);
    void *p;

    if (rc < 0)
        return rc;
    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot stat the export directory: %m");
    if (st.st_size < (off_t)sizeof(struct nbd_directory) || st.st_size > (off_t)DIRECTORY_LEN_MAX)
        return error_set(err, -EINVAL, "the export directory has %lld bytes", (long long)st.st_size);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return error_set(err, -errno, "cannot map the export directory: %m");
    view = (struct nbd_directory_view){ .directory = p, .len_bytes = (size_t)st.st_size };
    rc = nbd_directory_check(p, view.len_bytes, err);
    if (rc < 0)
        nbd_directory_unmap(&view);
    else
        *ret_view = view;
    return rc;
}

void nbd_directory_unmap(struct nbd_directory_view *view)
{
    if (view->directory != NULL)
        munmap((void *)(uintptr_t)view->directory, view->len_bytes);
    *view = (struct nbd_directory_view){ 0 };
}

const char *nbd_directory_name(const struct nbd_directory_view *view, const struct nbd_directory_entry *entry)
{
    return (const char *)view->directory + entry->strings_offset;
}

const char *nbd_directory_description(const struct nbd_directory_view *view, const struct nbd_directory_entry *entry)
{
    return nbd_directory_name(view, entry) + entry->name_len_bytes;
}

const struct nbd_directory_entry *nbd_directory_find(const struct nbd_directory_view *view, const char *name,
                                                     size_t name_len_bytes)
{
    for (unsigned i = 0; i < view->directory->count; i++) {
        const struct nbd_directory_entry *entry = &view->directory->entries[i];

        if (entry->name_len_bytes == name_len_bytes &&
            (name_len_bytes == 0 || memcmp(nbd_directory_name(view, entry), name, name_len_bytes) == 0))
            return entry;
    }
    return NULL;
}
