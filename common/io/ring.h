/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An io_uring that can do no more than the sandbox would allow: made disabled, given the image descriptors as its only
 * files and a list of operations, enabled, and from then on driven by io_uring_enter alone.
 */
#ifndef BULKHEAD_IO_RING_H
#define BULKHEAD_IO_RING_H

#include <liburing.h>

#include "common/base/error.h"
#include "common/io/request.h"

struct io_ring {
    struct io_uring uring; /* ring_fd -1: not made */
    unsigned setup_flags;  /* IORING_SETUP_* that the kernel took */
    unsigned prepared;     /* not yet submitted */
    unsigned in_flight;    /* prepared or submitted, not yet reaped; never more than the completion queue holds */
};

/* Ready for use by any one thread. 0 or -errno; err says what is missing. io_ring_done() is fine after a failure, and
 * where ring_fd is -1. */
int io_ring_init(struct io_ring *ring, const int *fds, unsigned fd_count, struct error *err);
void io_ring_done(struct io_ring *ring);

/*
 * Let go of the files, for good. A ring whose process ends is taken down by the kernel a while later, and its files
 * with it. Nothing may be in flight. An error leaves it to that.
 */
void io_ring_release_files(struct io_ring *ring);

/* Put the engine operation of req into the ring; false if it is full. */
bool io_ring_prepare(struct io_ring *ring, struct block_request *req);

/* Submit what is prepared. 0, -EAGAIN or -EBUSY: some of it is left for another time, or another -errno. */
int io_ring_submit(struct io_ring *ring);

/* The next finished request and what its operation returned, or NULL. */
struct block_request *io_ring_reap(struct io_ring *ring, int *ret_res);

#endif
