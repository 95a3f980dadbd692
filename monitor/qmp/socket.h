/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sockets by address: listening and connecting, for chardevs and for the NBD server. Descriptors are non-blocking and
 * close-on-exec.
 */
#ifndef BULKHEAD_MONITOR_QMP_SOCKET_H
#define BULKHEAD_MONITOR_QMP_SOCKET_H

#include <sys/socket.h>
#include <sys/types.h>

#include "monitor/qmp/types.h"

#define SOCKET_LISTENERS_MAX 16   /* addresses that one host name may have */
#define SOCKET_BACKLOG       4096 /* or what the host allows (net.core.somaxconn) */

/* All sockets that listen for one address; a host name may have several. */
struct socket_listeners {
    int fds[SOCKET_LISTENERS_MAX];
    unsigned count;
    char *path; /* of a unix socket that is removed on close; NULL: none */
    dev_t path_dev;
    ino_t path_ino;
    bool keep_alive; /* for accepted sockets */
    bool passed_in;  /* type=fd: others may have the socket too */
};

/* Where descriptors of type=fd may come from. */
enum socket_fd_source {
    /* The command line: numbers of descriptors that were passed to the program; the caller has made sure, before it
     * opened anything, that they were. */
    SOCKET_FD_INHERITED,
    SOCKET_FD_NAMED, /* QMP: never numbers, since a client must not reach descriptors of our own; nothing gives names
                        yet */
};

/* Whether clients of a unix socket may pass descriptors along with their bytes. */
enum socket_passing { SOCKET_REFUSES_DESCRIPTORS, SOCKET_TAKES_DESCRIPTORS };

/*
 * Listen. inet: every address that host has ("": any), within the wishes ipv4 and ipv6; the first port of port..to that
 * is free for all. unix: the file is made with the umask's permissions; one that nobody listens on any more is
 * replaced, by one at a time of those that try, any other refused. 0 or -errno.
 */
int socket_listen(const struct socket_address *addr, enum socket_fd_source source, enum socket_passing passing,
                  struct socket_listeners *ret_listeners, struct error *err);

/* Whether its host is a name, for which somebody has to be asked, so that socket_listen() would take as long as that.
 */
bool socket_needs_resolver(const struct socket_address *addr);

/* What a resolver needs to know beside host and port: AF_UNSPEC, AF_INET or AF_INET6. 0, or -EINVAL for a bad port. */
int socket_check_name(const struct inet_socket_address *addr, int *ret_family, struct error *err);

/* socket_listen() for a name of which the addresses are known, with their ports: at least one. */
int socket_listen_resolved(const struct inet_socket_address *addr, struct sockaddr_storage *found, unsigned count,
                           struct socket_listeners *ret_listeners, struct error *err);

/* The number that type=fd gives, in decimal without leading zeros. */
bool socket_fd_number(const char *text, int *ret_fd);

/*
 * Remove the socket file and refuse clients from now on, also while another process, one that is just being started,
 * still has a copy. Sockets that were passed in are left alone: whoever shares them goes on to listen. vsock knows no
 * such thing.
 */
void socket_listeners_stop(struct socket_listeners *listeners);

/* Close and remove the socket file, if it is still the one that socket_listen() made. All zero is fine. */
void socket_listeners_done(struct socket_listeners *listeners);

/* Connect; blocks for name resolution and for as long as the kernel tries. type=fd: a connected socket. */
int socket_connect(const struct socket_address *addr, enum socket_fd_source source, int *ret_fd, struct error *err);

/* Accept one client, if there is one: its descriptor, -EAGAIN, or another -errno after which the listener still works
 * (-EMFILE: wait before the next try). */
int socket_accept(const struct socket_listeners *listeners, int listen_fd);

/* Whether the peer of a socket may pass descriptors along: a unix socket's, unless the kernel refuses them. */
bool socket_takes_descriptors(int fd);

/* read() of such a socket, which does not wait for what it closes thereby; as socket_close_client(). */
ssize_t socket_read_client(int fd, void *buffer, size_t size_bytes);

/*
 * Close a client's socket, whatever it has sent that nobody has read, without waiting for it: a descriptor that it
 * passed, of a TCP socket that lingers for instance, would take as long as it likes. SIGALRM and ITIMER_REAL are used
 * for that. Negative is fine.
 */
void socket_close_client(int *fd);

/* The peer of a connected socket for the log: "unix pid 12 uid 1000", "[::1]:4711". */
void socket_peer_name(int fd, char *text, size_t size);

#endif
