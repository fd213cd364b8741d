/* The loops over characters and bytes in portable C, and the tables that all levels share.
 *
 * A unit is what stands for one byte: a character, or a backslash and one to three more. (A
 * backslash before a newline is a unit of no byte.) The vector levels read the units of repr, 64
 * characters at a time; whatever else they meet, faults included, they leave to `plain_read` here,
 * which therefore is the only place that knows the whole grammar. */
#ifndef VDAG_LITERAL_PLAIN_H
#define VDAG_LITERAL_PLAIN_H

#include <string.h>

#include "literal_kernel.h"

#define VDAG_INLINE static inline __attribute__((always_inline))

enum {
    IS_DIGIT = 16, /* set in NIBBLES for digits, to tell 0 from none */
    NO_BYTE = -64, /* beyond the faults, which are negative here */
};

static const uint8_t NIBBLES[256] = {
    ['0'] = 16, ['1'] = 17, ['2'] = 18, ['3'] = 19, ['4'] = 20, ['5'] = 21, ['6'] = 22, ['7'] = 23,
    ['8'] = 24, ['9'] = 25, ['a'] = 26, ['b'] = 27, ['c'] = 28, ['d'] = 29, ['e'] = 30, ['f'] = 31,
    ['A'] = 26, ['B'] = 27, ['C'] = 28, ['D'] = 29, ['E'] = 30, ['F'] = 31,
};

/* What the character behind a backslash stands for, if that is all there is to it. */
static const uint8_t ESCAPES[256] = {
    ['\\'] = '\\', ['\''] = '\'', ['"'] = '"',  ['a'] = '\a', ['b'] = '\b',
    ['f'] = '\f',  ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t', ['v'] = '\v',
};

/* Characters that may not stand in a literal. */
static const uint8_t STOPS[256] = {[0] = 1, ['\n'] = 1, ['\r'] = 1, [0x80 ... 0xff] = 1};

/* The character that repr puts behind a backslash for a byte, whatever the quote; 0 for none. */
static const uint8_t MARKS[256] = {
    [0x00 ... 0x08] = 'x', ['\t'] = 't', ['\n'] = 'n', [0x0b ... 0x0c] = 'x', ['\r'] = 'r',
    [0x0e ... 0x1f] = 'x', ['\\'] = '\\', [0x7f ... 0xff] = 'x',
};

/* ---- bytes to text ---- */

/* A quarter of 255 at a time, so that the sums fit 8 bits and compilers use whole vectors. */
enum { SUMMED = 64 };

VDAG_INLINE vdag_literal_size measure(const uint8_t *data, size_t nbytes)
{
    size_t singles = 0, doubles = 0, more = 0;
    for (size_t start = 0; start < nbytes; start += SUMMED) {
        const size_t end = nbytes - start < SUMMED ? nbytes : start + SUMMED;
        uint8_t single = 0, twice = 0, added = 0;
        for (size_t i = start; i < end; i++) {
            const uint8_t c = data[i];
            const uint8_t strange = (uint8_t)(c - 0x20) > 0x7e - 0x20;
            const uint8_t lettered = (c == '\t') | (c == '\n') | (c == '\r');
            added = (uint8_t)(added + 3 * strange - 2 * lettered + (c == '\\'));
            single = (uint8_t)(single + (c == '\''));
            twice = (uint8_t)(twice + (c == '"'));
        }
        singles += single;
        doubles += twice;
        more += added;
    }
    const uint8_t quote = singles && !doubles ? '"' : '\'';
    return (vdag_literal_size){nbytes + more + (quote == '\'' ? singles : 0) + 3, quote};
}

/* Where an encoding is: `data` and `text` move, their ends stay. */
typedef struct {
    const uint8_t *data, *data_end;
    uint8_t *text, *text_end;
    uint8_t quote;
} vdag_writing;

/* The unit that repr writes for a byte, unless it is the quote. */
static struct {
    uint8_t text[4];
    uint8_t length;
} units_of[256];

static void __attribute__((constructor)) fill_units(void)
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned c = 0; c < 256; c++) {
        const uint8_t mark = MARKS[c];
        const uint8_t unit[4] = {mark ? '\\' : (uint8_t)c, mark, (uint8_t)digits[c >> 4],
                                 (uint8_t)digits[c & 15]};
        memcpy(units_of[c].text, unit, sizeof unit);
        units_of[c].length = mark == 'x' ? 4 : mark ? 2 : 1;
    }
}

/* Write all units that are left; 0 if they do not fit exactly. */
static int plain_write(vdag_writing *w)
{
    uint8_t *text = w->text;
    uint8_t *const text_end = w->text_end;
    const uint8_t quote = w->quote, quoted[4] = {'\\', quote};
    for (const uint8_t *data = w->data; data < w->data_end; data++) {
        const uint8_t c = *data;
        const uint8_t *const unit = c == quote ? quoted : units_of[c].text;
        const size_t length = c == quote ? 2 : units_of[c].length;
        const size_t room = (size_t)(text_end - text);
        if (room >= 4) /* the next unit overwrites what is too much */
            memcpy(text, unit, 4);
        else if (room >= length)
            memcpy(text, unit, length);
        else
            return 0;
        text += length;
    }
    return text == text_end;
}

static int plain_encode(const uint8_t *data, size_t nbytes, uint8_t quote, uint8_t *text,
                        size_t room)
{
    vdag_writing w = {data, data + nbytes, text, text + room, quote};
    return plain_write(&w);
}

static vdag_literal_size plain_measure(const uint8_t *data, size_t nbytes)
{
    return measure(data, nbytes);
}

/* ---- text to bytes ---- */

/* Up to three digits, the first of which is there. */
static int octal(const uint8_t *text, size_t left, size_t *length)
{
    int value = 0;
    size_t i = 1;
    for (; i < left && i <= 3 && (text[i] & 0xf8) == '0'; i++)
        value = 8 * value + (text[i] & 7);
    *length = i;
    return value <= 255 ? value : -VDAG_LITERAL_OCTAL;
}

/* The byte that the escape at `text` stands for, NO_BYTE, or a fault, negative; sets its length. */
static int escape(const uint8_t *text, size_t left, size_t *length)
{
    if (left >= 4 && text[1] == 'x') {
        const uint8_t high = NIBBLES[text[2]], low = NIBBLES[text[3]];
        *length = 4;
        return high & low & IS_DIGIT ? (high & 15) << 4 | (low & 15) : -VDAG_LITERAL_HEX;
    }
    if (left < 2)
        return -VDAG_LITERAL_OPEN;
    const uint8_t c = text[1];
    *length = 2;
    if (ESCAPES[c])
        return ESCAPES[c];
    if ((c & 0xf8) == '0')
        return octal(text, left, length);
    if (c == '\r' && left > 2 && text[2] == '\n')
        *length = 3;
    if (c == '\n' || c == '\r')
        return NO_BYTE;
    return c == 'x' ? -VDAG_LITERAL_HEX : -VDAG_LITERAL_ESCAPE;
}

static int fault_of(int stop)
{
    if (stop == 0)
        return -VDAG_LITERAL_NUL;
    return stop & 0x80 ? -VDAG_LITERAL_NOT_ASCII : -VDAG_LITERAL_NEWLINE;
}

/* What plain_read returns where there is no fault. */
enum { MORE = VDAG_LITERAL_OK, CLOSED = -1 };

/* Read the units that begin before `end`, up to and with the closing quote. */
static int plain_read(vdag_literal *literal, size_t end)
{
    const uint8_t *const text = literal->text;
    const uint8_t quote = literal->quote;
    const size_t nbytes = literal->nbytes;
    uint8_t *out = literal->out + literal->written;
    const uint8_t *const out_end = literal->out + literal->room;
    size_t at = literal->at, length = 1;
    int value = 0;
    for (; at < end; at += length, length = 1) {
        value = text[at];
        if (value == quote)
            break;
        if (value == '\\')
            value = escape(text + at, nbytes - at, &length);
        else if (STOPS[value])
            value = fault_of(value);
        if (value == NO_BYTE)
            continue;
        if (out == out_end && value >= 0)
            value = -VDAG_LITERAL_FULL;
        if (value < 0)
            break;
        *out++ = (uint8_t)value;
    }
    literal->written = (size_t)(out - literal->out);
    literal->at = at;
    if (at >= end)
        return MORE;
    if (value < 0)
        return -value;
    literal->at++;
    return CLOSED;
}

VDAG_INLINE vdag_literal_fault finish(int result)
{
    if (result == MORE)
        return VDAG_LITERAL_OPEN;
    return result == CLOSED ? VDAG_LITERAL_OK : (vdag_literal_fault)result;
}

static vdag_literal_fault plain_decode(vdag_literal *literal)
{
    return finish(plain_read(literal, literal->nbytes));
}

static const vdag_literal_level plain_level = {"plain", plain_measure, plain_encode, plain_decode};

#endif
