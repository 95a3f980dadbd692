/* SPDX-License-Identifier: BSD-2-Clause */
/* Mappings whose file is cut under them. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io/guard.h"

#define PAGE  4096u
#define PAGES 8u

struct guarded {
    int fd;
    uint8_t *map;
    atomic_bool broken;
    unsigned slot;
};

/* Each page of the file holds its number. */
static void guarded_open(struct guarded *g, size_t unit_bytes)
{
    assert_int_equal(io_guard_init(NULL), 0); /* cmocka has a handler of its own for each test */
    g->fd = memfd_create("guarded", MFD_CLOEXEC);
    assert_int_equal(ftruncate(g->fd, PAGES * PAGE), 0);
    g->map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
    assert_true(g->map != MAP_FAILED);
    for (unsigned i = 0; i < PAGES; i++)
        memset(g->map + i * PAGE, (int)i + 1, PAGE);
    atomic_store(&g->broken, false);
    assert_int_equal(io_guard_add(g->map, PAGES * PAGE, unit_bytes, &g->broken, &g->slot), 0);
}

static void guarded_close(struct guarded *g)
{
    io_guard_remove(g->slot);
    munmap(g->map, PAGES * PAGE);
    close(g->fd);
}

static uint8_t look(const struct guarded *g, unsigned page)
{
    return *(volatile uint8_t *)(g->map + page * PAGE);
}

static void test_without_the_handler_nothing_is_guarded(void **state)
{
    static uint8_t memory[PAGE];
    atomic_bool broken = false;
    unsigned slot;

    assert_int_equal(io_guard_add(memory, PAGE, 0, &broken, &slot), -ENOTSUP);
}

static void test_only_the_unit_at_fault_is_replaced(void **state)
{
    struct guarded g;
    uint8_t byte = 0;

    guarded_open(&g, 2 * PAGE);
    assert_int_equal(ftruncate(g.fd, 5 * PAGE), 0);
    assert_int_equal(look(&g, 4), 5);
    assert_false(atomic_load(&g.broken));
    assert_int_equal(look(&g, 5), 0);
    assert_true(atomic_load(&g.broken));
    assert_int_equal(look(&g, 4), 0); /* of the same unit */
    assert_int_equal(look(&g, 3), 4);
    g.map[3 * PAGE] = 99; /* still the file */
    assert_int_equal(pread(g.fd, &byte, 1, 3 * PAGE), 1);
    assert_int_equal(byte, 99);
    guarded_close(&g);
}

static void test_without_a_unit_all_is_replaced(void **state)
{
    struct guarded g;

    guarded_open(&g, 0);
    assert_int_equal(ftruncate(g.fd, 5 * PAGE), 0);
    g.map[7 * PAGE] = 1;
    assert_true(atomic_load(&g.broken));
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(look(&g, i), i == 7);
    guarded_close(&g);
}

static void test_each_mapping_has_its_own_note(void **state)
{
    struct guarded a, b;

    guarded_open(&a, PAGE);
    guarded_open(&b, PAGE);
    assert_int_equal(ftruncate(b.fd, 0), 0);
    assert_int_equal(look(&a, 7), 8);
    assert_int_equal(look(&b, 7), 0);
    assert_false(atomic_load(&a.broken));
    assert_true(atomic_load(&b.broken));
    guarded_close(&a);
    guarded_close(&b);
}

static void test_a_full_table_says_so_and_gives_back(void **state)
{
    static unsigned slots[IO_GUARDS_MAX];
    struct guarded g;
    unsigned slot, used = 0;
    atomic_bool broken;

    guarded_open(&g, 0);
    while (used < IO_GUARDS_MAX && io_guard_add(g.map, PAGE, 0, &broken, &slots[used]) == 0)
        used++;
    assert_int_equal(used, IO_GUARDS_MAX - 1);
    assert_int_equal(io_guard_add(g.map, PAGE, 0, &broken, &slot), -ENOSPC);
    io_guard_remove(slots[7]);
    assert_int_equal(io_guard_add(g.map, PAGE, 0, &broken, &slots[7]), 0);
    for (unsigned i = 0; i < used; i++)
        io_guard_remove(slots[i]);
    guarded_close(&g);
}

/* What nobody guards is a crash, as ever. */
static void test_a_fault_elsewhere_is_fatal(void **state)
{
    struct guarded g;
    pid_t child;
    int status;

    guarded_open(&g, 0);
    assert_int_equal(ftruncate(g.fd, 0), 0);
    io_guard_remove(g.slot);
    child = fork();
    if (child == 0) {
        signal(SIGILL, SIG_DFL);
        signal(SIGTRAP, SIG_DFL);
        _exit(look(&g, 0));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    guarded_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_the_handler_nothing_is_guarded), /* the first: nobody takes it away again */
        cmocka_unit_test(test_only_the_unit_at_fault_is_replaced),
        cmocka_unit_test(test_without_a_unit_all_is_replaced),
        cmocka_unit_test(test_each_mapping_has_its_own_note),
        cmocka_unit_test(test_a_full_table_says_so_and_gives_back),
        cmocka_unit_test(test_a_fault_elsewhere_is_fatal),
    };

    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
