/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clients that no negotiator has yet. The monitor sends them the greeting, which is the same for everybody, and
 * waits for their first byte: whoever says nothing costs a descriptor and no process. Who has spoken goes to a
 * negotiator, in the order of speaking. When places run out, those who have had their share of time give way, the
 * oldest first.
 *
 * May ask the kernel whether a client has sent something. Must not receive a byte of it.
 */
#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/net/nbd-protocol.h"
#include "monitor/export/nbd-private.h"
#include "monitor/graph/objects.h"
#include "monitor/startup/limits.h"

#define SILENT_MAX   4096 /* or a quarter of the monitor's descriptors */
#define WAITING_MAX  128  /* more wait in the sockets' backlog */
#define SHARE_MS     2000 /* of time that a client has in any case, also when others want its place */
#define RESERVE_MAX  64   /* descriptors that clients leave to everything else; or an eighth of all */
#define NS_PER_MS    1000000u

static uint64_t age_ms(const struct nbd_client *client)
{
    return (now_ns() - client->accepted_ns) / NS_PER_MS;
}

uint32_t nbd_client_time_left_ms(const struct nbd_client *client)
{
    uint32_t max_ms = client->server->handshake_max_ms;
    uint64_t age = age_ms(client);

    if (max_ms == 0)
        return 0;
    return age < max_ms ? (uint32_t)(max_ms - age) : 1;
}

/* ---- Giving way ---- */

static bool had_its_share(const struct nbd_client *client)
{
    return client != NULL && age_ms(client) >= SHARE_MS;
}

static void give_way(struct nbd_client *client, const char *what)
{
    char reason[128];

    snprintf(reason, sizeof(reason), "not done with its handshake after %llu ms, it gives way to others: %s",
             (unsigned long long)age_ms(client), what);
    nbd_client_end(client, reason);
}

/* Look again when the client will have had its share. */
static void look_again(const struct nbd_client *client)
{
    struct nbd_lobby *lobby = &client->server->lobby;
    struct timeval tv = timeval_of_ms((uint32_t)(SHARE_MS - MIN(age_ms(client), SHARE_MS - 1)));

    if (!evtimer_pending(lobby->timer, NULL))
        evtimer_add(lobby->timer, &tv);
}

bool nbd_lobby_make_way(struct nbd_server *server)
{
    struct nbd_client *candidates[] = { TAILQ_FIRST(&server->lobby.silent.list),
                                        TAILQ_FIRST(&server->handshaking.list) };

    for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++) {
        if (had_its_share(candidates[i])) {
            give_way(candidates[i], "as many are connected as max-connections allows");
            return true;
        }
    }
    return false;
}

static void make_way_for_silent_ones(struct nbd_server *server)
{
    struct nbd_client *oldest = TAILQ_FIRST(&server->lobby.silent.list);

    if (server->lobby.silent.count < server->lobby.silent_max)
        return;
    if (had_its_share(oldest))
        give_way(oldest, "too many say nothing");
    else
        look_again(oldest);
}

/* For those that have spoken, when all negotiators that there may be are busy. */
static void make_way_for_waiting_ones(struct nbd_server *server)
{
    struct nbd_client *oldest;

    while (negotiator_pool_wants_way(&server->pool, server->lobby.waiting.count) &&
           (oldest = TAILQ_FIRST(&server->handshaking.list)) != NULL) {
        if (!had_its_share(oldest)) {
            look_again(oldest);
            return;
        }
        give_way(oldest, "all negotiators are busy");
        negotiator_pool_refill(&server->pool);
    }
}

/* ---- On to a negotiator ---- */

/* Credentials that were made under the same id meanwhile are used from now on; those that were removed stay in use. */
static void refresh_creds(struct nbd_server *server)
{
    struct object *creds;

    if (tls_creds_get(server->monitor->objects, server->tls_creds_id, &creds, NULL) < 0)
        return;
    if (creds != server->tls_creds)
        log_info("NBD server: TLS credentials '%s' were replaced; new clients get the new ones", server->tls_creds_id);
    object_unref(server->tls_creds);
    server->tls_creds = creds;
}

static int grant_tls(struct nbd_server *server, struct tls_grant *ret_grant, struct error *err)
{
    if (server->tls_creds == NULL)
        return 0;
    refresh_creds(server);
    return tls_creds_grant(server->tls_creds, ret_grant, err);
}

/* It leaves the list of those that wait in any case. */
static void give_to_negotiator(struct nbd_client *client)
{
    struct nbd_server *server = client->server;
    struct tls_grant grant = { -1, -1 };
    struct error err = { 0 };
    int r = -EAGAIN;

    if (nbd_server_current_directory(server, &err) < 0) {
        nbd_server_rest(server, err.text, err.code);
        nbd_client_end(client, "there is no directory of exports for it");
        return;
    }
    if (grant_tls(server, &grant, &err) < 0) {
        nbd_client_end(client, err.text);
        return;
    }
    while (r < 0 && negotiator_available(&server->pool))
        r = negotiator_give(&server->pool, client,
                            (const int[]){ server->directory_fd, grant.credentials_fd, grant.signer_fd });
    close_fd(&grant.signer_fd);
    if (r < 0) {
        nbd_client_end(client, "no negotiator took it");
        return;
    }
    event_free(TAKE_PTR(client->event));
    nbd_client_move(client, &server->handshaking);
}

void nbd_lobby_serve(struct nbd_server *server)
{
    struct nbd_client *client;

    while ((client = TAILQ_FIRST(&server->lobby.waiting.list)) != NULL && negotiator_available(&server->pool))
        give_to_negotiator(client);
    make_way_for_waiting_ones(server);
    make_way_for_silent_ones(server);
    nbd_server_update_accepting(server);
}

static void look(evutil_socket_t fd, short what, void *arg)
{
    nbd_lobby_serve(arg);
}

/* ---- The first byte ---- */

/* Its socket is readable and yet has nothing: that is its end. Where the kernel cannot tell, a negotiator finds out. */
static bool has_left(const struct nbd_client *client)
{
    int pending = 0;

    return ioctl(client->fd, FIONREAD, &pending) == 0 && pending == 0;
}

/* Nobody is there to read an answer. One that only sends no more (which is all that TCP's FIN says) may still read. */
static bool has_hung_up(const struct nbd_client *client)
{
    struct pollfd pfd = { .fd = client->fd };

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLHUP | POLLERR)) != 0;
}

static void waited(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_client *client = arg;
    struct timeval tv = timeval_of_ms(nbd_client_time_left_ms(client));

    if ((what & EV_TIMEOUT) != 0)
        nbd_client_end(client, "no negotiator was ready for it in time");
    else if (has_hung_up(client))
        nbd_client_end(client, NULL);
    else if (client->server->handshake_max_ms != 0)
        event_add(client->event, &tv); /* libevent starts the whole time anew when an event comes */
}

/* Each change of the connection is told once. False: out of memory. */
static bool start_to_wait(struct nbd_client *client)
{
    struct event_base *base = client->server->monitor->base;
    struct timeval tv = timeval_of_ms(nbd_client_time_left_ms(client));

    event_assign(client->event, base, client->fd, EV_CLOSED | EV_ET | EV_PERSIST, waited, client);
    return event_add(client->event, client->server->handshake_max_ms != 0 ? &tv : NULL) == 0;
}

static void spoke(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_client *client = arg;
    struct nbd_server *server = client->server;

    if ((what & EV_TIMEOUT) != 0) {
        nbd_client_end(client, "the client did not finish the handshake in time: it said nothing");
        return;
    }
    if (has_left(client)) {
        nbd_client_end(client, NULL);
        return;
    }
    nbd_client_move(client, &server->lobby.waiting);
    if (start_to_wait(client))
        nbd_lobby_serve(server);
    else
        nbd_client_end(client, "out of memory");
}

static bool greet(const struct nbd_client *client)
{
    struct nbd_greeting greeting = nbd_greeting_make();

    /* A fresh socket has room for it. */
    return send(client->fd, &greeting, sizeof(greeting), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(greeting);
}

/* NBD proto.md, "Newstyle negotiation": the server speaks first, and says the same to everybody. */
void nbd_lobby_enter(struct nbd_client *client)
{
    struct nbd_server *server = client->server;
    struct timeval tv = timeval_of_ms(server->handshake_max_ms);

    if (client->fd >= server->lobby.fd_max) {
        nbd_server_rest(server, "too few descriptors are left (LimitNOFILE=, ulimit -n)", -EMFILE);
        nbd_client_turn_away(client, "turned away: the descriptors that are left are not for clients");
        return;
    }
    if (!greet(client)) {
        nbd_client_end(client, NULL);
        return;
    }
    client->event = event_new(server->monitor->base, client->fd, EV_READ, spoke, client);
    if (client->event == NULL || event_add(client->event, server->handshake_max_ms != 0 ? &tv : NULL) < 0) {
        nbd_server_rest(server, "cannot take a client", -ENOMEM);
        nbd_client_end(client, "out of memory");
        return;
    }
    make_way_for_silent_ones(server);
}

bool nbd_lobby_has_room(const struct nbd_server *server)
{
    return server->lobby.silent.count < server->lobby.silent_max && server->lobby.waiting.count < WAITING_MAX;
}

/* ---- Start and end ---- */

void nbd_lobby_open(struct nbd_server *server)
{
    struct nbd_lobby *lobby = &server->lobby;
    int fds = (int)limits_descriptors();

    lobby->fd_max = fds - MIN(fds / 8, RESERVE_MAX);
    lobby->silent_max = (unsigned)MAX(1, MIN(fds / 4, SILENT_MAX));
}

int nbd_lobby_init(struct nbd_server *server, struct error *err)
{
    TAILQ_INIT(&server->lobby.silent.list);
    TAILQ_INIT(&server->lobby.waiting.list);
    server->lobby.timer = evtimer_new(server->monitor->base, look, server);
    return server->lobby.timer == NULL ? error_set(err, -ENOMEM, "out of memory") : 0;
}

void nbd_lobby_close(struct nbd_server *server)
{
    evtimer_del(server->lobby.timer);
}

void nbd_lobby_done(struct nbd_server *server)
{
    if (server->lobby.timer != NULL)
        event_free(server->lobby.timer);
}
