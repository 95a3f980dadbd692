/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chardevs and the monitors on them. Who can connect to a chardev's socket controls the whole program: a unix socket is
 * made with the umask's permissions, and its path is worth a private directory. Nothing of a client is read here.
 */
#include "monitor/qmp/chardev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "common/base/log.h"
#include "monitor/qmp/socket.h"

/* How long a listener rests when there are no descriptors left for its clients. */
#define ACCEPT_PAUSE_MS 100

/* Clients accepted per turn of the loop. */
#define ACCEPTS_PER_TURN 8

/* How many clients of one chardev may be connected before its monitor exists. */
#define CHARDEV_WAITING_MAX 4

struct chardev_client {
    struct chardev *chardev;
    struct qmp_session *session;
    struct chardev_client *next;
};

struct chardev {
    struct chardev_set *set;
    char *id;
    enum chardev_backend backend;
    struct socket_listeners listeners;
    struct event *accept_events[SOCKET_LISTENERS_MAX];
    struct event *pause_event;        /* listens again after a pause */
    int waiting[CHARDEV_WAITING_MAX]; /* connected, without a monitor */
    unsigned waiting_count;

    bool has_monitor;
    bool pretty;
    unsigned clients_total;
    struct chardev_client *clients;
};

struct chardev_set {
    struct event_base *base;
    struct qmp *qmp;
    struct chardev *chardevs[CHARDEVS_MAX];
    unsigned count;
};

/* ---- Clients ---- */

static void remove_client(struct chardev_client *client)
{
    struct chardev_client **link = &client->chardev->clients;

    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    free(client);
}

static void on_client_gone(void *opaque)
{
    remove_client(opaque);
}

/* A client's label for the log, in the caller's buffer. */
static void name_client(struct chardev *chardev, int fd, char *label, size_t size)
{
    char peer[100] = "stdio";

    if (chardev->backend == CHARDEV_SOCKET)
        socket_peer_name(fd, peer, sizeof(peer));
    snprintf(label, size, "QMP client %u of chardev '%.20s' (%s)", ++chardev->clients_total, chardev->id, peer);
}

/* Give a client, whose descriptors are taken over, its session. */
static int serve_client(struct chardev *chardev, int in, int out, struct error *err)
{
    struct chardev_client *client = calloc(1, sizeof(*client));
    char label[200];
    struct qmp_session_options options = { .label = label,
                                           .pretty = chardev->pretty,
                                           .stdio = chardev->backend == CHARDEV_STDIO,
                                           .closed = on_client_gone,
                                           .opaque = client };
    int r;

    name_client(chardev, in, label, sizeof(label));
    if (client == NULL) {
        if (!options.stdio)
            socket_close_client(&in);
        return error_set(err, -ENOMEM, "%s: out of memory", label);
    }
    r = qmp_session_new(chardev->set->qmp, in, out, &options, &client->session, err);
    if (r < 0) {
        free(client);
        return r;
    }
    client->chardev = chardev;
    client->next = chardev->clients;
    chardev->clients = client;
    return 0;
}

/* ---- Listening ---- */

static void watch_listeners(struct chardev *chardev, bool wanted)
{
    for (unsigned i = 0; i < chardev->listeners.count; i++) {
        if (wanted)
            event_add(chardev->accept_events[i], NULL);
        else
            event_del(chardev->accept_events[i]);
    }
}

/* Without a monitor the first clients wait for it, the others in the socket's queue. */
static bool may_accept(const struct chardev *chardev)
{
    return chardev->has_monitor || chardev->waiting_count < CHARDEV_WAITING_MAX;
}

static void take_client(struct chardev *chardev, int fd)
{
    struct error err;

    if (!chardev->has_monitor) {
        chardev->waiting[chardev->waiting_count++] = fd;
        return;
    }
    if (serve_client(chardev, fd, fd, &err) < 0)
        log_warning("%s", err.text);
}

static void pause_listening(struct chardev *chardev, int code)
{
    static const struct timeval pause = { 0, ACCEPT_PAUSE_MS * 1000 };

    log_warning("chardev '%s': cannot accept a client: %s", chardev->id, strerror(-code));
    watch_listeners(chardev, false);
    event_add(chardev->pause_event, &pause);
}

static void on_connection(evutil_socket_t listen_fd, short what, void *arg)
{
    struct chardev *chardev = arg;

    for (unsigned i = 0; i < ACCEPTS_PER_TURN && may_accept(chardev); i++) {
        int fd = socket_accept(&chardev->listeners, listen_fd);

        if (fd >= 0) {
            take_client(chardev, fd);
        } else {
            if (fd != -EAGAIN)
                pause_listening(chardev, fd);
            return;
        }
    }
    if (!may_accept(chardev))
        watch_listeners(chardev, false);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    struct chardev *chardev = arg;

    if (may_accept(chardev))
        watch_listeners(chardev, true);
}

static int start_listening(struct chardev *chardev, const struct socket_address *addr, struct error *err)
{
    struct event_base *base = chardev->set->base;
    int r = socket_listen(addr, SOCKET_FD_INHERITED, SOCKET_REFUSES_DESCRIPTORS, &chardev->listeners, err);

    if (r < 0)
        return r;
    chardev->pause_event = evtimer_new(base, on_pause_over, chardev);
    if (chardev->pause_event == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < chardev->listeners.count; i++) {
        chardev->accept_events[i] =
            event_new(base, chardev->listeners.fds[i], EV_READ | EV_PERSIST, on_connection, chardev);
        if (chardev->accept_events[i] == NULL)
            return error_set(err, -ENOMEM, "out of memory");
    }
    watch_listeners(chardev, true);
    return 0;
}

/* Run the loop until a client has come, or the loop is told to end. */
static int wait_for_client(struct chardev *chardev, struct error *err)
{
    struct event_base *base = chardev->set->base;

    log_info("chardev '%s': waiting for a client to connect (wait=off goes on without)", chardev->id);
    while (chardev->waiting_count == 0) {
        if (event_base_loop(base, EVLOOP_ONCE) < 0)
            return error_set(err, -EIO, "the event loop failed");
        if (event_base_got_break(base) || event_base_got_exit(base))
            return error_set(err, -EINTR, "interrupted while waiting for a client");
    }
    return 0;
}

/* ---- Options ---- */

/* The address that the flat options of a socket chardev describe; borrows their strings. */
static int build_address(const struct chardev_socket *options, struct socket_address *ret_addr, struct error *err)
{
    unsigned kinds = (options->path != NULL) + (options->host != NULL || options->port != NULL) + (options->fd != NULL);
    struct socket_address addr = { .type = SOCKET_ADDRESS_FD };

    if (kinds != 1)
        return error_set(err, -EINVAL, "a socket needs one of the options 'path', 'port' (with 'host') and 'fd'");
    if (options->path != NULL) {
        addr.type = SOCKET_ADDRESS_UNIX;
        addr.unix_ = (struct unix_socket_address){ options->path, options->abstract, options->tight, options->mode,
                                                   options->group };
    } else if (options->fd != NULL) {
        addr.fd.str = options->fd;
    } else {
        if (options->port == NULL)
            return error_set(err, -EINVAL, "Parameter 'port' is missing");
        addr.type = SOCKET_ADDRESS_INET;
        addr.inet = (struct inet_socket_address){ .host = options->host != NULL ? options->host : "",
                                                  .port = options->port,
                                                  .has_to = options->has_to,
                                                  .to = options->to,
                                                  .has_ipv4 = options->has_ipv4,
                                                  .ipv4 = options->ipv4,
                                                  .has_ipv6 = options->has_ipv6,
                                                  .ipv6 = options->ipv6 };
    }
    *ret_addr = addr;
    return 0;
}

static int refuse(const char *option, const char *instead, struct error *err)
{
    return error_set(err, -EINVAL, "option '%s' is not supported: %s", option, instead);
}

static int check_socket_options(const struct chardev_socket *options, struct error *err)
{
    if (options->telnet || options->tn3270 || options->websocket)
        return refuse(options->telnet ? "telnet" : (options->tn3270 ? "tn3270" : "websocket"), "leave it out", err);
    if (options->tls_creds != NULL || options->tls_authz != NULL)
        return refuse(options->tls_creds != NULL ? "tls-creds" : "tls-authz", "use a unix socket", err);
    if (options->has_reconnect && options->reconnect != 0)
        return refuse("reconnect", "set it to 0, or let the client connect (server=on)", err);
    if ((options->mode != NULL || options->group != NULL) && (!options->server || options->path == NULL))
        return error_set(err, -EINVAL,
                         "options '__org.bulkhead_mode' and '__org.bulkhead_group' need 'path' and server=on");
    if (!options->server && options->has_wait)
        return error_set(err, -EINVAL, "option 'wait' needs server=on");
    return 0;
}

static int open_socket(struct chardev *chardev, const struct chardev_socket *options, struct error *err)
{
    struct socket_address addr;
    int fd;
    int r = check_socket_options(options, err);

    if (r == 0)
        r = build_address(options, &addr, err);
    if (r < 0)
        return r;
    if (options->server) {
        r = start_listening(chardev, &addr, err);
        return r == 0 && (!options->has_wait || options->wait) ? wait_for_client(chardev, err) : r;
    }
    r = socket_connect(&addr, SOCKET_FD_INHERITED, &fd, err);
    if (r == 0)
        chardev->waiting[chardev->waiting_count++] = fd;
    return r;
}

static bool has_stdio(const struct chardev_set *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->chardevs[i]->backend == CHARDEV_STDIO)
            return true;
    }
    return false;
}

static int open_backend(struct chardev *chardev, const struct chardev_options *options, struct error *err)
{
    if (options->mux)
        return refuse("mux", "leave it out", err);
    if (options->logfile != NULL)
        return refuse("logfile", "leave it out", err);
    if (options->backend == CHARDEV_STDIO && has_stdio(chardev->set))
        return error_set(err, -EBUSY, "standard input is used by another chardev already");
    return options->backend == CHARDEV_SOCKET ? open_socket(chardev, &options->socket, err) : 0;
}

/* ---- Chardevs ---- */

static void chardev_free(struct chardev *chardev)
{
    while (chardev->clients != NULL) {
        qmp_session_close(chardev->clients->session);
        remove_client(chardev->clients);
    }
    for (unsigned i = 0; i < SOCKET_LISTENERS_MAX; i++) {
        if (chardev->accept_events[i] != NULL)
            event_free(chardev->accept_events[i]);
    }
    if (chardev->pause_event != NULL)
        event_free(chardev->pause_event);
    socket_listeners_done(&chardev->listeners);
    while (chardev->waiting_count > 0)
        socket_close_client(&chardev->waiting[--chardev->waiting_count]);
    free(chardev->id);
    free(chardev);
}

static struct chardev *find_chardev(const struct chardev_set *set, const char *id)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (strcmp(set->chardevs[i]->id, id) == 0)
            return set->chardevs[i];
    }
    return NULL;
}

static int check_new(const struct chardev_set *set, const char *id, struct error *err)
{
    if (!qmp_id_wellformed(id, 100))
        return error_set(err, -EINVAL,
                         "Parameter 'id' expects an identifier: a letter and then letters, digits, '-', '.' or '_'");
    if (find_chardev(set, id) != NULL)
        return error_set(err, -EEXIST, "attempt to add duplicate property '%s': there is a chardev of that id already",
                         id);
    if (set->count == CHARDEVS_MAX)
        return error_set(err, -EMFILE, "there are %d chardevs already", CHARDEVS_MAX);
    return 0;
}

int chardev_add(struct chardev_set *set, const struct chardev_options *options, struct error *err)
{
    struct chardev *chardev;
    int r = check_new(set, options->id, err);

    if (r < 0)
        return r;
    chardev = calloc(1, sizeof(*chardev));
    if (chardev == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    chardev->set = set;
    chardev->backend = options->backend;
    chardev->id = strdup(options->id);
    r = chardev->id != NULL ? open_backend(chardev, options, err) : error_set(err, -ENOMEM, "out of memory");
    if (r < 0) {
        chardev_free(chardev);
        return error_prepend(err, "chardev '%s'", options->id);
    }
    set->chardevs[set->count++] = chardev;
    return 0;
}

/* ---- Monitors ---- */

/* Serve whoever has been waiting for the monitor. */
static int serve_waiting(struct chardev *chardev, struct error *err)
{
    int r = 0;

    if (chardev->backend == CHARDEV_STDIO)
        return serve_client(chardev, STDIN_FILENO, STDOUT_FILENO, err);
    for (unsigned i = 0; r == 0 && i < chardev->waiting_count; i++) {
        int fd = TAKE_FD(chardev->waiting[i]);

        r = serve_client(chardev, fd, fd, err);
    }
    chardev->waiting_count = 0;
    return r;
}

int chardev_add_monitor(struct chardev_set *set, const struct monitor_options *options, struct error *err)
{
    struct chardev *chardev = find_chardev(set, options->chardev);
    int r;

    if (options->mode != MONITOR_MODE_CONTROL)
        return error_set(err, -EINVAL, "option 'mode' must be 'control': there is no human monitor");
    if (chardev == NULL)
        return error_set(err, -ENOENT, "chardev \"%s\" not found: give its --chardev before", options->chardev);
    if (chardev->has_monitor)
        return error_set(err, -EBUSY, "Device '%s' is in use: the chardev has a monitor already", options->chardev);
    chardev->has_monitor = true;
    chardev->pretty = options->pretty;
    r = serve_waiting(chardev, err);
    watch_listeners(chardev, true);
    return r;
}

int chardev_set_new(struct event_base *base, struct qmp *qmp, struct chardev_set **ret_set, struct error *err)
{
    struct chardev_set *set = calloc(1, sizeof(*set));

    if (set == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    set->base = base;
    set->qmp = qmp;
    *ret_set = set;
    return 0;
}

void chardev_set_free(struct chardev_set *set)
{
    if (set == NULL)
        return;
    for (unsigned i = 0; i < set->count; i++)
        chardev_free(set->chardevs[i]);
    free(set);
}
