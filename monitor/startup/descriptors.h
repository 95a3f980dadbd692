/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors that the process starts with: 0 to 2, those that the operator names, and nothing else.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_DESCRIPTORS_H
#define BULKHEAD_MONITOR_STARTUP_DESCRIPTORS_H

#include "monitor/startup/options.h"

/* First of all, before anything is opened: /dev/null in the place of 0, 1 or 2 if one is missing. 0 or -errno. */
int descriptors_fill_standard(struct error *err);

/*
 * Before anything else is opened: check that the descriptors which options name were passed to us, and close all
 * others. 0 or -errno.
 */
int descriptors_keep_named(const struct startup_options *options, struct error *err);

/* /dev/null for 0 to 2: a daemon leaves the terminal. */
int descriptors_leave_terminal(struct error *err);

#endif
