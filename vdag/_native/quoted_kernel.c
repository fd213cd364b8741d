/* See quoted_kernel.h. Of the text of a bytes literal every fourth character is a backslash, so that
 * a loop which branches on each mispredicts most of its time: neither of these does. */
#include "quoted_kernel.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Whether a character is printable ASCII, all that a string for us is made of. */
static unsigned is_plain(uint8_t character)
{
    return (uint8_t)(character - ' ') <= '~' - ' ';
}

/* Go on from a character that is escaped, or not, after others that were `strange`, or not. */
static int finish(vdag_quoted *quoted, unsigned is_escaped, unsigned is_strange)
{
    const uint8_t *const text = quoted->text;
    uint8_t *const out = quoted->out;
    size_t at = quoted->at, written = quoted->written;
    while (at < quoted->nbytes) {
        const uint8_t character = text[at++];
        const unsigned is_slash = character == '\\', is_quote = character == '"';
        if (is_quote && !is_escaped) {
            quoted->at = at;
            quoted->written = written;
            return !is_strange;
        }
        is_strange |= (is_escaped & ~(is_slash | is_quote)) | !is_plain(character);
        is_escaped = is_slash & ~is_escaped;
        out[written] = character;
        written += 1 - is_escaped; /* the backslash that escapes is written over */
    }
    return 0;
}

static int plain_read(vdag_quoted *quoted)
{
    return finish(quoted, 0, 0);
}

static const vdag_quoted_level plain_level = {"plain", plain_read};

#if defined(__x86_64__)

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi,popcnt")))

/* Which backslashes of a block escape the character behind them, and which characters are escaped.
 * `carry` says whether the first one is, and then whether the one behind the block is. Backslashes
 * in a row escape in turn: subtracting the first of each row from the odd places tells the even
 * ones apart (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019, section 3.1.1). */
static inline uint64_t find_escaped(uint64_t slashes, uint64_t *carry, uint64_t *escapes)
{
    const uint64_t odd = 0xAAAAAAAAAAAAAAAAu;
    const uint64_t begins = slashes & ~*carry;
    const uint64_t turns = (((begins << 1) | odd) - begins) ^ odd;
    const uint64_t escaped = turns ^ (slashes | *carry);
    *escapes = turns & slashes;
    *carry = *escapes >> 63;
    return escaped;
}

AVX512 static int avx512_read(vdag_quoted *quoted)
{
    uint64_t carry = 0, strange = 0, escapes;
    uint8_t *out = quoted->out;
    while (quoted->nbytes - quoted->at >= 64) {
        const __m512i c = _mm512_loadu_si512((const void *)(quoted->text + quoted->at));
        const uint64_t slashes = _mm512_cmpeq_epi8_mask(c, _mm512_set1_epi8('\\'));
        const uint64_t quotes = _mm512_cmpeq_epi8_mask(c, _mm512_set1_epi8('"'));
        const uint64_t other = _mm512_cmpgt_epu8_mask(_mm512_sub_epi8(c, _mm512_set1_epi8(' ')),
                                                      _mm512_set1_epi8('~' - ' '));
        const uint64_t escaped = find_escaped(slashes, &carry, &escapes);
        const uint64_t ends = quotes & ~escaped;
        const uint64_t inside = (ends & -ends) - 1; /* all of them if there is no end */
        strange |= inside & (other | (escaped & ~(slashes | quotes)));
        const uint64_t kept = inside & ~escapes;
        /* What is written beyond the kept ones is still within the room: as much was read. */
        _mm512_storeu_si512((void *)out, _mm512_maskz_compress_epi8(kept, c));
        out += __builtin_popcountll(kept);
        if (ends) {
            quoted->at += (size_t)__builtin_ctzll(ends) + 1;
            quoted->written = (size_t)(out - quoted->out);
            return !strange;
        }
        quoted->at += 64;
    }
    quoted->written = (size_t)(out - quoted->out);
    return finish(quoted, (unsigned)carry, strange != 0);
}

static const vdag_quoted_level avx512_level = {"avx512", avx512_read};

#endif

const vdag_quoted_level *vdag_quoted_find_level(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* not every compiler's library has done so by itself */
    if (!strcmp(name, "avx512") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi"))
        return &avx512_level;
#endif
    return strcmp(name, "plain") ? NULL : &plain_level;
}
