/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffers come from mmap or, if small, from malloc: a cached buffer has its pages already, which is what makes reuse
 * pay (a fresh 1 MiB costs 256 page faults).
 */
#include "nbd-worker/export/buffer.h"

#include <sys/mman.h>

#define MAP_FROM_BYTES (64u << 10)

static unsigned class_of(size_t len_bytes)
{
    unsigned class = 0;

    while (((size_t)NBD_BUFFER_MIN_BYTES << class) < len_bytes)
        class ++;
    return class;
}

size_t nbd_buffer_size(size_t len_bytes)
{
    return (size_t)NBD_BUFFER_MIN_BYTES << class_of(len_bytes);
}

static uint8_t *data_alloc(size_t size_bytes)
{
    void *p;

    if (size_bytes < MAP_FROM_BYTES)
        return aligned_alloc(NBD_BUFFER_MIN_BYTES, size_bytes);
    p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void buffer_free(struct nbd_buffer *buffer)
{
    if (buffer->data != NULL && buffer->size_bytes >= MAP_FROM_BYTES)
        munmap(buffer->data, buffer->size_bytes);
    else
        free(buffer->data);
    free(buffer);
}

struct nbd_buffer *nbd_buffer_get(struct nbd_buffer_cache *cache, size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    struct nbd_buffer *buffer;

    if (class >= NBD_BUFFER_CLASSES)
        return NULL;
    buffer = cache->free[class];
    if (buffer != NULL) {
        cache->free[class] = buffer->next;
        cache->cached_bytes -= buffer->size_bytes;
        return buffer;
    }
    buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return NULL;
    buffer->size_class = class;
    buffer->size_bytes = (size_t)NBD_BUFFER_MIN_BYTES << class;
    buffer->data = data_alloc(buffer->size_bytes);
    if (buffer->data == NULL) {
        free(buffer);
        return NULL;
    }
    return buffer;
}

void nbd_buffer_put(struct nbd_buffer_cache *cache, struct nbd_buffer *buffer)
{
    if (buffer == NULL)
        return;
    if (cache->cached_bytes + buffer->size_bytes > NBD_BUFFER_CACHE_BYTES) {
        buffer_free(buffer);
        return;
    }
    buffer->next = cache->free[buffer->size_class];
    cache->free[buffer->size_class] = buffer;
    cache->cached_bytes += buffer->size_bytes;
}

void nbd_buffer_cache_trim(struct nbd_buffer_cache *cache)
{
    for (unsigned class = 0; class < NBD_BUFFER_CLASSES; class ++) {
        while (cache->free[class] != NULL) {
            struct nbd_buffer *buffer = cache->free[class];

            cache->free[class] = buffer->next;
            buffer_free(buffer);
        }
    }
    cache->cached_bytes = 0;
}
