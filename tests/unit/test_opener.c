/* SPDX-License-Identifier: BSD-2-Clause */
/* The monitor's side of the opener, with children that the test plays: they may be silent, late, dead, or liars. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor/graph/files.h"
#include "monitor/graph/image.h"
#include "monitor/graph/locks.h"
#include "monitor/graph/opener.h"
#include "monitor/monitor.h"

#define CHILDREN_MAX (OPENER_LATE_MAX + 2)

struct fixture {
    struct monitor monitor;
    int children[CHILDREN_MAX]; /* their ends of the sockets, in the order of their launch */
    unsigned child_count;
    struct opener_task *task; /* of a test whose callback needs it */
    unsigned answers;
    struct opener_reply last;
    unsigned recovered;
    unsigned ended;
    bool closed;
};

static int launch(void *opaque, int sock, struct error *err)
{
    struct fixture *f = opaque;

    assert_true(f->child_count < CHILDREN_MAX);
    f->children[f->child_count++] = sock;
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (f == NULL || (f->monitor.base = event_base_new()) == NULL ||
        opener_new(&f->monitor, &f->monitor.opener, NULL) < 0)
        return -1;
    opener_set_launch(f->monitor.opener, launch, f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < f->child_count; i++)
        close_fd(&f->children[i]);
    opener_free(f->monitor.opener);
    event_base_free(f->monitor.base);
    free(f);
    return 0;
}

static void answered(void *opaque, const struct opener_reply *reply, int fd)
{
    struct fixture *f = opaque;

    f->answers++;
    f->last = *reply;
    close_fd(&fd);
}

static void recovered(void *opaque)
{
    ((struct fixture *)opaque)->recovered++;
}

static void ended(void *opaque, bool closed)
{
    struct fixture *f = opaque;

    f->ended++;
    f->closed = closed;
}

static int refuse(void *opaque, uint64_t device, struct error *err)
{
    return device == 42 ? error_set(err, -ELOOP, "not that one") : 0;
}

static const struct opener_task_ops ops = { .found = refuse, .recovered = recovered };

static struct opener_task *new_task(struct fixture *f)
{
    struct opener_task *task = NULL;

    assert_int_equal(opener_task_new(f->monitor.opener, &ops, f, &task, NULL), 0);
    return task;
}

static void ask(struct fixture *f, struct opener_task *task, unsigned timeout_ms)
{
    struct opener_look look = { .header.type = OPENER_LOOK };
    const struct opener_ask ask = {
        .message = &look, .len_bytes = sizeof(look), .timeout_ms = timeout_ms, .done = answered, .opaque = f
    };

    assert_int_equal(opener_task_ask(task, &ask, NULL), 0);
}

static void run_for(struct fixture *f, unsigned ms)
{
    const struct timeval tv = timeval_of_ms(ms);

    event_base_loopexit(f->monitor.base, &tv);
    event_base_dispatch(f->monitor.base);
}

/* What the child got: the type of its next request, 0 if there is none. */
static uint32_t take_request(struct fixture *f, unsigned child)
{
    union opener_message message;
    ssize_t n = recv(f->children[child], &message, sizeof(message), MSG_DONTWAIT);

    return n > 0 ? message.header.type : 0;
}

static void say(struct fixture *f, unsigned child, enum opener_type type, int code, uint64_t device)
{
    struct opener_reply reply = {
        .header = { .magic = OPENER_MAGIC, .type = type }, .code = code, .device = device, .pid = 1
    };

    assert_int_equal(send(f->children[child], &reply, sizeof(reply), MSG_NOSIGNAL), sizeof(reply));
    run_for(f, 5);
}

static void test_requests_are_carried_out_one_after_the_other(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 5000);
    ask(f, task, 5000);
    say(f, 0, OPENER_STARTED, 0, 0);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    assert_int_equal(take_request(f, 0), 0);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 1);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    say(f, 0, OPENER_REPLY, -EIO, 0);
    assert_int_equal(f->answers, 2);
    assert_int_equal(f->last.code, -EIO);
    assert_true(opener_is_idle(f->monitor.opener));
}

static void ask_again(void *opaque, const struct opener_reply *reply, int fd)
{
    struct fixture *f = opaque;

    if (f->answers++ == 0)
        ask(f, f->task, 5000);
}

static void test_who_asks_again_when_he_is_answered_asks_once(void **state)
{
    struct fixture *f = *state;
    struct opener_look look = { .header.type = OPENER_LOOK };
    const struct opener_ask first = {
        .message = &look, .len_bytes = sizeof(look), .timeout_ms = 5000, .done = ask_again, .opaque = f
    };

    f->task = new_task(f);
    assert_int_equal(opener_task_ask(f->task, &first, NULL), 0);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    assert_int_equal(take_request(f, 0), 0);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 2);
}

static void test_a_request_that_is_late_is_answered_and_its_child_heard_of_later(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 20);
    ask(f, task, 40);
    run_for(f, 100);
    assert_int_equal(f->answers, 2); /* the second one has not even been sent */
    assert_int_equal(f->last.code, -ETIMEDOUT);
    run_for(f, OPENER_RELEASE_MS);
    assert_int_equal(f->answers, 2);
    assert_true(opener_task_is_late(task));
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    assert_int_equal(take_request(f, 0), 0);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 2);
    assert_int_equal(f->recovered, 1);
    assert_false(opener_task_is_late(task));
    ask(f, task, 5000);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 3);
    assert_int_equal(f->recovered, 1);
}

static void test_a_request_of_one_in_a_hurry_does_not_make_a_child_late(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 20);
    run_for(f, 100);
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->last.code, -ETIMEDOUT);
    assert_false(opener_task_is_late(task));
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->recovered, 1);
    ask(f, task, 5000);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 2);
    assert_int_equal(f->recovered, 1);
}

static void end_task(void *opaque, const struct opener_reply *reply, int fd)
{
    struct fixture *f = opaque;

    f->answers++;
    opener_task_end(f->task, ended, f);
}

static void test_who_is_told_that_it_was_late_may_end_the_task(void **state)
{
    struct fixture *f = *state;
    struct opener_look look = { .header.type = OPENER_LOOK };
    const struct opener_ask hurried = {
        .message = &look, .len_bytes = sizeof(look), .timeout_ms = 20, .done = end_task, .opaque = f
    };

    f->task = new_task(f);
    assert_int_equal(opener_task_ask(f->task, &hurried, NULL), 0);
    run_for(f, 100);
    assert_int_equal(f->answers, 1);
    close_fd(&f->children[0]);
    run_for(f, 5);
    assert_true(f->closed);
}

static void test_what_is_forgotten_is_not_told_of(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 5000);
    opener_task_forget(task, f);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 0);
}

static void test_a_path_is_opened_if_it_is_found_good(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 5000);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    say(f, 0, OPENER_FOUND, 0, 7);
    assert_int_equal(f->answers, 0);
    assert_int_equal(take_request(f, 0), OPENER_GO);
}

static void test_a_path_that_is_found_bad_is_not(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);
    char byte;

    ask(f, task, 5000);
    assert_int_equal(take_request(f, 0), OPENER_LOOK);
    say(f, 0, OPENER_FOUND, 0, 42);
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->last.code, -ELOOP);
    assert_string_equal(f->last.text, "not that one");
    assert_int_equal(recv(f->children[0], &byte, 1, MSG_DONTWAIT), 0); /* the child is told by the end of its socket */
}

static void test_a_child_that_dies_is_the_answer(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);
    struct opener_look look = { .header.type = OPENER_LOOK };
    const struct opener_ask again = { .message = &look, .len_bytes = sizeof(look), .timeout_ms = 9, .done = answered };

    ask(f, task, 5000);
    ask(f, task, 5000);
    close_fd(&f->children[0]);
    run_for(f, 5);
    assert_int_equal(f->answers, 2);
    assert_int_equal(f->last.code, -EPIPE);
    assert_int_equal(opener_task_ask(task, &again, NULL), -EPIPE);
    opener_task_end(task, ended, f);
    run_for(f, 5);
    assert_int_equal(f->ended, 1);
    assert_true(f->closed);
}

static void test_errors_in_what_a_child_says_end_it(void **state)
{
    static const struct opener_reply lies[] = {
        { .header = { .magic = 1, .type = OPENER_REPLY } },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY }, .code = 1 },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY }, .code = INT32_MIN },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_GO } },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY + 1 } },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY }, .flags = ~OPENER_REPLY_ALL },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY }, .flags = OPENER_HAS_FD },
        { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY }, .size_bytes = UINT64_MAX },
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
        struct opener_task *task = new_task(f);

        ask(f, task, 5000);
        assert_int_equal(send(f->children[i], &lies[i], sizeof(lies[i]), MSG_NOSIGNAL), sizeof(lies[i]));
        run_for(f, 5);
        assert_int_equal(f->answers, i + 1);
        assert_int_equal(f->last.code, -EPIPE);
    }
}

static unsigned count_fds(void)
{
    unsigned count = 0;

    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void send_with_fds(struct fixture *f, unsigned child, const struct opener_reply *reply, size_t len_bytes,
                          unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 3)];
    } control = { .align = { CMSG_LEN(sizeof(int) * fd_count), SOL_SOCKET, SCM_RIGHTS } };
    struct iovec iov = { (void *)(uintptr_t)reply, len_bytes };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = CMSG_SPACE(sizeof(int) * fd_count) };

    assert_int_equal(sendmsg(f->children[child], &msg, MSG_NOSIGNAL), len_bytes);
    run_for(f, 5);
}

static void test_a_child_leaves_no_descriptors_with_the_monitor(void **state)
{
    static const struct {
        enum opener_type type;
        int code;
        bool has_fd;
        bool empty;
        unsigned fd_count;
    } rows[] = {
        { OPENER_REPLY, 0, true, false, 2 },  { OPENER_REPLY, 0, false, false, 3 },
        { OPENER_REPLY, 0, true, true, 1 },   { OPENER_STARTED, 0, true, false, 1 },
        { OPENER_FOUND, 0, true, false, 1 },  { OPENER_REPLY, -EIO, true, false, 1 },
        { OPENER_REPLY, 0, false, false, 1 },
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct opener_task *task = new_task(f);
        struct opener_reply reply = { .header = { .magic = OPENER_MAGIC, .type = rows[i].type },
                                      .code = rows[i].code,
                                      .flags = rows[i].has_fd ? OPENER_HAS_FD : 0 };
        unsigned before = count_fds();

        ask(f, task, 5000);
        send_with_fds(f, i, &reply, rows[i].empty ? 0 : sizeof(reply), rows[i].fd_count);
        assert_int_equal(count_fds(), before - 1); /* the monitor's end of its socket is closed */
        assert_int_equal(f->answers, i + 1);
        assert_int_equal(f->last.code, -EPIPE);
    }
}

static void test_a_file_is_no_longer_than_was_asked_for(void **state)
{
    struct error err = { 0 };
    char *data = NULL;
    size_t len = 0;
    int fds[2];

    for (unsigned i = 0; i < 2; i++) {
        fds[i] = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(write(fds[i], "12345", 5), 5);
        assert_int_equal(fcntl(fds[i], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    }
    assert_int_equal(files_take(fds[0], 4, &data, &len, &err), -EPROTO);
    assert_int_equal(files_take(fds[1], 5, &data, &len, &err), 0);
    assert_int_equal(len, 5);
    assert_string_equal(data, "12345");
    free(data);
}

static void test_the_end_waits_for_the_child_to_close_what_it_has(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 5000);
    opener_task_end(task, ended, f);
    assert_int_equal(f->answers, 1); /* it was dropped */
    assert_int_equal(f->last.code, -ECANCELED);
    say(f, 0, OPENER_REPLY, 0, 0); /* the child was at it */
    assert_int_equal(f->ended, 0);
    close_fd(&f->children[0]);
    run_for(f, 5);
    assert_int_equal(f->ended, 1);
    assert_true(f->closed);
    assert_int_equal(f->answers, 1);
}

static void test_the_end_does_not_wait_for_a_child_that_hangs(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task = new_task(f);

    ask(f, task, 10);
    run_for(f, OPENER_RELEASE_MS + 50);
    opener_task_end(task, ended, f);
    run_for(f, 20);
    assert_int_equal(f->ended, 1);
    assert_false(f->closed);
    close_fd(&f->children[0]); /* it goes on, and is heard of no more */
    run_for(f, 5);
    assert_int_equal(f->ended, 1);
}

static void test_a_bounded_number_of_children_hangs(void **state)
{
    struct fixture *f = *state;
    struct opener_task *task;
    struct error err = { 0 };

    for (unsigned i = 0; i < OPENER_LATE_MAX; i++)
        ask(f, new_task(f), 10);
    run_for(f, OPENER_RELEASE_MS + 100);
    assert_int_equal(f->answers, OPENER_LATE_MAX);
    assert_int_equal(opener_task_new(f->monitor.opener, &ops, f, &task, &err), -EBUSY);
    assert_non_null(strstr(err.text, "do not answer"));
    say(f, 3, OPENER_REPLY, 0, 0);
    new_task(f);
}

/* ---- Images ---- */

static void succeeded(void *opaque, const struct error *err)
{
    struct fixture *f = opaque;

    assert_null(err);
    f->answers++;
}

/* An image whose child says that its file system has locks. */
static struct image *open_image(struct fixture *f)
{
    const struct image_options options = { .filename = "/image", .locking = ON_OFF_AUTO_AUTO };
    struct opener_reply reply = { .header = { .magic = OPENER_MAGIC, .type = OPENER_REPLY },
                                  .flags = OPENER_HAS_LOCKS };
    struct image *image;

    assert_int_equal(image_new(&f->monitor, &options, &image, NULL), 0);
    assert_int_equal(image_open(image, succeeded, f, NULL), 0);
    assert_int_equal(take_request(f, 0), OPENER_OPEN);
    assert_int_equal(send(f->children[0], &reply, sizeof(reply), MSG_NOSIGNAL), sizeof(reply));
    run_for(f, 5);
    assert_int_equal(f->answers, 1);
    return image;
}

static void assert_locks_asked_for(struct fixture *f, uint32_t uses, uint32_t unshared)
{
    struct opener_lock lock = { .uses = ~0u };

    assert_int_equal(recv(f->children[0], &lock, sizeof(lock), MSG_DONTWAIT), sizeof(lock));
    assert_int_equal(lock.header.type, OPENER_LOCK);
    assert_int_equal(lock.uses, uses);
    assert_int_equal(lock.unshared, unshared);
}

static void test_locks_are_given_back_by_a_child_that_hung_when_they_were_to_be(void **state)
{
    struct fixture *f = *state;
    struct image *image = open_image(f);

    assert_int_equal(image_begin_resize(image, succeeded, f, NULL), 0);
    assert_locks_asked_for(f, IMAGE_LOCK_RESIZE, 0);
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(image_resize(image, 512, succeeded, f, NULL), 0);
    assert_int_equal(take_request(f, 0), OPENER_RESIZE);
    image_end_resize(image);
    run_for(f, OPENER_RELEASE_MS + 100);
    assert_false(image_is_late(image)); /* what is under way has more time than what waits behind it */
    say(f, 0, OPENER_REPLY, 0, 0);
    assert_int_equal(f->answers, 3);
    assert_locks_asked_for(f, 0, 0);
    image_close(image);
}

int main(void)
{
#define OPENER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        OPENER_TEST(test_requests_are_carried_out_one_after_the_other),
        OPENER_TEST(test_who_asks_again_when_he_is_answered_asks_once),
        OPENER_TEST(test_a_request_that_is_late_is_answered_and_its_child_heard_of_later),
        OPENER_TEST(test_a_request_of_one_in_a_hurry_does_not_make_a_child_late),
        OPENER_TEST(test_who_is_told_that_it_was_late_may_end_the_task),
        OPENER_TEST(test_what_is_forgotten_is_not_told_of),
        OPENER_TEST(test_a_path_is_opened_if_it_is_found_good),
        OPENER_TEST(test_a_path_that_is_found_bad_is_not),
        OPENER_TEST(test_a_child_that_dies_is_the_answer),
        OPENER_TEST(test_errors_in_what_a_child_says_end_it),
        OPENER_TEST(test_a_child_leaves_no_descriptors_with_the_monitor),
        OPENER_TEST(test_a_file_is_no_longer_than_was_asked_for),
        OPENER_TEST(test_the_end_waits_for_the_child_to_close_what_it_has),
        OPENER_TEST(test_the_end_does_not_wait_for_a_child_that_hangs),
        OPENER_TEST(test_a_bounded_number_of_children_hangs),
        OPENER_TEST(test_locks_are_given_back_by_a_child_that_hung_when_they_were_to_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
