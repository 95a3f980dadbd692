/* SPDX-License-Identifier: BSD-2-Clause */
/* The frame of control messages, each rule with the datagram that breaks it; after each, no descriptor may be left. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/ipc/channel.h"

struct ends {
    int monitor;
    int worker;
    unsigned fds_before; /* open descriptors when the test started */
};

static struct channel_message received; /* too large for some stacks with sanitizers */

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static int set_up(void **state)
{
    struct ends *ends = calloc(1, sizeof(*ends));

    if (ends == NULL || channel_new(&ends->monitor, &ends->worker, NULL) < 0)
        return -1;
    ends->fds_before = count_fds();
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

static struct ipc_drain drain_message(unsigned fd_count)
{
    struct ipc_drain drain;

    channel_fill_header(&drain.header, IPC_DRAIN, sizeof(drain), fd_count);
    return drain;
}

/* Send whatever it is, past the checks of channel_send(). */
static void send_raw(int sock, const void *data, size_t len_bytes, const int *fds, unsigned fd_count)
{
    char control[CMSG_SPACE(sizeof(int) * 64)] = { 0 };
    struct iovec iov = { (void *)(uintptr_t)data, len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd_count > 0) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * fd_count);
    }
    assert_int_equal(sendmsg(sock, &msg, 0), (ssize_t)len_bytes);
}

static void assert_refused(struct ends *ends, const char *text)
{
    struct error err;

    assert_int_equal(channel_receive(ends->worker, &received, &err), -EPROTO);
    assert_non_null(strstr(err.text, text));
    assert_int_equal(received.fd_count, 0);
    assert_int_equal(count_fds(), ends->fds_before);
}

static void test_message_arrives_with_its_descriptors(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(2);
    int fds[2] = { ends->monitor, ends->worker };

    assert_int_equal(channel_send(ends->monitor, &drain, sizeof(drain), fds, 2), 0);
    assert_int_equal(channel_receive(ends->worker, &received, NULL), 1);
    assert_int_equal(received.header.type, IPC_DRAIN);
    assert_int_equal(received.fd_count, 2);
    assert_int_equal(fcntl(received.fds[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(received.fds[1], F_GETFD), FD_CLOEXEC);
    assert_int_equal(received.fds[2], -1);
    channel_message_done(&received);
    assert_int_equal(count_fds(), ends->fds_before);
}

static void test_largest_message_with_most_descriptors_arrives(void **state)
{
    struct ends *ends = *state;
    uint8_t *bytes = calloc(1, IPC_MESSAGE_MAX);
    struct ipc_header header;
    int fds[IPC_MAX_FDS];

    for (unsigned i = 0; i < IPC_MAX_FDS; i++)
        fds[i] = ends->monitor;
    channel_fill_header(&header, IPC_BOOT, IPC_MESSAGE_MAX, IPC_MAX_FDS);
    memcpy(bytes, &header, sizeof(header));
    assert_int_equal(channel_send(ends->monitor, bytes, IPC_MESSAGE_MAX, fds, IPC_MAX_FDS), 0);
    assert_int_equal(channel_receive(ends->worker, &received, NULL), 1);
    assert_int_equal(received.len_bytes, IPC_MESSAGE_MAX);
    assert_int_equal(received.fd_count, IPC_MAX_FDS);
    channel_message_done(&received);
    free(bytes);
}

static void test_empty_socket_is_eagain_and_closed_one_is_0(void **state)
{
    struct ends *ends = *state;

    assert_int_equal(channel_receive(ends->worker, &received, NULL), -EAGAIN);
    close_fd(&ends->monitor);
    assert_int_equal(channel_receive(ends->worker, &received, NULL), 0);
}

static void test_sending_to_a_closed_end_is_epipe_without_a_signal(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(0);

    close_fd(&ends->worker);
    assert_int_equal(channel_send(ends->monitor, &drain, sizeof(drain), NULL, 0), -EPIPE);
}

static void test_full_socket_is_eagain(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(0);
    int r = 0;

    for (unsigned i = 0; i < 100000 && r == 0; i++)
        r = channel_send(ends->monitor, &drain, sizeof(drain), NULL, 0);
    assert_int_equal(r, -EAGAIN);
}

static void test_lengths_and_counts_that_no_message_has_are_not_sent(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(0);

    assert_int_equal(channel_send(ends->monitor, &drain, sizeof(drain) - 1, NULL, 0), -EINVAL);
    assert_int_equal(channel_send(ends->monitor, &drain, IPC_MESSAGE_MAX + 1, NULL, 0), -EINVAL);
    assert_int_equal(channel_send(ends->monitor, &drain, sizeof(drain), NULL, IPC_MAX_FDS + 1), -EINVAL);
}

static void test_errors_short_message(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(0);

    send_raw(ends->monitor, &drain, sizeof(drain) - 1, NULL, 0);
    assert_refused(ends, "has no header");
}

static void test_errors_too_long_message(void **state)
{
    struct ends *ends = *state;
    uint8_t *bytes = calloc(1, IPC_MESSAGE_MAX + 1);
    struct ipc_header header;

    channel_fill_header(&header, IPC_BOOT, IPC_MESSAGE_MAX, 1);
    memcpy(bytes, &header, sizeof(header));
    send_raw(ends->monitor, bytes, IPC_MESSAGE_MAX + 1, &ends->monitor, 1);
    assert_refused(ends, "longer than");
    free(bytes);
}

static void test_errors_wrong_magic(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(1);

    drain.header.magic ^= 1;
    send_raw(ends->monitor, &drain, sizeof(drain), &ends->monitor, 1);
    assert_refused(ends, "magic");
}

static void test_errors_wrong_length_in_header(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(1);

    drain.header.len_bytes++;
    send_raw(ends->monitor, &drain, sizeof(drain), &ends->monitor, 1);
    assert_refused(ends, "bytes and has");
}

static void test_errors_missing_descriptor(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(2);

    send_raw(ends->monitor, &drain, sizeof(drain), &ends->monitor, 1);
    assert_refused(ends, "2 descriptors and has 1");
}

static void test_errors_unannounced_descriptor(void **state)
{
    struct ends *ends = *state;
    struct ipc_drain drain = drain_message(0);

    send_raw(ends->monitor, &drain, sizeof(drain), &ends->monitor, 1);
    assert_refused(ends, "0 descriptors and has 1");
}

static void test_errors_too_many_descriptors(void **state)
{
    static const unsigned counts[] = { IPC_MAX_FDS + 1, IPC_MAX_FDS + 2, 60 };
    struct ends *ends = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        struct ipc_drain drain = drain_message(counts[i]);
        int fds[60];

        for (unsigned k = 0; k < counts[i]; k++)
            fds[k] = ends->monitor;
        send_raw(ends->monitor, &drain, sizeof(drain), fds, counts[i]);
        assert_refused(ends, "lost descriptors");
    }
}

static void test_errors_descriptor_without_data_is_no_end_of_file(void **state)
{
    struct ends *ends = *state;

    send_raw(ends->monitor, "", 0, &ends->monitor, 1);
    assert_refused(ends, "has no header");
}

#define CHANNEL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHANNEL_TEST(test_message_arrives_with_its_descriptors),
        CHANNEL_TEST(test_largest_message_with_most_descriptors_arrives),
        CHANNEL_TEST(test_empty_socket_is_eagain_and_closed_one_is_0),
        CHANNEL_TEST(test_sending_to_a_closed_end_is_epipe_without_a_signal),
        CHANNEL_TEST(test_full_socket_is_eagain),
        CHANNEL_TEST(test_lengths_and_counts_that_no_message_has_are_not_sent),
        CHANNEL_TEST(test_errors_short_message),
        CHANNEL_TEST(test_errors_too_long_message),
        CHANNEL_TEST(test_errors_wrong_magic),
        CHANNEL_TEST(test_errors_wrong_length_in_header),
        CHANNEL_TEST(test_errors_missing_descriptor),
        CHANNEL_TEST(test_errors_unannounced_descriptor),
        CHANNEL_TEST(test_errors_too_many_descriptors),
        CHANNEL_TEST(test_errors_descriptor_without_data_is_no_end_of_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
