/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status records from any thread. The pipe is non-blocking and small (16 records unless the monitor is quick), so what
 * does not fit waits in a bounded list that the control thread writes when there is room. Log lines are the first to be
 * dropped; a worker that cannot say what it must, because nobody reads, ends.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/ipc/status.h"
#include "common/worker/worker-private.h"

#define IO_ERROR_INTERVAL_NS 1000000000u

static struct worker *log_worker; /* log_message() has no argument of ours */

/* ---- The list; all with the lock held ---- */

/* Write what waits, as far as the pipe takes it. Returns whether the list is empty. */
static bool write_waiting(struct report_queue *queue)
{
    while (queue->head != NULL) {
        struct report_entry *entry = queue->head;
        int r = status_write(WORKER_STATUS_FD, &entry->status);

        if (r == -EAGAIN)
            return false;
        if (r < 0)
            _exit(1); /* the monitor is gone, or this is no pipe */
        queue->head = entry->next;
        if (queue->head == NULL)
            queue->tail = &queue->head;
        queue->count--;
        queue->logs -= entry->status.type == IPC_STATUS_LOG;
        free(entry);
    }
    return true;
}

static bool may_drop(const struct report_queue *queue, const struct ipc_status *status)
{
    return status->type == IPC_STATUS_LOG && queue->logs >= REPORT_LOGS_MAX;
}

static void append(struct report_queue *queue, const struct ipc_status *status)
{
    struct report_entry *entry;

    if (may_drop(queue, status)) {
        queue->logs_dropped++;
        return;
    }
    entry = queue->count < REPORT_RECORDS_MAX ? malloc(sizeof(*entry)) : NULL;
    if (entry == NULL)
        _exit(1);
    entry->next = NULL;
    entry->status = *status;
    *queue->tail = entry;
    queue->tail = &entry->next;
    queue->count++;
    queue->logs += status->type == IPC_STATUS_LOG;
}

/* Once the list is empty: tell of the lines that are missing. */
static void report_dropped(struct report_queue *queue)
{
    struct ipc_status status;

    if (queue->logs_dropped == 0)
        return;
    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_LOG;
    status.log.level = LOG_LEVEL_WARNING;
    snprintf(status.log.text, sizeof(status.log.text), "%u log lines were dropped, the status pipe was full",
             queue->logs_dropped);
    if (status_write(WORKER_STATUS_FD, &status) == 0)
        queue->logs_dropped = 0;
}

/* Have the control thread look at the queue. */
static void post_flush(struct worker *worker)
{
    struct report_queue *queue = &worker->private->reports;

    if (queue->flush_posted || worker->control_loop == NULL || queue->flush_task.run == NULL)
        return;
    queue->flush_posted = true;
    io_loop_post(worker->control_loop, &queue->flush_task);
}

/* ---- The control thread ---- */

static void flush(struct worker *worker)
{
    struct report_queue *queue = &worker->private->reports;
    bool empty;
    bool exiting;

    pthread_mutex_lock(&queue->lock);
    queue->flush_posted = false;
    empty = write_waiting(queue);
    if (empty)
        report_dropped(queue);
    exiting = queue->exiting;
    pthread_mutex_unlock(&queue->lock);
    io_loop_watch(worker->control_loop, &queue->watch, empty ? 0 : EPOLLOUT);
    if (empty && exiting)
        io_loop_stop(worker->control_loop);
}

static void run_flush(struct io_task *task)
{
    flush(container_of(task, struct report_queue, flush_task)->worker);
}

static void pipe_has_room(struct io_watch *watch, uint32_t events)
{
    flush(container_of(watch, struct report_queue, watch)->worker);
}

/* ---- For all ---- */

void report_queue_init(struct worker *worker)
{
    struct report_queue *queue = &worker->private->reports;

    pthread_mutex_init(&queue->lock, NULL);
    queue->worker = worker;
    queue->tail = &queue->head;
}

int report_queue_attach(struct worker *worker, struct error *err)
{
    struct report_queue *queue = &worker->private->reports;
    int r;

    queue->watch = (struct io_watch){ .fd = WORKER_STATUS_FD, .ready = pipe_has_room };
    r = io_loop_watch(worker->control_loop, &queue->watch, 0);
    if (r < 0)
        return error_set(err, r, "cannot watch the status pipe: %s", strerror(-r));
    pthread_mutex_lock(&queue->lock);
    queue->flush_task.run = run_flush;
    if (queue->head != NULL)
        post_flush(worker);
    pthread_mutex_unlock(&queue->lock);
    return 0;
}

void worker_report(struct worker *worker, const struct ipc_status *status)
{
    struct report_queue *queue = &worker->private->reports;
    const struct ipc_status_rule *rule = ipc_status_rule_find(status->type);
    struct ipc_status clean;

    if (rule == NULL)
        abort();
    /* Only what the type has: bytes of a union that nobody set stay here. */
    memset(&clean, 0, sizeof(clean));
    clean.magic = IPC_MAGIC;
    clean.type = status->type;
    memcpy(clean.bytes, status->bytes, rule->len_bytes);
    pthread_mutex_lock(&queue->lock);
    if (!queue->exiting && !(write_waiting(queue) && status_write(WORKER_STATUS_FD, &clean) == 0)) {
        append(queue, &clean);
        post_flush(worker);
    }
    pthread_mutex_unlock(&queue->lock);
}

void worker_report_io_error(struct worker *worker, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
                            int code)
{
    struct report_queue *queue = &worker->private->reports;
    struct ipc_status status = { .type = IPC_STATUS_IO_ERROR };
    uint64_t now = now_ns();
    bool send;

    pthread_mutex_lock(&queue->lock);
    send = queue->io_error_ns[req->op] == 0 || now - queue->io_error_ns[req->op] >= IO_ERROR_INTERVAL_NS;
    if (send) {
        status.io_error = (struct ipc_status_io_error){
            .op = req->op,
            .code = code,
            .offset = offset,
            .len_bytes = len_bytes,
            .suppressed = queue->io_error_suppressed[req->op],
        };
        queue->io_error_ns[req->op] = now;
        queue->io_error_suppressed[req->op] = 0;
    } else {
        queue->io_error_suppressed[req->op]++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (send)
        worker_report(worker, &status);
}

static void log_to_status(enum log_level level, const char *text)
{
    struct ipc_status status = { .type = IPC_STATUS_LOG };

    status.log.level = level;
    snprintf(status.log.text, sizeof(status.log.text), "%s", text);
    worker_report(log_worker, &status);
}

void report_take_log(struct worker *worker)
{
    log_worker = worker;
    log_set_sink(log_to_status);
}

void report_failed_and_exit(struct worker *worker, const struct error *err)
{
    struct ipc_status status = { .type = IPC_STATUS_FAILED };

    status.failed.code = err->code < 0 ? err->code : -EIO;
    snprintf(status.failed.text, sizeof(status.failed.text), "%.*s", (int)sizeof(status.failed.text) - 1, err->text);
    worker_report(worker, &status);
    _exit(1);
}

void worker_exit(struct worker *worker)
{
    struct report_queue *queue = &worker->private->reports;

    pthread_mutex_lock(&queue->lock);
    queue->exiting = true;
    post_flush(worker);
    pthread_mutex_unlock(&queue->lock);
}
