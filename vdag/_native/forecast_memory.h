/* The memory of a forecast: one block, cut up. Only forecast_kernel.c includes this. */

typedef struct {
    char *memory; /* NULL while it is only measured */
    size_t used;
} cutter;

static void *cut(cutter *from, size_t count, size_t nbytes) {
    void *piece = from->memory ? from->memory + from->used : NULL;
    from->used += (count * nbytes + 15) / 16 * 16;
    return piece;
}

#define DOUBLES(n) cut(from, (n), sizeof(double))
#define INTS(n) cut(from, (n), sizeof(int32_t))
#define BYTES(n) cut(from, (n), 1)

static void lay_out(vdag_forecast *x, cutter *from) {
    size_t t = x->tasks, r = x->resolutions, f = x->rates, m = x->models, n = x->nodes;
    size_t c = x->combos, by_model = t * r * m, by_rate = by_model * f;
    x->prior = DOUBLES(VDAG_COSTS * by_model * n);
    x->log = DOUBLES(by_model * n);
    x->spots = DOUBLES(VDAG_SPOTS * t * n);
    x->sites = DOUBLES(VDAG_SITES * n);
    x->accurate = DOUBLES(t * m * r * f);
    x->frames = DOUBLES(2 * r);
    x->fps = DOUBLES(f);
    x->links = DOUBLES(n * n);
    x->excess = DOUBLES(n * n);
    x->sent = DOUBLES(2 * n);
    x->combo = INTS(c * t);
    x->branch = INTS(t);
    x->length = INTS(x->branches);
    x->now = INTS(t);
    x->work = DOUBLES(by_model * n);
    x->var = DOUBLES(by_model * n);
    x->taken = DOUBLES(by_model * n);
    x->least = DOUBLES(by_model);
    x->share[0] = DOUBLES(t * n);
    x->share[1] = DOUBLES(t * n);
    x->mean_s = DOUBLES(by_rate * n);
    x->var_s2 = DOUBLES(by_rate * n);
    x->fastest = DOUBLES(by_rate);
    x->calmest = DOUBLES(by_rate);
    x->known = BYTES(by_rate);
    x->stamp = INTS(by_rate);
    x->work_stamp = INTS(by_rate);
    x->soonest = DOUBLES(by_rate);
    x->way_stamp = INTS(r * f);
    x->first = DOUBLES(r * f * 3 * n);
    x->way = DOUBLES(r * f * 2);
    x->first_known = BYTES(r * f);
    x->between = cut(from, r * f, sizeof(double *));
    x->reached = DOUBLES(n);
    x->onward = DOUBLES(n);
    x->busy = DOUBLES(n + 1);
    x->heap = cut(from, r * f * c, sizeof(vdag_ranked));
    x->able = INTS(t * n);
    x->counts = INTS(t);
    x->rows = cut(from, t, sizeof(vdag_row));
}

vdag_forecast *vdag_forecast_new(int tasks, int resolutions, int rates, int models, int nodes,
                                 int combos, int branches) {
    vdag_forecast *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    *x = (vdag_forecast){.tasks = tasks, .resolutions = resolutions, .rates = rates,
                         .models = models, .nodes = nodes, .combos = combos,
                         .branches = branches};
    cutter from = {NULL, 0};
    lay_out(x, &from);
    /* All zeros: nothing is known, no aim is the present one. */
    from = (cutter){calloc(1, from.used), 0};
    if (!from.memory) {
        free(x);
        return NULL;
    }
    lay_out(x, &from);
    x->memory = from.memory;
    x->out = x->prior + (size_t)4 * tasks * resolutions * models * nodes;
    return x;
}

void vdag_forecast_free(vdag_forecast *x) {
    if (!x) return;
    for (int i = 0; i < x->resolutions * x->rates; i++) free(x->between[i]);
    free(x->placed);
    free(x->delay);
    free(x->p95);
    free(x->use);
    free(x->good);
    free(x->memory);
    free(x);
}

/* Make room for so many placements; 0 for no memory. */
static int make_room(vdag_forecast *x, int count) {
    if (count <= x->limit) return 1;
    free(x->placed);
    free(x->delay);
    free(x->p95);
    free(x->use);
    free(x->good);
    x->limit = 0;
    x->placed = malloc((size_t)count * x->tasks * sizeof *x->placed);
    x->delay = malloc(count * sizeof *x->delay);
    x->p95 = malloc(count * sizeof *x->p95);
    x->use = malloc(count * sizeof *x->use);
    x->good = malloc(count);
    if (!x->placed || !x->delay || !x->p95 || !x->use || !x->good) return 0;
    x->limit = count;
    return 1;
}
