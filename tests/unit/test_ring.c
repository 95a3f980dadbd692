/* SPDX-License-Identifier: BSD-2-Clause */
/* A restricted ring does what it is for and is refused everything else by the kernel. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>

#include "common/io/ring.h"

struct fixture {
    struct io_ring ring;
    int fd;
    struct block_request req;
    struct iovec iov[2];
    uint8_t buf[1024];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = { 0 };

    f->fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(f->fd >= 0);
    if (io_ring_init(&f->ring, &f->fd, 1, &err) < 0)
        print_message("[  REASON  ] %s\n", err.text);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    io_ring_done(&f->ring);
    close_fd(&f->fd);
    free(f);
    return 0;
}

static void need_ring(const struct fixture *f)
{
    if (f->ring.uring.ring_fd < 0)
        skip();
}

/* Submit one entry as it is and return its result. */
static int run_raw(struct fixture *f, void (*prepare)(struct io_uring_sqe *sqe, struct fixture *f), uint8_t flags)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&f->ring.uring);
    struct io_uring_cqe *cqe;
    int res;

    prepare(sqe, f);
    sqe->flags = flags;
    assert_true(io_uring_submit_and_wait(&f->ring.uring, 1) >= 0);
    assert_int_equal(io_uring_peek_cqe(&f->ring.uring, &cqe), 0);
    res = cqe->res;
    io_uring_cqe_seen(&f->ring.uring, cqe);
    return res;
}

static void raw_read(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_read(sqe, 0, f->buf, 16, 0);
}

static void raw_read_plain_descriptor(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_read(sqe, f->fd, f->buf, 16, 0);
}

static void raw_read_second_file(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_read(sqe, 1, f->buf, 16, 0);
}

static void raw_nop(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_nop(sqe);
}

static void raw_openat(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
}

static void raw_socket(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_rw(IORING_OP_CONNECT, sqe, 0, f->buf, 0, 16);
}

static void raw_sendmsg(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_rw(IORING_OP_SENDMSG, sqe, 0, f->buf, 1, 0);
}

static void raw_statx(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_rw(IORING_OP_STATX, sqe, 0, "", 0, (uint64_t)(uintptr_t)f->buf);
}

static void raw_msg_ring(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_rw(IORING_OP_MSG_RING, sqe, 0, NULL, 0, 0);
}

static void raw_uring_cmd(struct io_uring_sqe *sqe, struct fixture *f)
{
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, 0, NULL, 0, 0);
}

static void test_the_registered_file_can_be_read(void **state)
{
    struct fixture *f = *state;

    need_ring(f);
    assert_int_equal(pwrite(f->fd, "0123456789abcdef", 16, 0), 16);
    assert_int_equal(run_raw(f, raw_read, IOSQE_FIXED_FILE), 16);
    assert_memory_equal(f->buf, "0123456789abcdef", 16);
}

static void test_a_descriptor_that_is_not_registered_is_refused(void **state)
{
    struct fixture *f = *state;

    need_ring(f);
    assert_int_equal(run_raw(f, raw_read_plain_descriptor, 0), -EACCES);
    assert_int_equal(run_raw(f, raw_read_second_file, IOSQE_FIXED_FILE), -EBADF);
}

static void test_every_other_operation_is_refused(void **state)
{
    static void (*const prepare[])(struct io_uring_sqe * sqe, struct fixture * f) = {
        raw_nop, raw_openat, raw_socket, raw_sendmsg, raw_statx, raw_msg_ring, raw_uring_cmd,
    };
    struct fixture *f = *state;

    need_ring(f);
    for (unsigned i = 0; i < ARRAY_SIZE(prepare); i++) {
        int res = run_raw(f, prepare[i], IOSQE_FIXED_FILE);

        if (res != -EACCES)
            fail_msg("operation %u of the list: %d instead of -EACCES", i, res);
    }
}

static void test_links_and_other_flags_are_refused(void **state)
{
    struct fixture *f = *state;

    need_ring(f);
    assert_int_equal(run_raw(f, raw_read, IOSQE_FIXED_FILE | IOSQE_IO_LINK), -EACCES);
    assert_int_equal(run_raw(f, raw_read, IOSQE_FIXED_FILE | IOSQE_IO_DRAIN), -EACCES);
}

static void test_nothing_more_can_be_registered(void **state)
{
    struct fixture *f = *state;
    unsigned ring_fd = (unsigned)f->ring.uring.ring_fd;
    struct io_uring_restriction more = { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_OPENAT };

    need_ring(f);
    assert_int_equal(io_uring_register(ring_fd, IORING_REGISTER_FILES, &f->fd, 1), -EACCES);
    assert_int_equal(io_uring_register(ring_fd, IORING_REGISTER_EVENTFD, &f->fd, 1), -EACCES);
    assert_int_equal(io_uring_register(ring_fd, IORING_REGISTER_RESTRICTIONS, &more, 1), -EACCES);
    assert_int_equal(io_uring_register(ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0), -EACCES);
}

/* At once: not when the kernel has found the time to take down the ring. */
static void test_files_that_are_released_are_closed(void **state)
{
    struct fixture *f = *state;
    struct io_ring ring;
    struct error err;
    int ends[2];
    char c;

    need_ring(f);
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    assert_int_equal(io_ring_init(&ring, &ends[1], 1, &err), 0);
    close(ends[1]);
    assert_int_equal(read(ends[0], &c, 1), -1); /* the ring has the other end */
    io_ring_release_files(&ring);
    assert_int_equal(read(ends[0], &c, 1), 0);
    assert_int_equal(io_uring_register((unsigned)ring.uring.ring_fd, IORING_REGISTER_FILES, &f->fd, 1), -EACCES);
    close(ends[0]);
    io_ring_done(&ring);
}

static const struct io_uring_sqe *prepare_request(struct fixture *f, enum block_op op)
{
    unsigned tail = f->ring.uring.sq.sqe_tail;

    f->req.op = f->req.engine_op = op;
    f->req.iov = f->iov;
    f->iov[0] = (struct iovec){ f->buf, 512 };
    f->iov[1] = (struct iovec){ f->buf + 512, 512 };
    assert_true(io_ring_prepare(&f->ring, &f->req));
    return &f->ring.uring.sq.sqes[tail & *f->ring.uring.sq.kring_mask];
}

static void test_requests_become_the_operations_they_mean(void **state)
{
    struct fixture *f = *state;
    const struct io_uring_sqe *sqe;

    need_ring(f);
    f->req.offset = 8192;
    f->req.len_bytes = 1024;
    f->req.iov_count = 2;
    f->req.rw_flags = RWF_DSYNC;
    sqe = prepare_request(f, BLOCK_OP_WRITE);
    assert_int_equal(sqe->opcode, IORING_OP_WRITEV);
    assert_int_equal(sqe->rw_flags, RWF_DSYNC);
    assert_int_equal(sqe->off, 8192);
    assert_int_equal(sqe->flags, IOSQE_FIXED_FILE);

    f->req.iov_count = 1;
    sqe = prepare_request(f, BLOCK_OP_WRITE);
    assert_int_equal(sqe->opcode, IORING_OP_WRITE);
    assert_int_equal(sqe->rw_flags, RWF_DSYNC);

    f->req.rw_flags = 0;
    f->req.offload = true;
    sqe = prepare_request(f, BLOCK_OP_READ);
    assert_int_equal(sqe->opcode, IORING_OP_READ);
    assert_int_equal(sqe->flags, IOSQE_FIXED_FILE | IOSQE_ASYNC);

    sqe = prepare_request(f, BLOCK_OP_FLUSH);
    assert_int_equal(sqe->opcode, IORING_OP_FSYNC);
    assert_int_equal(sqe->fsync_flags, IORING_FSYNC_DATASYNC);
    assert_int_equal(sqe->off, 0);
    assert_int_equal(sqe->len, 0);

    f->req.fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    sqe = prepare_request(f, BLOCK_OP_DISCARD);
    assert_int_equal(sqe->opcode, IORING_OP_FALLOCATE);
    assert_int_equal(sqe->len, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    assert_int_equal(sqe->addr, 1024);

    sqe = prepare_request(f, BLOCK_OP_CACHE);
    assert_int_equal(sqe->opcode, IORING_OP_FADVISE);
    assert_int_equal(sqe->fadvise_advice, POSIX_FADV_WILLNEED);
}

static void test_a_full_ring_says_so(void **state)
{
    struct fixture *f = *state;
    unsigned count = 0;

    need_ring(f);
    f->req = (struct block_request){ .op = BLOCK_OP_FLUSH, .engine_op = BLOCK_OP_FLUSH };
    while (count < 100000 && io_ring_prepare(&f->ring, &f->req))
        count++;
    assert_true(count > 0 && count < 100000);
}

#define RING_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RING_TEST(test_the_registered_file_can_be_read),
        RING_TEST(test_a_descriptor_that_is_not_registered_is_refused),
        RING_TEST(test_every_other_operation_is_refused),
        RING_TEST(test_links_and_other_flags_are_refused),
        RING_TEST(test_nothing_more_can_be_registered),
        RING_TEST(test_files_that_are_released_are_closed),
        RING_TEST(test_requests_become_the_operations_they_mean),
        RING_TEST(test_a_full_ring_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
