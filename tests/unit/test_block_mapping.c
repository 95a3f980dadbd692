/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images on tmpfs that are mapped: what goes through the mapping and what does not, and that nothing but the speed
 * tells the two apart: holes stay holes, the time of change moves, a file that is cut or full is met as by pread() and
 * pwrite().
 */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/block/file.h"

#define CHUNK (256u * 1024)
#define SIZE  (4 * CHUNK + 5000)

static struct file_state *state_of(const struct block_fixture *f)
{
    return f->root->state;
}

static bool is_present(const struct block_fixture *f, unsigned chunk)
{
    return atomic_load(&state_of(f)->mapping.chunks[chunk]) == UINT8_MAX;
}

static uint64_t stored_bytes(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void fill(int fd, uint64_t offset, size_t len_bytes, uint8_t seed)
{
    uint8_t *bytes = malloc(len_bytes);

    pattern_fill(bytes, offset, len_bytes, seed);
    assert_int_equal(pwrite(fd, bytes, len_bytes, (off_t)offset), (ssize_t)len_bytes);
    free(bytes);
}

/* Returns the result; the buffer is checked if that is 0. */
static int read_and_check(struct block_fixture *f, uint64_t offset, size_t len_bytes, uint8_t seed, bool zeros)
{
    uint8_t *got = malloc(len_bytes), *wanted = calloc(1, len_bytes);
    int ret;

    memset(got, 0xee, len_bytes);
    if (!zeros)
        pattern_fill(wanted, offset, len_bytes, seed);
    ret = fixture_io(f, BLOCK_OP_READ, 0, offset, got, len_bytes);
    if (ret == 0)
        assert_memory_equal(got, wanted, len_bytes);
    free(got);
    free(wanted);
    return ret;
}

static int write_pattern(struct block_fixture *f, uint64_t offset, size_t len_bytes, uint8_t seed)
{
    uint8_t *bytes = malloc(len_bytes);
    int ret;

    pattern_fill(bytes, offset, len_bytes, seed);
    ret = fixture_io(f, BLOCK_OP_WRITE, 0, offset, bytes, len_bytes);
    free(bytes);
    return ret;
}

static void check_file(int fd, uint64_t offset, size_t len_bytes, uint8_t seed)
{
    uint8_t *got = malloc(len_bytes), *wanted = malloc(len_bytes);

    pattern_fill(wanted, offset, len_bytes, seed);
    assert_int_equal(pread(fd, got, len_bytes, (off_t)offset), (ssize_t)len_bytes);
    assert_memory_equal(got, wanted, len_bytes);
    free(got);
    free(wanted);
}

/* Use a chunk until it would be taken for present if it is. */
static void use(struct block_fixture *f, unsigned chunk)
{
    uint8_t *bytes = malloc(CHUNK);

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, (uint64_t)chunk * CHUNK, bytes, CHUNK), 0);
    free(bytes);
}

/* A file that is all there, and mapped. */
static int open_full(struct block_fixture *f)
{
    int fd = fixture_open_file(f, SIZE, 0);

    fill(fd, 0, SIZE, 1);
    assert_non_null(state_of(f)->mapping.data);
    assert_int_equal(state_of(f)->mapping.len_bytes, 4 * CHUNK);
    for (unsigned i = 0; i < 4; i++) {
        use(f, i);
        assert_true(is_present(f, i));
    }
    return fd;
}

static void test_a_chunk_is_mapped_only_after_it_was_used(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_open_file(f, SIZE, 0);

    fill(fd, 0, SIZE, 1);
    assert_int_equal(read_and_check(f, 0, CHUNK, 1, false), 0);
    assert_false(is_present(f, 0));
    assert_int_equal(read_and_check(f, 0, 4096, 1, false), 0);
    assert_true(is_present(f, 0));
    assert_false(is_present(f, 1));
}

static void test_reads_and_writes_are_seen_by_others_at_once(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);
    /* Aligned, odd, over the border of chunks, over the end of the mapping, the very last bytes. */
    static const struct {
        uint64_t offset;
        size_t len_bytes;
    } ranges[] = { { 0, 4096 },         { 4095, 3 },     { CHUNK - 1, 2 }, { 1, 3 * CHUNK }, { 4 * CHUNK - 9, 20 },
                   { 4 * CHUNK, 4096 }, { SIZE - 1, 1 }, { 0, 4 * CHUNK }, { CHUNK, CHUNK } };

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        uint8_t seed = (uint8_t)(10 + 2 * i);

        assert_int_equal(write_pattern(f, ranges[i].offset, ranges[i].len_bytes, seed), 0);
        check_file(fd, ranges[i].offset, ranges[i].len_bytes, seed);
        fill(fd, ranges[i].offset, ranges[i].len_bytes, seed + 1);
        assert_int_equal(read_and_check(f, ranges[i].offset, ranges[i].len_bytes, seed + 1, false), 0);
    }
    assert_false(atomic_load(&state_of(f)->mapping.broken));
}

/* A vector of odd pieces, by this thread and by one of the pool. */
static void test_vectors(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);
    static const unsigned flags[] = { 0, BLOCK_REQ_OFFLOAD, BLOCK_REQ_INLINE_ONLY };
    uint8_t bytes[9000];

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        for (unsigned op = BLOCK_OP_READ; op <= BLOCK_OP_WRITE; op++) {
            struct block_call call = {
                .req = { .op = op, .flags = flags[i], .offset = CHUNK - 4321, .len_bytes = 9000, .iov_count = 3 }
            };

            call.iov[0] = (struct iovec){ bytes, 1 };
            call.iov[1] = (struct iovec){ bytes + 1, 4999 };
            call.iov[2] = (struct iovec){ bytes + 5000, 4000 };
            pattern_fill(bytes, CHUNK - 4321, sizeof(bytes), (uint8_t)(50 + i));
            if (op == BLOCK_OP_READ) {
                fill(fd, CHUNK - 4321, sizeof(bytes), (uint8_t)(70 + i));
            }
            call_start(f, &call);
            assert_int_equal(call_wait(f, &call), 0);
            if (op == BLOCK_OP_READ) {
                uint8_t wanted[9000];

                pattern_fill(wanted, CHUNK - 4321, sizeof(wanted), (uint8_t)(70 + i));
                assert_memory_equal(bytes, wanted, sizeof(wanted));
            } else {
                check_file(fd, CHUNK - 4321, sizeof(bytes), (uint8_t)(50 + i));
            }
        }
    }
}

static void test_reading_a_hole_does_not_fill_it(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_open_file(f, SIZE, 0);
    uint64_t before;

    fill(fd, 0, CHUNK - 4096, 1); /* but for one page */
    before = stored_bytes(fd);
    for (unsigned i = 0; i < 4; i++) {
        use(f, i);
        assert_false(is_present(f, i));
    }
    assert_int_equal(read_and_check(f, CHUNK, CHUNK, 0, true), 0);
    assert_int_equal(stored_bytes(fd), before);
    /* When it is filled by writes it is mapped like others. */
    assert_int_equal(write_pattern(f, CHUNK - 4096, 4096, 1), 0);
    use(f, 0);
    assert_true(is_present(f, 0));
    assert_int_equal(read_and_check(f, 0, CHUNK, 1, false), 0);
}

static void test_what_is_freed_is_not_filled_again_by_reading(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_open_file(f, SIZE, IPC_NODE_DISCARD_UNMAP);
    uint64_t before;

    fill(fd, 0, SIZE, 1);
    for (unsigned i = 0; i < 4; i++)
        use(f, i);
    assert_true(is_present(f, 1) && is_present(f, 2));
    before = stored_bytes(fd);
    assert_int_equal(fixture_io(f, BLOCK_OP_DISCARD, 0, 2 * CHUNK - 8192, NULL, 16384), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, 3 * CHUNK, NULL, CHUNK), 0);
    assert_true(is_present(f, 0));
    assert_false(is_present(f, 1) || is_present(f, 2) || is_present(f, 3));
    for (unsigned i = 0; i < 4; i++)
        use(f, i);
    assert_int_equal(read_and_check(f, 3 * CHUNK, CHUNK, 0, true), 0);
    assert_int_equal(stored_bytes(fd), before - 16384 - CHUNK);
}

static void test_the_time_of_change_moves(void **state)
{
    const struct timespec while_ = { .tv_nsec = 30 * 1000 * 1000 };
    struct block_fixture *f = *state;
    int fd = open_full(f);
    struct block_usage usage;
    struct stat before, after;

    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(fstat(fd, &before), 0);
        nanosleep(&while_, NULL);
        assert_int_equal(write_pattern(f, i * 4096, i % 2 ? CHUNK : 512, (uint8_t)i), 0);
        assert_int_equal(fstat(fd, &after), 0);
        assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                    (after.st_mtim.tv_sec == before.st_mtim.tv_sec && after.st_mtim.tv_nsec > before.st_mtim.tv_nsec));
        check_file(fd, i * 4096, i % 2 ? CHUNK : 512, (uint8_t)i);
    }
    /* Who was told the time sees it move with the next write, where the file system's times are as fine as that. */
    assert_int_not_equal(atomic_load(&state_of(f)->mapping.tick), 0);
    assert_int_equal(block_node_usage(f->root, &usage), 0);
    assert_int_equal(atomic_load(&state_of(f)->mapping.tick), 0);
}

static void test_a_file_that_is_cut_under_the_mapping(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);

    assert_int_equal(ftruncate(fd, CHUNK + 4096), 0);
    assert_int_equal(read_and_check(f, 2 * CHUNK, 4096, 0, true), 0);
    assert_true(atomic_load(&state_of(f)->mapping.broken));
    assert_int_equal(read_and_check(f, 0, CHUNK + 4096, 1, false), 0);
    /* A write there makes it longer again, as without a mapping. */
    assert_int_equal(write_pattern(f, 3 * CHUNK, CHUNK, 9), 0);
    check_file(fd, 3 * CHUNK, CHUNK, 9);
    assert_int_equal(read_and_check(f, 2 * CHUNK, CHUNK, 0, true), 0);
}

/* No fault tells of it. */
static void test_a_file_that_is_cut_within_a_page(void **state)
{
    const struct timespec while_ = { .tv_nsec = 30 * 1000 * 1000 };
    struct block_fixture *f = *state;
    int fd = open_full(f);

    assert_int_equal(write_pattern(f, 0, 4096, 8), 0);
    assert_int_equal(ftruncate(fd, CHUNK + 100), 0);
    nanosleep(&while_, NULL);
    assert_int_equal(write_pattern(f, CHUNK - 8192, 3 * 4096, 9), 0);
    check_file(fd, CHUNK - 8192, 3 * 4096, 9);
    assert_true(atomic_load(&state_of(f)->mapping.broken));
}

static void test_a_write_meets_the_cut(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);

    assert_int_equal(ftruncate(fd, 2 * CHUNK), 0);
    assert_int_equal(write_pattern(f, CHUNK, 2 * CHUNK, 9), 0);
    check_file(fd, CHUNK, 2 * CHUNK, 9);
}

static void test_a_node_that_shrinks_and_grows(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);

    assert_int_equal(block_node_resize(f->root, CHUNK), 0);
    assert_int_equal(block_node_resize(f->root, SIZE), 0);
    assert_true(is_present(f, 0));
    assert_false(is_present(f, 1) || is_present(f, 2) || is_present(f, 3));
    use(f, 1);
    assert_int_equal(read_and_check(f, CHUNK, CHUNK, 0, true), 0);
    assert_int_equal(stored_bytes(fd), CHUNK);
    assert_false(atomic_load(&state_of(f)->mapping.broken));
    assert_int_equal(write_pattern(f, CHUNK, 2 * CHUNK, 3), 0);
    use(f, 1);
    assert_true(is_present(f, 1));
    check_file(fd, CHUNK, 2 * CHUNK, 3);
    /* Longer than the mapping. */
    assert_int_equal(block_node_resize(f->root, 2 * SIZE), 0);
    assert_int_equal(write_pattern(f, 2 * SIZE - CHUNK, CHUNK, 4), 0);
    check_file(fd, 2 * SIZE - CHUNK, CHUNK, 4);
}

/* The size of a node is rounded up; what is written behind the end of the file makes that longer. */
static void test_the_end_of_the_file_within_a_page(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);
    struct stat st;

    assert_int_equal(block_node_resize(f->root, CHUNK - 100), 0);
    use(f, 0);
    assert_int_equal(read_and_check(f, CHUNK - 100, 100, 0, true), 0);
    assert_int_equal(write_pattern(f, CHUNK - 8192, 8192, 5), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, CHUNK);
    check_file(fd, CHUNK - 8192, 8192, 5);
}

static void test_a_size_that_somebody_else_changed(void **state)
{
    struct block_fixture *f = *state;
    int fd = open_full(f);

    assert_int_equal(ftruncate(fd, CHUNK), 0);
    assert_int_equal(block_node_refresh(f->root), 0);
    assert_false(is_present(f, 1));
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(block_node_refresh(f->root), 0);
    assert_int_equal(read_and_check(f, 0, CHUNK, 1, false), 0);
    assert_int_equal(read_and_check(f, CHUNK, CHUNK, 0, true), 0);
    assert_false(atomic_load(&state_of(f)->mapping.broken));
}

static void test_a_read_only_image(void **state)
{
    struct block_fixture *f = *state;
    uint8_t byte = 1;
    int fd = fixture_open_file(f, SIZE, IPC_NODE_READ_ONLY);

    fill(fd, 0, SIZE, 1);
    use(f, 0);
    assert_true(is_present(f, 0));
    assert_int_equal(read_and_check(f, 100, 4096, 1, false), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, &byte, 1), -EPERM);
}

/* mincore() says of a file that one may not write to that all of it is there. */
static void test_a_file_that_tells_nothing_is_not_mapped(void **state)
{
    struct block_fixture *f = *state;
    int fd;

    if (geteuid() != 0)
        SKIP("becoming another user needs root");
    fd = fixture_temp_file(variant->place, SIZE, 0);
    assert_int_equal(fchmod(fd, 0444), 0);
    fixture_add_node(f, IPC_DRIVER_FILE, IPC_NODE_READ_ONLY, fixture_add_fd(f, fd), -1);
    assert_int_equal(seteuid(65534), 0);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(seteuid(0), 0);
    assert_null(state_of(f)->mapping.data);
    assert_int_equal(read_and_check(f, 0, SIZE, 0, true), 0);
    assert_int_equal(stored_bytes(fd), 0);
}

static void test_a_small_file_is_not_mapped(void **state)
{
    struct block_fixture *f = *state;

    fixture_open_file(f, CHUNK - 1, 0);
    assert_null(state_of(f)->mapping.data);
}

/* A file of size_bytes on a tmpfs of 2 MiB, which goes with its last descriptor, and a second one there; -1 with errno.
 */
static int small_file_system(uint64_t size_bytes, int *ret_ballast)
{
    char directory[] = "/tmp/bulkhead-full-XXXXXX", path[64];
    int fd;

    assert_non_null(mkdtemp(directory));
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", directory, "tmpfs", 0, "size=2m") < 0) {
        int error = errno;

        rmdir(directory);
        errno = error;
        return -1;
    }
    snprintf(path, sizeof(path), "%s/image", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    snprintf(path, sizeof(path), "%s/ballast", directory);
    *ret_ballast = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && *ret_ballast >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    assert_int_equal(umount2(directory, MNT_DETACH), 0);
    rmdir(directory);
    return fd;
}

/* Somebody else frees a part of a full file system's file and fills the room: the write is told, the rest is whole. */
static void test_a_full_file_system(void **state)
{
    struct block_fixture *f = *state;
    int ballast, fd = small_file_system(SIZE, &ballast);

    if (fd < 0)
        SKIP("mounting a small tmpfs: %s", strerror(errno));
    fill(fd, 0, SIZE, 1);
    fixture_add_node(f, IPC_DRIVER_FILE, 0, fixture_add_fd(f, fd), -1);
    assert_int_equal(fixture_open(f), 0);
    use(f, 1);
    assert_true(is_present(f, 1));
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, CHUNK + 4096, 8192), 0);
    while (write(ballast, f, 4096) > 0)
        ;
    assert_int_equal(write_pattern(f, CHUNK, CHUNK, 2), -ENOSPC);
    assert_true(atomic_load(&state_of(f)->mapping.broken));
    check_file(fd, 0, CHUNK, 1);
    check_file(fd, 2 * CHUNK, CHUNK, 1);
    assert_int_equal(ftruncate(ballast, 0), 0);
    assert_int_equal(write_pattern(f, CHUNK, CHUNK, 2), 0);
    check_file(fd, CHUNK, CHUNK, 2);
    close(ballast);
}

/* Zeroing frees first and takes then; that fails, and what it freed is a hole nevertheless. */
static void test_zeroing_that_fails_leaves_holes(void **state)
{
    struct block_fixture *f = *state;
    int ballast, fd = small_file_system(16 * CHUNK, &ballast);
    uint64_t before;

    if (fd < 0)
        SKIP("mounting a small tmpfs: %s", strerror(errno));
    fill(fd, 0, 2 * CHUNK, 1);
    fixture_add_node(f, IPC_DRIVER_FILE, 0, fixture_add_fd(f, fd), -1);
    assert_int_equal(fixture_open(f), 0);
    use(f, 0);
    assert_true(is_present(f, 0));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE_ZEROES, 0, 0, NULL, 16 * CHUNK), -ENOSPC);
    assert_false(is_present(f, 0));
    before = stored_bytes(fd);
    use(f, 0);
    assert_int_equal(read_and_check(f, 0, 2 * CHUNK, 0, true), 0);
    assert_int_equal(stored_bytes(fd), before);
    close(ballast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_a_chunk_is_mapped_only_after_it_was_used),
        FIXTURE_TEST(test_reads_and_writes_are_seen_by_others_at_once),
        FIXTURE_TEST(test_vectors),
        FIXTURE_TEST(test_reading_a_hole_does_not_fill_it),
        FIXTURE_TEST(test_what_is_freed_is_not_filled_again_by_reading),
        FIXTURE_TEST(test_the_time_of_change_moves),
        FIXTURE_TEST(test_a_file_that_is_cut_under_the_mapping),
        FIXTURE_TEST(test_a_file_that_is_cut_within_a_page),
        FIXTURE_TEST(test_a_write_meets_the_cut),
        FIXTURE_TEST(test_a_node_that_shrinks_and_grows),
        FIXTURE_TEST(test_the_end_of_the_file_within_a_page),
        FIXTURE_TEST(test_a_size_that_somebody_else_changed),
        FIXTURE_TEST(test_a_read_only_image),
        FIXTURE_TEST(test_a_file_that_tells_nothing_is_not_mapped),
        FIXTURE_TEST(test_a_small_file_is_not_mapped),
        FIXTURE_TEST(test_a_full_file_system),
        FIXTURE_TEST(test_zeroing_that_fails_leaves_holes),
    };
    int failures = 0;

    if (!fixture_place_exists(PLACE_MEMORY)) {
        print_message("[  SKIPPED ] mapping: images in memory\n");
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
        variant = &variants[i];
        if (variant->place == PLACE_MEMORY)
            failures += cmocka_run_group_tests_name(variant->name, tests, NULL, NULL);
    }
    return failures;
}
