/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The parts of the file and host_device drivers: file.c opens and dispatches, file-rw.c transfers and flushes,
 * file-direct.c does the same for O_DIRECT and file-mapping.c for images on tmpfs, file-zero.c discards and zeroes,
 * file-status.c finds extents.
 */
#ifndef BULKHEAD_BLOCK_FILE_H
#define BULKHEAD_BLOCK_FILE_H

#include <stdatomic.h>

#include "common/block/driver.h"
#include "common/block/range.h"

/* The most that one request does inline, so that a large one does not hold up the others of its thread. */
#define FILE_INLINE_MAX_BYTES (1024u * 1024)

/* The most that a call on a pool thread does before it lets others have their turn. */
#define FILE_SLICE_BYTES (8u * 1024 * 1024)

/* An image on tmpfs as memory, and which of its chunks are all there (file-mapping.c). */
struct file_mapping {
    uint8_t *data; /* NULL: not mapped */
    size_t len_bytes;
    _Atomic uint8_t *chunks;
    _Atomic uint64_t tick; /* of the last pwrite(), which sets the time of change */
    atomic_bool broken;
    atomic_bool told;
    unsigned guard;
};

/* Where an extent of data was found last: to ask again for a part of it needs no search. */
struct file_extent_cache {
    pthread_mutex_t mutex;
    uint64_t start;
    uint64_t end;         /* start: nothing known */
    unsigned unmap_count; /* of the node when it was found; later holes make it void */
};

struct file_state {
    int fd;
    int fd_index;
    /* What the image is; fixed by open. */
    bool in_memory; /* tmpfs and its like: nothing blocks, everything is done inline */
    bool direct;    /* O_DIRECT: everything is asynchronous, and aligned */
    bool block_device;
    bool discard_unmap;
    bool needs_flush;            /* what was written may be lost until it is flushed, and somebody cares */
    uint32_t align;              /* of offset and length: of O_DIRECT, or of fallocate() on a block device; else 1 */
    uint32_t memory_align;       /* of buffers for O_DIRECT */
    _Atomic uint64_t file_bytes; /* the size, not rounded */
    /* What it turned out not to be able to do. */
    atomic_bool no_nowait_read;
    atomic_bool no_nowait_write;
    atomic_bool no_discard;
    atomic_bool no_punch_hole;
    atomic_bool no_zero_range;
    atomic_bool no_allocate;
    atomic_int flush_error;   /* -errno of a write-back that failed: what was lost does not come back */
    atomic_uint unmap_count;  /* DISCARD and WRITE_ZEROES that are through */
    struct range_locks locks; /* used if direct */
    struct file_extent_cache extents;
    struct file_mapping mapping;
};

/*
 * An operation: begin() starts it (result, -errno or BLOCK_PENDING), next() is told the result of a step that the
 * engine has done. Both run on the queue's thread.
 */
int file_read_begin(struct file_state *file, struct block_request *req);
int file_write_begin(struct file_state *file, struct block_request *req);
int file_write_next(struct file_state *file, struct block_request *req, int result);
int file_flush_begin(struct file_state *file, struct block_request *req);
int file_flush_next(struct file_state *file, struct block_request *req, int result);
int file_cache_begin(struct file_state *file, struct block_request *req);
int file_discard_begin(struct file_state *file, struct block_request *req);
int file_discard_next(struct file_state *file, struct block_request *req, int result);
int file_zero_begin(struct file_state *file, struct block_request *req);
int file_zero_next(struct file_state *file, struct block_request *req, int result);
int file_status_begin(struct file_state *file, struct block_request *req);

/* READ or WRITE with O_DIRECT. */
int file_direct_begin(struct file_state *file, struct block_request *req);

/* On a pool thread, in slices: write zeros over what remains of req, any alignment, with O_DIRECT or without. */
int file_write_zeros(struct block_request *req, uint8_t *scratch);

/*
 * On a pool thread, in slices, with O_DIRECT: transfer [offset, offset + len) in whole blocks through scratch; a write
 * takes its data from req's vector, or zeros if that is empty.
 */
int file_direct_bounce(struct block_request *req, uint8_t *scratch);

/* As much of the image as is mapped, if it is on tmpfs and the process guards mappings (common/io/guard.h). */
void file_mapping_open(struct file_state *file, bool writable);
void file_mapping_close(struct file_state *file);

/* The range may have holes from now on. */
void file_mapping_forget(struct file_state *file, uint64_t offset, uint64_t len_bytes);

/* The time of change was told to somebody: the next write moves it. */
void file_mapping_time_told(struct file_state *file);

/* On any thread: all of engine_op on an image in memory; through the mapping what can be. 0 or -errno. */
int file_run(struct block_request *req, uint8_t *scratch);

/* The last step of a request with FUA that was no plain write: flush, or be done. */
int file_finish_fua(struct file_state *file, struct block_request *req);

/* Execute req->engine_op: inline if that cannot block for long, else by the engine. */
int file_execute(struct file_state *file, struct block_request *req);

/* Whether the range and the buffers of req are what O_DIRECT wants. */
bool file_range_aligned(const struct file_state *file, const struct block_request *req);

/* Fills align and memory_align. 0 or -errno. */
int file_probe_direct(struct file_state *file, struct error *err);

#endif
