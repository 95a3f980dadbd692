/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A child of the opener from its fork to its end: requests in, replies out, one at a time. It may hang anywhere below a
 * handler. It trusts the monitor to name paths, checks the form of what it says all the same, and looks at no byte of
 * an image; of what a worker is told it is the carrier.
 */
#include "monitor/opener/child.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/ipc/channel.h"
#include "monitor/opener/reason.h"

static bool is_string(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

/* ---- Out ---- */

void child_send(int sock, struct opener_reply *reply, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { .bytes = { 0 } };
    struct iovec iov = { reply, sizeof(*reply) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    reply->header.magic = OPENER_MAGIC;
    if (fd >= 0) {
        reply->flags |= OPENER_HAS_FD;
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
    }
    while (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* ---- In ---- */

/* What came, of at most size bytes; fds has what came along. The length, 0 at the end, or -errno. */
static ssize_t receive(int sock, void *message, size_t size_bytes, int fds[OPENER_FDS_MAX], unsigned *ret_fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * OPENER_FDS_MAX)];
    } control;
    struct iovec iov = { message, size_bytes };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
    };
    struct cmsghdr *cmsg;
    ssize_t n;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    *ret_fd_count = 0;
    cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
        *ret_fd_count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(cmsg), *ret_fd_count * sizeof(int));
    }
    if (n > 0 && (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
        return -EPROTO;
    return n < 0 ? -errno : n;
}

/* ---- Requests ---- */

int child_find(struct child *child, const char *path, int *ret_path_fd, struct error *err)
{
    _cleanup_close_ int path_fd = open(path, O_PATH | O_CLOEXEC);
    struct opener_reply found = { .header = { .type = OPENER_FOUND, .cookie = child->request->cookie } };
    struct opener_go go;
    struct statx stx;
    unsigned fd_count;
    int fds[OPENER_FDS_MAX];

    if (path_fd < 0) {
        error_set(err, -errno, "Could not open '%s': %s", path, strerror(errno));
        return err->code == -EACCES ? reason_add_folder(path, err) : err->code;
    }
    if (statx(path_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
        return error_set(err, -errno, "could not look at '%s': %s", path, strerror(errno));
    found.device = makedev(stx.stx_dev_major, stx.stx_dev_minor);
    child_send(child->sock, &found, -1);
    if (receive(child->sock, &go, sizeof(go), fds, &fd_count) != sizeof(go) || go.header.type != OPENER_GO)
        _exit(0); /* the monitor does not want it, or is gone */
    *ret_path_fd = TAKE_FD(path_fd);
    return 0;
}

static int run_open(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                    struct error *err)
{
    const struct opener_open *request = message;
    _cleanup_close_ int path_fd = -1;
    int r;

    if (child->image.fd >= 0 || (request->flags & ~OPENER_FLAGS_ALL) != 0 ||
        !is_string(request->path, sizeof(request->path)))
        return error_set(err, -EPROTO, "malformed OPEN");
    r = child_find(child, request->path, &path_fd, err);
    return r < 0 ? r : held_image_open(&child->image, request, path_fd, reply, err);
}

static int run_look(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                    struct error *err)
{
    return held_image_look(&child->image, reply, err);
}

static int run_lock(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                    struct error *err)
{
    const struct opener_lock *request = message;

    return held_image_lock(&child->image, request->uses, request->unshared, err);
}

static int run_resize(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                      struct error *err)
{
    return held_image_resize(&child->image, message, reply, err);
}

/* The worker has the image's descriptor from here, so that no close() of it can ever make the monitor wait. */
static int send_boot(struct child *child, const struct opener_serve *request, const int *fds, struct error *err)
{
    int boot_fds[2] = { fds[1], -1 };
    int r = held_image_open_for_worker(&child->image, request->writable, &boot_fds[1], err);

    if (r < 0)
        return r;
    r = channel_send(fds[0], &request->boot, sizeof(request->boot), boot_fds, ARRAY_SIZE(boot_fds));
    close_fd(&boot_fds[1]);
    return r < 0 ? error_set(err, r, "cannot send BOOT to a worker: %s", strerror(-r)) : 0;
}

static int run_serve(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                     struct error *err)
{
    const struct opener_serve *request = message;
    struct image_lock before = child->image.lock;
    int r = held_image_lock(&child->image, request->uses, request->unshared, err);

    if (r < 0)
        return r;
    r = send_boot(child, request, fds, err);
    if (r < 0)
        held_image_lock(&child->image, before.uses, before.unshared, NULL);
    return r;
}

static int run_folder(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                      struct error *err)
{
    const struct opener_read *request = message;

    if (!is_string(request->path, sizeof(request->path)) || child->folder_fd != AT_FDCWD)
        return error_set(err, -EPROTO, "malformed FOLDER");
    child->folder_fd = open(request->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (child->folder_fd >= 0)
        return 0;
    child->folder_fd = AT_FDCWD;
    return error_set(err, -errno, "cannot open folder '%.200s': %s", request->path, strerror(errno));
}

static int run_read(struct child *child, const void *message, const int *fds, struct opener_reply *reply,
                    struct error *err)
{
    const struct opener_read *request = message;
    _cleanup_close_ int fd = -1;
    int r;

    if (!is_string(request->path, sizeof(request->path)))
        return error_set(err, -EPROTO, "malformed READ");
    r = file_read(child->folder_fd, request, &fd, err);
    if (r < 0)
        return r;
    child_send(child->sock, reply, fd);
    return 1;
}

/* 0 or -errno: the reply is still to be sent; 1: it has been. */
static const struct {
    uint32_t type;
    size_t len_bytes;
    unsigned fd_count;
    bool needs_image;
    int (*run)(struct child *child, const void *message, const int *fds, struct opener_reply *reply, struct error *err);
} requests[] = {
    { OPENER_OPEN, sizeof(struct opener_open), 0, false, run_open },
    { OPENER_LOOK, sizeof(struct opener_look), 0, true, run_look },
    { OPENER_LOCK, sizeof(struct opener_lock), 0, true, run_lock },
    { OPENER_RESIZE, sizeof(struct opener_resize), 0, true, run_resize },
    { OPENER_SERVE, sizeof(struct opener_serve), 2, true, run_serve },
    { OPENER_FOLDER, sizeof(struct opener_read), 0, false, run_folder },
    { OPENER_READ, sizeof(struct opener_read), 0, false, run_read },
};

static void dispatch(struct child *child, const union opener_message *message, size_t len_bytes, const int *fds,
                     unsigned fd_count)
{
    struct opener_reply reply = { .header = { .type = OPENER_REPLY, .cookie = message->header.cookie } };
    struct error err = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        if (requests[i].type != message->header.type || requests[i].len_bytes != len_bytes ||
            requests[i].fd_count != fd_count || (requests[i].needs_image && child->image.fd < 0))
            continue;
        child->request = &message->header;
        reply.code = requests[i].run(child, message, fds, &reply, &err);
        if (reply.code > 0)
            return;
        if (reply.code < 0)
            memcpy(reply.text, err.text, sizeof(reply.text));
        child_send(child->sock, &reply, -1);
        return;
    }
    _exit(1); /* none that we know: nothing else from there can be trusted either */
}

void child_run(int sock)
{
    static struct child child;
    static union opener_message message;
    struct opener_reply started = { .header.type = OPENER_STARTED, .pid = (uint32_t)getpid() };

    child = (struct child){ .sock = sock, .image.fd = -1, .folder_fd = AT_FDCWD };
    child_send(sock, &started, -1);
    for (;;) {
        int fds[OPENER_FDS_MAX];
        unsigned fd_count = 0;
        ssize_t n = receive(sock, &message, sizeof(message), fds, &fd_count);

        if (n < (ssize_t)sizeof(message.header) || message.header.magic != OPENER_MAGIC)
            break;
        dispatch(&child, &message, (size_t)n, fds, fd_count);
        while (fd_count > 0)
            close(fds[--fd_count]);
    }
    close_fd(&child.image.fd); /* before the socket, whose end says that it is closed */
    _exit(0);
}
