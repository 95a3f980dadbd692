/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks of the opener; see opener.h. What children say is checked for its form; they are no more trusted with it than
 * the account is, which is whom they act for.
 */
#include "monitor/graph/opener.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "monitor/export/export.h"
#include "monitor/monitor.h"
#include "monitor/worker/worker.h"

#define RESTART_MS   1000 /* before an opener that died early is replaced */
#define ERRNO_MAX    4095 /* of Linux */
#define STARTING_MAX 64   /* tasks that the opener has and no child has said a word of: bounds its socket */

struct request {
    TAILQ_ENTRY(request) link;
    struct opener_task *task;
    struct event *timer;
    void (*prepare)(void *opaque, union opener_message *message);
    opener_done_fn *done; /* NULL: nobody wants to hear of it any more */
    void *opaque;
    int fds[OPENER_FDS_MAX];
    unsigned fd_count;
    unsigned timeout_ms;
    bool sent;
    size_t len_bytes;
    union opener_message message;
};
TAILQ_HEAD(request_list, request);

struct opener_task {
    TAILQ_ENTRY(opener_task) link;
    struct opener *opener;
    const struct opener_task_ops *ops;
    void *opaque;
    int sock;
    int child_sock; /* the other end, until the opener has it */
    bool starting;  /* the opener has it, and no child has said a word */
    bool lost;      /* its child is gone */
    bool late;      /* the first request has been answered in the child's place */
    bool missed;    /* one was that the child has never heard of, or whose owner was in a hurry */
    bool ending;
    uint32_t pid;
    uint64_t last_cookie;
    struct event *readable;
    struct event *end_timer;
    struct request_list requests; /* the first one is under way */
    void (*ended)(void *opaque, bool closed);
    void *ended_opaque;
};
TAILQ_HEAD(task_list, opener_task);

struct opener {
    struct monitor *monitor;
    struct worker_handle *worker; /* NULL: it is gone, or never was */
    bool ready;
    struct event *restart_timer;
    uint64_t started_ns;
    opener_launch_fn *launch;
    void *launch_opaque;
    struct task_list tasks;
    unsigned starting;
    unsigned late;
};

/* ---- Requests ---- */

static void request_free(struct request *request)
{
    event_free(request->timer);
    while (request->fd_count > 0)
        close_fd(&request->fds[--request->fd_count]);
    explicit_bzero(&request->message, sizeof(request->message));
    free(request);
}

/* Tell its owner, if he still wants to know. Takes fd. */
static void answer(struct request *request, const struct opener_reply *reply, int fd)
{
    opener_done_fn *done = TAKE_PTR(request->done);

    evtimer_del(request->timer);
    if (done != NULL)
        done(request->opaque, reply, fd);
    else
        close_fd(&fd);
}

static void fill_in_error(struct opener_reply *reply, const struct error *err)
{
    reply->code = err->code;
    memcpy(reply->text, err->text, sizeof(reply->text));
}

static void answer_error(struct request *request, const struct error *err)
{
    struct opener_reply reply = { 0 };

    fill_in_error(&reply, err);
    answer(request, &reply, -1);
}

static void set_late(struct opener_task *task, bool late)
{
    if (task->late != late)
        task->opener->late += late ? 1 : -1u;
    task->late = late;
}

/* All that wait hear the same. */
static void fail_requests(struct opener_task *task, const struct error *err)
{
    struct request *request;

    while ((request = TAILQ_FIRST(&task->requests)) != NULL) {
        TAILQ_REMOVE(&task->requests, request, link);
        answer_error(request, err);
        request_free(request);
    }
}

static bool send_message(int sock, const void *message, size_t len_bytes, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * OPENER_FDS_MAX)];
    } control = { .bytes = { 0 } };
    struct iovec iov = { (void *)(uintptr_t)message, len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd_count > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * fd_count);
    }
    return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len_bytes;
}

/* One at a time is under way, so there is always room for it. If it fails the loop finds the socket at its end. */
static void send_first(struct opener_task *task)
{
    struct request *request = TAILQ_FIRST(&task->requests);

    if (request == NULL || request->sent || task->lost)
        return;
    request->sent = true;
    if (request->prepare != NULL && request->done != NULL)
        request->prepare(request->opaque, &request->message);
    request->message.header.magic = OPENER_MAGIC;
    request->message.header.cookie = ++task->last_cookie;
    if (!send_message(task->sock, &request->message, request->len_bytes, request->fds, request->fd_count))
        shutdown(task->sock, SHUT_RDWR);
    while (request->fd_count > 0)
        close_fd(&request->fds[--request->fd_count]);
}

/*
 * It is not waited for any more, and stays the one under way. That its owner was in a hurry does not make a child one
 * that hangs: it has OPENER_RELEASE_MS more. The owner is told last, since he may end the task.
 */
static void first_expired(struct request *request, const struct error *err)
{
    static const struct timeval more = { .tv_sec = OPENER_RELEASE_MS / 1000 };
    opener_done_fn *done = TAKE_PTR(request->done);
    void *opaque = request->opaque;
    struct opener_reply reply = { 0 };

    if (request->timeout_ms < OPENER_RELEASE_MS) {
        request->timeout_ms = OPENER_RELEASE_MS;
        request->task->missed = true;
        evtimer_add(request->timer, &more);
    } else {
        set_late(request->task, true);
    }
    fill_in_error(&reply, err);
    if (done != NULL)
        done(opaque, &reply, -1);
}

static void request_expired(evutil_socket_t fd, short what, void *arg)
{
    struct request *request = arg;
    struct opener_task *task = request->task;
    struct error err = { 0 };

    error_set(&err, -ETIMEDOUT, "its file system did not answer in time");
    if (task->starting && task->opener->worker != NULL)
        worker_kill(task->opener->worker, "it did not start a child in time");
    if (request == TAILQ_FIRST(&task->requests)) {
        first_expired(request, &err);
        return;
    }
    task->missed = true;
    TAILQ_REMOVE(&task->requests, request, link);
    answer_error(request, &err);
    request_free(request);
}

static int take_fds(struct request *request, const struct opener_ask *ask)
{
    for (unsigned i = 0; i < ask->fd_count; i++) {
        int fd = fcntl(ask->fds[i], F_DUPFD_CLOEXEC, 0);

        if (fd < 0)
            return -errno;
        request->fds[request->fd_count++] = fd;
    }
    return 0;
}

int opener_task_ask(struct opener_task *task, const struct opener_ask *ask, struct error *err)
{
    const struct timeval tv = timeval_of_ms(ask->timeout_ms);
    struct request *request;
    int r;

    if (task->lost)
        return error_set(err, -EPIPE, "the process that held it open is gone");
    request = calloc(1, sizeof(*request));
    if (request == NULL ||
        (request->timer = evtimer_new(task->opener->monitor->base, request_expired, request)) == NULL) {
        free(request);
        return error_set(err, -ENOMEM, "out of memory");
    }
    r = take_fds(request, ask);
    if (r < 0) {
        request_free(request);
        return error_set(err, r, "%s", strerror(-r));
    }
    request->task = task;
    request->timeout_ms = ask->timeout_ms;
    request->prepare = ask->prepare;
    request->done = ask->done;
    request->opaque = ask->opaque;
    request->len_bytes = ask->len_bytes;
    memcpy(&request->message, ask->message, ask->len_bytes);
    evtimer_add(request->timer, &tv);
    TAILQ_INSERT_TAIL(&task->requests, request, link);
    if (request == TAILQ_FIRST(&task->requests))
        send_first(task);
    return 0;
}

void opener_task_forget(struct opener_task *task, const void *opaque)
{
    struct request *request;

    TAILQ_FOREACH (request, &task->requests, link) {
        if (request->opaque == opaque)
            request->done = NULL;
    }
}

bool opener_task_is_late(const struct opener_task *task)
{
    return task->late;
}

/* ---- The end of a task ---- */

static void task_free(struct opener_task *task)
{
    struct request *request;

    set_late(task, false);
    if (task->starting)
        task->opener->starting--;
    TAILQ_REMOVE(&task->opener->tasks, task, link);
    while ((request = TAILQ_FIRST(&task->requests)) != NULL) {
        TAILQ_REMOVE(&task->requests, request, link);
        request_free(request);
    }
    if (task->readable != NULL)
        event_free(task->readable);
    if (task->end_timer != NULL)
        event_free(task->end_timer);
    close_fd(&task->sock);
    close_fd(&task->child_sock);
    free(task);
}

static void tell_ended(struct opener_task *task, bool closed)
{
    void (*ended)(void *, bool) = TAKE_PTR(task->ended);

    if (ended != NULL)
        ended(task->ended_opaque, closed);
}

static void end_expired(evutil_socket_t fd, short what, void *arg)
{
    struct opener_task *task = arg;

    if (task->lost) {
        tell_ended(task, true);
        task_free(task);
        return;
    }
    set_late(task, true);
    log_warning("process %u of the opener still has a file open: its file system does not answer", task->pid);
    tell_ended(task, false);
}

void opener_task_end(struct opener_task *task, void (*done)(void *opaque, bool closed), void *opaque)
{
    static const struct error dropped = { .code = -ECANCELED, .text = "it was closed meanwhile" };
    struct timeval tv = timeval_of_ms(task->lost || task->late ? 0 : OPENER_RELEASE_MS);

    task->ops = NULL;
    task->ending = true;
    task->ended = done;
    task->ended_opaque = opaque;
    fail_requests(task, &dropped);
    evtimer_add(task->end_timer, &tv);
    if (task->child_sock >= 0) { /* no child knows of it yet */
        close_fd(&task->child_sock);
    }
    if (!task->lost)
        shutdown(task->sock, SHUT_WR);
}

/* The child is gone, or talked nonsense: then it is of no use any more. */
static void task_lost(struct opener_task *task, const char *why)
{
    struct error err = { 0 };

    task->lost = true;
    event_del(task->readable);
    close_fd(&task->sock);
    set_late(task, false);
    if (task->starting)
        task->opener->starting--;
    task->starting = false;
    if (task->ending) {
        tell_ended(task, true);
        task_free(task);
        return;
    }
    error_set(&err, -EPIPE, "the process that had it open is gone: %s", why);
    log_error("process %u of the opener is gone: %s; what it had open was closed", task->pid, why);
    fail_requests(task, &err);
}

/* ---- What children say ---- */

static bool is_valid(const struct opener_task *task, const struct opener_reply *reply, ssize_t len_bytes, int fd)
{
    const struct request *first = TAILQ_FIRST(&task->requests);
    bool has_fd = (reply->flags & OPENER_HAS_FD) != 0;

    if (len_bytes != sizeof(*reply) || reply->header.magic != OPENER_MAGIC || reply->header.type < OPENER_STARTED ||
        reply->header.type > OPENER_REPLY || reply->code > 0 || reply->code < -ERRNO_MAX ||
        (reply->flags & ~OPENER_REPLY_ALL) != 0 || memchr(reply->text, '\0', sizeof(reply->text)) == NULL ||
        (fd >= 0) != has_fd || (has_fd && (reply->header.type != OPENER_REPLY || reply->code < 0)) ||
        reply->size_bytes > INT64_MAX - 511)
        return false;
    return reply->header.type == OPENER_STARTED || task->ending || first != NULL;
}

static void child_started(struct opener_task *task, const struct opener_reply *reply);

/* The path is resolved; whether it may be opened is decided here. */
static void path_found(struct opener_task *task, const struct opener_reply *reply)
{
    struct opener_go go = { .header = { .magic = OPENER_MAGIC, .type = OPENER_GO } };
    struct request *request = TAILQ_FIRST(&task->requests);
    struct error err = { 0 };

    if (task->ops != NULL && task->ops->found != NULL && task->ops->found(task->opaque, reply->device, &err) < 0) {
        answer_error(request, &err);
        shutdown(task->sock, SHUT_RDWR);
    } else {
        send_message(task->sock, &go, sizeof(go), NULL, 0);
    }
}

static void request_done(struct opener_task *task, const struct opener_reply *reply, int fd)
{
    struct request *request = TAILQ_FIRST(&task->requests);
    bool tell = task->late || task->missed;

    if (request == NULL) { /* it was dropped */
        close_fd(&fd);
        return;
    }
    TAILQ_REMOVE(&task->requests, request, link);
    set_late(task, false);
    task->missed = false;
    answer(request, reply, fd);
    request_free(request);
    send_first(task); /* unless whoever was answered has asked again, which sent it */
    if (tell && task->ops != NULL && task->ops->recovered != NULL)
        task->ops->recovered(task->opaque);
}

/* Room for one descriptor and no more: the kernel closes those beyond it. What came with any is nonsense: -EPROTO. */
static ssize_t receive(int sock, struct opener_reply *reply, int *ret_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = { reply, sizeof(*reply) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_LEN(sizeof(int))
    };
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    struct cmsghdr *cmsg = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    *ret_fd = -1;
    if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
        cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(int));
    if (n < 0)
        return -errno;
    return (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ? -EPROTO : n;
}

static void task_readable(evutil_socket_t sock, short what, void *arg)
{
    struct opener_task *task = arg;
    struct opener_reply reply;
    int fd;
    ssize_t n = receive((int)sock, &reply, &fd);

    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n <= 0 || !is_valid(task, &reply, n, fd)) {
        close_fd(&fd);
        task_lost(task, n <= 0 && n != -EPROTO ? "it was killed, or the opener was" : "it said what it may not");
    } else if (reply.header.type == OPENER_STARTED) {
        child_started(task, &reply);
    } else if (reply.header.type == OPENER_FOUND && !task->ending) {
        path_found(task, &reply);
    } else {
        request_done(task, &reply, fd);
    }
}

/* ---- The start of a task ---- */

static void launch(struct opener *opener, struct opener_task *task)
{
    struct ipc_opener_task message = { 0 };
    int r;

    if (opener->launch != NULL) {
        opener->launch(opener->launch_opaque, TAKE_FD(task->child_sock), NULL);
        return;
    }
    task->starting = true;
    opener->starting++;
    r = worker_send(opener->worker, IPC_OPENER_TASK, &message, sizeof(message), &task->child_sock, 1);
    close_fd(&task->child_sock);
    if (r < 0)
        log_error("the opener did not take a task: %s", strerror(-r)); /* the loop finds the socket at its end */
}

static void launch_waiting(struct opener *opener)
{
    struct opener_task *task;

    TAILQ_FOREACH (task, &opener->tasks, link) {
        if (opener->launch == NULL && (!opener->ready || opener->starting >= STARTING_MAX))
            return;
        if (task->child_sock >= 0)
            launch(opener, task);
    }
}

static void child_started(struct opener_task *task, const struct opener_reply *reply)
{
    task->pid = reply->pid;
    if (task->starting)
        task->opener->starting--;
    task->starting = false;
    launch_waiting(task->opener);
}

int opener_task_new(struct opener *opener, const struct opener_task_ops *ops, void *opaque,
                    struct opener_task **ret_task, struct error *err)
{
    struct event_base *base = opener->monitor->base;
    struct opener_task *task;
    int ends[2];

    if (opener->late >= OPENER_LATE_MAX)
        return error_set(err, -EBUSY,
                         "%u files hang in file systems that do not answer, and no more are opened until one "
                         "of them does",
                         opener->late);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set(err, -errno, "cannot make a socket for the opener: %s%s", strerror(errno),
                         errno == EMFILE ? " (the monitor has no descriptors left: LimitNOFILE=, ulimit -n)" : "");
    task = calloc(1, sizeof(*task));
    if (task == NULL) {
        close(ends[0]);
        close(ends[1]);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *task =
        (struct opener_task){ .opener = opener, .ops = ops, .opaque = opaque, .sock = ends[0], .child_sock = ends[1] };
    TAILQ_INIT(&task->requests);
    TAILQ_INSERT_TAIL(&opener->tasks, task, link);
    task->readable = event_new(base, task->sock, EV_READ | EV_PERSIST, task_readable, task);
    task->end_timer = evtimer_new(base, end_expired, task);
    if (task->readable == NULL || task->end_timer == NULL || event_add(task->readable, NULL) < 0) {
        task_free(task);
        return error_set(err, -ENOMEM, "out of memory");
    }
    launch_waiting(opener);
    *ret_task = task;
    return 0;
}

/* ---- A single request ---- */

struct single {
    struct opener_task *task;
    opener_done_fn *done;
    void *opaque;
};

static void single_done(void *opaque, const struct opener_reply *reply, int fd)
{
    struct single *single = opaque;
    struct single own = *single;

    free(single);
    opener_task_end(own.task, NULL, NULL);
    own.done(own.opaque, reply, fd);
}

int opener_run(struct opener *opener, const struct opener_ask *ask, struct error *err)
{
    struct single *single = calloc(1, sizeof(*single));
    struct opener_ask own = *ask;
    int r;

    if (single == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    *single = (struct single){ .done = ask->done, .opaque = ask->opaque };
    own.done = single_done;
    own.opaque = single;
    r = opener_task_new(opener, NULL, NULL, &single->task, err);
    if (r == 0) {
        r = opener_task_ask(single->task, &own, err);
        if (r < 0)
            opener_task_end(single->task, NULL, NULL);
    }
    if (r < 0)
        free(single);
    return r;
}

/* ---- The process ---- */

static void opener_is_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct opener *opener = opaque;

    opener->ready = true;
    launch_waiting(opener);
}

static void opener_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    log_error("the opener could not start: %s", err->text);
}

static int opener_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    return -EPROTO;
}

/* What no child has been made for fails; the children that are there live on. */
static void fail_waiting(struct opener *opener, const struct error *err)
{
    struct opener_task *task, *next;

    for (task = TAILQ_FIRST(&opener->tasks); task != NULL; task = next) {
        next = TAILQ_NEXT(task, link);
        if (task->child_sock >= 0 && !task->ending)
            fail_requests(task, err);
    }
}

static void restart(evutil_socket_t fd, short what, void *arg)
{
    struct opener *opener = arg;
    const struct timeval tv = { .tv_sec = RESTART_MS / 1000 };
    struct error err = { 0 };

    if (opener_start(opener, &err) == 0)
        return;
    log_error("%s", err.text);
    fail_waiting(opener, &err);
    evtimer_add(opener->restart_timer, &tv);
}

static void opener_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct opener *opener = opaque;
    bool was_ready = opener->ready;
    /* One that dies as soon as it starts is not to keep the host busy. */
    bool early = now_ns() - opener->started_ns < RESTART_MS * UINT64_C(1000000);
    const struct timeval tv = { .tv_sec = early ? RESTART_MS / 1000 : 0 };
    struct error err = { 0 };

    opener->worker = NULL;
    opener->ready = false;
    if (opener->monitor->shutting_down)
        return;
    log_error("the opener, process %d, is gone: %s; it is replaced", (int)worker_get_pid(worker), why->text);
    export_send_worker_gone(opener->monitor, worker, NULL, why);
    if (!was_ready) {
        error_set(&err, -EIO, "the opener could not start: %s", why->text);
        fail_waiting(opener, &err);
    }
    evtimer_add(opener->restart_timer, &tv);
}

int opener_start(struct opener *opener, struct error *err)
{
    static const struct worker_ops ops = {
        .ready = opener_is_ready,
        .failed = opener_failed,
        .status = opener_status,
        .gone = opener_gone,
    };
    struct ipc_boot boot = { .role = IPC_ROLE_OPENER };

    opener->started_ns = now_ns();
    return worker_spawn(opener->monitor->workers, &boot, NULL, &ops, opener, &opener->worker, err);
}

void opener_set_launch(struct opener *opener, opener_launch_fn *fn, void *opaque)
{
    opener->launch = fn;
    opener->launch_opaque = opaque;
}

bool opener_is_idle(const struct opener *opener)
{
    const struct opener_task *task;

    TAILQ_FOREACH (task, &opener->tasks, link) {
        if (task->ending || !TAILQ_EMPTY(&task->requests))
            return false;
    }
    return true;
}

int opener_new(struct monitor *monitor, struct opener **ret_opener, struct error *err)
{
    struct opener *opener = calloc(1, sizeof(*opener));

    if (opener == NULL || (opener->restart_timer = evtimer_new(monitor->base, restart, opener)) == NULL) {
        free(opener);
        return error_set(err, -ENOMEM, "out of memory");
    }
    opener->monitor = monitor;
    TAILQ_INIT(&opener->tasks);
    *ret_opener = opener;
    return 0;
}

/* Whether it has closed what it has, and gone, by then. One that is late has had its time. */
static bool wait_for_child(struct opener_task *task, uint64_t end_ns)
{
    struct pollfd pfd = { .fd = task->sock, .events = POLLIN };
    struct opener_reply ignored;
    ssize_t n = 1;

    if (task->lost)
        return true;
    while (n > 0) {
        uint64_t now = now_ns();
        int left_ms = now < end_ns && !task->late ? (int)((end_ns - now) / 1000000) : 0;

        if (poll(&pfd, 1, left_ms) <= 0)
            return false;
        n = recv(task->sock, &ignored, sizeof(ignored), MSG_DONTWAIT);
    }
    return true;
}

/* Children that do not hang close what they have and go; whoever uses an image next finds it closed. */
static unsigned wait_for_children(struct opener *opener)
{
    uint64_t end_ns = now_ns() + OPENER_RELEASE_MS * UINT64_C(1000000);
    struct opener_task *task;
    unsigned left = 0;

    TAILQ_FOREACH (task, &opener->tasks, link) {
        close_fd(&task->child_sock);
        if (!task->lost)
            shutdown(task->sock, SHUT_WR);
    }
    TAILQ_FOREACH (task, &opener->tasks, link) {
        if (wait_for_child(task, end_ns))
            continue;
        log_error("process %u of the opener hangs and is left behind, with a file open", task->pid);
        left++;
    }
    return left;
}

unsigned opener_free(struct opener *opener)
{
    unsigned left;

    if (opener == NULL)
        return 0;
    left = wait_for_children(opener);
    while (!TAILQ_EMPTY(&opener->tasks))
        task_free(TAILQ_FIRST(&opener->tasks));
    event_free(opener->restart_timer);
    free(opener);
    return left;
}
