/* See preprocess_kernel.h. This file holds what is the same on every CPU: where a picture lands,
 * which source pixels make which output pixel, and how threads share the rows. The loops over pixels
 * are in preprocess_plain.h, _avx2.h, _avx512.h and _neon.h, chosen at run time. */
#define _GNU_SOURCE
#include "preprocess_kernel.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include "preprocess_avx512.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "preprocess_neon.h"
#else
#include "preprocess_plain.h"
#endif

enum {
    BAND_ROWS = 16, /* what a thread takes at a time: some 10 us, far above the cost of taking it */
    END_NBYTES = 16,
};

/* Columns whose gathers would leave the source row (`body` and on) read a copy of the row's end
 * instead, with zeros behind it: `offset` counts from source byte `end` there. */
struct vdag_columns {
    int32_t body, count;
    int32_t end, end_nbytes;
    int same;    /* columns map 1:1 */
    int blended; /* some column needs its right neighbour */
    float *weight;
    int32_t offset[]; /* and `weight` behind it */
};

typedef struct {
    vdag_item *items;
    const vdag_target *target;
    const vdag_level *level;
    size_t bands, total; /* per item; of all items */
    atomic_size_t next;
} vdag_crew;

/* ---- geometry ---- */

static int32_t fitted(double length, int32_t limit)
{
    const double rounded = rint(length); /* half to even, as Python's round() */
    return rounded < 1 ? 1 : rounded > limit ? limit : (int32_t)rounded;
}

void vdag_place(vdag_item *item, const vdag_target *target, int letterbox)
{
    item->width = target->width;
    item->height = target->height;
    if (letterbox) {
        const double scale = fmin((double)target->width / item->src_width,
                                  (double)target->height / item->src_height);
        item->width = fitted(item->src_width * scale, target->width);
        item->height = fitted(item->src_height * scale, target->height);
    }
    item->left = (target->width - item->width) / 2;
    item->top = (target->height - item->height) / 2;
}

/* The source position of output pixel `at`: the first neighbour, and the weight of the second.
 * Pixel centres are at halves, so both pictures cover the same area; outside, the edge repeats. */
static int32_t neighbour(int32_t at, int32_t src_length, int32_t length, float *weight)
{
    const double ratio = (double)src_length / length;
    const double position = fmin(fmax((at + 0.5) * ratio - 0.5, 0), src_length - 1);
    const int32_t first = (int32_t)position;
    *weight = (float)(position - first);
    return first;
}

static vdag_columns *make_columns(int32_t src_width, int32_t width)
{
    vdag_columns *const columns =
        malloc(sizeof *columns + (size_t)width * (sizeof(int32_t) + sizeof(float)));
    if (!columns)
        return NULL;
    *columns = (vdag_columns){.body = width, .count = width, .same = src_width == width};
    columns->weight = (float *)(columns->offset + width);
    for (int32_t i = 0; i < width; i++) {
        columns->offset[i] = 3 * neighbour(i, src_width, width, &columns->weight[i]);
        columns->blended |= columns->weight[i] != 0;
    }
    const int32_t reach = 3 * src_width - (columns->blended ? 8 : 4);
    while (columns->body > 0 && columns->offset[columns->body - 1] > reach)
        columns->body--;
    if (columns->body < width) {
        columns->end = columns->offset[columns->body];
        columns->end_nbytes = 3 * src_width - columns->end;
        assert(columns->end_nbytes + 8 <= END_NBYTES);
    }
    for (int32_t i = columns->body; i < width; i++)
        columns->offset[i] -= columns->end;
    return columns;
}

static void free_columns(vdag_item *items, size_t count)
{
    for (size_t i = count; i-- > 0;) { /* backwards: only live pointers are compared */
        if (i == 0 || items[i].columns != items[i - 1].columns)
            free((void *)items[i].columns);
    }
}

/* Neighbours of equal geometry, the frames of one camera, share one table. */
static int share_columns(vdag_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vdag_item *const item = &items[i];
        if (i && item->src_width == item[-1].src_width && item->width == item[-1].width)
            item->columns = item[-1].columns;
        else
            item->columns = make_columns(item->src_width, item->width);
        if (!item->columns) {
            free_columns(items, i);
            return -1;
        }
    }
    return 0;
}

/* ---- rows ---- */

/* The same value `count` times, a cache line at a time. */
static void fill(char *out, int32_t count, float value, int half)
{
    char line[64];
    size_t nbytes = (size_t)count * (half ? 2 : 4);
    if (count == 0)
        return;
    for (int32_t i = 0; i < (half ? 32 : 16); i++)
        plain_store(line, i, value, half);
    for (; nbytes >= sizeof line; nbytes -= sizeof line, out += sizeof line) {
        vdag_ask(out);
        memcpy(out, line, sizeof line);
    }
    memcpy(out, line, nbytes);
}

/* The columns past `body`, from copies of the ends of their source rows. */
static void sample_end(vdag_span *span, const vdag_columns *columns, vdag_span_function sample,
                       size_t sample_nbytes)
{
    uint8_t ends[2][END_NBYTES] = {{0}};
    memcpy(ends[0], span->top + columns->end, (size_t)columns->end_nbytes);
    if (span->below != 0)
        memcpy(ends[1], span->bottom + columns->end, (size_t)columns->end_nbytes);
    span->top = ends[0];
    span->bottom = ends[1];
    span->offset += columns->body;
    span->weight += columns->body;
    span->count = columns->count - columns->body;
    for (int c = 0; c < 3; c++)
        span->out[c] = (char *)span->out[c] + (size_t)columns->body * sample_nbytes;
    sample(span);
}

/* Row `y` of the rectangle of `item`; `span` already knows where it goes. */
static void sample_row(const vdag_item *item, const vdag_target *target, const vdag_level *level,
                       int32_t y, vdag_span *span)
{
    const vdag_columns *const columns = item->columns;
    const int32_t first = neighbour(y, item->src_height, item->height, &span->below);
    span->top = item->src + first * item->stride;
    span->bottom = span->below != 0 ? span->top + item->stride : span->top;
    float unused;
    const int32_t next = neighbour(y + 1, item->src_height, item->height, &unused);
    span->next[0] = item->src + next * item->stride;
    span->next[1] = next + 1 < item->src_height ? span->next[0] + item->stride : span->next[0];
    span->offset = columns->offset;
    span->weight = columns->weight;
    if (columns->same && span->below == 0) {
        span->count = columns->count;
        level->copy[target->half](span);
        return;
    }
    const vdag_span_function sample =
        level->sample[target->half][span->below != 0][columns->blended];
    span->count = columns->body;
    if (columns->body)
        sample(span);
    if (columns->body < columns->count)
        sample_end(span, columns, sample, target->half ? 2 : 4);
}

static void fill_row(const vdag_item *item, const vdag_target *target, const vdag_level *level,
                     int32_t y)
{
    const size_t sample_nbytes = target->half ? 2 : 4;
    const int inside = y >= item->top && y < item->top + item->height;
    const int32_t right = item->left + item->width;
    vdag_span span;
    for (int c = 0; c < 3; c++) {
        const size_t line = (size_t)target->plane[c] * (size_t)target->height + (size_t)y;
        char *const row = (char *)item->dst + line * (size_t)target->width * sample_nbytes;
        fill(row, inside ? item->left : target->width, target->pad[c], target->half);
        if (inside)
            fill(row + (size_t)right * sample_nbytes, target->width - right, target->pad[c],
                 target->half);
        span.out[c] = row + (size_t)item->left * sample_nbytes;
        span.gain[c] = target->gain[c];
        span.bias[c] = target->bias[c];
    }
    if (inside)
        sample_row(item, target, level, y - item->top, &span);
}

/* ---- threads ---- */

static void *work(void *argument)
{
    vdag_crew *const crew = argument;
    for (;;) {
        const size_t band = atomic_fetch_add_explicit(&crew->next, 1, memory_order_relaxed);
        if (band >= crew->total)
            return NULL;
        const int32_t from = (int32_t)(band % crew->bands) * BAND_ROWS;
        const int32_t to = from + BAND_ROWS < crew->target->height ? from + BAND_ROWS
                                                                   : crew->target->height;
        for (int32_t y = from; y < to; y++)
            fill_row(&crew->items[band / crew->bands], crew->target, crew->level, y);
    }
}

/* Threads live for one call: starting one costs a hundredth of a batch, and nothing is left over
 * to leak or to be missing after a fork. A thread that cannot be started is no error: the rest do
 * its share. Signals are blocked in them, since Python wants its own thread to take them. */
static void work_together(vdag_crew *crew, int threads)
{
    pthread_t others[VDAG_MAX_THREADS];
    sigset_t all, before;
    int started = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < threads - 1 && !pthread_create(&others[started], NULL, work, crew))
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(crew);
    while (started > 0)
        pthread_join(others[--started], NULL);
}

int vdag_fill(vdag_item *items, size_t count, const vdag_target *target, const vdag_level *level,
              int threads)
{
    if (share_columns(items, count))
        return -1;
    vdag_crew crew = {.items = items, .target = target, .level = level};
    crew.bands = (size_t)(target->height + BAND_ROWS - 1) / BAND_ROWS;
    crew.total = crew.bands * count;
    atomic_init(&crew.next, 0);
    if ((size_t)threads > crew.total)
        threads = (int)crew.total;
    if (threads > 1)
        work_together(&crew, threads);
    else
        work(&crew);
    free_columns(items, count);
    return 0;
}

/* ---- levels ---- */

static const vdag_level *const LEVELS[] = {
#if defined(__x86_64__)
    &avx512_level, &avx2_level,
#elif defined(__aarch64__) && defined(__ARM_NEON)
    &neon_level,
#endif
    &plain_level,
};

static int runs_here(const vdag_level *level)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* not every compiler's library has done so by itself */
    /* F16C is not asked for: every CPU with AVX2 has it, and old compilers do not know its name. */
    if (level == &avx512_level)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("fma");
    if (level == &avx2_level)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)level;
    return 1;
}

const vdag_level *vdag_find_level(const char *name)
{
    for (size_t i = 0; i < sizeof LEVELS / sizeof *LEVELS; i++) {
        if ((!name || !strcmp(name, LEVELS[i]->name)) && runs_here(LEVELS[i]))
            return LEVELS[i];
    }
    return NULL;
}

const char *vdag_level_name(const vdag_level *level)
{
    return level->name;
}
