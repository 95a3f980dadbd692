/* SPDX-License-Identifier: BSD-2-Clause */
/* See slots.h. */
#include "vhost-worker/slots.h"

#include <errno.h>
#include <string.h>

static void link_free(struct vhost_slots *slots, struct vhost_queue *queue)
{
    slots->free = NULL;
    slots->in_use = 0;
    for (unsigned i = slots->count; i-- > 0;) {
        slots->slots[i].queue = queue;
        slots->slots[i].vector = NULL;
        slots->slots[i].next = slots->free;
        slots->free = &slots->slots[i];
    }
    for (unsigned i = 0; i < VECTORS_MAX; i++)
        slots->free_vectors[i] = &slots->vectors[i];
    slots->free_vector_count = VECTORS_MAX;
}

int vhost_slots_make(struct vhost_slots *slots, struct vhost_queue *queue, unsigned count, bool log, struct error *err)
{
    if (count != slots->count) {
        vhost_slots_release(slots);
        slots->slots = calloc(count, sizeof(*slots->slots));
        slots->vectors = calloc(VECTORS_MAX, sizeof(*slots->vectors));
        slots->count = count;
    }
    free(TAKE_PTR(slots->log_iov));
    if (log)
        slots->log_iov = calloc(count, SLOT_IOV_MAX * sizeof(*slots->log_iov));
    if (slots->slots == NULL || slots->vectors == NULL || (log && slots->log_iov == NULL)) {
        vhost_slots_release(slots);
        return error_set(err, -ENOMEM, "no memory for a queue of %u requests", count);
    }
    link_free(slots, queue);
    return 0;
}

void vhost_slots_release(struct vhost_slots *slots)
{
    free(slots->slots);
    free(slots->vectors);
    free(slots->log_iov);
    *slots = (struct vhost_slots){ 0 };
}

/* Where the pieces of a slot's chain are kept for the log. */
static struct iovec *log_of(const struct vhost_slots *slots, const struct vhost_slot *slot)
{
    if (slots->log_iov == NULL)
        return NULL;
    return slot->vector != NULL ? slot->vector->log : &slots->log_iov[(size_t)(slot - slots->slots) * SLOT_IOV_MAX];
}

const struct iovec *vhost_slots_written(const struct vhost_slots *slots, const struct vhost_slot *slot)
{
    return log_of(slots, slot);
}

/* How long a chain is shows only when it has been walked: it is read into a vector, which most do not need to keep. */
int vhost_slots_take(struct vhost_slots *slots, struct vring *ring, struct vhost_slot **ret_slot,
                     struct iovec **ret_iov, struct error *err)
{
    struct vhost_slot *slot = slots->free;
    struct vhost_vector *vector = slots->free_vectors[slots->free_vector_count - 1];
    struct iovec *iov = vector->iov, *log;
    int ret = vring_pop(ring, &slot->chain, iov, err);
    unsigned count;

    if (ret <= 0)
        return ret;
    count = (unsigned)slot->chain.out_count + slot->chain.in_count;
    if (count <= SLOT_IOV_MAX) {
        iov = memcpy(slot->iov, iov, count * sizeof(*iov));
    } else {
        slot->vector = vector;
        slots->free_vector_count--;
    }
    log = log_of(slots, slot);
    if (log != NULL)
        memcpy(log, iov + slot->chain.out_count, slot->chain.in_count * sizeof(*iov));
    slots->free = slot->next;
    slots->in_use++;
    *ret_slot = slot;
    *ret_iov = iov;
    return 1;
}

void vhost_slots_give_back(struct vhost_slots *slots, struct vhost_slot *slot)
{
    struct vhost_vector *vector = TAKE_PTR(slot->vector);

    if (vector != NULL)
        slots->free_vectors[slots->free_vector_count++] = vector;
    slot->next = slots->free;
    slots->free = slot;
    slots->in_use--;
}
