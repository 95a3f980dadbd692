/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all workers share: main() of a worker binary is worker_main(argc, argv, &class). It receives BOOT, makes
 * threads, loops and the engine, locks down, opens the node tree, reports READY, then dispatches control messages by
 * the table until DRAIN, end of file or a protocol error.
 *
 * The main thread runs loops[0], the control loop; export roles have boot.io_threads more loops, each with its thread
 * and io_queue. All callbacks of the class run on the control thread.
 */
#ifndef BULKHEAD_WORKER_WORKER_H
#define BULKHEAD_WORKER_WORKER_H

#include "common/block/block.h"
#include "common/ipc/worker-page.h"

struct worker;

/* A control message that a role takes while running; the harness has checked it against its row of the catalogue
 * (common/ipc/catalogue.h): length, number of descriptors, state, role, fields. */
struct worker_message {
    enum ipc_type type;
    /* Owns fds: takes with TAKE_FD what it keeps; the harness closes the rest. 0, or -errno to end the worker. */
    int (*handle)(struct worker *worker, const void *message, int *fds);
};

struct worker_class {
    uint32_t ipc_role;
    /*
     * Before lock-down: allocate, create descriptors. No byte of a peer or an image may be touched here. Sets
     * worker->role_state.
     */
    int (*setup)(struct worker *worker, struct error *err);
    /* After lock-down and after the tree is open, before READY. May be NULL. */
    int (*start)(struct worker *worker, struct error *err);
    /* The image was resized; worker->info.size_bytes is what the root has now. May be NULL. */
    void (*resized)(struct worker *worker);
    /* DRAIN came: finish, then call worker_exit(). */
    void (*drain)(struct worker *worker);
    const struct worker_message *messages;
    unsigned message_count;
};

struct worker_io_thread {
    struct io_loop *loop;
    struct io_queue *queue;
};

struct worker {
    const struct worker_class *class;
    struct ipc_boot boot;
    struct worker_page *page;
    struct io_loop *control_loop;
    struct worker_io_thread *io_threads; /* boot.io_threads of them; none for roles without images */
    struct io_engine *engine;            /* NULL for roles without images */
    struct block_tree *tree;             /* NULL for roles without images */
    struct block_node *root;
    struct block_info info;
    void *role_state;
    struct worker_private *private;
};

int worker_main(int argc, char **argv, const struct worker_class *class);

/* From any thread: send a status record. Never blocks: records that find the pipe full wait in a bounded list, and log
 * records are dropped and counted when that is full too. */
void worker_report(struct worker *worker, const struct ipc_status *status);

/* From any thread: tell of a request that failed below the export; rate-limited. */
void worker_report_io_error(struct worker *worker, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
                            int code);

/* From any thread, in order: flush status records and exit with status 0. */
void worker_exit(struct worker *worker);

#endif
