/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
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

static void test_objects_without_a_file_are_events(void **state)
{
    assert_kind(eventfd(0, EFD_CLOEXEC), VHOST_DESCRIPTOR_EVENT);
    assert_kind(epoll_create1(EPOLL_CLOEXEC), VHOST_DESCRIPTOR_EVENT);
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
        cmocka_unit_test(test_objects_without_a_file_are_events),
        cmocka_unit_test(test_pipes_and_sockets_are_streams),
        cmocka_unit_test(test_everything_else_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
