/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop of a worker's threads: epoll over descriptors, a mailbox through which other threads hand it work, and
 * hooks that run once per turn before it sleeps (an io_queue submits there what a turn has collected). One loop belongs
 * to one thread; only io_loop_post() and io_loop_stop() may be called from others.
 *
 * All descriptors that the loop itself needs are created by io_loop_new(), hence before lock-down; adding a descriptor
 * later needs epoll_ctl only.
 */
#ifndef BULKHEAD_IO_LOOP_H
#define BULKHEAD_IO_LOOP_H

#include <sys/epoll.h>

#include "common/base/error.h"

struct io_loop;

/* One watched descriptor; embedded by its owner. */
struct io_watch {
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT; set through io_loop_watch() */
    void (*ready)(struct io_watch *watch, uint32_t events);
};

/* One piece of work for a loop; embedded by its owner, free to be reused or freed as soon as run() starts. */
struct io_task {
    struct io_task *next;
    void (*run)(struct io_task *task);
};

/* Runs at the end of each turn, before the loop sleeps. Returns true if it made progress (the loop then does not sleep). */
struct io_hook {
    struct io_hook *next;
    bool (*run)(struct io_hook *hook);
};

/* A one-shot timer; embedded by its owner. */
struct io_timer {
    struct io_timer *next;
    uint64_t when_ns; /* CLOCK_MONOTONIC; 0: not armed */
    void (*expired)(struct io_timer *timer);
};

struct io_loop *io_loop_new(struct error *err);
void io_loop_free(struct io_loop *loop);

/* Start watching, or change the events (0 keeps it registered but silent). 0 or -errno. Level-triggered. */
int io_loop_watch(struct io_loop *loop, struct io_watch *watch, uint32_t events);

/* Stop watching; safe from within any callback of this loop, also for a watch whose event is still undelivered. */
void io_loop_unwatch(struct io_loop *loop, struct io_watch *watch);

void io_loop_add_hook(struct io_loop *loop, struct io_hook *hook);

void io_loop_timer_set(struct io_loop *loop, struct io_timer *timer, uint64_t when_ns);
void io_loop_timer_cancel(struct io_loop *loop, struct io_timer *timer);

/* From any thread: have task->run() called on the loop's thread. */
void io_loop_post(struct io_loop *loop, struct io_task *task);

/* Runs until io_loop_stop(). */
void io_loop_run(struct io_loop *loop);

/* From any thread. */
void io_loop_stop(struct io_loop *loop);

/*
 * Busy-poll hooks and descriptors for at most max_ns before sleeping, growing and shrinking adaptively as the iothread
 * object of QEMU does; 0 (the default) never polls.
 */
void io_loop_set_polling(struct io_loop *loop, uint64_t max_ns);

#endif
