/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The children of the opener: each has one task, and may hang in it. What they share.
 */
#ifndef BULKHEAD_MONITOR_OPENER_CHILD_H
#define BULKHEAD_MONITOR_OPENER_CHILD_H

#include "monitor/opener/image.h"
#include "monitor/opener/opener-protocol.h"

struct child {
    int sock;
    struct held_image image;
    int folder_fd;                       /* AT_FDCWD: none */
    const struct opener_header *request; /* that is being answered */
};

/* Serve the requests on sock, which is the process's own, until its end; then exit. Everything else should be closed.
 */
void child_run(int sock) __attribute__((noreturn));

/* Send a reply with one descriptor, or none (-1). */
void child_send(int sock, struct opener_reply *reply, int fd);

/*
 * Find what path leads to, as an O_PATH descriptor, tell the monitor of it and wait for its word. The monitor ends the
 * task where it does not agree. 0 or -errno.
 */
int child_find(struct child *child, const char *path, int *ret_path_fd, struct error *err);

/* file.c: read at most max_bytes of a regular file into a sealed memfd. 0 or -errno. */
int file_read(int folder_fd, const struct opener_read *request, int *ret_fd, struct error *err);

#endif
