/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An NBD export with clients for unit tests: a worker's transmission phase over socketpairs, on the block layer of
 * fake_block.h. A test sends requests, right or wrong, and takes the replies apart.
 */
#ifndef BULKHEAD_TESTS_UNIT_NBD_PEER_H
#define BULKHEAD_TESTS_UNIT_NBD_PEER_H

#include "tests/unit/unit.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include "nbd-worker/export/export.h"
#include "tests/unit/fake_block.h"

#define SIZE      (64ull << 20)
#define REPLY_MAX (48u << 20)
#define TURNS     64
#define PEERS_MAX 3

struct peer {
    int fd;
    uint64_t id;
    uint8_t *got;
    size_t got_bytes;
    struct cursor at;
};

struct fixture {
    struct nbd_export export;
    struct worker_page page;
    struct io_loop *loop;
    struct peer peers[PEERS_MAX];
    bool gone[PEERS_MAX];
    bool gone_in_order[PEERS_MAX];
    char reason[PEERS_MAX][128];
    bool drained;
    unsigned io_errors;
    int io_error;
};

static struct fixture *fx;

static inline void on_gone(struct nbd_export *export, uint64_t client_id, bool in_order, const char *text)
{
    fx->gone[client_id] = true;
    fx->gone_in_order[client_id] = in_order;
    strncpy(fx->reason[client_id], text, sizeof(fx->reason[0]) - 1);
}

static inline void on_io_error(struct nbd_export *export, const struct block_request *req,
                               const struct nbd_request *request, int code)
{
    fx->io_errors++;
    fx->io_error = code;
}

static inline void on_drained(struct nbd_export *export)
{
    fx->drained = true;
}

/* Let the loop have a few turns; then everything that can happen without the peer has happened. */
static inline void turns(void)
{
    for (unsigned i = 0; i < TURNS; i++) {
        io_loop_stop(fx->loop);
        io_loop_run(fx->loop);
    }
}

static inline int setup(void **state)
{
    fx = calloc(1, sizeof(*fx));
    fake = (struct fake_block){ .size_bytes = SIZE, .map_fd = -1 };
    fake.data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(fake.data, MAP_FAILED);
    fx->loop = io_loop_new(NULL);
    fx->export = (struct nbd_export){
        .fast_zero = true,
        .page = &fx->page,
        .control_loop = fx->loop,
        .client_gone = on_gone,
        .io_error = on_io_error,
        .drained = on_drained,
    };
    assert_int_equal(nbd_export_init(&fx->export, 1), 0);
    nbd_export_set_thread(&fx->export, 0, fx->loop, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(fx->peers); i++)
        fx->peers[i] = (struct peer){ .fd = -1, .id = i };
    return 0;
}

static inline int teardown(void **state)
{
    while (fake.pending_count > 0)
        fake_complete(0);
    for (unsigned i = 0; i < ARRAY_SIZE(fx->peers); i++) {
        close_fd(&fx->peers[i].fd);
        free(fx->peers[i].got);
    }
    turns();
    nbd_export_drain(&fx->export);
    turns();
    assert_true(fx->drained);
    assert_int_equal(fx->page.clients, 0);
    assert_int_equal(fx->page.fds_clients, 0);
    nbd_export_done(&fx->export);
    io_loop_free(fx->loop);
    munmap(fake.data, SIZE);
    free(fx);
    return 0;
}

/* ---- A peer ---- */

static inline struct peer *peer_join(unsigned id, uint32_t flags, uint32_t contexts)
{
    struct ipc_nbd_negotiated negotiated = { .client_id = id, .flags = flags, .contexts = contexts };
    struct peer *peer = &fx->peers[id];
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    peer->fd = pair[0];
    peer->got = malloc(REPLY_MAX);
    peer->got_bytes = 0;
    peer->at = cursor_init(peer->got, 0);
    assert_int_equal(nbd_export_add_client(&fx->export, &pair[1], &negotiated, NULL), 0);
    assert_int_equal(pair[1], -1);
    return peer;
}

static inline struct peer *simple_peer(void)
{
    return peer_join(0, 0, 0);
}

static inline struct peer *structured_peer(void)
{
    return peer_join(0, IPC_NBD_STRUCTURED_REPLY, IPC_NBD_CONTEXT_BASE_ALLOCATION);
}

static inline void peer_pull(struct peer *peer)
{
    for (;;) {
        ssize_t n = recv(peer->fd, peer->got + peer->got_bytes, REPLY_MAX - peer->got_bytes, MSG_DONTWAIT);

        if (n <= 0)
            return;
        peer->got_bytes += (size_t)n;
        peer->at.left_bytes += (size_t)n;
    }
}

/* Move bytes both ways until nothing moves any more. */
static inline void settle_all(struct peer *peer)
{
    size_t before;

    do {
        before = peer->got_bytes;
        turns();
        peer_pull(peer);
    } while (peer->got_bytes > before);
}

static inline void peer_send(struct peer *peer, const void *data, size_t len_bytes)
{
    const uint8_t *p = data;

    while (len_bytes > 0) {
        ssize_t n = send(peer->fd, p, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            turns();
            continue;
        }
        p += n;
        len_bytes -= (size_t)n;
    }
}

static inline struct nbd_request_header header(uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
                                               uint32_t len)
{
    return (struct nbd_request_header){
        htobe32(NBD_REQUEST_MAGIC), htobe16(flags), htobe16(type), htobe64(cookie), htobe64(offset), htobe32(len)
    };
}

static inline void request(struct peer *peer, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
                           uint32_t len)
{
    struct nbd_request_header h = header(type, flags, cookie, offset, len);

    peer_send(peer, &h, sizeof(h));
}

/* The next reply, simple: its error. */
static inline uint32_t get_simple(struct peer *peer, uint64_t cookie)
{
    uint32_t error;

    assert_int_equal(cursor_be32(&peer->at), NBD_SIMPLE_REPLY_MAGIC);
    error = cursor_be32(&peer->at);
    assert_true(cursor_be64(&peer->at) == cookie);
    assert_false(peer->at.failed);
    return error;
}

/* The next chunk; its payload is left in *ret_payload. */
static inline uint16_t get_chunk(struct peer *peer, uint64_t cookie, bool done, struct cursor *ret_payload)
{
    uint16_t type;
    uint32_t len_bytes;

    assert_int_equal(cursor_be32(&peer->at), NBD_STRUCTURED_REPLY_MAGIC);
    assert_int_equal(cursor_be16(&peer->at), done ? NBD_REPLY_FLAG_DONE : 0);
    type = cursor_be16(&peer->at);
    assert_true(cursor_be64(&peer->at) == cookie);
    len_bytes = cursor_be32(&peer->at);
    *ret_payload = cursor_init(cursor_bytes(&peer->at, len_bytes), len_bytes);
    assert_false(peer->at.failed);
    return type;
}

static inline void assert_data(struct cursor *c, uint64_t offset, size_t len_bytes)
{
    const void *p = cursor_bytes(c, len_bytes);

    assert_non_null(p);
    assert_memory_equal(p, fake.data + offset, len_bytes);
}

static inline void assert_nothing_left(struct peer *peer)
{
    settle_all(peer);
    assert_true(cursor_at_end(&peer->at));
}

static inline void assert_simple(struct peer *peer, uint64_t cookie, uint32_t error)
{
    settle_all(peer);
    assert_int_equal(get_simple(peer, cookie), error);
    assert_true(cursor_at_end(&peer->at));
}

static inline void assert_error_chunk(struct peer *peer, uint64_t cookie, uint32_t error)
{
    struct cursor payload;
    uint16_t text_len;

    settle_all(peer);
    assert_int_equal(get_chunk(peer, cookie, true, &payload), NBD_REPLY_TYPE_ERROR);
    assert_int_equal(cursor_be32(&payload), error);
    text_len = cursor_be16(&payload);
    assert_true(text_len > 0);
    cursor_bytes(&payload, text_len);
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

static inline void fill(uint64_t offset, size_t len_bytes)
{
    for (size_t i = 0; i < len_bytes; i++)
        fake.data[offset + i] = (uint8_t)(offset + i * 7 + (i >> 8));
}

/* ---- Extended headers ---- */

static inline struct peer *extended_peer(void)
{
    return peer_join(0, IPC_NBD_EXTENDED_HEADERS, IPC_NBD_CONTEXTS_ALL);
}

static inline void extended_request(struct peer *peer, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
                                    uint64_t len)
{
    struct nbd_extended_request h = { htobe32(NBD_EXTENDED_REQUEST_MAGIC),
                                      htobe16(flags),
                                      htobe16(type),
                                      htobe64(cookie),
                                      htobe64(offset),
                                      htobe64(len) };

    peer_send(peer, &h, sizeof(h));
}

/* The next chunk, which must be the last one: its type; its payload is left in *ret_payload. */
static inline uint16_t get_extended(struct peer *peer, uint64_t cookie, uint64_t offset, struct cursor *ret_payload)
{
    uint64_t len_bytes;
    uint16_t type;

    settle_all(peer);
    assert_int_equal(cursor_be32(&peer->at), NBD_EXTENDED_REPLY_MAGIC);
    assert_int_equal(cursor_be16(&peer->at), NBD_REPLY_FLAG_DONE);
    type = cursor_be16(&peer->at);
    assert_true(cursor_be64(&peer->at) == cookie);
    assert_true(cursor_be64(&peer->at) == offset);
    len_bytes = cursor_be64(&peer->at);
    *ret_payload = cursor_init(cursor_bytes(&peer->at, len_bytes), len_bytes);
    assert_false(peer->at.failed);
    return type;
}

static inline void assert_extended_none(struct peer *peer, uint64_t cookie, uint64_t offset)
{
    struct cursor payload;

    assert_int_equal(get_extended(peer, cookie, offset, &payload), NBD_REPLY_TYPE_NONE);
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

static inline void assert_extended_error(struct peer *peer, uint64_t cookie, uint64_t offset, uint32_t error)
{
    struct cursor payload;

    assert_int_equal(get_extended(peer, cookie, offset, &payload), NBD_REPLY_TYPE_ERROR);
    assert_int_equal(cursor_be32(&payload), error);
    cursor_bytes(&payload, cursor_be16(&payload));
    assert_true(cursor_at_end(&payload));
    assert_true(cursor_at_end(&peer->at));
}

#endif
