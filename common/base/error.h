/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors: functions return 0 or -errno and describe what went wrong in a struct error of the caller. No allocation, so
 * that reporting an error cannot fail.
 *
 *     return error_set(err, -ENOENT, "node '%s' does not exist", name);
 *
 * err may be NULL wherever a function takes one. Context is added on the way up with error_prepend().
 */
#ifndef BULKHEAD_BASE_ERROR_H
#define BULKHEAD_BASE_ERROR_H

#include "common/base/util.h"

/* The error classes of the QMP specification (QapiErrorClass). */
enum error_class {
    ERROR_CLASS_GENERIC,
    ERROR_CLASS_COMMAND_NOT_FOUND,
    ERROR_CLASS_DEVICE_NOT_ACTIVE,
    ERROR_CLASS_DEVICE_NOT_FOUND,
    ERROR_CLASS_KVM_MISSING_CAP,
    ERROR_CLASS_MAX,
};

#define ERROR_TEXT_MAX 512

struct error {
    enum error_class class;
    int code;                  /* -errno */
    char text[ERROR_TEXT_MAX]; /* without a full stop or newline; cut, never overrun */
};

/* Fill *err (class generic) and return code, which must be negative. */
int error_set(struct error *err, int code, const char *fmt, ...) _printf_(3, 4);

/* The same with a QMP class. */
int error_set_class(struct error *err, int code, enum error_class class, const char *fmt, ...) _printf_(4, 5);

/* Put "context: " before the text. Returns err's code, so that it can end a function. */
int error_prepend(struct error *err, const char *fmt, ...) _printf_(2, 3);

/* Put more behind the text. Returns err's code. */
int error_append(struct error *err, const char *fmt, ...) _printf_(2, 3);

/* The name of a class as QMP spells it. */
const char *error_class_name(enum error_class class);

#endif
