/* Pictures into planar tensors in one pass: resize, pad, normalise, reorder. The C side of
 * preprocess.pyx, which checks every argument; nothing here looks at Python or takes the GIL. */
#ifndef VDAG_PREPROCESS_KERNEL_H
#define VDAG_PREPROCESS_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    VDAG_MAX_SIDE = 65535, /* 3 * VDAG_MAX_SIDE fits an int32 with room to spare */
    VDAG_MAX_THREADS = 64,
};

typedef struct vdag_level vdag_level;     /* one instruction set's row functions */
typedef struct vdag_columns vdag_columns; /* which source columns make which output columns */

/* What all tensors of a call share. `gain`, `bias`, `pad` and `plane` go by SOURCE channel, so that
 * swapping channels costs nothing: output = sample * gain + bias, into plane `plane`. */
typedef struct {
    int32_t width, height;
    int half; /* float16 instead of float32 */
    float gain[3], bias[3], pad[3];
    int plane[3];
} vdag_target;

/* One picture, and the rectangle of its tensor (3, height, width) that it fills. */
typedef struct {
    const uint8_t *src; /* top left sample */
    ptrdiff_t stride;   /* bytes from one row to the next, of either sign */
    int32_t src_width, src_height;
    void *dst;
    int32_t left, top, width, height;
    const vdag_columns *columns; /* set and freed by vdag_fill */
} vdag_item;

/* Set the rectangle of `item` from its source size: all of the tensor, or, for `letterbox`, the
 * largest rectangle of the same aspect ratio, centred (an odd pixel goes below and right). */
void vdag_place(vdag_item *item, const vdag_target *target, int letterbox);

/* Write every sample of the tensors of `count` items, with at most `threads` threads (the caller is
 * one of them; the others are gone on return). Returns 0, or -1 if there is no memory: then nothing
 * has been written. */
int vdag_fill(vdag_item *items, size_t count, const vdag_target *target, const vdag_level *level,
              int threads);

/* The level of that name, or the best one for NULL; NULL if this CPU cannot run it. */
const vdag_level *vdag_find_level(const char *name);
const char *vdag_level_name(const vdag_level *level);

#endif
