/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image files, as the monitor knows them: a task of the opener (monitor/graph/opener.h) for each, which has it open and
 * holds its locks, and the facts that it told last. The monitor has no descriptor of an image, so that nothing, not
 * even a close(), can make it wait for the image's file system. Every operation has a deadline; its outcome is heard of
 * later.
 */
#ifndef BULKHEAD_MONITOR_GRAPH_IMAGE_H
#define BULKHEAD_MONITOR_GRAPH_IMAGE_H

#include <sys/queue.h>

#include "monitor/graph/opener.h"
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

struct image_operation;
LIST_HEAD(image_operation_list, image_operation);

struct image {
    char *filename;
    bool device;
    bool read_only; /* as it was opened */
    bool direct;
    bool force_share;
    bool open;   /* it has been */
    bool locked; /* whether users are locked against other programs at all */
    enum on_off_auto locking;
    uint32_t open_flags; /* of OPEN */
    struct monitor *monitor;
    struct opener_task *task;
    struct image_operation_list operations; /* that somebody waits for */
    /* As they were told last. */
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    bool has_allocated;
    uint64_t size_before_bytes; /* of a look after the child hung */

    unsigned users;    /* exports that make use of it */
    unsigned writers;  /* those of them that write */
    unsigned resizers; /* exports whose worker may change its size now */
    void (*closed)(void *opaque, bool closed);
    void *closed_opaque;
};

/* How the outcome of an operation is heard of, from the loop, once. err is NULL if it succeeded. */
typedef void image_done_fn(void *opaque, const struct error *err);

/* One that image_open() is still to be called for. 0 or -errno. */
int image_new(struct monitor *monitor, const struct image_options *options, struct image **ret_image,
              struct error *err);

/* Open it, once. 0, or -errno and done is not called. Whether it fails then or later, it is to be closed. */
int image_open(struct image *image, image_done_fn *done, void *opaque, struct error *err);

/* Operations that are under way are told that it was closed. Gives back locks. NULL is fine. */
void image_close(struct image *image);

/* Have done called when image_close() is through: closed, or the file system did not answer in time. */
void image_notify_closed(struct image *image, void (*done)(void *opaque, bool closed), void *opaque);

/* An operation hung and still does. */
bool image_is_late(const struct image *image);

/* The operations that have that opaque are not to be told of any more; what they acquire later is given back. */
void image_forget(struct image *image, const void *opaque);

/* Look how large it is now. 0, or -errno and done is not called. */
int image_refresh(struct image *image, unsigned timeout_ms, image_done_fn *done, void *opaque, struct error *err);

/*
 * Make it size_bytes long; what is new reads as zeros. A device cannot be: what can be done is to find out that it has
 * become larger. Other programs that use the image must not mind: -EAGAIN. 0, or -errno and done is not called.
 */
int image_resize(struct image *image, uint64_t size_bytes, image_done_fn *done, void *opaque, struct error *err);

/*
 * One more export makes use of the image: its worker gets boot, with the image as its descriptor behind the worker
 * page. A writable export does not share writing and resizing, a read-only one all but resizing. -EAGAIN: another
 * program is in the way. 0, or -errno and done is not called.
 */
int image_serve(struct image *image, bool writable, const struct ipc_boot *boot, int control_fd, int page_fd,
                image_done_fn *done, void *opaque, struct error *err);

/* One less, of those that image_serve() succeeded for. done may be NULL. */
void image_unuse(struct image *image, bool writable, image_done_fn *done, void *opaque);

/*
 * The worker of an export that makes use of the image may change its size, until the end. -EAGAIN: another program
 * relies on the size. 0, or -errno and done is not called.
 */
int image_begin_resize(struct image *image, image_done_fn *done, void *opaque, struct error *err);
void image_end_resize(struct image *image);

#endif
