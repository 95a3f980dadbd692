/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small files that objects are made from: a child of the opener reads them, which may take as long as their file system
 * likes; here only sealed memory is read.
 */
#include "monitor/graph/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int ask(struct opener_task *task, struct opener_read *message, const char *path, opener_done_fn *done,
               void *opaque, struct error *err)
{
    const struct opener_ask ask = {
        .message = message,
        .len_bytes = sizeof(*message),
        .timeout_ms = OPENER_DEADLINE_MS,
        .done = done,
        .opaque = opaque,
    };

    if (strlen(path) >= sizeof(message->path))
        return error_set(err, -ENAMETOOLONG, "'%.100s...': %s", path, strerror(ENAMETOOLONG));
    memcpy(message->path, path, strlen(path));
    return opener_task_ask(task, &ask, err);
}

int files_set_folder(struct opener_task *task, const char *path, opener_done_fn *done, void *opaque, struct error *err)
{
    struct opener_read message = { .header.type = OPENER_FOLDER };

    return ask(task, &message, path, done, opaque, err);
}

int files_read(struct opener_task *task, const char *path, size_t max_bytes, opener_done_fn *done, void *opaque,
               struct error *err)
{
    struct opener_read message = { .header.type = OPENER_READ, .max_bytes = (uint32_t)max_bytes };

    return ask(task, &message, path, done, opaque, err);
}

int files_error(const struct opener_reply *reply, const char *path, struct error *err)
{
    error_set(err, reply->code, "%s", reply->text);
    return reply->code == -ETIMEDOUT || reply->code == -EPIPE ? error_prepend(err, "cannot read '%.200s'", path)
                                                              : reply->code;
}

int files_check(int fd, size_t max_bytes, size_t *ret_len_bytes, struct error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;

    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_WRITE)) != (F_SEAL_SHRINK | F_SEAL_WRITE) || fstat(fd, &st) < 0)
        return error_set(err, -EPROTO, "the opener sent a file in memory that is not sealed");
    if (st.st_size < 0 || (uint64_t)st.st_size > max_bytes)
        return error_set(err, -EPROTO, "the opener sent more than the %zu bytes that it was asked for", max_bytes);
    *ret_len_bytes = (size_t)st.st_size;
    return 0;
}

int files_take(int memory_fd, size_t max_bytes, char **ret_data, size_t *ret_len_bytes, struct error *err)
{
    _cleanup_close_ int fd = memory_fd;
    size_t len = 0;
    int r = files_check(fd, max_bytes, &len, err);
    char *data;

    if (r < 0)
        return r;
    data = calloc(1, len + 1);
    if (data == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    if (pread(fd, data, len, 0) != (ssize_t)len) {
        free(data);
        return error_set(err, -EIO, "cannot read what the opener sent");
    }
    *ret_data = data;
    *ret_len_bytes = len;
    return 0;
}
