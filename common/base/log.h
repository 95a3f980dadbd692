/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Log messages. The monitor writes them to standard error (or syslog when daemonized); a worker holds neither and hands
 * each to its status pipe through a sink. The level and the sink are the only global state of the project.
 */
#ifndef BULKHEAD_BASE_LOG_H
#define BULKHEAD_BASE_LOG_H

#include "common/base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

#define LOG_TEXT_MAX 400

/* Takes one line without newline; may be called from any thread. */
typedef void log_sink_fn(enum log_level level, const char *text);

void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* NULL brings back standard error. */
void log_set_sink(log_sink_fn *sink);

void log_message(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...)   log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                                 \
    do {                                                                                                               \
        if (log_get_level() >= LOG_LEVEL_DEBUG)                                                                        \
            log_message(LOG_LEVEL_DEBUG, __VA_ARGS__);                                                                 \
    } while (0)

#endif
