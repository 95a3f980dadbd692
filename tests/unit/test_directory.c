/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "common/net/nbd-protocol.h"
#include "tests/unit/nbd_directory.h"

static const struct test_export exports[] = {
    { "disk", "the first", { .size_bytes = 4096, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION } },
    { "", "", { .size_bytes = 512 } },
    { "disk2", "", { .size_bytes = 1 << 20, .flags = NBD_DIRECTORY_WRITABLE } },
};

static int setup(void **state)
{
    *state = test_directory_new(exports, ARRAY_SIZE(exports));
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static int check(const struct nbd_directory *directory)
{
    struct error err;

    return nbd_directory_check(directory, (size_t)directory->len_bytes, &err);
}

static void test_well_formed_is_accepted(void **state)
{
    assert_int_equal(check(*state), 0);
}

static void test_empty_directory_is_accepted(void **state)
{
    struct nbd_directory empty = { .magic = NBD_DIRECTORY_MAGIC, .len_bytes = sizeof(empty) };

    assert_int_equal(check(&empty), 0);
}

static void test_find_takes_whole_names(void **state)
{
    struct nbd_directory_view view = { *state, 0 };

    assert_ptr_equal(nbd_directory_find(&view, "disk2", 5), &view.directory->entries[2]);
    assert_ptr_equal(nbd_directory_find(&view, "disk", 4), &view.directory->entries[0]);
    assert_ptr_equal(nbd_directory_find(&view, NULL, 0), &view.directory->entries[1]);
    assert_null(nbd_directory_find(&view, "dis", 3));
    assert_null(nbd_directory_find(&view, "disk3", 5));
    assert_memory_equal(nbd_directory_description(&view, &view.directory->entries[0]), "the first", 9);
}

static void test_errors_header(void **state)
{
    struct nbd_directory *d = *state;
    struct nbd_directory saved = *d;

    assert_int_equal(nbd_directory_check(d, sizeof(*d) - 1, NULL), -EINVAL);
    assert_int_equal(nbd_directory_check(d, (size_t)d->len_bytes - 1, NULL), -EINVAL);
    d->magic++;
    assert_int_equal(check(d), -EINVAL);
    *d = saved;
    d->count = NBD_DIRECTORY_EXPORTS_MAX + 1;
    assert_int_equal(check(d), -EINVAL);
    d->count = 5; /* the entries would not fit */
    assert_int_equal(check(d), -EINVAL);
}

#define assert_entry_refused(directory, change)                                                                        \
    do {                                                                                                               \
        struct nbd_directory_entry *entry = &(directory)->entries[2];                                                  \
        struct nbd_directory_entry saved = *entry;                                                                     \
                                                                                                                       \
        change;                                                                                                        \
        assert_int_equal(check(directory), -EINVAL);                                                                   \
        *entry = saved;                                                                                                \
        assert_int_equal(check(directory), 0);                                                                         \
    } while (0)

static void test_errors_entry(void **state)
{
    struct nbd_directory *d = *state;

    assert_entry_refused(d, entry->serial = 0);
    assert_entry_refused(d, entry->flags = 1u << 31);
    assert_entry_refused(d, entry->contexts = 1u << 31);
    assert_entry_refused(d, entry->name_len_bytes = NBD_MAX_STRING + 1);
    assert_entry_refused(d, entry->name_len_bytes = UINT32_MAX);
    assert_entry_refused(d, entry->description_len_bytes = 1);
    assert_entry_refused(d, entry->description_len_bytes = UINT32_MAX);
    assert_entry_refused(d, entry->strings_offset = 0);
    assert_entry_refused(d, entry->strings_offset = UINT32_MAX);
    assert_entry_refused(d, entry->strings_offset = (uint32_t)d->len_bytes - 4);
    assert_entry_refused(d, entry->min_block_bytes = 0);
    assert_entry_refused(d, entry->min_block_bytes = 3);
    assert_entry_refused(d, entry->min_block_bytes = 131072);
    assert_entry_refused(d, entry->preferred_block_bytes = 256);
    assert_entry_refused(d, entry->preferred_block_bytes = 5000);
    assert_entry_refused(d, entry->min_block_bytes = 8192);
    assert_entry_refused(d, entry->max_payload_bytes = 512);
}

static int memfd_of(const struct nbd_directory *directory, int seals)
{
    int fd = memfd_create("directory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, directory, directory->len_bytes), directory->len_bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void test_sealed_memfd_is_mapped(void **state)
{
    _cleanup_close_ int fd = memfd_of(*state, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    struct nbd_directory_view view;

    assert_int_equal(nbd_directory_map(fd, &view, NULL), 0);
    assert_int_equal(view.directory->count, ARRAY_SIZE(exports));
    nbd_directory_unmap(&view);
    assert_null(view.directory);
}

static void test_errors_unsealed_memfd(void **state)
{
    static const int too_few[] = { 0, F_SEAL_WRITE, F_SEAL_WRITE | F_SEAL_GROW, F_SEAL_GROW | F_SEAL_SHRINK };

    for (unsigned i = 0; i < ARRAY_SIZE(too_few); i++) {
        _cleanup_close_ int fd = memfd_of(*state, too_few[i]);
        struct nbd_directory_view view;

        assert_int_equal(nbd_directory_map(fd, &view, NULL), -EPERM);
    }
}

static void test_errors_not_a_memfd(void **state)
{
    _cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct nbd_directory_view view;

    assert_int_equal(nbd_directory_map(fd, &view, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_well_formed_is_accepted),
        cmocka_unit_test(test_empty_directory_is_accepted),
        cmocka_unit_test(test_find_takes_whole_names),
        cmocka_unit_test_setup_teardown(test_errors_header, setup, teardown),
        cmocka_unit_test(test_errors_entry),
        cmocka_unit_test(test_sealed_memfd_is_mapped),
        cmocka_unit_test(test_errors_unsealed_memfd),
        cmocka_unit_test(test_errors_not_a_memfd),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
