/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One image as a child of the opener holds it: found, opened, measured, locked, resized; opened once more for a worker.
 * Never a byte of it is read or written here. Every function may hang for as long as the image's file system does.
 */
#ifndef BULKHEAD_MONITOR_OPENER_IMAGE_H
#define BULKHEAD_MONITOR_OPENER_IMAGE_H

#include "monitor/graph/locks.h"
#include "monitor/opener/opener-protocol.h"

struct held_image {
    int fd;                     /* -1: not open */
    uint32_t flags;             /* of OPEN */
    char path[OPENER_PATH_MAX]; /* for messages */
    bool locked;
    struct image_lock lock;
};

/* Open what path_fd (O_PATH) stands for, if it is what was asked for. Fills in the reply. 0 or -errno. */
int held_image_open(struct held_image *image, const struct opener_open *request, int path_fd,
                    struct opener_reply *reply, struct error *err);

/* Its size and allocation, into the reply. 0 or -errno. */
int held_image_look(const struct held_image *image, struct opener_reply *reply, struct error *err);

/* Hold exactly these locks. 0, -EAGAIN if another program is in the way, other -errno; then nothing has changed. */
int held_image_lock(struct held_image *image, uint32_t uses, uint32_t unshared, struct error *err);

/*
 * Make it size_bytes long; what is new reads as zeros. A device cannot be: what can be done is to find out that it has
 * become larger. 0 or -errno.
 */
int held_image_resize(struct held_image *image, const struct opener_resize *request, struct opener_reply *reply,
                      struct error *err);

/*
 * Open it for a worker: a description of its own, which can do no more than it needs, and whose reads leave the time of
 * access alone if the image is ours. It holds the locks of what the worker does, so that the image stays locked as long as
 * something that the worker began is under way, whoever has died; held_image_lock() must have come before. The descriptor
 * is the caller's. 0 or -errno.
 */
int held_image_open_for_worker(const struct held_image *image, bool writable, int *ret_fd, struct error *err);

#endif
