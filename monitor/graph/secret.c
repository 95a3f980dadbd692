/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Objects of type secret. The bytes stay in the monitor's memory until the object is removed, and are overwritten then;
 * nothing of them is logged or shown.
 */
#include <errno.h>
#include <string.h>

#include "monitor/graph/files.h"
#include "monitor/graph/objects-private.h"
#include "monitor/monitor.h"

#define SECRET_BYTES_MAX 65536

struct secret {
    size_t len_bytes;
    uint8_t data[];
};

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;

    return at != NULL ? (int)(at - digits) : -1;
}

int secret_decode_base64(const char *text, size_t len, uint8_t *ret, size_t *ret_len_bytes, struct error *err)
{
    uint32_t bits = 0;
    unsigned bit_count = 0;
    unsigned digits = 0;
    unsigned padding = 0;
    size_t used = 0;

    for (size_t i = 0; i < len; i++) {
        int digit = base64_digit(text[i]);

        if (text[i] == '\n')
            continue;
        if (text[i] == '=' ? digits % 4 < 2 || ++padding > 2 : digit < 0 || padding > 0)
            return error_set(err, -EINVAL, "byte %zu does not belong there in base64", i);
        digits++;
        if (digit < 0)
            continue;
        bits = bits << 6 | (uint32_t)digit;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            ret[used++] = (uint8_t)(bits >> bit_count);
        }
    }
    if (digits % 4 != 0 || (bits & ((1u << bit_count) - 1)) != 0)
        return error_set(err, -EINVAL, "the base64 ends in the middle of a byte");
    *ret_len_bytes = used;
    return 0;
}

static int store(const char *text, size_t len, enum secret_format format, struct secret **ret_secret, struct error *err)
{
    struct secret *secret;
    int r = 0;

    if (len > SECRET_BYTES_MAX)
        return error_set(err, -E2BIG, "a secret may have at most %d bytes", SECRET_BYTES_MAX);
    secret = calloc(1, sizeof(*secret) + len + 1);
    if (secret == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    if (format == SECRET_FORMAT_BASE64) {
        r = secret_decode_base64(text, len, secret->data, &secret->len_bytes, err);
    } else {
        memcpy(secret->data, text, len);
        secret->len_bytes = len;
    }
    if (r < 0) {
        free_wiped(secret);
        return r;
    }
    *ret_secret = secret;
    return 0;
}

/* An object of this type. */
struct secret_object {
    struct opener_task *reading; /* NULL: it was, or there is no file */
    enum secret_format format;
    char *filename;
    struct secret *secret; /* NULL while it is read */
};

static void secret_free(struct object *object)
{
    struct secret_object *own = object->priv;

    if (own->reading != NULL) {
        opener_task_forget(own->reading, object);
        opener_task_end(own->reading, NULL, NULL);
    }
    free(own->filename);
    free_wiped(own->secret);
    free(own);
}

static void file_read(void *opaque, const struct opener_reply *reply, int fd)
{
    struct object *object = opaque;
    struct secret_object *own = object->priv;
    struct error err = { 0 };
    char *text = NULL;
    size_t len = 0;
    int r = reply->code < 0 ? files_error(reply, own->filename, &err) : files_take(fd, SECRET_BYTES_MAX, &text, &len, &err);

    opener_task_end(TAKE_PTR(own->reading), NULL, NULL);
    if (r == 0)
        r = store(text, len, own->format, &own->secret, &err);
    free_wiped(text);
    object_made(object, r < 0 ? &err : NULL);
}

static int start_to_read(struct object *object, const char *filename, struct error *err)
{
    struct secret_object *own = object->priv;
    int r;

    own->filename = strdup(filename);
    if (own->filename == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = opener_task_new(object->set->monitor->opener, NULL, NULL, &own->reading, err);
    if (r == 0)
        r = files_read(own->reading, filename, SECRET_BYTES_MAX, file_read, object, err);
    return r < 0 ? r : OBJECT_PENDING;
}

static int secret_make(struct object *object, const struct object_options *options, struct error *err)
{
    const struct secret_options *from = &options->secret;
    struct secret_object *own = calloc(1, sizeof(*own));
    int r;

    if (own == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    own->format = from->format;
    object->priv = own;
    if (from->file == NULL)
        r = store(from->data, strlen(from->data), from->format, &own->secret, err);
    else
        r = start_to_read(object, from->file, err);
    if (r < 0)
        secret_free(object);
    return r;
}

int secret_get(const struct object_set *set, const char *id, const uint8_t **ret_data, size_t *ret_len_bytes,
               struct error *err)
{
    const struct object *object = object_find(set, id);
    const struct secret *secret;

    if (object == NULL)
        return error_set(err, -ENOENT, "No secret with id '%.100s'", id);
    if (object->type != &object_type_secret)
        return error_set(err, -EINVAL, "object '%.100s' is no secret", id);
    secret = ((const struct secret_object *)object->priv)->secret;
    *ret_data = secret->data;
    *ret_len_bytes = secret->len_bytes;
    return 0;
}

const struct object_type object_type_secret = {
    .id = OBJECT_TYPE_SECRET,
    .make = secret_make,
    .free = secret_free,
};
