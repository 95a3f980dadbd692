/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first message. Nothing has been parsed before it, and no image or client is there yet; all of it is checked
 * before any of it is used.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/worker/worker-private.h"

static int wait_for_message(struct error *err)
{
    struct pollfd pfd = { .fd = WORKER_CONTROL_FD, .events = POLLIN };
    int r;

    do
        r = poll(&pfd, 1, -1);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return error_set(err, -errno, "cannot wait for the control socket: %s", strerror(errno));
    return 0;
}

/* The monitor must not be able to take the page away under us: it is sealed, and then it is what it is. */
static int map_page(struct worker *worker, int fd, struct error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;
    void *page;

    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return error_set(err, -EPROTO, "the worker page is not sealed");
    if (fstat(fd, &st) < 0 || st.st_size != WORKER_PAGE_BYTES)
        return error_set(err, -EPROTO, "the worker page has the wrong size");
    page = mmap(NULL, WORKER_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return error_set(err, -errno, "cannot map the worker page: %s", strerror(errno));
    worker->page = page;
    return 0;
}

static int take_boot(struct worker *worker, struct channel_message *message, int image_fds[IPC_IMAGE_FDS_MAX],
                     struct error *err)
{
    const struct ipc_message_rule *rule = NULL;
    int r = ipc_message_check(message->bytes, message->len_bytes, message->fd_count, WORKER_CREATING,
                              worker->class->ipc_role, &rule, err);

    if (r < 0)
        return r;
    if (rule->type != IPC_BOOT)
        return error_set(err, -EPROTO, "the first message is %s instead of BOOT", rule->name);
    memcpy(&worker->boot, message->bytes, sizeof(worker->boot));
    if (worker->boot.role != worker->class->ipc_role)
        return error_set(err, -EPROTO, "BOOT is for role %u, and this is a worker of role %u", worker->boot.role,
                         worker->class->ipc_role);
    r = map_page(worker, message->fds[0], err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < worker->boot.image_fd_count; i++)
        image_fds[i] = TAKE_FD(message->fds[1 + i]);
    return 0;
}

int boot_receive(struct worker *worker, int image_fds[IPC_IMAGE_FDS_MAX], struct error *err)
{
    struct channel_message *message = &worker->private->message;
    int r = wait_for_message(err);

    if (r < 0)
        return r;
    r = channel_receive(WORKER_CONTROL_FD, message, err);
    if (r == 0)
        _exit(0); /* the monitor is gone before it had anything to say */
    if (r < 0)
        return r == -EAGAIN ? error_set(err, r, "the control socket had no message") : r;
    r = take_boot(worker, message, image_fds, err);
    channel_message_done(message);
    return r;
}
