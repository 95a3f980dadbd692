/* SPDX-License-Identifier: BSD-2-Clause */
/* Rings as only an attacker writes them. Source: VIRTIO 1.2, 2.7 and 2.8. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tests/vhost/test.h"

/* ---- Addresses ---- */

struct addr {
    uint32_t index, flags;
    uint64_t descriptor, used, available, log;
};

static bool rings_outside_memory(struct test *test)
{
    const uint64_t end_a = FE_USER_A + (4u << 20), end_b = FE_USER_B + (4u << 20);
    const struct addr cases[] = {
        { 0, 0, 0, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A, 0, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A, FE_USER_A + 0x6000, 0, 0 },
        { 0, 0, FE_GUEST_BASE, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 }, /* a guest address */
        { 0, 0, end_a - 0xf0, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },  /* one descriptor too far */
        { 0, 0, FE_USER_A, end_a - 0x80, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A, FE_USER_A + 0x6000, end_a - 0x20, 0 },
        { 0, 0, end_b - 0xf0, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A - 16, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },
        { 0, 0, ~0ull - 15, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A + 8, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 }, /* not aligned */
        { 0, 0, FE_USER_A, FE_USER_A + 0x6002, FE_USER_A + 0x4000, 0 },
        { 0, 0, FE_USER_A, FE_USER_A + 0x6000, FE_USER_A + 0x4001, 0 },
        { 0, 2, FE_USER_A, FE_USER_A + 0x6000, FE_USER_A + 0x4000, 0 },     /* unknown flag */
        { 0, 1, FE_USER_A, FE_USER_A + 0x6000, FE_USER_A + 0x4000, ~0ull }, /* log address */
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };

        CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
        CHECK(fe_send(&fe, R_SET_VRING_ADDR, 0, &cases[i], sizeof(cases[i]), NULL, 0), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    return true;
}

/* The same addresses, but before memory and size are known: noticed when the ring is to start. */
static bool rings_outside_memory_said_early(struct test *test)
{
    struct addr addr = { 0, 0, 0x1000, 0x2000, 0x3000, 0 };
    struct fe fe = { 0 };

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    CHECK(fe_send(&fe, R_SET_VRING_ADDR, 0, &addr, sizeof(addr), NULL, 0), "%s", fe.error);
    fe_make_memory(&fe, 8u << 20);
    fe_layout_queue(&fe, 0, 16, 0);
    CHECK(fe_share_memory(&fe) && fe_set_state(&fe, R_SET_VRING_NUM, 0, 16) &&
              fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, fe.queues[0].kick_fd),
          "%s", fe.error);
    return test_ended(test, &fe);
}

static bool a_ring_without_size_or_addresses(struct test *test)
{
    for (unsigned i = 0; i < 2; i++) {
        struct fe fe = { 0 };

        CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
        fe_make_memory(&fe, 8u << 20);
        fe_layout_queue(&fe, 0, 16, 0);
        CHECK(fe_share_memory(&fe), "%s", fe.error);
        CHECK(i == 0 ? fe_set_state(&fe, R_SET_VRING_NUM, 0, 16) : fe_send_addr(&fe, 0, 0, 0), "%s", fe.error);
        CHECK(fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, fe.queues[0].kick_fd), "%s", fe.error);
        if (!test_ended(test, &fe))
            return false;
    }
    return true;
}

static bool a_split_ring_of_an_odd_size(struct test *test)
{
    struct fe fe = { 0 };

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    fe_make_memory(&fe, 8u << 20);
    fe_layout_queue(&fe, 0, 12, 0);
    CHECK(fe_share_memory(&fe), "%s", fe.error);
    fe_send_queue(&fe, 0, 0); /* refused on the way */
    return test_ended(test, &fe);
}

static bool a_packed_ring_of_an_odd_size(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL | FE_F_PACKED, 1, 7), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    for (unsigned i = 0; i < 50; i++)
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
    fe_close(&fe);
    return true;
}

static bool a_packed_base_outside_the_ring(struct test *test)
{
    static const uint32_t bases[] = { 16, 16u << 16, 0x7fff, 0x7fff0000 };

    for (unsigned i = 0; i < 4; i++) {
        struct fe fe = { 0 };

        CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL | FE_F_PACKED), "%s", fe.error);
        fe_make_memory(&fe, 8u << 20);
        fe_layout_queue(&fe, 0, 16, 0);
        CHECK(fe_share_memory(&fe) && fe_send_queue(&fe, 0, bases[i]), "%s", fe.error);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "base 0x%x", bases[i]);
    }
    return true;
}

/* ---- Split chains ---- */

/*
 * One bad thing in the descriptor table of a ring of 16, its head made available. The first region ends at the start of
 * the second, so what reaches over that is not bad.
 */
struct bad_chain {
    const char *what;
    uint16_t head;
    struct fe_desc desc[4];
    struct fe_desc table[4]; /* at G(0x10000) */
    bool no_indirect;
};

#define G(offset) (FE_GUEST_BASE + (offset))
#define END       G(8u << 20) /* of guest memory */
#define HEADER                                                                                                         \
    {                                                                                                                  \
        G(0x20000), 16, DESC_NEXT, 1                                                                                   \
    } /* reads of sector 0: the bytes there are zero */
#define STATUS                                                                                                         \
    {                                                                                                                  \
        G(0x20100), 1, DESC_WRITE, 0                                                                                   \
    }
#define TABLE(n)                                                                                                       \
    {                                                                                                                  \
        G(0x10000), (n)*16, DESC_INDIRECT, 0                                                                           \
    }

static const struct bad_chain bad_chains[] = {
    { "a head outside the queue", 16, { { 0 } }, { { 0 } }, false },
    { "a head far outside", 0xffff, { { 0 } }, { { 0 } }, false },
    { "a loop of one", 0, { { G(0x20000), 16, DESC_NEXT, 0 } }, { { 0 } }, false },
    { "a loop of two", 0, { HEADER, { G(0x20000), 16, DESC_NEXT, 0 } }, { { 0 } }, false },
    { "a loop at the end",
      0,
      { HEADER, { G(0x20000), 16, DESC_NEXT, 2 }, { G(0x30000), 16, DESC_NEXT, 2 } },
      { { 0 } },
      false },
    { "next outside the queue", 0, { { G(0x20000), 16, DESC_NEXT, 16 } }, { { 0 } }, false },
    { "next far outside", 0, { { G(0x20000), 16, DESC_NEXT, 0xffff } }, { { 0 } }, false },
    { "no status byte", 0, { HEADER, { G(0x21000), 512, 0, 0 } }, { { 0 } }, false },
    { "nothing but a status byte", 0, { STATUS }, { { 0 } }, false },
    { "a header of 15 bytes", 0, { { G(0x20000), 15, DESC_NEXT, 1 }, STATUS }, { { 0 } }, false },
    { "a descriptor of 0 bytes",
      0,
      { HEADER, { G(0x21000), 0, DESC_WRITE | DESC_NEXT, 2 }, STATUS },
      { { 0 } },
      false },
    { "readable after writable",
      0,
      { HEADER, { G(0x20100), 1, DESC_WRITE | DESC_NEXT, 2 }, { G(0x21000), 512, 0, 0 } },
      { { 0 } },
      false },
    { "data behind the memory", 0, { HEADER, { END, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS }, { { 0 } }, false },
    { "data over the end of memory",
      0,
      { HEADER, { END - 256, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS },
      { { 0 } },
      false },
    { "data before the memory",
      0,
      { HEADER, { FE_GUEST_BASE - 512, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS },
      { { 0 } },
      false },
    { "data at a user address",
      0,
      { HEADER, { FE_USER_A, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS },
      { { 0 } },
      false },
    { "data at address 0", 0, { HEADER, { 0, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS }, { { 0 } }, false },
    { "data of 4 GiB", 0, { HEADER, { G(0), 0xffffffff, DESC_WRITE | DESC_NEXT, 2 }, STATUS }, { { 0 } }, false },
    { "data that wraps around",
      0,
      { HEADER, { ~0ull - 255, 512, DESC_WRITE | DESC_NEXT, 2 }, STATUS },
      { { 0 } },
      false },
    { "a status outside memory", 0, { HEADER, { END, 1, DESC_WRITE, 0 } }, { { 0 } }, false },
    { "a header outside memory", 0, { { 0x1000, 16, DESC_NEXT, 1 }, STATUS }, { { 0 } }, false },
    { "indirect without negotiation", 0, { TABLE(2) }, { HEADER, STATUS }, true },
    { "indirect and next", 0, { { G(0x10000), 32, DESC_INDIRECT | DESC_NEXT, 1 }, STATUS }, { HEADER, STATUS }, false },
    { "an indirect table of 0 bytes", 0, { TABLE(0) }, { HEADER, STATUS }, false },
    { "an indirect table of 1 byte", 0, { { G(0x10000), 1, DESC_INDIRECT, 0 } }, { HEADER, STATUS }, false },
    { "an indirect table of 33 bytes", 0, { { G(0x10000), 33, DESC_INDIRECT, 0 } }, { HEADER, STATUS }, false },
    { "an indirect table of 1025 descriptors", 0, { TABLE(1025) }, { HEADER, STATUS }, false },
    { "an indirect table of 4 GiB", 0, { { G(0x10000), 0xfffffff0, DESC_INDIRECT, 0 } }, { HEADER, STATUS }, false },
    { "an indirect table outside memory", 0, { { END, 32, DESC_INDIRECT, 0 } }, { { 0 } }, false },
    { "an indirect table over the end", 0, { { END - 16, 32, DESC_INDIRECT, 0 } }, { { 0 } }, false },
    { "indirect within indirect", 0, { TABLE(2) }, { { G(0x20000), 16, DESC_NEXT, 1 }, TABLE(2) }, false },
    { "a loop in an indirect table", 0, { TABLE(2) }, { HEADER, { G(0x20000), 16, DESC_NEXT, 0 } }, false },
    { "next outside an indirect table", 0, { TABLE(2) }, { { G(0x20000), 16, DESC_NEXT, 2 } }, false },
};

static bool bad_split_chains(struct test *test)
{
    for (unsigned i = 0; i < sizeof(bad_chains) / sizeof(bad_chains[0]); i++) {
        const struct bad_chain *bad = &bad_chains[i];
        struct fe fe = { 0 };
        struct fe_queue *q = &fe.queues[0];

        CHECK(fe_start(&fe, test->path, bad->no_indirect ? USUAL & ~FE_F_INDIRECT : USUAL, 1, 16), "%s", fe.error);
        memcpy(q->desc, bad->desc, sizeof(bad->desc));
        memcpy(fe.ram + 0x10000, bad->table, sizeof(bad->table));
        fe.ram[0x20100] = S_NONE;
        q->avail[2] = bad->head;
        __atomic_store_n(&q->avail[1], 1, __ATOMIC_RELEASE);
        fe_kick(&fe, 0);
        if (!test_ended(test, &fe)) {
            char why[512];

            memcpy(why, test->why, sizeof(why));
            return test_failed(test, __LINE__, "%s: %.400s", bad->what, why);
        }
    }
    return true;
}

static bool an_available_index_that_jumps(struct test *test)
{
    static const uint16_t jumps[] = { 17, 0x8000, 0xffff };

    for (unsigned i = 0; i < 3; i++) {
        struct fe fe = { 0 };

        CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
        __atomic_store_n(&fe.queues[0].avail[1], jumps[i], __ATOMIC_RELEASE);
        fe_kick(&fe, 0);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "from 0 to %u", jumps[i]);
    }
    return true;
}

/* The same head twice at once. With requests that finish at once it may be in use no more: then it is no error. */
static bool a_head_made_available_twice(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_queue *q = &fe.queues[0];

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    q->desc[0] = (struct fe_desc)HEADER;
    q->desc[1] = (struct fe_desc)STATUS;
    for (unsigned i = 0; i < 16; i++)
        q->avail[2 + i] = 0;
    __atomic_store_n(&q->avail[1], 16, __ATOMIC_RELEASE);
    fe_kick(&fe, 0);
    fe_close(&fe);
    return test_healthy(test);
}

/* ---- Packed chains ---- */

struct bad_packed {
    const char *what;
    unsigned count;
    struct fe_packed_desc desc[3], table[2];
};

#define P_HEADER                                                                                                       \
    {                                                                                                                  \
        G(0x20000), 16, 0, DESC_NEXT                                                                                   \
    }
#define P_STATUS                                                                                                       \
    {                                                                                                                  \
        G(0x20100), 1, 0, DESC_WRITE                                                                                   \
    }

static const struct bad_packed bad_packed[] = {
    { "no status byte", 1, { { G(0x20000), 16, 0, 0 } }, { { 0 } } },
    { "a descriptor of 0 bytes", 2, { P_HEADER, { G(0x20100), 0, 0, DESC_WRITE } }, { { 0 } } },
    { "readable after writable",
      2,
      { { G(0x20100), 1, 0, DESC_WRITE | DESC_NEXT }, { G(0x20000), 16, 0, 0 } },
      { { 0 } } },
    { "data outside memory", 3, { P_HEADER, { END, 512, 0, DESC_WRITE | DESC_NEXT }, P_STATUS }, { { 0 } } },
    { "data over the end", 3, { P_HEADER, { END - 1, 512, 0, DESC_WRITE | DESC_NEXT }, P_STATUS }, { { 0 } } },
    { "an indirect table of 17 bytes", 1, { { G(0x10000), 17, 0, DESC_INDIRECT } }, { P_HEADER, P_STATUS } },
    { "an indirect table of 1025 descriptors",
      1,
      { { G(0x10000), 1025 * 16, 0, DESC_INDIRECT } },
      { P_HEADER, P_STATUS } },
    { "an indirect table outside memory", 1, { { 0x1000, 32, 0, DESC_INDIRECT } }, { P_HEADER, P_STATUS } },
    { "indirect within indirect",
      1,
      { { G(0x10000), 32, 0, DESC_INDIRECT } },
      { { G(0x10000), 32, 0, DESC_INDIRECT }, P_STATUS } },
    { "indirect in a chain", 2, { P_HEADER, { G(0x10000), 32, 0, DESC_INDIRECT } }, { P_HEADER, P_STATUS } },
};

static bool bad_packed_chains(struct test *test)
{
    for (unsigned i = 0; i < sizeof(bad_packed) / sizeof(bad_packed[0]); i++) {
        const struct bad_packed *bad = &bad_packed[i];
        struct fe fe = { 0 };

        CHECK(fe_start(&fe, test->path, USUAL | FE_F_PACKED, 1, 16), "%s", fe.error);
        memcpy(fe.ram + 0x10000, bad->table, sizeof(bad->table));
        for (unsigned d = bad->count; d-- > 0;) {
            fe.queues[0].pdesc[d] = bad->desc[d];
            __atomic_fetch_or(&fe.queues[0].pdesc[d].flags, 1u << 7, __ATOMIC_RELEASE);
        }
        fe_kick(&fe, 0);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "%s", bad->what);
    }
    return true;
}

/* All descriptors of the ring say "next". */
static bool a_packed_chain_without_end(struct test *test)
{
    struct fe fe = { 0 };

    CHECK(fe_start(&fe, test->path, USUAL | FE_F_PACKED, 1, 16), "%s", fe.error);
    for (unsigned d = 16; d-- > 0;)
        fe.queues[0].pdesc[d] = (struct fe_packed_desc){ G(0x20000), 16, 0, DESC_NEXT | 1u << 7 };
    fe_kick(&fe, 0);
    return test_ended(test, &fe);
}

/* ---- Memory that changes while it is read ---- */

struct flipper {
    struct fe *fe;
    uint32_t seed;
    bool stop;
};

static uint32_t next_random(struct flipper *flipper)
{
    flipper->seed = flipper->seed * 1664525 + 1013904223;
    return flipper->seed >> 8;
}

/* Another CPU of the guest: writes over descriptors, tables and headers as fast as it can. */
static void *flip(void *arg)
{
    struct flipper *flipper = arg;
    struct fe *fe = flipper->fe;
    static const uint64_t addresses[] = { G(0x20000), G(0x20100), G(0x30000), END - 256, END, 0, ~0ull, FE_USER_A };
    static const uint32_t lengths[] = { 16, 1, 512, 0, 17, 0xffffffff, 4096, 2048 };

    while (!__atomic_load_n(&flipper->stop, __ATOMIC_RELAXED)) {
        uint32_t r = next_random(flipper);
        volatile struct fe_desc *d =
            r & 1 ? &fe->queues[0].desc[r >> 1 & 15] : (volatile struct fe_desc *)(fe->ram + 0x10000) + (r >> 1 & 15);

        switch (r >> 8 & 7) {
        case 0:
            d->addr = addresses[r >> 11 & 7];
            break;
        case 1:
            d->len = lengths[r >> 11 & 7];
            break;
        case 2:
            d->flags = (uint16_t)(r >> 11 & 7) | (fe->packed ? (uint16_t)(r & 0x8080) : 0);
            break;
        case 3:
            d->next = (uint16_t)(r >> 11 & 31);
            break;
        case 4:
            *(volatile uint32_t *)(fe->ram + 0x20000) = r >> 11 & 15;
            break;
        case 5:
            *(volatile uint64_t *)(fe->ram + 0x20008) = (uint64_t)(r >> 11) << (r & 63);
            break;
        default:
            /* Back to something that works, so that it does not all end at the first descriptor. */
            fe->queues[0].desc[0] = (struct fe_desc)HEADER;
            fe->queues[0].desc[1] = (struct fe_desc){ G(0x30000), 4096, DESC_WRITE | DESC_NEXT, 2 };
            fe->queues[0].desc[2] = (struct fe_desc)STATUS;
        }
    }
    return NULL;
}

static bool changing_memory(struct test *test, uint64_t features)
{
    struct timespec start, now;
    uint32_t sessions = 0;

    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        struct fe fe = { 0 };
        struct fe_queue *q = &fe.queues[0];
        struct flipper flipper = { .fe = &fe, .seed = ++sessions };
        pthread_t thread;

        CHECK(fe_start(&fe, test->path, features, 1, 16), "session %u: %s", sessions, fe.error);
        pthread_create(&thread, NULL, flip, &flipper);
        for (unsigned i = 0; i < 2000; i++) {
            if (!fe.packed) {
                q->avail[2 + q->avail[1] % 16] = i % 64 == 63 ? 0xffff : i % 3;
                __atomic_store_n(&q->avail[1], (uint16_t)(q->avail[1] + (i % 500 == 499 ? 100 : 1)), __ATOMIC_RELEASE);
            }
            fe_kick(&fe, 0);
        }
        __atomic_store_n(&flipper.stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        CHECK(fe_guards_intact(&fe), "session %u: memory outside the regions was written to", sessions);
        fe_close(&fe);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec < 3);
    return test_healthy(test);
}

static bool descriptors_change_while_they_are_read(struct test *test)
{
    return changing_memory(test, USUAL);
}

static bool packed_descriptors_change_while_they_are_read(struct test *test)
{
    return changing_memory(test, USUAL | FE_F_PACKED);
}

/* ---- Rings at random ---- */

static bool rings_at_random(struct test *test)
{
    struct flipper random = { .seed = 4711 };

    for (unsigned round = 0; round < 400; round++) {
        struct fe fe = { 0 };

        CHECK(fe_start(&fe, test->path, USUAL | (round % 2 ? FE_F_PACKED : 0), 1, 16), "round %u: %s", round, fe.error);
        for (unsigned i = 0; i < 16; i++) {
            static const uint64_t bases[] = { G(0), G(0x20000), END - 4096, 0 };

            fe.queues[0].desc[i] =
                (struct fe_desc){ bases[next_random(&random) & 3] + (next_random(&random) & 0xfff),
                                  next_random(&random) & 0x1fff, (uint16_t)(next_random(&random) & 0x80ff),
                                  (uint16_t)(next_random(&random) & 31) };
            fe.queues[0].avail[2 + i] = (uint16_t)(next_random(&random) & 15);
        }
        if (!fe.packed)
            __atomic_store_n(&fe.queues[0].avail[1], (uint16_t)(1 + (next_random(&random) & 15)), __ATOMIC_RELEASE);
        fe_kick(&fe, 0);
        if (round % 4 == 0) {
            struct timespec pause = { .tv_nsec = 1000000 };

            nanosleep(&pause, NULL);
        }
        CHECK(fe_guards_intact(&fe), "memory outside the regions was written to");
        fe_close(&fe);
    }
    return test_healthy(test);
}

const struct test_case ring_cases[] = {
    { "rings_outside_memory", rings_outside_memory, 0 },
    { "rings_outside_memory_said_early", rings_outside_memory_said_early, 0 },
    { "a_ring_without_size_or_addresses", a_ring_without_size_or_addresses, 0 },
    { "a_split_ring_of_an_odd_size", a_split_ring_of_an_odd_size, 0 },
    { "a_packed_ring_of_an_odd_size", a_packed_ring_of_an_odd_size, 0 },
    { "a_packed_base_outside_the_ring", a_packed_base_outside_the_ring, 0 },
    { "bad_split_chains", bad_split_chains, 0 },
    { "an_available_index_that_jumps", an_available_index_that_jumps, 0 },
    { "a_head_made_available_twice", a_head_made_available_twice, 0 },
    { "bad_packed_chains", bad_packed_chains, 0 },
    { "a_packed_chain_without_end", a_packed_chain_without_end, 0 },
    { "descriptors_change_while_they_are_read", descriptors_change_while_they_are_read, NEEDS_WRITABLE },
    { "packed_descriptors_change_while_they_are_read", packed_descriptors_change_while_they_are_read, NEEDS_WRITABLE },
    { "rings_at_random", rings_at_random, NEEDS_WRITABLE },
    { 0 },
};
