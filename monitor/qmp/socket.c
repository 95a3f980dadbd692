/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sockets by address. Addresses come from the operator or from a QMP client; descriptors by number only from the
 * command line, and only those that were passed to the program: all that it opens itself are close-on-exec.
 */
#include "monitor/qmp/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "monitor/qmp/schema-scalar.h"
#include "monitor/qmp/socket-access.h"

#define CLOSE_MAX_US 5000

/* A socket address in the kernel's form. */
struct endpoint {
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_vm vm;
    };
    socklen_t len;
};

/* ---- unix ---- */

#define FOLDER_LOCK_TRIES   20
#define FOLDER_STALE_TRIES  100 /* more, where there is a socket to replace */
#define FOLDER_LOCK_TICK_NS 2000000

static int unix_endpoint(const struct unix_socket_address *addr, struct endpoint *ret_endpoint, struct error *err)
{
    size_t len = strlen(addr->path);
    size_t start = addr->abstract ? 1 : 0;
    struct endpoint endpoint = { .un = { .sun_family = AF_UNIX } };

    if (len == 0)
        return error_set(err, -EINVAL, "the path of the socket is empty");
    if (len + 1 > sizeof(endpoint.un.sun_path))
        return error_set(err, -ENAMETOOLONG, "the path of the socket has %zu bytes, more than %zu: '%.32s...'", len,
                         sizeof(endpoint.un.sun_path) - 1, addr->path);
    memcpy(endpoint.un.sun_path + start, addr->path, len);
    endpoint.len = sizeof(endpoint.un);
    if (addr->abstract && addr->tight)
        endpoint.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + start + len);
    *ret_endpoint = endpoint;
    return 0;
}

/*
 * Whether a socket file is left over: nobody listens on it any more. 1: it is, 0: try again, -errno: leave it alone.
 */
static int unix_is_stale(const struct endpoint *endpoint, struct error *err)
{
    const char *path = endpoint->un.sun_path;
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct stat st;

    if (fd < 0)
        return error_set(err, -errno, "socket: %s", strerror(errno));
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : error_set(err, -errno, "'%s': %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST,
                         "Failed to bind socket to %s: it exists and is not a socket: remove it or choose another path",
                         path);
    if (connect(fd, &endpoint->any, endpoint->len) < 0 && errno == ECONNREFUSED)
        return 1;
    return error_set(
        err, -EADDRINUSE,
        "Failed to bind socket to %s: Address already in use by another program: end it or choose another path", path);
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

/* Whether only this account makes files there. The group's bits are the mask of an access list, too. */
static bool folder_is_private(const char *path)
{
    _cleanup_free_ char *folder = folder_of(path);
    struct stat st;

    return folder != NULL && stat(folder, &st) == 0 && st.st_uid == geteuid() &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/*
 * Whoever replaces a socket file must be the only one who does, from the look at it until the new socket listens: to
 * others it looks left over until then. The lock of the folder, for a moment; -1: it cannot be had.
 */
static int lock_folder(const char *path, unsigned max_tries)
{
    const struct timespec tick = { .tv_nsec = FOLDER_LOCK_TICK_NS };
    _cleanup_free_ char *folder = folder_of(path);
    _cleanup_close_ int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    for (unsigned tries = 0; fd >= 0 && tries < max_tries; tries++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return TAKE_FD(fd);
        if (errno != EWOULDBLOCK)
            break;
        nanosleep(&tick, NULL);
    }
    return -1;
}

/*
 * *folder is its lock, or -1. Everybody may lock what he may read, for as long as he likes: in a folder where nobody
 * else could be about to listen that keeps us from nothing.
 */
static int unix_replace(const struct endpoint *endpoint, int *folder, struct error *err)
{
    const char *path = endpoint->un.sun_path;
    int r = unix_is_stale(endpoint, err);

    if (r <= 0)
        return r;
    if (*folder < 0) {
        *folder = lock_folder(path, FOLDER_STALE_TRIES);
        if (*folder >= 0)
            return 0; /* the look at it is to be had with the lock */
    }
    if (*folder < 0 && !folder_is_private(path))
        return error_set(
            err, -EBUSY,
            "Failed to bind socket to %s: nobody listens on it, but its folder cannot be locked, to be sure "
            "that nobody else is about to: remove it or choose another path",
            path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_set(err, -errno, "cannot remove the old socket '%s': %s", path, strerror(errno));
    return 0;
}

static int unix_bind(int fd, const struct endpoint *endpoint, const struct socket_access *access, int *folder,
                     struct error *err)
{
    const char *path = endpoint->un.sun_path;
    int r = 0;

    for (unsigned tries = 0; tries < 3; tries++) {
        mode_t before = socket_access_begin(access);

        r = bind(fd, &endpoint->any, endpoint->len) == 0 ? 0 : -errno;
        socket_access_end(access, before);
        if (r == 0)
            return 0;
        if (r != -EADDRINUSE || path[0] == '\0')
            break;
        r = unix_replace(endpoint, folder, err);
        if (r < 0)
            return r;
        r = -EADDRINUSE;
    }
    return error_set(err, r, "Failed to bind socket to %s: %s", path[0] != '\0' ? path : path + 1, strerror(-r));
}

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

/*
 * A descriptor that nobody takes is closed by whoever reads the bytes that it came with, or closes the socket, and
 * waits for that if it lingers. Where the kernel can, it does not let one in. Has no meaning, and fails, on other
 * sockets.
 */
static void refuse_descriptors(int fd)
{
    int off = 0;

    setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
}

static int listen_unix(const struct unix_socket_address *addr, enum socket_passing passing,
                       struct socket_listeners *listeners, struct error *err)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    _cleanup_close_ int folder = addr->abstract ? -1 : lock_folder(addr->path, FOLDER_LOCK_TRIES);
    struct endpoint endpoint;
    struct socket_access access;
    struct stat st;
    int r = unix_endpoint(addr, &endpoint, err);

    if (r == 0)
        r = socket_access_parse(addr, &access, err);
    if (r == 0 && fd < 0)
        r = error_set(err, -errno, "socket: %s", strerror(errno));
    if (r == 0)
        r = unix_bind(fd, &endpoint, &access, &folder, err);
    if (r < 0)
        return r;
    if (!addr->abstract && lstat(addr->path, &st) == 0) {
        listeners->path = realpath(addr->path, NULL); /* the working directory may change */
        listeners->path_dev = st.st_dev;
        listeners->path_ino = st.st_ino;
    }
    if (!addr->abstract && listeners->path == NULL) {
        r = error_set(err, -errno, "'%s': %s", addr->path, strerror(errno));
        unlink(addr->path);
        return r;
    }
    r = socket_access_give(&access, addr->path, err);
    if (r < 0)
        return r;
    if (passing == SOCKET_REFUSES_DESCRIPTORS)
        refuse_descriptors(fd); /* sockets inherit it when a client connects, before they are accepted */
    if (listen(fd, SOCKET_BACKLOG) < 0)
        return error_set(err, -errno, "cannot listen on '%s': %s", addr->path, strerror(errno));
    listeners->fds[listeners->count++] = TAKE_FD(fd);
    return 0;
}

/* ---- inet ---- */

static void free_addresses(struct addrinfo **addresses)
{
    if (*addresses != NULL)
        freeaddrinfo(*addresses);
}

/* The wishes ipv4 and ipv6 as QEMU reads them: naming one as wanted excludes the other. */
static int inet_family(const struct inet_socket_address *addr)
{
    bool want4 = addr->has_ipv4 && addr->ipv4;
    bool want6 = addr->has_ipv6 && addr->ipv6;
    bool not4 = addr->has_ipv4 && !addr->ipv4;
    bool not6 = addr->has_ipv6 && !addr->ipv6;

    if (want4 == want6 && not4 == not6)
        return AF_UNSPEC;
    return want4 || not6 ? AF_INET : AF_INET6;
}

/* A port number of digits only must be one; glibc would cut it to 16 bits. */
static int inet_check_port(const struct inet_socket_address *addr, struct error *err)
{
    bool digits = addr->port[0] != '\0' && addr->port[strspn(addr->port, "0123456789")] == '\0';
    unsigned long port = digits ? strtoul(addr->port, NULL, 10) : 0;

    if (addr->port[0] == '\0')
        return error_set(err, -EINVAL, "the port is empty; port 0 lets the system choose one");
    if (port > UINT16_MAX)
        return error_set(err, -EINVAL, "port %.20s is beyond 65535", addr->port);
    if (addr->has_to && (!digits || addr->to < port))
        return error_set(err, -EINVAL, "the range of ports '%.20s' to %u is empty", addr->port, addr->to);
    if (addr->has_ipv4 && addr->has_ipv6 && !addr->ipv4 && !addr->ipv6)
        return error_set(err, -EINVAL, "ipv4 and ipv6 are both off: that leaves no address");
    return 0;
}

static int inet_resolve(const struct inet_socket_address *addr, bool passive, struct addrinfo **ret_addresses,
                        struct error *err)
{
    struct addrinfo hints = { .ai_family = inet_family(addr),
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags =
                                  (passive ? AI_PASSIVE : 0) | (addr->numeric ? AI_NUMERICHOST | AI_NUMERICSERV : 0) };
    int r = inet_check_port(addr, err);

    if (r < 0)
        return r;
    r = getaddrinfo(addr->host[0] != '\0' ? addr->host : NULL, addr->port, &hints, ret_addresses);
    if (r != 0)
        return error_set(err, -EADDRNOTAVAIL, "address resolution failed for %.100s:%.20s: %s", addr->host, addr->port,
                         r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
    return 0;
}

static uint16_t inet_port(const struct sockaddr *addr)
{
    return ntohs(addr->sa_family == AF_INET ? ((const struct sockaddr_in *)addr)->sin_port
                                            : ((const struct sockaddr_in6 *)addr)->sin6_port);
}

static void inet_set_port(struct sockaddr *addr, uint16_t port)
{
    if (addr->sa_family == AF_INET)
        ((struct sockaddr_in *)addr)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)addr)->sin6_port = htons(port);
}

static bool has_family(const struct addrinfo *addresses, int family)
{
    for (; addresses != NULL; addresses = addresses->ai_next) {
        if (addresses->ai_family == family)
            return true;
    }
    return false;
}

/* A listening descriptor, or -errno. */
static int inet_listen_one(const struct addrinfo *address, bool v6_only)
{
    _cleanup_close_ int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    int only = v6_only;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return -errno;
    if (address->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) < 0)
        return -errno;
    if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, SOCKET_BACKLOG) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);

    return getsockname(fd, (struct sockaddr *)&addr, &len) == 0 ? inet_port((struct sockaddr *)&addr) : 0;
}

/* Clients that nobody has accepted go with them. */
static void close_fds(struct socket_listeners *listeners)
{
    while (listeners->count > 0)
        socket_close_client(&listeners->fds[--listeners->count]);
}

/* Whether the host has no such address, so that another of the name may do. */
static bool is_unavailable(int code)
{
    return code == -EADDRNOTAVAIL || code == -EAFNOSUPPORT;
}

/* Listen on one port of all addresses that the host has; port 0: one that the system chooses, the same for all. */
static int inet_listen_port(struct addrinfo *addresses, bool v6_only, uint16_t port, struct socket_listeners *listeners)
{
    int r = -EADDRNOTAVAIL;

    for (struct addrinfo *a = addresses; a != NULL && listeners->count < SOCKET_LISTENERS_MAX; a = a->ai_next) {
        int fd;

        if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
            continue;
        inet_set_port(a->ai_addr, port);
        fd = inet_listen_one(a, v6_only);
        if (fd < 0 && !is_unavailable(fd)) {
            close_fds(listeners);
            return fd;
        }
        if (fd < 0)
            continue;
        listeners->fds[listeners->count++] = fd;
        if (port == 0)
            port = bound_port(fd);
        r = 0;
    }
    return r;
}

/* How often a port that the system chose for the first address may be taken at the second. */
#define RANDOM_PORT_TRIES 8

static int inet_refused(const struct inet_socket_address *addr, unsigned port, int r, struct error *err)
{
    static const char privileged[] = ": ports below 1024 are for root, which this is not: choose another, lower the "
                                     "host's net.ipv4.ip_unprivileged_port_start, or pass a socket in (systemd)";

    return error_set(err, r, "%s: %s, host '%.100s' port %.20s%s",
                     r == -EADDRINUSE ? "Failed to find an available port" : "Failed to bind socket", strerror(-r),
                     addr->host, addr->port, r == -EACCES && port <= IPPORT_RESERVED ? privileged : "");
}

static int listen_on(const struct inet_socket_address *addr, struct addrinfo *addresses,
                     struct socket_listeners *listeners, struct error *err)
{
    /* An IPv6 socket takes IPv4 clients too where nothing is said against it and no other socket does. */
    bool v6_only = has_family(addresses, AF_INET) || inet_family(addr) != AF_UNSPEC;
    unsigned port = inet_port(addresses->ai_addr);
    unsigned last = addr->has_to ? addr->to : port;
    unsigned tries = 0;
    int r;

    do {
        r = inet_listen_port(addresses, v6_only, (uint16_t)port, listeners);
        if (r == -EADDRINUSE && port == 0 && ++tries < RANDOM_PORT_TRIES)
            continue;
        port++;
    } while (r == -EADDRINUSE && port <= last);
    if (r < 0)
        return inet_refused(addr, port, r, err);
    listeners->keep_alive = addr->keep_alive;
    return 0;
}

static int listen_inet(const struct inet_socket_address *addr, struct socket_listeners *listeners, struct error *err)
{
    _cleanup_(free_addresses) struct addrinfo *addresses = NULL;
    int r = addr->mptcp ? error_set(err, -EINVAL, "mptcp is not supported") : inet_resolve(addr, true, &addresses, err);

    return r < 0 ? r : listen_on(addr, addresses, listeners, err);
}

bool socket_needs_resolver(const struct socket_address *addr)
{
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST };
    struct addrinfo *addresses = NULL;
    int r;

    if (addr->type != SOCKET_ADDRESS_INET || addr->inet.host[0] == '\0' || addr->inet.numeric || addr->inet.mptcp)
        return false;
    r = getaddrinfo(addr->inet.host, NULL, &hints, &addresses);
    if (r == 0)
        freeaddrinfo(addresses);
    return r != 0;
}

int socket_check_name(const struct inet_socket_address *addr, int *ret_family, struct error *err)
{
    *ret_family = inet_family(addr);
    return inet_check_port(addr, err);
}

int socket_listen_resolved(const struct inet_socket_address *addr, struct sockaddr_storage *found, unsigned count,
                           struct socket_listeners *ret_listeners, struct error *err)
{
    struct socket_listeners listeners = { .count = 0 };
    struct addrinfo list[SOCKET_LISTENERS_MAX] = { 0 };
    int r;

    for (unsigned i = 0; i < count && i < SOCKET_LISTENERS_MAX; i++) {
        list[i].ai_family = found[i].ss_family;
        list[i].ai_addr = (struct sockaddr *)&found[i];
        list[i].ai_addrlen = found[i].ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        list[i].ai_next = i + 1 < count && i + 1 < SOCKET_LISTENERS_MAX ? &list[i + 1] : NULL;
    }
    r = listen_on(addr, list, &listeners, err);
    if (r < 0)
        socket_listeners_done(&listeners);
    else
        *ret_listeners = listeners;
    return r;
}

static int connect_inet(const struct inet_socket_address *addr, int *ret_fd, struct error *err)
{
    _cleanup_(free_addresses) struct addrinfo *addresses = NULL;
    int r =
        addr->mptcp ? error_set(err, -EINVAL, "mptcp is not supported") : inet_resolve(addr, false, &addresses, err);

    if (r < 0)
        return r;
    for (const struct addrinfo *a = addresses; a != NULL; a = a->ai_next) {
        _cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        r = fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
        if (r == 0) {
            *ret_fd = TAKE_FD(fd);
            return 0;
        }
    }
    return error_set(err, r, "Failed to connect to '%.100s:%.20s': %s", addr->host, addr->port, strerror(-r));
}

/* ---- vsock ---- */

static bool parse_u32(const char *text, uint32_t *ret_value)
{
    bool negative;
    uint64_t value;

    if (!scalar_parse_int(text, &negative, &value) || negative || value > UINT32_MAX)
        return false;
    *ret_value = (uint32_t)value;
    return true;
}

static int vsock_endpoint(const struct vsock_socket_address *addr, struct endpoint *ret_endpoint, struct error *err)
{
    struct endpoint endpoint = { .vm = { .svm_family = AF_VSOCK }, .len = sizeof(endpoint.vm) };

    if (!parse_u32(addr->cid, &endpoint.vm.svm_cid) || !parse_u32(addr->port, &endpoint.vm.svm_port))
        return error_set(err, -EINVAL, "the cid '%.20s' or port '%.20s' of vsock is not a number of 32 bits", addr->cid,
                         addr->port);
    *ret_endpoint = endpoint;
    return 0;
}

static int listen_vsock(const struct vsock_socket_address *addr, struct socket_listeners *listeners, struct error *err)
{
    _cleanup_close_ int fd = -1;
    struct endpoint endpoint;
    int r = vsock_endpoint(addr, &endpoint, err);

    if (r < 0)
        return r;
    fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, &endpoint.any, endpoint.len) < 0 || listen(fd, SOCKET_BACKLOG) < 0)
        return error_set(err, -errno, "cannot listen on vsock cid %s port %s: %s", addr->cid, addr->port,
                         strerror(errno));
    listeners->fds[listeners->count++] = TAKE_FD(fd);
    return 0;
}

/* Connect to an endpoint that needs no resolution; what names it in errors. */
static int connect_endpoint(const struct endpoint *endpoint, const char *what, int *ret_fd, struct error *err)
{
    _cleanup_close_ int fd = socket(endpoint->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, &endpoint->any, endpoint->len) < 0)
        return error_set(err, -errno, "Failed to connect to '%.100s': %s", what, strerror(errno));
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- fd ---- */

static int check_stream_socket(int fd, const char *name, struct error *err)
{
    int type = 0;
    socklen_t len = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return error_set(err, -errno, "descriptor '%.32s' is not a socket that was passed in: %s", name,
                         strerror(errno));
    if (type != SOCK_STREAM)
        return error_set(err, -EPROTOTYPE, "descriptor '%.32s' is not a stream socket", name);
    return 0;
}

static int check_listening(int fd, bool wanted, const char *name, struct error *err)
{
    int listening = 0;
    socklen_t len = sizeof(listening);

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
        return error_set(err, -errno, "descriptor '%.32s': %s", name, strerror(errno));
    if ((listening != 0) != wanted)
        return error_set(err, -EINVAL,
                         wanted ? "descriptor '%.32s' is a socket that does not listen"
                                : "descriptor '%.32s' is a socket that listens, not a connected one",
                         name);
    return 0;
}

bool socket_fd_number(const char *text, int *ret_fd)
{
    bool negative = false;
    uint64_t number = 0;
    bool digits = text[0] != '\0' && text[strspn(text, "0123456789")] == '\0';

    if (!digits || !scalar_parse_int(text, &negative, &number) || number > INT32_MAX)
        return false;
    *ret_fd = (int)number;
    return true;
}

/* A descriptor that was passed to the program by number; it is owned from here on. */
static int take_inherited_fd(const struct fd_socket_address *addr, enum socket_fd_source source, bool listening,
                             int *ret_fd, struct error *err)
{
    int fd;
    int r;

    if (source == SOCKET_FD_NAMED)
        return error_set(err, -ENOENT, "no descriptor is named '%.32s'; numbers are for the command line only",
                         addr->str);
    if (!socket_fd_number(addr->str, &fd))
        return error_set(err, -EINVAL, "'%.32s' is not the number of a descriptor", addr->str);
    r = check_stream_socket(fd, addr->str, err);
    if (r == 0)
        r = check_listening(fd, listening, addr->str, err);
    if (r == 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0))
        r = error_set(err, -errno, "descriptor '%s': %s", addr->str, strerror(errno));
    if (r == 0)
        *ret_fd = fd;
    return r;
}

/* ---- All ---- */

int socket_listen(const struct socket_address *addr, enum socket_fd_source source, enum socket_passing passing,
                  struct socket_listeners *ret_listeners, struct error *err)
{
    struct socket_listeners listeners = { .count = 0 };
    int fd = -1;
    int r = -EINVAL;

    switch (addr->type) {
    case SOCKET_ADDRESS_INET:
        r = listen_inet(&addr->inet, &listeners, err);
        break;
    case SOCKET_ADDRESS_UNIX:
        r = listen_unix(&addr->unix_, passing, &listeners, err);
        break;
    case SOCKET_ADDRESS_VSOCK:
        r = listen_vsock(&addr->vsock, &listeners, err);
        break;
    case SOCKET_ADDRESS_FD:
        r = take_inherited_fd(&addr->fd, source, true, &fd, err);
        if (r == 0)
            listeners.fds[listeners.count++] = fd;
        if (r == 0 && passing == SOCKET_REFUSES_DESCRIPTORS)
            refuse_descriptors(fd);
        listeners.passed_in = true;
        break;
    }
    if (r < 0) {
        socket_listeners_done(&listeners);
        return r;
    }
    *ret_listeners = listeners;
    return 0;
}

/* While it still listens: nobody can have put another in its place. */
static void remove_path(struct socket_listeners *listeners)
{
    struct stat st;

    if (listeners->path != NULL && lstat(listeners->path, &st) == 0 && st.st_dev == listeners->path_dev &&
        st.st_ino == listeners->path_ino)
        unlink(listeners->path);
    free(TAKE_PTR(listeners->path));
}

void socket_listeners_stop(struct socket_listeners *listeners)
{
    remove_path(listeners);
    for (unsigned i = 0; i < listeners->count && !listeners->passed_in; i++)
        shutdown(listeners->fds[i], SHUT_RDWR);
}

void socket_listeners_done(struct socket_listeners *listeners)
{
    remove_path(listeners);
    close_fds(listeners);
    memset(listeners, 0, sizeof(*listeners));
}

int socket_connect(const struct socket_address *addr, enum socket_fd_source source, int *ret_fd, struct error *err)
{
    struct endpoint endpoint;
    int fd = -1;
    int r = -EINVAL;

    switch (addr->type) {
    case SOCKET_ADDRESS_INET:
        r = connect_inet(&addr->inet, &fd, err);
        break;
    case SOCKET_ADDRESS_UNIX:
        r = unix_endpoint(&addr->unix_, &endpoint, err);
        if (r == 0)
            r = connect_endpoint(&endpoint, addr->unix_.path, &fd, err);
        break;
    case SOCKET_ADDRESS_VSOCK:
        r = vsock_endpoint(&addr->vsock, &endpoint, err);
        if (r == 0)
            r = connect_endpoint(&endpoint, "vsock", &fd, err);
        break;
    case SOCKET_ADDRESS_FD:
        r = take_inherited_fd(&addr->fd, source, false, &fd, err);
        break;
    }
    if (r == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        r = error_set(err, -errno, "cannot make a socket non-blocking: %s", strerror(errno));
    if (r < 0) {
        close_fd(&fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int socket_accept(const struct socket_listeners *listeners, int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int on = 1;

    if (fd < 0)
        return errno == ECONNABORTED || errno == EINTR ? -EAGAIN : -errno;
    /* Both have no meaning, and fail, on other sockets than TCP's. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (listeners->keep_alive)
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    return fd;
}

static void interrupt(int number)
{
}

/* The wait of a socket that lingers ends with a signal. */
static void alarm_begin(void)
{
    static const struct itimerval soon = { { .tv_usec = CLOSE_MAX_US }, { .tv_usec = CLOSE_MAX_US } };

    signal(SIGALRM, interrupt);
    setitimer(ITIMER_REAL, &soon, NULL);
}

static void alarm_end(void)
{
    static const struct itimerval never;

    setitimer(ITIMER_REAL, &never, NULL);
}

bool socket_takes_descriptors(int fd)
{
    int domain = AF_UNSPEC;
    int on = 1;
    socklen_t len = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
        return false;
    len = sizeof(on);
    return getsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &on, &len) < 0 || on != 0;
}

ssize_t socket_read_client(int fd, void *buffer, size_t size_bytes)
{
    ssize_t n;

    alarm_begin();
    n = read(fd, buffer, size_bytes);
    alarm_end();
    return n;
}

void socket_close_client(int *fd)
{
    if (*fd < 0)
        return;
    alarm_begin();
    close_fd(fd);
    alarm_end();
}

void socket_peer_name(int fd, char *text, size_t size)
{
    struct sockaddr_storage addr = { .ss_family = AF_UNSPEC };
    socklen_t len = sizeof(addr);
    struct ucred cred;
    socklen_t cred_len = sizeof(cred);
    char host[64];
    char port[16];

    if (getpeername(fd, (struct sockaddr *)&addr, &len) < 0)
        snprintf(text, size, "unknown");
    else if (addr.ss_family == AF_UNIX && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) == 0)
        snprintf(text, size, "unix pid %d uid %u", (int)cred.pid, (unsigned)cred.uid);
    else if (getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                         NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(text, size, addr.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    else
        snprintf(text, size, "unknown");
}
