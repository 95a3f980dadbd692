/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block device: what it offers (features, configuration space, serial), and how one request of the driver is read.
 * All of this file is pure. Source: VIRTIO 1.2, 5.2 "Block Device".
 */
#ifndef BULKHEAD_VHOST_BLK_H
#define BULKHEAD_VHOST_BLK_H

#include <stdatomic.h>

#include "common/io/request.h"
#include "vhost-worker/ring.h"

/*
 * What a driver is asked to keep to: segments of one request, so that it fits into a queue of 128 with header and
 * status (the size of the queue is not known when a driver reads this), and bytes of each. More of both is served.
 */
#define BLK_SEG_MAX           126u
#define BLK_SIZE_MAX          (1u << 20)
#define BLK_RANGES_MAX        16u        /* segments of one DISCARD or WRITE_ZEROES */
#define BLK_DISCARD_BYTES_MAX (1u << 30) /* of one of these segments */
#define BLK_REQUEST_BYTES_MAX ((uint64_t)BLK_SEG_MAX * BLK_SIZE_MAX)
#define BLK_LOGICAL_BLOCK_MIN 512u
#define BLK_LOGICAL_BLOCK_MAX (2u << 20)

/* What the export is; set before the first request. */
struct blk_device {
    _Atomic uint64_t size_bytes; /* a multiple of 512; changes with block_resize while requests run */
    uint32_t logical_block_bytes;
    uint32_t physical_block_bytes;  /* natural block of the node, at least the logical one */
    uint32_t preferred_block_bytes; /* 0: none */
    uint16_t queues;
    bool read_only;
    bool writethrough; /* the export's option: all writes are stable when they complete, whatever the driver wants */
    _Atomic bool writeback; /* the configuration field of that name */
    uint64_t features;      /* acknowledged by the front-end; changed while all queues rest */
    char serial[VIRTIO_BLK_ID_BYTES];
};

/* Fill dev->serial from the export's id: the id itself if it fits, else its start and a checksum of all of it. */
void blk_set_serial(struct blk_device *dev, const char *export_id);

/* Feature bits 0-63 on offer, without those of vhost. */
uint64_t blk_features(const struct blk_device *dev);

/* The configuration space as of now. */
void blk_config(const struct blk_device *dev, struct virtio_blk_config *ret);

/* Whether a write must be stable when it completes (5.2.6.2). */
bool blk_write_is_fua(const struct blk_device *dev);

/* What is to be done for one request. */
enum blk_action {
    BLK_FINISH,   /* nothing more: status is the answer */
    BLK_TRANSFER, /* op from or to iov */
    BLK_RANGES,   /* op for each of ranges */
    BLK_FLUSH,
};

struct blk_range {
    uint64_t offset;
    uint64_t len_bytes;
    unsigned flags; /* BLOCK_REQ_* */
};

struct blk_request {
    enum blk_action action;
    uint8_t status;        /* VIRTIO_BLK_S_*, of BLK_FINISH */
    uint8_t *status_byte;  /* in guest memory */
    enum block_op op;      /* BLOCK_OP_MAX: none, the device answers by itself */
    unsigned flags;        /* BLOCK_REQ_* */
    uint64_t offset;       /* of BLK_TRANSFER */
    uint64_t len_bytes;    /* that it is about: of the transfer, of all ranges together */
    uint32_t in_len_bytes; /* what the driver is told of bytes written if all goes well */
    struct iovec *iov;     /* of BLK_TRANSFER: within the array that was given */
    unsigned iov_count;
    unsigned range_count;
    struct blk_range ranges[BLK_RANGES_MAX];
};

/*
 * Read the request in a chain. iov is the chain's, and is cut to the data. GET_ID and what must fail are finished here.
 * 0; -EPROTO: there is no header or no room for a status, so that it cannot even be answered.
 */
int blk_request_parse(const struct blk_device *dev, const struct vring_chain *chain, struct iovec *iov,
                      struct blk_request *ret, struct error *err);

/* The status for the result of the block layer, 0 or -errno. */
uint8_t blk_status(int result);

#endif
