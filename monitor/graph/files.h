/* SPDX-License-Identifier: BSD-2-Clause */
/* Small files by way of a task of the opener; requests of one task are carried out in order. */
#ifndef BULKHEAD_MONITOR_GRAPH_FILES_H
#define BULKHEAD_MONITOR_GRAPH_FILES_H

#include "monitor/graph/opener.h"

/* Names of later requests are looked for there. 0, or -errno and done is not called. */
int files_set_folder(struct opener_task *task, const char *path, opener_done_fn *done, void *opaque, struct error *err);

/* Read a regular file of at most max_bytes: the reply's descriptor is for files_take(). */
int files_read(struct opener_task *task, const char *path, size_t max_bytes, opener_done_fn *done, void *opaque,
               struct error *err);

/* For what is handed on unread: that fd is sealed memory of at most max_bytes, as files_read() gets it. 0 or -errno. */
int files_check(int fd, size_t max_bytes, size_t *ret_len_bytes, struct error *err);

/* What a reply that failed says of the file. Returns its code. */
int files_error(const struct opener_reply *reply, const char *path, struct error *err);

/*
 * The bytes, at most max_bytes as in files_read(), NUL-terminated beyond their length, which are the caller's. Takes
 * the descriptor. 0 or -errno.
 */
int files_take(int memory_fd, size_t max_bytes, char **ret_data, size_t *ret_len_bytes, struct error *err);

#endif
