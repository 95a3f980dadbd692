/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON out: ASCII only, as the QMP specification wants it, with exact integers. cJSON's own printer writes UTF-8 and
 * rounds numbers of more than 15 digits.
 */
#ifndef BULKHEAD_MONITOR_QMP_JSON_PRINT_H
#define BULKHEAD_MONITOR_QMP_JSON_PRINT_H

#include <stdbool.h>
#include <stddef.h>

struct cJSON;

/*
 * The text of a value, NUL-terminated, for the caller to free; its length without the NUL in *ret_len. pretty: indented
 * by four spaces. Bytes of strings that are not UTF-8 (file names may be anything) become U+FFFD. NULL: out of memory.
 */
char *json_print(const struct cJSON *json, bool pretty, size_t *ret_len);

#endif
