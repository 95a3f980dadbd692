/* SPDX-License-Identifier: BSD-2-Clause */
/* Who may connect to a unix socket that we make: the mode and the group of its file. */
#ifndef BULKHEAD_MONITOR_QMP_SOCKET_ACCESS_H
#define BULKHEAD_MONITOR_QMP_SOCKET_ACCESS_H

#include <sys/types.h>

#include "monitor/qmp/types.h"

struct socket_access {
    bool has_mode;
    mode_t mode;
    bool has_group;
    gid_t group;
};

/* What an address asks for: __org.bulkhead_mode in octal, __org.bulkhead_group by name (of /etc/group) or number. 0 or
 * -errno. */
int socket_access_parse(const struct unix_socket_address *addr, struct socket_access *ret, struct error *err);

/* Around bind(): the file is made with the mode, so that it never has another one. */
mode_t socket_access_begin(const struct socket_access *access);
void socket_access_end(const struct socket_access *access, mode_t before);

/* After bind() and before listen(), so that nobody connects meanwhile: the group. 0 or -errno. */
int socket_access_give(const struct socket_access *access, const char *path, struct error *err);

#endif
