/* SPDX-License-Identifier: BSD-2-Clause */
/* See memory.h. Trusts nothing but its own table. */
#include "vhost-worker/memory.h"

#include <errno.h>
#include <string.h>

/* Whether two ranges that do not wrap around share a byte. */
static bool overlap(uint64_t a, uint64_t b, uint64_t a_len, uint64_t b_len)
{
    return a < b ? b - a < a_len : a - b < b_len;
}

static int check_region(const struct vhost_memory *memory, const struct vhost_user_region *region, struct error *err)
{
    uint64_t end;

    if (region->size == 0)
        return error_set(err, -EINVAL, "memory region at guest address 0x%llx is empty",
                         (unsigned long long)region->guest_address);
    /* One byte more than the last must be a number too, so that no sum in a translation can wrap around. */
    if (!u64_add(region->guest_address, region->size, &end) || !u64_add(region->user_address, region->size, &end) ||
        !u64_add(region->mmap_offset, region->size, &end) || end > INT64_MAX)
        return error_set(err, -EINVAL, "memory region at guest address 0x%llx wraps around",
                         (unsigned long long)region->guest_address);
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *other = &memory->regions[i];

        if (overlap(region->guest_address, other->guest_address, region->size, other->len_bytes) ||
            overlap(region->user_address, other->user_address, region->size, other->len_bytes))
            return error_set(err, -EINVAL, "memory region at guest address 0x%llx overlaps the one at 0x%llx",
                             (unsigned long long)region->guest_address, (unsigned long long)other->guest_address);
    }
    if (memory->count == VHOST_MEMORY_SLOTS_MAX)
        return error_set(err, -ENOSPC, "more than %u memory regions", VHOST_MEMORY_SLOTS_MAX);
    return 0;
}

int vhost_memory_add(struct vhost_memory *memory, const struct vhost_user_region *region, int fd, struct error *err)
{
    struct vhost_mapping mapping = { 0 };
    int ret = check_region(memory, region, err);
    unsigned at = 0;

    if (ret < 0)
        return ret;
    ret = vhost_mapping_open(&mapping, fd, region->mmap_offset, region->size, err);
    if (ret < 0) {
        error_prepend(err, "memory region at guest address 0x%llx", (unsigned long long)region->guest_address);
        return ret;
    }
    while (at < memory->count && memory->regions[at].guest_address < region->guest_address)
        at++;
    memmove(&memory->regions[at + 1], &memory->regions[at], (memory->count - at) * sizeof(memory->regions[0]));
    memory->regions[at] = (struct vhost_region){
        .guest_address = region->guest_address,
        .len_bytes = region->size,
        .user_address = region->user_address,
        .host = mapping.data,
        .mapping = mapping,
    };
    memory->count++;
    return 0;
}

int vhost_memory_remove(struct vhost_memory *memory, const struct vhost_user_region *region, struct error *err)
{
    for (unsigned i = 0; i < memory->count; i++) {
        struct vhost_region *r = &memory->regions[i];

        if (r->guest_address != region->guest_address || r->user_address != region->user_address ||
            r->len_bytes != region->size)
            continue;
        vhost_mapping_close(&r->mapping);
        memory->count--;
        memmove(r, r + 1, (memory->count - i) * sizeof(*r));
        return 0;
    }
    return error_set(err, -ENOENT, "there is no memory region of %llu bytes at guest address 0x%llx",
                     (unsigned long long)region->size, (unsigned long long)region->guest_address);
}

void vhost_memory_clear(struct vhost_memory *memory)
{
    while (memory->count > 0)
        vhost_mapping_close(&memory->regions[--memory->count].mapping);
}

static inline bool region_has(const struct vhost_region *r, uint64_t guest_address)
{
    return guest_address >= r->guest_address && guest_address - r->guest_address < r->len_bytes;
}

/* The region that a guest address is in, or NULL. */
static const struct vhost_region *region_find(const struct vhost_memory *memory, uint64_t guest_address, unsigned *hint)
{
    unsigned low = 0, high = memory->count;

    if (*hint < memory->count && region_has(&memory->regions[*hint], guest_address))
        return &memory->regions[*hint];
    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (guest_address < memory->regions[middle].guest_address) {
            high = middle;
        } else if (!region_has(&memory->regions[middle], guest_address)) {
            low = middle + 1;
        } else {
            *hint = middle;
            return &memory->regions[middle];
        }
    }
    return NULL;
}

uint8_t *vhost_memory_translate(const struct vhost_memory *memory, uint64_t guest_address, uint64_t len_bytes,
                                unsigned *hint, uint64_t *ret_bytes)
{
    const struct vhost_region *r = region_find(memory, guest_address, hint);
    uint64_t offset;

    if (r == NULL || len_bytes == 0)
        return NULL;
    offset = guest_address - r->guest_address;
    *ret_bytes = MIN(len_bytes, r->len_bytes - offset);
    return r->host + offset;
}

bool vhost_memory_read(const struct vhost_memory *memory, uint64_t guest_address, void *buffer, uint64_t len_bytes,
                       unsigned *hint)
{
    uint8_t *to = buffer;

    while (len_bytes > 0) {
        uint64_t n;
        const uint8_t *from = vhost_memory_translate(memory, guest_address, len_bytes, hint, &n);

        if (from == NULL)
            return false;
        vhost_copy_in(to, from, n);
        to += n;
        guest_address += n; /* a region's end is a number, see check_region() */
        len_bytes -= n;
    }
    return true;
}

void *vhost_memory_ring(const struct vhost_memory *memory, uint64_t user_address, uint64_t len_bytes, unsigned align)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *r = &memory->regions[i];
        uint64_t offset = user_address - r->user_address;

        if (user_address < r->user_address || !range_within(offset, len_bytes, r->len_bytes))
            continue;
        return (uintptr_t)(r->host + offset) % align == 0 ? r->host + offset : NULL;
    }
    return NULL;
}

bool vhost_memory_guest_address(const struct vhost_memory *memory, const void *host, uint64_t *ret_guest_address)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *r = &memory->regions[i];
        uintptr_t offset = (uintptr_t)host - (uintptr_t)r->host;

        if ((uintptr_t)host >= (uintptr_t)r->host && offset < r->len_bytes) {
            *ret_guest_address = r->guest_address + offset;
            return true;
        }
    }
    return false;
}
