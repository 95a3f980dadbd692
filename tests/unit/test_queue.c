/* SPDX-License-Identifier: BSD-2-Clause */
/* Both engines, by one table of behaviours; and what they do inside a filter. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <seccomp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct engine_fixture {
    struct io_loop *loop;
    struct io_engine *engine;
    struct io_queue *queue;
    int fd;
    unsigned pending;
    unsigned finished;
    struct error err;
};

static int engine_setup(void **state)
{
    struct engine_fixture *f = calloc(1, sizeof(*f));
    struct io_engine_config config = { .kind = variant->engine, .image_fd_count = 1, .loop_count = 1 };

    f->fd = fixture_temp_file(variant->place, 0, 0);
    assert_true(f->fd >= 0);
    f->loop = io_loop_new(&f->err);
    assert_non_null(f->loop);
    config.image_fds = &f->fd;
    config.loops = &f->loop;
    assert_int_equal(io_engine_new(&config, &f->engine, &f->err), 0);
    f->queue = io_engine_queue(f->engine, 0);
    *state = f;
    return 0;
}

static int engine_teardown(void **state)
{
    struct engine_fixture *f = *state;

    io_engine_free(f->engine);
    io_loop_free(f->loop);
    close_fd(&f->fd);
    free(f);
    return 0;
}

struct job {
    struct block_request req;
    struct engine_fixture *f;
    struct iovec iov[2];
    bool done;
    int result;
    pthread_t completed_by;
    unsigned afters;
    unsigned finished; /* the how many-th */
};

static void job_complete(struct block_request *req, int result)
{
    struct job *job = container_of(req, struct job, req);

    assert_false(job->done);
    job->done = true;
    job->result = result;
    job->completed_by = pthread_self();
    job->finished = ++job->f->finished;
    if (--job->f->pending == 0)
        io_loop_stop(job->f->loop);
}

static void job_init(struct engine_fixture *f, struct job *job, enum block_op op, uint64_t offset, void *buf,
                     size_t len_bytes)
{
    *job = (struct job){ .f = f };
    job->iov[0] = (struct iovec){ buf, len_bytes };
    job->req = (struct block_request){
        .op = op,
        .engine_op = op,
        .offset = offset,
        .len_bytes = len_bytes,
        .iov = job->iov,
        .iov_count = buf != NULL ? 1 : 0,
        .complete = job_complete,
    };
    f->pending++;
}

static int run(struct engine_fixture *f, struct job *job)
{
    assert_int_equal(io_queue_submit(f->queue, &job->req), BLOCK_PENDING);
    assert_false(job->done);
    io_loop_run(f->loop);
    assert_true(job->done);
    return job->result;
}

static int run_one(struct engine_fixture *f, enum block_op op, uint64_t offset, void *buf, size_t len_bytes)
{
    struct job job;

    job_init(f, &job, op, offset, buf, len_bytes);
    return run(f, &job);
}

static void test_the_engine_says_what_runs(void **state)
{
    struct engine_fixture *f = *state;

    assert_string_equal(io_engine_name(f->engine), variant->engine == IO_ENGINE_URING ? "io_uring" : "threads");
}

static void test_what_is_written_is_read(void **state)
{
    struct engine_fixture *f = *state;
    uint8_t wrote[8192], got[8192] = { 0 };

    pattern_fill(wrote, 0, sizeof(wrote), 3);
    assert_int_equal(run_one(f, BLOCK_OP_WRITE, 4096, wrote, sizeof(wrote)), 0);
    assert_int_equal(run_one(f, BLOCK_OP_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run_one(f, BLOCK_OP_CACHE, 4096, NULL, sizeof(wrote)), 0);
    assert_int_equal(run_one(f, BLOCK_OP_READ, 4096, got, sizeof(got)), 0);
    assert_memory_equal(wrote, got, sizeof(got));
}

static void test_behind_the_end_of_the_file_are_zeros(void **state)
{
    struct engine_fixture *f = *state;
    uint8_t got[3000];

    memset(got, 0xff, sizeof(got));
    assert_int_equal(pwrite(f->fd, "abc", 3, 0), 3);
    assert_int_equal(run_one(f, BLOCK_OP_READ, 1, got, sizeof(got)), 0);
    assert_memory_equal(got, "bc", 2);
    for (unsigned i = 2; i < sizeof(got); i++)
        assert_int_equal(got[i], 0);
}

/* 3000 pieces are more than the kernel takes at once: three transfers. */
static void test_a_long_vector_is_transferred_in_parts(void **state)
{
    struct engine_fixture *f = *state;
    struct iovec iov[3000];
    uint8_t bytes[6000], got[6000];
    struct job job;

    pattern_fill(bytes, 0, sizeof(bytes), 9);
    job_init(f, &job, BLOCK_OP_WRITE, 0, bytes, sizeof(bytes));
    for (unsigned i = 0; i < 3000; i++)
        iov[i] = (struct iovec){ bytes + 2 * i, 2 };
    job.req.iov = iov;
    job.req.iov_count = 3000;
    assert_int_equal(run(f, &job), 0);
    assert_int_equal(pread(f->fd, got, sizeof(got), 0), sizeof(got));
    assert_memory_equal(got, bytes, sizeof(got));
}

static void test_punching_a_hole_frees_blocks(void **state)
{
    struct engine_fixture *f = *state;
    uint8_t *bytes = calloc(1, 1 << 20);
    struct stat before, after;
    struct job job;

    memset(bytes, 1, 1 << 20);
    assert_int_equal(pwrite(f->fd, bytes, 1 << 20, 0), 1 << 20);
    assert_int_equal(fsync(f->fd), 0);
    assert_int_equal(fstat(f->fd, &before), 0);
    job_init(f, &job, BLOCK_OP_DISCARD, 0, NULL, 0);
    job.req.len_bytes = 1 << 20;
    job.req.fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    assert_int_equal(run(f, &job), 0);
    assert_int_equal(fstat(f->fd, &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    free(bytes);
}

static void test_an_error_comes_as_it_is(void **state)
{
    struct engine_fixture *f = *state;
    uint8_t byte = 0;

    /* An offset that no file has. */
    assert_int_equal(run_one(f, BLOCK_OP_WRITE, (uint64_t)INT64_MAX, &byte, 1), -EINVAL);
}

#define MANY 5000

static void test_more_requests_than_the_ring_holds_are_queued_not_failed(void **state)
{
    struct engine_fixture *f = *state;
    struct job *jobs = calloc(MANY, sizeof(*jobs));
    uint32_t *values = calloc(MANY, sizeof(*values));

    for (uint32_t i = 0; i < MANY; i++) {
        values[i] = i * 2654435761u;
        job_init(f, &jobs[i], BLOCK_OP_WRITE, i * sizeof(uint32_t), &values[i], sizeof(uint32_t));
        assert_int_equal(io_queue_submit(f->queue, &jobs[i].req), BLOCK_PENDING);
    }
    io_loop_run(f->loop);
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t got;

        assert_true(jobs[i].done);
        assert_int_equal(jobs[i].result, 0);
        assert_int_equal(pread(f->fd, &got, sizeof(got), i * (off_t)sizeof(got)), sizeof(got));
        assert_int_equal(got, i * 2654435761u);
    }
    free(jobs);
    free(values);
}

static int work_on_a_pool_thread(struct block_request *req, uint8_t *scratch)
{
    struct job *job = container_of(req, struct job, req);

    assert_int_equal((uintptr_t)scratch % 4096, 0);
    memset(scratch, 0x5a, IO_SCRATCH_BYTES);
    return pthread_equal(pthread_self(), *(pthread_t *)job->iov[0].iov_base) ? -EINVAL : -ENOANO;
}

static void test_a_call_runs_elsewhere_and_completes_here(void **state)
{
    struct engine_fixture *f = *state;
    pthread_t self = pthread_self();
    struct job job;

    job_init(f, &job, BLOCK_OP_STATUS, 0, &self, sizeof(self));
    assert_int_equal(io_queue_call(f->queue, &job.req, work_on_a_pool_thread), BLOCK_PENDING);
    io_loop_run(f->loop);
    assert_int_equal(job.result, -ENOANO);
    assert_true(pthread_equal(job.completed_by, self));
}

#define SLICES 50

static int work_in_slices(struct block_request *req, uint8_t *scratch)
{
    return ++req->done_bytes < SLICES ? BLOCK_PENDING : -ENOANO;
}

static int work_at_once(struct block_request *req, uint8_t *scratch)
{
    return 0;
}

/* As many long ones as there are threads, at the least: the short one passes them, they go on. */
static void test_work_in_slices_lets_others_have_their_turn(void **state)
{
    struct engine_fixture *f = *state;
    struct job longs[16], one;

    for (unsigned i = 0; i < ARRAY_SIZE(longs); i++) {
        job_init(f, &longs[i], BLOCK_OP_STATUS, 0, NULL, 0);
        io_queue_call(f->queue, &longs[i].req, work_in_slices);
    }
    job_init(f, &one, BLOCK_OP_STATUS, 0, NULL, 0);
    io_queue_call(f->queue, &one.req, work_at_once);
    io_loop_run(f->loop);
    assert_int_equal(one.result, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(longs); i++) {
        assert_int_equal(longs[i].result, -ENOANO);
        assert_int_equal(longs[i].req.done_bytes, SLICES);
        assert_true(one.finished < longs[i].finished);
    }
}

static int after_adds_a_flush(struct block_request *req, int result)
{
    struct job *job = container_of(req, struct job, req);

    if (job->afters++ > 0)
        return result;
    assert_int_equal(result, 0);
    req->engine_op = BLOCK_OP_FLUSH;
    return io_queue_submit(job->f->queue, req);
}

static void test_a_driver_can_add_a_step(void **state)
{
    struct engine_fixture *f = *state;
    uint8_t byte = 1;
    struct job job;

    job_init(f, &job, BLOCK_OP_WRITE, 0, &byte, 1);
    job.req.after = after_adds_a_flush;
    assert_int_equal(run(f, &job), 0);
    assert_int_equal(job.afters, 2);
}

static void test_delays_end_in_order_and_not_too_early(void **state)
{
    static const unsigned delays_us[] = { 3000, 1000, 2000, 0 };
    struct engine_fixture *f = *state;
    struct job jobs[4];
    uint64_t start = now_ns();

    for (unsigned i = 0; i < 4; i++) {
        job_init(f, &jobs[i], BLOCK_OP_FLUSH, 0, NULL, 0);
        assert_int_equal(io_queue_delay(f->queue, &jobs[i].req, delays_us[i] * 1000u, -(int)i), BLOCK_PENDING);
    }
    io_loop_run(f->loop);
    assert_true(now_ns() - start >= 3000000u);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(jobs[i].done);
        assert_int_equal(jobs[i].result, -(int)i);
    }
}

static void *complete_from_a_thread(void *arg)
{
    struct job *jobs = arg;

    for (unsigned i = 0; i < 1000; i++)
        io_queue_complete_remote(jobs[i].f->queue, &jobs[i].req, -(int)(i + 1));
    return NULL;
}

static void test_other_threads_complete_requests_here(void **state)
{
    struct engine_fixture *f = *state;
    struct job *jobs = calloc(2000, sizeof(*jobs));
    pthread_t threads[2];

    for (unsigned i = 0; i < 2000; i++)
        job_init(f, &jobs[i], BLOCK_OP_FLUSH, 0, NULL, 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, complete_from_a_thread, &jobs[i * 1000]), 0);
    io_loop_run(f->loop);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 2000; i++) {
        assert_int_equal(jobs[i].result, -(int)(i % 1000 + 1));
        assert_true(pthread_equal(jobs[i].completed_by, pthread_self()));
    }
    free(jobs);
}

/* ---- Filters; each in a process of its own ---- */

/* Kill on io_uring_setup and io_uring_register, or refuse them. */
static void deny_ring_calls(uint32_t action)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

    if (filter == NULL || seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) < 0 ||
        seccomp_rule_add(filter, action, SCMP_SYS(io_uring_setup), 0) < 0 ||
        seccomp_rule_add(filter, action, SCMP_SYS(io_uring_register), 0) < 0 || seccomp_load(filter) < 0)
        _exit(77);
    seccomp_release(filter);
}

static int in_a_child(void (*run_child)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        run_child();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void child_works_after_lock_down(void)
{
    uint8_t wrote[4096], got[4096];
    void *state;

    engine_setup(&state);
    deny_ring_calls(SCMP_ACT_KILL_PROCESS);
    struct engine_fixture *f = state;
    pattern_fill(wrote, 0, sizeof(wrote), 5);
    if (run_one(f, BLOCK_OP_WRITE, 512, wrote, sizeof(wrote)) != 0 || run_one(f, BLOCK_OP_FLUSH, 0, NULL, 0) != 0 ||
        run_one(f, BLOCK_OP_READ, 512, got, sizeof(got)) != 0 || memcmp(wrote, got, sizeof(got)) != 0)
        _exit(1);
}

static void test_the_engine_works_without_setup_and_register(void **state)
{
    int status = in_a_child(child_works_after_lock_down);

    if (status == 77)
        SKIP("no seccomp filter can be installed here");
    assert_int_equal(status, 0);
}

static void child_has_no_io_uring(void)
{
    struct error err = { 0 };
    struct io_loop *loop = io_loop_new(&err);
    struct io_engine *engine = NULL;
    struct io_engine_config config = { .loops = &loop, .loop_count = 1 };

    deny_ring_calls(SCMP_ACT_ERRNO(EPERM));
    config.kind = IO_ENGINE_URING;
    if (io_engine_new(&config, &engine, &err) != -EPERM || strstr(err.text, "io_uring") == NULL)
        _exit(1);
    config.kind = IO_ENGINE_AUTO;
    if (io_engine_new(&config, &engine, &err) != 0 || strcmp(io_engine_name(engine), "threads") != 0)
        _exit(2);
}

static void test_without_io_uring_auto_takes_threads_and_io_uring_is_an_error(void **state)
{
    int status = in_a_child(child_has_no_io_uring);

    if (status == 77)
        SKIP("no seccomp filter can be installed here");
    assert_int_equal(status, 0);
}

#define ENGINE_TEST(name) cmocka_unit_test_setup_teardown(name, engine_setup, engine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ENGINE_TEST(test_the_engine_says_what_runs),
        ENGINE_TEST(test_what_is_written_is_read),
        ENGINE_TEST(test_behind_the_end_of_the_file_are_zeros),
        ENGINE_TEST(test_a_long_vector_is_transferred_in_parts),
        ENGINE_TEST(test_punching_a_hole_frees_blocks),
        ENGINE_TEST(test_an_error_comes_as_it_is),
        ENGINE_TEST(test_more_requests_than_the_ring_holds_are_queued_not_failed),
        ENGINE_TEST(test_a_call_runs_elsewhere_and_completes_here),
        ENGINE_TEST(test_work_in_slices_lets_others_have_their_turn),
        ENGINE_TEST(test_a_driver_can_add_a_step),
        ENGINE_TEST(test_delays_end_in_order_and_not_too_early),
        ENGINE_TEST(test_other_threads_complete_requests_here),
        cmocka_unit_test(test_the_engine_works_without_setup_and_register),
        cmocka_unit_test(test_without_io_uring_auto_takes_threads_and_io_uring_is_an_error),
    };

    return RUN_VARIANTS("engine", tests);
}
