/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages of a front-end: how they are received from the socket, the table that says what each may look like, and the
 * two pure steps before a handler sees one: vhost_message_parse() (bytes to numbers) and vhost_message_check() (the row
 * against the state of the session). Source: vhost-user.rst, "Message Specification" and "Front-end message types".
 */
#ifndef BULKHEAD_VHOST_MESSAGE_H
#define BULKHEAD_VHOST_MESSAGE_H

#include "common/base/error.h"
#include "vhost-worker/vhost-user-protocol.h"

struct vhost_session;

/* What has happened in a session so far, as bits. */
#define VHOST_STATE_OWNED    (1u << 0) /* SET_OWNER */
#define VHOST_STATE_FEATURES (1u << 1) /* SET_FEATURES since the last reset */

/* One whole message. */
struct vhost_message {
    const struct vhost_request_row *row;
    uint32_t flags;
    uint32_t size; /* of the payload */
    union vhost_user_payload payload;
    int fds[VHOST_USER_FDS_MAX]; /* a handler takes with TAKE_FD what it keeps */
    unsigned fd_count;
};

/* How a payload is laid out, hence which parser reads it. */
enum vhost_payload_kind {
    VHOST_PAYLOAD_NONE, /* nothing, or bytes that have no meaning */
    VHOST_PAYLOAD_U64,
    VHOST_PAYLOAD_VRING_STATE,
    VHOST_PAYLOAD_VRING_ADDR,
    VHOST_PAYLOAD_VRING_FD, /* a u64 with a vring index and the invalid FD flag, which must fit the descriptors */
    VHOST_PAYLOAD_MEM_TABLE,
    VHOST_PAYLOAD_MEM_REGION,
    VHOST_PAYLOAD_LOG,
    VHOST_PAYLOAD_CONFIG,
    VHOST_PAYLOAD_INFLIGHT,
    VHOST_PAYLOAD_MAX,
};

/* Which queues must rest (no request in flight, no ring looked at) while the handler runs. */
enum vhost_quiesce { VHOST_QUIESCE_NONE, VHOST_QUIESCE_QUEUE, VHOST_QUIESCE_ALL };

/* What a handler answers. */
enum vhost_outcome {
    VHOST_DONE,    /* success; acknowledged if the front-end asked for that */
    VHOST_REPLIED, /* the handler sent the reply that the request itself prescribes */
    VHOST_REFUSED, /* not done, nothing has changed: told to a front-end that waits for an answer, else the end */
    VHOST_FATAL,   /* the session ends */
};

typedef enum vhost_outcome vhost_handler_fn(struct vhost_session *session, struct vhost_message *message,
                                            struct error *err);

struct vhost_request_row {
    uint32_t request; /* enum vhost_user_request */
    const char *name;
    uint32_t size_min, size_max; /* of the payload */
    unsigned fds_min, fds_max;
    uint32_t states;            /* VHOST_STATE_* that must be reached */
    uint64_t protocol_features; /* that must be negotiated, as a mask */
    enum vhost_payload_kind payload;
    enum vhost_quiesce quiesce;
    vhost_handler_fn *handle;
};

extern const struct vhost_request_row vhost_requests[];
extern const unsigned vhost_request_count;

const struct vhost_request_row *vhost_request_find(uint32_t request);

/* Check a header by itself and find its row: version, no reply, known request, size within the row's range. */
int vhost_header_check(const struct vhost_user_header *header, const struct vhost_request_row **ret_row,
                       struct error *err);

/*
 * Read the payload's bytes by the layout of row into *ret; numbers that have a range of their own (num_regions, size of
 * a configuration access, ...) are checked against the payload's size and the number of descriptors. 0 or -EPROTO.
 */
int vhost_message_parse(const struct vhost_request_row *row, const void *bytes, uint32_t len_bytes, unsigned fd_count,
                        union vhost_user_payload *ret, struct error *err);

/* Check what the session must be for the message: states, protocol features, queue index. 0 or -EPROTO. */
int vhost_message_check(const struct vhost_message *message, uint32_t states, uint64_t protocol_features,
                        unsigned queue_count, struct error *err);

/* The queue that a message is about; only for payloads with an index. */
unsigned vhost_message_queue(const struct vhost_message *message);

/* Collects one message at a time from a stream socket. */
struct vhost_receiver {
    struct vhost_user_header header;
    uint8_t bytes[VHOST_USER_PAYLOAD_MAX];
    size_t have_bytes;                   /* of header and payload together */
    const struct vhost_request_row *row; /* once the header is complete and right */
    int fds[VHOST_USER_FDS_MAX];
    unsigned fd_count;
};

void vhost_receiver_init(struct vhost_receiver *receiver);
void vhost_receiver_done(struct vhost_receiver *receiver); /* closes descriptors */

/*
 * Take what has arrived on fd (non-blocking). 1: *ret is a whole, parsed message, whose descriptors are the caller's
 * now; 0: more is needed; -ESHUTDOWN: the front-end closed the connection between two messages; else -errno with err
 * set, and the connection is of no use any more.
 */
int vhost_receive(struct vhost_receiver *receiver, int fd, struct vhost_message *ret, struct error *err);

/* Close what a handler did not take. */
void vhost_message_done(struct vhost_message *message);

#endif
