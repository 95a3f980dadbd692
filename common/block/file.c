/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file and host_device drivers: what the image can do is found out here, and requests are dispatched by a table to
 * the other parts. The descriptor comes from the monitor, already opened with the right access; nothing here opens
 * or locks.
 */
#include "common/block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#define ALIGN_MAX         65536u /* the largest block that O_DIRECT may want */
#define PREFERRED_DEFAULT 4096u
#define PREFERRED_MAX     (1024u * 1024)

#define CACHE_STRIDE_BYTES (128u * 1024) /* the default of the kernel's readahead */

/* ---- Opening ---- */

/* These hold their data in memory only: no call on them waits for a device. */
static bool is_memory_file_system(int fd)
{
    static const unsigned long magics[] = { TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC };
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(magics); i++) {
        if ((unsigned long)fs.f_type == magics[i])
            return true;
    }
    return false;
}

static int file_check_type(const struct block_node *node, mode_t mode, struct error *err)
{
    bool wants_device = node->driver->id == IPC_DRIVER_HOST_DEVICE;

    if (wants_device && !S_ISBLK(mode))
        return error_set(err, -ENOTBLK, "driver host_device needs a block device; for a regular file use driver file");
    if (!wants_device && !S_ISREG(mode))
        return error_set(err, -EINVAL, "driver file needs a regular file; for a block device use driver host_device");
    return 0;
}

static int file_find_size(struct file_state *file, const struct stat *st, struct error *err)
{
    off_t size = file->block_device ? lseek(file->fd, 0, SEEK_END) : st->st_size;

    if (size < 0)
        return error_set(err, -errno, "cannot find the size: %s", strerror(errno));
    if ((uint64_t)size > BLOCK_SIZE_MAX)
        return error_set(err, -EFBIG, "its size of %lld bytes is too large", (long long)size);
    file->file_bytes = (uint64_t)size;
    return 0;
}

static int file_probe_alignment(struct file_state *file, bool wants_direct, struct error *err)
{
    int ret;

    file->align = file->memory_align = 1;
    file->direct = wants_direct && !file->in_memory;
    if (!file->direct && !file->block_device)
        return 0;
    ret = file_probe_direct(file, err);
    if (ret < 0)
        return ret;
    if (!is_power_of_2(file->align) || file->align > ALIGN_MAX || !is_power_of_2(file->memory_align) ||
        file->memory_align > PREFERRED_DEFAULT)
        return error_set(err, -EINVAL, "cache.direct: an alignment of %u bytes (memory: %u) is not supported",
                         file->align, file->memory_align);
    return 0;
}

static void file_fill_info(const struct file_state *file, const struct stat *st, struct block_info *info)
{
    uint32_t preferred = (uint32_t)MIN((uint64_t)st->st_blksize, PREFERRED_MAX);

    if (!is_power_of_2(preferred) || preferred < BLOCK_SECTOR_BYTES)
        preferred = PREFERRED_DEFAULT;
    info->size_bytes = round_up(file->file_bytes, BLOCK_SECTOR_BYTES);
    info->min_block_bytes = file->direct ? file->align : 1;
    info->preferred_block_bytes = MAX(preferred, info->min_block_bytes);
    /* Whether the file system can is told by the first request that asks for it: there is no way to try without a trace. */
    info->fast_zero = !info->read_only && !file->block_device;
}

static int file_open(struct block_node *node, const struct block_open_args *args, struct error *err)
{
    struct file_state *file = node->state;
    uint32_t flags = args->spec->flags;
    struct stat st;
    int ret;

    pthread_mutex_init(&file->extents.mutex, NULL);
    range_locks_init(&file->locks);
    file->fd = args->fd;
    file->fd_index = args->spec->fd_index;
    if (fstat(file->fd, &st) < 0)
        return error_set(err, -errno, "cannot look at its descriptor: %s", strerror(errno));
    ret = file_check_type(node, st.st_mode, err);
    if (ret < 0)
        return ret;
    file->block_device = S_ISBLK(st.st_mode);
    file->in_memory = !file->block_device && is_memory_file_system(file->fd);
    file->discard_unmap = (flags & IPC_NODE_DISCARD_UNMAP) != 0;
    file->needs_flush = !(flags & IPC_NODE_NO_FLUSH) && !file->in_memory && !node->info.read_only;
    ret = file_find_size(file, &st, err);
    if (ret < 0)
        return ret;
    ret = file_probe_alignment(file, (flags & IPC_NODE_CACHE_DIRECT) != 0, err);
    if (ret < 0)
        return ret;
    file_fill_info(file, &st, &node->info);
    file_mapping_open(file, !node->info.read_only);
    return 0;
}

static void file_close(struct block_node *node)
{
    struct file_state *file = node->state;

    file_mapping_close(file);
    pthread_mutex_destroy(&file->extents.mutex);
    range_locks_done(&file->locks);
}

/*
 * Whether the range is in the page cache, as far as a look at each stride tells: the cache fills and empties by windows
 * of about this size. Who relies on it and is wrong waits for the disk, nothing worse.
 */
static bool file_is_cached(const struct file_state *file, uint64_t offset, uint64_t len_bytes)
{
    if (atomic_load_explicit(&file->no_nowait_read, memory_order_relaxed))
        return false;
    for (uint64_t at = 0; at < len_bytes; at += CACHE_STRIDE_BYTES) {
        uint64_t last = MIN(at + CACHE_STRIDE_BYTES, len_bytes) - 1;
        char byte;
        struct iovec iov = { &byte, 1 };

        if (preadv2(file->fd, &iov, 1, (off_t)(offset + last), RWF_NOWAIT) != 1)
            return false;
    }
    return true;
}

/*
 * The data of a file in memory can be sent as it is; that of others only if it is there, and not with O_DIRECT. To
 * write to these may always take long: to find room, to begin a transaction, to be throttled.
 */
static bool file_map(struct block_node *node, bool to_write, uint64_t *offset, uint64_t len_bytes, int *ret_fd)
{
    const struct file_state *file = node->state;

    if (file->direct || !range_within(*offset, len_bytes, file->file_bytes))
        return false;
    if (!file->in_memory && (to_write || !file_is_cached(file, *offset, len_bytes)))
        return false;
    *ret_fd = file->fd;
    return true;
}

/* ---- Size ---- */

static int file_usage(const struct block_node *node, struct block_usage *ret_usage)
{
    struct file_state *file = node->state;
    struct stat st;

    if (fstat(file->fd, &st) < 0)
        return -errno;
    file_mapping_time_told(file);
    /* Blocks of a device file are those of its directory entry. */
    ret_usage->allocated_bytes = file->block_device ? block_node_size(node) : (uint64_t)st.st_blocks * 512;
    ret_usage->changed = st.st_mtim;
    return 0;
}

static int file_resize(struct block_node *node, uint64_t size_bytes)
{
    struct file_state *file = node->state;
    uint64_t before = atomic_load(&file->file_bytes);

    if (file->block_device)
        return -ENOTSUP;
    /* What will be cut is left alone before it is. */
    if (size_bytes < before)
        atomic_store(&file->file_bytes, size_bytes);
    file_mapping_forget(file, size_bytes, UINT64_MAX);
    if (ftruncate(file->fd, (off_t)size_bytes) < 0) {
        int ret = -errno;

        atomic_store(&file->file_bytes, before);
        return ret;
    }
    atomic_store(&file->file_bytes, size_bytes);
    atomic_fetch_add(&file->unmap_count, 1); /* extents that were found before are void */
    return 0;
}

static int file_refresh(struct block_node *node, uint64_t *ret_size_bytes)
{
    struct file_state *file = node->state;
    struct stat st = { 0 };
    off_t size;

    if (file->block_device)
        size = lseek(file->fd, 0, SEEK_END);
    else
        size = fstat(file->fd, &st) == 0 ? st.st_size : -1;
    if (size < 0)
        return -errno;
    if ((uint64_t)size > BLOCK_SIZE_MAX)
        return -EFBIG;
    atomic_store(&file->file_bytes, (uint64_t)size);
    file_mapping_forget(file, (uint64_t)size, UINT64_MAX);
    atomic_fetch_add(&file->unmap_count, 1);
    *ret_size_bytes = round_up((uint64_t)size, BLOCK_SECTOR_BYTES);
    return 0;
}

static int file_allocate(struct block_node *node, uint64_t offset, uint64_t len_bytes)
{
    struct file_state *file = node->state;

    if (file->block_device)
        return -EOPNOTSUPP;
    if (fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len_bytes) < 0)
        return -errno;
    return 0;
}

/* ---- Dispatching ---- */

static const struct file_op {
    int (*begin)(struct file_state *file, struct block_request *req);
    int (*next)(struct file_state *file, struct block_request *req, int result); /* NULL: the result is final */
    bool changes; /* takes a range lock if the node is O_DIRECT */
} file_ops[BLOCK_OP_MAX] = {
    [BLOCK_OP_READ] = { file_read_begin, NULL, false },
    [BLOCK_OP_WRITE] = { file_write_begin, file_write_next, true },
    [BLOCK_OP_FLUSH] = { file_flush_begin, file_flush_next, false },
    [BLOCK_OP_DISCARD] = { file_discard_begin, file_discard_next, true },
    [BLOCK_OP_WRITE_ZEROES] = { file_zero_begin, file_zero_next, true },
    [BLOCK_OP_CACHE] = { file_cache_begin, NULL, false },
    [BLOCK_OP_STATUS] = { file_status_begin, NULL, false },
};

#define STEP_WAITS_FOR_LOCK UINT32_MAX

static int file_unlock_if_done(struct file_state *file, struct block_request *req, int result)
{
    if (result != BLOCK_PENDING)
        range_unlock(&file->locks, req);
    return result;
}

static int file_after(struct block_request *req, int result)
{
    struct file_state *file = req->node->state;
    const struct file_op *op = &file_ops[req->op];

    if (req->step == STEP_WAITS_FOR_LOCK) {
        req->step = 0;
        result = op->begin(file, req);
    } else if (op->next != NULL) {
        result = op->next(file, req, result);
    }
    return file_unlock_if_done(file, req, result);
}

/* What covers parts of blocks will read, modify and write them, and must be alone on them. */
static bool file_lock(struct file_state *file, struct block_request *req)
{
    bool exclusive = !file_range_aligned(file, req);
    uint64_t end = req->offset + req->len_bytes;

    return range_lock(&file->locks, req, round_down(req->offset, file->align), round_up(end, file->align), exclusive);
}

static int file_submit(struct block_node *node, struct block_request *req)
{
    struct file_state *file = node->state;
    const struct file_op *op = &file_ops[req->op];

    req->node = node;
    req->fd_index = file->fd_index;
    if (!op->changes || !file->direct) {
        req->after = op->next != NULL ? file_after : NULL;
        return op->begin(file, req);
    }
    if ((req->flags & BLOCK_REQ_INLINE_ONLY) != 0)
        return -EAGAIN; /* before it could wait for a lock */
    req->after = file_after;
    req->step = STEP_WAITS_FOR_LOCK;
    if (!file_lock(file, req))
        return BLOCK_PENDING;
    req->step = 0;
    return file_unlock_if_done(file, req, op->begin(file, req));
}

int file_execute(struct file_state *file, struct block_request *req)
{
    bool small = req->len_bytes <= FILE_INLINE_MAX_BYTES;

    if (req->flags & BLOCK_REQ_OFFLOAD)
        return io_queue_offload(req->queue, req, file->in_memory ? file_run : NULL);
    if (file->in_memory && small)
        return file_run(req, NULL);
    req->offload = !small;
    return io_queue_submit(req->queue, req);
}

#define FILE_SUBMIT                                                                                                    \
    {                                                                                                                  \
        [BLOCK_OP_READ] = file_submit, [BLOCK_OP_WRITE] = file_submit, [BLOCK_OP_FLUSH] = file_submit,                 \
        [BLOCK_OP_DISCARD] = file_submit, [BLOCK_OP_WRITE_ZEROES] = file_submit, [BLOCK_OP_CACHE] = file_submit,       \
        [BLOCK_OP_STATUS] = file_submit,                                                                               \
    }

const struct block_driver block_driver_file = {
    .id = IPC_DRIVER_FILE,
    .name = "file",
    .flags = BLOCK_DRIVER_NEEDS_FD,
    .state_bytes = sizeof(struct file_state),
    .open = file_open,
    .close = file_close,
    .submit = FILE_SUBMIT,
    .map = file_map,
    .usage = file_usage,
    .resize = file_resize,
    .refresh = file_refresh,
    .allocate = file_allocate,
};

const struct block_driver block_driver_host_device = {
    .id = IPC_DRIVER_HOST_DEVICE,
    .name = "host_device",
    .flags = BLOCK_DRIVER_NEEDS_FD,
    .state_bytes = sizeof(struct file_state),
    .open = file_open,
    .close = file_close,
    .submit = FILE_SUBMIT,
    .map = file_map,
    .usage = file_usage,
    .resize = file_resize,
    .refresh = file_refresh,
    .allocate = file_allocate,
};
