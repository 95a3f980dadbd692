/* SPDX-License-Identifier: BSD-2-Clause */
/* See log-target.h. Nothing here may call what logs. */
#include "monitor/startup/log-target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "common/base/log.h"

#define SYSLOG_PATH     "/dev/log"
#define SYSLOG_RETRY_NS UINT64_C(1000000000) /* between two tries to connect */
#define LINE_MAX_BYTES  (LOG_TEXT_MAX + 200)

static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

static struct {
    bool (*put)(enum log_level level, const char *text); /* one line; whether it was taken */
    bool journal;
    bool detaches;  /* to syslog, when the daemon leaves its terminal */
    bool elsewhere; /* than on standard error */
    int fd;
    bool is_socket;
    bool may_block;        /* so that it is asked whether there is room */
    uint64_t connected_ns; /* when that was tried */
    unsigned lost;
} target = { .fd = -1 };

/* ---- Lines on a descriptor ---- */

static bool has_room(void)
{
    struct pollfd pfd = { .fd = target.fd, .events = POLLOUT };

    return !target.may_block || poll(&pfd, 1, 0) == 1;
}

/* Far shorter than PIPE_BUF: a pipe takes all of it or nothing. */
static bool put_line(enum log_level level, const char *text)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    char line[LINE_MAX_BYTES];
    int len = target.journal ? snprintf(line, sizeof(line), "<%d>%s\n", priorities[level], text)
                             : snprintf(line, sizeof(line), "bulkhead: %s: %s\n", names[level], text);
    size_t len_bytes = MIN((size_t)len, sizeof(line) - 1);

    if (!has_room())
        return false;
    if (target.is_socket)
        return send(target.fd, line, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
    return write(target.fd, line, len_bytes) > 0;
}

/*
 * O_NONBLOCK belongs to a description, which we share with whoever started us: pipes and terminals are opened anew, by
 * root too, but only for what the descriptor may do already. A descriptor, or -errno where that is not possible.
 */
static int reopen(int fd, mode_t type)
{
    char path[40];
    int flags = fcntl(fd, F_GETFL);
    int own;

    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || !(S_ISFIFO(type) || isatty(fd)))
        return -EBADF;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    own = open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return own >= 0 ? own : -errno;
}

static int use_standard_error(struct error *err)
{
    struct stat st = { 0 };
    int own;

    fstat(STDERR_FILENO, &st);
    target.is_socket = S_ISSOCK(st.st_mode);
    own = reopen(STDERR_FILENO, st.st_mode);
    target.may_block = own < 0 && !target.is_socket && !S_ISREG(st.st_mode);
    target.fd = own >= 0 ? own : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    target.put = put_line;
    return target.fd >= 0 ? 0 : error_set(err, -errno, "cannot keep standard error for the log: %s", strerror(errno));
}

static int use_file(const char *path, struct error *err)
{
    target.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
    target.put = put_line;
    return target.fd >= 0 ? 0 : error_set(err, -errno, "--log-to: cannot open '%s': %s", path, strerror(errno));
}

/* ---- The log daemon: RFC 3164 as it is spoken on /dev/log ---- */

static void connect_to_syslog(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = SYSLOG_PATH };
    uint64_t now = now_ns();

    if (target.connected_ns != 0 && now - target.connected_ns < SYSLOG_RETRY_NS)
        return;
    target.connected_ns = now;
    close_fd(&target.fd);
    target.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (target.fd >= 0 && connect(target.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        close_fd(&target.fd);
}

static bool put_datagram(enum log_level level, const char *text)
{
    char line[LINE_MAX_BYTES];
    char stamp[32] = "";
    time_t now = time(NULL);
    struct tm tm;
    int len;

    if (localtime_r(&now, &tm) != NULL)
        strftime(stamp, sizeof(stamp), "%b %e %T", &tm);
    len = snprintf(line, sizeof(line), "<%d>%s bulkhead[%d]: %s", LOG_DAEMON | priorities[level], stamp, (int)getpid(),
                   text);
    for (unsigned tries = 0; tries < 2; tries++) {
        if (target.fd < 0)
            connect_to_syslog();
        if (target.fd < 0)
            return false;
        if (send(target.fd, line, MIN((size_t)len, sizeof(line) - 1), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return true;
        if (errno == EAGAIN || errno == ENOBUFS) /* it is there, and does not read */
            return false;
        close_fd(&target.fd); /* it was started anew */
    }
    return false;
}

static void use_syslog(void)
{
    target.put = put_datagram;
    connect_to_syslog();
}

/* ---- All ---- */

static void take_line(enum log_level level, const char *text)
{
    char told[80];

    if (target.lost > 0) {
        snprintf(told, sizeof(told), "%u lines were lost, nobody took them", target.lost);
        if (target.put(LOG_LEVEL_WARNING, told))
            target.lost = 0;
    }
    if (target.lost > 0 || !target.put(level, text))
        target.lost++;
}

int log_target_open(const char *to, bool journal, struct error *err)
{
    int r = 0;

    target.journal = journal && (to == NULL || strcmp(to, "stderr") == 0);
    target.detaches = to == NULL;
    if (to == NULL || strcmp(to, "stderr") == 0)
        r = use_standard_error(err);
    else if (strcmp(to, "syslog") == 0)
        use_syslog();
    else
        r = use_file(to, err);
    if (r < 0)
        return r;
    target.elsewhere = to != NULL && strcmp(to, "stderr") != 0;
    log_set_sink(take_line);
    return 0;
}

void log_target_tell_failure(const char *text)
{
    log_error("%s", text);
    if (!target.elsewhere)
        return;
    log_set_sink(NULL);
    log_error("%s", text);
    log_set_sink(take_line);
}

void log_target_detach(void)
{
    if (!target.detaches)
        return;
    close_fd(&target.fd);
    use_syslog();
}
