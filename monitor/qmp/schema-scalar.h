/* SPDX-License-Identifier: BSD-2-Clause */
/* Scalars as a command line spells them. Pure. */
#ifndef BULKHEAD_MONITOR_QMP_SCHEMA_SCALAR_H
#define BULKHEAD_MONITOR_QMP_SCHEMA_SCALAR_H

#include <stdbool.h>
#include <stdint.h>

/* on, yes, true, y; off, no, false, n. */
bool scalar_parse_bool(const char *text, bool *ret_value);

/* Decimal or 0x..., a sign before it; no leading zeros, which some would read as octal. The sign comes apart, so that
 * both ranges fit. */
bool scalar_parse_int(const char *text, bool *ret_negative, uint64_t *ret_magnitude);

/* Bytes: decimal or 0x..., or decimal with a fraction ("1.5G"), with a suffix of B, k, M, G, T, P, E in either case
 * (powers of 1024). A fraction needs a suffix; what is left of it below one byte is cut. */
bool scalar_parse_size(const char *text, uint64_t *ret_bytes);

#endif
