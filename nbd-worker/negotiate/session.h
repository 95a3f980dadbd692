/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The I/O around a handshake: one client socket, one timer, on the control loop. When it is over the owner is told
 * once: the client is negotiated, or it is gone and why.
 */
#ifndef BULKHEAD_NBD_WORKER_NEGOTIATE_SESSION_H
#define BULKHEAD_NBD_WORKER_NEGOTIATE_SESSION_H

#include "common/io/loop.h"
#include "nbd-worker/negotiate/handshake.h"

struct session {
    struct io_watch watch;
    struct io_timer timer;
    struct io_loop *loop;
    struct nbd_directory_view directory;
    uint64_t client_id;
    /* Called once, from the loop; the status record is NEGOTIATED or CLIENT_GONE, ready to be sent. */
    void (*over)(struct session *session, const struct ipc_status *status);
    struct handshake handshake;
};

/*
 * Start with a non-blocking client socket, of which the session takes ownership. max_ms: how long the client may take;
 * 0: as long as it likes. directory moves into the session. 0 or -errno, and then nothing was taken.
 */
int session_start(struct session *session, struct io_loop *loop, int *client_fd, struct nbd_directory_view *directory,
                  uint64_t client_id, uint32_t max_ms, void (*over)(struct session *, const struct ipc_status *));

/* Give up the client, if there is one: the socket is closed, nobody is told. */
void session_stop(struct session *session);

#endif
