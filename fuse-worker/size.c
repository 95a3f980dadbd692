/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse-worker/export.h"

/*
 * The kernel lets nobody write beyond the end while somebody else does, or cuts the file; the lock is for what comes by
 * other ways, and costs nothing.
 */
int fx_size_set(struct fx_export *export, uint64_t size_bytes, bool only_grow)
{
    int ret = 0;

    pthread_mutex_lock(&export->size_lock);
    if (!only_grow || size_bytes > atomic_load(&export->size_bytes))
        ret = block_node_resize(export->root, size_bytes);
    else
        size_bytes = atomic_load(&export->size_bytes);
    if (ret == 0)
        atomic_store(&export->size_bytes, size_bytes);
    pthread_mutex_unlock(&export->size_lock);
    return ret;
}
