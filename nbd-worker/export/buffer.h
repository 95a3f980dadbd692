/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffers of one I/O thread: powers of two from 4 KiB to 32 MiB, aligned for direct I/O, kept for reuse up to a bound.
 * No lock: a cache belongs to one thread.
 */
#ifndef BULKHEAD_NBD_WORKER_EXPORT_BUFFER_H
#define BULKHEAD_NBD_WORKER_EXPORT_BUFFER_H

#include "common/base/util.h"

#define NBD_BUFFER_MIN_BYTES   4096u
#define NBD_BUFFER_MAX_BYTES   (32u << 20) /* NBD_MAX_PAYLOAD */
#define NBD_BUFFER_CLASSES     14
#define NBD_BUFFER_CACHE_BYTES (32u << 20) /* kept by one thread for reuse, at most */

struct nbd_buffer {
    struct nbd_buffer *next;
    uint8_t *data;
    size_t size_bytes;
    unsigned size_class;
};

struct nbd_buffer_cache {
    struct nbd_buffer *free[NBD_BUFFER_CLASSES];
    size_t cached_bytes;
};

/* At least len_bytes (up to NBD_BUFFER_MAX_BYTES); contents are whatever was there. NULL: no memory. */
struct nbd_buffer *nbd_buffer_get(struct nbd_buffer_cache *cache, size_t len_bytes);
void nbd_buffer_put(struct nbd_buffer_cache *cache, struct nbd_buffer *buffer); /* NULL is fine */

/* What a buffer for len_bytes takes. */
size_t nbd_buffer_size(size_t len_bytes);

/* Give all that is cached back to the system. */
void nbd_buffer_cache_trim(struct nbd_buffer_cache *cache);

#endif
