/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse-worker/op.h"

#include <errno.h>

struct fx_op *fx_op_new(fuse_req_t fuse_req)
{
    struct fx_op *op = calloc(1, sizeof(*op));

    if (op == NULL) {
        fuse_reply_err(fuse_req, ENOMEM);
        return NULL;
    }
    op->thread = fx_thread_current();
    op->reply_fd = op->thread->reply_fd;
    op->fuse_req = fuse_req;
    return op;
}

fuse_req_t fx_op_end(struct fx_op *op)
{
    fuse_req_t fuse_req = op->fuse_req;

    op->thread->reply_fd = op->reply_fd;
    free(op);
    return fuse_req;
}

void fx_op_reply(struct fx_op *op, int result)
{
    fuse_reply_err(fx_op_end(op), -result);
}

/* ---- Steps ---- */

static void op_complete(struct block_request *req, int result)
{
    struct fx_op *op = container_of(req, struct fx_op, req);

    fx_thread_end_pending(op->thread);
    op->step(op, result);
}

void fx_op_submit(struct fx_op *op, fx_step_fn *step)
{
    int r;

    op->step = step;
    op->req.complete = op_complete;
    fx_thread_begin_pending(op->thread);
    r = block_submit(op->thread->export->root, op->thread->queue, &op->req);
    if (r != BLOCK_PENDING)
        op_complete(&op->req, r);
}

void fx_op_call(struct fx_op *op, int (*work)(struct block_request *req, uint8_t *scratch), fx_step_fn *step)
{
    op->step = step;
    op->req.flags = 0;
    op->req.after = NULL;
    op->req.complete = op_complete;
    fx_thread_begin_pending(op->thread);
    io_queue_call(op->thread->queue, &op->req, work);
}

/* ---- The size ---- */

static int resize_work(struct block_request *req, uint8_t *scratch)
{
    struct fx_op *op = container_of(req, struct fx_op, req);

    return fx_size_set(op->thread->export, op->new_size, op->only_grow);
}

static void tell(struct fx_op *op, enum ipc_status_type type, uint64_t size_bytes)
{
    struct ipc_status status = { .type = type, .fuse_resize = { .serial = op->serial, .size_bytes = size_bytes } };

    worker_report(op->thread->export->worker, &status);
}

static void resize_done(struct fx_op *op, int result);

/* Back on the thread, with the monitor's answer. */
static void resize_answered(struct io_task *task)
{
    struct fx_op *op = container_of(task, struct fx_op, task);

    op->permitted = op->result == 0;
    fx_thread_end_pending(op->thread);
    if (op->result < 0)
        resize_done(op, op->result);
    else
        fx_op_call(op, resize_work, resize_done);
}

static void ask_first(struct fx_export *export)
{
    struct fx_op *op = export->asked;

    if (op == NULL)
        return;
    op->serial = ++export->last_serial;
    tell(op, IPC_STATUS_FUSE_RESIZE, op->new_size);
}

/* One after the other. The operation stays pending, hence its thread listens to its loop. */
static void ask_monitor(struct fx_op *op)
{
    struct fx_export *export = op->thread->export;
    struct fx_op **at = &export->asked;

    fx_thread_begin_pending(op->thread);
    pthread_mutex_lock(&export->asked_lock);
    while (*at != NULL)
        at = &(*at)->next;
    *at = op;
    if (export->asked == op)
        ask_first(export);
    pthread_mutex_unlock(&export->asked_lock);
}

int fx_op_resize_answer(struct fx_export *export, uint64_t serial, int code)
{
    struct fx_op *op;

    pthread_mutex_lock(&export->asked_lock);
    op = export->asked; /* stays there until resize_done() */
    pthread_mutex_unlock(&export->asked_lock);
    if (op == NULL || op->serial != serial || op->task.run != NULL)
        return -EPROTO;
    op->result = code;
    op->task.run = resize_answered;
    io_loop_post(op->thread->loop, &op->task);
    return 0;
}

/* Before the step of whoever wanted the size changed: give back what was permitted, let the next one ask. */
static void resize_done(struct fx_op *op, int result)
{
    struct fx_export *export = op->thread->export;

    if (op->serial != 0) {
        pthread_mutex_lock(&export->asked_lock);
        if (op->permitted)
            tell(op, IPC_STATUS_FUSE_RESIZED, atomic_load(&export->size_bytes));
        export->asked = op->next;
        ask_first(export);
        pthread_mutex_unlock(&export->asked_lock);
    }
    op->after_resize(op, result);
}

void fx_op_resize(struct fx_op *op, fx_step_fn *step)
{
    op->after_resize = step;
    if (op->thread->export->may_resize)
        fx_op_call(op, resize_work, resize_done);
    else
        ask_monitor(op);
}
