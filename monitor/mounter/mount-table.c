/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/mount-table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static bool unescape(const char *text, size_t len, char *ret, size_t size)
{
    size_t out = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '\\' && len - i >= 4) {
            c = (unsigned char)((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
            i += 3;
        }
        if (out + 1 >= size)
            return false;
        ret[out++] = (char)c;
    }
    ret[out] = '\0';
    return true;
}

/* The next space-separated field of *at, without allocation; false at the end of the line. */
static bool next_field(const char **at, const char **ret_start, size_t *ret_len)
{
    size_t len = strcspn(*at, " \n");

    if (len == 0)
        return false;
    *ret_start = *at;
    *ret_len = len;
    *at += len;
    if (**at == ' ')
        (*at)++;
    return true;
}

static bool field_is(const char *start, size_t len, const char *text)
{
    return strlen(text) == len && memcmp(start, text, len) == 0;
}

static bool skip_fields(const char **at, unsigned count)
{
    const char *start;
    size_t len;

    while (count-- > 0) {
        if (!next_field(at, &start, &len))
            return false;
    }
    return true;
}

/* user_id= among the options of the super block. */
static void parse_user_id(const char *options, size_t len, struct mount_row *row)
{
    static const char key[] = "user_id=";

    for (size_t i = 0; i + sizeof(key) - 1 < len; i++) {
        if ((i == 0 || options[i - 1] == ',') && memcmp(options + i, key, sizeof(key) - 1) == 0) {
            row->user_id = (uint32_t)strtoul(options + i + sizeof(key) - 1, NULL, 10);
            row->has_user_id = true;
            return;
        }
    }
}

/* After the separator: type, source, options of the super block. */
static bool parse_type(const char *at, struct mount_row *row)
{
    const char *start;
    size_t len;

    if (!next_field(&at, &start, &len) || !unescape(start, len, row->type, sizeof(row->type)))
        return false;
    if (!next_field(&at, &start, &len))
        return false;
    unescape(start, MIN(len, sizeof(row->source) - 1), row->source, sizeof(row->source));
    if (next_field(&at, &start, &len))
        parse_user_id(start, len, row);
    return true;
}

bool mount_row_parse(const char *line, struct mount_row *ret_row)
{
    struct mount_row row = { .has_user_id = false };
    unsigned long long id, parent;
    const char *at = line, *start;
    size_t len;

    if (sscanf(line, "%llu %llu %u:%u ", &id, &parent, &row.dev_major, &row.dev_minor) != 4)
        return false;
    row.id = id;
    row.parent_id = parent;
    if (!skip_fields(&at, 4) || !next_field(&at, &start, &len) || !unescape(start, len, row.path, sizeof(row.path)))
        return false;
    /* Mount options, then any number of optional fields, then the separator. */
    do {
        if (!next_field(&at, &start, &len))
            return false;
    } while (!field_is(start, len, "-"));
    if (!parse_type(at, &row))
        return false;
    *ret_row = row;
    return true;
}

/* In large pieces, since a table that changes between two reads may show a row twice. */
static int read_all(int fd, char **ret_data)
{
    size_t size = 64 << 10, used = 0;
    _cleanup_free_ char *data = malloc(size);

    while (data != NULL) {
        ssize_t n = read(fd, data + used, size - used - 1);
        char *larger;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            data[used] = '\0';
            *ret_data = TAKE_PTR(data);
            return 0;
        }
        used += (size_t)n;
        if (size - used > 4096)
            continue;
        if (size >= MOUNT_TABLE_BYTES_MAX)
            return -EFBIG;
        larger = realloc(data, size * 2);
        if (larger == NULL)
            return -ENOMEM;
        data = larger;
        size *= 2;
    }
    return -ENOMEM;
}

int mount_table_read(const char *path, char **ret_table, struct error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r;

    if (fd < 0)
        return error_set(err, -errno, "cannot open %s: %s; is /proc mounted?", path, strerror(errno));
    r = read_all(fd, ret_table);
    if (r < 0)
        return error_set(err, r, "cannot read %s: %s", path, strerror(-r));
    return 0;
}

bool mount_table_next(const char **at, struct mount_row *ret_row)
{
    while (**at != '\0') {
        const char *line = *at, *end = strchr(line, '\n');

        *at = end == NULL ? line + strlen(line) : end + 1;
        if (mount_row_parse(line, ret_row))
            return true;
    }
    return false;
}

/* Calls match for each row until it returns true; true then. */
static bool find_row(const char *table, bool (*match)(const struct mount_row *row, const void *arg), const void *arg,
                     struct mount_row *ret_row)
{
    struct mount_row row;

    while (mount_table_next(&table, &row)) {
        if (match(&row, arg)) {
            *ret_row = row;
            return true;
        }
    }
    return false;
}

static bool match_id(const struct mount_row *row, const void *arg)
{
    return row->id == *(const uint64_t *)arg;
}

bool mount_table_find(const char *table, uint64_t id, struct mount_row *ret_row)
{
    return find_row(table, match_id, &id, ret_row);
}

static bool match_on_top(const struct mount_row *row, const void *arg)
{
    const struct mount_row *below = arg;

    return row->parent_id == below->id && row->id != below->id && strcmp(row->path, below->path) == 0;
}

bool mount_table_is_covered(const char *table, const struct mount_row *row)
{
    struct mount_row top;

    return find_row(table, match_on_top, row, &top);
}
