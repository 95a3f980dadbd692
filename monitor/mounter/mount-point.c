/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/mount-point.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000u
#endif

#define LINKS_MAX 40 /* as many as the kernel follows */

/* On its way to a folder. */
struct walk {
    const char *whole; /* for messages */
    int fd;            /* O_PATH: so far */
    unsigned links;
    char rest[2 * MOUNTER_PATH_MAX]; /* what is still to go */
};

/* Split path at its last slash; the directory part goes to ret_dir, "." without a slash. */
static int split_path(const char *path, char *ret_dir, size_t dir_size, char *ret_name, struct error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    size_t dir_len = slash == NULL ? 0 : (size_t)(slash - path);

    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return error_set(err, -EISDIR, "mount point '%s' is a directory: give the path of a regular file", path);
    if (strlen(name) > NAME_MAX || dir_len >= dir_size)
        return error_set(err, -ENAMETOOLONG, "mount point '%.100s...' is too long", path);
    memcpy(ret_dir, path, dir_len);
    ret_dir[dir_len] = '\0';
    if (dir_len == 0)
        strcpy(ret_dir, slash == NULL ? "." : "/");
    strcpy(ret_name, name);
    return 0;
}

static int walk_error(const struct walk *walk, int code, struct error *err)
{
    return error_set(err, code, "cannot open the directory of mount point '%s' as user id %u: %s", walk->whole,
                     (unsigned)geteuid(), strerror(-code));
}

static int walk_to(struct walk *walk, int fd, struct error *err)
{
    if (fd < 0)
        return walk_error(walk, -errno, err);
    close_fd(&walk->fd);
    walk->fd = fd;
    return 0;
}

/*
 * A symbolic link in the place of a folder. One that somebody else owns would let him choose what is hidden by the
 * mount: another tenant's image, which this account may write to. fd is the link's.
 */
static int walk_link(struct walk *walk, const char *name, int fd, struct error *err)
{
    char target[sizeof(walk->rest)];
    struct statx stx;
    ssize_t len;

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_UID, &stx) < 0)
        return walk_error(walk, -errno, err);
    if (!S_ISLNK(stx.stx_mode))
        return error_set(err, -ENOTDIR, "cannot open the directory of mount point '%s': '%s' in it is a file",
                         walk->whole, name);
    if (stx.stx_uid != 0 && stx.stx_uid != geteuid())
        return error_set(
            err, -EPERM,
            "the path of mount point '%s' goes through a symbolic link of user id %u, '%s', which could lead it "
            "to any file: give a path without it",
            walk->whole, stx.stx_uid, name);
    len = readlinkat(fd, "", target, MOUNTER_PATH_MAX);
    if (len < 0 || ++walk->links > LINKS_MAX)
        return walk_error(walk, len < 0 ? -errno : -ELOOP, err);
    target[len] = '\0';
    if ((size_t)len + strlen(walk->rest) + 2 > sizeof(target))
        return walk_error(walk, -ENAMETOOLONG, err);
    strcat(strcat(target, "/"), walk->rest);
    strcpy(walk->rest, target);
    return target[0] == '/' ? walk_to(walk, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), err) : 0;
}

/* One component, which is taken from the rest. */
static int walk_step(struct walk *walk, struct error *err)
{
    char *start = walk->rest + strspn(walk->rest, "/"), name[NAME_MAX + 1];
    size_t len = strcspn(start, "/");
    _cleanup_close_ int fd = -1;

    if (len > NAME_MAX)
        return walk_error(walk, -ENAMETOOLONG, err);
    memcpy(name, start, len);
    name[len] = '\0';
    memmove(walk->rest, start + len, strlen(start + len) + 1);
    if (len == 0 || strcmp(name, ".") == 0)
        return 0;
    /* As a folder, so that it is mounted if it comes by automount. */
    fd = openat(walk->fd, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 || errno != ENOTDIR)
        return walk_to(walk, TAKE_FD(fd), err);
    fd = openat(walk->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? walk_error(walk, -errno, err) : walk_link(walk, name, fd, err);
}

/* Open the folder dir of the mount point path, whose links are all root's or ours. 0 or -errno. */
static int open_folder(const char *path, const char *dir, int *ret_fd, struct error *err)
{
    struct walk walk = { .whole = path, .fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) };
    int r = walk.fd < 0 ? walk_error(&walk, -errno, err) : 0;

    strcpy(walk.rest, dir);
    while (r == 0 && walk.rest[0] != '\0')
        r = walk_step(&walk, err);
    if (r == 0)
        *ret_fd = TAKE_FD(walk.fd);
    close_fd(&walk.fd);
    return r;
}

/* The kernel's name of the directory: absolute and free of symbolic links. */
static int resolve_path(struct mount_point *point, struct error *err)
{
    char link[64], dir[MOUNTER_PATH_MAX];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", point->parent_fd);
    len = readlink(link, dir, sizeof(dir) - 1);
    if (len < 0)
        return error_set(err, -errno, "cannot read %s: %s", link, strerror(errno));
    dir[len] = '\0';
    if (dir[0] != '/' || (size_t)len + strlen(point->name) + 2 > sizeof(point->path))
        return error_set(err, -ENAMETOOLONG, "the path of mount point '%s' is too long", point->name);
    if (strcmp(dir, "/") == 0)
        dir[0] = '\0';
    strcpy(point->path, dir);
    strcat(point->path, "/");
    strcat(point->path, point->name);
    return 0;
}

int mount_point_open(const char *path, struct mount_point *ret_point, struct error *err)
{
    _cleanup_(mount_point_done) struct mount_point point = { .parent_fd = -1, .fd = -1 };
    char dir[MOUNTER_PATH_MAX];
    int r = split_path(path, dir, sizeof(dir), point.name, err);

    if (r < 0)
        return r;
    r = open_folder(path, dir, &point.parent_fd, err);
    if (r < 0)
        return r;
    r = resolve_path(&point, err);
    if (r < 0)
        return r;
    r = mount_point_refresh(&point, err);
    if (r < 0)
        return r;
    *ret_point = point;
    point.parent_fd = point.fd = -1;
    return 0;
}

void mount_point_done(struct mount_point *point)
{
    close_fd(&point->parent_fd);
    close_fd(&point->fd);
}

int mount_point_refresh(struct mount_point *point, struct error *err)
{
    struct statx stx;

    close_fd(&point->fd);
    point->fd = openat(point->parent_fd, point->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (point->fd < 0 && errno == ENOENT)
        return error_set(err, -ENOENT, "mount point '%s' does not exist: create it as an empty regular file",
                         point->path);
    if (point->fd < 0)
        return error_set(err, -errno, "cannot open mount point '%s': %s", point->path, strerror(errno));
    if (statx(point->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO | STATX_MNT_ID, &stx) < 0)
        return error_set(err, -errno, "cannot look at mount point '%s': %s", point->path, strerror(errno));
    if ((stx.stx_mask & STATX_MNT_ID) == 0)
        return error_set(err, -ENOSYS, "this kernel does not tell mount ids (Linux 5.8 is needed for FUSE exports)");
    point->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
    point->ino = stx.stx_ino;
    point->mount_id = stx.stx_mnt_id;
    point->mode = stx.stx_mode;
    point->is_mount_root = (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    return 0;
}

int mount_point_check(const struct mount_point *point, struct error *err)
{
    if (S_ISLNK(point->mode))
        return error_set(err, -ELOOP, "mount point '%s' is a symbolic link: give the path of the file itself",
                         point->path);
    if (S_ISDIR(point->mode))
        return error_set(err, -EISDIR, "mount point '%s' is a directory: give the path of a regular file", point->path);
    if (!S_ISREG(point->mode))
        return error_set(err, -EINVAL, "mount point '%s' is not a regular file: create one for it", point->path);
    if (faccessat(point->parent_fd, point->name, W_OK, AT_EACCESS) == 0)
        return 0;
    if (errno == EROFS)
        return error_set(err, -EROFS,
                         "mount point '%s' is on a read-only file system, but must be writable: choose a "
                         "file elsewhere",
                         point->path);
    return error_set(err, -errno, "mount point '%s' must be writable for user id %u: %s; change its owner or mode",
                     point->path, (unsigned)geteuid(), strerror(errno));
}

/* In the child: 0 if the server is gone. */
static _Noreturn void ask_server(int fd)
{
    struct statx stx;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) < 0 &&
        (errno == ENOTCONN || errno == ECONNABORTED))
        _exit(0);
    _exit(1);
}

bool mount_point_is_dead(const struct mount_point *point, unsigned timeout_ms)
{
    _cleanup_close_ int pidfd = -1;
    struct pollfd poll_fd = { .events = POLLIN };
    pid_t pid = fork();
    int status;

    if (pid == 0)
        ask_server(point->fd);
    if (pid < 0)
        return false;
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    poll_fd.fd = pidfd;
    if (pidfd >= 0 && poll(&poll_fd, 1, (int)timeout_ms) == 1) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    /* It may hang in the kernel until the server answers: never wait for it, only reap it whenever it is done. */
    kill(pid, SIGKILL);
    return false;
}
