/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both catalogues as tables: what may be said, how long it is, how many descriptors it carries, in which state of the
 * worker and by or to which role. The monitor and the workers only walk them; a message that fits no row is a protocol
 * error, and the side that sees it ends the worker. docs/ipc.md is the text of these tables.
 */
#ifndef BULKHEAD_IPC_CATALOGUE_H
#define BULKHEAD_IPC_CATALOGUE_H

#include "common/base/error.h"
#include "common/ipc/ipc-protocol.h"

/* A worker's life. The worker itself is CREATING until it has sent READY. */
enum worker_state { WORKER_CREATING, WORKER_RUNNING, WORKER_DRAINING, WORKER_GONE };

#define IPC_STATE_BIT(state) (1u << (state))
#define IPC_ROLE_BIT(role)   (1u << (role))

/* One control message, monitor to worker. */
struct ipc_message_rule {
    const char *name;
    enum ipc_type type;
    uint32_t len_bytes; /* of the datagram, exactly */
    unsigned fd_min;
    unsigned fd_max;
    uint32_t states; /* IPC_STATE_BIT: when the monitor may send it and the worker takes it */
    uint32_t roles;  /* IPC_ROLE_BIT: who takes it */
    /* The fields: ranges, enums, NUL-termination. Pure. NULL: there is nothing but the header. */
    int (*check)(const void *message, unsigned fd_count, struct error *err);
    const char *doc;
};

/* One status record, worker to monitor. */
struct ipc_status_rule {
    const char *name;
    enum ipc_status_type type;
    uint32_t len_bytes; /* of the payload; the rest of the record is zero */
    uint32_t states;    /* IPC_STATE_BIT: states of the worker, as the monitor sees it, in which it is accepted */
    uint32_t roles;     /* IPC_ROLE_BIT: who sends it */
    bool once;          /* at most one in the life of a worker */
    int (*check)(const struct ipc_status *status, struct error *err);
    const char *doc;
};

extern const struct ipc_message_rule ipc_message_rules[];
extern const unsigned ipc_message_rule_count;
extern const struct ipc_status_rule ipc_status_rules[];
extern const unsigned ipc_status_rule_count;

/* The row of a type, or NULL. */
const struct ipc_message_rule *ipc_message_rule_find(uint32_t type);
const struct ipc_status_rule *ipc_status_rule_find(uint32_t type);

/*
 * Check a received datagram, or one about to be sent, against its row. 0 with *ret_rule (may be NULL), or -EPROTO with
 * a text that names the rule that was broken. The header is checked by channel_receive() too; here all of it is.
 */
int ipc_message_check(const void *message, size_t len_bytes, unsigned fd_count, enum worker_state state, uint32_t role,
                      const struct ipc_message_rule **ret_rule, struct error *err);

/*
 * Check a received record. *seen_types is the caller's memory of which types this worker has sent before (bits
 * 1 << enum ipc_status_type); updated on success. 0 or -EPROTO.
 */
int ipc_status_check(const struct ipc_status *status, enum worker_state state, uint32_t role, uint32_t *seen_types,
                     struct error *err);

/* The fields of BOOT, without its descriptors' contents: counts, indices, enums, strings. 0 or -EPROTO. */
int ipc_boot_check(const void *message, unsigned fd_count, struct error *err);

/*
 * Make a text of a worker fit for logs and QMP: cut at the array's end, every byte that is not printable ASCII becomes
 * '?'. The array must be NUL-terminated, which ipc_status_check() has seen to.
 */
void ipc_text_sanitize(char *text);

#endif
