/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One virtqueue at work: an I/O thread takes requests off the ring, has the block layer execute them, and gives them
 * back in batches. The control thread sets a queue up and starts and stops it; between vhost_queue_start() and the
 * call of stopped() everything but the few fields marked so belongs to the I/O thread.
 */
#ifndef BULKHEAD_VHOST_QUEUE_H
#define BULKHEAD_VHOST_QUEUE_H

#include "common/worker/worker.h"
#include "vhost-worker/slots.h"

struct vhost_queue;

/* What all queues of the export share; the control thread changes it only while all of them rest. */
struct vhost_shared {
    struct worker *worker;
    struct blk_device device;
    struct vhost_memory memory;
    struct vhost_dirty_log log;
    int log_fd;   /* eventfd to tell of changes to the log; -1: none */
    bool log_all; /* VHOST_F_LOG_ALL */
};

/* All queues of one I/O thread: one hook of its loop serves them. */
struct vhost_thread {
    struct worker_io_thread *io;
    struct io_hook hook;
    struct vhost_queue *running; /* list */
};

struct vhost_queue {
    struct vhost_shared *shared;
    struct vhost_thread *thread;
    unsigned index;

    /* Set by the control thread while the queue rests. */
    int kick_fd, call_fd, err_fd; /* -1: none */
    struct vring ring;            /* made by vring_init() before vhost_queue_start() */
    struct vhost_inflight_queue inflight;
    /* Called on the control thread: the queue rests now; nothing is in flight, all is published. */
    void (*stopped)(struct vhost_queue *queue);
    /* Called on the control thread, once per start: the ring is not usable any more, broken_error says why. */
    void (*broken)(struct vhost_queue *queue);
    struct error broken_error;
    bool kicked; /* survives a stop: the ring has been started by a kick */

    /* The I/O thread's. */
    struct vhost_queue *next; /* in vhost_thread.running */
    struct io_watch kick;
    bool kick_is_stream; /* a pipe or socket, whose bytes must be read */
    bool is_running;
    bool is_stopping;
    bool is_broken;
    struct vhost_slots slots;
    struct io_task start_task, stop_task;     /* to the I/O thread */
    struct io_task stopped_task, broken_task; /* to the control thread */

    /* Counted here, added to the worker's page once per batch. */
    uint64_t ops[WORKER_PAGE_OPS], bytes[WORKER_PAGE_OPS], errors[WORKER_PAGE_OPS];
    bool counted;
};

/* On the control thread, before the loop of thread runs. */
void vhost_thread_init(struct vhost_thread *thread, struct worker_io_thread *io);

void vhost_queue_init(struct vhost_queue *queue, struct vhost_shared *shared, struct vhost_thread *thread,
                      unsigned index);
void vhost_queue_reset(struct vhost_queue *queue); /* at rest: releases all that a session left in it */

/* Take fd for kicks. 0; -EINVAL: it cannot be watched, and is still the caller's. */
int vhost_queue_set_kick(struct vhost_queue *queue, int fd, struct error *err);

/* Signal a descriptor that was checked; -1: there is none. */
void vhost_signal_fd(int fd);

/* Whether fd may be written to in order to signal: 0; -EINVAL if that could block an I/O thread, or change a file. */
int vhost_signal_fd_check(int fd, struct error *err);

/* From the control thread, with a ring that is set up: hand the queue to its I/O thread. 0 or -ENOMEM. */
int vhost_queue_start(struct vhost_queue *queue, struct error *err);

/* From the control thread, for a queue that was started: stopped() is called when it rests. */
void vhost_queue_stop(struct vhost_queue *queue);

#endif
