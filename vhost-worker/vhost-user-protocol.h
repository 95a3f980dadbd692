/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vhost-user protocol as it is on the wire. Source: QEMU's docs/interop/vhost-user.rst ("the specification"); names
 * are its names. All numbers are in the byte order of the machine ("Message Specification").
 */
#ifndef BULKHEAD_VHOST_USER_PROTOCOL_H
#define BULKHEAD_VHOST_USER_PROTOCOL_H

#include <stdint.h>

/* "Header": flags. */
#define VHOST_USER_VERSION      0x1u
#define VHOST_USER_VERSION_MASK 0x3u
#define VHOST_USER_REPLY_MASK   (1u << 2)
#define VHOST_USER_NEED_REPLY   (1u << 3)
#define VHOST_USER_KNOWN_FLAGS  (VHOST_USER_VERSION_MASK | VHOST_USER_REPLY_MASK | VHOST_USER_NEED_REPLY)

/* "Front-end message types". */
enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_RESET_OWNER = 4,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_LOG_BASE = 6,
    VHOST_USER_SET_LOG_FD = 7,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_SET_VRING_ERR = 14,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_GET_QUEUE_NUM = 17,
    VHOST_USER_SET_VRING_ENABLE = 18,
    VHOST_USER_SET_BACKEND_REQ_FD = 21,
    VHOST_USER_GET_CONFIG = 24,
    VHOST_USER_SET_CONFIG = 25,
    VHOST_USER_GET_INFLIGHT_FD = 31,
    VHOST_USER_SET_INFLIGHT_FD = 32,
    VHOST_USER_RESET_DEVICE = 34,
    VHOST_USER_GET_MAX_MEM_SLOTS = 36,
    VHOST_USER_ADD_MEM_REG = 37,
    VHOST_USER_REM_MEM_REG = 38,
    VHOST_USER_SET_STATUS = 39,
    VHOST_USER_GET_STATUS = 40,
};

/* "Back-end message types". */
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG 2

/* "Protocol features": bit numbers. */
#define VHOST_USER_PROTOCOL_F_MQ                  0
#define VHOST_USER_PROTOCOL_F_LOG_SHMFD           1
#define VHOST_USER_PROTOCOL_F_REPLY_ACK           3
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ         5
#define VHOST_USER_PROTOCOL_F_CONFIG              9
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD      12
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE        13
#define VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS 15
#define VHOST_USER_PROTOCOL_F_STATUS              16

/* Feature bits of vhost and vhost-user that share the word of the virtio features. */
#define VHOST_F_LOG_ALL                26
#define VHOST_USER_F_PROTOCOL_FEATURES 30

/* "Multiple memory regions description": region0 to region7. */
#define VHOST_USER_MEM_TABLE_REGIONS 8
#define VHOST_USER_CONFIG_MAX        256 /* bytes of configuration space that a message can carry */
#define VHOST_USER_FDS_MAX           8   /* descriptors of one message: as many as SET_MEM_TABLE has regions */

/* SET_VRING_KICK, CALL, ERR: the u64 has the index in bits 0-7, bit 8 is the invalid FD flag. */
#define VHOST_USER_VRING_INDEX_MASK 0xffu
#define VHOST_USER_VRING_NO_FD      (1u << 8)

/* "Vring address description": flags. */
#define VHOST_VRING_F_LOG (1u << 0)

/* "Virtio device config space": flags. */
#define VHOST_USER_CONFIG_WRITABLE  0u
#define VHOST_USER_CONFIG_MIGRATION 1u

/* "Migration": one bit of the dirty log stands for this many bytes of guest memory. */
#define VHOST_LOG_PAGE 0x1000u

struct vhost_user_header {
    uint32_t request; /* enum vhost_user_request */
    uint32_t flags;   /* VHOST_USER_* */
    uint32_t size;    /* bytes of payload */
} __attribute__((packed));

/* "A vring state description". */
struct vhost_user_vring_state {
    uint32_t index;
    uint32_t num;
} __attribute__((packed));

/* "A vring address description": user addresses of the three parts of a ring. */
struct vhost_user_vring_addr {
    uint32_t index;
    uint32_t flags; /* VHOST_VRING_F_LOG */
    uint64_t descriptor;
    uint64_t used;
    uint64_t available;
    uint64_t log; /* guest address under which writes to the used ring are logged */
} __attribute__((packed));

/* "Memory region description". */
struct vhost_user_region {
    uint64_t guest_address;
    uint64_t size;
    uint64_t user_address;
    uint64_t mmap_offset; /* of the region's first byte in the file */
} __attribute__((packed));

/* "Multiple memory regions description"; the message carries num_regions of them or all eight. */
struct vhost_user_mem_table {
    uint32_t num_regions;
    uint32_t padding;
    struct vhost_user_region regions[VHOST_USER_MEM_TABLE_REGIONS];
} __attribute__((packed));

/* "Single memory region description". */
struct vhost_user_mem_region {
    uint64_t padding;
    struct vhost_user_region region;
} __attribute__((packed));

/* "Log description". */
struct vhost_user_log {
    uint64_t log_size;   /* bytes */
    uint64_t log_offset; /* in the file */
} __attribute__((packed));

/* "Virtio device config space". */
struct vhost_user_config {
    uint32_t offset; /* in configuration space */
    uint32_t size;   /* bytes that follow */
    uint32_t flags;  /* VHOST_USER_CONFIG_* */
    uint8_t payload[VHOST_USER_CONFIG_MAX];
} __attribute__((packed));

/* "Inflight description". */
struct vhost_user_inflight {
    uint64_t mmap_size;
    uint64_t mmap_offset;
    uint16_t num_queues;
    uint16_t queue_size;
} __attribute__((packed));

/* Every payload that a front-end can send. */
union vhost_user_payload {
    uint64_t u64;
    struct vhost_user_vring_state state;
    struct vhost_user_vring_addr addr;
    struct vhost_user_mem_table table;
    struct vhost_user_mem_region region;
    struct vhost_user_log log;
    struct vhost_user_config config;
    struct vhost_user_inflight inflight;
};

#define VHOST_USER_PAYLOAD_MAX sizeof(union vhost_user_payload)

/* "Inflight I/O tracking": the shared buffer is a queue region for each queue, all of one size. */
#define VHOST_INFLIGHT_VERSION 1u

struct vhost_inflight_split_desc {
    uint8_t inflight; /* of a head: made available, not yet used */
    uint8_t padding[5];
    uint16_t next;    /* list of the last batch of used heads */
    uint64_t counter; /* order of fetching */
};

struct vhost_inflight_split {
    uint64_t features; /* 0 */
    uint16_t version;  /* 0: not yet initialized */
    uint16_t desc_num; /* the queue's size */
    uint16_t last_batch_head;
    uint16_t used_idx; /* idx of the used ring */
    struct vhost_inflight_split_desc desc[];
};

struct vhost_inflight_packed_desc {
    uint8_t inflight; /* of a head */
    uint8_t padding;
    uint16_t next;    /* free list, or the chain's next entry */
    uint16_t last;    /* of a head: last entry of its chain */
    uint16_t num;     /* of a head: entries of its chain */
    uint64_t counter; /* of a head: order of fetching */
    uint16_t id;      /* from here on: the descriptor, since the ring's own copy may be overwritten */
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

struct vhost_inflight_packed {
    uint64_t features; /* 0 */
    uint16_t version;  /* 0: not yet initialized */
    uint16_t desc_num; /* the queue's size */
    uint16_t free_head;
    uint16_t old_free_head;
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap_counter;
    uint8_t old_used_wrap_counter;
    uint8_t padding[7];
    struct vhost_inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct vhost_user_header) == 12, "header");
_Static_assert(sizeof(struct vhost_user_vring_addr) == 40, "vring address description");
_Static_assert(sizeof(struct vhost_user_mem_table) == 264, "memory regions description");
_Static_assert(sizeof(struct vhost_user_mem_region) == 40, "single memory region description");
_Static_assert(sizeof(struct vhost_user_inflight) == 20, "inflight description");
_Static_assert(sizeof(struct vhost_inflight_split_desc) == 16, "DescStateSplit");
_Static_assert(sizeof(struct vhost_inflight_split) == 16, "QueueRegionSplit");
_Static_assert(sizeof(struct vhost_inflight_packed_desc) == 32, "DescStatePacked");
_Static_assert(sizeof(struct vhost_inflight_packed) == 32, "QueueRegionPacked");

#endif
