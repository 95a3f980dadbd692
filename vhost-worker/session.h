/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The export and the session of the one front-end that may be connected to it: what runs on the control thread, walks
 * the table of requests, brings queues to rest where a request needs that, and ends sessions. Source: vhost-user.rst.
 */
#ifndef BULKHEAD_VHOST_SESSION_H
#define BULKHEAD_VHOST_SESSION_H

#include <errno.h>

#include "common/ipc/channel.h"
#include "vhost-worker/message.h"
#include "vhost-worker/queue.h"

#ifdef MFD_NOEXEC_SEAL
#define VHOST_MFD_NOEXEC_SEAL MFD_NOEXEC_SEAL
#else
#define VHOST_MFD_NOEXEC_SEAL 8u /* Linux 6.3 */
#endif

#define VHOST_QUEUES_MAX 256u /* a vring index has 8 bits in SET_VRING_KICK */

/* What the front-end has said of one queue. */
struct vhost_vring {
    struct vhost_queue queue;
    struct vring_config config; /* size 0: SET_VRING_NUM has not come */
    uint32_t addr_flags;        /* VHOST_VRING_F_LOG */
    /*
     * Where the ring was when a reset stopped it, until it is set up anew. QEMU 7.2 sets the status to 0 first and asks
     * by GET_VRING_BASE afterwards, when it stops or migrates a machine; the guest goes on from what it is told.
     */
    uint32_t reset_base;
    bool has_addr;
    bool armed;    /* SET_VRING_KICK came, and no GET_VRING_BASE since */
    bool enabled;  /* SET_VRING_ENABLE */
    bool active;   /* the I/O thread has it */
    bool stopping; /* and was asked to give it back */
};

struct vhost_session {
    struct worker *worker;
    struct vhost_shared shared;
    struct vhost_thread *threads; /* [worker->boot.io_threads] */
    struct vhost_vring *vrings;   /* [vring_count] */
    unsigned vring_count;

    struct io_watch link; /* to the door, which introduces front-ends; fd -1: there is none */

    /* Of the front-end; watch.fd -1: there is none. */
    struct io_watch watch; /* the stream of its messages, from the door */
    int reply_fd;          /* its connection, to answer on */
    uint64_t number;
    struct vhost_receiver receiver;
    struct vhost_message message; /* waits until the queues rest, if has_message */
    bool has_message;
    unsigned stopping_count; /* queues that have not come to rest yet */
    uint32_t states;         /* VHOST_STATE_* */
    uint64_t protocol_features;
    uint8_t status;
    int backend_fd;      /* SET_BACKEND_REQ_FD; -1: none */
    bool config_changed; /* the front-end has not been told */
    struct vhost_mapping inflight;
    uint16_t inflight_queues;
    struct channel_message introduction; /* of the front-end that comes; too large for a stack */
    bool closing;
    bool draining;
    struct error reason; /* why it is closing */
};

/* Before lock-down. */
int vhost_session_new(struct worker *worker, struct vhost_session **ret_session, struct error *err);

/* The device of the open node; after the tree is open. */
void vhost_session_set_device(struct vhost_session *session);

/*
 * LISTEN: serve front-ends that the door introduces on link_fd, which is taken, with so many queues. Again: another
 * door, and the same numbers. 0 or -errno.
 */
int vhost_session_listen(struct vhost_session *session, int link_fd, unsigned queues, uint32_t logical_block_bytes);

/* The node has a new size. */
void vhost_session_resize(struct vhost_session *session, uint64_t size_bytes);

/* End the session, take no new one, and exit the worker when all is at rest. */
void vhost_session_drain(struct vhost_session *session);

/* ---- For the handlers of requests ---- */

/* Send a reply to the message at hand: with a payload, or with a number. VHOST_REPLIED, or VHOST_FATAL. */
enum vhost_outcome vhost_reply(struct vhost_session *session, const struct vhost_message *message, const void *payload,
                               uint32_t len_bytes, struct error *err);
enum vhost_outcome vhost_reply_u64(struct vhost_session *session, const struct vhost_message *message, uint64_t value,
                                   struct error *err);
enum vhost_outcome vhost_reply_fd(struct vhost_session *session, const struct vhost_message *message,
                                  const void *payload, uint32_t len_bytes, int fd, struct error *err);

#define vhost_fatal(err, ...)  (error_set(err, -EPROTO, __VA_ARGS__), VHOST_FATAL)
#define vhost_refuse(err, ...) (error_set(err, -EINVAL, __VA_ARGS__), VHOST_REFUSED)

/* All that the driver or the front-end set up for queues is forgotten; all queues rest. */
void vhost_session_reset_rings(struct vhost_session *session);

/* Handlers, for the table. requests.c: */
vhost_handler_fn vhost_get_features, vhost_set_features, vhost_get_protocol_features, vhost_set_protocol_features,
    vhost_set_owner, vhost_reset_owner, vhost_get_queue_num, vhost_get_config, vhost_set_config,
    vhost_set_backend_req_fd, vhost_reset_device, vhost_set_status, vhost_get_status;
/* requests-memory.c: */
vhost_handler_fn vhost_set_mem_table, vhost_get_max_mem_slots, vhost_add_mem_reg, vhost_rem_mem_reg, vhost_set_log_base,
    vhost_set_log_fd, vhost_get_inflight_fd, vhost_set_inflight_fd;
/* requests-vring.c: */
vhost_handler_fn vhost_set_vring_num, vhost_set_vring_addr, vhost_set_vring_base, vhost_get_vring_base,
    vhost_set_vring_kick, vhost_set_vring_call, vhost_set_vring_err, vhost_set_vring_enable;

/* requests-vring.c: start the queue if all that it needs is there. 0: started or not yet; -errno: it cannot be. */
int vhost_vring_start(struct vhost_session *session, struct vhost_vring *vring, struct error *err);

/* The protocol features on offer. */
extern const uint64_t vhost_protocol_features;

/* Tell the front-end that the configuration space has changed, now or as soon as a queue runs. */
void vhost_notify_config(struct vhost_session *session);

#endif
