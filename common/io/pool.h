/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pool of threads that execute requests with blocking calls. All threads exist after io_pool_new(), because none can
 * be made once the sandbox is closed.
 */
#ifndef BULKHEAD_IO_POOL_H
#define BULKHEAD_IO_POOL_H

#include "common/base/error.h"
#include "common/io/request.h"

struct io_pool;

/* A chain of requests linked by next. */
struct io_request_list {
    struct block_request *head;
    struct block_request **tail;
    unsigned count;
};

static inline void io_request_list_init(struct io_request_list *list)
{
    *list = (struct io_request_list){ .tail = &list->head };
}

static inline void io_request_list_append(struct io_request_list *list, struct block_request *req)
{
    req->next = NULL;
    *list->tail = req;
    list->tail = &req->next;
    list->count++;
}

static inline struct block_request *io_request_list_pop(struct io_request_list *list)
{
    struct block_request *req = list->head;

    if (req != NULL) {
        list->head = req->next;
        if (list->head == NULL)
            list->tail = &list->head;
        list->count--;
    }
    return req;
}

/* Runs on a pool thread for each request and sees to its completion. scratch is that thread's own, page-aligned. */
typedef void io_pool_execute_fn(struct block_request *req, uint8_t *scratch, void *arg);

struct io_pool *io_pool_new(unsigned thread_count, size_t scratch_bytes, io_pool_execute_fn *execute, void *arg,
                            struct error *err);
void io_pool_free(struct io_pool *pool); /* joins the threads; NULL is fine; no request may be pending */

/* From any thread: hand over all of list, which is empty afterwards. */
void io_pool_submit(struct io_pool *pool, struct io_request_list *list);

#endif
