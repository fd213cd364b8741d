/* How a query would go under all configurations and placements, and the best of them. Without
 * Python; the specification of every number is reference_forecast.py. */

#ifndef VDAG_FORECAST_KERNEL_H
#define VDAG_FORECAST_KERNEL_H

#include <stdint.h>

/* Rows of `spots`, per task and node, and of `sites`, per node: as forecast_terms.py has them. */
enum {
    VDAG_WORKERS, VDAG_OTHERS, VDAG_QUERIES, VDAG_LOG, VDAG_TAIL, VDAG_RATIO, VDAG_WAITED,
    VDAG_SPOTS
};
enum {
    VDAG_CORES_FREE, VDAG_CORES_SHARE, VDAG_SPEED, VDAG_EXCESS, VDAG_HOME_SPEED, VDAG_HOME_S,
    VDAG_PRICE, VDAG_SITES
};
enum { VDAG_COSTS = 6 };

typedef struct vdag_row vdag_row;
typedef struct vdag_ranked vdag_ranked;

/* Everything that is the caller's to fill in stands before `work`; axes are written behind it. */
typedef struct {
    int tasks, resolutions, rates, models, nodes, combos, branches, host;
    double objects;                    /* in the scene, NaN for not known */
    double spread;                     /* distance of the 95th percentile, in deviations */
    double sent_queries, sent_nbytes;  /* of others, from the host */
    double *prior;                     /* (6, task, resolution, model, node), NaN for not had */
    double *log;                       /* (task, resolution, model, node) */
    double *spots;                     /* (VDAG_SPOTS, task, node) */
    double *sites;                     /* (VDAG_SITES, node) */
    double *accurate;                  /* (task, model, resolution, rate) */
    double *frames;                    /* (2, resolution): bytes, seconds of a way beside them */
    double *fps;                       /* (rate) */
    double *links, *excess, *sent;     /* (node, node) twice, (2, node); once they are asked for */
    int32_t *combo;                    /* (combo, task): models */
    int32_t *branch, *length;          /* (task): tasks, one branch after the other; (branch) */
    int32_t *now;                      /* (task): nodes of the plan in force, -1 for none */
    /* What is worked out of it. */
    double *work, *var, *out, *least;  /* (task, resolution, model, node); without node */
    double *taken;                     /* as `work`: seconds that a frame takes of a worker */
    double *share[2];                  /* (task, node): workers that it may take, free or fair */
    double *mean_s, *var_s2;           /* (task, resolution, rate, model, node) */
    double *fastest, *calmest;         /* (task, resolution, rate, model) under the present aim */
    double *soonest;                   /* likewise, work alone */
    uint8_t *known;                    /* (task, resolution, rate, model): of the two above them */
    int32_t *stamp, *work_stamp;       /* the aims that `fastest` and `soonest` are of */
    int32_t *way_stamp;                /* (resolution, rate): that of `way` */
    double *first, *way;               /* (resolution, rate): 3 node; 2 */
    uint8_t *first_known;              /* (resolution, rate) */
    double **between;                  /* (resolution, rate): NULL or 3 node * node */
    double *reached, *onward, *busy;   /* (node), (node), (node + 1) */
    double *accuracy;                  /* (resolution, rate, combo); the caller's */
    int32_t epoch, free_only;
    double crowding;
    vdag_ranked *heap;
    int heap_count, limit;             /* placements that there is room for */
    int32_t *able, *counts;            /* (task, node), (task) */
    int32_t *placed;                   /* (placement, task) */
    double *delay, *p95, *use;         /* (placement) */
    uint8_t *good;
    vdag_row *rows;                    /* (task), of the configuration that is looked at */
    void *memory;
} vdag_forecast;

typedef struct {
    double limit_s, enough, least, crowding;
    int free_only, fewest_moves;
    const int32_t *present;            /* (task): node, -1 for one that is none of them, -2 free */
    const uint8_t *only;               /* (resolution, rate, combo) or NULL for all */
} vdag_aim;

/* Return one of these sizes with all arrays in place, NULL for no memory. */
vdag_forecast *vdag_forecast_new(int tasks, int resolutions, int rates, int models, int nodes,
                                 int combos, int branches);
void vdag_forecast_free(vdag_forecast *x);

/* Work out what does not depend on an aim; all that is the caller's is there but for links. */
void vdag_forecast_prepare(vdag_forecast *x);

/* Write the work of all configurations, (resolution, rate, combo). */
void vdag_forecast_work(const vdag_forecast *x, double *out);

/* Rank what an aim may take by its quality. */
void vdag_forecast_rank(vdag_forecast *x, const vdag_aim *aim);

/* Return the best that is left and passes the first bound, as an index; -1 for none. */
int vdag_forecast_next(vdag_forecast *x, const vdag_aim *aim);

/* Whether the shortest way of a frame is within an aim. Links are there; 0 also for no memory. */
int vdag_forecast_reaches(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c);

/* Look at the placements of a configuration: fill in `placed`, `delay`, `p95` and `good`.
 * Return how many there are, -1 for no memory; *fastest: the one of them. */
int vdag_forecast_look(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c, int *fastest);

/* The same for whoever wants to see all of them: fill in `use` in place of `good`. */
int vdag_forecast_weigh(vdag_forecast *x, double crowding, int free_only, int r, int f, int c);

/* Return the best of `count` placements that are good, -1 for none. */
int vdag_forecast_pick(const vdag_forecast *x, const vdag_aim *aim, int count);

/* Return how far the best placement of any configuration at the lowest rate is off `limit_s` and
 * what may be taken, and which it is; *r is -1 if nothing can be run, -2 for no memory. */
double vdag_forecast_closest(vdag_forecast *x, double limit_s, int free_only, int *r, int *c,
                             int *placement);

#endif
