/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The export directory as a negotiator sees it: the monitor's sealed memfd, mapped read-only. The monitor made it, yet
 * nothing in it is used before nbd_directory_check() has seen every offset and length.
 */
#ifndef BULKHEAD_NBD_WORKER_NEGOTIATE_DIRECTORY_H
#define BULKHEAD_NBD_WORKER_NEGOTIATE_DIRECTORY_H

#include "common/base/error.h"
#include "common/ipc/nbd-directory.h"

struct nbd_directory_view {
    const struct nbd_directory *directory;
    size_t len_bytes; /* of the mapping */
};

/*
 * Map the memfd fd (borrowed) after checking that it is sealed against writing, growing and shrinking, so that what has
 * been checked stays true. 0, -EPERM (not sealed), -EINVAL (bad contents) or -errno.
 */
int nbd_directory_map(int fd, struct nbd_directory_view *ret_view, struct error *err);
void nbd_directory_unmap(struct nbd_directory_view *view);

/* Whether data[0..len_bytes) is a well-formed directory. Pure. 0 or -EINVAL; err names the entry at fault. */
int nbd_directory_check(const void *data, size_t len_bytes, struct error *err);

/* The export of that name (not NUL-terminated; "" is the default export), or NULL. */
const struct nbd_directory_entry *nbd_directory_find(const struct nbd_directory_view *view, const char *name,
                                                     size_t name_len_bytes);

/* The strings of an entry, without NUL; their lengths are in it. */
const char *nbd_directory_name(const struct nbd_directory_view *view, const struct nbd_directory_entry *entry);
const char *nbd_directory_description(const struct nbd_directory_view *view, const struct nbd_directory_entry *entry);

#endif
