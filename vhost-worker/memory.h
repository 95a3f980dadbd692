/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's memory as the front-end describes it: a table of regions, each a mapping with a guest address and a user
 * (front-end virtual) address. Everything that a guest or a front-end calls an address goes through the translations
 * here and comes out as bytes of one mapping or not at all. Source: vhost-user.rst, "Memory access".
 *
 * The table is changed by the control thread while all queues rest, and read by I/O threads.
 */
#ifndef BULKHEAD_VHOST_MEMORY_H
#define BULKHEAD_VHOST_MEMORY_H

#include <string.h>

#include "vhost-worker/mapping.h"
#include "vhost-worker/vhost-user-protocol.h"

#define VHOST_MEMORY_SLOTS_MAX 509 /* GET_MAX_MEM_SLOTS; as many as the kernel's KVM has by custom */

/*
 * Copy out of shared memory, once: what is checked afterwards is the copy. The barrier keeps the compiler from reading
 * the source again when the copy is used.
 */
static inline void vhost_copy_in(void *to, const void *from, size_t len_bytes)
{
    memcpy(to, from, len_bytes);
    __asm__ __volatile__("" : : : "memory");
}

struct vhost_region {
    uint64_t guest_address;
    uint64_t len_bytes;
    uint64_t user_address;
    uint8_t *host; /* of the first byte, in our address space */
    struct vhost_mapping mapping;
};

struct vhost_memory {
    unsigned count;
    struct vhost_region regions[VHOST_MEMORY_SLOTS_MAX]; /* by guest address; no two overlap */
};

/*
 * Map one region; fd is borrowed. -EINVAL: empty, wraps around, overlaps another in guest or user addresses, or is not
 * within its file; -ENOSPC: no slot is free; else -errno of mmap. The table is unchanged on failure.
 */
int vhost_memory_add(struct vhost_memory *memory, const struct vhost_user_region *region, int fd, struct error *err);

/* Unmap the region of these addresses and size; its mmap offset is ignored (REM_MEM_REG). -ENOENT: there is none. */
int vhost_memory_remove(struct vhost_memory *memory, const struct vhost_user_region *region, struct error *err);

void vhost_memory_clear(struct vhost_memory *memory);

/*
 * Where guest memory [guest_address, guest_address + len_bytes) starts in our address space, NULL if it is not guest
 * memory. *ret_bytes is how much of it lies there in one piece (1 to len_bytes): the rest is in the next region. *hint
 * is the caller's memory of the last region, any value is fine.
 */
uint8_t *vhost_memory_translate(const struct vhost_memory *memory, uint64_t guest_address, uint64_t len_bytes,
                                unsigned *hint, uint64_t *ret_bytes);

/* Copy out of guest memory, across regions if need be. False if not all of it is guest memory. */
bool vhost_memory_read(const struct vhost_memory *memory, uint64_t guest_address, void *buffer, uint64_t len_bytes,
                       unsigned *hint);

/* The part of a ring at a user address: within one region, aligned in our address space; else NULL. */
void *vhost_memory_ring(const struct vhost_memory *memory, uint64_t user_address, uint64_t len_bytes, unsigned align);

/* The guest address of a byte that a translation returned; false if it is in no region. */
bool vhost_memory_guest_address(const struct vhost_memory *memory, const void *host, uint64_t *ret_guest_address);

#endif
