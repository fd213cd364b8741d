/* Work and waits of a task at a node. Only forecast_kernel.c includes this. */

/* What a frame of the best batch takes of a worker, over what one alone takes. */
INLINE double busy_share(const vdag_forecast *x, size_t i) {
    const size_t all = (size_t)x->tasks * x->resolutions * x->models * x->nodes;
    return x->prior[5 * all + i];
}

/* What the profile says with what nodes have taught, at one node: seconds of work and variance. */
static void work_at(vdag_forecast *x, size_t i, int t, int n) {
    const size_t all = (size_t)x->tasks * x->resolutions * x->models * x->nodes;
    const double limit = log(MAX_SLOWDOWN);
    double tail = spot(x, VDAG_TAIL, t)[n], ratio = spot(x, VDAG_RATIO, t)[n];
    double factor = exp(least_of(most_of(x->log[i], -limit), limit));
    double usual = x->prior[3 * all + i];
    if (isnan(x->prior[i])) {
        x->work[i] = x->var[i] = x->taken[i] = NAN;
        return;
    }
    double compute = least_of(most_of(x->prior[i] * factor, MIN_COMPUTE_S), MAX_COMPUTE_S);
    double slope = least_of(x->prior[all + i] * factor, MAX_COMPUTE_S);
    double more = tail > 0 ? (tail - 1.0) * (compute + slope * usual)
                           : x->prior[2 * all + i] * factor;
    more = least_of(more, MAX_COMPUTE_S - compute);
    double objects = isnan(x->objects) ? usual : x->objects;
    double deviation = more * (ratio / Z95);
    x->work[i] = most_of((compute + slope * objects) * ratio, LEAST_WORK_S);
    x->var[i] = deviation * deviation;
    x->taken[i] = x->work[i] * busy_share(x, i);
}

static void prepare_shares(vdag_forecast *x) {
    for (int t = 0; t < x->tasks; t++)
        for (int n = 0; n < x->nodes; n++) {
            double total = spot(x, VDAG_WORKERS, t)[n], others = spot(x, VDAG_OTHERS, t)[n];
            double queries = spot(x, VDAG_QUERIES, t)[n];
            double unused = most_of(FULL * total - others, 0.0);
            double fair = most_of(unused, FULL * total / (queries + 1));
            size_t i = (size_t)t * x->nodes + n;
            x->share[1][i] = most_of(least_of(unused, site(x, VDAG_CORES_FREE)[n]), NOTHING);
            x->share[0][i] = most_of(least_of(fair, site(x, VDAG_CORES_SHARE)[n]), NOTHING);
        }
}

/* Accuracy: along a branch the product, of branches the worst. */
static double accuracy_of(const vdag_forecast *x, int r, int f, const int32_t *combo) {
    double worst = INFINITY;
    const int32_t *branch = x->branch;
    for (int b = 0; b < x->branches; branch += x->length[b++]) {
        double whole = 1.0;
        for (int i = 0; i < x->length[b]; i++) {
            size_t row = (size_t)branch[i] * x->models + combo[branch[i]];
            whole *= x->accurate[(row * x->resolutions + r) * x->rates + f];
        }
        worst = least_of(worst, whole);
    }
    return worst;
}

void vdag_forecast_prepare(vdag_forecast *x) {
    for (int t = 0; t < x->tasks; t++)
        for (int r = 0; r < x->resolutions; r++)
            for (int m = 0; m < x->models; m++) {
                size_t row = at_model(x, t, r, m);
                x->least[row] = INFINITY;
                for (int n = 0; n < x->nodes; n++) {
                    size_t i = row * x->nodes + n;
                    work_at(x, i, t, n);
                    x->least[row] = least_of(x->least[row], x->taken[i]);
                }
            }
    prepare_shares(x);
    double *out = x->accuracy;
    for (int r = 0; r < x->resolutions; r++)
        for (int f = 0; f < x->rates; f++)
            for (int c = 0; c < x->combos; c++)
                *out++ = accuracy_of(x, r, f, x->combo + (size_t)c * x->tasks);
}

static double work_of(const vdag_forecast *x, int r, int f, int c) {
    double sum = 0.0;
    for (int t = 0; t < x->tasks; t++)
        sum += x->fps[f] * x->least[at_model(x, t, r, x->combo[(size_t)c * x->tasks + t])];
    return sum;
}

void vdag_forecast_work(const vdag_forecast *x, double *out) {
    for (int r = 0; r < x->resolutions; r++)
        for (int f = 0; f < x->rates; f++)
            for (int c = 0; c < x->combos; c++) *out++ = work_of(x, r, f, c);
}

/* M/G/c, see queueing.py: mean and variance of the wait. */
INLINE void wait_at(double work, double var, double workers, double own, double others,
                    double *mean, double *wait_var) {
    double busy = own + others, rho = busy / workers;
    double ca2 = PACED_WORK + (1 - PACED_WORK) * others / (busy + 1e-12);
    double share = 0.5 * (ca2 + var / (work * work));
    double power = sqrt(2 * (workers + 1)) - 1;
    double drain = work / (workers * (1 - rho));
    *mean = share * (power == 1.0 ? rho : pow(rho, power)) * drain;
    *wait_var = *mean * (2 * share * drain - *mean);
}

/* The wait where frames that come meanwhile are worked on together, and by how much a batch takes
 * longer than a frame alone: see queueing.py. */
static double gather(double work, double var, double workers, double own, double others,
                     double share, double *mean, double *wait_var) {
    double busy = own + others, single, single_var;
    double stretch = most_of((1 - share) / (1 - busy / workers), 1.0), batch = work * stretch;
    double more = least_of(1 / share, MAX_BUSY * workers / (busy + 1e-12));
    wait_at(work, var, workers, own * more, others * more, &single, &single_var);
    *mean += 0.5 * batch;
    *wait_var += batch * batch / 12;
    if (single < *mean) *mean = single, *wait_var = single_var;
    return stretch;
}

static void stay_at(vdag_forecast *x, size_t i, size_t to, int t, int n, double fps) {
    double work = x->work[i], var = x->var[i], share = busy_share(x, i), stretch = 1.0;
    double mean, wait_var;
    double total = spot(x, VDAG_WORKERS, t)[n], waited = spot(x, VDAG_WAITED, t)[n];
    double busy = least_of(fps * x->taken[i], MAX_BUSY * total);
    double rest = most_of(least_of(spot(x, VDAG_OTHERS, t)[n], FULL * total - busy), 0.0);
    wait_at(work, var, total, busy, rest, &mean, &wait_var);
    if (share < 1) stretch = gather(work, var, total, busy, rest, share, &mean, &wait_var);
    mean = most_of((mean + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0);
    x->mean_s[to] = mean + work * stretch;
    x->var_s2[to] = wait_var * (waited * waited) + var * (stretch * stretch);
}

/* Work out a task at all nodes under a configuration; NaN where the model is not had. */
static void know(vdag_forecast *x, int t, int r, int f, int m) {
    size_t cell = at_rate(x, t, r, f, m), row = at_model(x, t, r, m) * x->nodes;
    if (x->known[cell]) return;
    x->known[cell] = 1;
    for (int n = 0; n < x->nodes; n++) {
        size_t to = cell * x->nodes + n;
        if (isnan(x->work[row + n]))
            x->mean_s[to] = x->var_s2[to] = NAN;
        else
            stay_at(x, row + n, to, t, n, x->fps[f]);
    }
}

/* Whether a task alone takes no more of a node than it may; not if the model is not had. */
INLINE int fits(const vdag_forecast *x, int t, int r, int f, int m, int n) {
    double own = x->fps[f] * x->taken[at_model(x, t, r, m) * x->nodes + n];
    double share = x->share[x->free_only][(size_t)t * x->nodes + n];
    return own / share <= x->crowding + EPSILON;
}
