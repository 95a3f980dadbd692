/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The operations on libfuse's low-level interface: all but the fast path. libfuse opens nothing: the session gets its
 * descriptor by fuse_session_custom_io(), and reads and writes go through our functions. (fuse_session_mount() with
 * /dev/fd/N would open /dev/null first, which the sandbox kills.)
 */
#ifndef BULKHEAD_FUSE_WORKER_OPS_H
#define BULKHEAD_FUSE_WORKER_OPS_H

#include "fuse-worker/export.h"

/* Make the session, before lock-down. 0 or -errno. */
int fx_ops_new(struct fx_export *export, struct error *err);

/* Give it a descriptor, after lock-down. 0 or -errno. */
int fx_ops_set_device(struct fx_export *export, int fd);

/* Whether the kernel that sent this INIT has shared mappings of files with FOPEN_DIRECT_IO. */
bool fx_ops_offers_shared_mappings(const struct fuse_in_header *in, size_t bytes);

/* INIT has been answered. */
void fx_ops_init_done(struct fx_export *export);

#endif
