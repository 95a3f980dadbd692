/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Extents by SEEK_DATA and SEEK_HOLE, on a pool thread: on a file system in memory the search does not wait for a
 * device but walks over every page up to the next hole, which for a large image is many milliseconds. That is also why
 * the extent of data found last is remembered; data that has been unmapped since is found by the count of such
 * requests.
 *
 * Extents end where the file system says, within a sector at the end of the file: what follows reads as zeros. With
 * O_DIRECT they are whole blocks.
 *
 * lseek() moves the file position, which nothing here uses.
 */
#include "common/block/file.h"

#include <errno.h>

/* Add an extent, or lengthen the last one. */
static void add_extent(struct block_request *req, uint64_t len_bytes, uint32_t flags)
{
    if (req->extents_count > 0 && req->extents[req->extents_count - 1].flags == flags) {
        req->extents[req->extents_count - 1].len_bytes += len_bytes;
        return;
    }
    req->extents[req->extents_count++] = (struct block_extent){ .len_bytes = len_bytes, .flags = flags };
}

static void cache_store(struct file_state *file, uint64_t start, uint64_t end, unsigned unmap_count)
{
    pthread_mutex_lock(&file->extents.mutex);
    file->extents.start = start;
    file->extents.end = end;
    file->extents.unmap_count = unmap_count;
    pthread_mutex_unlock(&file->extents.mutex);
}

/* The end of the known extent of data around offset, or offset. */
static uint64_t cache_find(struct file_state *file, uint64_t offset)
{
    const struct file_extent_cache *known = &file->extents;
    uint64_t end = offset;

    pthread_mutex_lock(&file->extents.mutex);
    if (known->start <= offset && offset < known->end && known->unmap_count == atomic_load(&file->unmap_count))
        end = known->end;
    pthread_mutex_unlock(&file->extents.mutex);
    return end;
}

/* Where data starts, at or after pos; UINT64_MAX if there is none, pos if the file system does not say. */
static uint64_t seek_data(const struct file_state *file, uint64_t pos)
{
    off_t data = lseek(file->fd, (off_t)pos, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? UINT64_MAX : pos;
    return MAX((uint64_t)data, pos);
}

static uint32_t unit_of(const struct file_state *file)
{
    return file->direct ? file->align : 1;
}

/* Where the data at pos ends: behind it, so that a race with somebody who unmaps makes progress. */
static uint64_t seek_hole(const struct file_state *file, uint64_t pos)
{
    off_t hole = lseek(file->fd, (off_t)pos, SEEK_HOLE);
    uint32_t step = MAX(unit_of(file), BLOCK_SECTOR_BYTES);
    uint64_t least = round_down(pos, step) + step;

    if (hole < 0)
        return errno == ENXIO ? least : BLOCK_SIZE_MAX;
    return (uint64_t)hole > pos ? round_up((uint64_t)hole, unit_of(file)) : least;
}

static int find_extents(struct block_request *req, uint8_t *scratch)
{
    struct file_state *file = req->node->state;
    unsigned unmap_count = atomic_load(&file->unmap_count);
    uint64_t pos = req->offset, end = req->offset + req->len_bytes;

    req->extents_count = 0;
    while (pos < end) {
        uint64_t known = cache_find(file, pos);
        uint64_t data = known > pos ? pos : round_down(seek_data(file, pos), unit_of(file));
        uint64_t stop;

        if (data > pos) {
            stop = MIN(data, end);
            add_extent(req, stop - pos, BLOCK_EXTENT_ZERO | BLOCK_EXTENT_HOLE);
        } else {
            stop = known > pos ? known : seek_hole(file, pos);
            if (known == pos)
                cache_store(file, pos, stop, unmap_count);
            stop = MIN(stop, end);
            add_extent(req, stop - pos, 0);
        }
        pos = stop;
        if (req->extents_count == req->extents_max)
            break;
    }
    return 0;
}

int file_status_begin(struct file_state *file, struct block_request *req)
{
    uint64_t end = req->offset + req->len_bytes;
    uint64_t data_end = file->block_device ? end : cache_find(file, req->offset);

    /* What follows the known extent is looked for only if it can be told, too. */
    if (data_end == req->offset || (data_end < end && req->extents_max > 1))
        return io_queue_call(req->queue, req, find_extents);
    req->extents_count = 0;
    add_extent(req, MIN(data_end, end) - req->offset, 0);
    return 0;
}
