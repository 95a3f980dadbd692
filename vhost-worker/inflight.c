/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See inflight.h. After a crash the buffer shows a prefix of the stores below in program order, which the steps of the
 * specification are made for; the fences keep the compiler to that order.
 */
#include "vhost-worker/inflight.h"

#include <errno.h>
#include <string.h>

#include "vhost-worker/memory.h"

static inline void in_order(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

uint64_t vhost_inflight_region_bytes(bool packed, unsigned size)
{
    if (packed)
        return sizeof(struct vhost_inflight_packed) + (uint64_t)size * sizeof(struct vhost_inflight_packed_desc);
    return sizeof(struct vhost_inflight_split) + (uint64_t)size * sizeof(struct vhost_inflight_split_desc);
}

int vhost_inflight_open(struct vhost_inflight_queue *queue, void *region, bool packed, uint16_t size, struct error *err)
{
    *queue = (struct vhost_inflight_queue){ .packed = packed, .size = size };
    queue->split = region;
    queue->again = calloc(size, sizeof(*queue->again));
    queue->batch = calloc(size, sizeof(*queue->batch));
    if (packed)
        queue->entries = calloc(size, sizeof(*queue->entries));
    if (queue->again == NULL || queue->batch == NULL || (packed && queue->entries == NULL)) {
        vhost_inflight_close(queue);
        return error_set(err, -ENOMEM, "no memory to track %u requests in flight", size);
    }
    return 0;
}

void vhost_inflight_close(struct vhost_inflight_queue *queue)
{
    free(queue->again);
    free(queue->batch);
    free(queue->entries);
    *queue = (struct vhost_inflight_queue){ 0 };
}

/* ---- What both layouts need when a queue starts ---- */

struct order {
    uint64_t counter;
    uint16_t index;
};

static int compare_order(const void *a, const void *b)
{
    const struct order *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* Turn a list of what is in flight into queue->again, in the order of fetching. */
static void set_again(struct vhost_inflight_queue *queue, struct order *list, uint16_t count)
{
    qsort(list, count, sizeof(*list), compare_order);
    for (uint16_t i = 0; i < count; i++)
        queue->again[i] = list[i].index;
    queue->again_count = count;
    queue->again_next = 0;
    /* A counter that wraps around orders the next recovery wrongly and nothing else. */
    queue->counter = count > 0 ? list[count - 1].counter + 1 : 0;
}

static int check_header(uint16_t version, uint16_t desc_num, uint16_t size, struct error *err)
{
    if (version != VHOST_INFLIGHT_VERSION)
        return error_set(err, -EPROTO, "inflight buffer of version %u", version);
    if (desc_num != size)
        return error_set(err, -EPROTO, "inflight buffer for a queue of %u, not %u", desc_num, size);
    return 0;
}

/* A private copy of the region, for the caller to free. */
static void *copy_region(const struct vhost_inflight_queue *queue, struct error *err)
{
    uint64_t len_bytes = vhost_inflight_region_bytes(queue->packed, queue->size);
    void *copy = malloc(len_bytes);

    if (copy == NULL)
        error_set(err, -ENOMEM, "no memory for a copy of the inflight buffer");
    else
        vhost_copy_in(copy, queue->split, len_bytes);
    return copy;
}

/* ---- Split rings ---- */

static void split_initialize(struct vhost_inflight_queue *queue, uint16_t used_idx)
{
    struct vhost_inflight_split *region = queue->split;

    memset(region, 0, vhost_inflight_region_bytes(false, queue->size));
    region->desc_num = queue->size;
    region->used_idx = used_idx;
    in_order();
    region->version = VHOST_INFLIGHT_VERSION;
}

/* "When reconnecting", step 1: the last batch was published, but its entries may not have been cleared. */
static int split_finish_batch(struct vhost_inflight_split *copy, uint16_t used_idx, struct error *err)
{
    uint16_t left = (uint16_t)(used_idx - copy->used_idx);
    uint16_t head = copy->last_batch_head;

    if (left > copy->desc_num)
        return error_set(err, -EPROTO, "inflight buffer: used index %u, but the ring's is %u", copy->used_idx,
                         used_idx);
    for (; left > 0; left--) {
        if (head >= copy->desc_num)
            return error_set(err, -EPROTO, "inflight buffer: its list of used requests leads to entry %u", head);
        copy->desc[head].inflight = 0;
        head = copy->desc[head].next;
    }
    return 0;
}

int vhost_inflight_split_start(struct vhost_inflight_queue *queue, uint16_t used_idx, struct error *err)
{
    _cleanup_free_ struct vhost_inflight_split *copy = copy_region(queue, err);
    _cleanup_free_ struct order *list = calloc(queue->size, sizeof(*list));
    uint16_t count = 0;
    int ret;

    if (copy == NULL || list == NULL)
        return error_set(err, -ENOMEM, "no memory to read the inflight buffer");
    if (copy->version == 0) {
        split_initialize(queue, used_idx);
        return 0;
    }
    ret = check_header(copy->version, copy->desc_num, queue->size, err);
    if (ret == 0)
        ret = split_finish_batch(copy, used_idx, err);
    if (ret < 0)
        return ret;
    for (uint16_t i = 0; i < queue->size; i++) {
        if (copy->desc[i].inflight != 0)
            list[count++] = (struct order){ copy->desc[i].counter, i };
        queue->split->desc[i].inflight = copy->desc[i].inflight != 0;
    }
    in_order();
    queue->split->used_idx = used_idx;
    set_again(queue, list, count);
    return 1;
}

void vhost_inflight_split_fetched(struct vhost_inflight_queue *queue, uint16_t head)
{
    struct vhost_inflight_split_desc *desc = &queue->split->desc[head];

    desc->counter = queue->counter++;
    in_order();
    desc->inflight = 1;
}

void vhost_inflight_split_used(struct vhost_inflight_queue *queue, uint16_t head)
{
    /* The list only has to lead through the batch; its end may point anywhere within the queue. */
    queue->split->desc[head].next = queue->batch_count > 0 ? queue->batch[queue->batch_count - 1] : 0;
    in_order();
    queue->split->last_batch_head = head;
    queue->batch[queue->batch_count++] = head;
}

void vhost_inflight_split_published(struct vhost_inflight_queue *queue, uint16_t used_idx)
{
    in_order();
    while (queue->batch_count > 0)
        queue->split->desc[queue->batch[--queue->batch_count]].inflight = 0;
    in_order();
    queue->split->used_idx = used_idx;
}

/* ---- Packed rings ---- */

static void packed_initialize(struct vhost_inflight_queue *queue, const struct vhost_inflight_position *position)
{
    struct vhost_inflight_packed *region = queue->pack;

    memset(region, 0, vhost_inflight_region_bytes(true, queue->size));
    for (uint16_t i = 0; i < queue->size; i++)
        region->desc[i].next = queue->entries[i].next = (uint16_t)(i + 1);
    queue->free_head = 0;
    region->desc_num = queue->size;
    region->used_idx = region->old_used_idx = position->used_idx;
    region->used_wrap_counter = region->old_used_wrap_counter = position->used_wrap;
    in_order();
    region->version = VHOST_INFLIGHT_VERSION;
}

/* "When reconnecting", steps 1 and 2: commit or roll back an update that was under way. */
static int packed_settle(struct vhost_inflight_packed *copy, const struct pvirtq_desc *ring, struct error *err)
{
    if (copy->used_idx >= copy->desc_num || copy->old_used_idx >= copy->desc_num || copy->free_head > copy->desc_num ||
        copy->old_free_head > copy->desc_num || copy->used_wrap_counter > 1 || copy->old_used_wrap_counter > 1)
        return error_set(err, -EPROTO, "inflight buffer: an index is not within the queue");
    if (copy->used_idx != copy->old_used_idx) {
        uint16_t flags = le16toh(__atomic_load_n(&ring[copy->old_used_idx].flags, __ATOMIC_RELAXED));
        uint16_t still_available = copy->old_used_wrap_counter ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;

        if ((flags & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) != still_available) {
            copy->old_free_head = copy->free_head;
            copy->old_used_idx = copy->used_idx;
            copy->old_used_wrap_counter = copy->used_wrap_counter;
        }
    }
    copy->free_head = copy->old_free_head;
    copy->used_idx = copy->old_used_idx;
    copy->used_wrap_counter = copy->old_used_wrap_counter;
    return 0;
}

/* Mark the entries that are free, and end their list. Returns how many. */
static uint16_t packed_walk_free(struct vhost_inflight_packed *copy, bool *seen)
{
    uint16_t i = copy->free_head, last = copy->desc_num, count = 0;

    while (i < copy->desc_num && !seen[i]) {
        seen[i] = true;
        copy->desc[i].inflight = 0;
        last = i;
        i = copy->desc[i].next;
        count++;
    }
    if (last < copy->desc_num)
        copy->desc[last].next = copy->desc_num;
    return count;
}

/* Mark the entries of one chain in flight. */
static int packed_walk_chain(const struct vhost_inflight_packed *copy, uint16_t head, bool *seen, struct error *err)
{
    uint16_t i = head, last = head;

    for (uint16_t left = copy->desc[head].num; left > 0; left--) {
        if (i >= copy->desc_num || seen[i])
            return error_set(err, -EPROTO, "inflight buffer: the chain of entry %u leads to entry %u", head, i);
        seen[i] = true;
        last = i;
        i = copy->desc[i].next;
    }
    if (copy->desc[head].num == 0 || copy->desc[head].last != last)
        return error_set(err, -EPROTO, "inflight buffer: the chain of entry %u ends elsewhere", head);
    return 0;
}

static int packed_collect(struct vhost_inflight_queue *queue, struct vhost_inflight_packed *copy, struct order *list,
                          struct vhost_inflight_position *ret, struct error *err)
{
    _cleanup_free_ bool *seen = calloc(queue->size, sizeof(*seen));
    uint16_t count = 0, in_flight = 0, free_count;

    if (seen == NULL)
        return error_set(err, -ENOMEM, "no memory to read the inflight buffer");
    free_count = packed_walk_free(copy, seen);
    for (uint16_t i = 0; i < queue->size; i++) {
        int code;

        if (copy->desc[i].inflight == 0)
            continue;
        code = packed_walk_chain(copy, i, seen, err);
        if (code < 0)
            return code;
        list[count++] = (struct order){ copy->desc[i].counter, i };
        in_flight = (uint16_t)(in_flight + copy->desc[i].num);
    }
    if (free_count + in_flight != queue->size)
        return error_set(err, -EPROTO, "inflight buffer: %u entries of %u are neither free nor in flight",
                         queue->size - free_count - in_flight, queue->size);
    *ret = (struct vhost_inflight_position){ copy->used_idx, copy->used_wrap_counter, in_flight };
    set_again(queue, list, count);
    return 0;
}

int vhost_inflight_packed_start(struct vhost_inflight_queue *queue, const struct pvirtq_desc *ring,
                                struct vhost_inflight_position *position, struct error *err)
{
    _cleanup_free_ struct vhost_inflight_packed *copy = copy_region(queue, err);
    _cleanup_free_ struct order *list = calloc(queue->size, sizeof(*list));
    int code;

    if (copy == NULL || list == NULL)
        return error_set(err, -ENOMEM, "no memory to read the inflight buffer");
    if (copy->version == 0) {
        packed_initialize(queue, position);
        return 0;
    }
    code = check_header(copy->version, copy->desc_num, queue->size, err);
    if (code == 0)
        code = packed_settle(copy, ring, err);
    if (code == 0)
        code = packed_collect(queue, copy, list, position, err);
    if (code < 0)
        return code;
    memcpy(queue->entries, copy->desc, queue->size * sizeof(*queue->entries));
    queue->free_head = copy->free_head;
    memcpy(queue->pack, copy, vhost_inflight_region_bytes(true, queue->size));
    return 1;
}

int vhost_inflight_packed_fetched(struct vhost_inflight_queue *queue, const struct pvirtq_desc *descs, unsigned count,
                                  uint16_t *ret_entry, struct error *err)
{
    struct vhost_inflight_packed_desc *entries = queue->entries, *shared = queue->pack->desc;
    uint16_t head = queue->free_head, i = head, last = head;

    for (unsigned n = 0; n < count; n++) {
        if (i >= queue->size)
            return error_set(err, -EPROTO, "more descriptors in flight than the queue of %u has", queue->size);
        shared[i].addr = descs[n].addr;
        shared[i].len = descs[n].len;
        shared[i].id = descs[n].id;
        shared[i].flags = descs[n].flags;
        last = i;
        i = entries[i].next;
    }
    entries[head].num = shared[head].num = (uint16_t)count;
    entries[head].last = shared[head].last = last;
    shared[head].counter = queue->counter++;
    in_order();
    shared[head].inflight = 1;
    in_order();
    queue->free_head = queue->pack->free_head = i;
    in_order();
    queue->pack->old_free_head = i;
    *ret_entry = head;
    return 0;
}

void vhost_inflight_packed_used(struct vhost_inflight_queue *queue, uint16_t entry)
{
    queue->batch[queue->batch_count++] = entry;
}

/*
 * Entries become free with their batch and not before: a chain that is fetched meanwhile must not take one, or a crash
 * between the two could not be rolled back.
 */
void vhost_inflight_packed_publish(struct vhost_inflight_queue *queue, uint16_t used_idx, bool used_wrap)
{
    for (uint16_t n = 0; n < queue->batch_count; n++) {
        uint16_t entry = queue->batch[n], last = queue->entries[entry].last;

        queue->entries[last].next = queue->pack->desc[last].next = queue->free_head;
        in_order();
        queue->free_head = queue->pack->free_head = entry;
    }
    in_order();
    queue->pack->used_wrap_counter = used_wrap;
    queue->pack->used_idx = used_idx;
    in_order();
}

void vhost_inflight_packed_published(struct vhost_inflight_queue *queue, uint16_t used_idx, bool used_wrap)
{
    in_order();
    while (queue->batch_count > 0)
        queue->pack->desc[queue->batch[--queue->batch_count]].inflight = 0;
    in_order();
    queue->pack->old_free_head = queue->free_head;
    queue->pack->old_used_idx = used_idx;
    queue->pack->old_used_wrap_counter = used_wrap;
}
