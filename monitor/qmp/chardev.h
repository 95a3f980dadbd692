/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chardevs (--chardev) and the monitors on them (--monitor): where QMP clients come from. A socket chardev connects as
 * a client unless server=on; a listening one serves any number of clients at once.
 */
#ifndef BULKHEAD_MONITOR_QMP_CHARDEV_H
#define BULKHEAD_MONITOR_QMP_CHARDEV_H

#include "monitor/qmp/session.h"
#include "monitor/qmp/types.h"

struct chardev_set;

#define CHARDEVS_MAX 16

int chardev_set_new(struct event_base *base, struct qmp *qmp, struct chardev_set **ret_set, struct error *err);
void chardev_set_free(struct chardev_set *set); /* closes sockets, ends their sessions, removes socket files */

/*
 * Open a chardev. With server=on and wait not off this returns when a client has connected: the loop runs meanwhile,
 * and event_base_loopbreak() or event_base_loopexit() ends the wait with -EINTR. 0 or -errno.
 */
int chardev_add(struct chardev_set *set, const struct chardev_options *options, struct error *err);

/* Serve QMP on a chardev that has no monitor yet. 0 or -errno. */
int chardev_add_monitor(struct chardev_set *set, const struct monitor_options *options, struct error *err);

#endif
