/* SPDX-License-Identifier: BSD-2-Clause */
/* The other program is a forked child with descriptors of its own: nothing of its locks is ours. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/graph/locks.h"

#define WRITER_USES     (IMAGE_LOCK_CONSISTENT_READ | IMAGE_LOCK_WRITE)
#define WRITER_UNSHARED (IMAGE_LOCK_WRITE | IMAGE_LOCK_RESIZE)

static char path[64];

static int open_image(int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state)
{
    int fd;

    strcpy(path, "/tmp/bulkhead-locks-XXXXXX");
    fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    return unlink(path);
}

/* What another program finds: bits 0-3 for bytes 100-103, bits 4-7 for 200-203. */
static unsigned bytes_seen_by_another_program(void)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        int fd = open(path, O_RDWR);
        unsigned seen = 0;

        for (unsigned i = 0; i < 8; i++) {
            struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };

            lock.l_start = i < 4 ? 100 + i : 200 + i - 4;
            if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
                _exit(255);
            if (lock.l_type != F_UNLCK)
                seen |= 1u << i;
        }
        _exit((int)seen);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return (unsigned)WEXITSTATUS(status);
}

/* Another program that holds read locks on these bytes until the pipe is closed. */
struct program {
    pid_t pid;
    int end_of_life;
};

static struct program program_holding(const unsigned *bytes, unsigned count)
{
    struct program program;
    int life[2];
    int ready[2];
    char c;

    assert_int_equal(pipe(life), 0);
    assert_int_equal(pipe(ready), 0);
    program.pid = fork();
    if (program.pid == 0) {
        int fd = open(path, O_RDONLY);

        close(life[1]);
        for (unsigned i = 0; i < count; i++) {
            struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = bytes[i], .l_len = 1 };

            if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
                _exit(1);
        }
        if (write(ready[1], "", 1) != 1 || read(life[0], &c, 1) != 0)
            _exit(1);
        _exit(0);
    }
    close(life[0]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    program.end_of_life = life[1];
    return program;
}

static void end(struct program *program)
{
    int status;

    close(program->end_of_life);
    assert_int_equal(waitpid(program->pid, &status, 0), program->pid);
    assert_int_equal(status, 0);
}

static void test_a_writer_holds_the_bytes_that_qemu_looks_at(void **state)
{
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };

    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    assert_int_equal(bytes_seen_by_another_program(), 0xa3); /* 100, 101; 201, 203 */
    assert_int_equal(image_lock_set(&lock, fd, 0, 0, NULL), 0);
    assert_int_equal(bytes_seen_by_another_program(), 0);
    close(fd);
}

static void test_a_read_only_descriptor_can_hold_locks(void **state)
{
    int fd = open_image(O_RDONLY);
    struct image_lock lock = { 0 };

    assert_int_equal(image_lock_set(&lock, fd, IMAGE_LOCK_CONSISTENT_READ, IMAGE_LOCK_RESIZE, NULL), 0);
    assert_int_equal(bytes_seen_by_another_program(), 0x81);
    close(fd);
}

static void test_a_writer_is_refused_while_another_program_writes(void **state)
{
    static const unsigned writer[] = { 100, 101 };
    struct program program = program_holding(writer, 2);
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };
    struct error err;

    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, &err), -EAGAIN);
    assert_non_null(strstr(err.text, "\"write\" lock"));
    assert_non_null(strstr(err.text, "another process"));
    end(&program);
    assert_int_equal(bytes_seen_by_another_program(), 0);
    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, &err), 0);
    close(fd);
}

static void test_a_writer_is_refused_while_another_program_does_not_share_writing(void **state)
{
    static const unsigned not_shared[] = { 201 };
    struct program program = program_holding(not_shared, 1);
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };
    struct error err;

    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, &err), -EAGAIN);
    assert_non_null(strstr(err.text, "\"write\" lock"));
    assert_int_equal(bytes_seen_by_another_program(), 1u << 5); /* theirs alone */
    end(&program);
    close(fd);
}

static void test_readers_share_with_each_other_and_with_a_sharing_writer(void **state)
{
    static const unsigned writer[] = { 100, 101 };
    struct program program = program_holding(writer, 2);
    int fd = open_image(O_RDONLY);
    struct image_lock lock = { 0 };

    assert_int_equal(image_lock_set(&lock, fd, IMAGE_LOCK_CONSISTENT_READ, IMAGE_LOCK_RESIZE, NULL), 0);
    end(&program);
    close(fd);
}

static void test_a_reader_is_refused_while_another_program_resizes(void **state)
{
    static const unsigned resizer[] = { 103 };
    struct program program = program_holding(resizer, 1);
    int fd = open_image(O_RDONLY);
    struct image_lock lock = { 0 };
    struct error err;

    assert_int_equal(image_lock_set(&lock, fd, IMAGE_LOCK_CONSISTENT_READ, IMAGE_LOCK_RESIZE, &err), -EAGAIN);
    assert_non_null(strstr(err.text, "\"resize\" lock"));
    end(&program);
    close(fd);
}

static void test_a_lock_that_cannot_grow_keeps_what_it_has(void **state)
{
    static const unsigned not_shared[] = { 201 };
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };
    struct program program;

    assert_int_equal(image_lock_set(&lock, fd, IMAGE_LOCK_CONSISTENT_READ, IMAGE_LOCK_RESIZE, NULL), 0);
    program = program_holding(not_shared, 1);
    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, NULL), -EAGAIN);
    end(&program);
    assert_int_equal(bytes_seen_by_another_program(), 0x81);
    assert_int_equal(lock.uses, IMAGE_LOCK_CONSISTENT_READ);
    close(fd);
}

static void test_a_lock_shrinks_to_what_is_still_needed(void **state)
{
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };

    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    assert_int_equal(image_lock_set(&lock, fd, IMAGE_LOCK_CONSISTENT_READ, IMAGE_LOCK_RESIZE, NULL), 0);
    assert_int_equal(bytes_seen_by_another_program(), 0x81);
    close(fd);
}

static void test_two_descriptions_of_one_program_exclude_each_other(void **state)
{
    int a = open_image(O_RDWR);
    int b = open_image(O_RDWR);
    struct image_lock lock_a = { 0 };
    struct image_lock lock_b = { 0 };

    assert_int_equal(image_lock_set(&lock_a, a, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    assert_int_equal(image_lock_set(&lock_b, b, WRITER_USES, WRITER_UNSHARED, NULL), -EAGAIN);
    close(a);
    assert_int_equal(image_lock_set(&lock_b, b, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    close(b);
}

static void test_a_duplicate_in_a_child_that_dies_releases_nothing(void **state)
{
    int fd = open_image(O_RDWR);
    struct image_lock lock = { 0 };
    int status;
    pid_t pid;

    assert_int_equal(image_lock_set(&lock, fd, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    pid = fork();
    if (pid == 0)
        _exit(close(fd));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(bytes_seen_by_another_program(), 0xa3);
    close(fd);
}

static void test_a_pinned_lock_lasts_as_long_as_its_description(void **state)
{
    int fd = open_image(O_RDWR);
    int copy;

    assert_int_equal(image_lock_pin(fd, WRITER_USES, IMAGE_LOCK_WRITE, NULL), 0);
    copy = dup(fd);
    close(fd);
    assert_int_equal(bytes_seen_by_another_program(), 0x23);
    close(copy);
    assert_int_equal(bytes_seen_by_another_program(), 0);
}

static void test_a_check_holds_nothing(void **state)
{
    int fd = open_image(O_RDWR);

    assert_int_equal(image_lock_check(fd, WRITER_USES, WRITER_UNSHARED, NULL), 0);
    assert_int_equal(bytes_seen_by_another_program(), 0);
    close(fd);
}

static void test_what_cannot_be_locked_is_told_apart(void **state)
{
    int fd = open_image(O_RDONLY);
    int pipe_fds[2];

    assert_true(image_lock_supported(fd));
    close(fd);
    assert_int_equal(pipe(pipe_fds), 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    assert_false(image_lock_supported(pipe_fds[0]));
}

int main(void)
{
#define LOCK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        LOCK_TEST(test_a_writer_holds_the_bytes_that_qemu_looks_at),
        LOCK_TEST(test_a_read_only_descriptor_can_hold_locks),
        LOCK_TEST(test_a_writer_is_refused_while_another_program_writes),
        LOCK_TEST(test_a_writer_is_refused_while_another_program_does_not_share_writing),
        LOCK_TEST(test_readers_share_with_each_other_and_with_a_sharing_writer),
        LOCK_TEST(test_a_reader_is_refused_while_another_program_resizes),
        LOCK_TEST(test_a_lock_that_cannot_grow_keeps_what_it_has),
        LOCK_TEST(test_a_lock_shrinks_to_what_is_still_needed),
        LOCK_TEST(test_two_descriptions_of_one_program_exclude_each_other),
        LOCK_TEST(test_a_duplicate_in_a_child_that_dies_releases_nothing),
        LOCK_TEST(test_a_pinned_lock_lasts_as_long_as_its_description),
        LOCK_TEST(test_a_check_holds_nothing),
        LOCK_TEST(test_what_cannot_be_locked_is_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
