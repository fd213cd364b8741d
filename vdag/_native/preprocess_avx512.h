/* The span functions for AVX-512 F and BW, 16 columns at a time; otherwise as in preprocess_avx2.h,
 * which explains the tricks. */
#ifndef VDAG_PREPROCESS_AVX512_H
#define VDAG_PREPROCESS_AVX512_H

#include <immintrin.h>

#include "preprocess_avx2.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx2,fma,f16c")))

AVX512 VDAG_INLINE __m512 avx512_byte(__m512i lanes, int n)
{
    const __m128i first =
        _mm_setr_epi8(0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1);
    const __m128i nth = _mm_add_epi8(first, _mm_set1_epi32(n));
    return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(nth)));
}

AVX512 VDAG_INLINE void avx512_store(void *out, int32_t at, __m512 value, int half)
{
    if (half)
        _mm256_storeu_si256((__m256i *)((uint16_t *)out + at),
                            _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    else
        _mm512_storeu_ps((float *)out + at, value);
}

AVX512 VDAG_INLINE void avx512_finish(const vdag_span *span, int32_t at, const __m512 *sample,
                                      int half)
{
    for (int c = 0; c < 3; c++) {
        vdag_ask((char *)span->out[c] + (ptrdiff_t)at * (half ? 2 : 4));
        avx512_store(span->out[c], at,
                     _mm512_fmadd_ps(sample[c], _mm512_set1_ps(span->gain[c]),
                                     _mm512_set1_ps(span->bias[c])),
                     half);
    }
}

AVX512 VDAG_INLINE __m512 avx512_lerp(__m512 a, __m512 b, __m512 weight)
{
    return _mm512_fmadd_ps(_mm512_sub_ps(b, a), weight, a);
}

AVX512 VDAG_INLINE void avx512_take(const uint8_t *row, __m512i at, __m512 weight, int columns,
                                    __m512 *sample)
{
    if (!columns) {
        const __m512i pixel = _mm512_i32gather_epi32(at, row, 1);
        for (int c = 0; c < 3; c++)
            sample[c] = avx512_byte(pixel, c);
        return;
    }
    const __m512i order = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), at);
    const __m512 a = _mm512_castsi512_ps(
        _mm512_i32gather_epi64(_mm512_castsi512_si256(order), row, 1));
    const __m512 b = _mm512_castsi512_ps(
        _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(order, 1), row, 1));
    const __m512i low = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));  /* b g r B */
    const __m512i high = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd)); /* G R . . */
    sample[0] = avx512_lerp(avx512_byte(low, 0), avx512_byte(low, 3), weight);
    sample[1] = avx512_lerp(avx512_byte(low, 1), avx512_byte(high, 0), weight);
    sample[2] = avx512_lerp(avx512_byte(low, 2), avx512_byte(high, 1), weight);
}

AVX512 VDAG_INLINE void avx512_sample(const vdag_span *span, int half, int rows, int columns)
{
    if (span->count < 16) {
        avx2_sample(span, half, rows, columns);
        return;
    }
    const __m512 below = _mm512_set1_ps(span->below);
    int32_t step = vdag_first_step(span, 16, half);
    for (int32_t i = 0; i < span->count; i += step, step = 16) {
        if (i > span->count - 16)
            i = span->count - 16;
        vdag_ask_next(span, i, 16, rows);
        const __m512i at = _mm512_loadu_si512(span->offset + i);
        const __m512 weight = _mm512_loadu_ps(span->weight + i);
        __m512 sample[3], under[3];
        avx512_take(span->top, at, weight, columns, sample);
        if (rows) {
            avx512_take(span->bottom, at, weight, columns, under);
            for (int c = 0; c < 3; c++)
                sample[c] = avx512_lerp(sample[c], under[c], below);
        }
        avx512_finish(span, i, sample, half);
    }
}

AVX512 VDAG_INLINE __m128i avx512_load(const uint8_t *src)
{
    return _mm_loadu_si128((const __m128i *)src);
}

/* 16 pixels are 48 bytes: 4 pixels each from byte 0, 12, 24, and, 4 bytes in, from byte 32. */
AVX512 VDAG_INLINE void avx512_copy(const vdag_span *span, int half)
{
    if (span->count < 16) {
        avx2_copy(span, half);
        return;
    }
    const __m128i every = _mm_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1);
    const __m512i first = _mm512_inserti32x4(_mm512_broadcast_i32x4(every),
                                             _mm_add_epi8(every, _mm_set1_epi32(4)), 3);
    int32_t step = vdag_first_step(span, 16, half);
    for (int32_t i = 0; i < span->count; i += step, step = 16) {
        if (i > span->count - 16)
            i = span->count - 16;
        const uint8_t *const src = span->top + (size_t)i * 3;
        __m512i pixels = _mm512_castsi128_si512(avx512_load(src));
        pixels = _mm512_inserti32x4(pixels, avx512_load(src + 12), 1);
        pixels = _mm512_inserti32x4(pixels, avx512_load(src + 24), 2);
        pixels = _mm512_inserti32x4(pixels, avx512_load(src + 32), 3);
        __m512 sample[3];
        for (int c = 0; c < 3; c++)
            sample[c] = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(
                pixels, _mm512_add_epi8(first, _mm512_set1_epi32(c))));
        avx512_finish(span, i, sample, half);
    }
}

VDAG_LEVEL(avx512, AVX512)

#endif
