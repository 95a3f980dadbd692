/* SPDX-License-Identifier: BSD-2-Clause */
/* Host names, each resolved by a process of its own, which may take as long as name servers do; up to a limit. */
#ifndef BULKHEAD_MONITOR_EXPORT_RESOLVER_H
#define BULKHEAD_MONITOR_EXPORT_RESOLVER_H

#include "monitor/qmp/socket.h"

struct monitor;
struct resolving;

#define RESOLVER_DEADLINE_MS 10000

/* How the outcome is heard of, from the loop, once: addresses, at least one, with their ports; or err. */
typedef void resolver_done_fn(void *opaque, struct sockaddr_storage *addresses, unsigned count,
                              const struct error *err);

/* 0, or -errno and done is not called. */
int resolver_start(struct monitor *monitor, const struct inet_socket_address *addr, resolver_done_fn *done,
                   void *opaque, struct resolving **ret_resolving, struct error *err);

/* Its owner does not want to hear of it any more. workers_gone: all have been ended, no callback will come. */
void resolver_cancel(struct resolving *resolving, bool workers_gone);

#endif
