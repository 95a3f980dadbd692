/* SPDX-License-Identifier: BSD-2-Clause */
/* Pipes for splice(2). Nothing here looks at what goes through them. */
#include "common/io/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/util.h"

#define SMALL_BYTES 4096

int io_pipe_init(struct io_pipe *pipe)
{
    *pipe = IO_PIPE_NONE;
    if (pipe2(pipe->fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    io_pipe_shrink(pipe);
    return 0;
}

void io_pipe_done(struct io_pipe *pipe)
{
    close_fd(&pipe->fds[0]);
    close_fd(&pipe->fds[1]);
}

bool io_pipe_grow(struct io_pipe *pipe, size_t bytes)
{
    if (pipe->state == IO_PIPE_SMALL)
        pipe->state = fcntl(pipe->fds[1], F_SETPIPE_SZ, (int)bytes) >= (int)bytes ? IO_PIPE_LARGE : IO_PIPE_UNUSABLE;
    return pipe->state == IO_PIPE_LARGE;
}

void io_pipe_shrink(struct io_pipe *pipe)
{
    if (pipe->fds[0] < 0 || pipe->state == IO_PIPE_SMALL)
        return;
    fcntl(pipe->fds[1], F_SETPIPE_SZ, SMALL_BYTES);
    pipe->state = IO_PIPE_SMALL;
}
