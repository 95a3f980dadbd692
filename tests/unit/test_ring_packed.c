/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>

#include "tests/unit/vhost_guest.h"
#include "vhost-worker/ring.h"

#define SIZE 6 /* packed rings need no power of 2 */
#define WRAP (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)

struct fixture {
    struct guest *guest;
    struct vring_config config;
    struct vring ring;
    struct vhost_inflight_queue inflight;
    void *region;
    struct iovec iov[VRING_IOV_MAX];
    struct vring_chain chain;
    struct error err;
    unsigned driver_idx; /* the driver's own position */
    bool driver_wrap;
};

static struct pvirtq_desc *descs(struct fixture *f)
{
    return (struct pvirtq_desc *)(f->guest->ram + GUEST_DESC);
}

static struct pvirtq_event_suppress *driver_event(struct fixture *f)
{
    return (struct pvirtq_event_suppress *)(f->guest->ram + GUEST_AVAIL);
}

static struct pvirtq_event_suppress *device_event(struct fixture *f)
{
    return (struct pvirtq_event_suppress *)(f->guest->ram + GUEST_USED);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->guest = guest_new();
    f->driver_wrap = true;
    f->config = (struct vring_config){
        .size = SIZE,
        .packed = true,
        .indirect = true,
        .descriptor = GUEST_USER + GUEST_DESC,
        .available = GUEST_USER + GUEST_AVAIL,
        .used = GUEST_USER + GUEST_USED,
        .base = 0x80008000u,
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
        f->region = calloc(1, vhost_inflight_region_bytes(true, SIZE));
    assert_int_equal(vhost_inflight_open(&f->inflight, f->region, true, SIZE, &f->err), 0);
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, NULL, &f->inflight, &f->err), 0);
}

/* The driver makes one descriptor available at its position. */
static void offer(struct fixture *f, uint16_t id, uint64_t addr, uint32_t len, uint16_t flags)
{
    flags |= f->driver_wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
    descs(f)[f->driver_idx] = (struct pvirtq_desc){ addr, len, id, flags };
    if (++f->driver_idx == SIZE) {
        f->driver_idx = 0;
        f->driver_wrap = !f->driver_wrap;
    }
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

static void test_a_chain_carries_the_id_of_its_last_descriptor(void **state)
{
    struct fixture *f = *state;

    start(f);
    offer(f, 99, GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_NEXT);
    offer(f, 4, GUEST_BASE + GUEST_DATA + 0x100, 513, VIRTQ_DESC_F_WRITE);
    assert_true(vring_available(&f->ring));
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 4);
    assert_int_equal(f->chain.descriptors, 2);
    assert_int_equal(f->chain.out_bytes, 16);
    assert_int_equal(f->chain.in_bytes, 513);
    assert_int_equal(pop(f), 0);
}

static void test_an_indirect_table_is_followed_in_order(void **state)
{
    struct fixture *f = *state;
    struct pvirtq_desc *table = (struct pvirtq_desc *)(f->guest->ram + GUEST_DATA);

    start(f);
    table[0] = (struct pvirtq_desc){ GUEST_BASE + 0x9000, 16, 0, 0 };
    table[1] = (struct pvirtq_desc){ GUEST_BASE + 0x9100, 1, 0, VIRTQ_DESC_F_WRITE };
    offer(f, 1, GUEST_BASE + GUEST_DATA, 32, VIRTQ_DESC_F_INDIRECT);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.descriptors, 1);
    assert_int_equal(f->chain.out_count, 1);
    assert_int_equal(f->chain.in_count, 1);
}

static void test_bad_chains_are_refused(void **state)
{
    struct fixture *f = *state;
    struct pvirtq_desc *table = (struct pvirtq_desc *)(f->guest->ram + GUEST_DATA);
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
        uint16_t entry_flags;
        const char *text;
    } cases[] = {
        { GUEST_BASE, 0, 0, 0, "0 bytes" },
        { 0, 1, 0, 0, "not guest memory" },
        { GUEST_BASE + GUEST_DATA, 8, VIRTQ_DESC_F_INDIRECT, 0, "table of 8 bytes" },
        { GUEST_BASE + GUEST_DATA, 1025 * 16, VIRTQ_DESC_F_INDIRECT, 0, "table of 1025" },
        { GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_INDIRECT, "within an indirect table" },
        { 0x1000, 16, VIRTQ_DESC_F_INDIRECT, 0, "not guest memory" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        memset(f->guest->ram, 0, GUEST_REGION_BYTES);
        f->driver_idx = 0;
        f->driver_wrap = true;
        start(f);
        table[0] = (struct pvirtq_desc){ GUEST_BASE, 1, 0, cases[i].entry_flags };
        offer(f, 0, cases[i].addr, cases[i].len, cases[i].flags);
        assert_refused(f, cases[i].text);
    }
}

static void test_an_indirect_descriptor_within_a_chain_is_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    offer(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
    offer(f, 0, GUEST_BASE + GUEST_DATA, 16, VIRTQ_DESC_F_INDIRECT);
    assert_refused(f, "in a chain of 2");
}

static void test_an_endless_chain_is_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < SIZE; i++)
        offer(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
    assert_refused(f, "more than 6 descriptors in flight");
}

static void test_more_descriptors_than_the_ring_has_are_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < SIZE; i++) {
        offer(f, 0, GUEST_BASE, 16, 0);
        assert_int_equal(pop(f), 1);
    }
    offer(f, 0, GUEST_BASE, 16, 0); /* over one that is in use */
    assert_refused(f, "in flight");
}

/* Chains given back out of order, over the ring's end: what a driver reads at its used position. */
static void test_used_descriptors_follow_each_other_and_wrap(void **state)
{
    struct fixture *f = *state;
    struct vring_chain a, b;

    start(f);
    for (unsigned round = 0; round < 5; round++) {
        unsigned place = round * 4 % SIZE, second = (place + 1) % SIZE;
        bool wrap = round * 4 / SIZE % 2 == 0, second_wrap = (round * 4 + 1) / SIZE % 2 == 0;

        offer(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
        offer(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
        offer(f, 1, GUEST_BASE, 16, VIRTQ_DESC_F_WRITE);
        offer(f, 2, GUEST_BASE, 16, 0);
        assert_int_equal(pop(f), 1);
        a = f->chain;
        assert_int_equal(pop(f), 1);
        b = f->chain;
        vring_push(&f->ring, &b, 0);
        vring_push(&f->ring, &a, 5);
        /* The first is not to be seen before the batch is published. */
        assert_int_not_equal(descs(f)[place].flags & WRAP, wrap ? WRAP : 0);
        vring_publish(&f->ring);
        assert_int_equal(descs(f)[place].flags & WRAP, wrap ? WRAP : 0);
        assert_int_equal(descs(f)[place].id, 2);
        assert_int_equal(descs(f)[second].flags & WRAP, second_wrap ? WRAP : 0);
        assert_int_equal(descs(f)[second].id, 1);
        assert_int_equal(descs(f)[second].len, 5);
        assert_true(descs(f)[second].flags & VIRTQ_DESC_F_WRITE);
    }
}

static void complete_one(struct fixture *f)
{
    offer(f, 0, GUEST_BASE, 16, 0);
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &f->chain, 0);
    vring_publish(&f->ring);
}

static void test_the_driver_is_notified_as_its_event_area_says(void **state)
{
    struct fixture *f = *state;

    start(f);
    complete_one(f);
    assert_true(vring_must_notify(&f->ring));
    assert_false(vring_must_notify(&f->ring));
    driver_event(f)->flags = RING_EVENT_FLAGS_DISABLE;
    complete_one(f);
    assert_false(vring_must_notify(&f->ring));
}

static void test_with_event_idx_the_driver_is_notified_at_its_place(void **state)
{
    struct fixture *f = *state;

    f->config.event_idx = true;
    start(f);
    driver_event(f)->flags = RING_EVENT_FLAGS_DESC;
    driver_event(f)->desc = 2 | RING_EVENT_WRAP;
    for (unsigned i = 0; i < SIZE; i++) {
        complete_one(f);
        assert_int_equal(vring_must_notify(&f->ring), i == 2);
    }
    driver_event(f)->desc = 1; /* of the next lap */
    for (unsigned i = 0; i < SIZE; i++) {
        complete_one(f);
        assert_int_equal(vring_must_notify(&f->ring), i == 1);
    }
}

static void test_kicks_are_switched_in_the_device_event_area(void **state)
{
    struct fixture *f = *state;

    start(f);
    vring_want_notify(&f->ring, false);
    assert_int_equal(device_event(f)->flags, RING_EVENT_FLAGS_DISABLE);
    vring_want_notify(&f->ring, true);
    assert_int_equal(device_event(f)->flags, RING_EVENT_FLAGS_ENABLE);
    f->config.event_idx = true;
    start(f);
    f->ring.pack.avail_idx = 3;
    vring_want_notify(&f->ring, true);
    assert_int_equal(device_event(f)->flags, RING_EVENT_FLAGS_DESC);
    assert_int_equal(device_event(f)->desc, 3 | RING_EVENT_WRAP);
}

static void test_the_ring_goes_on_from_its_base(void **state)
{
    struct fixture *f = *state;

    f->config.base = 0x00050005;
    f->driver_idx = 5;
    f->driver_wrap = false;
    start(f);
    complete_one(f);
    complete_one(f);
    assert_int_equal(vring_base(&f->ring), 0x80018001u);
}

static void test_bad_bases_and_addresses_are_refused(void **state)
{
    struct fixture *f = *state;
    struct vring_config c;

#define REFUSED_CONFIG(field, value, expected)                                                                         \
    do {                                                                                                               \
        c = f->config;                                                                                                 \
        c.field = (value);                                                                                             \
        assert_int_equal(vring_init(&f->ring, &c, &f->guest->memory, NULL, NULL, &f->err), -EINVAL);                   \
        assert_non_null(strstr(f->err.text, expected));                                                                \
    } while (0)
    REFUSED_CONFIG(base, SIZE, "ring base");
    REFUSED_CONFIG(base, SIZE << 16, "ring base");
    REFUSED_CONFIG(size, 0, "queue size");
    REFUSED_CONFIG(size, 1025, "queue size");
    REFUSED_CONFIG(descriptor, GUEST_USER + GUEST_REGION_BYTES - 16, "descriptor ring");
    REFUSED_CONFIG(available, GUEST_USER + 2, "driver event area");
    REFUSED_CONFIG(used, GUEST_USER + GUEST_REGION_BYTES, "device event area");
}

static void test_writes_to_the_ring_are_logged_where_it_is(void **state)
{
    struct fixture *f = *state;
    static uint8_t bits[0x8100];
    struct vhost_dirty_log log = { .mapping = { .data = bits, .len_bytes = sizeof(bits) } };

    f->config.log_used = true;
    assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, &log, NULL, &f->err), 0);
    complete_one(f);
    assert_int_equal(bits[GUEST_BASE / 0x1000 / 8], 1);
    vring_want_notify(&f->ring, false);
    assert_int_equal(bits[GUEST_BASE / 0x1000 / 8], 1 | 1 << (GUEST_USED / 0x1000));
    assert_false(f->ring.log_failed);
}

/* ---- Inflight tracking ---- */

static void test_what_was_in_flight_is_done_again_in_order(void **state)
{
    struct fixture *f = *state;
    struct vring_chain second;

    start_tracked(f);
    offer(f, 0, GUEST_BASE + 0x1000, 16, VIRTQ_DESC_F_NEXT);
    offer(f, 7, GUEST_BASE + 0x2000, 17, VIRTQ_DESC_F_WRITE);
    offer(f, 8, GUEST_BASE + 0x3000, 18, 0);
    offer(f, 9, GUEST_BASE + 0x4000, 19, 0);
    assert_int_equal(pop(f), 1);
    assert_int_equal(pop(f), 1);
    second = f->chain;
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &second, 0); /* overwrites the first one's head in the ring */
    vring_publish(&f->ring);
    offer(f, 10, GUEST_BASE + 0x5000, 20, 0); /* not yet fetched */

    f->config.base = 0x80008000u; /* nobody but the buffer knows better */
    start_tracked(f);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 7);
    assert_int_equal(f->chain.out_bytes, 16);
    assert_int_equal(f->chain.in_bytes, 17);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 9);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 10);
    assert_int_equal(pop(f), 0);
}

static void test_entries_are_reused_over_many_laps(void **state)
{
    struct fixture *f = *state;

    start_tracked(f);
    for (unsigned i = 0; i < 20; i++) {
        offer(f, 1, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
        offer(f, 2, GUEST_BASE, 16, 0);
        offer(f, 3, GUEST_BASE, 16, 0);
        assert_int_equal(pop(f), 1);
        vring_push(&f->ring, &f->chain, 0);
        assert_int_equal(pop(f), 1);
        vring_push(&f->ring, &f->chain, 0);
        vring_publish(&f->ring);
    }
    start_tracked(f);
    assert_int_equal(pop(f), 0);
    assert_int_equal(f->ring.pack.avail_idx, f->driver_idx);
    assert_int_equal(f->ring.pack.avail_wrap, f->driver_wrap);
}

/* A crash between the store of the position and the store that shows the batch. */
static void test_an_update_that_was_not_shown_is_rolled_back(void **state)
{
    struct fixture *f = *state;

    start_tracked(f);
    offer(f, 5, GUEST_BASE, 16, 0);
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &f->chain, 0);
    vhost_inflight_packed_publish(&f->inflight, 1, true);
    start_tracked(f);
    assert_int_equal(pop(f), 1);
    assert_int_equal(f->chain.id, 5);
    assert_int_equal(f->ring.pack.used_idx, 0);
}

/* A crash right after that store. */
static void test_an_update_that_was_shown_is_committed(void **state)
{
    struct fixture *f = *state;

    start_tracked(f);
    offer(f, 5, GUEST_BASE, 16, 0);
    assert_int_equal(pop(f), 1);
    vring_push(&f->ring, &f->chain, 0);
    vhost_inflight_packed_publish(&f->inflight, 1, true);
    descs(f)[0].flags = WRAP;
    start_tracked(f);
    assert_int_equal(pop(f), 0);
    assert_int_equal(f->ring.pack.used_idx, 1);
    assert_int_equal(f->ring.pack.avail_idx, 1);
}

static void test_lying_inflight_buffers_are_refused(void **state)
{
    struct fixture *f = *state;
    struct vhost_inflight_packed *region, good;
    struct vhost_inflight_packed_desc desc[SIZE];

    /* Two descriptors in flight in one chain, made by honest means. */
    start_tracked(f);
    offer(f, 0, GUEST_BASE, 16, VIRTQ_DESC_F_NEXT);
    offer(f, 7, GUEST_BASE, 17, 0);
    assert_int_equal(pop(f), 1);
    region = f->region;
    good = *region;
    memcpy(desc, region->desc, sizeof(desc));

#define REFUSED(lie, expected)                                                                                         \
    do {                                                                                                               \
        *region = good;                                                                                                \
        memcpy(region->desc, desc, sizeof(desc));                                                                      \
        region->lie;                                                                                                   \
        vring_done(&f->ring);                                                                                          \
        vhost_inflight_close(&f->inflight);                                                                            \
        assert_int_equal(vhost_inflight_open(&f->inflight, region, true, SIZE, &f->err), 0);                           \
        assert_int_equal(vring_init(&f->ring, &f->config, &f->guest->memory, NULL, &f->inflight, &f->err), -EPROTO);   \
        if (strstr(f->err.text, expected) == NULL)                                                                     \
            fail_msg("'%s' is not in '%s'", expected, f->err.text);                                                    \
    } while (0)
    REFUSED(version = 3, "version 3");
    REFUSED(desc_num = 1, "queue of 1");
    REFUSED(used_idx = SIZE, "not within the queue");
    REFUSED(old_used_idx = 0xffff, "not within the queue");
    REFUSED(old_free_head = SIZE + 1, "not within the queue");
    REFUSED(old_used_wrap_counter = 2, "not within the queue");
    REFUSED(desc[0].num = 0, "ends elsewhere");
    REFUSED(desc[0].num = 1, "ends elsewhere");
    REFUSED(desc[0].num = 0xffff, "leads to entry");
    REFUSED(desc[0].next = 60000, "leads to entry 60000");
    REFUSED(desc[0].next = 0, "leads to entry 0");
    REFUSED(desc[0].last = 60000, "ends elsewhere");
    REFUSED(desc[1].inflight = 1, "ends elsewhere");
    REFUSED(desc[3].inflight = 1; region->desc[2].next = 9, "ends elsewhere");
    REFUSED(desc[2].next = 9, "neither free nor in flight");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_an_empty_ring_has_nothing),
        test(test_a_chain_carries_the_id_of_its_last_descriptor),
        test(test_an_indirect_table_is_followed_in_order),
        test(test_bad_chains_are_refused),
        test(test_an_indirect_descriptor_within_a_chain_is_refused),
        test(test_an_endless_chain_is_refused),
        test(test_more_descriptors_than_the_ring_has_are_refused),
        test(test_used_descriptors_follow_each_other_and_wrap),
        test(test_the_driver_is_notified_as_its_event_area_says),
        test(test_with_event_idx_the_driver_is_notified_at_its_place),
        test(test_kicks_are_switched_in_the_device_event_area),
        test(test_the_ring_goes_on_from_its_base),
        test(test_bad_bases_and_addresses_are_refused),
        test(test_writes_to_the_ring_are_logged_where_it_is),
        test(test_what_was_in_flight_is_done_again_in_order),
        test(test_entries_are_reused_over_many_laps),
        test(test_an_update_that_was_not_shown_is_rolled_back),
        test(test_an_update_that_was_shown_is_committed),
        test(test_lying_inflight_buffers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
