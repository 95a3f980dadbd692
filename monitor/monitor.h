/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor: everything that the process has, in one struct that is passed down. What the parts are is in their own
 * folders; here is how they live and end together.
 */
#ifndef BULKHEAD_MONITOR_MONITOR_H
#define BULKHEAD_MONITOR_MONITOR_H

#include "common/base/error.h"

struct chardev_set;
struct event;
struct event_base;
struct export_set;
struct graph;
struct mounter;
struct nbd_server;
struct object_set;
struct opener;
struct qmp;
struct qmp_reply;
struct worker_set;

/* How many clients may send "quit" at the same time and get an answer. */
#define MONITOR_QUITS_MAX 64

struct monitor {
    struct event_base *base;
    struct event *signals[3];
    struct worker_set *workers;
    struct mounter *mounter;
    struct qmp *qmp;
    struct chardev_set *chardevs;
    struct opener *opener;
    struct graph *graph;
    struct object_set *objects;
    struct export_set *exports;
    struct nbd_server *nbd_server;

    bool started;       /* all of the above is there */
    bool serving;       /* the command line has been carried out: clients are served */
    bool shutting_down; /* no more commands that start something; exports are on their way out */
    bool shut_down;     /* all exports are gone, or have been given up */
    struct event *shutdown_timer;
    struct qmp_reply *quits[MONITOR_QUITS_MAX];
    unsigned quit_count;
};

/* The loop and the binaries of the workers; all that may need rights which are given up afterwards. 0 or -errno. */
int monitor_new(struct monitor **ret_monitor, struct error *err);

/* The mounter, as the account, before no_new_privs. */
void monitor_start_mounter(struct monitor *monitor);

/* Everything else, when the process is what it will be: signals, QMP, nodes, exports. 0 or -errno. */
int monitor_start(struct monitor *monitor, struct error *err);

/* All that the command line asked for is there: clients, who have been waiting until now, are served. */
void monitor_serve(struct monitor *monitor);

/* Whatever is left: kills workers, closes and removes sockets. NULL is fine. How many workers could not be ended. */
unsigned monitor_free(struct monitor *monitor);

/* Runs until it is shut down, by a signal or by "quit". */
void monitor_run(struct monitor *monitor);

/* One turn of the loop, which sleeps until something happens. */
void monitor_turn(struct monitor *monitor);

/*
 * End in order: no new clients, all exports drained, their events sent; then the loop ends. reply, which may be NULL, is
 * answered after the events. May be called again.
 */
void monitor_shut_down(struct monitor *monitor, struct qmp_reply *reply);

/* -ESHUTDOWN with a text once the monitor shuts down. */
int monitor_check_running(const struct monitor *monitor, struct error *err);

#endif
