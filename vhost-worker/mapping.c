/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhost-worker/mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "common/io/guard.h"
#include "vhost-worker/descriptor.h"

static atomic_bool broken; /* by whichever mapping */

static int check_file(int fd, uint64_t offset, uint64_t len_bytes, struct error *err)
{
    struct stat st;

    /* Only of such a file the kernel knows the rest by itself, and its pages do not wait for anybody. */
    if (vhost_descriptor_kind(fd) != VHOST_DESCRIPTOR_MEMORY)
        return error_set(err, -EINVAL, "the descriptor is not a memory file");
    if (fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot look at the memory file: %s", strerror(errno));
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
    ret = io_guard_add(map, map_bytes, 0, &broken, &mapping->guard);
    if (ret < 0) {
        munmap(map, map_bytes);
        return error_set(err, ret, "cannot guard one more mapping: %s", strerror(-ret));
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
        io_guard_remove(mapping->guard);
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
