/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Engines: how requests that may block are executed. A worker has one io_engine (which kind, its image descriptors, its
 * pool of threads) and one io_queue per I/O thread. Requests that cannot block never come here: drivers finish them
 * inline (see common/block/).
 *
 *   io_uring  one restricted ring per queue: IORING_SETUP_R_DISABLED, image descriptors as the only fixed files,
 *             IORING_REGISTER_RESTRICTIONS to the opcodes below, then enabled. What a ring cannot do (SEEK_DATA) goes
 *             to a small thread pool.
 *   threads   the pool does everything with preadv2/pwritev2.
 *
 * Everything that a queue needs (ring, threads, event descriptors) exists after io_engine_new(): lock-down comes later.
 */
#ifndef BULKHEAD_IO_QUEUE_H
#define BULKHEAD_IO_QUEUE_H

#include "common/base/error.h"
#include "common/io/loop.h"
#include "common/io/request.h"

struct io_engine;

enum io_engine_kind {
    IO_ENGINE_AUTO, /* io_uring where it works, else threads */
    IO_ENGINE_URING,
    IO_ENGINE_THREADS,
};

struct io_engine_config {
    enum io_engine_kind kind;
    const int
        *image_fds; /* borrowed, must stay open; fd_index of a request indexes it. What comes last is closed last */
    unsigned image_fd_count;
    struct io_loop *const *loops; /* one queue is made for each */
    unsigned loop_count;
    unsigned pool_threads; /* 0: the default of the kind */
};

int io_engine_new(const struct io_engine_config *config, struct io_engine **ret_engine, struct error *err);
void io_engine_free(struct io_engine *engine); /* NULL is fine; no request may be pending, no loop run afterwards */

/*
 * Keep no file open beyond the end of the process, which is about to come: nothing is in flight and nothing will be
 * submitted. From any thread.
 */
void io_engine_release_files(struct io_engine *engine);

/* "io_uring" or "threads": what really runs. */
const char *io_engine_name(const struct io_engine *engine);

/* The queue of loops[index]. */
struct io_queue *io_engine_queue(struct io_engine *engine, unsigned index);

/*
 * Execute req on its fd_index: READ and WRITE at req->offset with req->rw_flags, continuing after short transfers (a
 * read past the end of the file is filled with zeros); FLUSH is fdatasync; WRITE_ZEROES and DISCARD are fallocate with
 * req->fallocate_mode; CACHE is POSIX_FADV_WILLNEED. Always returns BLOCK_PENDING; the submission happens at the end of
 * the loop's turn. A request with BLOCK_REQ_INLINE_ONLY is refused with -EAGAIN, here and by the functions below.
 */
int io_queue_submit(struct io_queue *queue, struct block_request *req);

/*
 * Run work(req, scratch), which may block and returns 0 or -errno, on a pool thread, then complete the request on the
 * queue's thread. For what engines have no operation for: extents, bounce buffers, zeros written out. scratch is
 * IO_SCRATCH_BYTES of that thread's own, page-aligned, with any content. Work that takes long returns BLOCK_PENDING now
 * and then, and is called again when those that waited behind it have had their turn. Always returns BLOCK_PENDING.
 */
#define IO_SCRATCH_BYTES (256u * 1024)
int io_queue_call(struct io_queue *queue, struct block_request *req,
                  int (*work)(struct block_request *req, uint8_t *scratch));

/*
 * Like io_queue_call(), or for NULL like io_queue_submit(), but always on a pool thread, which begins at once. Always
 * returns BLOCK_PENDING.
 */
int io_queue_offload(struct io_queue *queue, struct block_request *req,
                     int (*work)(struct block_request *req, uint8_t *scratch));

/* Continue with req (see below) after delay_ns, with result. Always returns BLOCK_PENDING. */
int io_queue_delay(struct io_queue *queue, struct block_request *req, uint64_t delay_ns, int result);

/*
 * From any thread: have the queue's own thread continue with req: req->after(req, result) if a driver has set it, and
 * unless that starts another step, req->complete().
 */
void io_queue_complete_remote(struct io_queue *queue, struct block_request *req, int result);

/* The loop this queue belongs to. */
struct io_loop *io_queue_loop(const struct io_queue *queue);

#endif
