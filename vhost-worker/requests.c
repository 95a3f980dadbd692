/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of requests, and the handlers of those about the session and the device. A handler sees what the table's
 * row and the parser let through, with the queues that the row names at rest.
 */
#include <errno.h>
#include <string.h>

#include "vhost-worker/descriptor.h"
#include "vhost-worker/session.h"

#define FEATURE(name) (1ull << (name))

#define OWNED    VHOST_STATE_OWNED
#define FEATURES (VHOST_STATE_OWNED | VHOST_STATE_FEATURES)

#define F(name) FEATURE(VHOST_USER_PROTOCOL_F_##name)

const uint64_t vhost_protocol_features = F(MQ) | F(LOG_SHMFD) | F(REPLY_ACK) | F(BACKEND_REQ) | F(CONFIG) |
                                         F(INFLIGHT_SHMFD) | F(RESET_DEVICE) | F(CONFIGURE_MEM_SLOTS) | F(STATUS);

#define MEM_SLOTS  F(CONFIGURE_MEM_SLOTS)
#define CONFIG_MIN offsetof(struct vhost_user_config, payload)

_Static_assert(CONFIG_MIN == 12 && offsetof(struct vhost_user_mem_table, regions) == 8, "the least that has a meaning");

/*
 * Front-ends send requests without a payload with a size of 0, or with the union's first member: up to 8 bytes that
 * mean nothing are let through where the specification has none.
 */
/* clang-format off */
#define ROW(name, min, max, fds_min, fds_max, states, features, payload, quiesce, handler)                             \
    { VHOST_USER_##name, #name, min, max, fds_min, fds_max, states, features, VHOST_PAYLOAD_##payload,                 \
      VHOST_QUIESCE_##quiesce, vhost_##handler }

const struct vhost_request_row vhost_requests[] = {
    /*  request              size    fds   states    protocol feature   payload      at rest, handler */
    ROW(GET_FEATURES,           0,   8, 0, 0, 0,        0,                 NONE,        NONE,  get_features),
    ROW(SET_FEATURES,           8,   8, 0, 0, OWNED,    0,                 U64,         ALL,   set_features),
    ROW(SET_OWNER,              0,   8, 0, 0, 0,        0,                 NONE,        NONE,  set_owner),
    ROW(RESET_OWNER,            0,   8, 0, 0, 0,        0,                 NONE,        ALL,   reset_owner),
    ROW(SET_MEM_TABLE,          8, 264, 0, 8, OWNED,    0,                 MEM_TABLE,   ALL,   set_mem_table),
    ROW(SET_LOG_BASE,          16,  16, 1, 1, OWNED,    F(LOG_SHMFD),      LOG,         ALL,   set_log_base),
    ROW(SET_LOG_FD,             0,   8, 1, 1, OWNED,    0,                 NONE,        ALL,   set_log_fd),
    ROW(SET_VRING_NUM,          8,   8, 0, 0, OWNED,    0,                 VRING_STATE, QUEUE, set_vring_num),
    ROW(SET_VRING_ADDR,        40,  40, 0, 0, OWNED,    0,                 VRING_ADDR,  QUEUE, set_vring_addr),
    ROW(SET_VRING_BASE,         8,   8, 0, 0, OWNED,    0,                 VRING_STATE, QUEUE, set_vring_base),
    ROW(GET_VRING_BASE,         8,   8, 0, 0, OWNED,    0,                 VRING_STATE, QUEUE, get_vring_base),
    ROW(SET_VRING_KICK,         8,   8, 0, 1, FEATURES, 0,                 VRING_FD,    QUEUE, set_vring_kick),
    ROW(SET_VRING_CALL,         8,   8, 0, 1, OWNED,    0,                 VRING_FD,    QUEUE, set_vring_call),
    ROW(SET_VRING_ERR,          8,   8, 0, 1, OWNED,    0,                 VRING_FD,    QUEUE, set_vring_err),
    ROW(GET_PROTOCOL_FEATURES,  0,   8, 0, 0, 0,        0,                 NONE,        NONE,  get_protocol_features),
    ROW(SET_PROTOCOL_FEATURES,  8,   8, 0, 0, 0,        0,                 U64,         NONE,  set_protocol_features),
    ROW(GET_QUEUE_NUM,          0,   8, 0, 0, 0,        F(MQ),             NONE,        NONE,  get_queue_num),
    ROW(SET_VRING_ENABLE,       8,   8, 0, 0, OWNED,    0,                 VRING_STATE, QUEUE, set_vring_enable),
    ROW(SET_BACKEND_REQ_FD,     0,   8, 1, 1, 0,        F(BACKEND_REQ),    NONE,        NONE,  set_backend_req_fd),
    ROW(GET_CONFIG,            12, 268, 0, 0, 0,        F(CONFIG),         CONFIG,      NONE,  get_config),
    ROW(SET_CONFIG,            12, 268, 0, 0, OWNED,    F(CONFIG),         CONFIG,      NONE,  set_config),
    ROW(GET_INFLIGHT_FD,       20,  24, 0, 0, OWNED,    F(INFLIGHT_SHMFD), INFLIGHT,    NONE,  get_inflight_fd),
    ROW(SET_INFLIGHT_FD,       20,  24, 1, 1, OWNED,    F(INFLIGHT_SHMFD), INFLIGHT,    ALL,   set_inflight_fd),
    ROW(RESET_DEVICE,           0,   8, 0, 0, OWNED,    F(RESET_DEVICE),   NONE,        ALL,   reset_device),
    ROW(GET_MAX_MEM_SLOTS,      0,   8, 0, 0, 0,        MEM_SLOTS,         NONE,        NONE,  get_max_mem_slots),
    ROW(ADD_MEM_REG,           40,  40, 1, 1, OWNED,    MEM_SLOTS,         MEM_REGION,  ALL,   add_mem_reg),
    ROW(REM_MEM_REG,           40,  40, 0, 1, OWNED,    MEM_SLOTS,         MEM_REGION,  ALL,   rem_mem_reg),
    ROW(SET_STATUS,             8,   8, 0, 0, OWNED,    F(STATUS),         U64,         ALL,   set_status),
    ROW(GET_STATUS,             0,   8, 0, 0, OWNED,    F(STATUS),         NONE,        NONE,  get_status),
};
/* clang-format on */
const unsigned vhost_request_count = ARRAY_SIZE(vhost_requests);

/* ---- Features ---- */

/* What is on offer beside the device's own features. */
static uint64_t offered_features(const struct vhost_session *session)
{
    return blk_features(&session->shared.device) | FEATURE(VHOST_F_LOG_ALL) | FEATURE(VHOST_USER_F_PROTOCOL_FEATURES);
}

enum vhost_outcome vhost_get_features(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    return vhost_reply_u64(session, message, offered_features(session), err);
}

enum vhost_outcome vhost_set_features(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    uint64_t features = message->payload.u64, unknown = features & ~offered_features(session);

    if (unknown != 0)
        return vhost_fatal(err, "SET_FEATURES: 0x%llx was not on offer", (unsigned long long)unknown);
    session->shared.device.features = features;
    session->shared.log_all = features & FEATURE(VHOST_F_LOG_ALL);
    session->states |= VHOST_STATE_FEATURES;
    /* "Ring states": without protocol features nobody would ever enable a ring. */
    if (!(features & FEATURE(VHOST_USER_F_PROTOCOL_FEATURES))) {
        for (unsigned i = 0; i < session->vring_count; i++)
            session->vrings[i].enabled = true;
    }
    return VHOST_DONE;
}

enum vhost_outcome vhost_get_protocol_features(struct vhost_session *session, struct vhost_message *message,
                                               struct error *err)
{
    return vhost_reply_u64(session, message, vhost_protocol_features, err);
}

enum vhost_outcome vhost_set_protocol_features(struct vhost_session *session, struct vhost_message *message,
                                               struct error *err)
{
    uint64_t unknown = message->payload.u64 & ~vhost_protocol_features;

    if (unknown != 0)
        return vhost_fatal(err, "SET_PROTOCOL_FEATURES: 0x%llx was not on offer", (unsigned long long)unknown);
    session->protocol_features = message->payload.u64;
    return VHOST_DONE;
}

/* ---- Session and device ---- */

enum vhost_outcome vhost_set_owner(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    session->states |= VHOST_STATE_OWNED;
    return VHOST_DONE;
}

/* Deprecated: "use it to disable all rings". */
enum vhost_outcome vhost_reset_owner(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    for (unsigned i = 0; i < session->vring_count; i++)
        session->vrings[i].enabled = false;
    return VHOST_DONE;
}

enum vhost_outcome vhost_get_queue_num(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    return vhost_reply_u64(session, message, session->vring_count, err);
}

enum vhost_outcome vhost_reset_device(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    vhost_session_reset_rings(session);
    session->status = 0;
    return VHOST_DONE;
}

/* VIRTIO 1.2, 2.1: the driver writes 0 to reset the device. */
enum vhost_outcome vhost_set_status(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    if (message->payload.u64 > UINT8_MAX)
        return vhost_fatal(err, "SET_STATUS: 0x%llx is not a device status", (unsigned long long)message->payload.u64);
    if (message->payload.u64 == 0)
        vhost_session_reset_rings(session);
    session->status = (uint8_t)message->payload.u64;
    return VHOST_DONE;
}

enum vhost_outcome vhost_get_status(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    return vhost_reply_u64(session, message, session->status, err);
}

enum vhost_outcome vhost_set_backend_req_fd(struct vhost_session *session, struct vhost_message *message,
                                            struct error *err)
{
    if (vhost_descriptor_kind(message->fds[0]) != VHOST_DESCRIPTOR_STREAM)
        return vhost_fatal(err, "SET_BACKEND_REQ_FD: the descriptor is not a socket");
    close_fd(&session->backend_fd);
    session->backend_fd = TAKE_FD(message->fds[0]);
    return VHOST_DONE;
}

/* ---- Configuration space ---- */

enum vhost_outcome vhost_get_config(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    struct vhost_user_config reply = { .offset = message->payload.config.offset,
                                       .size = message->payload.config.size,
                                       .flags = message->payload.config.flags };
    uint8_t space[VHOST_USER_CONFIG_MAX] = { 0 }; /* beyond the fields that we know it reads as 0 */
    struct virtio_blk_config config;

    /* "uses zero length of payload to indicate an error" */
    if (!range_within(reply.offset, reply.size, sizeof(space)))
        return vhost_reply(session, message, NULL, 0, err);
    blk_config(&session->shared.device, &config);
    memcpy(space, &config, sizeof(config));
    memcpy(reply.payload, space + reply.offset, reply.size);
    session->config_changed = false;
    return vhost_reply(session, message, &reply, (uint32_t)(CONFIG_MIN + reply.size), err);
}

/*
 * Only "writeback" can be written (VIRTIO 1.2, 5.2.5.2), by itself. A migration hands over the whole space: the rest of
 * it is this export's and not the other host's.
 */
enum vhost_outcome vhost_set_config(struct vhost_session *session, struct vhost_message *message, struct error *err)
{
    const struct vhost_user_config *config = &message->payload.config;
    uint32_t at = offsetof(struct virtio_blk_config, writeback);
    struct blk_device *device = &session->shared.device;
    uint8_t value;

    if (config->flags > VHOST_USER_CONFIG_MIGRATION)
        return vhost_fatal(err, "SET_CONFIG: unknown flags 0x%x", config->flags);
    if (!range_within(config->offset, config->size, VHOST_USER_CONFIG_MAX))
        return vhost_refuse(err, "SET_CONFIG: bytes %u to %u + %u", config->offset, config->offset, config->size);
    if (config->flags == VHOST_USER_CONFIG_WRITABLE && (config->offset != at || config->size != 1))
        return vhost_refuse(err, "SET_CONFIG: bytes %u to %u + %u are read-only", config->offset, config->offset,
                            config->size);
    if (config->offset > at || at - config->offset >= config->size)
        return VHOST_DONE;
    value = config->payload[at - config->offset];
    if (value > 1)
        return vhost_refuse(err, "SET_CONFIG: %u is not a write-back mode", value);
    if (device->writethrough && value == 1)
        return vhost_refuse(err, "SET_CONFIG: the export is writethrough");
    /* Requests that run read it once each; FLUSH orders nothing against this field. */
    atomic_store(&device->writeback, value == 1);
    return VHOST_DONE;
}
