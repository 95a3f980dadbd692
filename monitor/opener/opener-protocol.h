/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the monitor and the children of its opener say to each other. The opener itself gets nothing but sockets, one
 * for each task (IPC_OPENER_TASK), and forks a child for each of them; the child reads its requests from there. A
 * datagram is one message, and each request has one reply, in order. Both sides are built together, so structs travel
 * as they are; each still checks what it gets.
 *
 * A task is an image, opened by its first request and held until the end, or the reading of one small file. The end of
 * the socket ends the child: it closes what it has, then exits.
 *
 * Strings are NUL-terminated within their arrays.
 */
#ifndef BULKHEAD_MONITOR_OPENER_OPENER_PROTOCOL_H
#define BULKHEAD_MONITOR_OPENER_OPENER_PROTOCOL_H

#include "common/base/error.h"
#include "common/ipc/ipc-protocol.h"

#define OPENER_MAGIC    0x6f706e72u /* "opnr" */
#define OPENER_PATH_MAX 4096        /* with NUL: PATH_MAX of Linux */
#define OPENER_FDS_MAX  2           /* of one request */

enum opener_type {
    OPENER_OPEN = 1, /* an image: find it, tell of it by FOUND, wait for GO, open it */
    OPENER_GO,       /* what FOUND told of may be opened; has no reply of its own */
    OPENER_LOOK,     /* how large is it now? */
    OPENER_LOCK,     /* have exactly these locks */
    OPENER_RESIZE,   /* change its size, with these locks meanwhile */
    OPENER_SERVE,    /* have these locks, open it once more for a worker, send the worker its BOOT */
    OPENER_FOLDER,   /* where names of READ are looked for from now on; without it where the monitor runs */
    OPENER_READ,     /* a small file; the reply brings a sealed memfd with what was read */
    OPENER_STARTED,  /* child to monitor: the first word */
    OPENER_FOUND,    /* child to monitor: what the path of OPEN leads to; nothing has been opened or asked for yet */
    OPENER_REPLY,
};

struct opener_header {
    uint32_t magic;
    uint32_t type;   /* enum opener_type */
    uint64_t cookie; /* of a request, repeated in its reply */
};

/* Flags of OPEN. */
#define OPENER_DEVICE         (1u << 0) /* a block or character device, else a regular file */
#define OPENER_READ_ONLY      (1u << 1)
#define OPENER_AUTO_READ_ONLY (1u << 2) /* where it cannot be opened for writing, open it read-only */
#define OPENER_DIRECT         (1u << 3) /* O_DIRECT */
#define OPENER_MUST_LOCK      (1u << 4) /* it is an error if its file system has no locks */
#define OPENER_FLAGS_ALL      ((1u << 5) - 1)

struct opener_open {
    struct opener_header header;
    uint32_t flags; /* OPENER_* */
    uint32_t reserved;
    char path[OPENER_PATH_MAX];
};

struct opener_go {
    struct opener_header header;
};

struct opener_look {
    struct opener_header header;
};

/* Permissions as bits, see monitor/graph/locks.h. */
struct opener_lock {
    struct opener_header header;
    uint32_t uses;
    uint32_t unshared;
};

struct opener_resize {
    struct opener_header header;
    uint32_t uses; /* until it is done; then what was held before is held again */
    uint32_t unshared;
    uint64_t size_bytes;
};

/* Descriptors: the monitor's end of the worker's control socket, the worker page. The image goes behind the latter. */
struct opener_serve {
    struct opener_header header;
    uint32_t uses;
    uint32_t unshared;
    uint32_t writable;
    uint32_t reserved;
    struct ipc_boot boot; /* as it is to be sent */
};

/* Also FOLDER, of which only the path counts. */
struct opener_read {
    struct opener_header header;
    uint32_t max_bytes;
    uint32_t reserved;
    char path[OPENER_PATH_MAX];
};

/* Flags of a reply. */
#define OPENER_IS_READ_ONLY  (1u << 0) /* OPEN: it was opened read-only */
#define OPENER_HAS_LOCKS     (1u << 1) /* OPEN: its file system has locks */
#define OPENER_HAS_SIZE      (1u << 2) /* size_bytes is what it is now */
#define OPENER_HAS_ALLOCATED (1u << 3) /* allocated_bytes has a meaning */
#define OPENER_HAS_FD        (1u << 4) /* READ: a descriptor comes along */
#define OPENER_REPLY_ALL     ((1u << 5) - 1)

struct opener_reply {
    struct opener_header header; /* type: STARTED, FOUND or REPLY */
    int32_t code;                /* 0 or -errno */
    uint32_t flags;
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    uint64_t device; /* FOUND: of the file system that it lies on, as st_dev */
    uint32_t pid;    /* STARTED: the child's */
    uint32_t reserved;
    char text[ERROR_TEXT_MAX]; /* why it failed */
};

union opener_message {
    struct opener_header header;
    struct opener_open open;
    struct opener_go go;
    struct opener_look look;
    struct opener_lock lock;
    struct opener_resize resize;
    struct opener_serve serve;
    struct opener_read read;
};

#endif
