/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying to and from a mapping of an image on tmpfs, instead of by pread() and pwrite(), which look up every page
 * anew: a large write takes 40 % of the time. docs/decisions/images-in-memory-are-mapped.md tells why, and what this
 * owes:
 *
 *  - A hole is never touched through the mapping: reading would allocate it, writing could find no room for it. So a
 *    chunk is used only after all of its pages were seen to be there, and until something frees them.
 *  - Entering pages into the process's tables costs as much as half a copy of them: a chunk has to be used first.
 *  - pwrite() moves the time of last change at each tick of the kernel's clock: the first write of a tick still is one.
 *  - What was cut, or lost, under the mapping raises SIGBUS, which is survived (common/io/guard.h) and ends all this
 *    for the image: the request is done again by the calls, which know what to say.
 */
#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/block/file.h"
#include "common/io/guard.h"

#define CHUNK_BYTES    (256u * 1024)
#define PAGE_BYTES_MIN 4096u
#define CHUNK_PAGES    (CHUNK_BYTES / PAGE_BYTES_MIN)

/* A chunk: how many of its pages were used since somebody looked, that somebody looks, or that all of it is there. */
#define CHUNK_PRESENT UINT8_MAX
#define CHUNK_LOOKING (UINT8_MAX - 1)
_Static_assert(2 * CHUNK_PAGES < CHUNK_LOOKING, "a count is none of these");

/* ---- Opening ---- */

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/*
 * mincore() says that all is there when it does not want to tell, as of a file that this account may not write to. A
 * page behind the end of the file is not.
 */
static bool presence_is_told(const struct file_state *file)
{
    size_t page = page_bytes();
    void *beyond = mmap(NULL, page, PROT_READ, MAP_SHARED, file->fd, (off_t)round_up(file->file_bytes, page));
    unsigned char present = 1;
    bool told;

    if (beyond == MAP_FAILED)
        return false;
    told = mincore(beyond, page, &present) == 0 && !(present & 1);
    munmap(beyond, page);
    return told;
}

static bool is_on_tmpfs(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static int mapping_make(struct file_state *file, size_t bytes, bool writable)
{
    struct file_mapping *mapping = &file->mapping;
    void *data =
        mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
    int ret;

    if (data == MAP_FAILED)
        return -errno;
    mapping->chunks = calloc(bytes / CHUNK_BYTES, sizeof(*mapping->chunks));
    ret = mapping->chunks == NULL ? -ENOMEM : io_guard_add(data, bytes, CHUNK_BYTES, &mapping->broken, &mapping->guard);
    if (ret < 0) {
        munmap(data, bytes);
        free(mapping->chunks);
        mapping->chunks = NULL;
        return ret;
    }
    madvise(data, bytes, MADV_DONTDUMP);
    mapping->data = data;
    mapping->len_bytes = bytes;
    return 0;
}

void file_mapping_open(struct file_state *file, bool writable)
{
    uint64_t bytes = round_down(file->file_bytes, CHUNK_BYTES);
    int ret;

    if (bytes == 0 || bytes > SIZE_MAX || !is_on_tmpfs(file->fd) || !presence_is_told(file))
        return;
    ret = mapping_make(file, (size_t)bytes, writable);
    if (ret < 0)
        log_debug("an image in memory is not mapped: %s", strerror(-ret));
}

void file_mapping_close(struct file_state *file)
{
    struct file_mapping *mapping = &file->mapping;

    if (mapping->data == NULL)
        return;
    io_guard_remove(mapping->guard);
    munmap(mapping->data, mapping->len_bytes);
    free(mapping->chunks);
    *mapping = (struct file_mapping){ 0 };
}

/* ---- Which chunks are present ---- */

static bool all_pages_are_there(struct file_mapping *mapping, uint64_t index)
{
    unsigned char present[CHUNK_PAGES];
    size_t pages = CHUNK_BYTES / page_bytes();

    if (mincore(mapping->data + index * CHUNK_BYTES, CHUNK_BYTES, present) < 0)
        return false;
    for (size_t i = 0; i < pages; i++) {
        if (!(present[i] & 1))
            return false;
    }
    return true;
}

/* One thread looks. If somebody frees pages meanwhile, file_mapping_forget() has the last word. */
static bool look(struct file_mapping *mapping, uint64_t index)
{
    _Atomic uint8_t *chunk = &mapping->chunks[index];
    bool present = all_pages_are_there(mapping, index);
    uint8_t looking = CHUNK_LOOKING;

    if (!atomic_compare_exchange_strong(chunk, &looking, present ? CHUNK_PRESENT : 0) || !present)
        return false;
    /* Shared and writable pages that are entered by a look are entered writable; without it, as they are touched. */
    madvise(mapping->data + index * CHUNK_BYTES, CHUNK_BYTES, MADV_POPULATE_READ);
    return true;
}

static bool chunk_is_present(struct file_mapping *mapping, uint64_t index, uint64_t used_bytes)
{
    _Atomic uint8_t *chunk = &mapping->chunks[index];
    uint8_t used = atomic_load_explicit(chunk, memory_order_relaxed);
    unsigned more;

    if (used >= CHUNK_LOOKING)
        return used == CHUNK_PRESENT;
    more = used + (unsigned)((used_bytes + PAGE_BYTES_MIN - 1) / PAGE_BYTES_MIN);
    /* Threads that count at once lose some of it, which does not matter. */
    if (!atomic_compare_exchange_strong(chunk, &used, (uint8_t)(more > CHUNK_PAGES ? CHUNK_LOOKING : more)))
        return false;
    return more > CHUNK_PAGES && look(mapping, index);
}

static bool range_is_present(struct file_state *file, uint64_t offset, uint64_t len_bytes)
{
    struct file_mapping *mapping = &file->mapping;
    uint64_t end = offset + len_bytes;
    bool all = true;

    if (!range_within(offset, len_bytes, mapping->len_bytes) || !range_within(offset, len_bytes, file->file_bytes))
        return false;
    while (offset < end) {
        uint64_t index = offset / CHUNK_BYTES;
        uint64_t next = MIN((index + 1) * CHUNK_BYTES, end);

        all &= chunk_is_present(mapping, index, next - offset);
        offset = next;
    }
    return all;
}

void file_mapping_forget(struct file_state *file, uint64_t offset, uint64_t len_bytes)
{
    struct file_mapping *mapping = &file->mapping;

    if (offset >= mapping->len_bytes || len_bytes == 0)
        return;
    len_bytes = MIN(len_bytes, mapping->len_bytes - offset); /* UINT64_MAX: to the end */
    for (uint64_t i = offset / CHUNK_BYTES; i <= (offset + len_bytes - 1) / CHUNK_BYTES; i++)
        atomic_store_explicit(&mapping->chunks[i], 0, memory_order_relaxed);
}

/* ---- Copying ---- */

/* Nothing of the mapping is used any more. */
static void give_up(struct file_mapping *mapping)
{
    atomic_store(&mapping->broken, true);
    if (!atomic_exchange(&mapping->told, true))
        log_warning(
            "an image was made smaller, or its memory failed, while it was in use; going on without its mapping");
}

/* Somebody has cut the file; where it ends within a page no fault tells. */
static bool is_cut(const struct file_state *file)
{
    struct stat st;

    return fstat(file->fd, &st) < 0 || (uint64_t)st.st_size < file->file_bytes;
}

/* The first write of a tick of the kernel's coarse clock: a page of it at most by pwrite(), for the time of change. */
static int write_time(struct file_state *file, struct block_request *req)
{
    struct file_mapping *mapping = &file->mapping;
    struct timespec now;
    uint64_t tick;
    ssize_t n;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    tick = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (atomic_load_explicit(&mapping->tick, memory_order_relaxed) == tick)
        return 0;
    atomic_store_explicit(&mapping->tick, tick, memory_order_relaxed);
    if (is_cut(file))
        return -EAGAIN;
    n = pwrite(file->fd, req->iov->iov_base, MIN(req->iov->iov_len, PAGE_BYTES_MIN), (off_t)req->offset);
    if (n <= 0)
        return -EAGAIN;
    io_request_advance(req, (size_t)n);
    return 0;
}

void file_mapping_time_told(struct file_state *file)
{
    atomic_store_explicit(&file->mapping.tick, 0, memory_order_relaxed);
}

static bool has_broken(struct file_mapping *mapping)
{
    return atomic_load_explicit(&mapping->broken, memory_order_relaxed);
}

/* What was copied counts only if the mapping is whole afterwards. */
static int copy(struct file_mapping *mapping, struct block_request *req)
{
    while (req->done_bytes < req->len_bytes) {
        uint8_t *data = mapping->data + req->offset;
        size_t bytes = req->iov->iov_len;

        if (req->engine_op == BLOCK_OP_READ)
            memcpy(req->iov->iov_base, data, bytes);
        else
            memcpy(data, req->iov->iov_base, bytes);
        atomic_thread_fence(memory_order_seq_cst); /* another thread may have met the fault */
        if (has_broken(mapping))
            return -EAGAIN;
        io_request_advance(req, bytes);
    }
    return 0;
}

static bool is_for_mapping(struct file_state *file, const struct block_request *req)
{
    return file->mapping.data != NULL && req->rw_flags == 0 &&
           (req->engine_op == BLOCK_OP_READ || req->engine_op == BLOCK_OP_WRITE) && !has_broken(&file->mapping) &&
           range_is_present(file, req->offset, req->len_bytes);
}

int file_run(struct block_request *req, uint8_t *scratch)
{
    struct file_state *file = req->node->state;

    if (is_for_mapping(file, req)) {
        int ret = req->engine_op == BLOCK_OP_WRITE ? write_time(file, req) : 0;

        if (ret == 0)
            ret = copy(&file->mapping, req);
        if (ret == 0)
            return 0;
        if (has_broken(&file->mapping) || is_cut(file))
            give_up(&file->mapping);
    }
    return io_request_run(req, file->fd);
}
