/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks, compatible with QEMU's: byte-range OFD locks on the image itself, one byte each, always read locks.
 * Byte 100+i says "I use permission i", byte 200+i "I do not share permission i". To acquire: lock one's own bytes,
 * then ask for a write lock on 200+i of each permission used and on 100+i of each one not shared; a conflict means that
 * another program is in the way.
 *
 * A lock belongs to an open file description and lasts as long as that. The opener's child has one that nobody else
 * has, so that no worker can release it, by dying or otherwise. A worker's description is locked as well, before the worker has
 * it (image_lock_pin()): a write on its way to a disk that hangs keeps the description, whoever has died meanwhile, and
 * so the image locked. Two nodes on one file in one monitor exclude each other like two programs.
 *
 * F_OFD_GETLK does not tell whose a lock is. So a description of ours may have only such bytes that another one of
 * ours, on the same image, never asks for: see image_lock_set().
 */
#ifndef BULKHEAD_MONITOR_GRAPH_LOCKS_H
#define BULKHEAD_MONITOR_GRAPH_LOCKS_H

#include "common/base/error.h"

/* Permissions, as bits 1 << i of the i above. */
#define IMAGE_LOCK_CONSISTENT_READ (1u << 0)
#define IMAGE_LOCK_WRITE           (1u << 1)
#define IMAGE_LOCK_WRITE_UNCHANGED (1u << 2)
#define IMAGE_LOCK_RESIZE          (1u << 3)
#define IMAGE_LOCK_PERMISSIONS     4

/* What is locked now on one description; all zero: nothing. */
struct image_lock {
    uint32_t uses;
    uint32_t unshared;
};

/* Whether the file system of this descriptor can lock at all. */
bool image_lock_supported(int fd);

/*
 * Hold exactly uses and unshared on fd from now on: more, less, or nothing. -EAGAIN if another program is in the way
 * (err says which permission), another -errno if locking fails; what was held before is then still held and nothing
 * else. Giving back cannot fail.
 *
 * It asks only about what it did not hold before: as long as a byte is held, nobody can get into a conflict with it.
 * What other descriptions of ours hold (image_lock_pin()) must be held by this one as well, and is then never asked
 * about.
 */
int image_lock_set(struct image_lock *lock, int fd, uint32_t uses, uint32_t unshared, struct error *err);

/*
 * Hold uses and unshared on fd until its description is closed, without asking: on behalf of somebody who holds them
 * already and has asked. For descriptors that go to a worker. 0 or -errno.
 */
int image_lock_pin(int fd, uint32_t uses, uint32_t unshared, struct error *err);

/* Whether others allow uses and would leave unshared alone at this moment, without holding anything. -EAGAIN: no. */
int image_lock_check(int fd, uint32_t uses, uint32_t unshared, struct error *err);

#endif
