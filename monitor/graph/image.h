/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image files: opening, describing and locking what the drivers file and host_device stand on. The monitor holds one
 * descriptor for each; it never reads or writes a byte through it, and workers get descriptors of their own. Paths come
 * from QMP clients, what they name may be anything: nothing here blocks on a FIFO or wakes a device of the wrong type.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_IMAGE_H
#define BULKHEAD_MONITOR_GRAPH_IMAGE_H

#include <sys/types.h>

#include "monitor/graph/locks.h"
#include "monitor/qmp/types.h"

struct image_options {
    const char *filename;
    bool device; /* a block or character device, else a regular file */
    bool read_only;
    bool auto_read_only; /* where it cannot be opened for writing, open it read-only */
    bool direct;         /* O_DIRECT */
    bool force_share;    /* others may do what they want; needs read_only */
    enum on_off_auto locking;
};

struct image {
    char *filename;
    int fd; /* the monitor's own */
    bool device;
    bool read_only; /* as it was opened */
    bool direct;
    bool force_share;
    bool locked; /* whether users are locked against other programs at all */
    struct image_lock lock;
    unsigned users;   /* exports that make use of it */
    unsigned writers; /* those of them that write */
    unsigned resizers; /* exports whose worker may change its size now */
};

/* 0 or -errno. On success the caller ends with image_close(). */
int image_open(const struct image_options *options, struct image **ret_image, struct error *err);
void image_close(struct image *image); /* NULL is fine; gives back locks */

/* Its size now: of the file, or of the device. 0 or -errno. */
int image_size(const struct image *image, uint64_t *ret_size_bytes, struct error *err);

/*
 * Make it size_bytes long; what is new reads as zeros. A device cannot be: what can be done is to find out that it has
 * become larger. Other programs that use the image must not mind: -EAGAIN. 0 or another -errno.
 */
int image_resize(struct image *image, uint64_t size_bytes, struct error *err);

/* The bytes that it takes up on its file system; false where that has no meaning. */
bool image_allocated(const struct image *image, uint64_t *ret_bytes);

/*
 * One more or one less export makes use of the image. A writable one does not share writing and resizing, a read-only
 * one all but resizing. 0, -EAGAIN if another program is in the way, or another -errno.
 */
int image_use(struct image *image, bool writable, struct error *err);
void image_unuse(struct image *image, bool writable);

/*
 * The worker of an export that makes use of the image may change its size, until the end. 0, -EAGAIN if another program
 * relies on the size, or another -errno.
 */
int image_begin_resize(struct image *image, struct error *err);
void image_end_resize(struct image *image);

/*
 * A descriptor for a worker: of a description of its own, which can do no more than it needs, and whose reads leave the
 * time of access alone if the image is ours. The caller owns it. 0 or -errno.
 */
int image_open_for_worker(const struct image *image, bool writable, int *ret_fd, struct error *err);

#endif
