/* A span: neighbouring columns of one output row, the unit of work of the instruction sets.
 *
 * Left neighbours lie at `top + offset[i]`. A function may read 4 bytes there (8 where it blends
 * with the right neighbour): whoever makes the span guarantees that they exist, so that gathers
 * need no special case for the last pixel of a picture. */
#ifndef VDAG_PREPROCESS_SPAN_H
#define VDAG_PREPROCESS_SPAN_H

#include "preprocess_kernel.h"

enum { VDAG_ASK_AHEAD_NBYTES = 512 }; /* flat between 128 and 1024 */

#define VDAG_INLINE static inline __attribute__((always_inline))

typedef struct {
    const uint8_t *top, *bottom; /* source rows; `bottom` is read only if `below` is not 0 */
    const uint8_t *next[2];      /* the source rows that will be read after these */
    float below;                 /* weight of the bottom row */
    const int32_t *offset;       /* byte offset of the left neighbour, per column */
    const float *weight;         /* weight of the right neighbour, per column */
    void *out[3];                /* first output sample, per source channel */
    float gain[3], bias[3];
    int32_t count;
} vdag_span;

typedef void (*vdag_span_function)(const vdag_span *span);

struct vdag_level {
    const char *name;
    vdag_span_function sample[2][2][2]; /* [half][two rows][two columns] */
    vdag_span_function copy[2];         /* [half]: columns 1:1, offsets and weights unused */
};

/* How far the first block of `lanes` samples may go so that the next one is aligned to its size in
 * the first plane (in the others too where planes are a multiple of that, as they mostly are):
 * stores that straddle cache lines cost twice. The blocks overlap, which does no harm. */
VDAG_INLINE int32_t vdag_first_step(const vdag_span *span, int32_t lanes, int half)
{
    const uintptr_t sample_nbytes = half ? 2 : 4;
    const uintptr_t past = (uintptr_t)span->out[0] / sample_nbytes % (uintptr_t)lanes;
    return lanes - (int32_t)past;
}

/* Ask for the output line that a later block will write. A store to a line in no cache waits for
 * memory; asked for ahead, a cold tensor fills 1.5 times as fast, and a warm one no slower.
 * Streaming stores would leave the tensor in memory, where its reader then has to wait. */
VDAG_INLINE void vdag_ask(const void *out)
{
    __builtin_prefetch((const void *)((uintptr_t)out + VDAG_ASK_AHEAD_NBYTES), 1, 3);
}

/* Likewise for the source rows that the next output row needs, as far as columns `i` to `i + lanes`
 * need them: rows are too far apart for the hardware to foresee. */
VDAG_INLINE void vdag_ask_next(const vdag_span *span, int32_t i, int32_t lanes, int rows)
{
    const int32_t last = span->offset[i + lanes - 1];
    for (int32_t at = span->offset[i]; at <= last; at += 64)
        for (int row = 0; row <= rows; row++)
            __builtin_prefetch((const void *)((uintptr_t)span->next[row] + (uintptr_t)at), 0, 3);
}

/* The flags are constants once inlined: each combination becomes its own branch-free loop. */
#define VDAG_SAMPLER(isa, attributes, half, rows, columns)                      \
    attributes static void isa##_sample_##half##rows##columns(const vdag_span *span) \
    {                                                                           \
        isa##_sample(span, half, rows, columns);                                \
    }

#define VDAG_LEVEL(isa, attributes)                                            \
    VDAG_SAMPLER(isa, attributes, 0, 0, 0)                                     \
    VDAG_SAMPLER(isa, attributes, 0, 0, 1)                                     \
    VDAG_SAMPLER(isa, attributes, 0, 1, 0)                                     \
    VDAG_SAMPLER(isa, attributes, 0, 1, 1)                                     \
    VDAG_SAMPLER(isa, attributes, 1, 0, 0)                                     \
    VDAG_SAMPLER(isa, attributes, 1, 0, 1)                                     \
    VDAG_SAMPLER(isa, attributes, 1, 1, 0)                                     \
    VDAG_SAMPLER(isa, attributes, 1, 1, 1)                                     \
    attributes static void isa##_copy_0(const vdag_span *span) { isa##_copy(span, 0); } \
    attributes static void isa##_copy_1(const vdag_span *span) { isa##_copy(span, 1); } \
    static const vdag_level isa##_level = {                                    \
        #isa,                                                                  \
        {{{isa##_sample_000, isa##_sample_001}, {isa##_sample_010, isa##_sample_011}},   \
         {{isa##_sample_100, isa##_sample_101}, {isa##_sample_110, isa##_sample_111}}},  \
        {isa##_copy_0, isa##_copy_1},                                          \
    };

#endif
