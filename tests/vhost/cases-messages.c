/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages out of order, cut, too long, with too few or too many descriptors. Source: vhost-user.rst. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/test.h"

/* Every request that the specification gives to a device like ours: payload and descriptors it must have. */
static const struct shape {
    uint32_t request;
    const char *name;
    uint32_t size_min, size_max;
    unsigned fds_min, fds_max;
    bool owned;    /* needs SET_OWNER */
    bool features; /* needs SET_FEATURES */
    uint64_t protocol_feature;
} shapes[] = {
    { R_GET_FEATURES, "GET_FEATURES", 0, 8, 0, 0, false, false, 0 },
    { R_SET_FEATURES, "SET_FEATURES", 8, 8, 0, 0, true, false, 0 },
    { R_SET_OWNER, "SET_OWNER", 0, 8, 0, 0, false, false, 0 },
    { R_RESET_OWNER, "RESET_OWNER", 0, 8, 0, 0, false, false, 0 },
    { R_SET_MEM_TABLE, "SET_MEM_TABLE", 8, 264, 0, 8, true, false, 0 },
    { R_SET_LOG_BASE, "SET_LOG_BASE", 16, 16, 1, 1, true, false, FE_P_LOG_SHMFD },
    { R_SET_LOG_FD, "SET_LOG_FD", 0, 8, 1, 1, true, false, 0 },
    { R_SET_VRING_NUM, "SET_VRING_NUM", 8, 8, 0, 0, true, false, 0 },
    { R_SET_VRING_ADDR, "SET_VRING_ADDR", 40, 40, 0, 0, true, false, 0 },
    { R_SET_VRING_BASE, "SET_VRING_BASE", 8, 8, 0, 0, true, false, 0 },
    { R_GET_VRING_BASE, "GET_VRING_BASE", 8, 8, 0, 0, true, false, 0 },
    { R_SET_VRING_KICK, "SET_VRING_KICK", 8, 8, 0, 1, true, true, 0 },
    { R_SET_VRING_CALL, "SET_VRING_CALL", 8, 8, 0, 1, true, false, 0 },
    { R_SET_VRING_ERR, "SET_VRING_ERR", 8, 8, 0, 1, true, false, 0 },
    { R_GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", 0, 8, 0, 0, false, false, 0 },
    { R_SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", 8, 8, 0, 0, false, false, 0 },
    { R_GET_QUEUE_NUM, "GET_QUEUE_NUM", 0, 8, 0, 0, false, false, FE_P_MQ },
    { R_SET_VRING_ENABLE, "SET_VRING_ENABLE", 8, 8, 0, 0, true, false, 0 },
    { R_SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", 0, 8, 1, 1, false, false, FE_P_BACKEND_REQ },
    { R_GET_CONFIG, "GET_CONFIG", 12, 268, 0, 0, false, false, FE_P_CONFIG },
    { R_SET_CONFIG, "SET_CONFIG", 12, 268, 0, 0, true, false, FE_P_CONFIG },
    { R_GET_INFLIGHT_FD, "GET_INFLIGHT_FD", 20, 24, 0, 0, true, false, FE_P_INFLIGHT },
    { R_SET_INFLIGHT_FD, "SET_INFLIGHT_FD", 20, 24, 1, 1, true, false, FE_P_INFLIGHT },
    { R_RESET_DEVICE, "RESET_DEVICE", 0, 8, 0, 0, true, false, FE_P_RESET_DEVICE },
    { R_GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", 0, 8, 0, 0, false, false, FE_P_MEM_SLOTS },
    { R_ADD_MEM_REG, "ADD_MEM_REG", 40, 40, 1, 1, true, false, FE_P_MEM_SLOTS },
    { R_REM_MEM_REG, "REM_MEM_REG", 40, 40, 0, 1, true, false, FE_P_MEM_SLOTS },
    { R_SET_STATUS, "SET_STATUS", 8, 8, 0, 0, true, false, FE_P_STATUS },
    { R_GET_STATUS, "GET_STATUS", 0, 8, 0, 0, true, false, FE_P_STATUS },
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* A session in which everything has been negotiated and a queue runs. */
static bool start_full(struct test *test, struct fe *fe)
{
    CHECK(fe_start(fe, test->path, USUAL, 1, 16), "%s", fe->error);
    return true;
}

static bool sizes(struct test *test, bool too_long)
{
    uint8_t bytes[600] = { 0 };
    int fds[1] = { eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };

    for (unsigned i = 0; i < SHAPES; i++) {
        struct fe fe = { 0 };
        uint32_t size = too_long ? shapes[i].size_max + 1 : shapes[i].size_min - 1;

        if (!too_long && shapes[i].size_min == 0)
            continue;
        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send(&fe, shapes[i].request, 0, bytes, size, fds, shapes[i].fds_min), "%s: %s", shapes[i].name,
              fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "%s of %u bytes", shapes[i].name, size);
    }
    close(fds[0]);
    return true;
}

static bool payloads_too_short(struct test *test)
{
    return sizes(test, false);
}

static bool payloads_too_long(struct test *test)
{
    return sizes(test, true);
}

static bool sizes_beyond_all_bounds(struct test *test)
{
    static const uint32_t huge[] = { 4096, 65536, 0x7fffffff, 0x80000000u, 0xffffffffu };

    for (unsigned i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        struct fe fe = { 0 };

        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send_raw(&fe, R_SET_MEM_TABLE, MSG_VERSION_1, huge[i], "", 1, NULL, 0), "%s", fe.error);
        if (!test_ended(test, &fe))
            return false;
    }
    return true;
}

static bool descriptors(struct test *test, bool too_many)
{
    uint8_t bytes[600] = { 0 };
    int fds[9];

    for (unsigned i = 0; i < 9; i++)
        fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (unsigned i = 0; i < SHAPES; i++) {
        struct fe fe = { 0 };
        unsigned count = too_many ? shapes[i].fds_max + 1 : shapes[i].fds_min - 1;

        if (!too_many && shapes[i].fds_min == 0)
            continue;
        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send(&fe, shapes[i].request, 0, bytes, shapes[i].size_max, fds, count), "%s: %s", shapes[i].name,
              fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "%s with %u descriptors", shapes[i].name, count);
    }
    for (unsigned i = 0; i < 9; i++)
        close(fds[i]);
    return true;
}

static bool descriptors_too_few(struct test *test)
{
    return descriptors(test, false);
}

static bool descriptors_too_many(struct test *test)
{
    return descriptors(test, true);
}

/* As many as the kernel lets through, on messages that take none or some. */
static bool descriptors_by_the_hundred(struct test *test)
{
    int fds[253];

    for (unsigned i = 0; i < 253; i++)
        fds[i] = STDERR_FILENO;
    for (unsigned round = 0; round < 20; round++) {
        struct fe fe = { 0 };

        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send(&fe, round % 2 ? R_GET_FEATURES : R_SET_MEM_TABLE, 0, NULL, 0, fds, 253), "%s", fe.error);
        if (!test_ended(test, &fe))
            return false;
    }
    return true;
}

/* Descriptors may come with any byte of a message; they count all the same. */
static bool descriptors_with_every_byte(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t message[12 + 8] = { 0 };
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint32_t header[3] = { R_SET_VRING_CALL, MSG_VERSION_1, 8 };

    if (!start_full(test, &fe))
        return false;
    memcpy(message, header, sizeof(header));
    for (unsigned i = 0; i < sizeof(message); i++) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
        struct iovec iov = { message + i, 1 };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };

        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        if (sendmsg(fe.sock, &msg, MSG_NOSIGNAL) < 0)
            break;
    }
    close(fd);
    return test_ended(test, &fe);
}

static bool unknown_requests(struct test *test)
{
    /* Those the specification has and this device has not, and those that nobody has. */
    static const uint32_t unknown[] = { 0,  19, 20, 22, 23, 26, 27,  28,  29,  30,    33,         35,
                                        41, 42, 43, 44, 45, 64, 255, 256, 257, 0x101, 0x7fffffff, 0xffffffff };
    uint8_t bytes[64] = { 0 };

    for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        struct fe fe = { 0 };

        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send(&fe, unknown[i], i % 2 ? MSG_NEED_REPLY : 0, bytes, 8, NULL, 0), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "request %u", unknown[i]);
    }
    return true;
}

static bool wrong_flags(struct test *test)
{
    static const uint32_t wrong[] = { 0, 2, 3, MSG_VERSION_1 | MSG_IS_REPLY, MSG_VERSION_1 | 16, 0xffffffff };

    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct fe fe = { 0 };

        CHECK(fe_connect(&fe, test->path), "%s", fe.error);
        CHECK(fe_send_raw(&fe, R_GET_FEATURES, wrong[i], 0, NULL, 0, NULL, 0), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "flags 0x%x", wrong[i]);
    }
    return true;
}

/* Each request before what it needs. */
static bool before_its_time(struct test *test)
{
    uint8_t bytes[600] = { 0 };
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    for (unsigned i = 0; i < SHAPES; i++) {
        for (unsigned step = 0; step < 3; step++) {
            struct fe fe = { 0 };
            bool wrong = (step == 0 && shapes[i].owned) || (step == 1 && shapes[i].features) ||
                         (step == 2 && shapes[i].protocol_feature != 0);

            if (!wrong)
                continue;
            CHECK(fe_connect(&fe, test->path), "%s", fe.error);
            if (step != 2)
                CHECK(fe_set_u64(&fe, R_SET_PROTOCOL_FEATURES, shapes[i].protocol_feature), "%s", fe.error);
            if (step != 0)
                CHECK(fe_send(&fe, R_SET_OWNER, 0, NULL, 0, NULL, 0), "%s", fe.error);
            if (step == 2)
                CHECK(fe_set_u64(&fe, R_SET_FEATURES, FE_F_VERSION_1 | FE_F_PROTOCOL), "%s", fe.error);
            CHECK(fe_send(&fe, shapes[i].request, 0, bytes, shapes[i].size_min, &fd, shapes[i].fds_min), "%s: %s",
                  shapes[i].name, fe.error);
            if (!test_ended(test, &fe))
                return test_failed(test, __LINE__, "%s at step %u", shapes[i].name, step);
        }
    }
    close(fd);
    return true;
}

static bool features_not_on_offer(struct test *test)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        struct fe fe = { 0 };
        uint64_t offered;

        CHECK(fe_connect(&fe, test->path) && fe_get_u64(&fe, R_GET_FEATURES, &offered), "%s", fe.error);
        CHECK(fe_send(&fe, R_SET_OWNER, 0, NULL, 0, NULL, 0), "%s", fe.error);
        CHECK(offered & FE_F_PROTOCOL && offered & FE_F_VERSION_1, "offered 0x%llx", (unsigned long long)offered);
        if (offered & BIT64(bit)) {
            fe_close(&fe);
            continue;
        }
        CHECK(fe_set_u64(&fe, R_SET_FEATURES, BIT64(bit)), "%s", fe.error);
        CHECK(fe_is_closed(&fe), "feature %u: %s", bit, fe.error);
        fe_close(&fe);
    }
    for (unsigned bit = 0; bit < 64; bit++) {
        struct fe fe = { 0 };
        uint64_t offered;

        CHECK(fe_connect(&fe, test->path) && fe_get_u64(&fe, R_GET_PROTOCOL_FEATURES, &offered), "%s", fe.error);
        if (!(offered & BIT64(bit))) {
            CHECK(fe_set_u64(&fe, R_SET_PROTOCOL_FEATURES, BIT64(bit)), "%s", fe.error);
            CHECK(fe_is_closed(&fe), "protocol feature %u: %s", bit, fe.error);
        }
        fe_close(&fe);
    }
    return test_healthy(test);
}

/* A message that comes byte by byte is a message. */
static bool byte_by_byte(struct test *test)
{
    struct fe fe = { 0 };
    uint32_t header[3] = { R_GET_CONFIG, MSG_VERSION_1, 12 + 60 };
    uint8_t message[12 + 12 + 60] = { 0 }, reply[12 + 60];
    uint32_t access[3] = { 0, 60, 0 };

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    memcpy(message, header, sizeof(header));
    memcpy(message + 12, access, sizeof(access));
    for (unsigned i = 0; i < sizeof(message); i++)
        CHECK(send(fe.sock, message + i, 1, MSG_NOSIGNAL) == 1, "byte %u", i);
    CHECK(fe_receive(&fe, R_GET_CONFIG, reply, sizeof(reply), NULL), "%s", fe.error);
    fe_close(&fe);
    return true;
}

/* Many messages in one packet are many messages. */
static bool many_at_once(struct test *test)
{
    struct fe fe = { 0 };
    uint32_t headers[100][3];
    uint64_t features, first = 0;

    CHECK(fe_connect(&fe, test->path), "%s", fe.error);
    for (unsigned i = 0; i < 100; i++)
        memcpy(headers[i], (uint32_t[3]){ R_GET_FEATURES, MSG_VERSION_1, 0 }, 12);
    CHECK(send(fe.sock, headers, sizeof(headers), MSG_NOSIGNAL) == sizeof(headers), "send");
    for (unsigned i = 0; i < 100; i++) {
        CHECK(fe_receive(&fe, R_GET_FEATURES, &features, 8, NULL), "reply %u: %s", i, fe.error);
        CHECK(i == 0 || features == first, "reply %u differs", i);
        first = features;
    }
    fe_close(&fe);
    return true;
}

static bool leave_within_a_message(struct test *test)
{
    uint32_t header[3] = { R_SET_FEATURES, MSG_VERSION_1, 8 };

    for (unsigned cut = 1; cut < 20; cut++) {
        struct fe fe = { 0 };
        uint8_t message[20] = { 0 };

        memcpy(message, header, sizeof(header));
        CHECK(fe_connect(&fe, test->path), "%s", fe.error);
        CHECK(send(fe.sock, message, cut, MSG_NOSIGNAL) == (ssize_t)cut, "send");
        fe_close(&fe);
    }
    return test_healthy(test);
}

/* A front-end that does not read replies cannot make the back-end wait or grow. */
static bool replies_that_nobody_reads(struct test *test)
{
    struct fe fe = { 0 };
    struct timespec pause = { .tv_nsec = 200000000 };
    uint32_t header[3] = { R_GET_FEATURES, MSG_VERSION_1, 0 };
    ssize_t n = 1;

    CHECK(fe_connect(&fe, test->path), "%s", fe.error);
    for (unsigned i = 0; i < 1000000 && n > 0; i++)
        n = send(fe.sock, header, sizeof(header), MSG_NOSIGNAL | MSG_DONTWAIT);
    nanosleep(&pause, NULL);
    for (unsigned i = 0; i < 1000000 && errno == EAGAIN; i++) {
        n = send(fe.sock, header, sizeof(header), MSG_NOSIGNAL);
        if (n < 0)
            break;
    }
    fe_close(&fe);
    return test_healthy(test);
}

/* Success and failure are told when that is asked for. */
static bool acknowledgements(struct test *test)
{
    struct fe fe = { 0 };
    uint32_t state[2] = { 0, 16 };
    uint64_t region[5] = { 0, 0, 0, 0, 0 };

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    CHECK(fe_acked(&fe, R_SET_VRING_NUM, state, 8, NULL, 0) == 0, "SET_VRING_NUM: %s", fe.error);
    /* A region that does not exist: refused, and life goes on. */
    CHECK(fe_acked(&fe, R_REM_MEM_REG, region, 40, NULL, 0) == 1, "REM_MEM_REG of nothing: %s", fe.error);
    CHECK(fe_acked(&fe, R_SET_VRING_NUM, state, 8, NULL, 0) == 0, "SET_VRING_NUM: %s", fe.error);
    /* A queue of no size: told, and the end. */
    state[1] = 0;
    CHECK(fe_acked(&fe, R_SET_VRING_NUM, state, 8, NULL, 0) == 1, "SET_VRING_NUM of 0: %s", fe.error);
    return test_ended(test, &fe);
}

/* Values that fit their layout and nothing else. */
static bool values_out_of_range(struct test *test)
{
    static const struct {
        uint32_t request;
        uint32_t index, num;
    } cases[] = {
        { R_SET_VRING_NUM, 0, 0 },           { R_SET_VRING_NUM, 0, 1025 },        { R_SET_VRING_NUM, 0, 0xffffffff },
        { R_SET_VRING_NUM, 256, 16 },        { R_SET_VRING_NUM, 0xffffffff, 16 }, { R_SET_VRING_BASE, 256, 0 },
        { R_GET_VRING_BASE, 0x80000000, 0 }, { R_SET_VRING_ENABLE, 0, 2 },        { R_SET_VRING_ENABLE, 300, 1 },
        { R_SET_VRING_CALL, 255, 0 },        { R_SET_VRING_CALL, 0x200, 0 },      { R_SET_VRING_CALL, 0, 1 },
        { R_SET_STATUS, 0x100, 0 },
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };

        if (!start_full(test, &fe))
            return false;
        CHECK(fe_set_state(&fe, cases[i].request, cases[i].index, cases[i].num), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    return true;
}

/* Descriptors that are not what the message is about. */
static bool descriptors_of_the_wrong_kind(struct test *test)
{
    int file = memfd_create("file", MFD_CLOEXEC), pipes[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const struct {
        uint32_t request;
        int fd;
        uint32_t size;
        uint64_t payload[5];
    } cases[] = {
        { R_SET_VRING_KICK, file, 8, { 0 } },
        { R_SET_VRING_KICK, null, 8, { 0 } },
        { R_SET_VRING_CALL, file, 8, { 0 } },
        { R_SET_VRING_CALL, null, 8, { 0 } },
        { R_SET_VRING_ERR, file, 8, { 0 } },
        { R_SET_LOG_FD, file, 0, { 0 } },
        { R_SET_BACKEND_REQ_FD, file, 0, { 0 } },
        { R_SET_LOG_BASE, null, 16, { 4096, 0 } },
        { R_SET_LOG_BASE, file, 16, { 4096, 0 } }, /* an empty file */
        { R_SET_LOG_BASE, file, 16, { 0, 0 } },
        { R_SET_LOG_BASE, file, 16, { ~0ull, 1 } },
        { R_SET_INFLIGHT_FD, file, 20, { 4096, 0, 1 | 16 << 16 } },
        { R_SET_INFLIGHT_FD, null, 20, { 4096, 0, 1 | 16 << 16 } },
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };

        if (!start_full(test, &fe))
            return false;
        CHECK(fe_send(&fe, cases[i].request, 0, cases[i].payload, cases[i].size, &cases[i].fd, 1), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    /* A pipe that blocks is no descriptor to signal with; one that does not is. */
    for (unsigned nonblock = 0; nonblock < 2; nonblock++) {
        struct fe fe = { 0 };

        CHECK(pipe2(pipes, O_CLOEXEC | (nonblock ? O_NONBLOCK : 0)) == 0, "pipe2");
        if (!start_full(test, &fe))
            return false;
        CHECK(fe_set_vring_fd(&fe, R_SET_VRING_CALL, 0, pipes[1]), "%s", fe.error);
        if (nonblock) {
            uint8_t *scratch = FE_DATA(&fe, 1);
            int call_fd = fe.queues[0].call_fd;

            fe.queues[0].call_fd = pipes[0];
            CHECK(fe_acked(&fe, R_SET_VRING_ENABLE, (uint32_t[2]){ 0, 1 }, 8, NULL, 0) == 0, "%s", fe.error);
            CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "by a pipe: %s", fe.error);
            fe.queues[0].call_fd = call_fd;
            fe_close(&fe);
        } else if (!test_ended(test, &fe)) {
            return false;
        }
        close(pipes[0]);
        close(pipes[1]);
    }
    close(file);
    close(null);
    return true;
}

/* A pipe works for kicks, too; its end is no kick and no reason to spin. */
static bool kicks_through_a_pipe(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_queue *q = &fe.queues[0];
    int pipes[2], kick_fd;
    uint32_t base;
    uint8_t *scratch;

    CHECK(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0, "pipe2");
    if (!start_full(test, &fe))
        return false;
    CHECK(fe_get_base(&fe, 0, &base) && fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, pipes[0]), "%s", fe.error);
    kick_fd = q->kick_fd;
    q->kick_fd = pipes[1];
    scratch = FE_DATA(&fe, 1);
    for (unsigned i = 0; i < 100; i++)
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
    q->kick_fd = kick_fd;
    close(pipes[0]);
    close(pipes[1]);
    CHECK(fe_get_base(&fe, 0, &base), "%s", fe.error);
    fe_close(&fe);
    return true;
}

static bool polling_without_kick_is_refused(struct test *test)
{
    struct fe fe = { 0 };

    if (!start_full(test, &fe))
        return false;
    CHECK(fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, -1), "%s", fe.error);
    return test_ended(test, &fe);
}

/* Every request in every order with plausible payloads; nothing but the session may suffer. */
static bool requests_at_random(struct test *test)
{
    uint32_t seed = 12345;

    for (unsigned round = 0; round < 300; round++) {
        struct fe fe = { 0 };

        CHECK(fe_connect(&fe, test->path), "round %u: %s", round, fe.error);
        if (round % 2 && (!fe_negotiate(&fe, USUAL | FE_F_PACKED | FE_F_LOG_ALL)))
            return test_failed(test, __LINE__, "%s", fe.error);
        fe_make_memory(&fe, 4u << 20);
        if (round % 3 == 0 && !fe_share_memory(&fe))
            return test_failed(test, __LINE__, "%s", fe.error);
        for (unsigned i = 0; i < 40; i++) {
            const struct shape *shape;
            uint64_t words[34];
            int fds[8];
            unsigned fd_count;

            seed = seed * 1103515245 + 12345;
            shape = &shapes[(seed >> 16) % SHAPES];
            for (unsigned w = 0; w < 34; w++) {
                seed = seed * 1103515245 + 12345;
                words[w] = seed >> 20 & 1 ? seed >> 28 & 3 : (uint64_t)seed << (seed & 31);
            }
            seed = seed * 1103515245 + 12345;
            fd_count = shape->fds_min + (seed >> 16) % (shape->fds_max - shape->fds_min + 1);
            for (unsigned f = 0; f < fd_count; f++)
                fds[f] = f % 2 ? fe.sock : fe.mem_fd;
            if (!fe_send(&fe, shape->request, 0, words, shape->size_min + (shape->size_min < shape->size_max ? 8 : 0),
                         fds, fd_count))
                break;
        }
        CHECK(fe_guards_intact(&fe), "memory outside the regions was written to");
        fe_close(&fe);
    }
    return test_healthy(test);
}

/* libvhost-user does so: a driver whose back-end died before it could signal looks at its ring again. */
static bool a_new_call_descriptor_is_signalled_once(struct test *test)
{
    struct fe fe = { 0 };
    uint64_t count = 0;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    CHECK(fe_set_vring_fd(&fe, R_SET_VRING_CALL, 0, fd), "%s", fe.error);
    /* A request with a reply: whatever came before has been done. */
    CHECK(fe_get_u64(&fe, R_GET_FEATURES, &fe.features), "%s", fe.error);
    CHECK(read(fd, &count, sizeof(count)) == sizeof(count) && count == 1, "signalled %llu times",
          (unsigned long long)count);
    close(fd);
    fe_close(&fe);
    return true;
}

const struct test_case message_cases[] = {
    { "a_new_call_descriptor_is_signalled_once", a_new_call_descriptor_is_signalled_once, 0 },
    { "payloads_too_short", payloads_too_short, 0 },
    { "payloads_too_long", payloads_too_long, 0 },
    { "sizes_beyond_all_bounds", sizes_beyond_all_bounds, 0 },
    { "descriptors_too_few", descriptors_too_few, 0 },
    { "descriptors_too_many", descriptors_too_many, 0 },
    { "descriptors_by_the_hundred", descriptors_by_the_hundred, 0 },
    { "descriptors_with_every_byte", descriptors_with_every_byte, 0 },
    { "unknown_requests", unknown_requests, 0 },
    { "wrong_flags", wrong_flags, 0 },
    { "before_its_time", before_its_time, 0 },
    { "features_not_on_offer", features_not_on_offer, 0 },
    { "byte_by_byte", byte_by_byte, 0 },
    { "many_at_once", many_at_once, 0 },
    { "leave_within_a_message", leave_within_a_message, 0 },
    { "replies_that_nobody_reads", replies_that_nobody_reads, 0 },
    { "acknowledgements", acknowledgements, 0 },
    { "values_out_of_range", values_out_of_range, 0 },
    { "descriptors_of_the_wrong_kind", descriptors_of_the_wrong_kind, 0 },
    { "kicks_through_a_pipe", kicks_through_a_pipe, 0 },
    { "polling_without_kick_is_refused", polling_without_kick_is_refused, 0 },
    { "requests_at_random", requests_at_random, 0 },
    { 0 },
};
