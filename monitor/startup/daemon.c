/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/startup/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "monitor/startup/descriptors.h"
#include "monitor/startup/log-target.h"

/* ---- The background ---- */

/* The process that was started: its exit status is the result of the daemon's start. */
static void wait_for_daemon(int report_fd, pid_t child) __attribute__((noreturn));
static void wait_for_daemon(int report_fd, pid_t child)
{
    char result = 1;
    ssize_t n;
    pid_t pid;

    do
        n = read(report_fd, &result, 1);
    while (n < 0 && errno == EINTR);
    do
        pid = waitpid(child, NULL, 0);
    while (pid < 0 && errno == EINTR);
    _exit(n == 1 && result == 0 ? 0 : 1);
}

int daemon_fork(int *ret_report_fd, struct error *err)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    pid = fork();
    if (pid < 0)
        return error_set(err, -errno, "cannot fork: %s", strerror(errno));
    if (pid > 0) {
        close(fds[1]);
        wait_for_daemon(fds[0], pid);
    }
    close(fds[0]);
    /* A session of its own; forked again, since its leader could get a terminal back. */
    if (setsid() < 0 || (pid = fork()) < 0) {
        fprintf(stderr, "bulkhead: error: cannot go to the background: %s\n", strerror(errno));
        _exit(1);
    }
    if (pid > 0)
        _exit(0);
    *ret_report_fd = fds[1];
    return 0;
}

int daemon_detach(int *report_fd, struct error *err)
{
    const char served = 0;
    int r = descriptors_leave_terminal(err);

    if (r < 0)
        return r;
    if (chdir("/") < 0) /* keeps no file system busy; paths of the command line have been used */
        return error_set(err, -errno, "cannot go to the root directory: %s", strerror(errno));
    log_target_detach();
    if (write(*report_fd, &served, 1) != 1)
        log_warning("nobody waits for the end of the start any more");
    close_fd(report_fd);
    return 0;
}

/* ---- The pid file ---- */

#define PIDFILE_TRIES 8 /* against one that goes away at the same time */

static int lock_whole(const char *path, int fd, struct error *err)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, -EBUSY, "the pid file '%s' belongs to a process that is running", path);
    return error_set(err, -errno, "cannot lock the pid file '%s': %s", path, strerror(errno));
}

/* A locked descriptor of the file that path names now; -EAGAIN: it was removed meanwhile. */
static int open_locked(const char *path, int *ret_fd, struct stat *ret_stat, struct error *err)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    struct stat by_path;
    int r;

    if (fd < 0)
        return error_set(err, -errno, "cannot create PID file: Could not create '%s': %s", path, strerror(errno));
    if (fstat(fd, ret_stat) < 0 || !S_ISREG(ret_stat->st_mode))
        return error_set(err, -EINVAL, "the pid file '%s' is no regular file", path);
    r = lock_whole(path, fd, err);
    if (r < 0)
        return r;
    if (stat(path, &by_path) < 0 || by_path.st_ino != ret_stat->st_ino || by_path.st_dev != ret_stat->st_dev)
        return error_set(err, -EAGAIN, "the pid file '%s' is being exchanged all the time", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int write_pid(int fd, const char *path, struct error *err)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    if (ftruncate(fd, 0) < 0 || write(fd, text, (size_t)len) != len)
        return error_set(err, errno != 0 ? -errno : -EIO, "cannot write the pid file '%s': %s", path, strerror(errno));
    return 0;
}

int pidfile_write(const char *path, struct pidfile *ret, struct error *err)
{
    struct stat st;
    int fd = -1;
    int r = -EAGAIN;

    for (unsigned i = 0; i < PIDFILE_TRIES && r == -EAGAIN; i++)
        r = open_locked(path, &fd, &st, err);
    if (r < 0)
        return r;
    *ret = (struct pidfile){ .fd = fd, .path = realpath(path, NULL), .dev = st.st_dev, .ino = st.st_ino };
    r = ret->path == NULL ? error_set(err, -errno, "cannot resolve '%s': %s", path, strerror(errno))
                          : write_pid(fd, path, err);
    if (r < 0)
        pidfile_remove(ret);
    return r;
}

void pidfile_remove(struct pidfile *pidfile)
{
    struct stat st;

    if (pidfile->fd < 0)
        return;
    if (pidfile->path != NULL && lstat(pidfile->path, &st) == 0 && st.st_ino == pidfile->ino &&
        st.st_dev == pidfile->dev)
        unlink(pidfile->path);
    free(pidfile->path);
    pidfile->path = NULL;
    close_fd(&pidfile->fd);
}
