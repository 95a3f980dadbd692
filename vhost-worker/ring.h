/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtqueues, split and packed, as the device sees them: take chains of buffers that the driver made available, give
 * them back, notify, and ask for or do without the driver's notifications. Source: VIRTIO 1.2, 2.7 and 2.8.
 *
 * All of the ring is in guest memory and may change at any moment. Each descriptor and index is read once, into a
 * private copy that is checked and used; indices and counts that this code relies on live in struct vring only. A ring
 * belongs to one thread at a time.
 */
#ifndef BULKHEAD_VHOST_RING_H
#define BULKHEAD_VHOST_RING_H

#include <endian.h>
#include <sys/uio.h>

#include "vhost-worker/dirty-log.h"
#include "vhost-worker/inflight.h"
#include "vhost-worker/virtio-protocol.h"

/*
 * Bounds of one chain: descriptors, direct ones and those of the indirect table together, and pieces of our memory they
 * can turn into. A buffer that crosses from one memory region into the next takes two pieces.
 *
 * 2.7.5.3.1 forbids chains longer than the queue, also in a table, and a driver is told of BLK_SEG_MAX segments.
 * Drivers (Windows') send up to 513 in a table of a queue of 128 all the same, and other back-ends take 1024.
 */
#define VRING_CHAIN_MAX 1024u
#define VRING_IOV_MAX   1056u

struct vring_config {
    uint32_t size; /* SET_VRING_NUM */
    bool packed;
    bool event_idx;
    bool indirect;
    bool log_used;                             /* VHOST_VRING_F_LOG and LOG_ALL */
    uint64_t descriptor, used, available, log; /* SET_VRING_ADDR; packed: used is the device's event area */
    uint32_t base;                             /* SET_VRING_BASE */
};

/* A chain that was taken: its buffers as pieces of our memory, readable ones first, then those to write to. */
struct vring_chain {
    uint16_t id;          /* split: head; packed: buffer id */
    uint16_t descriptors; /* packed: how many places of the ring it takes; 1 for split */
    uint16_t inflight;    /* packed, with an inflight buffer: its entry there */
    uint16_t out_count;   /* pieces to read from */
    uint16_t in_count;    /* pieces to write to */
    uint64_t out_bytes;
    uint64_t in_bytes;
};

struct vring_split {
    const struct virtq_desc *desc;
    const struct virtq_avail *avail;
    struct virtq_used *used;
    uint16_t avail_idx;  /* next to take */
    uint16_t avail_seen; /* avail->idx as last read */
    uint16_t used_idx;   /* next to give back */
    bool *busy;          /* [size]: head is in flight */
};

struct vring_packed {
    struct pvirtq_desc *desc;
    const struct pvirtq_event_suppress *driver_event;
    struct pvirtq_event_suppress *device_event;
    uint16_t avail_idx; /* next to take, and its wrap counter */
    uint16_t used_idx;  /* next to give back, and its wrap counter */
    bool avail_wrap;
    bool used_wrap;
    /* The first of a batch becomes visible last, and with it the whole batch. */
    uint16_t batch_idx;
    uint16_t batch_flags;
    bool batch_open;
};

struct vring {
    const struct vhost_memory *memory;
    const struct vhost_dirty_log *log;     /* for used ring writes; NULL: not wanted */
    struct vhost_inflight_queue *inflight; /* NULL: not wanted */
    unsigned memory_hint;
    uint64_t log_address;
    uint16_t size;
    uint16_t in_flight;   /* chains (split) or descriptors (packed) taken and not yet shown to the driver as used */
    uint16_t unpublished; /* of these, pushed */
    uint16_t unsignalled; /* used index (split) or places (packed) published since the driver was last considered */
    bool packed, event_idx, indirect;
    bool log_failed;   /* the log was too small for a write to the ring */
    int notify_wanted; /* what the driver was told last: 1, 0; -1: what somebody else left in the ring */
    struct vring_split split;
    struct vring_packed pack;
};

/*
 * Resolve the addresses of config in memory, take over what an inflight buffer says was in flight (inflight may be
 * NULL). 0; -EINVAL: a bad size, or a part of the ring is not in guest memory; -EPROTO: an inflight buffer that lies;
 * -ENOMEM.
 */
int vring_init(struct vring *ring, const struct vring_config *config, const struct vhost_memory *memory,
               const struct vhost_dirty_log *log, struct vhost_inflight_queue *inflight, struct error *err);
void vring_done(struct vring *ring);

/* The checks of vring_init() on size and addresses alone. */
int vring_check(const struct vring_config *config, const struct vhost_memory *memory, struct error *err);

/* What GET_VRING_BASE answers: nothing may be in flight. */
uint32_t vring_base(const struct vring *ring);

/*
 * Take the next chain. 1: *ret and iov[] (room for VRING_IOV_MAX) are filled; 0: none is available; -EPROTO: the driver
 * broke the rules, err says how, the ring must not be used any more.
 */
int vring_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err);

/* Whether vring_pop() would find something; a look at shared memory without any effect. */
bool vring_available(const struct vring *ring);

/* Give a chain back, having written len_bytes to its first writable bytes; the driver sees it after vring_publish(). */
void vring_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes);
void vring_publish(struct vring *ring);

/* After vring_publish(): whether the driver wants to be notified of what was published since the last call. */
bool vring_must_notify(struct vring *ring);

/* Ask the driver for notifications, or tell it that they are not needed. */
void vring_want_notify(struct vring *ring, bool wanted);

/* ---- For ring-split.c, ring-packed.c and ring.c ---- */

struct vring_gather {
    struct vring *ring;
    struct vring_chain *chain;
    struct iovec *iov;
    unsigned descriptors;
};

/* Add one buffer's descriptor to the chain. 0 or -EPROTO. */
int vring_gather_buffer(struct vring_gather *gather, uint64_t addr, uint32_t len_bytes, uint16_t flags,
                        struct error *err);

/* Copy an indirect table of len_bytes into table[VRING_CHAIN_MAX]; the number of its entries, or -EPROTO. */
int vring_gather_table(struct vring_gather *gather, uint64_t addr, uint32_t len_bytes, uint16_t flags, void *table,
                       struct error *err);

/* Log a write of ours to the used ring (split) or a descriptor or event area (packed). */
void vring_log(struct vring *ring, const void *host, uint64_t used_offset, uint32_t len_bytes);

int vring_split_check(const struct vring_config *config, const struct vhost_memory *memory, struct vring_split *ret,
                      struct error *err);
int vring_split_init(struct vring *ring, const struct vring_config *config, struct error *err);
int vring_split_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err);
bool vring_split_available(const struct vring *ring);
void vring_split_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes);
void vring_split_publish(struct vring *ring);
bool vring_split_must_notify(struct vring *ring);
void vring_split_want_notify(struct vring *ring, bool wanted);

int vring_packed_check(const struct vring_config *config, const struct vhost_memory *memory, struct vring_packed *ret,
                       struct error *err);
int vring_packed_init(struct vring *ring, const struct vring_config *config, struct error *err);
int vring_packed_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err);
bool vring_packed_available(const struct vring *ring);
void vring_packed_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes);
void vring_packed_publish(struct vring *ring);
bool vring_packed_must_notify(struct vring *ring);
void vring_packed_want_notify(struct vring *ring, bool wanted);

/* Shared memory that the driver changes meanwhile: each access once, and as a whole. Little-endian there, host order
 * here. */
static inline uint16_t vring_load16(const uint16_t *p)
{
    return le16toh(__atomic_load_n(p, __ATOMIC_RELAXED));
}

static inline uint16_t vring_load16_acquire(const uint16_t *p)
{
    return le16toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static inline void vring_store16(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, htole16(value), __ATOMIC_RELAXED);
}

static inline void vring_store16_release(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, htole16(value), __ATOMIC_RELEASE);
}

#endif
