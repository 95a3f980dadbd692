/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dirty log of live migration: a bitmap in memory of the front-end in which every page of guest memory that we
 * write to is marked after the write. Source: vhost-user.rst, "Migration".
 */
#ifndef BULKHEAD_VHOST_DIRTY_LOG_H
#define BULKHEAD_VHOST_DIRTY_LOG_H

#include "vhost-worker/memory.h"

struct vhost_dirty_log {
    struct vhost_mapping mapping; /* map NULL: there is no log */
};

/* Mark [guest_address, guest_address + len_bytes). False if the log is too small for that, or there is none. */
bool vhost_dirty_log_mark(const struct vhost_dirty_log *log, uint64_t guest_address, uint64_t len_bytes);

/* The same for bytes that vhost_memory_translate() or vhost_memory_ring() returned. */
bool vhost_dirty_log_mark_host(const struct vhost_dirty_log *log, const struct vhost_memory *memory, const void *host,
                               uint64_t len_bytes);

#endif
