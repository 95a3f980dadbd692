/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A worker's life as the loop sees it: its pidfd, its status pipe, its control socket, one timer. Nothing here waits
 * for a worker, and nothing that a worker does or leaves undone ends in more than its own death.
 *
 * The end has two parts. The pidfd tells that the process is gone. A ring that was killed with it is taken down by the
 * kernel later, and keeps its files until the last request has been answered; the status pipe is one of these files, so
 * its end tells that nothing is open any more (common/worker/main.c). Either can fail to come, if the storage hangs:
 * then the worker is lost until it does.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "monitor/worker/worker-private.h"

#define RECORDS_PER_TURN    16
#define RECORDS_AFTER_DEATH 256  /* more than a pipe of default size holds */
#define SILENT_MAX_MS       2000 /* from the end of the status pipe or the control socket to the end of the process */
#define LOST_MS             3000 /* from SIGKILL, or the end of the process, to the end of all that it had */
#define LOST_LOOK_MS        500  /* how often a lost one's status pipe is looked at */
#define CLOSING_MS          2    /* the kernel closes the files of a ring one after the other */

/* ---- Ending ---- */

void supervise_kill(struct worker_handle *worker, bool expected, const char *fmt, ...)
{
    va_list args;

    if (expected)
        worker->asked_to_go = true;
    if (worker->killed || worker->dying)
        return;
    va_start(args, fmt);
    vsnprintf(worker->reason, sizeof(worker->reason), fmt, args);
    va_end(args);
    worker->killed = true;
    supervise_set_timer(worker, LOST_MS);
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
    if (worker->control_event != NULL)
        event_free(worker->control_event);
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

/* It takes nothing any more, and is to come to its end soon. */
static void begin_to_die(struct worker_handle *worker)
{
    if (!worker->killed || worker->reaped)
        supervise_set_timer(worker, LOST_MS);
    if (!worker->dying && worker->ops->dead != NULL)
        worker->ops->dead(worker, worker->opaque);
    worker->dying = true;
}

/* Nothing of it is left. */
static void finish(struct worker_handle *worker)
{
    struct worker_exit why;

    reason_fill(worker, &why);
    worker->state = WORKER_GONE;
    log_debug("worker %s %d is gone: %s", worker->role->name, (int)worker->pid, why.text);
    tell_failed_start(worker, &why);
    worker->ops->gone(worker, &why, worker->opaque);
    supervise_free(worker);
}

/*
 * Its status pipe may be in other hands by now, to which it was sent, and which write for ever: it is looked at for its
 * end, at a pace of ours. The pidfd tells of the rest.
 */
static void look_at_lost(struct worker_handle *worker)
{
    if (!worker->silent)
        worker->silent = !status_run(worker, RECORDS_AFTER_DEATH);
    if (!worker->silent)
        supervise_set_timer(worker, LOST_LOOK_MS);
    else if (worker->reaped)
        supervise_set_timer(worker, CLOSING_MS);
}

static void give_up(struct worker_handle *worker)
{
    worker->lost = true;
    event_del(worker->status_event);
    supervise_set_timer(worker, LOST_LOOK_MS);
    log_error("worker %s %d%s%s is lost: %s; perhaps its storage hangs", worker->role->name, (int)worker->pid,
              worker->export_id[0] != '\0' ? " of " : "", worker->export_id,
              worker->reaped ? "it has ended, but not what it had under way" : "SIGKILL does not end it");
    if (worker->ops->lost != NULL)
        worker->ops->lost(worker, worker->opaque);
}

bool supervise_reap(struct worker_handle *worker)
{
    siginfo_t info = { 0 };

    if (waitid(P_PIDFD, (id_t)worker->pidfd, &info, WEXITED | WNOHANG) < 0) {
        if (errno == EINTR)
            return false;
        log_error("worker %s %d: nobody knows how it ended: %s", worker->role->name, (int)worker->pid, strerror(errno));
        info.si_code = CLD_EXITED;
    } else if (info.si_pid == 0) {
        return false;
    }
    worker->reaped = true;
    worker->exited = info.si_code == CLD_EXITED;
    worker->exit_code = info.si_status;
    return true;
}

static void pidfd_ready(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;

    if (!supervise_reap(worker))
        return;
    event_del(worker->pidfd_event);
    event_del(worker->control_event);
    if (!worker->silent)
        worker->silent = !status_run(worker, RECORDS_AFTER_DEATH); /* its last words */
    if (worker->silent)
        finish(worker);
    else
        begin_to_die(worker);
}

/*
 * A process that was killed, or has crashed, ends with its last thread, and one may wait in the kernel for storage that
 * hangs; the pidfd is silent until then. That it has begun to end shows in the first thread, in /proc alone.
 */
static bool leader_has_ended(const struct worker_handle *worker)
{
    _cleanup_close_ int fd = -1;
    char text[512];
    ssize_t n;
    const char *name_end;

    snprintf(text, sizeof(text), "/proc/%d/stat", (int)worker->pid);
    fd = open(text, O_RDONLY | O_CLOEXEC);
    n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (n < 0)
        return false;
    text[n] = '\0';
    name_end = strrchr(text, ')');
    return name_end != NULL && strncmp(name_end, ") Z", 3) == 0;
}

static void look(struct worker_handle *worker)
{
    if (worker->dying || worker->killed || !leader_has_ended(worker))
        return;
    syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0); /* in case that it ended only this thread */
    status_run(worker, RECORDS_AFTER_DEATH);                         /* its last words */
    begin_to_die(worker);
}

static void look_at_all(evutil_socket_t fd, short what, void *arg)
{
    struct worker_set *set = arg;
    bool any = false;

    for (struct worker_handle *worker = set->workers; worker != NULL; worker = worker->next) {
        any |= worker->has_images;
        if (worker->has_images)
            look(worker);
    }
    if (any)
        supervise_look(set);
}

int supervise_look(struct worker_set *set)
{
    static const struct timeval interval = { .tv_sec = 1 };

    if (set->look_timer == NULL)
        set->look_timer = evtimer_new(set->base, look_at_all, set);
    if (set->look_timer == NULL)
        return -ENOMEM;
    return evtimer_pending(set->look_timer, NULL) ? 0 : evtimer_add(set->look_timer, &interval);
}

/* ---- Status ---- */

static void status_ready(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;

    if (status_run(worker, RECORDS_PER_TURN))
        return;
    worker->silent = true;
    event_del(worker->status_event);
    if (worker->reaped)
        supervise_set_timer(worker, CLOSING_MS);
    else if (!worker->killed &&
             !worker->dying) /* it ends, or it has closed the pipe and lives on, which no worker of ours does */
        supervise_set_timer(worker, SILENT_MAX_MS);
}

/* ---- The control socket ---- */

/* It ends, or lives on and hears nothing any more, which no worker of ours does. */
static void hang_up(struct worker_handle *worker)
{
    if (worker->hung_up || worker->killed || worker->dying)
        return;
    worker->hung_up = true;
    event_del(worker->control_event);
    supervise_set_timer(worker, SILENT_MAX_MS);
}

static void control_ready(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;
    char byte;

    if (recv(worker->control_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
        event_del(worker->control_event);
        supervise_kill(worker, false, "it broke the protocol: it wrote to its control socket");
        return;
    }
    hang_up(worker);
}

/* ---- Time ---- */

static void timer_expired(evutil_socket_t fd, short what, void *arg)
{
    struct worker_handle *worker = arg;

    if (worker->reaped && worker->silent)
        finish(worker);
    else if (worker->lost)
        look_at_lost(worker);
    else if (worker->dying || worker->killed)
        give_up(worker);
    else if (worker->silent)
        supervise_kill(worker, false, "it closed its status pipe and did not exit");
    else if (worker->hung_up)
        supervise_kill(worker, false, "it shut its control socket down and did not exit");
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
    worker->control_event = event_new(base, worker->control_fd, EV_READ | EV_PERSIST, control_ready, worker);
    worker->timer = event_new(base, -1, 0, timer_expired, worker);
    if (worker->pidfd_event == NULL || worker->status_event == NULL || worker->control_event == NULL ||
        worker->timer == NULL || event_add(worker->pidfd_event, NULL) < 0 ||
        event_add(worker->status_event, NULL) < 0 || event_add(worker->control_event, NULL) < 0 ||
        (worker->has_images && supervise_look(worker->set) < 0))
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
    if (r == -EPIPE)
        hang_up(worker);
    return r;
}

void worker_drain(struct worker_handle *worker, unsigned timeout_ms)
{
    struct ipc_drain drain;

    if (worker->dying) /* of something else */
        return;
    if (worker->state == WORKER_CREATING || worker->state == WORKER_RUNNING) {
        worker_send(worker, IPC_DRAIN, &drain, sizeof(drain), NULL, 0); /* if it cannot be sent, the timer is left */
        worker->state = WORKER_DRAINING;
        worker->asked_to_go = true;
    }
    if (worker->state == WORKER_DRAINING && !worker->killed)
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

bool worker_is_lost(const struct worker_handle *worker)
{
    return worker->lost;
}

const char *worker_get_export_id(const struct worker_handle *worker)
{
    return worker->export_id[0] != '\0' ? worker->export_id : NULL;
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
