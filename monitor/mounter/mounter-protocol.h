/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the monitor and its mounter say to each other over one SOCK_SEQPACKET socketpair. A datagram is one message;
 * each request gets exactly one reply, in any order. Both sides are built together, so structs travel as they are; each
 * still checks what it gets: the mounter because it is the one process that may have something setuid executed, the
 * monitor because it trusts nobody.
 *
 * The end of file on the socket, for whatever reason it comes, tells the mounter to unmount everything and to exit.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_MOUNTER_PROTOCOL_H
#define BULKHEAD_MONITOR_MOUNTER_MOUNTER_PROTOCOL_H

#include <stdint.h>

#define MOUNTER_MAGIC        0x6d6e7472u /* "mntr" */
#define MOUNTER_PATH_MAX     4096        /* with NUL: PATH_MAX of Linux */
#define MOUNTER_ID_MAX       128         /* with NUL */
#define MOUNTER_TEXT_MAX     512
#define MOUNTER_PAIRS_MAX    8 /* pairs of /dev/fuse descriptors of one mount, one for each I/O thread */
#define MOUNTER_DEVICES_MAX  (2 * MOUNTER_PAIRS_MAX)
#define MOUNTER_READ_MAX     1048576
#define MOUNTER_MOUNTS_MAX   4096  /* mounts alive at once */
#define MOUNTER_REQUESTS_MAX 32    /* MOUNT requests that wait for their replies */
#define MOUNTER_TIMEOUT_MS   10000 /* for one request: then it has failed */
#define MOUNTER_CANCEL_MS    1000  /* for one that nobody needs any more */
#define MOUNTER_STUCK_MS     4000  /* without progress, when the monitor is gone: then it gives up */

enum mounter_type {
    MOUNTER_MOUNT = 1,
    MOUNTER_UNMOUNT,
    MOUNTER_REPLY,
    MOUNTER_CANCEL,
};

enum mounter_allow_other {
    MOUNTER_ALLOW_OTHER_OFF,
    MOUNTER_ALLOW_OTHER_ON,
    MOUNTER_ALLOW_OTHER_AUTO, /* try with it, fall back to without */
};

struct mounter_header {
    uint32_t magic;
    uint32_t type;   /* enum mounter_type */
    uint64_t cookie; /* of a request, repeated in its reply */
};

struct mounter_mount {
    struct mounter_header header;
    uint32_t allow_other;    /* enum mounter_allow_other */
    uint32_t pairs;          /* of descriptors, 1..MOUNTER_PAIRS_MAX */
    uint32_t max_read_bytes; /* a multiple of 4096, at most MOUNTER_READ_MAX */
    uint32_t reserved;
    char id[MOUNTER_ID_MAX];     /* the export's, shown as the source of the mount */
    char path[MOUNTER_PATH_MAX]; /* absolute */
};

struct mounter_unmount {
    struct mounter_header header;
    uint64_t mount; /* of struct mounter_reply */
    uint32_t lazy;  /* 0: fail with -EBUSY while the file is open; 1: detach at once */
    uint32_t reserved;
};

/*
 * Nobody needs the mount that is being made: it is given up soon if nothing comes of it. The header's cookie is that of
 * the MOUNT, whose reply comes all the same; there is none to this.
 */
struct mounter_cancel {
    struct mounter_header header;
};

/*
 * Descriptors, after a MOUNT that succeeded: the mounted /dev/fuse and clones of it, in pairs of one that blocks and
 * one with O_NONBLOCK, as many pairs as were asked for.
 */
struct mounter_reply {
    struct mounter_header header;
    uint64_t mount;       /* names the mount in UNMOUNT; never reused */
    uint64_t device;      /* that is mounted there: st_dev */
    int32_t code;         /* 0 or -errno */
    uint32_t allow_other; /* whether the mount has it */
    uint32_t devices;     /* descriptors that come along */
    uint32_t reserved;
    char text[MOUNTER_TEXT_MAX]; /* why it failed; else a remark for the log, or "" */
};

#endif
