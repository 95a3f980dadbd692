/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Calls whose arguments decide what they mean: each variant is made under the filter of each role, in a process of its
 * own. A variant that no role needs kills a worker, and does not exist for the monitor.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/sandbox/filter.h"
#include "common/sandbox/role.h"

#define BIT(role)    (1u << (role))
#define IMAGES       (BIT(IPC_ROLE_NBD_EXPORT) | BIT(IPC_ROLE_VHOST) | BIT(IPC_ROLE_FUSE))
#define ALL_WORKERS  0xffffu
#define NO_ROLE      0u
#define MADV_UNKNOWN 77
#ifdef WITH_SANITIZERS
#define DONTDUMP ALL_WORKERS /* the run-time maps stacks of its own */
#else
#define DONTDUMP IMAGES
#endif

/* Arguments that make the kernel fail at once where the filter lets them through: nothing is changed or waited for. */
struct variant {
    const char *what;
    long nr;
    long args[6];
    uint32_t roles; /* bits of the workers' roles that have it */
    bool monitor;
};

static uint32_t word;

#define FUTEX_OF(operation)                                                                                            \
    SYS_futex,                                                                                                         \
    {                                                                                                                  \
        (long)&word, operation, 1, 0, (long)&word, 0                                                                   \
    }

static const struct variant variants[] = {
    { "futex wake", FUTEX_OF(FUTEX_WAKE), ALL_WORKERS, true },
    { "futex wake, private", FUTEX_OF(FUTEX_WAKE | FUTEX_PRIVATE_FLAG), ALL_WORKERS, true },
    { "futex wait", FUTEX_OF(FUTEX_WAIT | FUTEX_PRIVATE_FLAG), ALL_WORKERS, true },
    { "futex wait until a time", FUTEX_OF(FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME), ALL_WORKERS, true },
    { "futex lock with priority inheritance", FUTEX_OF(FUTEX_LOCK_PI), NO_ROLE, false },
    { "futex lock with priority inheritance, private", FUTEX_OF(FUTEX_LOCK_PI_PRIVATE), NO_ROLE, false },
    { "futex try to lock", FUTEX_OF(FUTEX_TRYLOCK_PI), NO_ROLE, false },
    { "futex requeue", FUTEX_OF(FUTEX_REQUEUE), NO_ROLE, false },
    { "futex compare and requeue", FUTEX_OF(FUTEX_CMP_REQUEUE), NO_ROLE, false },
    { "futex requeue with priority inheritance", FUTEX_OF(FUTEX_CMP_REQUEUE_PI), NO_ROLE, false },
    { "futex wait to be requeued", FUTEX_OF(FUTEX_WAIT_REQUEUE_PI), NO_ROLE, false },
    { "futex wake with an operation", FUTEX_OF(FUTEX_WAKE_OP), NO_ROLE, false },
    { "madvise DONTNEED", SYS_madvise, { 1, 4096, MADV_DONTNEED }, ALL_WORKERS, true },
    { "madvise DONTDUMP", SYS_madvise, { 1, 4096, MADV_DONTDUMP }, DONTDUMP, true },
    { "madvise POPULATE_READ", SYS_madvise, { 1, 4096, MADV_POPULATE_READ }, IMAGES, true },
    { "madvise COLLAPSE", SYS_madvise, { 1, 4096, MADV_COLLAPSE }, BIT(IPC_ROLE_FUSE), true },
    { "madvise REMOVE", SYS_madvise, { 1, 4096, MADV_REMOVE }, NO_ROLE, false },
    { "madvise HWPOISON", SYS_madvise, { 1, 4096, MADV_HWPOISON }, NO_ROLE, false },
    { "madvise MERGEABLE", SYS_madvise, { 1, 4096, MADV_MERGEABLE }, NO_ROLE, false },
    { "madvise DODUMP", SYS_madvise, { 1, 4096, MADV_DODUMP }, NO_ROLE, false },
    { "madvise of tomorrow", SYS_madvise, { 1, 4096, MADV_UNKNOWN }, NO_ROLE, false },
    { "mremap that may move", SYS_mremap, { 1, 4096, 8192, MREMAP_MAYMOVE }, ALL_WORKERS, true },
    { "mremap in place of another mapping",
      SYS_mremap,
      { 1, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, 4096 },
      NO_ROLE,
      false },
    { "mremap that leaves the old one", SYS_mremap, { 1, 4096, 4096, MREMAP_MAYMOVE | 4 }, NO_ROLE, false },
    { "fallocate", SYS_fallocate, { -1, 0, 0, 1 }, BIT(IPC_ROLE_VHOST), true },
    { "fallocate KEEP_SIZE", SYS_fallocate, { -1, FALLOC_FL_KEEP_SIZE, 0, 1 }, IMAGES, true },
    { "fallocate a hole", SYS_fallocate, { -1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 }, IMAGES, true },
    { "fallocate zeros", SYS_fallocate, { -1, FALLOC_FL_ZERO_RANGE, 0, 1 }, IMAGES, true },
    { "fallocate COLLAPSE_RANGE", SYS_fallocate, { -1, FALLOC_FL_COLLAPSE_RANGE, 0, 1 }, NO_ROLE, false },
    { "fallocate INSERT_RANGE", SYS_fallocate, { -1, FALLOC_FL_INSERT_RANGE, 0, 1 }, NO_ROLE, false },
    { "fallocate UNSHARE_RANGE", SYS_fallocate, { -1, FALLOC_FL_UNSHARE_RANGE, 0, 1 }, NO_ROLE, false },
};

#define OUTCOME_PASSED 0
#define OUTCOME_ABSENT 1

/* The wait status of a process that makes the call under the role's filter. */
static int try(const struct sandbox_role *role, const struct variant *variant)
{
    const long *a = variant->args;
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        if (sandbox_filter_load(role, false, NULL) < 0)
            _exit(99);
        if (syscall(variant->nr, a[0], a[1], a[2], a[3], a[4], a[5]) < 0 && errno == ENOSYS)
            _exit(OUTCOME_ABSENT);
        _exit(OUTCOME_PASSED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_workers_have_just_the_variants_that_they_need(void **state)
{
    for (unsigned i = 1; sandbox_roles[i] != NULL; i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(variants); k++) {
            const struct variant *variant = &variants[k];
            bool wanted = (variant->roles & BIT(sandbox_roles[i]->ipc_role)) != 0;
            int status = try(sandbox_roles[i], variant);

            if (wanted ? !WIFEXITED(status) || WEXITSTATUS(status) != OUTCOME_PASSED
                       : !WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
                fail_msg("%s of %s: wait status %#x", variant->what, sandbox_roles[i]->name, (unsigned)status);
        }
    }
}

/* Its children inherit its filter until they have their own, so it has what any of them has. */
static void test_monitor_has_what_its_children_have(void **state)
{
    for (unsigned k = 0; k < ARRAY_SIZE(variants); k++) {
        int status = try(&sandbox_role_monitor, &variants[k]);

        if (!WIFEXITED(status) || WEXITSTATUS(status) != (variants[k].monitor ? OUTCOME_PASSED : OUTCOME_ABSENT))
            fail_msg("%s of the monitor: wait status %#x", variants[k].what, (unsigned)status);
        assert_true(variants[k].monitor || variants[k].roles == NO_ROLE);
    }
}

/* Those that nobody may have without a look at their arguments. */
static void test_calls_of_many_meanings_are_never_unconditional(void **state)
{
    static const char *const names[] = { "futex", "madvise", "mremap", "fallocate", "ioctl", "prctl" };

    for (unsigned i = 0; sandbox_roles[i] != NULL; i++)
        for (unsigned k = 0; sandbox_roles[i]->call_sets[k] != NULL; k++)
            for (unsigned c = 0; c < sandbox_roles[i]->call_sets[k]->count; c++)
                for (unsigned n = 0; n < ARRAY_SIZE(names); n++)
                    if (strcmp(sandbox_roles[i]->call_sets[k]->calls[c].name, names[n]) == 0)
                        assert_int_not_equal(sandbox_roles[i]->call_sets[k]->calls[c].op, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workers_have_just_the_variants_that_they_need),
        cmocka_unit_test(test_monitor_has_what_its_children_have),
        cmocka_unit_test(test_calls_of_many_meanings_are_never_unconditional),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
