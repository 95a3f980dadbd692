/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inflight I/O tracking: which chains were taken and not given back is written to a buffer that the front-end keeps, so
 * that after a crash of ours, or a lost connection, a successor does them again. Source: vhost-user.rst, "Inflight I/O
 * tracking".
 *
 * The buffer is memory of the front-end. While a queue runs it is only written to: what the algorithm needs is kept in
 * private memory too. It is read in one place, when a queue starts: copied once, the copy checked as a hostile input.
 */
#ifndef BULKHEAD_VHOST_INFLIGHT_H
#define BULKHEAD_VHOST_INFLIGHT_H

#include "common/base/error.h"
#include "vhost-worker/vhost-user-protocol.h"
#include "vhost-worker/virtio-protocol.h"

struct vhost_inflight_queue {
    bool packed;
    uint16_t size;
    uint64_t counter; /* order of the next chain */
    union {
        struct vhost_inflight_split *split; /* in the buffer */
        struct vhost_inflight_packed *pack;
    };

    /* What was found in flight, in the order in which it was fetched: heads (split) or entries (packed). */
    uint16_t *again; /* [size] */
    uint16_t again_count;
    uint16_t again_next;

    /* Chains given back and not yet published: heads or entries. */
    uint16_t *batch; /* [size] */
    uint16_t batch_count;

    /* Packed: the private copy of the entries' links and, until done again, of their descriptors. */
    struct vhost_inflight_packed_desc *entries; /* [size] */
    uint16_t free_head;                         /* size: none is free */
};

/* Where a packed ring goes on. */
struct vhost_inflight_position {
    uint16_t used_idx;
    bool used_wrap;
    uint16_t in_flight; /* descriptors */
};

/* Bytes of one queue's region. */
uint64_t vhost_inflight_region_bytes(bool packed, unsigned size);

/*
 * Attach to a queue's region in the buffer, at least vhost_inflight_region_bytes() long. Nothing is read or written
 * yet. 0 or -ENOMEM.
 */
int vhost_inflight_open(struct vhost_inflight_queue *queue, void *region, bool packed, uint16_t size,
                        struct error *err);
void vhost_inflight_close(struct vhost_inflight_queue *queue); /* the mapping is the caller's */

/*
 * Read the region; used_idx is the used ring's index. 1: `again` says what to do again; 0: the region was not
 * initialized and is now; -EPROTO: it contradicts itself.
 */
int vhost_inflight_split_start(struct vhost_inflight_queue *queue, uint16_t used_idx, struct error *err);
void vhost_inflight_split_fetched(struct vhost_inflight_queue *queue, uint16_t head);
void vhost_inflight_split_used(struct vhost_inflight_queue *queue, uint16_t head);
void vhost_inflight_split_published(struct vhost_inflight_queue *queue, uint16_t used_idx);

/* The same for packed rings. ring is the descriptor ring; *position is where the region starts if it was not
 * initialized, and where it says to go on if 1 is returned. */
int vhost_inflight_packed_start(struct vhost_inflight_queue *queue, const struct pvirtq_desc *ring,
                                struct vhost_inflight_position *position, struct error *err);

/* A chain of count descriptors was fetched: *ret_entry stands for it from now on. -EPROTO: more than the queue has. */
int vhost_inflight_packed_fetched(struct vhost_inflight_queue *queue, const struct pvirtq_desc *descs, unsigned count,
                                  uint16_t *ret_entry, struct error *err);
void vhost_inflight_packed_used(struct vhost_inflight_queue *queue, uint16_t entry);

/* Around the store that shows a batch to the driver. The position is that after the batch. */
void vhost_inflight_packed_publish(struct vhost_inflight_queue *queue, uint16_t used_idx, bool used_wrap);
void vhost_inflight_packed_published(struct vhost_inflight_queue *queue, uint16_t used_idx, bool used_wrap);

#endif
