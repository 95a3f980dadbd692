/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vhost-user-blk front-end and virtio-blk driver in one, for tests and benchmarks. It shares no line with the worker:
 * all layouts are written down again from the specifications (QEMU's docs/interop/vhost-user.rst, VIRTIO 1.2), so that
 * a mistake in one is not repeated in the other. Errors of the caller's environment end the program; what the back-end
 * does is returned.
 */
#ifndef BULKHEAD_TESTS_VHOST_FRONTEND_H
#define BULKHEAD_TESTS_VHOST_FRONTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Requests (vhost-user.rst, "Front-end message types"). */
enum {
    R_GET_FEATURES = 1,
    R_SET_FEATURES = 2,
    R_SET_OWNER = 3,
    R_RESET_OWNER = 4,
    R_SET_MEM_TABLE = 5,
    R_SET_LOG_BASE = 6,
    R_SET_LOG_FD = 7,
    R_SET_VRING_NUM = 8,
    R_SET_VRING_ADDR = 9,
    R_SET_VRING_BASE = 10,
    R_GET_VRING_BASE = 11,
    R_SET_VRING_KICK = 12,
    R_SET_VRING_CALL = 13,
    R_SET_VRING_ERR = 14,
    R_GET_PROTOCOL_FEATURES = 15,
    R_SET_PROTOCOL_FEATURES = 16,
    R_GET_QUEUE_NUM = 17,
    R_SET_VRING_ENABLE = 18,
    R_SET_BACKEND_REQ_FD = 21,
    R_GET_CONFIG = 24,
    R_SET_CONFIG = 25,
    R_GET_INFLIGHT_FD = 31,
    R_SET_INFLIGHT_FD = 32,
    R_RESET_DEVICE = 34,
    R_GET_MAX_MEM_SLOTS = 36,
    R_ADD_MEM_REG = 37,
    R_REM_MEM_REG = 38,
    R_SET_STATUS = 39,
    R_GET_STATUS = 40,
};

#define MSG_VERSION_1  1u
#define MSG_IS_REPLY   4u
#define MSG_NEED_REPLY 8u

#define BIT64(n) (1ull << (n))

/* Feature bits. */
#define FE_F_SIZE_MAX     BIT64(1)
#define FE_F_SEG_MAX      BIT64(2)
#define FE_F_RO           BIT64(5)
#define FE_F_BLK_SIZE     BIT64(6)
#define FE_F_FLUSH        BIT64(9)
#define FE_F_TOPOLOGY     BIT64(10)
#define FE_F_CONFIG_WCE   BIT64(11)
#define FE_F_MQ           BIT64(12)
#define FE_F_DISCARD      BIT64(13)
#define FE_F_WRITE_ZEROES BIT64(14)
#define FE_F_LOG_ALL      BIT64(26)
#define FE_F_INDIRECT     BIT64(28)
#define FE_F_EVENT_IDX    BIT64(29)
#define FE_F_PROTOCOL     BIT64(30)
#define FE_F_VERSION_1    BIT64(32)
#define FE_F_PACKED       BIT64(34)

/* Protocol feature bits. */
#define FE_P_MQ           BIT64(0)
#define FE_P_LOG_SHMFD    BIT64(1)
#define FE_P_REPLY_ACK    BIT64(3)
#define FE_P_BACKEND_REQ  BIT64(5)
#define FE_P_CONFIG       BIT64(9)
#define FE_P_INFLIGHT     BIT64(12)
#define FE_P_RESET_DEVICE BIT64(13)
#define FE_P_MEM_SLOTS    BIT64(15)
#define FE_P_STATUS       BIT64(16)

/* Types and states of requests to the disk. */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xff /* what a test puts there before */ };

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

struct fe_desc { /* split */
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct fe_packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

#define FE_QUEUES_MAX     8
#define FE_QUEUE_SIZE_MAX 1024

/*
 * Memory: one memfd. A guard, region A, region B, a guard; A and B touch in guest addresses and not in user addresses.
 * The guards belong to no region: nothing may ever change them.
 */
#define FE_GUARD_BYTES 0x10000u
#define FE_GUEST_BASE  0x100000000ull
#define FE_USER_A      0x700000000000ull
#define FE_USER_B      0x600000000000ull
#define FE_GUARD_FILL  0x5a

struct fe_queue {
    unsigned size;
    int kick_fd, call_fd, err_fd;
    uint64_t ring_offset; /* in the memory's regions */
    /* split */
    struct fe_desc *desc;
    uint16_t *avail; /* flags, idx, ring[size], used_event */
    uint16_t *used;  /* flags, idx, { u32 id, u32 len }[size], avail_event */
    uint16_t used_seen;
    /* packed */
    struct fe_packed_desc *pdesc;
    uint16_t *driver_event, *device_event; /* desc, flags */
    uint16_t next, used_next;
    bool wrap, used_wrap;
    uint16_t places[FE_QUEUE_SIZE_MAX]; /* by id: how many descriptors its chain has */
};

struct fe {
    const char *path;
    int sock;
    uint64_t features, protocol_features; /* negotiated */
    bool packed;
    int mem_fd;
    uint8_t *file;      /* our mapping of the whole memfd */
    uint8_t *ram;       /* of its regions */
    uint64_t ram_bytes; /* of A and B together */
    uint64_t a_bytes;
    struct fe_queue queues[FE_QUEUES_MAX];
    char error[256]; /* of the last call that failed */
};

/* ---- Messages ---- */

/* False if nobody takes the connection. */
bool fe_connect(struct fe *fe, const char *path);
void fe_close(struct fe *fe);

/* Send a header with size = len_bytes, and the payload with fds. False if the back-end has closed the connection. */
bool fe_send(struct fe *fe, uint32_t request, uint32_t flags, const void *payload, uint32_t len_bytes, const int *fds,
             unsigned fd_count);
/* The same with a header of the caller's. */
bool fe_send_raw(struct fe *fe, uint32_t request, uint32_t flags, uint32_t size, const void *payload, size_t len_bytes,
                 const int *fds, unsigned fd_count);

/* Receive a reply to request, exactly len_bytes of payload; *fd (may be NULL) is -1 or a descriptor that came. */
bool fe_receive(struct fe *fe, uint32_t request, void *payload, uint32_t len_bytes, int *fd);

/* Send and receive. */
bool fe_get_u64(struct fe *fe, uint32_t request, uint64_t *ret);
bool fe_set_u64(struct fe *fe, uint32_t request, uint64_t value);
bool fe_set_state(struct fe *fe, uint32_t request, uint32_t index, uint32_t num);
bool fe_get_base(struct fe *fe, uint32_t index, uint32_t *ret);
bool fe_set_vring_fd(struct fe *fe, uint32_t request, uint32_t index, int fd); /* -1: none */
bool fe_get_config(struct fe *fe, uint32_t offset, void *buffer, uint32_t len_bytes);
bool fe_set_config(struct fe *fe, uint32_t offset, uint32_t flags, const void *buffer, uint32_t len_bytes);

/* A message with NEED_REPLY and its answer: 0 or the back-end's refusal; -1 if the connection is gone. */
int fe_acked(struct fe *fe, uint32_t request, const void *payload, uint32_t len_bytes, const int *fds,
             unsigned fd_count);

/* Whether the back-end closes the connection within a few seconds (replies on the way are read and dropped). */
bool fe_is_closed(struct fe *fe);

/* ---- Setting up ---- */

/* Features that are both wanted and on offer; SET_OWNER; SET_PROTOCOL_FEATURES with all on offer that this program
 * knows. */
bool fe_negotiate(struct fe *fe, uint64_t wanted);
bool fe_set_features(struct fe *fe, uint64_t features);

void fe_make_memory(struct fe *fe, uint64_t ram_bytes);
bool fe_share_memory(struct fe *fe); /* ADD_MEM_REG or SET_MEM_TABLE */
bool fe_guards_intact(const struct fe *fe);

uint64_t fe_guest(const struct fe *fe, const void *p); /* guest address of a byte of ram */
uint64_t fe_user(const struct fe *fe, const void *p);  /* user address of it */

/* Lay out the ring of a queue at ram_offset; nothing is sent. Needs fe_queue_bytes(). */
void fe_layout_queue(struct fe *fe, unsigned index, unsigned size, uint64_t ram_offset);
/* Send NUM, BASE, ADDR, CALL, ERR, KICK, ENABLE. */
bool fe_send_queue(struct fe *fe, unsigned index, uint32_t base);
bool fe_send_addr(struct fe *fe, unsigned index, uint32_t flags, uint64_t log);

/* All of the above: connect, negotiate, memory, one queue of size at the start of ram for each of count. */
bool fe_start(struct fe *fe, const char *path, uint64_t wanted, unsigned count, unsigned size);
#define FE_RING_BYTES      0x8000u                                       /* room for one queue */
#define FE_DATA(fe, count) ((fe)->ram + (uint64_t)(count)*FE_RING_BYTES) /* first byte behind count rings */

/* ---- Rings, one request at a time ---- */

struct fe_buffer {
    void *data; /* in ram */
    uint32_t len;
    bool writable;
};

/* Make a chain of buffers available, from descriptor `first` on (split: that is its head; packed: its id). */
void fe_offer(struct fe *fe, unsigned queue, unsigned first, const struct fe_buffer *buffers, unsigned count);
void fe_offer_indirect(struct fe *fe, unsigned queue, unsigned first, const struct fe_buffer *buffers, unsigned count,
                       void *table);
void fe_kick(struct fe *fe, unsigned queue);
/* Take one used chain: its id and length; false if there is none. */
bool fe_take(struct fe *fe, unsigned queue, uint32_t *ret_id, uint32_t *ret_len);
/* Wait for it, by the call descriptor; false after a few seconds. */
bool fe_wait(struct fe *fe, unsigned queue, uint32_t *ret_id, uint32_t *ret_len);

struct fe_header {
    uint32_t type, reserved;
    uint64_t sector;
};

/*
 * One request from start to end, its header and status placed at scratch (64 bytes of ram). Returns the status, S_NONE
 * if there was no answer. *ret_len (may be NULL) is the used length.
 */
unsigned fe_request(struct fe *fe, unsigned queue, void *scratch, uint32_t type, uint64_t sector, void *data,
                    uint32_t len_bytes, uint32_t *ret_len);

void fe_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
