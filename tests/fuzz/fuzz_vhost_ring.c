/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rings: guest memory from the input, split or packed, with or without an inflight buffer (that is from the input,
 * too). Chains are taken and read as requests of a disk until the ring is empty or refused, given back and published;
 * between them memory changes. Every piece must lie in guest memory, whatever the input is.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/io/guard.h"
#include "vhost-worker/blk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Two regions that touch in guest addresses, which start at 0 so that small numbers are guest memory. */
#define REGION_BYTES 0x4000u
#define USER_A       0x100000u
#define USER_B       0x200000u
#define AVAIL        0x2000u
#define USED         0x2800u
#define TABLES       0x1000u /* where an input's indirect tables begin, still in the first region */

struct input {
    const uint8_t *next;
    size_t left;
};

/* What the input begins with. */
struct head {
    uint8_t packed : 1, event_idx : 1, indirect : 1, log : 1, inflight : 1, read_only : 1, small_blocks : 1;
    uint8_t size_log;
    uint16_t unused;
    uint32_t base;
} __attribute__((packed));

static struct {
    struct vhost_memory memory;
    uint8_t *ram;
    uint8_t log_bits[8];
    struct vhost_dirty_log log;
    struct blk_device device;
    void *inflight;
    struct iovec iov[VRING_IOV_MAX];
} all;

static void set_up(void)
{
    int fd = memfd_create("ram", MFD_CLOEXEC);
    struct vhost_user_region a = { 0, REGION_BYTES, USER_A, 0 },
                             b = { REGION_BYTES, REGION_BYTES, USER_B, REGION_BYTES };

    assert(io_guard_init(NULL) == 0);
    assert(fd >= 0 && ftruncate(fd, 2 * REGION_BYTES) == 0);
    assert(vhost_memory_add(&all.memory, &a, fd, NULL) == 0 && vhost_memory_add(&all.memory, &b, fd, NULL) == 0);
    all.ram = mmap(NULL, 2 * REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert(all.ram != MAP_FAILED);
    close(fd);
    all.log.mapping = (struct vhost_mapping){ .data = all.log_bits, .len_bytes = sizeof(all.log_bits) - 7 };
    all.inflight = calloc(1, vhost_inflight_region_bytes(true, 128));
    atomic_store(&all.device.size_bytes, 1 << 20);
    blk_set_serial(&all.device, "fuzz");
}

static void take(struct input *in, void *to, size_t len)
{
    size_t n = MIN(len, in->left);

    memcpy(to, in->next, n);
    in->next += n;
    in->left -= n;
}

static bool is_guest_memory(const struct iovec *iov)
{
    const uint8_t *p = iov->iov_base;

    for (unsigned i = 0; i < all.memory.count; i++) {
        const struct vhost_region *r = &all.memory.regions[i];

        if (p >= r->host && iov->iov_len <= r->len_bytes && (size_t)(p - r->host) <= r->len_bytes - iov->iov_len)
            return true;
    }
    return false;
}

static void check_chain(const struct vring_chain *chain)
{
    uint64_t out = 0, in = 0;

    assert(chain->out_count + chain->in_count <= VRING_IOV_MAX);
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
        assert(is_guest_memory(&all.iov[i]));
        *(i < chain->out_count ? &out : &in) += all.iov[i].iov_len;
    }
    assert(out == chain->out_bytes && in == chain->in_bytes);
}

/* What the block layer would do: every byte is read, or written. */
static void transfer(const struct blk_request *req)
{
    uint64_t total = 0;
    volatile uint8_t sum = 0;

    for (unsigned i = 0; i < req->iov_count; i++) {
        const uint8_t *p = req->iov[i].iov_base;

        assert(is_guest_memory(&req->iov[i]));
        total += req->iov[i].iov_len;
        for (size_t k = 0; k < req->iov[i].iov_len; k += 512)
            sum = (uint8_t)(sum + p[k]);
    }
    assert(total == req->len_bytes);
    assert(req->offset <= 1 << 20 && req->len_bytes <= (1 << 20) - req->offset);
}

static void run_request(struct vring *ring, const struct vring_chain *chain)
{
    struct blk_request req;

    check_chain(chain);
    if (blk_request_parse(&all.device, chain, all.iov, &req, NULL) < 0)
        return;
    assert(is_guest_memory(&(struct iovec){ req.status_byte, 1 }));
    if (req.action == BLK_TRANSFER)
        transfer(&req);
    for (unsigned i = 0; req.action == BLK_RANGES && i < req.range_count; i++)
        assert(req.ranges[i].offset <= 1 << 20 && req.ranges[i].len_bytes <= (1 << 20) - req.ranges[i].offset);
    *req.status_byte = 0;
    vring_push(ring, chain, req.in_len_bytes);
}

static void run_ring(struct vring *ring, struct input *in)
{
    for (unsigned n = 0; n < 64; n++) {
        struct vring_chain chain;
        uint8_t change[4];

        if (vring_pop(ring, &chain, all.iov, NULL) <= 0)
            break;
        run_request(ring, &chain);
        if (n % 3 == 2) {
            vring_publish(ring);
            vring_must_notify(ring);
        }
        if (in->left >= sizeof(change)) {
            take(in, change, sizeof(change));
            all.ram[(change[0] | change[1] << 8) % (2 * REGION_BYTES)] ^= change[2];
        }
        vring_want_notify(ring, n % 2);
    }
    vring_publish(ring);
    vring_must_notify(ring);
    (void)vring_available(ring);
    (void)vring_base(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, size };
    struct head head = { 0 };
    struct vhost_inflight_queue inflight = { 0 };
    struct vring_config config;
    struct vring ring;

    if (all.ram == NULL)
        set_up();
    take(&in, &head, sizeof(head));
    config = (struct vring_config){
        .size = 1u << head.size_log % 8,
        .packed = head.packed,
        .event_idx = head.event_idx,
        .indirect = head.indirect,
        .log_used = head.log,
        .descriptor = USER_A,
        .available = USER_A + AVAIL,
        .used = USER_A + USED,
        .log = head.unused,
        .base = head.base,
    };
    all.device.read_only = head.read_only;
    all.device.logical_block_bytes = head.small_blocks ? 512 : 4096;
    memset(all.ram, 0, 2 * REGION_BYTES);
    take(&in, all.ram + AVAIL, 4 + 2 * config.size + 2);
    take(&in, all.ram + USED, 4);
    take(&in, all.ram, 16 * config.size);
    if (head.inflight) {
        memset(all.inflight, 0, vhost_inflight_region_bytes(true, 128));
        take(&in, all.inflight, vhost_inflight_region_bytes(config.packed, config.size));
        assert(vhost_inflight_open(&inflight, all.inflight, config.packed, (uint16_t)config.size, NULL) == 0);
    }
    take(&in, all.ram + TABLES, MIN(in.left / 2, 0x800));
    if (vring_init(&ring, &config, &all.memory, &all.log, head.inflight ? &inflight : NULL, NULL) == 0) {
        run_ring(&ring, &in);
        vring_done(&ring);
    }
    vhost_inflight_close(&inflight);
    return 0;
}
