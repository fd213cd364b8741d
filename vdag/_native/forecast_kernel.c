/* See forecast_kernel.h. The order of the operations is the specification's. Nothing is worked out
 * before somebody wants it: most configurations are never looked at. */

/* A fused multiply-add rounds once where the specification rounds twice. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "forecast_kernel.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* As forecast_terms.py has them. */
#define FULL 0.8
#define MAX_BUSY 0.98
#define MAX_LINK 0.98
#define PACED_WORK 0.05
#define PACED_LINK 0.1
#define JITTER 0.15
#define Z95 1.6449
#define HOP_S 0.001
#define WAY_S 0.003
#define FILLED 0.9
#define QUEUE_FLOOR_S 0.002
#define LEAST_WORK_S 1e-6
#define MIN_COMPUTE_S 1e-6
#define MAX_COMPUTE_S 600.0
#define MAX_SLOWDOWN 1000.0
#define NOTHING 1e-9
#define EPSILON 1e-9
#define ACCURACY_STEP 0.01
#define STEPS 101.0
enum { MAX_PLACEMENTS = 4096 };

#define INLINE static inline __attribute__((always_inline))

/* A task of the configuration that is looked at: what it takes at each node. */
struct vdag_row {
    const double *mean, *var, *taken, *share, *home_out;
};

struct vdag_ranked {
    double steps, work;
    int32_t rate, index;
};

INLINE double least_of(double a, double b) { return b < a ? b : a; }
INLINE double most_of(double a, double b) { return b > a ? b : a; }

INLINE size_t at_model(const vdag_forecast *x, int t, int r, int m) {
    return ((size_t)t * x->resolutions + r) * x->models + m;
}

INLINE size_t at_rate(const vdag_forecast *x, int t, int r, int f, int m) {
    return (((size_t)t * x->resolutions + r) * x->rates + f) * x->models + m;
}

INLINE const double *spot(const vdag_forecast *x, int kind, int t) {
    return x->spots + ((size_t)kind * x->tasks + t) * x->nodes;
}

INLINE const double *site(const vdag_forecast *x, int kind) {
    return x->sites + (size_t)kind * x->nodes;
}

#include "forecast_memory.h"
#include "forecast_stays.h"
#include "forecast_ways.h"
#include "forecast_bounds.h"
#include "forecast_placing.h"
