/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-mounter: mounts and unmounts FUSE exports for an unprivileged monitor.
 *
 * The monitor starts it before it sets no_new_privs, because that flag, which is inherited, would take the setuid bit
 * from fusermount3. It holds one socket and a list of what it mounted. It never sees a byte of an image or of a client;
 * it hands each mounted /dev/fuse on and keeps none, so that a connection ends when its worker does. It must not ask a
 * mount of ours anything (stat, open), or it would wait for a worker.
 *
 * Trusts: fusermount3, the kernel. Checks: all that the monitor sends. When the monitor's end of the socket closes, for
 * whatever reason, everything is unmounted and the process exits; signals that end the monitor leave it alone.
 *
 * It cannot have a seccomp filter: without no_new_privs that takes a privilege which it does not have. What it has
 * instead: its own program without libraries but libc, no descriptors but the socket, not dumpable, rlimits.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <syslog.h>

#include "monitor/mounter/fusermount.h"
#include "monitor/mounter/mount-point.h"
#include "monitor/mounter/mount-table.h"
#include "monitor/mounter/mounter-protocol.h"

#define CONTROL_FD 3
#define MOUNTINFO  "/proc/self/mountinfo"

/* How long the server of a mount of an earlier run may take to show that it is alive. */
#define STALE_TIMEOUT_MS 1000
/* Stale mounts stacked on one path that are cleaned up for one request. */
#define STALE_MAX 8

/* One mount that is ours to unmount. */
struct mount {
    struct mount *next;
    uint64_t serial;
    uint64_t mount_id;
    dev_t dev;       /* of the mounted file system */
    dev_t below_dev; /* of the file that it hides */
    ino_t below_ino;
    char id[MOUNTER_ID_MAX];
};

struct mounter {
    int control_fd;
    struct mount *mounts;
    unsigned mount_count;
    uint64_t last_serial;
};

/* A reply with the descriptors that go along. */
struct answer {
    struct mounter_reply reply;
    int fds[MOUNTER_DEVICES_MAX];
};

/* ---- Mounts ---- */

static const struct mount *find_user(const struct mounter *mounter, const struct mount_point *point)
{
    for (const struct mount *m = mounter->mounts; m != NULL; m = m->next) {
        if (m->dev == point->dev || (m->below_dev == point->dev && m->below_ino == point->ino))
            return m;
    }
    return NULL;
}

/*
 * Unmount what mount_id is, wherever it is by now. 0 also if it is gone already: mount ids are used again, so the
 * device and the type must be what we know.
 */
static int unmount_id(uint64_t mount_id, dev_t dev, bool lazy, struct error *err)
{
    _cleanup_free_ char *table = NULL;
    struct mount_row row;
    int r = mount_table_read(MOUNTINFO, &table, err);

    if (r < 0)
        return r;
    if (!mount_table_find(table, mount_id, &row) || makedev(row.dev_major, row.dev_minor) != dev ||
        strcmp(row.type, FUSERMOUNT_TYPE) != 0)
        return 0;
    if (mount_table_is_covered(table, &row))
        return error_set(err, -EBUSY, "another file system is mounted on top of '%s': unmount that first", row.path);
    r = fusermount_unmount(row.path, lazy, err);
    if (r < 0 && r != -EBUSY)
        error_prepend(err, "cannot unmount '%s'", row.path);
    return r;
}

/* Whether the mount that point leads to was left behind by an earlier run of this account, its server being gone. */
static bool is_stale(const struct mount_point *point, const struct mount_row *row)
{
    return strcmp(row->type, FUSERMOUNT_TYPE) == 0 && row->has_user_id && row->user_id == getuid() &&
           mount_point_is_dead(point, STALE_TIMEOUT_MS);
}

/*
 * Make sure that point leads to an ordinary file that no mount of ours uses, cleaning up after earlier runs. 0 or
 * -errno; *ret_cleaned counts what was cleaned up.
 */
static int claim_point(const struct mounter *mounter, struct mount_point *point, unsigned *ret_cleaned,
                       struct error *err)
{
    *ret_cleaned = 0;
    for (;;) {
        _cleanup_free_ char *table = NULL;
        const struct mount *user = find_user(mounter, point);
        struct mount_row row;
        int r;

        if (user != NULL)
            return error_set(err, -EEXIST, "mount point '%s' is already used by export '%s'", point->path, user->id);
        r = mount_table_read(MOUNTINFO, &table, err);
        if (r < 0)
            return r;
        if (!mount_table_find(table, point->mount_id, &row) || !point->is_mount_root ||
            strncmp(row.type, "fuse", 4) != 0)
            return mount_point_check(point, err);
        if (!is_stale(point, &row) || *ret_cleaned >= STALE_MAX)
            return error_set(err, -EBUSY,
                             "mount point '%s' already has a file system mounted on it (%s, %s): unmount "
                             "it first, with fusermount3 -u",
                             point->path, row.type, row.source);
        r = unmount_id(point->mount_id, point->dev, true, err);
        if (r < 0)
            return error_prepend(err, "cannot clean up after an earlier run");
        (*ret_cleaned)++;
        r = mount_point_refresh(point, err);
        if (r < 0)
            return r;
    }
}

/* With allow-other=auto a failure with it, whatever the reason, is followed by an attempt without, as QEMU does. */
static int mount_device(const struct mounter_mount *request, const char *path, int *ret_fd, uint32_t *ret_allow_other,
                        struct error *err)
{
    int r;

    *ret_allow_other = request->allow_other != MOUNTER_ALLOW_OTHER_OFF;
    r = fusermount_mount(path, request->id, *ret_allow_other, request->max_read_bytes, ret_fd, err);
    if (r == 0 || request->allow_other != MOUNTER_ALLOW_OTHER_AUTO)
        return r;
    *ret_allow_other = 0;
    return fusermount_mount(path, request->id, false, request->max_read_bytes, ret_fd, err);
}

/* Remember a mount that was just made on point, and tell. On failure it is unmounted again. */
static int remember(struct mounter *mounter, struct mount_point *point, const char *id, struct mounter_reply *reply,
                    struct error *err)
{
    struct mount *m = calloc(1, sizeof(*m));
    dev_t below_dev = point->dev;
    ino_t below_ino = point->ino;
    uint64_t below_mount_id = point->mount_id;
    int r = m == NULL ? error_set(err, -ENOMEM, "out of memory") : mount_point_refresh(point, err);

    if (r == 0 && point->mount_id == below_mount_id)
        r = error_set(err, -EAGAIN, "mount point '%s' was changed while it was mounted on", point->path);
    if (r < 0) {
        fusermount_unmount(point->path, true, NULL);
        free(m);
        return r;
    }
    m->serial = reply->mount = ++mounter->last_serial;
    m->mount_id = point->mount_id;
    m->dev = reply->device = point->dev;
    m->below_dev = below_dev;
    m->below_ino = below_ino;
    memcpy(m->id, id, sizeof(m->id));
    m->next = mounter->mounts;
    mounter->mounts = m;
    mounter->mount_count++;
    return 0;
}

/* One more descriptor of the same connection, with a list of requests of its own (FUSE_DEV_IOC_CLONE). */
static int clone_device(int device_fd, int flags, struct error *err)
{
    uint32_t original = (uint32_t)device_fd;
    _cleanup_close_ int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | flags);

    if (fd < 0)
        return error_set(err, -errno, "cannot open /dev/fuse: %s", strerror(errno));
    if (ioctl(fd, FUSE_DEV_IOC_CLONE, &original) < 0)
        return error_set(err, -errno, "cannot clone /dev/fuse: %s", strerror(errno));
    return TAKE_FD(fd);
}

static void close_devices(struct answer *answer)
{
    while (answer->reply.devices > 0)
        close(answer->fds[--answer->reply.devices]);
}

/* The worker can open nothing, so everything that its threads need comes from here. Takes device_fd. */
static int make_devices(struct answer *answer, int device_fd, unsigned pairs, struct error *err)
{
    answer->fds[0] = device_fd;
    answer->reply.devices = 1;
    while (answer->reply.devices < 2 * pairs) {
        int fd = clone_device(device_fd, answer->reply.devices % 2 == 1 ? O_NONBLOCK : 0, err);

        if (fd < 0) {
            close_devices(answer);
            return fd;
        }
        answer->fds[answer->reply.devices++] = fd;
    }
    return 0;
}

/* ---- Requests ---- */

/* NUL-terminated within its array. */
static bool is_string(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static int mount_request(struct mounter *mounter, const struct mounter_mount *request, struct answer *answer,
                         struct error *err)
{
    _cleanup_(mount_point_done) struct mount_point point = { .parent_fd = -1, .fd = -1 };
    struct mounter_reply *reply = &answer->reply;
    _cleanup_close_ int device_fd = -1;
    unsigned cleaned;
    int r;

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return error_set(err, -EPERM,
                         "cannot mount: bulkhead was started with no_new_privs, below which fusermount3 has no "
                         "rights (systemd: use the drop-in bulkhead-fuse.conf, which sets NoNewPrivileges=no)");
    if (mounter->mount_count >= MOUNTER_MOUNTS_MAX)
        return error_set(err, -EMFILE, "there are %u FUSE mounts, and no more are allowed", mounter->mount_count);
    r = mount_point_open(request->path, &point, err);
    if (r < 0)
        return r;
    r = claim_point(mounter, &point, &cleaned, err);
    if (r < 0)
        return r;
    r = mount_device(request, point.path, &device_fd, &reply->allow_other, err);
    if (r < 0)
        return error_prepend(err, "cannot mount on '%s'", point.path);
    r = make_devices(answer, TAKE_FD(device_fd), request->pairs, err);
    if (r < 0) {
        fusermount_unmount(point.path, true, NULL);
        return r;
    }
    r = remember(mounter, &point, request->id, reply, err);
    if (r < 0) {
        close_devices(answer);
        return r;
    }
    if (cleaned > 0)
        snprintf(reply->text, sizeof(reply->text), "cleaned up %u stale mount(s) of an earlier run on '%.300s'",
                 cleaned, point.path);
    return 0;
}

static int handle_mount(struct mounter *mounter, const void *message, struct answer *answer, struct error *err)
{
    const struct mounter_mount *request = message;

    if (!is_string(request->path, sizeof(request->path)) || !is_string(request->id, sizeof(request->id)) ||
        request->allow_other > MOUNTER_ALLOW_OTHER_AUTO || request->pairs < 1 || request->pairs > MOUNTER_PAIRS_MAX ||
        request->max_read_bytes == 0 || request->max_read_bytes % 4096 != 0 ||
        request->max_read_bytes > MOUNTER_READ_MAX || request->reserved != 0)
        return error_set(err, -EPROTO, "malformed mount request");
    return mount_request(mounter, request, answer, err);
}

static int handle_unmount(struct mounter *mounter, const void *message, struct answer *answer, struct error *err)
{
    const struct mounter_unmount *request = message;
    struct mount **at = &mounter->mounts, *m;
    int r;

    while (*at != NULL && (*at)->serial != request->mount)
        at = &(*at)->next;
    m = *at;
    if (m == NULL)
        return error_set(err, -ENOENT, "mount %llu does not exist", (unsigned long long)request->mount);
    r = unmount_id(m->mount_id, m->dev, request->lazy != 0, err);
    if (r < 0)
        return r;
    *at = m->next;
    mounter->mount_count--;
    free(m);
    return 0;
}

static const struct {
    uint32_t type;
    size_t len_bytes;
    int (*handle)(struct mounter *mounter, const void *message, struct answer *answer, struct error *err);
} requests[] = {
    { MOUNTER_MOUNT, sizeof(struct mounter_mount), handle_mount },
    { MOUNTER_UNMOUNT, sizeof(struct mounter_unmount), handle_unmount },
};

/* ---- The socket ---- */

static void send_answer(struct mounter *mounter, struct answer *answer)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MOUNTER_DEVICES_MAX)];
    } control = { .bytes = { 0 } };
    struct iovec iov = { &answer->reply, sizeof(answer->reply) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    unsigned count = answer->reply.devices;

    if (count > 0) {
        struct cmsghdr *cmsg = &control.align;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(cmsg), answer->fds, sizeof(int) * count);
    }
    while (sendmsg(mounter->control_fd, &msg, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    for (unsigned i = 0; i < count; i++)
        close(answer->fds[i]);
}

/* 0, or -EPROTO when the message is none that we know: then nothing else from there can be trusted either. */
static int dispatch(struct mounter *mounter, const void *message, size_t len_bytes)
{
    const struct mounter_header *header = message;
    struct answer answer = { .reply.header = { .magic = MOUNTER_MAGIC, .type = MOUNTER_REPLY } };
    struct error err = { .code = 0 };

    if (len_bytes < sizeof(*header) || header->magic != MOUNTER_MAGIC)
        return -EPROTO;
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        if (requests[i].type != header->type)
            continue;
        if (requests[i].len_bytes != len_bytes)
            return -EPROTO;
        answer.reply.header.cookie = header->cookie;
        answer.reply.code = requests[i].handle(mounter, message, &answer, &err);
        if (answer.reply.code < 0)
            memcpy(answer.reply.text, err.text, MIN(sizeof(answer.reply.text), sizeof(err.text)));
        send_answer(mounter, &answer);
        return 0;
    }
    return -EPROTO;
}

/* Children of mount_point_is_dead() that took too long. */
static void reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static void serve(struct mounter *mounter)
{
    static union {
        struct mounter_header header;
        struct mounter_mount mount;
        struct mounter_unmount unmount;
        char bytes[sizeof(struct mounter_mount) + 1];
    } message;

    for (;;) {
        ssize_t n = recv(mounter->control_fd, &message, sizeof(message), 0);

        reap();
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || dispatch(mounter, &message, (size_t)n) < 0)
            return;
    }
}

/* The monitor is gone, so what cannot be unmounted is for the system's log. */
static void unmount_all(struct mounter *mounter)
{
    struct error err;

    while (mounter->mounts != NULL) {
        struct mount *m = mounter->mounts;

        if (unmount_id(m->mount_id, m->dev, true, &err) < 0)
            syslog(LOG_ERR, "%s", err.text);
        mounter->mounts = m->next;
        free(m);
    }
}

/* ---- Start ---- */

static int confine(void)
{
    static const struct rlimit files = { 64, 64 }, none = { 0, 0 };
    static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2 };
    _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

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
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
    return 0;
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
    unmount_all(&mounter);
    return 0;
}
