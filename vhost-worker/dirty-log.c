/* SPDX-License-Identifier: BSD-2-Clause */
/* See dirty-log.h. The bitmap is only written to. */
#include "vhost-worker/dirty-log.h"

bool vhost_dirty_log_mark(const struct vhost_dirty_log *log, uint64_t guest_address, uint64_t len_bytes)
{
    uint64_t last_byte, page, last_page;

    if (len_bytes == 0)
        return true;
    if (!u64_add(guest_address, len_bytes - 1, &last_byte))
        return false;
    page = guest_address / VHOST_LOG_PAGE;
    last_page = last_byte / VHOST_LOG_PAGE;
    if (last_page / 8 >= log->mapping.len_bytes)
        return false;
    for (; page <= last_page; page++) {
        uint8_t *byte = &log->mapping.data[page / 8];
        uint8_t bit = (uint8_t)(1u << (page % 8));

        /* The front-end clears bits while we set others of the same byte: "Use atomic operations". */
        __atomic_fetch_or(byte, bit, __ATOMIC_SEQ_CST);
    }
    return true;
}

bool vhost_dirty_log_mark_host(const struct vhost_dirty_log *log, const struct vhost_memory *memory, const void *host,
                               uint64_t len_bytes)
{
    uint64_t guest_address;

    return vhost_memory_guest_address(memory, host, &guest_address) &&
           vhost_dirty_log_mark(log, guest_address, len_bytes);
}
