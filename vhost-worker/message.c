/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receiving, parsing and checking messages; see message.h. The bytes are a front-end's and may be anything. This file
 * touches nothing but the socket it is given and descriptors that came over it.
 */
#include "vhost-worker/message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

const struct vhost_request_row *vhost_request_find(uint32_t request)
{
    for (unsigned i = 0; i < vhost_request_count; i++) {
        if (vhost_requests[i].request == request)
            return &vhost_requests[i];
    }
    return NULL;
}

int vhost_header_check(const struct vhost_user_header *header, const struct vhost_request_row **ret_row,
                       struct error *err)
{
    const struct vhost_request_row *row = vhost_request_find(header->request);

    if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
        return error_set(err, -EPROTO, "message of version %u, not 1", header->flags & VHOST_USER_VERSION_MASK);
    if (header->flags & ~VHOST_USER_KNOWN_FLAGS)
        return error_set(err, -EPROTO, "message with unknown flags 0x%x", header->flags);
    if (header->flags & VHOST_USER_REPLY_MASK)
        return error_set(err, -EPROTO, "a reply to a request that was not made");
    if (row == NULL)
        return error_set(err, -EPROTO, "request %u is unknown or not supported", header->request);
    if (header->size < row->size_min || header->size > row->size_max)
        return error_set(err, -EPROTO, "%s: a payload of %u bytes, expected %u to %u", row->name, header->size,
                         row->size_min, row->size_max);
    *ret_row = row;
    return 0;
}

/* ---- Parsers, one for each layout. They see size_min to size_max bytes in a zero-filled union. ---- */

typedef int parse_fn(const union vhost_user_payload *p, uint32_t len_bytes, unsigned fd_count, struct error *err);

static int parse_vring_fd(const union vhost_user_payload *p, uint32_t len_bytes, unsigned fd_count, struct error *err)
{
    bool no_fd = p->u64 & VHOST_USER_VRING_NO_FD;

    if (p->u64 & ~(uint64_t)(VHOST_USER_VRING_INDEX_MASK | VHOST_USER_VRING_NO_FD))
        return error_set(err, -EPROTO, "unknown bits in 0x%llx", (unsigned long long)p->u64);
    if (no_fd != (fd_count == 0))
        return error_set(err, -EPROTO, "%u descriptors, but the invalid FD flag is %s", fd_count,
                         no_fd ? "set" : "not set");
    return 0;
}

static int parse_mem_table(const union vhost_user_payload *p, uint32_t len_bytes, unsigned fd_count, struct error *err)
{
    uint32_t count = p->table.num_regions;

    if (count > VHOST_USER_MEM_TABLE_REGIONS)
        return error_set(err, -EPROTO, "%u memory regions, the message has room for %u", count,
                         VHOST_USER_MEM_TABLE_REGIONS);
    if (len_bytes < offsetof(struct vhost_user_mem_table, regions) + count * sizeof(struct vhost_user_region))
        return error_set(err, -EPROTO, "%u memory regions in a payload of %u bytes", count, len_bytes);
    if (fd_count != count)
        return error_set(err, -EPROTO, "%u memory regions with %u descriptors", count, fd_count);
    return 0;
}

static int parse_config(const union vhost_user_payload *p, uint32_t len_bytes, unsigned fd_count, struct error *err)
{
    if (p->config.size > VHOST_USER_CONFIG_MAX ||
        len_bytes != offsetof(struct vhost_user_config, payload) + p->config.size)
        return error_set(err, -EPROTO, "a configuration access of %u bytes in a payload of %u bytes", p->config.size,
                         len_bytes);
    return 0;
}

static parse_fn *const parsers[VHOST_PAYLOAD_MAX] = {
    [VHOST_PAYLOAD_VRING_FD] = parse_vring_fd,
    [VHOST_PAYLOAD_MEM_TABLE] = parse_mem_table,
    [VHOST_PAYLOAD_CONFIG] = parse_config,
};

int vhost_message_parse(const struct vhost_request_row *row, const void *bytes, uint32_t len_bytes, unsigned fd_count,
                        union vhost_user_payload *ret, struct error *err)
{
    union vhost_user_payload payload = { 0 };

    if (len_bytes < row->size_min || len_bytes > row->size_max || len_bytes > sizeof(payload))
        return error_set(err, -EPROTO, "%s: a payload of %u bytes, expected %u to %u", row->name, len_bytes,
                         row->size_min, row->size_max);
    if (fd_count < row->fds_min || fd_count > row->fds_max)
        return error_set(err, -EPROTO, "%s: %u descriptors, expected %u to %u", row->name, fd_count, row->fds_min,
                         row->fds_max);
    if (row->payload != VHOST_PAYLOAD_NONE)
        memcpy(&payload, bytes, len_bytes);
    if (parsers[row->payload] != NULL) {
        int ret_code = parsers[row->payload](&payload, len_bytes, fd_count, err);

        if (ret_code < 0) {
            error_prepend(err, "%s", row->name);
            return ret_code;
        }
    }
    *ret = payload;
    return 0;
}

/* ---- Checks against the session ---- */

static bool has_queue(enum vhost_payload_kind kind)
{
    return kind == VHOST_PAYLOAD_VRING_STATE || kind == VHOST_PAYLOAD_VRING_ADDR || kind == VHOST_PAYLOAD_VRING_FD;
}

unsigned vhost_message_queue(const struct vhost_message *message)
{
    if (message->row->payload == VHOST_PAYLOAD_VRING_FD)
        return (unsigned)(message->payload.u64 & VHOST_USER_VRING_INDEX_MASK);
    return message->payload.state.index; /* the index comes first in an address description, too */
}

int vhost_message_check(const struct vhost_message *message, uint32_t states, uint64_t protocol_features,
                        unsigned queue_count, struct error *err)
{
    const struct vhost_request_row *row = message->row;
    uint32_t missing = row->states & ~states;

    if (missing & VHOST_STATE_OWNED)
        return error_set(err, -EPROTO, "%s before SET_OWNER", row->name);
    if (missing & VHOST_STATE_FEATURES)
        return error_set(err, -EPROTO, "%s before SET_FEATURES", row->name);
    if (row->protocol_features & ~protocol_features)
        return error_set(err, -EPROTO, "%s without the protocol feature for it having been negotiated", row->name);
    if (has_queue(row->payload) && vhost_message_queue(message) >= queue_count)
        return error_set(err, -EPROTO, "%s: queue %u of %u", row->name, vhost_message_queue(message), queue_count);
    return 0;
}

/* ---- Receiving ---- */

void vhost_receiver_init(struct vhost_receiver *receiver)
{
    receiver->have_bytes = 0;
    receiver->row = NULL;
    receiver->fd_count = 0;
}

static void close_all(int *fds, unsigned *count)
{
    for (unsigned i = 0; i < *count; i++)
        close_fd(&fds[i]);
    *count = 0;
}

void vhost_receiver_done(struct vhost_receiver *receiver)
{
    close_all(receiver->fds, &receiver->fd_count);
    vhost_receiver_init(receiver);
}

void vhost_message_done(struct vhost_message *message)
{
    close_all(message->fds, &message->fd_count);
}

/* Keep the descriptors of one control message; false (the surplus is closed) if there are too many. */
static bool keep_fds(struct vhost_receiver *receiver, const struct cmsghdr *cmsg)
{
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool fits = true;

    for (size_t i = 0; i < count; i++) {
        int fd;

        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
        if (receiver->fd_count < VHOST_USER_FDS_MAX) {
            receiver->fds[receiver->fd_count++] = fd;
        } else {
            close_fd(&fd);
            fits = false;
        }
    }
    return fits;
}

/* Up to len_bytes into buffer. Returns the number of bytes, 0 at the end, -EAGAIN, or another -errno with err set. */
static ssize_t receive_bytes(struct vhost_receiver *receiver, int fd, void *buffer, size_t len_bytes, struct error *err)
{
    /* Room for one more than is allowed, so that the kernel shows a surplus instead of cutting it off. */
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE((VHOST_USER_FDS_MAX + 1) * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = buffer, .iov_len = len_bytes };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    ssize_t n;
    bool fits = true;

    do {
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN : error_set(err, -errno, "cannot receive: %s", strerror(errno));
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg != NULL; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
            fits &= keep_fds(receiver, cmsg);
    }
    if (!fits || (msg.msg_flags & MSG_CTRUNC))
        return error_set(err, -EPROTO, "a message with more than %u descriptors", VHOST_USER_FDS_MAX);
    return n;
}

/* Fill up to target_bytes of header and payload. 1: reached. */
static int receive_until(struct vhost_receiver *receiver, int fd, size_t target_bytes, struct error *err)
{
    while (receiver->have_bytes < target_bytes) {
        size_t have = receiver->have_bytes, header_bytes = sizeof(receiver->header);
        uint8_t *to =
            have < header_bytes ? (uint8_t *)&receiver->header + have : receiver->bytes + (have - header_bytes);
        ssize_t n = receive_bytes(receiver, fd, to, target_bytes - have, err);

        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return (int)n;
        if (n == 0 && have == 0)
            return error_set(err, -ESHUTDOWN, "the front-end closed the connection");
        if (n == 0)
            return error_set(err, -EPROTO, "the front-end closed the connection within a message");
        receiver->have_bytes += (size_t)n;
    }
    return 1;
}

int vhost_receive(struct vhost_receiver *receiver, int fd, struct vhost_message *ret, struct error *err)
{
    int code = receive_until(receiver, fd, sizeof(receiver->header), err);

    if (code <= 0)
        return code;
    if (receiver->row == NULL) {
        code = vhost_header_check(&receiver->header, &receiver->row, err);
        if (code < 0)
            return code;
    }
    code = receive_until(receiver, fd, sizeof(receiver->header) + receiver->header.size, err);
    if (code <= 0)
        return code;
    code = vhost_message_parse(receiver->row, receiver->bytes, receiver->header.size, receiver->fd_count, &ret->payload,
                               err);
    if (code < 0)
        return code;
    ret->row = receiver->row;
    ret->flags = receiver->header.flags;
    ret->size = receiver->header.size;
    ret->fd_count = receiver->fd_count;
    memcpy(ret->fds, receiver->fds, receiver->fd_count * sizeof(int));
    vhost_receiver_init(receiver);
    return 1;
}
