/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "common/ipc/status.h"

struct ends {
    int monitor; /* reads */
    int worker;  /* writes */
};

static int set_up(void **state)
{
    struct ends *ends = calloc(1, sizeof(*ends));

    if (ends == NULL || status_pipe_new(&ends->monitor, &ends->worker, NULL) < 0)
        return -1;
    *state = ends;
    return 0;
}

static int tear_down(void **state)
{
    struct ends *ends = *state;

    close_fd(&ends->monitor);
    close_fd(&ends->worker);
    free(ends);
    return 0;
}

static void test_records_arrive_one_at_a_time(void **state)
{
    struct ends *ends = *state;
    struct ipc_status status = { .magic = IPC_MAGIC, .type = IPC_STATUS_BLOCKED };
    struct ipc_status ret;

    for (int nr = 0; nr < 3; nr++) {
        status.blocked.nr = nr;
        assert_int_equal(status_write(ends->worker, &status), 0);
    }
    for (int nr = 0; nr < 3; nr++) {
        assert_int_equal(status_read(ends->monitor, &ret, NULL), 1);
        assert_int_equal(ret.blocked.nr, nr);
    }
    assert_int_equal(status_read(ends->monitor, &ret, NULL), -EAGAIN);
}

static void test_full_pipe_is_eagain(void **state)
{
    struct ends *ends = *state;
    struct ipc_status status = { .magic = IPC_MAGIC, .type = IPC_STATUS_LOG };
    int r = 0;

    for (unsigned i = 0; i < 100000 && r == 0; i++)
        r = status_write(ends->worker, &status);
    assert_int_equal(r, -EAGAIN);
}

static void test_closed_ends(void **state)
{
    struct ends *ends = *state;
    struct ipc_status status = { .magic = IPC_MAGIC };
    int monitor = -1;
    int worker = -1;

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(status_pipe_new(&monitor, &worker, NULL), 0);
    close_fd(&monitor);
    assert_int_equal(status_write(worker, &status), -EPIPE);
    close_fd(&worker);
    close_fd(&ends->worker);
    assert_int_equal(status_read(ends->monitor, &status, NULL), 0);
}

static void test_errors_short_record(void **state)
{
    struct ends *ends = *state;
    struct ipc_status status = { .magic = IPC_MAGIC };
    struct ipc_status ret;

    assert_int_equal(write(ends->worker, &status, sizeof(status) - 1), sizeof(status) - 1);
    assert_int_equal(status_read(ends->monitor, &ret, NULL), -EPROTO);
}

static void test_errors_long_record(void **state)
{
    struct ends *ends = *state;
    uint8_t bytes[sizeof(struct ipc_status) + 1] = { 0 };
    struct ipc_status ret;
    struct error err;

    assert_int_equal(write(ends->worker, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(status_read(ends->monitor, &ret, &err), -EPROTO);
    assert_non_null(strstr(err.text, "status record"));
}

static void test_errors_writer_that_left_packet_mode(void **state)
{
    struct ends *ends = *state;
    struct ipc_status status = { .magic = IPC_MAGIC };
    struct ipc_status ret;

    assert_int_equal(fcntl(ends->worker, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(status_write(ends->worker, &status), 0);
    assert_int_equal(status_write(ends->worker, &status), 0);
    assert_int_equal(status_read(ends->monitor, &ret, NULL), -EPROTO);
}

#define STATUS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STATUS_TEST(test_records_arrive_one_at_a_time),
        STATUS_TEST(test_full_pipe_is_eagain),
        STATUS_TEST(test_closed_ends),
        STATUS_TEST(test_errors_short_record),
        STATUS_TEST(test_errors_long_record),
        STATUS_TEST(test_errors_writer_that_left_packet_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
