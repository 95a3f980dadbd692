/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/base/util.h"
#include "vhost-worker/descriptor.h"

static void assert_kind(int fd, enum vhost_descriptor kind)
{
    assert_true(fd >= 0);
    assert_int_equal(vhost_descriptor_kind(fd), kind);
    close_fd(&fd);
}

static void test_memory_is_known_by_its_file_system(void **state)
{
    assert_kind(memfd_create("memory", MFD_CLOEXEC), VHOST_DESCRIPTOR_MEMORY);
    assert_kind(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING), VHOST_DESCRIPTOR_MEMORY);
}

static void test_eventfds_are_events_and_keep_their_count(void **state)
{
    uint64_t count = 0;
    int fd = eventfd(3, EFD_CLOEXEC);

    assert_kind(eventfd(0, EFD_CLOEXEC), VHOST_DESCRIPTOR_EVENT);
    assert_kind(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE), VHOST_DESCRIPTOR_EVENT);
    assert_int_equal(vhost_descriptor_kind(fd), VHOST_DESCRIPTOR_EVENT);
    assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
    assert_int_equal(count, 3);
    close_fd(&fd);
}

/* An epoll asks all that is in it, also a file of FUSE; the others are nothing that vhost-user has a use for. */
static void test_other_objects_without_a_file_are_left_alone(void **state)
{
    sigset_t signals;
    int fd;

    sigemptyset(&signals);
    assert_kind(epoll_create1(EPOLL_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(signalfd(-1, &signals, SFD_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(inotify_init1(IN_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind((int)syscall(SYS_pidfd_open, getpid(), 0), VHOST_DESCRIPTOR_OTHER);
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
    if (fd >= 0) /* not everywhere */
        assert_kind(fd, VHOST_DESCRIPTOR_OTHER);
}

static void test_pipes_and_sockets_are_streams(void **state)
{
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_kind(fds[0], VHOST_DESCRIPTOR_STREAM);
    assert_kind(fds[1], VHOST_DESCRIPTOR_STREAM);
    assert_kind(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), VHOST_DESCRIPTOR_STREAM);
}

/* Also what leads to memory by name only, and regular files that the kernel makes up. */
static void test_everything_else_is_left_alone(void **state)
{
    assert_kind(open("/dev/null", O_RDWR | O_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(open("/proc/self/status", O_RDONLY | O_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_kind(open("/dev/null", O_PATH | O_CLOEXEC), VHOST_DESCRIPTOR_OTHER);
    assert_int_equal(vhost_descriptor_kind(-1), VHOST_DESCRIPTOR_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_known_by_its_file_system),
        cmocka_unit_test(test_eventfds_are_events_and_keep_their_count),
        cmocka_unit_test(test_other_objects_without_a_file_are_left_alone),
        cmocka_unit_test(test_pipes_and_sockets_are_streams),
        cmocka_unit_test(test_everything_else_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
