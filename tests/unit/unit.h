/* SPDX-License-Identifier: BSD-2-Clause */
/* What every cmocka test needs, in the order cmocka wants it. */
#ifndef BULKHEAD_TESTS_UNIT_UNIT_H
#define BULKHEAD_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Skip the running test with a reason that the log, and tests/tally.py, show. */
#define SKIP(...)                                                                                                      \
    do {                                                                                                               \
        print_message("[  REASON  ] " __VA_ARGS__);                                                                    \
        print_message("\n");                                                                                           \
        skip();                                                                                                        \
    } while (0)

#endif
