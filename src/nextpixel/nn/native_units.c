/* The elementwise functions of gated residual layers, each in one pass, the convolutions of ELUs, and their gradients.
 *
 * Compiled on the user's machine and loaded by native_units.py. Maps are channels-last: sites of some
 * numbers next to each other, float32 or, where `half` is set, bfloat16. All numbers are computed as
 * float32. Loops are written for the compiler to turn into vectors.
 */
#include "native_math.h"
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_threads() 1
#define omp_get_thread_num() 0
#endif

#define SHARED 32768 /* numbers from which threads share the work */

/* Sizes of the narrow maps: sites of all images, and channels. The wide ones have twice as many channels. */
typedef struct { int64_t sites, channels, half, threads; } maps;

INLINE float get(const void *from, long i, const int half) {
    return half ? as_float((uint32_t)((const uint16_t *)from)[i] << 16) : ((const float *)from)[i];
}

/* Writes a number, a bfloat16 rounded to the nearest, or to the even one of two. NaN stays NaN: those that arise from
 * bfloat16 numbers have zeros in the last bits. */
INLINE void put(void *to, long i, float x, const int half) {
    if (!half) {
        ((float *)to)[i] = x;
        return;
    }
    const uint32_t bits = as_bits(x);
    ((uint16_t *)to)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* --- ELU of x and of -x, next to each other ------------------------------------------------------- */

INLINE void elus(const int half, const long some, long channels, long in, long at, const void *restrict x,
                 void *restrict out) {
#pragma omp simd
    for (long i = 0; i < some; i++) {
        const float here = get(x, in + i, half), less_one = raise(below(here)).less_one;
        put(out, at + i, here > 0 ? here : less_one, half);
        put(out, at + channels + i, here < 0 ? -here : less_one, half);
    }
}

INLINE void elu_gradients(const int half, const long some, long channels, long in, long at, const void *restrict x,
                          const void *restrict gradient, void *restrict out) {
#pragma omp simd
    for (long i = 0; i < some; i++) {
        const float here = get(x, in + i, half), slope = raise(below(here)).whole;
        const float first = get(gradient, at + i, half) * (here > 0 ? 1.0f : slope);
        const float second = get(gradient, at + channels + i, half) * (here < 0 ? 1.0f : slope);
        put(out, in + i, first - second, half);
    }
}

/* --- x + a sigmoid(b), where a and b are the halves of the channels of y --------------------------- */

INLINE void gates(const int half, const long some, long channels, long in, long at, const void *restrict x,
                  const void *restrict y, void *restrict out) {
#pragma omp simd
    for (long i = 0; i < some; i++) {
        const float b = get(y, at + channels + i, half), e = raise(below(b)).whole;
        const float open = (b < 0 ? e : 1.0f) / (1.0f + e);
        put(out, in + i, get(x, in + i, half) + get(y, at + i, half) * open, half);
    }
}

INLINE void gate_gradients(const int half, const long some, long channels, long in, long at, const void *restrict y,
                           const void *restrict gradient, void *restrict out) {
#pragma omp simd
    for (long i = 0; i < some; i++) {
        const float b = get(y, at + channels + i, half), e = raise(below(b)).whole, part = 1.0f / (1.0f + e);
        const float back = get(gradient, in + i, half), open = (b < 0 ? e : 1.0f) * part;
        put(out, at + i, back * open, half);
        put(out, at + channels + i, back * get(y, at + i, half) * (e * part * part), half);
    }
}

/* --- over all sites ------------------------------------------------------------------------------ */

/* Calls a function for the channels of a site, 16 at a time, whose loop needs no remainder. Its numbers begin at `in` in
 * narrow maps, and at `at` in wide ones. */
#define SITE(function, half, channels, in, at, ...) \
    for (long k = 0; k < (channels); k += 16) { \
        if ((channels) - k >= 16) function(half, 16, channels, (in) + k, (at) + k, __VA_ARGS__); \
        else function(half, (channels) - k, channels, (in) + k, (at) + k, __VA_ARGS__); \
    }

#define EACH_SITE(function, ...) \
    _Pragma("omp parallel for num_threads(m->threads) if (m->sites * m->channels >= SHARED)") \
    for (long site = 0; site < m->sites; site++) { \
        const long in = site * m->channels; \
        if (m->half) SITE(function, 1, m->channels, in, 2 * in, __VA_ARGS__) \
        else SITE(function, 0, m->channels, in, 2 * in, __VA_ARGS__) \
    }

void concat_elu(const maps *m, const void *x, void *out) {
    EACH_SITE(elus, x, out)
}

void concat_elu_gradient(const maps *m, const void *x, const void *gradient, void *out) {
    EACH_SITE(elu_gradients, x, gradient, out)
}

void gate(const maps *m, const void *x, const void *y, void *out) {
    EACH_SITE(gates, x, y, out)
}

void gate_gradient(const maps *m, const void *y, const void *gradient, void *out) {
    EACH_SITE(gate_gradients, y, gradient, out)
}

/* --- convolutions of the ELUs of float32 maps ---------------------------------------------------- */

#if defined __AVX512F__
#define LANES 16 /* numbers of a vector */
#define BROAD 4  /* vectors of a panel of columns */
#elif defined __AVX2__ && defined __FMA__
#define LANES 8
#define BROAD 2
#endif
#ifdef LANES /* with fewer registers PyTorch is quicker */

#define PANEL (BROAD * LANES)
#define TALL 6           /* sites of a tile: TALL x BROAD vectors of sums stay in registers */
#define GROUP (8 * TALL) /* sites whose sums stay in the cache */
#define DEEP 64          /* inputs whose weights for a panel stay there, too */
#define LOW 4            /* outputs of a tile of the weights' gradients */
#define STRETCH 64       /* sites of such a tile */
#define MOST_TAPS 64

typedef float vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* A convolution of ELUs. Its input has `channels` and the ELUs twice as many, the output has `out`. `spread`: what is
 * added has one site for each image. Of the ELUs those are dropped whose random number is below `drop`, and the others
 * multiplied by `scale`. Offsets are a row and a column for each tap, from the output's site to the input's; those of
 * columns are from -left to right, of rows from -above to 0. */
typedef struct {
    int64_t images, height, width, channels, out, taps, left, right, above, spread, threads, seed, drop;
    double scale;
    int64_t offsets[2 * MOST_TAPS];
} convolution;

INLINE long whole(long channels) { return (channels + LANES - 1) / LANES * LANES; } /* rounded up to vectors */
INLINE long line(const convolution *c) { return c->left + c->width + c->right; }    /* sites of a bordered row */

/* Calls a function with the number of vectors of a panel as a constant. */
#define VECTORS(wide, function, ...) \
    switch (wide) { \
    case 1: function(1, __VA_ARGS__); break; \
    case 2: function(2, __VA_ARGS__); break; \
    case 3: function(BROAD > 2 ? 3 : 1, __VA_ARGS__); break; \
    default: function(BROAD, __VA_ARGS__); \
    }

/* Packs weights, (taps, in) x columns, as tiles read them: panels, taps, in, columns; zeros fill the last one. */
static void pack(long taps, long in, long columns, const float *weight, const int64_t step_in, const int64_t step_tap,
                 const int64_t step, float *to) {
    const long end = whole(columns);
    for (long panel = 0; panel < end; panel += PANEL) {
        const long wide = least(PANEL, end - panel), some = least(wide, columns - panel);
        for (long t = 0; t < taps; t++)
            for (long k = 0; k < in; k++, to += wide) {
                const float *from = weight + t * step_tap + k * step_in + panel * step;
                if (step == 1) memcpy(to, from, some * sizeof(float));
                else for (long i = 0; i < some; i++) to[i] = from[i * step];
                memset(to + some, 0, (wide - some) * sizeof(float));
            }
    }
}

/* Adds the products of TALL sites' inputs, `deep` channels, and weights to their sums. */
INLINE void multiply(const int wide, const float *const *sites, long deep, const float *w, float *sums, long step) {
    vector sum[TALL][BROAD];
    const float *a[TALL];
    for (int i = 0; i < TALL; i++) a[i] = sites[i];
    for (int i = 0; i < TALL; i++)
        for (int v = 0; v < wide; v++) sum[i][v] = *(vector *)(sums + i * step + v * LANES);
    for (long k = 0; k < deep; k++, w += wide * LANES) {
        vector b[BROAD];
        for (int v = 0; v < wide; v++) b[v] = *(const vector *)(w + v * LANES);
        for (int i = 0; i < TALL; i++)
            for (int v = 0; v < wide; v++) sum[i][v] += a[i][k] * b[v];
    }
    for (int i = 0; i < TALL; i++)
        for (int v = 0; v < wide; v++) *(vector *)(sums + i * step + v * LANES) = sum[i][v];
}

/* Convolves at some sites, GROUP at most, whose inputs begin at `sites`. Adds to the sums, sites x columns. */
INLINE void convolve_group(long some, long taps, long in, long columns, const float *const *sites, const long *steps,
                           const float *w, float *sums) {
    for (long panel = 0; panel < columns; panel += PANEL) {
        const long wide = least(BROAD, (columns - panel) / LANES);
        for (long t = 0; t < taps; t++)
            for (long k = 0; k < in; k += DEEP) {
                const long deep = least(DEEP, in - k);
                for (long i = 0; i < some; i += TALL) {
                    const float *here[TALL];
                    for (int j = 0; j < TALL; j++) here[j] = sites[i + j] + steps[t] + k;
                    VECTORS(wide, multiply, here, deep, w, sums + i * columns + panel, columns)
                }
                w += deep * wide * LANES;
            }
    }
}

/* Drops some of a site's ELUs, or of their gradients: the same ones, by a hash of their places and the seed. Its steps
 * are those of Chris Wellons' lowbias32 (https://nullprogram.com/blog/2018/07/31/). */
INLINE void drop(const convolution *c, long site, float *numbers) {
    const long in = 2 * c->channels;
    const uint32_t first = (uint32_t)(site * in), low = (uint32_t)c->seed, high = (uint32_t)(c->seed >> 32);
    const uint32_t below = (uint32_t)c->drop;
    const float scale = (float)c->scale;
#pragma omp simd
    for (long i = 0; i < in; i++) {
        uint32_t h = (first + (uint32_t)i) * 0x9e3779b9u + low;
        h = (h ^ h >> 16) * 0x7feb352du ^ high;
        h = (h ^ h >> 15) * 0x846ca68bu;
        numbers[i] *= (h ^ h >> 16) < below ? 0.0f : scale;
    }
}

/* Writes the ELUs of an image, whose first site is the `first` of all, into a map of `wide` channels with a border. */
static void put_elus(const convolution *c, long first, const float *x, float *to, long wide) {
    for (long row = 0, site = 0; row < c->height; row++)
        for (long col = 0; col < c->width; col++, site++) {
            float *here = to + ((c->above + row) * line(c) + c->left + col) * wide;
            SITE(elus, 0, c->channels, site * c->channels, 0, x, here)
            if (c->drop) drop(c, first + site, here);
        }
}

/* Finds where the channels of some sites of an image begin in a map of rows of `line` sites. */
INLINE void find(const convolution *c, long first, long some, const float *map, long channels, const float **sites) {
    long row = first / c->width, col = first % c->width;
    for (long i = 0; i < some; i++) {
        sites[i] = map + (row * line(c) + col) * channels;
        if (++col == c->width) row++, col = 0;
    }
    for (long i = some; i < GROUP; i++) sites[i] = sites[0];
}

/* The weights of a convolution, with strides from one output, input and tap to the next, and where their gradients go:
 * out x taps x in, or null, and those of what is added to an image, images x out. */
typedef struct {
    const float *weight, *bias;
    int64_t strides[3];
    float *of_weight, *of_image;
} weights;

/* A convolution with its weights packed, steps to the taps, and the sizes of the parts of a thread's memory for it. */
typedef struct {
    const convolution *c;
    const weights *w;
    const float *packed;
    long in, wide, area, map, gradient, sums, room;
    long steps[MOST_TAPS], back[MOST_TAPS];
} plan;

/* Rounds a number of floats up to whole cache lines. */
INLINE long lines(long numbers) { return (numbers + 15) / 16 * 16; }

INLINE plan plan_of(const convolution *c, const weights *w, const int backward) {
    const long in = 2 * c->channels, wide = whole(in), bordered = (c->height + c->above) * line(c);
    plan p = {.c = c, .w = w, .in = in, .wide = wide, .area = c->height * c->width};
    p.map = lines(bordered * wide), p.sums = lines(GROUP * whole(c->out));
    if (backward) p.gradient = lines(bordered * c->out), p.sums = lines(GROUP * wide);
    p.room = p.map + p.gradient + p.sums + (backward ? lines(c->out * c->taps * wide) : 0);
    for (long t = 0; t < c->taps; t++) {
        const long step = c->offsets[2 * t] * line(c) + c->offsets[2 * t + 1];
        p.steps[t] = step * wide;
        p.back[t] = -step * c->out;
    }
    return p;
}

/* Packs the weights of a plan, for the way to the output or back to the input. Returns the end of what it wrote. */
static float *pack_plan(plan *p, const int backward, float *to) {
    const convolution *c = p->c;
    const int64_t *strides = p->w->strides;
    p->packed = to;
    if (backward) pack(c->taps, c->out, p->in, p->w->weight, strides[0], strides[2], strides[1], to);
    else pack(c->taps, p->in, c->out, p->w->weight, strides[1], strides[2], strides[0], to);
    return to + lines(c->taps * (backward ? c->out * p->wide : p->in * whole(c->out)));
}

/* Returns how many numbers the workspace of such a convolution holds, for all threads. */
int64_t workspace_of(const convolution *c, int64_t backward) {
    const plan p = plan_of(c, 0, backward);
    return lines(c->taps * (backward ? c->out * p.wide : p.in * whole(c->out))) + c->threads * p.room;
}

/* Convolves an image of a map x. What is added may be the output itself. */
static void convolve_image(const plan *p, long image, const float *x, const float *more, float *room, float *out) {
    const convolution *c = p->c;
    const long columns = whole(c->out), begin = image * p->area;
    float *sums = room + p->map;
    put_elus(c, begin, x + begin * c->channels, room, p->wide);
    for (long first = 0; first < p->area; first += GROUP) {
        const long some = least(GROUP, p->area - first);
        const float *sites[GROUP];
        find(c, first, some, room + (c->above * line(c) + c->left) * p->wide, p->wide, sites);
        memset(sums, 0, GROUP * columns * sizeof(float));
        for (long i = 0; p->w->bias && i < some; i++)
            memcpy(sums + i * columns, p->w->bias, c->out * sizeof(float));
        convolve_group(some, c->taps, p->in, columns, sites, p->steps, p->packed, sums);
        for (long i = 0; i < some; i++) {
            const long site = begin + first + i;
            const float *from = sums + i * columns;
            float *to = out + site * c->out;
            if (more) {
                const float *added = more + (c->spread ? image : site) * c->out;
                for (long n = 0; n < c->out; n++) to[n] = from[n] + added[n];
            } else memcpy(to, from, c->out * sizeof(float));
        }
    }
}

/* Adds to a tile of the weights' gradients, `rows` outputs x inputs: the products at some sites. */
INLINE void add_products(const int wide, const int rows, const float *gradient, long out, const float *const *sites,
                         long step_in, long some, float *to, long step) {
    vector sum[LOW][BROAD];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < wide; v++) sum[i][v] = *(vector *)(to + i * step + v * LANES);
    for (long s = 0; s < some; s++, gradient += out) {
        vector b[BROAD];
        for (int v = 0; v < wide; v++) b[v] = *(const vector *)(sites[s] + step_in + v * LANES);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < wide; v++) sum[i][v] += gradient[i] * b[v];
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < wide; v++) *(vector *)(to + i * step + v * LANES) = sum[i][v];
}

/* Adds the gradients of the weights at some sites, STRETCH at most: out x taps x in. */
static void add_weights(const convolution *c, long some, const float *gradient, const float *const *sites,
                        const long *steps, float *to) {
    const long wide = whole(2 * c->channels), step = c->taps * wide;
    for (long t = 0; t < c->taps; t++)
        for (long k = 0; k < wide; k += PANEL) {
            const long vectors = least(BROAD, (wide - k) / LANES);
            for (long n = 0; n < c->out; n += LOW) {
                float *here = to + n * step + t * wide + k;
#define ROWS(rows) VECTORS(vectors, add_products, rows, gradient + n, c->out, sites, steps[t] + k, some, here, step)
                switch (c->out - n) {
                case 1: ROWS(1) break;
                case 2: ROWS(2) break;
                case 3: ROWS(3) break;
                default: ROWS(LOW)
                }
            }
        }
}

/* Computes the gradients of an image: those of what is added to it and, if `of_x` is given, of its input, to which
 * `more` is added; and adds up those of the weights, if they are wanted. All maps begin at the image. */
static void back_propagate(const plan *p, long image, const float *x, const float *gradient, const float *more,
                           float *room, float *of_x) {
    const convolution *c = p->c;
    const long out = c->out, begin = image * p->area;
    float *later = room + p->map, *sums = later + p->gradient, *of_image = p->w->of_image + image * out;
    put_elus(c, begin, x, room, p->wide);
    memset(of_image, 0, out * sizeof(float));
    for (long site = 0; site < p->area; site++)
        for (long n = 0; n < out; n++) of_image[n] += gradient[site * out + n];
    for (long row = 0; row < c->height; row++) /* the border is to the right and below */
        memcpy(later + (row * line(c) + c->right) * out, gradient + row * c->width * out,
               c->width * out * sizeof(float));
    for (long first = 0; p->w->of_weight && first < p->area; first += STRETCH) {
        const float *sites[STRETCH];
        const long some = least(STRETCH, p->area - first);
        find(c, first, some, room + (c->above * line(c) + c->left) * p->wide, p->wide, sites);
        add_weights(c, some, gradient + first * out, sites, p->steps, sums + p->sums);
    }
    for (long first = 0; of_x && first < p->area; first += GROUP) {
        const long some = least(GROUP, p->area - first);
        const float *sites[GROUP];
        find(c, first, some, later + c->right * out, out, sites);
        memset(sums, 0, GROUP * p->wide * sizeof(float));
        convolve_group(some, c->taps, out, p->wide, sites, p->back, p->packed, sums);
        for (long i = 0; i < some; i++) {
            const long in = (first + i) * c->channels;
            if (c->drop) drop(c, begin + first + i, sums + i * p->wide);
            SITE(elu_gradients, 0, c->channels, in, i * p->wide, x, sums, of_x)
            for (long k = 0; more && k < c->channels; k++) of_x[in + k] += more[in + k];
        }
    }
}

/* Adds up the threads' gradients of the weights, each in a room of its own. Called by all threads. */
static void add_rooms(const plan *p, const float *rooms, long step) {
    const long first = p->map + p->gradient + p->sums, threads = omp_get_num_threads();
    if (!p->w->of_weight) return;
#pragma omp for schedule(static)
    for (long n = 0; n < p->c->out * p->c->taps; n++) {
        float *to = p->w->of_weight + n * p->in;
        memcpy(to, rooms + first + n * p->wide, p->in * sizeof(float));
        for (long thread = 1; thread < threads; thread++)
            for (long k = 0; k < p->in; k++) to[k] += rooms[thread * step + first + n * p->wide + k];
    }
}

void convolve_elus(const convolution *c, const weights *w, const float *x, const float *more, float *workspace,
                   float *out) {
    plan p = plan_of(c, w, 0);
    float *rooms = pack_plan(&p, 0, workspace);
#pragma omp parallel num_threads(c->threads)
    {
        float *room = rooms + omp_get_thread_num() * p.room;
        memset(room, 0, p.map * sizeof(float));
#pragma omp for schedule(static)
        for (long image = 0; image < c->images; image++) convolve_image(&p, image, x, more, room, out);
    }
}

void convolve_elus_gradients(const convolution *c, const weights *w, const float *x, const float *gradient,
                             float *workspace, float *of_x) {
    plan p = plan_of(c, w, 1);
    float *rooms = pack_plan(&p, 1, workspace);
#pragma omp parallel num_threads(c->threads)
    {
        float *room = rooms + omp_get_thread_num() * p.room;
        memset(room, 0, p.room * sizeof(float));
#pragma omp for schedule(static)
        for (long image = 0; image < c->images; image++) {
            const long in = image * p.area * c->channels;
            back_propagate(&p, image, x + in, gradient + image * p.area * c->out, 0, room, of_x ? of_x + in : 0);
        }
        add_rooms(&p, rooms, p.room);
    }
}

/* Returns whether threads share the images, as OpenMP lets them. */
int64_t has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* --- a gated residual layer ----------------------------------------------------------------------- */

/* x + a sigmoid(b), where (a, b) = second(h), and h = first(x) + skip(s). Without a skip its description is null. */
typedef struct {
    const convolution *first, *skip, *second;
    const weights *of_first, *of_skip, *of_second;
    const float *x, *s, *context, *bias; /* the last two are added to h and to (a, b), or null */
    float *h, *y, *workspace;            /* y is (a, b) */
} layer;

int64_t workspace_of_layer(const layer *l, int64_t backward) {
    const convolution *c = l->second;
    const long area = c->height * c->width, local = lines(area * c->out) + lines(area * c->channels);
    return workspace_of(l->first, backward) + (l->skip ? workspace_of(l->skip, backward) : 0) +
           workspace_of(c, backward) + c->threads * local;
}

void gated_layer(const layer *l, float *out) {
    plan first = plan_of(l->first, l->of_first, 0), second = plan_of(l->second, l->of_second, 0), skip = {0};
    float *rooms = pack_plan(&second, 0, pack_plan(&first, 0, l->workspace));
    if (l->skip) skip = plan_of(l->skip, l->of_skip, 0), rooms = pack_plan(&skip, 0, rooms);
    const long step = first.room + second.room + skip.room, channels = l->first->channels;
#pragma omp parallel num_threads(l->first->threads)
    {
        float *one = rooms + omp_get_thread_num() * step, *two = one + first.room, *three = two + second.room;
        memset(one, 0, step * sizeof(float));
#pragma omp for schedule(static)
        for (long image = 0; image < l->first->images; image++) {
            convolve_image(&first, image, l->x, l->context, one, l->h);
            if (l->skip) convolve_image(&skip, image, l->s, l->h, three, l->h);
            convolve_image(&second, image, l->h, l->bias, two, l->y);
            for (long site = image * first.area; site < (image + 1) * first.area; site++)
                SITE(gates, 0, channels, site * channels, site * 2 * channels, l->x, l->y, out)
        }
    }
}

/* Computes the gradients of x and s, if wanted, and of h and y, which are kept only if wanted. */
void gated_layer_gradients(const layer *l, const float *gradient, float *of_x, float *of_s, float *of_h, float *of_y) {
    plan first = plan_of(l->first, l->of_first, 1), second = plan_of(l->second, l->of_second, 1), skip = {0};
    float *rooms = pack_plan(&second, 1, pack_plan(&first, 1, l->workspace));
    if (l->skip) skip = plan_of(l->skip, l->of_skip, 1), rooms = pack_plan(&skip, 1, rooms);
    const long channels = l->first->channels, area = first.area, begin = first.room + second.room + skip.room;
    const long step = begin + lines(area * 2 * channels) + lines(area * channels);
#pragma omp parallel num_threads(l->first->threads)
    {
        float *one = rooms + omp_get_thread_num() * step, *two = one + first.room, *three = two + second.room;
        memset(one, 0, begin * sizeof(float));
#pragma omp for schedule(static)
        for (long image = 0; image < l->first->images; image++) {
            const long narrow = image * area * channels;
            float *back_y = of_y ? of_y + 2 * narrow : one + begin;
            float *back_h = of_h ? of_h + narrow : one + begin + lines(area * 2 * channels);
            for (long site = 0; site < area; site++)
                SITE(gate_gradients, 0, channels, site * channels, site * 2 * channels, l->y + 2 * narrow,
                     gradient + narrow, back_y)
            back_propagate(&second, image, l->h + narrow, back_y, 0, two, back_h);
            if (l->skip) {
                const long in = image * area * l->skip->channels;
                back_propagate(&skip, image, l->s + in, back_h, 0, three, of_s ? of_s + in : 0);
            }
            back_propagate(&first, image, l->x + narrow, back_h, gradient + narrow, one, of_x ? of_x + narrow : 0);
        }
        add_rooms(&first, rooms, step);
        add_rooms(&second, rooms + first.room, step);
        if (l->skip) add_rooms(&skip, rooms + first.room + second.room, step);
    }
}

#endif
