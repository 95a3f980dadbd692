/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A role's row as a seccomp filter.
 */
#ifndef BULKHEAD_SANDBOX_FILTER_H
#define BULKHEAD_SANDBOX_FILTER_H

#include "common/base/error.h"
#include "common/sandbox/role.h"

/*
 * Install the filter of a role on all threads of this process, for good. With log_only (developer aids) what would be
 * forbidden is logged by the kernel and done. 0 or -errno: then no thread has a filter, and the process must end.
 */
int sandbox_filter_load(const struct sandbox_role *role, bool log_only, struct error *err);

/* Write the filter as BPF (seccomp(2), struct sock_filter) to a descriptor: for tests and for reading it. */
int sandbox_filter_export(const struct sandbox_role *role, int fd, struct error *err);

/* The name of a system call of an AUDIT_ARCH_*, or "number N"; into text of size_bytes. */
void sandbox_call_name(uint32_t arch, int nr, char *text, size_t size_bytes);

#endif
