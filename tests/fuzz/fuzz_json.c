/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The JSON reader and printer: any bytes, in chunks of a size that the first byte says. What comes out must not depend
 * on the chunks, and what was read and printed must be read as the same again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-lexer.h"
#include "monitor/qmp/json-print.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All values and errors, printed one after the other. */
struct transcript {
    char *text;
    size_t len;
};

static void add(struct transcript *transcript, const char *text, size_t len)
{
    char *grown = realloc(transcript->text, transcript->len + len + 1);

    assert(grown != NULL);
    memcpy(grown + transcript->len, text, len);
    transcript->text = grown;
    transcript->len += len;
}

static void check_round_trip(const struct cJSON *value, const char *text, size_t len)
{
    struct cJSON *again = NULL;
    struct error err;
    size_t again_len;
    char *again_text;

    assert(json_parse(text, len, &again, &err) == 0);
    assert(cJSON_Compare(value, again, true));
    again_text = json_print(again, false, &again_len);
    assert(again_len == len && memcmp(text, again_text, len) == 0);
    free(again_text);
    cJSON_Delete(again);
}

static void check_ascii(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        assert(text[i] >= 0x20 && text[i] < 0x7f);
}

static void take_value(struct cJSON *value, struct transcript *transcript)
{
    size_t len;
    char *text = json_print(value, false, &len);

    check_ascii(text, len);
    /* Escapes make a text longer; it may then be beyond what is read. */
    if (len <= JSON_MESSAGE_BYTES_MAX)
        check_round_trip(value, text, len);
    add(transcript, text, len);
    free(text);
    cJSON_Delete(value);
}

static struct transcript read_all(const char *data, size_t size, size_t chunk)
{
    struct json_lexer *lexer = json_lexer_new();
    struct transcript transcript = { NULL, 0 };
    size_t at = 0;

    while (at < size) {
        size_t len = size - at < chunk ? size - at : chunk;
        struct cJSON *value = NULL;
        struct error err = { 0 };
        size_t used = 0;
        enum json_result result = json_lexer_feed(lexer, data + at, len, &used, &value, &err);

        assert(used <= len && (result != JSON_MORE || used == len));
        at += used;
        if (result == JSON_VALUE)
            take_value(value, &transcript);
        else if (result == JSON_ERROR)
            add(&transcript, err.text, strlen(err.text));
    }
    json_lexer_free(lexer);
    return transcript;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct transcript whole;
    struct transcript pieces;

    if (size == 0)
        return 0;
    whole = read_all((const char *)data + 1, size - 1, SIZE_MAX);
    pieces = read_all((const char *)data + 1, size - 1, (size_t)data[0] + 1);
    assert(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.text, pieces.text, whole.len) == 0));
    free(whole.text);
    free(pieces.text);
    return 0;
}
