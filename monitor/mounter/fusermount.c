/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/fusermount.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "monitor/mounter/mounter-protocol.h"

#define FUSE_MAJOR 10 /* /dev/fuse: Documentation/admin-guide/devices.txt */
#define FUSE_MINOR 229

/* Where the child finds its ends. */
enum { CHILD_COMM_FD = 3 };

/* What it is called, in its messages too. */
#define PROGRAM_NAME "fusermount3"

/* One run of the helper. */
struct run {
    pid_t pid;
    int message_fd; /* its standard error */
    int status;     /* of waitpid */
    size_t message_bytes;
    char message[MOUNTER_TEXT_MAX / 2];
};

/* Async-signal-safe only: between fork and exec. Descriptors 0 and 1 are the mounter's own: /dev/null. */
static _Noreturn void child_exec(int dir_fd, char *const argv[], int message_fd, int comm_fd)
{
    char *const environment[] = { (char[]){ "_FUSE_COMMFD=3" }, (char[]){ "LC_ALL=C" }, NULL };
    sigset_t none;

    /* What the mounter ignores, its children do not; but who finds nobody to give the mount to shall undo it, not die.
     */
    for (int i = 1; i < NSIG; i++) {
        if (i != SIGPIPE)
            signal(i, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (fchdir(dir_fd) < 0)
        _exit(125);
    /* Above the numbers that get assigned, so that no dup2 closes a source. */
    message_fd = fcntl(message_fd, F_DUPFD, 10);
    comm_fd = comm_fd < 0 ? -1 : fcntl(comm_fd, F_DUPFD, 10);
    if (message_fd < 0 || dup2(message_fd, 2) < 0)
        _exit(126);
    if (comm_fd >= 0 && dup2(comm_fd, CHILD_COMM_FD) < 0)
        _exit(126);
    syscall(SYS_close_range, comm_fd >= 0 ? CHILD_COMM_FD + 1 : 3, ~0u, 0);
    execve(FUSERMOUNT_PATH, argv, environment);
    dprintf(2, "cannot execute %s: %s", FUSERMOUNT_PATH, strerror(errno));
    _exit(127);
}

static int run_start(int dir_fd, char *const argv[], int comm_fd, struct run *run, struct error *err)
{
    int pipe_fds[2];

    *run = (struct run){ .pid = -1, .message_fd = -1 };
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    run->message_fd = pipe_fds[0];
    run->pid = fork();
    if (run->pid == 0)
        child_exec(dir_fd, argv, pipe_fds[1], comm_fd);
    close(pipe_fds[1]);
    if (run->pid < 0)
        return error_set(err, -errno, "cannot fork: %s", strerror(errno));
    return 0;
}

/* Read what has been said; false at the end. What does not fit is dropped. */
static bool run_read_message(struct run *run)
{
    char scratch[256];
    ssize_t n = read(run->message_fd, scratch, sizeof(scratch));
    size_t take;

    if (n < 0)
        return errno == EINTR;
    take = MIN((size_t)n, sizeof(run->message) - 1 - run->message_bytes);
    memcpy(run->message + run->message_bytes, scratch, take);
    run->message_bytes += take;
    return n > 0;
}

/* Ends and reaps the helper in any case; its real uid is ours, so that we may kill it although it is setuid. */
static void run_done(struct run *run)
{
    close_fd(&run->message_fd);
    if (run->pid <= 0)
        return;
    kill(run->pid, SIGKILL);
    while (waitpid(run->pid, &run->status, 0) < 0 && errno == EINTR)
        ;
    run->pid = -1;
}

/* Until it has said everything and exited. */
static void run_wait(struct run *run)
{
    while (run_read_message(run))
        ;
    while (waitpid(run->pid, &run->status, 0) < 0 && errno == EINTR)
        ;
    run->pid = -1;
}

/* One printable line without the helper's own name in front. */
static void run_clean_message(struct run *run)
{
    static const char prefix[] = PROGRAM_NAME ": ";
    char *text = run->message;

    text[run->message_bytes] = '\0';
    while (run->message_bytes > 0 && isspace((unsigned char)text[run->message_bytes - 1]))
        text[--run->message_bytes] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        if (!isprint((unsigned char)*c))
            *c = *c == '\n' ? ';' : '?';
    }
    if (strncmp(text, prefix, sizeof(prefix) - 1) == 0)
        memmove(text, text + sizeof(prefix) - 1, strlen(text) - (sizeof(prefix) - 1) + 1);
}

static const struct {
    const char *part; /* of the helper's message */
    const char *hint;
    int code;
} hints[] = {
    { "cannot execute", "; install the package fuse3, which brings fusermount3", -ENOENT },
    { "user_allow_other", "; add the line user_allow_other to /etc/fuse.conf, or use allow-other=off", -EPERM },
    { "fuse device not found", "; load the fuse module (modprobe fuse)", -ENODEV },
    { "failed to open /dev/fuse",
      "; make /dev/fuse accessible to this account (chmod 0666; in a container: pass the device through and allow "
      "10:229)",
      -EACCES },
    { "too many FUSE filesystems", "; raise mount_max in /etc/fuse.conf", -EMFILE },
    { "Read-only file system", "; a mount point must be writable: choose a file on a writable file system", -EROFS },
    { "mounting over filesystem type", "; fusermount3 does not mount on files of this file system: choose another",
      -EPERM },
    { "mount failed: Operation not permitted",
      "; is fusermount3 setuid root, is CAP_SYS_ADMIN in the bounding set, and does the container allow mounts?",
      -EPERM },
    { "mount failed: Permission denied", "; AppArmor, SELinux or the container forbids it: see the kernel's log",
      -EACCES },
    { "mount failed: No such device", "; load the fuse module (modprobe fuse)", -ENODEV },
    { "mount failed: No space left", "; there are as many mounts as the host allows: see sysctl fs.mount-max",
      -ENOSPC },
    { ": Device or resource busy", "", -EBUSY },
};

const char *fusermount_hint(const char *message)
{
    for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
        if (strstr(message, hints[i].part) != NULL)
            return hints[i].hint;
    }
    return "";
}

static int message_code(const char *message)
{
    for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
        if (strstr(message, hints[i].part) != NULL)
            return hints[i].code;
    }
    return -EIO;
}

/* It failed, and said nothing: what can be told from how it ended, and what to look at. */
static int mute_failure(int status, struct error *err)
{
    if (WIFSIGNALED(status))
        return error_set(err, -EIO, "%s was killed by signal %d (%s); see the kernel's log", PROGRAM_NAME,
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == 125)
        return error_set(err, -EACCES, "this account may not enter the folder of the mount point");
    return error_set(
        err, -EIO,
        "%s failed with status %d and without a word; is %s setuid root, may this account open /dev/fuse, does "
        "/etc/fuse.conf allow what was asked for (user_allow_other, mount_max), and the container mounts?",
        PROGRAM_NAME, WEXITSTATUS(status), FUSERMOUNT_PATH);
}

/* Run the helper to its end; 0 only if it exited with status 0. */
static int run_helper(int dir_fd, char *const argv[], int *comm_fd, struct error *err)
{
    _cleanup_(run_done) struct run run;
    int r = run_start(dir_fd, argv, comm_fd == NULL ? -1 : *comm_fd, &run, err);

    if (comm_fd != NULL)
        close_fd(comm_fd);
    if (r < 0)
        return r;
    run_wait(&run);
    if (WIFEXITED(run.status) && WEXITSTATUS(run.status) == 0)
        return 0;
    run_clean_message(&run);
    if (run.message[0] == '\0')
        return mute_failure(run.status, err);
    return error_set(err, message_code(run.message), "%s%s", run.message, fusermount_hint(run.message));
}

/* The one descriptor that the helper has sent, if it is what it should be. */
static int receive_device(int socket_fd, int *ret_fd, struct error *err)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 4)];
    } control;
    char data[8];
    struct iovec iov = { data, sizeof(data) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    _cleanup_close_ int fd = -1;
    struct cmsghdr *cmsg;
    struct stat st;

    if (recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
        return error_set(err, -EIO, "fusermount3 sent no descriptor: %s", strerror(errno));
    cmsg = CMSG_FIRSTHDR(&msg);
    if (cmsg == NULL || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS ||
        cmsg->cmsg_len != CMSG_LEN(sizeof(int)))
        return error_set(err, -EIO, "fusermount3 sent no descriptor");
    memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
    if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(FUSE_MAJOR, FUSE_MINOR))
        return error_set(err, -EIO, "fusermount3 sent a descriptor that is not /dev/fuse");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

void fusermount_source(const char *id, char *ret, size_t size)
{
    size_t used = (size_t)snprintf(ret, size, FUSERMOUNT_SUBTYPE "%s", id[0] == '\0' ? "" : ":");

    for (; *id != '\0' && used + 1 < size; id++)
        ret[used++] = isalnum((unsigned char)*id) || strchr("-_.", *id) != NULL ? *id : '_';
    ret[used] = '\0';
}

/*
 * Permissions are the kernel's to check (default_permissions); set-user-ID bits and devices are never honoured. The
 * helper refuses any option that it does not know, and adds nosuid and nodev itself for an unprivileged caller.
 */
static void make_options(const char *id, bool allow_other, uint32_t max_read_bytes, char *ret, size_t size)
{
    char source[sizeof(FUSERMOUNT_SUBTYPE) + MOUNTER_ID_MAX];

    fusermount_source(id, source, sizeof(source));
    snprintf(ret, size, "nosuid,nodev,default_permissions,max_read=%u,fsname=%s,subtype=" FUSERMOUNT_SUBTYPE "%s",
             max_read_bytes, source, allow_other ? ",allow_other" : "");
}

int fusermount_mount(int dir_fd, const char *name, const char *id, bool allow_other, uint32_t max_read_bytes,
                     int *ret_fd, struct error *err)
{
    char options[256 + MOUNTER_ID_MAX];
    char *const argv[] = { (char[]){ PROGRAM_NAME }, (char[]){ "-o" }, options, (char[]){ "--" }, (char *)name, NULL };
    _cleanup_close_ int ours = -1;
    int fds[2], r;

    make_options(id, allow_other, max_read_bytes, options, sizeof(options));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    ours = fds[0];
    r = run_helper(dir_fd, argv, &fds[1], err);
    if (r < 0)
        return r;
    return receive_device(ours, ret_fd, err);
}

int fusermount_unmount(int dir_fd, const char *name, bool lazy, struct error *err)
{
    char *const plain[] = { (char[]){ PROGRAM_NAME }, (char[]){ "-u" }, (char[]){ "--" }, (char *)name, NULL };
    char *const detach[] = { (char[]){ PROGRAM_NAME }, (char[]){ "-uz" }, (char[]){ "--" }, (char *)name, NULL };

    return run_helper(dir_fd, lazy ? detach : plain, NULL, err);
}
