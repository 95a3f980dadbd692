/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the end of a client's handshake to its export's worker: what a negotiator reports is checked, then there has to
 * be a place. One that finds none waits for a moment, because whoever left just before may not have been heard of yet.
 *
 * Sockets go through here; no byte of a client does.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "monitor/export/nbd-private.h"
#include "monitor/graph/objects.h"

#define UNANSWERED_MAX  16          /* clients that are given to a worker which does not answer */
#define UNIX_SEND_BYTES (512 << 10) /* the kernel doubles it */

/*
 * Unix sockets have 208 KiB for what is on its way unless somebody asks for more, which a server of large reads fills
 * in no time, only to sleep until most of it has been taken. TCP sees to itself. The host's limit (net.core.wmem_max)
 * holds.
 */
void nbd_widen_unix_socket(int fd)
{
    int domain = AF_UNSPEC;
    socklen_t len = sizeof(domain);
    int bytes = UNIX_SEND_BYTES;

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/* ---- Places ---- */

bool nbd_server_is_full(const struct nbd_server *server)
{
    return server->max_connections != 0 && server->established >= server->max_connections;
}

void nbd_client_count(struct nbd_client *client, bool counted)
{
    struct nbd_server *server = client->server;

    if (client->counted == counted)
        return;
    client->counted = counted;
    server->established += counted ? 1 : -1u;
    client->from->established += counted ? 1 : -1u;
    if (!counted)
        nbd_lobby_wake(server);
}

/* Why the client cannot go to the export now; NULL: it can. */
static const char *no_place(const struct nbd_client *client, const struct nbd_export *nbd)
{
    const struct nbd_server *server = client->server;

    if (nbd->silent && nbd->unanswered >= UNANSWERED_MAX)
        return "the worker of its export does not answer";
    if (nbd_server_is_full(server))
        return "as many are connected as max-connections allows";
    if (nbd->max_connections != 0 && nbd->clients.count >= nbd->max_connections)
        return "its export has as many clients as it may have";
    if (server->peer_max != 0 && client->from->established >= server->peer_max)
        return "its account or address has as many connections as it may have";
    if (nbd->clients.count >= nbd->clients_max)
        return "its export has no descriptors left for more clients (LimitNOFILE=, ulimit -n)";
    if (server->tls_creds != NULL && server->pool.relaying >= server->pool.relays_max)
        return "as many have TLS, and with it a process and descriptors of the monitor, as may be (LimitNOFILE=, "
               "ulimit -n)";
    return NULL;
}

static struct nbd_export *find_serial(const struct nbd_server *server, uint64_t serial)
{
    struct nbd_export *nbd;

    TAILQ_FOREACH (nbd, &server->exports, link) {
        if (nbd->serial == serial)
            return nbd;
    }
    return NULL;
}

/* With TLS the worker gets one end of a stream in place of the socket, and the negotiator relays to the other. */
static int make_relay(struct nbd_client *client)
{
    int ends[2];
    int r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return -errno;
    nbd_widen_unix_socket(ends[0]);
    nbd_widen_unix_socket(ends[1]);
    r = negotiator_relay(client->negotiator, ends[1]);
    close_fd(&ends[1]);
    if (r < 0) {
        close_fd(&ends[0]);
        return r;
    }
    socket_close_client(&client->fd);
    client->fd = ends[0];
    return 0;
}

/* The socket leaves the monitor. */
static void hand_over(struct nbd_client *client, struct nbd_export *nbd)
{
    struct nbd_server *server = client->server;
    struct ipc_client message = { .negotiated = client->negotiated };
    int r;

    if (server->tls_creds != NULL && make_relay(client) < 0) {
        nbd_client_end(client, "there is no relay for it");
        return;
    }
    nbd_client_move(client, &nbd->clients);
    client->export = nbd;
    nbd_client_count(client, !nbd->silent);
    nbd->unanswered++;
    r = worker_send(nbd->export->worker, IPC_CLIENT, &message, sizeof(message), &client->fd, 1);
    socket_close_client(&client->fd);
    if (r < 0) {
        nbd_client_end(client, "the export's worker did not take it");
        return;
    }
    log_debug("NBD client %llu (%s) is with export %s", (unsigned long long)client->id, client->peer, nbd->export->id);
    nbd_export_probe(nbd);
}

/* False: it has to wait. */
static bool admit(struct nbd_client *client)
{
    struct nbd_export *nbd = find_serial(client->server, client->negotiated.export_serial);
    const char *obstacle;
    char reason[192];

    if (nbd == NULL) { /* its directory was of an earlier time */
        nbd_client_end(client, "the export that it chose was removed meanwhile");
        return true;
    }
    obstacle = no_place(client, nbd);
    if (obstacle == NULL) {
        hand_over(client, nbd);
        return true;
    }
    if (client->group != &client->server->admitted ||
        now_ns() - client->moved_ns < NBD_FULL_WAIT_MS * UINT64_C(1000000))
        return false;
    snprintf(reason, sizeof(reason), "turned away: %s", obstacle);
    nbd_client_turn_away(client, reason);
    return true;
}

void nbd_admission_serve(struct nbd_server *server)
{
    struct nbd_client *next;

    for (struct nbd_client *client = TAILQ_FIRST(&server->admitted.list); client != NULL; client = next) {
        next = TAILQ_NEXT(client, link);
        if (!admit(client))
            nbd_lobby_look_again(client, NBD_FULL_WAIT_MS);
    }
}

/* ---- What negotiators report ---- */

static void let_in(struct nbd_client *client, const struct ipc_status_tls_peer *peer)
{
    struct nbd_server *server = client->server;
    struct error why = { 0 };
    char name[IPC_TLS_IDENTITY_MAX];
    char reason[ERROR_TEXT_MAX + IPC_TLS_IDENTITY_MAX + 64];

    memcpy(name, peer->identity, sizeof(name));
    ipc_text_sanitize(name);
    if (server->tls_authz != NULL &&
        !authz_allows(server->monitor->objects, server->tls_authz, peer->has_identity ? peer->identity : NULL, &why)) {
        snprintf(reason, sizeof(reason), "tls-authz '%s' does not let in '%s': %s", server->tls_authz, name, why.text);
        nbd_client_end(client, reason);
        return;
    }
    client->permitted = true;
    log_debug("NBD client %llu (%s) is '%s', %s", (unsigned long long)client->id, client->peer, name, peer->session);
    if (negotiator_permit(client->negotiator) < 0)
        nbd_client_end(client, "its negotiator died");
}

void nbd_client_forget_proving(struct nbd_client *client)
{
    struct nbd_proving *proving = TAKE_PTR(client->proving);

    if (proving != NULL)
        proving->client = NULL;
}

static void list_refreshed(void *opaque, bool cancelled)
{
    struct nbd_proving *proving = opaque;
    struct nbd_client *client = proving->client;

    if (client != NULL) {
        client->proving = NULL;
        if (cancelled)
            nbd_client_end(client, "the list of those that are let in was removed");
        else
            let_in(client, &proving->peer);
    }
    free(proving);
}

int nbd_client_proved(struct nbd_client *client, const struct ipc_status_tls_peer *peer)
{
    struct nbd_server *server = client->server;

    if (peer->client_id != client->id || client->permitted || client->proving != NULL)
        return -EPROTO;
    if (server->tls_authz == NULL) {
        let_in(client, peer);
        return 0;
    }
    client->proving = calloc(1, sizeof(*client->proving));
    if (client->proving == NULL) {
        nbd_client_end(client, "out of memory");
        return 0;
    }
    *client->proving = (struct nbd_proving){ client, *peer };
    authz_refresh(server->monitor->objects, server->tls_authz, list_refreshed, client->proving);
    return 0;
}

int nbd_client_negotiated(struct nbd_client *client, const struct ipc_nbd_negotiated *negotiated)
{
    struct nbd_server *server = client->server;
    const struct nbd_export *nbd = find_serial(server, negotiated->export_serial);

    if (negotiated->client_id != client->id || negotiated->export_serial >= server->next_serial ||
        (server->tls_creds != NULL && !client->permitted))
        return -EPROTO;
    if (nbd != NULL && (negotiated->contexts & ~nbd->contexts) != 0)
        return -EPROTO;
    client->negotiated = *negotiated;
    if (server->tls_creds == NULL)
        negotiator_end(TAKE_PTR(client->negotiator));
    if (!admit(client)) {
        nbd_client_move(client, &server->admitted);
        nbd_lobby_look_again(client, NBD_FULL_WAIT_MS);
    }
    return 0;
}
