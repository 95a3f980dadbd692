/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clients that no negotiator has. The monitor sends them the greeting, which is the same for everybody, and waits
 * until a whole first message has come (NBD proto.md: flags, and an option's header, for which no client needs an
 * answer): whoever says less costs a descriptor and no process. Who has said so much goes to a negotiator; peers take
 * turns, and of one peer the one that waits longest and the one that came last: a crowd that was there before does not
 * stand before everybody who comes.
 *
 * When places run out, those who have had their share of time give way. One that gives its negotiator to others keeps
 * its connection until its time is over or its place is needed: who is dropped comes back at once, and costs a process
 * again.
 *
 * May ask the kernel how much a client has sent. Must not receive a byte of it.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
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

#define LOBBY_MAX   4096 /* clients in the lobby; or a quarter of the monitor's descriptors */
#define RESERVE_MAX 64   /* descriptors that clients leave to everything else; or an eighth of all */
#define NS_PER_MS   1000000u

/* The time that a client has in any case, also when others want its place. */
#define SILENT_SHARE_MS     250
#define WAITING_SHARE_MS    2000
#define NEGOTIATOR_SHARE_MS 500

#define MOMENT_MS 700 /* that a client may wait while others are served in order */

/* Those that cost a process when they come back are closed so often, after the first few. */
#define CLOSE_INTERVAL_NS (UINT64_C(1000000000) / 4)
#define CLOSE_BURST_NS    (64 * CLOSE_INTERVAL_NS)

/* The client's flags, and the header of an option. */
#define FIRST_MESSAGE_BYTES ((int)(sizeof(uint32_t) + sizeof(struct nbd_option_header)))

static uint64_t ms_since(uint64_t then_ns)
{
    return (now_ns() - then_ns) / NS_PER_MS;
}

uint32_t nbd_client_time_left_ms(const struct nbd_client *client)
{
    uint64_t now = now_ns();

    if (client->deadline_ns == 0)
        return 0;
    return client->deadline_ns > now + NS_PER_MS ? (uint32_t)((client->deadline_ns - now) / NS_PER_MS) : 1;
}

/* Once more after each of its events, when libevent begins the whole time anew. False: out of memory. */
static bool watch(struct nbd_client *client)
{
    struct timeval tv = timeval_of_ms(nbd_client_time_left_ms(client));

    return event_add(client->event, client->deadline_ns != 0 ? &tv : NULL) == 0;
}

/* ---- Giving way ---- */

static bool had_its_share(const struct nbd_client *client, unsigned share_ms)
{
    return client != NULL && ms_since(client->moved_ns) >= share_ms;
}

void nbd_lobby_look_again(const struct nbd_client *client, unsigned share_ms)
{
    struct nbd_lobby *lobby = &client->server->lobby;
    struct timeval tv = timeval_of_ms(share_ms - MIN(ms_since(client->moved_ns), share_ms - 1));

    if (!evtimer_pending(lobby->timer, NULL))
        evtimer_add(lobby->timer, &tv);
}

/* Whoever has the least to lose. */
static bool make_place_in_lobby(struct nbd_server *server)
{
    const struct {
        struct nbd_client *oldest;
        unsigned share_ms;
        const char *reason;
    } candidates[] = {
        { TAILQ_FIRST(&server->lobby.spent.list), 0,
          "it did not get through its handshake, and others want its place" },
        { TAILQ_FIRST(&server->lobby.silent.list), SILENT_SHARE_MS, "it gives way to others: too many say nothing" },
        { TAILQ_FIRST(&server->lobby.waiting.list), WAITING_SHARE_MS, "it gives way to others: too many are waiting" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++) {
        if (had_its_share(candidates[i].oldest, candidates[i].share_ms)) {
            nbd_client_end(candidates[i].oldest, candidates[i].reason);
            return true;
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++) {
        if (candidates[i].oldest != NULL)
            nbd_lobby_look_again(candidates[i].oldest, candidates[i].share_ms);
    }
    return false;
}

static void make_places_in_lobby(struct nbd_server *server)
{
    while (!nbd_lobby_has_room(server) && make_place_in_lobby(server))
        ;
}

/* The time when one more may be closed; in the past: now. */
static uint64_t next_close_ns(struct nbd_lobby *lobby)
{
    uint64_t now = now_ns();
    uint64_t when = MAX(lobby->close_ns, now > CLOSE_BURST_NS ? now - CLOSE_BURST_NS : 0);

    lobby->close_ns = when + CLOSE_INTERVAL_NS;
    return when;
}

static void changed(evutil_socket_t fd, short what, void *arg);

static bool start_watching(struct nbd_client *client)
{
    /* An edge: each change of the connection is told once, whatever lies unread. */
    client->event = event_new(client->server->monitor->base, client->fd, EV_READ | EV_ET | EV_PERSIST, changed, client);
    return client->event != NULL && watch(client);
}

/* It stays connected until then, 0: until its place is wanted. */
static void keep(struct nbd_client *client, uint64_t deadline_ns)
{
    client->deadline_ns = deadline_ns;
    nbd_client_forget_proving(client);
    nbd_client_move(client, &client->server->lobby.spent);
    if (client->event == NULL ? !start_watching(client) : !watch(client))
        nbd_client_end(client, "out of memory");
}

/* Its negotiator goes to somebody else. */
static void spend(struct nbd_client *client)
{
    struct nbd_server *server = client->server;
    uint64_t close_ns = next_close_ns(&server->lobby);

    if (nbd_may_log(server))
        log_info(
            "NBD client %llu (%s): not done with its handshake after %llu ms, it gives way to others: all negotiators "
            "are busy",
            (unsigned long long)client->id, client->peer, (unsigned long long)ms_since(client->accepted_ns));
    negotiator_end(TAKE_PTR(client->negotiator));
    keep(client, client->deadline_ns != 0 ? MAX(client->deadline_ns, close_ns) : 0);
}

/* For those that wait, when all negotiators that there may be are busy. */
static void make_way_for_waiting_ones(struct nbd_server *server)
{
    struct nbd_client *oldest;

    while (negotiator_pool_wants_way(&server->pool, server->lobby.waiting.count) &&
           (oldest = TAILQ_FIRST(&server->handshaking.list)) != NULL) {
        if (!had_its_share(oldest, NEGOTIATOR_SHARE_MS)) {
            nbd_lobby_look_again(oldest, NEGOTIATOR_SHARE_MS);
            return;
        }
        spend(oldest);
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
    client->from->last_turn = ++server->lobby.turns;
    nbd_client_move(client, &server->handshaking);
}

/* Whether a client is to be served before another one that began to wait earlier. */
static bool goes_before(const struct nbd_client *client, const struct nbd_client *earlier)
{
    if (client->from->last_turn != earlier->from->last_turn)
        return client->from->last_turn < earlier->from->last_turn;
    return ms_since(earlier->moved_ns) > MOMENT_MS;
}

/* The next one to get a negotiator. NULL: nobody waits. */
static struct nbd_client *choose(const struct nbd_lobby *lobby)
{
    struct nbd_client *best = NULL;
    struct nbd_client *client;

    TAILQ_FOREACH (client, &lobby->waiting.list, link) {
        if (best == NULL || goes_before(client, best))
            best = client;
    }
    return best;
}

/* While the server is full nobody is told that he is in. A client that comes right after another left waits for it. */
static void turn_away_waiting_ones(struct nbd_server *server)
{
    struct nbd_client *oldest;

    while ((oldest = TAILQ_FIRST(&server->lobby.waiting.list)) != NULL && had_its_share(oldest, NBD_FULL_WAIT_MS))
        nbd_client_turn_away(oldest, "turned away: as many are connected as max-connections allows");
    if (oldest != NULL)
        nbd_lobby_look_again(oldest, NBD_FULL_WAIT_MS);
}

void nbd_lobby_serve(struct nbd_server *server)
{
    struct nbd_client *client;

    nbd_admission_serve(server);
    while (!nbd_server_is_full(server) && negotiator_available(&server->pool) &&
           (client = choose(&server->lobby)) != NULL)
        give_to_negotiator(client);
    if (nbd_server_is_full(server))
        turn_away_waiting_ones(server);
    else
        make_way_for_waiting_ones(server);
    make_places_in_lobby(server);
    nbd_server_update_accepting(server);
}

static void look(evutil_socket_t fd, short what, void *arg)
{
    nbd_lobby_serve(arg);
}

void nbd_lobby_wake(struct nbd_server *server)
{
    static const struct timeval now = { 0 };

    if (server->state != NBD_SERVER_RUNNING)
        return;
    if (!nbd_server_is_full(server))
        evtimer_del(server->full_timer);
    evtimer_add(server->lobby.timer, &now);
}

/* ---- The first message ---- */

/* Nobody is there to read an answer. One that only sends no more (which is all that TCP's FIN says) may still read. */
static bool has_hung_up(const struct nbd_client *client, short events)
{
    struct pollfd pfd = { .fd = client->fd, .events = events };

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLHUP | POLLERR | events)) != 0;
}

/* Where the kernel cannot tell, a negotiator finds out. */
static bool has_said_enough(const struct nbd_client *client)
{
    int pending = 0;

    return ioctl(client->fd, FIONREAD, &pending) < 0 || pending >= FIRST_MESSAGE_BYTES;
}

void nbd_lobby_dismiss(struct nbd_client *client, const char *reason)
{
    struct nbd_server *server = client->server;
    uint64_t close_ns = next_close_ns(&server->lobby);

    if (close_ns <= now_ns() || has_hung_up(client, POLLRDHUP)) {
        nbd_client_end(client, reason);
        return;
    }
    if (nbd_may_log(server))
        log_info("NBD client %llu (%s): %s; it is kept connected for a while", (unsigned long long)client->id,
                 client->peer, reason);
    if (client->negotiator != NULL)
        negotiator_end(TAKE_PTR(client->negotiator));
    keep(client, close_ns);
    make_places_in_lobby(server);
    nbd_server_update_accepting(server);
}

static void its_time_is_over(struct nbd_client *client)
{
    struct nbd_lobby *lobby = &client->server->lobby;

    if (client->group == &lobby->waiting)
        nbd_lobby_dismiss(client, "no negotiator was ready for it in time");
    else if (client->group == &lobby->silent)
        nbd_client_end(client, "the client did not finish the handshake in time: it said nothing, or no whole option");
    else
        nbd_client_end(client, NULL); /* the reason was told */
}

static void changed(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_client *client = arg;
    struct nbd_server *server = client->server;
    bool silent = client->group == &server->lobby.silent;
    bool speaks = silent && has_said_enough(client);
    bool mute = !speaks && client->group != &server->lobby.waiting; /* it has nothing to read */

    if ((what & EV_TIMEOUT) != 0)
        its_time_is_over(client);
    else if (has_hung_up(client, mute ? POLLRDHUP : 0))
        nbd_client_end(client, NULL);
    else if (!watch(client))
        nbd_client_end(client, "out of memory");
    else if (speaks) {
        nbd_client_move(client, &server->lobby.waiting);
        nbd_lobby_serve(server);
    }
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

    if (client->fd >= server->lobby.fd_max) {
        nbd_server_rest(server, "too few descriptors are left (LimitNOFILE=, ulimit -n)", -EMFILE);
        nbd_client_turn_away(client, "turned away: the descriptors that are left are not for clients");
        return;
    }
    if (server->handshake_max_ms != 0)
        client->deadline_ns = client->accepted_ns + (uint64_t)server->handshake_max_ms * NS_PER_MS;
    if (!greet(client)) {
        nbd_client_end(client, NULL);
        return;
    }
    if (!start_watching(client)) {
        nbd_server_rest(server, "cannot take a client", -ENOMEM);
        nbd_client_end(client, "out of memory");
        return;
    }
    make_places_in_lobby(server);
}

bool nbd_lobby_has_descriptors(const struct nbd_server *server)
{
    _cleanup_close_ int next = server->listeners.count > 0 ? fcntl(server->listeners.fds[0], F_DUPFD_CLOEXEC, 0) : -1;

    return next >= 0 && next < server->lobby.fd_max;
}

unsigned nbd_lobby_count(const struct nbd_server *server)
{
    return server->lobby.silent.count + server->lobby.waiting.count + server->lobby.spent.count;
}

bool nbd_lobby_has_room(const struct nbd_server *server)
{
    return nbd_lobby_count(server) < server->lobby.max;
}

/* ---- Start and end ---- */

void nbd_lobby_open(struct nbd_server *server)
{
    struct nbd_lobby *lobby = &server->lobby;
    int fds = (int)limits_descriptors();

    lobby->fd_max = fds - MIN(fds / 8, RESERVE_MAX);
    lobby->max = (unsigned)MAX(1, MIN(fds / 4, LOBBY_MAX));
}

int nbd_lobby_init(struct nbd_server *server, struct error *err)
{
    TAILQ_INIT(&server->lobby.silent.list);
    TAILQ_INIT(&server->lobby.waiting.list);
    TAILQ_INIT(&server->lobby.spent.list);
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
