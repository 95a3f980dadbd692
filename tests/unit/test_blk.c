/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "vhost-worker/blk.h"

struct fixture {
    struct blk_device dev;
    uint8_t out[4096];
    uint8_t in[4096];
    struct iovec iov[8];
    struct vring_chain chain;
    struct blk_request req;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    atomic_store(&f->dev.size_bytes, 1 << 20);
    f->dev.logical_block_bytes = 512;
    f->dev.queues = 1;
    atomic_store(&f->dev.writeback, true);
    f->dev.features = 1ull << VIRTIO_BLK_F_FLUSH;
    blk_set_serial(&f->dev, "disk");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

/* A chain of one readable buffer (header and data) and one writable one (data and status). */
static int parse(struct fixture *f, uint32_t type, uint64_t sector, size_t out_bytes, size_t in_bytes)
{
    struct virtio_blk_req header = { htole32(type), 0, htole64(sector) };

    memcpy(f->out, &header, sizeof(header));
    f->iov[0] = (struct iovec){ f->out, sizeof(header) + out_bytes };
    f->iov[1] = (struct iovec){ f->in, in_bytes + 1 };
    f->chain = (struct vring_chain){
        .out_count = 1, .in_count = 1, .out_bytes = sizeof(header) + out_bytes, .in_bytes = in_bytes + 1
    };
    return blk_request_parse(&f->dev, &f->chain, f->iov, &f->req, &f->err);
}

static void assert_finished(struct fixture *f, uint8_t status)
{
    assert_int_equal(f->req.action, BLK_FINISH);
    assert_int_equal(f->req.status, status);
}

static void test_a_read_gets_its_range_and_buffers(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, VIRTIO_BLK_T_IN, 3, 0, 1024), 0);
    assert_int_equal(f->req.action, BLK_TRANSFER);
    assert_int_equal(f->req.op, BLOCK_OP_READ);
    assert_int_equal(f->req.offset, 3 * 512);
    assert_int_equal(f->req.len_bytes, 1024);
    assert_int_equal(f->req.in_len_bytes, 1025);
    assert_int_equal(f->req.iov_count, 1);
    assert_ptr_equal(f->req.iov[0].iov_base, f->in);
    assert_int_equal(f->req.iov[0].iov_len, 1024);
    assert_ptr_equal(f->req.status_byte, f->in + 1024);
}

static void test_a_write_has_its_data_behind_the_header(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, VIRTIO_BLK_T_OUT, 0, 512, 0), 0);
    assert_int_equal(f->req.op, BLOCK_OP_WRITE);
    assert_ptr_equal(f->req.iov[0].iov_base, f->out + 16);
    assert_int_equal(f->req.iov[0].iov_len, 512);
    assert_int_equal(f->req.in_len_bytes, 1);
    assert_ptr_equal(f->req.status_byte, f->in);
}

static void test_header_and_status_may_be_in_any_pieces(void **state)
{
    struct fixture *f = *state;
    struct virtio_blk_req header = { htole32(VIRTIO_BLK_T_IN), 0, htole64(1) };

    memcpy(f->out, &header, sizeof(header));
    f->iov[0] = (struct iovec){ f->out, 1 };
    f->iov[1] = (struct iovec){ f->out + 1, 14 };
    f->iov[2] = (struct iovec){ f->out + 15, 1 };
    f->iov[3] = (struct iovec){ f->in, 512 };
    f->iov[4] = (struct iovec){ f->in + 600, 1 };
    f->chain = (struct vring_chain){ .out_count = 3, .in_count = 2, .out_bytes = 16, .in_bytes = 513 };
    assert_int_equal(blk_request_parse(&f->dev, &f->chain, f->iov, &f->req, &f->err), 0);
    assert_int_equal(f->req.action, BLK_TRANSFER);
    assert_int_equal(f->req.iov_count, 1);
    assert_ptr_equal(f->req.status_byte, f->in + 600);
}

static void test_without_header_or_status_there_is_no_answer(void **state)
{
    struct fixture *f = *state;

    f->chain = (struct vring_chain){ .out_count = 1, .in_count = 1, .out_bytes = 15, .in_bytes = 1 };
    f->iov[0] = (struct iovec){ f->out, 15 };
    f->iov[1] = (struct iovec){ f->in, 1 };
    assert_int_equal(blk_request_parse(&f->dev, &f->chain, f->iov, &f->req, &f->err), -EPROTO);
    f->chain = (struct vring_chain){ .out_count = 1, .out_bytes = 16 };
    f->iov[0].iov_len = 16;
    assert_int_equal(blk_request_parse(&f->dev, &f->chain, f->iov, &f->req, &f->err), -EPROTO);
}

static void test_ranges_outside_the_disk_are_errors(void **state)
{
    struct fixture *f = *state;
    static const uint64_t sectors[] = { 2047, 2048, 1ull << 54, 1ull << 55, UINT64_MAX, UINT64_MAX / 512 };

    parse(f, VIRTIO_BLK_T_IN, 2046, 0, 1024);
    assert_int_equal(f->req.action, BLK_TRANSFER);
    for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
        assert_int_equal(parse(f, VIRTIO_BLK_T_IN, sectors[i], 0, 1024), 0);
        assert_finished(f, VIRTIO_BLK_S_IOERR);
    }
}

static void test_parts_of_logical_blocks_are_errors(void **state)
{
    struct fixture *f = *state;

    parse(f, VIRTIO_BLK_T_IN, 0, 0, 511);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
    f->dev.logical_block_bytes = 1024;
    parse(f, VIRTIO_BLK_T_IN, 1, 0, 1024);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
    parse(f, VIRTIO_BLK_T_IN, 2, 0, 512);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
    parse(f, VIRTIO_BLK_T_IN, 2, 0, 1024);
    assert_int_equal(f->req.action, BLK_TRANSFER);
}

static void test_a_read_only_disk_refuses_what_changes_it(void **state)
{
    struct fixture *f = *state;
    static const uint32_t types[] = { VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };

    f->dev.read_only = true;
    memset(f->out + 16, 0, 512);
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        parse(f, types[i], 0, i == 0 ? 512 : 16, 0);
        assert_finished(f, VIRTIO_BLK_S_IOERR);
    }
}

static void test_unknown_types_are_not_supported(void **state)
{
    struct fixture *f = *state;
    static const uint32_t types[] = { 2, 3, 5, 7, 9, 10, 12, 14, 0x7fffffff };

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        parse(f, types[i], 0, 512, 512);
        assert_finished(f, VIRTIO_BLK_S_UNSUPP);
    }
    parse(f, VIRTIO_BLK_T_IN | VIRTIO_BLK_T_LEGACY_BARRIER, 0, 0, 512);
    assert_int_equal(f->req.action, BLK_TRANSFER);
}

static void put_range(struct fixture *f, unsigned i, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = { htole64(sector), htole32(sectors), htole32(flags) };

    memcpy(f->out + 16 + i * sizeof(range), &range, sizeof(range));
}

static void test_ranges_of_write_zeroes_keep_their_flags(void **state)
{
    struct fixture *f = *state;

    put_range(f, 0, 8, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    put_range(f, 1, 0, 0, 0);
    put_range(f, 2, 100, 1, 0);
    assert_int_equal(parse(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 48, 0), 0);
    assert_int_equal(f->req.action, BLK_RANGES);
    assert_int_equal(f->req.range_count, 2);
    assert_int_equal(f->req.ranges[0].flags, BLOCK_REQ_MAY_UNMAP);
    assert_int_equal(f->req.ranges[1].flags, 0);
    assert_int_equal(f->req.ranges[1].offset, 100 * 512);
    assert_int_equal(f->req.len_bytes, 17 * 512); /* of all of them, not of the table */
}

static void test_flags_that_discard_does_not_have(void **state)
{
    struct fixture *f = *state;

    put_range(f, 0, 8, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    parse(f, VIRTIO_BLK_T_DISCARD, 0, 16, 0);
    assert_finished(f, VIRTIO_BLK_S_UNSUPP);
    put_range(f, 0, 8, 16, 2);
    parse(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0);
    assert_finished(f, VIRTIO_BLK_S_UNSUPP);
}

/* The second of two is bad: nothing is done, not even the first. */
static void test_one_bad_range_refuses_them_all(void **state)
{
    struct fixture *f = *state;

    put_range(f, 0, 0, 8, 0);
    put_range(f, 1, 2048, 1, 0);
    parse(f, VIRTIO_BLK_T_DISCARD, 0, 32, 0);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
}

static void test_the_number_of_ranges_is_bounded(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i <= BLK_RANGES_MAX; i++)
        put_range(f, i, i * 8, 8, 0);
    parse(f, VIRTIO_BLK_T_DISCARD, 0, BLK_RANGES_MAX * 16, 0);
    assert_int_equal(f->req.range_count, BLK_RANGES_MAX);
    parse(f, VIRTIO_BLK_T_DISCARD, 0, (BLK_RANGES_MAX + 1) * 16, 0);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
    parse(f, VIRTIO_BLK_T_DISCARD, 0, 8, 0);
    assert_finished(f, VIRTIO_BLK_S_IOERR);
}

/* 5.2.6.2: which writes must be stable when they complete. */
static void test_writes_are_stable_when_nobody_flushes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t features;
        bool writeback, writethrough, fua;
    } cases[] = {
        { 0, true, false, true },
        { 1ull << VIRTIO_BLK_F_FLUSH, true, false, false },
        { 1ull << VIRTIO_BLK_F_FLUSH, false, false, false }, /* the field counts with CONFIG_WCE only */
        { 1ull << VIRTIO_BLK_F_CONFIG_WCE, true, false, false },
        { 1ull << VIRTIO_BLK_F_CONFIG_WCE, false, false, true },
        { 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE, false, false, true },
        { 1ull << VIRTIO_BLK_F_FLUSH, true, true, true },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        f->dev.features = cases[i].features;
        atomic_store(&f->dev.writeback, cases[i].writeback);
        f->dev.writethrough = cases[i].writethrough;
        parse(f, VIRTIO_BLK_T_OUT, 0, 512, 0);
        assert_int_equal(f->req.flags, cases[i].fua ? BLOCK_REQ_FUA : 0);
        put_range(f, 0, 0, 1, 0);
        parse(f, VIRTIO_BLK_T_DISCARD, 0, 16, 0);
        assert_int_equal(f->req.ranges[0].flags, cases[i].fua ? BLOCK_REQ_FUA : 0);
        parse(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0);
        assert_int_equal(f->req.ranges[0].flags, cases[i].fua ? BLOCK_REQ_FUA : 0);
    }
}

static void test_the_id_is_cut_to_the_buffer(void **state)
{
    struct fixture *f = *state;

    memset(f->in, 0x55, sizeof(f->in));
    parse(f, VIRTIO_BLK_T_GET_ID, 0, 0, 20);
    assert_finished(f, VIRTIO_BLK_S_OK);
    assert_string_equal((char *)f->in, "disk");
    assert_int_equal(f->in[19], 0);
    assert_int_equal(f->in[20], 0x55);
    memset(f->in, 0x55, sizeof(f->in));
    parse(f, VIRTIO_BLK_T_GET_ID, 0, 0, 2);
    assert_int_equal(f->in[1], 'i');
    assert_int_equal(f->in[2], 0x55);
}

static void test_serials_tell_exports_apart(void **state)
{
    struct blk_device a = { 0 }, b = { 0 };

    blk_set_serial(&a, "exactly-twenty-bytes");
    assert_memory_equal(a.serial, "exactly-twenty-bytes", 20);
    blk_set_serial(&a, "a-long-name-that-ends-in-1");
    blk_set_serial(&b, "a-long-name-that-ends-in-2");
    assert_memory_equal(a.serial, "a-long-name-", 12);
    assert_memory_not_equal(a.serial, b.serial, 20);
    blk_set_serial(&b, "a-long-name-that-ends-in-1");
    assert_memory_equal(a.serial, b.serial, 20);
    blk_set_serial(&b, "x");
    assert_memory_equal(b.serial, "x\0\0", 3);
}

static void test_features_follow_the_export(void **state)
{
    struct fixture *f = *state;
    uint64_t discard = 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;

    assert_true((blk_features(&f->dev) & discard) == discard);
    assert_false(blk_features(&f->dev) & 1ull << VIRTIO_BLK_F_MQ);
    assert_false(blk_features(&f->dev) & 1ull << VIRTIO_BLK_F_RO);
    f->dev.read_only = true;
    f->dev.queues = 4;
    assert_false(blk_features(&f->dev) & discard);
    assert_true(blk_features(&f->dev) & 1ull << VIRTIO_BLK_F_MQ);
    assert_true(blk_features(&f->dev) & 1ull << VIRTIO_BLK_F_RO);
}

static void test_the_configuration_describes_the_disk(void **state)
{
    struct fixture *f = *state;
    struct virtio_blk_config config;

    f->dev.logical_block_bytes = 1024;
    f->dev.physical_block_bytes = 4096;
    f->dev.preferred_block_bytes = 65536;
    f->dev.queues = 3;
    atomic_store(&f->dev.size_bytes, (1 << 20) + 512);
    blk_config(&f->dev, &config);
    assert_int_equal(config.capacity, 2048); /* no part of a block */
    assert_int_equal(config.blk_size, 1024);
    assert_int_equal(config.physical_block_exp, 2);
    assert_int_equal(config.min_io_size, 4);
    assert_int_equal(config.opt_io_size, 64);
    assert_int_equal(config.num_queues, 3);
    assert_int_equal(config.discard_sector_alignment, 2);
    f->dev.physical_block_bytes = 1;
    blk_config(&f->dev, &config);
    assert_int_equal(config.physical_block_exp, 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_a_read_gets_its_range_and_buffers),
        test(test_a_write_has_its_data_behind_the_header),
        test(test_header_and_status_may_be_in_any_pieces),
        test(test_without_header_or_status_there_is_no_answer),
        test(test_ranges_outside_the_disk_are_errors),
        test(test_parts_of_logical_blocks_are_errors),
        test(test_a_read_only_disk_refuses_what_changes_it),
        test(test_unknown_types_are_not_supported),
        test(test_ranges_of_write_zeroes_keep_their_flags),
        test(test_flags_that_discard_does_not_have),
        test(test_one_bad_range_refuses_them_all),
        test(test_the_number_of_ranges_is_bounded),
        test(test_writes_are_stable_when_nobody_flushes),
        test(test_the_id_is_cut_to_the_buffer),
        test(test_serials_tell_exports_apart),
        test(test_features_follow_the_export),
        test(test_the_configuration_describes_the_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
