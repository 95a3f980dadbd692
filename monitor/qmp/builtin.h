/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands about the protocol itself, and the greeting. */
#ifndef BULKHEAD_MONITOR_QMP_BUILTIN_H
#define BULKHEAD_MONITOR_QMP_BUILTIN_H

struct cJSON;

/*
 * The version of QEMU whose storage daemon's interface this is: clients look at it to know what they may use, and
 * query-qmp-schema tells them exactly.
 */
#define QMP_VERSION_MAJOR 10
#define QMP_VERSION_MINOR 0
#define QMP_VERSION_MICRO 0

/* The greeting of qmp-spec, "Server Greeting"; NULL: out of memory. */
struct cJSON *qmp_build_greeting(void);

#endif
