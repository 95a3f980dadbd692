/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool of negotiators: processes that are spawned and locked down ahead of time, so that a client waits for
 * nothing. Each takes one client and ends. They face the network: any of them may be under somebody's control.
 */
#include <errno.h>
#include <event2/event.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/export/nbd-private.h"
#include "monitor/startup/limits.h"

#define RETRY_MIN_MS    100
#define RETRY_MAX_MS    10000
#define RETRY_DOUBLINGS 7
#define GRACE_MS        1000 /* beyond the handshake's limit, which the negotiator itself keeps */
#define EXIT_MAX_MS     1000 /* from its report to its end */

enum negotiator_state { NEGOTIATOR_STARTING, NEGOTIATOR_IDLE, NEGOTIATOR_BUSY, NEGOTIATOR_RELAYING, NEGOTIATOR_ENDING };

struct negotiator {
    TAILQ_ENTRY(negotiator) link;
    struct negotiator_pool *pool;
    struct worker_handle *worker;
    struct nbd_client *client; /* of a busy one */
    struct event *timer;       /* the limit of the handshake, as the monitor keeps it */
    enum negotiator_state state;
};

static unsigned *counter(struct negotiator_pool *pool, enum negotiator_state state)
{
    static unsigned dropped;
    unsigned *const counters[] = {
        [NEGOTIATOR_STARTING] = &pool->starting,
        [NEGOTIATOR_IDLE] = &pool->idle,
        [NEGOTIATOR_BUSY] = &pool->busy,
        [NEGOTIATOR_RELAYING] = &pool->relaying,
    };

    return state < ARRAY_SIZE(counters) ? counters[state] : &dropped;
}

static void set_state(struct negotiator *negotiator, enum negotiator_state state)
{
    struct negotiator_pool *pool = negotiator->pool;

    (*counter(pool, negotiator->state))--;
    (*counter(pool, state))++;
    negotiator->state = state;
}

/* ---- What a negotiator does ---- */

static void negotiator_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct negotiator *negotiator = opaque;

    if (negotiator->state != NEGOTIATOR_STARTING)
        return;
    set_state(negotiator, NEGOTIATOR_IDLE);
    nbd_server_pool_ready(negotiator->pool->server);
}

static void negotiator_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    struct negotiator *negotiator = opaque;

    nbd_server_pool_failed(negotiator->pool->server, err);
}

static int client_left(struct negotiator *negotiator, const struct ipc_status_client_gone *gone)
{
    if (negotiator->client->id != gone->client_id)
        return -EPROTO;
    if (gone->error)
        nbd_lobby_dismiss(negotiator->client, gone->text);
    else
        nbd_client_end(negotiator->client, NULL);
    return 0;
}

static int negotiator_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct negotiator *negotiator = opaque;
    int r;

    if (negotiator->client == NULL) /* it has reported already, or never had one */
        return negotiator->state == NEGOTIATOR_ENDING ? 0 : -EPROTO;
    if (negotiator->state == NEGOTIATOR_RELAYING)
        return -EPROTO;
    if (status->type == IPC_STATUS_TLS_PEER)
        r = nbd_client_proved(negotiator->client, &status->tls_peer);
    else if (status->type == IPC_STATUS_NEGOTIATED)
        r = nbd_client_negotiated(negotiator->client, &status->negotiated);
    else if (status->type == IPC_STATUS_CLIENT_GONE)
        r = client_left(negotiator, &status->client_gone);
    else
        return -EPROTO;
    if (r == 0 && negotiator->pool->failures > 0) { /* it works, whatever came before */
        negotiator->pool->failures = 0;
        evtimer_del(negotiator->pool->retry_timer);
        negotiator_pool_refill(negotiator->pool);
    }
    return r;
}

static void tell_of_death(struct negotiator *negotiator, const struct worker_exit *why)
{
    struct nbd_server *server = negotiator->pool->server;

    if (!nbd_may_log(server))
        return;
    log_error("an NBD negotiator, process %d, is gone: %s; %s", (int)worker_get_pid(negotiator->worker), why->text,
              negotiator->client != NULL ? "the client that it dealt with was disconnected" : "it had no client");
    export_send_worker_gone(server->monitor, negotiator->worker, NULL, why);
}

static void negotiator_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct negotiator *negotiator = opaque;
    struct negotiator_pool *pool = negotiator->pool;
    bool unused = negotiator->state == NEGOTIATOR_STARTING || negotiator->state == NEGOTIATOR_IDLE;

    /* A relay that ended of itself has nothing more to relay; its client's export will say so. */
    if (!why->expected && negotiator->state != NEGOTIATOR_ENDING &&
        !(negotiator->state == NEGOTIATOR_RELAYING && why->exit_status == 0)) {
        tell_of_death(negotiator, why);
        if (unused)
            pool->failures++;
    }
    if (negotiator->client != NULL && negotiator->state == NEGOTIATOR_RELAYING)
        negotiator->client->negotiator = NULL; /* the export's worker finds the stream closed, and tells */
    else if (negotiator->client != NULL)
        nbd_client_end(negotiator->client, "its negotiator died");
    set_state(negotiator, NEGOTIATOR_ENDING);
    TAILQ_REMOVE(&pool->list, negotiator, link);
    event_free(negotiator->timer);
    free(negotiator);
    negotiator_pool_refill(pool);
    nbd_server_update_accepting(pool->server);
}

static const struct worker_ops negotiator_ops = {
    .ready = negotiator_ready,
    .failed = negotiator_failed,
    .status = negotiator_status,
    .gone = negotiator_gone,
};

static void handshake_too_long(evutil_socket_t fd, short what, void *arg)
{
    struct negotiator *negotiator = arg;

    worker_kill(negotiator->worker, "it did not keep the time limit of the handshake");
    if (negotiator->client != NULL)
        nbd_client_end(negotiator->client, "the handshake took too long");
}

void negotiator_end(struct negotiator *negotiator)
{
    negotiator->client = NULL;
    event_del(negotiator->timer);
    set_state(negotiator, NEGOTIATOR_ENDING);
    worker_drain(negotiator->worker, EXIT_MAX_MS);
}

int negotiator_permit(struct negotiator *negotiator)
{
    struct ipc_tls_permit message = { .client_id = negotiator->client->id };

    return worker_send(negotiator->worker, IPC_TLS_PERMIT, &message, sizeof(message), NULL, 0);
}

int negotiator_relay(struct negotiator *negotiator, int fd)
{
    struct ipc_tls_relay message = { .client_id = negotiator->client->id };
    int r = worker_send(negotiator->worker, IPC_TLS_RELAY, &message, sizeof(message), &fd, 1);

    if (r < 0)
        return r;
    event_del(negotiator->timer);
    set_state(negotiator, NEGOTIATOR_RELAYING);
    negotiator_pool_refill(negotiator->pool);
    return 0;
}

/* ---- The pool ---- */

static uint32_t role_of(const struct negotiator_pool *pool)
{
    return pool->server->tls_creds != NULL ? IPC_ROLE_NBD_NEGOTIATOR_TLS : IPC_ROLE_NBD_NEGOTIATOR;
}

static int spawn_one(struct negotiator_pool *pool, struct error *err)
{
    const struct ipc_boot boot = { .role = role_of(pool) };
    struct monitor *monitor = pool->server->monitor;
    struct negotiator *negotiator = calloc(1, sizeof(*negotiator));
    int r;

    if (negotiator == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    negotiator->pool = pool;
    negotiator->state = NEGOTIATOR_STARTING;
    negotiator->timer = evtimer_new(monitor->base, handshake_too_long, negotiator);
    if (negotiator->timer == NULL)
        r = error_set(err, -ENOMEM, "out of memory");
    else
        r = worker_spawn(monitor->workers, &boot, NULL, &negotiator_ops, negotiator, &negotiator->worker, err);
    if (r < 0) {
        if (negotiator->timer != NULL)
            event_free(negotiator->timer);
        free(negotiator);
        return r;
    }
    pool->starting++;
    TAILQ_INSERT_TAIL(&pool->list, negotiator, link);
    return 0;
}

static void retry_later(struct negotiator_pool *pool)
{
    /* The idle ones that died together count as one. */
    unsigned rounds = pool->failures / NEGOTIATORS_IDLE;
    unsigned ms = MIN(RETRY_MIN_MS << MIN(rounds, RETRY_DOUBLINGS), RETRY_MAX_MS);
    const struct timeval tv = timeval_of_ms(ms);

    evtimer_add(pool->retry_timer, &tv);
}

/* After a failure one is tried at a time, at growing intervals, until one has served a client. */
void negotiator_pool_refill(struct negotiator_pool *pool)
{
    unsigned wanted = pool->failures > 0 ? 1 : NEGOTIATORS_IDLE;
    struct error err = { 0 };

    if (!pool->running || evtimer_pending(pool->retry_timer, NULL))
        return;
    if (pool->failures > 0 && pool->idle + pool->starting < wanted) {
        retry_later(pool);
        return;
    }
    while (pool->idle + pool->starting < wanted && pool->idle + pool->starting + pool->busy < pool->max) {
        if (!nbd_lobby_has_descriptors(pool->server)) { /* those that are left are for everything else */
            retry_later(pool);
            return;
        }
        if (spawn_one(pool, &err) < 0) {
            if (nbd_may_log(pool->server))
                log_error("cannot start an NBD negotiator: %s", err.text);
            pool->failures++;
            retry_later(pool);
            nbd_server_pool_failed(pool->server, &err);
            return;
        }
    }
}

static void retry(evutil_socket_t fd, short what, void *arg)
{
    struct negotiator_pool *pool = arg;
    struct error err = { 0 };

    if (!pool->running || pool->idle + pool->starting > 0)
        return;
    if (pool->failures == 0) { /* descriptors had run out */
        negotiator_pool_refill(pool);
        return;
    }
    if (spawn_one(pool, &err) < 0) {
        pool->failures++;
        retry_later(pool);
    }
}

int negotiator_pool_init(struct negotiator_pool *pool, struct nbd_server *server, struct error *err)
{
    pool->server = server;
    TAILQ_INIT(&pool->list);
    pool->retry_timer = evtimer_new(server->monitor->base, retry, pool);
    return pool->retry_timer == NULL ? error_set(err, -ENOMEM, "out of memory") : 0;
}

void negotiator_pool_done(struct negotiator_pool *pool)
{
    struct negotiator *negotiator;

    while ((negotiator = TAILQ_FIRST(&pool->list)) != NULL) {
        TAILQ_REMOVE(&pool->list, negotiator, link);
        event_free(negotiator->timer);
        free(negotiator);
    }
    if (pool->retry_timer != NULL)
        event_free(pool->retry_timer);
}

void negotiator_pool_start(struct negotiator_pool *pool)
{
    unsigned share = limits_descriptors() / 16; /* each takes a few of them here */

    pool->running = true;
    pool->failures = 0;
    pool->max = MAX(NEGOTIATORS_IDLE, MIN(NEGOTIATORS_MAX, share));
    pool->relays_max = limits_descriptors() / 8;
    if (pool->server->max_connections == 0)
        pool->relays_max = MIN(pool->relays_max, RELAYS_MAX);
    evtimer_del(pool->retry_timer);
    negotiator_pool_refill(pool);
}

void negotiator_pool_stop(struct negotiator_pool *pool)
{
    struct negotiator *negotiator;

    pool->running = false;
    evtimer_del(pool->retry_timer);
    TAILQ_FOREACH (negotiator, &pool->list, link) {
        /* Relays end with their clients, which the exports are about to end. */
        if (negotiator->state == NEGOTIATOR_ENDING || negotiator->state == NEGOTIATOR_RELAYING)
            continue;
        set_state(negotiator, NEGOTIATOR_ENDING);
        worker_kill(negotiator->worker, "the NBD server was stopped");
    }
}

bool negotiator_available(const struct negotiator_pool *pool)
{
    return pool->idle > 0;
}

bool negotiator_pool_wants_way(const struct negotiator_pool *pool, unsigned waiting)
{
    unsigned coming = pool->idle + pool->starting;

    return pool->running && coming + pool->busy >= pool->max && coming < MIN(waiting, NEGOTIATORS_IDLE);
}

int negotiator_give(struct negotiator_pool *pool, struct nbd_client *client, const int fds[NEGOTIATOR_FDS_MAX])
{
    uint32_t left_ms = nbd_client_time_left_ms(client);
    const struct timeval limit = timeval_of_ms((uint64_t)left_ms + GRACE_MS);
    struct ipc_negotiate message = { .client_id = client->id, .handshake_max_ms = left_ms };
    const int all_fds[] = { client->fd, fds[0], fds[1], fds[2] };
    bool tls = role_of(pool) == IPC_ROLE_NBD_NEGOTIATOR_TLS;
    struct negotiator *negotiator;
    int r;

    TAILQ_FOREACH (negotiator, &pool->list, link) {
        if (negotiator->state == NEGOTIATOR_IDLE)
            break;
    }
    if (negotiator == NULL)
        return -EAGAIN;
    r = worker_send(negotiator->worker, tls ? IPC_NEGOTIATE_TLS : IPC_NEGOTIATE, &message, sizeof(message), all_fds,
                    tls ? 4 : 2);
    if (r < 0) { /* it has died, which will be heard of */
        set_state(negotiator, NEGOTIATOR_ENDING);
        worker_kill(negotiator->worker, "it did not take a client");
        return r;
    }
    set_state(negotiator, NEGOTIATOR_BUSY);
    negotiator->client = client;
    client->negotiator = negotiator;
    if (left_ms != 0)
        evtimer_add(negotiator->timer, &limit);
    negotiator_pool_refill(pool);
    return 0;
}
