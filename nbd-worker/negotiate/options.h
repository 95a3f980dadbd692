/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options that a client may send (NBD proto.md, "Option types"), as a table that the handshake walks. Each has
 * three functions: parse takes the data apart (pure), check holds the result against what is negotiated and what
 * exists, handle acts and replies.
 */
#ifndef BULKHEAD_NBD_WORKER_NEGOTIATE_OPTIONS_H
#define BULKHEAD_NBD_WORKER_NEGOTIATE_OPTIONS_H

#include "nbd-worker/negotiate/handshake.h"

/* What an option's data say; which members are set depends on the option. */
struct option_request {
    const char *name; /* export name, not NUL-terminated, within the received data */
    size_t name_len_bytes;
    uint32_t infos;       /* INFO, GO: bits 1 << NBD_INFO_* */
    uint32_t query_count; /* meta contexts */
    uint32_t contexts;    /* IPC_NBD_CONTEXT_* that a query names */
    uint32_t wildcards;   /* and those that a wildcard stands for, which counts for LIST_META_CONTEXT only */
    const struct nbd_directory_entry *entry; /* set by check: the export of that name */
};

struct nbd_option {
    uint32_t option;
    const char *name;       /* for messages */
    uint32_t data_max_bytes; /* longer data are skipped and refused: 0 is INVALID, else TOO_BIG */
    bool ignores_data;      /* data are skipped and the option is handled all the same */
    bool without_reply;     /* has no error reply: an error ends the connection */
    bool in_clear;          /* is answered without TLS also by a server that requires it */
    bool resets_contexts;   /* forgets the meta contexts even if it fails */

    /* 0 or -EINVAL with the text of the error reply. */
    int (*parse)(const uint8_t *data, size_t len_bytes, struct option_request *ret_request, struct error *err);
    /* 0 or NBD_REP_ERR_*, with the text of the error reply. May be NULL. */
    uint32_t (*check)(const struct handshake *hs, struct option_request *request, struct error *err);
    void (*handle)(struct handshake *hs, const struct option_request *request);
};

extern const struct nbd_option nbd_options[];
extern const unsigned nbd_options_count;

/* NULL: unknown. */
const struct nbd_option *nbd_option_find(uint32_t option);

/* All that a received option needs: parse, check, handle; or the error reply. */
void nbd_option_run(struct handshake *hs, const struct nbd_option *option, const uint8_t *data, size_t len_bytes);

/* Go on with the replies to LIST as far as the output has room. */
void nbd_option_list_continue(struct handshake *hs);

/* The transmission flags of an export for this client, as it stands ("Transmission flags"). */
uint16_t nbd_transmission_flags(const struct handshake *hs, const struct nbd_directory_entry *entry);

#endif
