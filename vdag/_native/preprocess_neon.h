/* The span functions for 64-bit ARM, whose every CPU has NEON: 4 columns at a time, 16 where they
 * map 1:1. There is no gather, but loading lanes one by one comes close. */
#ifndef VDAG_PREPROCESS_NEON_H
#define VDAG_PREPROCESS_NEON_H

#include <arm_neon.h>

#include "preprocess_plain.h"

VDAG_INLINE void neon_store(void *out, int32_t at, float32x4_t value, int half)
{
    if (half)
        vst1_u16((uint16_t *)out + at, vreinterpret_u16_f16(vcvt_f16_f32(value)));
    else
        vst1q_f32((float *)out + at, value);
}

VDAG_INLINE void neon_finish(const vdag_span *span, int c, int32_t at, float32x4_t sample, int half)
{
    const float32x4_t bias = vdupq_n_f32(span->bias[c]);
    neon_store(span->out[c], at, vfmaq_n_f32(bias, sample, span->gain[c]), half);
}

VDAG_INLINE float32x4_t neon_lerp(float32x4_t a, float32x4_t b, float32x4_t weight)
{
    return vfmaq_f32(a, vsubq_f32(b, a), weight);
}

/* The low byte of every lane after a shift by `bits`, as a float. */
VDAG_INLINE float32x4_t neon_byte(uint32x4_t lanes, int bits)
{
    const uint32x4_t shifted = vshlq_u32(lanes, vdupq_n_s32(-bits));
    return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(0xff)));
}

/* 4 bytes at `row + at[i]` in each lane; memcpy because they are not aligned. */
VDAG_INLINE uint32x4_t neon_gather(const uint8_t *row, const int32_t *at)
{
    uint32_t lanes[4];
    for (int i = 0; i < 4; i++)
        memcpy(&lanes[i], row + at[i], 4);
    return vld1q_u32(lanes);
}

VDAG_INLINE void neon_take(const uint8_t *row, const int32_t *at, float32x4_t weight, int columns,
                           float32x4_t *sample)
{
    const uint32x4_t left = neon_gather(row, at);
    for (int c = 0; c < 3; c++)
        sample[c] = neon_byte(left, 8 * c);
    if (columns) {
        const uint32x4_t right = neon_gather(row + 3, at);
        for (int c = 0; c < 3; c++)
            sample[c] = neon_lerp(sample[c], neon_byte(right, 8 * c), weight);
    }
}

VDAG_INLINE void neon_sample(const vdag_span *span, int half, int rows, int columns)
{
    if (span->count < 4) {
        plain_sample(span, half, rows, columns);
        return;
    }
    const float32x4_t below = vdupq_n_f32(span->below);
    for (int32_t i = 0; i < span->count; i += 4) {
        if (i > span->count - 4)
            i = span->count - 4;
        const float32x4_t weight = vld1q_f32(span->weight + i);
        float32x4_t sample[3], under[3];
        neon_take(span->top, span->offset + i, weight, columns, sample);
        if (rows)
            neon_take(span->bottom, span->offset + i, weight, columns, under);
        for (int c = 0; c < 3; c++)
            neon_finish(span, c, i, rows ? neon_lerp(sample[c], under[c], below) : sample[c], half);
    }
}

VDAG_INLINE void neon_widen(const vdag_span *span, int c, int32_t at, uint16x8_t samples, int half)
{
    const uint32x4_t low = vmovl_u16(vget_low_u16(samples));
    const uint32x4_t high = vmovl_u16(vget_high_u16(samples));
    neon_finish(span, c, at, vcvtq_f32_u32(low), half);
    neon_finish(span, c, at + 4, vcvtq_f32_u32(high), half);
}

VDAG_INLINE void neon_copy(const vdag_span *span, int half)
{
    if (span->count < 16) {
        plain_copy(span, half);
        return;
    }
    for (int32_t i = 0; i < span->count; i += 16) {
        if (i > span->count - 16)
            i = span->count - 16;
        const uint8x16x3_t pixels = vld3q_u8(span->top + (size_t)i * 3);
        for (int c = 0; c < 3; c++) {
            neon_widen(span, c, i, vmovl_u8(vget_low_u8(pixels.val[c])), half);
            neon_widen(span, c, i + 8, vmovl_u8(vget_high_u8(pixels.val[c])), half);
        }
    }
}

VDAG_LEVEL(neon, )

#endif
