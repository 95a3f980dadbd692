/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-resolver: finds the addresses of one host name, and is ended. It may ask name servers and read what the C
 * library reads for that; must never see an image, a client, or another socket of the monitor's. What name servers
 * answer is parsed by the C library here and nowhere else.
 */
#include <netdb.h>
#include <netinet/in.h>
#include <nss.h>
#include <stdio.h>
#include <string.h>

#include "common/worker/worker.h"

/* Modules that are part of the C library: others would have to be loaded, and this process cannot bring in code. */
static int resolver_setup(struct worker *worker, struct error *err)
{
    __nss_configure_lookup("hosts", "files dns");
    __nss_configure_lookup("services", "files");
    return 0;
}

static void add_address(struct ipc_status_resolved *resolved, const struct sockaddr *address)
{
    struct ipc_address *to = &resolved->addresses[resolved->count];

    if (resolved->count == IPC_ADDRESSES_MAX)
        return;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;

        to->port = ntohs(in->sin_port);
        memcpy(to->bytes, &in->sin_addr, sizeof(in->sin_addr));
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

        to->port = ntohs(in6->sin6_port);
        to->scope = in6->sin6_scope_id;
        memcpy(to->bytes, &in6->sin6_addr, sizeof(in6->sin6_addr));
        to->is_ipv6 = 1;
    } else {
        return;
    }
    resolved->count++;
}

static int run_resolve(struct worker *worker, const void *message, int *fds)
{
    static const int families[] = { AF_UNSPEC, AF_INET, AF_INET6 };
    const struct ipc_resolve *resolve = message;
    const struct addrinfo hints = { .ai_family = families[resolve->family],
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_PASSIVE };
    struct ipc_status status = { .type = IPC_STATUS_RESOLVED };
    struct addrinfo *list = NULL;
    int r = getaddrinfo(resolve->host, resolve->port, &hints, &list);

    status.resolved.failed = r != 0;
    if (r != 0)
        snprintf(status.resolved.text, sizeof(status.resolved.text), "%s", gai_strerror(r));
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next)
        add_address(&status.resolved, at->ai_addr);
    worker_report(worker, &status);
    return 0;
}

static void resolver_drain(struct worker *worker)
{
    worker_exit(worker);
}

int main(int argc, char **argv)
{
    static const struct worker_message messages[] = {
        { IPC_RESOLVE, run_resolve },
    };
    static const struct worker_class class = {
        .ipc_role = IPC_ROLE_RESOLVER,
        .setup = resolver_setup,
        .drain = resolver_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &class);
}
