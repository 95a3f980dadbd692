/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The transmission phase as a client sees it, over a socketpair and on a block layer that does what a test tells it:
 * each command, each rule with the twin that breaks it, and what a client can use up.
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "tests/unit/nbd_docs.h"
#include "tests/unit/nbd_peer.h"

/* ---- READ ---- */

static void test_read_simple(void **state)
{
    struct peer *peer = simple_peer();

    fill(8192, 4096);
    request(peer, NBD_CMD_READ, 0, 0x1122334455667788, 8192, 4096);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 0x1122334455667788), 0);
    assert_data(&peer->at, 8192, 4096);
    assert_true(cursor_at_end(&peer->at));
    assert_int_equal(fx->page.ops[BLOCK_OP_READ], 1);
    assert_int_equal(fx->page.bytes[BLOCK_OP_READ], 4096);
}

static void test_read_structured(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    fill(100, 50);
    request(peer, NBD_CMD_READ, NBD_CMD_FLAG_DF, 5, 100, 50);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 5, true, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 100);
    assert_data(&payload, 100, 50);
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

static const struct block_extent all_hole = { SIZE, BLOCK_EXTENT_ZERO | BLOCK_EXTENT_HOLE };

static void assert_hole(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t len)
{
    struct cursor payload;

    settle_all(peer);
    assert_int_equal(get_chunk(peer, cookie, true, &payload), NBD_REPLY_TYPE_OFFSET_HOLE);
    assert_true(cursor_be64(&payload) == offset);
    assert_int_equal(cursor_be32(&payload), len);
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

static void test_read_of_a_hole(void **state)
{
    struct peer *peer = structured_peer();

    fake.extents = &all_hole;
    fake.extent_count = 1;
    request(peer, NBD_CMD_READ, 0, 3, 4096, NBD_HOLE_MIN_BYTES);
    assert_hole(peer, 3, 4096, NBD_HOLE_MIN_BYTES);
    assert_int_equal(fake.log_count, 1); /* nothing was read */
    assert_int_equal(fx->page.ops[BLOCK_OP_READ], 1);
    assert_int_equal(fx->page.bytes[BLOCK_OP_READ], NBD_HOLE_MIN_BYTES);
    assert_int_equal(fx->page.ops[BLOCK_OP_STATUS], 0);
}

/* What is not known at once is looked for, and read only if there is something. */
static void test_read_looks_for_a_hole(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    fill(0, NBD_HOLE_MIN_BYTES);
    fake.pend = true;
    fake.extents = &all_hole;
    fake.extent_count = 1;
    for (unsigned i = 0; i < 3; i++) {
        request(peer, NBD_CMD_READ, 0, i, 0, NBD_HOLE_MIN_BYTES);
        settle_all(peer);
        assert_int_equal(fake.pending_count, 1);
        assert_int_equal(fake.pending[0]->op, BLOCK_OP_STATUS);
        if (i == 1)
            fake.extent_count = 0;
        fake.error = i == 2 ? -EIO : 0; /* of the look: then it is read as if nobody had asked */
        fake_complete(0);
        fake.error = 0;
        if (i == 0) {
            assert_hole(peer, 0, 0, NBD_HOLE_MIN_BYTES);
            continue;
        }
        assert_int_equal(fake.pending_count, 1);
        assert_int_equal(fake.pending[0]->op, BLOCK_OP_READ);
        fake_complete(0);
        settle_all(peer);
        assert_int_equal(get_chunk(peer, i, true, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
        assert_true(cursor_be64(&payload) == 0);
        assert_data(&payload, 0, NBD_HOLE_MIN_BYTES);
    }
}

/* "If the area being read contains both data and a hole, the server MUST use OFFSET_DATA" with DF. */
static void test_reads_that_are_no_hole(void **state)
{
    static const struct block_extent half = { NBD_HOLE_MIN_BYTES - 1, BLOCK_EXTENT_ZERO };
    static const struct block_extent unknown = { SIZE, BLOCK_EXTENT_HOLE }; /* not known to read as zeros */
    const struct {
        uint32_t flags;
        uint16_t request_flags;
        uint32_t len;
        const struct block_extent *extent;
    } rows[] = {
        { 0, 0, NBD_HOLE_MIN_BYTES, &all_hole },
        { IPC_NBD_STRUCTURED_REPLY, NBD_CMD_FLAG_DF, NBD_HOLE_MIN_BYTES, &all_hole },
        { IPC_NBD_STRUCTURED_REPLY, 0, NBD_HOLE_MIN_BYTES - 1, &all_hole },
        { IPC_NBD_STRUCTURED_REPLY, 0, NBD_HOLE_MIN_BYTES, &half },
        { IPC_NBD_STRUCTURED_REPLY, 0, NBD_HOLE_MIN_BYTES, &unknown },
    };

    fake.extent_count = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct peer *peer = peer_join(i % 2, rows[i].flags, 0);

        fake.extents = rows[i].extent;
        request(peer, NBD_CMD_READ, rows[i].request_flags, 1, 0, rows[i].len);
        settle_all(peer);
        assert_true(peer->got_bytes >= rows[i].len);
        close_fd(&peer->fd);
        turns();
        free(TAKE_PTR(peer->got));
    }
}

static void test_many_reads_in_one_go(void **state)
{
    struct nbd_request_header h[200];
    struct peer *peer = simple_peer();

    fill(0, 200 * 4096);
    for (unsigned i = 0; i < 200; i++)
        h[i] = header(NBD_CMD_READ, 0, i, i * 4096, 4096);
    peer_send(peer, h, sizeof(h));
    settle_all(peer);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(get_simple(peer, i), 0);
        assert_data(&peer->at, i * 4096, 4096);
    }
    assert_true(cursor_at_end(&peer->at));
}

static void test_pending_reads_are_answered_in_the_order_of_completion(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    fill(0, 8192);
    request(peer, NBD_CMD_READ, 0, 1, 0, 4096);
    request(peer, NBD_CMD_READ, 0, 2, 4096, 4096);
    assert_nothing_left(peer);
    assert_int_equal(fake.pending_count, 2);
    assert_int_equal(fake.pending[0]->flags, BLOCK_REQ_NO_INLINE);
    assert_int_equal((uintptr_t)fake.pending[0]->iov[0].iov_base % 4096, 0);
    fake_complete(1);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_data(&peer->at, 4096, 4096);
    fake_complete(0);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_data(&peer->at, 0, 4096);
}

static void test_read_of_32_mib(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    fill(4096, NBD_MAX_PAYLOAD);
    request(peer, NBD_CMD_READ, 0, 9, 4096, NBD_MAX_PAYLOAD);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 9, true, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 4096);
    assert_data(&payload, 4096, NBD_MAX_PAYLOAD);
}

static void test_errors_read_too_large(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_READ, 0, 9, 0, NBD_MAX_PAYLOAD + 1);
    assert_simple(peer, 9, NBD_EINVAL);
}

static void test_errors_structured_read_too_large(void **state)
{
    struct peer *peer = structured_peer();

    request(peer, NBD_CMD_READ, 0, 9, 0, NBD_MAX_PAYLOAD + 1);
    assert_error_chunk(peer, 9, NBD_EINVAL);
}

static void test_errors_read_beyond_the_end(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_READ, 0, 1, SIZE - 4095, 4096);
    assert_simple(peer, 1, NBD_EINVAL);
    request(peer, NBD_CMD_READ, 0, 2, UINT64_MAX, 4096);
    assert_simple(peer, 2, NBD_EINVAL);
    request(peer, NBD_CMD_READ, 0, 3, SIZE - 4096, 4096);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 3), 0);
}

static void test_errors_df_without_structured_replies(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_READ, NBD_CMD_FLAG_DF, 1, 0, 512);
    assert_simple(peer, 1, NBD_EINVAL);
}

static void test_read_of_nothing(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    request(peer, NBD_CMD_READ, 0, 1, 0, 0);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, true, &payload), NBD_REPLY_TYPE_NONE);
    assert_true(cursor_at_end(&peer->at));
}

static void test_read_error(void **state)
{
    struct peer *peer = simple_peer();

    fake.error = -EIO;
    request(peer, NBD_CMD_READ, 0, 1, 0, 4096);
    assert_simple(peer, 1, NBD_EIO);
    fake.pend = true;
    request(peer, NBD_CMD_READ, 0, 2, 0, 4096);
    turns();
    fake_complete(0);
    assert_simple(peer, 2, NBD_EIO);
    assert_int_equal(fx->io_errors, 2);
    assert_int_equal(fx->io_error, -EIO);
    assert_int_equal(fx->page.errors[BLOCK_OP_READ], 2);
    fake.error = 0;
    fake.pend = false;
    request(peer, NBD_CMD_READ, 0, 3, 0, 4096);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 3), 0);
}

static void test_structured_read_error(void **state)
{
    struct peer *peer = structured_peer();

    fake.error = -EREMOTEIO;
    request(peer, NBD_CMD_READ, 0, 1, 0, 4096);
    assert_error_chunk(peer, 1, NBD_EIO);
}

/* ---- Large reads from the page cache ---- */

static void map_image(uint64_t offset, size_t len_bytes)
{
    fake.map_fd = memfd_create("image", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fake.map_fd, SIZE), 0);
    fill(offset, len_bytes);
    assert_int_equal(pwrite(fake.map_fd, fake.data + offset, len_bytes, (off_t)offset), len_bytes);
}

static void test_large_read_by_sendfile(void **state)
{
    struct peer *peer = simple_peer();

    map_image(4096, 8 << 20);
    request(peer, NBD_CMD_READ, 0, 1, 4096, 8 << 20);
    request(peer, NBD_CMD_READ, 0, 2, 4096, 100);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_data(&peer->at, 4096, 8 << 20);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_data(&peer->at, 4096, 100);
    assert_int_equal(fake.log_count, 1);
    close_fd(&fake.map_fd);
}

static void test_large_structured_read_by_sendfile(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    map_image(0, 1 << 20);
    request(peer, NBD_CMD_READ, 0, 1, 0, 1 << 20);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, false, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 0);
    assert_data(&payload, 0, 1 << 20);
    assert_int_equal(get_chunk(peer, 1, true, &payload), NBD_REPLY_TYPE_NONE);
    assert_true(cursor_at_end(&peer->at));
    close_fd(&fake.map_fd);
}

/* Reading the image fails after the reply has begun. */
static void map_unreadable(void)
{
    fake.map_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static void test_errors_large_structured_read_that_fails(void **state)
{
    struct peer *peer = structured_peer();
    struct cursor payload;

    map_unreadable();
    request(peer, NBD_CMD_READ, 0, 1, 0, 4 << 20);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, false, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_int_equal(payload.left_bytes, (4 << 20) + 8);
    assert_error_chunk(peer, 1, NBD_EIO);
    assert_false(fx->gone[0]);
    assert_int_equal(fx->io_errors, 1);
    close_fd(&fake.map_fd);
}

static void test_errors_large_simple_read_that_fails(void **state)
{
    struct peer *peer = simple_peer();

    map_unreadable();
    request(peer, NBD_CMD_READ, 0, 1, 0, 4 << 20);
    settle_all(peer);
    assert_true(fx->gone[0]);
    assert_false(fx->gone_in_order[0]);
    assert_int_equal(fx->io_errors, 1);
    close_fd(&fake.map_fd);
}

/* ---- WRITE ---- */

static uint8_t payload_bytes[NBD_MAX_PAYLOAD];

static void write_request(struct peer *peer, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        payload_bytes[i] = (uint8_t)(i * 3 + cookie);
    request(peer, NBD_CMD_WRITE, flags, cookie, offset, len);
    peer_send(peer, payload_bytes, len);
}

static void test_write_from_the_receive_buffer(void **state)
{
    struct peer *peer = simple_peer();

    write_request(peer, 0, 1, 512, 4096);
    assert_simple(peer, 1, 0);
    assert_memory_equal(fake.data + 512, payload_bytes, 4096);
    assert_int_equal(fake.inline_attempts, 1);
    assert_int_equal(fake.log_count, 1);
}

static void test_write_that_arrives_in_pieces(void **state)
{
    struct nbd_request_header h = header(NBD_CMD_WRITE, 0, 1, 0, 6000);
    struct peer *peer = simple_peer();

    peer_send(peer, &h, 10);
    turns();
    peer_send(peer, (uint8_t *)&h + 10, sizeof(h) - 10);
    turns();
    for (unsigned i = 0; i < 6000; i++)
        payload_bytes[i] = (uint8_t)i;
    for (unsigned i = 0; i < 6; i++) {
        assert_nothing_left(peer);
        peer_send(peer, payload_bytes + i * 1000, 1000);
    }
    assert_simple(peer, 1, 0);
    assert_memory_equal(fake.data, payload_bytes, 6000);
}

static int waiting_bytes[FAKE_LOG_MAX];

static void see_what_waits(void)
{
    assert_int_equal(ioctl(fx->peers[0].fd, FIONREAD, &waiting_bytes[fake.log_count]), 0);
}

/* The client does not wait for all of a batch: it has something to do while the rest is written. */
static void test_batch_of_writes_is_answered_along_the_way(void **state)
{
    enum { COUNT = 32, BYTES = 4096, TOLD = NBD_SEND_NOW_BYTES / BYTES };
    static uint8_t batch[COUNT][sizeof(struct nbd_request_header) + BYTES];
    struct peer *peer = simple_peer();

    for (unsigned i = 0; i < COUNT; i++)
        *(struct nbd_request_header *)(void *)batch[i] = header(NBD_CMD_WRITE, 0, i, i * BYTES, BYTES);
    fake.observe = see_what_waits;
    peer_send(peer, batch, sizeof(batch));
    settle_all(peer);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(waiting_bytes[i], i / TOLD * TOLD * sizeof(struct nbd_simple_reply));
        assert_int_equal(get_simple(peer, i), 0);
    }
}

static void test_pending_write_keeps_its_payload(void **state)
{
    struct peer *peer = simple_peer();
    uint8_t first[4096];

    fake.pend = true;
    write_request(peer, 0, 1, 0, 4096);
    turns();
    memcpy(first, payload_bytes, sizeof(first));
    write_request(peer, 0, 2, 4096, 4096);
    turns();
    assert_int_equal(fake.pending_count, 2);
    fake_complete(0);
    fake_complete(0);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_memory_equal(fake.data, first, 4096);
    assert_memory_equal(fake.data + 4096, payload_bytes, 4096);
}

static void test_write_of_32_mib(void **state)
{
    struct peer *peer = simple_peer();

    write_request(peer, 0, 1, 0, NBD_MAX_PAYLOAD);
    assert_simple(peer, 1, 0);
    assert_memory_equal(fake.data, payload_bytes, NBD_MAX_PAYLOAD);
}

#define LARGE (1u << 20)

/* The header and the first half of a large write at an odd offset; what can be executed has been. */
static void begin_large_write(struct peer *peer)
{
    for (uint32_t i = 0; i < LARGE; i++)
        payload_bytes[i] = (uint8_t)(i * 5 + (i >> 9));
    request(peer, NBD_CMD_WRITE, 0, 1, 100, LARGE);
    peer_send(peer, payload_bytes, LARGE / 2);
    turns();
}

static void end_large_write(struct peer *peer)
{
    peer_send(peer, payload_bytes + LARGE / 2, LARGE / 2);
    request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
    settle_all(peer);
}

static void test_large_write_is_executed_while_it_arrives(void **state)
{
    struct peer *peer = simple_peer();
    uint64_t at = 100;

    begin_large_write(peer);
    assert_true(fake.log_count > 0);
    assert_memory_equal(fake.data + 100, payload_bytes, LARGE / 2 - NBD_PIECE_MIN_BYTES);
    assert_nothing_left(peer); /* no word before all of it is in place */
    end_large_write(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_memory_equal(fake.data + 100, payload_bytes, LARGE);
    assert_int_equal(fake.data[99], 0);
    assert_int_equal(fake.data[100 + LARGE], 0);
    for (unsigned i = 0; i + 1 < fake.log_count; i++) { /* each byte once, no page twice */
        assert_int_equal(fake.log[i].offset, at);
        at += fake.log[i].len_bytes;
        assert_true(i + 2 == fake.log_count || at % NBD_PIECE_ALIGN == 0);
    }
    assert_int_equal(at, 100 + LARGE);
    assert_int_equal(fx->page.ops[BLOCK_OP_WRITE], 1);
    assert_int_equal(fx->page.bytes[BLOCK_OP_WRITE], LARGE);
}

static void test_large_write_that_would_block_is_gathered(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    begin_large_write(peer);
    end_large_write(peer);
    assert_int_equal(fake.inline_attempts, 1);
    assert_int_equal(fake.pending_count, 2); /* all of it, and the flush */
    fake.pend = false;
    fake_complete(0);
    assert_simple(peer, 1, 0);
    assert_memory_equal(fake.data + 100, payload_bytes, LARGE);
    fake_complete(0);
    assert_simple(peer, 2, 0);
    fake.inline_attempts = 0;
    write_request(peer, 0, 3, 4096, LARGE); /* not tried again so soon */
    assert_simple(peer, 3, 0);
    assert_int_equal(fake.inline_attempts, 0);
}

static void test_rest_of_a_large_write_that_would_block_is_gathered(void **state)
{
    struct peer *peer = simple_peer();

    begin_large_write(peer);
    fake.pend = true;
    end_large_write(peer);
    assert_int_equal(fake.pending_count, 2);
    assert_in_range(fake.pending_bytes, LARGE / 2, LARGE / 2 + NBD_PIECE_MIN_BYTES);
    fake.pend = false;
    fake_complete(0);
    assert_simple(peer, 1, 0);
    assert_memory_equal(fake.data + 100, payload_bytes, LARGE);
    fake_complete(0);
    assert_simple(peer, 2, 0);
    assert_int_equal(fx->page.bytes[BLOCK_OP_WRITE], LARGE);
}

static void test_errors_large_write_that_fails_half_way(void **state)
{
    struct peer *peer = simple_peer();

    begin_large_write(peer);
    fake.error = -ENOSPC;
    peer_send(peer, payload_bytes + LARGE / 2, LARGE / 4);
    turns();
    fake.error = 0;
    assert_nothing_left(peer); /* the rest of its payload comes first */
    peer_send(peer, payload_bytes + LARGE / 4 * 3, LARGE / 4);
    request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), NBD_ENOSPC);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_int_equal(fx->io_errors, 1);
    assert_int_equal(fx->page.errors[BLOCK_OP_WRITE], 1);
}

static void assert_end_in_the_middle(struct peer *peer)
{
    begin_large_write(peer);
    close_fd(&peer->fd);
    turns();
    assert_true(fx->gone[0]);
    assert_non_null(strstr(fx->reason[0], "in the middle"));
    assert_int_equal(fx->page.ops[BLOCK_OP_WRITE], 0);
}

static void test_errors_end_in_the_middle_of_a_large_write(void **state)
{
    struct peer *peer = simple_peer();

    assert_end_in_the_middle(peer);
}

static void test_large_write_with_fua_is_one(void **state)
{
    struct peer *peer = simple_peer();

    write_request(peer, NBD_CMD_FLAG_FUA, 1, 0, LARGE);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log_count, 1);
    assert_int_equal(fake.log[0].flags, BLOCK_REQ_FUA);
    assert_int_equal(fake.log[0].len_bytes, LARGE);
}

/* ---- Large writes by way of a pipe ---- */

/* The image is a file, which both the block layer and splice write to. */
static void map_for_writing(void)
{
    fake.map_fd = memfd_create("image", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fake.map_fd, SIZE), 0);
    munmap(fake.data, SIZE);
    fake.data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fake.map_fd, 0);
    assert_ptr_not_equal(fake.data, MAP_FAILED);
    fake.map_writes = true;
}

static int pipe_bytes(void)
{
    return fcntl(fx->export.threads[0].pipe.fds[1], F_GETPIPE_SZ);
}

/* What the block layer wrote of one large write; all of it, and nothing beside it, is in the image. */
static uint64_t submitted_of_large_write(void)
{
    uint64_t sum = 0;

    assert_memory_equal(fake.data + 100, payload_bytes, LARGE);
    assert_int_equal(fake.data[99], 0);
    assert_int_equal(fake.data[100 + LARGE], 0);
    for (unsigned i = 0; i < fake.log_count; i++)
        sum += fake.log[i].op == BLOCK_OP_WRITE ? fake.log[i].len_bytes : 0;
    return sum;
}

static void assert_both_done(struct peer *peer)
{
    assert_int_equal(get_simple(peer, 1), 0);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_true(cursor_at_end(&peer->at));
}

static void test_large_write_by_splice(void **state)
{
    struct peer *peer = simple_peer();

    map_for_writing();
    assert_int_equal(pipe_bytes(), 4096);
    begin_large_write(peer);
    assert_memory_equal(fake.data + 100, payload_bytes, LARGE / 2);
    assert_nothing_left(peer);
    end_large_write(peer);
    assert_both_done(peer);
    assert_in_range(submitted_of_large_write(), 1, NBD_RECEIVE_BYTES); /* what came with the header */
    assert_int_equal(pipe_bytes(), NBD_WINDOW_BYTES);
    assert_int_equal(fx->page.ops[BLOCK_OP_WRITE], 1);
    assert_int_equal(fx->page.bytes[BLOCK_OP_WRITE], LARGE);
    close_fd(&fake.map_fd);
}

/* Of all but the first only the header comes through the receive buffer. */
static void test_large_writes_in_a_row_by_splice(void **state)
{
    struct peer *peer = simple_peer();

    map_for_writing();
    for (unsigned i = 0; i < 4; i++) {
        fake.log_count = 0;
        write_request(peer, 0, i, i << 20, LARGE);
        assert_simple(peer, i, 0);
        assert_memory_equal(fake.data + (i << 20), payload_bytes, LARGE);
        for (unsigned n = 0; i > 0 && n < fake.log_count; n++)
            assert_int_equal(fake.log[n].len_bytes, 0);
    }
    close_fd(&fake.map_fd);
}

/* After a large write only the next header is asked for; whatever that is of is served, and more is asked for again. */
static void test_small_requests_after_a_spliced_write(void **state)
{
    struct peer *peer = simple_peer();

    map_for_writing();
    for (unsigned round = 0; round < 2; round++) {
        write_request(peer, 0, 1, 100, LARGE);
        for (unsigned i = 0; i < 64; i++)
            request(peer, NBD_CMD_READ, 0, 2, 100 + i, 1);
        settle_all(peer);
        assert_int_equal(get_simple(peer, 1), 0);
        for (unsigned i = 0; i < 64; i++) {
            assert_int_equal(get_simple(peer, 2), 0);
            assert_data(&peer->at, 100 + i, 1);
        }
        write_request(peer, 0, 3, 50, 1000);
        assert_simple(peer, 3, 0);
        assert_memory_equal(fake.data + 50, payload_bytes, 1000);
    }
    close_fd(&fake.map_fd);
}

/* Too little at a time for a system call each. */
static void test_large_write_in_drops_is_gathered(void **state)
{
    struct peer *peer = simple_peer();

    map_for_writing();
    begin_large_write(peer);
    for (unsigned i = 0; i < LARGE / 2; i += 1024) {
        peer_send(peer, payload_bytes + LARGE / 2 + i, 1024);
        turns();
    }
    request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
    settle_all(peer);
    assert_both_done(peer);
    assert_true(submitted_of_large_write() >= LARGE / 2 - 1024);
    close_fd(&fake.map_fd);
}

/* Whatever the image has against splice, the block layer is asked, and what is in the pipe already is not lost. */
static void test_large_write_goes_on_where_splice_does_not(void **state)
{
    enum { NO_FILE, NOT_MAPPED, END_OF_CASES };

    for (unsigned how = 0; how < END_OF_CASES; how++) {
        struct peer *peer = simple_peer();
        int file;

        map_for_writing();
        file = fake.map_fd;
        begin_large_write(peer);
        if (how == NO_FILE)
            fake.map_fd = fx->export.threads[0].pipe.fds[0]; /* cannot be written to */
        fake.map_writes = how == NO_FILE;
        end_large_write(peer);
        assert_both_done(peer);
        assert_true(submitted_of_large_write() >= LARGE / 2);
        close(file);
        close_fd(&peer->fd);
        turns();
        free(TAKE_PTR(peer->got));
    }
}

static void test_large_write_from_a_socket_that_cannot_splice(void **state)
{
    struct nbd_thread *thread = &fx->export.threads[0];
    struct peer *peer = simple_peer();
    int pipe_fd = thread->pipe.fds[1];

    map_for_writing();
    begin_large_write(peer);
    thread->pipe.fds[1] = fake.map_fd; /* neither of the two is a pipe: the same error */
    end_large_write(peer);
    assert_both_done(peer);
    assert_true(submitted_of_large_write() >= LARGE / 2);
    thread->pipe.fds[1] = pipe_fd;
    fake.log_count = 0;
    begin_large_write(peer);
    end_large_write(peer);
    assert_both_done(peer);
    assert_int_equal(submitted_of_large_write(), LARGE); /* not tried again */
    close_fd(&fake.map_fd);
}

static void test_errors_spliced_write_that_fails_half_way(void **state)
{
    static const uint32_t pieces[] = { LARGE / 4, LARGE / 2 }; /* in the middle, and with the last bytes */

    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        struct peer *peer = simple_peer();

        map_for_writing();
        begin_large_write(peer);
        close_fd(&fake.map_fd);
        fake.map_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
        fake.error = -ENOSPC;
        peer_send(peer, payload_bytes + LARGE / 2, pieces[i]);
        turns();
        fake.error = 0;
        peer_send(peer, payload_bytes + LARGE / 2 + pieces[i], LARGE / 2 - pieces[i]);
        request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
        settle_all(peer);
        assert_int_equal(get_simple(peer, 1), NBD_ENOSPC);
        assert_int_equal(get_simple(peer, 2), 0);
        assert_int_equal(fx->io_errors, i + 1);
        assert_int_equal(fx->page.errors[BLOCK_OP_WRITE], i + 1);
        assert_memory_equal(fake.data + 100, payload_bytes, LARGE / 2);
        assert_int_equal(fake.data[100 + LARGE / 2], 0);
        close_fd(&fake.map_fd);
        close_fd(&peer->fd);
        turns();
        free(TAKE_PTR(peer->got));
    }
}

/* Nothing of a client that went away is left for the next one. */
static void test_errors_end_in_the_middle_of_a_spliced_write(void **state)
{
    struct peer *peer = simple_peer(), *other = peer_join(1, 0, 0);

    map_for_writing();
    assert_end_in_the_middle(peer);
    begin_large_write(other);
    end_large_write(other);
    assert_both_done(other);
    submitted_of_large_write();
    assert_int_equal(pipe_bytes(), NBD_WINDOW_BYTES);
    close_fd(&other->fd);
    turns();
    assert_int_equal(pipe_bytes(), 4096); /* the last one has left */
    close_fd(&fake.map_fd);
}

static void test_large_write_with_fua_is_not_spliced(void **state)
{
    struct peer *peer = simple_peer();

    map_for_writing();
    write_request(peer, NBD_CMD_FLAG_FUA, 1, 0, LARGE);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log_count, 1);
    assert_int_equal(fake.log[0].flags, BLOCK_REQ_FUA);
    assert_int_equal(fake.log[0].len_bytes, LARGE);
    close_fd(&fake.map_fd);
}

static void test_read_only_export_has_no_pipe(void **state)
{
    struct nbd_export export = { .read_only = true };

    assert_int_equal(nbd_export_init(&export, 2), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(export.threads[i].pipe.fds[0], -1);
    nbd_export_done(&export);
}

static void test_fua_goes_down(void **state)
{
    struct peer *peer = simple_peer();

    write_request(peer, NBD_CMD_FLAG_FUA, 1, 0, 512);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log[0].flags, BLOCK_REQ_FUA);
    request(peer, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 2, 0, 512);
    assert_simple(peer, 2, 0);
    assert_int_equal(fake.log[1].flags, BLOCK_REQ_FUA);
    write_request(peer, 0, 3, 0, 512);
    assert_simple(peer, 3, 0);
    assert_int_equal(fake.log[2].flags, BLOCK_REQ_INLINE_ONLY);
}

static void test_writethrough_makes_writes_fua(void **state)
{
    struct peer *peer = simple_peer();

    fx->export.writethrough = true;
    write_request(peer, 0, 1, 0, 512);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log[0].flags, BLOCK_REQ_FUA);
    request(peer, NBD_CMD_READ, 0, 2, 0, 1);
    settle_all(peer);
    assert_int_equal(fake.log[1].flags, BLOCK_REQ_INLINE_ONLY);
}

static void test_full_disk(void **state)
{
    struct peer *peer = simple_peer();

    fake.error = -ENOSPC;
    write_request(peer, 0, 1, 0, 4096);
    assert_simple(peer, 1, NBD_ENOSPC);
    fake.error = 0;
    write_request(peer, 0, 2, 0, 4096);
    assert_simple(peer, 2, 0);
}

/* The payload of a refused write passes by; the next request is understood. */
static void assert_write_refused(struct peer *peer, uint64_t offset, uint32_t len, uint16_t flags, uint32_t error)
{
    request(peer, NBD_CMD_WRITE, flags, 1, offset, len);
    for (uint32_t left = len; left > 0; left -= MIN(left, sizeof(payload_bytes)))
        peer_send(peer, payload_bytes, MIN(left, sizeof(payload_bytes)));
    request(peer, NBD_CMD_FLUSH, 0, 2, 0, 0);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), error);
    assert_int_equal(get_simple(peer, 2), 0);
    assert_int_equal(fake.log_count, 1);
    fake.log_count = 0;
}

static void test_errors_write(void **state)
{
    struct peer *peer;

    fx->export.read_only = false;
    peer = simple_peer();
    assert_write_refused(peer, SIZE - 4095, 4096, 0, NBD_ENOSPC);
    assert_write_refused(peer, 0, NBD_MAX_PAYLOAD + 4096, 0, NBD_EINVAL);
    assert_write_refused(peer, 0, 4096, NBD_CMD_FLAG_REQ_ONE, NBD_EINVAL);
    assert_write_refused(peer, 0, 4096, 1u << 15, NBD_EINVAL);
}

static void test_errors_write_to_read_only_export(void **state)
{
    struct peer *peer;

    fx->export.read_only = true;
    peer = simple_peer();
    assert_write_refused(peer, 0, 4096, 0, NBD_EPERM);
    request(peer, NBD_CMD_TRIM, 0, 3, 0, 4096);
    assert_simple(peer, 3, NBD_EPERM);
    request(peer, NBD_CMD_WRITE_ZEROES, 0, 4, 0, 4096);
    assert_simple(peer, 4, NBD_EPERM);
}

/* ---- The other commands ---- */

static void test_flush(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log[0].op, BLOCK_OP_FLUSH);
}

static void test_errors_flush_with_range(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 512);
    assert_simple(peer, 1, NBD_EINVAL);
    request(peer, NBD_CMD_FLUSH, 0, 2, 512, 0);
    assert_simple(peer, 2, NBD_EINVAL);
}

static void test_write_zeroes_flags(void **state)
{
    static const struct {
        uint16_t flags;
        unsigned expected;
    } cases[] = {
        { 0, BLOCK_REQ_MAY_UNMAP },
        { NBD_CMD_FLAG_NO_HOLE, 0 },
        { NBD_CMD_FLAG_FAST_ZERO, BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK },
        { NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, BLOCK_REQ_FUA },
    };
    struct peer *peer = simple_peer();

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        request(peer, NBD_CMD_WRITE_ZEROES, cases[i].flags, i, 4096, 48 << 20);
        assert_simple(peer, i, 0);
        assert_int_equal(fake.log[i].op, BLOCK_OP_WRITE_ZEROES);
        assert_int_equal(fake.log[i].flags, cases[i].expected);
        assert_true(fake.log[i].len_bytes == 48 << 20);
    }
}

static void test_fast_zero_that_is_not_fast(void **state)
{
    struct peer *peer = simple_peer();

    fake.error = -ENOTSUP;
    request(peer, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 1, 0, 4096);
    assert_simple(peer, 1, NBD_ENOTSUP);
    assert_int_equal(fx->io_errors, 0);
}

/* "The server SHOULD NOT return NBD_ENOTSUP except as documented." */
static void test_errors_not_supported_otherwise(void **state)
{
    struct peer *peer = simple_peer();

    fake.error = -ENOTSUP;
    request(peer, NBD_CMD_WRITE_ZEROES, 0, 1, 0, 4096);
    assert_simple(peer, 1, NBD_EINVAL);
}

static void test_errors_fast_zero_not_offered(void **state)
{
    struct peer *peer;

    fx->export.fast_zero = false;
    peer = simple_peer();
    request(peer, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 1, 0, 4096);
    assert_simple(peer, 1, NBD_EINVAL);
}

static void test_trim_and_cache(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_TRIM, 0, 1, 0, 48 << 20);
    assert_simple(peer, 1, 0);
    assert_int_equal(fake.log[0].op, BLOCK_OP_DISCARD);
    request(peer, NBD_CMD_CACHE, 0, 2, 0, 48 << 20);
    assert_simple(peer, 2, 0);
    assert_int_equal(fake.log[1].op, BLOCK_OP_CACHE);
    request(peer, NBD_CMD_TRIM, 0, 3, SIZE, 1);
    assert_simple(peer, 3, NBD_EINVAL);
    request(peer, NBD_CMD_CACHE, 0, 4, SIZE - 1, 2);
    assert_simple(peer, 4, NBD_EINVAL);
    request(peer, NBD_CMD_CACHE, NBD_CMD_FLAG_NO_HOLE, 5, 0, 512);
    assert_simple(peer, 5, NBD_EINVAL);
}

static void test_requests_of_no_length_succeed(void **state)
{
    static const uint16_t types[] = { NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES };
    struct peer *peer = simple_peer();

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        request(peer, types[i], 0, i, 0, 0);
        assert_simple(peer, i, 0);
    }
    assert_int_equal(fake.log_count, 0);
}

static void test_block_status(void **state)
{
    static const struct block_extent extents[] = {
        { 4096, 0 },
        { 4096, 0 },
        { 8192, BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO },
        { 512, BLOCK_EXTENT_ZERO },
    };
    struct peer *peer = structured_peer();
    struct cursor payload;

    fake.extents = extents;
    fake.extent_count = ARRAY_SIZE(extents);
    request(peer, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 65536);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, true, &payload), NBD_REPLY_TYPE_BLOCK_STATUS);
    assert_int_equal(cursor_be32(&payload), 1);
    assert_int_equal(cursor_be32(&payload), 8192); /* the first two are one */
    assert_int_equal(cursor_be32(&payload), 0);
    assert_int_equal(cursor_be32(&payload), 8192);
    assert_int_equal(cursor_be32(&payload), NBD_STATE_HOLE | NBD_STATE_ZERO);
    assert_int_equal(cursor_be32(&payload), 512);
    assert_int_equal(cursor_be32(&payload), NBD_STATE_ZERO);
    assert_true(cursor_at_end(&payload));
    assert_int_equal(fake.log[0].extents_max, NBD_EXTENTS_MAX);
}

static void test_block_status_of_one_extent(void **state)
{
    static const struct block_extent extents[] = { { 4096, 0 }, { 4096, BLOCK_EXTENT_HOLE } };
    struct peer *peer = structured_peer();
    struct cursor payload;

    fake.extents = extents;
    fake.extent_count = 2;
    request(peer, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 1, 0, 65536);
    settle_all(peer);
    get_chunk(peer, 1, true, &payload);
    assert_int_equal(payload.left_bytes, 4 + 8);
    assert_int_equal(fake.log[0].extents_max, 1);
}

/* "A successful block status request MUST have exactly one status chunk per negotiated metadata context ID." */
static void test_block_status_of_several_contexts(void **state)
{
    static const struct block_extent extents[] = { { 4096, 0 }, { 8192, BLOCK_EXTENT_HOLE }, { 512, 0 } };
    struct peer *peer = peer_join(0, IPC_NBD_STRUCTURED_REPLY, IPC_NBD_CONTEXTS_ALL);
    struct cursor payload;

    fake.extents = extents;
    fake.extent_count = 3;
    request(peer, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 12800);
    settle_all(peer);
    assert_int_equal(get_chunk(peer, 1, false, &payload), NBD_REPLY_TYPE_BLOCK_STATUS);
    assert_int_equal(cursor_be32(&payload), 1);
    assert_int_equal(payload.left_bytes, 3 * 8);
    assert_int_equal(cursor_be32(&payload), 4096);
    assert_int_equal(cursor_be32(&payload), 0);
    assert_int_equal(cursor_be32(&payload), 8192);
    assert_int_equal(cursor_be32(&payload), NBD_STATE_HOLE);
    assert_int_equal(get_chunk(peer, 1, true, &payload), NBD_REPLY_TYPE_BLOCK_STATUS);
    assert_int_equal(cursor_be32(&payload), 2);
    assert_int_equal(cursor_be32(&payload), 12800); /* all of the same depth */
    assert_int_equal(cursor_be32(&payload), 1);
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

/* As many extents as there may be, in both forms: every chunk has room. */
static void test_block_status_of_several_contexts_at_the_limit(void **state)
{
    static struct block_extent extents[NBD_EXTENTS_MAX + 1];
    static const uint32_t forms[] = { IPC_NBD_STRUCTURED_REPLY, IPC_NBD_EXTENDED_HEADERS };

    for (unsigned i = 0; i < ARRAY_SIZE(extents); i++)
        extents[i] = (struct block_extent){ 512, i % 2 == 0 ? 0 : BLOCK_EXTENT_HOLE };
    fake.extents = extents;
    fake.extent_count = ARRAY_SIZE(extents);
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        struct peer *peer = peer_join(i, forms[i], IPC_NBD_CONTEXTS_ALL);
        struct nbd_request_header compact = header(NBD_CMD_BLOCK_STATUS, 0, 1, 0, 2 << 20);
        struct nbd_extended_request extended = { htobe32(NBD_EXTENDED_REQUEST_MAGIC), 0, htobe16(NBD_CMD_BLOCK_STATUS),
                                                 1, 0, htobe64(2 << 20) };

        if (i == 0)
            peer_send(peer, &compact, sizeof(compact));
        else
            peer_send(peer, &extended, sizeof(extended));
        settle_all(peer);
        assert_int_equal(peer->got_bytes, i == 0 ? (20 + 4 + NBD_EXTENTS_MAX * 8) + (20 + 4 + 8)
                                                 : (32 + 8 + NBD_EXTENTS_MAX * 16) + (32 + 8 + 16));
    }
}

static void test_errors_block_status(void **state)
{
    struct peer *peer = structured_peer();

    request(peer, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 0);
    assert_error_chunk(peer, 1, NBD_EINVAL);
    request(peer, NBD_CMD_BLOCK_STATUS, 0, 2, SIZE - 1, 2);
    assert_error_chunk(peer, 2, NBD_EINVAL);
}

static void test_errors_block_status_without_context(void **state)
{
    struct peer *peer = peer_join(0, IPC_NBD_STRUCTURED_REPLY, 0);

    request(peer, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 512);
    assert_error_chunk(peer, 1, NBD_EINVAL);
}

static void test_errors_unknown_command(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_MAX, 0, 1, 0, 512);
    assert_simple(peer, 1, NBD_EINVAL);
    request(peer, 0xffff, 0xffff, 2, UINT64_MAX, UINT32_MAX);
    assert_simple(peer, 2, NBD_EINVAL);
}

static void test_errors_magic(void **state)
{
    struct nbd_request_header h = header(NBD_CMD_READ, 0, 1, 0, 512);
    struct peer *peer = simple_peer();

    h.magic++;
    peer_send(peer, &h, sizeof(h));
    assert_nothing_left(peer);
    assert_true(fx->gone[0]);
    assert_false(fx->gone_in_order[0]);
    assert_non_null(strstr(fx->reason[0], "magic"));
}

/* ---- Leaving ---- */

static void test_disconnect_waits_for_what_is_in_flight(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    write_request(peer, 0, 1, 0, 512);
    request(peer, NBD_CMD_DISC, 0xffff, 2, 7, 7);
    request(peer, NBD_CMD_FLUSH, 0, 3, 0, 0);
    assert_nothing_left(peer);
    assert_false(fx->gone[0]);
    fake_complete(0);
    assert_simple(peer, 1, 0);
    assert_true(fx->gone[0]);
    assert_true(fx->gone_in_order[0]);
    assert_int_equal(fake.pending_count, 0);
}

/* A client that does not wait for replies at all: its requests are executed all the same. */
static void test_client_that_closes_at_once(void **state)
{
    struct peer *peer = simple_peer();

    write_request(peer, 0, 1, 0, 4096);
    request(peer, NBD_CMD_DISC, 0, 2, 0, 0);
    close_fd(&peer->fd);
    turns();
    assert_true(fx->gone[0]);
    assert_true(fx->gone_in_order[0]);
    assert_memory_equal(fake.data, payload_bytes, 4096);
}

static void test_errors_end_without_disconnect(void **state)
{
    struct peer *peer = simple_peer();

    turns();
    close_fd(&peer->fd);
    turns();
    assert_true(fx->gone[0]);
    assert_false(fx->gone_in_order[0]);
    assert_non_null(strstr(fx->reason[0], "without NBD_CMD_DISC"));
}

static void test_errors_end_in_the_middle(void **state)
{
    struct peer *peer = simple_peer();

    request(peer, NBD_CMD_WRITE, 0, 1, 0, 4096);
    peer_send(peer, payload_bytes, 100);
    turns();
    close_fd(&peer->fd);
    turns();
    assert_true(fx->gone[0]);
    assert_non_null(strstr(fx->reason[0], "in the middle"));
    assert_int_equal(fake.log_count, 0);
}

static void test_peer_vanishes_with_requests_below(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    request(peer, NBD_CMD_READ, 0, 1, 0, 4096);
    turns();
    close_fd(&peer->fd);
    turns();
    assert_false(fx->gone[0]); /* its buffer is in use */
    fake_complete(0);
    turns();
    assert_true(fx->gone[0]);
}

static void test_drain_answers_what_is_in_flight(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 0);
    turns();
    nbd_export_drain(&fx->export);
    turns();
    assert_false(fx->drained);
    fake_complete(0);
    turns();
    assert_true(fx->drained);
    assert_true(fx->gone_in_order[0]);
    peer_pull(peer);
    assert_int_equal(get_simple(peer, 1), 0);
}

/* It does not read the rest of a reply: one second after the drain it is dropped. */
static void test_drain_does_not_wait_for_a_reader(void **state)
{
    struct peer *peer = simple_peer();
    uint64_t start;

    request(peer, NBD_CMD_READ, 0, 1, 0, 8 << 20);
    turns();
    nbd_export_drain(&fx->export);
    start = now_ns();
    while (!fx->drained && now_ns() - start < NBD_LINGER_NS)
        turns();
    assert_true(fx->drained);
    assert_true(now_ns() - start >= NBD_DRAIN_LINGER_NS / 2);
    assert_true(fx->gone[0]);
}

/* But to a slow disk there is no limit here, only the monitor's patience. */
static void test_drain_waits_for_the_disk(void **state)
{
    struct peer *peer = simple_peer();
    uint64_t start = now_ns();

    fake.pend = true;
    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 0);
    turns();
    nbd_export_drain(&fx->export);
    while (now_ns() - start < NBD_DRAIN_LINGER_NS + NBD_DRAIN_LINGER_NS / 5)
        turns();
    assert_false(fx->drained);
    fake_complete(0);
    turns();
    assert_true(fx->drained);
    peer_pull(peer);
    assert_int_equal(get_simple(peer, 1), 0);
}

/* "Terminating the transmission phase": in flight is served, later is NBD_ESHUTDOWN, and payloads are skipped. */
static void test_shut_down(void **state)
{
    struct peer *peer = structured_peer();

    fake.pend = true;
    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 0);
    turns();
    nbd_export_shut_down(&fx->export);
    fake_complete(0);
    assert_simple(peer, 1, 0);
    write_request(peer, 0, 2, 0, 4096);
    assert_error_chunk(peer, 2, NBD_ESHUTDOWN);
    request(peer, NBD_CMD_READ, 0, 3, SIZE, 1); /* an error of its own stays */
    assert_error_chunk(peer, 3, NBD_EINVAL);
    assert_int_equal(fake.pending_count, 0);
    request(peer, NBD_CMD_DISC, 0, 4, 0, 0);
    assert_nothing_left(peer);
    assert_true(fx->gone_in_order[0]);
}

static void test_errors_client_after_drain(void **state)
{
    struct ipc_nbd_negotiated negotiated = { 0 };
    int fd = -1;

    nbd_export_drain(&fx->export);
    assert_int_equal(nbd_export_add_client(&fx->export, &fd, &negotiated, NULL), -ESHUTDOWN);
}

static void test_errors_blocking_socket(void **state)
{
    struct ipc_nbd_negotiated negotiated = { 0 };
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(nbd_export_add_client(&fx->export, &pair[0], &negotiated, NULL), -EINVAL);
    close_fd(&pair[0]);
    close_fd(&pair[1]);
}

static void test_errors_negotiated_record(void **state)
{
    static const struct ipc_nbd_negotiated bad[] = {
        { .flags = IPC_NBD_FLAGS_ALL + 1 },
        { .flags = 1u << 31 },
        { .flags = IPC_NBD_STRUCTURED_REPLY, .contexts = IPC_NBD_CONTEXTS_ALL + 1 },
        { .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        int fd = 1000;

        assert_int_equal(nbd_export_add_client(&fx->export, &fd, &bad[i], NULL), -EINVAL);
        assert_int_equal(fd, 1000);
    }
}

/* ---- What a client can use up ---- */

static void test_limit_of_slots(void **state)
{
    struct nbd_request_header h[NBD_CLIENT_SLOTS_MAX + 44];
    struct peer *peer = simple_peer();

    fake.pend = true;
    for (unsigned i = 0; i < ARRAY_SIZE(h); i++)
        h[i] = header(NBD_CMD_FLUSH, 0, i, 0, 0);
    peer_send(peer, h, sizeof(h));
    turns();
    assert_int_equal(fake.pending_count, NBD_CLIENT_SLOTS_MAX);
    fake_complete(NBD_CLIENT_SLOTS_MAX - 1);
    turns();
    assert_int_equal(fake.pending_count, NBD_CLIENT_SLOTS_MAX);
    while (fake.pending_count > 0) {
        fake_complete(0);
        turns();
    }
    settle_all(peer);
    assert_int_equal(peer->got_bytes, ARRAY_SIZE(h) * sizeof(struct nbd_simple_reply));
}

static void test_limit_of_bytes(void **state)
{
    struct peer *peer = simple_peer();

    fake.pend = true;
    for (unsigned i = 0; i < 10; i++)
        request(peer, NBD_CMD_READ, 0, i, 0, 8 << 20);
    turns();
    assert_int_equal(fake.pending_count, NBD_CLIENT_BYTES_MAX / (8 << 20));
    assert_true(fake.pending_bytes <= NBD_CLIENT_BYTES_MAX);
    for (unsigned i = 0; i < 10; i++) {
        fake_complete(0);
        settle_all(peer);
        peer->got_bytes = 0; /* they are more than the buffer holds */
        peer->at = cursor_init(peer->got, 0);
    }
    assert_int_equal(fake.pending_count, 0);
    assert_int_equal(fx->page.ops[BLOCK_OP_READ], 10);
}

static void complete_all(void)
{
    while (fake.pending_count > 0)
        fake_complete(0);
    turns();
}

static void take_and_forget(struct peer *peer)
{
    settle_all(peer);
    peer->got_bytes = 0;
    peer->at = cursor_init(peer->got, 0);
}

/* One has it all; the other waits for what is large, is served what is small, and goes on when there is room. */
static void test_clients_share_a_budget(void **state)
{
    struct peer *first = simple_peer();
    struct peer *second = peer_join(1, 0, 0);

    fx->export.threads[0].bytes_max = NBD_CLIENT_BYTES_MAX;
    fake.pend = true;
    for (unsigned i = 0; i < 5; i++)
        request(first, NBD_CMD_READ, 0, i, 0, 8 << 20);
    turns();
    assert_int_equal(fake.pending_bytes, NBD_CLIENT_BYTES_MAX);
    request(second, NBD_CMD_READ, 0, 1, 0, 4096);
    request(second, NBD_CMD_READ, 0, 2, 0, 8 << 20);
    turns();
    assert_int_equal(fake.pending_count, 6);
    assert_int_equal(fake.pending_bytes, NBD_CLIENT_BYTES_MAX + 4096);
    fake_complete(5);
    settle_all(second);
    assert_int_equal(get_simple(second, 1), 0);
    fake_complete(0);
    take_and_forget(first);
    assert_int_equal(fake.pending_count, 5);
    complete_all();
    take_and_forget(first);
    settle_all(second);
    assert_int_equal(fake.pending_count, 0);
    assert_int_equal(fx->page.ops[BLOCK_OP_READ], 7);
    assert_int_equal(fx->export.threads[0].bytes_in_use, 0);
}

/* Who asks again and again does not get what another one waits for. */
static void test_nobody_overtakes_who_waits_for_the_budget(void **state)
{
    struct peer *first = simple_peer();
    struct peer *second = peer_join(1, 0, 0);

    fx->export.threads[0].bytes_max = NBD_CLIENT_BYTES_MAX;
    fake.pend = true;
    for (unsigned i = 0; i < 10; i++)
        request(first, NBD_CMD_READ, 0, i, 0, 4 << 20);
    turns();
    request(second, NBD_CMD_READ, 0, 1, 0, 32 << 20);
    turns();
    assert_int_equal(fake.pending_count, 10);
    for (unsigned i = 10; i < 20; i++) {
        request(first, NBD_CMD_READ, 0, i, 0, 4 << 20);
        if (i < 18) { /* eight make room for the large one */
            fake_complete(0);
            take_and_forget(first);
        }
    }
    turns();
    assert_int_equal(fake.pending_count, 3);
    assert_int_equal(fake.pending_bytes, (32 << 20) + (2 * (4 << 20)));
    while (fake.pending_count > 0) {
        complete_all();
        take_and_forget(first);
        take_and_forget(second);
    }
    assert_int_equal(fx->page.ops[BLOCK_OP_READ], 21);
}

/* What it stood in line for is done in its own turn after all: those behind it are next. */
static void test_who_gets_by_without_the_budget_leaves_the_line(void **state)
{
    struct peer *first = simple_peer();
    struct peer *second = peer_join(1, 0, 0);
    struct nbd_thread *thread = &fx->export.threads[0];

    thread->bytes_max = 16 << 20;
    fake.pend = true;
    request(first, NBD_CMD_READ, 0, 1, 0, 16 << 20);
    request(first, NBD_CMD_READ, 0, 2, 0, 8192);
    turns();
    request(second, NBD_CMD_READ, 0, 3, 0, 16 << 20);
    turns();
    assert_int_equal(fake.pending_count, 1);
    assert_ptr_equal(thread->wait_head->wait_next, thread->wait_tail);
    fake.pend = false;
    complete_all();
    settle_all(first);
    assert_true(fx->page.bytes[BLOCK_OP_READ] >= (16 << 20) + 8192);
    settle_all(second);
    assert_int_equal(get_simple(second, 3), 0);
    assert_null(thread->wait_head);
}

/* It announces a payload that does not come, or takes no reply: as long as nobody waits it may. */
static void keep_and_wait(struct peer *keeper)
{
    struct peer *other = peer_join(1, 0, 0);
    struct nbd_thread *thread = &fx->export.threads[0];

    thread->bytes_max = NBD_CLIENT_BYTES_MAX;
    turns();
    assert_int_equal(thread->budget_timer.when_ns, 0);
    assert_true(thread->bytes_in_use > 16 << 20);
    request(other, NBD_CMD_READ, 0, 7, 0, 32 << 20);
    turns();
    assert_int_not_equal(thread->budget_timer.when_ns, 0);
    assert_false(fx->gone[0]);
    thread->budget_timer.expired(&thread->budget_timer);
    settle_all(other);
    assert_true(fx->gone[0]);
    assert_non_null(strstr(fx->reason[0], "memory that others waited for"));
    assert_int_equal(get_simple(other, 7), 0);
    assert_false(fx->gone[1]);
}

static void test_who_keeps_a_payload_back_while_others_wait_is_closed(void **state)
{
    struct peer *keeper = simple_peer();
    struct nbd_request_header h = header(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 1, 0, 32 << 20);

    peer_send(keeper, &h, sizeof(h));
    keep_and_wait(keeper);
}

static void test_who_takes_no_replies_while_others_wait_is_closed(void **state)
{
    struct peer *keeper = simple_peer();

    for (unsigned i = 0; i < 6; i++)
        request(keeper, NBD_CMD_READ, 0, i, 0, 8 << 20);
    keep_and_wait(keeper);
}

static void tick(void)
{
    struct nbd_thread *thread = &fx->export.threads[0];

    assert_int_not_equal(thread->budget_timer.when_ns, 0);
    thread->budget_timer.expired(&thread->budget_timer);
    turns();
}

/* Storage had it all up to just before the tick: the client has the time of a whole tick for its replies. */
static void test_who_holds_memory_since_a_moment_is_not_closed(void **state)
{
    struct peer *keeper = simple_peer();
    struct peer *other = peer_join(1, 0, 0);

    fx->export.threads[0].bytes_max = 16 << 20;
    fake.pend = true;
    request(keeper, NBD_CMD_READ, 0, 1, 0, 16 << 20);
    turns();
    request(other, NBD_CMD_READ, 0, 2, 0, 16 << 20);
    turns();
    fake.pend = false;
    complete_all();
    tick();
    assert_false(fx->gone[0]);
    tick();
    assert_true(fx->gone[0]);
    settle_all(other);
    assert_int_equal(get_simple(other, 2), 0);
}

/* It came after the last tick, and what it has announced is still on its way. */
static void test_who_came_since_the_last_tick_is_not_closed(void **state)
{
    struct nbd_request_header h = header(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 1, 0, 16 << 20);
    struct peer *first = simple_peer();
    struct peer *second = peer_join(1, 0, 0);
    struct peer *newcomer;

    fx->export.threads[0].bytes_max = 16 << 20;
    fake.pend = true;
    request(first, NBD_CMD_READ, 0, 1, 0, 16 << 20);
    turns();
    request(second, NBD_CMD_READ, 0, 2, 0, 16 << 20);
    turns();
    newcomer = peer_join(2, 0, 0);
    peer_send(newcomer, &h, sizeof(h));
    turns();
    request(first, NBD_CMD_READ, 0, 3, 0, 16 << 20);
    turns();
    complete_all();
    take_and_forget(first);
    complete_all();
    take_and_forget(second);
    assert_int_equal(fake.pending_count, 0);
    assert_int_equal(fx->export.threads[0].bytes_in_use, 16 << 20);
    tick();
    assert_false(fx->gone[2]);
    tick();
    assert_true(fx->gone[2]);
}

/* It sends reads and takes no reply: it gets no more than its share, and the other client does not notice. */
static void test_client_that_does_not_read(void **state)
{
    struct nbd_request_header h = header(NBD_CMD_READ, 0, 1, 0, 128 << 10);
    struct peer *greedy = simple_peer();
    struct peer *other = peer_join(1, 0, 0);
    unsigned sent = 0;

    for (unsigned stuck = 0; stuck < 3;) {
        if (send(greedy->fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(h)) {
            sent++;
            continue;
        }
        stuck++;
        turns();
    }
    assert_true(sent > NBD_CLIENT_BYTES_MAX / (128 << 10));
    assert_true(fx->page.bytes[BLOCK_OP_READ] <= NBD_CLIENT_BYTES_MAX + (2 << 20));
    request(other, NBD_CMD_READ, 0, 7, 0, 4096);
    settle_all(other);
    assert_int_equal(get_simple(other, 7), 0);
    assert_false(fx->gone[0]);
    close_fd(&greedy->fd);
    turns();
    assert_true(fx->gone[0]);
}

/* A client that sends a large write before it reads the reply of a large read must not lock up with the server. */
static void test_writes_are_received_while_replies_wait(void **state)
{
    struct peer *peer = simple_peer();

    fill(0, 4 << 20);
    request(peer, NBD_CMD_READ, 0, 1, 0, 4 << 20);
    write_request(peer, 0, 2, 8 << 20, 4 << 20);
    turns();
    assert_memory_equal(fake.data + (8 << 20), payload_bytes, 4 << 20);
    settle_all(peer);
    assert_int_equal(get_simple(peer, 1), 0);
    assert_data(&peer->at, 0, 4 << 20);
    assert_int_equal(get_simple(peer, 2), 0);
}

/* Its share is used up by replies that then leave at once: it goes on, though nothing more arrives from it. */
static void test_stall_that_ends_with_the_turn(void **state)
{
    static const struct block_extent extent = { 4096, 0 };
    struct nbd_request_header h[NBD_CLIENT_SLOTS_MAX + 44];
    struct peer *peer = structured_peer();

    fake.extents = &extent;
    fake.extent_count = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(h); i++)
        h[i] = header(NBD_CMD_BLOCK_STATUS, 0, i, 0, 4096);
    peer_send(peer, h, sizeof(h));
    settle_all(peer);
    assert_int_equal(peer->got_bytes, ARRAY_SIZE(h) * (sizeof(struct nbd_chunk) + sizeof(struct nbd_payload_status) + 8));
}

/* ---- Extended headers ---- */

static void test_extended_read(void **state)
{
    struct peer *peer = extended_peer();
    struct cursor payload;

    fill(100, 50);
    extended_request(peer, NBD_CMD_READ, 0, 5, 100, 50);
    assert_int_equal(get_extended(peer, 5, 100, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 100);
    assert_data(&payload, 100, 50);
    assert_true(cursor_at_end(&payload));
    fake.pend = true; /* through a slot */
    extended_request(peer, NBD_CMD_READ, 0, 6, 100, 50);
    turns();
    fake_complete(0);
    assert_int_equal(get_extended(peer, 6, 100, &payload), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_true(cursor_be64(&payload) == 100);
    assert_data(&payload, 100, 50);
    assert_true(cursor_at_end(&payload));
}

static void test_extended_write(void **state)
{
    struct peer *peer = extended_peer();

    extended_request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 4096, 512);
    peer_send(peer, payload_bytes, 512);
    assert_extended_none(peer, 1, 4096);
    assert_memory_equal(fake.data + 4096, payload_bytes, 512);
    /* In pieces, and as a slot. */
    extended_request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN | NBD_CMD_FLAG_FUA, 2, 8192, 512);
    peer_send(peer, payload_bytes, 100);
    turns();
    peer_send(peer, payload_bytes + 100, 412);
    assert_extended_none(peer, 2, 8192);
    assert_memory_equal(fake.data + 8192, payload_bytes, 512);
    /* Executed while it arrives: the reply has the offset of the request, not that of the last piece. */
    extended_request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 3, 16384, LARGE);
    peer_send(peer, payload_bytes, LARGE);
    settle_all(peer);
    assert_extended_none(peer, 3, 16384);
    assert_memory_equal(fake.data + 16384, payload_bytes, LARGE);
}

static void test_errors_extended_payload_is_skipped(void **state)
{
    static const uint16_t types[] = { NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES,
                                      NBD_CMD_MAX, 0xffff };
    struct peer *peer = extended_peer();

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        extended_request(peer, types[i], NBD_CMD_FLAG_PAYLOAD_LEN, i, 512, 700);
        peer_send(peer, payload_bytes, 700);
        assert_extended_error(peer, i, 512, NBD_EINVAL);
    }
    assert_int_equal(fake.log_count, 0);
    extended_request(peer, NBD_CMD_FLUSH, 0, 99, 0, 0);
    assert_extended_none(peer, 99, 0);
}

static void test_errors_extended_payload_too_large(void **state)
{
    struct peer *peer = extended_peer();

    extended_request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 0, NBD_MAX_PAYLOAD + 1ull);
    assert_nothing_left(peer);
    assert_true(fx->gone[0]);
    assert_non_null(strstr(fx->reason[0], "32 MiB"));
}

static void test_errors_extended_magic(void **state)
{
    struct peer *peer = extended_peer();

    request(peer, NBD_CMD_FLUSH, 0, 1, 0, 0);
    peer_send(peer, "1234", 4);
    assert_nothing_left(peer);
    assert_true(fx->gone[0]);
    assert_non_null(strstr(fx->reason[0], "magic"));
}

static void test_extended_effect_of_64_bits(void **state)
{
    static const uint16_t types[] = { NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_CACHE };
    struct peer *peer;

    fake.size_bytes = 1ull << 40;
    peer = extended_peer();
    fake.pend = true;
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        extended_request(peer, types[i], 0, i, 1 << 20, (1ull << 40) - (1 << 20));
        turns();
        assert_int_equal(fake.pending_count, 1);
        assert_true(fake.log[i].len_bytes == (1ull << 40) - (1 << 20));
        fake.error = -EIO; /* the fake image is smaller */
        fake_complete(0);
        fake.error = 0;
        assert_extended_error(peer, i, 1 << 20, NBD_EIO);
        extended_request(peer, types[i], 0, i, 1 << 20, 1ull << 40);
        assert_extended_error(peer, i, 1 << 20, types[i] == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL);
        extended_request(peer, types[i], 0, i, 1 << 20, UINT64_MAX);
        assert_extended_error(peer, i, 1 << 20, types[i] == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL);
    }
    extended_request(peer, NBD_CMD_READ, 0, 1, 0, 1ull << 32);
    assert_extended_error(peer, 1, 0, NBD_EINVAL);
}

static void test_extended_block_status(void **state)
{
    static const struct block_extent extents[] = { { 6ull << 30, 0 }, { 8ull << 30, BLOCK_EXTENT_HOLE } };
    struct cursor payload;
    struct peer *peer;

    fake.size_bytes = 1ull << 40;
    peer = peer_join(0, IPC_NBD_EXTENDED_HEADERS, IPC_NBD_CONTEXT_BASE_ALLOCATION);
    fake.extents = extents;
    fake.extent_count = 2;
    extended_request(peer, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 14ull << 30);
    assert_int_equal(get_extended(peer, 1, 0, &payload), NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
    assert_int_equal(cursor_be32(&payload), 1);
    assert_int_equal(cursor_be32(&payload), 2);
    assert_true(cursor_be64(&payload) == 6ull << 30);
    assert_true(cursor_be64(&payload) == 0);
    assert_true(cursor_be64(&payload) == 8ull << 30);
    assert_true(cursor_be64(&payload) == NBD_STATE_HOLE);
    assert_true(cursor_at_end(&payload));
}

static void send_status_payload(struct peer *peer, uint64_t cookie, uint64_t effect, unsigned count,
                                const uint32_t *ids)
{
    uint64_t be_effect = htobe64(effect);

    extended_request(peer, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, cookie, 4096, 8 + 4 * count);
    peer_send(peer, &be_effect, sizeof(be_effect));
    for (unsigned i = 0; i < count; i++) {
        uint32_t be_id = htobe32(ids[i]);

        turns(); /* each in a recv of its own */
        peer_send(peer, &be_id, sizeof(be_id));
    }
}

static void test_block_status_payload(void **state)
{
    static const struct block_extent extent = { 4096, BLOCK_EXTENT_ZERO };
    struct peer *peer = extended_peer();
    struct cursor payload;

    fake.extents = &extent;
    fake.extent_count = 1;
    send_status_payload(peer, 7, 65536, 1, (const uint32_t[]){ 1 }); /* of the two that were negotiated */
    assert_int_equal(get_extended(peer, 7, 4096, &payload), NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
    assert_int_equal(cursor_be32(&payload), 1);
    assert_int_equal(cursor_be32(&payload), 1);
    assert_true(cursor_be64(&payload) == 4096);
    assert_true(cursor_be64(&payload) == NBD_STATE_ZERO);
    assert_true(cursor_at_end(&payload));
    assert_true(fake.log[0].len_bytes == 65536);
    assert_true(fake.log[0].offset == 4096);
}

static void test_errors_block_status_payload(void **state)
{
    static const struct {
        uint64_t effect;
        unsigned count;
        uint32_t ids[64];
    } bad[] = {
        { 4096, 0, { 0 } },             /* no context */
        { 4096, 1, { 0 } },             /* LIST's id */
        { 4096, 1, { 32 } },            /* unknown */
        { 4096, 1, { UINT32_MAX } },
        { 4096, 2, { 1, 1 } },          /* twice */
        { 4096, 64, { 1 } },            /* more than there are */
        { 0, 1, { 1 } },                /* no length */
        { SIZE, 1, { 1 } },             /* beyond the end */
        { UINT64_MAX, 1, { 1 } },
    };
    struct peer *peer = extended_peer();

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        send_status_payload(peer, i, bad[i].effect, bad[i].count, bad[i].ids);
        assert_extended_error(peer, i, 4096, NBD_EINVAL);
    }
    for (unsigned len = 0; len < 22; len++) {
        if (len == 8 + 4 || len == 8 + 8) /* the only lengths */
            continue;
        extended_request(peer, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, len, 0, len);
        peer_send(peer, payload_bytes, len);
        assert_extended_error(peer, len, 0, NBD_EINVAL);
    }
    assert_int_equal(fake.log_count, 0);
}

static void test_errors_block_status_payload_without_context(void **state)
{
    struct peer *peer = peer_join(0, IPC_NBD_EXTENDED_HEADERS, 0);

    send_status_payload(peer, 1, 4096, 1, (const uint32_t[]){ 1 });
    assert_extended_error(peer, 1, 4096, NBD_EINVAL);
}

static void test_errors_payload_len_in_compact_requests(void **state)
{
    struct peer *peer = structured_peer();

    request(peer, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 0, 512);
    peer_send(peer, payload_bytes, 512);
    assert_error_chunk(peer, 1, NBD_EINVAL);
    request(peer, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 2, 0, 12);
    assert_error_chunk(peer, 2, NBD_EINVAL);
}

static void test_docs_have_every_row(void **state)
{
    for (unsigned i = 0; i < NBD_CMD_MAX; i++)
        assert_documented(nbd_commands[i].name);
}

static void test_context_table(void **state)
{
    uint32_t all = 0;

    for (unsigned i = 0; i < nbd_contexts_count; i++) {
        const struct nbd_context *context = &nbd_contexts[i];
        const char *colon = strchr(context->name, ':');

        assert_documented(context->name);
        assert_non_null(context->status);
        assert_true(colon != NULL && colon > context->name && colon[1] != '\0');
        assert_true(strlen(context->name) <= NBD_MAX_STRING);
        assert_int_equal(__builtin_popcount(context->bit), 1);
        assert_true((all & context->bit) == 0);
        all |= context->bit;
        assert_int_equal(nbd_context_bit(nbd_context_id(context)), context->bit);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(context->name, nbd_contexts[j].name);
    }
    assert_int_equal(all, IPC_NBD_CONTEXTS_ALL);
    assert_int_equal(nbd_context_bit(0), 0);
    assert_int_equal(nbd_context_bit(32), 0);
    assert_int_equal(nbd_context_bit(33), 0);
    assert_int_equal(nbd_context_bit(UINT32_MAX), 0);
}

static void test_context_queries(void **state)
{
    static const struct {
        const char *query;
        uint32_t contexts;
        uint32_t wildcards;
    } rows[] = {
        { "base:allocation", IPC_NBD_CONTEXT_BASE_ALLOCATION, IPC_NBD_CONTEXT_BASE_ALLOCATION },
        { "base:", 0, IPC_NBD_CONTEXT_BASE_ALLOCATION },
        { "qemu:", 0, IPC_NBD_CONTEXT_ALLOCATION_DEPTH },
        { "qemu:allocation-depth", IPC_NBD_CONTEXT_ALLOCATION_DEPTH, IPC_NBD_CONTEXT_ALLOCATION_DEPTH },
        { "base:alloc", 0, 0 },
        { "base:allocation:", 0, 0 },
        { "base:allocations", 0, 0 },
        { "base", 0, 0 },
        { ":", 0, 0 },
        { "", 0, 0 },
        { "x-other:", 0, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(nbd_context_match(rows[i].query, strlen(rows[i].query), false), rows[i].contexts);
        assert_int_equal(nbd_context_match(rows[i].query, strlen(rows[i].query), true), rows[i].wildcards);
    }
}

static void test_command_table(void **state)
{
    for (unsigned i = 0; i < NBD_CMD_MAX; i++) {
        assert_non_null(nbd_commands[i].handle);
        assert_true(strncmp(nbd_commands[i].name, "NBD_CMD_", 8) == 0);
        assert_true(nbd_commands[i].op < BLOCK_OP_MAX || nbd_commands[i].unchecked);
        assert_true(nbd_commands[i].beyond_end != 0 || nbd_commands[i].no_range || nbd_commands[i].unchecked);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(nbd_commands[i].name, nbd_commands[j].name);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read_simple),
        TEST(test_read_structured),
        TEST(test_read_of_a_hole),
        TEST(test_read_looks_for_a_hole),
        TEST(test_reads_that_are_no_hole),
        TEST(test_many_reads_in_one_go),
        TEST(test_pending_reads_are_answered_in_the_order_of_completion),
        TEST(test_read_of_32_mib),
        TEST(test_errors_read_too_large),
        TEST(test_errors_structured_read_too_large),
        TEST(test_errors_read_beyond_the_end),
        TEST(test_errors_df_without_structured_replies),
        TEST(test_read_of_nothing),
        TEST(test_read_error),
        TEST(test_structured_read_error),
        TEST(test_large_read_by_sendfile),
        TEST(test_large_structured_read_by_sendfile),
        TEST(test_errors_large_structured_read_that_fails),
        TEST(test_errors_large_simple_read_that_fails),
        TEST(test_write_from_the_receive_buffer),
        TEST(test_write_that_arrives_in_pieces),
        TEST(test_batch_of_writes_is_answered_along_the_way),
        TEST(test_pending_write_keeps_its_payload),
        TEST(test_write_of_32_mib),
        TEST(test_large_write_is_executed_while_it_arrives),
        TEST(test_large_write_that_would_block_is_gathered),
        TEST(test_rest_of_a_large_write_that_would_block_is_gathered),
        TEST(test_errors_large_write_that_fails_half_way),
        TEST(test_errors_end_in_the_middle_of_a_large_write),
        TEST(test_large_write_with_fua_is_one),
        TEST(test_large_write_by_splice),
        TEST(test_large_writes_in_a_row_by_splice),
        TEST(test_small_requests_after_a_spliced_write),
        TEST(test_large_write_in_drops_is_gathered),
        TEST(test_large_write_goes_on_where_splice_does_not),
        TEST(test_large_write_from_a_socket_that_cannot_splice),
        TEST(test_errors_spliced_write_that_fails_half_way),
        TEST(test_errors_end_in_the_middle_of_a_spliced_write),
        TEST(test_large_write_with_fua_is_not_spliced),
        TEST(test_read_only_export_has_no_pipe),
        TEST(test_fua_goes_down),
        TEST(test_writethrough_makes_writes_fua),
        TEST(test_full_disk),
        TEST(test_errors_write),
        TEST(test_errors_write_to_read_only_export),
        TEST(test_flush),
        TEST(test_errors_flush_with_range),
        TEST(test_write_zeroes_flags),
        TEST(test_fast_zero_that_is_not_fast),
        TEST(test_errors_not_supported_otherwise),
        TEST(test_errors_fast_zero_not_offered),
        TEST(test_trim_and_cache),
        TEST(test_requests_of_no_length_succeed),
        TEST(test_block_status),
        TEST(test_block_status_of_one_extent),
        TEST(test_block_status_of_several_contexts),
        TEST(test_block_status_of_several_contexts_at_the_limit),
        TEST(test_errors_block_status),
        TEST(test_errors_block_status_without_context),
        TEST(test_errors_unknown_command),
        TEST(test_errors_magic),
        TEST(test_disconnect_waits_for_what_is_in_flight),
        TEST(test_client_that_closes_at_once),
        TEST(test_errors_end_without_disconnect),
        TEST(test_errors_end_in_the_middle),
        TEST(test_peer_vanishes_with_requests_below),
        TEST(test_drain_answers_what_is_in_flight),
        TEST(test_drain_does_not_wait_for_a_reader),
        TEST(test_drain_waits_for_the_disk),
        TEST(test_shut_down),
        TEST(test_errors_client_after_drain),
        TEST(test_errors_blocking_socket),
        TEST(test_errors_negotiated_record),
        TEST(test_limit_of_slots),
        TEST(test_limit_of_bytes),
        TEST(test_client_that_does_not_read),
        TEST(test_writes_are_received_while_replies_wait),
        TEST(test_clients_share_a_budget),
        TEST(test_nobody_overtakes_who_waits_for_the_budget),
        TEST(test_who_gets_by_without_the_budget_leaves_the_line),
        TEST(test_who_keeps_a_payload_back_while_others_wait_is_closed),
        TEST(test_who_takes_no_replies_while_others_wait_is_closed),
        TEST(test_who_holds_memory_since_a_moment_is_not_closed),
        TEST(test_who_came_since_the_last_tick_is_not_closed),
        TEST(test_stall_that_ends_with_the_turn),
        TEST(test_command_table),
        TEST(test_extended_read),
        TEST(test_extended_write),
        TEST(test_errors_extended_payload_is_skipped),
        TEST(test_errors_extended_payload_too_large),
        TEST(test_errors_extended_magic),
        TEST(test_extended_effect_of_64_bits),
        TEST(test_extended_block_status),
        TEST(test_block_status_payload),
        TEST(test_errors_block_status_payload),
        TEST(test_errors_block_status_payload_without_context),
        TEST(test_errors_payload_len_in_compact_requests),
        TEST(test_context_table),
        TEST(test_context_queries),
        TEST(test_docs_have_every_row),
    };

    signal(SIGPIPE, SIG_IGN); /* as the worker does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
