/* See nms_kernel.h. The order of the float operations is the specification's, reference_nms.py:
 * both give the same bits, whatever the vector width. */

/* A fused multiply-add rounds once where the specification rounds twice. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "nms_kernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Boxes compared before looking whether one of them suppresses: two AVX2 vectors, four of NEON. */
enum { LANES = 16 };

typedef struct {
    float x1, y1, x2, y2, area;
    int32_t class_;
} box;

/* Structure of arrays: the loop over boxes loads whole vectors of one coordinate. */
typedef struct {
    float *x1, *y1, *x2, *y2, *area;
    int32_t *class_;
} columns;

typedef struct {
    uint32_t key, index;
} ranked;

INLINE size_t padded(size_t n) { return (n + LANES - 1) / LANES * LANES; }

static columns split(char *memory, size_t room) {
    float *f = (float *)memory;
    return (columns){.x1 = f,
                     .y1 = f + room,
                     .x2 = f + 2 * room,
                     .y2 = f + 3 * room,
                     .area = f + 4 * room,
                     .class_ = (int32_t *)(f + 5 * room)};
}

static void put(const columns *to, size_t at, box b) {
    to->x1[at] = b.x1;
    to->y1[at] = b.y1;
    to->x2[at] = b.x2;
    to->y2[at] = b.y2;
    to->area[at] = b.area;
    to->class_[at] = b.class_;
}

static int all_finite(box b) {
    return isfinite(b.x1) && isfinite(b.y1) && isfinite(b.x2) && isfinite(b.y2);
}

static box load(const vdag_boxes *boxes, size_t i) {
    const char *row = boxes->data + (ptrdiff_t)i * boxes->row;
    float c[4];
    for (int k = 0; k < 4; k++) memcpy(&c[k], row + k * boxes->column, sizeof(float));
    float w = c[2] - c[0], h = c[3] - c[1];
    return (box){c[0], c[1], c[2], c[3], MAX(w, 0.0f) * MAX(h, 0.0f), 0};
}

INLINE float intersection(const columns *s, size_t j, box b) {
    float w = MIN(s->x2[j], b.x2) - MAX(s->x1[j], b.x1);
    float h = MIN(s->y2[j], b.y2) - MAX(s->y1[j], b.y1);
    return MAX(w, 0.0f) * MAX(h, 0.0f);
}

/* Does one of the n kept boxes (n a multiple of LANES) overlap b by more than iou? */
INLINE int suppressed(const columns *kept, size_t n, box b, float iou) {
    for (size_t start = 0; start < n; start += LANES) {
        int hit = 0;
        for (size_t j = start; j < start + LANES; j++) {
            float inter = intersection(kept, j, b);
            float joint = kept->area[j] + b.area - inter;
            hit |= (inter > iou * joint) & (kept->class_[j] == b.class_);
        }
        if (hit) return 1;
    }
    return 0;
}

/* b holds one box per column; its room is padded, so that whole vectors may be read. */
INLINE void iou_row(const columns *b, size_t n, box a, float *out) {
    for (size_t j = 0; j < n; j++) {
        float inter = intersection(b, j, a);
        float joint = b->area[j] + a.area - inter;
        float ratio = inter / joint;
        out[j] = joint > 0.0f ? ratio : 0.0f;
    }
}

/* The same two loops once per instruction set; which one runs is decided at run time. There is no
 * variant for AVX-512: it gained less than 5 % over AVX2, as most candidates end in few blocks. */
#define VARIANT(name, target)                                                                      \
    target static int suppressed_##name(const columns *kept, size_t n, box b, float iou) {         \
        return suppressed(kept, n, b, iou);                                                        \
    }                                                                                              \
    target static void iou_row_##name(const columns *b, size_t n, box a, float *out) {             \
        iou_row(b, n, a, out);                                                                     \
    }

typedef struct {
    int (*suppressed)(const columns *, size_t, box, float);
    void (*iou_row)(const columns *, size_t, box, float *);
} variant;

VARIANT(baseline, )
#if defined(__x86_64__)
VARIANT(avx2, __attribute__((target("avx2"))))
#endif

static variant fastest(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return (variant){suppressed_avx2, iou_row_avx2};
#endif
    return (variant){suppressed_baseline, iou_row_baseline};
}

/* Ascending keys are descending scores; equal scores, and both zeros, have equal keys. */
static uint32_t descending(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

/* Stable, byte by byte from the lowest: equal keys stay in the order of their indices. */
static ranked *radix_sort(ranked *items, ranked *spare, size_t n) {
    size_t counts[4][256] = {{0}};
    for (size_t i = 0; i < n; i++)
        for (int pass = 0; pass < 4; pass++) counts[pass][items[i].key >> (8 * pass) & 255]++;
    for (int pass = 0; pass < 4; pass++) {
        size_t *count = counts[pass], total = 0;
        if (n && count[items[0].key >> (8 * pass) & 255] == n) continue; /* all the same */
        for (int digit = 0; digit < 256; digit++) {
            size_t here = count[digit];
            count[digit] = total;
            total += here;
        }
        for (size_t i = 0; i < n; i++) spare[count[items[i].key >> (8 * pass) & 255]++] = items[i];
        ranked *sorted = spare;
        spare = items;
        items = sorted;
    }
    return items;
}

/* Insertion wins below this: it needs no tables of counts. */
enum { FEW = 32 };

static ranked *sort(ranked *items, ranked *spare, size_t n) {
    if (n > FEW) return radix_sort(items, spare, n);
    for (size_t i = 1; i < n; i++) {
        ranked item = items[i];
        size_t j = i;
        for (; j > 0 && items[j - 1].key > item.key; j--) items[j] = items[j - 1];
        items[j] = item;
    }
    return items;
}

/* Boxes that take part, in their given order; comparing with NaN is false, which leaves it out. */
static size_t candidates(const vdag_boxes *boxes, vdag_column scores, float score, ranked *out) {
    size_t n = 0;
    for (size_t i = 0; i < boxes->n; i++) {
        float value;
        memcpy(&value, scores.data + (ptrdiff_t)i * scores.step, sizeof value);
        if (value >= score) out[n++] = (ranked){descending(value), (uint32_t)i};
    }
    return n;
}

/* A block of boxes that overlap nothing, so that the inner loop needs no remainder. */
static void blank(const columns *kept, size_t start) {
    for (size_t j = start; j < start + LANES; j++)
        put(kept, j, (box){FLT_MAX, FLT_MAX, -FLT_MAX, -FLT_MAX, 0.0f, 0});
}

size_t vdag_nms_scratch(size_t n) {
    return padded(n) * 6 * sizeof(float) + 2 * n * sizeof(ranked);
}

size_t vdag_nms(vdag_boxes boxes, vdag_column scores, vdag_column classes, float iou, float score,
                size_t max_out, void *scratch, int32_t *kept) {
    size_t room = padded(boxes.n), n_kept = 0;
    columns chosen = split(scratch, room);
    ranked *items = (ranked *)((char *)scratch + room * 6 * sizeof(float));
    size_t n = candidates(&boxes, scores, score, items);
    items = sort(items, items + boxes.n, n);
    variant run = fastest();
    for (size_t i = 0; i < n; i++) {
        box b = load(&boxes, items[i].index);
        if (classes.data)
            memcpy(&b.class_, classes.data + (ptrdiff_t)items[i].index * classes.step, 4);
        if (!all_finite(b)) continue;
        if (run.suppressed(&chosen, padded(n_kept), b, iou)) continue;
        if (n_kept % LANES == 0) blank(&chosen, n_kept);
        put(&chosen, n_kept, b);
        kept[n_kept++] = (int32_t)items[i].index;
        if (n_kept == max_out) break;
    }
    return n_kept;
}

size_t vdag_iou_scratch(size_t n) { return padded(n) * 6 * sizeof(float); }

/* An area of NaN makes every ratio of that box 0. */
static box load_or_nan(const vdag_boxes *boxes, size_t i) {
    box b = load(boxes, i);
    if (!all_finite(b)) b.area = NAN;
    return b;
}

void vdag_iou_matrix(vdag_boxes a, vdag_boxes b, void *scratch, float *out) {
    columns right = split(scratch, padded(b.n));
    for (size_t j = 0; j < b.n; j++) put(&right, j, load_or_nan(&b, j));
    variant run = fastest();
    for (size_t i = 0; i < a.n; i++) run.iou_row(&right, b.n, load_or_nan(&a, i), out + i * b.n);
}
