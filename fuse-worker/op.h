/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An operation of libfuse that does not finish at once: it goes from step to step, each on the block layer, on a pool
 * thread, or on a word of the monitor, and ends with a reply on the thread that it came to. All are rare, so each is
 * allocated.
 */
#ifndef BULKHEAD_FUSE_WORKER_OP_H
#define BULKHEAD_FUSE_WORKER_OP_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "fuse-worker/export.h"

#define FX_EXTENTS_MAX 64u /* that one step of lseek looks at */

struct fx_op;

/* What comes after a step. Ends the operation or starts another step. */
typedef void fx_step_fn(struct fx_op *op, int result);

struct fx_op {
    struct fx_thread *thread;
    fuse_req_t fuse_req;
    int reply_fd;
    struct block_request req;
    fx_step_fn *step;
    fx_step_fn *after_resize;
    struct io_task task; /* brings it back from the control thread */
    int result;
    struct fx_op *next; /* among those that wait for the monitor */
    uint64_t serial;    /* 0: has not asked */
    uint64_t new_size;
    bool only_grow;
    bool permitted;   /* by the monitor, for this once */
    unsigned retries; /* since others cut the file amid it */
    union {
        struct {
            int to_set;
            uint32_t mode, uid, gid;
        } setattr;
        struct {
            enum { FX_ALLOCATE, FX_PUNCH, FX_ZERO } action;
            uint64_t offset, len_bytes;
            bool grows;
        } fallocate;
        struct {
            uint64_t offset;
            bool data; /* SEEK_DATA, else SEEK_HOLE */
            struct block_extent extents[FX_EXTENTS_MAX];
        } lseek;
    };
};

/* NULL: no memory, fuse_req has been answered. */
struct fx_op *fx_op_new(fuse_req_t fuse_req);

/* Free it and answer with 0 or -errno. fx_op_end() frees it and gives the request, to be answered otherwise. */
void fx_op_reply(struct fx_op *op, int result);
fuse_req_t fx_op_end(struct fx_op *op);

/* Steps: submit op->req to the root node; run work on a pool thread; give the file the size new_size. */
void fx_op_submit(struct fx_op *op, fx_step_fn *step);
void fx_op_call(struct fx_op *op, int (*work)(struct block_request *req, uint8_t *scratch), fx_step_fn *step);
void fx_op_resize(struct fx_op *op, fx_step_fn *step);

/* The monitor's answer; from the control thread. 0, or -EPROTO if nothing was asked by that serial. */
int fx_op_resize_answer(struct fx_export *export, uint64_t serial, int code);

#endif
