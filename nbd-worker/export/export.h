/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The transmission phase of one export. Clients are spread over I/O threads; a client belongs to its thread for life,
 * and all that is not marked otherwise is touched by that thread only.
 *
 * A turn of a client: one recv takes what has arrived into the thread's receive buffer; the requests in it are executed
 * one after the other; replies collect in the thread's send buffer and leave with one send at the end of the turn, or
 * earlier when there is much. Reads land in the send buffer behind their reply header, writes are executed from the
 * receive buffer. What cannot be finished that way (it blocks, it is large, the client's socket is full) gets a slot.
 *
 * Slots and the memory that hangs on them are bounded per client. A client that has used up its share is not read until
 * it gets some of it back: by completion of its requests, or by reading its replies.
 */
#ifndef BULKHEAD_NBD_WORKER_EXPORT_EXPORT_H
#define BULKHEAD_NBD_WORKER_EXPORT_EXPORT_H

#include <stdatomic.h>

#include "common/base/cursor.h"
#include "common/block/block.h"
#include "common/io/pipe.h"
#include "common/ipc/worker-page.h"
#include "nbd-worker/export/buffer.h"
#include "nbd-worker/export/reply.h"
#include "nbd-worker/export/request.h"

#define NBD_CLIENT_SLOTS_MAX   256u
/* In buffers of slots: the largest write has room while replies wait, else a client that writes first would hang. */
#define NBD_CLIENT_BYTES_MAX   (NBD_MAX_PAYLOAD + (8u << 20))
/* The same of all clients together; each I/O thread has its part, or enough for one client. See budget.c. */
#define NBD_EXPORT_BYTES_MAX   (256u << 20)
#define NBD_CLIENT_SHARE_BYTES (64u << 10) /* that a client may have in any case */
#define NBD_BUDGET_TICK_NS     15000000000ull
#define NBD_HELD_NOTHING       UINT64_MAX /* at the last tick the client had no memory to give back, or was not there */
#define NBD_TURN_REQUESTS_MAX  512u            /* of one client, then the others of its thread have theirs */
#define NBD_RECEIVE_BYTES      (256u << 10)    /* the receive buffer of a thread */
#define NBD_RECEIVE_LARGE_BYTES (32u << 10) /* of it, while large payloads come: they are to land in their slots */
#define NBD_PIECES_FROM_BYTES  (128u << 10) /* larger writes are executed piece by piece, while they arrive */
#define NBD_WINDOW_BYTES       (256u << 10) /* the buffer in which they do */
#define NBD_PIECE_MIN_BYTES    (32u << 10)
#define NBD_PIECE_ALIGN        4096u        /* pieces end at multiples of this, so that no page is touched twice */
#define NBD_SPLICE_MIN_BYTES   (16u << 10)  /* what comes in smaller drops is gathered in that buffer first */
#define NBD_WINDOW_REST        64u          /* large writes, before that is tried again where it could not be done */
#define NBD_SEND_BYTES         (256u << 10)    /* the send buffer of a thread */
#define NBD_SEND_NOW_BYTES     (64u << 10)     /* read or written: told at once, the client works on it meanwhile */
#define NBD_SENDFILE_MIN_BYTES (16u << 10)     /* reads from this size on go from the page cache to the socket */
#define NBD_HOLE_MIN_BYTES     (256u << 10)    /* for reads from this size on a look for a hole is cheap */
#define NBD_TURN_FILE_BYTES    (2u << 20)      /* sent from files to one client, then the others have their turn */
#define NBD_TURN_PIECES_MAX    16u             /* received of one client's large write, likewise */
#define NBD_EXTENTS_MAX        2048u           /* of one context in a reply to BLOCK_STATUS */
#define NBD_LINGER_NS          10000000000ull  /* a client that is leaving may go without progress for this long */
#define NBD_DRAIN_LINGER_NS    1000000000ull   /* and for this long when the export is being closed */

struct nbd_export;
struct nbd_thread;

/* A request that has left the turn it came in, and its reply until that has been sent. */
struct nbd_slot {
    struct block_request req;
    struct nbd_slot *next; /* in the client's output, or free */
    struct nbd_client *client;
    struct nbd_request request;
    struct nbd_buffer *buffer; /* payload or result; may be NULL */
    size_t charged_bytes;      /* to the thread's budget */
    struct iovec iov;          /* of req */
    uint64_t received_bytes;   /* of the payload, while it is being received */
    uint64_t executed_bytes;   /* of it, from its start; the buffer begins with what follows them */
    bool in_pieces;            /* the buffer is a window, see nbd_write_piece() */
    bool spliced;              /* in pieces, and the buffer is empty: they go by way of the thread's pipe */
    bool looking;              /* a read that first asks whether there is anything to read */

    /* The reply: head, body, tail. */
    uint8_t head[NBD_REPLY_HEAD_MAX];
    uint8_t tail[NBD_CHUNK_BYTES_MAX];
    size_t head_bytes;
    size_t tail_bytes;
    const uint8_t *body; /* NULL with body_bytes: from file_fd */
    size_t body_bytes;
    size_t sent_bytes;
    int file_fd;     /* borrowed; -1: none */
    int file_error;  /* reading file_fd failed: zeroes are sent instead, an error chunk follows */
    bool file_ended; /* file_fd has become shorter: zeroes are what is there */
    uint64_t file_offset;
};

struct nbd_client {
    struct io_watch watch; /* its socket; owned */
    struct io_task task;   /* hands it to its thread */
    struct io_timer linger;
    struct nbd_thread *thread;
    struct nbd_client *next, *prev; /* of the thread */
    struct nbd_client *dirty_next;
    uint64_t client_id;
    struct nbd_limits limits;

    unsigned slots_in_use;
    size_t bytes_in_use; /* in buffers of slots */
    unsigned pending;    /* slots that are below the export */

    /* In line for the thread's budget. */
    struct nbd_client *wait_next;
    bool waits;
    size_t wait_bytes;
    uint64_t given_back; /* buffers, ever */
    uint64_t given_back_before; /* at the last tick, or NBD_HELD_NOTHING */

    /* Output. */
    struct nbd_slot *out_head, *out_tail;
    bool blocked; /* the socket is full */
    bool broken;  /* nobody reads replies any more: they are dropped */

    /* Input. */
    struct nbd_slot *receiving;       /* a request whose payload is on its way */
    uint64_t skip_bytes;              /* of the payload of a refused request */
    struct nbd_request skip_request;
    const char *skip_text;
    uint32_t skip_error;
    struct nbd_buffer *backlog;       /* received, not yet executed */
    size_t backlog_next, backlog_end;
    uint8_t stash[NBD_HEADER_BYTES_MAX]; /* the start of a header whose rest has not arrived */
    size_t stash_bytes;
    size_t receive_bytes; /* how much of the receive buffer the next recv may fill */
    unsigned window_rest; /* large writes to come that are taken as a whole */
    bool cannot_splice; /* its socket */
    bool stalled; /* its share is used up */
    bool dirty;   /* in the thread's list: something has completed, or there is more to execute */

    /* Leaving. */
    bool closing; /* no more requests are taken */
    bool left_in_order;
    bool told_left; /* that it is leaving, while requests are under way */
    const char *reason;
};

/* Counters of one thread between two updates of the worker page. */
struct nbd_counts {
    uint64_t ops[WORKER_PAGE_OPS];
    uint64_t errors[WORKER_PAGE_OPS];
    uint64_t bytes[WORKER_PAGE_OPS];
    bool any;
};

struct nbd_thread {
    struct nbd_export *export;
    struct io_loop *loop;
    struct io_queue *queue;
    struct io_hook hook;
    struct io_task begin_task;
    struct io_task drain_task;
    struct io_task drained_task; /* posted to the control loop */
    struct io_task probe_task;
    bool probe_seen;            /* it has been once round */
    struct io_task probed_task; /* posted to the control loop */
    struct nbd_client *clients;
    struct nbd_client *dirty;
    struct nbd_client *turn_of;    /* whose turn it is; the send buffer is this client's */
    _Atomic unsigned client_count; /* any thread; includes clients on their way */
    bool draining;
    bool drained;

    struct nbd_buffer_cache buffers;
    size_t bytes_in_use; /* the budget: what slots are charged for */
    size_t bytes_max;
    struct nbd_client *wait_head, *wait_tail; /* clients in line for it */
    struct io_timer budget_timer;             /* on while there are any */
    struct nbd_slot *free_slots;
    struct nbd_buffer *receive;
    struct nbd_buffer *send; /* empty between turns */
    size_t send_next, send_end;
    size_t untold_bytes; /* written, with replies that are still in the send buffer */
    struct io_pipe pipe; /* of splice.c; none if the export is read-only; empty between two steps */
    struct block_request inline_request;
    struct iovec inline_iov;
    struct block_extent inline_extent;
    struct nbd_counts counts;
};

struct nbd_export {
    struct block_node *root; /* asked for its size at each request: it may be resized */
    bool fast_zero;
    bool read_only;
    bool writethrough;
    struct worker_page *page;
    struct io_loop *control_loop;
    struct nbd_thread *threads;
    unsigned thread_count;
    unsigned threads_drained; /* control thread */
    bool draining;            /* control thread */
    unsigned threads_to_probe; /* control thread: those that have not answered */
    uint64_t probe_serial;     /* control thread */
    _Atomic bool shut_down;   /* any thread: requests are answered with NBD_ESHUTDOWN */
    void *opaque;

    /* Called from any thread. */
    void (*client_gone)(struct nbd_export *export, uint64_t client_id, bool in_order, const char *text);
    void (*io_error)(struct nbd_export *export, const struct block_request *req, const struct nbd_request *request,
                     int code);
    /* The client's connection is over, and requests are still under way; from any thread; may be NULL. */
    void (*client_left)(struct nbd_export *export, uint64_t client_id);
    /* Called on the control thread when the last thread has drained. */
    void (*drained)(struct nbd_export *export);
    /* The same when the last thread has answered nbd_export_probe(). */
    void (*probed)(struct nbd_export *export, uint64_t serial);
};

/* ---- thread.c: the export and its threads (control thread) ---- */

/* Allocate for thread_count threads; buffers and pipes too, so that lock-down comes after. 0 or -ENOMEM. */
int nbd_export_init(struct nbd_export *export, unsigned thread_count);
void nbd_export_done(struct nbd_export *export); /* no client may be left */

/* Tell thread index its loop and queue; before any client. */
void nbd_export_set_thread(struct nbd_export *export, unsigned index, struct io_loop *loop, struct io_queue *queue);

/*
 * Take a client whose handshake is over; takes ownership of *fd (non-blocking). -EINVAL: the record is none that this
 * export can serve; -ENOMEM. fd is then untouched.
 */
int nbd_export_add_client(struct nbd_export *export, int *fd, const struct ipc_nbd_negotiated *negotiated,
                          struct error *err);

/*
 * See that all threads run, and have taken the clients they were given, and let go of those that have left; probed()
 * follows. -EBUSY: one is under way.
 */
int nbd_export_probe(struct nbd_export *export, uint64_t serial);

/* Answer requests from now on with NBD_ESHUTDOWN; clients leave when they like. */
void nbd_export_shut_down(struct nbd_export *export);

/* Let all clients finish what is in flight, then leave; drained() follows. */
void nbd_export_drain(struct nbd_export *export);

/* ---- thread.c: for clients (their thread) ---- */

void nbd_thread_mark_dirty(struct nbd_client *client);
void nbd_thread_remove(struct nbd_client *client);
void nbd_thread_count(struct nbd_thread *thread, enum block_op op, uint64_t len_bytes, bool error);
void nbd_thread_flush_counts(struct nbd_thread *thread);

/* ---- budget.c ---- */

void nbd_budget_init(struct nbd_thread *thread);

/* Whether the thread has size_bytes for the client. If not, the client is in line: it is given a turn when there is room. */
bool nbd_budget_admits(struct nbd_client *client, size_t size_bytes);

/* The slot is to count for so much in all; less than it does has no effect. */
void nbd_budget_charge(struct nbd_slot *slot, size_t size_bytes);

/* For nothing any more. */
void nbd_budget_give_back(struct nbd_slot *slot);

/* The client asks for nothing any more. */
void nbd_budget_leave(struct nbd_client *client);

/* ---- slot.c ---- */

/* Whether the client's share has room for a slot with a buffer of len_bytes (0: none). */
bool nbd_slot_admits(struct nbd_client *client, size_t len_bytes);

/* NULL: no memory. request may be NULL (a slot that only carries output). */
struct nbd_slot *nbd_slot_new(struct nbd_client *client, const struct nbd_request *request, size_t len_bytes);
void nbd_slot_free(struct nbd_slot *slot);
void nbd_slot_drop_buffer(struct nbd_slot *slot);

/* Another buffer of len_bytes in place of its own, which it is left with if there is no memory (-ENOMEM). */
int nbd_slot_replace_buffer(struct nbd_slot *slot, size_t len_bytes, size_t keep_bytes);

/* What the buffer of a BLOCK_STATUS has to hold. */
size_t nbd_slot_status_bytes(const struct nbd_limits *limits);

/*
 * Submit slot->req (op, flags, offset, len, buffer are set from the request; flags adds BLOCK_REQ_*). The reply is
 * queued when it is done.
 */
void nbd_slot_submit(struct nbd_slot *slot, unsigned flags);

/*
 * For a read with structured or extended replies, of at least NBD_HOLE_MIN_BYTES and without NBD_CMD_FLAG_DF: look whether
 * all of it is a hole, and if not, read.
 */
void nbd_slot_look(struct nbd_slot *slot);

/* Whether the first extent says so of a whole read. */
bool nbd_is_hole(const struct block_request *req, const struct nbd_request *request);

/* Answer such a read with NBD_REPLY_TYPE_OFFSET_HOLE. */
void nbd_slot_hole(struct nbd_slot *slot);

/* BLOCK_REQ_FUA if the request asks for it, or the export makes all writes that. */
unsigned nbd_request_fua(const struct nbd_client *client, const struct nbd_request *request);

/* ---- command.c ---- */

/* Execute what has arrived of a write in pieces, if it is worth it. */
void nbd_write_piece(struct nbd_slot *slot);

/* ---- splice.c ---- */

/* Whether the payload of a write could go that way. */
bool nbd_splice_possible(struct nbd_client *client, const struct nbd_request *request);

/*
 * Move what has arrived of the payload into the image, a window at most. Returns like recv(). What the image did not
 * take is in the slot's buffer then, and slot->spliced is unset: the rest goes the usual way.
 */
ssize_t nbd_splice_receive(struct nbd_slot *slot);

/* ---- output.c ---- */

/*
 * Room for len_bytes in the send buffer, which are sent after nbd_output_commit(); NULL if the client's socket is full:
 * then only slots can carry replies.
 */
uint8_t *nbd_output_reserve(struct nbd_client *client, size_t len_bytes);
void nbd_output_commit(struct nbd_client *client, size_t len_bytes);

/* len_bytes have been written, and the reply committed. */
void nbd_output_wrote(struct nbd_client *client, size_t len_bytes);

/* Queue the reply that slot holds; the slot is freed when it has been sent. */
void nbd_output_queue(struct nbd_slot *slot);

/* Send what can be sent. Afterwards the send buffer is empty. */
void nbd_output_flush(struct nbd_client *client);

/* Give a leaving client's reader its time, from now on. */
void nbd_output_linger(struct nbd_client *client);

/* Drop all that waits, now and in future. */
void nbd_output_break(struct nbd_client *client);

/* Answer a request that needs no slot; error 0 is success without data. text goes with structured errors. */
void nbd_output_reply(struct nbd_client *client, const struct nbd_request *request, uint32_t error, const char *text);

/* Encode such an answer; returns its length, at most NBD_REPLY_HEAD_MAX. */
size_t nbd_output_encode(const struct nbd_client *client, const struct nbd_request *request, uint32_t error,
                         const char *text, uint8_t *to);

/* ---- client.c ---- */

/* For nbd_export_add_client(). */
struct nbd_client *nbd_client_new(struct nbd_thread *thread, const struct ipc_nbd_negotiated *negotiated);

/* On its thread: start to serve. */
void nbd_client_start(struct nbd_client *client);

/* One turn: output, input, execution, output. May free the client. */
void nbd_client_turn(struct nbd_client *client, bool readable);

/* Answer with an error, after the payload has been skipped, of which taken_bytes have been taken already. */
void nbd_client_refuse(struct nbd_client *client, const struct nbd_request *request, uint64_t taken_bytes,
                       uint32_t error, const char *text);

/* Take no more requests; when all is answered (or cannot be), the client is freed. The first reason stays. */
void nbd_client_close(struct nbd_client *client, bool in_order, const char *reason);

#endif
