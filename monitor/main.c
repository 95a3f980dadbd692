/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead: the start of the monitor as named stages, in an order that matters: first the process becomes what it may
 * be (descriptors, account, limits, filter), only then does it carry out a single option. The command line is trusted;
 * of the environment only what a service manager says is looked at.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/sandbox/sandbox.h"
#include "monitor/export/export.h"
#include "monitor/export/nbd-server.h"
#include "monitor/monitor.h"
#include "monitor/qmp/chardev.h"
#include "monitor/qmp/commands.h"
#include "monitor/qmp/json-tree.h"
#include "monitor/startup/account.h"
#include "monitor/startup/daemon.h"
#include "monitor/startup/descriptors.h"
#include "monitor/startup/environment.h"
#include "monitor/startup/limits.h"
#include "monitor/startup/log-target.h"
#include "monitor/startup/options.h"

/* The exit status after a good life, when workers could not be ended. */
#define EXIT_LEFT_BEHIND 3

/* A service manager waits for READY=1 until it ends the service: up to 2 s for a place in its queue are worth it. */
#define READY_TRIES 20

/* A command of the command line whose reply is owed. */
struct pending {
    bool done;
    bool failed;
    struct error err;
};

struct startup {
    struct environment environment;
    struct startup_options options;
    struct monitor *monitor;
    struct pending pending;
    struct pidfile pidfile;
    int report_fd; /* --daemonize: to the process that was started; -1: none */
};

/* ---- The process ---- */

static int go_to_background(struct startup *startup, struct error *err)
{
    return startup->options.daemonize ? daemon_fork(&startup->report_fd, err) : 0;
}

static int keep_named_descriptors(struct startup *startup, struct error *err)
{
    int r = environment_name_descriptors(&startup->environment, &startup->options, err);

    return r == 0 ? descriptors_keep_named(&startup->options, err) : r;
}

static bool log_is_journal(const struct startup *startup)
{
    return environment_is_journal(&startup->environment, STDERR_FILENO);
}

static bool log_is_file(const struct startup *startup)
{
    return startup->options.log_to != NULL && strchr(startup->options.log_to, '/') != NULL;
}

/* A log that is kept tells of ends in order; whoever looks at standard error wants to hear of trouble. */
static int open_log(struct startup *startup, struct error *err)
{
    const struct startup_options *options = &startup->options;
    bool kept = options->log_to != NULL ? strcmp(options->log_to, "stderr") != 0 : options->daemonize;

    log_set_level(kept || log_is_journal(startup) ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING);
    if (options->has_log_level)
        log_set_level(options->log_level);
    return log_is_file(startup) ? 0 : log_target_open(options->log_to, log_is_journal(startup), err);
}

static int open_log_file(struct startup *startup, struct error *err)
{
    return log_is_file(startup) ? log_target_open(startup->options.log_to, false, err) : 0;
}

static int make_monitor(struct startup *startup, struct error *err)
{
    return monitor_new(&startup->monitor, err);
}

static int become_account(struct startup *startup, struct error *err)
{
    return account_become(startup->options.user, err);
}

static int raise_limits(struct startup *startup, struct error *err)
{
    return limits_raise(err);
}

static int start_mounter(struct startup *startup, struct error *err)
{
    monitor_start_mounter(startup->monitor);
    return 0;
}

static int lock_down(struct startup *startup, struct error *err)
{
    return sandbox_lock_monitor(err);
}

static int start_monitor(struct startup *startup, struct error *err)
{
    return monitor_start(startup->monitor, err);
}

/* ---- The command line ---- */

static void pending_done(const struct error *err, void *opaque)
{
    struct pending *pending = opaque;

    pending->done = true;
    pending->failed = err != NULL;
    if (err != NULL)
        pending->err = *err;
}

/* Runs the loop until the reply is there; clients wait meanwhile. */
static int wait_for_reply(struct startup *startup, struct error *err)
{
    struct pending *pending = &startup->pending;

    while (!pending->done && !startup->monitor->shut_down)
        monitor_turn(startup->monitor);
    if (!pending->done)
        return error_set(err, -EINTR, "ended before it was done");
    if (pending->failed && err != NULL)
        *err = pending->err;
    return pending->failed ? pending->err.code : 0;
}

static struct qmp_reply *new_reply(struct startup *startup, struct error *err)
{
    struct qmp_reply *reply;

    memset(&startup->pending, 0, sizeof(startup->pending));
    reply = qmp_reply_new(pending_done, &startup->pending);
    if (reply == NULL)
        error_set(err, -ENOMEM, "out of memory");
    return reply;
}

static int run_blockdev(struct startup *startup, const struct startup_item *item, struct error *err)
{
    struct qmp_reply *reply = new_reply(startup, err);

    if (reply == NULL)
        return -ENOMEM;
    qmp_run_blockdev_add(startup->monitor, &item->blockdev, reply);
    return wait_for_reply(startup, err);
}

static int run_nbd_server(struct startup *startup, const struct startup_item *item, struct error *err)
{
    struct qmp_reply *reply = new_reply(startup, err);

    if (reply == NULL)
        return -ENOMEM;
    nbd_server_start(startup->monitor->nbd_server, &item->nbd_server, SOCKET_FD_INHERITED, reply);
    return wait_for_reply(startup, err);
}

static int run_export(struct startup *startup, const struct startup_item *item, struct error *err)
{
    struct qmp_reply *reply = new_reply(startup, err);

    if (reply == NULL)
        return -ENOMEM;
    export_add(startup->monitor->exports, &item->export, SOCKET_FD_INHERITED, reply);
    return wait_for_reply(startup, err);
}

static int run_object(struct startup *startup, const struct startup_item *item, struct error *err)
{
    struct qmp_reply *reply = new_reply(startup, err);

    if (reply == NULL)
        return -ENOMEM;
    qmp_run_object_add(startup->monitor, &item->object, reply);
    return wait_for_reply(startup, err);
}

static int run_chardev(struct startup *startup, const struct startup_item *item, struct error *err)
{
    return chardev_add(startup->monitor->chardevs, &item->chardev, err);
}

static int run_monitor(struct startup *startup, const struct startup_item *item, struct error *err)
{
    return chardev_add_monitor(startup->monitor->chardevs, &item->monitor, err);
}

static int carry_out_options(struct startup *startup, struct error *err)
{
    static int (*const runs[STARTUP_ITEM_MAX])(struct startup *, const struct startup_item *, struct error *) = {
        [STARTUP_BLOCKDEV] = run_blockdev, [STARTUP_NBD_SERVER] = run_nbd_server, [STARTUP_EXPORT] = run_export,
        [STARTUP_CHARDEV] = run_chardev,   [STARTUP_MONITOR] = run_monitor,       [STARTUP_OBJECT] = run_object,
    };

    for (unsigned i = 0; i < startup->options.item_count; i++) {
        const struct startup_item *item = &startup->options.items[i];
        int r = runs[item->id](startup, item, err);

        if (startup->monitor->shutting_down)
            return error_set(err, -EINTR, "ended before it served");
        if (r < 0)
            return startup_item_blame(item, err);
    }
    return 0;
}

/* ---- It serves ---- */

static int write_pidfile(struct startup *startup, struct error *err)
{
    return startup->options.pidfile != NULL ? pidfile_write(startup->options.pidfile, &startup->pidfile, err) : 0;
}

static int leave_terminal(struct startup *startup, struct error *err)
{
    return startup->report_fd >= 0 ? daemon_detach(&startup->report_fd, err) : 0;
}

static int serve(struct startup *startup, struct error *err)
{
    monitor_serve(startup->monitor);
    environment_notify(&startup->environment, "READY=1\nSTATUS=serving", READY_TRIES);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(struct startup *startup, struct error *err);
} stages[] = {
    { "inherited descriptors", keep_named_descriptors }, /* nothing of ours may be open yet */
    { "background", go_to_background },                  /* before the loop, whose kernel objects a fork would share */
    { "log", open_log },                                 /* root may open a pipe anew that the account cannot */
    { "worker binaries", make_monitor },                 /* root may reach a build tree that the account cannot */
    { "limits", raise_limits },                          /* root may lift what the account may not */
    { "account", become_account },
    { "log file", open_log_file }, /* the account's */
    { "mounter", start_mounter },  /* what it runs is setuid, which the lock-down would end */
    { "lock-down", lock_down },
    { "services", start_monitor },
    { "options", carry_out_options },
    { "pid file", write_pidfile },
    { "terminal", leave_terminal },
    { "service", serve }, /* from here on clients are answered, and what they see is complete */
};

/* What was started ends in order, also if the start failed half way. How many workers could not be ended. */
static unsigned end(struct startup *startup)
{
    unsigned left;

    if (startup->monitor != NULL && startup->monitor->started && !startup->monitor->shut_down) {
        monitor_shut_down(startup->monitor, NULL);
        monitor_run(startup->monitor);
    }
    left = monitor_free(startup->monitor);
    pidfile_remove(&startup->pidfile);
    close_fd(&startup->report_fd);
    startup_options_done(&startup->options);
    return left;
}

static void run_until_shut_down(struct startup *startup)
{
    bool told = false;

    while (!startup->monitor->shut_down) {
        monitor_turn(startup->monitor);
        if (startup->monitor->shutting_down && !told)
            environment_notify(&startup->environment, "STOPPING=1", 1);
        told = startup->monitor->shutting_down;
    }
}

static int run(struct startup *startup, struct error *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(stages); i++) {
        int r = stages[i].run(startup, err);

        if (r < 0) {
            log_debug("start-up ended in stage '%s'", stages[i].name);
            return r;
        }
    }
    run_until_shut_down(startup);
    return 0;
}

/* Builds for tests look for leaks at the end, by tracing themselves, which a non-dumpable process cannot be. */
static void allow_leak_check(void)
{
#ifdef WITH_SANITIZERS
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#endif
}

static bool asks_for_text(const struct startup *startup, const char *program)
{
    if (startup->options.help)
        startup_options_help(program);
    else if (startup->options.version)
        printf("bulkhead version %s\n", VERSION);
    return startup->options.help || startup->options.version;
}

int main(int argc, char **argv)
{
    struct startup startup = { .pidfile.fd = -1, .report_fd = -1 };
    struct error err = { 0 };
    int r;

    json_wipe_what_is_freed();
    r = environment_take(&startup.environment, &err);
    if (r == 0)
        r = descriptors_fill_standard(&err);
    if (r == 0)
        r = startup_options_parse(argc, argv, &startup.options, &err);
    if (r == 0 && !asks_for_text(&startup, argv[0] != NULL ? argv[0] : "bulkhead"))
        r = run(&startup, &err);
    /* Told to end while it started: that is no failure, except to whoever waits for it to serve. */
    if (r == -EINTR && startup.monitor != NULL && startup.monitor->shutting_down)
        r = 0;
    if (r < 0)
        log_target_tell_failure(err.text);
    if (end(&startup) > 0 && r == 0)
        r = EXIT_LEFT_BEHIND;
    allow_leak_check();
    return r < 0 ? 1 : r;
}
