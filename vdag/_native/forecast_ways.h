/* Ways of frames from node to node, and home. Only forecast_kernel.c includes this. */

/* What others take of a link, and what this query may. */
typedef struct {
    double others, share;
} link_room;

INLINE link_room room_of(const vdag_forecast *x, double queries, double nbytes, double speed) {
    double others = nbytes / speed;
    double fair = x->free_only ? 0.0 : FULL / (queries + 1);
    return (link_room){others, most_of(most_of(FULL - others, fair), NOTHING)};
}

/* Mean and variance of a way, and the share of the link that it uses. */
INLINE void way_at(const vdag_forecast *x, int r, int f, double speed, double sent, double excess,
                   double *mean, double *var, double *use) {
    double bytes_s = x->frames[r] / speed;
    *use = x->fps[f] * bytes_s;
    if (isinf(speed)) {
        *mean = most_of(HOP_S + excess, 0.0);
        *var = HOP_S * HOP_S;
        return;
    }
    double own = least_of(*use, MAX_LINK);
    double others = most_of(least_of(sent / speed, FULL - own), 0.0);
    double wait_s = bytes_s * 0.5 * (PACED_LINK * own + others) / (1 - own - others);
    double jitter_s = JITTER * bytes_s;
    *mean = most_of(x->frames[x->resolutions + r] + (bytes_s + wait_s) + excess, 0.0);
    *var = jitter_s * jitter_s + wait_s * wait_s + WAY_S * WAY_S;
}

/* Ways from the video: means, variances and uses, (3, node). */
static const double *first_ways(vdag_forecast *x, int r, int f) {
    size_t cell = (size_t)r * x->rates + f, nodes = x->nodes;
    double *ways = x->first + cell * 3 * nodes;
    if (x->first_known[cell]) return ways;
    x->first_known[cell] = 1;
    for (size_t n = 0; n < nodes; n++)
        way_at(x, r, f, site(x, VDAG_SPEED)[n], x->sent_nbytes, site(x, VDAG_EXCESS)[n], ways + n,
               ways + nodes + n, ways + 2 * nodes + n);
    return ways;
}

/* Ways between nodes likewise, (3, node, node); NULL for no memory. */
static const double *ways_between(vdag_forecast *x, int r, int f) {
    size_t cell = (size_t)r * x->rates + f, all = (size_t)x->nodes * x->nodes;
    double *ways = x->between[cell];
    if (ways) return ways;
    ways = x->between[cell] = malloc(3 * all * sizeof *ways);
    if (!ways) return NULL;
    for (size_t i = 0; i < all; i++)
        way_at(x, r, f, x->links[i], x->sent[x->nodes + i / x->nodes], x->excess[i], ways + i,
               ways + all + i, ways + 2 * all + i);
    return ways;
}

INLINE double first_share(const vdag_forecast *x, int n) {
    return room_of(x, x->sent_queries, x->sent_nbytes, site(x, VDAG_SPEED)[n]).share;
}

INLINE double share_between(const vdag_forecast *x, int a, int b) {
    double speed = x->links[(size_t)a * x->nodes + b];
    return room_of(x, x->sent[a], x->sent[x->nodes + a], speed).share;
}

/* A way that takes more than it may is none. */
INLINE int is_full(const vdag_forecast *x, double use, double share) {
    return use > share * x->crowding + EPSILON;
}

/* The shortest way from the video to another node: mean and variance. */
static const double *shortest_way(vdag_forecast *x, int r, int f) {
    size_t cell = (size_t)r * x->rates + f, nodes = x->nodes;
    double *way = x->way + 2 * cell;
    if (x->way_stamp[cell] == x->epoch) return way;
    x->way_stamp[cell] = x->epoch;
    const double *ways = first_ways(x, r, f);
    way[0] = way[1] = INFINITY;
    for (size_t n = 0; n < nodes; n++) {
        if (isinf(site(x, VDAG_SPEED)[n])) continue;
        way[1] = least_of(way[1], ways[nodes + n]);
        if (!is_full(x, ways[2 * nodes + n], first_share(x, (int)n)))
            way[0] = least_of(way[0], ways[n]);
    }
    return way;
}

/* The way home from a node with what was found; without its bytes where `out` is NULL. */
INLINE double home_at(const vdag_forecast *x, const double *out, int n) {
    double speed = site(x, VDAG_HOME_SPEED)[n], least = site(x, VDAG_HOME_S)[n];
    if (isinf(speed)) return HOP_S;
    return most_of(out ? least + out[n] / speed : least, 0.0);
}
