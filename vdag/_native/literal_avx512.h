/* The loops for AVX-512 with VBMI and VBMI2, which look up 64 characters in a table of 128 and move
 * the bytes that count together in one instruction each; otherwise as in literal_avx2.h. */
#ifndef VDAG_LITERAL_AVX512_H
#define VDAG_LITERAL_AVX512_H

#include <immintrin.h>

#include "literal_avx2.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi,popcnt")))

/* The first half of a table of bytes. */
typedef struct {
    __m512i low, high;
} vdag_table;

AVX512 VDAG_INLINE __m512i avx512_load(const uint8_t *from)
{
    return _mm512_loadu_si512((const void *)from);
}

AVX512 VDAG_INLINE vdag_table avx512_table(const uint8_t *from)
{
    return (vdag_table){avx512_load(from), avx512_load(from + 64)};
}

/* The top bit of `at` does not count: characters that are not ASCII are refused otherwise. */
AVX512 VDAG_INLINE __m512i avx512_look_up(vdag_table table, __m512i at)
{
    return _mm512_permutex2var_epi8(table.low, at, table.high);
}

/* Compilers like to do arithmetic on masks in mask registers, where it is slow; each block waits for
 * that of the block before, so it is worth a tenth to have it done in general registers. */
VDAG_INLINE uint64_t general(uint64_t mask)
{
    __asm__("" : "+r"(mask));
    return mask;
}

/* ---- bytes to text ---- */

AVX512 static vdag_literal_size avx512_measure(const uint8_t *data, size_t nbytes)
{
    return measure(data, nbytes);
}

/* Units of four characters, of which those that are 0 do not count. */
AVX512 VDAG_INLINE uint8_t *avx512_pack(__m512i units, uint8_t *text)
{
    const __mmask64 kept = _mm512_test_epi8_mask(units, units);
    _mm512_storeu_si512((void *)text, _mm512_maskz_compress_epi8(kept, units));
    return text + __builtin_popcountll(kept);
}

AVX512 VDAG_INLINE uint8_t *avx512_write_block(__m512i c, vdag_table marks, uint8_t *text)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i digits = _mm512_broadcast_i32x4(_mm_setr_epi8(
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'));
    /* The unpacking below takes every fourth of the 4-byte groups: bring them there. */
    c = _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), c);
    const __m512i mark = _mm512_mask_mov_epi8(avx512_look_up(marks, c), _mm512_movepi8_mask(c),
                                              _mm512_set1_epi8('x'));
    const __mmask64 marked = _mm512_test_epi8_mask(mark, mark);
    const __mmask64 hex = _mm512_cmpeq_epi8_mask(mark, _mm512_set1_epi8('x'));
    const __m512i first = _mm512_mask_mov_epi8(c, marked, _mm512_set1_epi8('\\'));
    const __m512i high = _mm512_maskz_shuffle_epi8(
        hex, digits, _mm512_and_si512(_mm512_srli_epi16(c, 4), nibble));
    const __m512i low = _mm512_maskz_shuffle_epi8(hex, digits, _mm512_and_si512(c, nibble));
    const __m512i front_low = _mm512_unpacklo_epi8(first, mark);
    const __m512i front_high = _mm512_unpackhi_epi8(first, mark);
    const __m512i back_low = _mm512_unpacklo_epi8(high, low);
    const __m512i back_high = _mm512_unpackhi_epi8(high, low);
    text = avx512_pack(_mm512_unpacklo_epi16(front_low, back_low), text);
    text = avx512_pack(_mm512_unpackhi_epi16(front_low, back_low), text);
    text = avx512_pack(_mm512_unpacklo_epi16(front_high, back_high), text);
    return avx512_pack(_mm512_unpackhi_epi16(front_high, back_high), text);
}

AVX512 static int avx512_encode(const uint8_t *data, size_t nbytes, uint8_t quote, uint8_t *text,
                                size_t room)
{
    vdag_writing w = {data, data + nbytes, text, text + room, quote};
    uint8_t marks[128];
    memcpy(marks, MARKS, sizeof marks);
    marks[quote] = quote;
    const vdag_table table = avx512_table(marks);
    while (w.data_end - w.data >= BLOCK && w.text_end - w.text >= 4 * BLOCK) {
        w.text = avx512_write_block(avx512_load(w.data), table, w.text);
        w.data += BLOCK;
    }
    return plain_write(&w);
}

/* ---- text to bytes ---- */

/* The byte of \xHH from the entries of both digits: the bits of `low` below those of `high`. */
AVX512 VDAG_INLINE __m512i avx512_join(__m512i high, __m512i low)
{
    const int choose = 0xca; /* bits of the second where the first is set, else of the third */
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)0xf0), _mm512_slli_epi16(high, 4), low,
                                     choose);
}

/* As avx2_blocks; but a block with any character that is not ASCII ends it. */
AVX512 static void avx512_blocks(vdag_literal *literal)
{
    uint8_t stopping[128];
    memcpy(stopping, STOPS, sizeof stopping);
    stopping[literal->quote & 127] = 1;
    const vdag_table nibbles = avx512_table(NIBBLES), escapes = avx512_table(ESCAPES);
    const vdag_table stops = avx512_table(stopping);
    const uint8_t *text = literal->text + literal->at;
    const uint8_t *const text_end = literal->text + literal->nbytes;
    uint8_t *out = literal->out + literal->written;
    const uint8_t *const out_end = literal->out + literal->room;
    uint64_t skip = 0;
    while (text_end - text >= BLOCK + AHEAD && out_end - out >= BLOCK) {
        const __m512i c = avx512_load(text), second = avx512_load(text + 1);
        const __m512i third = avx512_load(text + 2), fourth = avx512_load(text + 3);
        const __m512i high = avx512_look_up(nibbles, third);
        const __m512i low = avx512_look_up(nibbles, fourth);
        const __m512i letter = avx512_look_up(escapes, second);
        const __m512i stop = avx512_look_up(stops, c);
        const __m512i digits = _mm512_and_si512(high, low);
        const vdag_units units = find_units(
            general(_mm512_cmpeq_epi8_mask(c, _mm512_set1_epi8('\\'))),
            general(_mm512_cmpeq_epi8_mask(second, _mm512_set1_epi8('x'))), skip);
        const uint64_t stopped = general(_mm512_test_epi8_mask(stop, stop));
        const uint64_t no_letters = general(_mm512_testn_epi8_mask(letter, letter));
        const uint64_t no_digits =
            general(_mm512_testn_epi8_mask(digits, _mm512_set1_epi8(IS_DIGIT)));
        const uint64_t no_ascii = general(_mm512_movepi8_mask(_mm512_or_si512(c, fourth)));
        if ((stopped & ~units.rests) | (no_letters & units.escapes & ~units.hexes) |
            (no_digits & units.hexes) | no_ascii)
            break;
        const __m512i escaped =
            _mm512_mask_mov_epi8(letter, units.hexes, avx512_join(high, low));
        const __m512i bytes = _mm512_mask_mov_epi8(c, units.escapes, escaped);
        _mm512_storeu_si512((void *)out, _mm512_maskz_compress_epi8(~units.rests, bytes));
        out += __builtin_popcountll(~units.rests);
        skip = units.skip;
        text += BLOCK;
    }
    literal->at = (size_t)(text - literal->text) + (size_t)__builtin_popcountll(skip);
    literal->written = (size_t)(out - literal->out);
}

AVX512 static vdag_literal_fault avx512_decode(vdag_literal *literal)
{
    return read_body(literal, avx512_blocks);
}

static const vdag_literal_level avx512_level = {"avx512", avx512_measure, avx512_encode,
                                                avx512_decode};

#endif
