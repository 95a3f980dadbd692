/* SPDX-License-Identifier: BSD-2-Clause */
#include "common/base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level current_level = LOG_LEVEL_INFO;
static log_sink_fn *current_sink;

void log_set_level(enum log_level level)
{
    current_level = level;
}

enum log_level log_get_level(void)
{
    return current_level;
}

void log_set_sink(log_sink_fn *sink)
{
    current_sink = sink;
}

/*
 * Whoever started us may have a pipe there and not read it, and clients of the network can cause lines: a line that has
 * no room is dropped rather than waited for. A pipe that is writable takes all of what is below PIPE_BUF.
 */
static void write_to_standard_error(enum log_level level, const char *text)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    static unsigned lost;
    struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };
    char lines[LOG_TEXT_MAX + 128];
    size_t len = 0;

    if (poll(&pfd, 1, 0) == 0) {
        lost++;
        return;
    }
    if (lost > 0)
        len = (size_t)snprintf(lines, sizeof(lines), "bulkhead: warning: %u lines were lost, nobody read them\n", lost);
    len += (size_t)snprintf(lines + len, sizeof(lines) - len, "bulkhead: %s: %s\n", names[level], text);
    lost = write(STDERR_FILENO, lines, MIN(len, sizeof(lines) - 1)) < 0 ? lost + 1 : 0;
}

void log_message(enum log_level level, const char *fmt, ...)
{
    int saved_errno = errno;
    char text[LOG_TEXT_MAX];
    va_list args;

    if (level > current_level)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (current_sink != NULL)
        current_sink(level, text);
    else
        write_to_standard_error(level, text);
    errno = saved_errno;
}
