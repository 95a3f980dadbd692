/* SPDX-License-Identifier: BSD-2-Clause */
/* The file driver with real files: what is written is there, whatever the engine and the file system. */
#include "tests/unit/block_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define MIB (1024u * 1024)

static void test_what_is_written_is_read(void **state)
{
    static const struct {
        uint64_t offset;
        size_t len_bytes;
    } cases[] = { { 0, 512 }, { 4096, 4096 }, { 12345, 1 }, { 777, 9999 }, { MIB - 1, MIB + 2 }, { 0, 3 * MIB } };
    struct block_fixture *f = *state;
    uint8_t *wrote = malloc(4 * MIB), *got = malloc(4 * MIB);
    int fd = fixture_open_file(f, 4 * MIB, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        pattern_fill(wrote, cases[i].offset, cases[i].len_bytes, (uint8_t)i);
        assert_int_equal(fixture_io(f, BLOCK_OP_WRITE, 0, cases[i].offset, wrote, cases[i].len_bytes), 0);
        assert_int_equal(pread(fd, got, cases[i].len_bytes, (off_t)cases[i].offset), cases[i].len_bytes);
        assert_memory_equal(got, wrote, cases[i].len_bytes);
        memset(got, 0x55, cases[i].len_bytes);
        assert_int_equal(fixture_io(f, BLOCK_OP_READ, 0, cases[i].offset, got, cases[i].len_bytes), 0);
        assert_memory_equal(got, wrote, cases[i].len_bytes);
    }
    free(wrote);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_what_is_written_is_read),
    };

    return RUN_VARIANTS("file", tests);
}
