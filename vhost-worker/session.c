/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See session.h. Everything here runs on the control thread. A request is handled in three steps: checked; the queues
 * that its row names brought to rest, while the socket is not read; handled. Queues that were at work go on afterwards
 * if they still can. An error on the socket, in a request or in a ring ends the session: the queues come to rest, what
 * it left is released, and the next front-end may come.
 */
#include "vhost-worker/session.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"

#define MESSAGES_PER_TURN 32u

static void session_end(struct vhost_session *session, const struct error *reason);
static void session_read(struct vhost_session *session);

/* ---- Replies ---- */

static enum vhost_outcome send_reply(struct vhost_session *session, const struct vhost_message *message,
                                     const void *payload, uint32_t len_bytes, int fd, struct error *err)
{
    struct vhost_user_header header = { message->row->request, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK, len_bytes };
    uint8_t bytes[sizeof(header) + VHOST_USER_PAYLOAD_MAX];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { bytes, sizeof(header) + len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    memcpy(bytes, &header, sizeof(header));
    if (len_bytes > 0)
        memcpy(bytes + sizeof(header), payload, len_bytes);
    if (fd >= 0) {
        control.header = (struct cmsghdr){ CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        n = sendmsg(session->reply_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        n = send(session->reply_fd, bytes, iov.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    /* A front-end with so many unread replies does not read them. */
    if (n != (ssize_t)iov.iov_len)
        return vhost_fatal(err, "%s: cannot send the reply: %s", message->row->name,
                           n < 0 ? strerror(errno) : "the socket is full");
    return VHOST_REPLIED;
}

enum vhost_outcome vhost_reply(struct vhost_session *session, const struct vhost_message *message, const void *payload,
                               uint32_t len_bytes, struct error *err)
{
    return send_reply(session, message, payload, len_bytes, -1, err);
}

enum vhost_outcome vhost_reply_u64(struct vhost_session *session, const struct vhost_message *message, uint64_t value,
                                   struct error *err)
{
    return send_reply(session, message, &value, sizeof(value), -1, err);
}

enum vhost_outcome vhost_reply_fd(struct vhost_session *session, const struct vhost_message *message,
                                  const void *payload, uint32_t len_bytes, int fd, struct error *err)
{
    return send_reply(session, message, payload, len_bytes, fd, err);
}

/* "VHOST_USER_PROTOCOL_F_REPLY_ACK": 0 for success, else not, for a message that has no reply of its own. */
static enum vhost_outcome acknowledge(struct vhost_session *session, enum vhost_outcome outcome, struct error *err)
{
    const struct vhost_message *message = &session->message;
    bool wanted =
        (message->flags & VHOST_USER_NEED_REPLY) && (session->protocol_features >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1);
    struct error unused;

    if (outcome == VHOST_REPLIED)
        return outcome;
    if (!wanted)
        return outcome == VHOST_REFUSED ? VHOST_FATAL : outcome;
    if (outcome == VHOST_DONE)
        return vhost_reply_u64(session, message, 0, err);
    if (vhost_reply_u64(session, message, 1, &unused) == VHOST_FATAL)
        return VHOST_FATAL;
    return outcome;
}

/* ---- The configuration-change channel ---- */

static bool any_active(const struct vhost_session *session)
{
    for (unsigned i = 0; i < session->vring_count; i++) {
        if (session->vrings[i].active)
            return true;
    }
    return false;
}

/*
 * "Suspended device state": while no ring runs, nothing is sent; a front-end reads the configuration anyway before it
 * starts one. A notice that does not fit into the socket is one more after others that wait there.
 */
void vhost_notify_config(struct vhost_session *session)
{
    struct vhost_user_header header = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, VHOST_USER_VERSION, 0 };

    if (!session->config_changed || session->backend_fd < 0 || !any_active(session))
        return;
    if (send(session->backend_fd, &header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        log_warning("front-end %llu was not told of the new size: %s", (unsigned long long)session->number,
                    strerror(errno));
    session->config_changed = false;
}

void vhost_session_resize(struct vhost_session *session, uint64_t size_bytes)
{
    atomic_store(&session->shared.device.size_bytes, size_bytes);
    session->config_changed = true;
    vhost_notify_config(session);
}

/* ---- Bringing queues to rest, and on again ---- */

static void stop_queue(struct vhost_session *session, struct vhost_vring *vring)
{
    if (!vring->active || vring->stopping)
        return;
    vring->stopping = true;
    session->stopping_count++;
    vhost_queue_stop(&vring->queue);
}

static void stop_queues(struct vhost_session *session, enum vhost_quiesce quiesce)
{
    if (quiesce == VHOST_QUIESCE_QUEUE)
        stop_queue(session, &session->vrings[vhost_message_queue(&session->message)]);
    for (unsigned i = 0; quiesce == VHOST_QUIESCE_ALL && i < session->vring_count; i++)
        stop_queue(session, &session->vrings[i]);
}

static int start_queues(struct vhost_session *session, struct error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < session->vring_count && ret == 0; i++)
        ret = vhost_vring_start(session, &session->vrings[i], err);
    if (ret == 0)
        vhost_notify_config(session);
    return ret;
}

void vhost_session_reset_rings(struct vhost_session *session)
{
    for (unsigned i = 0; i < session->vring_count; i++) {
        struct vhost_vring *vring = &session->vrings[i];

        vhost_queue_reset(&vring->queue);
        vring->reset_base = vring->config.base;
        vring->config = (struct vring_config){ 0 };
        vring->addr_flags = 0;
        vring->has_addr = vring->armed = vring->enabled = false;
    }
    vhost_mapping_close(&session->inflight);
    session->shared.device.features = 0;
    session->shared.log_all = false;
    session->states &= ~VHOST_STATE_FEATURES;
}

/* ---- Requests ---- */

static bool is_open(const struct vhost_session *session)
{
    return session->watch.fd >= 0 && !session->closing;
}

/* Descriptors of the front-end that are held: shown by query-workers. */
static void count_descriptors(struct vhost_session *session)
{
    uint32_t count = (session->watch.fd >= 0) + (session->reply_fd >= 0) + (session->backend_fd >= 0) +
                     (session->shared.log_fd >= 0);

    for (unsigned i = 0; i < session->vring_count; i++) {
        const struct vhost_queue *queue = &session->vrings[i].queue;

        count += (queue->kick_fd >= 0) + (queue->call_fd >= 0) + (queue->err_fd >= 0);
    }
    atomic_store(&session->worker->page->fds_clients, count);
}

/* The queues that must rest do. */
static void handle_message(struct vhost_session *session)
{
    struct vhost_message *message = &session->message;
    struct error err = { 0 };
    enum vhost_outcome outcome = message->row->handle(session, message, &err);

    log_debug("%s: %s", message->row->name, outcome >= VHOST_REFUSED ? err.text : "done");
    outcome = acknowledge(session, outcome, &err);
    vhost_message_done(message);
    session->has_message = false;
    if (outcome != VHOST_FATAL && start_queues(session, &err) < 0)
        outcome = VHOST_FATAL;
    /* Starting a queue may have read an inflight buffer that was cut meanwhile. */
    if (outcome != VHOST_FATAL && vhost_mapping_broken()) {
        error_set(&err, -EFAULT, "memory of the front-end has gone: its file was cut");
        outcome = VHOST_FATAL;
    }
    if (outcome == VHOST_FATAL)
        session_end(session, &err);
    count_descriptors(session);
}

/* Whether the next message can be read already. */
static bool begin_message(struct vhost_session *session)
{
    struct vhost_message *message = &session->message;
    struct error err;

    session->has_message = true;
    if (vhost_message_check(message, session->states, session->protocol_features, session->vring_count, &err) < 0) {
        session_end(session, &err);
        return false;
    }
    stop_queues(session, message->row->quiesce);
    if (session->stopping_count > 0)
        return false;
    handle_message(session);
    return is_open(session);
}

/* Read and handle requests until there is none, or one has to wait. Afterwards the socket is watched if it may be read.
 */
static void session_read(struct vhost_session *session)
{
    bool more = true;

    for (unsigned i = 0; more && i < MESSAGES_PER_TURN; i++) {
        struct error err;
        int ret = vhost_receive(&session->receiver, session->watch.fd, &session->message, &err);

        if (ret == 0)
            break;
        if (ret < 0)
            session_end(session, &err);
        more = ret > 0 && begin_message(session);
    }
    if (is_open(session))
        io_loop_watch(session->worker->control_loop, &session->watch, session->has_message ? 0 : EPOLLIN);
}

static void on_readable(struct io_watch *watch, uint32_t events)
{
    session_read(container_of(watch, struct vhost_session, watch));
}

/* ---- Front-ends ---- */

/* The next front-end waits in the link while there is one. */
static void watch_link(struct vhost_session *session, bool wanted)
{
    if (session->link.fd >= 0)
        io_loop_watch(session->worker->control_loop, &session->link, wanted && !session->draining ? EPOLLIN : 0);
}

static void close_link(struct vhost_session *session)
{
    if (session->link.fd < 0)
        return;
    io_loop_unwatch(session->worker->control_loop, &session->link);
    close_fd(&session->link.fd);
}

static void session_begin(struct vhost_session *session, int reply_fd, int stream_fd)
{
    int ret;

    session->number++;
    session->reply_fd = reply_fd;
    session->watch = (struct io_watch){ .fd = stream_fd, .ready = on_readable };
    session->config_changed = false;
    atomic_store(&session->shared.device.writeback, !session->shared.device.writethrough);
    vhost_receiver_init(&session->receiver);
    atomic_store(&session->worker->page->clients, 1);
    worker_page_add(&session->worker->page->clients_total, 1);
    count_descriptors(session);
    watch_link(session, false);
    ret = io_loop_watch(session->worker->control_loop, &session->watch, EPOLLIN);
    if (ret < 0) {
        struct error err;

        error_set(&err, ret, "cannot watch the connection: %s", strerror(-ret));
        session_end(session, &err);
    }
}

/* The door has a front-end, or has gone. It is trusted with the form of this, and with nothing that the front-end says.
 */
static void on_link(struct io_watch *watch, uint32_t events)
{
    struct vhost_session *session = container_of(watch, struct vhost_session, link);
    struct channel_message *message = &session->introduction;
    struct error err;
    int ret = channel_receive(watch->fd, message, &err);

    if (ret == -EAGAIN)
        return;
    if (ret == 1 && message->header.type == IPC_VHOST_FRONTEND && message->fd_count == 2) {
        session_begin(session, TAKE_FD(message->fds[0]), TAKE_FD(message->fds[1]));
        return;
    }
    if (ret != 0)
        log_error("the door of this export does not keep to its protocol");
    if (ret == 1)
        channel_message_done(message);
    close_link(session);
}

/* ---- The end of a session ---- */

static void report_gone(struct vhost_session *session)
{
    struct ipc_status status = { .type = IPC_STATUS_CLIENT_GONE };

    status.client_gone.client_id = session->number;
    status.client_gone.error = session->reason.code != -ESHUTDOWN;
    snprintf(status.client_gone.text, sizeof(status.client_gone.text), "%.*s", (int)sizeof(status.client_gone.text) - 1,
             session->reason.text);
    worker_report(session->worker, &status);
}

/* All queues rest. */
static void session_close(struct vhost_session *session)
{
    if (session->has_message)
        vhost_message_done(&session->message);
    session->has_message = false;
    vhost_receiver_done(&session->receiver);
    vhost_session_reset_rings(session);
    for (unsigned i = 0; i < session->vring_count; i++)
        session->vrings[i].reset_base = 0;
    vhost_memory_clear(&session->shared.memory);
    vhost_mapping_close(&session->shared.log.mapping);
    close_fd(&session->shared.log_fd);
    close_fd(&session->backend_fd);
    close_fd(&session->watch.fd);
    shutdown(session->reply_fd, SHUT_RDWR); /* the door has it, too */
    close_fd(&session->reply_fd);
    vhost_mapping_forgive();
    session->states = 0;
    session->protocol_features = 0;
    session->status = 0;
    session->closing = false;
    atomic_store(&session->worker->page->clients, 0);
    count_descriptors(session);
    report_gone(session);
    if (session->draining)
        worker_exit(session->worker);
    watch_link(session, true);
}

static void session_end(struct vhost_session *session, const struct error *reason)
{
    if (session->closing || session->watch.fd < 0)
        return;
    session->closing = true;
    session->reason = *reason;
    io_loop_unwatch(session->worker->control_loop, &session->watch);
    stop_queues(session, VHOST_QUIESCE_ALL);
    if (session->stopping_count == 0)
        session_close(session);
}

static struct vhost_session *session_of(struct vhost_queue *queue)
{
    return queue->shared->worker->role_state;
}

/* A queue rests. Where its ring goes on is kept, for GET_VRING_BASE or for itself. */
static void on_stopped(struct vhost_queue *queue)
{
    struct vhost_vring *vring = container_of(queue, struct vhost_vring, queue);
    struct vhost_session *session = session_of(queue);

    vring->active = vring->stopping = false;
    vring->config.base = vring_base(&queue->ring);
    if (--session->stopping_count > 0)
        return;
    if (session->closing) {
        session_close(session);
        return;
    }
    handle_message(session);
    if (is_open(session))
        session_read(session);
}

static void on_broken(struct vhost_queue *queue)
{
    session_end(session_of(queue), &queue->broken_error);
}

/* ---- Life of the export ---- */

int vhost_session_new(struct worker *worker, struct vhost_session **ret_session, struct error *err)
{
    struct vhost_session *session = calloc(1, sizeof(*session));

    if (session != NULL)
        session->threads = calloc(worker->boot.io_threads, sizeof(*session->threads));
    if (session == NULL || session->threads == NULL)
        return error_set(err, -ENOMEM, "no memory for the export");
    session->worker = session->shared.worker = worker;
    session->shared.log_fd = session->backend_fd = session->watch.fd = session->reply_fd = session->link.fd = -1;
    for (unsigned i = 0; i < worker->boot.io_threads; i++)
        vhost_thread_init(&session->threads[i], &worker->io_threads[i]);
    *ret_session = session;
    return 0;
}

/* The largest power of 2 that is not more. */
static uint32_t power_of_2_below(uint32_t value)
{
    return value == 0 ? 0 : 1u << (31 - __builtin_clz(value));
}

void vhost_session_set_device(struct vhost_session *session)
{
    struct worker *worker = session->worker;
    struct blk_device *device = &session->shared.device;

    atomic_store(&device->size_bytes, worker->info.size_bytes);
    device->physical_block_bytes = power_of_2_below(worker->info.min_block_bytes);
    device->preferred_block_bytes = worker->info.preferred_block_bytes;
    device->read_only = worker->info.read_only || !(worker->boot.export_flags & IPC_EXPORT_WRITABLE);
    device->writethrough = worker->boot.export_flags & IPC_EXPORT_WRITETHROUGH;
    blk_set_serial(device, worker->boot.export_id);
}

static int make_vrings(struct vhost_session *session, unsigned queues)
{
    session->vrings = calloc(queues, sizeof(*session->vrings));
    if (session->vrings == NULL)
        return -ENOMEM;
    session->vring_count = queues;
    for (unsigned i = 0; i < queues; i++) {
        struct vhost_queue *queue = &session->vrings[i].queue;

        vhost_queue_init(queue, &session->shared, &session->threads[i % session->worker->boot.io_threads], i);
        queue->stopped = on_stopped;
        queue->broken = on_broken;
    }
    return 0;
}

int vhost_session_listen(struct vhost_session *session, int link_fd, unsigned queues, uint32_t logical_block_bytes)
{
    bool first = session->vrings == NULL;
    int ret = 0;

    if (queues == 0 || queues > VHOST_QUEUES_MAX || (!first && queues != session->vring_count))
        return -EPROTO;
    if (first)
        ret = make_vrings(session, queues);
    if (ret < 0)
        return ret;
    session->shared.device.queues = (uint16_t)queues;
    session->shared.device.logical_block_bytes = logical_block_bytes;
    close_link(session);
    session->link = (struct io_watch){ .fd = link_fd, .ready = on_link };
    if (first)
        atomic_fetch_add(&session->worker->page->fds_internal, 1);
    return io_loop_watch(session->worker->control_loop, &session->link, session->watch.fd < 0 ? EPOLLIN : 0);
}

void vhost_session_drain(struct vhost_session *session)
{
    struct error reason;

    session->draining = true;
    watch_link(session, false);
    if (session->watch.fd < 0) {
        worker_exit(session->worker);
        return;
    }
    error_set(&reason, -ESHUTDOWN, "the export is removed");
    session_end(session, &reason);
}
