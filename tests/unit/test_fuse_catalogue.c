/* SPDX-License-Identifier: BSD-2-Clause */
/* What the monitor and FUSE workers say to each other: each rule with the message that breaks it. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "common/ipc/catalogue.h"
#include "common/ipc/channel.h"

static int check_serve(uint32_t flags, uint32_t reserved, unsigned fd_count)
{
    struct ipc_fuse_serve serve = { .flags = flags, .reserved = reserved };

    channel_fill_header(&serve.header, IPC_FUSE_SERVE, sizeof(serve), fd_count);
    return ipc_message_check(&serve, sizeof(serve), fd_count, WORKER_RUNNING, IPC_ROLE_FUSE, NULL, NULL);
}

static void test_serve_takes_pairs_of_descriptors(void **state)
{
    for (unsigned count = 0; count <= IPC_FUSE_DEVICES_MAX + 2; count++)
        assert_int_equal(check_serve(0, 0, count),
                         count >= 2 && count % 2 == 0 && count <= IPC_FUSE_DEVICES_MAX ? 0 : -EPROTO);
}

static void test_errors_serve_fields(void **state)
{
    assert_int_equal(check_serve(IPC_FUSE_FLAGS_ALL, 0, 2), 0);
    assert_int_equal(check_serve(IPC_FUSE_FLAGS_ALL + 1, 0, 2), -EPROTO);
    assert_int_equal(check_serve(IPC_FUSE_GROWABLE, 0, 2), -EPROTO);
    assert_int_equal(check_serve(0, 1, 2), -EPROTO);
}

static int check_resize(uint64_t serial, int32_t code, uint32_t reserved)
{
    struct ipc_fuse_resize resize = { .serial = serial, .code = code, .reserved = reserved };

    channel_fill_header(&resize.header, IPC_FUSE_RESIZE, sizeof(resize), 0);
    return ipc_message_check(&resize, sizeof(resize), 0, WORKER_RUNNING, IPC_ROLE_FUSE, NULL, NULL);
}

static void test_errors_resize_fields(void **state)
{
    assert_int_equal(check_resize(1, 0, 0), 0);
    assert_int_equal(check_resize(1, -EAGAIN, 0), 0);
    assert_int_equal(check_resize(0, 0, 0), -EPROTO);
    assert_int_equal(check_resize(1, 1, 0), -EPROTO);
    assert_int_equal(check_resize(1, -5000, 0), -EPROTO);
    assert_int_equal(check_resize(1, 0, 1), -EPROTO);
}

static void test_errors_messages_for_fuse_are_for_nobody_else(void **state)
{
    struct ipc_fuse_resize resize = { .serial = 1 };

    channel_fill_header(&resize.header, IPC_FUSE_RESIZE, sizeof(resize), 0);
    for (uint32_t role = 0; role < 32; role++)
        assert_int_equal(ipc_message_check(&resize, sizeof(resize), 0, WORKER_RUNNING, role, NULL, NULL),
                         role == IPC_ROLE_FUSE ? 0 : -EPROTO);
}

/* ---- Records ---- */

static struct ipc_status status_of(enum ipc_status_type type)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = type;
    return status;
}

static int check(const struct ipc_status *status, uint32_t role)
{
    uint32_t seen = 0;

    return ipc_status_check(status, WORKER_RUNNING, role, &seen, NULL);
}

static void test_errors_serving_fields(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_FUSE_SERVING);

    status.fuse_serving.device_pairs = IPC_FUSE_DEVICES_MAX / 2;
    assert_int_equal(check(&status, IPC_ROLE_FUSE), 0);
    assert_int_equal(check(&status, IPC_ROLE_NBD_EXPORT), -EPROTO);
    status.fuse_serving.device_pairs++;
    assert_int_equal(check(&status, IPC_ROLE_FUSE), -EPROTO);
    status.fuse_serving.device_pairs = 1;
    status.fuse_serving.reserved = 1;
    assert_int_equal(check(&status, IPC_ROLE_FUSE), -EPROTO);
}

static void test_errors_sizes(void **state)
{
    struct ipc_status asked = status_of(IPC_STATUS_FUSE_RESIZE), done = status_of(IPC_STATUS_FUSE_RESIZED);

    assert_int_equal(check(&asked, IPC_ROLE_FUSE), -EPROTO);
    assert_int_equal(check(&done, IPC_ROLE_FUSE), 0);
    asked.fuse_resize.serial = done.fuse_resize.serial = 1;
    assert_int_equal(check(&asked, IPC_ROLE_FUSE), 0);
    asked.fuse_resize.size_bytes = done.fuse_resize.size_bytes = (uint64_t)INT64_MAX + 1;
    assert_int_equal(check(&asked, IPC_ROLE_FUSE), -EPROTO);
    assert_int_equal(check(&done, IPC_ROLE_FUSE), -EPROTO);
}

static void test_errors_gone_without_a_reason(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_FUSE_GONE);

    assert_int_equal(check(&status, IPC_ROLE_FUSE), -EPROTO);
    status.fuse_gone.code = -ENODEV;
    assert_int_equal(check(&status, IPC_ROLE_FUSE), 0);
    status.fuse_gone.code = -5000;
    assert_int_equal(check(&status, IPC_ROLE_FUSE), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serve_takes_pairs_of_descriptors),
        cmocka_unit_test(test_errors_serve_fields),
        cmocka_unit_test(test_errors_resize_fields),
        cmocka_unit_test(test_errors_messages_for_fuse_are_for_nobody_else),
        cmocka_unit_test(test_errors_serving_fields),
        cmocka_unit_test(test_errors_sizes),
        cmocka_unit_test(test_errors_gone_without_a_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
