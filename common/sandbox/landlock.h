/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Landlock with an empty ruleset: every right that the running kernel's ABI can handle is handled, and none is granted.
 * Sources: landlock(7), landlock_create_ruleset(2), and the kernel's Documentation/userspace-api/landlock.rst.
 */
#ifndef BULKHEAD_SANDBOX_LANDLOCK_H
#define BULKHEAD_SANDBOX_LANDLOCK_H

#include "common/base/error.h"

/* What to handle under an ABI; the layout of struct landlock_ruleset_attr as of ABI 6, which older kernels take cut. */
struct landlock_rights {
    uint64_t fs;     /* LANDLOCK_ACCESS_FS_* */
    uint64_t net;    /* LANDLOCK_ACCESS_NET_* */
    uint64_t scoped; /* LANDLOCK_SCOPE_* */
};

/* The ABI of the running kernel; 0: none, or switched off. */
unsigned landlock_abi(void);

/* All rights of an ABI, and how many bytes of the struct it knows. Newer ABIs than the newest known give the newest. */
struct landlock_rights landlock_rights_of(unsigned abi, size_t *ret_size_bytes);

/*
 * Restrict the calling thread, and those it will create, for good. Needs no_new_privs. 0 with the ABI in *ret_abi,
 * -EOPNOTSUPP where the kernel has none, other -errno.
 */
int landlock_restrict_all(unsigned *ret_abi, struct error *err);

#endif
