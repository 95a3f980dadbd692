/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See mapping.h. A signal handler has no argument of ours, hence the one table of this file that is global. It is
 * written by the control thread only, while no I/O thread uses the mapping in question, and read by the handler on any
 * thread.
 */
#include "vhost-worker/mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

struct guard {
    _Atomic uintptr_t start; /* 0: free */
    _Atomic size_t len_bytes;
};

static struct guard guards[VHOST_MAPPINGS_MAX];
static atomic_bool broken;

/*
 * Only async-signal-safe calls. Two threads may come here for one mapping at once; the second replacement is as good as
 * the first. A fault elsewhere is a bug of ours or of the machine: end as the signal would have.
 */
static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    uintptr_t addr = (uintptr_t)info->si_addr;

    for (unsigned i = 0; i < VHOST_MAPPINGS_MAX; i++) {
        uintptr_t start = atomic_load(&guards[i].start);
        size_t len_bytes = atomic_load(&guards[i].len_bytes);

        if (start == 0 || addr < start || addr - start >= len_bytes)
            continue;
        atomic_store(&broken, true);
        if (mmap((void *)start, len_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED)
            return;
    }
    __builtin_trap();
}

int vhost_mapping_init(struct error *err)
{
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART };

    if (sigaction(SIGBUS, &action, NULL) < 0)
        return error_set(err, -errno, "cannot handle SIGBUS: %s", strerror(errno));
    return 0;
}

static int guard_add(void *start, size_t len_bytes, unsigned *ret_slot)
{
    for (unsigned i = 0; i < VHOST_MAPPINGS_MAX; i++) {
        if (atomic_load(&guards[i].start) != 0)
            continue;
        atomic_store(&guards[i].len_bytes, len_bytes);
        atomic_store(&guards[i].start, (uintptr_t)start);
        *ret_slot = i;
        return 0;
    }
    return -ENOSPC;
}

static int check_file(int fd, uint64_t offset, uint64_t len_bytes, struct error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot look at the memory file: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "the descriptor is not a memory file");
    if (len_bytes == 0 || !range_within(offset, len_bytes, (uint64_t)st.st_size))
        return error_set(err, -EINVAL, "bytes %llu to %llu + %llu are not within a file of %llu bytes",
                         (unsigned long long)offset, (unsigned long long)offset, (unsigned long long)len_bytes,
                         (unsigned long long)st.st_size);
    return 0;
}

/* A file of huge pages is mapped, and unmapped, from and to a multiple of its page size. */
static uint64_t page_bytes(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && is_power_of_2((uint64_t)fs.f_bsize))
        return (uint64_t)fs.f_bsize;
    return 4096;
}

int vhost_mapping_open(struct vhost_mapping *mapping, int fd, uint64_t offset, uint64_t len_bytes, struct error *err)
{
    int ret = check_file(fd, offset, len_bytes, err);
    uint64_t page, start, map_bytes;
    void *map;

    if (ret < 0)
        return ret;
    page = page_bytes(fd);
    start = round_down(offset, page);
    map_bytes = round_up(offset - start + len_bytes, page);
    map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "cannot map %llu bytes of the memory file: %s", (unsigned long long)len_bytes,
                         strerror(errno));
    ret = guard_add(map, map_bytes, &mapping->slot);
    if (ret < 0) {
        munmap(map, map_bytes);
        return error_set(err, ret, "more than %u mappings", VHOST_MAPPINGS_MAX);
    }
    madvise(map, map_bytes, MADV_DONTDUMP);
    mapping->map = map;
    mapping->map_bytes = map_bytes;
    mapping->data = (uint8_t *)map + (offset - start);
    mapping->len_bytes = len_bytes;
    return 0;
}

void vhost_mapping_close(struct vhost_mapping *mapping)
{
    if (mapping->map != NULL) {
        atomic_store(&guards[mapping->slot].start, 0);
        munmap(mapping->map, mapping->map_bytes);
    }
    *mapping = (struct vhost_mapping){ 0 };
}

bool vhost_mapping_broken(void)
{
    return atomic_load_explicit(&broken, memory_order_relaxed);
}

void vhost_mapping_forgive(void)
{
    atomic_store(&broken, false);
}
