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
    point.parent_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (point.parent_fd < 0)
        return error_set(err, -errno, "cannot open the directory of mount point '%s' as user id %u: %s", path,
                         (unsigned)geteuid(), strerror(errno));
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
        return error_set(err, -EISDIR, "mount point '%s' is a directory: give the path of a regular file",
                         point->path);
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
