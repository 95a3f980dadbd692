/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mappings of memory files that a front-end gave us (guest memory, dirty log, inflight buffer). The file stays in the
 * front-end's hand: it can shrink it at any time, and a touch then raises SIGBUS. Every mapping is therefore known to a
 * signal handler, which puts private zero memory in the place of a broken one and takes a note; the worker goes on with
 * harmless memory and ends the session at the next look at vhost_mapping_broken().
 */
#ifndef BULKHEAD_VHOST_MAPPING_H
#define BULKHEAD_VHOST_MAPPING_H

#include "common/base/error.h"

struct vhost_mapping {
    void *map;        /* as mapped, aligned to the file's page size; NULL: none */
    size_t map_bytes; /* likewise */
    uint8_t *data;    /* the first byte that was asked for */
    uint64_t len_bytes;
    unsigned guard; /* of common/io/guard.h */
};

/*
 * Map [offset, offset + len_bytes) of fd shared, readable and writable. fd is borrowed and may be closed afterwards. It
 * must be a regular file (memfd, hugetlbfs, tmpfs, ...) of at least that size. 0; -EINVAL for a bad file or range, or
 * -errno of mmap.
 */
int vhost_mapping_open(struct vhost_mapping *mapping, int fd, uint64_t offset, uint64_t len_bytes, struct error *err);
void vhost_mapping_close(struct vhost_mapping *mapping);

/* Whether a mapping has broken since vhost_mapping_forgive(). From any thread; one relaxed load. */
bool vhost_mapping_broken(void);
void vhost_mapping_forgive(void);

#endif
