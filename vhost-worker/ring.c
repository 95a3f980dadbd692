/* SPDX-License-Identifier: BSD-2-Clause */
/* What split and packed rings share; see ring.h. */
#include "vhost-worker/ring.h"

#include <errno.h>

/* ---- Gathering the buffers of a chain ---- */

int vring_gather_buffer(struct vring_gather *gather, uint64_t addr, uint32_t len_bytes, uint16_t flags,
                        struct error *err)
{
    struct vring_chain *chain = gather->chain;
    bool writable = flags & VIRTQ_DESC_F_WRITE;

    if (++gather->descriptors > VRING_CHAIN_MAX)
        return error_set(err, -EPROTO, "a chain of more than %u descriptors", VRING_CHAIN_MAX);
    if (len_bytes == 0)
        return error_set(err, -EPROTO, "a descriptor of 0 bytes");
    if (!writable && chain->in_count > 0)
        return error_set(err, -EPROTO, "a device-readable descriptor after a device-writable one");
    *(writable ? &chain->in_bytes : &chain->out_bytes) += len_bytes; /* VRING_CHAIN_MAX times 4 GiB at most */
    while (len_bytes > 0) {
        unsigned count = chain->out_count + chain->in_count;
        uint64_t n;
        uint8_t *host = vhost_memory_translate(gather->ring->memory, addr, len_bytes, &gather->ring->memory_hint, &n);

        if (host == NULL)
            return error_set(err, -EPROTO, "a descriptor of %u bytes at 0x%llx, which is not guest memory", len_bytes,
                             (unsigned long long)addr);
        if (count == VRING_IOV_MAX)
            return error_set(err, -EPROTO, "a chain in more than %u pieces", VRING_IOV_MAX);
        gather->iov[count] = (struct iovec){ .iov_base = host, .iov_len = n };
        *(writable ? &chain->in_count : &chain->out_count) += 1;
        addr += n;
        len_bytes -= (uint32_t)n;
    }
    return 0;
}

int vring_gather_table(struct vring_gather *gather, uint64_t addr, uint32_t len_bytes, uint16_t flags, void *table,
                       struct error *err)
{
    if (!gather->ring->indirect)
        return error_set(err, -EPROTO, "an indirect descriptor, which was not negotiated");
    if (flags & VIRTQ_DESC_F_NEXT)
        return error_set(err, -EPROTO, "an indirect descriptor that is not the last of its chain");
    if (len_bytes == 0 || len_bytes % sizeof(struct virtq_desc) != 0)
        return error_set(err, -EPROTO, "an indirect table of %u bytes", len_bytes);
    if (len_bytes / sizeof(struct virtq_desc) > VRING_CHAIN_MAX)
        return error_set(err, -EPROTO, "an indirect table of %zu descriptors, more than %u",
                         len_bytes / sizeof(struct virtq_desc), VRING_CHAIN_MAX);
    if (!vhost_memory_read(gather->ring->memory, addr, table, len_bytes, &gather->ring->memory_hint))
        return error_set(err, -EPROTO, "an indirect table at 0x%llx, which is not guest memory",
                         (unsigned long long)addr);
    return (int)(len_bytes / sizeof(struct virtq_desc));
}

void vring_log(struct vring *ring, const void *host, uint64_t used_offset, uint32_t len_bytes)
{
    bool ok;

    if (ring->log == NULL)
        return;
    /* log_guest_addr stands for the used ring only; the descriptors of a packed ring are logged where they are. */
    if (ring->packed)
        ok = vhost_dirty_log_mark_host(ring->log, ring->memory, host, len_bytes);
    else
        ok = vhost_dirty_log_mark(ring->log, ring->log_address + used_offset, len_bytes);
    if (!ok)
        ring->log_failed = true;
}

/* ---- Life ---- */

static int check_size(const struct vring_config *config, struct error *err)
{
    if (config->size == 0 || config->size > VIRTQ_SIZE_MAX)
        return error_set(err, -EINVAL, "a queue size of %u, expected 1 to %u", config->size, VIRTQ_SIZE_MAX);
    if (!config->packed && !is_power_of_2(config->size))
        return error_set(err, -EINVAL, "a queue size of %u, which is not a power of 2", config->size);
    /* What is logged under this address ends within the address space (see vring_log()). */
    if (config->log > UINT64_MAX - 16 * VIRTQ_SIZE_MAX)
        return error_set(err, -EINVAL, "a log address of 0x%llx", (unsigned long long)config->log);
    return 0;
}

int vring_check(const struct vring_config *config, const struct vhost_memory *memory, struct error *err)
{
    struct vring_split split;
    struct vring_packed pack;
    int ret = check_size(config, err);

    if (ret < 0)
        return ret;
    return config->packed ? vring_packed_check(config, memory, &pack, err)
                          : vring_split_check(config, memory, &split, err);
}

int vring_init(struct vring *ring, const struct vring_config *config, const struct vhost_memory *memory,
               const struct vhost_dirty_log *log, struct vhost_inflight_queue *inflight, struct error *err)
{
    int ret = check_size(config, err);

    if (ret < 0)
        return ret;
    *ring = (struct vring){
        .memory = memory,
        .log = config->log_used ? log : NULL,
        .inflight = inflight,
        .log_address = config->log,
        .size = (uint16_t)config->size,
        .packed = config->packed,
        .event_idx = config->event_idx,
        .indirect = config->indirect,
        .notify_wanted = -1,
    };
    ret = ring->packed ? vring_packed_init(ring, config, err) : vring_split_init(ring, config, err);
    if (ret < 0)
        vring_done(ring);
    return ret;
}

void vring_done(struct vring *ring)
{
    free(ring->split.busy);
    *ring = (struct vring){ 0 };
}

uint32_t vring_base(const struct vring *ring)
{
    const struct vring_packed *p = &ring->pack;

    if (!ring->packed)
        return ring->split.avail_idx;
    return (uint32_t)(p->avail_idx | p->avail_wrap << 15) | (uint32_t)(p->used_idx | p->used_wrap << 15) << 16;
}

/* ---- Dispatch ---- */

int vring_pop(struct vring *ring, struct vring_chain *ret, struct iovec *iov, struct error *err)
{
    return ring->packed ? vring_packed_pop(ring, ret, iov, err) : vring_split_pop(ring, ret, iov, err);
}

bool vring_available(const struct vring *ring)
{
    if (ring->inflight != NULL && ring->inflight->again_next < ring->inflight->again_count)
        return true;
    return ring->packed ? vring_packed_available(ring) : vring_split_available(ring);
}

void vring_push(struct vring *ring, const struct vring_chain *chain, uint32_t len_bytes)
{
    if (ring->packed)
        vring_packed_push(ring, chain, len_bytes);
    else
        vring_split_push(ring, chain, len_bytes);
}

void vring_publish(struct vring *ring)
{
    if (ring->unpublished == 0)
        return;
    if (ring->packed)
        vring_packed_publish(ring);
    else
        vring_split_publish(ring);
    ring->in_flight = (uint16_t)(ring->in_flight - ring->unpublished);
    ring->unsignalled = (uint16_t)(ring->unsignalled + ring->unpublished);
    ring->unpublished = 0;
}

bool vring_must_notify(struct vring *ring)
{
    bool must;

    if (ring->unsignalled == 0)
        return false;
    /* 2.7.13.4.1, 2.8.22: what was published must be visible before the driver's wish is read. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    must = ring->packed ? vring_packed_must_notify(ring) : vring_split_must_notify(ring);
    ring->unsignalled = 0;
    return must;
}

void vring_want_notify(struct vring *ring, bool wanted)
{
    if (ring->notify_wanted == wanted && !(wanted && ring->event_idx))
        return;
    ring->notify_wanted = wanted;
    if (ring->packed)
        vring_packed_want_notify(ring, wanted);
    else
        vring_split_want_notify(ring, wanted);
    /* 2.7.7.1, 2.8.21.3.1: the driver must see the wish before we look at the ring for the last time. */
    if (wanted)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
