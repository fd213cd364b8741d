/* The span functions in plain C: the fall-back, and what the others use for a few odd columns. */
#ifndef VDAG_PREPROCESS_PLAIN_H
#define VDAG_PREPROCESS_PLAIN_H

#include <string.h>

#include "preprocess_span.h"

/* IEEE 754 binary32 to binary16, to nearest, ties to even. */
VDAG_INLINE uint16_t vdag_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) /* NaN: stays one, made quiet */
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
    if (bits >= 0x477ff000) /* 65520, half way past the largest, and above: infinity */
        return sign | 0x7c00;
    if (bits < 0x38800000) { /* below 2^-14, subnormal: adding 0.5 puts its ulp at 2^-24, */
        float shifted;       /* and the addition itself rounds */
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5F;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0x0fff + (bits >> 13 & 1); /* round; a carry moves into the exponent, as it should */
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

VDAG_INLINE void plain_store(void *out, int32_t at, float value, int half)
{
    if (half)
        ((uint16_t *)out)[at] = vdag_half(value);
    else
        ((float *)out)[at] = value;
}

VDAG_INLINE float plain_take(const uint8_t *left, float weight, int columns)
{
    const float sample = left[0];
    return columns ? sample + ((float)left[3] - sample) * weight : sample;
}

VDAG_INLINE void plain_sample(const vdag_span *span, int half, int rows, int columns)
{
    for (int32_t i = 0; i < span->count; i++) {
        const int32_t at = span->offset[i];
        const float weight = span->weight[i];
        for (int c = 0; c < 3; c++) {
            float sample = plain_take(span->top + at + c, weight, columns);
            if (rows)
                sample +=
                    (plain_take(span->bottom + at + c, weight, columns) - sample) * span->below;
            plain_store(span->out[c], i, sample * span->gain[c] + span->bias[c], half);
        }
    }
}

VDAG_INLINE void plain_copy(const vdag_span *span, int half)
{
    for (int c = 0; c < 3; c++) {
        const uint8_t *const src = span->top + c;
        const float gain = span->gain[c], bias = span->bias[c];
        for (int32_t i = 0; i < span->count; i++)
            plain_store(span->out[c], i, (float)src[(size_t)i * 3] * gain + bias, half);
    }
}

VDAG_LEVEL(plain, )

#endif
