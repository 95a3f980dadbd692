/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two catalogues and the only code that reads them. Everything here is pure: no descriptor is touched, no memory
 * allocated. Input is hostile; a check may look at nothing outside the bytes it was given.
 */
#include "common/ipc/catalogue.h"

#include <errno.h>
#include <string.h>

#include "common/base/log.h"
#include "common/ipc/worker-page.h"

#define NEGOTIATOR  IPC_ROLE_BIT(IPC_ROLE_NBD_NEGOTIATOR)
#define NBD_EXPORT  IPC_ROLE_BIT(IPC_ROLE_NBD_EXPORT)
#define VHOST       IPC_ROLE_BIT(IPC_ROLE_VHOST)
#define FUSE        IPC_ROLE_BIT(IPC_ROLE_FUSE)
#define ALL_EXPORTS (NBD_EXPORT | VHOST | FUSE)
#define TLS         IPC_ROLE_BIT(IPC_ROLE_NBD_NEGOTIATOR_TLS)
#define SIGNER      IPC_ROLE_BIT(IPC_ROLE_TLS_SIGNER)
#define OPENER      IPC_ROLE_BIT(IPC_ROLE_OPENER)
#define DOOR        IPC_ROLE_BIT(IPC_ROLE_VHOST_DOOR)
#define RESOLVER    IPC_ROLE_BIT(IPC_ROLE_RESOLVER)
#define ALL_ROLES   (NEGOTIATOR | TLS | SIGNER | ALL_EXPORTS | OPENER | DOOR | RESOLVER)

#define CREATING IPC_STATE_BIT(WORKER_CREATING)
#define RUNNING  IPC_STATE_BIT(WORKER_RUNNING)
#define DRAINING IPC_STATE_BIT(WORKER_DRAINING)

#define ERRNO_MAX 4095

static bool terminated(const char *text, size_t size_bytes)
{
    return memchr(text, '\0', size_bytes) != NULL;
}

static int check_negotiated(const struct ipc_nbd_negotiated *negotiated, struct error *err)
{
    if (negotiated->export_serial == 0)
        return error_set(err, -EPROTO, "export serial is 0");
    if ((negotiated->flags & ~IPC_NBD_FLAGS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown negotiated flags 0x%x", negotiated->flags);
    if ((negotiated->contexts & ~IPC_NBD_CONTEXTS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown meta contexts 0x%x", negotiated->contexts);
    /* NBD proto.md, NBD_OPT_SET_META_CONTEXT: needs structured replies or extended headers. */
    if (negotiated->contexts != 0 && negotiated->flags == 0)
        return error_set(err, -EPROTO, "meta contexts without structured replies");
    return 0;
}

static int check_negotiate(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_negotiate *negotiate = message;

    if (negotiate->reserved != 0)
        return error_set(err, -EPROTO, "reserved field is not 0");
    return 0;
}

static int check_client(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_client *client = message;

    return check_negotiated(&client->negotiated, err);
}

static int check_vhost_listen(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_vhost_listen *listen = message;

    if (listen->queues == 0 || listen->queues > IPC_VHOST_QUEUES_MAX)
        return error_set(err, -EPROTO, "%u queues, expected 1 to %u", listen->queues, IPC_VHOST_QUEUES_MAX);
    if (!is_power_of_2(listen->logical_block_bytes) || listen->logical_block_bytes < IPC_VHOST_BLOCK_MIN ||
        listen->logical_block_bytes > IPC_VHOST_BLOCK_MAX)
        return error_set(err, -EPROTO, "a logical block size of %u", listen->logical_block_bytes);
    return 0;
}

static int check_fuse_serve(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_fuse_serve *serve = message;

    if ((serve->flags & ~IPC_FUSE_FLAGS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown flags 0x%x", serve->flags);
    if ((serve->flags & IPC_FUSE_GROWABLE) != 0 && (serve->flags & IPC_FUSE_MAY_RESIZE) == 0)
        return error_set(err, -EPROTO, "growable without the permission to resize");
    if (fd_count % 2 != 0)
        return error_set(err, -EPROTO, "%u descriptors are no pairs", fd_count);
    if (serve->reserved != 0)
        return error_set(err, -EPROTO, "reserved field is not 0");
    return 0;
}

static int check_fuse_resize(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_fuse_resize *resize = message;

    if (resize->serial == 0 || resize->code > 0 || resize->code < -ERRNO_MAX || resize->reserved != 0)
        return error_set(err, -EPROTO, "serial is 0, code is no error code, or the reserved field is not 0");
    return 0;
}

static int check_nbd_probe(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_nbd_probe *probe = message;

    return probe->serial != 0 ? 0 : error_set(err, -EPROTO, "serial is 0");
}

/* TLS_PERMIT, TLS_RELAY: they begin alike. */
static int check_tls_client(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_tls_permit *permit = message;

    return permit->client_id != 0 ? 0 : error_set(err, -EPROTO, "client id is 0");
}

static int check_signer_load(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_signer_load *load = message;

    if (load->password_len_bytes >= sizeof(load->password) || load->reserved != 0)
        return error_set(err, -EPROTO, "a password of %u bytes, or the reserved field is not 0",
                         load->password_len_bytes);
    return 0;
}

static int check_resolve(const void *message, unsigned fd_count, struct error *err)
{
    const struct ipc_resolve *resolve = message;

    if (resolve->family > 2 || resolve->reserved != 0 || !terminated(resolve->host, sizeof(resolve->host)) ||
        !terminated(resolve->port, sizeof(resolve->port)) || resolve->host[0] == '\0')
        return error_set(err, -EPROTO, "no family, or host or port are no names");
    return 0;
}

/* clang-format off */
const struct ipc_message_rule ipc_message_rules[] = {
    { "BOOT",      IPC_BOOT,      sizeof(struct ipc_boot),      1, 1 + IPC_IMAGE_FDS_MAX, CREATING,           ALL_ROLES,
      ipc_boot_check,  "what to be: role, export options, node tree; descriptors: worker page, images" },
    { "NEGOTIATE", IPC_NEGOTIATE, sizeof(struct ipc_negotiate), 2, 2,                     RUNNING,            NEGOTIATOR,
      check_negotiate, "a new client, unread; descriptors: client socket, export directory" },
    { "CLIENT",    IPC_CLIENT,    sizeof(struct ipc_client),    1, 1,                     RUNNING,            NBD_EXPORT,
      check_client,    "a client whose handshake is over; descriptors: client socket" },
    { "DRAIN",     IPC_DRAIN,     sizeof(struct ipc_drain),     0, 0,                     CREATING | RUNNING, ALL_ROLES,
      NULL,            "finish what is in flight, close clients, exit" },
    { "VHOST_LISTEN", IPC_VHOST_LISTEN, sizeof(struct ipc_vhost_listen), 1, 1,            RUNNING,            VHOST,
      check_vhost_listen, "serve front-ends; descriptors: link to the door" },
    { "VHOST_DOOR", IPC_VHOST_DOOR, sizeof(struct ipc_vhost_door), 2, 2,                      RUNNING,            DOOR,
      NULL,            "accept front-ends; descriptors: listening socket, link to the export's worker" },
    { "FUSE_SERVE",  IPC_FUSE_SERVE,  sizeof(struct ipc_fuse_serve),  2, IPC_FUSE_DEVICES_MAX, RUNNING,       FUSE,
      check_fuse_serve,  "serve a mount; descriptors: its /dev/fuse, in pairs" },
    { "FUSE_RESIZE", IPC_FUSE_RESIZE, sizeof(struct ipc_fuse_resize), 0, 0,                     RUNNING,      FUSE,
      check_fuse_resize, "whether the worker may do what it asked for by FUSE_RESIZE" },
    { "NODE_RESIZED", IPC_NODE_RESIZED, sizeof(struct ipc_node_resized), 0, 0,                  RUNNING,      ALL_EXPORTS,
      NULL,            "the image has been resized: look at its size again" },
    { "NBD_SHUT_DOWN", IPC_NBD_SHUT_DOWN, sizeof(struct ipc_nbd_shut_down), 0, 0,             RUNNING,            NBD_EXPORT,
      NULL,            "answer what clients ask from now on with NBD_ESHUTDOWN" },
    { "NBD_PROBE", IPC_NBD_PROBE, sizeof(struct ipc_nbd_probe), 0, 0,                         RUNNING,            NBD_EXPORT,
      check_nbd_probe, "answer by NBD_PROBED when all threads have come by" },
    { "NEGOTIATE_TLS", IPC_NEGOTIATE_TLS, sizeof(struct ipc_negotiate), 4, 4,                 RUNNING,            TLS,
      check_negotiate, "a new client, unread; descriptors: client socket, export directory, credentials, signer" },
    { "TLS_PERMIT", IPC_TLS_PERMIT, sizeof(struct ipc_tls_permit), 0, 0,                      RUNNING,            TLS,
      check_tls_client, "the client of which TLS_PEER told is let in" },
    { "TLS_RELAY", IPC_TLS_RELAY, sizeof(struct ipc_tls_relay), 1, 1,                         RUNNING,            TLS,
      check_tls_client, "relay from now on; descriptors: a stream to the export's worker" },
    { "SIGNER_LOAD", IPC_SIGNER_LOAD, sizeof(struct ipc_signer_load), 1, 2,                   RUNNING,            SIGNER,
      check_signer_load, "what to sign with; descriptors: credentials, file with the keys" },
    { "SIGNER_CLIENT", IPC_SIGNER_CLIENT, sizeof(struct ipc_signer_client), 1, 1,             RUNNING,            SIGNER,
      NULL,            "a negotiator that may ask for what one handshake needs; descriptors: socket to it" },
    { "RESOLVE", IPC_RESOLVE, sizeof(struct ipc_resolve), 0, 0,                               RUNNING,            RESOLVER,
      check_resolve,   "find the addresses of a host name" },
    { "OPENER_TASK", IPC_OPENER_TASK, sizeof(struct ipc_opener_task), 1, 1,                   RUNNING,            OPENER,
      NULL,            "start a child for one task; descriptors: socket to it" },
};
/* clang-format on */
const unsigned ipc_message_rule_count = ARRAY_SIZE(ipc_message_rules);

static int check_ready(const struct ipc_status *status, struct error *err)
{
    const struct ipc_status_ready *ready = &status->ready;

    if ((ready->layers & ~IPC_LAYERS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown sandbox layers 0x%x", ready->layers);
    if (ready->engine > IPC_ENGINE_THREADS)
        return error_set(err, -EPROTO, "unknown engine %u", ready->engine);
    if ((ready->export_flags & ~IPC_EXPORT_FLAGS_ALL) != 0)
        return error_set(err, -EPROTO, "unknown export flags 0x%x", ready->export_flags);
    if (ready->size_bytes > INT64_MAX)
        return error_set(err, -EPROTO, "size is beyond 2^63 - 1");
    if (ready->min_block_bytes != 0 && !is_power_of_2(ready->min_block_bytes))
        return error_set(err, -EPROTO, "minimum block size %u is no power of 2", ready->min_block_bytes);
    if (ready->preferred_block_bytes != 0 && !is_power_of_2(ready->preferred_block_bytes))
        return error_set(err, -EPROTO, "preferred block size %u is no power of 2", ready->preferred_block_bytes);
    if (ready->can_fast_zero > 1 || ready->reserved != 0)
        return error_set(err, -EPROTO, "a flag is neither 0 nor 1, or a reserved field is not 0");
    return 0;
}

static int check_failed(const struct ipc_status *status, struct error *err)
{
    if (status->failed.code >= 0 || status->failed.code < -ERRNO_MAX)
        return error_set(err, -EPROTO, "%d is no error code", status->failed.code);
    if (!terminated(status->failed.text, sizeof(status->failed.text)))
        return error_set(err, -EPROTO, "text is not terminated");
    return 0;
}

static int check_log(const struct ipc_status *status, struct error *err)
{
    if (status->log.level > LOG_LEVEL_DEBUG)
        return error_set(err, -EPROTO, "unknown log level %u", status->log.level);
    if (!terminated(status->log.text, sizeof(status->log.text)))
        return error_set(err, -EPROTO, "text is not terminated");
    return 0;
}

static int check_status_negotiated(const struct ipc_status *status, struct error *err)
{
    return check_negotiated(&status->negotiated, err);
}

static int check_client_gone(const struct ipc_status *status, struct error *err)
{
    if (status->client_gone.error > 1)
        return error_set(err, -EPROTO, "a flag is neither 0 nor 1");
    if (!terminated(status->client_gone.text, sizeof(status->client_gone.text)))
        return error_set(err, -EPROTO, "text is not terminated");
    return 0;
}

static int check_io_error(const struct ipc_status *status, struct error *err)
{
    if (status->io_error.op >= WORKER_PAGE_OPS)
        return error_set(err, -EPROTO, "unknown operation %u", status->io_error.op);
    if (status->io_error.code >= 0 || status->io_error.code < -ERRNO_MAX)
        return error_set(err, -EPROTO, "%d is no error code", status->io_error.code);
    return 0;
}

static int check_fuse_serving(const struct ipc_status *status, struct error *err)
{
    if (status->fuse_serving.device_pairs > IPC_FUSE_DEVICES_MAX / 2 || status->fuse_serving.reserved != 0)
        return error_set(err, -EPROTO, "%u pairs of descriptors, or a reserved field is not 0",
                         status->fuse_serving.device_pairs);
    return 0;
}

static int check_status_fuse_resize(const struct ipc_status *status, struct error *err)
{
    if (status->fuse_resize.serial == 0 && status->type == IPC_STATUS_FUSE_RESIZE)
        return error_set(err, -EPROTO, "serial is 0");
    if (status->fuse_resize.size_bytes > INT64_MAX)
        return error_set(err, -EPROTO, "size is beyond 2^63 - 1");
    return 0;
}

static int check_fuse_gone(const struct ipc_status *status, struct error *err)
{
    if (status->fuse_gone.code >= 0 || status->fuse_gone.code < -ERRNO_MAX)
        return error_set(err, -EPROTO, "%d is no error code", status->fuse_gone.code);
    return 0;
}

/* No control characters: a log or a terminal is not to be steered by a name. */
static bool printable(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

static int check_tls_peer(const struct ipc_status *status, struct error *err)
{
    const struct ipc_status_tls_peer *peer = &status->tls_peer;

    if (!terminated(peer->identity, sizeof(peer->identity)) || !terminated(peer->session, sizeof(peer->session)))
        return error_set(err, -EPROTO, "text is not terminated");
    if (peer->has_identity > 1 || peer->reserved != 0)
        return error_set(err, -EPROTO, "a flag is neither 0 nor 1, or the reserved field is not 0");
    if (!printable(peer->identity) || !printable(peer->session))
        return error_set(err, -EPROTO, "text has control characters");
    if ((peer->has_identity != 0) != (peer->identity[0] != '\0'))
        return error_set(err, -EPROTO, "an identity that is empty, or one that should not be there");
    return 0;
}

static int check_resolved(const struct ipc_status *status, struct error *err)
{
    const struct ipc_status_resolved *resolved = &status->resolved;

    if (resolved->failed > 1 || resolved->count > IPC_ADDRESSES_MAX || (resolved->failed && resolved->count > 0) ||
        !terminated(resolved->text, sizeof(resolved->text)))
        return error_set(err, -EPROTO, "%u addresses, or a text that is not terminated", resolved->count);
    for (unsigned i = 0; i < resolved->count; i++) {
        if (resolved->addresses[i].is_ipv6 > 1)
            return error_set(err, -EPROTO, "an address of an unknown family");
    }
    return 0;
}

static int check_signer_loaded(const struct ipc_status *status, struct error *err)
{
    if (status->signer_loaded.code > 0 || status->signer_loaded.code < -ERRNO_MAX)
        return error_set(err, -EPROTO, "%d is no error code", status->signer_loaded.code);
    if (!terminated(status->signer_loaded.text, sizeof(status->signer_loaded.text)))
        return error_set(err, -EPROTO, "text is not terminated");
    return 0;
}

/*
 * READY and FAILED are accepted while DRAINING because the monitor may have asked a worker to go before it had heard
 * from it.
 */
/* clang-format off */
const struct ipc_status_rule ipc_status_rules[] = {
    { "READY",       IPC_STATUS_READY,       sizeof(struct ipc_status_ready),       CREATING | DRAINING,
      ALL_ROLES,  true,  check_ready,             "locked down, node tree open" },
    { "FAILED",      IPC_STATUS_FAILED,      sizeof(struct ipc_status_failed),      CREATING | DRAINING,
      ALL_ROLES,  true,  check_failed,            "could not start; the worker exits" },
    { "LOG",         IPC_STATUS_LOG,         sizeof(struct ipc_status_log),         CREATING | RUNNING | DRAINING,
      ALL_ROLES,  false, check_log,               "a line for the log" },
    { "BLOCKED",     IPC_STATUS_BLOCKED,     sizeof(struct ipc_status_blocked),     CREATING | RUNNING | DRAINING,
      ALL_ROLES,  false, NULL,                    "made a system call that its role does not have; the worker dies" },
    { "NEGOTIATED",  IPC_STATUS_NEGOTIATED,  sizeof(struct ipc_nbd_negotiated),     RUNNING | DRAINING,
      NEGOTIATOR | TLS, true, check_status_negotiated, "handshake done" },
    { "CLIENT_GONE", IPC_STATUS_CLIENT_GONE, sizeof(struct ipc_status_client_gone), RUNNING | DRAINING,
      ALL_ROLES,  false, check_client_gone,       "a client left or was thrown out" },
    { "IO_ERROR",    IPC_STATUS_IO_ERROR,    sizeof(struct ipc_status_io_error),    RUNNING | DRAINING,
      ALL_EXPORTS, false, check_io_error,          "a request failed below the export" },
    { "FUSE_SERVING", IPC_STATUS_FUSE_SERVING, sizeof(struct ipc_status_fuse_serving), RUNNING | DRAINING,
      FUSE,       true,  check_fuse_serving,       "kernel and worker have agreed: the mount can be used" },
    { "FUSE_RESIZE",  IPC_STATUS_FUSE_RESIZE,  sizeof(struct ipc_status_fuse_resize),  RUNNING | DRAINING,
      FUSE,       false, check_status_fuse_resize, "a client wants another size; answered by FUSE_RESIZE" },
    { "FUSE_RESIZED", IPC_STATUS_FUSE_RESIZED, sizeof(struct ipc_status_fuse_resize),  RUNNING | DRAINING,
      FUSE,       false, check_status_fuse_resize, "the size has been changed, as far as it was possible" },
    { "FUSE_GONE",    IPC_STATUS_FUSE_GONE,    sizeof(struct ipc_status_fuse_gone),    RUNNING | DRAINING,
      FUSE,       true,  check_fuse_gone,          "the mount is gone, or its connection was aborted" },
    { "TLS_PEER",    IPC_STATUS_TLS_PEER,    sizeof(struct ipc_status_tls_peer),    RUNNING | DRAINING,
      TLS,        true,  check_tls_peer,           "the TLS handshake is over; who the client proved to be" },
    { "RESOLVED", IPC_STATUS_RESOLVED, sizeof(struct ipc_status_resolved), RUNNING | DRAINING,
      RESOLVER,   true,  check_resolved,           "the addresses of a host name, or why there are none" },
    { "SIGNER_LOADED", IPC_STATUS_SIGNER_LOADED, sizeof(struct ipc_status_signer_loaded), RUNNING | DRAINING,
      SIGNER,     true,  check_signer_loaded,      "the credentials can be used, or why not" },
    { "NBD_PROBED",  IPC_STATUS_NBD_PROBED,  sizeof(struct ipc_status_nbd_probed),  RUNNING | DRAINING,
      NBD_EXPORT, false, NULL,                     "all threads run, and have taken the clients they were given" },
    { "CLIENT_LEFT", IPC_STATUS_CLIENT_LEFT, sizeof(struct ipc_status_client_left), RUNNING | DRAINING,
      NBD_EXPORT, false, NULL,                     "its connection is over, requests of it are still under way" },
};
/* clang-format on */
const unsigned ipc_status_rule_count = ARRAY_SIZE(ipc_status_rules);

const struct ipc_message_rule *ipc_message_rule_find(uint32_t type)
{
    for (unsigned i = 0; i < ipc_message_rule_count; i++)
        if ((uint32_t)ipc_message_rules[i].type == type)
            return &ipc_message_rules[i];
    return NULL;
}

const struct ipc_status_rule *ipc_status_rule_find(uint32_t type)
{
    for (unsigned i = 0; i < ipc_status_rule_count; i++)
        if ((uint32_t)ipc_status_rules[i].type == type)
            return &ipc_status_rules[i];
    return NULL;
}

static bool has_role(uint32_t roles, uint32_t role)
{
    return role > 0 && role < 32 && (roles & IPC_ROLE_BIT(role)) != 0;
}

static int check_message_row(const struct ipc_message_rule *rule, size_t len_bytes, unsigned fd_count,
                             enum worker_state state, uint32_t role, struct error *err)
{
    if (len_bytes != rule->len_bytes)
        return error_set(err, -EPROTO, "%zu bytes instead of %u", len_bytes, rule->len_bytes);
    if (fd_count < rule->fd_min || fd_count > rule->fd_max)
        return error_set(err, -EPROTO, "%u descriptors instead of %u to %u", fd_count, rule->fd_min, rule->fd_max);
    if (!has_role(rule->roles, role))
        return error_set(err, -EPROTO, "not for role %u", role);
    if ((rule->states & IPC_STATE_BIT(state)) == 0)
        return error_set(err, -EPROTO, "not in state %u", state);
    return 0;
}

int ipc_message_check(const void *message, size_t len_bytes, unsigned fd_count, enum worker_state state, uint32_t role,
                      const struct ipc_message_rule **ret_rule, struct error *err)
{
    const struct ipc_message_rule *rule;
    struct ipc_header header;
    int r;

    if (len_bytes < sizeof(header))
        return error_set(err, -EPROTO, "message of %zu bytes has no header", len_bytes);
    memcpy(&header, message, sizeof(header));
    if (header.magic != IPC_MAGIC)
        return error_set(err, -EPROTO, "message has the wrong magic number");
    rule = ipc_message_rule_find(header.type);
    if (rule == NULL)
        return error_set(err, -EPROTO, "unknown message type %u", header.type);
    if (header.len_bytes != len_bytes || header.fd_count != fd_count || header.reserved != 0)
        return error_set(err, -EPROTO, "message %s: header does not match what came", rule->name);
    r = check_message_row(rule, len_bytes, fd_count, state, role, err);
    if (r == 0 && rule->check != NULL)
        r = rule->check(message, fd_count, err);
    if (r < 0) {
        error_prepend(err, "message %s", rule->name);
        return r;
    }
    if (ret_rule != NULL)
        *ret_rule = rule;
    return 0;
}

static bool all_zero(const uint8_t *bytes, size_t len_bytes)
{
    uint8_t any = 0;

    for (size_t i = 0; i < len_bytes; i++)
        any |= bytes[i];
    return any == 0;
}

static int check_status_row(const struct ipc_status_rule *rule, const struct ipc_status *status,
                            enum worker_state state, uint32_t role, uint32_t seen_types, struct error *err)
{
    if (!has_role(rule->roles, role))
        return error_set(err, -EPROTO, "not from role %u", role);
    if ((rule->states & IPC_STATE_BIT(state)) == 0)
        return error_set(err, -EPROTO, "not in state %u", state);
    if (rule->once && (seen_types & (1u << rule->type)) != 0)
        return error_set(err, -EPROTO, "sent twice");
    if (!all_zero(status->bytes + rule->len_bytes, sizeof(status->bytes) - rule->len_bytes))
        return error_set(err, -EPROTO, "bytes after the payload are not 0");
    return rule->check != NULL ? rule->check(status, err) : 0;
}

int ipc_status_check(const struct ipc_status *status, enum worker_state state, uint32_t role, uint32_t *seen_types,
                     struct error *err)
{
    const struct ipc_status_rule *rule;
    int r;

    if (status->magic != IPC_MAGIC)
        return error_set(err, -EPROTO, "status record has the wrong magic number");
    rule = ipc_status_rule_find(status->type);
    if (rule == NULL)
        return error_set(err, -EPROTO, "unknown status record type %u", status->type);
    r = check_status_row(rule, status, state, role, *seen_types, err);
    if (r < 0) {
        error_prepend(err, "status record %s", rule->name);
        return r;
    }
    *seen_types |= 1u << rule->type;
    return 0;
}

void ipc_text_sanitize(char *text)
{
    for (; *text != '\0'; text++)
        if (*text < 0x20 || *text > 0x7e)
            *text = '?';
}
