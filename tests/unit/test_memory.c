/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>

#include "tests/unit/vhost_guest.h"
#include "vhost-worker/dirty-log.h"

static int setup(void **state)
{
    *state = guest_new();
    return 0;
}

static int teardown(void **state)
{
    guest_free(*state);
    return 0;
}

static void test_translates_within_a_region(void **state)
{
    struct guest *guest = *state;
    unsigned hint = 0;
    uint64_t n;
    uint8_t *p = vhost_memory_translate(&guest->memory, GUEST_BASE + 0x123, 0x10, &hint, &n);

    guest->ram[0x123] = 0x5a;
    assert_non_null(p);
    assert_int_equal(n, 0x10);
    assert_int_equal(*p, 0x5a);
}

static void test_a_range_across_regions_comes_in_two_pieces(void **state)
{
    struct guest *guest = *state;
    unsigned hint = 0;
    uint64_t n;

    assert_non_null(vhost_memory_translate(&guest->memory, GUEST_BASE + GUEST_REGION_BYTES - 4, 16, &hint, &n));
    assert_int_equal(n, 4);
    assert_non_null(vhost_memory_translate(&guest->memory, GUEST_BASE + GUEST_REGION_BYTES, 12, &hint, &n));
    assert_int_equal(n, 12);
}

static void test_addresses_outside_are_refused(void **state)
{
    struct guest *guest = *state;
    static const uint64_t outside[] = { 0,          GUEST_BASE - 1, GUEST_BASE + 2 * GUEST_REGION_BYTES,
                                        UINT64_MAX, GUEST_USER,     INT64_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
        for (unsigned first_hint = 0; first_hint < 4; first_hint++) {
            unsigned hint = first_hint;
            uint64_t n;

            assert_null(vhost_memory_translate(&guest->memory, outside[i], 1, &hint, &n));
        }
    }
}

static void test_reading_across_regions(void **state)
{
    struct guest *guest = *state;
    char buffer[8];
    unsigned hint = 0;

    memcpy(guest->ram + GUEST_REGION_BYTES - 4, "abcdefgh", 8);
    assert_true(vhost_memory_read(&guest->memory, GUEST_BASE + GUEST_REGION_BYTES - 4, buffer, 8, &hint));
    assert_memory_equal(buffer, "abcdefgh", 8);
}

static void test_reading_past_the_last_region_fails(void **state)
{
    struct guest *guest = *state;
    char buffer[8];
    unsigned hint = 0;

    assert_false(vhost_memory_read(&guest->memory, GUEST_BASE + 2 * GUEST_REGION_BYTES - 4, buffer, 8, &hint));
}

static void test_a_ring_lies_in_one_region_and_aligned(void **state)
{
    struct guest *guest = *state;

    assert_non_null(vhost_memory_ring(&guest->memory, GUEST_USER, GUEST_REGION_BYTES, 16));
    assert_null(vhost_memory_ring(&guest->memory, GUEST_USER, GUEST_REGION_BYTES + 1, 16));
    assert_null(vhost_memory_ring(&guest->memory, GUEST_USER + 8, 16, 16));
    assert_null(vhost_memory_ring(&guest->memory, GUEST_USER - 16, 32, 16));
    assert_null(vhost_memory_ring(&guest->memory, GUEST_BASE, 16, 16));
    assert_null(vhost_memory_ring(&guest->memory, UINT64_MAX - 15, 64, 16));
}

static void test_bad_regions_are_refused(void **state)
{
    struct guest *guest = *state;
    static const struct {
        struct vhost_user_region region;
        const char *text;
    } cases[] = {
        { { 0x1000, 0, 0x1000, 0 }, "empty" },
        { { UINT64_MAX - 0xfff, 0x1000, 0x1000, 0 }, "wraps around" },
        { { 0x1000, 0x1000, UINT64_MAX - 0xfff, 0 }, "wraps around" },
        { { 0x1000, 0x1000, 0x1000, UINT64_MAX - 0xfff }, "wraps around" },
        { { 0x1000, INT64_MAX, 0x1000, 0x1000 }, "wraps around" },
        { { GUEST_BASE + 0xf000, 0x1000, 0x1000, 0 }, "overlaps" },
        { { GUEST_BASE - 0x1000, 0x1001, 0x1000, 0 }, "overlaps" },
        { { 0x1000, 0x1000, GUEST_USER + 0x1000, 0 }, "overlaps" },
        { { 0x1000, 0x1000, 0x1000, 2 * GUEST_REGION_BYTES - 0xfff }, "not within a file" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct error err;

        assert_int_equal(vhost_memory_add(&guest->memory, &cases[i].region, guest->fd, &err), -EINVAL);
        assert_non_null(strstr(err.text, cases[i].text));
        assert_int_equal(guest->memory.count, 2);
    }
}

static void test_a_descriptor_that_is_no_memory_file_is_refused(void **state)
{
    struct guest *guest = *state;
    struct vhost_user_region region = { 0x1000, 0x1000, 0x1000, 0 };
    struct error err;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(vhost_memory_add(&guest->memory, &region, fds[0], &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a memory file"));
    close(fds[0]);
    close(fds[1]);
}

static void test_slots_are_bounded(void **state)
{
    struct guest *guest = *state;
    struct error err;
    int ret = 0;

    for (unsigned i = 0; ret == 0; i++) {
        struct vhost_user_region region = { 0x1000 * i, 0x1000, 0x1000 * (i + 1), 0 };

        ret = vhost_memory_add(&guest->memory, &region, guest->fd, &err);
    }
    assert_int_equal(ret, -ENOSPC);
    assert_int_equal(guest->memory.count, VHOST_MEMORY_SLOTS_MAX);
}

static void test_removing_a_region_takes_its_addresses_away(void **state)
{
    struct guest *guest = *state;
    struct vhost_user_region region = { GUEST_BASE, GUEST_REGION_BYTES, GUEST_USER, 12345 };
    unsigned hint = 0;
    struct error err;
    uint64_t n;

    assert_int_equal(vhost_memory_remove(&guest->memory, &region, &err), 0);
    assert_null(vhost_memory_translate(&guest->memory, GUEST_BASE, 1, &hint, &n));
    assert_non_null(vhost_memory_translate(&guest->memory, GUEST_BASE + GUEST_REGION_BYTES, 1, &hint, &n));
    assert_int_equal(vhost_memory_remove(&guest->memory, &region, &err), -ENOENT);
    region.guest_address = GUEST_BASE + GUEST_REGION_BYTES;
    assert_int_equal(vhost_memory_remove(&guest->memory, &region, &err), -ENOENT);
}

static void test_a_host_address_has_its_guest_address(void **state)
{
    struct guest *guest = *state;
    unsigned hint = 0;
    uint64_t n, back;
    uint8_t *p = vhost_memory_translate(&guest->memory, GUEST_BASE + GUEST_REGION_BYTES + 7, 1, &hint, &n);

    assert_true(vhost_memory_guest_address(&guest->memory, p, &back));
    assert_true(back == GUEST_BASE + GUEST_REGION_BYTES + 7);
    assert_false(vhost_memory_guest_address(&guest->memory, guest, &back));
}

static void test_shrunk_memory_is_noticed_and_survived(void **state)
{
    struct guest *guest = *state;
    unsigned hint = 0;
    uint64_t n;
    uint8_t *p = vhost_memory_translate(&guest->memory, GUEST_BASE + 0x9000, 1, &hint, &n);

    assert_int_equal(io_guard_init(NULL), 0); /* cmocka has a handler of its own for each test */
    assert_false(vhost_mapping_broken());
    assert_int_equal(ftruncate(guest->fd, 0x1000), 0);
    *(volatile uint8_t *)p = 1;
    assert_true(vhost_mapping_broken());
    assert_int_equal(*(volatile uint8_t *)p, 1);
    vhost_mapping_forgive();
    assert_false(vhost_mapping_broken());
}

/* Memory of huge pages is mapped from and to their ends; what is asked for need not be. */
static void test_a_file_of_huge_pages(void **state)
{
    struct vhost_mapping mapping = { 0 };
    const size_t page = 2u << 20;
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
    uint8_t *map = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, 2 * page) == 0)
        map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        SKIP("this host has no huge pages to give (vm.nr_hugepages): %s", strerror(errno));
    assert_int_equal(vhost_mapping_open(&mapping, fd, page + 0x1000, 0x3000, NULL), 0);
    mapping.data[0x2fff] = 0x77;
    assert_int_equal(map[page + 0x3fff], 0x77);
    vhost_mapping_close(&mapping);
    /* Nothing stays mapped: the pages can be had again when the file is gone, however often this is done. */
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(vhost_mapping_open(&mapping, fd, 0, 0x3000, NULL), 0);
        map = mapping.map;
        assert_int_equal(mapping.map_bytes, page);
        vhost_mapping_close(&mapping);
        assert_int_equal(msync(map, 4096, MS_ASYNC), -1); /* ENOMEM: not mapped */
    }
    close(fd);
}

static void test_the_dirty_log_marks_each_page_touched(void **state)
{
    uint8_t bits[4] = { 0 };
    struct vhost_dirty_log log = { .mapping = { .data = bits, .len_bytes = 3 } };

    assert_true(vhost_dirty_log_mark(&log, 0x1fff, 2));
    assert_true(vhost_dirty_log_mark(&log, 0x8000, 0));
    assert_true(vhost_dirty_log_mark(&log, 0x9000, 1));
    assert_int_equal(bits[0], 0x06);
    assert_int_equal(bits[1], 0x02);
    assert_int_equal(bits[2], 0);
}

static void test_a_dirty_log_that_is_too_small_is_not_written_past(void **state)
{
    uint8_t bits[4] = { 0 };
    struct vhost_dirty_log log = { .mapping = { .data = bits, .len_bytes = 3 } };

    assert_true(vhost_dirty_log_mark(&log, 24 * 0x1000 - 1, 1));
    assert_false(vhost_dirty_log_mark(&log, 24 * 0x1000, 1));
    assert_false(vhost_dirty_log_mark(&log, 24 * 0x1000 - 1, 2));
    assert_false(vhost_dirty_log_mark(&log, UINT64_MAX, 2));
    assert_int_equal(bits[3], 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_translates_within_a_region),
        test(test_a_range_across_regions_comes_in_two_pieces),
        test(test_addresses_outside_are_refused),
        test(test_reading_across_regions),
        test(test_reading_past_the_last_region_fails),
        test(test_a_ring_lies_in_one_region_and_aligned),
        test(test_bad_regions_are_refused),
        test(test_a_descriptor_that_is_no_memory_file_is_refused),
        test(test_slots_are_bounded),
        test(test_removing_a_region_takes_its_addresses_away),
        test(test_a_host_address_has_its_guest_address),
        test(test_shrunk_memory_is_noticed_and_survived),
        cmocka_unit_test(test_a_file_of_huge_pages),
        cmocka_unit_test(test_the_dirty_log_marks_each_page_touched),
        cmocka_unit_test(test_a_dirty_log_that_is_too_small_is_not_written_past),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
