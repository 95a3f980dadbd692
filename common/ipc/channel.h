/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control channel: one SOCK_SEQPACKET datagram is one message with its descriptors. Which messages there are and
 * what their fields may hold is the catalogue's business (catalogue.h); here it is the frame.
 */
#ifndef BULKHEAD_IPC_CHANNEL_H
#define BULKHEAD_IPC_CHANNEL_H

#include "common/base/error.h"
#include "common/ipc/ipc-protocol.h"

/* A received message. Aligned for every struct of the catalogue. */
struct channel_message {
    union {
        struct ipc_header header;
        uint64_t align;
        uint8_t bytes[IPC_MESSAGE_MAX];
    };
    size_t len_bytes;
    unsigned fd_count;
    int fds[IPC_MAX_FDS]; /* owned by the holder of this struct; unused ones are -1 */
};

/* A pair of connected, non-blocking, close-on-exec ends. 0 or -errno. */
int channel_new(int *ret_monitor_end, int *ret_worker_end, struct error *err);

/* Fill in the header of a message that is about to be sent. */
void channel_fill_header(struct ipc_header *header, enum ipc_type type, size_t len_bytes, unsigned fd_count);

/*
 * Send one message with borrowed descriptors, all or nothing. Never blocks: -EAGAIN when the socket is full, -EPIPE
 * when the other end is closed (no SIGPIPE), -EINVAL for a length or count that no message has.
 */
int channel_send(int sock, const void *message, size_t len_bytes, const int *fds, unsigned fd_count);

/*
 * Receive one message. 1: *ret holds it and owns its descriptors. 0: the other end is closed. -EAGAIN: there is none.
 * -EPROTO: truncated data or descriptors, no header, wrong magic number, or the header speaks of another length or
 * number of descriptors than came; every descriptor that came is closed. Other -errno: the socket failed.
 */
int channel_receive(int sock, struct channel_message *ret, struct error *err);

/* Close the descriptors that were not taken. */
void channel_message_done(struct channel_message *message);

#endif
