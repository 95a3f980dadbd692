/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Byte-range locks on images; see locks.h. Takes descriptors of the graph, reads and writes no byte of an image.
 */
#include "monitor/graph/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define USES_BASE     100
#define UNSHARED_BASE 200

static const char *const permission_names[IMAGE_LOCK_PERMISSIONS] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

static struct flock one_byte(off_t byte, short type)
{
    return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

/* Take (F_RDLCK) or give back (F_UNLCK) base+i for each bit. */
static int set_bytes(int fd, off_t base, uint32_t bits, short type)
{
    for (unsigned i = 0; i < IMAGE_LOCK_PERMISSIONS; i++) {
        struct flock lock = one_byte(base + i, type);

        if ((bits & (1u << i)) != 0 && fcntl(fd, F_OFD_SETLK, &lock) < 0)
            return -errno;
    }
    return 0;
}

/* The first permission whose byte base+i somebody else holds in any way, -1 if none, or -errno below that. */
#define NOBODY (-1)
static int find_holder(int fd, off_t base, uint32_t bits)
{
    for (unsigned i = 0; i < IMAGE_LOCK_PERMISSIONS; i++) {
        struct flock lock = one_byte(base + i, F_WRLCK);

        if ((bits & (1u << i)) == 0)
            continue;
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
            return -errno - 1;
        if (lock.l_type != F_UNLCK)
            return (int)i;
    }
    return NOBODY;
}

bool image_lock_supported(int fd)
{
    struct flock lock = one_byte(USES_BASE, F_WRLCK);

    return fcntl(fd, F_OFD_GETLK, &lock) == 0;
}

static int report_holder(int holder, const char *shared, const char *problem, struct error *err)
{
    if (holder == NOBODY)
        return 0;
    if (holder < NOBODY)
        return error_set(err, holder + 1, "cannot ask for locks: %s", strerror(-(holder + 1)));
    return error_set(err, -EAGAIN, "Failed to get %s\"%s\" lock: %s; is another process using the image? (try lslocks)",
                     shared, permission_names[holder], problem);
}

int image_lock_check(int fd, uint32_t uses, uint32_t unshared, struct error *err)
{
    int r = report_holder(find_holder(fd, UNSHARED_BASE, uses), "", "somebody does not share it", err);

    if (r == 0)
        r = report_holder(find_holder(fd, USES_BASE, unshared), "shared ",
                          "somebody has this right and it cannot be shared", err);
    return r;
}

static int take(int fd, uint32_t uses, uint32_t unshared, struct error *err)
{
    int r = set_bytes(fd, USES_BASE, uses, F_RDLCK);

    if (r == 0)
        r = set_bytes(fd, UNSHARED_BASE, unshared, F_RDLCK);
    if (r < 0) /* nobody takes write locks on these bytes, so this is no conflict as QEMU knows them */
        return error_set(err, r, "cannot lock the image: %s", strerror(-r));
    return 0;
}

int image_lock_pin(int fd, uint32_t uses, uint32_t unshared, struct error *err)
{
    return take(fd, uses, unshared, err);
}

int image_lock_set(struct image_lock *lock, int fd, uint32_t uses, uint32_t unshared, struct error *err)
{
    uint32_t new_uses = uses & ~lock->uses;
    uint32_t new_unshared = unshared & ~lock->unshared;
    int r = take(fd, new_uses, new_unshared, err);

    if (r == 0)
        r = image_lock_check(fd, new_uses, new_unshared, err);
    if (r < 0) {
        set_bytes(fd, USES_BASE, new_uses, F_UNLCK);
        set_bytes(fd, UNSHARED_BASE, new_unshared, F_UNLCK);
        return r;
    }
    set_bytes(fd, USES_BASE, lock->uses & ~uses, F_UNLCK);
    set_bytes(fd, UNSHARED_BASE, lock->unshared & ~unshared, F_UNLCK);
    *lock = (struct image_lock){ uses, unshared };
    return 0;
}
