/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/startup/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

int descriptors_fill_standard(struct error *err)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
        if (fd < 0)
            return error_set(err, -errno, "cannot open /dev/null: %s", strerror(errno));
    } while (fd <= 2);
    close(fd);
    return 0;
}

/* It stays without FD_CLOEXEC, which tells it from all descriptors of our own, until whoever uses it takes it. */
static int check_fd(int fd, struct error *err)
{
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0 || (flags & FD_CLOEXEC) != 0)
        return error_set(err, -EBADF, "descriptor %d was not passed to the program", fd);
    return 0;
}

static int compare_fds(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Sorted; checks each. */
static int collect(const struct startup_options *options, int *fds, unsigned *ret_count, struct error *err)
{
    unsigned count = 0;

    for (unsigned i = 0; i < options->item_count; i++) {
        const struct startup_item *item = &options->items[i];
        int fd;
        int r;

        if (!startup_item_fd(item, &fd))
            continue;
        r = check_fd(fd, err);
        if (r < 0)
            return startup_item_blame(item, err);
        fds[count++] = fd;
    }
    qsort(fds, count, sizeof(*fds), compare_fds);
    for (unsigned i = 1; i < count; i++) {
        if (fds[i] == fds[i - 1])
            return error_set(err, -EINVAL, "descriptor %d is named by two options", fds[i]);
    }
    *ret_count = count;
    return 0;
}

int descriptors_keep_named(const struct startup_options *options, struct error *err)
{
    _cleanup_free_ int *fds = calloc(options->item_count + 1, sizeof(*fds));
    unsigned first = 3;
    unsigned count = 0;
    int r;

    if (fds == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = collect(options, fds, &count, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++) {
        unsigned fd = (unsigned)fds[i];

        if (fd > first)
            close_range(first, fd - 1, 0);
        first = MAX(first, fd + 1);
    }
    if (close_range(first, ~0u, 0) < 0)
        return error_set(err, -errno, "cannot close inherited descriptors: %s", strerror(errno));
    return 0;
}

int descriptors_leave_terminal(struct error *err)
{
    _cleanup_close_ int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return error_set(err, -errno, "cannot open /dev/null: %s", strerror(errno));
    for (int standard = 0; standard <= 2; standard++) {
        if (dup2(fd, standard) < 0)
            return error_set(err, -errno, "cannot leave the terminal: %s", strerror(errno));
    }
    return 0;
}
