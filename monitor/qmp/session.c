/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions: bytes of QMP clients in and out. Clients are not trusted to send sense, to read, or to stay: input is taken
 * in small pieces and only while no reply is owed and little output waits; output is bounded; nothing here blocks or is
 * kept after its client. A session is closed from the loop only, never from within a handler or an event that is sent.
 */
#include "monitor/qmp/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <event2/buffer.h>
#include <event2/event.h>

#include "common/base/log.h"
#include "monitor/qmp/builtin.h"
#include "monitor/qmp/json-lexer.h"
#include "monitor/qmp/json-print.h"
#include "monitor/qmp/session-internal.h"
#include "monitor/qmp/socket.h"

/* ---- What a session waits for ---- */

static size_t output_bytes(const struct qmp_session *session)
{
    return evbuffer_get_length(session->output);
}

/* Whether a further command may be taken. */
static bool may_run(const struct qmp_session *session)
{
    return session->qmp->serving && !session->doomed && session->owed == NULL &&
           output_bytes(session) <= QMP_OUTPUT_PAUSE_BYTES;
}

static bool has_input(const struct qmp_session *session)
{
    return session->input_at < session->input_len;
}

static void resume_soon(struct qmp_session *session)
{
    static const struct timeval now = { 0, 0 };

    event_add(session->resume_event, &now);
}

static void watch(struct qmp_session *session, struct event *event, bool always_ready, bool wanted)
{
    if (!wanted)
        event_del(event);
    else if (always_ready)
        resume_soon(session);
    else
        event_add(event, NULL);
}

/* Wait for whatever can bring the session on. */
static void update(struct qmp_session *session)
{
    bool finished = session->end_of_input && !has_input(session) && session->owed == NULL && output_bytes(session) == 0;

    if (session->doomed || finished || (has_input(session) && may_run(session)))
        resume_soon(session);
    watch(session, session->read_event, session->in_always_ready,
          may_run(session) && !has_input(session) && !session->end_of_input);
    watch(session, session->write_event, session->out_always_ready, !session->doomed && output_bytes(session) > 0);
    if (finished)
        session->doomed = true;
}

/* End the session from the loop; whatever it has to say is not said any more. */
static void doom(struct qmp_session *session, const char *why)
{
    if (session->doomed)
        return;
    log_info("%s: disconnected: %s", session->label, why);
    session->doomed = true;
    resume_soon(session);
}

/* ---- Output ---- */

void qmp_session_send(struct qmp_session *session, struct cJSON *message)
{
    size_t len = 0;
    char *text = message != NULL ? json_print(message, session->options.pretty, &len) : NULL;

    cJSON_Delete(message);
    if (text == NULL || evbuffer_add(session->output, text, len) < 0 || evbuffer_add(session->output, "\r\n", 2) < 0)
        doom(session, "out of memory");
    free(text);
    update(session);
}

void qmp_session_send_event(struct qmp_session *session, struct cJSON *message)
{
    if (output_bytes(session) > QMP_OUTPUT_MAX_BYTES) {
        doom(session, "it does not read its events");
        cJSON_Delete(message);
        return;
    }
    qmp_session_send(session, message);
}

void qmp_session_resume(struct qmp_session *session)
{
    update(session);
}

/* Write what the client takes. */
static void write_output(struct qmp_session *session)
{
    while (output_bytes(session) > 0) {
        int n = evbuffer_write(session->output, session->out);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            doom(session, strerror(errno));
        if (n <= 0 || session->out_always_ready)
            break;
    }
}

/* ---- Input ---- */

static void read_input(struct qmp_session *session)
{
    ssize_t n;

    if (has_input(session) || session->end_of_input || !may_run(session))
        return;
    n = session->takes_descriptors ? socket_read_client(session->in, session->input, sizeof(session->input))
                                   : read(session->in, session->input, sizeof(session->input));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        doom(session, strerror(errno));
        return;
    }
    session->input_at = 0;
    session->input_len = (size_t)n;
    session->end_of_input = n == 0;
}

/* Run what has come in, but not all of it at once. */
static void run_input(struct qmp_session *session)
{
    for (unsigned i = 0; i < QMP_COMMANDS_PER_TURN && has_input(session) && may_run(session); i++) {
        struct cJSON *message = NULL;
        struct error err = { 0 };
        size_t used = 0;
        enum json_result result = json_lexer_feed(session->lexer, session->input + session->input_at,
                                                  session->input_len - session->input_at, &used, &message, &err);

        session->input_at += used;
        if (!has_input(session)) /* it may have held a secret */
            explicit_bzero(session->input, session->input_len);
        if (result == JSON_VALUE)
            qmp_dispatch(session, message);
        else if (result == JSON_ERROR)
            qmp_send_error(session, NULL, &err);
    }
}

/* ---- The loop ---- */

static void session_over(struct qmp_session *session)
{
    void (*closed)(void *) = session->options.closed;
    void *opaque = session->options.opaque;

    if (json_lexer_is_inside(session->lexer))
        log_debug("%s: left in the middle of a message", session->label);
    qmp_session_close(session);
    if (closed != NULL)
        closed(opaque);
}

static void go_on(struct qmp_session *session)
{
    run_input(session);
    if (session->doomed)
        session_over(session);
    else
        update(session);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct qmp_session *session = arg;

    read_input(session);
    go_on(session);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct qmp_session *session = arg;

    write_output(session);
    go_on(session);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct qmp_session *session = arg;

    if (session->out_always_ready && !session->doomed)
        write_output(session);
    if (session->in_always_ready && !session->doomed)
        read_input(session);
    go_on(session);
}

/* ---- Life of a session ---- */

/* Whether epoll takes the descriptor; it takes neither plain files nor /dev/null. */
static bool can_be_watched(int fd)
{
    _cleanup_close_ int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = 0 };

    return epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 || errno != EPERM;
}

static int set_nonblocking(int fd, int *ret_old_flags)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    *ret_old_flags = flags;
    return 0;
}

static int session_init_fds(struct qmp_session *session)
{
    int ignored;
    int r;

    if (!session->options.stdio) {
        session->takes_descriptors = socket_takes_descriptors(session->in);
        r = set_nonblocking(session->in, &ignored);
        return r == 0 && session->out != session->in ? set_nonblocking(session->out, &ignored) : r;
    }
    session->in_always_ready = !can_be_watched(session->in);
    session->out_always_ready = !can_be_watched(session->out);
    r = set_nonblocking(session->in, &session->in_flags);
    if (r == 0)
        r = set_nonblocking(session->out, &session->out_flags);
    return r;
}

static void session_done_fds(struct qmp_session *session)
{
    if (session->options.stdio) {
        if (session->out_flags >= 0)
            fcntl(session->out, F_SETFL, session->out_flags);
        if (session->in_flags >= 0)
            fcntl(session->in, F_SETFL, session->in_flags);
        return;
    }
    if (session->out != session->in)
        socket_close_client(&session->out);
    socket_close_client(&session->in);
}

static int session_init_io(struct qmp_session *session)
{
    struct event_base *base = session->qmp->base;
    int r = session_init_fds(session);

    if (r < 0)
        return r;
    session->lexer = json_lexer_new();
    session->output = evbuffer_new();
    session->read_event = event_new(base, session->in, EV_READ, on_readable, session);
    session->write_event = event_new(base, session->out, EV_WRITE, on_writable, session);
    session->resume_event = evtimer_new(base, on_resume, session);
    if (session->lexer == NULL || session->output == NULL || session->read_event == NULL ||
        session->write_event == NULL || session->resume_event == NULL)
        return -ENOMEM;
    return 0;
}

static void session_link(struct qmp_session *session)
{
    struct qmp *qmp = session->qmp;

    session->next = qmp->sessions;
    if (session->next != NULL)
        session->next->previous = session;
    qmp->sessions = session;
    qmp->session_count++;
}

static void session_unlink(struct qmp_session *session)
{
    struct qmp *qmp = session->qmp;

    if (session->previous != NULL)
        session->previous->next = session->next;
    else
        qmp->sessions = session->next;
    if (session->next != NULL)
        session->next->previous = session->previous;
    qmp->session_count--;
}

static void session_free(struct qmp_session *session)
{
    if (session->owed != NULL)
        session->owed->session = NULL; /* the answer will vanish */
    if (session->read_event != NULL)
        event_free(session->read_event);
    if (session->write_event != NULL)
        event_free(session->write_event);
    if (session->resume_event != NULL)
        event_free(session->resume_event);
    if (session->output != NULL)
        evbuffer_free(session->output);
    json_lexer_free(session->lexer);
    session_done_fds(session);
    free_wiped(session); /* what was read may be a secret */
}

int qmp_session_new(struct qmp *qmp, int in, int out, const struct qmp_session_options *options,
                    struct qmp_session **ret_session, struct error *err)
{
    struct qmp_session *session = calloc(1, sizeof(*session));
    int r = session != NULL ? 0 : -ENOMEM;

    if (session == NULL) {
        if (!options->stdio) {
            if (out != in)
                socket_close_client(&out);
            socket_close_client(&in);
        }
        return error_set(err, r, "%s: out of memory", options->label);
    }
    session->qmp = qmp;
    session->in = in;
    session->out = out;
    session->in_flags = session->out_flags = -1;
    session->options = *options;
    snprintf(session->label, sizeof(session->label), "%s", options->label);
    session->options.label = session->label;
    if (qmp->session_count >= QMP_SESSIONS_MAX) {
        r = error_set(err, -EMFILE, "%s: refused: there are %u QMP clients already", session->label,
                      qmp->session_count);
    } else {
        r = session_init_io(session);
        if (r < 0)
            error_set(err, r, "%s: %s", session->label, strerror(-r));
    }
    if (r < 0) {
        session_free(session);
        return r;
    }
    session_link(session);
    log_debug("%s: connected", session->label);
    qmp_session_send(session, qmp_build_greeting());
    *ret_session = session;
    return 0;
}

void qmp_session_close(struct qmp_session *session)
{
    if (session == NULL)
        return;
    log_debug("%s: closed", session->label);
    session_unlink(session);
    session_free(session);
}

/* ---- All sessions ---- */

int qmp_new(struct monitor *monitor, struct event_base *base, const struct qmp_command *commands,
            unsigned command_count, struct qmp **ret_qmp, struct error *err)
{
    struct qmp *qmp = calloc(1, sizeof(*qmp));

    if (qmp == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    signal(SIGPIPE, SIG_IGN); /* a client that is gone is an error of write(), no more */
    qmp->monitor = monitor;
    qmp->base = base;
    qmp->commands = commands;
    qmp->command_count = command_count;
    *ret_qmp = qmp;
    return 0;
}

void qmp_serve(struct qmp *qmp)
{
    qmp->serving = true;
    for (struct qmp_session *session = qmp->sessions; session != NULL; session = session->next)
        update(session);
}

void qmp_free(struct qmp *qmp)
{
    if (qmp == NULL)
        return;
    while (qmp->sessions != NULL)
        qmp_session_close(qmp->sessions);
    free(qmp);
}

unsigned qmp_session_count(const struct qmp *qmp)
{
    return qmp->session_count;
}

/* Write what can be written now, and list who has more. */
static nfds_t flush_once(struct qmp *qmp, struct pollfd *fds)
{
    nfds_t count = 0;

    for (struct qmp_session *session = qmp->sessions; session != NULL; session = session->next) {
        if (!session->doomed)
            write_output(session);
        if (!session->doomed && output_bytes(session) > 0)
            fds[count++] = (struct pollfd){ .fd = session->out, .events = POLLOUT };
    }
    return count;
}

void qmp_flush(struct qmp *qmp, unsigned timeout_ms)
{
    uint64_t end_ns = now_ns() + (uint64_t)timeout_ms * 1000000;
    struct pollfd fds[QMP_SESSIONS_MAX];
    nfds_t count = flush_once(qmp, fds);

    while (count > 0) {
        uint64_t now = now_ns();

        if (now >= end_ns)
            break;
        if (poll(fds, count, (int)((end_ns - now + 999999) / 1000000)) < 0 && errno != EINTR)
            break;
        count = flush_once(qmp, fds);
    }
}
