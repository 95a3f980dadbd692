/* SPDX-License-Identifier: BSD-2-Clause */
/* Split virtqueues; see ring.h. Source: VIRTIO 1.2, 2.7. */
#include <errno.h>

#include "vhost-worker/ring.h"

/* Layout: 2.7.5, 2.7.6, 2.7.8. An event index is there only if it was negotiated. */
static uint64_t avail_bytes(const struct vring_config *config)
{
    return sizeof(struct virtq_avail) + config->size * sizeof(uint16_t) + (config->event_idx ? sizeof(uint16_t) : 0);
}

static uint64_t used_bytes(const struct vring_config *config)
{
    return sizeof(struct virtq_used) + config->size * sizeof(struct virtq_used_elem) +
           (config->event_idx ? sizeof(uint16_t) : 0);
}

static uint64_t used_elem_offset(uint16_t slot)
{
    return sizeof(struct virtq_used) + slot * sizeof(struct virtq_used_elem);
}

static const uint16_t *used_event(const struct vring *ring)
{
    return &ring->split.avail->ring[ring->size];
}

static uint16_t *avail_event(const struct vring *ring)
{
    return (uint16_t *)((uint8_t *)ring->split.used + used_elem_offset(ring->size));
}

int vring_split_check(const struct vring_config *config, const struct vhost_memory *memory, struct vring_split *ret,
                      struct error *err)
{
    ret->desc = vhost_memory_ring(memory, config->descriptor, config->size * sizeof(struct virtq_desc), 16);
    if (ret->desc == NULL)
        return error_set(err, -EINVAL, "a descriptor table at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->descriptor);
    ret->avail = vhost_memory_ring(memory, config->available, avail_bytes(config), 2);
    if (ret->avail == NULL)
        return error_set(err, -EINVAL, "an available ring at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->available);
    ret->used = vhost_memory_ring(memory, config->used, used_bytes(config), 4);
    if (ret->used == NULL)
        return error_set(err, -EINVAL, "a used ring at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->used);
    return 0;
}

int vring_split_init(struct vring *ring, const struct vring_config *config, struct error *err)
{
    struct vring_split *split = &ring->split;
    int ret = vring_split_check(config, ring->memory, split, err);

    if (ret < 0)
        return ret;
    split->busy = calloc(ring->size, sizeof(*split->busy));
    if (split->busy == NULL)
        return error_set(err, -ENOMEM, "no memory for a queue of %u", ring->size);
    split->used_idx = vring_load16(&split->used->idx);
    split->avail_idx = (uint16_t)config->base;
    if (ring->inflight != NULL) {
        ret = vhost_inflight_split_start(ring->inflight, split->used_idx, err);
        if (ret < 0)
            return ret;
        /* What is neither used nor in flight was not fetched. */
        if (ret == 1)
            split->avail_idx = (uint16_t)(split->used_idx + ring->inflight->again_count);
    }
    split->avail_seen = split->avail_idx;
    return 0;
}

/* Follow the chain of head, through at most one indirect table. */
static int walk_chain(struct vring_gather *gather, uint16_t head, struct error *err)
{
    struct vring *ring = gather->ring;
    struct virtq_desc table[VRING_CHAIN_MAX], copy;
    const struct virtq_desc *from = ring->split.desc;
    unsigned size = ring->size, next = head, left = size;
    bool in_table = false;

    for (;;) {
        uint16_t flags;
        int ret;

        if (left-- == 0)
            return error_set(err, -EPROTO, "a chain that goes round in a circle");
        /* The copy of a table is ours, but copying from it alike keeps one path. */
        vhost_copy_in(&copy, &from[next], sizeof(copy));
        flags = le16toh(copy.flags);
        if (flags & VIRTQ_DESC_F_INDIRECT) {
            if (in_table)
                return error_set(err, -EPROTO, "an indirect descriptor within an indirect table");
            ret = vring_gather_table(gather, le64toh(copy.addr), le32toh(copy.len), flags, table, err);
            if (ret < 0)
                return ret;
            from = table;
            size = left = (unsigned)ret;
            next = 0;
            in_table = true;
            continue;
        }
        ret = vring_gather_buffer(gather, le64toh(copy.addr), le32toh(copy.len), flags, err);
        if (ret < 0)
            return ret;
        if (!(flags & VIRTQ_DESC_F_NEXT))
            return 0;
        next = le16toh(copy.next);
        if (next >= size)
            return error_set(err, -EPROTO, "a descriptor that leads to descriptor %u of %u", next, size);
    }
}

/* The next head, from what must be done again or the available ring. 1, 0 or -EPROTO. */
static int next_head(struct vring *ring, uint16_t *ret_head, struct error *err)
{
    struct vring_split *split = &ring->split;
    struct vhost_inflight_queue *inflight = ring->inflight;
    uint16_t waiting;

    if (inflight != NULL && inflight->again_next < inflight->again_count) {
        *ret_head = inflight->again[inflight->again_next++];
        return 1;
    }
    if (split->avail_seen == split->avail_idx) {
        /* Acquire: the entries that the index covers are read after it. */
        split->avail_seen = vring_load16_acquire(&split->avail->idx);
        waiting = (uint16_t)(split->avail_seen - split->avail_idx);
        if (waiting > ring->size)
            return error_set(err, -EPROTO, "the available index went from %u to %u in a queue of %u", split->avail_idx,
                             split->avail_seen, ring->size);
        if (waiting == 0)
            return 0;
    }
    *ret_head = vring_load16(&split->avail->ring[split->avail_idx % ring->size]);
    if (*ret_head >= ring->size)
        return error_set(err, -EPROTO, "descriptor %u was made available in a queue of %u", *ret_head, ring->size);
    split->avail_idx++;
    if (inflight != NULL && !split->busy[*ret_head])
        vhost_inflight_split_fetched(inflight, *ret_head);
    return 1;
}

int vring_split_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err)
{
    struct vring_chain chain = { .descriptors = 1 };
    struct vring_gather gather = { .ring = ring, .chain = &chain, .iov = iov };
    int code = next_head(ring, &chain.id, err);

    if (code <= 0)
        return code;
    if (ring->split.busy[chain.id])
        return error_set(err, -EPROTO, "descriptor %u was made available while it is in use", chain.id);
    if (ring->in_flight == ring->size)
        return error_set(err, -EPROTO, "more than %u chains in flight", ring->size);
    code = walk_chain(&gather, chain.id, err);
    if (code < 0) {
        error_prepend(err, "descriptor %u", chain.id);
        return code;
    }
    ring->split.busy[chain.id] = true;
    ring->in_flight++;
    *ret = chain;
    return 1;
}

bool vring_split_available(const struct vring *ring)
{
    return ring->split.avail_seen != ring->split.avail_idx ||
           vring_load16(&ring->split.avail->idx) != ring->split.avail_idx;
}

void vring_split_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes)
{
    struct vring_split *split = &ring->split;
    uint16_t slot = split->used_idx % ring->size;

    split->used->ring[slot] = (struct virtq_used_elem){ htole32(chain->id), htole32(len_bytes) };
    vring_log(ring, NULL, used_elem_offset(slot), sizeof(struct virtq_used_elem));
    if (ring->inflight != NULL)
        vhost_inflight_split_used(ring->inflight, chain->id);
    split->busy[chain->id] = false;
    split->used_idx++;
    ring->unpublished++;
}

void vring_split_publish(struct vring *ring)
{
    struct vring_split *split = &ring->split;

    vring_store16_release(&split->used->idx, split->used_idx);
    vring_log(ring, NULL, offsetof(struct virtq_used, idx), sizeof(uint16_t));
    if (ring->inflight != NULL)
        vhost_inflight_split_published(ring->inflight, split->used_idx);
}

/* 2.7.7.2, 2.7.10: without an event index the flag decides, with it whether the index was crossed. */
bool vring_split_must_notify(struct vring *ring)
{
    uint16_t new_idx = ring->split.used_idx, old_idx = (uint16_t)(new_idx - ring->unsignalled);

    if (!ring->event_idx)
        return !(vring_load16(&ring->split.avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    return (uint16_t)(new_idx - vring_load16(used_event(ring)) - 1) < (uint16_t)(new_idx - old_idx);
}

void vring_split_want_notify(struct vring *ring, bool wanted)
{
    struct vring_split *split = &ring->split;

    if (!ring->event_idx) {
        vring_store16(&split->used->flags, wanted ? 0 : VIRTQ_USED_F_NO_NOTIFY);
        vring_log(ring, NULL, offsetof(struct virtq_used, flags), sizeof(uint16_t));
    } else if (wanted) {
        /* Not wanted is an index that was passed already: leave it. */
        vring_store16(avail_event(ring), split->avail_idx);
        vring_log(ring, NULL, used_elem_offset(ring->size), sizeof(uint16_t));
    }
}
