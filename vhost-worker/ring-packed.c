/* SPDX-License-Identifier: BSD-2-Clause */
/* Packed virtqueues; see ring.h. Source: VIRTIO 1.2, 2.8. */
#include <errno.h>

#include "vhost-worker/ring.h"

#define BASE_INDEX 0x7fffu
#define BASE_WRAP  0x8000u

int vring_packed_check(const struct vring_config *config, const struct vhost_memory *memory, struct vring_packed *ret,
                       struct error *err)
{
    ret->desc = vhost_memory_ring(memory, config->descriptor, config->size * sizeof(struct pvirtq_desc), 16);
    if (ret->desc == NULL)
        return error_set(err, -EINVAL, "a descriptor ring at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->descriptor);
    ret->driver_event = vhost_memory_ring(memory, config->available, sizeof(*ret->driver_event), 4);
    if (ret->driver_event == NULL)
        return error_set(err, -EINVAL, "a driver event area at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->available);
    ret->device_event = vhost_memory_ring(memory, config->used, sizeof(*ret->device_event), 4);
    if (ret->device_event == NULL)
        return error_set(err, -EINVAL, "a device event area at 0x%llx, which is not in guest memory or not aligned",
                         (unsigned long long)config->used);
    return 0;
}

/* Step over count places; count is at most the ring's size. */
static void advance(const struct vring *ring, uint16_t *idx, bool *wrap, uint16_t count)
{
    unsigned next = (unsigned)*idx + count;

    if (next >= ring->size) {
        next -= ring->size;
        *wrap = !*wrap;
    }
    *idx = (uint16_t)next;
}

static int start_inflight(struct vring *ring, struct error *err)
{
    struct vring_packed *pack = &ring->pack;
    struct vhost_inflight_position position = { pack->used_idx, pack->used_wrap, 0 };
    int ret = vhost_inflight_packed_start(ring->inflight, pack->desc, &position, err);

    if (ret <= 0)
        return ret;
    /* What is neither used nor in flight was not fetched. */
    pack->avail_idx = pack->used_idx = position.used_idx;
    pack->avail_wrap = pack->used_wrap = position.used_wrap;
    advance(ring, &pack->avail_idx, &pack->avail_wrap, position.in_flight);
    return 0;
}

int vring_packed_init(struct vring *ring, const struct vring_config *config, struct error *err)
{
    struct vring_packed *pack = &ring->pack;
    int ret = vring_packed_check(config, ring->memory, pack, err);

    if (ret < 0)
        return ret;
    pack->avail_idx = (uint16_t)(config->base & BASE_INDEX);
    pack->avail_wrap = config->base & BASE_WRAP;
    pack->used_idx = (uint16_t)(config->base >> 16 & BASE_INDEX);
    pack->used_wrap = config->base >> 16 & BASE_WRAP;
    if (pack->avail_idx >= ring->size || pack->used_idx >= ring->size)
        return error_set(err, -EINVAL, "a ring base of 0x%x in a queue of %u", config->base, ring->size);
    return ring->inflight != NULL ? start_inflight(ring, err) : 0;
}

/* 2.8.1: available is a descriptor whose AVAIL bit equals our wrap counter and whose USED bit does not. */
static bool is_available(uint16_t flags, bool wrap)
{
    return !!(flags & VIRTQ_DESC_F_AVAIL) == wrap && !!(flags & VIRTQ_DESC_F_USED) != wrap;
}

/* Indirect tables of packed rings are in order, without next fields (2.8.8). */
static int walk_table(struct vring_gather *gather, const struct pvirtq_desc *desc, struct error *err)
{
    struct pvirtq_desc table[VRING_CHAIN_MAX];
    int count = vring_gather_table(gather, le64toh(desc->addr), le32toh(desc->len), le16toh(desc->flags), table, err);
    int ret = 0;

    if (count < 0)
        return count;
    for (int i = 0; i < count && ret == 0; i++) {
        uint16_t flags = le16toh(table[i].flags);

        if (flags & VIRTQ_DESC_F_INDIRECT)
            return error_set(err, -EPROTO, "an indirect descriptor within an indirect table");
        ret = vring_gather_buffer(gather, le64toh(table[i].addr), le32toh(table[i].len), flags, err);
    }
    return ret;
}

/* Turn private copies of a chain's descriptors into buffers. */
static int gather_chain(struct vring_gather *gather, const struct pvirtq_desc *descs, unsigned count, struct error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < count && ret == 0; i++) {
        uint16_t flags = le16toh(descs[i].flags);

        if (!(flags & VIRTQ_DESC_F_INDIRECT))
            ret = vring_gather_buffer(gather, le64toh(descs[i].addr), le32toh(descs[i].len), flags, err);
        else if (count > 1) /* 2.8.19: not together with direct ones */
            return error_set(err, -EPROTO, "an indirect descriptor in a chain of %u", count);
        else
            ret = walk_table(gather, &descs[i], err);
    }
    return ret;
}

/* Copy the next chain's descriptors out of the ring. Returns how many, 0, or -EPROTO. */
static int fetch_ring(struct vring *ring, struct pvirtq_desc *descs, struct error *err)
{
    struct vring_packed *pack = &ring->pack;
    uint16_t idx = pack->avail_idx, flags;
    bool wrap = pack->avail_wrap;
    unsigned count = 0;

    /* Acquire: the rest of the descriptor, and those after it in the chain, are read after these flags. */
    if (!is_available(vring_load16_acquire(&pack->desc[idx].flags), wrap))
        return 0;
    do {
        if (count == VRING_CHAIN_MAX)
            return error_set(err, -EPROTO, "a chain of more than %u descriptors", VRING_CHAIN_MAX);
        if (ring->in_flight + count == ring->size)
            return error_set(err, -EPROTO, "more than %u descriptors in flight", ring->size);
        vhost_copy_in(&descs[count], &pack->desc[idx], sizeof(descs[count]));
        flags = le16toh(descs[count++].flags);
        advance(ring, &idx, &wrap, 1);
    } while (flags & VIRTQ_DESC_F_NEXT);
    pack->avail_idx = idx;
    pack->avail_wrap = wrap;
    return (int)count;
}

/* The same from the inflight buffer's private copy, for a chain that must be done again. */
static unsigned fetch_again(struct vring *ring, struct pvirtq_desc *descs, uint16_t *ret_entry)
{
    struct vhost_inflight_queue *inflight = ring->inflight;
    uint16_t entry = inflight->again[inflight->again_next++], i = entry;
    unsigned count = inflight->entries[entry].num;

    *ret_entry = entry;
    for (unsigned n = 0; n < count; n++) {
        const struct vhost_inflight_packed_desc *e = &inflight->entries[i];

        descs[n] = (struct pvirtq_desc){ .addr = e->addr, .len = e->len, .id = e->id, .flags = e->flags };
        i = e->next;
    }
    return count;
}

/* The next chain's descriptors, from what must be done again or the ring. Their number, 0 or -EPROTO. */
static int next_chain(struct vring *ring, struct pvirtq_desc *descs, uint16_t *ret_entry, struct error *err)
{
    struct vhost_inflight_queue *inflight = ring->inflight;
    int count;

    if (inflight != NULL && inflight->again_next < inflight->again_count) {
        if (inflight->entries[inflight->again[inflight->again_next]].num > VRING_CHAIN_MAX)
            return error_set(err, -EPROTO, "inflight buffer: a chain of more than %u descriptors", VRING_CHAIN_MAX);
        return (int)fetch_again(ring, descs, ret_entry);
    }
    count = fetch_ring(ring, descs, err);
    if (count > 0 && inflight != NULL) {
        int ret = vhost_inflight_packed_fetched(inflight, descs, (unsigned)count, ret_entry, err);

        if (ret < 0)
            return ret;
    }
    return count;
}

int vring_packed_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err)
{
    struct pvirtq_desc descs[VRING_CHAIN_MAX];
    struct vring_chain chain = { 0 };
    struct vring_gather gather = { .ring = ring, .chain = &chain, .iov = iov };
    int count = next_chain(ring, descs, &chain.inflight, err);
    int code;

    if (count <= 0)
        return count;
    chain.id = le16toh(descs[count - 1].id); /* 2.8.6: the last one's is the buffer's */
    chain.descriptors = (uint16_t)count;
    code = gather_chain(&gather, descs, (unsigned)count, err);
    if (code < 0) {
        error_prepend(err, "buffer %u", chain.id);
        return code;
    }
    ring->in_flight = (uint16_t)(ring->in_flight + count);
    *ret = chain;
    return 1;
}

bool vring_packed_available(const struct vring *ring)
{
    return is_available(vring_load16(&ring->pack.desc[ring->pack.avail_idx].flags), ring->pack.avail_wrap);
}

/* 2.8.7: one used descriptor for the whole chain; the places after it that the chain took are skipped. */
void vring_packed_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes)
{
    struct vring_packed *pack = &ring->pack;
    struct pvirtq_desc *desc = &pack->desc[pack->used_idx];
    uint16_t flags = pack->used_wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;

    if (chain->in_bytes > 0)
        flags |= VIRTQ_DESC_F_WRITE; /* the length counts */
    desc->id = htole16(chain->id);
    desc->len = htole32(len_bytes);
    if (pack->batch_open) {
        vring_store16_release(&desc->flags, flags);
    } else {
        pack->batch_idx = pack->used_idx;
        pack->batch_flags = flags;
        pack->batch_open = true;
    }
    vring_log(ring, desc, 0, sizeof(*desc));
    if (ring->inflight != NULL)
        vhost_inflight_packed_used(ring->inflight, chain->inflight);
    advance(ring, &pack->used_idx, &pack->used_wrap, chain->descriptors);
    ring->unpublished = (uint16_t)(ring->unpublished + chain->descriptors);
}

void vring_packed_publish(struct vring *ring)
{
    struct vring_packed *pack = &ring->pack;
    struct pvirtq_desc *first = &pack->desc[pack->batch_idx];

    if (ring->inflight != NULL)
        vhost_inflight_packed_publish(ring->inflight, pack->used_idx, pack->used_wrap);
    vring_store16_release(&first->flags, pack->batch_flags);
    vring_log(ring, first, 0, sizeof(*first));
    if (ring->inflight != NULL)
        vhost_inflight_packed_published(ring->inflight, pack->used_idx, pack->used_wrap);
    pack->batch_open = false;
}

/* 2.8.10, 2.8.14 */
bool vring_packed_must_notify(struct vring *ring)
{
    const struct vring_packed *pack = &ring->pack;
    uint16_t flags = vring_load16(&pack->driver_event->flags) & 3;
    uint16_t event, new_idx, old_idx;
    bool event_wrap;

    if (flags == RING_EVENT_FLAGS_DISABLE)
        return false;
    if (flags != RING_EVENT_FLAGS_DESC || !ring->event_idx)
        return true;
    event = vring_load16(&pack->driver_event->desc);
    event_wrap = event & RING_EVENT_WRAP;
    event &= (uint16_t)~RING_EVENT_WRAP;
    /* As with split rings, on indices made free-running: one lap ago is size less. Wrong for an offset beyond the
     * ring, where any answer will do. */
    new_idx = pack->used_idx;
    old_idx = (uint16_t)(new_idx - ring->unsignalled);
    if (event_wrap != pack->used_wrap)
        event = (uint16_t)(event - ring->size);
    return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx);
}

void vring_packed_want_notify(struct vring *ring, bool wanted)
{
    struct vring_packed *pack = &ring->pack;
    uint16_t flags = wanted ? RING_EVENT_FLAGS_ENABLE : RING_EVENT_FLAGS_DISABLE;

    if (wanted && ring->event_idx) {
        vring_store16(&pack->device_event->desc,
                      (uint16_t)(pack->avail_idx | (pack->avail_wrap ? RING_EVENT_WRAP : 0)));
        flags = RING_EVENT_FLAGS_DESC;
    }
    vring_store16_release(&pack->device_event->flags, flags);
    vring_log(ring, pack->device_event, 0, sizeof(*pack->device_event));
}
