/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two NBD workers as real processes in their sandboxes, driven the way the monitor does: a negotiator takes a
 * client through the handshake, the export worker gets its socket, every command runs once. A system call that the
 * sandbox does not know kills a worker and fails the test. Once per engine, and on a file system in memory and on disk.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/cursor.h"
#include "common/net/nbd-protocol.h"
#include "common/sandbox/role.h"
#include "monitor/worker/worker-private.h"
#include "tests/unit/nbd_directory.h"

#define WAIT_MAX_S  20
#define IMAGE_BYTES (64u << 20)
#define LARGE_BYTES (4u << 20)

struct variant {
    const char *folder;
    enum ipc_engine engine;
};

struct fixture {
    struct variant variant;
    struct event_base *base;
    struct worker_set *set;
    struct worker_handle *negotiator;
    struct worker_handle *export;
    bool negotiator_ready, negotiator_gone, export_ready, export_gone;
    bool over;     /* the negotiator's word on the client */
    bool left;     /* the export's word on the client */
    struct ipc_status verdict;
    struct ipc_status farewell;
    struct worker_exit negotiator_exit, export_exit;
    int image_fd;
    int directory_fd;
    int client_fd; /* ours: the monitor's copy */
    pthread_t client;
    int peer_fd; /* the client's end */
};

/* ---- The monitor's side ---- */

static void on_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct fixture *f = opaque;

    if (worker == f->export)
        f->export_ready = true;
    else
        f->negotiator_ready = true;
}

static void on_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    fail_msg("a worker could not start: %s", err->text);
}

static int on_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct fixture *f = opaque;

    if (worker == f->export) {
        f->farewell = *status;
        f->left = true;
    } else {
        f->verdict = *status;
        f->over = true;
    }
    return 0;
}

static void on_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct fixture *f = opaque;

    if (worker == f->export) {
        f->export_exit = *why;
        f->export_gone = true;
    } else {
        f->negotiator_exit = *why;
        f->negotiator_gone = true;
    }
}

static const struct worker_ops ops = { on_ready, on_failed, on_status, on_gone };

static void on_tick(evutil_socket_t fd, short events, void *arg)
{
}

static void wait_for(struct fixture *f, const bool *what)
{
    uint64_t end = now_ns() + UINT64_C(1000000000) * WAIT_MAX_S;
    struct timeval tick = { .tv_usec = 50000 };
    struct event *timer = event_new(f->base, -1, EV_PERSIST, on_tick, NULL);

    event_add(timer, &tick);
    while (!*what && now_ns() < end) {
        event_base_loop(f->base, EVLOOP_ONCE);
        if (f->export_gone && what != &f->export_gone)
            fail_msg("the export worker is gone: %s", f->export_exit.text);
    }
    event_free(timer);
    assert_true(*what);
}

static int make_directory(void)
{
    static const struct test_export export = {
        "disk", "a disk", { .serial = 5, .size_bytes = IMAGE_BYTES, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION,
                            .flags = NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_FAST_ZERO }
    };
    struct nbd_directory *directory = test_directory_new(&export, 1);
    int fd = memfd_create("directory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_int_equal(write(fd, directory, directory->len_bytes), directory->len_bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
    free(directory);
    return fd;
}

static void spawn_export(struct fixture *f)
{
    static struct ipc_boot boot;
    struct error err = { 0 };

    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_EXPORT;
    boot.engine = f->variant.engine;
    boot.io_threads = 2;
    boot.node_count = 1;
    boot.image_fd_count = 1;
    boot.export_flags = IPC_EXPORT_WRITABLE;
    boot.nodes[0] = (struct ipc_node){ .driver = IPC_DRIVER_FILE, .flags = IPC_NODE_DISCARD_UNMAP, .fd_index = 0,
                                       .child_index = -1, .name = "image" };
    snprintf(boot.export_id, sizeof(boot.export_id), "exp");
    if (worker_spawn(f->set, &boot, &f->image_fd, &ops, f, &f->export, &err) < 0)
        fail_msg("%s", err.text);
    wait_for(f, &f->export_ready);
}

static void spawn_negotiator(struct fixture *f)
{
    static struct ipc_boot boot;
    struct error err = { 0 };

    memset(&boot, 0, sizeof(boot));
    boot.role = IPC_ROLE_NBD_NEGOTIATOR;
    if (worker_spawn(f->set, &boot, NULL, &ops, f, &f->negotiator, &err) < 0)
        fail_msg("%s", err.text);
    wait_for(f, &f->negotiator_ready);
}

/* ---- The client's side, in a thread of its own ---- */

static void send_all(int fd, const void *data, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        ssize_t n = send(fd, (const char *)data + done, len_bytes - done, MSG_NOSIGNAL);

        assert_true(n > 0);
        done += (size_t)n;
    }
}

static void recv_all(int fd, void *data, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        ssize_t n = recv(fd, (char *)data + done, len_bytes - done, 0);

        assert_true(n > 0);
        done += (size_t)n;
    }
}

static void send_option(int fd, uint32_t option, const void *data, size_t len_bytes)
{
    struct nbd_option_header header = { htobe64(NBD_NEW_VERSION), htobe32(option), htobe32((uint32_t)len_bytes) };

    send_all(fd, &header, sizeof(header));
    send_all(fd, data, len_bytes);
}

static uint32_t recv_option_reply(int fd)
{
    struct nbd_option_reply reply;
    char data[8192];

    recv_all(fd, &reply, sizeof(reply));
    recv_all(fd, data, be32toh(reply.len_bytes));
    return be32toh(reply.type);
}

static void handshake(int fd)
{
    static const char go[] = "\0\0\0\4disk\0\2\0\1\0\3";
    static const char meta[] = "\0\0\0\4disk\0\0\0\1\0\0\0\17base:allocation";
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES), type;

    send_all(fd, &flags, sizeof(flags));
    send_option(fd, NBD_OPT_LIST, "", 0);
    assert_int_equal(recv_option_reply(fd), NBD_REP_SERVER);
    assert_int_equal(recv_option_reply(fd), NBD_REP_ACK);
    send_option(fd, NBD_OPT_STRUCTURED_REPLY, "", 0);
    assert_int_equal(recv_option_reply(fd), NBD_REP_ACK);
    send_option(fd, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
    assert_int_equal(recv_option_reply(fd), NBD_REP_META_CONTEXT);
    assert_int_equal(recv_option_reply(fd), NBD_REP_ACK);
    send_option(fd, NBD_OPT_GO, go, sizeof(go) - 1);
    while ((type = recv_option_reply(fd)) == NBD_REP_INFO)
        ;
    assert_int_equal(type, NBD_REP_ACK);
}

static void send_request(int fd, uint16_t type, uint16_t flags, uint64_t offset, uint32_t len_bytes)
{
    struct nbd_request_header header = { htobe32(NBD_REQUEST_MAGIC), htobe16(flags), htobe16(type), 0, htobe64(offset),
                                         htobe32(len_bytes) };

    send_all(fd, &header, sizeof(header));
}

static void expect_success(int fd)
{
    struct nbd_simple_reply reply;

    recv_all(fd, &reply, sizeof(reply));
    assert_int_equal(be32toh(reply.magic), NBD_SIMPLE_REPLY_MAGIC);
    assert_int_equal(be32toh(reply.error), 0);
}

/* All chunks of one reply; data land in data if they are that many. */
static uint16_t expect_chunks(int fd, void *data, size_t len_bytes)
{
    uint16_t first = UINT16_MAX;
    struct nbd_chunk chunk;

    do {
        size_t left;

        recv_all(fd, &chunk, sizeof(chunk));
        assert_int_equal(be32toh(chunk.magic), NBD_STRUCTURED_REPLY_MAGIC);
        left = be32toh(chunk.len_bytes);
        if (first == UINT16_MAX)
            first = be16toh(chunk.type);
        if (be16toh(chunk.type) == NBD_REPLY_TYPE_OFFSET_DATA) {
            uint64_t offset;

            recv_all(fd, &offset, sizeof(offset));
            assert_int_equal(left - sizeof(offset), len_bytes);
            recv_all(fd, data, len_bytes);
        } else {
            char skipped[4096];

            assert_true(left <= sizeof(skipped));
            recv_all(fd, skipped, left);
        }
    } while ((be16toh(chunk.flags) & NBD_REPLY_FLAG_DONE) == 0);
    return first;
}

static void write_and_read(int fd, uint64_t offset, uint32_t len_bytes, uint16_t flags)
{
    uint8_t *wrote = malloc(len_bytes), *got = calloc(1, len_bytes);

    for (uint32_t i = 0; i < len_bytes; i++)
        wrote[i] = (uint8_t)(i * 7 + (i >> 9) + offset);
    send_request(fd, NBD_CMD_WRITE, flags, offset, len_bytes);
    send_all(fd, wrote, len_bytes);
    expect_success(fd);
    send_request(fd, NBD_CMD_READ, 0, offset, len_bytes);
    assert_int_equal(expect_chunks(fd, got, len_bytes), NBD_REPLY_TYPE_OFFSET_DATA);
    assert_memory_equal(got, wrote, len_bytes);
    free(wrote);
    free(got);
}

static void *client(void *arg)
{
    static const struct {
        uint16_t type;
        uint16_t flags;
        uint32_t len_bytes;
    } others[] = {
        { NBD_CMD_FLUSH, 0, 0 },
        { NBD_CMD_TRIM, 0, 1 << 20 },
        { NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 1000 },
        { NBD_CMD_CACHE, 0, 1 << 20 },
        { NBD_CMD_WRITE_ZEROES, 0, 1 << 20 },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 1 << 20 },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 1 << 20 },
        { NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, 4096 },
    };
    int fd = *(int *)arg;
    uint8_t zeroes[4096], got[4096];

    handshake(fd);
    write_and_read(fd, 4096, 4096, 0);
    write_and_read(fd, 12345, 777, NBD_CMD_FLAG_FUA);
    write_and_read(fd, 8 << 20, LARGE_BYTES, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        send_request(fd, others[i].type, others[i].flags, 0, others[i].len_bytes);
        expect_success(fd);
    }
    memset(zeroes, 0, sizeof(zeroes));
    send_request(fd, NBD_CMD_READ, 0, 4096, sizeof(got));
    expect_chunks(fd, got, sizeof(got));
    assert_memory_equal(got, zeroes, sizeof(got));
    send_request(fd, NBD_CMD_BLOCK_STATUS, 0, 0, IMAGE_BYTES);
    assert_int_equal(expect_chunks(fd, NULL, 0), NBD_REPLY_TYPE_BLOCK_STATUS);
    send_request(fd, NBD_CMD_READ, 0, IMAGE_BYTES, 1);
    assert_int_equal(expect_chunks(fd, NULL, 0), NBD_REPLY_TYPE_ERROR);
    send_request(fd, NBD_CMD_DISC, 0, 0, 0);
    assert_int_equal(recv(fd, got, 1, 0), 0);
    return NULL;
}

/* ---- Tests ---- */

static const struct sandbox_role *roles[3];

static int set_up(void **state)
{
    struct fixture *f = *state;
    struct variant variant = f->variant;
    char path[64], dir[512];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    struct error err;

    memset(f, 0, sizeof(*f));
    f->variant = variant;
    if (n < 0)
        return -1;
    dir[n] = '\0';
    /* The workers lie at the top of the build tree, two folders up. */
    for (unsigned i = 0; i < 3; i++)
        *strrchr(dir, '/') = '\0';
    snprintf(path, sizeof(path), "%s/nbd-workers.XXXXXX", variant.folder);
    f->image_fd = mkostemp(path, O_CLOEXEC);
    if (f->image_fd < 0 || unlink(path) < 0 || ftruncate(f->image_fd, IMAGE_BYTES) < 0)
        return -1;
    roles[0] = sandbox_role_find(IPC_ROLE_NBD_NEGOTIATOR);
    roles[1] = sandbox_role_find(IPC_ROLE_NBD_EXPORT);
    f->base = event_base_new();
    if (worker_set_new_from(f->base, roles, dir, &f->set, &err) < 0) {
        print_message("%s\n", err.text);
        return -1;
    }
    f->directory_fd = make_directory();
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    worker_set_free(f->set);
    event_base_free(f->base);
    close_fd(&f->image_fd);
    close_fd(&f->directory_fd);
    return 0;
}

static void connect_client(struct fixture *f)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    f->client_fd = pair[0];
    f->peer_fd = pair[1];
}

static void negotiate(struct fixture *f, uint32_t max_ms)
{
    struct ipc_negotiate message = { .client_id = 77, .handshake_max_ms = max_ms };
    int fds[] = { f->client_fd, f->directory_fd };

    assert_int_equal(worker_send(f->negotiator, IPC_NEGOTIATE, &message, sizeof(message), fds, 2), 0);
}

static void assert_negotiator_exited(struct fixture *f)
{
    wait_for(f, &f->negotiator_gone);
    assert_int_equal(f->negotiator_exit.signal, 0);
    assert_int_equal(f->negotiator_exit.exit_status, 0);
}

static void test_from_handshake_to_disconnect(void **state)
{
    struct fixture *f = *state;
    struct ipc_client message = { 0 };

    spawn_export(f);
    spawn_negotiator(f);
    connect_client(f);
    assert_int_equal(pthread_create(&f->client, NULL, client, &f->peer_fd), 0);
    negotiate(f, 10000);
    wait_for(f, &f->over);
    assert_int_equal(f->verdict.type, IPC_STATUS_NEGOTIATED);
    assert_int_equal(f->verdict.negotiated.client_id, 77);
    assert_int_equal(f->verdict.negotiated.export_serial, 5);
    assert_int_equal(f->verdict.negotiated.contexts, IPC_NBD_CONTEXT_BASE_ALLOCATION);
    message.negotiated = f->verdict.negotiated;
    assert_int_equal(worker_send(f->export, IPC_CLIENT, &message, sizeof(message), &f->client_fd, 1), 0);
    close_fd(&f->client_fd);
    assert_negotiator_exited(f);
    wait_for(f, &f->left);
    assert_int_equal(f->farewell.type, IPC_STATUS_CLIENT_GONE);
    if (f->farewell.client_gone.error != 0)
        fail_msg("%s", f->farewell.client_gone.text);
    assert_int_equal(pthread_join(f->client, NULL), 0);
    close_fd(&f->peer_fd);
    assert_int_equal(worker_get_page(f->export)->fds_clients, 0);
    worker_drain(f->export, 5000);
    wait_for(f, &f->export_gone);
    assert_true(f->export_exit.expected);
    assert_int_equal(f->export_exit.exit_status, 0);
}

static void test_errors_client_that_says_nothing(void **state)
{
    struct fixture *f = *state;

    spawn_negotiator(f);
    connect_client(f);
    negotiate(f, 100);
    wait_for(f, &f->over);
    assert_int_equal(f->verdict.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(f->verdict.client_gone.error, 1);
    assert_non_null(strstr(f->verdict.client_gone.text, "in time"));
    assert_negotiator_exited(f);
    close_fd(&f->client_fd);
    close_fd(&f->peer_fd);
}

static void test_errors_client_that_leaves(void **state)
{
    struct fixture *f = *state;

    spawn_negotiator(f);
    connect_client(f);
    negotiate(f, 0);
    close_fd(&f->peer_fd);
    close_fd(&f->client_fd);
    wait_for(f, &f->over);
    assert_int_equal(f->verdict.type, IPC_STATUS_CLIENT_GONE);
    assert_int_equal(f->verdict.client_gone.error, 1);
    assert_negotiator_exited(f);
}

static void test_drain_with_a_client(void **state)
{
    struct fixture *f = *state;
    struct ipc_client message = { .negotiated = { .client_id = 1, .export_serial = 5 } };
    char byte;

    spawn_export(f);
    connect_client(f);
    assert_int_equal(worker_send(f->export, IPC_CLIENT, &message, sizeof(message), &f->client_fd, 1), 0);
    send_request(f->peer_fd, NBD_CMD_FLUSH, 0, 0, 0);
    expect_success(f->peer_fd);
    worker_drain(f->export, 5000);
    wait_for(f, &f->export_gone);
    assert_int_equal(f->export_exit.exit_status, 0);
    assert_int_equal(f->farewell.client_gone.error, 0);
    close_fd(&f->client_fd);
    assert_int_equal(recv(f->peer_fd, &byte, 1, 0), 0);
    close_fd(&f->peer_fd);
}

static void test_errors_blocking_socket_is_a_protocol_error(void **state)
{
    struct fixture *f = *state;
    struct ipc_client message = { .negotiated = { .client_id = 1, .export_serial = 5 } };

    spawn_export(f);
    connect_client(f);
    assert_int_equal(fcntl(f->client_fd, F_SETFL, 0), 0);
    assert_int_equal(worker_send(f->export, IPC_CLIENT, &message, sizeof(message), &f->client_fd, 1), 0);
    wait_for(f, &f->export_gone);
    assert_false(f->export_exit.expected);
    close_fd(&f->client_fd);
    close_fd(&f->peer_fd);
}

int main(void)
{
    static const struct variant variants[] = {
        { "/dev/shm", IPC_ENGINE_AUTO },
        { "/dev/shm", IPC_ENGINE_THREADS },
        { "/var/tmp", IPC_ENGINE_AUTO },
        { "/var/tmp", IPC_ENGINE_THREADS },
    };
    static struct fixture fixture;
    int failed = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, set_up, tear_down, &fixture)
        const struct CMUnitTest tests[] = {
            TEST(test_from_handshake_to_disconnect),
            TEST(test_errors_client_that_says_nothing),
            TEST(test_errors_client_that_leaves),
            TEST(test_drain_with_a_client),
            TEST(test_errors_blocking_socket_is_a_protocol_error),
        };

        fixture.variant = variants[i];
        print_message("[ VARIANT  ] %s, engine %d\n", variants[i].folder, (int)variants[i].engine);
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
