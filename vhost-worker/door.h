/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The door of a vhost-user-blk export: the process that front-ends connect to. It accepts one at a time, gives the
 * connection and one end of a stream to the export's worker, and passes on, piece by piece, what the front-end sends,
 * with descriptors that are of a harmless kind. The worker answers on the connection itself.
 *
 * The door is there to take descriptors (docs/decisions/vhost-door.md). One that is not harmless can be neither looked
 * at nor closed without the danger of waiting for ever; so the door says so, lets go of everything else, and exits,
 * even if that never ends. The monitor then starts another. A door never holds an image or a guest's memory for longer
 * than it takes to pass it on, and reads no more of a message than its length.
 */
#ifndef BULKHEAD_VHOST_DOOR_H
#define BULKHEAD_VHOST_DOOR_H

#include "common/io/loop.h"
#include "common/worker/worker.h"
#include "vhost-worker/vhost-user-protocol.h"

#define DOOR_FDS_MAX 253u /* SCM_MAX_FD of the kernel: as many as one message can bring */
/*
 * Descriptors on their way are counted for the whole account, and too many of them keep all its processes from passing
 * any. So few are passed on at once: one more than a message may have, which is enough to be refused for, and in a
 * stream that takes a dozen pieces.
 */
#define DOOR_PASSED_MAX   (VHOST_USER_FDS_MAX + 1u)
#define DOOR_STREAM_BYTES 4608  /* the least that the kernel knows */
#define DOOR_CHUNK_MAX    4096u /* bytes passed on at once */

/* What was received and has not been passed on. */
struct door_chunk {
    uint8_t bytes[DOOR_CHUNK_MAX];
    size_t len_bytes, sent_bytes;
    int fds[DOOR_FDS_MAX];
    unsigned fd_count;
};

struct door {
    struct worker *worker;
    struct io_watch listener; /* fd -1: DOOR has not come */
    struct io_timer accept_again;
    int link_fd;           /* to the export's worker: one message for each front-end */
    struct io_watch front; /* the front-end's connection; fd -1: none */
    struct io_watch
        back; /* our end of the stream to the worker; fd -1: none. It outlives front until the worker is done */
    uint8_t header[12];  /* of the message at hand */
    size_t header_bytes; /* of it that are there */
    uint64_t left_bytes; /* of its payload */
    struct door_chunk chunk;
    uint64_t number;  /* of the front-end, counted from 1 */
    bool grace_given; /* to the front-end that is connected, since another one came */
    bool refused_one; /* said so in the log, in this session */
};

int door_new(struct worker *worker, struct door **ret_door, struct error *err);

/* DOOR: serve on listen_fd, for the worker at link_fd; both are taken. 0 or -errno. */
int door_serve(struct door *door, int listen_fd, int link_fd);

void door_close(struct door *door);

#endif
