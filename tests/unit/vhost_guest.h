/* SPDX-License-Identifier: BSD-2-Clause */
/* A guest's memory for tests of rings: two regions that touch in guest addresses and lie apart in user addresses. */
#ifndef BULKHEAD_TESTS_UNIT_VHOST_GUEST_H
#define BULKHEAD_TESTS_UNIT_VHOST_GUEST_H

#include <string.h>
#include <sys/mman.h>

#include "common/io/guard.h"
#include "vhost-worker/memory.h"

#define GUEST_REGION_BYTES 0x10000u
#define GUEST_BASE         0x40000000u /* guest address of the first region; the second follows at once */
#define GUEST_USER         0x7f0000000000u
#define GUEST_USER_SECOND  0x7e0000000000u

/* Rings live in the first region, at these offsets. */
#define GUEST_DESC  0x0000u
#define GUEST_AVAIL 0x4000u
#define GUEST_USED  0x5000u
#define GUEST_DATA  0x8000u

struct guest {
    struct vhost_memory memory;
    int fd;
    uint8_t *ram; /* the test's own mapping of both regions */
};

static inline struct guest *guest_new(void)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    struct vhost_user_region region = { GUEST_BASE, GUEST_REGION_BYTES, GUEST_USER, 0 };
    struct error err;

    assert_non_null(guest);
    assert_int_equal(io_guard_init(&err), 0);
    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    assert_true(guest->fd >= 0);
    assert_int_equal(ftruncate(guest->fd, 2 * GUEST_REGION_BYTES), 0);
    guest->ram = mmap(NULL, 2 * GUEST_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    assert_true(guest->ram != MAP_FAILED);
    assert_int_equal(vhost_memory_add(&guest->memory, &region, guest->fd, &err), 0);
    region = (struct vhost_user_region){ GUEST_BASE + GUEST_REGION_BYTES, GUEST_REGION_BYTES, GUEST_USER_SECOND,
                                         GUEST_REGION_BYTES };
    assert_int_equal(vhost_memory_add(&guest->memory, &region, guest->fd, &err), 0);
    return guest;
}

static inline void guest_free(struct guest *guest)
{
    vhost_memory_clear(&guest->memory);
    munmap(guest->ram, 2 * GUEST_REGION_BYTES);
    close(guest->fd);
    free(guest);
}

#endif
