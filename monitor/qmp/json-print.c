/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON out. The tree is our own or has passed the lexer; its strings may still hold any bytes but NUL.
 */
#include "monitor/qmp/json-print.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/util.h"

struct output {
    char *text;
    size_t len;
    size_t size;
    bool pretty;
    bool failed; /* out of memory */
};

static void put(struct output *out, const char *bytes, size_t len)
{
    if (out->failed)
        return;
    if (out->size - out->len <= len) { /* with room for a NUL */
        size_t size = MAX(2 * out->size, out->len + len + 256);
        char *text = realloc(out->text, size);

        if (text == NULL) {
            out->failed = true;
            return;
        }
        out->text = text;
        out->size = size;
    }
    memcpy(out->text + out->len, bytes, len);
    out->len += len;
    out->text[out->len] = '\0';
}

static void put_text(struct output *out, const char *text)
{
    put(out, text, strlen(text));
}

static void put_format(struct output *out, const char *fmt, ...) _printf_(2, 3);

static void put_format(struct output *out, const char *fmt, ...)
{
    char text[64];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    put_text(out, text);
}

static void put_line(struct output *out, unsigned level)
{
    if (out->pretty)
        put_format(out, "\n%*s", (int)(4 * level), "");
}

/* ---- Strings ---- */

/* The code point at *p, which is moved on; U+FFFD for a byte that begins none (RFC 3629, section 4). */
static uint32_t next_codepoint(const uint8_t **p)
{
    static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
    uint8_t first = *(*p)++;
    unsigned more = first < 0xc0 ? 0 : (first < 0xe0 ? 1 : (first < 0xf0 ? 2 : 3));
    uint32_t c = first < 0x80 ? first : first & (0x3fu >> more);

    if (first >= 0x80 && (more == 0 || first > 0xf4))
        return 0xfffd;
    for (unsigned i = 0; i < more; i++) {
        if (((*p)[i] & 0xc0) != 0x80) /* the NUL at the end, too */
            return 0xfffd;
        c = c << 6 | ((*p)[i] & 0x3f);
    }
    if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0xfffd;
    *p += more;
    return c;
}

static void put_codepoint(struct output *out, uint32_t c)
{
    static const char letters[] = "\"\\bfnrt";
    static const char meanings[] = "\"\\\b\f\n\r\t";
    const char *escape = c < 0x80 ? memchr(meanings, (int)c, sizeof(meanings) - 1) : NULL;
    char byte = (char)c;

    if (escape != NULL)
        put_format(out, "\\%c", letters[escape - meanings]);
    else if (c >= 0x20 && c < 0x7f)
        put(out, &byte, 1);
    else if (c < 0x10000)
        put_format(out, "\\u%04x", c);
    else
        put_format(out, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
}

static void put_string(struct output *out, const char *text)
{
    const uint8_t *p = (const uint8_t *)text;

    put(out, "\"", 1);
    while (*p != '\0')
        put_codepoint(out, next_codepoint(&p));
    put(out, "\"", 1);
}

/* ---- Values ---- */

static void put_number(struct output *out, const struct cJSON *json)
{
    double value = json->valuedouble;

    if (json->valuestring != NULL) /* as a client wrote it, see json_lexer_feed() */
        put_text(out, json->valuestring);
    else if (value == floor(value) && fabs(value) <= 9007199254740992.0)
        put_format(out, "%" PRId64, (int64_t)value);
    else
        put_format(out, "%.17g", value);
}

static void put_value(struct output *out, const struct cJSON *json, unsigned level);

/* The children of an object or array. */
static void put_children(struct output *out, const struct cJSON *json, unsigned level)
{
    const char *brackets = cJSON_IsObject(json) ? "{}" : "[]";
    const struct cJSON *child;

    put(out, brackets, 1);
    cJSON_ArrayForEach(child, json)
    {
        if (child != json->child)
            put_text(out, out->pretty ? "," : ", ");
        put_line(out, level + 1);
        if (cJSON_IsObject(json)) {
            put_string(out, child->string);
            put_text(out, ": ");
        }
        put_value(out, child, level + 1);
    }
    if (json->child != NULL)
        put_line(out, level);
    put(out, brackets + 1, 1);
}

static void put_value(struct output *out, const struct cJSON *json, unsigned level)
{
    if (cJSON_IsObject(json) || cJSON_IsArray(json))
        put_children(out, json, level);
    else if (cJSON_IsString(json))
        put_string(out, json->valuestring);
    else if (cJSON_IsNumber(json))
        put_number(out, json);
    else if (cJSON_IsRaw(json)) /* an integer that schema_encode() wrote */
        put_text(out, json->valuestring);
    else if (cJSON_IsBool(json))
        put_text(out, cJSON_IsTrue(json) ? "true" : "false");
    else
        put_text(out, "null");
}

char *json_print(const struct cJSON *json, bool pretty, size_t *ret_len)
{
    struct output out = { .pretty = pretty };

    put_value(&out, json, 0);
    if (out.failed) {
        free(out.text);
        return NULL;
    }
    *ret_len = out.len;
    return out.text;
}
