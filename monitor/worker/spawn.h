/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One process of a role, from clone3 to exec. What it becomes is the harness's business (common/worker/).
 */
#ifndef BULKHEAD_MONITOR_WORKER_SPAWN_H
#define BULKHEAD_MONITOR_WORKER_SPAWN_H

#include <sys/types.h>

#include "common/base/error.h"
#include "common/sandbox/role.h"

/* A worker binary, opened at start: what is executed cannot be exchanged later. */
struct spawn_binary {
    int fd;         /* O_PATH; -1: the role has none */
    char path[512]; /* for messages and developer aids */
};

struct spawn_request {
    const struct sandbox_role *role;
    const struct spawn_binary *binary;
    uint32_t namespaces; /* IPC_LAYER_*_NS to make */
    int null_fd;         /* becomes 0, 1, 2 */
    int control_fd;      /* the worker's end; becomes 3 */
    int status_fd;       /* the worker's end; becomes 4 */
    const char *title;   /* second word of its command line, for ps; may be NULL */
};

/*
 * Start the process. Descriptors are borrowed. A failure between clone3 and exec comes as a FAILED record on the status
 * pipe. 0 or -errno.
 */
int spawn_process(const struct spawn_request *request, pid_t *ret_pid, int *ret_pidfd, struct error *err);

/* Find and open the binary of a role: in dir, else in LIBEXECDIR. 0 or -errno. */
int spawn_binary_open(const struct sandbox_role *role, const char *dir, struct spawn_binary *ret_binary,
                      struct error *err);
void spawn_binary_close(struct spawn_binary *binary);

/*
 * Which namespaces this host lets us make, by trying with a worker's binary: a mask of IPC_LAYER_*_NS; 0 if user namespaces are refused. -EAGAIN
 * if that cannot be told, because there may be no more processes.
 */
int spawn_probe_namespaces(const struct spawn_binary *binary, uint32_t *ret_offered, struct error *err);

#endif
