/* Bounds that no placement of a configuration can beat, and the order in which configurations are
 * looked at. Only forecast_kernel.c includes this. */

/* What depends on an aim is void if this one is another. */
static void take_aim(vdag_forecast *x, double crowding, int free_only) {
    if (x->epoch && x->crowding == crowding && x->free_only == free_only) return;
    x->crowding = crowding;
    x->free_only = free_only;
    x->epoch++;
}

/* The least work of a task at the nodes where it fits: of `fastest` what costs nothing to know. */
static double least_work(vdag_forecast *x, int t, int r, int f, int m) {
    size_t cell = at_rate(x, t, r, f, m);
    if (x->work_stamp[cell] == x->epoch) return x->soonest[cell];
    x->work_stamp[cell] = x->epoch;
    const double *work = x->work + at_model(x, t, r, m) * x->nodes;
    double soonest = INFINITY;
    for (int n = 0; n < x->nodes; n++)
        if (fits(x, t, r, f, m, n)) soonest = least_of(soonest, work[n]);
    return x->soonest[cell] = soonest;
}

/* The least mean and variance of a task at the nodes where it fits. */
static size_t least_stay(vdag_forecast *x, int t, int r, int f, int m) {
    size_t cell = at_rate(x, t, r, f, m);
    if (x->stamp[cell] == x->epoch) return cell;
    x->stamp[cell] = x->epoch;
    know(x, t, r, f, m);
    double fastest = INFINITY, calmest = INFINITY;
    for (int n = 0; n < x->nodes; n++)
        if (fits(x, t, r, f, m, n)) {
            fastest = least_of(fastest, x->mean_s[cell * x->nodes + n]);
            calmest = least_of(calmest, x->var_s2[cell * x->nodes + n]);
        }
    x->fastest[cell] = fastest;
    x->calmest[cell] = calmest;
    return cell;
}

/* Whether a configuration would be too late even if no frame ever waited; then so is its bound. */
static int is_hopeless(vdag_forecast *x, int r, int f, int c, double limit_s) {
    const int32_t *branch = x->branch, *combo = x->combo + (size_t)c * x->tasks;
    const double *way = shortest_way(x, r, f);
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        double away = 0.0, here = 0.0;
        for (int i = 0; i < x->length[b]; i++) {
            int t = branch[i], m = combo[t];
            int is_here = x->host >= 0 && fits(x, t, r, f, m, x->host);
            away += least_work(x, t, r, f, m);
            here += is_here ? x->work[at_model(x, t, r, m) * x->nodes + x->host] : INFINITY;
        }
        if (least_of(way[0] + away + x->spread * sqrt(way[1]), here) > limit_s) return 1;
    }
    return 0;
}

/* A 95th percentile that no placement is below: all at the host, or the shortest way out and the
 * fastest node for each task. */
static double bound_of(vdag_forecast *x, int r, int f, int c) {
    const int32_t *branch = x->branch, *combo = x->combo + (size_t)c * x->tasks;
    const double *way = shortest_way(x, r, f);
    double worst = 0.0;
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        double away = 0.0, spare = 0.0, here = 0.0, calm = 0.0;
        for (int i = 0; i < x->length[b]; i++) {
            int t = branch[i], m = combo[t];
            size_t cell = least_stay(x, t, r, f, m);
            away += x->fastest[cell];
            spare += x->calmest[cell];
            int is_here = x->host >= 0 && fits(x, t, r, f, m, x->host);
            here += is_here ? x->mean_s[cell * x->nodes + x->host] : INFINITY;
            calm += is_here ? x->var_s2[cell * x->nodes + x->host] : INFINITY;
        }
        double bound = way[0] + away + x->spread * sqrt(way[1] + spare);
        worst = most_of(worst, least_of(bound, here + x->spread * sqrt(calm)));
    }
    return worst;
}

/* The better one: more steps of accuracy, a higher rate, less work; then the first. */
INLINE int is_before(const vdag_ranked *a, const vdag_ranked *b) {
    if (a->steps != b->steps) return a->steps > b->steps;
    if (a->rate != b->rate) return a->rate > b->rate;
    if (a->work != b->work) return a->work < b->work;
    return a->index < b->index;
}

static void sink(vdag_ranked *heap, int count, int i) {
    vdag_ranked item = heap[i];
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && is_before(&heap[child + 1], &heap[child])) child++;
        if (!is_before(&heap[child], &item)) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
}

void vdag_forecast_rank(vdag_forecast *x, const vdag_aim *aim) {
    int index = 0, count = 0;
    take_aim(x, aim->crowding, aim->free_only);
    for (int r = 0; r < x->resolutions; r++)
        for (int f = 0; f < x->rates; f++)
            for (int c = 0; c < x->combos; c++, index++) {
                double found = x->accuracy[index];
                if (!(found >= aim->least - EPSILON) || (aim->only && !aim->only[index])) continue;
                double steps = floor(found / ACCURACY_STEP + EPSILON);
                if (found >= aim->enough - EPSILON) steps = STEPS;
                x->heap[count++] = (vdag_ranked){steps, work_of(x, r, f, c), f, index};
            }
    x->heap_count = count;
    for (int i = count / 2; i-- > 0;) sink(x->heap, count, i);
}

int vdag_forecast_next(vdag_forecast *x, const vdag_aim *aim) {
    while (x->heap_count) {
        int index = x->heap[0].index, rest = index / x->combos;
        x->heap[0] = x->heap[--x->heap_count];
        if (x->heap_count) sink(x->heap, x->heap_count, 0);
        int r = rest / x->rates, f = rest % x->rates, c = index % x->combos;
        double limit_s = aim->limit_s * (1 + EPSILON);
        if (!is_hopeless(x, r, f, c, limit_s) && bound_of(x, r, f, c) <= limit_s) return index;
    }
    return -1;
}

INLINE double under_way(const vdag_forecast *x, int f, double delay) {
    return x->fps[f] * delay / (FILLED * (x->tasks + 1));
}

/* From the nodes that are reached to all others; 0 for no memory. */
static int go_on(vdag_forecast *x, int r, int f) {
    const double *ways = ways_between(x, r, f);
    size_t nodes = x->nodes, all = nodes * nodes;
    if (!ways) return 0;
    for (size_t n = 0; n < nodes; n++) x->onward[n] = INFINITY;
    for (size_t i = 0; i < all; i++) {
        size_t a = i / nodes, b = i % nodes;
        if (isinf(x->reached[a])) continue;
        if (is_full(x, ways[2 * all + i], share_between(x, (int)a, (int)b))) continue;
        x->onward[b] = least_of(x->onward[b], x->reached[a] + ways[i]);
    }
    memcpy(x->reached, x->onward, nodes * sizeof *x->reached);
    return 1;
}

/* Shortest paths, task by task: the least mean delay, and a variance that none is below. */
static int shortest(vdag_forecast *x, int r, int f, int c, double *slowest, double *calmest) {
    const int32_t *branch = x->branch, *combo = x->combo + (size_t)c * x->tasks;
    *slowest = 0.0, *calmest = INFINITY;
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        const double *first = first_ways(x, r, f);
        double var = 0.0, soonest = INFINITY;
        for (int n = 0; n < x->nodes; n++)
            x->reached[n] = is_full(x, first[2 * x->nodes + n], first_share(x, n)) ? INFINITY
                                                                                  : first[n];
        for (int i = 0; i < x->length[b]; i++) {
            int t = branch[i], m = combo[t];
            size_t cell = at_rate(x, t, r, f, m) * x->nodes;
            double calm = INFINITY;
            know(x, t, r, f, m);
            if (i && !go_on(x, r, f)) return 0;
            for (int n = 0; n < x->nodes; n++) {
                calm = least_of(calm, x->var_s2[cell + n]);
                x->reached[n] += fits(x, t, r, f, m, n) ? x->mean_s[cell + n] : INFINITY;
            }
            var += calm;
        }
        for (int n = 0; n < x->nodes; n++)
            soonest = least_of(soonest, x->reached[n] + home_at(x, NULL, n));
        *slowest = most_of(*slowest, soonest);
        *calmest = least_of(*calmest, var);
    }
    return 1;
}

int vdag_forecast_reaches(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c) {
    double delay, var;
    if (!shortest(x, r, f, c, &delay, &var)) return 0;
    if (!(delay + x->spread * sqrt(var) <= aim->limit_s * (1 + EPSILON))) return 0;
    return under_way(x, f, delay) <= aim->crowding + EPSILON;
}
