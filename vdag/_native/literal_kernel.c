/* See literal_kernel.h. This file holds what surrounds a literal's body, and the choice of loops,
 * which are in literal_plain.h, _avx2.h and _avx512.h. */
#include "literal_kernel.h"

#include <string.h>

#if defined(__x86_64__)
#include "literal_avx512.h"
#else
#include "literal_plain.h"
#endif

int vdag_literal_encode(const vdag_literal_level *level, const uint8_t *data, size_t nbytes,
                        vdag_literal_size size, uint8_t *text)
{
    text[0] = 'b';
    text[1] = text[size.nbytes - 1] = size.quote;
    return level->encode(data, nbytes, size.quote, text + 2, size.nbytes - 3);
}

/* White space that the parser of Python takes before an expression: blanks would be an indent, but
 * ast.literal_eval strips those of the first line. */
static size_t skip_before(const uint8_t *text, size_t nbytes)
{
    size_t at = 0;
    while (at < nbytes && (text[at] == ' ' || text[at] == '\t'))
        at++;
    while (at < nbytes && (text[at] == '\n' || text[at] == '\r'))
        at++;
    return at;
}

static size_t skip_behind(const uint8_t *text, size_t nbytes, size_t at)
{
    while (at < nbytes && text[at] && strchr(" \t\n\r\f", text[at]))
        at++;
    return at;
}

/* Read up to the first character of the body. */
static vdag_literal_fault open_literal(vdag_literal *literal)
{
    const uint8_t *const text = literal->text;
    const size_t nbytes = literal->nbytes;
    size_t at = literal->at = skip_before(text, nbytes);
    if (at == nbytes || (text[at] | 0x20) != 'b')
        return VDAG_LITERAL_START;
    literal->at = ++at;
    if (at == nbytes || (text[at] != '\'' && text[at] != '"'))
        return VDAG_LITERAL_QUOTE;
    const uint8_t quote = literal->quote = text[at];
    if (nbytes - at >= 3 && text[at + 1] == quote && text[at + 2] == quote)
        return VDAG_LITERAL_TRIPLE;
    literal->at = at + 1;
    return VDAG_LITERAL_OK;
}

vdag_literal_fault vdag_literal_decode(const vdag_literal_level *level, vdag_literal *literal)
{
    literal->written = 0;
    vdag_literal_fault fault = open_literal(literal);
    if (fault == VDAG_LITERAL_OK)
        fault = level->decode(literal);
    if (fault == VDAG_LITERAL_OPEN)
        literal->at = literal->nbytes; /* whatever was begun before */
    if (fault != VDAG_LITERAL_OK)
        return fault;
    literal->at = skip_behind(literal->text, literal->nbytes, literal->at);
    return literal->at == literal->nbytes ? VDAG_LITERAL_OK : VDAG_LITERAL_TRAILING;
}

/* ---- levels ---- */

static const vdag_literal_level *const LEVELS[] = {
#if defined(__x86_64__)
    &avx512_level,
    &avx2_level,
#endif
    &plain_level,
};

static int runs_here(const vdag_literal_level *level)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* not every compiler's library has done so by itself */
    if (level == &avx512_level)
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi") &&
               __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi");
    if (level == &avx2_level)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
#endif
    (void)level;
    return 1;
}

const vdag_literal_level *vdag_literal_find_level(const char *name)
{
    for (size_t i = 0; i < sizeof LEVELS / sizeof *LEVELS; i++) {
        if (!strcmp(name, LEVELS[i]->name) && runs_here(LEVELS[i]))
            return LEVELS[i];
    }
    return NULL;
}
