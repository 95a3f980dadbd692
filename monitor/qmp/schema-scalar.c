/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scalars as a command line spells them, by the rules of QEMU's keyval options except that a number with leading zeros
 * is refused rather than read as octal. Trusts nothing about the text but its NUL.
 */
#include "monitor/qmp/schema-scalar.h"

#include <ctype.h>
#include <string.h>

#include "common/base/util.h"

static bool text_in(const char *text, const char *const words[4])
{
    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

bool scalar_parse_bool(const char *text, bool *ret_value)
{
    static const char *const on[4] = { "on", "yes", "true", "y" };
    static const char *const off[4] = { "off", "no", "false", "n" };

    if (!text_in(text, on) && !text_in(text, off))
        return false;
    *ret_value = text_in(text, on);
    return true;
}

static int digit_value(char c, unsigned base)
{
    int value = -1;

    if (c >= '0' && c <= '9')
        value = c - '0';
    else if (base == 16 && isxdigit((unsigned char)c))
        value = tolower((unsigned char)c) - 'a' + 10;
    return value;
}

/* Digits of base up to the first other character, at least one. */
static const char *parse_digits(const char *text, unsigned base, uint64_t *ret_value)
{
    uint64_t value = 0;
    const char *p = text;

    for (; digit_value(*p, base) >= 0; p++) {
        if (!u64_mul(value, base, &value) || !u64_add(value, (uint64_t)digit_value(*p, base), &value))
            return NULL;
    }
    if (p == text || (base == 10 && text[0] == '0' && p > text + 1))
        return NULL;
    *ret_value = value;
    return p;
}

static bool is_hex(const char *text)
{
    return text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

bool scalar_parse_int(const char *text, bool *ret_negative, uint64_t *ret_magnitude)
{
    bool negative = text[0] == '-';
    uint64_t magnitude;
    const char *end;

    if (text[0] == '-' || text[0] == '+')
        text++;
    end = is_hex(text) ? parse_digits(text + 2, 16, &magnitude) : parse_digits(text, 10, &magnitude);
    if (end == NULL || *end != '\0')
        return false;
    *ret_negative = negative && magnitude != 0;
    *ret_magnitude = magnitude;
    return true;
}

/* The binary exponent of a size suffix, -1 if it is none. */
static int suffix_shift(char c)
{
    static const char suffixes[] = "BKMGTPE";
    const char *p = c != '\0' ? strchr(suffixes, toupper((unsigned char)c)) : NULL;

    return p != NULL ? (int)(p - suffixes) * 10 : -1;
}

/* ".5" and a suffix's shift: the bytes of the fraction, cut. At most 18 digits, so that they fit. */
static const char *parse_fraction(const char *text, uint64_t *ret_numerator, uint64_t *ret_denominator)
{
    uint64_t numerator = 0;
    uint64_t denominator = 1;
    const char *p = text;

    for (; isdigit((unsigned char)*p); p++) {
        if (p - text >= 18)
            return NULL;
        numerator = numerator * 10 + (uint64_t)(*p - '0');
        denominator *= 10;
    }
    if (p == text)
        return NULL;
    *ret_numerator = numerator;
    *ret_denominator = denominator;
    return p;
}

bool scalar_parse_size(const char *text, uint64_t *ret_bytes)
{
    uint64_t whole;
    uint64_t numerator = 0;
    uint64_t denominator = 1;
    uint64_t bytes;
    int shift = 0;
    bool hex = is_hex(text);
    const char *p = hex ? parse_digits(text + 2, 16, &whole) : parse_digits(text, 10, &whole);
    bool fraction = p != NULL && !hex && *p == '.';

    if (fraction)
        p = parse_fraction(p + 1, &numerator, &denominator);
    if (p == NULL)
        return false;
    if (*p != '\0')
        shift = hex ? -1 : suffix_shift(*p++); /* 0x1E is thirty, not an exbibyte */
    if (shift < 0 || (fraction && shift == 0) || *p != '\0')
        return false;
    if (!u64_mul(whole, UINT64_C(1) << shift, &bytes) ||
        !u64_add(bytes, (uint64_t)(((unsigned __int128)numerator << shift) / denominator), &bytes))
        return false;
    *ret_bytes = bytes;
    return true;
}
