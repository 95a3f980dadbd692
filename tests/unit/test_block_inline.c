/* SPDX-License-Identifier: BSD-2-Clause */
/* BLOCK_REQ_INLINE_ONLY and BLOCK_REQ_NO_INLINE: what exports build their fast path on. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <string.h>

#define BYTES 8192u

static void start(struct block_fixture *f, struct block_call *call, enum block_op op, unsigned flags, uint64_t offset,
                  void *buf, size_t len_bytes)
{
    *call = (struct block_call){ .req = { .op = op, .flags = flags, .offset = offset, .len_bytes = len_bytes } };
    call->iov[0] = (struct iovec){ buf, len_bytes };
    call->req.iov = call->iov;
    call->req.iov_count = 1;
}

/* Never pending: done, or -EAGAIN; and in memory always done. */
static void test_inline_only_is_never_pending(void **state)
{
    static const enum block_op ops[] = { BLOCK_OP_WRITE, BLOCK_OP_READ };
    struct block_fixture *f = *state;
    uint8_t wrote[BYTES], got[BYTES];
    struct block_call call;

    fixture_open_file(f, 1 << 20, 0);
    pattern_fill(wrote, 4096, sizeof(wrote), 7);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        int ret;

        start(f, &call, ops[i], BLOCK_REQ_INLINE_ONLY, 4096, ops[i] == BLOCK_OP_WRITE ? wrote : got, BYTES);
        ret = call_start(f, &call);
        assert_true(ret == 0 || (ret == -EAGAIN && variant->place == PLACE_DISK));
        if (ret == 0)
            continue;
        start(f, &call, ops[i], BLOCK_REQ_NO_INLINE, 4096, ops[i] == BLOCK_OP_WRITE ? wrote : got, BYTES);
        assert_int_equal(call_start(f, &call), BLOCK_PENDING);
        assert_int_equal(call_wait(f, &call), 0);
    }
    assert_memory_equal(got, wrote, BYTES);
}

/* What has to be synced, is large, or waits otherwise needs the engine. */
static void test_inline_only_refuses_what_would_wait(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call;
    uint8_t buf[BYTES] = { 0 };

    fixture_add_node(f, IPC_DRIVER_NULL_CO, IPC_NODE_HAS_SIZE, -1, -1);
    f->specs[0].size_bytes = 1 << 20;
    f->specs[0].latency_ns = 1000000;
    assert_int_equal(fixture_open(f), 0);
    start(f, &call, BLOCK_OP_READ, BLOCK_REQ_INLINE_ONLY, 0, buf, BYTES);
    assert_int_equal(call_start(f, &call), -EAGAIN);
    start(f, &call, BLOCK_OP_READ, BLOCK_REQ_NO_INLINE, 0, buf, BYTES);
    assert_int_equal(call_start(f, &call), BLOCK_PENDING);
    assert_int_equal(call_wait(f, &call), 0);
}

static void test_direct_io_is_never_inline(void **state)
{
    struct block_fixture *f = *state;
    struct block_call call;
    static uint8_t buf[BYTES] __attribute__((aligned(4096)));

    if (variant->place == PLACE_MEMORY)
        SKIP("a file system in memory has no direct I/O");
    fixture_open_file(f, 1 << 20, IPC_NODE_CACHE_DIRECT);
    start(f, &call, BLOCK_OP_WRITE, BLOCK_REQ_INLINE_ONLY, 0, buf, BYTES);
    assert_int_equal(call_start(f, &call), -EAGAIN);
    start(f, &call, BLOCK_OP_WRITE, BLOCK_REQ_NO_INLINE, 0, buf, BYTES);
    assert_int_equal(call_start(f, &call), BLOCK_PENDING);
    assert_int_equal(call_wait(f, &call), 0);
}

/* Pending even where this thread could do it, and begun before the loop's turn ends. */
static void test_what_is_offloaded_is_done_by_another_thread(void **state)
{
    static const enum block_op ops[] = { BLOCK_OP_WRITE, BLOCK_OP_READ };
    struct block_fixture *f = *state;
    uint8_t wrote[BYTES], got[BYTES];
    struct block_call call;

    fixture_open_file(f, 1 << 20, 0);
    pattern_fill(wrote, 4096, sizeof(wrote), 9);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        start(f, &call, ops[i], BLOCK_REQ_OFFLOAD, 4096, ops[i] == BLOCK_OP_WRITE ? wrote : got, BYTES);
        assert_int_equal(call_start(f, &call), BLOCK_PENDING);
        assert_int_equal(call_wait(f, &call), 0);
    }
    assert_memory_equal(got, wrote, BYTES);
    start(f, &call, BLOCK_OP_READ, BLOCK_REQ_OFFLOAD | BLOCK_REQ_INLINE_ONLY, 0, got, BYTES);
    assert_int_equal(call_start(f, &call), -EAGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_inline_only_is_never_pending),
        FIXTURE_TEST(test_inline_only_refuses_what_would_wait),
        FIXTURE_TEST(test_direct_io_is_never_inline),
        FIXTURE_TEST(test_what_is_offloaded_is_done_by_another_thread),
    };

    return RUN_VARIANTS("inline", tests);
}
