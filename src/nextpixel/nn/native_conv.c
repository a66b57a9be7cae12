/* Convolutions of channels-last bfloat16 maps with a list of taps, and their gradients.
 *
 * Compiled on the user's machine and loaded by native_conv.py; only for processors that multiply
 * pairs of bfloat16 numbers. Numbers of channels are multiples of 32. All sums are float32.
 */
#include <immintrin.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include "native_math.h"

#ifndef __AVX512BF16__
#error "this processor has no products of bfloat16 numbers"
#endif

#define TALL 6    /* rows of a tile: TALL x WIDE vectors of sums stay in registers */
#define WIDE 4    /* vectors of 16 sums: a panel of 64 columns; the last one may have 32 */
#define GROUP (10 * TALL) /* sites whose inputs are collected before they are multiplied */
#define BLOCK 256 /* sites whose pairs are made before they are multiplied */
#define PAIRS (BLOCK / 2 + 1) /* pairs of a block; a power of two would cause cache conflicts */
#define MOST_TAPS 64
#define MOST_CHANNELS 4096

typedef uint16_t half;
/* Describes a convolution. `relu`: apply a ReLU to the input; `full`: float32 outputs. The offsets are a row and
 * a column for each tap, from the output's site to the input's. */
typedef struct {
    int64_t images, height, width, in, out, taps, relu, full, threads, offsets[2 * MOST_TAPS];
} layer;

INLINE __m512 multiply(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
INLINE __m512i repeated(const half *pair) {
    int both;
    memcpy(&both, pair, sizeof both);
    return _mm512_set1_epi32(both);
}
/* Sets negative numbers to 0; NaN stays NaN. */
INLINE __m512i relu(__m512i x) {
    __m512i below = _mm512_sub_epi16(x, _mm512_set1_epi16((short)0x8000));
    return _mm512_maskz_mov_epi16(_mm512_cmpgt_epu16_mask(below, _mm512_set1_epi16(0x7f80)), x);
}

/* Prefetches maps that will be needed soon. */
INLINE void fetch(const half *from, long begin, long end) {
    for (long i = begin / 32 * 32; i < end; i += 32) __builtin_prefetch(from + i, 0, 2);
}

/* Memory of a thread, kept at its largest size: allocating new pages is slow. */
typedef struct { void *memory[3]; long bytes[3]; } rooms;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void leave(void *of_thread) {
    for (int i = 0; i < 3; i++) free(((rooms *)of_thread)->memory[i]);
    free(of_thread);
}
static void make_key(void) { pthread_key_create(&key, leave); }
static void *room(int which, long bytes) {
    pthread_once(&once, make_key);
    rooms *mine = pthread_getspecific(key);
    if (!mine) pthread_setspecific(key, mine = calloc(1, sizeof(rooms)));
    if (mine->bytes[which] < bytes) {
        free(mine->memory[which]);
        mine->memory[which] = aligned_alloc(64, mine->bytes[which] = (bytes + 63) / 64 * 64);
    }
    return mine->memory[which];
}

/* A site, counted over all images, and its image, row and column: dividing at each site would be slower. */
typedef struct { long site, row, col; } place;

INLINE place locate(const layer *l, long site) {
    return (place){site, site / l->width % l->height, site % l->width};
}

INLINE void go_on(const layer *l, place *p) {
    p->site++;
    if (++p->col < l->width) return;
    p->col = 0;
    if (++p->row == l->height) p->row = 0;
}

/* Returns the channels that a tap sees at a site. */
INLINE const half *look(const layer *l, const half *x, place p, long tap) {
    static const half outside[MOST_CHANNELS];
    const long down = l->offsets[2 * tap], right = l->offsets[2 * tap + 1];
    if ((uint64_t)(p.row + down) >= (uint64_t)l->height || (uint64_t)(p.col + right) >= (uint64_t)l->width)
        return outside;
    return x + (p.site + down * l->width + right) * l->in;
}

INLINE __m512i load(const layer *l, const half *from) {
    const __m512i x = _mm512_loadu_si512(from);
    return l->relu ? relu(x) : x;
}

/* --- forward, and backward to the input: sites x (taps in) times (taps in) x out ----------------- */

/* Finishes the sums of a site: adds `more`, and sets them to 0 where `gate` is at most 0. */
typedef struct { const float *bias; const half *more, *gate; half *out; float *full; } ending;

INLINE void finish(const __m512 *sum, const int wide, const ending *e, long at) {
    for (int v = 0; v < wide; v += 2) {
        __m512 low = sum[v], high = sum[v + 1];
        long here = at + 16 * v;
        if (e->more) {
            __m512i more = _mm512_loadu_si512(e->more + here);
            low += (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(more)), 16);
            high += (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(more, 1)), 16);
        }
        if (e->full) {
            _mm512_storeu_ps(e->full + here, low);
            _mm512_storeu_ps(e->full + here + 16, high);
            continue;
        }
        __m512i out = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        if (e->gate) {
            __m512i gate = _mm512_loadu_si512(e->gate + here);
            out = _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(gate, _mm512_setzero_si512()), out);
        }
        _mm512_storeu_si512(e->out + here, out);
    }
}

INLINE void tile(const long rows, const int wide, const half *a, long depth, const half *w, const ending *e,
                 long site, long column, long columns) {
    __m512 sum[TALL][WIDE];
    for (int i = 0; i < TALL; i++) { /* for the end of the next tile; past the last site it does nothing */
        const long next = (site + TALL + i) * columns + column;
        for (int v = 0; v < wide; v += 2) {
            if (e->more) __builtin_prefetch(e->more + next + 16 * v);
            if (e->gate) __builtin_prefetch(e->gate + next + 16 * v);
            if (!e->full) __builtin_prefetch(e->out + next + 16 * v, 1);
        }
    }
    for (int v = 0; v < wide; v++) {
        __m512 bias = e->bias ? _mm512_loadu_ps(e->bias + column + 16 * v) : _mm512_setzero_ps();
        for (int i = 0; i < TALL; i++) sum[i][v] = bias;
    }
    for (long k = 0; k < depth; k += 2, w += wide * 32) {
        __m512i b[WIDE];
        for (int v = 0; v < wide; v++) b[v] = _mm512_loadu_si512(w + 32 * v);
        for (int i = 0; i < TALL; i++) {
            __m512i pair = repeated(a + i * depth + k);
            for (int v = 0; v < wide; v++) sum[i][v] = multiply(sum[i][v], pair, b[v]);
        }
    }
    for (int i = 0; i < TALL; i++)
        if (i < rows) finish(sum[i], wide, e, (site + i) * columns + column);
}

/* Gathers 16 numbers, a step apart, and rounds them. */
INLINE __m512i collect(const float *from, __m512i steps) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_i32gather_ps(steps, from, 4)));
}

/* Packs the weights in the order in which tiles read them: panels, taps x in / 2, out, pairs of inputs. */
static void lay_out(const layer *l, const float *weight, const int64_t *strides, half *to, long me, long all) {
    const long depth = l->taps * l->in, chunks = depth / 32; /* 32 inputs at a time stay in the cache */
    __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    steps = _mm512_mullo_epi32(steps, _mm512_set1_epi32((int)strides[0]));
    for (long panel = 0; panel < l->out; panel += 64)
        for (long chunk = chunks * me / all; chunk < chunks * (me + 1) / all; chunk++) {
            const long wide = least(64, l->out - panel), begin = chunk * 32 % l->in, tap = chunk * 32 / l->in;
            const float *from = weight + panel * strides[0] + begin * strides[1] + tap * strides[2];
            half *row = to + panel * depth + chunk * 32 * wide;
            for (long k = 0; k < 32; k += 2, row += 2 * wide)
                for (long column = 0; column < wide; column += 16) {
                    const float *here = from + column * strides[0] + k * strides[1];
                    const __m512i next = _mm512_slli_epi32(collect(here + strides[1], steps), 16);
                    _mm512_storeu_si512(row + 2 * column, _mm512_or_si512(collect(here, steps), next));
                }
        }
}

/* Strides of the weights: from one output, input and tap to the next. */
void convolve(const layer *l, const half *x, const float *weight, const int64_t *strides, half *laid_out,
              const float *bias, const half *more, const half *gate, void *out) {
    const long sites = l->images * l->height * l->width, depth = l->taps * l->in;
    const long groups = (sites + GROUP - 1) / GROUP;
    const ending e = {bias, more, gate, out, l->full ? out : NULL};
#pragma omp parallel num_threads(l->threads)
    {
        const long all = omp_get_num_threads(), me = omp_get_thread_num();
        half *a = room(0, GROUP * depth * sizeof(half));
        lay_out(l, weight, strides, laid_out, me, all);
#pragma omp barrier
        place here = locate(l, groups * me / all * GROUP);
        for (long n = groups * me / all; n < groups * (me + 1) / all; n++) {
            const long site = n * GROUP, rows = least(GROUP, sites - site);
            for (long i = 0; i < rows; i++, go_on(l, &here))
                for (long t = 0; t < l->taps; t++) {
                    const half *from = look(l, x, here, t);
                    half *to = a + i * depth + t * l->in;
                    for (long k = 0; k < l->in; k += 32) _mm512_storeu_si512(to + k, load(l, from + k));
                }
            fetch(x, (site + GROUP + l->width) * l->in, least(site + 2 * GROUP + l->width, sites) * l->in);
            for (long column = 0; column < l->out; column += 64) {
                const half *w = laid_out + column * depth;
                for (long i = 0; i < rows; i += TALL) {
                    if (l->out - column >= 64) tile(rows - i, 4, a + i * depth, depth, w, &e, site + i, column, l->out);
                    else tile(rows - i, 2, a + i * depth, depth, w, &e, site + i, column, l->out);
                }
            }
        }
    }
}

/* --- backward to the weights: out x sites times sites x (taps in) --------------------------------- */

/* Interleaves two rows of 32: a0 b0 a1 b1 and so on; `step` lies between the halves. */
INLINE void interleave(__m512i a, __m512i b, half *to, long step) {
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                           38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i last = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, first, b));
    _mm512_storeu_si512(to + step, _mm512_permutex2var_epi16(a, last, b));
}

/* Pairs the values of two sites, up to `end`: the gradient by 16 outputs, the inputs in panels of 64. */
static void pair_up(const layer *l, const half *x, const half *gradient, place *here, long pairs, long end,
                    half *a, half *b) {
    const long depth = l->taps * l->in, out = l->out;
    for (long p = 0; p < pairs; p++) {
        const place one = *here;
        const half *from = gradient + one.site * out;
        const int two = one.site + 1 < end;
        go_on(l, here);
        for (long n = 0; n < out; n += 32) {
            const __m512i other = two ? _mm512_loadu_si512(from + out + n) : _mm512_setzero_si512();
            interleave(_mm512_loadu_si512(from + n), other, a + (n * PAIRS + p * 16) * 2, PAIRS * 32);
        }
        for (long t = 0; t < l->taps; t++) {
            const half *first = look(l, x, one, t), *second = two ? look(l, x, *here, t) : first;
            for (long k = 0; k < l->in; k += 32) {
                const long column = t * l->in + k, panel = column / 64 * 64, wide = least(64, depth - panel);
                half *to = b + (panel * PAIRS + p * wide + column - panel) * 2;
                interleave(load(l, first + k), load(l, second + k), to, 32);
            }
        }
        if (two) go_on(l, here);
    }
}

INLINE void add_tile(const int rows, const int wide, const half *a, long n, const half *b, long pairs,
                     float *to, long step) {
    __m512 sum[TALL][WIDE];
    const half *output[TALL];
    for (int i = 0; i < rows; i++) {
        output[i] = a + ((n + i) / 16 * PAIRS * 16 + (n + i) % 16) * 2;
        for (int v = 0; v < wide; v++) sum[i][v] = _mm512_loadu_ps(to + i * step + 16 * v);
    }
    for (long p = 0; p < pairs; p++, b += wide * 32) {
        __m512i w[WIDE];
        for (int v = 0; v < wide; v++) w[v] = _mm512_loadu_si512(b + 32 * v);
        for (int i = 0; i < rows; i++) {
            __m512i pair = repeated(output[i] + 32 * p);
            for (int v = 0; v < wide; v++) sum[i][v] = multiply(sum[i][v], pair, w[v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < wide; v++) _mm512_storeu_ps(to + i * step + 16 * v, sum[i][v]);
}

/* Multiplies the pairs and adds up the products; each tile also prefetches some of the next sites. */
static void add_pairs(const layer *l, const half *a, const half *b, long pairs, float *weight, float *bias,
                      const half *x, const half *gradient, long next, long following) {
    const long depth = l->taps * l->in, out = l->out, tiles = (depth + 63) / 64 * ((out + TALL - 1) / TALL);
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    for (long p = 0; p < pairs; p++)
        for (long n = 0; n < out; n += 16) {
            const __m512i pair = _mm512_loadu_si512(a + (n * PAIRS + p * 16) * 2);
            _mm512_storeu_ps(bias + n, multiply(_mm512_loadu_ps(bias + n), pair, ones));
        }
    for (long k = 0, done = 0; k < depth; k += 64)
        for (long n = 0; n < out; n += TALL, done++) {
            const long first = next + following * done / tiles, last = next + following * (done + 1) / tiles;
            fetch(x, first * l->in, last * l->in);
            fetch(gradient, first * out, last * out);
            const long rows = least(TALL, out - n), wide = depth - k >= 64 ? 4 : 2;
#define TILE(r, w) \
    if (rows == r && wide == w) add_tile(r, w, a, n, b + k * PAIRS * 2, pairs, weight + n * depth + k, depth);
            TILE(6, 4) TILE(4, 4) TILE(2, 4) TILE(6, 2) TILE(4, 2) TILE(2, 2)
        }
}

/* Computes the gradients of the weights, out x taps x in, and of the bias, out. */
void weight_gradient(const layer *l, const half *x, const half *gradient, float *weight, float *bias) {
    const long sites = l->images * l->height * l->width, out = l->out, depth = l->taps * l->in, size = out * depth;
    float *sums[l->threads]; /* one for each thread, the bias after the weights */
#pragma omp parallel num_threads(l->threads)
    {
        const long all = omp_get_num_threads(), me = omp_get_thread_num();
        const long end = sites * (me + 1) / all;
        half *a = room(0, 2 * PAIRS * out * sizeof(half)), *b = room(1, 2 * PAIRS * depth * sizeof(half));
        sums[me] = memset(room(2, (size + out) * sizeof(float)), 0, (size + out) * sizeof(float));
        place here = locate(l, sites * me / all);
        while (here.site < end) {
            const long pairs = (least(BLOCK, end - here.site) + 1) / 2;
            pair_up(l, x, gradient, &here, pairs, end, a, b);
            const long following = least(BLOCK, end - here.site);
            add_pairs(l, a, b, pairs, sums[me], sums[me] + size, x, gradient, here.site, following);
        }
#pragma omp barrier
        for (long i = (size + out) * me / all; i < (size + out) * (me + 1) / all; i++) {
            float sum = 0;
            for (long thread = 0; thread < all; thread++) sum += sums[thread][i];
            *(i < size ? weight + i : bias + i - size) = sum;
        }
    }
}
