/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD protocol on the wire (NetworkBlockDevice/nbd, doc/proto.md), in the specification's spelling. Section names
 * in quotes are that document's. All numbers are big-endian; structs are packed and only ever read or written through
 * memcpy, a cursor or a buffer that this project aligned itself.
 */
#ifndef BULKHEAD_NET_NBD_PROTOCOL_H
#define BULKHEAD_NET_NBD_PROTOCOL_H

#include <endian.h>
#include <stdint.h>

#define NBD_PACKED __attribute__((packed))

/* "Conventions": a string is at most 4096 bytes. */
#define NBD_MAX_STRING 4096

/* "Size constraints": what a client may rely on without having asked. */
#define NBD_MAX_PAYLOAD             (32u << 20)
#define NBD_DEFAULT_BLOCK_PREFERRED 4096u
#define NBD_MAX_BLOCK_MINIMUM       65536u

/* ---- Handshake: "Newstyle negotiation", "Fixed newstyle negotiation" ---- */

#define NBD_MAGIC           0x4e42444d41474943u /* "NBDMAGIC" */
#define NBD_NEW_VERSION     0x49484156454f5054u /* "IHAVEOPT"; also starts each option */
#define NBD_REP_MAGIC       0x0003e889045565a9u
#define NBD_EXPORT_NAME_PAD 124u /* zeroes after the reply to NBD_OPT_EXPORT_NAME without NBD_FLAG_C_NO_ZEROES */

/* Handshake flags (16 bits) and client flags (32 bits). */
#define NBD_FLAG_FIXED_NEWSTYLE   (1u << 0)
#define NBD_FLAG_NO_ZEROES        (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES      (1u << 1)

/* What the server says first. */
struct nbd_greeting {
    uint64_t magic;   /* NBD_MAGIC */
    uint64_t version; /* NBD_NEW_VERSION */
    uint16_t flags;   /* NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES */
} NBD_PACKED;

/* Ours, the same for every client. */
static inline struct nbd_greeting nbd_greeting_make(void)
{
    return (struct nbd_greeting){
        .magic = htobe64(NBD_MAGIC),
        .version = htobe64(NBD_NEW_VERSION),
        .flags = htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
}

/* Before the data of each option. */
struct nbd_option_header {
    uint64_t magic; /* NBD_NEW_VERSION */
    uint32_t option;
    uint32_t len_bytes; /* of the data that follow */
} NBD_PACKED;

struct nbd_option_reply {
    uint64_t magic; /* NBD_REP_MAGIC */
    uint32_t option;
    uint32_t type; /* NBD_REP_* */
    uint32_t len_bytes;
} NBD_PACKED;

/* The reply to NBD_OPT_EXPORT_NAME, before the padding. */
struct nbd_export_name_reply {
    uint64_t size_bytes;
    uint16_t flags; /* transmission flags */
} NBD_PACKED;

/* "Option types". */
#define NBD_OPT_EXPORT_NAME       1u
#define NBD_OPT_ABORT             2u
#define NBD_OPT_LIST              3u
#define NBD_OPT_STARTTLS          5u
#define NBD_OPT_INFO              6u
#define NBD_OPT_GO                7u
#define NBD_OPT_STRUCTURED_REPLY  8u
#define NBD_OPT_LIST_META_CONTEXT 9u
#define NBD_OPT_SET_META_CONTEXT  10u
#define NBD_OPT_EXTENDED_HEADERS  11u

/* "Option reply types". */
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_FLAG_ERROR          (1u << 31)
#define NBD_REP_ERR_UNSUP           (NBD_REP_FLAG_ERROR + 1)
#define NBD_REP_ERR_POLICY          (NBD_REP_FLAG_ERROR + 2)
#define NBD_REP_ERR_INVALID         (NBD_REP_FLAG_ERROR + 3)
#define NBD_REP_ERR_PLATFORM        (NBD_REP_FLAG_ERROR + 4)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_FLAG_ERROR + 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_FLAG_ERROR + 6)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_FLAG_ERROR + 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_FLAG_ERROR + 8)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_FLAG_ERROR + 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_FLAG_ERROR + 10)

/* Information types of NBD_REP_INFO. */
#define NBD_INFO_EXPORT      0u
#define NBD_INFO_NAME        1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE  3u

struct nbd_info_export {
    uint16_t type; /* NBD_INFO_EXPORT */
    uint64_t size_bytes;
    uint16_t flags; /* transmission flags */
} NBD_PACKED;

struct nbd_info_block_size {
    uint16_t type; /* NBD_INFO_BLOCK_SIZE */
    uint32_t minimum_bytes;
    uint32_t preferred_bytes;
    uint32_t max_payload_bytes;
} NBD_PACKED;

/* "Transmission flags". */
#define NBD_FLAG_HAS_FLAGS            (1u << 0)
#define NBD_FLAG_READ_ONLY            (1u << 1)
#define NBD_FLAG_SEND_FLUSH           (1u << 2)
#define NBD_FLAG_SEND_FUA             (1u << 3)
#define NBD_FLAG_ROTATIONAL           (1u << 4)
#define NBD_FLAG_SEND_TRIM            (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES    (1u << 6)
#define NBD_FLAG_SEND_DF              (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN       (1u << 8)
#define NBD_FLAG_SEND_CACHE           (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO       (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

/* "Metadata querying". */
#define NBD_STATE_HOLE (1u << 0) /* of base:allocation */
#define NBD_STATE_ZERO (1u << 1)

/* ---- Transmission ---- */

#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu

/*
 * "Request message": the compact one, and what takes its place after NBD_OPT_EXTENDED_HEADERS (branch
 * extension-ext-header of the specification; what is marked "extended" below is from there).
 */
struct nbd_request_header {
    uint32_t magic; /* NBD_REQUEST_MAGIC */
    uint16_t flags; /* NBD_CMD_FLAG_* */
    uint16_t type;  /* NBD_CMD_* */
    uint64_t cookie;
    uint64_t offset;
    uint32_t len_bytes;
} NBD_PACKED;

struct nbd_extended_request {
    uint32_t magic; /* NBD_EXTENDED_REQUEST_MAGIC */
    uint16_t flags; /* NBD_CMD_FLAG_* */
    uint16_t type;  /* NBD_CMD_* */
    uint64_t cookie;
    uint64_t offset;
    uint64_t len_bytes; /* of the payload with NBD_CMD_FLAG_PAYLOAD_LEN and of a write, else of the effect */
} NBD_PACKED;

/* "Request types". */
#define NBD_CMD_READ         0u
#define NBD_CMD_WRITE        1u
#define NBD_CMD_DISC         2u
#define NBD_CMD_FLUSH        3u
#define NBD_CMD_TRIM         4u
#define NBD_CMD_CACHE        5u
#define NBD_CMD_WRITE_ZEROES 6u
#define NBD_CMD_BLOCK_STATUS 7u
#define NBD_CMD_MAX          8u

/* "Command flags". */
#define NBD_CMD_FLAG_FUA         (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE     (1u << 1)
#define NBD_CMD_FLAG_DF          (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE     (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO   (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5) /* extended */

/* "Simple reply message". */
struct nbd_simple_reply {
    uint32_t magic; /* NBD_SIMPLE_REPLY_MAGIC */
    uint32_t error; /* NBD_E* or 0 */
    uint64_t cookie;
} NBD_PACKED;

/* "Structured reply chunk message". */
struct nbd_chunk {
    uint32_t magic; /* NBD_STRUCTURED_REPLY_MAGIC */
    uint16_t flags; /* NBD_REPLY_FLAG_DONE */
    uint16_t type;  /* NBD_REPLY_TYPE_* */
    uint64_t cookie;
    uint32_t len_bytes; /* of the payload that follows */
} NBD_PACKED;

/* "Extended reply chunk message". */
struct nbd_extended_chunk {
    uint32_t magic; /* NBD_EXTENDED_REPLY_MAGIC */
    uint16_t flags; /* NBD_REPLY_FLAG_DONE */
    uint16_t type;  /* NBD_REPLY_TYPE_* */
    uint64_t cookie;
    uint64_t offset;    /* of the request */
    uint64_t len_bytes; /* of the payload that follows */
} NBD_PACKED;

#define NBD_REPLY_FLAG_DONE (1u << 0)

/* "Structured reply types"; what follows is the payload of a chunk of either form. */
#define NBD_REPLY_TYPE_NONE             0u
#define NBD_REPLY_TYPE_OFFSET_DATA      1u
#define NBD_REPLY_TYPE_OFFSET_HOLE      2u
#define NBD_REPLY_TYPE_BLOCK_STATUS     5u
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6u /* extended */
#define NBD_REPLY_TYPE_ERROR            ((1u << 15) + 1)
#define NBD_REPLY_TYPE_ERROR_OFFSET     ((1u << 15) + 2)

/* NBD_REPLY_TYPE_OFFSET_DATA, before the data. */
struct nbd_payload_data {
    uint64_t offset;
} NBD_PACKED;

/* NBD_REPLY_TYPE_OFFSET_HOLE. */
struct nbd_payload_hole {
    uint64_t offset;
    uint32_t hole_bytes;
} NBD_PACKED;

/* NBD_REPLY_TYPE_ERROR, before the message. */
struct nbd_payload_error {
    uint32_t error;
    uint16_t message_len_bytes;
} NBD_PACKED;

/* NBD_REPLY_TYPE_BLOCK_STATUS, before the descriptors. */
struct nbd_payload_status {
    uint32_t context_id;
} NBD_PACKED;

struct nbd_block_descriptor {
    uint32_t len_bytes;
    uint32_t status; /* NBD_STATE_* */
} NBD_PACKED;

/* NBD_REPLY_TYPE_BLOCK_STATUS_EXT, before the descriptors. */
struct nbd_payload_status_ext {
    uint32_t context_id;
    uint32_t count; /* of descriptors */
} NBD_PACKED;

struct nbd_block_descriptor_ext {
    uint64_t len_bytes;
    uint64_t status; /* NBD_STATE_* */
} NBD_PACKED;

/* The payload of NBD_CMD_BLOCK_STATUS with NBD_CMD_FLAG_PAYLOAD_LEN, before the context ids (32 bits each). */
struct nbd_status_request {
    uint64_t effect_bytes;
} NBD_PACKED;

/* "Error values". */
#define NBD_EPERM     1u
#define NBD_EIO       5u
#define NBD_ENOMEM    12u
#define NBD_EINVAL    22u
#define NBD_ENOSPC    28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP   95u
#define NBD_ESHUTDOWN 108u

_Static_assert(sizeof(struct nbd_greeting) == 18, "proto.md, \"Newstyle negotiation\"");
_Static_assert(sizeof(struct nbd_option_header) == 16, "proto.md, \"Newstyle negotiation\"");
_Static_assert(sizeof(struct nbd_option_reply) == 20, "proto.md, \"Fixed newstyle negotiation\"");
_Static_assert(sizeof(struct nbd_export_name_reply) == 10, "proto.md, \"Newstyle negotiation\"");
_Static_assert(sizeof(struct nbd_info_export) == 12, "proto.md, \"Option reply types\"");
_Static_assert(sizeof(struct nbd_info_block_size) == 14, "proto.md, \"Option reply types\"");
_Static_assert(sizeof(struct nbd_request_header) == 28, "proto.md, \"Request message\"");
_Static_assert(sizeof(struct nbd_extended_request) == 32, "extension-ext-header, \"Request message\"");
_Static_assert(sizeof(struct nbd_simple_reply) == 16, "proto.md, \"Simple reply message\"");
_Static_assert(sizeof(struct nbd_chunk) == 20, "proto.md, \"Structured reply chunk message\"");
_Static_assert(sizeof(struct nbd_extended_chunk) == 32, "extension-ext-header, \"Extended reply chunk message\"");

#endif
