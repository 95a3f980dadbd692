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
    uint32_t events; /* EPOLLIN, EPOLLOUT; set through io_loop_watch(), starts as 0 */
    void (*ready)(struct io_watch *watch, uint32_t events);
};

/* One piece of work for a loop; embedded by its owner, free to be reused or freed as soon as run() starts. */
struct io_task {
    struct io_task *next;
    void (*run)(struct io_task *task);
};

/*
 * Runs at the end of each turn and while the loop polls. run() returns true if it made progress: the loop then does not
 * sleep. before_sleep() (may be NULL) is asked last before the loop blocks: the place to switch notifications on again,
 * look once more, and return true if work has come meanwhile.
 */
struct io_hook {
    struct io_hook *next;
    bool (*run)(struct io_hook *hook);
    bool (*before_sleep)(struct io_hook *hook);
};

/* A one-shot timer; embedded by its owner. */
struct io_timer {
    struct io_timer *next;
    uint64_t when_ns; /* CLOCK_MONOTONIC; 0: not armed */
    void (*expired)(struct io_timer *timer);
};

struct io_loop *io_loop_new(struct error *err);
void io_loop_free(struct io_loop *loop);

/*
 * Start watching, or change the events. Level-triggered unless EPOLLET is among them. EPOLLERR and EPOLLHUP are always
 * delivered, except with events 0, which is silent (and what a watch starts with). 0 or -errno.
 */
int io_loop_watch(struct io_loop *loop, struct io_watch *watch, uint32_t events);

/*
 * Stop watching; safe from within any callback of this loop, also for a watch whose event is still undelivered. Comes
 * before the descriptor is closed. Calling it twice is fine.
 */
void io_loop_unwatch(struct io_loop *loop, struct io_watch *watch);

/*
 * The hook added last runs first: upper layers are set up after lower ones, so what their hooks submit is on its way
 * in the same turn.
 */
void io_loop_add_hook(struct io_loop *loop, struct io_hook *hook);

/* Arm, or move, a timer. A time that is past expires at the end of this turn. Cancelling an unarmed timer is fine. */
void io_loop_timer_set(struct io_loop *loop, struct io_timer *timer, uint64_t when_ns);
void io_loop_timer_cancel(struct io_loop *loop, struct io_timer *timer);

/* From any thread: have task->run() called on the loop's thread, after this returned, in the order of posting. */
void io_loop_post(struct io_loop *loop, struct io_task *task);

/* Runs until io_loop_stop(); may be called again after that. */
void io_loop_run(struct io_loop *loop);

/* From any thread. Called before io_loop_run(), it makes that return after one turn. */
void io_loop_stop(struct io_loop *loop);

/*
 * Busy-poll hooks and descriptors for at most max_ns before sleeping, growing and shrinking adaptively as the iothread
 * object of QEMU does; 0 (the default) never polls.
 */
void io_loop_set_polling(struct io_loop *loop, uint64_t max_ns);

#endif
