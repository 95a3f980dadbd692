/* SPDX-License-Identifier: BSD-2-Clause */
/* Handlers of requests about one ring, which rests meanwhile, and what makes a ring run. */
#include <string.h>

#include "vhost-worker/session.h"

static struct vhost_vring *vring_of(struct vhost_session *session, const struct vhost_message *message)
{
    return &session->vrings[vhost_message_queue(message)];
}

/* The configuration as the features say now. */
static void complete_config(const struct vhost_session *session, struct vhost_vring *vring)
{
    uint64_t features = session->shared.device.features;

    vring->config.packed = features >> VIRTIO_F_RING_PACKED & 1;
    vring->config.event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
    vring->config.indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
    vring->config.log_used = session->shared.log_all && (vring->addr_flags & VHOST_VRING_F_LOG);
}

enum vhost_outcome vhost_set_vring_num(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    uint32_t num = message->payload.state.num;

    /* Whether it must be a power of 2 depends on features; that is checked with the addresses. */
    if (num == 0 || num > VIRTQ_SIZE_MAX)
        return vhost_fatal(err, "SET_VRING_NUM: a queue size of %u, expected 1 to %u", num, VIRTQ_SIZE_MAX);
    vring_of(session, message)->config.size = num;
    vring_of(session, message)->reset_base = 0;
    return VHOST_DONE;
}

enum vhost_outcome vhost_set_vring_addr(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_vring *vring = vring_of(session, message);
    struct vhost_user_vring_addr addr = message->payload.addr;

    if (addr.flags & ~VHOST_VRING_F_LOG)
        return vhost_fatal(err, "SET_VRING_ADDR: unknown flags 0x%x", addr.flags);
    vring->addr_flags = addr.flags;
    vring->config.descriptor = addr.descriptor;
    vring->config.used = addr.used;
    vring->config.available = addr.available;
    vring->config.log = addr.log;
    vring->has_addr = true;
    complete_config(session, vring);
    /* Tell at once what can be told; without memory or a size it is left to SET_VRING_KICK. */
    if (session->shared.memory.count > 0 && vring->config.size > 0 &&
        vring_check(&vring->config, &session->shared.memory, err) < 0) {
        error_prepend(err, "SET_VRING_ADDR: queue %u", addr.index);
        return VHOST_FATAL;
    }
    return VHOST_DONE;
}

enum vhost_outcome vhost_set_vring_base(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    vring_of(session, message)->config.base = message->payload.state.num;
    vring_of(session, message)->reset_base = 0;
    return VHOST_DONE;
}

/* "Stops the vring and returns the current descriptor index or indices"; it starts again with a new kick descriptor. */
enum vhost_outcome vhost_get_vring_base(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_vring *vring = vring_of(session, message);
    struct vhost_user_vring_state reply = { message->payload.state.index, vring->config.base };

    if (vring->config.size == 0 && vring->reset_base != 0)
        reply.num = vring->reset_base;

    vring->armed = false;
    vring->queue.kicked = false;
    close_fd(&vring->queue.kick_fd);
    return vhost_reply(session, message, &reply, sizeof(reply), err);
}

enum vhost_outcome vhost_set_vring_kick(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_vring *vring = vring_of(session, message);
    unsigned index = vhost_message_queue(message);

    if (message->fd_count == 0)
        return vhost_fatal(err, "SET_VRING_KICK: queue %u: polling without a kick descriptor is not supported", index);
    if (vring->config.size == 0 || !vring->has_addr)
        return vhost_fatal(err, "SET_VRING_KICK: queue %u has no %s yet", index,
                           vring->has_addr ? "size" : "addresses");
    complete_config(session, vring);
    if (vring_check(&vring->config, &session->shared.memory, err) < 0 ||
        vhost_queue_set_kick(&vring->queue, message->fds[0], err) < 0) {
        error_prepend(err, "SET_VRING_KICK: queue %u", index);
        return VHOST_FATAL;
    }
    message->fds[0] = -1;
    vring->armed = true;
    return VHOST_DONE;
}

/* CALL and ERR: replace the descriptor, or do without. */
static enum vhost_outcome set_signal_fd(struct vhost_message *message, int *fd, struct error *err)
{
    if (message->fd_count > 0 && vhost_signal_fd_check(message->fds[0], err) < 0) {
        error_prepend(err, "%s: queue %u", message->row->name, vhost_message_queue(message));
        return VHOST_FATAL;
    }
    close_fd(fd);
    if (message->fd_count > 0)
        *fd = TAKE_FD(message->fds[0]);
    return VHOST_DONE;
}

enum vhost_outcome vhost_set_vring_call(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_queue *queue = &vring_of(session, message)->queue;
    enum vhost_outcome outcome = set_signal_fd(message, &queue->call_fd, err);

    /*
     * Once, whether there is something to tell or not, as libvhost-user does: a worker that died between publishing and
     * signalling would otherwise leave a driver that waits for ever.
     */
    if (outcome == VHOST_DONE)
        vhost_signal_fd(queue->call_fd);
    return outcome;
}

enum vhost_outcome vhost_set_vring_err(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    return set_signal_fd(message, &vring_of(session, message)->queue.err_fd, err);
}

enum vhost_outcome vhost_set_vring_enable(struct vhost_session *session, struct vhost_message *message,
                                          struct error *err)
{
    if (message->payload.state.num > 1)
        return vhost_fatal(err, "SET_VRING_ENABLE: %u is neither 0 nor 1", message->payload.state.num);
    vring_of(session, message)->enabled = message->payload.state.num == 1;
    return VHOST_DONE;
}

/* ---- Starting ---- */

/* Attach the queue to its region of the inflight buffer, if there is one for it. */
static int open_inflight(struct vhost_session *session, struct vhost_vring *vring, struct error *err)
{
    uint64_t stride, need = vhost_inflight_region_bytes(vring->config.packed, vring->config.size);

    if (session->inflight.map == NULL || vring->queue.index >= session->inflight_queues)
        return 0;
    stride = session->inflight.len_bytes / session->inflight_queues;
    if (stride < need)
        return error_set(err, -EPROTO, "the inflight buffer has %llu bytes for a queue, one of %u needs %llu",
                         (unsigned long long)stride, vring->config.size, (unsigned long long)need);
    return vhost_inflight_open(&vring->queue.inflight, session->inflight.data + stride * vring->queue.index,
                               vring->config.packed, (uint16_t)vring->config.size, err);
}

static int start(struct vhost_session *session, struct vhost_vring *vring, struct error *err)
{
    struct vhost_queue *queue = &vring->queue;
    int ret;

    vring_done(&queue->ring);
    vhost_inflight_close(&queue->inflight);
    ret = open_inflight(session, vring, err);
    if (ret == 0)
        ret = vring_init(&queue->ring, &vring->config, &session->shared.memory, &session->shared.log,
                         queue->inflight.size > 0 ? &queue->inflight : NULL, err);
    if (ret == 0)
        ret = vhost_queue_start(queue, err);
    if (ret < 0)
        error_prepend(err, "queue %u", queue->index);
    else
        vring->active = true;
    return ret;
}

int vhost_vring_start(struct vhost_session *session, struct vhost_vring *vring, struct error *err)
{
    struct error unused;

    if (vring->active || !vring->armed || !vring->enabled || !(session->states & VHOST_STATE_FEATURES))
        return 0;
    complete_config(session, vring);
    /* While memory is being replaced, the ring may be nowhere for the time between two requests. */
    if (vring_check(&vring->config, &session->shared.memory, &unused) < 0)
        return 0;
    return start(session, vring, err);
}
