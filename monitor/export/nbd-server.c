/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: see nbd-server.h. Handles listening sockets and connected ones; no byte of a client is ever read
 * here.
 */
#include "monitor/export/nbd-server.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "monitor/export/nbd-private.h"
#include "monitor/graph/objects.h"

#define ACCEPT_BATCH          16   /* clients per event, so that nobody else waits long */
#define REST_MS               200  /* when descriptors or memory have run out */
#define NBD_FULL_WAIT_MS      500  /* for a client over the limit, before it is turned away */
#define FULL_BATCH            1024 /* of them at a time */
#define LOG_LINES_MAX         50
#define HANDSHAKE_SECONDS_MAX (UINT32_MAX / 1000 - 1) /* 49 days; what is longer makes no difference */
#define LOG_WINDOW_NS         UINT64_C(10000000000)

/* ---- Accepting ---- */

bool nbd_may_log(struct nbd_server *server)
{
    struct nbd_log_limit *limit = &server->log_limit;
    uint64_t now = now_ns();

    if (now - limit->window_ns >= LOG_WINDOW_NS) {
        if (limit->suppressed > 0)
            log_warning("NBD server: %u messages about clients and negotiators were suppressed", limit->suppressed);
        *limit = (struct nbd_log_limit){ .window_ns = now };
    }
    if (limit->lines < LOG_LINES_MAX) {
        limit->lines++;
        return true;
    }
    limit->suppressed++;
    return false;
}

static bool may_accept(const struct nbd_server *server)
{
    return server->state == NBD_SERVER_RUNNING && server->monitor->serving && nbd_lobby_has_room(server) &&
           !evtimer_pending(server->rest_timer, NULL) && !evtimer_pending(server->full_timer, NULL);
}

void nbd_server_update_accepting(struct nbd_server *server)
{
    bool accepting = may_accept(server);

    if (accepting == server->accepting)
        return;
    server->accepting = accepting;
    for (unsigned i = 0; i < server->listeners.count; i++) {
        if (accepting)
            event_add(server->accept_events[i], NULL);
        else
            event_del(server->accept_events[i]);
    }
}

void nbd_server_serve(struct nbd_server *server)
{
    nbd_server_update_accepting(server);
}

void nbd_server_rest(struct nbd_server *server, const char *what, int r)
{
    const struct timeval tv = { .tv_usec = REST_MS * 1000 };

    if (nbd_may_log(server))
        log_error("NBD server: %s: %s; new clients have to wait", what, strerror(-r));
    evtimer_add(server->rest_timer, &tv);
}

static void rest_is_over(evutil_socket_t fd, short what, void *arg)
{
    nbd_server_update_accepting(arg);
}

int nbd_server_current_directory(struct nbd_server *server, struct error *err)
{
    if (server->directory_fd >= 0)
        return 0;
    return nbd_directory_make(&server->exports, server->export_count, &server->directory_fd, err);
}

void nbd_server_directory_changed(struct nbd_server *server)
{
    close_fd(&server->directory_fd);
}

static void leave_group(struct nbd_client *client)
{
    if (client->group == NULL)
        return;
    TAILQ_REMOVE(&client->group->list, client, link);
    client->group->count--;
    client->group = NULL;
}

void nbd_client_move(struct nbd_client *client, struct nbd_client_group *group)
{
    leave_group(client);
    TAILQ_INSERT_TAIL(&group->list, client, link);
    group->count++;
    client->group = group;
    client->moved_ns = now_ns();
}

/* Owns fd. */
static struct nbd_client *client_new(struct nbd_server *server, int fd)
{
    struct nbd_client *client = calloc(1, sizeof(*client));

    if (client == NULL || (client->from = nbd_peer_ref(&server->peers, fd)) == NULL) {
        free(client);
        socket_close_client(&fd);
        return NULL;
    }
    nbd_widen_unix_socket(fd);
    client->server = server;
    client->id = server->next_client_id++;
    client->fd = fd;
    client->accepted_ns = now_ns();
    socket_peer_name(fd, client->peer, sizeof(client->peer));
    nbd_client_move(client, &server->lobby.silent);
    server->connections++;
    return client;
}

static void free_client(struct nbd_client *client)
{
    leave_group(client);
    if (client->event != NULL)
        event_free(client->event);
    nbd_client_forget_proving(client);
    nbd_peer_unref(client->from);
    socket_close_client(&client->fd);
    free(client);
}

/* ---- max-connections ---- */

/* A client that comes right after another one left gets the place that is about to become free. */
static void wait_for_a_place(struct nbd_server *server)
{
    const struct timeval tv = { .tv_usec = NBD_FULL_WAIT_MS * 1000 };

    evtimer_add(server->full_timer, &tv);
    nbd_server_update_accepting(server);
    nbd_exports_probe(server);
}

/* Nobody is left waiting for longer than that: a connection that is closed says more than one that is not served. */
static void turn_away(struct nbd_server *server, int listen_fd)
{
    char peer[NBD_PEER_MAX];

    for (unsigned i = 0; i < FULL_BATCH; i++) {
        int fd = socket_accept(&server->listeners, listen_fd);

        if (fd == -EAGAIN)
            break;
        if (fd < 0)
            continue;
        server->turned_away_total++;
        if (nbd_may_log(server)) {
            socket_peer_name(fd, peer, sizeof(peer));
            log_warning("NBD client (%s) turned away: %u are connected, which is max-connections", peer,
                        server->established);
        }
        socket_close_client(&fd);
    }
}

static void still_full(evutil_socket_t fd, short what, void *arg)
{
    struct nbd_server *server = arg;

    for (unsigned i = 0; nbd_server_is_full(server) && i < server->listeners.count; i++)
        turn_away(server, server->listeners.fds[i]);
    nbd_server_update_accepting(server);
}

/* ---- Taking clients ---- */

/* Owns fd. */
static void take_client(struct nbd_server *server, int fd)
{
    struct nbd_client *client = client_new(server, fd);

    if (client == NULL) {
        nbd_server_rest(server, "cannot take a client", -ENOMEM);
        return;
    }
    log_debug("NBD client %llu (%s) connected", (unsigned long long)client->id, client->peer);
    nbd_lobby_enter(client);
}

static void accept_ready(evutil_socket_t listen_fd, short what, void *arg)
{
    struct nbd_server *server = arg;

    for (unsigned i = 0; i < ACCEPT_BATCH && may_accept(server); i++) {
        int fd;

        if (nbd_server_is_full(server)) {
            wait_for_a_place(server);
            return;
        }
        fd = socket_accept(&server->listeners, (int)listen_fd);
        if (fd == -EAGAIN)
            break;
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM)
            nbd_server_rest(server, "cannot accept a client", fd);
        if (fd >= 0)
            take_client(server, fd);
    }
    nbd_server_update_accepting(server);
}

/* ---- Clients ---- */

void nbd_client_turn_away(struct nbd_client *client, const char *reason)
{
    client->server->turned_away_total++;
    nbd_client_end(client, reason);
}

void nbd_client_end(struct nbd_client *client, const char *reason)
{
    struct nbd_server *server = client->server;
    struct negotiator *negotiator = client->negotiator;
    struct nbd_export *nbd = client->export;

    if (reason == NULL)
        log_debug("NBD client %llu (%s) left", (unsigned long long)client->id, client->peer);
    else if (nbd_may_log(server))
        log_info("NBD client %llu (%s)%s%s: %s", (unsigned long long)client->id, client->peer,
                 client->export != NULL ? " of export " : "", client->export != NULL ? client->export->export->id : "",
                 reason);
    server->connections--;
    nbd_client_count(client, false);
    if (nbd != NULL)
        nbd_lobby_wake(server);
    free_client(client);
    if (negotiator != NULL)
        negotiator_end(negotiator);
    nbd_server_update_accepting(server);
    if (nbd != NULL)
        export_client_left(nbd->export);
}

/* ---- Start and stop ---- */

static void fail_reply(struct qmp_reply **owed, const struct error *err)
{
    struct qmp_reply *reply = TAKE_PTR(*owed);

    if (reply != NULL)
        qmp_reply_error(reply, err);
}

void nbd_server_forget_tls(struct nbd_server *server)
{
    object_unref(TAKE_PTR(server->tls_creds));
    free(TAKE_PTR(server->tls_creds_id));
    free(TAKE_PTR(server->tls_authz));
}

static int take_tls(struct nbd_server *server, const struct nbd_server_options *options, struct error *err)
{
    int r = 0;

    if (options->tls_creds == NULL)
        return 0;
    server->tls_creds_id = strdup(options->tls_creds);
    server->tls_authz = options->tls_authz != NULL ? strdup(options->tls_authz) : NULL;
    if (server->tls_creds_id == NULL || (options->tls_authz != NULL && server->tls_authz == NULL))
        r = error_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = tls_creds_get(server->monitor->objects, options->tls_creds, &server->tls_creds, err);
    if (r < 0)
        nbd_server_forget_tls(server);
    return r;
}

int nbd_server_new(struct monitor *monitor, struct nbd_server **ret_server, struct error *err)
{
    struct nbd_server *server = calloc(1, sizeof(*server));
    int r = 0;

    if (server == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    server->monitor = monitor;
    server->directory_fd = -1;
    server->next_client_id = 1;
    server->next_serial = 1;
    TAILQ_INIT(&server->handshaking.list);
    TAILQ_INIT(&server->admitted.list);
    TAILQ_INIT(&server->exports);
    nbd_peers_init(&server->peers);
    r = negotiator_pool_init(&server->pool, server, err);
    if (r == 0)
        r = nbd_lobby_init(server, err);
    server->rest_timer = evtimer_new(monitor->base, rest_is_over, server);
    server->full_timer = evtimer_new(monitor->base, still_full, server);
    if (r == 0 && (server->rest_timer == NULL || server->full_timer == NULL))
        r = error_set(err, -ENOMEM, "out of memory");
    if (r < 0) {
        nbd_server_free(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

static void stop_listening(struct nbd_server *server)
{
    server->accepting = false;
    for (unsigned i = 0; i < ARRAY_SIZE(server->accept_events); i++) {
        if (server->accept_events[i] != NULL)
            event_free(server->accept_events[i]);
        server->accept_events[i] = NULL;
    }
    socket_listeners_stop(&server->listeners);
    socket_listeners_done(&server->listeners);
}

/* Of those that are in no export's hands. */
static struct nbd_client *first_client(const struct nbd_server *server)
{
    const struct nbd_client_group *const groups[] = { &server->lobby.silent, &server->lobby.waiting,
                                                      &server->lobby.spent, &server->handshaking, &server->admitted };
    struct nbd_client *client = NULL;

    for (unsigned i = 0; i < ARRAY_SIZE(groups) && client == NULL; i++)
        client = TAILQ_FIRST(&groups[i]->list);
    return client;
}

static void drop_handshaking(struct nbd_server *server)
{
    struct nbd_client *client;

    while ((client = first_client(server)) != NULL)
        nbd_client_end(client, "the NBD server is being stopped");
}

void nbd_server_free(struct nbd_server *server)
{
    const struct error err = { .code = -ESHUTDOWN, .text = "the program ends" };
    struct nbd_client *client;

    if (server == NULL)
        return;
    fail_reply(&server->start_reply, &err);
    fail_reply(&server->stop_reply, &err);
    nbd_name_stop(server, &err);
    stop_listening(server);
    while ((client = first_client(server)) != NULL)
        free_client(client);
    nbd_lobby_done(server);
    negotiator_pool_done(&server->pool);
    nbd_server_forget_tls(server);
    if (server->rest_timer != NULL)
        event_free(server->rest_timer);
    if (server->full_timer != NULL)
        event_free(server->full_timer);
    close_fd(&server->directory_fd);
    free(server);
}

static int make_accept_events(struct nbd_server *server, struct error *err)
{
    for (unsigned i = 0; i < server->listeners.count; i++) {
        server->accept_events[i] =
            event_new(server->monitor->base, server->listeners.fds[i], EV_READ | EV_PERSIST, accept_ready, server);
        if (server->accept_events[i] == NULL)
            return error_set(err, -ENOMEM, "out of memory");
    }
    return 0;
}

static int check_start(const struct nbd_server *server, const struct nbd_server_options *options, struct error *err)
{
    int r = nbd_server_options_check(options, err);

    if (r == 0)
        r = monitor_check_running(server->monitor, err);
    if (r == 0 && server->state == NBD_SERVER_STOPPING)
        r = error_set(err, -EBUSY, "the NBD server is still being stopped");
    if (r == 0 && (server->state != NBD_SERVER_STOPPED || server->resolving != NULL))
        r = error_set(err, -EALREADY, "NBD server already running");
    return r;
}

void nbd_server_serve_on(struct nbd_server *server, const struct nbd_server_options *options,
                         struct socket_listeners *listeners, struct qmp_reply *reply)
{
    struct error err = { 0 };

    server->listeners = *listeners;
    if (make_accept_events(server, &err) < 0) {
        stop_listening(server);
        nbd_server_forget_tls(server);
        qmp_reply_error(reply, &err);
        return;
    }
    server->max_connections = options->max_connections;
    server->peer_max = options->max_connections_per_peer;
    server->handshake_max_ms = MIN(options->handshake_max_seconds, HANDSHAKE_SECONDS_MAX) * 1000;
    nbd_lobby_open(server);
    server->state = NBD_SERVER_STARTING;
    server->start_reply = reply;
    negotiator_pool_start(&server->pool);
}

void nbd_server_start(struct nbd_server *server, const struct nbd_server_options *options, enum socket_fd_source source,
                      struct qmp_reply *reply)
{
    struct socket_listeners listeners = { .count = 0 };
    struct error err = { 0 };
    int r = check_start(server, options, &err);
    bool by_name = r == 0 && socket_needs_resolver(&options->addr);

    if (r == 0)
        r = take_tls(server, options, &err);
    if (r == 0 && by_name)
        r = nbd_name_start(server, options, reply, &err);
    else if (r == 0)
        r = socket_listen(&options->addr, source, SOCKET_REFUSES_DESCRIPTORS, &listeners, &err);
    if (r == 0 && !by_name)
        nbd_server_serve_on(server, options, &listeners, reply);
    if (r == 0)
        return;
    if (server->state == NBD_SERVER_STOPPED && server->resolving == NULL)
        nbd_server_forget_tls(server);
    qmp_reply_error(reply, &err);
}

void nbd_server_pool_ready(struct nbd_server *server)
{
    if (server->state == NBD_SERVER_STARTING) {
        server->state = NBD_SERVER_RUNNING;
        qmp_reply_ok(TAKE_PTR(server->start_reply), NULL);
    }
    nbd_lobby_serve(server);
}

void nbd_server_close(struct nbd_server *server)
{
    const struct error err = { .code = -ECANCELED, .text = "the NBD server was stopped while it started" };

    stop_listening(server);
    drop_handshaking(server);
    negotiator_pool_stop(&server->pool);
    nbd_server_forget_tls(server);
    close_fd(&server->directory_fd);
    evtimer_del(server->rest_timer);
    evtimer_del(server->full_timer);
    nbd_lobby_close(server);
    if (server->state != NBD_SERVER_STOPPING)
        server->state = NBD_SERVER_STOPPED;
    fail_reply(&server->start_reply, &err);
}

void nbd_server_pool_failed(struct nbd_server *server, const struct error *err)
{
    struct error why = *err;

    if (server->state != NBD_SERVER_STARTING)
        return;
    error_prepend(&why, "the NBD server cannot start");
    fail_reply(&server->start_reply, &why);
    nbd_server_close(server);
}

static void exports_are_gone(void *opaque)
{
    struct nbd_server *server = opaque;
    struct qmp_reply *reply = TAKE_PTR(server->stop_reply);

    server->state = NBD_SERVER_STOPPED;
    qmp_reply_ok(reply, NULL);
}

void nbd_server_stop(struct nbd_server *server, struct qmp_reply *reply)
{
    struct error err = { 0 };

    if (server->state == NBD_SERVER_STOPPED || server->state == NBD_SERVER_STOPPING) {
        error_set(&err, -ENOTCONN, "NBD server not running");
        qmp_reply_error(reply, &err);
        return;
    }
    server->state = NBD_SERVER_STOPPING;
    server->stop_reply = reply;
    nbd_server_close(server);
    export_set_remove_all(server->monitor->exports, BLOCK_EXPORT_TYPE_NBD, exports_are_gone, server);
}

struct nbd_server_info nbd_server_get_info(const struct nbd_server *server)
{
    bool listening = server->state == NBD_SERVER_STARTING || server->state == NBD_SERVER_RUNNING;

    return (struct nbd_server_info){
        .listening = listening,
        .max_connections = listening ? server->max_connections : 0,
        .connections = server->connections,
        .handshaking = nbd_lobby_count(server) + server->handshaking.count + server->admitted.count,
        .connections_total = server->next_client_id - 1,
        .turned_away_total = server->turned_away_total,
    };
}
