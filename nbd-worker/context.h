/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The meta contexts (NBD proto.md, "Metadata querying"), as a table: the negotiator matches the queries of
 * NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT against its names, and the export makes one chunk of each reply
 * to NBD_CMD_BLOCK_STATUS by its rows. A context is nothing but its row here and its bit in ipc-protocol.h; which of them
 * an export offers is a mask that the monitor puts into the directory.
 */
#ifndef BULKHEAD_NBD_WORKER_CONTEXT_H
#define BULKHEAD_NBD_WORKER_CONTEXT_H

#include "common/io/request.h"
#include "common/ipc/ipc-protocol.h"

struct nbd_context {
    uint32_t bit;     /* IPC_NBD_CONTEXT_* */
    const char *name; /* namespace, colon, leaf name */
    /* The status flags of an extent that BLOCK_OP_STATUS found. Neighbours of equal status become one descriptor. */
    uint32_t (*status)(const struct block_extent *extent);
};

extern const struct nbd_context nbd_contexts[];
extern const unsigned nbd_contexts_count;

/* The id on the wire that SET_META_CONTEXT gives to a context: the number of its bit + 1, because 0 is LIST's. */
static inline uint32_t nbd_context_id(const struct nbd_context *context)
{
    return (uint32_t)__builtin_ctz(context->bit) + 1;
}

/* Its bit; 0: no context has this id. */
static inline uint32_t nbd_context_bit(uint32_t id)
{
    return id >= 1 && id <= 32 ? (1u << (id - 1)) & IPC_NBD_CONTEXTS_ALL : 0;
}

/*
 * Which contexts a query names. A whole name selects its context. A query that ends with a colon is a wildcard: it stands
 * for all names that it begins ("base:", "qemu:"); only LIST knows wildcards. Anything else is of a namespace or a name
 * that is unknown here, and MUST be ignored: 0.
 */
uint32_t nbd_context_match(const char *query, size_t len_bytes, bool wildcards);

#endif
