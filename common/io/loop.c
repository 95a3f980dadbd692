/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop. One turn: deliver descriptor events, run the mailbox, run expired timers, run hooks; then poll for a
 * while if that is asked for, and sleep. Trusts its callers (same process); must not allocate or create a descriptor
 * after io_loop_new(), because the sandbox is closed by then.
 *
 * Waking: another thread pushes to the mailbox and writes the eventfd only if it finds `sleeping` set. The loop sets
 * that flag first and looks at the mailbox after; both sides are sequentially consistent, so one of them sees the
 * other.
 */
#include "common/io/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#define LOOP_EVENTS_MAX 64 /* of one epoll_wait */

/*
 * Adaptive polling: where it starts from and how it grows; defaults of QEMU's iothread object. It shrinks by a quarter,
 * so that a client that is late now and then (its wake-up took long) is still waited for the next time, while one that
 * stays away costs about four times the maximum in all.
 */
#define POLL_START_NS 4000u
#define POLL_GROW     2u
#define POLL_SHRINK   4u

/* While polling, look at descriptors (a system call) only every so many rounds of the hooks. */
#define POLL_ROUNDS_PER_EPOLL 8

#define FOREVER UINT64_MAX

struct io_loop {
    int epoll_fd;
    struct io_watch wake;              /* an eventfd */
    _Atomic(struct io_task *) mailbox; /* newest first */
    atomic_bool sleeping;
    atomic_bool stop;
    bool has_pwait2;
    struct io_hook *hooks;
    struct io_timer *timers; /* by time */
    struct io_timer *last_timer;
    uint64_t timers_now_ns; /* when timers were looked at last */
    uint64_t poll_max_ns;
    uint64_t poll_ns; /* how long to poll now */
    /* The batch being delivered; io_loop_unwatch() strikes its watch out of it. */
    struct epoll_event events[LOOP_EVENTS_MAX];
    unsigned event_count;
    unsigned event_next;
};

/* ---- Descriptors ---- */

int io_loop_watch(struct io_loop *loop, struct io_watch *watch, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };
    int op = EPOLL_CTL_MOD;

    if (events == watch->events)
        return 0;
    /* epoll reports errors and hang-ups even for an empty set, so silence means not to be registered. */
    if (events == 0)
        op = EPOLL_CTL_DEL;
    else if (watch->events == 0)
        op = EPOLL_CTL_ADD;
    if (epoll_ctl(loop->epoll_fd, op, watch->fd, &event) < 0)
        return -errno;
    watch->events = events;
    return 0;
}

void io_loop_unwatch(struct io_loop *loop, struct io_watch *watch)
{
    if (watch->events != 0)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->events = 0;
    for (unsigned i = loop->event_next; i < loop->event_count; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
}

static void loop_deliver(struct io_loop *loop)
{
    while (loop->event_next < loop->event_count) {
        const struct epoll_event *event = &loop->events[loop->event_next++];
        struct io_watch *watch = event->data.ptr;
        uint32_t events;

        if (watch == NULL || watch->events == 0)
            continue;
        /* A callback before this one may have changed what the watch wants. */
        events = event->events & (watch->events | EPOLLERR | EPOLLHUP);
        if (events != 0)
            watch->ready(watch, events);
    }
    loop->event_next = loop->event_count = 0;
}

/* Fetch a batch of events; wait at most timeout_ns. Returns whether there are any. */
static bool loop_fetch(struct io_loop *loop, uint64_t timeout_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000u), .tv_nsec = (long)(timeout_ns % 1000000000u) };
    int n;

    if (loop->has_pwait2 && timeout_ns != 0) {
        n = epoll_pwait2(loop->epoll_fd, loop->events, LOOP_EVENTS_MAX, timeout_ns == FOREVER ? NULL : &ts, NULL);
    } else {
        uint64_t ms = timeout_ns / 1000000u + (timeout_ns % 1000000u != 0);

        n = epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS_MAX,
                       timeout_ns == FOREVER ? -1 : (int)MIN(ms, (uint64_t)INT32_MAX));
    }
    loop->event_next = 0;
    loop->event_count = n > 0 ? (unsigned)n : 0;
    return n > 0;
}

/* ---- Mailbox ---- */

static void loop_wake(struct io_loop *loop)
{
    uint64_t one = 1;

    if (atomic_exchange(&loop->sleeping, false)) {
        /* Cannot fail: the counter cannot fill up within the life of the process. */
        ssize_t n _unused_ = write(loop->wake.fd, &one, sizeof(one));
    }
}

void io_loop_post(struct io_loop *loop, struct io_task *task)
{
    struct io_task *head = atomic_load_explicit(&loop->mailbox, memory_order_relaxed);

    do {
        task->next = head;
    } while (!atomic_compare_exchange_weak(&loop->mailbox, &head, task));
    loop_wake(loop);
}

/* What is posted while this runs waits for the next turn, so that no chain of tasks starves the descriptors. */
static void loop_run_mailbox(struct io_loop *loop)
{
    struct io_task *task, *ordered = NULL;

    if (atomic_load_explicit(&loop->mailbox, memory_order_relaxed) == NULL)
        return;
    task = atomic_exchange(&loop->mailbox, NULL);
    while (task != NULL) {
        struct io_task *next = task->next;

        task->next = ordered;
        ordered = task;
        task = next;
    }
    while (ordered != NULL) {
        task = ordered;
        ordered = task->next;
        task->run(task);
    }
}

/* The eventfd is edge-triggered: each write raises an event, and its counter need not be read back. */
static void loop_woken(struct io_watch *watch, uint32_t events)
{
}

void io_loop_stop(struct io_loop *loop)
{
    atomic_store(&loop->stop, true);
    loop_wake(loop);
}

static bool loop_has_posted(struct io_loop *loop)
{
    return atomic_load(&loop->mailbox) != NULL || atomic_load(&loop->stop);
}

/* ---- Timers ---- */

void io_loop_timer_cancel(struct io_loop *loop, struct io_timer *timer)
{
    struct io_timer *before = NULL;

    if (timer->when_ns == 0)
        return;
    for (struct io_timer *t = loop->timers; t != timer; t = t->next)
        before = t;
    if (before == NULL)
        loop->timers = timer->next;
    else
        before->next = timer->next;
    if (loop->last_timer == timer)
        loop->last_timer = before;
    timer->when_ns = 0;
}

void io_loop_timer_set(struct io_loop *loop, struct io_timer *timer, uint64_t when_ns)
{
    struct io_timer **at = &loop->timers;

    io_loop_timer_cancel(loop, timer);
    /* A time past counts as now: a timer that sets itself again and again goes behind those that have waited. */
    timer->when_ns = MAX(when_ns, MAX(loop->timers_now_ns, 1u));
    /* Timers of one kind run for the same time, so a new one mostly belongs at the end. */
    if (loop->last_timer != NULL && loop->last_timer->when_ns <= timer->when_ns)
        at = &loop->last_timer->next;
    while (*at != NULL && (*at)->when_ns <= timer->when_ns)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    if (timer->next == NULL)
        loop->last_timer = timer;
}

/* As many as have expired when this starts: a timer that sets itself to a time past cannot hold the loop. */
static void loop_run_timers(struct io_loop *loop)
{
    unsigned count = 0;
    uint64_t now;

    if (loop->timers == NULL)
        return;
    now = loop->timers_now_ns = now_ns();
    for (struct io_timer *t = loop->timers; t != NULL && t->when_ns <= now; t = t->next)
        count++;
    while (count-- > 0 && loop->timers != NULL && loop->timers->when_ns <= now) {
        struct io_timer *timer = loop->timers;

        io_loop_timer_cancel(loop, timer);
        timer->expired(timer);
    }
}

static uint64_t loop_timeout(const struct io_loop *loop)
{
    uint64_t now;

    if (loop->timers == NULL)
        return FOREVER;
    now = now_ns();
    return loop->timers->when_ns > now ? loop->timers->when_ns - now : 0;
}

/* ---- Hooks, polling, sleeping ---- */

void io_loop_add_hook(struct io_loop *loop, struct io_hook *hook)
{
    hook->next = loop->hooks;
    loop->hooks = hook;
}

static bool loop_run_hooks(struct io_loop *loop)
{
    bool progress = false;

    for (struct io_hook *hook = loop->hooks; hook != NULL; hook = hook->next)
        progress |= hook->run(hook);
    return progress;
}

void io_loop_set_polling(struct io_loop *loop, uint64_t max_ns)
{
    loop->poll_max_ns = max_ns;
    loop->poll_ns = 0;
}

/*
 * Longer when a little more polling would have saved a sleep; less with each time that the maximum would not have, until
 * it is none: a single late client costs a sleep, not the many that it takes to grow again.
 */
static void loop_adapt_polling(struct io_loop *loop, uint64_t waited_ns)
{
    uint64_t shrunk_ns = loop->poll_ns - loop->poll_ns / POLL_SHRINK;

    if (waited_ns > loop->poll_max_ns)
        loop->poll_ns = shrunk_ns < POLL_START_NS ? 0 : shrunk_ns;
    else if (waited_ns > loop->poll_ns)
        loop->poll_ns = MIN(loop->poll_max_ns, MAX(loop->poll_ns * POLL_GROW, POLL_START_NS));
}

/* Returns whether something came within poll_ns, and no later than the next timer. */
static bool loop_poll(struct io_loop *loop, uint64_t start_ns)
{
    uint64_t end_ns = start_ns + MIN(loop->poll_ns, loop_timeout(loop));

    for (unsigned round = 0;; round++) {
        if (loop_has_posted(loop) || loop_run_hooks(loop))
            return true;
        if (round % POLL_ROUNDS_PER_EPOLL == 0) {
            if (loop_fetch(loop, 0))
                return true;
            if (now_ns() >= end_ns)
                return false;
        }
    }
}

static void loop_sleep(struct io_loop *loop)
{
    bool work = false;

    for (struct io_hook *hook = loop->hooks; hook != NULL; hook = hook->next) {
        if (hook->before_sleep != NULL)
            work |= hook->before_sleep(hook);
    }
    atomic_store(&loop->sleeping, true);
    loop_fetch(loop, work || loop_has_posted(loop) ? 0 : loop_timeout(loop));
    atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
}

static void loop_wait(struct io_loop *loop)
{
    uint64_t start_ns;

    if (loop->poll_max_ns == 0) {
        loop_sleep(loop);
        return;
    }
    start_ns = now_ns();
    if (loop->poll_ns != 0 && loop_poll(loop, start_ns))
        return;
    loop_sleep(loop);
    loop_adapt_polling(loop, now_ns() - start_ns);
}

void io_loop_run(struct io_loop *loop)
{
    do {
        bool progress;

        loop_deliver(loop);
        loop_run_mailbox(loop);
        loop_run_timers(loop);
        progress = loop_run_hooks(loop);
        if (progress || loop_has_posted(loop))
            loop_fetch(loop, 0);
        else
            loop_wait(loop);
    } while (!atomic_exchange(&loop->stop, false));
}

/* ---- Life ---- */

struct io_loop *io_loop_new(struct error *err)
{
    struct io_loop *loop = calloc(1, sizeof(*loop));
    struct timespec zero = { 0 };
    int ret;

    if (loop == NULL) {
        error_set(err, -ENOMEM, "no memory for an event loop");
        return NULL;
    }
    loop->wake = (struct io_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = loop_woken };
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->wake.fd < 0 || loop->epoll_fd < 0) {
        error_set(err, -errno, "cannot create the descriptors of an event loop: %s", strerror(errno));
        io_loop_free(loop);
        return NULL;
    }
    ret = io_loop_watch(loop, &loop->wake, EPOLLIN | EPOLLET);
    if (ret < 0) {
        error_set(err, ret, "cannot watch the wake-up descriptor of an event loop: %s", strerror(-ret));
        io_loop_free(loop);
        return NULL;
    }
    /* Nanosecond timeouts exist since Linux 5.11. */
    loop->has_pwait2 = epoll_pwait2(loop->epoll_fd, loop->events, 1, &zero, NULL) == 0;
    return loop;
}

void io_loop_free(struct io_loop *loop)
{
    if (loop == NULL)
        return;
    close_fd(&loop->wake.fd);
    close_fd(&loop->epoll_fd);
    free(loop);
}
