/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "common/io/loop.h"

#define MS 1000000u

/* A loop, and everything a callback of these tests needs, at the place that container_of finds. */
struct fixture {
    struct io_loop *loop;
    int pair[2];
    int other_pair[2];
    struct io_watch watch;
    struct io_watch other;
    struct io_timer timer;
    struct io_timer later;
    struct io_hook hook;
    struct io_hook second_hook;
    struct io_task task;
    unsigned calls;
    unsigned other_calls;
    uint32_t events;
    char order[16];
};

static void note(struct fixture *f, char what)
{
    size_t len = strlen(f->order);

    assert_true(len + 1 < sizeof(f->order));
    f->order[len] = what;
}

static void stop_on_timer(struct io_timer *timer)
{
    io_loop_stop(container_of(timer, struct fixture, timer)->loop);
}

/* Every test ends after this long at the latest. */
static void stop_after(struct fixture *f, unsigned ms)
{
    f->timer.expired = stop_on_timer;
    io_loop_timer_set(f->loop, &f->timer, now_ns() + ms * (uint64_t)MS);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = { 0 };

    f->loop = io_loop_new(&err);
    assert_non_null(f->loop);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, f->pair), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, f->other_pair), 0);
    f->watch.fd = f->pair[0];
    f->other.fd = f->other_pair[0];
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 2; i++) {
        close_fd(&f->pair[i]);
        close_fd(&f->other_pair[i]);
    }
    io_loop_free(f->loop);
    free(f);
    return 0;
}

/* ---- Descriptors ---- */

static void ready_reads(struct io_watch *watch, uint32_t events)
{
    struct fixture *f = container_of(watch, struct fixture, watch);
    char byte;

    f->calls++;
    f->events = events;
    assert_int_equal(read(watch->fd, &byte, 1), 1);
    io_loop_stop(f->loop);
}

static void test_a_readable_descriptor_is_delivered(void **state)
{
    struct fixture *f = *state;

    f->watch.ready = ready_reads;
    assert_int_equal(io_loop_watch(f->loop, &f->watch, EPOLLIN), 0);
    assert_int_equal(write(f->pair[1], "x", 1), 1);
    stop_after(f, 5000);
    io_loop_run(f->loop);
    assert_int_equal(f->calls, 1);
    assert_int_equal(f->events, EPOLLIN);
}

static void test_events_zero_is_silent_even_for_a_hang_up(void **state)
{
    struct fixture *f = *state;

    f->watch.ready = ready_reads;
    assert_int_equal(io_loop_watch(f->loop, &f->watch, EPOLLIN), 0);
    assert_int_equal(io_loop_watch(f->loop, &f->watch, 0), 0);
    close_fd(&f->pair[1]);
    stop_after(f, 5);
    io_loop_run(f->loop);
    assert_int_equal(f->calls, 0);
}

static void test_a_bad_descriptor_is_an_error(void **state)
{
    struct fixture *f = *state;

    f->watch.fd = -1;
    assert_int_equal(io_loop_watch(f->loop, &f->watch, EPOLLIN), -EBADF);
    f->watch.fd = f->pair[0];
    assert_int_equal(f->watch.events, 0);
}

static void ready_unwatches_the_other(struct io_watch *watch, uint32_t events)
{
    struct fixture *f = container_of(watch, struct fixture, watch);

    f->calls++;
    io_loop_unwatch(f->loop, &f->watch);
    io_loop_unwatch(f->loop, &f->other);
}

static void other_unwatches_the_first(struct io_watch *watch, uint32_t events)
{
    struct fixture *f = container_of(watch, struct fixture, other);

    f->other_calls++;
    io_loop_unwatch(f->loop, &f->watch);
    io_loop_unwatch(f->loop, &f->other);
}

static void test_unwatch_strikes_an_event_that_is_undelivered(void **state)
{
    struct fixture *f = *state;

    f->watch.ready = ready_unwatches_the_other;
    f->other.ready = other_unwatches_the_first;
    assert_int_equal(io_loop_watch(f->loop, &f->watch, EPOLLIN), 0);
    assert_int_equal(io_loop_watch(f->loop, &f->other, EPOLLIN), 0);
    assert_int_equal(write(f->pair[1], "x", 1), 1);
    assert_int_equal(write(f->other_pair[1], "x", 1), 1);
    stop_after(f, 5);
    io_loop_run(f->loop);
    /* Both were ready in one batch; whoever came first took the other out. */
    assert_int_equal(f->calls + f->other_calls, 1);
}

static void ready_silences_the_other(struct io_watch *watch, uint32_t events)
{
    struct fixture *f = container_of(watch, struct fixture, watch);

    f->calls++;
    io_loop_watch(f->loop, &f->watch, 0);
    io_loop_watch(f->loop, &f->other, 0);
}

static void other_silences_the_first(struct io_watch *watch, uint32_t events)
{
    struct fixture *f = container_of(watch, struct fixture, other);

    f->other_calls++;
    io_loop_watch(f->loop, &f->watch, 0);
    io_loop_watch(f->loop, &f->other, 0);
}

static void test_silence_applies_to_an_event_that_is_undelivered(void **state)
{
    struct fixture *f = *state;

    f->watch.ready = ready_silences_the_other;
    f->other.ready = other_silences_the_first;
    assert_int_equal(io_loop_watch(f->loop, &f->watch, EPOLLIN), 0);
    assert_int_equal(io_loop_watch(f->loop, &f->other, EPOLLIN), 0);
    assert_int_equal(write(f->pair[1], "x", 1), 1);
    assert_int_equal(write(f->other_pair[1], "x", 1), 1);
    stop_after(f, 5);
    io_loop_run(f->loop);
    assert_int_equal(f->calls + f->other_calls, 1);
}

/* ---- Mailbox ---- */

static void task_stops(struct io_task *task)
{
    struct fixture *f = container_of(task, struct fixture, task);

    f->calls++;
    io_loop_stop(f->loop);
}

static void test_a_task_posted_before_run_runs(void **state)
{
    struct fixture *f = *state;

    f->task.run = task_stops;
    io_loop_post(f->loop, &f->task);
    io_loop_run(f->loop);
    assert_int_equal(f->calls, 1);
}

struct counted_task {
    struct io_task task;
    struct fixture *f;
    char name;
};

static void counted_run(struct io_task *task)
{
    struct counted_task *counted = container_of(task, struct counted_task, task);

    note(counted->f, counted->name);
    if (counted->name == 'c')
        io_loop_stop(counted->f->loop);
}

static void test_tasks_run_in_the_order_of_posting(void **state)
{
    struct fixture *f = *state;
    struct counted_task tasks[3] = {
        { { NULL, counted_run }, f, 'a' },
        { { NULL, counted_run }, f, 'b' },
        { { NULL, counted_run }, f, 'c' },
    };

    for (unsigned i = 0; i < 3; i++)
        io_loop_post(f->loop, &tasks[i].task);
    io_loop_run(f->loop);
    assert_string_equal(f->order, "abc");
}

#define STRESS_THREADS 3
#define STRESS_TASKS   2000

struct stress_thread {
    struct io_loop *loop;
    atomic_uint *pending;
    struct stress_task {
        struct io_task task;
        struct stress_thread *thread;
        atomic_bool free;
    } tasks[8];
};

static void stress_run(struct io_task *task)
{
    struct stress_task *t = container_of(task, struct stress_task, task);
    atomic_uint *pending = t->thread->pending;
    struct io_loop *loop = t->thread->loop;

    atomic_store(&t->free, true);
    if (atomic_fetch_sub(pending, 1) == 1)
        io_loop_stop(loop);
}

static void *stress_post(void *arg)
{
    struct stress_thread *thread = arg;

    for (unsigned sent = 0, i = 0; sent < STRESS_TASKS; i++) {
        struct stress_task *t = &thread->tasks[i % ARRAY_SIZE(thread->tasks)];

        if (!atomic_exchange(&t->free, false)) {
            sched_yield();
            continue;
        }
        t->thread = thread;
        t->task.run = stress_run;
        io_loop_post(thread->loop, &t->task);
        sent++;
    }
    return NULL;
}

/* A lost wake-up would make this hang until the time limit of the timer, with tasks left over. */
static void test_no_wake_up_is_lost_between_threads(void **state)
{
    struct fixture *f = *state;
    struct stress_thread *threads = calloc(STRESS_THREADS, sizeof(*threads));
    atomic_uint pending = STRESS_THREADS * STRESS_TASKS;
    pthread_t ids[STRESS_THREADS];

    for (unsigned i = 0; i < STRESS_THREADS; i++) {
        threads[i].loop = f->loop;
        threads[i].pending = &pending;
        for (unsigned j = 0; j < ARRAY_SIZE(threads[i].tasks); j++)
            atomic_store(&threads[i].tasks[j].free, true);
        assert_int_equal(pthread_create(&ids[i], NULL, stress_post, &threads[i]), 0);
    }
    io_loop_run(f->loop);
    for (unsigned i = 0; i < STRESS_THREADS; i++)
        pthread_join(ids[i], NULL);
    assert_int_equal(atomic_load(&pending), 0);
    free(threads);
}

static void *stop_from_thread(void *arg)
{
    io_loop_stop(arg);
    return NULL;
}

static void test_stop_from_another_thread_ends_the_sleep(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, stop_from_thread, f->loop), 0);
    io_loop_run(f->loop);
    pthread_join(thread, NULL);
}

/* ---- Timers ---- */

static void later_notes(struct io_timer *timer)
{
    struct fixture *f = container_of(timer, struct fixture, later);

    f->other_calls++;
}

static void test_timers_expire_not_too_early_and_in_order(void **state)
{
    struct fixture *f = *state;
    uint64_t start = now_ns();

    f->later.expired = later_notes;
    stop_after(f, 10);
    io_loop_timer_set(f->loop, &f->later, start + 2 * MS);
    io_loop_run(f->loop);
    assert_int_equal(f->other_calls, 1);
    assert_true(now_ns() - start >= 10 * MS);
    assert_int_equal(f->timer.when_ns, 0);
}

static void test_a_cancelled_timer_does_not_expire(void **state)
{
    struct fixture *f = *state;

    f->later.expired = later_notes;
    io_loop_timer_set(f->loop, &f->later, now_ns() + MS);
    stop_after(f, 5);
    io_loop_timer_cancel(f->loop, &f->later);
    io_loop_timer_cancel(f->loop, &f->later);
    io_loop_run(f->loop);
    assert_int_equal(f->other_calls, 0);
}

static void test_cancelling_the_last_timer_keeps_the_others(void **state)
{
    struct fixture *f = *state;

    f->later.expired = later_notes;
    stop_after(f, 5);
    io_loop_timer_set(f->loop, &f->later, now_ns() + 50 * MS);
    io_loop_timer_cancel(f->loop, &f->later);
    io_loop_timer_set(f->loop, &f->later, now_ns() + MS);
    io_loop_run(f->loop);
    assert_int_equal(f->other_calls, 1);
}

static void later_sets_itself(struct io_timer *timer)
{
    struct fixture *f = container_of(timer, struct fixture, later);

    f->other_calls++;
    io_loop_timer_set(f->loop, timer, 1);
}

static void test_a_timer_that_always_expires_does_not_hold_the_loop(void **state)
{
    struct fixture *f = *state;

    f->later.expired = later_sets_itself;
    io_loop_timer_set(f->loop, &f->later, 1);
    stop_after(f, 5);
    io_loop_run(f->loop);
    assert_true(f->other_calls > 1);
    io_loop_timer_cancel(f->loop, &f->later);
}

/* ---- Hooks and polling ---- */

static bool hook_counts(struct io_hook *hook)
{
    struct fixture *f = container_of(hook, struct fixture, hook);

    note(f, '1');
    return ++f->calls < 3;
}

static bool second_hook_counts(struct io_hook *hook)
{
    struct fixture *f = container_of(hook, struct fixture, second_hook);

    note(f, '2');
    return false;
}

static void test_the_hook_added_last_runs_first_and_progress_prevents_sleep(void **state)
{
    struct fixture *f = *state;

    f->hook.run = hook_counts;
    f->second_hook.run = second_hook_counts;
    io_loop_add_hook(f->loop, &f->hook);
    io_loop_add_hook(f->loop, &f->second_hook);
    stop_after(f, 5);
    io_loop_run(f->loop);
    /* Three turns that do not sleep, and the one that the timer ends. */
    assert_string_equal(f->order, "21212121");
}

static bool hook_is_idle(struct io_hook *hook)
{
    return false;
}

static bool before_sleep_finds_work_once(struct io_hook *hook)
{
    struct fixture *f = container_of(hook, struct fixture, hook);

    return f->calls++ == 0;
}

static void test_before_sleep_can_prevent_the_sleep(void **state)
{
    struct fixture *f = *state;

    f->hook.run = hook_is_idle;
    f->hook.before_sleep = before_sleep_finds_work_once;
    io_loop_add_hook(f->loop, &f->hook);
    stop_after(f, 5);
    io_loop_run(f->loop);
    assert_int_equal(f->calls, 2);
}

static bool hook_counts_rounds(struct io_hook *hook)
{
    container_of(hook, struct fixture, hook)->calls++;
    return false;
}

static void later_sets_itself_soon(struct io_timer *timer)
{
    struct fixture *f = container_of(timer, struct fixture, later);

    f->other_calls++;
    io_loop_timer_set(f->loop, timer, now_ns() + 20000);
}

static void test_polling_runs_hooks_many_times_between_events(void **state)
{
    struct fixture *f = *state;

    f->hook.run = hook_counts_rounds;
    io_loop_add_hook(f->loop, &f->hook);
    io_loop_set_polling(f->loop, 10 * MS);
    f->later.expired = later_sets_itself_soon;
    io_loop_timer_set(f->loop, &f->later, 1);
    stop_after(f, 20);
    io_loop_run(f->loop);
    io_loop_timer_cancel(f->loop, &f->later);
    assert_true(f->calls > 3 * f->other_calls);
}

static void test_rare_work_is_not_polled_for(void **state)
{
    struct fixture *f = *state;

    f->hook.run = hook_counts_rounds;
    io_loop_add_hook(f->loop, &f->hook);
    io_loop_set_polling(f->loop, 10000);
    stop_after(f, 10);
    io_loop_run(f->loop);
    assert_true(f->calls <= 4);
}

static void test_polling_sees_a_task_of_another_thread(void **state)
{
    struct fixture *f = *state;

    io_loop_set_polling(f->loop, 1000 * MS);
    test_no_wake_up_is_lost_between_threads(state);
    assert_ptr_equal(*state, f);
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_a_readable_descriptor_is_delivered),
        LOOP_TEST(test_events_zero_is_silent_even_for_a_hang_up),
        LOOP_TEST(test_a_bad_descriptor_is_an_error),
        LOOP_TEST(test_unwatch_strikes_an_event_that_is_undelivered),
        LOOP_TEST(test_silence_applies_to_an_event_that_is_undelivered),
        LOOP_TEST(test_a_task_posted_before_run_runs),
        LOOP_TEST(test_tasks_run_in_the_order_of_posting),
        LOOP_TEST(test_no_wake_up_is_lost_between_threads),
        LOOP_TEST(test_stop_from_another_thread_ends_the_sleep),
        LOOP_TEST(test_timers_expire_not_too_early_and_in_order),
        LOOP_TEST(test_a_cancelled_timer_does_not_expire),
        LOOP_TEST(test_cancelling_the_last_timer_keeps_the_others),
        LOOP_TEST(test_a_timer_that_always_expires_does_not_hold_the_loop),
        LOOP_TEST(test_the_hook_added_last_runs_first_and_progress_prevents_sleep),
        LOOP_TEST(test_before_sleep_can_prevent_the_sleep),
        LOOP_TEST(test_polling_runs_hooks_many_times_between_events),
        LOOP_TEST(test_rare_work_is_not_polled_for),
        LOOP_TEST(test_polling_sees_a_task_of_another_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
