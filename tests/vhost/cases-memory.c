/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory that is not what it was said to be, or does not stay so. Source: vhost-user.rst, "Memory access". */
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/test.h"

struct region {
    uint64_t padding;
    uint64_t guest, size, user, offset;
};

static int add_region(struct fe *fe, struct region region, int fd)
{
    return fe_acked(fe, R_ADD_MEM_REG, &region, sizeof(region), &fd, 1);
}

static int remove_region(struct fe *fe, struct region region)
{
    return fe_acked(fe, R_REM_MEM_REG, &region, sizeof(region), NULL, 0);
}

static struct region region_a(const struct fe *fe)
{
    return (struct region){ 0, FE_GUEST_BASE, fe->a_bytes, FE_USER_A, FE_GUARD_BYTES };
}

static struct region region_b(const struct fe *fe)
{
    return (struct region){ 0, FE_GUEST_BASE + fe->a_bytes, fe->ram_bytes - fe->a_bytes, FE_USER_B,
                            FE_GUARD_BYTES + fe->a_bytes };
}

static bool bad_regions_are_refused(struct test *test)
{
    struct fe fe = { 0 };
    const struct region cases[] = {
        { 0, 0x1000, 0, 0x1000, 0 },             /* empty */
        { 0, ~0ull - 0xfff, 0x1000, 0x1000, 0 }, /* wraps in guest addresses */
        { 0, 0x1000, 0x1000, ~0ull - 0xfff, 0 }, /* in user addresses */
        { 0, 0x1000, ~0ull, 0x1000, 0 },         /* larger than everything */
        { 0, 0x1000, 1ull << 63, 0x1000, 0 },
        { 0, 0x1000, 0x1000, 0x1000, ~0ull - 0xfff },     /* wraps in the file */
        { 0, 0x1000, 0x1000, 0x1000, 1ull << 62 },        /* behind the file */
        { 0, 0x1000, 8u << 20, 0x1000, 0x30000 },         /* ends behind the file */
        { 0, FE_GUEST_BASE + 0x1000, 0x1000, 0x1000, 0 }, /* overlaps in guest addresses */
        { 0, FE_GUEST_BASE - 1, 2, 0x1000, 0 },
        { 0, 0x1000, 0x1000, FE_USER_B + 0x1000, 0 }, /* in user addresses */
    };

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        CHECK(add_region(&fe, cases[i], fe.mem_fd) == 1, "case %u: %s", i, fe.error);
    CHECK(add_region(&fe, (struct region){ 0, 0x1000, 0x1000, 0x1000, 0 }, fe.sock) == 1, "a socket: %s", fe.error);
    /* Nothing of that changed the regions that are there. */
    CHECK(fe_request(&fe, 0, FE_DATA(&fe, 1), T_IN, 0, FE_DATA(&fe, 1) + 4096, 512, NULL) == S_OK, "%s", fe.error);
    fe_close(&fe);
    return true;
}

static bool slots_are_bounded(struct test *test)
{
    struct fe fe = { 0 };
    uint64_t slots;
    unsigned count = 0;

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    fe_make_memory(&fe, 4u << 20);
    CHECK(fe_get_u64(&fe, R_GET_MAX_MEM_SLOTS, &slots) && slots >= 8, "%s", fe.error);
    while (count <= slots &&
           add_region(&fe, (struct region){ 0, count * 0x1000ull, 0x1000, (count + 1) * 0x1000ull, 0 }, fe.mem_fd) == 0)
        count++;
    CHECK(count == slots, "%u of %llu slots", count, (unsigned long long)slots);
    for (unsigned i = 0; i < count; i++)
        CHECK(remove_region(&fe, (struct region){ 0, i * 0x1000ull, 0x1000, (i + 1) * 0x1000ull, 0 }) == 0, "slot %u",
              i);
    fe_close(&fe);
    return true;
}

/* Memory goes away and comes back while the queue runs: requests wait, none is lost. */
static bool regions_come_and_go(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[3];
    uint8_t *scratch;
    uint32_t id, len;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    for (unsigned i = 0; i < 20; i++) {
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
        CHECK(remove_region(&fe, region_a(&fe)) == 0, "%s", fe.error);
        memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
        scratch[32] = S_NONE;
        buffers[0] = (struct fe_buffer){ scratch, 16, false };
        buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
        buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
        fe_offer(&fe, 0, 3, buffers, 3);
        fe_kick(&fe, 0);
        CHECK(remove_region(&fe, region_b(&fe)) == 0 && add_region(&fe, region_b(&fe), fe.mem_fd) == 0, "%s", fe.error);
        CHECK(!fe_take(&fe, 0, &id, &len), "served without its ring");
        CHECK(add_region(&fe, region_a(&fe), fe.mem_fd) == 0, "%s", fe.error);
        CHECK(fe_wait(&fe, 0, &id, &len) && scratch[32] == S_OK, "not served afterwards: %s", fe.error);
    }
    fe_close(&fe);
    return true;
}

/* Data in a region that was removed is no guest memory any more. */
static bool a_removed_region_is_not_reachable(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[3];
    uint8_t *scratch, *in_b;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    in_b = fe.ram + fe.a_bytes + 0x10000;
    memset(in_b, 0x44, 512);
    CHECK(remove_region(&fe, region_b(&fe)) == 0, "%s", fe.error);
    memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ in_b, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    CHECK(fe_is_closed(&fe), "%s", fe.error);
    for (unsigned i = 0; i < 512; i++)
        CHECK(in_b[i] == 0x44, "byte %u was written to", i);
    fe_close(&fe);
    return test_healthy(test);
}

/* The guest's file is cut: under the rings, and under the data only. The session ends, the worker does not. */
static bool cut_memory(struct test *test, bool under_rings)
{
    for (unsigned round = 0; round < 10; round++) {
        struct fe fe = { 0 };
        uint8_t *scratch, *data;
        struct fe_buffer buffers[3];

        CHECK(fe_start(&fe, test->path, USUAL | (round % 2 ? FE_F_PACKED : 0), 1, 16), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        data = fe.ram + fe.ram_bytes - 65536;
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 65536, NULL) == S_OK, "%s", fe.error);
        /* Used like that, the image's beginning is copied by the worker itself, not by the kernel, if it is in memory. */
        for (unsigned i = 0; i < 8; i++)
            CHECK(fe_request(&fe, 0, scratch, T_OUT, i % 4 * 128, data, 65536, NULL) == S_OK, "%s", fe.error);
        memcpy(scratch, &(struct fe_header){ round % 3 ? T_IN : T_OUT, 0, 0 }, 16);
        scratch[32] = 0xff;
        buffers[0] = (struct fe_buffer){ scratch, 16, false };
        buffers[1] = (struct fe_buffer){ data, 65536, round % 3 != 0 };
        buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
        /* A worker that polls sees an offer at once: the data has to be gone before. The rings are needed to make one. */
        if (!under_rings)
            CHECK(ftruncate(fe.mem_fd, (off_t)(FE_GUARD_BYTES + fe.a_bytes)) == 0, "ftruncate");
        fe_offer(&fe, 0, 0, buffers, 3);
        if (under_rings)
            CHECK(ftruncate(fe.mem_fd, 4096) == 0, "ftruncate");
        fe_kick(&fe, 0);
        CHECK(fe_is_closed(&fe), "%s", fe.error);
        CHECK(under_rings || scratch[32] == 0xff, "status %u of a request whose data had gone", scratch[32]);
        /* Make the file whole again for the program's own mapping of it. */
        CHECK(ftruncate(fe.mem_fd, (off_t)(fe.ram_bytes + 2 * FE_GUARD_BYTES)) == 0, "ftruncate");
        fe_close(&fe);
        if (!test_healthy(test))
            return false;
    }
    return true;
}

static bool memory_is_cut_under_the_rings(struct test *test)
{
    return cut_memory(test, true);
}

static bool memory_is_cut_under_the_data(struct test *test)
{
    return cut_memory(test, false);
}

/* A region that starts within a page, as the specification allows. */
static bool a_region_within_pages(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    fe_make_memory(&fe, 8u << 20);
    fe.a_bytes = 0x123450; /* B starts at a multiple of 16 only */
    CHECK(fe_share_memory(&fe), "%s", fe.error);
    fe_layout_queue(&fe, 0, 16, fe.a_bytes);
    CHECK(fe_send_queue(&fe, 0, 0), "%s", fe.error);
    scratch = fe.ram + fe.a_bytes + 0x10000;
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
    fe_close(&fe);
    return true;
}

const struct test_case memory_cases[] = {
    { "bad_regions_are_refused", bad_regions_are_refused, 0 },
    { "slots_are_bounded", slots_are_bounded, 0 },
    { "regions_come_and_go", regions_come_and_go, 0 },
    { "a_removed_region_is_not_reachable", a_removed_region_is_not_reachable, 0 },
    { "memory_is_cut_under_the_rings", memory_is_cut_under_the_rings, NEEDS_WRITABLE },
    { "memory_is_cut_under_the_data", memory_is_cut_under_the_data, NEEDS_WRITABLE },
    { "a_region_within_pages", a_region_within_pages, 0 },
    { 0 },
};
