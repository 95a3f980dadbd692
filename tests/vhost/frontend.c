/* SPDX-License-Identifier: BSD-2-Clause */
/* See frontend.h. */
#include "tests/vhost/frontend.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WAIT_MS 5000

void fe_die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static bool failed(struct fe *fe, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool failed(struct fe *fe, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(fe->error, sizeof(fe->error), fmt, args);
    va_end(args);
    return false;
}

/* ---- Messages ---- */

struct header {
    uint32_t request, flags, size;
};

bool fe_connect(struct fe *fe, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval timeout = { .tv_sec = WAIT_MS / 1000 };

    fe->path = path;
    if (strlen(path) >= sizeof(addr.sun_path))
        fe_die("path too long: %s", path);
    strcpy(addr.sun_path, path);
    fe->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fe->sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fe->sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (connect(fe->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return failed(fe, "connect: %s", strerror(errno));
    return true;
}

void fe_close(struct fe *fe)
{
    if (fe->sock > 0)
        close(fe->sock);
    for (unsigned i = 0; i < FE_QUEUES_MAX; i++) {
        struct fe_queue *q = &fe->queues[i];

        if (q->size == 0)
            continue;
        close(q->kick_fd);
        close(q->call_fd);
        close(q->err_fd);
    }
    if (fe->file != NULL) {
        munmap(fe->file, fe->ram_bytes + 2 * FE_GUARD_BYTES);
        close(fe->mem_fd);
    }
    memset(fe, 0, sizeof(*fe));
}

bool fe_send_raw(struct fe *fe, uint32_t request, uint32_t flags, uint32_t size, const void *payload, size_t len_bytes,
                 const int *fds, unsigned fd_count)
{
    struct header header = { request, flags, size };
    struct iovec iov[2] = { { &header, sizeof(header) }, { (void *)payload, len_bytes } };
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(253 * sizeof(int))];
    } control;
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t n;

    if (fd_count > 0) {
        control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    }
    n = sendmsg(fe->sock, &msg, MSG_NOSIGNAL);
    if (n != (ssize_t)(sizeof(header) + len_bytes))
        return failed(fe, "request %u: send: %s", request, n < 0 ? strerror(errno) : "cut");
    return true;
}

bool fe_send(struct fe *fe, uint32_t request, uint32_t flags, const void *payload, uint32_t len_bytes, const int *fds,
             unsigned fd_count)
{
    return fe_send_raw(fe, request, MSG_VERSION_1 | flags, len_bytes, payload, len_bytes, fds, fd_count);
}

static bool receive_all(struct fe *fe, void *buffer, size_t len_bytes, int *fd)
{
    uint8_t *to = buffer;

    while (len_bytes > 0) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = { to, len_bytes };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n = recvmsg(fe->sock, &msg, MSG_CMSG_CLOEXEC);
        struct cmsghdr *cmsg;

        if (n <= 0)
            return failed(fe, "receive: %s", n < 0 ? strerror(errno) : "closed");
        cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg != NULL && cmsg->cmsg_type == SCM_RIGHTS && fd != NULL)
            memcpy(fd, CMSG_DATA(cmsg), sizeof(*fd));
        to += n;
        len_bytes -= (size_t)n;
    }
    return true;
}

bool fe_receive(struct fe *fe, uint32_t request, void *payload, uint32_t len_bytes, int *fd)
{
    struct header header;

    if (fd != NULL)
        *fd = -1;
    if (!receive_all(fe, &header, sizeof(header), fd))
        return false;
    if (header.request != request || header.flags != (MSG_VERSION_1 | MSG_IS_REPLY) || header.size != len_bytes)
        return failed(fe, "request %u: reply to %u, flags %u, size %u instead of %u", request, header.request,
                      header.flags, header.size, len_bytes);
    return receive_all(fe, payload, len_bytes, fd);
}

bool fe_get_u64(struct fe *fe, uint32_t request, uint64_t *ret)
{
    return fe_send(fe, request, 0, NULL, 0, NULL, 0) && fe_receive(fe, request, ret, sizeof(*ret), NULL);
}

bool fe_set_u64(struct fe *fe, uint32_t request, uint64_t value)
{
    return fe_send(fe, request, 0, &value, sizeof(value), NULL, 0);
}

bool fe_set_state(struct fe *fe, uint32_t request, uint32_t index, uint32_t num)
{
    uint32_t state[2] = { index, num };

    return fe_send(fe, request, 0, state, sizeof(state), NULL, 0);
}

bool fe_get_base(struct fe *fe, uint32_t index, uint32_t *ret)
{
    uint32_t state[2] = { index, 0 };

    if (!fe_send(fe, R_GET_VRING_BASE, 0, state, sizeof(state), NULL, 0) ||
        !fe_receive(fe, R_GET_VRING_BASE, state, sizeof(state), NULL))
        return false;
    *ret = state[1];
    return state[0] == index || failed(fe, "GET_VRING_BASE: reply for queue %u", state[0]);
}

bool fe_set_vring_fd(struct fe *fe, uint32_t request, uint32_t index, int fd)
{
    uint64_t value = index | (fd < 0 ? 0x100 : 0);

    return fe_send(fe, request, 0, &value, sizeof(value), &fd, fd >= 0);
}

struct config {
    uint32_t offset, size, flags;
    uint8_t payload[256];
};

bool fe_get_config(struct fe *fe, uint32_t offset, void *buffer, uint32_t len_bytes)
{
    struct config config = { .offset = offset, .size = len_bytes };

    if (!fe_send(fe, R_GET_CONFIG, 0, &config, 12 + len_bytes, NULL, 0) ||
        !fe_receive(fe, R_GET_CONFIG, &config, 12 + len_bytes, NULL))
        return false;
    memcpy(buffer, config.payload, len_bytes);
    return true;
}

bool fe_set_config(struct fe *fe, uint32_t offset, uint32_t flags, const void *buffer, uint32_t len_bytes)
{
    struct config config = { .offset = offset, .size = len_bytes, .flags = flags };

    memcpy(config.payload, buffer, len_bytes);
    return fe_acked(fe, R_SET_CONFIG, &config, 12 + len_bytes, NULL, 0) == 0;
}

int fe_acked(struct fe *fe, uint32_t request, const void *payload, uint32_t len_bytes, const int *fds,
             unsigned fd_count)
{
    uint64_t answer;

    if (!fe_send(fe, request, MSG_NEED_REPLY, payload, len_bytes, fds, fd_count) ||
        !fe_receive(fe, request, &answer, sizeof(answer), NULL))
        return -1;
    return (int)answer;
}

bool fe_is_closed(struct fe *fe)
{
    char buffer[512];

    for (;;) {
        ssize_t n = recv(fe->sock, buffer, sizeof(buffer), 0);

        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return true;
        if (n < 0)
            return failed(fe, "the connection is still open");
    }
}

/* ---- Setting up ---- */

bool fe_set_features(struct fe *fe, uint64_t features)
{
    fe->features = features;
    fe->packed = features & FE_F_PACKED;
    return fe_set_u64(fe, R_SET_FEATURES, features);
}

bool fe_negotiate(struct fe *fe, uint64_t wanted)
{
    static const uint64_t known = FE_P_MQ | FE_P_LOG_SHMFD | FE_P_REPLY_ACK | FE_P_BACKEND_REQ | FE_P_CONFIG |
                                  FE_P_INFLIGHT | FE_P_RESET_DEVICE | FE_P_MEM_SLOTS | FE_P_STATUS;
    uint64_t offered, protocol;

    if (!fe_get_u64(fe, R_GET_FEATURES, &offered) || !fe_get_u64(fe, R_GET_PROTOCOL_FEATURES, &protocol))
        return false;
    fe->protocol_features = protocol & known;
    if (!fe_set_u64(fe, R_SET_PROTOCOL_FEATURES, fe->protocol_features) ||
        !fe_send(fe, R_SET_OWNER, 0, NULL, 0, NULL, 0))
        return false;
    return fe_set_features(fe, offered & wanted);
}

void fe_make_memory(struct fe *fe, uint64_t ram_bytes)
{
    uint64_t file_bytes = ram_bytes + 2 * FE_GUARD_BYTES;

    fe->ram_bytes = ram_bytes;
    fe->a_bytes = ram_bytes / 2;
    fe->mem_fd = memfd_create("guest", MFD_CLOEXEC);
    if (fe->mem_fd < 0 || ftruncate(fe->mem_fd, (off_t)file_bytes) < 0)
        fe_die("memfd: %s", strerror(errno));
    fe->file = mmap(NULL, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fe->mem_fd, 0);
    if (fe->file == MAP_FAILED)
        fe_die("mmap: %s", strerror(errno));
    fe->ram = fe->file + FE_GUARD_BYTES;
    memset(fe->file, FE_GUARD_FILL, FE_GUARD_BYTES);
    memset(fe->ram + ram_bytes, FE_GUARD_FILL, FE_GUARD_BYTES);
}

struct region {
    uint64_t guest, size, user, offset;
};

bool fe_share_memory(struct fe *fe)
{
    struct {
        uint32_t count, padding;
        struct region regions[2];
    } table = {
        2,
        0,
        {
            { FE_GUEST_BASE, fe->a_bytes, FE_USER_A, FE_GUARD_BYTES },
            { FE_GUEST_BASE + fe->a_bytes, fe->ram_bytes - fe->a_bytes, FE_USER_B, FE_GUARD_BYTES + fe->a_bytes },
        },
    };
    int fds[2] = { fe->mem_fd, fe->mem_fd };

    if (!(fe->protocol_features & FE_P_MEM_SLOTS))
        return fe_send(fe, R_SET_MEM_TABLE, 0, &table, sizeof(table), fds, 2);
    for (unsigned i = 0; i < 2; i++) {
        struct {
            uint64_t padding;
            struct region region;
        } one = { 0, table.regions[i] };

        if (fe_acked(fe, R_ADD_MEM_REG, &one, sizeof(one), fds, 1) != 0)
            return failed(fe, "ADD_MEM_REG was refused");
    }
    return true;
}

bool fe_guards_intact(const struct fe *fe)
{
    const uint8_t *after = fe->ram + fe->ram_bytes;

    for (unsigned i = 0; i < FE_GUARD_BYTES; i++) {
        if (fe->file[i] != FE_GUARD_FILL || after[i] != FE_GUARD_FILL)
            return false;
    }
    return true;
}

uint64_t fe_guest(const struct fe *fe, const void *p)
{
    return FE_GUEST_BASE + (uint64_t)((const uint8_t *)p - fe->ram);
}

uint64_t fe_user(const struct fe *fe, const void *p)
{
    uint64_t offset = (uint64_t)((const uint8_t *)p - fe->ram);

    return offset < fe->a_bytes ? FE_USER_A + offset : FE_USER_B + (offset - fe->a_bytes);
}

void fe_layout_queue(struct fe *fe, unsigned index, unsigned size, uint64_t ram_offset)
{
    struct fe_queue *q = &fe->queues[index];
    uint8_t *at = fe->ram + ram_offset;

    if (q->size == 0) {
        q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        q->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    memset(at, 0, FE_RING_BYTES);
    q->size = size;
    q->ring_offset = ram_offset;
    q->desc = (struct fe_desc *)at;
    q->pdesc = (struct fe_packed_desc *)at;
    q->avail = q->driver_event = (uint16_t *)(at + 0x4000);
    q->used = q->device_event = (uint16_t *)(at + 0x5000);
    q->used_seen = 0;
    q->next = q->used_next = 0;
    q->wrap = q->used_wrap = true;
}

bool fe_send_addr(struct fe *fe, unsigned index, uint32_t flags, uint64_t log)
{
    struct fe_queue *q = &fe->queues[index];
    struct {
        uint32_t index, flags;
        uint64_t descriptor, used, available, log;
    } addr = { index, flags, fe_user(fe, q->desc), fe_user(fe, q->used), fe_user(fe, q->avail), log };

    return fe_send(fe, R_SET_VRING_ADDR, 0, &addr, sizeof(addr), NULL, 0);
}

bool fe_send_queue(struct fe *fe, unsigned index, uint32_t base)
{
    struct fe_queue *q = &fe->queues[index];

    return fe_set_state(fe, R_SET_VRING_NUM, index, q->size) && fe_set_state(fe, R_SET_VRING_BASE, index, base) &&
           fe_send_addr(fe, index, 0, 0) && fe_set_vring_fd(fe, R_SET_VRING_CALL, index, q->call_fd) &&
           fe_set_vring_fd(fe, R_SET_VRING_ERR, index, q->err_fd) &&
           fe_set_vring_fd(fe, R_SET_VRING_KICK, index, q->kick_fd) && fe_set_state(fe, R_SET_VRING_ENABLE, index, 1);
}

bool fe_start(struct fe *fe, const char *path, uint64_t wanted, unsigned count, unsigned size)
{
    if (!fe_connect(fe, path) || !fe_negotiate(fe, wanted))
        return false;
    if (fe->file == NULL)
        fe_make_memory(fe, 8u << 20);
    if (!fe_share_memory(fe))
        return false;
    for (unsigned i = 0; i < count; i++) {
        fe_layout_queue(fe, i, size, (uint64_t)i * FE_RING_BYTES);
        if (!fe_send_queue(fe, i, fe->packed ? 0x80008000u : 0))
            return false;
    }
    return true;
}

/* ---- Rings ---- */

static void publish_split(struct fe_queue *q, uint16_t head)
{
    q->avail[2 + q->avail[1] % q->size] = head;
    __atomic_store_n(&q->avail[1], (uint16_t)(q->avail[1] + 1), __ATOMIC_RELEASE);
}

static void offer_split(struct fe *fe, struct fe_queue *q, unsigned first, const struct fe_buffer *buffers,
                        unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct fe_desc *d = &q->desc[(first + i) % q->size];

        d->addr = fe_guest(fe, buffers[i].data);
        d->len = buffers[i].len;
        d->flags = (uint16_t)((buffers[i].writable ? DESC_WRITE : 0) | (i + 1 < count ? DESC_NEXT : 0));
        d->next = (uint16_t)((first + i + 1) % q->size);
    }
    publish_split(q, (uint16_t)first);
}

/* The first descriptor's flags are written last: they make the chain available. */
static void offer_packed_descs(struct fe_queue *q, const struct fe_packed_desc *descs, unsigned count)
{
    uint16_t start = q->next, first_flags = 0;

    q->places[descs[count - 1].id % FE_QUEUE_SIZE_MAX] = (uint16_t)count;
    for (unsigned i = 0; i < count; i++) {
        struct fe_packed_desc *d = &q->pdesc[q->next];
        uint16_t flags = (uint16_t)(descs[i].flags | (q->wrap ? 1u << 7 : 1u << 15));

        d->addr = descs[i].addr;
        d->len = descs[i].len;
        d->id = descs[i].id;
        if (i == 0)
            first_flags = flags;
        else
            d->flags = flags;
        if (++q->next == q->size) {
            q->next = 0;
            q->wrap = !q->wrap;
        }
    }
    __atomic_store_n(&q->pdesc[start].flags, first_flags, __ATOMIC_RELEASE);
}

void fe_offer(struct fe *fe, unsigned queue, unsigned first, const struct fe_buffer *buffers, unsigned count)
{
    struct fe_queue *q = &fe->queues[queue];
    struct fe_packed_desc descs[FE_QUEUE_SIZE_MAX];

    if (!fe->packed) {
        offer_split(fe, q, first, buffers, count);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        descs[i] = (struct fe_packed_desc){ fe_guest(fe, buffers[i].data), buffers[i].len, (uint16_t)first,
                                            (uint16_t)((buffers[i].writable ? DESC_WRITE : 0) |
                                                       (i + 1 < count ? DESC_NEXT : 0)) };
    offer_packed_descs(q, descs, count);
}

void fe_offer_indirect(struct fe *fe, unsigned queue, unsigned first, const struct fe_buffer *buffers, unsigned count,
                       void *table)
{
    struct fe_queue *q = &fe->queues[queue];
    struct fe_packed_desc indirect = { fe_guest(fe, table), count * 16, (uint16_t)first, DESC_INDIRECT };

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = buffers[i].writable ? DESC_WRITE : 0;

        if (fe->packed)
            ((struct fe_packed_desc *)table)[i] =
                (struct fe_packed_desc){ fe_guest(fe, buffers[i].data), buffers[i].len, 0, flags };
        else
            ((struct fe_desc *)table)[i] =
                (struct fe_desc){ fe_guest(fe, buffers[i].data), buffers[i].len,
                                  (uint16_t)(flags | (i + 1 < count ? DESC_NEXT : 0)), (uint16_t)(i + 1) };
    }
    if (fe->packed) {
        offer_packed_descs(q, &indirect, 1);
        return;
    }
    q->desc[first] = (struct fe_desc){ indirect.addr, indirect.len, DESC_INDIRECT, 0 };
    publish_split(q, (uint16_t)first);
}

void fe_kick(struct fe *fe, unsigned queue)
{
    uint64_t one = 1;

    if (write(fe->queues[queue].kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        fe_die("kick: %s", strerror(errno));
}

static bool take_packed(struct fe_queue *q, uint32_t *ret_id, uint32_t *ret_len)
{
    struct fe_packed_desc *d = &q->pdesc[q->used_next];
    uint16_t flags = __atomic_load_n(&d->flags, __ATOMIC_ACQUIRE);
    bool avail = flags & 1u << 7, used = flags & 1u << 15;
    unsigned places;

    if (avail != used || used != q->used_wrap)
        return false;
    *ret_id = d->id;
    *ret_len = d->len;
    places = q->places[d->id % FE_QUEUE_SIZE_MAX];
    q->used_next = (uint16_t)(q->used_next + places);
    if (q->used_next >= q->size) {
        q->used_next = (uint16_t)(q->used_next - q->size);
        q->used_wrap = !q->used_wrap;
    }
    return true;
}

bool fe_take(struct fe *fe, unsigned queue, uint32_t *ret_id, uint32_t *ret_len)
{
    struct fe_queue *q = &fe->queues[queue];
    const uint32_t *elem;

    if (fe->packed)
        return take_packed(q, ret_id, ret_len);
    if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) == q->used_seen)
        return false;
    elem = (const uint32_t *)(q->used + 2) + q->used_seen % q->size * 2;
    *ret_id = elem[0];
    *ret_len = elem[1];
    q->used_seen++;
    return true;
}

/* Ask to be called for the next used chain, where that is negotiated. */
static void want_call(struct fe *fe, struct fe_queue *q)
{
    if (!(fe->features & FE_F_EVENT_IDX))
        return;
    if (fe->packed) {
        q->driver_event[0] = (uint16_t)(q->used_next | (q->used_wrap ? 0x8000u : 0));
        __atomic_store_n(&q->driver_event[1], 2, __ATOMIC_RELEASE);
    } else {
        __atomic_store_n(&q->avail[2 + q->size], q->used_seen, __ATOMIC_RELEASE);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool fe_wait(struct fe *fe, unsigned queue, uint32_t *ret_id, uint32_t *ret_len)
{
    struct fe_queue *q = &fe->queues[queue];
    struct pollfd pfd = { .fd = q->call_fd, .events = POLLIN };
    uint64_t count;

    for (;;) {
        want_call(fe, q);
        if (fe_take(fe, queue, ret_id, ret_len))
            return true;
        if (poll(&pfd, 1, WAIT_MS) <= 0)
            return failed(fe, "queue %u: no answer", queue);
        if (read(q->call_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
            fe_die("call: %s", strerror(errno));
    }
}

unsigned fe_request(struct fe *fe, unsigned queue, void *scratch, uint32_t type, uint64_t sector, void *data,
                    uint32_t len_bytes, uint32_t *ret_len)
{
    struct fe_header *header = scratch;
    volatile uint8_t *status = (uint8_t *)scratch + 32;
    bool in = type == T_IN || type == T_GET_ID;
    struct fe_buffer buffers[3] = { { header, sizeof(*header), false },
                                    { data, len_bytes, in },
                                    { (void *)status, 1, true } };
    uint32_t id, len;

    *header = (struct fe_header){ type, 0, sector };
    *status = S_NONE;
    if (len_bytes == 0) {
        buffers[1] = buffers[2];
        fe_offer(fe, queue, 0, buffers, 2);
    } else {
        fe_offer(fe, queue, 0, buffers, 3);
    }
    fe_kick(fe, queue);
    if (!fe_wait(fe, queue, &id, &len))
        return S_NONE;
    if (id != 0) {
        failed(fe, "used id %u instead of 0", id);
        return S_NONE;
    }
    if (ret_len != NULL)
        *ret_len = len;
    return *status;
}
