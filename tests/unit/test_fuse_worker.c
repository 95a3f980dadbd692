/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The FUSE worker without a kernel: the test is /dev/fuse, by a socket pair whose datagrams are requests and replies,
 * and it is the monitor. The threads, the fast path, libfuse and the block layer are the real ones.
 */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define FUSE_USE_VERSION 314
#include "fuse-worker/op.h"
#include "fuse-worker/ops.h"

#define SIZE 1000000u

struct rig {
    struct block_fixture block;
    struct worker worker;
    struct worker_page page;
    struct fx_export export;
    struct fx_thread thread;
    struct io_loop *control_loop;
    pthread_t io_thread;
    int fd;     /* our end of the descriptor that blocks */
    int fd2;    /* and of the other one */
    int fds[2]; /* the worker's */
    int image_fd;
    uint64_t unique;
    /* What the worker has reported. */
    pthread_mutex_t lock;
    struct ipc_status reports[16];
    unsigned report_count;
    unsigned io_errors;
};

static struct rig *rig; /* for the two functions that the harness would have */

void worker_report(struct worker *worker, const struct ipc_status *status)
{
    pthread_mutex_lock(&rig->lock);
    if (rig->report_count < ARRAY_SIZE(rig->reports))
        rig->reports[rig->report_count++] = *status;
    pthread_mutex_unlock(&rig->lock);
}

void worker_report_io_error(struct worker *worker, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
                            int code)
{
    pthread_mutex_lock(&rig->lock);
    rig->io_errors++;
    pthread_mutex_unlock(&rig->lock);
}

/* Wait for the next report of a type. */
static struct ipc_status wait_report(enum ipc_status_type type)
{
    for (unsigned i = 0; i < 5000; i++) {
        pthread_mutex_lock(&rig->lock);
        for (unsigned k = 0; k < rig->report_count; k++) {
            struct ipc_status status = rig->reports[k];

            if (status.type != (uint32_t)type)
                continue;
            rig->reports[k].type = 0;
            pthread_mutex_unlock(&rig->lock);
            return status;
        }
        pthread_mutex_unlock(&rig->lock);
        usleep(1000);
    }
    fail_msg("no status record of type %d came", type);
    return (struct ipc_status){ 0 };
}

/* ---- The device ---- */

struct reply {
    int error;
    size_t bytes;
    uint8_t data[70000];
};

static void send_raw(uint32_t opcode, uint32_t len_field, const void *arg, size_t arg_bytes, const void *data,
                     size_t data_bytes)
{
    struct fuse_in_header in = { .len = len_field, .opcode = opcode, .unique = ++rig->unique, .nodeid = FUSE_ROOT_ID };
    struct iovec iov[3] = { { &in, sizeof(in) },
                            { (void *)(uintptr_t)arg, arg_bytes },
                            { (void *)(uintptr_t)data, data_bytes } };

    assert_int_equal(writev(rig->fd, iov, 3), sizeof(in) + arg_bytes + data_bytes);
}

static void send_request(uint32_t opcode, const void *arg, size_t arg_bytes, const void *data, size_t data_bytes)
{
    send_raw(opcode, (uint32_t)(sizeof(struct fuse_in_header) + arg_bytes + data_bytes), arg, arg_bytes, data,
             data_bytes);
}

static bool has_reply(int timeout_ms)
{
    struct pollfd pfd = { .fd = rig->fd, .events = POLLIN };

    return poll(&pfd, 1, timeout_ms) == 1;
}

static struct reply *get_reply(void)
{
    static struct reply reply;
    struct fuse_out_header out;
    struct iovec iov[2] = { { &out, sizeof(out) }, { reply.data, sizeof(reply.data) } };
    ssize_t n;

    if (!has_reply(10000))
        fail_msg("no reply came");
    n = readv(rig->fd, iov, 2);
    assert_true(n >= (ssize_t)sizeof(out));
    assert_int_equal(out.len, n);
    assert_true(out.unique == rig->unique);
    assert_true(out.error <= 0 && out.error > -512);
    reply.error = out.error;
    reply.bytes = (size_t)n - sizeof(out);
    assert_true(out.error == 0 || reply.bytes == 0);
    return &reply;
}

static struct reply *ask(uint32_t opcode, const void *arg, size_t arg_bytes)
{
    send_request(opcode, arg, arg_bytes, NULL, 0);
    return get_reply();
}

static struct reply *ask_init_with(uint64_t more_flags)
{
    uint64_t flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS |
                     FUSE_ATOMIC_O_TRUNC | more_flags;
    struct fuse_init_in in = {
        .major = 7,
        .minor = 39,
        .max_readahead = 131072,
        .flags = (uint32_t)flags,
        .flags2 = (uint32_t)(flags >> 32),
    };

    return ask(FUSE_INIT, &in, sizeof(in));
}

static struct reply *ask_init(void)
{
    return ask_init_with(0);
}

static struct reply *ask_read(uint64_t offset, uint32_t bytes)
{
    struct fuse_read_in in = { .offset = offset, .size = bytes };

    return ask(FUSE_READ, &in, sizeof(in));
}

static struct reply *ask_write(uint64_t offset, const void *data, uint32_t bytes)
{
    struct fuse_write_in in = { .offset = offset, .size = bytes };

    send_request(FUSE_WRITE, &in, sizeof(in), data, bytes);
    return get_reply();
}

static uint32_t written(const struct reply *reply)
{
    struct fuse_write_out out;

    assert_int_equal(reply->error, 0);
    assert_int_equal(reply->bytes, sizeof(out));
    memcpy(&out, reply->data, sizeof(out));
    return out.size;
}

static struct fuse_attr attributes(void)
{
    struct fuse_getattr_in in = { 0 };
    struct reply *reply = ask(FUSE_GETATTR, &in, sizeof(in));
    struct fuse_attr_out out;

    assert_int_equal(reply->error, 0);
    assert_int_equal(reply->bytes, sizeof(out));
    memcpy(&out, reply->data, sizeof(out));
    assert_true(out.attr_valid == 0 && out.attr_valid_nsec == 0);
    return out.attr;
}

/* ---- The rig ---- */

static void *run_loop(void *arg)
{
    io_loop_run(arg);
    return NULL;
}

static void pair(int *ret_ours, int *ret_theirs, int flags)
{
    int fds[2], bytes = 4 << 20;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    assert_int_equal(fcntl(fds[1], F_SETFL, flags), 0);
    *ret_ours = fds[0];
    *ret_theirs = fds[1];
}

static void setup_export(bool writable, bool growable, bool may_resize)
{
    struct fx_export *export = &rig->export;

    rig->worker.page = &rig->page;
    rig->worker.control_loop = rig->control_loop;
    export->worker = &rig->worker;
    export->root = rig->block.root;
    block_node_info(export->root, &rig->worker.info);
    export->writable = writable;
    export->growable = growable;
    export->may_resize = may_resize;
    export->mode = writable ? 0600 : 0400;
    export->uid = 1001;
    export->gid = 1002;
    export->device_pairs = 1;
    atomic_store(&export->size_bytes, SIZE);
    pthread_mutex_init(&export->attr_lock, NULL);
    pthread_mutex_init(&export->size_lock, NULL);
    pthread_mutex_init(&export->asked_lock, NULL);
    export->report_task.run = fx_size_report_later;
    export->report_timer.expired = fx_size_report;
    export->threads = &rig->thread;
    export->thread_count = 1;
}

static void rig_start(bool writable, bool growable, bool may_resize)
{
    rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    pthread_mutex_init(&rig->lock, NULL);
    fixture_init(&rig->block);
    rig->image_fd = fixture_open_file(&rig->block, SIZE, writable ? 0 : IPC_NODE_READ_ONLY);
    rig->control_loop = io_loop_new(NULL);
    assert_non_null(rig->control_loop);
    setup_export(writable, growable, may_resize);
    assert_int_equal(fx_thread_init(&rig->export, &rig->thread), 0);
    rig->thread.loop = rig->block.loop;
    rig->thread.queue = rig->block.queue;
    assert_int_equal(fx_ops_new(&rig->export, NULL), 0);
    pair(&rig->fd, &rig->fds[0], 0);
    pair(&rig->fd2, &rig->fds[1], O_NONBLOCK);
    assert_int_equal(fx_ops_set_device(&rig->export, rig->fds[0]), 0);
    fx_thread_start(&rig->thread, rig->fds[1], rig->fds[0]);
    assert_int_equal(pthread_create(&rig->io_thread, NULL, run_loop, rig->block.loop), 0);
}

/* Like an unmount: the descriptors end, the thread finds out. */
static void rig_stop(void)
{
    rig->export.gone_task.run = NULL; /* nobody runs the control loop; the record is main.c's */
    atomic_store(&rig->export.gone_posted, true);
    close(rig->fd);
    close(rig->fd2);
    while (atomic_load(&rig->thread.pending) > 0)
        usleep(1000);
    io_loop_stop(rig->block.loop);
    pthread_join(rig->io_thread, NULL);
    fuse_session_destroy(rig->export.session); /* closes fds[0] */
    close(rig->fds[1]);
    close(rig->thread.pipe.fds[0]);
    close(rig->thread.pipe.fds[1]);
    munmap(rig->thread.buffers, (size_t)FX_SLOTS * FX_BUFFER_BYTES);
    io_loop_free(rig->control_loop);
    fixture_done(&rig->block);
    free(rig);
    rig = NULL;
}

static int setup_writable(void **state)
{
    rig_start(true, false, false);
    assert_int_equal(ask_init()->error, 0);
    return 0;
}

static int setup_growable(void **state)
{
    rig_start(true, true, true);
    assert_int_equal(ask_init()->error, 0);
    return 0;
}

static int setup_read_only(void **state)
{
    rig_start(false, false, false);
    assert_int_equal(ask_init()->error, 0);
    return 0;
}

static int setup_bare(void **state)
{
    rig_start(true, false, false);
    return 0;
}

static int teardown(void **state)
{
    rig_stop();
    return 0;
}

/* ---- Negotiation ---- */

static void test_init_is_agreed_and_reported(void **state)
{
    struct reply *reply = ask_init();
    struct fuse_init_out out;
    struct ipc_status status;

    assert_int_equal(reply->error, 0);
    memcpy(&out, reply->data, sizeof(out));
    assert_int_equal(out.major, 7);
    assert_int_equal(out.max_write, FX_IO_BYTES_MAX);
    assert_int_equal(out.max_pages, 256);
    assert_true((out.flags & FUSE_ASYNC_DIO) != 0 && (out.flags & FUSE_WRITEBACK_CACHE) == 0);
    assert_int_equal(out.max_background, FX_SLOTS);
    status = wait_report(IPC_STATUS_FUSE_SERVING);
    assert_int_equal(status.fuse_serving.max_write_bytes, FX_IO_BYTES_MAX);
    assert_int_equal(status.fuse_serving.device_pairs, 1);
}

static void test_nothing_of_libfuse_answers_before_init(void **state)
{
    struct fuse_getattr_in in = { 0 };

    assert_int_equal(ask(FUSE_GETATTR, &in, sizeof(in))->error, -EIO);
}

static void test_unknown_operations_are_not_supported(void **state)
{
    uint8_t arg[64] = { 0 };

    assert_int_equal(ask(FUSE_BMAP, arg, sizeof(struct fuse_bmap_in))->error, -ENOSYS);
    assert_int_equal(ask(4000, arg, sizeof(arg))->error, -ENOSYS);
}

static void test_interrupts_are_not_supported(void **state)
{
    struct fuse_interrupt_in in = { .unique = 1 };

    assert_int_equal(ask(FUSE_INTERRUPT, &in, sizeof(in))->error, -ENOSYS);
}

static void test_request_that_lies_about_its_length_is_dropped(void **state)
{
    struct fuse_read_in in = { .size = 512 };

    send_raw(FUSE_READ, 9999, &in, sizeof(in), NULL, 0);
    assert_false(has_reply(50));
    assert_int_equal(ask_read(0, 512)->bytes, 512);
}

/* ---- READ and WRITE ---- */

static void test_data_is_written_and_read(void **state)
{
    uint8_t bytes[50000], got[50000];

    pattern_fill(bytes, 0, sizeof(bytes), 3);
    assert_int_equal(written(ask_write(12345, bytes, sizeof(bytes))), sizeof(bytes));
    assert_int_equal(pread(rig->image_fd, got, sizeof(got), 12345), sizeof(got));
    assert_memory_equal(bytes, got, sizeof(got));
    assert_int_equal(ask_read(12345, sizeof(bytes))->bytes, sizeof(bytes));
    assert_memory_equal(ask_read(12345, sizeof(bytes))->data, bytes, sizeof(bytes));
    assert_true(atomic_load(&rig->page.ops[BLOCK_OP_READ]) == 2 &&
                atomic_load(&rig->page.bytes[BLOCK_OP_WRITE]) == 50000);
}

static void test_reads_stop_at_the_end(void **state)
{
    assert_int_equal(ask_read(SIZE - 10, 512)->bytes, 10);
    assert_int_equal(ask_read(SIZE, 512)->bytes, 0);
    assert_int_equal(ask_read(UINT64_MAX, 512)->bytes, 0);
    assert_int_equal(ask_read(0, 0)->bytes, 0);
}

/* The node is smaller already, and the export has not been told. */
static void test_reads_stop_at_the_end_of_a_file_that_is_being_cut(void **state)
{
    uint64_t node_bytes = block_node_size(rig->export.root);

    atomic_store(&rig->export.size_bytes, node_bytes + 4096);
    assert_int_equal(ask_read(node_bytes - 10, 512)->bytes, 10);
    assert_int_equal(ask_read(node_bytes + 10, 512)->bytes, 0);
    assert_int_equal(rig->io_errors, 0);
}

/* What is spliced comes through a socket in pieces, unlike through /dev/fuse. */
static void test_large_read_takes_the_way_through_the_pipe(void **state)
{
    static uint8_t bytes[200000], got[sizeof(struct fuse_out_header) + sizeof(bytes)];
    struct fuse_read_in in = { .offset = 4096, .size = sizeof(bytes) };
    struct fuse_out_header out;
    size_t have = 0;

    pattern_fill(bytes, 0, sizeof(bytes), 9);
    assert_int_equal(pwrite(rig->image_fd, bytes, sizeof(bytes), 4096), sizeof(bytes));
    send_request(FUSE_READ, &in, sizeof(in), NULL, 0);
    while (have < sizeof(got)) {
        ssize_t n;

        assert_true(has_reply(10000));
        n = read(rig->fd, got + have, sizeof(got) - have);
        assert_true(n > 0);
        have += (size_t)n;
    }
    memcpy(&out, got, sizeof(out));
    assert_int_equal(out.len, sizeof(got));
    assert_int_equal(out.error, 0);
    assert_memory_equal(got + sizeof(out), bytes, sizeof(bytes));
    assert_int_equal(rig->thread.pipe.state, IO_PIPE_LARGE);
    assert_int_equal(ask_read(0, 512)->bytes, 512);
}

/* The buffer may become a huge page while a request is in it. */
static void test_large_writes_one_by_one_keep_their_data(void **state)
{
    static uint8_t bytes[262144], got[sizeof(bytes)];

    for (unsigned i = 0; i < 70; i++) {
        pattern_fill(bytes, 0, sizeof(bytes), i);
        assert_int_equal(written(ask_write(i, bytes, sizeof(bytes))), sizeof(bytes));
        assert_int_equal(pread(rig->image_fd, got, sizeof(got), i), sizeof(got));
        assert_memory_equal(bytes, got, sizeof(got));
    }
    assert_int_equal(rig->thread.large_requests, 70);
}

static void test_errors_read_of_more_than_was_agreed(void **state)
{
    assert_int_equal(ask_read(0, FX_IO_BYTES_MAX + 1)->error, -EINVAL);
}

static void test_writes_stop_at_the_end(void **state)
{
    uint8_t bytes[512] = { 1 };

    assert_int_equal(written(ask_write(SIZE - 10, bytes, sizeof(bytes))), 10);
    assert_int_equal(ask_write(SIZE, bytes, sizeof(bytes))->error, -ENOSPC);
    assert_int_equal(ask_write(INT64_MAX, bytes, sizeof(bytes))->error, -ENOSPC);
}

static void test_errors_write_whose_length_does_not_fit(void **state)
{
    struct fuse_write_in in = { .size = 512 };
    uint8_t bytes[512] = { 0 };

    send_request(FUSE_WRITE, &in, sizeof(in), bytes, 511);
    assert_int_equal(get_reply()->error, -EINVAL);
    in.size = UINT32_MAX;
    send_request(FUSE_WRITE, &in, sizeof(in), bytes, 512);
    assert_int_equal(get_reply()->error, -EINVAL);
    in = (struct fuse_write_in){ .size = 512, .offset = UINT64_MAX - 100 };
    send_request(FUSE_WRITE, &in, sizeof(in), bytes, 512);
    assert_int_equal(get_reply()->error, -EINVAL);
}

static void test_growable_file_grows_to_the_byte(void **state)
{
    uint8_t bytes[100] = { 7 };
    struct stat st;

    assert_int_equal(written(ask_write(SIZE + 1000, bytes, sizeof(bytes))), sizeof(bytes));
    assert_int_equal(fstat(rig->image_fd, &st), 0);
    assert_int_equal(st.st_size, SIZE + 1100);
    assert_int_equal(attributes().size, SIZE + 1100);
    assert_int_equal(ask_read(SIZE + 1000, 4096)->bytes, 100);
}

static void test_read_only_export_takes_no_write(void **state)
{
    struct fuse_fallocate_in fallocate = { .length = 512 };
    struct fuse_setattr_in size = { .valid = FATTR_SIZE };
    uint8_t bytes[512] = { 0 };

    assert_int_equal(ask_write(0, bytes, sizeof(bytes))->error, -EROFS);
    assert_int_equal(ask(FUSE_FALLOCATE, &fallocate, sizeof(fallocate))->error, -EROFS);
    assert_int_equal(ask(FUSE_SETATTR, &size, sizeof(size))->error, -EROFS);
    assert_int_equal(ask_read(0, 512)->bytes, 512);
}

/* ---- OPEN ---- */

static void test_open_files_bypass_the_page_cache_and_are_counted(void **state)
{
    struct fuse_open_in open_in = { .flags = O_RDWR };
    struct fuse_release_in release_in = { 0 };
    struct reply *reply = ask(FUSE_OPEN, &open_in, sizeof(open_in));
    struct fuse_open_out out;

    assert_int_equal(reply->error, 0);
    memcpy(&out, reply->data, sizeof(out));
    assert_true((out.open_flags & FOPEN_DIRECT_IO) != 0 && (out.open_flags & FOPEN_KEEP_CACHE) == 0);
    assert_int_equal(atomic_load(&rig->page.clients), 1);
    assert_int_equal(ask(FUSE_RELEASE, &release_in, sizeof(release_in))->error, 0);
    assert_int_equal(atomic_load(&rig->page.clients), 0);
    assert_true(atomic_load(&rig->page.clients_total) == 1);
}

static void test_read_only_export_is_not_opened_for_writing(void **state)
{
    static const uint32_t flags[] = { O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC };

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        struct fuse_open_in in = { .flags = flags[i] };

        assert_int_equal(ask(FUSE_OPEN, &in, sizeof(in))->error, -EROFS);
    }
    assert_int_equal(atomic_load(&rig->page.clients), 0);
}

/* Else the kernel would empty the file by SETATTR, which looks like truncate(2). */
static void test_emptying_comes_along_with_open(void **state)
{
    struct reply *reply = ask_init();
    struct fuse_init_out out;

    memcpy(&out, reply->data, sizeof(out));
    assert_true((out.flags & FUSE_ATOMIC_O_TRUNC) != 0);
}

/* FUSE_DIRECT_IO_ALLOW_MMAP, where the kernel has it. */
static void test_shared_mappings_are_asked_for_where_they_are_offered(void **state)
{
    struct fuse_init_out out;

    memcpy(&out, ask_init_with(FUSE_INIT_EXT | 1ull << 36)->data, sizeof(out));
    assert_true((out.flags & FUSE_INIT_EXT) != 0 && (out.flags & FUSE_ASYNC_DIO) != 0);
    assert_int_equal(out.flags2, 1u << 4);
    assert_int_equal(out.max_write, FX_IO_BYTES_MAX);
}

static void test_shared_mappings_are_not_asked_for_where_they_are_not_offered(void **state)
{
    struct fuse_init_out out;

    memcpy(&out, ask_init_with(FUSE_INIT_EXT)->data, sizeof(out));
    assert_int_equal(out.flags2 & 1u << 4, 0);
    assert_int_equal(out.max_write, FX_IO_BYTES_MAX);
}

static void test_pages_of_a_mapping_do_not_make_a_growable_file_longer(void **state)
{
    uint8_t bytes[4096] = { 1 };
    struct fuse_write_in in = { .offset = SIZE - 10, .size = sizeof(bytes), .write_flags = FUSE_WRITE_CACHE };

    send_request(FUSE_WRITE, &in, sizeof(in), bytes, sizeof(bytes));
    assert_int_equal(written(get_reply()), 10);
    in.offset = SIZE + 4096;
    send_request(FUSE_WRITE, &in, sizeof(in), bytes, sizeof(bytes));
    assert_int_equal(get_reply()->error, -ENOSPC);
    assert_int_equal(attributes().size, SIZE);
}

static void test_file_that_cannot_grow_keeps_its_size_when_opened_to_be_emptied(void **state)
{
    struct fuse_open_in in = { .flags = O_WRONLY | O_TRUNC };
    struct stat st;

    assert_int_equal(ask(FUSE_OPEN, &in, sizeof(in))->error, 0);
    assert_int_equal(fstat(rig->image_fd, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_int_equal(attributes().size, SIZE);
    assert_int_equal(atomic_load(&rig->page.clients), 1);
}

static void test_growable_file_is_emptied_when_opened_so(void **state)
{
    struct fuse_open_in in = { .flags = O_WRONLY | O_TRUNC };
    struct reply *reply = ask(FUSE_OPEN, &in, sizeof(in));
    struct fuse_open_out out;
    struct stat st;

    assert_int_equal(reply->error, 0);
    memcpy(&out, reply->data, sizeof(out));
    assert_true((out.open_flags & FOPEN_DIRECT_IO) != 0 && out.fh != 0);
    assert_int_equal(fstat(rig->image_fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(attributes().size, 0);
    assert_int_equal(atomic_load(&rig->page.clients), 1);
}

/* ---- Attributes ---- */

static void test_attributes_are_those_of_a_regular_file(void **state)
{
    struct fuse_attr attr = attributes();

    assert_int_equal(attr.mode, S_IFREG | 0600);
    assert_int_equal(attr.size, SIZE);
    assert_int_equal(attr.uid, 1001);
    assert_int_equal(attr.gid, 1002);
    assert_int_equal(attr.nlink, 1);
}

static struct reply *ask_mode(uint32_t mode)
{
    struct fuse_setattr_in in = { .valid = FATTR_MODE, .mode = S_IFREG | mode };

    return ask(FUSE_SETATTR, &in, sizeof(in));
}

static void test_mode_is_kept_within_what_the_mount_holds(void **state)
{
    struct fuse_setattr_in owner = { .valid = FATTR_UID, .uid = 5 };
    struct fuse_setattr_in times = { .valid = FATTR_MTIME, .mtime = 5 };

    assert_int_equal(ask_mode(0400)->error, 0);
    assert_int_equal(attributes().mode, S_IFREG | 0400);
    assert_int_equal(ask_mode(0444)->error, -EPERM);
    assert_int_equal(ask(FUSE_SETATTR, &owner, sizeof(owner))->error, -ENOTSUP);
    assert_int_equal(ask(FUSE_SETATTR, &times, sizeof(times))->error, -ENOTSUP);
    rig->export.allow_other = true;
    assert_int_equal(ask_mode(0444)->error, 0);
    assert_int_equal(ask(FUSE_SETATTR, &owner, sizeof(owner))->error, 0);
    assert_int_equal(attributes().uid, 5);
}

/* ---- Sizes ---- */

static void send_size(uint64_t size)
{
    struct fuse_setattr_in in = { .valid = FATTR_SIZE, .size = size };

    send_request(FUSE_SETATTR, &in, sizeof(in), NULL, 0);
}

static void test_size_is_changed_when_the_monitor_permits(void **state)
{
    struct ipc_status status;

    send_size(777);
    status = wait_report(IPC_STATUS_FUSE_RESIZE);
    assert_true(status.fuse_resize.serial == 1 && status.fuse_resize.size_bytes == 777);
    assert_false(has_reply(20));
    assert_int_equal(fx_op_resize_answer(&rig->export, 1, 0), 0);
    assert_int_equal(get_reply()->error, 0);
    status = wait_report(IPC_STATUS_FUSE_RESIZED);
    assert_true(status.fuse_resize.serial == 1 && status.fuse_resize.size_bytes == 777);
    assert_int_equal(attributes().size, 777);
}

static void test_size_stays_when_the_monitor_refuses(void **state)
{
    send_size(777);
    wait_report(IPC_STATUS_FUSE_RESIZE);
    assert_int_equal(fx_op_resize_answer(&rig->export, 1, -EAGAIN), 0);
    assert_int_equal(get_reply()->error, -EAGAIN);
    assert_int_equal(attributes().size, SIZE);
}

static void test_errors_answer_to_what_was_not_asked(void **state)
{
    assert_int_equal(fx_op_resize_answer(&rig->export, 1, 0), -EPROTO);
    send_size(777);
    wait_report(IPC_STATUS_FUSE_RESIZE);
    assert_int_equal(fx_op_resize_answer(&rig->export, 2, 0), -EPROTO);
    assert_int_equal(fx_op_resize_answer(&rig->export, 1, 0), 0);
    assert_int_equal(get_reply()->error, 0);
    assert_int_equal(fx_op_resize_answer(&rig->export, 1, 0), -EPROTO);
}

static void test_same_size_asks_nobody(void **state)
{
    send_size(SIZE);
    assert_int_equal(get_reply()->error, 0);
    assert_int_equal(attributes().size, SIZE);
}

static void test_export_with_the_permission_asks_nobody(void **state)
{
    send_size(777);
    assert_int_equal(get_reply()->error, 0);
    assert_int_equal(attributes().size, 777);
}

/* ---- fallocate, lseek ---- */

static int ask_fallocate(uint32_t mode, uint64_t offset, uint64_t length)
{
    struct fuse_fallocate_in in = { .mode = mode, .offset = offset, .length = length };

    return ask(FUSE_FALLOCATE, &in, sizeof(in))->error;
}

static void test_ranges_are_zeroed_and_punched(void **state)
{
    uint8_t bytes[8192], zeros[4096] = { 0 };

    memset(bytes, 7, sizeof(bytes));
    assert_int_equal(written(ask_write(0, bytes, sizeof(bytes))), sizeof(bytes));
    assert_int_equal(ask_fallocate(FALLOC_FL_ZERO_RANGE, 100, 1000), 0);
    assert_memory_equal(ask_read(100, 1000)->data, zeros, 1000);
    assert_int_equal(ask_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
    assert_memory_equal(ask_read(4096, 4096)->data, zeros, 4096);
    assert_memory_equal(ask_read(0, 100)->data, bytes, 100);
    assert_int_equal(ask_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE + 10, 10), 0);
    assert_int_equal(attributes().size, SIZE);
}

static void test_errors_fallocate_that_is_not_supported(void **state)
{
    assert_int_equal(ask_fallocate(FALLOC_FL_PUNCH_HOLE, 0, 512), -EOPNOTSUPP);
    assert_int_equal(ask_fallocate(FALLOC_FL_COLLAPSE_RANGE, 0, 512), -EOPNOTSUPP);
    assert_int_equal(ask_fallocate(FALLOC_FL_ZERO_RANGE, INT64_MAX, 2), -EINVAL);
    assert_int_equal(ask_fallocate(0, 0, 0), -EINVAL);
    assert_int_equal(ask_fallocate(0, UINT64_MAX, 1), -EINVAL);
}

static struct reply *ask_lseek(uint64_t offset, uint32_t whence)
{
    struct fuse_lseek_in in = { .offset = offset, .whence = whence };

    return ask(FUSE_LSEEK, &in, sizeof(in));
}

static uint64_t found(const struct reply *reply)
{
    struct fuse_lseek_out out;

    assert_int_equal(reply->error, 0);
    memcpy(&out, reply->data, sizeof(out));
    return out.offset;
}

static void test_data_and_holes_are_found(void **state)
{
    uint8_t bytes[65536] = { 1 };

    assert_int_equal(pwrite(rig->image_fd, bytes, sizeof(bytes), 262144), sizeof(bytes));
    assert_true(found(ask_lseek(0, SEEK_DATA)) == 262144);
    assert_true(found(ask_lseek(262144, SEEK_HOLE)) == 262144 + 65536);
    assert_true(found(ask_lseek(5, SEEK_HOLE)) == 5);
    assert_int_equal(ask_lseek(400000, SEEK_DATA)->error, -ENXIO);
    assert_int_equal(ask_lseek(SIZE, SEEK_HOLE)->error, -ENXIO);
    assert_int_equal(ask_lseek(0, SEEK_END)->error, -EINVAL);
}

static void test_flush_and_fsync_reach_the_image(void **state)
{
    struct fuse_fsync_in fsync_in = { 0 };
    struct fuse_flush_in reader = { .fh = 0 }, writer = { .fh = 1 };

    assert_int_equal(ask(FUSE_FSYNC, &fsync_in, sizeof(fsync_in))->error, 0);
    assert_int_equal(ask(FUSE_FLUSH, &reader, sizeof(reader))->error, 0);
    assert_true(atomic_load(&rig->page.ops[BLOCK_OP_FLUSH]) == 1);
    assert_int_equal(ask(FUSE_FLUSH, &writer, sizeof(writer))->error, 0);
    assert_true(atomic_load(&rig->page.ops[BLOCK_OP_FLUSH]) == 2);
}

#define WITH(setup, name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(setup_bare, test_init_is_agreed_and_reported),
        WITH(setup_bare, test_nothing_of_libfuse_answers_before_init),
        WITH(setup_writable, test_unknown_operations_are_not_supported),
        WITH(setup_writable, test_interrupts_are_not_supported),
        WITH(setup_writable, test_request_that_lies_about_its_length_is_dropped),
        WITH(setup_writable, test_data_is_written_and_read),
        WITH(setup_writable, test_reads_stop_at_the_end),
        WITH(setup_writable, test_reads_stop_at_the_end_of_a_file_that_is_being_cut),
        WITH(setup_writable, test_large_read_takes_the_way_through_the_pipe),
        WITH(setup_writable, test_large_writes_one_by_one_keep_their_data),
        WITH(setup_writable, test_errors_read_of_more_than_was_agreed),
        WITH(setup_writable, test_writes_stop_at_the_end),
        WITH(setup_writable, test_errors_write_whose_length_does_not_fit),
        WITH(setup_growable, test_growable_file_grows_to_the_byte),
        WITH(setup_read_only, test_read_only_export_takes_no_write),
        WITH(setup_writable, test_open_files_bypass_the_page_cache_and_are_counted),
        WITH(setup_read_only, test_read_only_export_is_not_opened_for_writing),
        WITH(setup_bare, test_emptying_comes_along_with_open),
        WITH(setup_bare, test_shared_mappings_are_asked_for_where_they_are_offered),
        WITH(setup_bare, test_shared_mappings_are_not_asked_for_where_they_are_not_offered),
        WITH(setup_growable, test_pages_of_a_mapping_do_not_make_a_growable_file_longer),
        WITH(setup_writable, test_file_that_cannot_grow_keeps_its_size_when_opened_to_be_emptied),
        WITH(setup_growable, test_growable_file_is_emptied_when_opened_so),
        WITH(setup_writable, test_attributes_are_those_of_a_regular_file),
        WITH(setup_writable, test_mode_is_kept_within_what_the_mount_holds),
        WITH(setup_writable, test_size_is_changed_when_the_monitor_permits),
        WITH(setup_writable, test_size_stays_when_the_monitor_refuses),
        WITH(setup_writable, test_errors_answer_to_what_was_not_asked),
        WITH(setup_writable, test_same_size_asks_nobody),
        WITH(setup_growable, test_export_with_the_permission_asks_nobody),
        WITH(setup_writable, test_ranges_are_zeroed_and_punched),
        WITH(setup_writable, test_errors_fallocate_that_is_not_supported),
        WITH(setup_writable, test_data_and_holes_are_found),
        WITH(setup_writable, test_flush_and_fsync_reach_the_image),
    };

    return RUN_VARIANTS("fuse worker", tests);
}
