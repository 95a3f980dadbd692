/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Range locks. The mutex is held for a walk over the requests in flight at most, and only while somebody wants a range
 * for itself; otherwise for the few instructions of a list insertion.
 */
#include "common/block/range.h"

void range_locks_init(struct range_locks *locks)
{
    *locks = (struct range_locks){ 0 };
    pthread_mutex_init(&locks->mutex, NULL);
}

void range_locks_done(struct range_locks *locks)
{
    pthread_mutex_destroy(&locks->mutex);
}

static void list_append(struct range_list *list, struct block_request *req)
{
    req->range_next = NULL;
    req->range_prev = list->tail;
    if (list->tail != NULL)
        list->tail->range_next = req;
    else
        list->head = req;
    list->tail = req;
}

static void list_remove(struct range_list *list, struct block_request *req)
{
    if (req->range_prev != NULL)
        req->range_prev->range_next = req->range_next;
    else
        list->head = req->range_next;
    if (req->range_next != NULL)
        req->range_next->range_prev = req->range_prev;
    else
        list->tail = req->range_prev;
}

static bool conflict(const struct block_request *a, const struct block_request *b)
{
    return (a->range_exclusive || b->range_exclusive) && a->range_start < b->range_end && b->range_start < a->range_end;
}

/* Whether req conflicts with one of the list, up to but without `end`. */
static bool list_conflicts(const struct range_list *list, const struct block_request *req,
                           const struct block_request *end)
{
    for (const struct block_request *other = list->head; other != end; other = other->range_next) {
        if (conflict(other, req))
            return true;
    }
    return false;
}

bool range_lock(struct range_locks *locks, struct block_request *req, uint64_t start, uint64_t end, bool exclusive)
{
    bool held;

    req->range_start = start;
    req->range_end = end;
    req->range_exclusive = exclusive;
    pthread_mutex_lock(&locks->mutex);
    locks->exclusive_count += exclusive;
    held = locks->exclusive_count == 0 ||
           (!list_conflicts(&locks->held, req, NULL) && !list_conflicts(&locks->waiting, req, NULL));
    req->range_held = held;
    list_append(held ? &locks->held : &locks->waiting, req);
    pthread_mutex_unlock(&locks->mutex);
    return held;
}

void range_unlock(struct range_locks *locks, struct block_request *req)
{
    struct block_request *next;

    if (!req->range_held)
        return;
    pthread_mutex_lock(&locks->mutex);
    req->range_held = false;
    list_remove(&locks->held, req);
    locks->exclusive_count -= req->range_exclusive;
    for (struct block_request *waiter = locks->waiting.head; waiter != NULL; waiter = next) {
        next = waiter->range_next;
        if (list_conflicts(&locks->held, waiter, NULL) || list_conflicts(&locks->waiting, waiter, waiter))
            continue;
        list_remove(&locks->waiting, waiter);
        list_append(&locks->held, waiter);
        waiter->range_held = true;
        io_queue_complete_remote(waiter->queue, waiter, 0);
    }
    pthread_mutex_unlock(&locks->mutex);
}
