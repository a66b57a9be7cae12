/* Replays a step of generation: runs a list of small instructions on given addresses.
 *
 * Compiled once per type of number (-DREAL=float or -DREAL=double) and loaded by program.py.
 * Every operand is a tensor, images x outer x inner.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((long)(BYTES / sizeof(REAL)))
#define WIDE 4            /* vectors of columns in a panel of weights */
#define TALL (BYTES == 64 ? 6 : 3)  /* rows of a tile: TALL x WIDE sums fit the registers */
#define UNUSED __attribute__((unused))
#define INLINE static inline __attribute__((always_inline))

#if IS_DOUBLE
typedef int64_t whole;
#define MANTISSA 52
#define BIAS 1023
#define TERMS 14
#else
typedef int32_t whole;
#define MANTISSA 23
#define BIAS 127
#define TERMS 8
#endif
typedef REAL vec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef whole ivec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

/* INSTRUCTION and OPERATIONS in program.py mirror these. An address is affine in the site's row and
 * column. It and what a row and a column add are in bytes, strides in elements. */
typedef struct { int64_t address, per_row, per_col, per_image, per_outer, per_inner; } operand;
typedef struct {
    int64_t op, outer, inner, depth, weight, relu;
    operand out, a, b, more;
    double number;
} instruction;
enum { PRODUCT, COPY, CAST, GATHER, RELU, ELU, SIGMOID, TANH, NEGATE, SCALE, SHIFT, ADD, SUBTRACT, MULTIPLY };

INLINE void *at(const operand *o, long row, long col) {
    return (char *)o->address + row * o->per_row + col * o->per_col;
}

/* --- elementary functions, to about an ulp ---------------------------------------------------- */

INLINE vec fill(REAL x) { return x - (vec){}; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* e^x - 1, for x in the range where it is finite: 2^n (1 + p) - 1 with p = e^r - 1, r = x - n ln 2 */
INLINE vec expm1_(vec x, vec *scale, vec *p) {
    const REAL magic = (REAL)3 * ((int64_t)1 << (MANTISSA - 1));
    const REAL high = IS_DOUBLE ? 0x1.62e42fefa39efp-1 : 0x1.62e4p-1f;
    const REAL low = IS_DOUBLE ? 0x1.abc9e3b39803fp-56 : 0x1.7f7d1cp-20f;
    vec n = x * (REAL)1.4426950408889634 + magic;
    n -= magic;
    vec r = x - n * high - n * low, sum = fill(0);
    REAL term = 1;
    for (int i = 2; i <= TERMS; i++) term /= i;
    for (int i = TERMS; i >= 2; i--) { sum = sum * r + term; term *= i; }
    *p = sum * r * r + r;
    *scale = (vec)((__builtin_convertvector(n, ivec) + BIAS) << MANTISSA);
    return *scale * *p + (*scale - 1);
}
INLINE vec clamp(vec x, REAL most) {
    x = choose((ivec)(x > most), fill(most), x);
    return choose((ivec)(x < -most), fill(-most), x);
}
#define MOST (IS_DOUBLE ? 700 : 87)
INLINE vec sigmoid(vec x) { vec s, p; expm1_(clamp(-x, MOST), &s, &p); return 1 / (1 + s + s * p); }
INLINE vec tanh_(vec x) { vec s, p, e = expm1_(clamp(2 * x, 40), &s, &p); return e / (e + 2); }
INLINE vec elu(vec x) { vec s, p, e = expm1_(clamp(x, MOST), &s, &p); return choose((ivec)(x > 0), x, e); }
INLINE vec relu(vec x) { return choose((ivec)(x < 0), fill(0), x); } /* NaN stays NaN */

/* --- matrix products -------------------------------------------------------------------------- */

/* A product: rows of `a`, `depth` long, times panels of weights; `relu` is a bit mask: 1 for ReLU
 * of the result, 2 for ReLU of `a`. */
typedef struct {
    long depth, relu, a_step, b_step, more_step, out_step;
    const REAL *a, *b, *more;
    REAL *out;
} task;

INLINE void load(vec *to, const int vectors, const REAL *from, long columns) {
    REAL edge[WIDE * LANES] = {0};
    if (columns < vectors * LANES) from = memcpy(edge, from, columns * sizeof(REAL));
    for (int v = 0; v < vectors; v++) to[v] = *(vec *)(from + v * LANES);
}

/* Finishes a row of a product: applies ReLU, adds `more` and writes the result. */
INLINE void finish(vec *sum, const int vectors, const task *t, long row, long columns) {
    REAL edge[WIDE * LANES], *out = t->out + row * t->out_step;
    vec more[WIDE];
    if (t->relu & 1)
        for (int v = 0; v < vectors; v++) sum[v] = relu(sum[v]);
    if (t->more) {
        load(more, vectors, t->more + row * t->more_step, columns);
        for (int v = 0; v < vectors; v++) sum[v] += more[v];
    }
    REAL *to = columns < vectors * LANES ? edge : out;
    for (int v = 0; v < vectors; v++) *(vec *)(to + v * LANES) = sum[v];
    if (to == edge) memcpy(out, edge, columns * sizeof(REAL));
}

/* Computes a tile of a product: `rows` x `vectors` sums. */
INLINE void tile(const int rows, const int vectors, const task *t, long row, const REAL *w, long columns) {
    vec sum[6][WIDE], edge[WIDE]; /* the address of `sum` is never taken, so that it stays in registers */
    const REAL *a = t->a + row * t->a_step;
    const long depth = t->depth, step = t->a_step;
    for (int i = 0; i < rows; i++) {
        load(edge, vectors, t->b + (row + i) * t->b_step, columns);
        for (int v = 0; v < vectors; v++) sum[i][v] = edge[v];
    }
    for (long k = 0; k < depth; k++, w += WIDE * LANES) {
        vec weights[WIDE];
        for (int v = 0; v < vectors; v++) weights[v] = *(vec *)(w + v * LANES);
        for (int i = 0; i < rows; i++) {
            vec x = fill(a[i * step + k]);
            for (int v = 0; v < vectors; v++) sum[i][v] += x * weights[v];
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < vectors; v++) edge[v] = sum[i][v];
        finish(edge, vectors, t, row + i, columns);
    }
}

/* Computes a single row of a product. Inputs that are 0 (half of them, after a ReLU) are skipped. */
INLINE void single(const int vectors, long used, const int32_t *which, const REAL *value,
                   const task *t, const REAL *w, long columns) {
    vec even[WIDE], odd[WIDE];
    load(even, vectors, t->b, columns);
    for (int v = 0; v < vectors; v++) odd[v] = fill(0);
    long n = 0;
    for (; n + 2 <= used; n += 2) {
        const REAL *w0 = w + which[n] * (WIDE * LANES), *w1 = w + which[n + 1] * (WIDE * LANES);
        for (int v = 0; v < vectors; v++) {
            even[v] += value[n] * *(vec *)(w0 + v * LANES);
            odd[v] += value[n + 1] * *(vec *)(w1 + v * LANES);
        }
    }
    for (int v = 0; n < used && v < vectors; v++)
        even[v] += value[n] * *(vec *)(w + which[n] * (WIDE * LANES) + v * LANES);
    for (int v = 0; v < vectors; v++) even[v] += odd[v];
    finish(even, vectors, t, 0, columns);
}

/* Computes some columns, all in one panel, of all rows of a product. */
INLINE void panel(const int vectors, const task *t, long rows, const REAL *w, long columns) {
    for (long row = 0, now; row < rows; row += now) {
        const long left = rows - row;
        now = left <= TALL ? left : left < 2 * TALL ? (left + 1) / 2 : TALL;
        switch (now) {
            case 1: tile(1, vectors, t, row, w, columns); break;
            case 2: tile(2, vectors, t, row, w, columns); break;
            case 3: tile(3, vectors, t, row, w, columns); break;
            case 4: tile(4, vectors, t, row, w, columns); break;
            case 5: tile(5, vectors, t, row, w, columns); break;
            default: tile(6, vectors, t, row, w, columns);
        }
    }
}

#define DEEPEST 16384
static const REAL zeros[WIDE * LANES];

/* Lists the inputs of a row that are not 0; with ReLU, those that are positive (or NaN). */
static long pick(const task *t, int32_t *which, REAL *value) {
    long used = 0, k = 0;
#if defined(__AVX512F__) && !IS_DOUBLE
    __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; k + 16 <= t->depth; k += 16) {
        const __m512 x = _mm512_loadu_ps(t->a + k), zero = _mm512_setzero_ps();
        const __mmask16 wanted = t->relu & 2 ? _mm512_cmp_ps_mask(x, zero, _CMP_NLE_UQ)
                                             : _mm512_cmp_ps_mask(x, zero, _CMP_NEQ_UQ);
        _mm512_storeu_ps(value + used, _mm512_maskz_compress_ps(wanted, x));
        _mm512_storeu_si512(which + used, _mm512_maskz_compress_epi32(wanted, number));
        number = _mm512_add_epi32(number, _mm512_set1_epi32(16));
        used += __builtin_popcount(wanted);
    }
#endif
    for (; k < t->depth; k++) {
        which[used] = k, value[used] = t->a[k];
        used += t->relu & 2 ? !(t->a[k] <= 0) : t->a[k] != 0;
    }
    return used;
}

/* Computes out = b + a W for some rows, and for the vectors of columns from v0 to v1. */
static void product(task t, int alone, long rows, long inner, const REAL *weight, long v0, long v1) {
    int32_t which[DEEPEST + LANES];
    REAL value[DEEPEST + LANES];
    const long used = alone ? pick(&t, which, value) : 0;
    for (long now; v0 < v1; v0 += now) {
        const long first = v0 % WIDE, left = inner - v0 * LANES;
        now = v1 - v0 < WIDE - first ? v1 - v0 : WIDE - first;
        const long columns = left < now * LANES ? left : now * LANES;
        const REAL *w = weight + (v0 / WIDE * t.depth * WIDE + first) * LANES;
        task here = t;
        here.out += v0 * LANES;
        if (t.b != zeros) here.b += v0 * LANES;
        if (t.more) here.more += v0 * LANES;
#define PANEL(v) alone ? single(v, used, which, value, &here, w, columns) : panel(v, &here, rows, w, columns)
        switch (now) {
            case 1: PANEL(1); break;
            case 2: PANEL(2); break;
            case 3: PANEL(3); break;
            default: PANEL(4);
        }
    }
}

INLINE REAL *of(const operand *o, long row, long col, long image, long outer) {
    return o->address ? (REAL *)at(o, row, col) + image * o->per_image + outer * o->per_outer : 0;
}

/* Runs a product. Its rows are the images, or the outer indices of one image after the other. */
static void products(const instruction *in, long row, long col, long i0, long i1, long o0, long o1,
                     long v0, long v1) {
    const int by_outer = in->outer > 1;
    for (long i = i0; i < i1; i++) {
        task t = {in->depth, in->relu, 0, 0, 0, 0, of(&in->a, row, col, i, o0),
                  of(&in->b, row, col, i, o0), of(&in->more, row, col, i, o0),
                  of(&in->out, row, col, i, o0)};
        t.a_step = by_outer ? in->a.per_outer : in->a.per_image;
        t.b_step = by_outer ? in->b.per_outer : in->b.per_image;
        t.more_step = by_outer ? in->more.per_outer : in->more.per_image;
        t.out_step = by_outer ? in->out.per_outer : in->out.per_image;
        if (!t.b) t.b = zeros, t.b_step = 0;
        product(t, !by_outer && i1 - i0 == 1, by_outer ? o1 - o0 : i1 - i0, in->inner, (REAL *)in->weight, v0, v1);
        if (!by_outer) break;
    }
}

/* --- element by element ----------------------------------------------------------------------- */

/* Computes `expression` of the vectors x and y for each image and outer index. */
#define EACH(expression)                                                                          \
    for (long i = image0; i < image1; i++)                                                        \
        for (long o = o0; o < o1; o++) {                                                          \
            REAL *to = out + i * in->out.per_image + o * in->out.per_outer;                       \
            const REAL *from = a + i * in->a.per_image + o * in->a.per_outer;                     \
            const REAL *with = b + i * in->b.per_image + o * in->b.per_outer;                     \
            long j = j0;                                                                          \
            for (; plain && j + LANES <= j1; j += LANES) {                                        \
                const vec x = *(vec *)(from + j);                                                 \
                const vec UNUSED y = in->b.per_inner ? *(vec *)(with + j) : fill(*with);          \
                *(vec *)(to + j) = expression;                                                    \
            }                                                                                     \
            for (; j < j1; j++) {                                                                 \
                const vec x = fill(from[j * in->a.per_inner]);                                    \
                const vec UNUSED y = fill(with[j * in->b.per_inner]);                             \
                to[j * in->out.per_inner] = (expression)[0];                                      \
            }                                                                                     \
        }                                                                                         \
    break;

static void elements(const instruction *in, long row, long col, long image0, long image1, long o0,
                     long o1, long j0, long j1) {
    REAL *out = at(&in->out, row, col);
    const REAL *a = at(&in->a, row, col), *b = in->b.address ? at(&in->b, row, col) : a;
    const int64_t *integers = (const int64_t *)a;
    const REAL number = in->number;
    const int plain = in->out.per_inner == 1 && in->a.per_inner == 1 && in->b.per_inner <= 1;
    switch (in->op) {
        case COPY: EACH(x)
        case RELU: EACH(relu(x))
        case ELU: EACH(elu(x))
        case SIGMOID: EACH(sigmoid(x))
        case TANH: EACH(tanh_(x))
        case NEGATE: EACH(-x)
        case SCALE: EACH(x * number)
        case SHIFT: EACH(x + number)
        case ADD: EACH(x + y)
        case SUBTRACT: EACH(x - y)
        case MULTIPLY: EACH(x * y)
        default: /* a is integer: CAST it, or GATHER the rows of the table b that it names */
            for (long i = image0; i < image1; i++)
                for (long o = o0; o < o1; o++)
                    for (long j = j0; j < j1; j++) {
                        const int64_t n = integers[i * in->a.per_image + o * in->a.per_outer +
                                                   j * in->a.per_inner];
                        out[i * in->out.per_image + o * in->out.per_outer + j * in->out.per_inner] =
                            in->op == GATHER ? b[n * in->depth + j] : n;
                    }
    }
}

/* --- the program ------------------------------------------------------------------------------ */

/* Waits until all threads have arrived. */
static void meet(atomic_long *arrived, long threads, long *round) {
    const long all = *round += threads;
    atomic_fetch_add_explicit(arrived, 1, memory_order_acq_rel);
    for (long patience = 0; atomic_load_explicit(arrived, memory_order_acquire) < all; patience++)
        if (patience > 10000) sched_yield();
}

INLINE long share(long all, long part, long parts) { return all * part / parts; }

/* Runs a program at a site. Threads share the images or, if there are few, the columns. */
void replay(const instruction *program, long count, long row, long col, long images, long threads) {
    const int by_image = images >= 4 * threads;
    atomic_long arrived = 0;
#pragma omp parallel num_threads(threads)
    {
        const long me = omp_get_thread_num(), all = omp_get_num_threads();
        const long i0 = by_image ? share(images, me, all) : 0;
        const long i1 = by_image ? share(images, me + 1, all) : images;
        long round = 0;
        for (const instruction *in = program; in < program + count; in++) {
            const int is_product = in->op == PRODUCT, by_outer = in->outer > 1;
            const long inner = is_product ? (in->inner + LANES - 1) / LANES : in->inner;
            const long parts = by_image ? 1 : all, part = by_image ? 0 : me;
            const long o0 = by_outer ? share(in->outer, part, parts) : 0;
            const long o1 = by_outer ? share(in->outer, part + 1, parts) : 1;
            const long j0 = by_outer ? 0 : share(inner, part, parts);
            const long j1 = by_outer ? inner : share(inner, part + 1, parts);
            if (is_product) products(in, row, col, i0, i1, o0, o1, j0, j1);
            else elements(in, row, col, i0, i1, o0, o1, j0, j1);
            if (!by_image && all > 1) meet(&arrived, all, &round);
        }
    }
}

/* Packs a weight (depth x columns, any strides) into panels. */
void pack(const REAL *w, long depth, long columns, long per_depth, long per_column, REAL *panels) {
    for (long begin = 0; begin < columns; begin += WIDE * LANES)
        for (long k = 0; k < depth; k++)
            for (long j = 0; j < WIDE * LANES; j++)
                *panels++ = begin + j < columns ? w[k * per_depth + (begin + j) * per_column] : 0;
}

long panel_columns(void) { return WIDE * LANES; }
