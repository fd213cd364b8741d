/* The span functions for AVX2 with FMA and F16C, 8 columns at a time.
 *
 * The last block of a span ends exactly with it and may do a few columns twice: cheaper than a
 * scalar rest. Stores are unaligned, since tensors need not be aligned. */
#ifndef VDAG_PREPROCESS_AVX2_H
#define VDAG_PREPROCESS_AVX2_H

#include <immintrin.h>

#include "preprocess_plain.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))

/* Byte `n` of every 32-bit lane as a float: one shuffle instead of a shift and a mask. */
AVX2 VDAG_INLINE __m256 avx2_byte(__m256i lanes, int n)
{
    const __m128i first =
        _mm_setr_epi8(0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1);
    const __m128i nth = _mm_add_epi8(first, _mm_set1_epi32(n)); /* -1 above a 0 stays -1 */
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(lanes, _mm256_broadcastsi128_si256(nth)));
}

AVX2 VDAG_INLINE void avx2_store(void *out, int32_t at, __m256 value, int half)
{
    if (half)
        _mm_storeu_si128((__m128i *)((uint16_t *)out + at),
                         _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    else
        _mm256_storeu_ps((float *)out + at, value);
}

AVX2 VDAG_INLINE void avx2_finish(const vdag_span *span, int32_t at, const __m256 *sample, int half)
{
    for (int c = 0; c < 3; c++) {
        vdag_ask((char *)span->out[c] + (ptrdiff_t)at * (half ? 2 : 4));
        avx2_store(span->out[c], at,
                   _mm256_fmadd_ps(sample[c], _mm256_set1_ps(span->gain[c]),
                                   _mm256_set1_ps(span->bias[c])),
                   half);
    }
}

AVX2 VDAG_INLINE __m256 avx2_lerp(__m256 a, __m256 b, __m256 weight)
{
    return _mm256_fmadd_ps(_mm256_sub_ps(b, a), weight, a);
}

/* The three samples of 8 columns of one row. Two neighbours are 6 bytes in a row, so one 8-byte
 * gather brings both: half the loads of gathering each. */
AVX2 VDAG_INLINE void avx2_take(const uint8_t *row, __m256i at, __m256 weight, int columns,
                                __m256 *sample)
{
    if (!columns) {
        const __m256i pixel = _mm256_i32gather_epi32((const int *)row, at, 1);
        for (int c = 0; c < 3; c++)
            sample[c] = avx2_byte(pixel, c);
        return;
    }
    /* Columns 0 1 4 5 and 2 3 6 7, so that the in-lane shuffles below restore the order. */
    const __m256i order = _mm256_permute4x64_epi64(at, 0xd8);
    const long long *const base = (const long long *)row;
    const __m256 a = _mm256_castsi256_ps(
        _mm256_i32gather_epi64(base, _mm256_castsi256_si128(order), 1));
    const __m256 b = _mm256_castsi256_ps(
        _mm256_i32gather_epi64(base, _mm256_extracti128_si256(order, 1), 1));
    const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));  /* b g r B */
    const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)); /* G R . . */
    sample[0] = avx2_lerp(avx2_byte(low, 0), avx2_byte(low, 3), weight);
    sample[1] = avx2_lerp(avx2_byte(low, 1), avx2_byte(high, 0), weight);
    sample[2] = avx2_lerp(avx2_byte(low, 2), avx2_byte(high, 1), weight);
}

AVX2 VDAG_INLINE void avx2_sample(const vdag_span *span, int half, int rows, int columns)
{
    if (span->count < 8) {
        plain_sample(span, half, rows, columns);
        return;
    }
    const __m256 below = _mm256_set1_ps(span->below);
    int32_t step = vdag_first_step(span, 8, half);
    for (int32_t i = 0; i < span->count; i += step, step = 8) {
        if (i > span->count - 8)
            i = span->count - 8;
        vdag_ask_next(span, i, 8, rows);
        const __m256i at = _mm256_loadu_si256((const __m256i *)(span->offset + i));
        const __m256 weight = _mm256_loadu_ps(span->weight + i);
        __m256 sample[3], under[3];
        avx2_take(span->top, at, weight, columns, sample);
        if (rows) {
            avx2_take(span->bottom, at, weight, columns, under);
            for (int c = 0; c < 3; c++)
                sample[c] = avx2_lerp(sample[c], under[c], below);
        }
        avx2_finish(span, i, sample, half);
    }
}

/* 8 pixels are 24 bytes: 4 pixels from byte 0 and 4 from byte 12, which the second load, ending at
 * byte 24, holds 4 bytes in. Nothing beyond the span is read. */
AVX2 VDAG_INLINE void avx2_copy(const vdag_span *span, int half)
{
    if (span->count < 8) {
        plain_copy(span, half);
        return;
    }
    const __m256i first = _mm256_setr_epi8(
        0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1,
        4, -1, -1, -1, 7, -1, -1, -1, 10, -1, -1, -1, 13, -1, -1, -1);
    int32_t step = vdag_first_step(span, 8, half);
    for (int32_t i = 0; i < span->count; i += step, step = 8) {
        if (i > span->count - 8)
            i = span->count - 8;
        const uint8_t *const src = span->top + (size_t)i * 3;
        const __m256i pixels = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)src)),
            _mm_loadu_si128((const __m128i *)(src + 8)), 1);
        __m256 sample[3];
        for (int c = 0; c < 3; c++)
            sample[c] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(
                pixels, _mm256_add_epi8(first, _mm256_set1_epi32(c))));
        avx2_finish(span, i, sample, half);
    }
}

VDAG_LEVEL(avx2, AVX2)

#endif
