/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tables of the types of QEMU's qapi/sockets.json, and of --chardev, whose flat options are those of QEMU's command
 * line rather than of qapi/char.json.
 */
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/types.h"

static const struct schema_member inet_members[] = {
    SCHEMA_MEMBER(struct inet_socket_address, host, "host", schema_str,
                  "Host name or address; when listening, \"\" is any address."),
    SCHEMA_MEMBER(struct inet_socket_address, port, "port", schema_str, "Port number or service name."),
    SCHEMA_MEMBER_DEF(struct inet_socket_address, numeric, "numeric", schema_bool, "off",
                      "Whether host and port are numbers for sure, so that no name is looked up."),
    SCHEMA_MEMBER_HAS(struct inet_socket_address, to, "to", schema_uint16,
                      "When listening, the last port of a range of which the first free one is taken."),
    SCHEMA_MEMBER_HAS(struct inet_socket_address, ipv4, "ipv4", schema_bool, "Whether IPv4 is used; default: both."),
    SCHEMA_MEMBER_HAS(struct inet_socket_address, ipv6, "ipv6", schema_bool, "Whether IPv6 is used; default: both."),
    SCHEMA_MEMBER_DEF(struct inet_socket_address, keep_alive, "keep-alive", schema_bool, "off",
                      "Whether idle connections are probed by TCP keep-alive."),
    SCHEMA_MEMBER_DEF(struct inet_socket_address, mptcp, "mptcp", schema_bool, "off",
                      "Multi-path TCP; not supported, must be off."),
};
static const struct schema_type schema_inet =
    SCHEMA_TYPE_STRUCT(struct inet_socket_address, "InetSocketAddress", inet_members, "An address of TCP.");

#define MODE_DOC  "When listening, the mode of the socket's file, in octal; default: what the umask leaves."
#define GROUP_DOC "When listening, the group of the socket's file, a name or number; the account must be a member."

static const struct schema_member unix_members[] = {
    SCHEMA_MEMBER(struct unix_socket_address, path, "path", schema_str, "The socket's path."),
    SCHEMA_MEMBER_DEF(struct unix_socket_address, abstract, "abstract", schema_bool, "off",
                      "Whether path is a name in Linux's abstract namespace."),
    SCHEMA_MEMBER_DEF(struct unix_socket_address, tight, "tight", schema_bool, "on",
                      "Whether an abstract name ends where its text does, rather than being padded with NULs."),
    SCHEMA_MEMBER_OPT(struct unix_socket_address, mode, "__org.bulkhead_mode", schema_str, MODE_DOC),
    SCHEMA_MEMBER_OPT(struct unix_socket_address, group, "__org.bulkhead_group", schema_str, GROUP_DOC),
};
static const struct schema_type schema_unix =
    SCHEMA_TYPE_STRUCT(struct unix_socket_address, "UnixSocketAddress", unix_members, "An address of a unix socket.");

static const struct schema_member vsock_members[] = {
    SCHEMA_MEMBER(struct vsock_socket_address, cid, "cid", schema_str, "The context id."),
    SCHEMA_MEMBER(struct vsock_socket_address, port, "port", schema_str, "The port."),
};
static const struct schema_type schema_vsock =
    SCHEMA_TYPE_STRUCT(struct vsock_socket_address, "VsockSocketAddress", vsock_members, "An address of vsock.");

static const struct schema_member fd_members[] = {
    SCHEMA_MEMBER(struct fd_socket_address, str, "str", schema_str,
                  "The number of an inherited descriptor, or its name in LISTEN_FDNAMES; on the command line only."),
};
static const struct schema_type schema_fd =
    SCHEMA_TYPE_STRUCT(struct fd_socket_address, "FdSocketAddress", fd_members, "A socket that is passed in.");

static const struct schema_value socket_address_type_values[] = {
    [SOCKET_ADDRESS_INET] = { "inet", "TCP." },
    [SOCKET_ADDRESS_UNIX] = { "unix", "A unix socket." },
    [SOCKET_ADDRESS_VSOCK] = { "vsock", "A socket between virtual machine and host." },
    [SOCKET_ADDRESS_FD] = { "fd", "A socket that is passed in." },
};
static const struct schema_type schema_socket_address_type =
    SCHEMA_TYPE_ENUM("SocketAddressType", socket_address_type_values, "Kinds of socket addresses.");

static const struct schema_member socket_address_members[] = {
    SCHEMA_MEMBER(struct socket_address, type, "type", schema_socket_address_type, "The kind of address."),
};
static const struct schema_variant socket_address_variants[] = {
    [SOCKET_ADDRESS_INET] = { &schema_inet, offsetof(struct socket_address, inet) },
    [SOCKET_ADDRESS_UNIX] = { &schema_unix, offsetof(struct socket_address, unix_) },
    [SOCKET_ADDRESS_VSOCK] = { &schema_vsock, offsetof(struct socket_address, vsock) },
    [SOCKET_ADDRESS_FD] = { &schema_fd, offsetof(struct socket_address, fd) },
};
const struct schema_type schema_socket_address =
    SCHEMA_TYPE_UNION(struct socket_address, "SocketAddress", type, socket_address_members, socket_address_variants,
                      "The address of a socket.");

/* The legacy form: {"type": ..., "data": {...}}. */
#define DATA_DOC "The address proper."

static const struct schema_member inet_wrapper_members[] = {
    { .name = "data", .type = &schema_inet, .has_offset = SCHEMA_NO_HAS, .doc = DATA_DOC },
};
static const struct schema_member unix_wrapper_members[] = {
    { .name = "data", .type = &schema_unix, .has_offset = SCHEMA_NO_HAS, .doc = DATA_DOC },
};
static const struct schema_member vsock_wrapper_members[] = {
    { .name = "data", .type = &schema_vsock, .has_offset = SCHEMA_NO_HAS, .doc = DATA_DOC },
};
static const struct schema_member fd_wrapper_members[] = {
    { .name = "data", .type = &schema_fd, .has_offset = SCHEMA_NO_HAS, .doc = DATA_DOC },
};
static const struct schema_type schema_inet_wrapper =
    SCHEMA_TYPE_STRUCT(struct inet_socket_address, "InetSocketAddressWrapper", inet_wrapper_members, "A wrapper.");
static const struct schema_type schema_unix_wrapper =
    SCHEMA_TYPE_STRUCT(struct unix_socket_address, "UnixSocketAddressWrapper", unix_wrapper_members, "A wrapper.");
static const struct schema_type schema_vsock_wrapper =
    SCHEMA_TYPE_STRUCT(struct vsock_socket_address, "VsockSocketAddressWrapper", vsock_wrapper_members, "A wrapper.");
static const struct schema_type schema_fd_wrapper =
    SCHEMA_TYPE_STRUCT(struct fd_socket_address, "FdSocketAddressWrapper", fd_wrapper_members, "A wrapper.");

static const struct schema_variant socket_address_legacy_variants[] = {
    [SOCKET_ADDRESS_INET] = { &schema_inet_wrapper, offsetof(struct socket_address, inet) },
    [SOCKET_ADDRESS_UNIX] = { &schema_unix_wrapper, offsetof(struct socket_address, unix_) },
    [SOCKET_ADDRESS_VSOCK] = { &schema_vsock_wrapper, offsetof(struct socket_address, vsock) },
    [SOCKET_ADDRESS_FD] = { &schema_fd_wrapper, offsetof(struct socket_address, fd) },
};
const struct schema_type schema_socket_address_legacy =
    SCHEMA_TYPE_UNION(struct socket_address, "SocketAddressLegacy", type, socket_address_members,
                      socket_address_legacy_variants, "The address of a socket, in an older form.");

/* ---- --chardev ---- */

static const struct schema_value chardev_backend_values[] = {
    [CHARDEV_SOCKET] = { "socket", "A unix or TCP socket." },
    [CHARDEV_STDIO] = { "stdio", "Standard input and output." },
    [CHARDEV_NULL] = { "null", "Nothing; a monitor on it never hears of anybody." },
};
static const struct schema_type schema_chardev_backend =
    SCHEMA_TYPE_ENUM_OF_MORE("ChardevBackendKind", chardev_backend_values, elsewhere_chardevs, "Kinds of chardevs.");

static const struct schema_member chardev_socket_members[] = {
    SCHEMA_MEMBER_OPT(struct chardev_socket, path, "path", schema_str, "Path of a unix socket."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, abstract, "abstract", schema_bool, "off",
                      "Whether path is a name in Linux's abstract namespace."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, tight, "tight", schema_bool, "on",
                      "Whether an abstract name ends where its text does."),
    SCHEMA_MEMBER_OPT(struct chardev_socket, mode, "__org.bulkhead_mode", schema_str, MODE_DOC),
    SCHEMA_MEMBER_OPT(struct chardev_socket, group, "__org.bulkhead_group", schema_str, GROUP_DOC),
    SCHEMA_MEMBER_OPT(struct chardev_socket, host, "host", schema_str, "Host name or address, for TCP."),
    SCHEMA_MEMBER_OPT(struct chardev_socket, port, "port", schema_str, "Port number or service name, for TCP."),
    SCHEMA_MEMBER_HAS(struct chardev_socket, to, "to", schema_uint16,
                      "When listening, the last port of a range of which the first free one is taken."),
    SCHEMA_MEMBER_HAS(struct chardev_socket, ipv4, "ipv4", schema_bool, "Whether IPv4 is used; default: both."),
    SCHEMA_MEMBER_HAS(struct chardev_socket, ipv6, "ipv6", schema_bool, "Whether IPv6 is used; default: both."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, nodelay, "nodelay", schema_bool, "off",
                      "Accepted for QEMU's sake; replies are never held back."),
    SCHEMA_MEMBER_OPT(struct chardev_socket, fd, "fd", schema_str,
                      "Number of an inherited socket, or its name in LISTEN_FDNAMES."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, server, "server", schema_bool, "off",
                      "Whether to listen; otherwise it connects."),
    SCHEMA_MEMBER_HAS(struct chardev_socket, wait, "wait", schema_bool,
                      "Whether start-up waits for the first client; default on, for servers only."),
    SCHEMA_MEMBER_HAS(struct chardev_socket, reconnect, "reconnect", schema_int,
                      "Seconds between attempts to connect again; not supported, must be 0."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, telnet, "telnet", schema_bool, "off", "Not supported, must be off."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, tn3270, "tn3270", schema_bool, "off", "Not supported, must be off."),
    SCHEMA_MEMBER_DEF(struct chardev_socket, websocket, "websocket", schema_bool, "off", "Not supported, must be off."),
    SCHEMA_MEMBER_OPT(struct chardev_socket, tls_creds, "tls-creds", schema_str, "Not supported."),
    SCHEMA_MEMBER_OPT(struct chardev_socket, tls_authz, "tls-authz", schema_str, "Not supported."),
};
static const struct schema_type schema_chardev_socket =
    SCHEMA_TYPE_STRUCT(struct chardev_socket, "ChardevSocket", chardev_socket_members, "Options of a socket chardev.");

static const struct schema_member chardev_stdio_members[] = {
    SCHEMA_MEMBER_DEF(struct chardev_stdio, signal, "signal", schema_bool, "on",
                      "Accepted for QEMU's sake; signals of the terminal always end the program."),
};
static const struct schema_type schema_chardev_stdio =
    SCHEMA_TYPE_STRUCT(struct chardev_stdio, "ChardevStdio", chardev_stdio_members, "Options of a stdio chardev.");

static const struct schema_member chardev_options_members[] = {
    SCHEMA_MEMBER(struct chardev_options, backend, "backend", schema_chardev_backend, "The kind of chardev."),
    SCHEMA_MEMBER(struct chardev_options, id, "id", schema_str, "The chardev's name."),
    SCHEMA_MEMBER_DEF(struct chardev_options, mux, "mux", schema_bool, "off", "Not supported, must be off."),
    SCHEMA_MEMBER_OPT(struct chardev_options, logfile, "logfile", schema_str, "Not supported."),
    SCHEMA_MEMBER_DEF(struct chardev_options, logappend, "logappend", schema_bool, "off", "Not supported."),
};
static const struct schema_variant chardev_options_variants[] = {
    [CHARDEV_SOCKET] = { &schema_chardev_socket, offsetof(struct chardev_options, socket) },
    [CHARDEV_STDIO] = { &schema_chardev_stdio, offsetof(struct chardev_options, stdio_) },
    [CHARDEV_NULL] = { NULL },
};
const struct schema_type schema_chardev_options =
    SCHEMA_TYPE_UNION(struct chardev_options, "ChardevOptions", backend, chardev_options_members,
                      chardev_options_variants, "What --chardev takes; 'backend=' may be left out.");
