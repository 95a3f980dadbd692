/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/io/request.h"

/* A request over three pieces of a buffer, one of them empty. */
struct fixture {
    struct block_request req;
    struct iovec iov[4];
    uint8_t buf[32];
};

static struct fixture make(enum block_op op)
{
    return (struct fixture){ .req = { .op = op, .engine_op = op, .offset = 1024, .len_bytes = 30, .iov_count = 4 } };
}

static void lay_out(struct fixture *f)
{
    f->iov[0] = (struct iovec){ f->buf, 10 };
    f->iov[1] = (struct iovec){ f->buf + 10, 0 };
    f->iov[2] = (struct iovec){ f->buf + 10, 15 };
    f->iov[3] = (struct iovec){ f->buf + 25, 5 };
    f->req.iov = f->iov;
}

static void test_a_short_transfer_moves_offset_and_vector_on(void **state)
{
    struct fixture f = make(BLOCK_OP_READ);

    lay_out(&f);
    assert_int_equal(io_request_transferred(&f.req, 12), BLOCK_PENDING);
    assert_int_equal(f.req.offset, 1024 + 12);
    assert_int_equal(f.req.done_bytes, 12);
    assert_int_equal(f.req.iov_count, 2);
    assert_ptr_equal(f.req.iov[0].iov_base, f.buf + 12);
    assert_int_equal(f.req.iov[0].iov_len, 13);
    assert_int_equal(io_request_transferred(&f.req, 18), 0);
    assert_int_equal(f.req.iov_count, 0);
}

static void test_an_interrupted_transfer_goes_on_from_where_it_was(void **state)
{
    struct fixture f = make(BLOCK_OP_WRITE);

    lay_out(&f);
    assert_int_equal(io_request_transferred(&f.req, -EINTR), BLOCK_PENDING);
    assert_int_equal(f.req.offset, 1024);
    assert_int_equal(f.req.iov_count, 4);
}

static void test_a_read_at_the_end_of_the_file_is_filled_with_zeros(void **state)
{
    struct fixture f = make(BLOCK_OP_READ);

    lay_out(&f);
    memset(f.buf, 0xee, sizeof(f.buf));
    assert_int_equal(io_request_transferred(&f.req, 12), BLOCK_PENDING);
    assert_int_equal(io_request_transferred(&f.req, 0), 0);
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(f.buf[i], i < 12 || i >= 30 ? 0xee : 0);
}

static void test_a_direct_read_that_ended_at_an_odd_place_met_the_end_of_the_file(void **state)
{
    struct fixture f = make(BLOCK_OP_READ);

    lay_out(&f);
    assert_int_equal(io_request_transferred(&f.req, 7), BLOCK_PENDING);
    assert_int_equal(io_request_transferred(&f.req, -EINVAL), 0);
    assert_int_equal(f.req.done_bytes, 30);
}

/* Blocks are larger than sectors on many disks. */
static void test_a_direct_read_that_ended_within_a_block_met_the_end_of_the_file(void **state)
{
    static const uint64_t starts[] = { 0, 4096, 65536 };

    for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
        uint8_t buf[8192];
        struct iovec iov = { buf, sizeof(buf) };
        struct block_request req = { .op = BLOCK_OP_READ, .engine_op = BLOCK_OP_READ, .offset = starts[i],
                                     .len_bytes = sizeof(buf), .iov = &iov, .iov_count = 1 };

        memset(buf, 0xee, sizeof(buf));
        assert_int_equal(io_request_transferred(&req, 4096 + 512), BLOCK_PENDING);
        assert_int_equal(io_request_transferred(&req, -EINVAL), 0);
        assert_int_equal(req.done_bytes, sizeof(buf));
        for (unsigned k = 0; k < sizeof(buf); k++)
            assert_int_equal(buf[k], k < 4096 + 512 ? 0xee : 0);
    }
}

static void test_a_first_einval_is_an_error(void **state)
{
    struct fixture f = make(BLOCK_OP_READ);

    lay_out(&f);
    assert_int_equal(io_request_transferred(&f.req, -EINVAL), -EINVAL);
}

static void test_a_write_that_takes_nothing_is_an_error(void **state)
{
    struct fixture f = make(BLOCK_OP_WRITE);

    lay_out(&f);
    assert_int_equal(io_request_transferred(&f.req, 0), -EIO);
}

static void test_errors_of_the_storage_come_as_they_are(void **state)
{
    static const int errors[] = { -EIO, -ENOSPC, -EDQUOT, -EAGAIN, -ECANCELED };

    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
        struct fixture f = make(BLOCK_OP_WRITE);

        lay_out(&f);
        assert_int_equal(io_request_transferred(&f.req, errors[i]), errors[i]);
    }
}

static void test_scatter_and_gather_cross_the_pieces(void **state)
{
    struct fixture f = make(BLOCK_OP_READ);
    uint8_t bytes[30], back[30];

    for (unsigned i = 0; i < 30; i++)
        bytes[i] = (uint8_t)(i + 1);
    lay_out(&f);
    io_request_scatter(&f.req, bytes, 11);
    io_request_scatter(&f.req, bytes + 11, 19);
    assert_memory_equal(f.buf, bytes, 30);
    assert_int_equal(f.req.done_bytes, 30);
    f.req = make(BLOCK_OP_WRITE).req;
    lay_out(&f);
    io_request_gather(&f.req, back, 26);
    io_request_gather(&f.req, back + 26, 4);
    assert_memory_equal(back, bytes, 30);
}

static void test_vectors_are_handed_over_in_pieces_that_the_kernel_takes(void **state)
{
    struct block_request req = { .iov_count = 5000 };

    assert_int_equal(io_request_iov_count(&req), 1024);
    req.iov_count = 3;
    assert_int_equal(io_request_iov_count(&req), 3);
}

static void test_running_each_operation_on_a_bad_descriptor_fails_as_it_should(void **state)
{
    for (unsigned op = 0; op < BLOCK_OP_MAX; op++) {
        struct fixture f = make(op);

        lay_out(&f);
        assert_int_equal(io_request_run(&f.req, -1), op == BLOCK_OP_STATUS ? -ENOTSUP : -EBADF);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_short_transfer_moves_offset_and_vector_on),
        cmocka_unit_test(test_an_interrupted_transfer_goes_on_from_where_it_was),
        cmocka_unit_test(test_a_read_at_the_end_of_the_file_is_filled_with_zeros),
        cmocka_unit_test(test_a_direct_read_that_ended_at_an_odd_place_met_the_end_of_the_file),
        cmocka_unit_test(test_a_direct_read_that_ended_within_a_block_met_the_end_of_the_file),
        cmocka_unit_test(test_a_first_einval_is_an_error),
        cmocka_unit_test(test_a_write_that_takes_nothing_is_an_error),
        cmocka_unit_test(test_errors_of_the_storage_come_as_they_are),
        cmocka_unit_test(test_scatter_and_gather_cross_the_pieces),
        cmocka_unit_test(test_vectors_are_handed_over_in_pieces_that_the_kernel_takes),
        cmocka_unit_test(test_running_each_operation_on_a_bad_descriptor_fails_as_it_should),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
