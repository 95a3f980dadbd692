/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shared mappings of files that others can cut or fill up, upon which a touch of the mapping raises SIGBUS. A guarded
 * mapping survives that: a signal handler puts private zero memory in the place of what is gone and takes a note. Who
 * has touched a mapping looks at the note before relying on what it read or wrote.
 */
#ifndef BULKHEAD_IO_GUARD_H
#define BULKHEAD_IO_GUARD_H

#include <stdatomic.h>

#include "common/base/error.h"

/* Of a process: guest memory, dirty log and inflight buffer of a vhost session, and its images. */
#define IO_GUARDS_MAX 544

/* Before lock-down: install the SIGBUS handler; for other faults it calls the one before it. 0 or -errno. */
int io_guard_init(struct error *err);

/*
 * Guard [start, start + len_bytes), which is mapped. What is replaced is the unit_bytes around
 * the address at fault, counted from start, or for 0 all of the mapping; *broken is true from before that. len_bytes is
 * a multiple of unit_bytes, both are of the mapping's page size. The slot is for io_guard_remove(), to be called before
 * the mapping goes. -ENOSPC: there are too many; -ENOTSUP: io_guard_init() was not called.
 */
int io_guard_add(void *start, size_t len_bytes, size_t unit_bytes, atomic_bool *broken, unsigned *ret_slot);
void io_guard_remove(unsigned slot);

#endif
