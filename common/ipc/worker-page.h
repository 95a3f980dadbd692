/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One page of shared memory per worker: the worker counts, the monitor maps it read-only, so that a query costs the
 * worker nothing. The monitor treats all of it as hostile: numbers to show, nothing to rely on.
 */
#ifndef BULKHEAD_IPC_WORKER_PAGE_H
#define BULKHEAD_IPC_WORKER_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

#define WORKER_PAGE_BYTES 4096
#define WORKER_PAGE_OPS   7 /* indexed by enum block_op */

struct worker_page {
    /* Descriptors held, by kind. */
    _Atomic uint32_t fds_images;
    _Atomic uint32_t fds_clients;
    _Atomic uint32_t fds_internal; /* control, status, worker page, epoll, eventfd, ring */
    _Atomic uint32_t clients;

    /* Requests since start, by operation. */
    _Atomic uint64_t ops[WORKER_PAGE_OPS];
    _Atomic uint64_t errors[WORKER_PAGE_OPS];
    _Atomic uint64_t bytes[WORKER_PAGE_OPS];
    _Atomic uint64_t clients_total;
};

_Static_assert(sizeof(struct worker_page) <= WORKER_PAGE_BYTES, "the worker page is one page");

/* A counter has one writer or few; relaxed is enough. */
static inline void worker_page_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
