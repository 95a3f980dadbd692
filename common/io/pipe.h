/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pipe through which splice(2) moves data between two other descriptors.
 *
 * The memory of pipes is counted by account, for all workers together; beyond a limit (pipe(7), pipe-user-pages-soft)
 * new pipes get hardly any. So a pipe is small until it is needed, and who finds that it cannot be made larger copies
 * instead.
 */
#ifndef BULKHEAD_COMMON_IO_PIPE_H
#define BULKHEAD_COMMON_IO_PIPE_H

#include <stdbool.h>
#include <stddef.h>

struct io_pipe {
    enum { IO_PIPE_SMALL, IO_PIPE_LARGE, IO_PIPE_UNUSABLE } state;
    int fds[2]; /* to read from, to write to; neither blocks */
};

/* There is none: it cannot be grown, and done() is fine. */
#define IO_PIPE_NONE ((struct io_pipe){ IO_PIPE_UNUSABLE, { -1, -1 } })

/* Small. Before lock-down. 0 or -errno; there is none then. */
int io_pipe_init(struct io_pipe *pipe);
void io_pipe_done(struct io_pipe *pipe);

/* Whether it has room for so many bytes. The first attempt decides, until io_pipe_shrink(). */
bool io_pipe_grow(struct io_pipe *pipe, size_t bytes);

/* Give its memory back. It must be empty. */
void io_pipe_shrink(struct io_pipe *pipe);

#endif
