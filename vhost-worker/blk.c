/* SPDX-License-Identifier: BSD-2-Clause */
/* See blk.h. Requests lie in guest memory: header and ranges are copied once, and the copies are what counts. */
#include "vhost-worker/blk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- What the device offers ---- */

/* FNV-1a: to tell long ids apart, not to withstand an attack (who names exports is the operator). */
static uint32_t checksum(const char *text)
{
    uint32_t hash = 2166136261u;

    for (; *text != '\0'; text++)
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    return hash;
}

void blk_set_serial(struct blk_device *dev, const char *export_id)
{
    char text[VIRTIO_BLK_ID_BYTES + 1];

    if (strlen(export_id) <= VIRTIO_BLK_ID_BYTES)
        snprintf(text, sizeof(text), "%.20s", export_id);
    else
        snprintf(text, sizeof(text), "%.11s-%08x", export_id, checksum(export_id));
    memset(dev->serial, 0, sizeof(dev->serial));
    memcpy(dev->serial, text, strlen(text));
}

#define BIT(n) (1ull << (n))

uint64_t blk_features(const struct blk_device *dev)
{
    uint64_t features = BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                        BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_BLK_F_SIZE_MAX) |
                        BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
                        BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE);

    if (dev->queues > 1)
        features |= BIT(VIRTIO_BLK_F_MQ);
    if (dev->read_only)
        features |= BIT(VIRTIO_BLK_F_RO);
    else
        features |= BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    return features;
}

static uint8_t log2_of(uint32_t power)
{
    return (uint8_t)__builtin_ctz(power);
}

void blk_config(const struct blk_device *dev, struct virtio_blk_config *ret)
{
    uint32_t logical = dev->logical_block_bytes;
    uint32_t physical = MAX(dev->physical_block_bytes, logical);
    /* No driver gets to see a part of a block. */
    uint64_t size_bytes = round_down(atomic_load_explicit(&dev->size_bytes, memory_order_relaxed), logical);

    *ret = (struct virtio_blk_config){
        .capacity = htole64(size_bytes / VIRTIO_BLK_SECTOR_BYTES),
        .size_max = htole32(BLK_SIZE_MAX),
        .seg_max = htole32(BLK_SEG_MAX),
        .blk_size = htole32(logical),
        .physical_block_exp = log2_of(physical / logical),
        .min_io_size = htole16((uint16_t)MIN(physical / logical, UINT16_MAX)),
        .opt_io_size = htole32(dev->preferred_block_bytes / logical),
        .writeback = atomic_load_explicit(&dev->writeback, memory_order_relaxed),
        .num_queues = htole16(dev->queues),
        .max_discard_sectors = htole32(BLK_DISCARD_BYTES_MAX / VIRTIO_BLK_SECTOR_BYTES),
        .max_discard_seg = htole32(BLK_RANGES_MAX),
        .discard_sector_alignment = htole32(logical / VIRTIO_BLK_SECTOR_BYTES),
        .max_write_zeroes_sectors = htole32(BLK_DISCARD_BYTES_MAX / VIRTIO_BLK_SECTOR_BYTES),
        .max_write_zeroes_seg = htole32(BLK_RANGES_MAX),
        .write_zeroes_may_unmap = 1,
    };
}

bool blk_write_is_fua(const struct blk_device *dev)
{
    if (dev->writethrough)
        return true;
    if (dev->features & BIT(VIRTIO_BLK_F_CONFIG_WCE))
        return !atomic_load_explicit(&dev->writeback, memory_order_relaxed);
    return !(dev->features & BIT(VIRTIO_BLK_F_FLUSH));
}

uint8_t blk_status(int result)
{
    if (result == 0)
        return VIRTIO_BLK_S_OK;
    return result == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* ---- Reading a request ---- */

/* Copy len_bytes from the front of iov[0..*count) and cut them off. The caller knows that they are there. */
static struct iovec *take_front(struct iovec *iov, unsigned *count, void *to, size_t len_bytes)
{
    uint8_t *next = to;

    while (len_bytes > 0) {
        size_t n = MIN(len_bytes, iov->iov_len);

        vhost_copy_in(next, iov->iov_base, n);
        next += n;
        len_bytes -= n;
        iov->iov_base = (uint8_t *)iov->iov_base + n;
        iov->iov_len -= n;
        if (iov->iov_len == 0) {
            iov++;
            (*count)--;
        }
    }
    return iov;
}

static int finish(struct blk_request *req, uint8_t status)
{
    req->action = BLK_FINISH;
    req->status = status;
    return 0;
}

/* Sectors of a request as bytes; false if they are not all on the device, or not whole logical blocks. */
static bool to_bytes(const struct blk_device *dev, uint64_t sector, uint64_t len_bytes, uint64_t *ret_offset)
{
    uint64_t offset;

    if (!u64_mul(sector, VIRTIO_BLK_SECTOR_BYTES, &offset) ||
        !range_within(offset, len_bytes, atomic_load_explicit(&dev->size_bytes, memory_order_relaxed)))
        return false;
    if (((offset | len_bytes) & (dev->logical_block_bytes - 1)) != 0)
        return false;
    *ret_offset = offset;
    return true;
}

static int parse_transfer(const struct blk_device *dev, const struct virtio_blk_req *header, struct blk_request *req)
{
    if (req->op == BLOCK_OP_WRITE && dev->read_only)
        return finish(req, VIRTIO_BLK_S_IOERR);
    if (req->len_bytes > BLK_REQUEST_BYTES_MAX || !to_bytes(dev, le64toh(header->sector), req->len_bytes, &req->offset))
        return finish(req, VIRTIO_BLK_S_IOERR);
    if (req->op == BLOCK_OP_READ)
        req->in_len_bytes = (uint32_t)req->len_bytes + 1;
    else if (blk_write_is_fua(dev))
        req->flags = BLOCK_REQ_FUA;
    if (req->len_bytes == 0)
        return finish(req, VIRTIO_BLK_S_OK);
    req->action = BLK_TRANSFER;
    return 0;
}

/* One segment of DISCARD or WRITE_ZEROES. Returns its VIRTIO_BLK_S_*. */
static uint8_t parse_range(const struct blk_device *dev, enum block_op op,
                           const struct virtio_blk_discard_write_zeroes *segment, struct blk_range *ret)
{
    uint32_t flags = le32toh(segment->flags);
    uint64_t len_bytes = (uint64_t)le32toh(segment->num_sectors) * VIRTIO_BLK_SECTOR_BYTES;

    /* 5.2.6.2: unknown flags, and "unmap" of DISCARD, are not supported. */
    if (flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (op == BLOCK_OP_DISCARD && flags != 0))
        return VIRTIO_BLK_S_UNSUPP;
    if (len_bytes > BLK_DISCARD_BYTES_MAX || !to_bytes(dev, le64toh(segment->sector), len_bytes, &ret->offset))
        return VIRTIO_BLK_S_IOERR;
    ret->len_bytes = len_bytes;
    ret->flags = blk_write_is_fua(dev) ? BLOCK_REQ_FUA : 0;
    if (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
        ret->flags |= BLOCK_REQ_MAY_UNMAP;
    return VIRTIO_BLK_S_OK;
}

static int parse_ranges(const struct blk_device *dev, struct blk_request *req)
{
    struct virtio_blk_discard_write_zeroes segment;
    uint64_t total_bytes = 0; /* at most BLK_RANGES_MAX times BLK_DISCARD_BYTES_MAX */

    if (dev->read_only)
        return finish(req, VIRTIO_BLK_S_IOERR);
    if (req->len_bytes == 0 || req->len_bytes % sizeof(segment) != 0 ||
        req->len_bytes / sizeof(segment) > BLK_RANGES_MAX)
        return finish(req, VIRTIO_BLK_S_IOERR);
    for (unsigned left = (unsigned)(req->len_bytes / sizeof(segment)); left > 0; left--) {
        uint8_t status;

        req->iov = take_front(req->iov, &req->iov_count, &segment, sizeof(segment));
        status = parse_range(dev, req->op, &segment, &req->ranges[req->range_count]);
        if (status != VIRTIO_BLK_S_OK)
            return finish(req, status);
        total_bytes += req->ranges[req->range_count].len_bytes;
        if (req->ranges[req->range_count].len_bytes > 0)
            req->range_count++;
    }
    req->len_bytes = total_bytes;
    if (req->range_count == 0)
        return finish(req, VIRTIO_BLK_S_OK);
    req->action = BLK_RANGES;
    return 0;
}

/* 5.2.6: "the device id string ... up to 20 bytes"; a shorter buffer gets the start of it. */
static int parse_get_id(const struct blk_device *dev, struct blk_request *req)
{
    size_t left = MIN(req->len_bytes, sizeof(dev->serial)), done = 0;

    /* The status counts only if it follows what was written. */
    req->in_len_bytes = (uint32_t)left + (left == req->len_bytes);
    for (unsigned i = 0; left > 0; i++) {
        size_t n = MIN(left, req->iov[i].iov_len);

        memcpy(req->iov[i].iov_base, dev->serial + done, n);
        done += n;
        left -= n;
    }
    return finish(req, VIRTIO_BLK_S_OK);
}

int blk_request_parse(const struct blk_device *dev, const struct vring_chain *chain, struct iovec *iov,
                      struct blk_request *ret, struct error *err)
{
    struct iovec *out = iov, *in = iov + chain->out_count, *last = in + chain->in_count - 1;
    unsigned out_count = chain->out_count, in_count = chain->in_count;
    struct virtio_blk_req header;
    uint32_t type;

    if (chain->out_bytes < sizeof(header))
        return error_set(err, -EPROTO, "a request whose header has %llu bytes", (unsigned long long)chain->out_bytes);
    if (chain->in_bytes == 0)
        return error_set(err, -EPROTO, "a request without room for its status");
    out = take_front(out, &out_count, &header, sizeof(header));
    ret->status_byte = (uint8_t *)last->iov_base + --last->iov_len;
    in_count -= last->iov_len == 0;
    ret->op = BLOCK_OP_MAX;
    ret->flags = 0;
    ret->in_len_bytes = 1;
    ret->range_count = 0;

    type = le32toh(header.type) & ~VIRTIO_BLK_T_LEGACY_BARRIER;
    if (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID) {
        ret->iov = in;
        ret->iov_count = in_count;
        ret->len_bytes = chain->in_bytes - 1;
        if (type == VIRTIO_BLK_T_GET_ID)
            return parse_get_id(dev, ret);
        ret->op = BLOCK_OP_READ;
        return parse_transfer(dev, &header, ret);
    }
    ret->iov = out;
    ret->iov_count = out_count;
    ret->len_bytes = chain->out_bytes - sizeof(header);
    switch (type) {
    case VIRTIO_BLK_T_OUT:
        ret->op = BLOCK_OP_WRITE;
        return parse_transfer(dev, &header, ret);
    case VIRTIO_BLK_T_FLUSH:
        ret->op = BLOCK_OP_FLUSH;
        ret->action = BLK_FLUSH;
        ret->len_bytes = ret->iov_count = 0; /* data beside it means nothing */
        return 0;
    case VIRTIO_BLK_T_DISCARD:
        ret->op = BLOCK_OP_DISCARD;
        return parse_ranges(dev, ret);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        ret->op = BLOCK_OP_WRITE_ZEROES;
        return parse_ranges(dev, ret);
    default:
        return finish(ret, VIRTIO_BLK_S_UNSUPP);
    }
}
