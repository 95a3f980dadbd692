/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The status pipe: a packet pipe (O_DIRECT, pipe(7)) of fixed-size records, worker to monitor. Neither side ever waits
 * for the other: both ends are non-blocking.
 */
#ifndef BULKHEAD_IPC_STATUS_H
#define BULKHEAD_IPC_STATUS_H

#include "common/base/error.h"
#include "common/ipc/ipc-protocol.h"

/* 0 or -errno. */
int status_pipe_new(int *ret_read_end, int *ret_write_end, struct error *err);

/* Write one record. 0, -EAGAIN when the pipe is full, -EPIPE when the monitor is gone. Async-signal-safe. */
int status_write(int fd, const struct ipc_status *status);

/*
 * Read one record. 1: *ret is filled, with bytes of a hostile process (ipc_status_check() comes next). 0: the other end
 * is closed. -EAGAIN: there is none. -EPROTO: what came was shorter or longer than a record.
 */
int status_read(int fd, struct ipc_status *ret, struct error *err);

#endif
