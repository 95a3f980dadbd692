/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of the monitor as a whole; see monitor.h. Trusts its own parts; what comes from clients and workers has been
 * checked by them.
 */
#include "monitor/monitor.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <string.h>

#include "common/base/log.h"
#include "monitor/export/export.h"
#include "monitor/export/mounter.h"
#include "monitor/export/nbd-server.h"
#include "monitor/graph/node.h"
#include "monitor/graph/objects.h"
#include "monitor/graph/opener.h"
#include "monitor/qmp/chardev.h"
#include "monitor/qmp/commands.h"
#include "monitor/qmp/session.h"
#include "monitor/worker/worker.h"

/* One for all: workers drain, are killed, are given up; this is for what keeps an export from ending beside its worker.
 */
#define SHUTDOWN_MAX_MS (EXPORT_DRAIN_MS + 5000)
#define FLUSH_MAX_MS    2000 /* for QMP clients to take what was sent to them last */

static const int end_signals[] = { SIGTERM, SIGINT, SIGHUP };

_Static_assert(ARRAY_SIZE(end_signals) == ARRAY_SIZE(((struct monitor *)0)->signals), "an event for each signal");

struct qmp *monitor_qmp(struct monitor *monitor)
{
    return monitor->qmp;
}

/* ---- Start ---- */

static struct event_base *make_base(void)
{
    struct event_config *config = event_config_new();
    struct event_base *base = NULL;

    if (config != NULL && event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV) == 0)
        base = event_base_new_with_config(config);
    if (config != NULL)
        event_config_free(config);
    return base;
}

int monitor_new(struct monitor **ret_monitor, struct error *err)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    int r;

    if (monitor == NULL || (monitor->base = make_base()) == NULL) {
        free(monitor);
        return error_set(err, -ENOMEM, "cannot make an event loop");
    }
    r = worker_set_new(monitor->base, &monitor->workers, err);
    if (r == 0)
        r = mounter_new(monitor->base, &monitor->mounter, err);
    if (r < 0) {
        monitor_free(monitor);
        return r;
    }
    *ret_monitor = monitor;
    return 0;
}

void monitor_start_mounter(struct monitor *monitor)
{
    mounter_start(monitor->mounter);
}

static void signal_came(evutil_socket_t number, short what, void *arg)
{
    struct monitor *monitor = arg;

    if (!monitor->shutting_down)
        log_info("ending, because of signal %d (%s)", (int)number, strsignal((int)number));
    monitor_shut_down(monitor, NULL);
}

static int watch_signals(struct monitor *monitor, struct error *err)
{
    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < ARRAY_SIZE(end_signals); i++) {
        monitor->signals[i] = evsignal_new(monitor->base, end_signals[i], signal_came, monitor);
        if (monitor->signals[i] == NULL || evsignal_add(monitor->signals[i], NULL) < 0)
            return error_set(err, -ENOMEM, "cannot watch signals");
    }
    return 0;
}

static void shutdown_timer_expired(evutil_socket_t fd, short what, void *arg);

int monitor_start(struct monitor *monitor, struct error *err)
{
    int r = watch_signals(monitor, err);

    monitor->shutdown_timer = evtimer_new(monitor->base, shutdown_timer_expired, monitor);
    if (r == 0 && monitor->shutdown_timer == NULL)
        r = error_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = mounter_attach(monitor->mounter, err);
    if (r == 0)
        r = opener_new(monitor, &monitor->opener, err);
    if (r == 0)
        r = graph_new(monitor, &monitor->graph, err);
    if (r == 0)
        r = object_set_new(monitor, &monitor->objects, err);
    if (r == 0)
        r = export_set_new(monitor, &monitor->exports, err);
    if (r == 0)
        r = nbd_server_new(monitor, &monitor->nbd_server, err);
    if (r == 0)
        r = qmp_new(monitor, monitor->base, qmp_commands, qmp_command_count, &monitor->qmp, err);
    if (r == 0)
        r = chardev_set_new(monitor->base, monitor->qmp, &monitor->chardevs, err);
    if (r == 0)
        r = worker_set_probe(monitor->workers, err);
    if (r == 0)
        r = opener_start(monitor->opener, err);
    monitor->started = r == 0;
    return r;
}

void monitor_serve(struct monitor *monitor)
{
    monitor->serving = true;
    nbd_server_serve(monitor->nbd_server);
    qmp_serve(monitor->qmp);
}

/* From here on a signal that says what is happening already does nothing; libevent would bring its default back. */
static void hold_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(end_signals); i++)
        sigaddset(&set, end_signals[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

unsigned monitor_free(struct monitor *monitor)
{
    unsigned left;

    if (monitor == NULL)
        return 0;
    hold_signals();
    if (monitor->qmp != NULL)
        qmp_flush(monitor->qmp, FLUSH_MAX_MS);
    left = worker_set_free(monitor->workers); /* without callbacks: whoever owned one may not be called any more */
    mounter_free(monitor->mounter);    /* without callbacks too; unmounts what is left */
    nbd_server_free(monitor->nbd_server);
    export_set_free(monitor->exports);
    object_set_free(monitor->objects);
    graph_free(monitor->graph);
    left += opener_free(monitor->opener);
    chardev_set_free(monitor->chardevs);
    qmp_free(monitor->qmp);
    for (unsigned i = 0; i < ARRAY_SIZE(monitor->signals); i++) {
        if (monitor->signals[i] != NULL)
            event_free(monitor->signals[i]);
    }
    if (monitor->shutdown_timer != NULL)
        event_free(monitor->shutdown_timer);
    event_base_free(monitor->base);
    free(monitor);
    return left;
}

void monitor_turn(struct monitor *monitor)
{
    event_base_loop(monitor->base, EVLOOP_ONCE);
}

void monitor_run(struct monitor *monitor)
{
    while (!monitor->shut_down)
        monitor_turn(monitor);
}

/* ---- End ---- */

static void finish(struct monitor *monitor)
{
    if (monitor->shut_down)
        return;
    monitor->shut_down = true;
    event_del(monitor->shutdown_timer);
    for (unsigned i = 0; i < monitor->quit_count; i++)
        qmp_reply_ok(monitor->quits[i], NULL);
    monitor->quit_count = 0;
    /* Whoever waits in the loop, for a chardev's client or at the start, finds shut_down set. */
    event_base_loopbreak(monitor->base);
}

static void exports_gone(void *opaque)
{
    finish(opaque);
}

static void shutdown_timer_expired(evutil_socket_t fd, short what, void *arg)
{
    log_error("ending although exports are left that could not be ended in time");
    finish(arg);
}

int monitor_check_running(const struct monitor *monitor, struct error *err)
{
    return monitor->shutting_down ? error_set(err, -ESHUTDOWN, "the program is about to end") : 0;
}

void monitor_shut_down(struct monitor *monitor, struct qmp_reply *reply)
{
    struct timeval tv = { .tv_sec = SHUTDOWN_MAX_MS / 1000 };

    if (reply != NULL) {
        if (monitor->shut_down || monitor->quit_count == MONITOR_QUITS_MAX)
            qmp_reply_ok(reply, NULL);
        else
            monitor->quits[monitor->quit_count++] = reply;
    }
    if (monitor->shutting_down)
        return;
    monitor->shutting_down = true;
    evtimer_add(monitor->shutdown_timer, &tv);
    nbd_server_close(monitor->nbd_server);
    export_set_remove_all(monitor->exports, EXPORT_TYPE_ANY, exports_gone, monitor);
}
