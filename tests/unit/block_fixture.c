/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include "common/io/guard.h"

const struct variant variants[4] = {
    { "io_uring, memory", IO_ENGINE_URING, PLACE_MEMORY },
    { "io_uring, disk", IO_ENGINE_URING, PLACE_DISK },
    { "threads, memory", IO_ENGINE_THREADS, PLACE_MEMORY },
    { "threads, disk", IO_ENGINE_THREADS, PLACE_DISK },
};

const struct variant *variant = &variants[0];

static const char *place_directory(enum fixture_place place)
{
    return place == PLACE_MEMORY ? "/dev/shm" : ".";
}

bool fixture_place_exists(enum fixture_place place)
{
    struct statfs fs;

    if (statfs(place_directory(place), &fs) < 0) {
        print_message("[  REASON  ] %s: %s\n", place_directory(place), strerror(errno));
        return false;
    }
    if ((place == PLACE_MEMORY) != ((unsigned long)fs.f_type == TMPFS_MAGIC)) {
        print_message("[  REASON  ] %s is %sa tmpfs\n", place_directory(place), place == PLACE_MEMORY ? "not " : "");
        return false;
    }
    return true;
}

int fixture_temp_file(enum fixture_place place, uint64_t size_bytes, int flags)
{
    int fd = open(place_directory(place), O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);

    if (fd < 0 && errno == EOPNOTSUPP) { /* overlayfs before Linux 6.1 */
        char path[64];

        snprintf(path, sizeof(path), "%s/bulkhead-test-XXXXXX", place_directory(place));
        fd = mkostemp(path, O_CLOEXEC | flags);
        if (fd >= 0)
            unlink(path);
    }
    if (fd >= 0 && ftruncate(fd, (off_t)size_bytes) < 0)
        close_fd(&fd);
    return fd;
}

int fixture_loop_device(int backing_fd)
{
    struct loop_config config = { .fd = (uint32_t)backing_fd, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
    char path[32];
    int fd;

    close_fd(&control);
    if (number < 0)
        return -1;
    snprintf(path, sizeof(path), "/dev/loop%d", number);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) < 0)
        close_fd(&fd);
    return fd;
}

void fixture_init(struct block_fixture *f)
{
    *f = (struct block_fixture){ 0 };
    f->loop = io_loop_new(&f->err);
    assert_non_null(f->loop);
}

void fixture_done(struct block_fixture *f)
{
    block_tree_close(f->tree);
    io_engine_free(f->engine);
    io_loop_free(f->loop);
    for (unsigned i = 0; i < f->fd_count; i++)
        close_fd(&f->fds[i]);
}

int fixture_setup(void **state)
{
    struct block_fixture *f = calloc(1, sizeof(*f));

    fixture_init(f);
    *state = f;
    return 0;
}

int fixture_teardown(void **state)
{
    fixture_done(*state);
    free(*state);
    return 0;
}

int fixture_add_fd(struct block_fixture *f, int fd)
{
    assert_true(fd >= 0);
    f->fds[f->fd_count] = fd;
    return (int)f->fd_count++;
}

unsigned fixture_add_node(struct block_fixture *f, uint32_t driver, uint32_t flags, int fd_index, int child_index)
{
    struct ipc_node *spec = &f->specs[f->spec_count];

    *spec = (struct ipc_node){ .driver = driver, .flags = flags, .fd_index = fd_index, .child_index = child_index };
    snprintf(spec->name, sizeof(spec->name), "node%u", f->spec_count);
    return f->spec_count++;
}

int fixture_open(struct block_fixture *f)
{
    struct io_engine_config config = {
        .kind = variant->engine,
        .image_fds = f->fds,
        .image_fd_count = f->fd_count,
        .loops = &f->loop,
        .loop_count = 1,
    };

    assert_int_equal(io_guard_init(&f->err), 0); /* cmocka has handlers of its own for each test */
    if (f->engine == NULL) {
        assert_int_equal(io_engine_new(&config, &f->engine, &f->err), 0);
        f->queue = io_engine_queue(f->engine, 0);
    }
    int ret = block_tree_open(f->specs, f->spec_count, f->fds, f->fd_count, &f->tree, &f->err);
    if (ret == 0)
        f->root = block_tree_root(f->tree);
    return ret;
}

int fixture_open_file(struct block_fixture *f, uint64_t size_bytes, uint32_t node_flags)
{
    int flags = node_flags & IPC_NODE_CACHE_DIRECT && variant->place == PLACE_DISK ? O_DIRECT : 0;
    int fd = fixture_temp_file(variant->place, size_bytes, flags);

    if (fd < 0 && errno == EINVAL && flags != 0)
        SKIP("%s has no O_DIRECT", place_directory(variant->place));
    fixture_add_node(f, IPC_DRIVER_FILE, node_flags, fixture_add_fd(f, fd), -1);
    if (fixture_open(f) != 0)
        fail_msg("%s", f->err.text);
    return fd;
}

static void call_complete(struct block_request *req, int result)
{
    struct block_call *call = container_of(req, struct block_call, req);

    assert_false(call->done);
    call->done = true;
    call->result = result;
    io_loop_stop(call->loop);
}

int call_start(struct block_fixture *f, struct block_call *call)
{
    call->loop = f->loop;
    call->done = false;
    call->req.iov = call->iov;
    call->req.complete = call_complete;
    call->result = block_submit(f->root, f->queue, &call->req);
    call->done = call->result != BLOCK_PENDING;
    return call->result;
}

int call_wait(struct block_fixture *f, struct block_call *call)
{
    while (!call->done)
        io_loop_run(f->loop);
    return call->result;
}

int fixture_io(struct block_fixture *f, enum block_op op, unsigned flags, uint64_t offset, void *buf,
               uint64_t len_bytes)
{
    struct block_call call = { 0 };

    call.req.op = op;
    call.req.flags = flags;
    call.req.offset = offset;
    call.req.len_bytes = len_bytes;
    call.req.iov_count = buf != NULL ? 1 : 0;
    call.iov[0] = (struct iovec){ .iov_base = buf, .iov_len = buf != NULL ? len_bytes : 0 };
    call_start(f, &call);
    return call_wait(f, &call);
}

int fixture_status(struct block_fixture *f, uint64_t offset, uint64_t len_bytes, struct block_extent *extents,
                   unsigned max)
{
    struct block_call call = { 0 };
    int ret;

    call.req.op = BLOCK_OP_STATUS;
    call.req.offset = offset;
    call.req.len_bytes = len_bytes;
    call.req.extents = extents;
    call.req.extents_max = max;
    call_start(f, &call);
    ret = call_wait(f, &call);
    return ret < 0 ? ret : (int)call.req.extents_count;
}

void pattern_fill(uint8_t *buf, uint64_t offset, size_t len_bytes, uint8_t seed)
{
    for (size_t i = 0; i < len_bytes; i++) {
        uint64_t at = offset + i;

        buf[i] = (uint8_t)(seed + at + (at >> 8) * 7 + (at >> 16) * 13);
    }
}

static bool engine_exists(enum io_engine_kind kind)
{
    struct error err = { 0 };
    struct io_loop *loop = io_loop_new(&err);
    struct io_engine_config config = { .kind = kind, .loops = &loop, .loop_count = 1 };
    struct io_engine *engine = NULL;
    bool exists;

    assert_non_null(loop);
    exists = io_engine_new(&config, &engine, &err) == 0;
    if (!exists)
        print_message("[  REASON  ] %s\n", err.text);
    io_engine_free(engine);
    io_loop_free(loop);
    return exists;
}

int run_variants(const char *group, const struct CMUnitTest *tests, size_t count)
{
    int failures = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
        char name[128];

        variant = &variants[i];
        snprintf(name, sizeof(name), "%s: %s", group, variant->name);
        if (!engine_exists(variant->engine) || !fixture_place_exists(variant->place)) {
            print_message("[  SKIPPED ] %s\n", name);
            continue;
        }
        print_message("[ VARIANT  ] %s\n", name);
        failures += _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    }
    return failures;
}
