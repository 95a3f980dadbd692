/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A loop, an engine and a tree of nodes over temporary files, and requests that are waited for. Tests of the block
 * layer run once for each variant: both engines, a file system in memory and one on a disk.
 */
#ifndef BULKHEAD_TESTS_UNIT_BLOCK_FIXTURE_H
#define BULKHEAD_TESTS_UNIT_BLOCK_FIXTURE_H

#include "tests/unit/unit.h"

#include "common/block/block.h"

enum fixture_place { PLACE_MEMORY, PLACE_DISK };

struct variant {
    const char *name;
    enum io_engine_kind engine;
    enum fixture_place place;
};

extern const struct variant variants[4];
extern const struct variant *variant; /* the one that runs */

struct block_fixture {
    struct io_loop *loop;
    struct io_engine *engine;
    struct io_queue *queue;
    struct block_tree *tree;
    struct block_node *root;
    int fds[IPC_IMAGE_FDS_MAX];
    unsigned fd_count;
    struct ipc_node specs[IPC_NODES_MAX];
    unsigned spec_count;
    struct error err;
};

/* A request that is waited for, with its vector. */
struct block_call {
    struct block_request req;
    struct iovec iov[8];
    struct io_loop *loop;
    bool done;
    int result;
};

void fixture_init(struct block_fixture *f);
void fixture_done(struct block_fixture *f);

/* An unlinked file of that size at the variant's place, opened with flags; -1 with errno. */
int fixture_temp_file(enum fixture_place place, uint64_t size_bytes, int flags);

/* A loop device over a file, which goes when its last descriptor does; -1 with errno where there are none, or no root.
 */
int fixture_loop_device(int backing_fd);

/* Whether the place can be had here; if not, says why. */
bool fixture_place_exists(enum fixture_place place);

/* Add a descriptor (owned from now on), a node. Returns the index. */
int fixture_add_fd(struct block_fixture *f, int fd);
unsigned fixture_add_node(struct block_fixture *f, uint32_t driver, uint32_t flags, int fd_index, int child_index);

/* A tree of one file node over a new file of the variant's place. Returns its descriptor. */
int fixture_open_file(struct block_fixture *f, uint64_t size_bytes, uint32_t node_flags);

/* Build the engine and the tree of what was added. 0 or -errno. */
int fixture_open(struct block_fixture *f);

/* Start a request; returns what block_submit() did. Wait for it. */
int call_start(struct block_fixture *f, struct block_call *call);
int call_wait(struct block_fixture *f, struct block_call *call);

/* All of it, for one buffer. */
int fixture_io(struct block_fixture *f, enum block_op op, unsigned flags, uint64_t offset, void *buf,
               uint64_t len_bytes);

/* The extents of a range. Returns their number or -errno. */
int fixture_status(struct block_fixture *f, uint64_t offset, uint64_t len_bytes, struct block_extent *extents,
                   unsigned max);

/* Bytes that tell their offset. */
void pattern_fill(uint8_t *buf, uint64_t offset, size_t len_bytes, uint8_t seed);

/* Run a group once per variant; the sum of failures. */
int run_variants(const char *group, const struct CMUnitTest *tests, size_t count);

#define RUN_VARIANTS(group, tests) run_variants(group, tests, ARRAY_SIZE(tests))

int fixture_setup(void **state);
int fixture_teardown(void **state);

#define FIXTURE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
