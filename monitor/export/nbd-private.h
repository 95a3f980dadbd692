/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the NBD server share: clients, negotiators, the directory of exports. */
#ifndef BULKHEAD_MONITOR_EXPORT_NBD_PRIVATE_H
#define BULKHEAD_MONITOR_EXPORT_NBD_PRIVATE_H

#include <sys/queue.h>

#include "common/ipc/nbd-directory.h"
#include "monitor/export/export.h"
#include "monitor/export/nbd-server.h"
#include "monitor/monitor.h"

struct event;
struct nbd_client;
struct nbd_export;
struct object;
struct negotiator;

#define NBD_PEER_MAX 96

TAILQ_HEAD(nbd_client_list, nbd_client);

struct nbd_client_group {
    struct nbd_client_list list; /* in the order of coming here */
    unsigned count;
};

TAILQ_HEAD(nbd_export_list, nbd_export);
TAILQ_HEAD(negotiator_list, negotiator);

/* ---- Where clients come from (nbd-peers.c) ---- */

struct nbd_peer_key {
    uint32_t family; /* AF_* */
    uint8_t id[8];   /* uid, address, prefix, or cid; zeroes behind it */
};

TAILQ_HEAD(nbd_peer_list, nbd_peer);

struct nbd_peer {
    TAILQ_ENTRY(nbd_peer) link;
    struct nbd_peer_list *bucket;
    struct nbd_peer_key key;
    unsigned clients;     /* each holds a reference */
    unsigned established; /* of them, those that count */
    uint64_t last_turn;   /* when a client of it was given to a negotiator, in turns of the lobby; 0: none was */
};

struct nbd_peers {
    struct nbd_peer_list buckets[256];
};

void nbd_peers_init(struct nbd_peers *peers);

/* The peer of a connected socket; NULL: out of memory. */
struct nbd_peer *nbd_peer_ref(struct nbd_peers *peers, int fd);
void nbd_peer_unref(struct nbd_peer *peer);

/* ---- Clients (nbd-server.c) ---- */

/* A connected client: first in the lobby, then with a negotiator, then with an export, where it holds one of
 * max-connections. */
struct nbd_client {
    TAILQ_ENTRY(nbd_client) link;
    struct nbd_client_group *group; /* of the lobby, of the server, or of its export */
    struct nbd_server *server;
    uint64_t id;
    uint64_t accepted_ns;
    uint64_t moved_ns;    /* into its group */
    uint64_t deadline_ns; /* of its handshake; 0: none */
    struct nbd_peer *from;
    int fd;                               /* the monitor's; -1 once an export's worker has it */
    struct event *event;                  /* in the lobby: more bytes, its leaving, or the end of its time */
    struct negotiator *negotiator;        /* with TLS also while it is with an export */
    struct ipc_nbd_negotiated negotiated; /* once it is */
    struct nbd_export *export;
    bool counted;            /* among those that are established: not if its worker does not answer, or it has left */
    bool left;               /* as the worker says, which still has requests of it under way */
    struct nbd_proving *proving; /* TLS: whether it is let in is being found out */
    bool permitted;          /* TLS: it proved who it is, and is let in */
    char peer[NBD_PEER_MAX]; /* for the log */
};

/* Who waits for the list of those that are let in. */
struct nbd_proving {
    struct nbd_client *client; /* NULL: it left, or lost its negotiator */
    struct ipc_status_tls_peer peer;
};

/* Its negotiator is not there any more for the answer. */
void nbd_client_forget_proving(struct nbd_client *client);

/* Drop it: it is in no list and holds no slot afterwards. reason is for the log, NULL: it left in order. */
void nbd_client_end(struct nbd_client *client, const char *reason);

/* The same, counted: there is no place for it. */
void nbd_client_turn_away(struct nbd_client *client, const char *reason);

void nbd_client_move(struct nbd_client *client, struct nbd_client_group *group);

/* Of the time for its handshake, at least 1; 0: there is no limit. */
uint32_t nbd_client_time_left_ms(const struct nbd_client *client);

/* What a negotiator reports of its client. -EPROTO: it lies. Otherwise the client is on its way or has been dropped. */
int nbd_client_negotiated(struct nbd_client *client, const struct ipc_nbd_negotiated *negotiated);

/* Who it proved to be. -EPROTO: the negotiator lies. Otherwise it has a permit or has been dropped. */
int nbd_client_proved(struct nbd_client *client, const struct ipc_status_tls_peer *peer);

/* ---- Exports as the NBD server sees them (nbd-export.c) ---- */

struct nbd_export {
    TAILQ_ENTRY(nbd_export) link; /* in the server's list while clients can find it */
    struct export *export;
    struct nbd_server *server;
    uint64_t serial;
    char *name;
    char *description; /* NULL: none */
    bool listed;
    uint32_t contexts;   /* IPC_NBD_CONTEXT_* on offer */
    uint64_t size_bytes; /* as it is now */
    struct nbd_client_group clients;
    unsigned clients_max;     /* descriptors that its worker has room for */
    uint32_t max_connections; /* of the export; 0: no limit */
    /* Whether the worker takes what it is given. */
    struct event *probe_timer; /* pending: a probe is out */
    uint64_t probe_serial;     /* of the last one */
    bool probe_again;
    bool silent;         /* it did not answer in time */
    unsigned unanswered; /* clients that it got since its last answer */
};

/* Ask the worker for a sign of life, unless that has been done. */
void nbd_export_probe(struct nbd_export *nbd);

/* All that have clients. */
void nbd_exports_probe(struct nbd_server *server);

/* ---- The directory (nbd-directory.c) ---- */

/* A sealed memfd with all listed exports. The caller owns the descriptor. 0 or -errno. */
int nbd_directory_make(const struct nbd_export_list *exports, unsigned count, int *ret_fd, struct error *err);

/* ---- Negotiators (negotiators.c) ---- */

#define NEGOTIATORS_IDLE 4    /* ready for the next clients */
#define NEGOTIATORS_MAX  256  /* with clients or for them; or a sixteenth of the monitor's descriptors */
#define RELAYS_MAX       1000 /* where max-connections sets no limit */

struct negotiator_pool {
    struct nbd_server *server;
    struct negotiator_list list;
    unsigned starting;
    unsigned idle;
    unsigned busy;
    unsigned relaying; /* with TLS, as long as their clients are connected */
    unsigned max;
    unsigned relays_max; /* each has three descriptors of the monitor: three eighths of all, at most */
    unsigned failures;   /* in a row */
    bool running;
    struct event *retry_timer;
};

int negotiator_pool_init(struct negotiator_pool *pool, struct nbd_server *server, struct error *err);
void negotiator_pool_done(struct negotiator_pool *pool); /* the workers are gone */

/* Keep some ready from now on. The first that is, or the reason why there is none, comes to nbd_server_pool_*(). */
void negotiator_pool_start(struct negotiator_pool *pool);
/* Kill all. Their clients must have been ended before. */
void negotiator_pool_stop(struct negotiator_pool *pool);

bool negotiator_available(const struct negotiator_pool *pool);

/* As many as are wanted ready; for use after one has lost its client. */
void negotiator_pool_refill(struct negotiator_pool *pool);

/* Whether so many clients wait that there would have to be more than there may be. */
bool negotiator_pool_wants_way(const struct negotiator_pool *pool, unsigned waiting);

/* What a negotiator gets along with a client: the directory, and with TLS credentials and signer. Borrowed. */
#define NEGOTIATOR_FDS_MAX 3

/*
 * Give a client to an idle negotiator. 0, or -errno: try again with another one, as long as there is any.
 */
int negotiator_give(struct negotiator_pool *pool, struct nbd_client *client, const int fds[NEGOTIATOR_FDS_MAX]);

/* TLS: the client is let in. 0 or -errno of worker_send(). */
int negotiator_permit(struct negotiator *negotiator);

/* TLS: relay to fd (borrowed) until the client is ended. 0 or -errno of worker_send(). */
int negotiator_relay(struct negotiator *negotiator, int fd);

/* Its client is ended: the process has nothing to live for. */
void negotiator_end(struct negotiator *negotiator);

/* ---- Clients that no negotiator has yet (nbd-lobby.c) ---- */

struct nbd_lobby {
    struct nbd_client_group silent;  /* have been greeted, and have not said a whole first message */
    struct nbd_client_group waiting; /* have, and wait for a negotiator */
    struct nbd_client_group spent;   /* had a negotiator, or waited for one in vain; see nbd_lobby_dismiss() */
    unsigned max;                    /* of them together */
    int fd_max;                      /* higher descriptors are not for clients */
    struct event *timer;             /* the time when the next one has to give way */
    uint64_t turns;                  /* clients that were given to negotiators */
    uint64_t close_ns;               /* when the next one that has cost a process may be closed */
};

int nbd_lobby_init(struct nbd_server *server, struct error *err);
void nbd_lobby_done(struct nbd_server *server);

/* The server starts: find out how many clients there is room for. */
void nbd_lobby_open(struct nbd_server *server);
void nbd_lobby_close(struct nbd_server *server);

/* A client that was just accepted and is in the group of silent ones. Afterwards it may be gone. */
void nbd_lobby_enter(struct nbd_client *client);

/*
 * The end of a client that has had a negotiator, or has waited for one in vain, and may come back for another: at once,
 * or after a while if there are many. Afterwards it may be gone.
 */
void nbd_lobby_dismiss(struct nbd_client *client, const char *reason);

/* A negotiator has become ready. */
void nbd_lobby_serve(struct nbd_server *server);

/* The same, soon: a place has become free. */
void nbd_lobby_wake(struct nbd_server *server);

/* Serve again when the client will have been in its group for so long. */
void nbd_lobby_look_again(const struct nbd_client *client, unsigned share_ms);

/* Whether the next descriptor is one that clients may have. */
bool nbd_lobby_has_descriptors(const struct nbd_server *server);

unsigned nbd_lobby_count(const struct nbd_server *server);
bool nbd_lobby_has_room(const struct nbd_server *server);

/* ---- Clients that are through their handshake (nbd-admission.c) ---- */

#define NBD_FULL_WAIT_MS 500 /* for a client over the limit, before it is turned away */

/* As many clients are with exports as may be. */
bool nbd_server_is_full(const struct nbd_server *server);

/* Whether it counts among the established ones. */
void nbd_client_count(struct nbd_client *client, bool counted);

/* A place may have become free, or the time of those that wait for one may be over. */
void nbd_admission_serve(struct nbd_server *server);

void nbd_widen_unix_socket(int fd);

/* ---- The server (nbd-server.c) ---- */

struct nbd_resolving;

enum nbd_server_state { NBD_SERVER_STOPPED, NBD_SERVER_STARTING, NBD_SERVER_RUNNING, NBD_SERVER_STOPPING };

/* Log lines and events that clients can cause: so many per window, the rest is counted. */
struct nbd_log_limit {
    uint64_t window_ns;
    unsigned lines;
    unsigned suppressed;
};

struct nbd_server {
    struct monitor *monitor;
    enum nbd_server_state state;
    struct socket_listeners listeners;
    struct event *accept_events[SOCKET_LISTENERS_MAX];
    bool accepting;
    struct event *rest_timer;  /* pending: not accepting, because descriptors ran out */
    struct event *full_timer;  /* pending: not accepting, in the hope that a client leaves */
    uint32_t max_connections;  /* 0: no limit */
    uint32_t handshake_max_ms; /* 0: no limit */
    unsigned connections;      /* in the lobby, in handshake, and established */
    unsigned established;      /* those that count against max_connections */
    uint32_t peer_max;         /* established ones of one peer; 0: no limit */
    struct nbd_peers peers;
    uint64_t next_client_id;    /* from 1 */
    uint64_t turned_away_total; /* there was no place for them */
    uint64_t next_serial;
    struct nbd_lobby lobby;
    struct nbd_client_group handshaking; /* with a negotiator */
    struct nbd_client_group admitted;    /* wait for a place */
    struct nbd_export_list exports;
    unsigned export_count;
    int directory_fd;         /* -1: to be made anew */
    struct object *tls_creds; /* in use for new clients; NULL: no TLS */
    char *tls_creds_id;       /* where newer ones may be found */
    char *tls_authz;          /* NULL: whoever has a certificate or key */
    struct negotiator_pool pool;
    struct nbd_resolving *resolving; /* the host name of nbd-server-start; NULL: none */
    struct qmp_reply *start_reply;
    struct qmp_reply *stop_reply;
    struct nbd_log_limit log_limit;
};

/* Put it into service on listeners, which it takes; reply is answered when a negotiator is ready, or with an error. */
void nbd_server_serve_on(struct nbd_server *server, const struct nbd_server_options *options,
                         struct socket_listeners *listeners, struct qmp_reply *reply);
void nbd_server_forget_tls(struct nbd_server *server);

/* nbd-name.c: have the host name of options resolved, then serve; reply is answered then. 0, or -errno and it is not. */
int nbd_name_start(struct nbd_server *server, const struct nbd_server_options *options, struct qmp_reply *reply,
                   struct error *err);
void nbd_name_stop(struct nbd_server *server, const struct error *err); /* the program ends, all workers are gone */

/* Whether one more line may be logged, or event sent, now. */
bool nbd_may_log(struct nbd_server *server);

/* Something changed that may allow or forbid to accept clients. */
void nbd_server_update_accepting(struct nbd_server *server);

/* The directory as of now is in directory_fd, or -errno. */
int nbd_server_current_directory(struct nbd_server *server, struct error *err);

/* Something has run out: accept nobody for a moment. */
void nbd_server_rest(struct nbd_server *server, const char *what, int r);

/* The exports on offer changed. */
void nbd_server_directory_changed(struct nbd_server *server);

void nbd_server_pool_ready(struct nbd_server *server);
void nbd_server_pool_failed(struct nbd_server *server, const struct error *err);

#endif
