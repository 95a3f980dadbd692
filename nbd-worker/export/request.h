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

/* How requests and replies look, as negotiated: each form takes the place of the one before it. */
enum nbd_form {
    NBD_FORM_SIMPLE,     /* compact requests, simple replies */
    NBD_FORM_STRUCTURED, /* compact requests, structured replies where there is something to say */
    NBD_FORM_EXTENDED,   /* extended requests and replies */
};

struct nbd_request {
    uint64_t cookie; /* as it came: opaque, in the order of the wire */
    uint64_t offset;
    uint64_t len_bytes;     /* that it is about */
    uint64_t payload_bytes; /* that follow its header */
    uint32_t contexts;      /* BLOCK_STATUS: IPC_NBD_CONTEXT_* that it asks for */
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
    bool may_have_payload; /* the client may send more than a header has room for (NBD_CMD_FLAG_PAYLOAD_LEN) */
    bool carries_payload; /* in either direction: len_bytes is bounded by NBD_MAX_PAYLOAD */
    bool writes;          /* refused on a read-only export */
    bool unchecked;       /* handled whatever its fields say */
    bool no_range;        /* offset and length are reserved and zero */
    uint32_t beyond_end;  /* error for a range that leaves the export */
    /* Execute a checked request; payload: what has arrived behind its header. */
    enum nbd_outcome (*handle)(struct nbd_client *client, const struct nbd_request *request, struct cursor *payload);
    /* The payload has arrived in the slot's buffer. NULL: none ever does. */
    void (*received)(struct nbd_slot *slot);
};

/* Indexed by NBD_CMD_*; a row without handle is no command. */
extern const struct nbd_command nbd_commands[NBD_CMD_MAX];

/* What a request is held against, apart from the size of the export, which may change. */
struct nbd_limits {
    bool read_only;
    bool fast_zero;
    enum nbd_form form;
    uint32_t contexts; /* IPC_NBD_CONTEXT_* */
};

#define NBD_HEADER_BYTES_MAX sizeof(struct nbd_extended_request)

static inline size_t nbd_header_bytes(enum nbd_form form)
{
    return form == NBD_FORM_EXTENDED ? sizeof(struct nbd_extended_request) : sizeof(struct nbd_request_header);
}

/* Take a header of nbd_header_bytes() apart. False: wrong magic, the stream cannot be trusted. */
bool nbd_request_parse(const uint8_t *header, const struct nbd_limits *limits, struct nbd_request *ret_request);

/*
 * For an export that has size_bytes now: 0 or NBD_E*; *ret_text then says why, for people. The payload of a BLOCK_STATUS
 * comes later.
 */
uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_limits *limits, uint64_t size_bytes,
                           const char **ret_text);

/*
 * Take payload_bytes of a BLOCK_STATUS apart, which passed nbd_request_check(), and hold what they say against the
 * limits: sets len_bytes and contexts. 0 or NBD_E*, as above.
 */
uint32_t nbd_request_take_payload(struct nbd_request *request, const uint8_t *payload, const struct nbd_limits *limits,
                                  uint64_t size_bytes, const char **ret_text);

#endif
