/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/export/mounter.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"

#define PROGRAM_NAME "bulkhead-mounter"
#define CHILD_FD     3 /* where it finds its socket */

/* How long the end waits for it to unmount; it ends by itself when nothing comes of that (MOUNTER_STUCK_MS). */
#define END_MAX_MS 15000

extern char **environ;

/* A request that waits for its turn, or for its reply. Replies come in any order: a mount that hangs holds up no other.
 */
struct request {
    TAILQ_ENTRY(request) link;
    bool sent;
    bool cancelled;
    mounter_done_fn *done;
    void *opaque;
    size_t len_bytes;
    union {
        struct mounter_header header;
        struct mounter_mount mount;
        struct mounter_unmount unmount;
    } message;
};
TAILQ_HEAD(request_list, request);

struct mounter {
    struct event_base *base;
    int program_fd; /* -1 after the start */
    int socket_fd;  /* -1: it is gone, or never was */
    pid_t pid;
    struct event *readable;
    struct event *writable; /* while a request waits for room in the socket */
    struct request_list requests;
    uint64_t last_cookie;
    struct error gone; /* why there is none */
};

/* ---- Start ---- */

/* Beside our own binary in a build tree, else where workers are installed. */
static int open_program(struct mounter *mounter, struct error *err)
{
    char path[PATH_MAX + sizeof(PROGRAM_NAME) + 1];
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    char *slash;

    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL)
        return error_set(err, -ENOENT, "/proc/self/exe names no directory");
    strcpy(slash + 1, PROGRAM_NAME);
    mounter->program_fd = open(path, O_PATH | O_CLOEXEC);
    if (mounter->program_fd < 0)
        mounter->program_fd = open(LIBEXECDIR "/" PROGRAM_NAME, O_PATH | O_CLOEXEC);
    if (mounter->program_fd < 0)
        return error_set(err, -errno, "cannot open %s, neither beside this program nor in %s: %s", PROGRAM_NAME,
                         LIBEXECDIR, strerror(errno));
    return 0;
}

int mounter_new(struct event_base *base, struct mounter **ret_mounter, struct error *err)
{
    struct mounter *mounter = calloc(1, sizeof(*mounter));
    int r;

    if (mounter == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    mounter->base = base;
    mounter->program_fd = mounter->socket_fd = -1;
    TAILQ_INIT(&mounter->requests);
    r = open_program(mounter, err);
    if (r < 0) {
        mounter_free(mounter);
        return r;
    }
    *ret_mounter = mounter;
    return 0;
}

/* System calls only. All descriptors but the standard ones and its own are closed by exec. */
static _Noreturn void run_child(int program_fd, int socket_fd)
{
    char *const argv[] = { (char[]){ PROGRAM_NAME }, NULL };
    char *const no_environment[] = { NULL };
    sigset_t none;

    program_fd = fcntl(program_fd, F_DUPFD_CLOEXEC, CHILD_FD + 1);
    socket_fd = fcntl(socket_fd, F_DUPFD_CLOEXEC, CHILD_FD + 1);
    if (program_fd < 0 || socket_fd < 0 || dup2(socket_fd, CHILD_FD) < 0)
        _exit(126);
    syscall(SYS_close_range, CHILD_FD + 1, ~0u, 1u << 2 /* CLOSE_RANGE_CLOEXEC */);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    syscall(SYS_execveat, program_fd, "", argv, no_environment, AT_EMPTY_PATH);
    _exit(127);
}

void mounter_start(struct mounter *mounter)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
        error_set(&mounter->gone, -errno, "cannot make a socket pair for the mounter: %s", strerror(errno));
        return;
    }
    mounter->pid = fork();
    if (mounter->pid == 0)
        run_child(mounter->program_fd, fds[1]);
    close_fd(&mounter->program_fd);
    close(fds[1]);
    if (mounter->pid < 0) {
        error_set(&mounter->gone, -errno, "cannot start the mounter: %s", strerror(errno));
        close(fds[0]);
        return;
    }
    mounter->socket_fd = fds[0];
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
}

/* ---- Requests ---- */

static void answer(struct request *request, const struct mounter_reply *reply, int *fds)
{
    request->done(request->opaque, reply, fds);
    free(request);
}

/* It has died or talked nonsense. Whoever waits hears of it; mounts that it made stay until a later run cleans up. */
static void mounter_lost(struct mounter *mounter, const char *why)
{
    struct mounter_reply reply = { .code = -EPIPE };
    struct request *request;

    error_set(&mounter->gone, -EPIPE, "the mounter is gone (%s): restart bulkhead to get FUSE exports back", why);
    log_error("%s", mounter->gone.text);
    if (mounter->readable != NULL) {
        event_del(mounter->readable);
        event_del(mounter->writable);
    }
    close_fd(&mounter->socket_fd);
    memcpy(reply.text, mounter->gone.text, sizeof(reply.text));
    while ((request = TAILQ_FIRST(&mounter->requests)) != NULL) {
        TAILQ_REMOVE(&mounter->requests, request, link);
        answer(request, &reply, NULL);
    }
}

static bool is_mount(const struct request *request)
{
    return request->message.header.type == MOUNTER_MOUNT;
}

static unsigned mounts_under_way(const struct mounter *mounter)
{
    const struct request *request;
    unsigned count = 0;

    TAILQ_FOREACH(request, &mounter->requests, link)
    count += request->sent && is_mount(request);
    return count;
}

static void send_cancel(struct mounter *mounter, const struct request *request)
{
    struct mounter_cancel cancel = { .header = request->message.header };

    cancel.header.type = MOUNTER_CANCEL;
    send(mounter->socket_fd, &cancel, sizeof(cancel), MSG_NOSIGNAL); /* if there is no room, it takes its time */
}

/* False if there is no room for it. If it fails otherwise the loop finds the socket at its end, and answers from there.
 */
static bool send_request(struct mounter *mounter, struct request *request)
{
    request->sent = true;
    if (send(mounter->socket_fd, &request->message, request->len_bytes, MSG_NOSIGNAL) >= 0) {
        if (request->cancelled)
            send_cancel(mounter, request);
        return true;
    }
    if (errno != EAGAIN) {
        shutdown(mounter->socket_fd, SHUT_RDWR);
        return true;
    }
    request->sent = false;
    event_add(mounter->writable, NULL);
    return false;
}

/* In order; but unmounts do not wait for mounts. */
static void send_waiting(struct mounter *mounter)
{
    unsigned mounts = mounts_under_way(mounter);
    struct request *request;

    TAILQ_FOREACH(request, &mounter->requests, link)
    {
        if (request->sent || (is_mount(request) && mounts >= MOUNTER_REQUESTS_MAX))
            continue;
        mounts += is_mount(request);
        if (mounter->socket_fd < 0 || !send_request(mounter, request))
            return;
    }
}

static void socket_writable(evutil_socket_t fd, short what, void *arg)
{
    send_waiting(arg);
}

static int enqueue(struct mounter *mounter, struct request *request)
{
    request->message.header.magic = MOUNTER_MAGIC;
    request->message.header.cookie = ++mounter->last_cookie;
    TAILQ_INSERT_TAIL(&mounter->requests, request, link);
    send_waiting(mounter);
    return 0;
}

static int new_request(const struct mounter *mounter, mounter_done_fn *done, void *opaque, struct request **ret_request,
                       struct error *err)
{
    struct request *request;

    if (mounter->socket_fd < 0)
        return error_set(err, mounter->gone.code, "%s", mounter->gone.text);
    request = calloc(1, sizeof(*request));
    if (request == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    request->done = done;
    request->opaque = opaque;
    *ret_request = request;
    return 0;
}

/* The mounter is at the root directory, as a daemon is that holds nothing. */
static int make_absolute(const char *path, char ret_path[MOUNTER_PATH_MAX], struct error *err)
{
    char cwd[MOUNTER_PATH_MAX] = "";

    if (path[0] != '/' && getcwd(cwd, sizeof(cwd)) == NULL)
        return error_set(err, -errno,
                         "mount point '%.100s' is a relative path, and the working directory is unknown: %s", path,
                         strerror(errno));
    if (snprintf(ret_path, MOUNTER_PATH_MAX, "%s%s%s", cwd, path[0] == '/' ? "" : "/", path) >= MOUNTER_PATH_MAX)
        return error_set(err, -ENAMETOOLONG, "mount point '%.100s...' is too long", path);
    return 0;
}

int mounter_mount(struct mounter *mounter, const char *path, const char *id, enum mounter_allow_other allow_other,
                  unsigned pairs, uint32_t max_read_bytes, mounter_done_fn *done, void *opaque, struct error *err)
{
    struct request *request = NULL;
    int r = new_request(mounter, done, opaque, &request, err);

    if (r < 0)
        return r;
    r = make_absolute(path, request->message.mount.path, err);
    if (r < 0) {
        free(request);
        return r;
    }
    request->len_bytes = sizeof(request->message.mount);
    request->message.header.type = MOUNTER_MOUNT;
    request->message.mount.allow_other = allow_other;
    request->message.mount.pairs = pairs;
    request->message.mount.max_read_bytes = max_read_bytes;
    snprintf(request->message.mount.id, sizeof(request->message.mount.id), "%s", id);
    return enqueue(mounter, request);
}

int mounter_unmount(struct mounter *mounter, uint64_t mount, bool lazy, mounter_done_fn *done, void *opaque,
                    struct error *err)
{
    struct request *request = NULL;
    int r = new_request(mounter, done, opaque, &request, err);

    if (r < 0)
        return r;
    request->len_bytes = sizeof(request->message.unmount);
    request->message.header.type = MOUNTER_UNMOUNT;
    request->message.unmount.mount = mount;
    request->message.unmount.lazy = lazy;
    return enqueue(mounter, request);
}

void mounter_cancel(struct mounter *mounter, const void *opaque)
{
    struct request *request;

    TAILQ_FOREACH(request, &mounter->requests, link)
    {
        if (!is_mount(request) || request->opaque != opaque || request->cancelled)
            continue;
        request->cancelled = true;
        if (request->sent)
            send_cancel(mounter, request);
    }
}

/* ---- Replies ---- */

/* The descriptors of a datagram, as many as there was room for. Returns how many. */
static unsigned take_fds(struct msghdr *msg, int fds[MOUNTER_DEVICES_MAX])
{
    unsigned count = 0;

    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg != NULL; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(cmsg), count * sizeof(int));
    }
    return count;
}

/* The request that a reply is to; NULL if it is to none. */
static struct request *find_request(const struct mounter *mounter, const struct mounter_reply *reply)
{
    struct request *request;

    TAILQ_FOREACH(request, &mounter->requests, link)
    {
        if (request->sent && request->message.header.cookie == reply->header.cookie)
            return request;
    }
    return NULL;
}

static bool is_valid(const struct request *request, const struct mounter_reply *reply, unsigned fd_count)
{
    bool wants_fds = is_mount(request) && reply->code == 0;

    return reply->header.magic == MOUNTER_MAGIC && reply->header.type == MOUNTER_REPLY && reply->code <= 0 &&
           fd_count == reply->devices && (fd_count > 0) == wants_fds && fd_count % 2 == 0 &&
           memchr(reply->text, '\0', sizeof(reply->text)) != NULL;
}

static void detached(void *opaque, const struct mounter_reply *reply, int *fds)
{
}

/*
 * Descriptors or memory ran out here, and some of what the mounter sent is lost: the mount is of no use, which concerns
 * whoever asked for it, but neither the mounter nor other mounts.
 */
static void give_up_mount(struct mounter *mounter, struct mounter_reply *reply)
{
    mounter_unmount(mounter, reply->mount, true, detached, NULL, NULL);
    reply->code = -EMFILE;
    reply->devices = 0;
    snprintf(reply->text, sizeof(reply->text),
             "the monitor has no descriptors left for the mount: raise its limit "
             "(LimitNOFILE=, ulimit -n)");
}

static void socket_readable(evutil_socket_t fd, short what, void *arg)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MOUNTER_DEVICES_MAX)];
    } control;
    struct mounter *mounter = arg;
    struct mounter_reply reply;
    struct iovec iov = { &reply, sizeof(reply) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    int fds[MOUNTER_DEVICES_MAX];
    struct request *request = NULL;
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    unsigned fd_count;
    bool lost_fds;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    fd_count = n > 0 ? take_fds(&msg, fds) : 0;
    lost_fds = n == sizeof(reply) && (msg.msg_flags & MSG_CTRUNC) != 0;
    if (lost_fds) {
        while (fd_count > 0)
            close(fds[--fd_count]);
        fd_count = reply.devices; /* as far as it is the mounter's to answer for */
    }
    if (n == sizeof(reply) && (msg.msg_flags & MSG_TRUNC) == 0)
        request = find_request(mounter, &reply);
    if (request == NULL || !is_valid(request, &reply, fd_count)) {
        for (unsigned i = 0; i < fd_count && !lost_fds; i++)
            close(fds[i]);
        mounter_lost(mounter, n <= 0 ? "it ended" : "it sent what it may not");
        return;
    }
    TAILQ_REMOVE(&mounter->requests, request, link);
    if (lost_fds)
        give_up_mount(mounter, &reply);
    send_waiting(mounter);
    answer(request, &reply, fds);
}

int mounter_attach(struct mounter *mounter, struct error *err)
{
    if (mounter->socket_fd < 0)
        return 0;
    mounter->readable = event_new(mounter->base, mounter->socket_fd, EV_READ | EV_PERSIST, socket_readable, mounter);
    mounter->writable = event_new(mounter->base, mounter->socket_fd, EV_WRITE, socket_writable, mounter);
    if (mounter->readable == NULL || mounter->writable == NULL || event_add(mounter->readable, NULL) < 0)
        return error_set(err, -ENOMEM, "cannot watch the mounter");
    return 0;
}

/* ---- End ---- */

static void wait_for_end(pid_t pid)
{
    _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

    if (pidfd < 0)
        return;
    if (poll(&pfd, 1, END_MAX_MS) != 1)
        log_error("the mounter, process %d, did not end within %d ms; FUSE mounts may be left", (int)pid, END_MAX_MS);
    else
        waitpid(pid, NULL, 0);
}

void mounter_free(struct mounter *mounter)
{
    struct request *request;

    if (mounter == NULL)
        return;
    while ((request = TAILQ_FIRST(&mounter->requests)) != NULL) {
        TAILQ_REMOVE(&mounter->requests, request, link);
        free(request);
    }
    if (mounter->readable != NULL)
        event_free(mounter->readable);
    if (mounter->writable != NULL)
        event_free(mounter->writable);
    close_fd(&mounter->program_fd);
    close_fd(&mounter->socket_fd);
    if (mounter->pid > 0)
        wait_for_end(mounter->pid);
    free(mounter);
}
