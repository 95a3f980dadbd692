/* SPDX-License-Identifier: BSD-2-Clause */
/* See resolver.h. What the process says is checked like what other workers say, and no more than a list of addresses.
 */
#include "monitor/export/resolver.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/monitor.h"
#include "monitor/worker/worker.h"

struct resolving {
    struct worker_handle *worker;
    struct event *timer;
    resolver_done_fn *done; /* NULL: it was called, or nobody wants to hear of it */
    void *opaque;
    struct ipc_resolve message;
};

static void resolving_free(struct resolving *resolving)
{
    if (resolving->timer != NULL)
        event_free(resolving->timer);
    free(resolving);
}

static void fail(struct resolving *resolving, int code, const char *why)
{
    resolver_done_fn *done = TAKE_PTR(resolving->done);
    struct error err = { 0 };

    error_set(&err, code, "address resolution failed for %.100s:%.20s: %s", resolving->message.host,
              resolving->message.port, why);
    if (done != NULL)
        done(resolving->opaque, NULL, 0, &err);
}

static struct sockaddr_storage address_of(const struct ipc_address *from)
{
    struct sockaddr_storage address = { .ss_family = from->is_ipv6 ? AF_INET6 : AF_INET };
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;

    if (from->is_ipv6) {
        in6->sin6_port = htons(from->port);
        in6->sin6_scope_id = from->scope;
        memcpy(&in6->sin6_addr, from->bytes, sizeof(in6->sin6_addr));
    } else {
        in->sin_port = htons(from->port);
        memcpy(&in->sin_addr, from->bytes, sizeof(in->sin_addr));
    }
    return address;
}

static void resolver_is_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct resolving *resolving = opaque;

    worker_send(worker, IPC_RESOLVE, &resolving->message, sizeof(resolving->message), NULL, 0);
}

static void resolver_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    fail(opaque, err->code, err->text);
}

static int resolver_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct resolving *resolving = opaque;
    struct sockaddr_storage addresses[IPC_ADDRESSES_MAX];
    resolver_done_fn *done;

    if (status->type != IPC_STATUS_RESOLVED)
        return -EPROTO;
    evtimer_del(resolving->timer);
    worker_kill(worker, "it has done its work");
    if (status->resolved.failed || status->resolved.count == 0) {
        fail(resolving, -EADDRNOTAVAIL,
             status->resolved.text[0] != '\0' ? status->resolved.text : "the name has no address");
        return 0;
    }
    for (unsigned i = 0; i < status->resolved.count; i++)
        addresses[i] = address_of(&status->resolved.addresses[i]);
    done = TAKE_PTR(resolving->done);
    if (done != NULL)
        done(resolving->opaque, addresses, status->resolved.count, NULL);
    return 0;
}

static void resolver_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct resolving *resolving = opaque;

    fail(resolving, -EIO, why->text);
    resolving_free(resolving);
}

static void expired(evutil_socket_t fd, short what, void *arg)
{
    struct resolving *resolving = arg;

    worker_kill(resolving->worker, "no name server answered in time");
    fail(resolving, -ETIMEDOUT, "no name server answered in time");
}

static int fill_in(struct ipc_resolve *message, const struct inet_socket_address *addr, struct error *err)
{
    int family;
    int r = socket_check_name(addr, &family, err);

    if (r < 0)
        return r;
    if (strlen(addr->host) >= sizeof(message->host) || strlen(addr->port) >= sizeof(message->port))
        return error_set(err, -EINVAL, "address resolution failed for %.100s:%.20s: the name is too long", addr->host,
                         addr->port);
    message->family = family == AF_UNSPEC ? 0 : (family == AF_INET ? 1 : 2);
    snprintf(message->host, sizeof(message->host), "%s", addr->host);
    snprintf(message->port, sizeof(message->port), "%s", addr->port);
    return 0;
}

int resolver_start(struct monitor *monitor, const struct inet_socket_address *addr, resolver_done_fn *done,
                   void *opaque, struct resolving **ret_resolving, struct error *err)
{
    static const struct worker_ops ops = {
        .ready = resolver_is_ready,
        .failed = resolver_failed,
        .status = resolver_status,
        .gone = resolver_gone,
    };
    const struct timeval tv = timeval_of_ms(RESOLVER_DEADLINE_MS);
    struct ipc_boot boot = { .role = IPC_ROLE_RESOLVER };
    struct resolving *resolving = calloc(1, sizeof(*resolving));
    int r;

    if (resolving == NULL || (resolving->timer = evtimer_new(monitor->base, expired, resolving)) == NULL) {
        free(resolving);
        return error_set(err, -ENOMEM, "out of memory");
    }
    resolving->done = done;
    resolving->opaque = opaque;
    r = fill_in(&resolving->message, addr, err);
    if (r == 0)
        r = worker_spawn(monitor->workers, &boot, NULL, &ops, resolving, &resolving->worker, err);
    if (r < 0) {
        resolving_free(resolving);
        return r;
    }
    evtimer_add(resolving->timer, &tv);
    *ret_resolving = resolving;
    return 0;
}

void resolver_cancel(struct resolving *resolving, bool workers_gone)
{
    if (resolving == NULL)
        return;
    resolving->done = NULL;
    if (workers_gone)
        resolving_free(resolving);
    else
        worker_kill(resolving->worker, "nobody waits for it any more");
}
