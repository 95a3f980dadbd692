/* SPDX-License-Identifier: BSD-2-Clause */
/* What a live migration and a restart need: the dirty log and the inflight buffer, honest and lying. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/test.h"

/* ---- Dirty log ---- */

struct log {
    int fd;
    uint8_t *bits;
    size_t len_bytes;
};

/* A log for all guest addresses up to the end of memory. */
static void make_log(struct fe *fe, struct log *log, size_t len_bytes)
{
    log->len_bytes = len_bytes;
    log->fd = memfd_create("log", MFD_CLOEXEC);
    if (ftruncate(log->fd, (off_t)len_bytes) < 0)
        fe_die("log");
    log->bits = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
}

static void free_log(struct log *log)
{
    munmap(log->bits, log->len_bytes);
    close(log->fd);
}

static bool send_log(struct fe *fe, const struct log *log)
{
    uint64_t payload[2] = { log->len_bytes, 0 }, answer;

    return fe_send(fe, R_SET_LOG_BASE, 0, payload, sizeof(payload), &log->fd, 1) &&
           fe_receive(fe, R_SET_LOG_BASE, &answer, sizeof(answer), NULL) && answer == 0;
}

#define FULL_LOG_BYTES ((FE_GUEST_BASE + (8u << 20)) / 4096 / 8)

static bool is_dirty(const struct log *log, uint64_t guest)
{
    return log->bits[guest / 4096 / 8] >> (guest / 4096 % 8) & 1;
}

static unsigned count_dirty(const struct log *log)
{
    unsigned count = 0;

    for (size_t i = 0; i < log->len_bytes; i++)
        count += (unsigned)__builtin_popcount(log->bits[i]);
    return count;
}

/* Acknowledged, since a kick goes another way and could overtake it. */
static bool log_features(struct fe *fe, bool on)
{
    fe->features = on ? fe->features | FE_F_LOG_ALL : fe->features & ~FE_F_LOG_ALL;
    return fe_acked(fe, R_SET_FEATURES, &fe->features, sizeof(fe->features), NULL, 0) == 0;
}

/* Pages that reads write to are marked, with the status and the ring; pages that writes read from are not. */
static bool log_marks_what_is_written(struct test *test, uint64_t features)
{
    struct fe fe = { 0 };
    struct log log;
    uint8_t *scratch, *data, *other;
    uint64_t log_address;
    int call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct pollfd pfd = { .fd = call, .events = POLLIN };

    CHECK(fe_start(&fe, test->path, features, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 0x10000;
    other = scratch + 0x40000;
    make_log(&fe, &log, FULL_LOG_BYTES);
    /* Started while the queue runs, as a migration does. */
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 8192, NULL) == S_OK, "%s", fe.error);
    log_address = fe_guest(&fe, fe.queues[0].used);
    CHECK(send_log(&fe, &log) && fe_send(&fe, R_SET_LOG_FD, 0, NULL, 0, &call, 1) &&
              fe_send_addr(&fe, 0, 1, log_address) && log_features(&fe, true),
          "%s", fe.error);
    /* The queue asks for kicks when it goes on, hence writes to the page of the ring. */
    CHECK(count_dirty(&log) <= 1, "%u pages are dirty too early", count_dirty(&log));

    CHECK(fe_request(&fe, 0, scratch, T_OUT, 0, other, 8192, NULL) == S_OK, "write: %s", fe.error);
    CHECK(!is_dirty(&log, fe_guest(&fe, other)) && !is_dirty(&log, fe_guest(&fe, other + 4096)),
          "pages that were only read are dirty");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data + 4000, 8192, NULL) == S_OK, "read: %s", fe.error);
    for (unsigned i = 0; i < 3; i++)
        CHECK(is_dirty(&log, fe_guest(&fe, data + i * 4096)), "page %u of the data is clean", i);
    CHECK(!is_dirty(&log, fe_guest(&fe, data + 3 * 4096)), "a page behind the data is dirty");
    CHECK(is_dirty(&log, fe_guest(&fe, scratch)), "the page of the status is clean");
    CHECK(is_dirty(&log, fe_guest(&fe, fe.packed ? (void *)fe.queues[0].pdesc : (void *)fe.queues[0].used)),
          "the page of the ring is clean");
    CHECK(count_dirty(&log) <= 6, "%u pages are dirty", count_dirty(&log));
    CHECK(poll(&pfd, 1, 5000) == 1, "nobody told of the log");

    /* Off again, while the queue runs. */
    CHECK(fe_send_addr(&fe, 0, 0, 0) && log_features(&fe, false), "%s", fe.error);
    CHECK(fe_request(&fe, 0, scratch, T_FLUSH, 0, NULL, 0, NULL) == S_OK, "%s", fe.error);
    memset(log.bits, 0, log.len_bytes);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 8192, NULL) == S_OK, "%s", fe.error);
    CHECK(count_dirty(&log) == 0, "%u pages are dirty though the log is off", count_dirty(&log));
    free_log(&log);
    close(call);
    fe_close(&fe);
    return true;
}

static bool dirty_log(struct test *test)
{
    return log_marks_what_is_written(test, USUAL);
}

static bool dirty_log_packed(struct test *test)
{
    return log_marks_what_is_written(test, USUAL | FE_F_PACKED);
}

/* Without VHOST_VRING_F_LOG the ring is the front-end's affair. */
static bool dirty_log_without_ring(struct test *test)
{
    struct fe fe = { 0 };
    struct log log;
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    make_log(&fe, &log, FULL_LOG_BYTES);
    CHECK(send_log(&fe, &log) && log_features(&fe, true), "%s", fe.error);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 8192, 4096, NULL) == S_OK, "%s", fe.error);
    CHECK(count_dirty(&log) == 2, "%u pages are dirty", count_dirty(&log));
    free_log(&log);
    fe_close(&fe);
    return true;
}

/* A log that does not cover what is written: nothing is written past its end, and nothing is lost silently. */
static bool a_log_that_is_too_small(struct test *test)
{
    struct fe fe = { 0 };
    struct log log;
    struct fe_buffer buffers[3];
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    make_log(&fe, &log, 4096);
    CHECK(send_log(&fe, &log) && log_features(&fe, true), "%s", fe.error);
    memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    free_log(&log);
    return test_ended(test, &fe);
}

static bool a_log_that_is_cut(struct test *test)
{
    struct fe fe = { 0 };
    struct log log;
    struct fe_buffer buffers[3];
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    make_log(&fe, &log, FULL_LOG_BYTES);
    CHECK(send_log(&fe, &log) && log_features(&fe, true), "%s", fe.error);
    CHECK(ftruncate(log.fd, 0) == 0, "ftruncate");
    memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    free_log(&log);
    return test_ended(test, &fe);
}

/* ---- Inflight buffer ---- */

struct inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
    uint32_t padding; /* QEMU's struct has it */
};

struct split_desc {
    uint8_t inflight, padding[5];
    uint16_t next;
    uint64_t counter;
};

struct split_region {
    uint64_t features;
    uint16_t version, desc_num, last_batch_head, used_idx;
    struct split_desc desc[16]; /* all queues here have that size */
};

struct packed_desc {
    uint8_t inflight, padding;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id, flags;
    uint32_t len;
    uint64_t addr;
};

struct packed_region {
    uint64_t features;
    uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap_counter, old_used_wrap_counter, padding[7];
    struct packed_desc desc[16];
};

struct buffer {
    struct inflight inflight;
    int fd;
    void *map;
};

static bool get_buffer(struct fe *fe, struct buffer *buffer, unsigned queues, unsigned size)
{
    struct inflight ask = { .num_queues = (uint16_t)queues, .queue_size = (uint16_t)size };

    if (!fe_send(fe, R_GET_INFLIGHT_FD, 0, &ask, 24, NULL, 0) ||
        !fe_receive(fe, R_GET_INFLIGHT_FD, &buffer->inflight, 24, &buffer->fd) || buffer->fd < 0)
        return false;
    buffer->map = mmap(NULL, buffer->inflight.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer->fd,
                       (off_t)buffer->inflight.mmap_offset);
    return buffer->map != MAP_FAILED;
}

static void own_buffer(struct buffer *buffer, size_t len_bytes)
{
    buffer->inflight = (struct inflight){ .mmap_size = len_bytes, .num_queues = 1, .queue_size = 16 };
    buffer->fd = memfd_create("inflight", MFD_CLOEXEC);
    if (ftruncate(buffer->fd, (off_t)len_bytes) < 0)
        fe_die("inflight");
    buffer->map = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, buffer->fd, 0);
}

static void free_buffer(struct buffer *buffer)
{
    munmap(buffer->map, buffer->inflight.mmap_size);
    close(buffer->fd);
}

static bool set_buffer(struct fe *fe, const struct buffer *buffer)
{
    return fe_send(fe, R_SET_INFLIGHT_FD, 0, &buffer->inflight, 24, &buffer->fd, 1);
}

/* Connect, negotiate, share memory; the queue is laid out but not sent. */
static bool prepare(struct test *test, struct fe *fe, uint64_t features)
{
    CHECK(fe_connect(fe, test->path) && fe_negotiate(fe, features), "%s", fe->error);
    fe_make_memory(fe, 8u << 20);
    fe_layout_queue(fe, 0, 16, 0);
    CHECK(fe_share_memory(fe), "%s", fe->error);
    return true;
}

/* With the back-end's buffer: it is sealed, tracks nothing when nothing is in flight, and survives a stop. */
static bool inflight_buffer_of_the_back_end(struct test *test)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct fe fe = { 0 };
        struct buffer buffer;
        uint8_t *scratch;
        uint32_t base;

        if (!prepare(test, &fe, USUAL | (packed ? FE_F_PACKED : 0)))
            return false;
        CHECK(get_buffer(&fe, &buffer, 1, 16), "%s", fe.error);
        CHECK(ftruncate(buffer.fd, 0) < 0 && ftruncate(buffer.fd, 1 << 20) < 0, "the buffer can be resized");
        CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, packed ? 0x80008000u : 0), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        for (unsigned i = 0; i < 100; i++)
            CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
        CHECK(fe_get_base(&fe, 0, &base), "%s", fe.error);
        for (unsigned i = 0; i < 16; i++)
            CHECK(packed ? ((struct packed_region *)buffer.map)->desc[i].inflight == 0
                         : ((struct split_region *)buffer.map)->desc[i].inflight == 0,
                  "entry %u is in flight", i);
        CHECK(packed || ((struct split_region *)buffer.map)->used_idx == 100, "used_idx %u",
              ((struct split_region *)buffer.map)->used_idx);
        CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, base), "%s", fe.error);
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "after a stop: %s", fe.error);
        free_buffer(&buffer);
        fe_close(&fe);
    }
    return true;
}

/*
 * A buffer that was asked for by a smaller size than the rings have: QEMU 10 asks for queue-size and makes rings of
 * 1024. What counts is what fits, for each of the queues.
 */
static bool rings_larger_than_the_buffer_was_asked_for(struct test *test)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct fe fe = { 0 };
        struct buffer buffer;
        uint8_t *scratch;

        CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL | (packed ? FE_F_PACKED : 0)), "%s", fe.error);
        fe_make_memory(&fe, 8u << 20);
        CHECK(fe_share_memory(&fe) && get_buffer(&fe, &buffer, 2, 128) && set_buffer(&fe, &buffer), "%s", fe.error);
        for (unsigned q = 0; q < 2; q++) {
            fe_layout_queue(&fe, q, 1024, q * FE_RING_BYTES);
            CHECK(fe_send_queue(&fe, q, packed ? 0x80008000u : 0), "%s", fe.error);
        }
        scratch = FE_DATA(&fe, 2);
        for (unsigned i = 0; i < 2100; i++)
            CHECK(fe_request(&fe, i % 2, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "queue %u: %s", i % 2,
                  fe.error);
        free_buffer(&buffer);
        fe_close(&fe);
    }
    return true;
}

/* A read request at a slot of memory, its status byte unset. */
static void build_request(struct fe *fe, uint8_t *slot)
{
    memcpy(slot, &(struct fe_header){ T_IN, 0, 0 }, 16);
    slot[32] = S_NONE;
}

/* Strike id from those that are left; false if it is none of them. No id here is 0. */
static bool take_one(uint32_t *left, unsigned count, uint32_t id)
{
    for (unsigned i = 0; i < count; i++) {
        if (id != 0 && left[i] == id) {
            left[i] = 0;
            return true;
        }
    }
    return false;
}

/*
 * What a crash leaves behind, by our own hand: heads 5 and 9 were fetched in this order and not given back, 2 is
 * available and was not fetched. The back-end must do all three once; it starts them in this order, but how soon each
 * is done is the storage's affair.
 */
static bool what_a_crash_left_is_done_again(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_queue *q = &fe.queues[0];
    static const uint16_t order[] = { 5, 9, 2 };
    uint32_t left[] = { 5, 9, 2 };
    struct split_region *region;
    struct buffer buffer;
    uint8_t *scratch;

    if (!prepare(test, &fe, USUAL))
        return false;
    own_buffer(&buffer, 4096);
    region = buffer.map;
    region->version = 1;
    region->desc_num = 16;
    region->used_idx = 7;
    region->desc[5] = (struct split_desc){ .inflight = 1, .counter = 40 };
    region->desc[9] = (struct split_desc){ .inflight = 1, .counter = 41 };
    scratch = FE_DATA(&fe, 1);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *slot = scratch + i * 8192;
        uint16_t head = order[i];

        build_request(&fe, slot);
        q->desc[head] = (struct fe_desc){ fe_guest(&fe, slot), 16, DESC_NEXT, 12 };
        /* All share one data and one status descriptor: what counts is that they are done. */
    }
    q->desc[12] = (struct fe_desc){ fe_guest(&fe, scratch + 4096), 512, DESC_NEXT | DESC_WRITE, 13 };
    q->desc[13] = (struct fe_desc){ fe_guest(&fe, scratch + 32), 1, DESC_WRITE, 0 };
    /* 7 were used; 9 were fetched; 10 are available. The ring's entries of what was fetched are gone. */
    q->used[1] = q->used_seen = 7;
    for (unsigned i = 0; i < 16; i++)
        q->avail[2 + i] = 0xdead;
    q->avail[2 + 9] = 2;
    q->avail[1] = 10;
    /* All a front-end knows after the crash is the used index. */
    CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 7), "%s", fe.error);
    fe_kick(&fe, 0);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t id, len;

        CHECK(fe_wait(&fe, 0, &id, &len), "queue %u: %s", i % 2, fe.error);
        CHECK(take_one(left, 3, id), "request %u was %u, which is none of those that are left", i, id);
    }
    CHECK(scratch[32] == S_OK, "status %u", scratch[32]);
    CHECK(region->used_idx == 10 && region->desc[5].inflight == 0 && region->desc[9].inflight == 0, "still in flight");
    free_buffer(&buffer);
    fe_close(&fe);
    return true;
}

/* The same with a packed ring: two chains whose descriptors exist in the buffer only. */
static bool what_a_crash_left_is_done_again_packed(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_queue *q = &fe.queues[0];
    struct packed_region *region;
    struct buffer buffer;
    uint8_t *scratch;
    uint32_t left[] = { 21, 20 };
    uint32_t id, len;

    if (!prepare(test, &fe, USUAL | FE_F_PACKED))
        return false;
    own_buffer(&buffer, 4096);
    region = buffer.map;
    scratch = FE_DATA(&fe, 1);
    region->version = 1;
    region->desc_num = 16;
    region->used_idx = region->old_used_idx = 4;
    region->used_wrap_counter = region->old_used_wrap_counter = 1;
    region->free_head = region->old_free_head = 6;
    for (unsigned i = 0; i < 16; i++)
        region->desc[i].next = (uint16_t)(i + 1);
    for (unsigned chain = 0; chain < 2; chain++) {
        uint8_t *slot = scratch + chain * 8192;
        struct packed_desc *d = &region->desc[chain * 3];

        build_request(&fe, slot);
        d[0].inflight = 1;
        d[0].num = 3;
        d[0].last = (uint16_t)(chain * 3 + 2);
        d[0].counter = 10 - chain; /* the second was fetched first */
        d[0].addr = fe_guest(&fe, slot);
        d[0].len = 16;
        d[0].flags = DESC_NEXT;
        d[1].addr = fe_guest(&fe, slot + 4096);
        d[1].len = 512;
        d[1].flags = DESC_NEXT | DESC_WRITE;
        d[2].addr = fe_guest(&fe, slot + 32);
        d[2].len = 1;
        d[2].flags = DESC_WRITE;
        for (unsigned i = 0; i < 3; i++)
            d[i].id = (uint16_t)(20 + chain);
        q->places[20 + chain] = 3;
    }
    q->used_next = 4;
    q->next = 10;
    CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 0x80048004u), "%s", fe.error);
    fe_kick(&fe, 0);
    CHECK(fe_wait(&fe, 0, &id, &len) && take_one(left, 2, id), "the first: %s", fe.error);
    CHECK(fe_wait(&fe, 0, &id, &len) && take_one(left, 2, id), "the second: %s", fe.error);
    CHECK(scratch[32] == S_OK && scratch[8192 + 32] == S_OK, "status");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "and on: %s", fe.error);
    free_buffer(&buffer);
    fe_close(&fe);
    return true;
}

static bool lying_split_buffers(struct test *test)
{
    static const struct {
        struct split_region region;
        uint16_t next, used_idx;
    } cases[] = {
        { { .version = 2, .desc_num = 16 }, 0, 0 },
        { { .version = 0xffff, .desc_num = 16 }, 0, 0 },
        { { .version = 1, .desc_num = 0 }, 0, 0 },
        { { .version = 1, .desc_num = 0xffff }, 0, 0 },
        { { .version = 1, .desc_num = 16, .used_idx = 1 }, 0, 0 },
        { { .version = 1, .desc_num = 16, .used_idx = 0 }, 0, 17 },
        { { .version = 1, .desc_num = 16, .last_batch_head = 16 }, 0, 1 },
        { { .version = 1, .desc_num = 16, .last_batch_head = 0xffff }, 0, 1 },
        { { .version = 1, .desc_num = 16, .last_batch_head = 0 }, 0xffff, 2 },
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };
        struct buffer buffer;
        struct split_region *region;

        if (!prepare(test, &fe, USUAL))
            return false;
        own_buffer(&buffer, 4096);
        region = buffer.map;
        *region = cases[i].region;
        region->desc[0].next = cases[i].next;
        fe.queues[0].used[1] = cases[i].used_idx;
        CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 0), "%s", fe.error);
        free_buffer(&buffer);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    return true;
}

/* All sixteen in flight, all with bad descriptors; and heads that the driver makes available a second time. */
static bool a_split_buffer_full_of_bad_heads(struct test *test)
{
    struct fe fe = { 0 };
    struct buffer buffer;
    struct split_region *region;

    if (!prepare(test, &fe, USUAL))
        return false;
    own_buffer(&buffer, 4096);
    region = buffer.map;
    region->version = 1;
    region->desc_num = 16;
    for (unsigned i = 0; i < 16; i++) {
        region->desc[i] = (struct split_desc){ .inflight = 0xff, .next = 0xffff, .counter = ~0ull };
        fe.queues[0].desc[i] = (struct fe_desc){ ~0ull, ~0u, 0xffff, 0xffff };
    }
    CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 0), "%s", fe.error);
    fe_kick(&fe, 0);
    free_buffer(&buffer);
    return test_ended(test, &fe);
}

static bool lying_packed_buffers(struct test *test)
{
    static const struct {
        struct packed_region region;
        struct packed_desc first;
    } cases[] = {
        { { .version = 2, .desc_num = 16 }, { 0 } },
        { { .version = 1, .desc_num = 15 }, { 0 } },
        { { .version = 1, .desc_num = 16, .used_idx = 16 }, { 0 } },
        { { .version = 1, .desc_num = 16, .old_used_idx = 0xffff }, { 0 } },
        { { .version = 1, .desc_num = 16, .old_free_head = 17 }, { 0 } },
        { { .version = 1, .desc_num = 16, .free_head = 0xffff }, { 0 } },
        { { .version = 1, .desc_num = 16, .used_wrap_counter = 2 }, { 0 } },
        { { .version = 1, .desc_num = 16 }, { .next = 0 } },      /* a free list that leads to itself */
        { { .version = 1, .desc_num = 16 }, { .next = 0xffff } }, /* or nowhere */
        { { .version = 1, .desc_num = 16, .free_head = 1, .old_free_head = 1 },
          { .inflight = 1, .num = 0, .last = 0 } },
        { { .version = 1, .desc_num = 16, .free_head = 1, .old_free_head = 1 },
          { .inflight = 1, .num = 0xffff, .last = 0 } },
        { { .version = 1, .desc_num = 16, .free_head = 1, .old_free_head = 1 },
          { .inflight = 1, .num = 1, .last = 9 } },
        { { .version = 1, .desc_num = 16, .free_head = 1, .old_free_head = 1 },
          { .inflight = 1, .num = 2, .next = 5, .last = 5 } },
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };
        struct buffer buffer;
        struct packed_region *region;

        if (!prepare(test, &fe, USUAL | FE_F_PACKED))
            return false;
        own_buffer(&buffer, 4096);
        region = buffer.map;
        *region = cases[i].region;
        for (unsigned d = 0; d < 16; d++)
            region->desc[d].next = (uint16_t)(d + 1);
        region->desc[0] = cases[i].first;
        CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 0x80008000u), "%s", fe.error);
        free_buffer(&buffer);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    return true;
}

static bool bad_geometry(struct test *test)
{
    static const struct inflight cases[] = {
        { .mmap_size = 4096, .num_queues = 0, .queue_size = 16 },
        { .mmap_size = 4096, .num_queues = 0xffff, .queue_size = 16 },
        { .mmap_size = 4096, .num_queues = 1, .queue_size = 0 },
        { .mmap_size = 4096, .num_queues = 1, .queue_size = 1025 },
        { .mmap_size = 0, .num_queues = 1, .queue_size = 16 },
        { .mmap_size = 4097, .num_queues = 1, .queue_size = 16 }, /* beyond the file */
        { .mmap_size = ~0ull, .num_queues = 1, .queue_size = 16 },
        { .mmap_size = 4096, .mmap_offset = ~0ull, .num_queues = 1, .queue_size = 16 },
        { .mmap_size = 2048, .mmap_offset = 3, .num_queues = 1, .queue_size = 16 }, /* not aligned */
        { .mmap_size = 2044, .num_queues = 1, .queue_size = 16 },
        { .mmap_size = 64, .num_queues = 1, .queue_size = 16 }, /* too small for the queue */
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fe fe = { 0 };
        struct buffer buffer;

        if (!prepare(test, &fe, USUAL))
            return false;
        own_buffer(&buffer, 4096);
        CHECK(fe_send(&fe, R_SET_INFLIGHT_FD, 0, &cases[i], 24, &buffer.fd, 1), "%s", fe.error);
        fe_send_queue(&fe, 0, 0);
        free_buffer(&buffer);
        if (!test_ended(test, &fe))
            return test_failed(test, __LINE__, "case %u", i);
    }
    return true;
}

/* The buffer is the front-end's: it is cut while a queue runs. */
static bool an_inflight_buffer_that_is_cut(struct test *test)
{
    struct fe fe = { 0 };
    struct buffer buffer;
    struct fe_buffer buffers[3];
    uint8_t *scratch;

    if (!prepare(test, &fe, USUAL))
        return false;
    own_buffer(&buffer, 4096);
    CHECK(set_buffer(&fe, &buffer) && fe_send_queue(&fe, 0, 0), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
    CHECK(ftruncate(buffer.fd, 0) == 0, "ftruncate");
    build_request(&fe, scratch);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    free_buffer(&buffer);
    return test_ended(test, &fe);
}

const struct test_case migration_cases[] = {
    { "dirty_log", dirty_log, NEEDS_WRITABLE },
    { "dirty_log_packed", dirty_log_packed, NEEDS_WRITABLE },
    { "dirty_log_without_ring", dirty_log_without_ring, 0 },
    { "a_log_that_is_too_small", a_log_that_is_too_small, 0 },
    { "a_log_that_is_cut", a_log_that_is_cut, 0 },
    { "inflight_buffer_of_the_back_end", inflight_buffer_of_the_back_end, 0 },
    { "rings_larger_than_the_buffer_was_asked_for", rings_larger_than_the_buffer_was_asked_for, NEEDS_QUEUES },
    { "what_a_crash_left_is_done_again", what_a_crash_left_is_done_again, 0 },
    { "what_a_crash_left_is_done_again_packed", what_a_crash_left_is_done_again_packed, 0 },
    { "lying_split_buffers", lying_split_buffers, 0 },
    { "a_split_buffer_full_of_bad_heads", a_split_buffer_full_of_bad_heads, 0 },
    { "lying_packed_buffers", lying_packed_buffers, 0 },
    { "bad_geometry", bad_geometry, 0 },
    { "an_inflight_buffer_that_is_cut", an_inflight_buffer_that_is_cut, 0 },
    { 0 },
};
