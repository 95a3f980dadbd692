/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>

#include "tests/unit/vhost_guest.h"
#include "vhost-worker/ring.h"

#define SIZE 8

struct fixture {
    struct guest *guest;
    struct vring_config config;
    struct vring ring;
    struct vhost_inflight_queue inflight;
    void *region;
    struct iovec iov[VRING_IOV_MAX];
    struct vring_chain chain;
    struct error err;
};

static struct virtq_desc *descs(struct fixture *f)
{
    return (struct virtq_desc *)(f->guest->ram + GUEST_DESC);
}

static struct virtq_avail *avail(struct fixture *f)
{
    return (struct virtq_avail *)(f->guest->ram + GUEST_AVAIL);
}

static struct virtq_used *used(struct fixture *f)
{
    return (struct virtq_used *)(f->guest->ram + GUEST_USED);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->guest = guest_new();
    f->config = (struct vring_config){
        .size = SIZE,
        .indirect = true,
        .descriptor = GUEST_USER + GUEST_DESC,
        .available = GUEST_USER + GUEST_AVAIL,
        .used = GUEST_USER + GUEST_USED,
    };
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    vring_done(&f->ring);
    vhost_inflight_close(&f->inflight);
    free(f->region);
    guest_free(f->guest);
    free(f);
    return 0;
}

static void start(struct fixture *f)
{
    vring_done(&f->ring);
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, NULL, NULL, &f->err), 0);
}

static void start_tracked(struct fixture *f)
{
    vring_done(&f->ring);
    vhost_inflight_close(&f->inflight);
    if (f->region == NULL)
        f->region = calloc(1, vhost_inflight_region_bytes(false, SIZE));
    assert_int_equal(vhost_inflight_open(&f->inflight, f->region, false, SIZE, &f->err), 0);
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, NULL, &f->inflight, &f->err), 0);
}

static void set_desc(struct fixture *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    descs(f)[i] = (struct virtq_desc){ addr, len, flags, next };
}

static void offer(struct fixture *f, uint16_t head)
{
    avail(f)->ring[avail(f)->idx % SIZE] = head;
    avail(f)->idx++;
}

static int pop(struct fixture *f)
{
    return vring_pop(&f->ring, &f->chain, f->iov, &f->err);
}

static void assert_refused(struct fixture *f, const char *text)
{
    assert_int_equal(pop(f), -EPROTO);
    if (strstr(f->err.text, text) == NULL)
        fail_msg("'%s' is not in '%s'", text, f->err.text);
}

static void test_an_empty_ring_has_nothing(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_false(vring_available(&f->ring));
    assert_int_equal(pop(f), 0);
}

static void test_a_chain_comes_as_readable_then_writable_pieces(void **state)
{
    struct fixture *f = *state;

    start(f);
    set_desc(f, 3, GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_NEXT, 5);
    set_desc(f, 5, GUEST_BASE + GUEST_DATA + 0x100, 512, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 0);
    set_desc(f, 0, GUEST_BASE + GUEST_DATA + 0x400, 1, VIRTQ_DESC_F_WRITE, 77);
    offer(f, 3);
    assert_true(vring_available(&f->ring));
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 3);
    assert_int_equal(f->chain.out_count, 1);
    assert_int_equal(f->chain.in_count, 2);
    assert_int_equal(f->chain.out_bytes, 16);
    assert_int_equal(f->chain.in_bytes, 513);
    *(uint8_t *)f->iov[2].iov_base = 0xee;
    assert_int_equal(f->guest->ram[GUEST_DATA + 0x400], 0xee);
    assert_int_equal(pop(f), 0);
}

static void test_a_buffer_across_regions_becomes_two_pieces(void **state)
{
    struct fixture *f = *state;

    start(f);
    set_desc(f, 0, GUEST_BASE + GUEST_REGION_BYTES - 10, 30, 0, 0);
    offer(f, 0);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.out_count, 2);
    assert_int_equal(f->iov[0].iov_len, 10);
    assert_int_equal(f->iov[1].iov_len, 20);
}

static void test_an_indirect_table_is_followed(void **state)
{
    struct fixture *f = *state;
    struct virtq_desc *table = (struct virtq_desc *)(f->guest->ram + GUEST_DATA);

    start(f);
    table[0] = (struct virtq_desc){ GUEST_BASE + 0x9000, 16, VIRTQ_DESC_F_NEXT, 2 };
    table[2] = (struct virtq_desc){ GUEST_BASE + 0x9100, 1, VIRTQ_DESC_F_WRITE, 0 };
    /* The table may follow direct descriptors, and the write flag of its descriptor means nothing. */
    set_desc(f, 1, GUEST_BASE + 0xa000, 4, VIRTQ_DESC_F_NEXT, 2);
    set_desc(f, 2, GUEST_BASE + GUEST_DATA, 3 * 16, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE, 0);
    offer(f, 1);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.out_count, 2);
    assert_int_equal(f->chain.in_count, 1);
}

static void test_bad_chains_are_refused(void **state)
{
    struct fixture *f = *state;
    struct virtq_desc *table = (struct virtq_desc *)(f->guest->ram + GUEST_DATA);
    static const struct {
        struct virtq_desc first, second, entry;
        bool no_indirect;
        const char *text;
    } cases[] = {
        { .first = { GUEST_BASE, 16, VIRTQ_DESC_F_NEXT, SIZE }, .text = "leads to descriptor 8" },
        { .first = { GUEST_BASE, 16, VIRTQ_DESC_F_NEXT, 0xffff }, .text = "leads to descriptor 65535" },
        { .first = { GUEST_BASE, 16, VIRTQ_DESC_F_NEXT, 0 }, .text = "round in a circle" },
        { .first = { GUEST_BASE, 0, 0, 0 }, .text = "0 bytes" },
        { .first = { 0, 16, 0, 0 }, .text = "not guest memory" },
        { .first = { UINT64_MAX, 16, 0, 0 }, .text = "not guest memory" },
        { .first = { GUEST_BASE + 2 * GUEST_REGION_BYTES - 1, 2, 0, 0 }, .text = "not guest memory" },
        { .first = { GUEST_BASE, UINT32_MAX, 0, 0 }, .text = "not guest memory" },
        { .first = { GUEST_BASE, 16, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 1 },
          .second = { GUEST_BASE, 16, 0, 0 },
          .text = "readable descriptor after" },
        { .first = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, 0 },
          .no_indirect = true,
          .text = "not negotiated" },
        { .first = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_NEXT, 1 },
          .text = "not the last" },
        { .first = { GUEST_BASE + GUEST_DATA, 0, VIRTQ_DESC_F_INDIRECT, 0 }, .text = "table of 0 bytes" },
        { .first = { GUEST_BASE + GUEST_DATA, 17, VIRTQ_DESC_F_INDIRECT, 0 }, .text = "table of 17 bytes" },
        { .first = { GUEST_BASE + GUEST_DATA, 1025 * 16, VIRTQ_DESC_F_INDIRECT, 0 }, .text = "table of 1025" },
        { .first = { GUEST_BASE + GUEST_DATA, 0xfffffff0u, VIRTQ_DESC_F_INDIRECT, 0 }, .text = "table of 268435455" },
        { .first = { 0x1000, 16, VIRTQ_DESC_F_INDIRECT, 0 }, .text = "not guest memory" },
        { .first = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, 0 },
          .entry = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, 0 },
          .text = "within an indirect table" },
        { .first = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, 0 },
          .entry = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_NEXT, 0 },
          .text = "round in a circle" },
        { .first = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, 0 },
          .entry = { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_NEXT, 1 },
          .text = "leads to descriptor 1 of 1" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        f->config.indirect = !cases[i].no_indirect;
        avail(f)->idx = 0;
        start(f);
        descs(f)[0] = cases[i].first;
        descs(f)[1] = cases[i].second;
        table[0] = cases[i].entry;
        offer(f, 0);
        assert_refused(f, cases[i].text);
    }
}

static void test_a_head_outside_the_queue_is_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    offer(f, SIZE);
    assert_refused(f, "descriptor 8 was made available");
}

static void test_an_index_that_jumps_is_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    avail(f)->idx = SIZE + 1;
    assert_refused(f, "available index went from 0 to 9");
    avail(f)->idx = 0xffff; /* backwards */
    start(f);
    assert_refused(f, "available index went from 0 to 65535");
}

static void test_a_head_in_use_is_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    set_desc(f, 0, GUEST_BASE, 16, 0, 0);
    offer(f, 0);
    offer(f, 0);
    assert_int_equal(pop(f), 1);
    assert_refused(f, "while it is in use");
}

/* A driver that goes on without waiting for the used index cannot make a batch grow beyond the queue. */
static void test_more_chains_than_the_queue_has_are_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    set_desc(f, 0, GUEST_BASE, 16, 0, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        offer(f, 0);
        assert_int_equal(pop(f), 1);
        vring_push(&f->ring, &f->chain, 0);
    }
    offer(f, 0);
    assert_refused(f, "more than 8 chains");
}

static void test_used_chains_show_after_publishing(void **state)
{
    struct fixture *f = *state;

    start(f);
    set_desc(f, 4, GUEST_BASE, 16, VIRTQ_DESC_F_WRITE, 0);
    offer(f, 4);
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &f->chain, 7);
    assert_int_equal(used(f)->idx, 0);
    vring_publish(&f->ring);
    assert_int_equal(used(f)->idx, 1);
    assert_int_equal(used(f)->ring[0].id, 4);
    assert_int_equal(used(f)->ring[0].len, 7);
    offer(f, 4);
    assert_int_equal(pop(f), 1);
}

static void complete_one(struct fixture *f)
{
    set_desc(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_WRITE, 0);
    offer(f, 0);
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &f->chain, 0);
    vring_publish(&f->ring);
}

static void test_the_driver_is_notified_unless_it_set_the_flag(void **state)
{
    struct fixture *f = *state;

    start(f);
    assert_false(vring_must_notify(&f->ring));
    complete_one(f);
    assert_true(vring_must_notify(&f->ring));
    assert_false(vring_must_notify(&f->ring));
    avail(f)->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
    complete_one(f);
    assert_false(vring_must_notify(&f->ring));
}

static void test_with_event_idx_the_driver_is_notified_at_its_index(void **state)
{
    struct fixture *f = *state;

    f->config.event_idx = true;
    start(f);
    avail(f)->ring[SIZE] = 2; /* used_event: tell me when used->idx passes 2 */
    complete_one(f);
    assert_false(vring_must_notify(&f->ring));
    complete_one(f);
    assert_false(vring_must_notify(&f->ring));
    complete_one(f);
    assert_true(vring_must_notify(&f->ring));
    complete_one(f);
    assert_false(vring_must_notify(&f->ring));
}

static void test_kicks_are_suppressed_by_the_flag(void **state)
{
    struct fixture *f = *state;

    start(f);
    vring_want_notify(&f->ring, false);
    assert_int_equal(used(f)->flags, VIRTQ_USED_F_NO_NOTIFY);
    vring_want_notify(&f->ring, true);
    assert_int_equal(used(f)->flags, 0);
}

static void test_kicks_are_asked_for_by_the_event_index(void **state)
{
    struct fixture *f = *state;

    f->config.event_idx = true;
    start(f);
    complete_one(f);
    vring_want_notify(&f->ring, true);
    assert_int_equal(f->guest->ram[GUEST_USED + 4 + SIZE * 8], 1);
    assert_int_equal(used(f)->flags, 0);
}

static void test_the_ring_goes_on_from_its_base(void **state)
{
    struct fixture *f = *state;

    f->config.base = avail(f)->idx = 0xfffe;
    used(f)->idx = 0xfffe;
    start(f);
    for (unsigned i = 0; i < 4; i++)
        complete_one(f);
    assert_int_equal(used(f)->idx, 2);
    assert_int_equal(vring_base(&f->ring), 2);
}

static void test_bad_sizes_and_addresses_are_refused(void **state)
{
    struct fixture *f = *state;
    struct vring_config c;

#define REFUSED(field, value, expected)                                                                                \
    do {                                                                                                               \
        c = f->config;                                                                                                 \
        c.field = (value);                                                                                             \
        assert_int_equal(vring_init(&f->ring, &c, &f->guest->memory, NULL, NULL, &f->err), -EINVAL);                   \
        assert_int_equal(vring_check(&c, &f->guest->memory, &f->err), -EINVAL);                                        \
        assert_non_null(strstr(f->err.text, expected));                                                                \
    } while (0)
    REFUSED(size, 0, "queue size of 0");
    REFUSED(size, 2048, "queue size of 2048");
    REFUSED(size, 12, "not a power of 2");
    REFUSED(size, 0x80000000u, "queue size of");
    REFUSED(descriptor, GUEST_USER + 8, "descriptor table");
    REFUSED(descriptor, GUEST_BASE, "descriptor table");
    REFUSED(descriptor, GUEST_USER + GUEST_REGION_BYTES - 0x70, "descriptor table");
    REFUSED(available, GUEST_USER + GUEST_REGION_BYTES - 0x12, "available ring");
    REFUSED(available, GUEST_USER + 1, "available ring");
    REFUSED(used, GUEST_USER + GUEST_REGION_BYTES - 0x40, "used ring");
    REFUSED(used, GUEST_USER + 2, "used ring");
    REFUSED(used, UINT64_MAX - 3, "used ring");
    REFUSED(log, UINT64_MAX, "log address");
}

static void test_an_event_index_must_lie_in_memory_too(void **state)
{
    struct fixture *f = *state;

    f->config.available = GUEST_USER + GUEST_REGION_BYTES - (4 + SIZE * 2);
    assert_int_equal(vring_check(&f->config, &f->guest->memory, &f->err), 0);
    f->config.event_idx = true;
    assert_int_equal(vring_check(&f->config, &f->guest->memory, &f->err), -EINVAL);
}

static void test_writes_to_the_used_ring_are_logged(void **state)
{
    struct fixture *f = *state;
    uint8_t bits[4] = { 0 };
    struct vhost_dirty_log log = { .mapping = { .data = bits, .len_bytes = sizeof(bits) } };

    f->config.log_used = true;
    f->config.log = 0x4000 - 4; /* flags and idx in page 3, elements in page 4 */
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, &log, NULL, &f->err), 0);
    complete_one(f);
    assert_int_equal(bits[0], 0x18);
    f->config.log = 0x100000;
    vring_done(&f->ring);
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, &log, NULL, &f->err), 0);
    assert_false(f->ring.log_failed);
    f->ring.split.avail_idx = f->ring.split.avail_seen = avail(f)->idx;
    complete_one(f);
    assert_true(f->ring.log_failed);
}

/* ---- Inflight tracking ---- */

static void offer_heads(struct fixture *f, const uint16_t *heads, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        set_desc(f, heads[i], GUEST_BASE + 0x100u * heads[i], 16, 0, 0);
        offer(f, heads[i]);
        assert_int_equal(pop(f), 1);
    }
}

static void test_what_was_in_flight_is_done_again_in_order(void **state)
{
    struct fixture *f = *state;
    struct vring_chain second;

    start_tracked(f);
    offer_heads(f, (uint16_t[]){ 5, 2, 7 }, 2);
    second = f->chain;
    offer_heads(f, (uint16_t[]){ 7 }, 1);
    vring_push(&f->ring, &second, 0);
    vring_publish(&f->ring);
    offer(f, 2); /* not yet fetched */

    f->config.base = used(f)->idx; /* what a front-end knows after our crash */
    start_tracked(f);
    assert_true(vring_available(&f->ring));
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 5);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 7);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 2);
    assert_int_equal(pop(f), 0);
}

static void test_a_batch_published_but_not_cleared_is_not_done_again(void **state)
{
    struct fixture *f = *state;
    struct vhost_inflight_split *region;
    struct vring_chain first, second;

    start_tracked(f);
    offer_heads(f, (uint16_t[]){ 1 }, 1);
    first = f->chain;
    offer_heads(f, (uint16_t[]){ 6 }, 1);
    second = f->chain;
    offer_heads(f, (uint16_t[]){ 3 }, 1);
    vring_push(&f->ring, &first, 0);
    vring_push(&f->ring, &second, 0);
    used(f)->idx = 2; /* and here we crash */
    start_tracked(f);
    region = f->region;
    assert_int_equal(region->used_idx, 2);
    assert_int_equal(region->desc[1].inflight, 0);
    assert_int_equal(region->desc[6].inflight, 0);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 3);
    assert_int_equal(pop(f), 0);
}

static void test_a_batch_not_published_is_done_again(void **state)
{
    struct fixture *f = *state;

    start_tracked(f);
    offer_heads(f, (uint16_t[]){ 1 }, 1);
    vring_push(&f->ring, &f->chain, 0);
    start_tracked(f);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 1);
}

static void test_lying_inflight_buffers_are_refused(void **state)
{
    struct fixture *f = *state;
    struct vhost_inflight_split *region;
    static const struct {
        struct vhost_inflight_split header;
        uint16_t used_idx;
        const char *text;
    } cases[] = {
        { { .version = 2, .desc_num = SIZE }, 0, "version 2" },
        { { .version = 1, .desc_num = SIZE + 1 }, 0, "queue of 9" },
        { { .version = 1, .desc_num = 0xffff }, 0, "queue of 65535" },
        { { .version = 1, .desc_num = SIZE, .used_idx = 1 }, 0, "used index 1" },
        { { .version = 1, .desc_num = SIZE, .used_idx = 0 }, SIZE + 1, "used index 0" },
        { { .version = 1, .desc_num = SIZE, .last_batch_head = SIZE }, 1, "leads to entry 8" },
        { { .version = 1, .desc_num = SIZE, .last_batch_head = 0 }, 2, "leads to entry 60000" },
    };

    f->region = calloc(1, vhost_inflight_region_bytes(false, SIZE));
    region = f->region;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        *region = cases[i].header;
        region->desc[0].next = 60000;
        used(f)->idx = cases[i].used_idx;
        assert_int_equal(vhost_inflight_open(&f->inflight, region, false, SIZE, &f->err), 0);
        assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, NULL, &f->inflight, &f->err), -EPROTO);
        if (strstr(f->err.text, cases[i].text) == NULL)
            fail_msg("'%s' is not in '%s'", cases[i].text, f->err.text);
        vhost_inflight_close(&f->inflight);
    }
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_an_empty_ring_has_nothing),
        test(test_a_chain_comes_as_readable_then_writable_pieces),
        test(test_a_buffer_across_regions_becomes_two_pieces),
        test(test_an_indirect_table_is_followed),
        test(test_bad_chains_are_refused),
        test(test_a_head_outside_the_queue_is_refused),
        test(test_an_index_that_jumps_is_refused),
        test(test_a_head_in_use_is_refused),
        test(test_more_chains_than_the_queue_has_are_refused),
        test(test_used_chains_show_after_publishing),
        test(test_the_driver_is_notified_unless_it_set_the_flag),
        test(test_with_event_idx_the_driver_is_notified_at_its_index),
        test(test_kicks_are_suppressed_by_the_flag),
        test(test_kicks_are_asked_for_by_the_event_index),
        test(test_the_ring_goes_on_from_its_base),
        test(test_bad_sizes_and_addresses_are_refused),
        test(test_an_event_index_must_lie_in_memory_too),
        test(test_writes_to_the_used_ring_are_logged),
        test(test_what_was_in_flight_is_done_again_in_order),
        test(test_a_batch_published_but_not_cleared_is_not_done_again),
        test(test_a_batch_not_published_is_done_again),
        test(test_lying_inflight_buffers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
