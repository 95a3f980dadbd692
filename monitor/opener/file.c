/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small files that are needed by their bytes: secrets, lists of who is let in, certificates, keys. Read here, where it
 * may take as long as it likes, and handed over in sealed memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "monitor/opener/child.h"

/* A pipe would make us wait, and a device could be anything. */
static int open_regular(int folder_fd, const char *path, size_t max_bytes, int *ret_fd, size_t *ret_len_bytes,
                        struct error *err)
{
    _cleanup_close_ int fd = openat(folder_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0)
        return error_set(err, -errno, "cannot open '%.200s': %s", path, strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "'%.200s' is not a regular file", path);
    if ((uint64_t)st.st_size > max_bytes)
        return error_set(err, -EFBIG, "'%.200s' has more than %zu bytes", path, max_bytes);
    *ret_len_bytes = (size_t)st.st_size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int copy(int from, int to, size_t len_bytes, const char *path, struct error *err)
{
    char buffer[4096];

    while (len_bytes > 0) {
        ssize_t n = read(from, buffer, MIN(len_bytes, sizeof(buffer)));

        if (n < 0)
            return error_set(err, -errno, "cannot read '%.200s': %s", path, strerror(errno));
        if (n == 0)
            break;
        if (write(to, buffer, (size_t)n) != n)
            return error_set(err, -ENOMEM, "cannot hand '%.200s' over: %s", path, strerror(errno));
        len_bytes -= (size_t)n;
    }
    explicit_bzero(buffer, sizeof(buffer));
    return 0;
}

static int copy_sealed(int fd, size_t len_bytes, const char *path, int *ret_fd, struct error *err)
{
    _cleanup_close_ int memory = memfd_create("bulkhead-file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r = memory < 0 ? error_set(err, -errno, "cannot make a memfd: %s", strerror(errno)) : 0;

    if (r == 0)
        r = copy(fd, memory, len_bytes, path, err);
    if (r == 0 && fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        r = error_set(err, -errno, "cannot seal a memfd: %s", strerror(errno));
    if (r == 0)
        *ret_fd = TAKE_FD(memory);
    return r;
}

int file_read(int folder_fd, const struct opener_read *request, int *ret_fd, struct error *err)
{
    _cleanup_close_ int fd = -1;
    size_t len = 0;
    int r = open_regular(folder_fd, request->path, request->max_bytes, &fd, &len, err);

    return r < 0 ? r : copy_sealed(fd, len, request->path, ret_fd, err);
}
