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

INLINE long chunks(const lstm *l) { return (l->channels + LANES - 1) / LANES; } /* vectors of a state */
INLINE long whole(const lstm *l) { return chunks(l) * LANES; }                  /* channels, rounded up to vectors */

/* Returns the column of the n-th site of a row. */
INLINE long column_of(const lstm *l, long n) { return l->mirrored ? l->width - 1 - n : n; }

/* Finds the neighbours of a site: their sites, or -1 outside of the map. */
INLINE void find(const lstm *l, long row, long column, long *sites) {
    for (long n = 0; n < l->neighbours; n++) {
        const long step = l->offsets[2 * n + 1];
        const long r = row + l->offsets[2 * n], c = column + (l->mirrored ? -step : step);
        sites[n] = r < 0 || c < 0 || c >= l->width ? -1 : r * l->width + c;
    }
}

/* Copies `some` numbers to a vector, the others are 0, and back. */
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
INLINE void give(float *to, const float *from, const long some) { memcpy(to, from, some * sizeof(float)); }

INLINE float sigmoid(float x) {
    const float e = raise(below(x)).whole;
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

INLINE float tanh_of(float x) {
    const float less_one = raise(2 * below(x)).less_one, size = -less_one / (2.0f + less_one);
    return x < 0 ? -size : size;
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
    for (long k = 0; k < 4; k++) give(gates + k * l->channels, gate[k], some);
    give(cell, c, some);
    give(state, h, some);
}

/* Packs the weights, neighbours x channels x 4 channels, by vectors of a state: the four gates lie together. */
static void pack(const lstm *l, const float *weight, float *to) {
    const long channels = l->channels;
    for (long v = 0; v < whole(l); v += LANES)
        for (long k = 0; k < l->neighbours * channels; k++)
            for (long gate = 0; gate < 4; gate++, to += LANES)
                take(to, weight + (4 * k + gate) * channels + v, least(LANES, channels - v));
}

/* Computes a site of some images, TALL at most, whose first site is `base`. */
INLINE void compute_site(const lstm *l, const long *base, long some, long site, const long *near, const float *packed,
                         const float *contributions, float *gates, float *cells, float *states) {
    const long channels = l->channels;
    for (long v = 0; v < channels; v += LANES) {
        const long lanes = least(LANES, channels - v);
        vector sum[TALL][4];
        for (int i = 0; i < TALL; i++)
            for (int gate = 0; gate < 4; gate++) {
                const float *from = contributions + (4 * (base[i] + site) + gate) * channels + v;
                sum[i][gate] = load(from, lanes);
            }
        for (long n = 0; n < l->neighbours; n++) {
            const float *w = packed + (v * l->neighbours + n * LANES) * 4 * channels, *a[TALL];
            if (near[n] < 0) continue;
            for (int i = 0; i < TALL; i++) a[i] = states + (base[i] + near[n]) * channels;
            for (long k = 0; k < channels; k++, w += 4 * LANES) {
                vector b[4];
                for (int gate = 0; gate < 4; gate++) b[gate] = *(const vector *)(w + gate * LANES);
                for (int i = 0; i < TALL; i++)
                    for (int gate = 0; gate < 4; gate++) sum[i][gate] += a[i][k] * b[gate];
            }
        }
        for (int i = 0; i < some; i++) {
            const long here = (base[i] + site) * channels + v, from = near[l->carry];
            const float *before = from < 0 ? 0 : cells + (base[i] + from) * channels + v;
            float *open = gates + 4 * (base[i] + site) * channels + v;
            if (lanes == LANES) open_gates(l, sum[i], before, LANES, open, cells + here, states + here);
            else open_gates(l, sum[i], before, lanes, open, cells + here, states + here);
        }
    }
}

/* Finds where the images of a block begin; those that are missing are the first one again. Returns their number. */
INLINE long begin(const lstm *l, long first, long *base) {
    const long some = least(TALL, l->images - first);
    for (long i = 0; i < TALL; i++) base[i] = (first + (i < some ? i : 0)) * l->height * l->width;
    return some;
}

/* Computes states and cell states, and the gates for `sweep_gradients`, from what the input contributes to the gates,
 * images x sites x 4 channels. */
void sweep(const lstm *l, const float *contributions, const float *weight, float *packed, float *gates, float *cells,
           float *states) {
    pack(l, weight, packed);
#pragma omp parallel for num_threads(l->threads) schedule(static)
    for (long first = 0; first < l->images; first += TALL) {
        long base[TALL], near[MOST_NEIGHBOURS];
        const long some = begin(l, first, base);
        for (long row = 0; row < l->height; row++)
            for (long n = 0; n < l->width; n++) {
                const long column = column_of(l, n);
                find(l, row, column, near);
                compute_site(l, base, some, row * l->width + column, near, packed, contributions, gates, cells, states);
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
    for (long k = 0; k < 4; k++) give(of_gates + k * l->channels, gate[k], some);
}

/* Packs the weights for the way back, 4 channels x neighbours x channels, in panels of four vectors. */
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

/* Adds to the gradients of the neighbours' states, some vectors of a panel. */
INLINE void go_back(const lstm *l, const int wide, const float *const *of_gates, const float *w, const long *near,
                    long panel, long area, float *of_states) {
    vector sum[TALL][4];
    for (int i = 0; i < TALL; i++)
        for (int u = 0; u < wide; u++) sum[i][u] = (vector){0};
    for (long k = 0; k < 4 * l->channels; k++, w += wide * LANES) {
        vector b[4];
        for (int u = 0; u < wide; u++) b[u] = *(const vector *)(w + u * LANES);
        for (int i = 0; i < TALL; i++)
            for (int u = 0; u < wide; u++) sum[i][u] += of_gates[i][k] * b[u];
    }
    for (int u = 0; u < wide; u++) {
        const long site = near[(panel + u) / chunks(l)], v = (panel + u) % chunks(l) * LANES;
        if (site < 0) continue;
        for (int i = 0; i < TALL; i++) *(vector *)(of_states + (i * area + site) * whole(l) + v) += sum[i][u];
    }
}

INLINE long weights_back(const lstm *l) { return 4 * l->channels * l->neighbours * whole(l); }
INLINE long room_of(const lstm *l) { return 2 * TALL * l->height * l->width * whole(l); }

/* Returns how many numbers the workspace has, of `sweep` (packed) or of `sweep_gradients`. */
int64_t workspace_of(const lstm *l, int64_t backward) {
    return backward ? weights_back(l) + l->threads * room_of(l) : 4 * l->neighbours * l->channels * whole(l);
}

/* Computes the gradients of what the input contributes to the gates, from those of the states. */
void sweep_gradients(const lstm *l, const float *gates, const float *cells, const float *gradient, const float *weight,
                     float *workspace, float *of_gates) {
    const long channels = l->channels, area = l->height * l->width, all = l->neighbours * chunks(l);
    pack_back(l, weight, workspace);
#pragma omp parallel for num_threads(l->threads) schedule(static)
    for (long first = 0; first < l->images; first += TALL) {
        long base[TALL], near[MOST_NEIGHBOURS];
        const long some = begin(l, first, base);
        float *of_states = workspace + weights_back(l) + omp_get_thread_num() * room_of(l);
        float *of_cells = of_states + TALL * area * whole(l);
        memset(of_states, 0, room_of(l) * sizeof(float));
        for (long row = l->height - 1; row >= 0; row--)
            for (long n = l->width - 1; n >= 0; n--) {
                const long column = column_of(l, n), site = row * l->width + column;
                const float *here[TALL];
                find(l, row, column, near);
                const long from = near[l->carry];
                for (long i = 0; i < TALL; i++) here[i] = of_gates + 4 * (base[i] + site) * channels;
                for (long i = 0; i < some; i++)
                    for (long v = 0; v < channels; v += LANES) {
                        const long lanes = least(LANES, channels - v), place = (base[i] + site) * channels + v;
                        const long in = (i * area + site) * whole(l) + v, open = 4 * (base[i] + site) * channels + v;
                        const float *before = from < 0 ? 0 : cells + (base[i] + from) * channels + v;
                        float *of_cell = of_cells + in;
                        if (lanes == LANES)
                            close_gates(l, gates + open, cells + place, before, LANES, gradient + place, of_states + in,
                                        of_cell, of_gates + open);
                        else
                            close_gates(l, gates + open, cells + place, before, lanes, gradient + place, of_states + in,
                                        of_cell, of_gates + open);
                        if (from >= 0) memcpy(of_cells + (i * area + from) * whole(l) + v, of_cell, LANES * sizeof(float));
                    }
                const float *w = workspace;
                for (long panel = 0; panel < all; panel += 4) {
                    const long wide = least(4, all - panel);
#define PANEL(u) \
    if (wide == u) go_back(l, u, here, w, near, panel, area, of_states);
                    PANEL(1) PANEL(2) PANEL(3) PANEL(4)
                    w += 4 * channels * wide * LANES;
                }
            }
    }
}
