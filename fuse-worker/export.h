/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A FUSE export: one regular file, the root of its mount, served by a few threads from /dev/fuse. The parts:
 *
 *   thread.c  how a thread waits for requests and hands them out
 *   io.c      the operations that must be fast, without libfuse: READ and WRITE, OPEN and RELEASE
 *   splice.c  large reads without a copy
 *   ops.c     the operations on libfuse's low-level interface, which also does the negotiation (INIT)
 *   op.c      what those that do not finish at once have in common
 *   size.c    how the file gets another size
 *   main.c    the worker: set-up, control messages, draining
 *
 * The kernel is trusted; what it hands through from clients (offsets, lengths, flags) is checked. Each reply goes to
 * the descriptor that its request came from, since each clone of /dev/fuse has its own list of requests under way.
 */
#ifndef BULKHEAD_FUSE_WORKER_EXPORT_H
#define BULKHEAD_FUSE_WORKER_EXPORT_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/io/pipe.h"
#include "common/worker/worker.h"

#define FX_IO_BYTES_MAX 1048576u /* of one READ or WRITE: what the kernel and libfuse allow at most */
#define FX_SLOTS        128u     /* requests under way on one thread */
#define FX_WARM_SLOTS   8u       /* buffers that stay in memory when a burst is over: the first ones */
#define FX_TURN_MAX     64u      /* requests taken in one turn of the loop */

/*
 * A slot's buffer: the headers of WRITE end where a page begins, so that its data can go to an O_DIRECT image as it is.
 * All other requests are read to the same place and are contiguous too.
 */
#define FX_CUTS_MAX     16u /* how often others may cut the file under one request before it fails for that */
#define FX_PAGE_BYTES   4096u
#define FX_HEAD_BYTES   (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define FX_BUFFER_BYTES (FX_PAGE_BYTES + FX_IO_BYTES_MAX + FX_PAGE_BYTES)
#define FX_READ_BYTES   (FX_BUFFER_BYTES - FX_PAGE_BYTES + FX_HEAD_BYTES)

struct fuse_session;
struct fx_export;
struct fx_thread;

/* One request of the fast path. */
struct fx_slot {
    struct fx_thread *thread;
    uint8_t *data; /* page-aligned, FX_IO_BYTES_MAX; the request's headers end here */
    int reply_fd;
    uint64_t unique;
    uint64_t offset; /* of READ and WRITE */
    size_t bytes;
    uint64_t fh;        /* that OPEN gives */
    bool may_grow;      /* a WRITE that may make the file longer */
    unsigned cuts_left; /* how often others may still cut the file under it */
    struct block_request req;
    struct iovec iov;
    bool dirty; /* its buffer takes memory */
};

struct fx_thread {
    struct fx_export *export;
    struct io_loop *loop;
    struct io_queue *queue;
    struct io_task begin_task;
    struct io_hook hook;
    /*
     * Two descriptors of one connection. While nothing is under way the thread blocks in read(2) on the first, which
     * costs one system call less than to wait first, and spares the kernel the work of waking a poller. Else it waits
     * with the loop for the second, which does not block.
     */
    int blocking_fd; /* -1: the loop polls, and nobody ever blocks */
    struct io_watch watch;
    unsigned blocked_rounds;
    bool ended;                         /* the mount is gone */
    _Atomic unsigned pending;           /* requests that wait for the block layer, a pool thread or the monitor */
    uint64_t free_slots[FX_SLOTS / 64]; /* a bit each */
    unsigned dirty_slots;
    unsigned large_requests;         /* that came to the first buffer */
    bool has_huge_page;              /* which is in the first buffer */
    struct io_pipe pipe;             /* of splice.c */
    int reply_fd;                    /* of the request that libfuse works on or answers */
    bool answers_init_with_mappings; /* see ops.c; while libfuse works on INIT */
    uint8_t *buffers;
    struct fx_slot slots[FX_SLOTS];
};

struct fx_export {
    struct worker *worker;
    struct fuse_session *session;
    struct block_node *root;
    bool writable;
    bool writethrough;
    /* Of FUSE_SERVE; set before the first request. */
    bool serving;
    bool growable;
    bool may_resize;
    bool allow_other;
    unsigned device_pairs;
    struct ipc_status_fuse_serving serving_facts; /* of INIT */
    /* What stat(2) shows. */
    _Atomic uint64_t size_bytes; /* to the byte, while the node's size is a multiple of 512 */
    pthread_mutex_t attr_lock;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    /* Changes of the size. */
    pthread_mutex_t size_lock;
    pthread_mutex_t asked_lock;
    struct fx_op *asked; /* those that wait for the monitor: the first one has asked, the others wait for their turn */
    uint64_t last_serial;
    atomic_bool report_posted;
    struct io_task report_task;
    struct io_timer report_timer;
    /* The end. */
    atomic_bool gone_posted;
    int gone_code; /* -errno; set by whoever posts */
    struct io_task gone_task;
    struct io_timer drain_timer;
    unsigned thread_count;
    struct fx_thread *threads;
};

/* ---- thread.c ---- */

/* Buffers, slots, a pipe. 0 or -errno. Before lock-down. */
int fx_thread_init(struct fx_export *export, struct fx_thread *thread);

/* From the control thread: have it serve a pair. */
void fx_thread_start(struct fx_thread *thread, int nonblocking_fd, int blocking_fd);

/* The thread that runs this, for libfuse's callbacks, which are told nothing of threads. */
struct fx_thread *fx_thread_current(void);

void fx_slot_put(struct fx_slot *slot);

/* So much is in its buffer now, or will be: keep account of the memory that buffers take. */
void fx_slot_fill(struct fx_slot *slot, size_t bytes);

/* Requests that outlive the call they came with; the thread does not block in read(2) while there are any. */
void fx_thread_begin_pending(struct fx_thread *thread);
void fx_thread_end_pending(struct fx_thread *thread);

/* Tell of a request that failed below the export, and count requests for the worker page. */
void fx_count(struct fx_thread *thread, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
              int result);

/* ---- io.c ---- */

/* Take a request of the fast path and own its slot; false: it is for libfuse. */
bool fx_io_dispatch(struct fx_slot *slot, const struct fuse_in_header *in);

/* ---- splice.c ---- */

/* Answer a READ without a copy; false: nothing has happened, it has to be copied. */
bool fx_splice_read(struct fx_slot *slot, uint64_t offset, size_t bytes);

/* ---- size.c ---- */

/* On a pool thread. With only_grow a smaller size changes nothing. 0 or -errno. */
int fx_size_set(struct fx_export *export, uint64_t size_bytes, bool only_grow);

/* From the control thread: somebody else has resized the image. */
void fx_size_refresh(struct fx_export *export);

/* Tell the monitor of changes that it did not have to be asked for, together when there are many. */
void fx_size_report_later(struct io_task *task);
void fx_size_report(struct io_timer *timer);

#endif
