/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk as a well-behaved driver sees it, and requests that it answers with an error. Source: VIRTIO 1.2, 5.2. */
#include <string.h>
#include <time.h>

#include "tests/vhost/test.h"

struct config { /* 5.2.4 */
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

struct range {
    uint64_t sector;
    uint32_t num_sectors, flags;
};

#define SECTOR 512u

static void fill(uint8_t *p, size_t len_bytes, unsigned seed)
{
    for (size_t i = 0; i < len_bytes; i++)
        p[i] = (uint8_t)(seed + i * 7 + i / 251);
}

static bool is_filled(const uint8_t *p, size_t len_bytes, unsigned seed)
{
    for (size_t i = 0; i < len_bytes; i++) {
        if (p[i] != (uint8_t)(seed + i * 7 + i / 251))
            return false;
    }
    return true;
}

static bool all(const uint8_t *p, size_t len_bytes, uint8_t value)
{
    for (size_t i = 0; i < len_bytes; i++) {
        if (p[i] != value)
            return false;
    }
    return true;
}

/* Write, read back, flush, discard, zero: with the given features. */
static bool round_trip(struct test *test, uint64_t features)
{
    struct fe fe = { 0 };
    uint8_t *scratch, *data;
    uint32_t len;

    CHECK(fe_start(&fe, test->path, features, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 4096;
    for (unsigned i = 0; i < 200; i++) {
        uint32_t bytes = SECTOR * (1 + i * 37 % 256);
        uint64_t sector = i * 61 % 1000;

        fill(data, bytes, i);
        CHECK(fe_request(&fe, 0, scratch, T_OUT, sector, data, bytes, &len) == S_OK, "write %u: %s", i, fe.error);
        CHECK(len == 1, "write %u: used length %u", i, len);
        memset(data, 0, bytes);
        CHECK(fe_request(&fe, 0, scratch, T_IN, sector, data, bytes, &len) == S_OK, "read %u: %s", i, fe.error);
        CHECK(len == bytes + 1, "read %u: used length %u", i, len);
        CHECK(is_filled(data, bytes, i), "read %u: other data", i);
    }
    CHECK(fe_request(&fe, 0, scratch, T_FLUSH, 0, NULL, 0, NULL) == S_OK, "flush: %s", fe.error);
    fe_close(&fe);
    return true;
}

static bool split_round_trip(struct test *test)
{
    return round_trip(test, FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_FLUSH);
}

static bool split_event_idx_round_trip(struct test *test)
{
    return round_trip(test, FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_FLUSH | FE_F_EVENT_IDX);
}

static bool packed_round_trip(struct test *test)
{
    return round_trip(test, FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_FLUSH | FE_F_PACKED);
}

static bool packed_event_idx_round_trip(struct test *test)
{
    return round_trip(test, FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_FLUSH | FE_F_PACKED | FE_F_EVENT_IDX);
}

static bool legacy_round_trip(struct test *test)
{
    return round_trip(test, FE_F_PROTOCOL);
}

/* Without protocol features rings are enabled from the start, and memory comes as a table. */
static bool without_protocol_features(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;

    CHECK(fe_connect(&fe, test->path), "%s", fe.error);
    CHECK(fe_send(&fe, R_SET_OWNER, 0, NULL, 0, NULL, 0) && fe_set_features(&fe, FE_F_VERSION_1), "%s", fe.error);
    fe_make_memory(&fe, 8u << 20);
    CHECK(fe_share_memory(&fe), "%s", fe.error);
    fe_layout_queue(&fe, 0, 16, 0);
    CHECK(fe_set_state(&fe, R_SET_VRING_NUM, 0, 16) && fe_send_addr(&fe, 0, 0, 0) &&
              fe_set_state(&fe, R_SET_VRING_BASE, 0, 0) &&
              fe_set_vring_fd(&fe, R_SET_VRING_CALL, 0, fe.queues[0].call_fd) &&
              fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, fe.queues[0].kick_fd),
          "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 4096, NULL) == S_OK, "read: %s", fe.error);
    fe_close(&fe);
    return true;
}

static bool mem_table_of_two_regions(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    fe.protocol_features &= ~FE_P_MEM_SLOTS;
    fe_make_memory(&fe, 8u << 20);
    /* Twice: a new table replaces the old one. */
    CHECK(fe_share_memory(&fe) && fe_share_memory(&fe), "%s", fe.error);
    fe_layout_queue(&fe, 0, 16, 0);
    CHECK(fe_send_queue(&fe, 0, 0), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 4096, NULL) == S_OK, "read: %s", fe.error);
    fe_close(&fe);
    return true;
}

/* Data in 30 pieces of odd sizes, header and status split and merged as no driver does it, across two regions. */
static bool framing_is_free(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[40];
    uint8_t *scratch, *data, *read;
    unsigned count = 0;
    uint32_t id, len, at = 0;

    for (unsigned packed = 0; packed < 2; packed++) {
        CHECK(fe_start(&fe, test->path, USUAL | (packed ? FE_F_PACKED : 0), 1, 64), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        data = fe.ram + fe.a_bytes - 4096; /* region A ends within it */
        read = fe.ram + fe.a_bytes + 65536;
        fill(data, 8192, 99);

        /* Write: header byte by byte, data in odd pieces; the last piece of the header has data behind it. */
        memcpy(data - 16, &(struct fe_header){ T_OUT, 0, 40 }, 16);
        count = at = 0;
        for (; at < 8; at++)
            buffers[count++] = (struct fe_buffer){ data - 16 + at, 1, false };
        while (at < 16 + 8192) {
            uint32_t n = at == 8 ? 100 : 1 + at * 13 % 701;

            n = n < 16 + 8192 - at ? n : 16 + 8192 - at;
            buffers[count++] = (struct fe_buffer){ data - 16 + at, n, false };
            at += n;
        }
        scratch[0] = S_NONE;
        buffers[count++] = (struct fe_buffer){ scratch, 1, true };
        fe_offer(&fe, 0, 5, buffers, count);
        fe_kick(&fe, 0);
        CHECK(fe_wait(&fe, 0, &id, &len) && id == 5 && scratch[0] == S_OK, "write: %s, status %u", fe.error,
              scratch[0]);

        /* Read: the status is the last byte of the only writable buffer. */
        memcpy(scratch + 64, &(struct fe_header){ T_IN, 0, 40 }, 16);
        read[8192] = S_NONE;
        buffers[0] = (struct fe_buffer){ scratch + 64, 16, false };
        buffers[1] = (struct fe_buffer){ read, 8193, true };
        fe_offer_indirect(&fe, 0, 5, buffers, 2, scratch + 128);
        fe_kick(&fe, 0);
        CHECK(fe_wait(&fe, 0, &id, &len) && id == 5 && read[8192] == S_OK, "read: %s", fe.error);
        CHECK(len == 8193 && is_filled(read, 8192, 99), "read: other data");
        CHECK(fe_guards_intact(&fe), "memory outside the regions was written to");
        fe_close(&fe);
    }
    return true;
}

static bool config_space(struct test *test)
{
    struct fe fe = { 0 };
    struct config config;
    uint8_t space[256];
    uint64_t queues;

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    CHECK(fe_get_config(&fe, 0, &config, sizeof(config)), "%s", fe.error);
    CHECK(config.capacity > 0, "capacity %llu", (unsigned long long)config.capacity);
    CHECK(config.blk_size >= 512 && (config.blk_size & (config.blk_size - 1)) == 0, "blk_size %u", config.blk_size);
    CHECK(config.seg_max > 0 && config.size_max >= 4096, "seg_max %u, size_max %u", config.seg_max, config.size_max);
    CHECK(config.max_discard_seg > 0 && config.max_write_zeroes_seg > 0, "no segments to discard");
    CHECK(fe_get_u64(&fe, R_GET_QUEUE_NUM, &queues) && config.num_queues == queues, "num_queues %u", config.num_queues);
    /* Piecewise, beyond the fields, and with the most that a message can ask for. */
    CHECK(fe_get_config(&fe, 20, space, 4) && memcmp(space, &config.blk_size, 4) == 0, "blk_size by itself");
    CHECK(fe_get_config(&fe, 0, space, 256) && memcmp(space, &config, sizeof(config)) == 0, "%s", fe.error);
    CHECK(all(space + sizeof(config), 256 - sizeof(config), 0), "not zero behind the fields");
    fe_close(&fe);
    return true;
}

static bool config_out_of_range_is_refused(struct test *test)
{
    struct fe fe = { 0 };
    uint32_t access[3] = { 250, 7, 0 };
    uint8_t bytes[12 + 7] = { 0 };

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    memcpy(bytes, access, sizeof(access));
    CHECK(fe_send(&fe, R_GET_CONFIG, 0, bytes, sizeof(bytes), NULL, 0), "%s", fe.error);
    CHECK(fe_receive(&fe, R_GET_CONFIG, NULL, 0, NULL), "not an empty reply: %s", fe.error);
    fe_close(&fe);
    return true;
}

static bool only_writeback_can_be_set(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t value = 0, space[60];

    CHECK(fe_connect(&fe, test->path) && fe_negotiate(&fe, USUAL), "%s", fe.error);
    CHECK(fe_set_config(&fe, 32, 0, &value, 1), "writeback = 0: %s", fe.error);
    CHECK(fe_get_config(&fe, 32, &value, 1) && value == 0, "writeback is still 1");
    value = 2;
    CHECK(!fe_set_config(&fe, 32, 0, &value, 1), "writeback = 2 was accepted");
    CHECK(!fe_set_config(&fe, 0, 0, &value, 1), "the capacity was set");
    CHECK(fe_get_config(&fe, 0, space, 60), "%s", fe.error);
    CHECK(!fe_set_config(&fe, 0, 0, space, 60), "the whole space was set");
    space[32] = 1;
    CHECK(fe_set_config(&fe, 0, 1, space, 60), "refused in a migration: %s", fe.error);
    CHECK(fe_get_config(&fe, 32, &value, 1) && value == 1, "writeback was not taken over");
    fe_close(&fe);
    return true;
}

static bool get_id(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch, *id;
    uint32_t len;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    id = scratch + 64;
    memset(id, 0x77, 64);
    CHECK(fe_request(&fe, 0, scratch, T_GET_ID, 0, id, 20, &len) == S_OK && len == 21, "%s, length %u", fe.error, len);
    CHECK(id[0] != 0 && id[0] != 0x77, "the serial is empty");
    CHECK(all(id + 20, 44, 0x77), "more than 20 bytes were written");
    memset(id, 0x77, 64);
    CHECK(fe_request(&fe, 0, scratch, T_GET_ID, 0, id, 3, &len) == S_OK && len == 4, "3 bytes: %s", fe.error);
    CHECK(all(id + 3, 61, 0x77), "more than 3 bytes were written");
    CHECK(fe_request(&fe, 0, scratch, T_GET_ID, 0, id, 64, NULL) == S_OK && all(id + 20, 44, 0x77), "64 bytes");
    fe_close(&fe);
    return true;
}

static bool discard_and_zero(struct test *test)
{
    struct fe fe = { 0 };
    struct range *ranges;
    uint8_t *scratch, *data;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 4096;
    ranges = (struct range *)(scratch + 64);
    memset(data, 0xee, 65536);
    CHECK(fe_request(&fe, 0, scratch, T_OUT, 0, data, 65536, NULL) == S_OK, "write: %s", fe.error);
    /* Two ranges, one with and one without the permission to unmap, and an empty one. */
    ranges[0] = (struct range){ 8, 16, 1 };
    ranges[1] = (struct range){ 0, 0, 0 };
    ranges[2] = (struct range){ 40, 8, 0 };
    CHECK(fe_request(&fe, 0, scratch, T_WRITE_ZEROES, 0, ranges, 48, NULL) == S_OK, "write zeroes: %s", fe.error);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 65536, NULL) == S_OK, "read: %s", fe.error);
    CHECK(all(data, 8 * SECTOR, 0xee) && all(data + 8 * SECTOR, 16 * SECTOR, 0) &&
              all(data + 24 * SECTOR, 16 * SECTOR, 0xee) && all(data + 40 * SECTOR, 8 * SECTOR, 0) &&
              all(data + 48 * SECTOR, 80 * SECTOR, 0xee),
          "not the ranges are zero");
    ranges[0] = (struct range){ 64, 64, 0 };
    CHECK(fe_request(&fe, 0, scratch, T_DISCARD, 0, ranges, 16, NULL) == S_OK, "discard: %s", fe.error);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 48, data, 16 * SECTOR, NULL) == S_OK && all(data, 16 * SECTOR, 0xee),
          "more was discarded");
    fe_close(&fe);
    return true;
}

static bool bad_ranges_are_refused(struct test *test)
{
    static const struct {
        uint32_t type;
        struct range range;
        uint32_t len_bytes;
        unsigned status;
    } cases[] = {
        { T_DISCARD, { 0, 8, 1 }, 16, S_UNSUPP },
        { T_DISCARD, { 0, 8, 2 }, 16, S_UNSUPP },
        { T_WRITE_ZEROES, { 0, 8, 2 }, 16, S_UNSUPP },
        { T_WRITE_ZEROES, { 0, 8, 0x80000000u }, 16, S_UNSUPP },
        { T_DISCARD, { 0, 8, 0 }, 15, S_IOERR },
        { T_DISCARD, { 0, 8, 0 }, 0, S_IOERR },
        { T_DISCARD, { 0, 8, 0 }, 16 * 17, S_IOERR },
        { T_DISCARD, { ~0ull, 8, 0 }, 16, S_IOERR },
        { T_DISCARD, { 0, ~0u, 0 }, 16, S_IOERR },
        { T_WRITE_ZEROES, { ~0ull / 512, 1, 0 }, 16, S_IOERR },
        { T_WRITE_ZEROES, { 1ull << 55, 1, 0 }, 16, S_IOERR },
    };
    struct fe fe = { 0 };
    uint8_t *scratch;
    uint64_t capacity;
    unsigned status;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(scratch + 64, 0, 16 * 17);
        memcpy(scratch + 64, &cases[i].range, 16);
        status = fe_request(&fe, 0, scratch, cases[i].type, 0, scratch + 64, cases[i].len_bytes, NULL);
        CHECK(status == cases[i].status, "case %u: status %u, %s", i, status, fe.error);
    }
    CHECK(test_capacity(test, &fe, &capacity), "capacity");
    memcpy(scratch + 64, &(struct range){ capacity - 8, 9, 0 }, 16);
    status = fe_request(&fe, 0, scratch, T_DISCARD, 0, scratch + 64, 16, NULL);
    CHECK(status == S_IOERR, "over the end: status %u", status);
    fe_close(&fe);
    return true;
}

static bool bad_requests_are_answered(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch, *data;
    uint64_t capacity;
    uint32_t len;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 4096;
    CHECK(test_capacity(test, &fe, &capacity), "capacity");
    CHECK(fe_request(&fe, 0, scratch, T_IN, capacity - 1, data, 512, NULL) == S_OK, "the last sector: %s", fe.error);
    memset(data, 0x33, 1024);
    CHECK(fe_request(&fe, 0, scratch, T_IN, capacity - 1, data, 1024, &len) == S_IOERR, "over the end");
    CHECK(len == 0 && all(data, 1024, 0x33), "data came with an error, length %u", len);
    CHECK(fe_request(&fe, 0, scratch, T_IN, capacity, data, 512, NULL) == S_IOERR, "behind the end");
    CHECK(fe_request(&fe, 0, scratch, T_IN, ~0ull, data, 512, NULL) == S_IOERR, "sector 2^64 - 1");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 1ull << 55, data, 512, NULL) == S_IOERR, "a sector that overflows");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 511, NULL) == S_IOERR, "511 bytes");
    CHECK(fe_request(&fe, 0, scratch, T_OUT, 0, data, 513, NULL) == S_IOERR, "513 bytes");
    CHECK(fe_request(&fe, 0, scratch, 2, 0, data, 512, NULL) == S_UNSUPP, "a SCSI request");
    CHECK(fe_request(&fe, 0, scratch, 14, 0, data, 16, NULL) == S_UNSUPP, "secure erase");
    CHECK(fe_request(&fe, 0, scratch, 0x12345678, 0, data, 512, NULL) == S_UNSUPP, "an unknown type");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, NULL, 0, NULL) == S_OK, "a read of nothing");
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 512, NULL) == S_OK, "afterwards: %s", fe.error);
    fe_close(&fe);
    return true;
}

static bool a_read_only_disk_refuses_changes(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;
    struct range range = { 0, 8, 0 };

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    memcpy(scratch + 64, &range, sizeof(range));
    CHECK(!(fe.features & (FE_F_DISCARD | FE_F_WRITE_ZEROES)), "discard is on offer");
    CHECK(fe_request(&fe, 0, scratch, T_OUT, 0, scratch + 4096, 512, NULL) == S_IOERR, "write");
    CHECK(fe_request(&fe, 0, scratch, T_DISCARD, 0, scratch + 64, 16, NULL) == S_IOERR, "discard");
    CHECK(fe_request(&fe, 0, scratch, T_WRITE_ZEROES, 0, scratch + 64, 16, NULL) == S_IOERR, "write zeroes");
    CHECK(fe_request(&fe, 0, scratch, T_FLUSH, 0, NULL, 0, NULL) == S_OK, "flush: %s", fe.error);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "read: %s", fe.error);
    fe_close(&fe);
    return true;
}

/* Four queues at once, many requests in each, all answered once and with the right data. */
static bool four_queues(struct test *test)
{
    struct fe fe = { 0 };
    const unsigned depth = 16;
    uint8_t *area;

    CHECK(fe_start(&fe, test->path, USUAL, 4, 64), "%s", fe.error);
    area = FE_DATA(&fe, 4);
    for (unsigned q = 0; q < 4; q++) {
        for (unsigned i = 0; i < depth; i++) {
            uint8_t *slot = area + (q * depth + i) * 8192;
            struct fe_buffer buffers[3] = { { slot, 16, false }, { slot + 4096, 4096, false }, { slot + 32, 1, true } };

            memcpy(slot, &(struct fe_header){ T_OUT, 0, (q * depth + i) * 8 }, 16);
            fill(slot + 4096, 4096, q * depth + i);
            slot[32] = S_NONE;
            fe_offer(&fe, q, i * 3, buffers, 3);
        }
        fe_kick(&fe, q);
    }
    for (unsigned q = 0; q < 4; q++) {
        for (unsigned i = 0; i < depth; i++) {
            uint32_t id, len;

            CHECK(fe_wait(&fe, q, &id, &len), "%s", fe.error);
            CHECK(id % 3 == 0 && id / 3 < depth, "id %u", id);
            CHECK(area[(q * depth + id / 3) * 8192 + 32] == S_OK, "status of %u", id);
            area[(q * depth + id / 3) * 8192 + 32] = S_NONE; /* a second answer would be noticed */
        }
    }
    for (unsigned i = 0; i < 4 * depth; i++) {
        uint8_t *scratch = fe.ram + fe.ram_bytes - 65536;

        CHECK(fe_request(&fe, i % 4, scratch, T_IN, i * 8, scratch + 4096, 4096, NULL) == S_OK, "read: %s", fe.error);
        CHECK(is_filled(scratch + 4096, 4096, i), "other data");
    }
    fe_close(&fe);
    return true;
}

/* 1 MiB in 126 segments and in one. */
static bool large_requests(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[128];
    uint8_t *scratch, *data;
    uint32_t id, len;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 256), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 65536;
    fill(data, 126 * 8192, 3);
    memcpy(scratch, &(struct fe_header){ T_OUT, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    for (unsigned i = 0; i < 126; i++)
        buffers[1 + i] = (struct fe_buffer){ data + i * 8192, 8192, false };
    buffers[127] = (struct fe_buffer){ scratch + 32, 1, true };
    scratch[32] = S_NONE;
    fe_offer_indirect(&fe, 0, 0, buffers, 128, scratch + 4096);
    fe_kick(&fe, 0);
    CHECK(fe_wait(&fe, 0, &id, &len) && scratch[32] == S_OK, "write: %s", fe.error);
    memset(data, 0, 126 * 8192);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, data, 126 * 8192, NULL) == S_OK, "read: %s", fe.error);
    CHECK(is_filled(data, 126 * 8192, 3), "other data");
    fe_close(&fe);
    return true;
}

/* A transfer of so many segments of 512 bytes; its status, S_NONE without an answer. */
static unsigned long_transfer(struct fe *fe, uint32_t type, unsigned segments, uint8_t *scratch, uint8_t *data)
{
    struct fe_buffer buffers[1026];
    uint32_t id, len;

    memcpy(scratch, &(struct fe_header){ type, 0, 0 }, 16);
    scratch[32] = S_NONE;
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    for (unsigned i = 0; i < segments; i++)
        buffers[1 + i] = (struct fe_buffer){ data + i * SECTOR, SECTOR, type == T_IN };
    buffers[1 + segments] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer_indirect(fe, 0, 0, buffers, segments + 2, scratch + 4096);
    fe_kick(fe, 0);
    return fe_wait(fe, 0, &id, &len) ? scratch[32] : S_NONE;
}

/*
 * More segments than seg_max, and chains longer than the queue, in a table: Windows' driver sends up to 513. The bound
 * is 1024 descriptors.
 */
static bool tables_longer_than_the_queue(struct test *test)
{
    static const unsigned segments[] = { 127, 129, 158, 159, 254, 513, 1022 };

    for (unsigned packed = 0; packed < 2; packed++) {
        struct fe fe = { 0 };
        uint8_t *scratch, *data;

        CHECK(fe_start(&fe, test->path, USUAL | (packed ? FE_F_PACKED : 0), 1, 16), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        data = scratch + 65536;
        for (unsigned i = 0; i < sizeof(segments) / sizeof(segments[0]); i++) {
            fill(data, segments[i] * SECTOR, i);
            CHECK(long_transfer(&fe, T_OUT, segments[i], scratch, data) == S_OK, "write %u: %s", segments[i], fe.error);
            memset(data, 0, segments[i] * SECTOR);
            CHECK(long_transfer(&fe, T_IN, segments[i], scratch, data) == S_OK, "read %u: %s", segments[i], fe.error);
            CHECK(is_filled(data, segments[i] * SECTOR, i), "read %u: other data", segments[i]);
        }
        CHECK(long_transfer(&fe, T_IN, 1023, scratch, data) == S_NONE, "1025 descriptors were taken");
        if (!test_ended(test, &fe))
            return false;
    }
    return true;
}

/* More long chains in flight than there is room for at once: all are served, between short ones. */
static bool many_long_chains_at_once(struct test *test)
{
    enum { DEPTH = 128, SEGMENTS = 200 };
    struct fe_buffer buffers[SEGMENTS + 2];
    bool seen[DEPTH];

    for (unsigned packed = 0; packed < 2; packed++) {
        struct fe fe = { 0 };
        uint8_t *area;
        uint32_t id, len;

        CHECK(fe_start(&fe, test->path, USUAL | (packed ? FE_F_PACKED : 0), 1, DEPTH), "%s", fe.error);
        area = FE_DATA(&fe, 1);
        memset(seen, 0, sizeof(seen));
        for (unsigned i = 0; i < DEPTH; i++) {
            uint8_t *slot = area + i * 16384;
            unsigned segments = i % 4 == 3 ? 1 : SEGMENTS;

            memcpy(slot, &(struct fe_header){ T_IN, 0, i * 8 }, 16);
            slot[32] = S_NONE;
            buffers[0] = (struct fe_buffer){ slot, 16, false };
            for (unsigned n = 0; n < segments; n++)
                buffers[1 + n] = (struct fe_buffer){ area + DEPTH * 16384 + n * SECTOR, SECTOR, true };
            buffers[1 + segments] = (struct fe_buffer){ slot + 32, 1, true };
            fe_offer_indirect(&fe, 0, i, buffers, segments + 2, slot + 64);
        }
        fe_kick(&fe, 0);
        for (unsigned i = 0; i < DEPTH; i++) {
            CHECK(fe_wait(&fe, 0, &id, &len), "%u answered: %s", i, fe.error);
            CHECK(id < DEPTH && !seen[id] && area[id * 16384 + 32] == S_OK, "id %u", id);
            seen[id] = true;
        }
        fe_close(&fe);
    }
    return true;
}

/* A direct chain of a whole ring of 1024. */
static bool a_chain_as_long_as_the_queue(struct test *test)
{
    struct fe_buffer buffers[1024];

    for (unsigned packed = 0; packed < 2; packed++) {
        struct fe fe = { 0 };
        uint8_t *scratch;
        uint32_t id, len;

        CHECK(fe_start(&fe, test->path, USUAL | (packed ? FE_F_PACKED : 0), 1, 1024), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
        scratch[32] = S_NONE;
        buffers[0] = (struct fe_buffer){ scratch, 16, false };
        for (unsigned n = 1; n < 1023; n++)
            buffers[n] = (struct fe_buffer){ scratch + 4096 + n * SECTOR, SECTOR, true };
        buffers[1023] = (struct fe_buffer){ scratch + 32, 1, true };
        fe_offer(&fe, 0, 0, buffers, 1024);
        fe_kick(&fe, 0);
        CHECK(fe_wait(&fe, 0, &id, &len) && scratch[32] == S_OK, "%s", fe.error);
        CHECK(len == 1022 * SECTOR + 1, "used length %u", len);
        fe_close(&fe);
    }
    return true;
}

/* GET_VRING_BASE, and on from there with the same ring, which must not say that kicks are not wanted. */
static bool stop_and_go_on(struct test *test)
{
    static const uint64_t features[] = { USUAL, USUAL & ~FE_F_EVENT_IDX, USUAL | FE_F_PACKED,
                                         (USUAL & ~FE_F_EVENT_IDX) | FE_F_PACKED };
    struct fe fe = { 0 };
    uint8_t *scratch;
    uint32_t base;

    for (unsigned kind = 0; kind < 4; kind++) {
        CHECK(fe_start(&fe, test->path, features[kind], 1, 8), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        for (unsigned round = 0; round < 20; round++) {
            for (unsigned i = 0; i <= round % 3; i++)
                CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
            CHECK(fe_get_base(&fe, 0, &base), "%s", fe.error);
            CHECK(fe.packed ? fe.queues[0].device_event[1] != 1 : fe.queues[0].used[0] == 0, "kicks are switched off");
            CHECK(fe_set_state(&fe, R_SET_VRING_BASE, 0, base) && fe_send_addr(&fe, 0, 0, 0) &&
                      fe_set_vring_fd(&fe, R_SET_VRING_KICK, 0, fe.queues[0].kick_fd),
                  "%s", fe.error);
        }
        fe_close(&fe);
    }
    return true;
}

static bool answers_within(struct fe *fe, unsigned ms)
{
    uint32_t id, len;

    for (unsigned i = 0; i < ms / 10; i++) {
        struct timespec pause = { .tv_nsec = 10000000 };

        if (fe_take(fe, 0, &id, &len))
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

/* "Ring states": neither before a kick, nor while disabled, nor after GET_VRING_BASE. */
static bool a_ring_that_is_not_started_or_enabled_rests(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[3];
    uint8_t *scratch;
    uint32_t base;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    CHECK(!answers_within(&fe, 100), "served before a kick");
    CHECK(fe_acked(&fe, R_SET_VRING_ENABLE, (uint32_t[2]){ 0, 0 }, 8, NULL, 0) == 0, "%s", fe.error);
    fe_kick(&fe, 0);
    CHECK(!answers_within(&fe, 100), "served while disabled");
    CHECK(fe_set_state(&fe, R_SET_VRING_ENABLE, 0, 1), "%s", fe.error);
    CHECK(answers_within(&fe, 5000), "not served when enabled again");
    CHECK(fe_get_base(&fe, 0, &base) && base == 1, "base %u", base);
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    CHECK(!answers_within(&fe, 100), "served after GET_VRING_BASE");
    fe_close(&fe);
    return true;
}

/* The device is reset and set up anew in one session, by RESET_DEVICE and by status 0. */
static bool reset_and_set_up_anew(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;
    uint64_t status, features;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16), "%s", fe.error);
    features = fe.features;
    scratch = FE_DATA(&fe, 1);
    for (unsigned round = 0; round < 6; round++) {
        CHECK(fe_set_u64(&fe, R_SET_STATUS, 15) && fe_get_u64(&fe, R_GET_STATUS, &status) && status == 15, "status");
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "round %u: %s", round, fe.error);
        if (round % 2 == 0)
            CHECK(fe_send(&fe, R_RESET_DEVICE, 0, NULL, 0, NULL, 0), "%s", fe.error);
        else
            CHECK(fe_set_u64(&fe, R_SET_STATUS, 0), "%s", fe.error);
        CHECK(fe_get_u64(&fe, R_GET_STATUS, &status) && status == 0, "status %llu", (unsigned long long)status);
        /* With the other layout this time. */
        features ^= FE_F_PACKED;
        CHECK(fe_set_features(&fe, features), "%s", fe.error);
        fe_layout_queue(&fe, 0, 16, 0);
        CHECK(fe_send_queue(&fe, 0, fe.packed ? 0x80008000u : 0), "%s", fe.error);
    }
    fe_close(&fe);
    return true;
}

/* As QEMU 7.2 stops a machine: status 0 first, and only then the question where the ring was. */
static bool a_reset_ring_tells_where_it_was(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;
    uint32_t base;

    for (unsigned packed = 0; packed < 2; packed++) {
        CHECK(fe_start(&fe, test->path, USUAL | (packed ? FE_F_PACKED : 0), 1, 16), "%s", fe.error);
        scratch = FE_DATA(&fe, 1);
        for (unsigned i = 0; i < 5; i++)
            CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
        CHECK(fe_set_u64(&fe, R_SET_STATUS, 0) && fe_set_state(&fe, R_SET_VRING_ENABLE, 0, 0), "%s", fe.error);
        CHECK(fe_get_base(&fe, 0, &base) && base == (packed ? 0x800f800fu : 5), "base 0x%x", base);
        /* Set up anew with that base, it goes on. */
        CHECK(fe_set_features(&fe, fe.features) && fe_send_queue(&fe, 0, base), "%s", fe.error);
        CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "%s", fe.error);
        /* Set up anew without a base, it begins at the start. */
        CHECK(fe_send(&fe, R_RESET_DEVICE, 0, NULL, 0, NULL, 0), "%s", fe.error);
        CHECK(fe_set_state(&fe, R_SET_VRING_NUM, 0, 16) && fe_get_base(&fe, 0, &base) && base == 0, "base 0x%x", base);
        fe_close(&fe);
    }
    return true;
}

static bool come_back_many_times(struct test *test)
{
    for (unsigned i = 0; i < 100; i++) {
        if (!test_healthy(test))
            return false;
    }
    return true;
}

static bool a_second_front_end_is_refused(struct test *test)
{
    struct fe first = { 0 }, second = { 0 };
    uint8_t *scratch;

    CHECK(fe_start(&first, test->path, USUAL, 1, 16), "%s", first.error);
    scratch = FE_DATA(&first, 1);
    for (unsigned i = 0; i < 5; i++) {
        CHECK(fe_connect(&second, test->path), "%s", second.error);
        CHECK(fe_is_closed(&second), "the second: %s", second.error);
        fe_close(&second);
        CHECK(fe_request(&first, 0, scratch, T_IN, 0, scratch + 4096, 512, NULL) == S_OK, "the first: %s", first.error);
    }
    fe_close(&first);
    return test_healthy(test);
}

/* The front-end dies with requests in flight, and the next one comes at once. */
static bool leave_with_requests_in_flight(struct test *test)
{
    for (unsigned round = 0; round < 20; round++) {
        struct fe fe = { 0 };
        uint8_t *area;

        CHECK(fe_start(&fe, test->path, USUAL, 1, 64), "round %u: %s", round, fe.error);
        area = FE_DATA(&fe, 1);
        for (unsigned i = 0; i < 16; i++) {
            uint8_t *slot = area + i * 65536;
            struct fe_buffer buffers[3] = { { slot, 16, false }, { slot + 4096, 32768, true }, { slot + 32, 1, true } };

            memcpy(slot, &(struct fe_header){ T_IN, 0, i * 64 }, 16);
            fe_offer(&fe, 0, i * 3, buffers, 3);
        }
        fe_kick(&fe, 0);
        fe_close(&fe);
    }
    return test_healthy(test);
}

/* A front-end that asks for no call: the driver polls. */
static bool without_call_descriptor(struct test *test)
{
    struct fe fe = { 0 };
    struct fe_buffer buffers[3];
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 16) && fe_set_vring_fd(&fe, R_SET_VRING_CALL, 0, -1), "%s", fe.error);
    CHECK(fe_acked(&fe, R_SET_VRING_ENABLE, (uint32_t[2]){ 0, 1 }, 8, NULL, 0) == 0, "%s", fe.error);
    scratch = FE_DATA(&fe, 1);
    memcpy(scratch, &(struct fe_header){ T_IN, 0, 0 }, 16);
    buffers[0] = (struct fe_buffer){ scratch, 16, false };
    buffers[1] = (struct fe_buffer){ scratch + 4096, 512, true };
    buffers[2] = (struct fe_buffer){ scratch + 32, 1, true };
    fe_offer(&fe, 0, 0, buffers, 3);
    fe_kick(&fe, 0);
    CHECK(answers_within(&fe, 5000), "no answer");
    fe_close(&fe);
    return true;
}

const struct test_case device_cases[] = {
    { "split_round_trip", split_round_trip, NEEDS_WRITABLE },
    { "split_event_idx_round_trip", split_event_idx_round_trip, NEEDS_WRITABLE },
    { "packed_round_trip", packed_round_trip, NEEDS_WRITABLE },
    { "packed_event_idx_round_trip", packed_event_idx_round_trip, NEEDS_WRITABLE },
    { "legacy_round_trip", legacy_round_trip, NEEDS_WRITABLE },
    { "without_protocol_features", without_protocol_features, 0 },
    { "mem_table_of_two_regions", mem_table_of_two_regions, 0 },
    { "framing_is_free", framing_is_free, NEEDS_WRITABLE },
    { "config_space", config_space, 0 },
    { "config_out_of_range_is_refused", config_out_of_range_is_refused, 0 },
    { "only_writeback_can_be_set", only_writeback_can_be_set, 0 },
    { "get_id", get_id, 0 },
    { "discard_and_zero", discard_and_zero, NEEDS_WRITABLE },
    { "bad_ranges_are_refused", bad_ranges_are_refused, NEEDS_WRITABLE },
    { "bad_requests_are_answered", bad_requests_are_answered, NEEDS_WRITABLE },
    { "a_read_only_disk_refuses_changes", a_read_only_disk_refuses_changes, NEEDS_READONLY },
    { "four_queues", four_queues, NEEDS_WRITABLE | NEEDS_QUEUES },
    { "tables_longer_than_the_queue", tables_longer_than_the_queue, NEEDS_WRITABLE },
    { "many_long_chains_at_once", many_long_chains_at_once, 0 },
    { "a_chain_as_long_as_the_queue", a_chain_as_long_as_the_queue, 0 },
    { "large_requests", large_requests, NEEDS_WRITABLE },
    { "stop_and_go_on", stop_and_go_on, 0 },
    { "a_ring_that_is_not_started_or_enabled_rests", a_ring_that_is_not_started_or_enabled_rests, 0 },
    { "reset_and_set_up_anew", reset_and_set_up_anew, 0 },
    { "a_reset_ring_tells_where_it_was", a_reset_ring_tells_where_it_was, 0 },
    { "come_back_many_times", come_back_many_times, 0 },
    { "a_second_front_end_is_refused", a_second_front_end_is_refused, 0 },
    { "leave_with_requests_in_flight", leave_with_requests_in_flight, 0 },
    { "without_call_descriptor", without_call_descriptor, 0 },
    { 0 },
};
