/* SPDX-License-Identifier: BSD-2-Clause */
/* How the rows of roles are written: one call with a condition on its arguments, and a named set of them. */
#ifndef BULKHEAD_SANDBOX_ROLE_ROWS_H
#define BULKHEAD_SANDBOX_ROLE_ROWS_H

#include <linux/futex.h>
#include <seccomp.h>

#include "common/base/util.h"
#include "common/sandbox/role.h"

/* clang-format off */
#define CALL(call)                             { .name = #call }
#define CALL_EQ(call, argument, value)         { #call, argument, SCMP_CMP_EQ, value, 0, 0, 0 }
#define CALL_NE(call, argument, value)         { #call, argument, SCMP_CMP_NE, value, 0, 0, 0 }
#define CALL_WITHOUT_BITS(call, argument, mask) { #call, argument, SCMP_CMP_MASKED_EQ, mask, 0, 0, 0 }
#define CALL_SELF(call, argument)              { #call, argument, SANDBOX_EQ_SELF, 0, 0, 0, 0 }
#define CALL_EQ_BOTH(call, argument, value, also_argument, also_value)                                                 \
    { #call, argument, SCMP_CMP_EQ, value, 0, also_argument, also_value }

#define SET(set_name, set_action, set_why)                                                                             \
    static const struct sandbox_call_set set_##set_name = {                                                            \
        .name = #set_name,                                                                                             \
        .why = set_why,                                                                                                \
        .action = set_action,                                                                                          \
        .calls = set_name##_calls,                                                                                     \
        .count = ARRAY_SIZE(set_name##_calls),                                                                         \
    }

/*
 * futex(2) without what inherits priorities, requeues, or works on two words: half of the call's history of holes, and
 * the C library asks for none of it. An int argument: the kernel does not look at the upper half.
 */
#define SANDBOX_FUTEX(operation)                                                                                       \
    { "futex", 1, SCMP_CMP_MASKED_EQ, 0xffffffffu & ~(uint32_t)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME), operation, \
      0, 0 }
#define SANDBOX_FUTEX_CALLS                                                                                            \
    SANDBOX_FUTEX(FUTEX_WAKE), SANDBOX_FUTEX(FUTEX_WAIT), SANDBOX_FUTEX(FUTEX_WAIT_BITSET),                            \
        SANDBOX_FUTEX(FUTEX_WAKE_BITSET)

#endif
