/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Records on the status pipe. The writer is not trusted to write records, nor to leave the pipe in packet mode: a read
 * asks for one byte more than a record has, and anything but a record's length is a protocol error.
 */
#include "common/ipc/status.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

_Static_assert(IPC_STATUS_BYTES < PIPE_BUF, "records are written atomically");

int status_pipe_new(int *ret_read_end, int *ret_write_end, struct error *err)
{
    int ends[2];

    if (pipe2(ends, O_DIRECT | O_NONBLOCK | O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot create a status pipe: %s", strerror(errno));
    *ret_read_end = ends[0];
    *ret_write_end = ends[1];
    return 0;
}

int status_write(int fd, const struct ipc_status *status)
{
    ssize_t n;

    do
        n = write(fd, status, sizeof(*status));
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0; /* below PIPE_BUF: all or nothing, pipe(7) */
}

int status_read(int fd, struct ipc_status *ret, struct error *err)
{
    uint8_t bytes[sizeof(*ret) + 1];
    ssize_t n;

    do
        n = read(fd, bytes, sizeof(bytes));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN : error_set(err, -errno, "cannot read the status pipe: %s", strerror(errno));
    if (n == 0)
        return 0;
    if (n != sizeof(*ret))
        return error_set(err, -EPROTO, "status record of %zd bytes instead of %zu%s", n, sizeof(*ret),
                         n > (ssize_t)sizeof(*ret) ? ", or more" : "");
    memcpy(ret, bytes, sizeof(*ret));
    return 1;
}
