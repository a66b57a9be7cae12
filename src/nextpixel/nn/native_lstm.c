/* LSTMs that go over maps site by site, and their gradients.
 *
 * Compiled on the user's machine and loaded by native_lstm.py. Maps are float32 and channels last. The state of a site
 * depends on those of some neighbours that come before it, so the sites of an image are computed in their order, but
 * for several images at once: the products of their states and the weights stay in registers, where the gates are
 * applied to them.
 */
#include "native_math.h"
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

/* TALL images x 4 gates are the vectors of sums. */
#if defined __AVX512F__
#define LANES 16
#define TALL 4
#elif defined __AVX2__
#define LANES 8
#define TALL 2
#else
#define LANES 4
#define TALL 2
#endif
#define MOST_NEIGHBOURS 16

typedef float vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* The state has `channels`, and there are four times as many of the gates o, f, i and g. Offsets are a row, of 0 or
 * less, and a column for each neighbour; the cell state comes from the neighbour `carry`. `mirrored`: rows go from the
 * right to the left, and the columns of offsets count to the left. */
typedef struct {
    int64_t images, height, width, channels, neighbours, carry, mirrored, threads;
    int64_t offsets[2 * MOST_NEIGHBOURS];
} lstm;

/* Some images that are computed together: their number, the first site of each, and the neighbours of a site, -1 for
 * those outside of the map. */
typedef struct {
    long images, base[TALL], near[MOST_NEIGHBOURS];
} block;

INLINE long chunks(const lstm *l) { return (l->channels + LANES - 1) / LANES; } /* vectors of a state */
INLINE long whole(const lstm *l) { return chunks(l) * LANES; }                  /* channels, rounded up to vectors */

/* Returns how many images a block has, unless it is the last one: fewer, if there are not enough for all threads. */
INLINE long images_of_block(const lstm *l) { return least(TALL, (l->images + l->threads - 1) / l->threads); }
INLINE long blocks(const lstm *l) { return (l->images + images_of_block(l) - 1) / images_of_block(l); }

INLINE block block_of(const lstm *l, long n) {
    const long first = n * images_of_block(l);
    block b = {.images = least(images_of_block(l), l->images - first)};
    for (long i = 0; i < b.images; i++) b.base[i] = (first + i) * l->height * l->width;
    return b;
}

/* Returns the column of the n-th site of a row. */
INLINE long column_of(const lstm *l, long n) { return l->mirrored ? l->width - 1 - n : n; }

INLINE void find_neighbours(const lstm *l, long row, long column, long *near) {
    for (long n = 0; n < l->neighbours; n++) {
        const long step = l->offsets[2 * n + 1];
        const long r = row + l->offsets[2 * n], c = column + (l->mirrored ? -step : step);
        near[n] = r < 0 || c < 0 || c >= l->width ? -1 : r * l->width + c;
    }
}

/* Copies `some` numbers into a vector and zeros the rest. */
INLINE void take(float *to, const float *from, const long some) {
    if (some < LANES) memset(to, 0, LANES * sizeof(float));
    memcpy(to, from, some * sizeof(float));
}

INLINE vector load(const float *from, const long some) {
    float numbers[LANES];
    if (some == LANES) return *(const vector *)from;
    take(numbers, from, some);
    return *(vector *)numbers;
}

INLINE float sigmoid(float x) {
    const float e = raise(below(x)).whole;
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

INLINE float tanh_of(float x) {
    const float less_one = raise(2 * below(x)).less_one, size = -less_one / (2.0f + less_one);
    return x < 0 ? -size : size;
}

/* Calls a function with a small number as a constant. */
#define CONSTANT(n, function, ...) \
    switch (n) { \
    case 1: function(1, __VA_ARGS__); break; \
    case 2: function(2, __VA_ARGS__); break; \
    case 3: function(3, __VA_ARGS__); break; \
    default: function(4, __VA_ARGS__); \
    }

/* --- forward ------------------------------------------------------------------------------------- */

/* Applies the gates to one vector of a state; without a neighbour `before` is null. */
INLINE void open_gates(const lstm *l, const vector *sum, const float *before, const long some, float *gates,
                       float *cell, float *state) {
    float gate[4][LANES], c[LANES] = {0}, h[LANES];
    memcpy(gate, sum, sizeof gate);
    if (before) take(c, before, some);
#pragma omp simd
    for (long k = 0; k < LANES; k++) {
        const float o = sigmoid(gate[0][k]), f = sigmoid(gate[1][k]), i = sigmoid(gate[2][k]), g = tanh_of(gate[3][k]);
        gate[0][k] = o, gate[1][k] = f, gate[2][k] = i, gate[3][k] = g;
        c[k] = f * c[k] + i * g;
        h[k] = o * tanh_of(c[k]);
    }
    for (long k = 0; k < 4; k++) memcpy(gates + k * l->channels, gate[k], some * sizeof(float));
    memcpy(cell, c, some * sizeof(float));
    memcpy(state, h, some * sizeof(float));
}

/* Packs the weights, neighbours x channels x 4 channels, by vectors of a state: the four gates lie together. */
static void pack(const lstm *l, const float *weight, float *to) {
    const long channels = l->channels;
    for (long v = 0; v < whole(l); v += LANES)
        for (long k = 0; k < l->neighbours * channels; k++)
            for (long gate = 0; gate < 4; gate++, to += LANES)
                take(to, weight + (4 * k + gate) * channels + v, least(LANES, channels - v));
}

typedef struct {
    const float *contributions, *packed;
    float *gates, *cells, *states;
} maps;

/* Computes a site of the `images` of a block. */
INLINE void compute_site(const int images, const lstm *l, const block *b, long site, const maps *m) {
    const long channels = l->channels;
    for (long v = 0; v < channels; v += LANES) {
        const long lanes = least(LANES, channels - v);
        vector sum[TALL][4];
        for (int i = 0; i < images; i++)
            for (int gate = 0; gate < 4; gate++)
                sum[i][gate] = load(m->contributions + (4 * (b->base[i] + site) + gate) * channels + v, lanes);
        for (long n = 0; n < l->neighbours; n++) {
            const float *w = m->packed + (v * l->neighbours + n * LANES) * 4 * channels, *a[TALL];
            if (b->near[n] < 0) continue;
            for (int i = 0; i < images; i++) a[i] = m->states + (b->base[i] + b->near[n]) * channels;
            for (long k = 0; k < channels; k++, w += 4 * LANES) {
                vector weights[4];
                for (int gate = 0; gate < 4; gate++) weights[gate] = *(const vector *)(w + gate * LANES);
                for (int i = 0; i < images; i++)
                    for (int gate = 0; gate < 4; gate++) sum[i][gate] += a[i][k] * weights[gate];
            }
        }
        for (int i = 0; i < images; i++) {
            const long here = (b->base[i] + site) * channels + v, from = b->near[l->carry];
            const float *before = from < 0 ? 0 : m->cells + (b->base[i] + from) * channels + v;
            float *open = m->gates + 4 * (b->base[i] + site) * channels + v;
            if (lanes == LANES) open_gates(l, sum[i], before, LANES, open, m->cells + here, m->states + here);
            else open_gates(l, sum[i], before, lanes, open, m->cells + here, m->states + here);
        }
    }
}

/* Computes states and cell states, and the gates for `sweep_gradients`, from what the input contributes to the gates,
 * images x sites x 4 channels. */
void sweep(const lstm *l, const float *contributions, const float *weight, float *packed, float *gates, float *cells,
           float *states) {
    const maps m = {contributions, packed, gates, cells, states};
    pack(l, weight, packed);
#pragma omp parallel for num_threads(l->threads) schedule(static)
    for (long n = 0; n < blocks(l); n++) {
        block b = block_of(l, n);
        for (long row = 0; row < l->height; row++)
            for (long k = 0; k < l->width; k++) {
                const long column = column_of(l, k), site = row * l->width + column;
                find_neighbours(l, row, column, b.near);
                CONSTANT(b.images, compute_site, l, &b, site, &m)
            }
    }
}

/* --- backward ------------------------------------------------------------------------------------ */

/* Computes the gradients of the gates' sums from those of one vector of a state, `of_state`, and of the cell state,
 * `of_cell`, which becomes that of the cell state before. */
INLINE void close_gates(const lstm *l, const float *gates, const float *cell, const float *before, const long some,
                        const float *gradient, const float *of_state, float *of_cell, float *of_gates) {
    float gate[4][LANES], c[LANES], old[LANES] = {0}, d[LANES];
    for (long k = 0; k < 4; k++) take(gate[k], gates + k * l->channels, some);
    take(c, cell, some);
    take(d, gradient, some);
    if (before) take(old, before, some);
#pragma omp simd
    for (long k = 0; k < LANES; k++) {
        const float o = gate[0][k], f = gate[1][k], i = gate[2][k], g = gate[3][k], t = tanh_of(c[k]);
        const float of_h = d[k] + of_state[k], of_c = of_cell[k] + of_h * o * (1 - t * t);
        gate[0][k] = of_h * t * o * (1 - o);
        gate[1][k] = of_c * old[k] * f * (1 - f);
        gate[2][k] = of_c * g * i * (1 - i);
        gate[3][k] = of_c * i * (1 - g * g);
        of_cell[k] = of_c * f;
    }
    for (long k = 0; k < 4; k++) memcpy(of_gates + k * l->channels, gate[k], some * sizeof(float));
}

/* Packs the weights for the way back, 4 channels x neighbours x channels, in panels of four vectors or, the last, fewer. */
static void pack_back(const lstm *l, const float *weight, float *to) {
    const long channels = l->channels, all = l->neighbours * chunks(l);
    for (long panel = 0; panel < all; panel += 4)
        for (long k = 0; k < 4 * channels; k++)
            for (long u = panel; u < least(panel + 4, all); u++)
                for (long i = 0; i < LANES; i++, to++) {
                    const long n = u / chunks(l), channel = u % chunks(l) * LANES + i;
                    *to = channel < channels ? weight[(n * channels + channel) * 4 * channels + k] : 0;
                }
}

/* The gradients of the states and the cell states of a row and of those above it that it depends on, a row of the map
 * in each `depth`-th place. They are complete when their site is reached, and then begin anew for a row further up. */
typedef struct {
    long sites, here, near[MOST_NEIGHBOURS]; /* the places of a site and its neighbours */
    float *states, *cells;                   /* images x sites x channels, in whole vectors */
} ring;

INLINE long ring_of(const lstm *l) {
    long above = 0;
    for (long n = 0; n < l->neighbours; n++)
        if (l->offsets[2 * n] < -above) above = -l->offsets[2 * n];
    return (above + 1) * l->width;
}

typedef struct {
    const float *gates, *cells, *gradient, *packed;
    float *of_gates;
} gradients;

/* Computes the gradients of the gates of a site, and that of the cell state before. */
INLINE void close_site(const lstm *l, const block *b, long site, const gradients *g, const ring *r) {
    const long channels = l->channels, from = b->near[l->carry];
    for (long i = 0; i < b->images; i++)
        for (long v = 0; v < channels; v += LANES) {
            const long lanes = least(LANES, channels - v), place = (b->base[i] + site) * channels + v;
            const long open = 4 * (b->base[i] + site) * channels + v;
            const long first = i * r->sites, in = (first + r->here) * whole(l) + v;
            const float *before = from < 0 ? 0 : g->cells + (b->base[i] + from) * channels + v;
            float *of_state = r->states + in, *of_cell = r->cells + in;
            if (lanes == LANES)
                close_gates(l, g->gates + open, g->cells + place, before, LANES, g->gradient + place, of_state, of_cell,
                            g->of_gates + open);
            else
                close_gates(l, g->gates + open, g->cells + place, before, lanes, g->gradient + place, of_state, of_cell,
                            g->of_gates + open);
            if (from >= 0)
                memcpy(r->cells + (first + r->near[l->carry]) * whole(l) + v, of_cell, LANES * sizeof(float));
            memset(of_state, 0, LANES * sizeof(float));
            memset(of_cell, 0, LANES * sizeof(float));
        }
}

/* Adds to the gradients of the neighbours' states, `wide` vectors of them. */
INLINE void go_back(const int wide, const int images, const lstm *l, const block *b, long site, const float *w,
                    long panel, const gradients *g, const ring *r) {
    vector sum[TALL][4];
    const float *a[TALL];
    for (int i = 0; i < images; i++) {
        a[i] = g->of_gates + 4 * (b->base[i] + site) * l->channels;
        for (int u = 0; u < wide; u++) sum[i][u] = (vector){0};
    }
    for (long k = 0; k < 4 * l->channels; k++, w += wide * LANES) {
        vector weights[4];
        for (int u = 0; u < wide; u++) weights[u] = *(const vector *)(w + u * LANES);
        for (int i = 0; i < images; i++)
            for (int u = 0; u < wide; u++) sum[i][u] += a[i][k] * weights[u];
    }
    for (int u = 0; u < wide; u++) {
        const long n = (panel + u) / chunks(l), v = (panel + u) % chunks(l) * LANES;
        if (b->near[n] < 0) continue;
        for (int i = 0; i < images; i++)
            *(vector *)(r->states + (i * r->sites + r->near[n]) * whole(l) + v) += sum[i][u];
    }
}

INLINE void go_back_all(const int images, const lstm *l, const block *b, long site, const gradients *g,
                        const ring *r) {
    const long all = l->neighbours * chunks(l);
    for (long panel = 0; panel < all; panel += 4) {
        const float *w = g->packed + 4 * l->channels * panel * LANES;
        CONSTANT(least(4, all - panel), go_back, images, l, b, site, w, panel, g, r)
    }
}

INLINE long weights_back(const lstm *l) { return 4 * l->channels * l->neighbours * whole(l); }
INLINE long room_of(const lstm *l) { return 2 * TALL * ring_of(l) * whole(l); } /* of a block */

/* Returns how many numbers the workspace has, of `sweep` (packed) or of `sweep_gradients`. */
int64_t workspace_of(const lstm *l, int64_t backward) {
    return backward ? weights_back(l) + least(l->threads, blocks(l)) * room_of(l)
                    : 4 * l->neighbours * l->channels * whole(l);
}

/* Computes the gradients of what the input contributes to the gates, from those of the states. */
void sweep_gradients(const lstm *l, const float *gates, const float *cells, const float *gradient, const float *weight,
                     float *workspace, float *of_gates) {
    const gradients g = {gates, cells, gradient, workspace, of_gates};
    pack_back(l, weight, workspace);
#pragma omp parallel for num_threads(least(l->threads, blocks(l))) schedule(static)
    for (long n = 0; n < blocks(l); n++) {
        block b = block_of(l, n);
        ring r = {.sites = ring_of(l), .states = workspace + weights_back(l) + omp_get_thread_num() * room_of(l)};
        r.cells = r.states + TALL * r.sites * whole(l);
        memset(r.states, 0, room_of(l) * sizeof(float));
        for (long row = l->height - 1; row >= 0; row--)
            for (long k = l->width - 1; k >= 0; k--) {
                const long column = column_of(l, k), site = row * l->width + column;
                find_neighbours(l, row, column, b.near);
                r.here = site % r.sites;
                for (long i = 0; i < l->neighbours; i++) r.near[i] = b.near[i] % r.sites;
                close_site(l, &b, site, &g, &r);
                CONSTANT(b.images, go_back_all, l, &b, site, &g, &r)
            }
    }
}
