/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-mounter: mounts and unmounts FUSE exports for an unprivileged monitor.
 *
 * The monitor starts it before it sets no_new_privs, because that flag, which is inherited, would take the setuid bit
 * from fusermount3. It holds one socket, a list of what it mounted, and the folders of the mount points. It never sees
 * a byte of an image or of a client; it hands each mounted /dev/fuse on and keeps none, so that a connection ends when
 * its worker does.
 *
 * It makes no path operation that may block: each mount and unmount is a child (jobs.c, operation.c), which is given up
 * when it takes too long. What it does itself is to keep the list, to match answers, and to read /proc/self/mountinfo.
 *
 * Trusts: fusermount3, the kernel. Checks: all that the monitor sends. When the monitor's end of the socket closes, for
 * whatever reason, everything is unmounted and the process exits; signals that end the monitor leave it alone.
 *
 * It cannot have a seccomp filter: without no_new_privs that takes a privilege which it does not have. What it has
 * instead: its own program without libraries but libc, no descriptors but the socket, not dumpable, rlimits.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <syslog.h>

#include "monitor/mounter/jobs.h"

#define CONTROL_FD 3

/* For children, what comes from them, and what may be on its way to the monitor. */
#define FILES_MAX 8192

/* ---- Answers ---- */

void mounter_answer(struct mounter *mounter, uint64_t cookie, struct mounter_reply *reply, const int *fds)
{
    struct mounter_reply failed = { .code = -ETOOMANYREFS };

    if (mounter->ended)
        return;
    reply->header = failed.header =
        (struct mounter_header){ .magic = MOUNTER_MAGIC, .type = MOUNTER_REPLY, .cookie = cookie };
    if (operation_send(mounter->control_fd, reply, sizeof(*reply), fds, reply->devices) == 0 || reply->devices == 0)
        return;
    /* There are too many descriptors of this account under way, or no memory. The mount is of no use. */
    for (struct mount *m = mounter->mounts; m != NULL; m = m->next)
        m->unwanted |= m->serial == reply->mount;
    snprintf(failed.text, sizeof(failed.text),
             "the descriptors of the mount cannot be passed on: too many are under way");
    operation_send(mounter->control_fd, &failed, sizeof(failed), NULL, 0);
}

static void refuse(struct mounter *mounter, uint64_t cookie, const struct error *err)
{
    struct mounter_reply reply = { .code = err->code };

    memcpy(reply.text, err->text, MIN(sizeof(reply.text), sizeof(err->text)));
    mounter_answer(mounter, cookie, &reply, NULL);
}

/* ---- Requests ---- */

/* NUL-terminated within its array. */
static bool is_string(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static int handle_mount(struct mounter *mounter, const void *message, struct error *err)
{
    const struct mounter_mount *request = message;

    if (!is_string(request->path, sizeof(request->path)) || !is_string(request->id, sizeof(request->id)) ||
        request->allow_other > MOUNTER_ALLOW_OTHER_AUTO || request->pairs < 1 || request->pairs > MOUNTER_PAIRS_MAX ||
        request->max_read_bytes == 0 || request->max_read_bytes % 4096 != 0 ||
        request->max_read_bytes > MOUNTER_READ_MAX || request->reserved != 0)
        return error_set(err, -EPROTO, "malformed mount request");
    if (mounter->mount_count >= MOUNTER_MOUNTS_MAX)
        return error_set(err, -EMFILE, "there are %u FUSE mounts, and no more are allowed", mounter->mount_count);
    return jobs_mount(mounter, request, err);
}

/* Its child is started when there is room for one. */
static int handle_unmount(struct mounter *mounter, const void *message, struct error *err)
{
    const struct mounter_unmount *request = message;
    struct mount *mount = mounts_find(mounter->mounts, request->mount);

    if (mount == NULL)
        return error_set(err, -ENOENT, "mount %llu does not exist", (unsigned long long)request->mount);
    if (mount->asked)
        return error_set(err, -EBUSY, "mount %llu is being unmounted", (unsigned long long)request->mount);
    mount->asked = true;
    mount->retry_ns = 0;
    mount->lazy = request->lazy != 0;
    mount->cookie = request->header.cookie;
    return 0;
}

static int handle_cancel(struct mounter *mounter, const void *message, struct error *err)
{
    const struct mounter_cancel *request = message;

    jobs_cancel(mounter, request->header.cookie);
    return 0;
}

static const struct {
    uint32_t type;
    size_t len_bytes;
    int (*handle)(struct mounter *mounter, const void *message, struct error *err); /* < 0: answered with err */
} requests[] = {
    { MOUNTER_MOUNT, sizeof(struct mounter_mount), handle_mount },
    { MOUNTER_UNMOUNT, sizeof(struct mounter_unmount), handle_unmount },
    { MOUNTER_CANCEL, sizeof(struct mounter_cancel), handle_cancel },
};

/* 0, or -EPROTO when the message is none that we know: then nothing else from there can be trusted either. */
static int dispatch(struct mounter *mounter, const void *message, size_t len_bytes)
{
    const struct mounter_header *header = message;
    struct error err = { .code = 0 };

    if (len_bytes < sizeof(*header) || header->magic != MOUNTER_MAGIC)
        return -EPROTO;
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        if (requests[i].type != header->type)
            continue;
        if (requests[i].len_bytes != len_bytes)
            return -EPROTO;
        if (requests[i].handle(mounter, message, &err) < 0)
            refuse(mounter, header->cookie, &err);
        return 0;
    }
    return -EPROTO;
}

/* ---- The end ---- */

/* The monitor is gone: nobody needs a mount any more. */
static void begin_end(struct mounter *mounter)
{
    mounter->ended = true;
    for (struct mount *m = mounter->mounts; m != NULL; m = m->next) {
        m->unwanted = true;
        m->retry_ns = 0;
    }
    jobs_begin_end(mounter);
}

static bool is_over(const struct mounter *mounter)
{
    return mounter->ended && ((mounter->mounts == NULL && jobs_are_done(mounter)) || now_ns() >= mounter->stuck_ns);
}

/* Who would hear of it is gone, so it is for the system's log; as the last thing, since that may take its time. */
static void log_what_is_left(const struct mounter *mounter)
{
    for (const struct mount *m = mounter->mounts; m != NULL; m = m->next)
        syslog(LOG_ERR, "the mount of export '%s' could not be undone; fusermount3 -u -z may do it later", m->id);
}

static void forget(struct mounter *mounter)
{
    while (mounter->mounts != NULL)
        mounts_remove(&mounter->mounts, mounter->mounts);
    jobs_forget(mounter);
}

/* ---- The loop ---- */

static void read_control(struct mounter *mounter)
{
    static union {
        struct mounter_header header;
        struct mounter_mount mount;
        struct mounter_unmount unmount;
        char bytes[sizeof(struct mounter_mount) + 1];
    } message;
    ssize_t n = recv(mounter->control_fd, &message, sizeof(message), MSG_DONTWAIT);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0 || dispatch(mounter, &message, (size_t)n) < 0)
        begin_end(mounter);
}

static void serve(struct mounter *mounter)
{
    struct pollfd fds[1 + JOBS_MAX];

    while (!is_over(mounter)) {
        unsigned count = 1 + jobs_watch(mounter, fds + 1);
        int timeout_ms = jobs_timeout_ms(mounter);

        fds[0] = (struct pollfd){ .fd = mounter->ended ? -1 : mounter->control_fd, .events = POLLIN };
        if (poll(fds, count, timeout_ms) > 0) {
            jobs_hear(mounter, fds + 1, count - 1);
            if (fds[0].revents != 0)
                read_control(mounter);
        }
        jobs_turn(mounter);
    }
    log_what_is_left(mounter);
    forget(mounter);
}

/* ---- Start ---- */

static int confine(void)
{
    static const struct rlimit none = { 0, 0 };
    static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2 };
    _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct rlimit files;

    for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
        signal(ignored[i], SIG_IGN);
    if (chdir("/") < 0) /* keeps no file system busy: what is asked for has an absolute path */
        return -errno;
    /* Out of the reach of a terminal's ^C, and of a signal to the monitor's process group. */
    setsid();
    /* Nobody who waits for the end of the monitor's output shall wait for this process. */
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0)
        return -errno;
    close_fd(&null_fd);
    syscall(SYS_close_range, CONTROL_FD + 1, ~0u, 0);
    /* Children, and what one that was given up leaves behind, which is ours then: nobody waits for them. */
    signal(SIGCHLD, SIG_IGN);
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
        return -errno;
    files.rlim_cur = files.rlim_max = MIN(files.rlim_max, FILES_MAX);
    return setrlimit(RLIMIT_NOFILE, &files) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
    struct mounter mounter = { .control_fd = CONTROL_FD };
    int type;
    socklen_t len = sizeof(type);

    if (getuid() == 0 || geteuid() == 0 || getuid() != geteuid()) {
        dprintf(2, "bulkhead-mounter: refusing to run as root or setuid; bulkhead starts it by itself\n");
        return 1;
    }
    if (getsockopt(CONTROL_FD, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET) {
        dprintf(2, "bulkhead-mounter: this is a part of bulkhead, which starts it by itself\n");
        return 1;
    }
    openlog("bulkhead-mounter", LOG_PID, LOG_DAEMON);
    fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
    if (confine() < 0) {
        dprintf(2, "bulkhead-mounter: cannot confine itself: %s\n", strerror(errno));
        return 1;
    }
    serve(&mounter);
    return 0;
}
