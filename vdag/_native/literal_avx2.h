/* The loops for AVX2: 64 characters of a literal at a time, without a branch per unit.
 *
 * JPEG bytes are noise, so a loop over units mispredicts at almost every second one. Here each of
 * 64 characters is looked at as if a unit began there; masks of 64 bits then say where units do
 * begin, and the bytes found there move together. Blocks follow each other without a gap: a unit
 * that begins in one block and ends in the next leaves a mask of the characters to skip there. */
#ifndef VDAG_LITERAL_AVX2_H
#define VDAG_LITERAL_AVX2_H

#include <immintrin.h>

#include "literal_plain.h"

#define AVX2 __attribute__((target("avx2,bmi,popcnt")))

enum {
    BLOCK = 64,
    AHEAD = 3, /* characters read behind a block: the rest of a unit that begins with its last */
};

/* Where units begin in a block, one bit per character. */
typedef struct {
    uint64_t escapes; /* backslashes that begin a unit */
    uint64_t hexes;   /* those of them with an x behind */
    uint64_t rests;   /* characters that belong to a unit begun before */
    uint64_t skip;    /* likewise of the next block: none to three ones, from bit 0 */
} vdag_units;

/* Every second backslash of a run begins a unit, from the first on. Adding a run's lowest bit clears
 * it, by carry, to its end: that tells runs which begin at even places from the others. A run that
 * crosses the end of the block ends there, and `skip` keeps the next block's from misreading it. */
VDAG_INLINE vdag_units find_units(uint64_t backslashes, uint64_t x_behind, uint64_t skip)
{
    const uint64_t even = 0x5555555555555555;
    const uint64_t open = backslashes & ~skip;
    const uint64_t from_even = open & ~(open + (open & ~(open << 1) & even));
    vdag_units units;
    units.escapes = (from_even & even) | (open & ~from_even & ~even);
    units.hexes = units.escapes & x_behind;
    units.rests = skip | units.escapes << 1 | units.hexes << 2 | units.hexes << 3;
    units.skip = units.escapes >> 63 | units.hexes >> 62 | units.hexes >> 61;
    return units;
}

/* ---- bytes to text: the compiler's vectors do ---- */

AVX2 static vdag_literal_size avx2_measure(const uint8_t *data, size_t nbytes)
{
    return measure(data, nbytes);
}

/* ---- text to bytes ---- */

VDAG_INLINE uint64_t both(int low, int high)
{
    return (uint32_t)low | (uint64_t)(uint32_t)high << 32;
}

/* What 32 characters would be as units: their bytes, and masks of what they are. */
typedef struct {
    __m256i hex, letter;
    uint32_t backslashes, x_behind, stops, bad_hexes, bad_letters;
} vdag_half;

/* Nibbles of hex digits; `digit` tells which are. Signed compares refuse what is not ASCII. */
AVX2 VDAG_INLINE __m256i avx2_nibbles(__m256i c, __m256i *digit)
{
    const __m256i lower = _mm256_or_si256(c, _mm256_set1_epi8(0x20));
    const __m256i letter = _mm256_and_si256(_mm256_cmpgt_epi8(lower, _mm256_set1_epi8('a' - 1)),
                                            _mm256_cmpgt_epi8(_mm256_set1_epi8('f' + 1), lower));
    const __m256i number = _mm256_and_si256(_mm256_cmpgt_epi8(c, _mm256_set1_epi8('0' - 1)),
                                            _mm256_cmpgt_epi8(_mm256_set1_epi8('9' + 1), c));
    *digit = _mm256_or_si256(letter, number);
    return _mm256_add_epi8(_mm256_and_si256(c, _mm256_set1_epi8(15)),
                           _mm256_and_si256(letter, _mm256_set1_epi8(9)));
}

/* The letters of escapes by their low four bits, in which those that repr writes all differ. */
AVX2 VDAG_INLINE __m256i avx2_letters(__m256i c, __m256i *known)
{
    const __m128i letters = _mm_setr_epi8(-1, 'a', 'r', -1, 't', -1, 'f', '\'', -1, -1, -1, -1,
                                          '\\', -1, 'n', -1);
    const __m128i bytes = _mm_setr_epi8(0, '\a', '\r', 0, '\t', 0, '\f', '\'', 0, 0, 0, 0,
                                        '\\', 0, '\n', 0);
    *known = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(letters), c), c);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), c);
}

AVX2 VDAG_INLINE __m256i avx2_load(const uint8_t *text)
{
    return _mm256_loadu_si256((const __m256i *)text);
}

AVX2 VDAG_INLINE uint32_t avx2_equal(__m256i c, uint8_t to)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(c, _mm256_set1_epi8((char)to)));
}

AVX2 VDAG_INLINE vdag_half avx2_look(const uint8_t *text, uint8_t quote)
{
    const __m256i c = avx2_load(text), behind = avx2_load(text + 1);
    __m256i known, first, second;
    vdag_half half;
    half.letter = avx2_letters(behind, &known);
    const __m256i high = avx2_nibbles(avx2_load(text + 2), &first);
    const __m256i low = avx2_nibbles(avx2_load(text + 3), &second);
    half.hex = _mm256_or_si256(_mm256_slli_epi16(high, 4), low); /* nibbles: nothing crosses */
    half.bad_hexes = ~(uint32_t)_mm256_movemask_epi8(_mm256_and_si256(first, second));
    half.bad_letters = ~(uint32_t)_mm256_movemask_epi8(known);
    half.backslashes = avx2_equal(c, '\\');
    half.x_behind = avx2_equal(behind, 'x');
    half.stops = (uint32_t)_mm256_movemask_epi8(c) | avx2_equal(c, quote) | avx2_equal(c, 0) |
                 avx2_equal(c, '\n') | avx2_equal(c, '\r');
    return half;
}

/* All ones in the bytes whose bit is set. */
AVX2 VDAG_INLINE __m256i avx2_spread(uint32_t bits)
{
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

AVX2 VDAG_INLINE void avx2_choose(const uint8_t *text, const vdag_half *half, uint32_t escapes,
                                  uint32_t hexes, uint8_t *bytes)
{
    const __m256i escaped =
        _mm256_blendv_epi8(half->letter, half->hex, avx2_spread(hexes));
    const __m256i chosen = _mm256_blendv_epi8(avx2_load(text), escaped, avx2_spread(escapes));
    _mm256_storeu_si256((__m256i *)bytes, chosen);
}

/* For each set of 8 bytes, the shuffle that brings its members to the front. */
static uint64_t shuffles[256];

static void __attribute__((constructor)) fill_shuffles(void)
{
    for (unsigned set = 0; set < 256; set++) {
        unsigned shift = 0;
        for (unsigned member = 0; member < 8; member++) {
            if (set >> member & 1) {
                shuffles[set] |= (uint64_t)member << shift;
                shift += 8;
            }
        }
    }
}

/* Move the bytes of a block that count to `out`, 8 at a time; writes up to 7 bytes too many. */
AVX2 VDAG_INLINE uint8_t *avx2_pack(const uint8_t *bytes, uint64_t kept, uint8_t *out)
{
    for (int i = 0; i < BLOCK; i += 8, kept >>= 8) {
        const __m128i eight = _mm_loadl_epi64((const __m128i *)(bytes + i));
        const __m128i order = _mm_loadl_epi64((const __m128i *)&shuffles[kept & 255]);
        _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(eight, order));
        out += __builtin_popcount((unsigned)(kept & 255));
    }
    return out;
}

/* Read blocks as long as they hold what repr writes. Leaves `at` at the beginning of a unit. */
AVX2 static void avx2_blocks(vdag_literal *literal)
{
    uint8_t *out = literal->out + literal->written;
    const uint8_t *const out_end = literal->out + literal->room;
    const uint8_t *text = literal->text + literal->at;
    const uint8_t *const text_end = literal->text + literal->nbytes;
    const uint8_t quote = literal->quote;
    uint8_t bytes[BLOCK];
    uint64_t skip = 0;
    while (text_end - text >= BLOCK + AHEAD && out_end - out >= BLOCK + 8) {
        const vdag_half a = avx2_look(text, quote), b = avx2_look(text + 32, quote);
        const vdag_units units = find_units(both((int)a.backslashes, (int)b.backslashes),
                                            both((int)a.x_behind, (int)b.x_behind), skip);
        const uint64_t letters = units.escapes & ~units.hexes;
        if ((both((int)a.stops, (int)b.stops) & ~units.rests) |
            (both((int)a.bad_hexes, (int)b.bad_hexes) & units.hexes) |
            (both((int)a.bad_letters, (int)b.bad_letters) & letters))
            break;
        avx2_choose(text, &a, (uint32_t)units.escapes, (uint32_t)units.hexes, bytes);
        avx2_choose(text + 32, &b, (uint32_t)(units.escapes >> 32), (uint32_t)(units.hexes >> 32),
                    bytes + 32);
        out = avx2_pack(bytes, ~units.rests, out);
        skip = units.skip;
        text += BLOCK;
    }
    literal->at = (size_t)(text - literal->text) + (size_t)__builtin_popcountll(skip);
    literal->written = (size_t)(out - literal->out);
}

/* Blocks, and where they end a stretch of single units. */
VDAG_INLINE vdag_literal_fault read_body(vdag_literal *literal, void (*blocks)(vdag_literal *))
{
    int result = MORE;
    while (result == MORE && literal->at < literal->nbytes) {
        if (literal->nbytes - literal->at >= BLOCK + AHEAD)
            blocks(literal);
        const size_t end = literal->at + BLOCK;
        result = plain_read(literal, end < literal->nbytes ? end : literal->nbytes);
    }
    return finish(result);
}

AVX2 static vdag_literal_fault avx2_decode(vdag_literal *literal)
{
    return read_body(literal, avx2_blocks);
}

static const vdag_literal_level avx2_level = {"avx2", avx2_measure, plain_encode, avx2_decode};

#endif
