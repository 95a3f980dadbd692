/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: listening sockets, clients on their way through a negotiator to an export's worker. The monitor
 * accepts a connection, sends the greeting, and reads nothing: when the client has said a first message its socket
 * goes, unread, to a negotiator, which reports how the handshake ended; that record is checked like everything hostile,
 * and the socket goes on to the worker of the export.
 */
#ifndef BULKHEAD_MONITOR_EXPORT_NBD_SERVER_H
#define BULKHEAD_MONITOR_EXPORT_NBD_SERVER_H

#include "common/base/error.h"
#include "monitor/qmp/socket.h"
#include "monitor/qmp/types.h"

struct monitor;
struct nbd_server;
struct qmp_reply;

/* There is one, stopped at first. */
int nbd_server_new(struct monitor *monitor, struct nbd_server **ret_server, struct error *err);
void nbd_server_free(struct nbd_server *server); /* the workers are gone, no callback will come; NULL is fine */

/* Listen; reply is answered when the first negotiator is ready for a client. */
void nbd_server_start(struct nbd_server *server, const struct nbd_server_options *options, enum socket_fd_source source,
                      struct qmp_reply *reply);

/* Stop listening, drop clients in their handshake, remove all NBD exports; reply is answered when they are gone. */
void nbd_server_stop(struct nbd_server *server, struct qmp_reply *reply);

struct nbd_server_info nbd_server_get_info(const struct nbd_server *server);

/* Stop listening and drop clients in their handshake, for the end of the program. */
/* Clients are let in from here on; they have been waiting in the socket's queue. */
void nbd_server_serve(struct nbd_server *server);
void nbd_server_close(struct nbd_server *server);

#endif
