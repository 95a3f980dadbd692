/* SPDX-License-Identifier: BSD-2-Clause */
#include "common/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

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

void log_message(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
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
        fprintf(stderr, "bulkhead: %s: %s\n", names[level], text);
    errno = saved_errno;
}
