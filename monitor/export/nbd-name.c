/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-server-start with a host name: it is resolved by a process of its own, and the server starts after that. Names
 * come from the operator or a QMP client; addresses from name servers, to be bound to and for nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/export/nbd-private.h"
#include "monitor/export/resolver.h"
#include "monitor/qmp/qmp.h"

/* nbd-server-start while its host name is resolved: the server is not running yet, and there is no other one. */
struct nbd_resolving {
    struct nbd_server *server;
    struct nbd_server_options options; /* a copy of our own */
    struct resolving *resolving;
    struct qmp_reply *reply;
};

/* What is still needed: names of TLS objects have been taken already. */
static int copy_options(const struct nbd_server_options *from, struct nbd_server_options *ret, struct error *err)
{
    *ret = *from;
    ret->tls_creds = ret->tls_authz = NULL;
    ret->addr.inet.host = strdup(from->addr.inet.host);
    ret->addr.inet.port = strdup(from->addr.inet.port);
    return ret->addr.inet.host != NULL && ret->addr.inet.port != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static void own_free(struct nbd_resolving *own)
{
    free((void *)(uintptr_t)own->options.addr.inet.host);
    free((void *)(uintptr_t)own->options.addr.inet.port);
    free(own);
}

static void end_resolving(struct nbd_server *server)
{
    own_free(TAKE_PTR(server->resolving));
}

static void resolved(void *opaque, struct sockaddr_storage *addresses, unsigned count, const struct error *failure)
{
    struct nbd_resolving *own = opaque;
    struct nbd_server *server = own->server;
    struct qmp_reply *reply = own->reply;
    struct socket_listeners listeners = { .count = 0 };
    struct error err = { 0 };

    if (failure != NULL)
        err = *failure;
    else
        socket_listen_resolved(&own->options.addr.inet, addresses, count, &listeners, &err);
    if (err.code == 0)
        nbd_server_serve_on(server, &own->options, &listeners, reply);
    end_resolving(server);
    if (err.code == 0)
        return;
    nbd_server_forget_tls(server);
    qmp_reply_error(reply, &err);
}

int nbd_name_start(struct nbd_server *server, const struct nbd_server_options *options, struct qmp_reply *reply,
                   struct error *err)
{
    struct nbd_resolving *own = calloc(1, sizeof(*own));
    int r = own == NULL ? error_set(err, -ENOMEM, "out of memory") : copy_options(options, &own->options, err);

    if (r < 0) {
        if (own != NULL)
            own_free(own);
        return r;
    }
    own->server = server;
    own->reply = reply;
    server->resolving = own;
    r = resolver_start(server->monitor, &own->options.addr.inet, resolved, own, &own->resolving, err);
    if (r < 0)
        end_resolving(server);
    return r;
}

void nbd_name_stop(struct nbd_server *server, const struct error *err)
{
    struct nbd_resolving *own = server->resolving;

    if (own == NULL)
        return;
    resolver_cancel(own->resolving, true);
    qmp_reply_error(own->reply, err);
    end_resolving(server);
}
