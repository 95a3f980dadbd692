/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See guard.h. A signal handler has no argument of ours, hence the one table of this file that is global. The handler
 * reads it on any thread. An entry changes while nobody touches a mapping that could fault: images are opened and
 * closed, and a session's memory changes, when no request is under way.
 */
#include "common/io/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

static struct guard {
    _Atomic uintptr_t start; /* 0: free; set last */
    _Atomic size_t len_bytes;
    _Atomic size_t unit_bytes;
    atomic_bool *_Atomic broken;
} guards[IO_GUARDS_MAX];

static atomic_bool handled;
static struct sigaction before; /* what a fault elsewhere is for */
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

/* Two threads may come here for one place at once: the second replacement is as good as the first. */
static bool replace(const struct guard *guard, uintptr_t start, size_t at)
{
    size_t unit_bytes = atomic_load(&guard->unit_bytes);

    atomic_store(atomic_load(&guard->broken), true);
    return mmap((void *)(start + at - at % unit_bytes), unit_bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/* Only async-signal-safe calls. A fault elsewhere is a bug of ours or of the machine. */
static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    uintptr_t addr = (uintptr_t)info->si_addr;

    for (unsigned i = 0; i < IO_GUARDS_MAX; i++) {
        uintptr_t start = atomic_load(&guards[i].start);

        if (start == 0 || addr < start || addr - start >= atomic_load(&guards[i].len_bytes))
            continue;
        if (replace(&guards[i], start, addr - start))
            return;
    }
    if ((before.sa_flags & SA_SIGINFO) && before.sa_sigaction != NULL)
        before.sa_sigaction(signal_number, info, context);
    __builtin_trap();
}

int io_guard_init(struct error *err)
{
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART };

    if (sigaction(SIGBUS, &action, atomic_load(&handled) ? NULL : &before) < 0)
        return error_set(err, -errno, "cannot handle SIGBUS: %s", strerror(errno));
    atomic_store(&handled, true);
    return 0;
}

static int find_free(unsigned *ret_slot)
{
    for (unsigned i = 0; i < IO_GUARDS_MAX; i++) {
        if (atomic_load(&guards[i].start) == 0) {
            *ret_slot = i;
            return 0;
        }
    }
    return -ENOSPC;
}

int io_guard_add(void *start, size_t len_bytes, size_t unit_bytes, atomic_bool *broken, unsigned *ret_slot)
{
    int ret;

    if (!atomic_load(&handled))
        return -ENOTSUP;
    pthread_mutex_lock(&adding);
    ret = find_free(ret_slot);
    if (ret == 0) {
        struct guard *guard = &guards[*ret_slot];

        atomic_store(&guard->len_bytes, len_bytes);
        atomic_store(&guard->unit_bytes, unit_bytes != 0 ? unit_bytes : len_bytes);
        atomic_store(&guard->broken, broken);
        atomic_store(&guard->start, (uintptr_t)start);
    }
    pthread_mutex_unlock(&adding);
    return ret;
}

void io_guard_remove(unsigned slot)
{
    atomic_store(&guards[slot].start, 0);
}
