/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP for the rest of the monitor: commands are rows of tables, handlers get decoded arguments and answer through a
 * reply object, now or later. Source: QEMU's docs/interop/qmp-spec (QMP specification).
 */
#ifndef BULKHEAD_MONITOR_QMP_QMP_H
#define BULKHEAD_MONITOR_QMP_QMP_H

#include "common/base/error.h"
#include "monitor/qmp/schema.h"

struct monitor;
struct cJSON;
struct qmp_reply; /* an answer that is owed; a session runs no further command until it is given */

struct qmp_command {
    const char *name;
    const struct schema_type *args; /* a struct type; NULL: takes no arguments */
    const struct schema_type *ret;  /* what it returns; NULL: {} */
    /*
     * args is the decoded C struct of the args type (NULL without); valid until run returns. Exactly one of
     * qmp_reply_ok() and qmp_reply_error() must be called for reply, before or after run returns.
     */
    void (*run)(struct monitor *monitor, const void *args, struct qmp_reply *reply);
    unsigned flags;
    const char *doc; /* one sentence */
};

#define QMP_COMMAND_DEPRECATED (1u << 0)
#define QMP_COMMAND_PRECONFIG  (1u << 1) /* allowed before qmp_capabilities: only qmp_capabilities itself */

/* value is the C value of the command's ret type, encoded before the call returns; NULL answers {}. */
void qmp_reply_ok(struct qmp_reply *reply, const void *value);
void qmp_reply_error(struct qmp_reply *reply, const struct error *err);

/*
 * A reply that no client waits for: the command line runs the same handlers. done is called once, from within
 * qmp_reply_ok() (err is NULL, the value is dropped) or qmp_reply_error(). NULL: out of memory.
 */
struct qmp_reply *qmp_reply_new(void (*done)(const struct error *err, void *opaque), void *opaque);

/* Send an event to every session that has negotiated capabilities; data is a C value of type, or both NULL. */
void qmp_send_event(struct monitor *monitor, const char *name, const struct schema_type *type, const void *data);

#endif
