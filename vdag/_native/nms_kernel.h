/* Greedy non-maximum suppression and IoU matrices over float32 boxes, without Python. */

#ifndef VDAG_NMS_KERNEL_H
#define VDAG_NMS_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* float32 rows x1, y1, x2, y2 of any stride; strides are in bytes, as in the buffer protocol. */
typedef struct {
    const char *data;
    ptrdiff_t row, column;
    size_t n;
} vdag_boxes;

/* One 4-byte item per box, `step` bytes apart; `data` is NULL where there is none. */
typedef struct {
    const char *data;
    ptrdiff_t step;
} vdag_column;

/* Bytes of scratch that vdag_nms wants for n boxes. n <= INT32_MAX. */
size_t vdag_nms_scratch(size_t n);

/* Write the indices of the boxes that stay to `kept`, best first, and return how many there are.
 * `kept` has room for max_out, or for boxes.n when max_out is 0. Never fails. */
size_t vdag_nms(vdag_boxes boxes, vdag_column scores, vdag_column classes, float iou, float score,
                size_t max_out, void *scratch, int32_t *kept);

/* Bytes of scratch that vdag_iou_matrix wants for n columns. */
size_t vdag_iou_scratch(size_t n);

/* Write IoU of every box of `a` with every box of `b` to `out`, a.n rows of b.n. Never fails. */
void vdag_iou_matrix(vdag_boxes a, vdag_boxes b, void *scratch, float *out);

#endif
