/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Range locks of a node: a request that reads, modifies and writes whole blocks must be alone on them, among the
 * requests of all threads; others may share. A request holds at most one, so that there is no deadlock, and waits
 * behind earlier ones that it conflicts with, so that none starves.
 */
#ifndef BULKHEAD_BLOCK_RANGE_H
#define BULKHEAD_BLOCK_RANGE_H

#include <pthread.h>

#include "common/io/queue.h"

struct range_list {
    struct block_request *head;
    struct block_request *tail;
};

struct range_locks {
    pthread_mutex_t mutex;
    struct range_list held;
    struct range_list waiting; /* oldest first */
    unsigned exclusive_count;  /* held or waiting; nobody looks for conflicts while there is none */
};

void range_locks_init(struct range_locks *locks);
void range_locks_done(struct range_locks *locks);

/*
 * Lock [start, end) for req. True: held. False: req waits, and its queue continues it (io_queue_complete_remote() with
 * result 0) once it holds the lock.
 */
bool range_lock(struct range_locks *locks, struct block_request *req, uint64_t start, uint64_t end, bool exclusive);

/* On any thread; nothing happens if req holds none. */
void range_unlock(struct range_locks *locks, struct block_request *req);

#endif
