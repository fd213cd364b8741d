/* JSON strings in which only quotes and backslashes are escaped, without Python. */

#ifndef VDAG_QUOTED_KERNEL_H
#define VDAG_QUOTED_KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *text;
    size_t nbytes;
    uint8_t *out;   /* has room for what is between `at` and the end of the text */
    size_t at;      /* first character that was not read; before that, the one behind the quote */
    size_t written;
} vdag_quoted;

/* The loop for one instruction set. Returns whether the string ends and is one for us; `at` is then
 * behind its closing quote. Nothing is read or written out of bounds whatever the text is, also if
 * somebody changes it meanwhile. */
typedef struct {
    const char *name;
    int (*read)(vdag_quoted *quoted);
} vdag_quoted_level;

/* The level of that name, or NULL if there is none or this CPU cannot run it. */
const vdag_quoted_level *vdag_quoted_find_level(const char *name);

#endif
