/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What requests in flight live in: a slot for each place of the ring, with room for the pieces of usual chains, and a
 * few vectors for those that have more. All of it is made when a queue starts; taking and giving back allocates
 * nothing. A queue that has no vector left takes nothing more off its ring until one comes back.
 */
#ifndef BULKHEAD_VHOST_SLOTS_H
#define BULKHEAD_VHOST_SLOTS_H

#include "vhost-worker/blk.h"

#define SLOT_IOV_MAX 160u /* for BLK_SEG_MAX segments, and some that cross from one memory region into the next */
#define VECTORS_MAX  32u  /* longer chains that one queue has in flight */

struct vhost_queue;

/* Room for the longest chain. */
struct vhost_vector {
    struct iovec iov[VRING_IOV_MAX];
    struct iovec log[VRING_IOV_MAX];
};

struct vhost_slot {
    struct block_request io;
    struct vhost_queue *queue;
    struct vhost_slot *next; /* free list */
    struct vring_chain chain;
    unsigned range_next; /* of blk.ranges: the one to submit next */
    struct blk_request blk;
    struct vhost_vector *vector; /* NULL: the pieces are here */
    struct iovec iov[SLOT_IOV_MAX];
};

struct vhost_slots {
    struct vhost_slot *slots; /* [count] */
    unsigned count;
    unsigned in_use;
    struct vhost_slot *free;
    struct vhost_vector *vectors;                   /* [VECTORS_MAX] */
    struct vhost_vector *free_vectors[VECTORS_MAX]; /* the last one is taken: memory of most is never touched */
    unsigned free_vector_count;
    struct iovec *log_iov; /* [count][SLOT_IOV_MAX] while the dirty log is on: where the data went */
};

/* For a queue of so many requests, all of them free. 0 or -ENOMEM. */
int vhost_slots_make(struct vhost_slots *slots, struct vhost_queue *queue, unsigned count, bool log, struct error *err);
void vhost_slots_release(struct vhost_slots *slots);

/* Whether one more chain of any length can be taken. */
static inline bool vhost_slots_available(const struct vhost_slots *slots)
{
    return slots->free != NULL && slots->free_vector_count > 0;
}

/*
 * Pop a chain off the ring into the next free slot; *ret_iov is where its pieces are. 1: the slot is in use; else as
 * vring_pop(), with the slot free as before.
 */
int vhost_slots_take(struct vhost_slots *slots, struct vring *ring, struct vhost_slot **ret_slot,
                     struct iovec **ret_iov, struct error *err);
void vhost_slots_give_back(struct vhost_slots *slots, struct vhost_slot *slot);

/* The pieces that the device wrote to, as they were before the block layer consumed the vector; NULL: not kept. */
const struct iovec *vhost_slots_written(const struct vhost_slots *slots, const struct vhost_slot *slot);

#endif
