/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/block_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/block/range.h"

struct fixture {
    struct io_loop *loop;
    struct io_engine *engine;
    struct range_locks locks;
    struct locker {
        struct block_request req;
        struct fixture *f;
        char name;
    } lockers[8];
    char order[16];
};

static void locker_granted(struct block_request *req, int result)
{
    struct locker *locker = container_of(req, struct locker, req);
    size_t len = strlen(locker->f->order);

    assert_int_equal(result, 0);
    assert_true(req->range_held);
    locker->f->order[len] = locker->name;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = { 0 };
    struct io_engine_config config = { .kind = IO_ENGINE_THREADS, .loops = &f->loop, .loop_count = 1 };

    f->loop = io_loop_new(&err);
    assert_non_null(f->loop);
    config.pool_threads = 1;
    assert_int_equal(io_engine_new(&config, &f->engine, &err), 0);
    range_locks_init(&f->locks);
    for (unsigned i = 0; i < ARRAY_SIZE(f->lockers); i++) {
        f->lockers[i].f = f;
        f->lockers[i].name = (char)('a' + i);
        f->lockers[i].req.queue = io_engine_queue(f->engine, 0);
        f->lockers[i].req.complete = locker_granted;
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    range_locks_done(&f->locks);
    io_engine_free(f->engine);
    io_loop_free(f->loop);
    free(f);
    return 0;
}

static bool take(struct fixture *f, unsigned i, uint64_t start, uint64_t end, bool exclusive)
{
    return range_lock(&f->locks, &f->lockers[i].req, start, end, exclusive);
}

static void release(struct fixture *f, unsigned i)
{
    range_unlock(&f->locks, &f->lockers[i].req);
}

/* Deliver what has been granted so far. */
static const char *granted(struct fixture *f)
{
    io_loop_stop(f->loop);
    io_loop_run(f->loop);
    return f->order;
}

static void test_shared_ranges_overlap_freely(void **state)
{
    struct fixture *f = *state;

    assert_true(take(f, 0, 0, 100, false));
    assert_true(take(f, 1, 50, 150, false));
    release(f, 0);
    release(f, 1);
}

static void test_exclusive_ranges_exclude_what_overlaps(void **state)
{
    struct fixture *f = *state;

    assert_true(take(f, 0, 100, 200, true));
    assert_true(take(f, 1, 0, 100, true));
    assert_true(take(f, 2, 200, 300, false));
    assert_false(take(f, 3, 199, 200, false));
    assert_false(take(f, 4, 0, 101, true));
    release(f, 0);
    assert_string_equal(granted(f), "d");
    release(f, 1);
    assert_string_equal(granted(f), "de");
    release(f, 2);
    release(f, 3);
    release(f, 4);
}

static void test_an_exclusive_one_waits_for_shared_ones_before_it(void **state)
{
    struct fixture *f = *state;

    assert_true(take(f, 0, 0, 10, false));
    assert_true(take(f, 1, 5, 20, false));
    assert_false(take(f, 2, 0, 20, true));
    release(f, 0);
    assert_string_equal(granted(f), "");
    release(f, 1);
    assert_string_equal(granted(f), "c");
    release(f, 2);
}

static void test_nobody_overtakes_one_who_waits_for_the_same_range(void **state)
{
    struct fixture *f = *state;

    assert_true(take(f, 0, 0, 10, false));
    assert_false(take(f, 1, 0, 10, true));
    assert_false(take(f, 2, 0, 10, false)); /* could share with the first, but would starve the second */
    assert_true(take(f, 3, 10, 20, false));
    release(f, 0);
    assert_string_equal(granted(f), "b");
    release(f, 1);
    assert_string_equal(granted(f), "bc");
    release(f, 2);
    release(f, 3);
}

static void test_unlocking_what_is_not_locked_does_nothing(void **state)
{
    struct fixture *f = *state;

    release(f, 0);
    assert_true(take(f, 0, 0, 1, true));
    release(f, 0);
    release(f, 0);
    assert_true(take(f, 1, 0, 1, true));
    release(f, 1);
}

static void test_with_no_exclusive_one_left_nothing_is_searched(void **state)
{
    struct fixture *f = *state;

    assert_true(take(f, 0, 0, 1, true));
    assert_false(take(f, 1, 0, 1, true));
    assert_int_equal(f->locks.exclusive_count, 2);
    release(f, 0);
    release(f, 1);
    assert_int_equal(f->locks.exclusive_count, 0);
    assert_null(f->locks.held.head);
    assert_null(f->locks.waiting.head);
}

#define RANGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RANGE_TEST(test_shared_ranges_overlap_freely),
        RANGE_TEST(test_exclusive_ranges_exclude_what_overlaps),
        RANGE_TEST(test_an_exclusive_one_waits_for_shared_ones_before_it),
        RANGE_TEST(test_nobody_overtakes_one_who_waits_for_the_same_range),
        RANGE_TEST(test_unlocking_what_is_not_locked_does_nothing),
        RANGE_TEST(test_with_no_exclusive_one_left_nothing_is_searched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
