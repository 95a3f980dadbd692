/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/operation.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include "monitor/mounter/fusermount.h"

#define MOUNTINFO "/proc/self/mountinfo"

/* How long the server of a mount of an earlier run may take to show that it is alive. */
#define STALE_TIMEOUT_MS 1000
/* Stale mounts stacked on one path that are cleaned up for one request. */
#define STALE_MAX 8
/* How often a mount may be moved while it is unmounted. */
#define MOVES_MAX 8

/* A mount that is being made. */
struct making {
    const struct mount *mounts;
    const struct mounter_mount *request;
    struct operation_known known;
    int fd;
    struct mount_point point;
    unsigned cleaned;
    struct operation_result result;
    int fds[MOUNTER_DEVICES_MAX];
};

int operation_send(int fd, const void *message, size_t len_bytes, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MOUNTER_DEVICES_MAX)];
    } control = { .bytes = { 0 } };
    struct iovec iov = { (void *)(uintptr_t)message, len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    struct cmsghdr *cmsg = &control.align;

    if (fd_count > 0) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * fd_count);
    }
    while (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int send_result(int fd, struct operation_result *result, const struct error *err, const int *fds,
                       unsigned fd_count)
{
    result->type = OPERATION_RESULT;
    if (result->reply.code < 0)
        memcpy(result->reply.text, err->text, MIN(sizeof(result->reply.text), sizeof(err->text)));
    return operation_send(fd, result, sizeof(*result), fds, fd_count);
}

/* ---- Unmounting ---- */

/*
 * Unmount what row tells of. fusermount3 is run in the folder in which the mount was seen, so that what somebody puts
 * in the place of a folder that he moves leads to no other mount. -ESTALE: it is somewhere else by now.
 */
static int unmount_row(const struct mount_row *row, bool lazy, struct error *err)
{
    _cleanup_(mount_point_done) struct mount_point point = { .parent_fd = -1, .fd = -1 };
    int r = mount_point_open(row->path, &point, err);

    if (r < 0)
        return r;
    if (point.mount_id != row->id)
        return error_set(err, -ESTALE, "'%s' was moved while it was unmounted", row->path);
    close_fd(&point.fd); /* it keeps the mount busy */
    return fusermount_unmount(point.parent_fd, point.name, lazy, err);
}

/*
 * Unmount what mount_id is, wherever it is by now. 0 also if it is gone already: mount ids are used again, so the
 * device and the type must be what we know.
 */
static int unmount_id(uint64_t mount_id, dev_t dev, bool lazy, struct error *err)
{
    struct mount_row row;
    int r = -ESTALE;

    for (unsigned i = 0; r == -ESTALE && i < MOVES_MAX; i++) {
        _cleanup_free_ char *table = NULL;

        r = mount_table_read(MOUNTINFO, &table, err);
        if (r < 0)
            return r;
        if (!mount_table_find(table, mount_id, &row) || makedev(row.dev_major, row.dev_minor) != dev ||
            strcmp(row.type, FUSERMOUNT_TYPE) != 0)
            return 0;
        if (mount_table_is_covered(table, &row))
            return error_set(err, -EBUSY, "another file system is mounted on top of '%s': unmount that first",
                             row.path);
        r = unmount_row(&row, lazy, err);
    }
    if (r < 0 && r != -EBUSY)
        error_prepend(err, "cannot unmount '%s'", row.path);
    return r;
}

void operation_unmount(const struct mount *mount, bool lazy, int fd)
{
    struct operation_result result = { 0 };
    struct error err = { 0 };

    result.reply.code = unmount_id(mount->mount_id, mount->dev, lazy, &err);
    send_result(fd, &result, &err, NULL, 0);
}

/* ---- Strays ---- */

static bool is_known(const struct operation_known *known, const struct mount_row *row)
{
    for (unsigned i = 0; i < known->count; i++) {
        if (known->devs[i] == makedev(row->dev_major, row->dev_minor))
            return true;
    }
    return false;
}

/* Rows of strays, one after the other; false at the end. */
static bool next_stray(const char **at, const struct mount *mounts, const char *id, struct mount_row *ret_row)
{
    while (mount_table_next(at, ret_row)) {
        if (mounts_is_stray(mounts, ret_row, id))
            return true;
    }
    return false;
}

void operation_look(const struct mount *mounts, const char *id, struct operation_known *ret_known)
{
    _cleanup_free_ char *table = NULL;
    const char *at;
    struct mount_row row;

    ret_known->count = 0;
    if (mount_table_read(MOUNTINFO, &table, NULL) < 0)
        return;
    at = table;
    while (ret_known->count < OPERATION_KNOWN_MAX && next_stray(&at, mounts, id, &row))
        ret_known->devs[ret_known->count++] = makedev(row.dev_major, row.dev_minor);
}

static int sweep(const struct mount *mounts, const char *id, const struct operation_known *known, struct error *err)
{
    _cleanup_free_ char *table = NULL;
    struct mount_row row;
    int ret = mount_table_read(MOUNTINFO, &table, err);

    for (const char *at = table; ret >= 0 && next_stray(&at, mounts, id, &row);) {
        int r = is_known(known, &row) ? 0 : unmount_row(&row, true, err);

        if (r < 0)
            ret = r;
    }
    return ret;
}

void operation_sweep(const struct mount *mounts, const char *id, const struct operation_known *known, int fd)
{
    struct operation_result result = { 0 };
    struct error err = { 0 };

    result.reply.code = sweep(mounts, id, known, &err);
    send_result(fd, &result, &err, NULL, 0);
}

/* ---- Mounting ---- */

/* Whether the mount that point leads to was left behind by an earlier run of this account, its server being gone. */
static bool is_stale(const struct mount_point *point, const struct mount_row *row)
{
    return strcmp(row->type, FUSERMOUNT_TYPE) == 0 && row->has_user_id && row->user_id == getuid() &&
           mount_point_is_dead(point, STALE_TIMEOUT_MS);
}

/* point leads to the mount of row, which is none of ours. Clean it up if it is stale. */
static int clean_up(struct making *making, const struct mount_row *row, struct error *err)
{
    struct mount_point *point = &making->point;
    int r;

    if (!is_stale(point, row) || making->cleaned >= STALE_MAX)
        return error_set(err, -EBUSY,
                         "mount point '%s' already has a file system mounted on it (%s, %s): unmount it first, with "
                         "fusermount3 -u",
                         point->path, row->type, row->source);
    r = unmount_id(point->mount_id, point->dev, true, err);
    if (r < 0)
        return error_prepend(err, "cannot clean up after an earlier run");
    making->cleaned++;
    return mount_point_refresh(point, err);
}

static bool hear_verdict(int fd, struct operation_verdict *ret_verdict)
{
    return recv(fd, ret_verdict, sizeof(*ret_verdict), 0) == sizeof(*ret_verdict);
}

/* Ask the mounter, which knows what other children are at. */
static int claim(const struct making *making, struct error *err)
{
    struct operation_claim claim = { .type = OPERATION_CLAIM, .dev = making->point.dev, .ino = making->point.ino };
    struct operation_verdict verdict;

    memcpy(claim.path, making->point.path, sizeof(claim.path));
    if (operation_send(making->fd, &claim, sizeof(claim), NULL, 0) < 0 || !hear_verdict(making->fd, &verdict))
        return error_set(err, -EPIPE, "the mounter is gone");
    return verdict.code < 0 ? error_set(err, verdict.code, "%s", verdict.text) : 0;
}

/*
 * Make sure that point leads to an ordinary file that no mount of ours uses, cleaning up after earlier runs. The mount
 * is recognised before the file is looked at, so that no server of ours is asked anything. 0 or -errno.
 */
static int claim_point(struct making *making, struct error *err)
{
    struct mount_point *point = &making->point;
    int r = claim(making, err);

    while (r == 0) {
        _cleanup_free_ char *table = NULL;
        struct mount_row row;

        r = mount_table_read(MOUNTINFO, &table, err);
        if (r < 0)
            return r;
        if (!mount_table_find(table, point->mount_id, &row) || !point->is_mount_root ||
            strncmp(row.type, "fuse", 4) != 0)
            return mount_point_check(point, err);
        r = clean_up(making, &row, err);
        if (r == 0)
            r = claim(making, err);
    }
    return r;
}

/* With allow-other=auto a failure with it, whatever the reason, is followed by an attempt without, as QEMU does. */
static int mount_device(struct making *making, int *ret_fd, struct error *err)
{
    const struct mounter_mount *request = making->request;
    const struct mount_point *point = &making->point;
    uint32_t *allow_other = &making->result.reply.allow_other;
    int r;

    *allow_other = request->allow_other != MOUNTER_ALLOW_OTHER_OFF;
    r = fusermount_mount(point->parent_fd, point->name, request->id, *allow_other, request->max_read_bytes, ret_fd,
                         err);
    if (r == 0 || request->allow_other != MOUNTER_ALLOW_OTHER_AUTO)
        return r;
    *allow_other = 0;
    return fusermount_mount(point->parent_fd, point->name, request->id, false, request->max_read_bytes, ret_fd, err);
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

/* The worker can open nothing, so everything that its threads need comes from here. Takes device_fd. */
static int make_devices(struct making *making, int device_fd, struct error *err)
{
    struct mounter_reply *reply = &making->result.reply;

    making->fds[0] = device_fd;
    reply->devices = 1;
    while (reply->devices < 2 * making->request->pairs) {
        int fd = clone_device(device_fd, reply->devices % 2 == 1 ? O_NONBLOCK : 0, err);

        if (fd < 0)
            return fd;
        making->fds[reply->devices++] = fd;
    }
    return 0;
}

/*
 * Whether the mount is on the file that was looked at: fusermount3 goes by path, and somebody may have exchanged a
 * folder of it meanwhile. On success point leads to the mount.
 */
static int verify(struct making *making, struct error *err)
{
    _cleanup_free_ char *table = NULL;
    uint64_t below_mount_id = making->point.mount_id;
    struct mount_row row;
    int r = mount_point_refresh(&making->point, err);

    if (r == 0)
        r = mount_table_read(MOUNTINFO, &table, err);
    if (r < 0)
        return r;
    if (making->point.mount_id == below_mount_id || !making->point.is_mount_root ||
        !mount_table_find(table, making->point.mount_id, &row) ||
        !mounts_is_stray(making->mounts, &row, making->request->id) || is_known(&making->known, &row))
        return error_set(err, -EAGAIN,
                         "mount point '%s' was changed while it was mounted on; the mount has been undone",
                         making->point.path);
    return 0;
}

static int make(struct making *making, struct error *err)
{
    int device_fd = -1, r;

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return error_set(err, -EPERM,
                         "cannot mount: bulkhead was started with no_new_privs, below which fusermount3 has no "
                         "rights (systemd: use the drop-in bulkhead-fuse.conf, which sets NoNewPrivileges=no)");
    r = mount_point_open(making->request->path, &making->point, err);
    if (r == 0)
        r = claim_point(making, err);
    if (r < 0)
        return r;
    operation_look(making->mounts, making->request->id, &making->known);
    r = mount_device(making, &device_fd, err);
    if (r < 0)
        return error_prepend(err, "cannot mount on '%s'", making->point.path);
    r = make_devices(making, device_fd, err);
    if (r == 0)
        r = verify(making, err);
    if (r < 0)
        sweep(making->mounts, making->request->id, &making->known, NULL);
    return r;
}

void operation_mount(const struct mount *mounts, const struct mounter_mount *request, int fd)
{
    struct making making = { .mounts = mounts, .request = request, .fd = fd, .point = { .parent_fd = -1, .fd = -1 } };
    struct operation_result *result = &making.result;
    struct operation_verdict verdict;
    struct error err = { 0 };
    bool is_sent;

    result->reply.code = make(&making, &err);
    if (result->reply.code < 0) {
        result->reply.devices = 0;
        send_result(fd, result, &err, NULL, 0);
        return;
    }
    close_fd(&making.point.fd); /* it keeps the mount busy */
    result->mount_id = making.point.mount_id;
    result->dev = result->reply.device = making.point.dev;
    if (making.cleaned > 0)
        snprintf(result->reply.text, sizeof(result->reply.text),
                 "cleaned up %u stale mount(s) of an earlier run on '%.300s'", making.cleaned, making.point.path);
    is_sent = send_result(fd, result, &err, making.fds, result->reply.devices) == 0;
    /* They keep the connection open. */
    while (result->reply.devices > 0)
        close(making.fds[--result->reply.devices]);
    if (!is_sent || !hear_verdict(fd, &verdict) || verdict.code < 0)
        unmount_id(result->mount_id, making.point.dev, true, NULL);
}
