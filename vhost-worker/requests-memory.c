/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Handlers of requests that bring memory along: guest memory, dirty log, inflight buffer. All queues rest meanwhile.
 * The descriptors are closed once they are mapped.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "vhost-worker/session.h"

/* ---- Guest memory ---- */

enum vhost_outcome vhost_set_mem_table(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    const struct vhost_user_mem_table *table = &message->payload.table;

    vhost_memory_clear(&session->shared.memory);
    for (unsigned i = 0; i < table->num_regions; i++) {
        struct vhost_user_region region = table->regions[i];

        if (vhost_memory_add(&session->shared.memory, &region, message->fds[i], err) < 0) {
            error_prepend(err, "SET_MEM_TABLE");
            return VHOST_FATAL;
        }
    }
    return VHOST_DONE;
}

enum vhost_outcome vhost_get_max_mem_slots(struct vhost_session *session, struct vhost_message *message,
                                           struct error *err)
{
    return vhost_reply_u64(session, message, VHOST_MEMORY_SLOTS_MAX, err);
}

enum vhost_outcome vhost_add_mem_reg(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_user_region region = message->payload.region.region;

    if (vhost_memory_add(&session->shared.memory, &region, message->fds[0], err) == 0)
        return VHOST_DONE;
    error_prepend(err, "ADD_MEM_REG");
    return VHOST_REFUSED;
}

/* A descriptor may come along; it is closed with the message. */
enum vhost_outcome vhost_rem_mem_reg(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_user_region region = message->payload.region.region;

    if (vhost_memory_remove(&session->shared.memory, &region, err) == 0)
        return VHOST_DONE;
    error_prepend(err, "REM_MEM_REG");
    return VHOST_REFUSED;
}

/* ---- Dirty log ---- */

enum vhost_outcome vhost_set_log_base(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_mapping mapping = { 0 };

    if (vhost_mapping_open(&mapping, message->fds[0], message->payload.log.log_offset, message->payload.log.log_size,
                           err) < 0) {
        error_prepend(err, "SET_LOG_BASE");
        return VHOST_FATAL;
    }
    vhost_mapping_close(&session->shared.log.mapping);
    session->shared.log.mapping = mapping;
    /* A front-end with LOG_SHMFD waits for a reply whether it asked for one or not ("Communication"). */
    return vhost_reply_u64(session, message, 0, err);
}

enum vhost_outcome vhost_set_log_fd(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    if (vhost_signal_fd_check(message->fds[0], err) < 0) {
        error_prepend(err, "SET_LOG_FD");
        return VHOST_FATAL;
    }
    close_fd(&session->shared.log_fd);
    session->shared.log_fd = TAKE_FD(message->fds[0]);
    return VHOST_DONE;
}

/* ---- Inflight buffer ---- */

static int check_geometry(const struct vhost_session *session, const struct vhost_user_inflight *inflight,
                          struct error *err)
{
    if (inflight->num_queues == 0 || inflight->num_queues > session->vring_count)
        return error_set(err, -EPROTO, "%u queues of %u", inflight->num_queues, session->vring_count);
    if (inflight->queue_size == 0 || inflight->queue_size > VIRTQ_SIZE_MAX)
        return error_set(err, -EPROTO, "a queue size of %u, expected 1 to %u", inflight->queue_size, VIRTQ_SIZE_MAX);
    return 0;
}

/*
 * A buffer that nobody can shrink, of pages that are there: only then is memory which the front-end holds as good as
 * our own. It is made anew each time, so that no front-end keeps a hold on a buffer of the next.
 */
static int make_buffer(uint64_t len_bytes, struct error *err)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    _cleanup_close_ int fd = memfd_create("vhost-inflight", flags | VHOST_MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("vhost-inflight", flags);
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)len_bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return error_set(err, -errno, "cannot make a buffer of %llu bytes: %s", (unsigned long long)len_bytes,
                         strerror(errno));
    return TAKE_FD(fd);
}

/*
 * Each region has room for the largest ring in either layout: which one it will be is not always decided yet, and the
 * queue_size of the message is what the front-end was configured with, while a driver may choose another one (QEMU asks
 * for 128 and goes on with rings of 1024). The size of the message differs between front-ends (padding of a C struct):
 * the reply has that of the request.
 */
enum vhost_outcome vhost_get_inflight_fd(struct vhost_session *session, struct vhost_message *message,
                                         struct error *err)
{
    union vhost_user_payload reply = { .inflight = message->payload.inflight };
    _cleanup_close_ int fd = -1;
    uint64_t stride;

    if (check_geometry(session, &reply.inflight, err) < 0) {
        error_prepend(err, "GET_INFLIGHT_FD");
        return VHOST_FATAL;
    }
    stride = round_up(vhost_inflight_region_bytes(true, VIRTQ_SIZE_MAX), 64);
    reply.inflight.mmap_size = stride * reply.inflight.num_queues;
    reply.inflight.mmap_offset = 0;
    fd = make_buffer(reply.inflight.mmap_size, err);
    if (fd < 0) {
        error_prepend(err, "GET_INFLIGHT_FD");
        return VHOST_FATAL;
    }
    return vhost_reply_fd(session, message, &reply, message->size, fd, err);
}

/*
 * All regions have one size (libvhost-user and others round theirs up, each in its own way), hence mmap_size divided by
 * num_queues. Whether it is enough for a queue shows when that is started; queue_size says nothing about that.
 */
enum vhost_outcome vhost_set_inflight_fd(struct vhost_session *session, struct vhost_message *message,
                                         struct error *err)
{
    struct vhost_user_inflight inflight = message->payload.inflight;
    struct vhost_mapping mapping = { 0 };

    if (check_geometry(session, &inflight, err) < 0 ||
        vhost_mapping_open(&mapping, message->fds[0], inflight.mmap_offset, inflight.mmap_size, err) < 0) {
        error_prepend(err, "SET_INFLIGHT_FD");
        return VHOST_FATAL;
    }
    if ((uintptr_t)mapping.data % 8 != 0 || inflight.mmap_size / inflight.num_queues % 8 != 0) {
        vhost_mapping_close(&mapping);
        return vhost_fatal(err, "SET_INFLIGHT_FD: regions that are not aligned to 8 bytes");
    }
    vhost_mapping_close(&session->inflight);
    session->inflight = mapping;
    session->inflight_queues = inflight.num_queues;
    return VHOST_DONE;
}
