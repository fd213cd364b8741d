/* Placements of one configuration. Only forecast_kernel.c includes this. */

/* Set `able` to the nodes that can do each task; return the product of their counts, bounded. */
static int find_able(vdag_forecast *x, int r, int f, const int32_t *combo) {
    int product = 1;
    for (int t = 0; t < x->tasks; t++) {
        int32_t *able = x->able + (size_t)t * x->nodes, count = 0;
        know(x, t, r, f, combo[t]);
        for (int n = 0; n < x->nodes; n++)
            if (fits(x, t, r, f, combo[t], n)) able[count++] = n;
        x->counts[t] = count;
        if (!count) return 0;
        product = product > MAX_PLACEMENTS / count ? MAX_PLACEMENTS + 1 : product * count;
    }
    return product;
}

static int is_able(const vdag_forecast *x, int t, int n) {
    const int32_t *able = x->able + (size_t)t * x->nodes;
    for (int i = 0; i < x->counts[t]; i++)
        if (able[i] == n) return 1;
    return 0;
}

/* All placements there are, the last task's node changing fastest. */
static void place_all(vdag_forecast *x, int count) {
    for (int t = x->tasks - 1, period = 1; t >= 0; period *= x->counts[t--])
        for (int i = 0; i < count; i++)
            x->placed[(size_t)i * x->tasks + t] =
                x->able[(size_t)t * x->nodes + i / period % x->counts[t]];
}

static int fastest_node(const vdag_forecast *x, int t, size_t cell) {
    const int32_t *able = x->able + (size_t)t * x->nodes;
    int best = able[0];
    for (int i = 1; i < x->counts[t]; i++)
        if (x->mean_s[cell * x->nodes + able[i]] < x->mean_s[cell * x->nodes + best])
            best = able[i];
    return best;
}

static int is_now_able(const vdag_forecast *x) {
    for (int t = 0; t < x->tasks; t++)
        if (x->now[t] < 0 || !is_able(x, t, x->now[t])) return 0;
    return 1;
}

/* Write a placement on nodes `a` before `cut` and `b` from there; the fastest where they are not
 * able. */
static void place_split(vdag_forecast *x, int32_t *to, const int32_t *fastest, int a, int b,
                        int split) {
    for (int t = 0; t < x->tasks; t++) {
        int n = t < split ? a : b;
        to[t] = is_able(x, t, n) ? n : fastest[t];
    }
}

/* The likely ones of many: one node, two with the graph cut in one place, those of now, and the
 * fastest of each task. Of more than there is room for the last. Return how many; -1: no memory. */
static int place_likely(vdag_forecast *x, int r, int f, const int32_t *combo) {
    const int room = 2 * MAX_PLACEMENTS, tasks = x->tasks, nodes = x->nodes;
    int is_now = is_now_able(x), cuts = tasks - 1, at = 0;
    int count = nodes + nodes * (nodes - 1) * cuts + is_now + 1;
    int kept = count < room ? count : room, skipped = count - kept;
    if (!make_room(x, kept)) return -1;
    int32_t *fastest = x->placed + (size_t)(kept - 1) * tasks;
    for (int t = 0; t < tasks; t++)
        fastest[t] = fastest_node(x, t, at_rate(x, t, r, f, combo[t]));
    for (int a = 0; a < nodes; a++, at++)
        if (at >= skipped)
            place_split(x, x->placed + (size_t)(at - skipped) * tasks, fastest, a, a, tasks);
    for (int a = 0; a < nodes; a++)
        for (int b = 0; b < nodes; b++)
            for (int split = 1; split < tasks && a != b; split++, at++)
                if (at >= skipped)
                    place_split(x, x->placed + (size_t)(at - skipped) * tasks, fastest, a, b,
                                split);
    if (is_now) memcpy(fastest - tasks, x->now, tasks * sizeof *x->now);
    return kept;
}

/* Fill in `placed`; return how many placements there are, -1 for no memory. */
static int place(vdag_forecast *x, int r, int f, const int32_t *combo) {
    int count = find_able(x, r, f, combo);
    if (count > MAX_PLACEMENTS) return place_likely(x, r, f, combo);
    if (!make_room(x, count)) return -1;
    place_all(x, count);
    return count;
}

static void open_rows(vdag_forecast *x, int r, int f, const int32_t *combo) {
    for (int t = 0; t < x->tasks; t++) {
        size_t cell = at_rate(x, t, r, f, combo[t]) * x->nodes;
        size_t row = at_model(x, t, r, combo[t]) * x->nodes;
        x->rows[t] = (vdag_row){x->mean_s + cell, x->var_s2 + cell, x->taken + row,
                                x->share[x->free_only] + (size_t)t * x->nodes, x->out + row};
    }
}

/* Mean and 95th percentile of the delay of a placement. */
static void delay_of(const vdag_forecast *x, const double *first, const double *between,
                     const int32_t *placed, double *delay, double *p95) {
    const int32_t *branch = x->branch;
    size_t nodes = x->nodes, all = nodes * nodes;
    *delay = *p95 = 0.0;
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        int last = branch[x->length[b] - 1], here = placed[branch[0]];
        double mean = first[here], var = first[nodes + here];
        for (int i = 0; i < x->length[b]; i++) {
            int before = here, t = branch[i];
            here = placed[t];
            if (i) {
                mean += between[before * nodes + here];
                var += between[all + before * nodes + here];
            }
            mean += x->rows[t].mean[here];
            var += x->rows[t].var[here];
        }
        mean += home_at(x, x->rows[last].home_out, here);
        var += here == x->host ? HOP_S * HOP_S : WAY_S * WAY_S;
        *delay = most_of(*delay, mean);
        *p95 = most_of(*p95, mean + x->spread * sqrt(var));
    }
}

/* Use of the busiest uplink over what may be used of it. */
static double links_of(vdag_forecast *x, const double *first, const double *between,
                       const int32_t *placed) {
    const int32_t *branch = x->branch;
    size_t nodes = x->nodes, all = nodes * nodes;
    /* The host has an uplink also if it does no task; it is then one behind all nodes. */
    size_t home = x->host >= 0 ? (size_t)x->host : nodes;
    double worst = 0.0;
    memset(x->busy, 0, (nodes + 1) * sizeof *x->busy);
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        size_t before = home;
        for (int i = 0; i < x->length[b]; i++) {
            size_t here = placed[branch[i]];
            x->busy[before] +=
                i ? between[2 * all + before * nodes + here] / share_between(x, before, here)
                  : first[2 * nodes + here] / first_share(x, here);
            before = here;
        }
    }
    for (size_t n = 0; n <= nodes; n++) worst = most_of(worst, x->busy[n]);
    return worst;
}

/* Whether all ways together could fill an uplink at all. */
static int may_fill(const vdag_forecast *x, const double *first, const double *between) {
    double most = 0.0;
    for (int n = 0; n < x->nodes; n++)
        most = most_of(most, first[2 * x->nodes + n] / first_share(x, n));
    for (int i = 0, all = x->nodes * x->nodes; between && i < all; i++)
        most = most_of(most, between[2 * all + i] / share_between(x, i / x->nodes, i % x->nodes));
    return most * x->tasks > 1.0;
}

/* The largest ratio of what a placement takes to what it may, without uplinks. */
static double crowding_of(vdag_forecast *x, int f, const int32_t *placed) {
    double worst = 0.0;
    memset(x->busy, 0, x->nodes * sizeof *x->busy);
    for (int t = 0; t < x->tasks; t++) {
        const vdag_row *row = &x->rows[t];
        double own = x->fps[f] * row->taken[placed[t]];
        worst = most_of(worst, own / row->share[placed[t]]);
        x->busy[placed[t]] += own;
    }
    const double *cores = site(x, x->free_only ? VDAG_CORES_FREE : VDAG_CORES_SHARE);
    for (int t = 0; t < x->tasks; t++)
        worst = most_of(worst, x->busy[placed[t]] / most_of(cores[placed[t]], NOTHING));
    return worst;
}

/* The largest ratio of what a placement of those that are open takes to what it may. */
static double use_of(vdag_forecast *x, int f, int i, int is_filled, const double *first,
                     const double *between) {
    const int32_t *placed = x->placed + (size_t)i * x->tasks;
    double use = most_of(crowding_of(x, f, placed), under_way(x, f, x->delay[i]));
    return is_filled ? most_of(use, links_of(x, first, between, placed)) : use;
}

/* Fill in the placements of a configuration and their delays; return as `place`. */
static int unfold(vdag_forecast *x, int r, int f, int c, const double **first,
                const double **between) {
    const int32_t *combo = x->combo + (size_t)c * x->tasks;
    int count = place(x, r, f, combo);
    if (count <= 0) return count;
    *first = first_ways(x, r, f);
    *between = x->branches < x->tasks ? ways_between(x, r, f) : NULL;
    if (!*between && x->branches < x->tasks) return -1;
    open_rows(x, r, f, combo);
    for (int i = 0; i < count; i++)
        delay_of(x, *first, *between, x->placed + (size_t)i * x->tasks, &x->delay[i], &x->p95[i]);
    return count;
}

int vdag_forecast_look(vdag_forecast *x, const vdag_aim *aim, int r, int f, int c, int *fastest) {
    const double *first, *between;
    take_aim(x, aim->crowding, aim->free_only);
    int count = unfold(x, r, f, c, &first, &between), is_filled = -1;
    double most = aim->crowding + EPSILON;
    *fastest = 0;
    for (int i = 0; i < count; i++) {
        if (x->p95[i] < x->p95[*fastest]) *fastest = i;
        x->good[i] = x->p95[i] <= aim->limit_s;
        if (!x->good[i]) continue;
        if (is_filled < 0) is_filled = may_fill(x, first, between);
        x->good[i] = use_of(x, f, i, is_filled, first, between) <= most;
    }
    return count;
}

int vdag_forecast_weigh(vdag_forecast *x, double crowding, int free_only, int r, int f, int c) {
    const double *first, *between;
    take_aim(x, crowding, free_only);
    int count = unfold(x, r, f, c, &first, &between);
    int is_filled = count > 0 && may_fill(x, first, between);
    for (int i = 0; i < count; i++) x->use[i] = use_of(x, f, i, is_filled, first, between);
    return count;
}

/* How many tasks a placement moves, and what it costs. */
static void prices_of(const vdag_forecast *x, const vdag_aim *aim, const int32_t *placed,
                      double *moves, double *price) {
    *moves = *price = 0.0;
    for (int t = 0; t < x->tasks; t++) {
        *moves += aim->present[t] != -2 && aim->present[t] != placed[t];
        *price += site(x, VDAG_PRICE)[placed[t]];
    }
}

int vdag_forecast_pick(const vdag_forecast *x, const vdag_aim *aim, int count) {
    double best[3] = {0.0}, moves, price;
    int chosen = -1;
    for (int i = 0; i < count; i++) {
        if (!x->good[i]) continue;
        prices_of(x, aim, x->placed + (size_t)i * x->tasks, &moves, &price);
        double key[3] = {aim->fewest_moves ? moves : price, aim->fewest_moves ? price : moves,
                         x->p95[i]};
        int k = 0;
        while (k < 2 && key[k] == best[k]) k++;
        if (chosen >= 0 && !(key[k] < best[k])) continue;
        memcpy(best, key, sizeof best);
        chosen = i;
    }
    return chosen;
}

/* How far the best placement of a configuration at the lowest rate is off; infinite for none. */
static double least_off(vdag_forecast *x, double limit_s, int r, int c, int *placement) {
    const double *first, *between;
    int count = unfold(x, r, 0, c, &first, &between);
    int is_filled = count > 0 && may_fill(x, first, between);
    double best = count < 0 ? NAN : INFINITY;
    for (int i = 0; i < count; i++) {
        double off = most_of(x->p95[i] / limit_s, use_of(x, 0, i, is_filled, first, between));
        if (off < best || !i) {
            best = off;
            *placement = i;
        }
    }
    return best;
}

double vdag_forecast_closest(vdag_forecast *x, double limit_s, int free_only, int *r, int *c,
                             int *placement) {
    double best = INFINITY;
    int count = x->resolutions * x->combos, chosen = -1;
    take_aim(x, INFINITY, free_only);
    for (int i = 0; i < count; i++) {
        double bound = bound_of(x, i / x->combos, 0, i % x->combos);
        x->heap[i] = (vdag_ranked){-(bound / limit_s), 0.0, 0, i};
    }
    for (int i = count / 2; i-- > 0;) sink(x->heap, count, i);
    while (count && -x->heap[0].steps < best) {
        int i = x->heap[0].index, at = 0;
        x->heap[0] = x->heap[--count];
        if (count) sink(x->heap, count, 0);
        double off = least_off(x, limit_s, i / x->combos, i % x->combos, &at);
        if (isnan(off)) {
            *r = -2;
            return off;
        }
        if (off < best) best = off, chosen = i, *placement = at;
    }
    *r = chosen < 0 ? -1 : chosen / x->combos;
    *c = chosen < 0 ? -1 : chosen % x->combos;
    /* Of the chosen one, once more: others were looked at after it. */
    if (chosen >= 0) least_off(x, limit_s, *r, *c, placement);
    return best;
}
