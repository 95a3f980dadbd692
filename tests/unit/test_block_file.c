/* SPDX-License-Identifier: BSD-2-Clause */
/* The file driver with real files: what is written is there, whatever the engine and the file system. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/block/file.h"

#define MIB (1024u * 1024)

/* ---- Reading and writing ---- */

static void test_what_is_written_is_read(void **state)
{
    static const struct {
        uint64_t offset;
        size_t len_bytes;
    } cases[] = { { 0, 512 }, { 4096, 4096 }, { 12345, 1 }, { 777, 9999 }, { MIB - 1, MIB + 2 }, { 0, 3 * MIB } };
    struct block_fixture *f = *state;
    uint8_t *wrote = malloc(4 * MIB), *got = malloc(4 * MIB);
    int fd = fixture_open_file(f, 4 * MIB, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        for (unsigned fua = 0; fua < 2; fua++) {
            pattern_fill(wrote, cases[i].offset, cases[i].len_bytes, (uint8_t)(2 * i + fua));
            assert_int_equal(
                fixture_io(f, BLOCK_OP_WRITE, fua ? BLOCK_REQ_FUA : 0, cases[i].offset, wrote, cases[i].len_bytes), 0);
            assert_int_equal(pread(fd, got, cases[i].len_bytes, (off_t)cases[i].offset), cases[i].len_bytes);
            assert_memory_equal(got, wrote, cases[i].len_bytes);
            memset(got, 0x55, cases[i].len_bytes);
            assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, cases[i].offset, got, cases[i].len_bytes), 0);
            assert_memory_equal(got, wrote, cases[i].len_bytes);
        }
    }
    free(wrote);
    free(got);
}

static void test_what_is_not_cached_is_read_by_the_engine(void **state)
{
    struct block_fixture *f = *state;
    uint8_t *wrote = malloc(MIB), *got = calloc(1, MIB);
    int fd = fixture_open_file(f, MIB, 0);

    pattern_fill(wrote, 0, MIB, 77);
    assert_int_equal(pwrite(fd, wrote, MIB, 0), MIB);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, MIB), 0);
    assert_memory_equal(got, wrote, MIB);
    assert_int_equal(fixture_io(f, BLOCK_OP_CACHE, 0, 0, NULL, MIB), 0);
    free(wrote);
    free(got);
}

static void test_what_is_read_only_is_not_mapped_for_writing(void **state)
{
    struct block_fixture *f = *state;
    uint64_t offset;
    int fd;

    fixture_open_file(f, MIB, IPC_NODE_READ_ONLY);
    assert_false(block_node_map_write(f->root, 0, 4096, &fd, &offset));
}

static void test_small_requests_in_memory_are_done_inline(void **state)
{
    static const enum block_op ops[] = { BLOCK_OP_WRITE, BLOCK_OP_READ, BLOCK_OP_CACHE, BLOCK_OP_FLUSH,
                                         BLOCK_OP_DISCARD };
    struct block_fixture *f = *state;
    uint8_t buf[4096] = { 0 };

    fixture_open_file(f, MIB, IPC_NODE_DISCARD_UNMAP);
    if (variant->place != PLACE_MEMORY)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        struct block_call call = { .req = { .op = ops[i], .flags = BLOCK_REQ_FUA, .len_bytes = sizeof(buf) } };

        call.iov[0] = (struct iovec){ buf, sizeof(buf) };
        call.req.iov_count = 1;
        assert_int_equal(call_start(f, &call), 0);
    }
}

static void test_large_requests_leave_the_thread(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call = { .req = { .op = BLOCK_OP_WRITE, .len_bytes = 2 * MIB, .iov_count = 1 } };
    uint8_t *buf = calloc(1, 2 * MIB);

    fixture_open_file(f, 2 * MIB, 0);
    call.iov[0] = (struct iovec){ buf, 2 * MIB };
    assert_int_equal(call_start(f, &call), BLOCK_PENDING);
    assert_true(call.req.offload);
    assert_int_equal(call_wait(f, &call), 0);
    free(buf);
}

static void test_many_requests_at_once(void **state)
{
    struct block_fixture *f = *state;
    struct block_call *calls = calloc(600, sizeof(*calls));
    uint8_t *bytes = malloc(600 * 1000), *got = malloc(600 * 1000);

    fixture_open_file(f, MIB, 0);
    pattern_fill(bytes, 0, 600 * 1000, 1);
    for (unsigned i = 0; i < 600; i++) {
        unsigned at = i * 7 % 600;

        calls[i].req = (struct block_request){ .op = BLOCK_OP_WRITE, .offset = at * 1000, .len_bytes = 1000 };
        calls[i].req.iov_count = 1;
        calls[i].iov[0] = (struct iovec){ bytes + at * 1000, 1000 };
        call_start(f, &calls[i]);
    }
    for (unsigned i = 0; i < 600; i++)
        assert_int_equal(call_wait(f, &calls[i]), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, 600 * 1000), 0);
    assert_memory_equal(got, bytes, 600 * 1000);
    free(calls);
    free(bytes);
    free(got);
}

/* ---- Sizes ---- */

static void test_a_size_is_rounded_up_to_whole_sectors_with_zeros(void **state)
{
    struct block_fixture *f = *state;
    uint8_t wrote[1000], got[1024], byte = 9;
    struct block_info info;
    struct stat st;
    int fd = fixture_open_file(f, 1000, 0);

    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, 1024);
    memset(wrote, 7, sizeof(wrote));
    assert_int_equal(pwrite(fd, wrote, sizeof(wrote), 0), sizeof(wrote));
    memset(got, 0xff, sizeof(got));
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, got, sizeof(got)), 0);
    assert_memory_equal(got, wrote, sizeof(wrote));
    for (unsigned i = 1000; i < 1024; i++)
        assert_int_equal(got[i], 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 1010, got, 14), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 1023, &byte, 1), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 1024);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 1000, got, 24), 0);
    assert_int_equal(got[0], 0);
    assert_int_equal(got[23], 9);
}

static void test_an_empty_file_is_an_empty_node(void **state)
{
    struct block_fixture *f = *state;
    struct block_info info;
    uint8_t byte;

    fixture_open_file(f, 0, 0);
    block_node_info(f->root, &info);
    assert_int_equal(info.size_bytes, 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, 0, &byte, 1), -EINVAL);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
}

static void test_a_file_that_was_cut_meanwhile_reads_as_zeros(void **state)
{
    struct block_fixture *f = *state;
    uint8_t buf[4096], byte = 1;
    int fd = fixture_open_file(f, MIB, 0);

    memset(buf, 7, sizeof(buf));
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, MIB - 4096, buf, sizeof(buf)), 0);
    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, MIB - 4096, buf, sizeof(buf)), 0);
    for (unsigned i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, MIB - 1, &byte, 1), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, MIB - 2, buf, 2), 0);
    assert_int_equal(buf[1], 1);
}

static void test_a_huge_file_is_refused(void **state)
{
    struct block_fixture *f = *state;
    int fd = fixture_temp_file(variant->place, 0, 0);

    fixture_add_node(f, IPC_DRIVER_FILE, 0, fixture_add_fd(f, fd), -1);
    if (ftruncate(fd, INT64_MAX) < 0)
        return; /* only file systems in memory have files as large as that */
    assert_int_equal(fixture_open(f), -EFBIG);
}

static void test_types_that_do_not_fit_the_driver_are_refused(void **state)
{
    static const struct {
        const char *path;
        uint32_t driver;
        int error;
    } cases[] = {
        { "/dev/null", IPC_DRIVER_FILE, -EINVAL },
        { "/", IPC_DRIVER_FILE, -EINVAL },
        { "/dev/null", IPC_DRIVER_HOST_DEVICE, -ENOTBLK },
        { "/proc/self/exe", IPC_DRIVER_HOST_DEVICE, -ENOTBLK },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct block_fixture f;

        fixture_init(&f);
        fixture_add_node(&f, cases[i].driver, 0, fixture_add_fd(&f, open(cases[i].path, O_RDONLY | O_CLOEXEC)), -1);
        assert_int_equal(fixture_open(&f), cases[i].error);
        fixture_done(&f);
    }
}

/* ---- What reaches the engine ---- */

static void test_fua_is_a_synchronous_write(void **state)
{
    static const struct {
        uint32_t node_flags;
        unsigned request_flags;
        int disk_rw_flags;
    } cases[] = {
        { 0, 0, 0 },
        { 0, BLOCK_REQ_FUA, RWF_DSYNC },
        { IPC_NODE_NO_FLUSH, BLOCK_REQ_FUA, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct block_call call = { .req = { .op = BLOCK_OP_WRITE, .flags = cases[i].request_flags, .len_bytes = 512 } };
        struct block_fixture f;
        uint8_t buf[512] = { 0 };

        fixture_init(&f);
        fixture_open_file(&f, MIB, cases[i].node_flags);
        call.iov[0] = (struct iovec){ buf, sizeof(buf) };
        call.req.iov_count = 1;
        call_start(&f, &call);
        assert_int_equal(call.req.rw_flags, variant->place == PLACE_DISK ? cases[i].disk_rw_flags : 0);
        assert_int_equal(call_wait(&f, &call), 0);
        fixture_done(&f);
    }
}

static void test_flush_reaches_the_engine_unless_there_is_nothing_to_flush(void **state)
{
    static const struct {
        uint32_t node_flags;
        int on_disk;
    } cases[] = { { 0, BLOCK_PENDING }, { IPC_NODE_NO_FLUSH, 0 }, { IPC_NODE_READ_ONLY, 0 } };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct block_call call = { .req = { .op = BLOCK_OP_FLUSH } };
        struct block_fixture f;

        fixture_init(&f);
        fixture_open_file(&f, MIB, cases[i].node_flags);
        assert_int_equal(call_start(&f, &call), variant->place == PLACE_DISK ? cases[i].on_disk : 0);
        assert_int_equal(call.req.engine_op, BLOCK_OP_FLUSH);
        assert_int_equal(call_wait(&f, &call), 0);
        fixture_done(&f);
    }
}

static void test_a_discard_with_fua_ends_with_a_flush(void **state)
{
    struct block_call call = { .req = { .op = BLOCK_OP_DISCARD, .flags = BLOCK_REQ_FUA, .len_bytes = 65536 } };
    struct block_fixture *f = *state;

    fixture_open_file(f, MIB, IPC_NODE_DISCARD_UNMAP);
    call_start(f, &call);
    assert_int_equal(call_wait(f, &call), 0);
    assert_int_equal(call.req.engine_op, variant->place == PLACE_DISK ? BLOCK_OP_FLUSH : BLOCK_OP_DISCARD);
}

/* Linux tells of lost pages once. What is tested is what follows; no disk here fails on demand. */
static void test_after_a_failed_flush_no_flush_succeeds(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call = { .req = { .op = BLOCK_OP_FLUSH } };
    struct file_state *file;

    fixture_open_file(f, MIB, 0);
    if (variant->place == PLACE_MEMORY)
        return;
    file = f->root->state;
    assert_int_equal(file_flush_next(file, &call.req, -EIO), -EIO);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), -EIO);
    assert_int_equal(file_flush_next(file, &call.req, -ENOSPC), -ENOSPC);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), -EIO);
}

static void test_a_failed_synchronous_write_counts_as_a_failed_flush(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call = { .req = { .op = BLOCK_OP_WRITE } };
    struct file_state *file;

    fixture_open_file(f, MIB, 0);
    if (variant->place == PLACE_MEMORY)
        return;
    file = f->root->state;
    assert_int_equal(file_write_next(file, &call.req, -EIO), -EIO); /* told to nobody but its client */
    call.req.rw_flags = RWF_DSYNC;
    assert_int_equal(file_write_next(file, &call.req, -ENOSPC), -ENOSPC);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
    assert_int_equal(file_write_next(file, &call.req, -EIO), -EIO);
    assert_int_equal(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), -EIO);
}

/* ---- A full file system ---- */

static char tiny_directory[] = "/tmp/bulkhead-tiny-XXXXXX";
static bool tiny_mounted;

/* In a mount namespace of our own, so that nothing is left over. */
static void mount_tiny(void)
{
    if (mkdtemp(tiny_directory) == NULL)
        return;
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return;
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    tiny_mounted = mount("tiny", tiny_directory, "tmpfs", 0, "size=4M,mode=0700") == 0;
}

static int tiny_file(const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", tiny_directory, name);
    return open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static void test_a_full_file_system_is_enospc_and_works_again_after(void **state)
{
    static const size_t sizes[] = { 65536, 2 * MIB }; /* inline, and by the engine */
    uint8_t *buf = malloc(2 * MIB), *got = malloc(2 * MIB);

    if (!tiny_mounted)
        SKIP("cannot mount a small tmpfs: neither root nor user namespaces");
    memset(buf, 3, 2 * MIB);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct block_fixture f;
        int filler = tiny_file("filler"), fd = tiny_file("image");

        fixture_init(&f);
        assert_int_equal(ftruncate(fd, 3 * MIB), 0);
        while (write(filler, buf, 65536) == 65536)
            ;
        fixture_add_node(&f, IPC_DRIVER_FILE, IPC_NODE_DISCARD_UNMAP, fixture_add_fd(&f, fd), -1);
        assert_int_equal(fixture_open(&f), 0);
        assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE, 0, 4096, buf, sizes[i]), -ENOSPC);
        assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE_ZEROES, 0, 4096, NULL, sizes[i]), -ENOSPC);
        assert_int_equal(fixture_io(&f, BLOCK_OP_READ, 0, 4096, got, 512), 0);
        assert_int_equal(fixture_io(&f, BLOCK_OP_DISCARD, 0, 0, NULL, 3 * MIB), 0);
        assert_int_equal(ftruncate(filler, 0), 0);
        assert_int_equal(fixture_io(&f, BLOCK_OP_WRITE, 0, 4096, buf, sizes[i]), 0);
        assert_int_equal(fixture_io(&f, BLOCK_OP_READ, 0, 4096, got, sizes[i]), 0);
        assert_memory_equal(got, buf, sizes[i]);
        assert_int_equal(fixture_io(&f, BLOCK_OP_FLUSH, 0, 0, NULL, 0), 0);
        close_fd(&filler);
        fixture_done(&f);
    }
    free(buf);
    free(got);
}

/* A loop device over a sparse file, on a file system that then runs full: what was written cannot be written back. */
static void test_pages_that_were_lost_fail_every_later_flush(void **state)
{
    struct block_fixture *f = *state;
    uint8_t *buf;
    int filler, backing, fd;

    if (variant->place == PLACE_MEMORY)
        return; /* about devices: once per engine is enough */
    if (!tiny_mounted)
        SKIP("cannot mount a small tmpfs: neither root nor user namespaces");
    buf = calloc(1, 65536);
    filler = tiny_file("filler");
    backing = tiny_file("backing");
    assert_int_equal(ftruncate(backing, 3 * MIB), 0);
    fd = fixture_loop_device(backing);
    if (fd < 0) {
        free(buf);
        SKIP("cannot set up a loop device: %s", strerror(errno));
    }
    while (write(filler, buf, 65536) == 65536)
        ;
    fixture_add_node(f, IPC_DRIVER_HOST_DEVICE, 0, fixture_add_fd(f, fd), -1);
    assert_int_equal(fixture_open(f), 0);
    assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, 0, buf, 65536), 0);
    assert_true(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0) < 0);
    assert_int_equal(ftruncate(filler, 0), 0);
    assert_int_equal(fdatasync(fd), 0); /* what Linux says now */
    assert_true(fixture_io(f, BLOCK_OP_FLUSH, 0, 0, NULL, 0) < 0);
    close_fd(&filler);
    close_fd(&backing);
    free(buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_what_is_written_is_read),
        FIXTURE_TEST(test_what_is_not_cached_is_read_by_the_engine),
        FIXTURE_TEST(test_what_is_read_only_is_not_mapped_for_writing),
        FIXTURE_TEST(test_small_requests_in_memory_are_done_inline),
        FIXTURE_TEST(test_large_requests_leave_the_thread),
        FIXTURE_TEST(test_many_requests_at_once),
        FIXTURE_TEST(test_a_size_is_rounded_up_to_whole_sectors_with_zeros),
        FIXTURE_TEST(test_an_empty_file_is_an_empty_node),
        FIXTURE_TEST(test_a_file_that_was_cut_meanwhile_reads_as_zeros),
        FIXTURE_TEST(test_a_huge_file_is_refused),
        FIXTURE_TEST(test_types_that_do_not_fit_the_driver_are_refused),
        FIXTURE_TEST(test_fua_is_a_synchronous_write),
        FIXTURE_TEST(test_flush_reaches_the_engine_unless_there_is_nothing_to_flush),
        FIXTURE_TEST(test_a_discard_with_fua_ends_with_a_flush),
        FIXTURE_TEST(test_after_a_failed_flush_no_flush_succeeds),
        FIXTURE_TEST(test_a_failed_synchronous_write_counts_as_a_failed_flush),
        cmocka_unit_test(test_a_full_file_system_is_enospc_and_works_again_after),
        FIXTURE_TEST(test_pages_that_were_lost_fail_every_later_flush),
    };
    int failures;

    mount_tiny();
    failures = RUN_VARIANTS("file", tests);
    if (tiny_mounted)
        umount(tiny_directory);
    rmdir(tiny_directory);
    return failures;
}
