/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP sessions: any number of clients (QMP_SESSIONS_MAX), each with its own negotiation, order of commands and bounded
 * buffers. A session runs one command after the other; while a reply is owed, or while its client does not read, it
 * reads nothing more. No session can block the monitor or make it grow without bound.
 */
#ifndef BULKHEAD_MONITOR_QMP_SESSION_H
#define BULKHEAD_MONITOR_QMP_SESSION_H

#include "monitor/qmp/qmp.h"

struct event_base;
struct qmp;
struct qmp_session;

#define QMP_SESSIONS_MAX 64

/* More output than this waiting: no further command of the session is run until its client has read it. */
#define QMP_OUTPUT_PAUSE_BYTES (64u << 10)
/* An event finds more than this waiting: the client is disconnected. */
#define QMP_OUTPUT_MAX_BYTES (1u << 20)

/* commands is borrowed. SIGPIPE is ignored from here on. 0 or -errno. */
int qmp_new(struct monitor *monitor, struct event_base *base, const struct qmp_command *commands,
            unsigned command_count, struct qmp **ret_qmp, struct error *err);
/*
 * Begin to read. Until then clients are greeted and no more, as by qemu-storage-daemon: what they send is carried out
 * when all is there that the command line makes.
 */
void qmp_serve(struct qmp *qmp);

/* Closes all sessions; replies that are still owed may be given afterwards and vanish. */
void qmp_free(struct qmp *qmp);

/* Implemented by the monitor: where its struct qmp is. */
struct qmp *monitor_qmp(struct monitor *monitor);

struct qmp_session_options {
    const char *label; /* for the log; copied */
    bool pretty;
    bool stdio; /* the descriptors are the caller's, and made as they were afterwards */
    /* Called from the loop when the session is over; may be NULL. */
    void (*closed)(void *opaque);
    void *opaque;
};

/*
 * Greet a client and serve it. in and out may be the same descriptor; both are owned from here on, also on an error
 * (unless stdio). 0, -EMFILE when there are QMP_SESSIONS_MAX already, or another -errno.
 */
int qmp_session_new(struct qmp *qmp, int in, int out, const struct qmp_session_options *options,
                    struct qmp_session **ret_session, struct error *err);
void qmp_session_close(struct qmp_session *session); /* closed() is not called */

/* At the end: write what is waiting, for timeout_ms at most; nothing is read any more. */
void qmp_flush(struct qmp *qmp, unsigned timeout_ms);

unsigned qmp_session_count(const struct qmp *qmp);

#endif
