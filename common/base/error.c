/* SPDX-License-Identifier: BSD-2-Clause */
#include "common/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[ERROR_CLASS_MAX] = {
    [ERROR_CLASS_GENERIC] = "GenericError",
    [ERROR_CLASS_COMMAND_NOT_FOUND] = "CommandNotFound",
    [ERROR_CLASS_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    [ERROR_CLASS_DEVICE_NOT_FOUND] = "DeviceNotFound",
    [ERROR_CLASS_KVM_MISSING_CAP] = "KVMMissingCap",
};

static void _printf_(4, 0)
    error_fill(struct error *err, int code, enum error_class class, const char *fmt, va_list args)
{
    if (err == NULL)
        return;
    err->class = class;
    err->code = code;
    vsnprintf(err->text, sizeof(err->text), fmt, args);
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    error_fill(err, code, ERROR_CLASS_GENERIC, fmt, args);
    va_end(args);
    return code;
}

int error_set_class(struct error *err, int code, enum error_class class, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    error_fill(err, code, class, fmt, args);
    va_end(args);
    return code;
}

int error_prepend(struct error *err, const char *fmt, ...)
{
    char context[ERROR_TEXT_MAX];
    char text[ERROR_TEXT_MAX];
    va_list args;

    if (err == NULL)
        return -1;
    va_start(args, fmt);
    vsnprintf(context, sizeof(context), fmt, args);
    va_end(args);
    memcpy(text, err->text, sizeof(text));
    /* A cut text is still a text: context first, since it names the object at fault. */
    if (snprintf(err->text, sizeof(err->text), "%s: %s", context, text) >= (int)sizeof(err->text))
        err->text[sizeof(err->text) - 1] = '\0';
    return err->code;
}

int error_append(struct error *err, const char *fmt, ...)
{
    size_t len;
    va_list args;

    if (err == NULL)
        return -1;
    len = strlen(err->text);
    va_start(args, fmt);
    vsnprintf(err->text + len, sizeof(err->text) - len, fmt, args);
    va_end(args);
    return err->code;
}

const char *error_class_name(enum error_class class)
{
    return class_names[class];
}
