/* SPDX-License-Identifier: BSD-2-Clause */
/* O_DIRECT: any alignment of offset, length and memory; and no update is lost between threads. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "common/block/file.h"

#define SIZE (1024u * 1024)

/* The tests of this file are about a disk; in memory the flag changes nothing, which is a test too. */
static int open_direct(struct block_fixture *f, uint64_t size_bytes, uint32_t flags)
{
    return fixture_open_file(f, size_bytes, IPC_NODE_CACHE_DIRECT | flags);
}

static struct file_state *state_of(const struct block_fixture *f)
{
    return f->root->state;
}

/* Pretend that the device has larger blocks than it has. */
static void use_large_blocks(struct block_fixture *f)
{
    if (state_of(f)->direct)
        state_of(f)->align = 4096;
}

static void test_the_alignment_is_known(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;

    open_direct(f, SIZE, 0);
    block_node_info(f->root, &info);
    if (variant->place == PLACE_MEMORY) {
        assert_false(state_of(f)->direct);
        assert_int_equal(info.min_block_bytes, 1);
    } else {
        assert_true(state_of(f)->direct);
        assert_true(is_power_of_2(info.min_block_bytes) && info.min_block_bytes >= 512 && info.min_block_bytes <= 4096);
        assert_true(info.preferred_block_bytes >= info.min_block_bytes);
    }
}

static void test_any_alignment_of_range_and_memory(void **state)
{
    static const struct {
        uint32_t offset;
        uint32_t len_bytes;
        uint32_t memory_offset;
    } cases[] = {
        { 0, 4096, 0 },          { 0, 4096, 1 },     { 0, 4096, 511 },       { 4096, 65536, 0 }, { 1, 1, 0 },
        { 511, 2, 3 },           { 100, 300, 0 },    { 4095, 4098, 0 },      { 8192, 100, 0 },   { 8092, 100, 0 },
        { 12345, 600000, 7 },    { 0, SIZE, 0 },     { 0, SIZE, 5 },         { 1, SIZE - 1, 0 }, { 0, SIZE - 1, 0 },
        { 262143, 262146, 100 }, { SIZE - 1, 1, 0 }, { SIZE - 513, 512, 0 },
    };
    struct block_fixture *f = *state;
    uint8_t *model = malloc(SIZE), *got = malloc(SIZE), *memory = NULL;

    open_direct(f, SIZE, 0);
    use_large_blocks(f);
    assert_int_equal(posix_memalign((void **)&memory, 4096, SIZE + 4096), 0);
    pattern_fill(model, 0, SIZE, 200);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, model, SIZE), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t *buf = memory + cases[i].memory_offset;

        pattern_fill(buf, cases[i].offset, cases[i].len_bytes, (uint8_t)i);
        memcpy(model + cases[i].offset, buf, cases[i].len_bytes);
        assert_int_equal(
            fixture_io(f, BLOCK_OP_WRITE, i % 2 ? BLOCK_REQ_FUA : 0, cases[i].offset, buf, cases[i].len_bytes), 0);
        memset(buf, 0x11, cases[i].len_bytes);
        assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, cases[i].offset, buf, cases[i].len_bytes), 0);
        assert_memory_equal(buf, model + cases[i].offset, cases[i].len_bytes);
        assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, SIZE), 0);
        assert_memory_equal(got, model, SIZE);
    }
    free(memory);
    free(model);
    free(got);
}

static void test_vectors_of_odd_pieces(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call = { .req = { .op = BLOCK_OP_WRITE, .offset = 1000, .len_bytes = 8192, .iov_count = 3 } };
    uint8_t bytes[8192], got[8192];

    open_direct(f, SIZE, 0);
    use_large_blocks(f);
    pattern_fill(bytes, 0, sizeof(bytes), 1);
    call.iov[0] = (struct iovec){ bytes, 1 };
    call.iov[1] = (struct iovec){ bytes + 1, 5000 };
    call.iov[2] = (struct iovec){ bytes + 5001, 3191 };
    call_start(f, &call);
    assert_int_equal(call_wait(f, &call), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 1000, got, sizeof(got)), 0);
    assert_memory_equal(got, bytes, sizeof(got));
}

static void test_zeroes_of_any_alignment(void **state)
{
    static const struct {
        uint32_t offset;
        uint32_t len_bytes;
    } cases[] = { { 0, 4096 }, { 1, 1 }, { 4095, 2 }, { 100, 100000 }, { 8192, 600001 } };
    uint8_t *model = malloc(SIZE), *got = malloc(SIZE);

    for (unsigned written_out = 0; written_out < 2; written_out++) {
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            struct block_fixture f;

            fixture_init(&f);
            open_direct(&f, SIZE, IPC_NODE_DISCARD_UNMAP);
            use_large_blocks(&f);
            pattern_fill(model, 0, SIZE, 3);
            assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE, 0, 0, model, SIZE), 0);
            atomic_store(&state_of(&f)->no_punch_hole, written_out);
            atomic_store(&state_of(&f)->no_zero_range, written_out);
            memset(model + cases[i].offset, 0, cases[i].len_bytes);
            assert_int_equal(
                fixture_io(&f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_FUA, cases[i].offset, NULL, cases[i].len_bytes), 0);
            assert_int_equal(fixture_io(&f, BLOCK_OP_READ, 0, 0, got, SIZE), 0);
            assert_memory_equal(got, model, SIZE);
            fixture_done(&f);
        }
    }
    free(model);
    free(got);
}

static void test_a_size_that_is_not_aligned_reads_on_as_zeros(void **state)
{
    struct block_fixture *f = *state;
    uint8_t *buf = NULL, wrote[1000];
    int fd = open_direct(f, 1000, 0);

    use_large_blocks(f);
    assert_int_equal(posix_memalign((void **)&buf, 4096, 4096), 0);
    memset(wrote, 9, sizeof(wrote));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, wrote, sizeof(wrote)), 0);
    assert_int_equal(ftruncate(fd, 1000), 0);
    memset(buf, 0xff, 4096);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, buf, 1024), 0);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(buf[i], i < 1000 ? 9 : 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 512, buf, 512), 0);
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(buf[i], i < 488 ? 9 : 0);
    free(buf);
}

static void test_a_direct_read_of_the_engine_meets_the_end_of_the_file(void **state)
{
    struct block_fixture *f = *state;
    uint8_t *buf = NULL, *wrote = NULL;
    int fd = open_direct(f, SIZE, 0);

    assert_int_equal(posix_memalign((void **)&buf, 4096, 16384), 0);
    assert_int_equal(posix_memalign((void **)&wrote, 4096, 16384), 0);
    memset(wrote, 9, 16384);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, wrote, 16384), 0);
    assert_int_equal(ftruncate(fd, 9000), 0);
    memset(buf, 0xff, 16384);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, buf, 16384), 0);
    for (unsigned i = 0; i < 16384; i++)
        assert_int_equal(buf[i], i < 9000 ? 9 : 0);
    free(buf);
    free(wrote);
}

static void test_flush_may_be_tried_again(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call = { .req = { .op = BLOCK_OP_FLUSH } };

    open_direct(f, SIZE, 0);
    if (!state_of(f)->direct)
        return;
    assert_int_equal(file_flush_next(state_of(f), &call.req, -EIO), -EIO);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
}

/* ---- Several threads ---- */

#define WRITERS     3 /* threads, each with its queue */
#define SLOTS       8 /* requests in flight of each */
#define ROUNDS      60
#define PIECE_BYTES 100u /* of one slot; all pieces share a few blocks */
#define IMAGE_BYTES 65536

struct writer {
    struct io_loop *loop;
    struct io_queue *queue;
    struct block_node *root;
    unsigned index;
    unsigned running;
    struct slot {
        struct block_request req;
        struct iovec iov;
        struct writer *writer;
        unsigned index;
        unsigned round;
        uint8_t *bytes; /* a whole aligned block for the aligned writer */
    } slots[SLOTS];
    struct io_task start;
    int error;
};

static uint64_t slot_offset(const struct slot *slot)
{
    return (uint64_t)(slot->writer->index * SLOTS + slot->index) * PIECE_BYTES;
}

static uint8_t slot_value(const struct slot *slot)
{
    return (uint8_t)(1 + slot->writer->index * 71 + slot->index * 9 + slot->round);
}

static void slot_complete(struct block_request *req, int result);

static void slot_run(struct slot *slot)
{
    struct writer *writer = slot->writer;
    int ret = 0;

    while (ret != BLOCK_PENDING) {
        if (slot->round == ROUNDS) {
            if (--writer->running == 0)
                io_loop_stop(writer->loop);
            return;
        }
        slot->round++;
        memset(slot->bytes, slot_value(slot), PIECE_BYTES);
        slot->iov = (struct iovec){ slot->bytes, PIECE_BYTES };
        slot->req = (struct block_request){
            .op = BLOCK_OP_WRITE,
            .offset = slot_offset(slot),
            .len_bytes = PIECE_BYTES,
            .iov = &slot->iov,
            .iov_count = 1,
            .complete = slot_complete,
        };
        ret = block_submit(writer->root, writer->queue, &slot->req);
        if (ret < 0)
            writer->error = ret;
    }
}

static void slot_complete(struct block_request *req, int result)
{
    struct slot *slot = container_of(req, struct slot, req);

    if (result < 0)
        slot->writer->error = result;
    slot_run(slot);
}

static void writer_start(struct io_task *task)
{
    struct writer *writer = container_of(task, struct writer, start);

    for (unsigned i = 0; i < SLOTS; i++)
        slot_run(&writer->slots[i]);
}

static void *writer_thread(void *arg)
{
    struct writer *writer = arg;

    io_loop_run(writer->loop);
    return NULL;
}

static void writer_init(struct writer *writer, unsigned index, struct io_loop *loop)
{
    *writer = (struct writer){ .index = index, .loop = loop, .running = SLOTS, .start.run = writer_start };
    for (unsigned i = 0; i < SLOTS; i++) {
        writer->slots[i] = (struct slot){ .writer = writer, .index = i, .bytes = malloc(PIECE_BYTES) };
        assert_non_null(writer->slots[i].bytes);
    }
}

static void writer_check(const struct writer *writer, const uint8_t *image)
{
    assert_int_equal(writer->error, 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        const struct slot *slot = &writer->slots[i];

        for (unsigned j = 0; j < PIECE_BYTES; j++) {
            if (image[slot_offset(slot) + j] != slot_value(slot))
                fail_msg("writer %u lost an update of piece %u", writer->index, i);
        }
        free(slot->bytes);
    }
}

/* Twenty-four pieces in one or a few blocks, rewritten again and again by three threads: each ends with its last value.
 */
static void test_no_update_is_lost_between_threads(void **state)
{
    struct writer writers[WRITERS];
    struct io_loop *loops[WRITERS];
    pthread_t threads[WRITERS];
    struct block_fixture *f = *state;
    struct io_engine_config config = { .kind = variant->engine, .loops = loops, .loop_count = WRITERS };
    uint8_t *image = NULL;
    int flags = variant->place == PLACE_DISK ? O_DIRECT : 0;
    int fd = fixture_temp_file(variant->place, IMAGE_BYTES, flags);

    if (fd < 0)
        SKIP("no O_DIRECT here: %s", strerror(errno));
    for (unsigned i = 0; i < WRITERS; i++) {
        loops[i] = io_loop_new(&f->err);
        assert_non_null(loops[i]);
        writer_init(&writers[i], i, loops[i]);
    }
    fixture_add_fd(f, fd);
    config.image_fds = f->fds;
    config.image_fd_count = f->fd_count;
    assert_int_equal(io_engine_new(&config, &f->engine, &f->err), 0);
    fixture_add_node(f, IPC_DRIVER_FILE, IPC_NODE_CACHE_DIRECT, 0, -1);
    f->queue = io_engine_queue(f->engine, 0);
    assert_int_equal(fixture_open(f), 0);
    use_large_blocks(f);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i].queue = io_engine_queue(f->engine, i);
        writers[i].root = f->root;
        io_loop_post(loops[i], &writers[i].start);
        assert_int_equal(pthread_create(&threads[i], NULL, writer_thread, &writers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(posix_memalign((void **)&image, 4096, IMAGE_BYTES), 0);
    assert_int_equal(pread(f->fds[0], image, IMAGE_BYTES, 0), IMAGE_BYTES);
    for (unsigned i = 0; i < WRITERS; i++)
        writer_check(&writers[i], image);
    free(image);
    io_engine_free(f->engine);
    f->engine = NULL;
    for (unsigned i = 0; i < WRITERS; i++)
        io_loop_free(loops[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_the_alignment_is_known),
        FIXTURE_TEST(test_any_alignment_of_range_and_memory),
        FIXTURE_TEST(test_vectors_of_odd_pieces),
        FIXTURE_TEST(test_zeroes_of_any_alignment),
        FIXTURE_TEST(test_a_size_that_is_not_aligned_reads_on_as_zeros),
        FIXTURE_TEST(test_a_direct_read_of_the_engine_meets_the_end_of_the_file),
        FIXTURE_TEST(test_flush_may_be_tried_again),
        FIXTURE_TEST(test_no_update_is_lost_between_threads),
    };

    return RUN_VARIANTS("direct", tests);
}
