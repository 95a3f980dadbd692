/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "vhost-worker/session.h"

static const struct vhost_request_row *row_of(uint32_t request)
{
    const struct vhost_request_row *row = vhost_request_find(request);

    assert_non_null(row);
    return row;
}

/* ---- The table ---- */

static void test_lint_of_the_table(void **state)
{
    for (unsigned i = 0; i < vhost_request_count; i++) {
        const struct vhost_request_row *row = &vhost_requests[i];

        assert_true(row->name != NULL && row->name[0] != '\0');
        assert_non_null(row->handle);
        assert_true(row->size_min <= row->size_max && row->size_max <= VHOST_USER_PAYLOAD_MAX);
        assert_true(row->fds_min <= row->fds_max && row->fds_max <= VHOST_USER_FDS_MAX);
        assert_true(row->payload < VHOST_PAYLOAD_MAX);
        assert_true((row->protocol_features & ~vhost_protocol_features) == 0);
        assert_true(row->payload == VHOST_PAYLOAD_NONE || row->size_min > 0);
        assert_true(row->quiesce != VHOST_QUIESCE_QUEUE || row->payload == VHOST_PAYLOAD_VRING_STATE ||
                    row->payload == VHOST_PAYLOAD_VRING_ADDR || row->payload == VHOST_PAYLOAD_VRING_FD);
        assert_ptr_equal(row_of(row->request), row); /* no request twice */
    }
    assert_null(vhost_request_find(0));
    assert_null(vhost_request_find(22));
    assert_null(vhost_request_find(UINT32_MAX));
}

/* The page names every request that the table has. */
static void test_docs_have_every_row(void **state)
{
    static char text[65536];
    char path[512], name[64];
    FILE *file;

    if (getenv("srcdir") == NULL) /* set by `make check` */
        SKIP("srcdir is not set: run it by `make check`");
    snprintf(path, sizeof(path), "%s/docs/vhost-user-conformance.md", getenv("srcdir"));
    file = fopen(path, "re");
    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    for (unsigned i = 0; i < vhost_request_count; i++) {
        snprintf(name, sizeof(name), "`%s`", vhost_requests[i].name);
        if (strstr(text, name) == NULL)
            fail_msg("docs/vhost-user-conformance.md has no row for %s", name);
    }
}

/* ---- Headers ---- */

static void test_a_header_that_fits_its_row(void **state)
{
    struct vhost_user_header header = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, 8 };
    const struct vhost_request_row *row = NULL;

    assert_int_equal(vhost_header_check(&header, &row, NULL), 0);
    assert_ptr_equal(row, row_of(VHOST_USER_SET_FEATURES));
}

static void test_errors_of_headers(void **state)
{
    static const struct {
        struct vhost_user_header header;
        const char *text;
    } cases[] = {
        { { VHOST_USER_SET_FEATURES, 0, 8 }, "version 0" },
        { { VHOST_USER_SET_FEATURES, 2, 8 }, "version 2" },
        { { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION | 16, 8 }, "unknown flags" },
        { { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK, 8 }, "a reply" },
        { { 0, VHOST_USER_VERSION, 0 }, "request 0" },
        { { 1000, VHOST_USER_VERSION, 0 }, "request 1000" },
        { { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 7 }, "payload of 7 bytes" },
        { { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 9 }, "payload of 9 bytes" },
        { { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, UINT32_MAX }, "payload of" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct vhost_request_row *row = NULL;
        struct error err;

        assert_int_equal(vhost_header_check(&cases[i].header, &row, &err), -EPROTO);
        assert_null(row);
        assert_non_null(strstr(err.text, cases[i].text));
    }
}

/* ---- Payloads ---- */

static void test_a_memory_table_may_be_as_long_as_its_regions(void **state)
{
    const struct vhost_request_row *row = row_of(VHOST_USER_SET_MEM_TABLE);
    struct vhost_user_mem_table table = { .num_regions = 2, .regions = { { 1, 2, 3, 4 }, { 5, 6, 7, 8 } } };
    union vhost_user_payload payload;
    struct error err;

    assert_int_equal(vhost_message_parse(row, &table, 8 + 64, 2, &payload, &err), 0);
    assert_int_equal(payload.table.regions[1].mmap_offset, 8);
    assert_int_equal(vhost_message_parse(row, &table, sizeof(table), 2, &payload, &err), 0);
    /* Twins: shorter than its regions, another number of descriptors, more regions than there is room for. */
    assert_int_equal(vhost_message_parse(row, &table, 8 + 63, 2, &payload, &err), -EPROTO);
    assert_int_equal(vhost_message_parse(row, &table, sizeof(table), 1, &payload, &err), -EPROTO);
    assert_int_equal(vhost_message_parse(row, &table, sizeof(table), 3, &payload, &err), -EPROTO);
    table.num_regions = 9;
    assert_int_equal(vhost_message_parse(row, &table, sizeof(table), 8, &payload, &err), -EPROTO);
    table.num_regions = UINT32_MAX;
    assert_int_equal(vhost_message_parse(row, &table, sizeof(table), 8, &payload, &err), -EPROTO);
}

static void test_a_configuration_access_matches_its_payload(void **state)
{
    const struct vhost_request_row *row = row_of(VHOST_USER_GET_CONFIG);
    struct vhost_user_config config = { .size = 60 };
    union vhost_user_payload payload;
    struct error err;

    assert_int_equal(vhost_message_parse(row, &config, 12 + 60, 0, &payload, &err), 0);
    assert_int_equal(vhost_message_parse(row, &config, 12 + 59, 0, &payload, &err), -EPROTO);
    assert_int_equal(vhost_message_parse(row, &config, 12 + 61, 0, &payload, &err), -EPROTO);
    config.size = 257;
    assert_int_equal(vhost_message_parse(row, &config, 12 + 256, 0, &payload, &err), -EPROTO);
    config.size = UINT32_MAX;
    assert_int_equal(vhost_message_parse(row, &config, 11, 0, &payload, &err), -EPROTO);
}

static void test_the_invalid_fd_flag_matches_the_descriptors(void **state)
{
    const struct vhost_request_row *row = row_of(VHOST_USER_SET_VRING_CALL);
    union vhost_user_payload payload;
    struct error err;
    uint64_t value = 3;

    assert_int_equal(vhost_message_parse(row, &value, 8, 1, &payload, &err), 0);
    assert_int_equal(vhost_message_parse(row, &value, 8, 0, &payload, &err), -EPROTO);
    value = 3 | VHOST_USER_VRING_NO_FD;
    assert_int_equal(vhost_message_parse(row, &value, 8, 0, &payload, &err), 0);
    assert_int_equal(vhost_message_parse(row, &value, 8, 1, &payload, &err), -EPROTO);
    value = 0x203;
    assert_int_equal(vhost_message_parse(row, &value, 8, 1, &payload, &err), -EPROTO);
}

static void test_bytes_without_meaning_are_not_read(void **state)
{
    union vhost_user_payload payload;
    uint64_t junk = UINT64_MAX;

    assert_int_equal(vhost_message_parse(row_of(VHOST_USER_GET_FEATURES), &junk, 8, 0, &payload, NULL), 0);
    assert_int_equal(payload.u64, 0);
}

/* ---- State ---- */

static void test_errors_of_states(void **state)
{
    struct vhost_message message = { .row = row_of(VHOST_USER_SET_VRING_KICK) };
    uint32_t all = VHOST_STATE_OWNED | VHOST_STATE_FEATURES;
    struct error err;

    assert_int_equal(vhost_message_check(&message, all, 0, 1, &err), 0);
    assert_int_equal(vhost_message_check(&message, VHOST_STATE_FEATURES, 0, 1, &err), -EPROTO);
    assert_non_null(strstr(err.text, "before SET_OWNER"));
    assert_int_equal(vhost_message_check(&message, VHOST_STATE_OWNED, 0, 1, &err), -EPROTO);
    assert_non_null(strstr(err.text, "before SET_FEATURES"));
    message.payload.u64 = 1;
    assert_int_equal(vhost_message_check(&message, all, 0, 1, &err), -EPROTO);
    assert_non_null(strstr(err.text, "queue 1 of 1"));
    assert_int_equal(vhost_message_check(&message, all, 0, 2, &err), 0);
    message.row = row_of(VHOST_USER_GET_STATUS);
    assert_int_equal(vhost_message_check(&message, all, 0, 1, &err), -EPROTO);
    assert_non_null(strstr(err.text, "protocol feature"));
    assert_int_equal(vhost_message_check(&message, all, 1u << VHOST_USER_PROTOCOL_F_STATUS, 1, &err), 0);
}

/* ---- Receiving ---- */

struct link {
    int ours, theirs;
    struct vhost_receiver receiver;
    struct vhost_message message;
    struct error err;
};

static int setup_link(void **state)
{
    struct link *l = calloc(1, sizeof(*l));
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    l->ours = fds[0];
    l->theirs = fds[1];
    vhost_receiver_init(&l->receiver);
    *state = l;
    return 0;
}

static int teardown_link(void **state)
{
    struct link *l = *state;

    vhost_receiver_done(&l->receiver);
    close(l->ours);
    close(l->theirs);
    free(l);
    return 0;
}

static void put(struct link *l, const void *bytes, size_t len_bytes, unsigned fd_count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(16 * sizeof(int))];
    } control = { .header = { CMSG_LEN(fd_count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
    struct iovec iov = { (void *)bytes, len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    int *fds = (int *)CMSG_DATA(&control.header);

    for (unsigned i = 0; i < fd_count; i++)
        fds[i] = STDERR_FILENO;
    if (fd_count > 0) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    }
    assert_int_equal(sendmsg(l->theirs, &msg, 0), len_bytes);
}

static int receive(struct link *l)
{
    return vhost_receive(&l->receiver, l->ours, &l->message, &l->err);
}

static int next_fd(void)
{
    int fd = dup(STDERR_FILENO);

    close(fd);
    return fd;
}

static const struct {
    struct vhost_user_header header;
    uint64_t value;
} __attribute__((packed)) call_message = { { VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, 8 }, 0 };

static void test_a_message_byte_by_byte(void **state)
{
    struct link *l = *state;
    const uint8_t *bytes = (const uint8_t *)&call_message;

    for (size_t i = 0; i < sizeof(call_message); i++) {
        assert_int_equal(receive(l), 0);
        put(l, bytes + i, 1, i == 0);
    }
    assert_int_equal(receive(l), 1);
    assert_int_equal(l->message.row->request, VHOST_USER_SET_VRING_CALL);
    assert_int_equal(l->message.fd_count, 1);
    vhost_message_done(&l->message);
    assert_int_equal(receive(l), 0);
}

static void test_two_messages_in_one_packet(void **state)
{
    struct link *l = *state;
    struct vhost_user_header two[2] = { { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 },
                                        { VHOST_USER_SET_OWNER, VHOST_USER_VERSION, 0 } };

    put(l, two, sizeof(two), 0);
    assert_int_equal(receive(l), 1);
    assert_int_equal(l->message.row->request, VHOST_USER_GET_FEATURES);
    assert_int_equal(receive(l), 1);
    assert_int_equal(l->message.row->request, VHOST_USER_SET_OWNER);
}

static void test_the_end_between_and_within_messages(void **state)
{
    struct link *l = *state;

    put(l, &call_message, 5, 1);
    assert_int_equal(receive(l), 0);
    shutdown(l->theirs, SHUT_WR);
    assert_int_equal(receive(l), -EPROTO);
    vhost_receiver_done(&l->receiver);
    assert_int_equal(receive(l), -ESHUTDOWN);
}

static void test_no_descriptor_of_a_refused_message_stays(void **state)
{
    struct link *l = *state;
    int before = next_fd();

    put(l, &call_message, sizeof(call_message), 9);
    assert_int_equal(receive(l), -EPROTO);
    vhost_receiver_done(&l->receiver);
    assert_int_equal(next_fd(), before);
    put(l, &call_message, sizeof(call_message), 2);
    assert_int_equal(receive(l), -EPROTO);
    vhost_receiver_done(&l->receiver);
    assert_int_equal(next_fd(), before);
    put(l, &call_message, sizeof(call_message), 16);
    assert_int_equal(receive(l), -EPROTO);
    vhost_receiver_done(&l->receiver);
    assert_int_equal(next_fd(), before);
}

static void test_descriptors_are_closed_on_exec(void **state)
{
    struct link *l = *state;

    put(l, &call_message, sizeof(call_message), 1);
    assert_int_equal(receive(l), 1);
    assert_true(fcntl(l->message.fds[0], F_GETFD) & FD_CLOEXEC);
    vhost_message_done(&l->message);
}

#define link_test(name) cmocka_unit_test_setup_teardown(name, setup_link, teardown_link)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lint_of_the_table),
        cmocka_unit_test(test_docs_have_every_row),
        cmocka_unit_test(test_a_header_that_fits_its_row),
        cmocka_unit_test(test_errors_of_headers),
        cmocka_unit_test(test_a_memory_table_may_be_as_long_as_its_regions),
        cmocka_unit_test(test_a_configuration_access_matches_its_payload),
        cmocka_unit_test(test_the_invalid_fd_flag_matches_the_descriptors),
        cmocka_unit_test(test_bytes_without_meaning_are_not_read),
        cmocka_unit_test(test_errors_of_states),
        link_test(test_a_message_byte_by_byte),
        link_test(test_two_messages_in_one_packet),
        link_test(test_the_end_between_and_within_messages),
        link_test(test_no_descriptor_of_a_refused_message_stays),
        link_test(test_descriptors_are_closed_on_exec),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
