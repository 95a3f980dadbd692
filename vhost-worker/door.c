/* SPDX-License-Identifier: BSD-2-Clause */
/* See door.h. Bytes of a front-end are looked at for the length of a message, and for nothing else. */
#include "vhost-worker/door.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "vhost-worker/descriptor.h"

#define PIECES_PER_TURN 64u
#define ACCEPT_PAUSE_NS 1000000000ull /* after accept4() failed for lack of something */
#define GRACE_NS        200000000ull  /* for the worker to end the session of who may be coming back */

_Static_assert(sizeof(struct vhost_user_header) == sizeof(((struct door *)NULL)->header), "a header");

static void close_watch(struct door *door, struct io_watch *watch)
{
    if (watch->fd < 0)
        return;
    io_loop_unwatch(door->worker->control_loop, watch);
    close_fd(&watch->fd);
}

static void watch_listener(struct door *door, bool wanted)
{
    if (door->listener.fd >= 0)
        io_loop_watch(door->worker->control_loop, &door->listener, wanted ? EPOLLIN : 0);
}

/* ---- The end of a session ---- */

/* Only harmless descriptors are in it. */
static void chunk_done(struct door_chunk *chunk)
{
    for (unsigned i = 0; i < chunk->fd_count; i++)
        close_fd(&chunk->fds[i]);
    chunk->fd_count = 0;
    chunk->len_bytes = chunk->sent_bytes = 0;
}

/* The worker is done with the front-end: the next one may come. */
static void session_over(struct door *door)
{
    chunk_done(&door->chunk);
    close_watch(door, &door->front);
    close_watch(door, &door->back);
    watch_listener(door, true);
}

/* The front-end has left. The worker hears the end of the stream, and closes its end when all is at rest. */
static void front_gone(struct door *door)
{
    close_watch(door, &door->front);
    shutdown(door->back.fd, SHUT_WR);
    io_loop_watch(door->worker->control_loop, &door->back, EPOLLIN);
    watch_listener(door, false);
}

/* The last words. What is still open when the process exits may keep it for ever, so all else is closed before. */
static void give_up(struct door *door)
{
    struct ipc_status status = { .type = IPC_STATUS_CLIENT_GONE };

    status.client_gone.client_id = door->number;
    status.client_gone.error = 1;
    snprintf(status.client_gone.text, sizeof(status.client_gone.text),
             "it passed a descriptor that is neither memory, eventfd, pipe nor socket");
    door_close(door);
    worker_report(door->worker, &status);
    worker_exit(door->worker);
}

/* ---- Passing on ---- */

/* Take the descriptors that came; false if there is one among them that is not harmless. */
static bool take_fds(struct door_chunk *chunk, struct msghdr *msg)
{
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg != NULL; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
            if (chunk->fd_count == DOOR_FDS_MAX || vhost_descriptor_kind(fd) == VHOST_DESCRIPTOR_OTHER)
                return false;
            chunk->fds[chunk->fd_count++] = fd;
        }
    }
    return true;
}

/* Where the next bytes of the front-end belong: so many of the header, then so many of the payload. */
static size_t wanted_bytes(const struct door *door)
{
    if (door->header_bytes < sizeof(door->header))
        return sizeof(door->header) - door->header_bytes;
    return MIN(door->left_bytes, DOOR_CHUNK_MAX);
}

/* Follow the messages: a descriptor belongs to the one with whose bytes it came, so no piece may reach into the next.
 */
static void follow(struct door *door)
{
    struct vhost_user_header header;
    size_t n = door->chunk.len_bytes;

    if (door->header_bytes == sizeof(door->header)) {
        door->left_bytes -= n;
    } else {
        memcpy(door->header + door->header_bytes, door->chunk.bytes, n);
        door->header_bytes += n;
        if (door->header_bytes < sizeof(door->header))
            return;
        memcpy(&header, door->header, sizeof(header));
        door->left_bytes = header.size;
    }
    if (door->left_bytes == 0)
        door->header_bytes = 0;
}

/* Receive a piece. 1; 0: there is none; -errno: the front-end has left or its socket failed; -EBADF: a bad descriptor.
 */
static int receive(struct door *door)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(DOOR_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = door->chunk.bytes, .iov_len = wanted_bytes(door) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    ssize_t n;

    do {
        n = recvmsg(door->front.fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (!take_fds(&door->chunk, &msg))
        return -EBADF;
    while (door->chunk.fd_count > DOOR_PASSED_MAX)
        close_fd(&door->chunk.fds[--door->chunk.fd_count]);
    if (n == 0)
        return -ESHUTDOWN;
    door->chunk.len_bytes = (size_t)n;
    follow(door);
    /* More than the limit of descriptors allows; the kernel has dropped the others. */
    return msg.msg_flags & MSG_CTRUNC ? -EMFILE : 1;
}

/* Send what there is. 1: all of it; 0: the worker takes no more for now; -errno: it is done with this front-end. */
static int send_on(struct door *door)
{
    struct door_chunk *chunk = &door->chunk;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(DOOR_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = chunk->bytes + chunk->sent_bytes,
                         .iov_len = chunk->len_bytes - chunk->sent_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    size_t fds_bytes = chunk->fd_count * sizeof(int), sent;
    ssize_t n;

    if (fds_bytes > 0) {
        memset(&control, 0, CMSG_SPACE(fds_bytes));
        control.header = (struct cmsghdr){ CMSG_LEN(fds_bytes), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), chunk->fds, fds_bytes);
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(fds_bytes);
    }
    n = sendmsg(door->back.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    sent = chunk->sent_bytes + (size_t)n;
    /* They went with the first byte. */
    for (unsigned i = 0; i < chunk->fd_count; i++)
        close_fd(&chunk->fds[i]);
    chunk->fd_count = 0;
    chunk->sent_bytes = sent;
    if (sent < chunk->len_bytes)
        return 0;
    chunk_done(chunk);
    return 1;
}

/* One piece. Returns whether there may be more. */
static bool relay_piece(struct door *door)
{
    int ret = door->chunk.len_bytes > 0 ? 1 : receive(door);

    if (ret == -EBADF)
        give_up(door);
    else if (ret == -EMFILE)
        session_over(door);
    else if (ret < 0)
        front_gone(door);
    if (ret <= 0)
        return false;
    ret = send_on(door);
    if (ret < 0)
        session_over(door);
    return ret > 0;
}

static void relay(struct door *door)
{
    bool more = true, full;

    for (unsigned i = 0; more && i < PIECES_PER_TURN; i++)
        more = relay_piece(door);
    if (door->front.fd < 0)
        return;
    full = door->chunk.len_bytes > 0;
    io_loop_watch(door->worker->control_loop, &door->front, full ? 0 : EPOLLIN);
    io_loop_watch(door->worker->control_loop, &door->back, full ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_front(struct io_watch *watch, uint32_t events)
{
    relay(container_of(watch, struct door, front));
}

/* The worker never writes to it: it has room again, or it is closed. */
static void on_back(struct io_watch *watch, uint32_t events)
{
    struct door *door = container_of(watch, struct door, back);

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        session_over(door);
    else
        relay(door);
}

/* ---- Accepting ---- */

/* Introduce a front-end to the worker. */
static int introduce(struct door *door, int fd)
{
    struct {
        struct ipc_header header;
    } message;
    int pair[2], fds[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){ DOOR_STREAM_BYTES }, sizeof(int));
    fds[0] = fd;
    fds[1] = pair[1];
    channel_fill_header(&message.header, IPC_VHOST_FRONTEND, sizeof(message), 2);
    ret = channel_send(door->link_fd, &message, sizeof(message), fds, 2);
    close_fd(&pair[1]);
    if (ret < 0) {
        close_fd(&pair[0]);
        return ret;
    }
    door->front = (struct io_watch){ .fd = fd, .ready = on_front };
    door->back = (struct io_watch){ .fd = pair[0], .ready = on_back };
    door->header_bytes = 0;
    door->number++;
    door->grace_given = door->refused_one = false;
    ret = io_loop_watch(door->worker->control_loop, &door->back, EPOLLIN);
    return ret < 0 ? ret : io_loop_watch(door->worker->control_loop, &door->front, EPOLLIN);
}

static void refuse(struct door *door, int fd)
{
    close_fd(&fd);
    door->grace_given = false;
    if (!door->refused_one)
        log_info("a second front-end was refused: another one is connected");
    door->refused_one = true;
}

static void accept_later(struct door *door, uint64_t delay_ns)
{
    watch_listener(door, false);
    io_loop_timer_set(door->worker->control_loop, &door->accept_again, now_ns() + delay_ns);
}

static void begin(struct door *door, int fd)
{
    int ret = introduce(door, fd);

    if (ret == 0)
        return;
    log_error("a front-end cannot be handed to the worker: %s", strerror(-ret));
    if (door->front.fd < 0)
        close_fd(&fd);
    session_over(door);
    accept_later(door, ACCEPT_PAUSE_NS);
}

/*
 * One front-end at a time. A new one may be the old one coming back, whose end we have not noticed yet: look first, and
 * leave the worker a moment to notice. While the old session comes to an end the new connection waits in the backlog.
 */
static void on_connection(struct io_watch *watch, uint32_t events)
{
    struct door *door = container_of(watch, struct door, listener);
    int fd;

    if (door->front.fd >= 0)
        relay(door);
    if (door->front.fd < 0 && door->back.fd >= 0)
        watch_listener(door, false);
    if (door->listener.events == 0)
        return;
    if (door->front.fd >= 0 && !door->grace_given) {
        door->grace_given = true;
        accept_later(door, GRACE_NS);
        return;
    }
    fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
        return;
    if (fd < 0) {
        log_error("cannot accept a front-end: %s", strerror(errno));
        accept_later(door, ACCEPT_PAUSE_NS);
    } else if (door->front.fd >= 0) {
        refuse(door, fd);
    } else {
        begin(door, fd);
    }
}

static void on_accept_again(struct io_timer *timer)
{
    watch_listener(container_of(timer, struct door, accept_again), true);
}

/* ---- Life ---- */

int door_new(struct worker *worker, struct door **ret_door, struct error *err)
{
    struct door *door = calloc(1, sizeof(*door));

    if (door == NULL)
        return error_set(err, -ENOMEM, "no memory for the door");
    door->worker = worker;
    door->listener.fd = door->front.fd = door->back.fd = door->link_fd = -1;
    door->accept_again.expired = on_accept_again;
    *ret_door = door;
    return 0;
}

int door_serve(struct door *door, int listen_fd, int link_fd)
{
    if (door->listener.fd >= 0)
        return -EPROTO;
    door->listener = (struct io_watch){ .fd = listen_fd, .ready = on_connection };
    door->link_fd = link_fd;
    return io_loop_watch(door->worker->control_loop, &door->listener, EPOLLIN);
}

void door_close(struct door *door)
{
    if (door->front.fd >= 0)
        shutdown(door->front.fd, SHUT_RDWR);
    chunk_done(&door->chunk);
    io_loop_timer_cancel(door->worker->control_loop, &door->accept_again);
    close_watch(door, &door->listener);
    close_watch(door, &door->front);
    close_watch(door, &door->back);
    close_fd(&door->link_fd);
}
