/* The text form of bytes, as Python's repr writes it and its parser reads it, without Python. */

#ifndef VDAG_LITERAL_KERNEL_H
#define VDAG_LITERAL_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Why a text is no bytes literal; literal_terms.py has the same numbers and their wording. */
typedef enum {
    VDAG_LITERAL_OK,
    VDAG_LITERAL_START,     /* no b where the literal should begin */
    VDAG_LITERAL_QUOTE,     /* no quote behind the b */
    VDAG_LITERAL_TRIPLE,    /* three quotes */
    VDAG_LITERAL_ESCAPE,    /* a backslash before a character that has no meaning there */
    VDAG_LITERAL_HEX,       /* \x without two hex digits */
    VDAG_LITERAL_OCTAL,     /* above \377 */
    VDAG_LITERAL_NOT_ASCII, /* likewise in the text itself: */
    VDAG_LITERAL_NEWLINE,
    VDAG_LITERAL_NUL,
    VDAG_LITERAL_OPEN,     /* the text ends before the closing quote */
    VDAG_LITERAL_TRAILING, /* something other than white space behind the closing quote */
    VDAG_LITERAL_FULL,     /* no room for the next byte */
} vdag_literal_fault;

typedef struct {
    const uint8_t *text;
    size_t nbytes;
    uint8_t *out;
    size_t room;
    uint8_t quote; /* set by vdag_literal_decode, like the two below */
    size_t at;     /* first character that was not read, or the one at fault */
    size_t written;
} vdag_literal;

/* What vdag_literal_measure says about bytes: the characters of their literal and its quote. */
typedef struct {
    size_t nbytes;
    uint8_t quote;
} vdag_literal_size;

/* The loops for one instruction set. */
typedef struct {
    const char *name;
    vdag_literal_size (*measure)(const uint8_t *data, size_t nbytes);
    int (*encode)(const uint8_t *data, size_t nbytes, uint8_t quote, uint8_t *text, size_t room);
    vdag_literal_fault (*decode)(vdag_literal *literal);
} vdag_literal_level;

/* Write the literal of `data` to `text`, which has the room that was measured. Returns whether it
 * fits exactly: it does unless somebody changes `data` meanwhile, and then too nothing is written
 * out of bounds. */
int vdag_literal_encode(const vdag_literal_level *level, const uint8_t *data, size_t nbytes,
                        vdag_literal_size size, uint8_t *text);

/* Read the one literal that `text` is, and write its bytes to `out`, at most `room`. Safe whatever
 * the text is, also if somebody changes it meanwhile. After a fault `out` has undefined content. */
vdag_literal_fault vdag_literal_decode(const vdag_literal_level *level, vdag_literal *literal);

/* The level of that name, or NULL if there is none or this CPU cannot run it. */
const vdag_literal_level *vdag_literal_find_level(const char *name);

#endif
