/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A worker's life as the loop sees it: its pidfd, its status pipe, one timer. Nothing here waits for a worker, and
 * nothing that a worker does or leaves undone ends in more than its own death.
 */
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "monitor/worker/worker-private.h"

#define RECORDS_PER_TURN    16
#define RECORDS_AFTER_DEATH 256  /* more than a pipe of default size holds */
#define SILENT_MAX_MS       2000 /* from the end of the status pipe to the end of the process */

/* ---- Ending ---- */

void supervise_kill(struct worker_handle *worker, bool expected, const char *fmt, ...)
{
    va_list args;

    if (expected)
        worker->asked_to_go = true;
    if (worker->killed || worker->state == WORKER_GONE)
        return;
    va_start(args, fmt);
    vsnprintf(worker->reason, sizeof(worker->reason), fmt, args);
    va_end(args);
    worker->killed = true;
    if (syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        log_error("worker %s %d cannot be killed: %s", worker->role->name, (int)worker->pid, strerror(errno));
}

void supervise_free(struct worker_handle *worker)
{
    *worker->link = worker->next;
    if (worker->next != NULL)
        worker->next->link = worker->link;
    worker->set->count--;
    if (worker->pidfd_event != NULL)
        event_free(worker->pidfd_event);
    if (worker->status_event != NULL)
        event_free(worker->status_event);
    if (worker->timer != NULL)
        event_free(worker->timer);
    if (worker->page != NULL)
        munmap((void *)(uintptr_t)worker->page, WORKER_PAGE_BYTES);
    close_fd(&worker->pidfd);
    close_fd(&worker->control_fd);
    close_fd(&worker->status_fd);
    free(worker);
}

/* A worker that died before it could say why it could not start. */
static void tell_failed_start(struct worker_handle *worker, const struct worker_exit *why)
{
    struct error err;

    if (worker->is_ready || worker->asked_to_go)
        return;
    error_set(&err, -EIO, "the worker of role %s ended while it started: %s", worker->role->name, why->text);
    status_tell_failed(worker, &err);
}

static void pidfd_ready(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;
    struct worker_exit why;
    siginfo_t info = { 0 };

    if (waitid(P_PIDFD, (id_t)worker->pidfd, &info, WEXITED | WNOHANG) < 0) {
        if (errno == EINTR)
            return;
        log_error("worker %s %d: nobody knows how it ended: %s", worker->role->name, (int)worker->pid, strerror(errno));
        info.si_code = CLD_EXITED;
    } else if (info.si_pid == 0) {
        return;
    }
    status_run(worker, RECORDS_AFTER_DEATH); /* its last words */
    reason_fill(worker, info.si_code == CLD_EXITED, info.si_status, &why);
    worker->state = WORKER_GONE;
    log_debug("worker %s %d is gone: %s", worker->role->name, (int)worker->pid, why.text);
    tell_failed_start(worker, &why);
    worker->ops->gone(worker, &why, worker->opaque);
    supervise_free(worker);
}

/* ---- Status ---- */

static void status_ready(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;

    if (!status_run(worker, RECORDS_PER_TURN)) {
        /* It ends, or it has closed the pipe and lives on, which no worker of ours does. */
        event_del(worker->status_event);
        supervise_set_timer(worker, SILENT_MAX_MS);
    }
}

/* ---- Time ---- */

static void timer_expired(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;

    if (!event_pending(worker->status_event, EV_READ, NULL))
        supervise_kill(worker, false, "it closed its status pipe and did not exit");
    else if (worker->state == WORKER_CREATING)
        supervise_kill(worker, false, "it was not ready in time");
    else if (worker->state == WORKER_DRAINING)
        supervise_kill(worker, true, "it did not finish its requests in time");
}

void supervise_set_timer(struct worker_handle *worker, unsigned timeout_ms)
{
    struct timeval tv = timeval_of_ms(timeout_ms);

    event_add(worker->timer, &tv);
}

int supervise_start(struct worker_handle *worker, struct error *err)
{
    struct event_base *base = worker->set->base;

    worker->pidfd_event = event_new(base, worker->pidfd, EV_READ | EV_PERSIST, pidfd_ready, worker);
    worker->status_event = event_new(base, worker->status_fd, EV_READ | EV_PERSIST, status_ready, worker);
    worker->timer = event_new(base, -1, 0, timer_expired, worker);
    if (worker->pidfd_event == NULL || worker->status_event == NULL || worker->timer == NULL ||
        event_add(worker->pidfd_event, NULL) < 0 || event_add(worker->status_event, NULL) < 0)
        return error_set(err, -ENOMEM, "cannot watch a worker");
    return 0;
}

/* ---- Talking ---- */

int worker_send(struct worker_handle *worker, enum ipc_type type, void *message, size_t len_bytes, const int *fds,
                unsigned fd_count)
{
    struct error err = { 0 };
    int r;

    if (len_bytes < sizeof(struct ipc_header))
        return -EINVAL;
    channel_fill_header(message, type, len_bytes, fd_count);
    if (ipc_message_check(message, len_bytes, fd_count, worker->state, worker->role->ipc_role, NULL, &err) < 0) {
        log_error("worker %s %d: not sent: %s", worker->role->name, (int)worker->pid, err.text);
        return -EINVAL;
    }
    r = channel_send(worker->control_fd, message, len_bytes, fds, fd_count);
    if (r == -EAGAIN)
        supervise_kill(worker, false, "it does not read its control socket");
    return r;
}

void worker_drain(struct worker_handle *worker, unsigned timeout_ms)
{
    struct ipc_drain drain;

    if (worker->state == WORKER_CREATING || worker->state == WORKER_RUNNING) {
        worker_send(worker, IPC_DRAIN, &drain, sizeof(drain), NULL, 0); /* if it cannot be sent, the timer is left */
        worker->state = WORKER_DRAINING;
        worker->asked_to_go = true;
    }
    if (worker->state == WORKER_DRAINING)
        supervise_set_timer(worker, timeout_ms);
}

void worker_kill(struct worker_handle *worker, const char *why)
{
    supervise_kill(worker, true, "%s", why);
}

/* ---- Facts ---- */

enum worker_state worker_get_state(const struct worker_handle *worker)
{
    return worker->state;
}

pid_t worker_get_pid(const struct worker_handle *worker)
{
    return worker->pid;
}

uint32_t worker_get_role(const struct worker_handle *worker)
{
    return worker->role->ipc_role;
}

const char *worker_get_role_name(const struct worker_handle *worker)
{
    return worker->role->name;
}

const struct ipc_status_ready *worker_get_ready(const struct worker_handle *worker)
{
    return worker->is_ready ? &worker->ready : NULL;
}

const struct worker_page *worker_get_page(const struct worker_handle *worker)
{
    return worker->page;
}

void *worker_get_opaque(const struct worker_handle *worker)
{
    return worker->opaque;
}
