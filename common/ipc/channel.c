/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames of the control channel. What comes in is hostile until it has passed: nothing is kept of a datagram that
 * breaks a rule, least of all its descriptors. Nothing is allocated.
 */
#include "common/ipc/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int channel_new(int *ret_monitor_end, int *ret_worker_end, struct error *err)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return error_set(err, -errno, "cannot create a control socket: %s%s", strerror(errno),
                         errno == EMFILE ? " (LimitNOFILE=, ulimit -n)" : "");
    *ret_monitor_end = ends[0];
    *ret_worker_end = ends[1];
    return 0;
}

void channel_fill_header(struct ipc_header *header, enum ipc_type type, size_t len_bytes, unsigned fd_count)
{
    *header = (struct ipc_header){
        .magic = IPC_MAGIC,
        .type = (uint16_t)type,
        .fd_count = (uint16_t)fd_count,
        .len_bytes = (uint32_t)len_bytes,
    };
}

int channel_send(int sock, const void *message, size_t len_bytes, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * IPC_MAX_FDS)];
    } control;
    struct iovec iov = { .iov_base = (void *)(uintptr_t)message, .iov_len = len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    if (len_bytes < sizeof(struct ipc_header) || len_bytes > IPC_MESSAGE_MAX || fd_count > IPC_MAX_FDS)
        return -EINVAL;
    if (fd_count > 0) {
        struct cmsghdr *cmsg;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * fd_count);
    }
    do
        n = sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0; /* a SEQPACKET socket takes all of a datagram or nothing */
}

/* Move all descriptors of all control messages into *ret; the ones that do not fit are closed, and counted. */
static unsigned collect_fds(struct msghdr *msg, struct channel_message *ret)
{
    unsigned total = 0;

    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg != NULL; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
            if (ret->fd_count < IPC_MAX_FDS)
                ret->fds[ret->fd_count++] = fd;
            else
                close(fd);
            total++;
        }
    }
    return total;
}

static int check_frame(const struct channel_message *message, int msg_flags, unsigned fd_total, struct error *err)
{
    const struct ipc_header *header = &message->header;

    if ((msg_flags & MSG_TRUNC) != 0)
        return error_set(err, -EPROTO, "control message is longer than %u bytes", IPC_MESSAGE_MAX);
    if ((msg_flags & MSG_CTRUNC) != 0 || fd_total > IPC_MAX_FDS)
        return error_set(err, -EPROTO, "control message lost descriptors on its way");
    if (message->len_bytes < sizeof(*header))
        return error_set(err, -EPROTO, "control message of %zu bytes has no header", message->len_bytes);
    if (header->magic != IPC_MAGIC || header->reserved != 0)
        return error_set(err, -EPROTO, "control message has the wrong magic number");
    if (header->len_bytes != message->len_bytes)
        return error_set(err, -EPROTO, "control message says it has %u bytes and has %zu", header->len_bytes,
                         message->len_bytes);
    if (header->fd_count != message->fd_count)
        return error_set(err, -EPROTO, "control message says it has %u descriptors and has %u", header->fd_count,
                         message->fd_count);
    return 0;
}

int channel_receive(int sock, struct channel_message *ret, struct error *err)
{
    /* Room for one more than allowed, so that too many are seen as too many. */
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * (IPC_MAX_FDS + 1))];
    } control;
    struct iovec iov = { .iov_base = ret->bytes, .iov_len = sizeof(ret->bytes) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    unsigned fd_total;
    ssize_t n;
    int r;

    ret->len_bytes = 0;
    ret->fd_count = 0;
    for (unsigned i = 0; i < IPC_MAX_FDS; i++)
        ret->fds[i] = -1;
    msg.msg_control = control.bytes;
    msg.msg_controllen = sizeof(control.bytes);
    do
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN
                               : error_set(err, -errno, "cannot read the control socket: %s", strerror(errno));
    fd_total = collect_fds(&msg, ret);
    if (n == 0 && fd_total == 0)
        return 0;
    ret->len_bytes = (size_t)n;
    r = check_frame(ret, msg.msg_flags, fd_total, err);
    if (r < 0) {
        channel_message_done(ret);
        return r;
    }
    return 1;
}

void channel_message_done(struct channel_message *message)
{
    for (unsigned i = 0; i < IPC_MAX_FDS; i++)
        close_fd(&message->fds[i]);
    message->fd_count = 0;
}
