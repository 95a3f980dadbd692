/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the harness share, and no role needs to see.
 */
#ifndef BULKHEAD_WORKER_WORKER_PRIVATE_H
#define BULKHEAD_WORKER_WORKER_PRIVATE_H

#include <pthread.h>

#include "common/io/loop.h"
#include "common/ipc/catalogue.h"
#include "common/ipc/channel.h"
#include "common/sandbox/sandbox.h"
#include "common/worker/worker.h"

/* Where the spawner put them; 0 to 2 are /dev/null. */
#define WORKER_CONTROL_FD    3
#define WORKER_STATUS_FD     4
#define WORKER_FIRST_FREE_FD 5

#define REPORT_LOGS_MAX    256  /* log records that may wait for the pipe; further ones are dropped and counted */
#define REPORT_RECORDS_MAX 8192 /* all records that may wait; more: the monitor is not there, the worker ends */

/* A record that found the pipe full. */
struct report_entry {
    struct report_entry *next;
    struct ipc_status status;
};

struct report_queue {
    struct worker *worker;
    pthread_mutex_t lock;
    struct report_entry *head;
    struct report_entry **tail;
    unsigned count;
    unsigned logs;
    unsigned logs_dropped;
    bool exiting; /* nothing is taken any more; the loop ends when all is written */
    /* Errors of requests: at most one record per operation and second. */
    uint64_t io_error_ns[WORKER_PAGE_OPS];
    uint64_t io_error_suppressed[WORKER_PAGE_OPS];
    struct io_task flush_task; /* brings the queue to the control thread's attention */
    bool flush_posted;
    struct io_watch watch; /* the status pipe, for its having room again */
};

struct worker_private {
    enum worker_state state;
    struct sandbox sandbox;
    struct report_queue reports;
    struct io_watch control_watch;
    struct channel_message message; /* being handled; too large for a stack */
    struct io_loop **io_loops;
    unsigned thread_count;
};

/* report.c: may be called once the private part exists; before the loop runs, records are written at once or wait. */
void report_queue_init(struct worker *worker);
/* The loop is there: from now on waiting records are written when the pipe has room. */
int report_queue_attach(struct worker *worker, struct error *err);
/* Have log_message() end in status records. */
void report_take_log(struct worker *worker);
/* Write FAILED and end the process with status 1. */
void report_failed_and_exit(struct worker *worker, const struct error *err) __attribute__((noreturn));

/* control.c: watch the control socket; dispatch by the tables. */
int control_attach(struct worker *worker, struct error *err);

/* boot.c: wait for BOOT, check it, take its descriptors: the page is mapped, images are in image_fds. */
int boot_receive(struct worker *worker, int image_fds[IPC_IMAGE_FDS_MAX], struct error *err);

#endif
