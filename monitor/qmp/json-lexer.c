/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A strict, incremental JSON reader: characters to tokens. It trusts no byte. cJSON's own parser never sees input (it
 * takes duplicate keys, rounds integers above 2^53, cuts strings at an escaped NUL and does not check UTF-8): the tree
 * is built here, while reading (json-tree.c), so that there are no two readers that could differ. What is held of a
 * message is bounded by the limits in the header.
 *
 * There are two kinds of errors. What breaks the grammar breaks its message: the rest of it is read on as tokens, of
 * which only brackets count, and the error is told once at its end. A character that is part of no token ends the
 * message at once, and what follows is skipped up to a structural character or a line's end.
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
    TOKEN_ESCAPE, /* after a backslash */
    TOKEN_HEX,    /* in the four digits of \u */
    TOKEN_NUMBER,
    TOKEN_WORD,     /* true, false, null */
    TOKEN_RECOVERY, /* after a character that is part of no token */
};

/* RFC 8259, section 6: what of a number has been seen. */
enum number_state {
    NUMBER_MINUS,
    NUMBER_ZERO,
    NUMBER_DIGITS,
    NUMBER_POINT,
    NUMBER_FRACTION,
    NUMBER_E,
    NUMBER_SIGN,
    NUMBER_EXPONENT,
    NUMBER_STATES,
    NUMBER_END = NUMBER_STATES, /* the character is no part of it */
    NUMBER_WRONG,               /* neither may it end there */
};

struct json_lexer {
    enum token_state token;
    enum number_state number;
    char quote;          /* that ends the string */
    unsigned hex_digits; /* seen of \u */
    uint32_t hex_value;
    uint32_t high_surrogate; /* of a pair whose second half must follow; 0: none */
    unsigned utf8_left;      /* continuation bytes to come */
    uint8_t utf8_min;        /* range of the next one */
    uint8_t utf8_max;
    char *text; /* string so far, unescaped, not terminated; or number or word */
    size_t text_len;
    size_t text_size;
    size_t message_bytes; /* since the first byte of the message */

    struct json_tree tree;
    ssize_t open_braces; /* less closed ones */
    ssize_t open_brackets;

    bool broken;          /* the message breaks a rule, and the tree is empty */
    bool told;            /* of which the client knows already */
    struct error problem; /* which one */

    struct error *err; /* of the call that is running */
};

/* ---- Errors ---- */

/* Known-good: between two messages. */
static void reset(struct json_lexer *lexer)
{
    json_tree_clear(&lexer->tree);
    lexer->token = TOKEN_NONE;
    lexer->utf8_left = 0;
    lexer->high_surrogate = 0;
    lexer->message_bytes = 0;
    lexer->open_braces = lexer->open_brackets = 0;
    lexer->broken = lexer->told = false;
    free_wiped(lexer->text);
    lexer->text = NULL;
    lexer->text_len = lexer->text_size = 0;
}

/* A character that belongs nowhere: the message is over. */
static int reject(struct json_lexer *lexer, const char *problem)
{
    error_set(lexer->err, -EINVAL, "JSON parse error at byte %zu: %s", lexer->message_bytes, problem);
    reset(lexer);
    lexer->token = TOKEN_RECOVERY;
    return -EINVAL;
}

/*
 * The first rule that the message breaks; what is left of it only matters for its brackets. No character of a string is
 * half read any more: those that follow stand for themselves.
 */
static void break_message(struct json_lexer *lexer, int code, const char *problem)
{
    if (lexer->broken)
        return;
    error_set(&lexer->problem, code, "JSON parse error at byte %zu: %s", lexer->message_bytes, problem);
    lexer->broken = true;
    json_tree_clear(&lexer->tree);
    lexer->text_len = 0;
    lexer->utf8_left = 0;
    lexer->high_surrogate = 0;
    if (lexer->token == TOKEN_HEX)
        lexer->token = TOKEN_STRING;
}

/* Once for each message: what is wrong with it. */
static int tell(struct json_lexer *lexer)
{
    if (lexer->told)
        return 0;
    lexer->told = true;
    if (lexer->err != NULL)
        *lexer->err = lexer->problem;
    return lexer->problem.code;
}

/* What a message could exceed and go on for long. */
static bool is_limit(const char *problem)
{
    return problem == json_out_of_memory || problem == json_too_deep || problem == json_too_many_values ||
           problem == json_too_many_members;
}

/* What the tree says of a token. With too many brackets to count none counts as open any more. */
static int check(struct json_lexer *lexer, const char *problem)
{
    int r = 0;

    if (problem == NULL || lexer->broken)
        return 0;
    break_message(lexer, problem == json_out_of_memory ? -ENOMEM : -EINVAL, problem);
    if (is_limit(problem))
        r = tell(lexer);
    if (problem == json_too_deep)
        reset(lexer);
    return r;
}

/* A token is complete: a broken message may be over with it. */
static int after_token(struct json_lexer *lexer)
{
    bool inside =
        lexer->open_braces >= 0 && lexer->open_brackets >= 0 && (lexer->open_braces > 0 || lexer->open_brackets > 0);
    int r = 0;

    if (lexer->broken && !inside) {
        r = tell(lexer);
        reset(lexer);
    }
    return r;
}

/* ---- Strings ---- */

static int append(struct json_lexer *lexer, const char *bytes, size_t len_bytes)
{
    if (lexer->text_size - lexer->text_len < len_bytes) {
        size_t size = MAX(2 * lexer->text_size, (size_t)128);
        char *text = malloc(size); /* realloc() leaves a copy behind */

        if (text == NULL)
            return check(lexer, json_out_of_memory);
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
        return check(lexer, "a surrogate is alone");
    if (is_low)
        return append_codepoint(lexer, 0x10000 + ((high - 0xd800) << 10) + (c - 0xdc00));
    if (c == 0)
        return check(lexer, "\\u0000 is not allowed");
    if (c < 0xd800 || c > 0xdbff)
        return append_codepoint(lexer, c);
    lexer->high_surrogate = c;
    return 0;
}

static int feed_string(struct json_lexer *lexer, uint8_t c);

/* The string goes on behind what is wrong in it. */
static int break_string(struct json_lexer *lexer, uint8_t c, const char *problem)
{
    check(lexer, problem);
    lexer->token = TOKEN_STRING;
    return feed_string(lexer, c);
}

static int feed_hex(struct json_lexer *lexer, uint8_t c)
{
    int digit = isdigit(c) ? c - '0' : tolower(c) - 'a' + 10;

    if (!isxdigit(c))
        return break_string(lexer, c, "\\u needs four hexadecimal digits");
    lexer->hex_value = lexer->hex_value << 4 | (uint32_t)digit;
    return ++lexer->hex_digits == 4 ? finish_hex(lexer) : 0;
}

static int feed_escape(struct json_lexer *lexer, uint8_t c)
{
    static const char letters[] = "bfnrt\"\\/'"; /* \' is QMP's own */
    static const char meanings[] = "\b\f\n\r\t\"\\/'";
    const char *p = memchr(letters, c, sizeof(letters) - 1);

    lexer->token = TOKEN_STRING;
    if (lexer->broken)
        return 0;
    if (c == 'u') {
        lexer->token = TOKEN_HEX;
        lexer->hex_digits = 0;
        lexer->hex_value = 0;
        return 0;
    }
    if (lexer->high_surrogate != 0)
        return check(lexer, "a surrogate is alone");
    if (p == NULL)
        return check(lexer, "a backslash is followed by what cannot be escaped");
    return append(lexer, &meanings[p - letters], 1);
}

/* The first byte of a character of several: RFC 3629, section 4. */
static int begin_utf8(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (c < 0xc2 || c > 0xf4)
        return check(lexer, "the text is not UTF-8");
    lexer->utf8_left = c < 0xe0 ? 1 : (c < 0xf0 ? 2 : 3);
    lexer->utf8_min = c == 0xe0 ? 0xa0 : (c == 0xf0 ? 0x90 : 0x80); /* no overlong forms */
    lexer->utf8_max = c == 0xed ? 0x9f : (c == 0xf4 ? 0x8f : 0xbf); /* no surrogates, nothing above U+10FFFF */
    return append(lexer, &byte, 1);
}

static int continue_utf8(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (c < lexer->utf8_min || c > lexer->utf8_max)
        return break_string(lexer, c, "the text is not UTF-8");
    lexer->utf8_left--;
    lexer->utf8_min = 0x80;
    lexer->utf8_max = 0xbf;
    return append(lexer, &byte, 1);
}

static int finish_string(struct json_lexer *lexer)
{
    int r = 0;

    lexer->token = TOKEN_NONE;
    if (!lexer->broken)
        r = check(lexer,
                  json_tree_string(&lexer->tree, strndup(lexer->text != NULL ? lexer->text : "", lexer->text_len)));
    return r < 0 ? r : after_token(lexer);
}

static int feed_string(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (lexer->utf8_left > 0)
        return continue_utf8(lexer, c);
    if (lexer->high_surrogate != 0 && c != '\\')
        return break_string(lexer, c, "a surrogate is alone");
    if (c == (uint8_t)lexer->quote)
        return finish_string(lexer);
    if (c == '\\') {
        lexer->token = TOKEN_ESCAPE;
        return 0;
    }
    if (lexer->broken)
        return 0;
    return c >= 0x80 ? begin_utf8(lexer, c) : append(lexer, &byte, 1);
}

static int begin_string(struct json_lexer *lexer, uint8_t quote)
{
    lexer->token = TOKEN_STRING;
    lexer->quote = (char)quote;
    lexer->text_len = 0;
    return lexer->broken ? 0 : check(lexer, json_tree_check_string(&lexer->tree));
}

/* ---- Numbers and words ---- */

static enum number_state number_step(enum number_state state, uint8_t c)
{
    enum { ZERO, DIGIT, POINT, E, SIGN, OTHER, CLASSES };
    static const uint8_t steps[NUMBER_STATES][CLASSES] = {
        [NUMBER_MINUS] = { NUMBER_ZERO, NUMBER_DIGITS, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG },
        [NUMBER_ZERO] = { NUMBER_WRONG, NUMBER_WRONG, NUMBER_POINT, NUMBER_E, NUMBER_END, NUMBER_END },
        [NUMBER_DIGITS] = { NUMBER_DIGITS, NUMBER_DIGITS, NUMBER_POINT, NUMBER_E, NUMBER_END, NUMBER_END },
        [NUMBER_POINT] = { NUMBER_FRACTION, NUMBER_FRACTION, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG },
        [NUMBER_FRACTION] = { NUMBER_FRACTION, NUMBER_FRACTION, NUMBER_END, NUMBER_E, NUMBER_END, NUMBER_END },
        [NUMBER_E] = { NUMBER_EXPONENT, NUMBER_EXPONENT, NUMBER_WRONG, NUMBER_WRONG, NUMBER_SIGN, NUMBER_WRONG },
        [NUMBER_SIGN] = { NUMBER_EXPONENT, NUMBER_EXPONENT, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG, NUMBER_WRONG },
        [NUMBER_EXPONENT] = { NUMBER_EXPONENT, NUMBER_EXPONENT, NUMBER_END, NUMBER_END, NUMBER_END, NUMBER_END },
    };
    unsigned class = c == '0' ? ZERO : (isdigit(c) ? DIGIT : OTHER);

    if (c == '.')
        class = POINT;
    else if (c == 'e' || c == 'E')
        class = E;
    else if (c == '+' || c == '-')
        class = SIGN;
    return steps[state][class];
}

/* Whether the byte is behind the number or word that is being read, and not part of it. */
static bool ends_token(const struct json_lexer *lexer, uint8_t c)
{
    return (lexer->token == TOKEN_NUMBER && number_step(lexer->number, c) == NUMBER_END) ||
           (lexer->token == TOKEN_WORD && (c < 'a' || c > 'z'));
}

static int append_to_token(struct json_lexer *lexer, uint8_t c)
{
    char byte = (char)c;

    if (lexer->broken)
        return 0;
    return lexer->text_len == JSON_TOKEN_MAX ? check(lexer, "a number or word is too long") : append(lexer, &byte, 1);
}

static int feed_number(struct json_lexer *lexer, uint8_t c)
{
    lexer->number = number_step(lexer->number, c);
    return lexer->number == NUMBER_WRONG ? reject(lexer, "a number is malformed") : append_to_token(lexer, c);
}

static int begin_token(struct json_lexer *lexer, uint8_t c)
{
    lexer->token = c >= 'a' ? TOKEN_WORD : TOKEN_NUMBER;
    lexer->number = c == '-' ? NUMBER_MINUS : (c == '0' ? NUMBER_ZERO : NUMBER_DIGITS);
    lexer->text_len = 0;
    return append_to_token(lexer, c);
}

static int finish_token(struct json_lexer *lexer)
{
    char text[JSON_TOKEN_MAX + 1];
    int r = 0;

    lexer->token = TOKEN_NONE;
    if (!lexer->broken) {
        memcpy(text, lexer->text, lexer->text_len);
        text[lexer->text_len] = '\0';
        r = check(lexer, json_tree_word(&lexer->tree, text));
    }
    return r < 0 ? r : after_token(lexer);
}

/* ---- Bytes ---- */

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_structural(uint8_t c)
{
    return c != '\0' && strchr("{}[],:", c) != NULL;
}

/* Bytes that are part of nothing, by which a client forces us into a known-good state. */
static bool is_control(uint8_t c)
{
    return c < 0x20 || c >= 0xfe;
}

static const char *feed_tree(struct json_lexer *lexer, uint8_t c)
{
    switch (c) {
    case '{':
    case '[':
        return json_tree_open(&lexer->tree, c == '{');
    case '}':
    case ']':
        return json_tree_close(&lexer->tree, c == '}');
    case ',':
        return json_tree_comma(&lexer->tree);
    default:
        return json_tree_colon(&lexer->tree);
    }
}

static int feed_structural(struct json_lexer *lexer, uint8_t c)
{
    int r;

    lexer->open_braces += (c == '{') - (c == '}');
    lexer->open_brackets += (c == '[') - (c == ']');
    r = lexer->broken ? 0 : check(lexer, feed_tree(lexer, c));
    return r < 0 ? r : after_token(lexer);
}

/* Between tokens. */
static int feed_between(struct json_lexer *lexer, uint8_t c)
{
    if (is_space(c))
        return 0;
    if (is_structural(c))
        return feed_structural(lexer, c);
    if (c == '"' || c == '\'')
        return begin_string(lexer, c);
    if (c == '-' || isdigit(c) || (c >= 'a' && c <= 'z'))
        return begin_token(lexer, c);
    if (is_control(c))
        return reject(lexer, c >= 0xfe ? "a byte that UTF-8 never has" : "a control character");
    return reject(lexer, c < 0x80 ? "this character has no place here" : "a byte beyond ASCII outside of a string");
}

/* After a character that belonged nowhere. */
static int feed_recovery(struct json_lexer *lexer, uint8_t c)
{
    if (!is_structural(c) && (!is_control(c) || c == '\t')) {
        lexer->message_bytes = 0;
        return 0;
    }
    lexer->token = TOKEN_NONE;
    if (is_space(c))
        lexer->message_bytes = 0;
    return feed_between(lexer, c);
}

/* Take one byte; 0, or -errno for an error that is to be told. */
static int take_byte(struct json_lexer *lexer, uint8_t c)
{
    bool in_string = lexer->token == TOKEN_STRING || lexer->token == TOKEN_ESCAPE || lexer->token == TOKEN_HEX;

    if (in_string && is_control(c))
        return reject(lexer,
                      c >= 0xfe ? "a byte that UTF-8 never has" : "a control character in a string must be escaped");
    switch (lexer->token) {
    case TOKEN_STRING:
        return feed_string(lexer, c);
    case TOKEN_ESCAPE:
        return feed_escape(lexer, c);
    case TOKEN_HEX:
        return feed_hex(lexer, c);
    case TOKEN_NUMBER:
        return feed_number(lexer, c);
    case TOKEN_WORD:
        return append_to_token(lexer, c);
    case TOKEN_RECOVERY:
        return feed_recovery(lexer, c);
    default:
        return feed_between(lexer, c);
    }
}

/* The byte is the next of a message, if it is not between two. A message without end is not only told of at its end. */
static int count_byte(struct json_lexer *lexer, uint8_t c)
{
    if (lexer->message_bytes > 0 || !is_space(c))
        lexer->message_bytes++;
    if (lexer->message_bytes <= JSON_MESSAGE_BYTES_MAX)
        return 0;
    break_message(lexer, -EINVAL, "the message is too long");
    return tell(lexer);
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

        if (ends_token(lexer, c)) {
            r = finish_token(lexer);
        } else {
            r = count_byte(lexer, c);
            if (r == 0) {
                used++;
                r = take_byte(lexer, c);
            }
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
    return lexer->message_bytes > 0;
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
    if (result == JSON_MORE && lexer->broken)
        *err = lexer->problem;
    else if (result == JSON_MORE)
        error_set(err, -EINVAL, "JSON parse error: it ends too early");
    json_lexer_free(lexer);
    if (result != JSON_VALUE)
        return -EINVAL;
    if (more_follows(text + used, len_bytes - used)) {
        cJSON_Delete(value);
        return error_set(err, -EINVAL, "JSON parse error at byte %zu: there is more after the value", used + 1);
    }
    *ret_value = value;
    return 0;
}
