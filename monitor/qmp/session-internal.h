/* SPDX-License-Identifier: BSD-2-Clause */
/* What session.c (bytes in and out), dispatch.c (messages) and builtin.c (commands about the protocol itself) share. */
#ifndef BULKHEAD_MONITOR_QMP_SESSION_INTERNAL_H
#define BULKHEAD_MONITOR_QMP_SESSION_INTERNAL_H

#include "monitor/qmp/session.h"

struct cJSON;
struct event;
struct evbuffer;
struct json_lexer;

#define QMP_INPUT_BYTES 4096 /* read at a time, per session */

/* Commands that a session may run before others get their turn. */
#define QMP_COMMANDS_PER_TURN 8

struct qmp {
    struct monitor *monitor;
    struct event_base *base;
    const struct qmp_command *commands;
    unsigned command_count;
    struct qmp_session *sessions;
    unsigned session_count;
    bool serving; /* what clients send is read */
};

struct qmp_session {
    struct qmp *qmp;
    struct qmp_session *next;
    struct qmp_session *previous;
    int in;
    int out;
    int in_flags; /* of stdio, to be restored; -1: nothing to restore */
    int out_flags;
    char label[80];
    struct qmp_session_options options;

    struct json_lexer *lexer;
    char input[QMP_INPUT_BYTES]; /* what is read and not yet taken by the lexer */
    size_t input_at;
    size_t input_len;
    struct evbuffer *output;
    struct event *read_event;
    struct event *write_event;
    struct event *resume_event; /* a timer that is due at once: go on in the loop's next turn */
    bool in_always_ready;       /* plain files cannot be waited for */
    bool out_always_ready;
    bool takes_descriptors; /* that a client passes: to read closes them */

    bool negotiated;
    struct qmp_reply *owed; /* the session waits for this */
    bool end_of_input;
    bool doomed; /* to be closed from the loop */
};

/* An answer that is owed; outlives its session. */
struct qmp_reply {
    struct qmp_session *session; /* NULL: the client is gone */
    const struct qmp_command *command;
    struct cJSON *id;                                    /* NULL: none was given */
    void (*done)(const struct error *err, void *opaque); /* of qmp_reply_new() */
    void *opaque;
};

/* session.c: queue a message, which is freed. NULL, or no memory to print it: the session ends. */
void qmp_session_send(struct qmp_session *session, struct cJSON *message);
/* The same for an event; a client that does not read loses its session. */
void qmp_session_send_event(struct qmp_session *session, struct cJSON *message);
/* The reply that the session waited for has been given. */
void qmp_session_resume(struct qmp_session *session);

/* dispatch.c: act on a message from a client, which is freed. */
void qmp_dispatch(struct qmp_session *session, struct cJSON *message);
/* An error reply without a command. */
void qmp_send_error(struct qmp_session *session, const struct cJSON *id, const struct error *err);

#endif
