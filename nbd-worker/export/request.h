/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request of the transmission phase (NBD proto.md, "Request message"): taking its header apart, and holding it
 * against its row in the table of commands and against what was negotiated. Both are pure.
 */
#ifndef BULKHEAD_NBD_WORKER_EXPORT_REQUEST_H
#define BULKHEAD_NBD_WORKER_EXPORT_REQUEST_H

#include "common/io/request.h"
#include "common/net/nbd-protocol.h"

struct cursor;
struct nbd_client;
struct nbd_command;
struct nbd_request;
struct nbd_slot;

struct nbd_request {
    uint64_t cookie; /* as it came: opaque, in the order of the wire */
    uint64_t offset;
    uint64_t len_bytes;
    uint16_t flags;
    uint16_t type;
    const struct nbd_command *command; /* NULL: unknown */
};

enum nbd_outcome {
    NBD_TAKEN,   /* the request is on its way or answered, its payload is taken care of */
    NBD_STALLED, /* nothing has been taken: the client's share of memory is in use; try again later */
};

struct nbd_command {
    const char *name;
    enum block_op op;
    uint16_t flags;       /* that it may carry, beside FUA, which every command may */
    bool has_payload;     /* the client sends len_bytes of data */
    bool carries_payload; /* in either direction: len_bytes is bounded by NBD_MAX_PAYLOAD */
    bool writes;          /* refused on a read-only export */
    bool unchecked;       /* handled whatever its fields say */
    bool no_range;        /* offset and length are reserved and zero */
    uint32_t beyond_end;  /* error for a range that leaves the export */
    /* Execute a checked request; payload: what has arrived behind its header. */
    enum nbd_outcome (*handle)(struct nbd_client *client, const struct nbd_request *request, struct cursor *payload);
};

/* Indexed by NBD_CMD_*; a row without handle is no command. */
extern const struct nbd_command nbd_commands[NBD_CMD_MAX];

/* What a request is held against. */
struct nbd_limits {
    uint64_t size_bytes;
    bool read_only;
    bool fast_zero;
    bool structured_reply;
    uint32_t contexts;
};

/* Take a header of sizeof(struct nbd_request_header) bytes apart. False: wrong magic, the stream cannot be trusted. */
bool nbd_request_parse(const uint8_t *header, struct nbd_request *ret_request);

/* 0 or NBD_E*; *ret_text then says why, for people. */
uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_limits *limits, const char **ret_text);

#endif
