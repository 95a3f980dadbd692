/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A strict, incremental JSON reader: characters to tokens. It trusts no byte. cJSON's own parser never sees input (it
 * takes duplicate keys, rounds integers above 2^53, cuts strings at an escaped NUL and does not check UTF-8): the tree
 * is built here, while reading (json-tree.c), so that there are no two readers that could differ. What is held of a
 * message is bounded by the limits in the header.
 *
 * After an error only brackets are counted until the broken message is over.
 */
#include "monitor/qmp/json-lexer.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/json-tree.h"

/* Where the characters are. */
enum token_state {
    TOKEN_NONE,
    TOKEN_STRING,
    TOKEN_ESCAPE,  /* after a backslash */
    TOKEN_HEX,     /* in the four digits of \u */
    TOKEN_WORD,    /* number, true, false, null */
    TOKEN_GARBAGE, /* after an error outside of brackets */
};

struct json_lexer {
    enum token_state token;
    char quote;          /* that ends the string */
    unsigned hex_digits; /* seen of \u */
    uint32_t hex_value;
    uint32_t high_surrogate; /* of a pair whose second half must follow; 0: none */
    unsigned utf8_left;      /* continuation bytes to come */
    uint8_t utf8_min;        /* range of the next one */
    uint8_t utf8_max;
    char *text; /* string so far, unescaped, not terminated; or word */
    size_t text_len;
    size_t text_size;
    size_t message_bytes; /* since the first byte of the message */

    struct json_tree tree;

    bool skipping; /* after an error within brackets, so many of which are open */
    size_t open_braces;
    size_t open_brackets;

    struct error *err; /* of the call that is running */
};

/* ---- Errors and skipping ---- */

/* Known-good: between two messages. */
static void reset(struct json_lexer *lexer)
{
    json_tree_clear(&lexer->tree);
    lexer->token = TOKEN_NONE;
    lexer->utf8_left = 0;
    lexer->high_surrogate = 0;
    lexer->message_bytes = 0;
    lexer->skipping = false;
    free_wiped(lexer->text);
    lexer->text = NULL;
    lexer->text_len = lexer->text_size = 0;
}

/* Where the characters are once the message is broken: a string goes on, so that brackets in it do not count. */
static enum token_state token_while_skipping(enum token_state token)
{
    return token == TOKEN_STRING || token == TOKEN_ESCAPE || token == TOKEN_HEX ? TOKEN_STRING : TOKEN_NONE;
}

/* The message is broken: say so, and skip what is left of it. */
static int fail(struct json_lexer *lexer, const char *problem)
{
    int code = problem == json_out_of_memory ? -ENOMEM : -EINVAL;

    error_set(lexer->err, code, "invalid JSON at byte %zu: %s", lexer->message_bytes, problem);
    lexer->open_braces = lexer->open_brackets = 0;
    for (unsigned i = 0; i < lexer->tree.depth; i++) {
        if (cJSON_IsObject(lexer->tree.stack[i]))
            lexer->open_braces++;
        else
            lexer->open_brackets++;
    }
    lexer->skipping = lexer->tree.depth > 0;
    lexer->token = lexer->skipping ? token_while_skipping(lexer->token) : TOKEN_GARBAGE;
    json_tree_clear(&lexer->tree);
    lexer->text_len = 0;
    lexer->utf8_left = 0;
    lexer->high_surrogate = 0;
    return code;
}

static int check(struct json_lexer *lexer, const char *problem)
{
    return problem != NULL ? fail(lexer, problem) : 0;
}

/* A byte of a message that is broken and was inside brackets: only brackets outside of strings count. */
static void skip_byte(struct json_lexer *lexer, uint8_t c)
{
    bool over = false;

    if (lexer->token == TOKEN_ESCAPE) {
        lexer->token = TOKEN_STRING;
    } else if (lexer->token == TOKEN_STRING) {
        if (c == '\\')
            lexer->token = TOKEN_ESCAPE;
        else if (c == (uint8_t)lexer->quote || c == '\n' || c == '\r')
            lexer->token = TOKEN_NONE; /* no string goes over a line's end: that one was never closed */
    } else if (c == '"' || c == '\'') {
        lexer->token = TOKEN_STRING;
        lexer->quote = (char)c;
    } else if (c == '{') {
        lexer->open_braces++;
    } else if (c == '[') {
        lexer->open_brackets++;
    } else if (c == '}') {
        over = lexer->open_braces == 0 || --lexer->open_braces + lexer->open_brackets == 0;
    } else if (c == ']') {
        over = lexer->open_brackets == 0 || --lexer->open_brackets + lexer->open_braces == 0;
    }
    if (over)
        reset(lexer);
}

/* ---- Strings ---- */

static int append(struct json_lexer *lexer, const char *bytes, size_t len_bytes)
{
    if (lexer->text_size - lexer->text_len < len_bytes) {
        size_t size = MAX(2 * lexer->text_size, (size_t)128);
        char *text = malloc(size); /* realloc() leaves a copy behind */

        if (text == NULL)
            return fail(lexer, json_out_of_memory);
        if (lexer->text_len > 0)
            memcpy(text, lexer->text, lexer->text_len);
        free_wiped(lexer->text);
        lexer->text = text;
        lexer->text_size = size;
    }
    memcpy(lexer->text + lexer->text_len, bytes, len_bytes);
    lexer->text_len += len_bytes;
    return 0;
}

static int append_codepoint(struct json_lexer *lexer, uint32_t c)
{
    char utf8[4];
    size_t len = c < 0x80 ? 1 : (c < 0x800 ? 2 : (c < 0x10000 ? 3 : 4));
    static const uint8_t first[] = { 0, 0, 0xc0, 0xe0, 0xf0 };

    for (size_t i = len - 1; i > 0; i--) {
        utf8[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    utf8[0] = (char)(first[len] | c);
    return append(lexer, utf8, len);
}

/* \u is complete. */
static int finish_hex(struct json_lexer *lexer)
{
    uint32_t c = lexer->hex_value;
    uint32_t high = lexer->high_surrogate;
    bool is_low = c >= 0xdc00 && c <= 0xdfff;

    lexer->token = TOKEN_STRING;
    lexer->high_surrogate = 0;
    if (is_low != (high != 0))
        return fail(lexer, "a surrogate is alone");
    if (is_low)
        return append_codepoint(lexer, 0x10000 + ((high - 0xd800) << 10) + (c - 0xdc00));
    if (c == 0)
        return fail(lexer, "\\u0000 is not allowed");
    if (c < 0xd800 || c > 0xdbff)
        return append_codepoint(lexer, c);
    lexer->high_surrogate = c;
    return 0;
}

static int feed_hex(struct json_lexer *lexer, uint8_t c)
{
    int digit = isdigit(c) ? c - '0' : tolower(c) - 'a' + 10;

    if (!isxdigit(c))
        return fail(lexer, "\\u needs four hexadecimal digits");
    lexer->hex_value = lexer->hex_value << 4 | (uint32_t)digit;
    return ++lexer->hex_digits == 4 ? finish_hex(lexer) : 0;
}

static int feed_escape(struct json_lexer *lexer, uint8_t c)
{
    static const char letters[] = "bfnrt\"\\/'"; /* \' is QMP's own */
    static const char meanings[] = "\b\f\n\r\t\"\\/'";
    const char *p = memchr(letters, c, sizeof(letters) - 1);

    lexer->token = TOKEN_STRING;
    if (c == 'u') {
        lexer->token = TOKEN_HEX;
        lexer->hex_digits = 0;
        lexer->hex_value = 0;
        return 0;
    }
    if (lexer->high_surrogate != 0)
        return fail(lexer, "a surrogate is alone");
    if (p == NULL)
        return fail(lexer, "a backslash is followed by what cannot be escaped");
    return append(lexer, &meanings[p - letters], 1);
}

/* The first byte of a character of several: RFC 3629, section 4. */
static int begin_utf8(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (c < 0xc2 || c > 0xf4)
        return fail(lexer, "the text is not UTF-8");
    lexer->utf8_left = c < 0xe0 ? 1 : (c < 0xf0 ? 2 : 3);
    lexer->utf8_min = c == 0xe0 ? 0xa0 : (c == 0xf0 ? 0x90 : 0x80); /* no overlong forms */
    lexer->utf8_max = c == 0xed ? 0x9f : (c == 0xf4 ? 0x8f : 0xbf); /* no surrogates, nothing above U+10FFFF */
    return append(lexer, &byte, 1);
}

static int continue_utf8(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (c < lexer->utf8_min || c > lexer->utf8_max)
        return fail(lexer, "the text is not UTF-8");
    lexer->utf8_left--;
    lexer->utf8_min = 0x80;
    lexer->utf8_max = 0xbf;
    return append(lexer, &byte, 1);
}

static int finish_string(struct json_lexer *lexer)
{
    lexer->token = TOKEN_NONE;
    return check(lexer,
                 json_tree_string(&lexer->tree, strndup(lexer->text != NULL ? lexer->text : "", lexer->text_len)));
}

static int feed_string(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (lexer->utf8_left > 0)
        return continue_utf8(lexer, c);
    if (lexer->high_surrogate != 0 && c != '\\')
        return fail(lexer, "a surrogate is alone");
    if (c < 0x20)
        return fail(lexer, "a control character in a string must be escaped");
    if (c == (uint8_t)lexer->quote)
        return finish_string(lexer);
    if (c >= 0x80)
        return begin_utf8(lexer, c);
    if (c != '\\')
        return append(lexer, &byte, 1);
    lexer->token = TOKEN_ESCAPE;
    return 0;
}

static int begin_string(struct json_lexer *lexer, uint8_t quote)
{
    int r = check(lexer, json_tree_check_string(&lexer->tree));

    if (r < 0)
        return r;
    lexer->token = TOKEN_STRING;
    lexer->quote = (char)quote;
    lexer->text_len = 0;
    return 0;
}

/* ---- Other tokens ---- */

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_word(uint8_t c)
{
    return c < 0x80 && (isalnum(c) || c == '-' || c == '+' || c == '.' || c == '_');
}

/* Bytes by which a client forces us into a known-good state. */
static bool is_resync(uint8_t c)
{
    return (c < 0x20 && !is_space(c)) || c >= 0xfe;
}

static int feed_word(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (lexer->text_len == JSON_TOKEN_MAX)
        return fail(lexer, "a number or word is too long");
    return append(lexer, &byte, 1);
}

static int finish_word(struct json_lexer *lexer)
{
    char text[JSON_TOKEN_MAX + 1];

    memcpy(text, lexer->text, lexer->text_len);
    text[lexer->text_len] = '\0';
    lexer->token = TOKEN_NONE;
    return check(lexer, json_tree_word(&lexer->tree, text));
}

static int begin_token(struct json_lexer *lexer, uint8_t c)
{
    switch (c) {
    case '{':
    case '[':
        return check(lexer, json_tree_open(&lexer->tree, c == '{'));
    case '}':
    case ']':
        return check(lexer, json_tree_close(&lexer->tree, c == '}'));
    case ',':
        return check(lexer, json_tree_comma(&lexer->tree));
    case ':':
        return check(lexer, json_tree_colon(&lexer->tree));
    case '"':
    case '\'':
        return begin_string(lexer, c);
    default:
        break;
    }
    if (!is_word(c))
        return fail(lexer, c < 0x80 ? "this character has no place here" : "a byte beyond ASCII outside of a string");
    lexer->token = TOKEN_WORD;
    lexer->text_len = 0;
    return feed_word(lexer, c);
}

/* ---- Bytes ---- */

/* A byte of a message that is not broken. */
static int feed_byte(struct json_lexer *lexer, uint8_t c)
{
    if (lexer->message_bytes > JSON_MESSAGE_BYTES_MAX)
        return fail(lexer, "the message is too long");
    switch (lexer->token) {
    case TOKEN_STRING:
        return feed_string(lexer, c);
    case TOKEN_ESCAPE:
        return c >= 0x20 ? feed_escape(lexer, c) : fail(lexer, "a backslash at a line's end");
    case TOKEN_HEX:
        return feed_hex(lexer, c);
    case TOKEN_WORD:
        return feed_word(lexer, c);
    default:
        return is_space(c) ? 0 : begin_token(lexer, c);
    }
}

/* A byte after an error outside of brackets. False: it begins a new message. */
static bool skip_garbage(struct json_lexer *lexer, uint8_t c)
{
    if (c != '\n' && c != '\r' && c != '{')
        return true;
    reset(lexer);
    lexer->message_bytes = c == '{';
    return c != '{';
}

static int take_resync(struct json_lexer *lexer, uint8_t c)
{
    bool told = lexer->skipping || lexer->token == TOKEN_GARBAGE;
    int r = 0;

    if (!told)
        r = fail(lexer, c >= 0xfe ? "a byte that UTF-8 never has" : "a control character");
    reset(lexer);
    return r;
}

/* Take one byte; 0, or -errno for an error that is to be told. */
static int take_byte(struct json_lexer *lexer, uint8_t c)
{
    enum token_state before = lexer->token;
    int r;

    if (is_resync(c))
        return take_resync(lexer, c);
    if (lexer->skipping) {
        skip_byte(lexer, c);
        return 0;
    }
    if (lexer->token == TOKEN_GARBAGE && skip_garbage(lexer, c))
        return 0;
    r = feed_byte(lexer, c);
    if (r < 0 && lexer->skipping) {
        /* The byte that broke the message counts among what is skipped, unless it has done all it does. */
        bool escaped = before == TOKEN_ESCAPE && c >= 0x20;
        bool closed = before == TOKEN_STRING && lexer->token == TOKEN_NONE;

        if (!escaped && !closed)
            skip_byte(lexer, c);
    } else if (r < 0 && (c == '\n' || c == '\r')) {
        reset(lexer);
    }
    return r;
}

enum json_result json_lexer_feed(struct json_lexer *lexer, const char *data, size_t len_bytes, size_t *ret_used,
                                 struct cJSON **ret_value, struct error *err)
{
    size_t used = 0;
    int r = 0;
    struct cJSON *value = NULL;

    lexer->err = err;
    while (used < len_bytes && r == 0 && value == NULL) {
        uint8_t c = (uint8_t)data[used];

        if (lexer->token == TOKEN_WORD && !is_word(c)) {
            r = finish_word(lexer); /* the byte that ends a word is not part of it */
        } else {
            used++;
            if (lexer->message_bytes > 0 || !is_space(c))
                lexer->message_bytes++;
            r = take_byte(lexer, c);
        }
        if (r == 0)
            value = json_tree_take(&lexer->tree);
    }
    lexer->err = NULL;
    *ret_used = used;
    if (r < 0)
        return JSON_ERROR;
    if (value == NULL)
        return JSON_MORE;
    reset(lexer);
    *ret_value = value;
    return JSON_VALUE;
}

struct json_lexer *json_lexer_new(void)
{
    return calloc(1, sizeof(struct json_lexer));
}

void json_lexer_free(struct json_lexer *lexer)
{
    if (lexer == NULL)
        return;
    reset(lexer);
    free(lexer);
}

bool json_lexer_is_inside(const struct json_lexer *lexer)
{
    return lexer->skipping || lexer->tree.depth > 0 || (lexer->token != TOKEN_NONE && lexer->token != TOKEN_GARBAGE);
}

/* ---- A whole text ---- */

/* Whether anything but white space follows. */
static bool more_follows(const char *text, size_t len_bytes)
{
    for (size_t i = 0; i < len_bytes; i++) {
        if (!is_space((uint8_t)text[i]))
            return true;
    }
    return false;
}

int json_parse(const char *text, size_t len_bytes, struct cJSON **ret_value, struct error *err)
{
    struct json_lexer *lexer = json_lexer_new();
    struct cJSON *value = NULL;
    enum json_result result;
    size_t used = 0;
    size_t ignored;

    if (lexer == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    result = json_lexer_feed(lexer, text, len_bytes, &used, &value, err);
    if (result == JSON_MORE) /* what follows a number or word at the very end completes it */
        result = json_lexer_feed(lexer, "\n", 1, &ignored, &value, err);
    json_lexer_free(lexer);
    if (result == JSON_ERROR)
        return -EINVAL;
    if (result == JSON_MORE)
        return error_set(err, -EINVAL, "invalid JSON: it ends too early");
    if (more_follows(text + used, len_bytes - used)) {
        cJSON_Delete(value);
        return error_set(err, -EINVAL, "invalid JSON at byte %zu: there is more after the value", used + 1);
    }
    *ret_value = value;
    return 0;
}
