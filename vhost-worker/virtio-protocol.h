/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtqueues and the block device as they are in guest memory. Source: Virtual I/O Device (VIRTIO) Version 1.2;
 * sections are named at each part. All numbers are little-endian (a legacy driver's are too where the guest is).
 */
#ifndef BULKHEAD_VIRTIO_PROTOCOL_H
#define BULKHEAD_VIRTIO_PROTOCOL_H

#include <stdint.h>

/* 6 "Reserved Feature Bits": bit numbers. */
#define VIRTIO_F_ANY_LAYOUT         27 /* legacy: a request may be framed in any way */
#define VIRTIO_RING_F_INDIRECT_DESC 28
#define VIRTIO_RING_F_EVENT_IDX     29
#define VIRTIO_F_VERSION_1          32
#define VIRTIO_F_ACCESS_PLATFORM    33
#define VIRTIO_F_RING_PACKED        34

/* 2.1 "Device Status Field". */
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_DRIVER_OK   4u

/* 2.7.5 "The Virtqueue Descriptor Table", 2.8.1: flags of a descriptor. */
#define VIRTQ_DESC_F_NEXT     (1u << 0)
#define VIRTQ_DESC_F_WRITE    (1u << 1) /* device-writable */
#define VIRTQ_DESC_F_INDIRECT (1u << 2)
#define VIRTQ_DESC_F_AVAIL    (1u << 7) /* packed only */
#define VIRTQ_DESC_F_USED     (1u << 15)

#define VIRTQ_SIZE_MAX 1024u /* what this device accepts; the specification allows 32768 */

/* 2.7.5 split descriptor. */
struct virtq_desc {
    uint64_t addr; /* guest address */
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

#define VIRTQ_AVAIL_F_NO_INTERRUPT 1u
#define VIRTQ_USED_F_NO_NOTIFY     1u

/* 2.7.6 available ring; after ring[size] comes used_event. */
struct virtq_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

/* 2.7.8 one element of the used ring. */
struct virtq_used_elem {
    uint32_t id;
    uint32_t len;
};

/* 2.7.8 used ring; after ring[size] comes avail_event. */
struct virtq_used {
    uint16_t flags;
    uint16_t idx;
    struct virtq_used_elem ring[];
};

/* 2.8.13 packed descriptor; also an element of an indirect table of a packed ring. */
struct pvirtq_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* 2.8.14 event suppression structure. */
struct pvirtq_event_suppress {
    uint16_t desc;  /* bits 0-14: offset, bit 15: wrap counter */
    uint16_t flags; /* bits 0-1 */
};

#define RING_EVENT_FLAGS_ENABLE  0u
#define RING_EVENT_FLAGS_DISABLE 1u
#define RING_EVENT_FLAGS_DESC    2u
#define RING_EVENT_WRAP          0x8000u

/* 5.2.3 feature bits of the block device. */
#define VIRTIO_BLK_F_SIZE_MAX     1
#define VIRTIO_BLK_F_SEG_MAX      2
#define VIRTIO_BLK_F_RO           5
#define VIRTIO_BLK_F_BLK_SIZE     6
#define VIRTIO_BLK_F_FLUSH        9
#define VIRTIO_BLK_F_TOPOLOGY     10
#define VIRTIO_BLK_F_CONFIG_WCE   11
#define VIRTIO_BLK_F_MQ           12
#define VIRTIO_BLK_F_DISCARD      13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

#define VIRTIO_BLK_SECTOR_BYTES 512u
#define VIRTIO_BLK_ID_BYTES     20u

/* 5.2.4 "Device configuration layout". */
struct virtio_blk_config {
    uint64_t capacity; /* 512-byte sectors */
    uint32_t size_max; /* bytes of one segment */
    uint32_t seg_max;  /* segments of one request */
    uint16_t cylinders;
    uint8_t heads;
    uint8_t sectors;
    uint32_t blk_size; /* bytes */
    uint8_t physical_block_exp;
    uint8_t alignment_offset;
    uint16_t min_io_size; /* logical blocks */
    uint32_t opt_io_size; /* logical blocks */
    uint8_t writeback;
    uint8_t unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors;
    uint32_t max_discard_seg;
    uint32_t discard_sector_alignment;
    uint32_t max_write_zeroes_sectors;
    uint32_t max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
} __attribute__((packed));

/* 5.2.6 "Device Operation": types of requests. */
#define VIRTIO_BLK_T_IN             0u
#define VIRTIO_BLK_T_OUT            1u
#define VIRTIO_BLK_T_FLUSH          4u
#define VIRTIO_BLK_T_GET_ID         8u
#define VIRTIO_BLK_T_DISCARD        11u
#define VIRTIO_BLK_T_WRITE_ZEROES   13u
#define VIRTIO_BLK_T_LEGACY_BARRIER 0x80000000u /* 5.2.6.4, ignored */

/* What a request starts with. */
struct virtio_blk_req {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} __attribute__((packed));

/* One segment of DISCARD and WRITE_ZEROES. */
struct virtio_blk_discard_write_zeroes {
    uint64_t sector;
    uint32_t num_sectors;
    uint32_t flags;
} __attribute__((packed));

#define VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP (1u << 0)

/* The status byte that a request ends with. */
#define VIRTIO_BLK_S_OK     0u
#define VIRTIO_BLK_S_IOERR  1u
#define VIRTIO_BLK_S_UNSUPP 2u

_Static_assert(sizeof(struct virtq_desc) == 16, "2.7.5");
_Static_assert(sizeof(struct pvirtq_desc) == 16, "2.8.13");
_Static_assert(sizeof(struct virtio_blk_config) == 60, "5.2.4");
_Static_assert(sizeof(struct virtio_blk_req) == 16, "5.2.6");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16, "5.2.6");

#endif
