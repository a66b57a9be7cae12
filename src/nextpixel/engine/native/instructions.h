/* The instructions of a program. Included by run.c.
 *
 * The order of sums: a product adds its terms one by one in the order of its depth, beginning with
 * b + 0. Attention adds the terms of a score and of its result one by one, and the exponentials in
 * 8 parts, element i in part i % 8, which are added up in order.
 */

#if BYTES > 16
#include <immintrin.h>
#endif

#define PARTS 8  /* of a sum of exponentials or probabilities */

/* The images that a step computes. */
typedef struct {
    const np_program *program;
    float *state;
    char *scratch;
    struct np_crew *crew;  /* NULL if nobody helps */
    int64_t images;
    int64_t row, col;  /* of the site, counted in periods */
    int64_t pixel;
} step;

INLINE float *place(const step *s, const np_operand *o, int64_t image) {
    const int64_t at = o->offset + s->row * o->per_row + s->col * o->per_col;
    if (o->space == NP_IN_CONSTANTS) return (float *)s->program->constants + at;
    return s->state + image * s->program->state + at;
}

/* Begins a step; the scratch lies behind the images. */
INLINE step step_of(const np_program *program, float *state, int64_t images, void *crew) {
    return (step){program, state, (char *)(state + images * program->state), crew, images, 0, 0, 0};
}

INLINE int64_t at_most(int64_t x, int64_t most) { return x < most ? x : most; }

/* Read the first `count` numbers of a vector, the others being 0, and write them: by a mask where
 * there is one, else one by one, in a function of its own, so that the arrays of its many uses do
 * not add up on the stack. */
#if BYTES == 64
INLINE __mmask16 first(int64_t count) { return (__mmask16)((1u << count) - 1); }
INLINE vec read_some(const float *from, int64_t count) {
    return (vec)_mm512_maskz_loadu_ps(first(count), from);
}
INLINE void write_some(float *to, vec x, int64_t count) {
    _mm512_mask_storeu_ps(to, first(count), (__m512)x);
}
#elif BYTES == 32
INLINE __m256i first(int64_t count) {
    return (__m256i)((ivec){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)count);
}
INLINE vec read_some(const float *from, int64_t count) {
    return (vec)_mm256_maskload_ps(from, first(count));
}
INLINE void write_some(float *to, vec x, int64_t count) {
    _mm256_maskstore_ps(to, first(count), (__m256)x);
}
#else
ALONE vec read_some(const float *from, int64_t count) {
    float some[LANES] = {0};
    for (int64_t i = 0; i < count; i++) some[i] = from[i];
    return *(vec *)some;
}

ALONE void write_some(float *to, vec x, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = x[i];
}
#endif

/* Reads up to LANES numbers that follow each other. */
INLINE vec read(const float *from, int64_t count) {
    if (count >= LANES) return *(const vec *)from;
    return count > 0 ? read_some(from, count) : fill(0);
}

/* Writes up to LANES numbers that follow each other. */
INLINE void write(float *to, vec x, int64_t count) {
    if (count >= LANES) *(vec *)to = x;
    else if (count > 0) write_some(to, x, count);
}

/* --- products --------------------------------------------------------------------------------- */

/* A tile has up to TALL rows and WIDE vectors: its sums fit the registers. */
#define TALL 6
#if BYTES == 64 || defined(__aarch64__)
#define WIDE 4
#else
#define WIDE 2
#endif
#define PANEL ((int64_t)WIDE * LANES)  /* columns of a panel, whose weights follow each other */
#define PANELS (NP_WIDEST / PANEL)     /* that a product of one row computes together */

/* A row of a product: where its tensors lie; b and more may be NULL. */
typedef struct { const float *a, *b, *more; float *out; } line;

INLINE void load(vec *to, const int vectors, const float *from, int64_t columns) {
    if (columns >= vectors * LANES)
        for (int v = 0; v < vectors; v++) to[v] = *(const vec *)(from + v * LANES);
    else
        for (int v = 0; v < vectors; v++) to[v] = read(from + v * LANES, columns - v * LANES);
}

/* Begins the sums of a row. No sum is ever -0. */
INLINE void begin(vec *sum, const int vectors, const line *l, int64_t at, int64_t columns) {
    for (int v = 0; v < vectors; v++) sum[v] = fill(0);
    if (l->b) load(sum, vectors, l->b + at, columns);
    for (int v = 0; v < vectors; v++) sum[v] += 0;
}

/* Finishes a row: applies ReLU, adds `more` and writes the result. */
INLINE void finish(vec *sum, const int vectors, const line *l, int relu_, int64_t at,
                   int64_t columns) {
    vec more[WIDE];
    if (relu_)
        for (int v = 0; v < vectors; v++) sum[v] = relu(sum[v]);
    if (l->more) {
        load(more, vectors, l->more + at, columns);
        for (int v = 0; v < vectors; v++) sum[v] += more[v];
    }
    if (columns >= vectors * LANES)
        for (int v = 0; v < vectors; v++) *(vec *)(l->out + at + v * LANES) = sum[v];
    else
        for (int v = 0; v < vectors; v++)
            write(l->out + at + v * LANES, sum[v], columns - v * LANES);
}

/* Computes a tile: `rows` x `vectors` sums by a panel, from column `at` on, of which there are
 * `columns`. */
INLINE void tile(const int rows, const int vectors, const line *l, int64_t depth, int relu_,
                 const float *w, int64_t at, int64_t columns) {
    /* The address of `sum` is never taken: it stays in registers. */
    vec sum[TALL][WIDE], edge[WIDE];
    const float *a[TALL];
    for (int i = 0; i < rows; i++) {
        begin(edge, vectors, l + i, at, columns);
        for (int v = 0; v < vectors; v++) sum[i][v] = edge[v];
        a[i] = l[i].a;
    }
    for (int64_t k = 0; k < depth; k++, w += PANEL) {
        vec weights[WIDE];
        for (int v = 0; v < vectors; v++) weights[v] = *(const vec *)(w + v * LANES);
        for (int i = 0; i < rows; i++) {
            const vec x = fill(a[i][k]);
            for (int v = 0; v < vectors; v++) sum[i][v] += x * weights[v];
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < vectors; v++) edge[v] = sum[i][v];
        finish(edge, vectors, l + i, relu_, at, columns);
    }
}

/* Defines a function for tiles of up to TALL rows, and of some vectors; its frame is small. */
#define TILES(name, vectors)                                                                       \
    ALONE void name(int64_t rows, const line *l, int64_t depth, int relu_, const float *w,         \
                    int64_t at, int64_t columns) {                                                 \
        switch (rows) {                                                                            \
            case 1: tile(1, vectors, l, depth, relu_, w, at, columns); break;                      \
            case 2: tile(2, vectors, l, depth, relu_, w, at, columns); break;                      \
            case 3: tile(3, vectors, l, depth, relu_, w, at, columns); break;                      \
            case 4: tile(4, vectors, l, depth, relu_, w, at, columns); break;                      \
            case 5: tile(5, vectors, l, depth, relu_, w, at, columns); break;                      \
            default: tile(6, vectors, l, depth, relu_, w, at, columns);                            \
        }                                                                                          \
    }

TILES(tiles_of_1, 1)
TILES(tiles_of_2, 2)
#if WIDE == 4
TILES(tiles_of_3, 3)
TILES(tiles_of_4, 4)
#endif

INLINE void any_tile(int64_t rows, const line *l, int64_t depth, int relu_, const float *w,
                     int64_t at, int64_t columns) {
    switch ((columns + LANES - 1) / LANES) {
        case 1: tiles_of_1(rows, l, depth, relu_, w, at, columns); break;
        case 2: tiles_of_2(rows, l, depth, relu_, w, at, columns); break;
#if WIDE == 4
        case 3: tiles_of_3(rows, l, depth, relu_, w, at, columns); break;
        default: tiles_of_4(rows, l, depth, relu_, w, at, columns);
#endif
    }
}

/* Computes some panels of a single row from the inputs that are listed; `size` numbers are in a
 * panel. */
INLINE void single(const int panels, const line *l, int relu_, const int32_t *which,
                   const float *value, int64_t used, const float *w, int64_t size, int64_t at,
                   int64_t columns) {
    vec sum[PANELS][WIDE];
    for (int p = 0; p < panels; p++) begin(sum[p], WIDE, l, at + p * PANEL, columns - p * PANEL);
    for (int64_t n = 0; n < used; n++) {
        const float *wn = w + (int64_t)which[n] * PANEL;
        const vec x = fill(value[n]);
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < WIDE; v++)
                sum[p][v] += x * *(const vec *)(wn + p * size + v * LANES);
    }
    for (int p = 0; p < panels; p++)
        finish(sum[p], WIDE, l, relu_, at + p * PANEL, columns - p * PANEL);
}

/* Finds where the tensors of a product lie in rows `first` to `first + count - 1`. */
INLINE void find_lines(const step *s, const np_instruction *in, int64_t first, int64_t count,
                       line *l) {
    int64_t image = first / in->outer, o = first % in->outer;
    for (int64_t i = 0; i < count; i++) {
        l[i].a = place(s, &in->a, image) + o * in->a.per_outer;
        l[i].b = in->b.space ? place(s, &in->b, image) + o * in->b.per_outer : 0;
        l[i].more = in->more.space ? place(s, &in->more, image) + o * in->more.per_outer : 0;
        l[i].out = place(s, &in->out, image) + o * in->out.per_outer;
        if (++o == in->outer) image++, o = 0;
    }
}

/* Lists the inputs of a product of one row in the scratch, and returns their number. Zeros (half
 * of them, after a ReLU) are left out: with finite weights they would change nothing, as no sum is
 * -0. */
static int64_t list_inputs(const step *s, const np_instruction *in, int64_t rows) {
    if (rows > 1) return 0;
    int32_t *which = (int32_t *)s->scratch;
    float *value = (float *)(which + s->program->deepest);
    const int64_t finite = s->program->finite;
    const float *a = place(s, &in->a, 0);
    int64_t used = 0;
    for (int64_t k = 0; k < in->depth; k++) {
        which[used] = (int32_t)k, value[used] = a[k];
        used += !finite || a[k] != 0;
    }
    return used;
}

/* Computes columns `at` to `end - 1` of a product of one row. */
static void columns_of_row(const step *s, const np_instruction *in, int64_t used, const line *l,
                           int64_t at, int64_t end) {
    const int32_t *which = (int32_t *)s->scratch;
    const float *value = (float *)(which + s->program->deepest);
    const float *w = s->program->packed[in->weight] + at * in->depth;
    const int64_t size = in->depth * PANEL;
    while (at < end) {
        const int64_t left = end - at, panels = left > (PANELS - 1) * PANEL ? PANELS : 1;
        if (panels > 1) single(PANELS, l, in->relu, which, value, used, w, size, at, left);
        else single(1, l, in->relu, which, value, used, w, size, at, left);
        at += panels * PANEL, w += panels * size;
    }
}

/* Computes columns `begin` to `end - 1` of a product; `begin` is that of a panel. With `out`, its
 * rows are written there, one after the other. */
static void product_part(const step *s, const np_instruction *in, int64_t used, int64_t begin,
                         int64_t end, float *out) {
    const int64_t rows = s->images * in->outer, depth = in->depth;
    line l[TALL];
    if (rows == 1) {
        find_lines(s, in, 0, 1, l);
        if (out) l->out = out;
        columns_of_row(s, in, used, l, begin, end);
        return;
    }
    const float *w = s->program->packed[in->weight] + begin * depth;
    for (int64_t at = begin; at < end; at += PANEL, w += depth * PANEL)
        for (int64_t first = 0, now; first < rows; first += now) {
            const int64_t left = rows - first;
            now = left <= TALL ? left : left < 2 * TALL ? (left + 1) / 2 : TALL;
            find_lines(s, in, first, now, l);
            for (int64_t i = 0; out && i < now; i++) l[i].out = out + (first + i) * in->inner;
            any_tile(now, l, depth, in->relu, w, at, at_most(end - at, PANEL));
        }
}

#include "sharing.h"

/* Computes out = relu(b + a W) + more, with images x outer rows; relu is optional. */
static void product(const step *s, const np_instruction *in) {
    const int64_t rows = s->images * in->outer;
    if (s->crew && np_is_large(in) && in->inner > piece_of(in, rows))
        product_of_two(s, in);
    else
        product_part(s, in, list_inputs(s, in, rows), 0, in->inner, 0);
}

/* --- attention -------------------------------------------------------------------------------- */

/* Computes the scores of keys: the products of a query with them, times a number. */
static void score_keys(const np_instruction *in, const float *q, const float *k, int64_t keys,
                       float *score) {
    for (int64_t j = 0; j < keys; j += LANES) {
        vec sum = fill(0);
        for (int64_t c = 0; c < in->depth; c++)
            sum += fill(q[c * in->a.per_inner]) * read(k + c * in->b.per_inner + j, keys - j);
        write(score + j, sum * (float)in->number, keys - j);
    }
}

/* Replaces scores by e^(score - the highest one), and returns their sum. */
static float weigh(float *score, int64_t keys) {
    float most = score[0], parts[PARTS] = {0}, total = 0;
    for (int64_t j = 1; j < keys; j++) most = score[j] > most ? score[j] : most;
    for (int64_t j = 0; j < keys; j += LANES)
        write(score + j, exp_(read(score + j, keys - j) - most, MOST), keys - j);
    for (int64_t j = 0; j < keys; j++) parts[j % PARTS] += score[j];
    for (int i = 0; i < PARTS; i++) total += parts[i];
    return total;
}

/* Computes out = softmax(a b number) more: a query a of `depth` numbers, keys b (their numbers lie
 * `per_inner` apart, the keys 1), and their values `more`, of `inner` numbers each. Their number
 * is `outer`, which moves with the site. */
static void attention(const step *s, const np_instruction *in) {
    const int64_t keys = in->outer + s->row * in->outer_per_row + s->col * in->outer_per_col;
    for (int64_t image = 0; image < s->images; image++) {
        const float *v = place(s, &in->more, image);
        float *out = place(s, &in->out, image);
        float *score = s->state + image * s->program->state + in->weight;
        score_keys(in, place(s, &in->a, image), place(s, &in->b, image), keys, score);
        const float total = weigh(score, keys);
        for (int64_t c = 0; c < in->inner; c += LANES) {
            vec sum = fill(0);
            for (int64_t j = 0; j < keys; j++)
                sum += fill(score[j]) * read(v + j * in->more.per_outer + c, in->inner - c);
            write(out + c, sum / total, in->inner - c);
        }
    }
}

/* --- element by element ----------------------------------------------------------------------- */

/* Reads the first `count` numbers of a vector, `per_inner` apart. */
ALONE vec read_apart(const float *from, int64_t per_inner, int64_t count) {
    float some[LANES] = {0};
    for (int64_t i = 0; i < count; i++) some[i] = from[i * per_inner];
    return *(vec *)some;
}

ALONE void write_apart(float *to, int64_t per_inner, vec x, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i * per_inner] = x[i];
}

INLINE vec gathered(const float *from, int64_t per_inner, int64_t count) {
    if (per_inner == 1) return read(from, count);
    if (per_inner == 0) return fill(*from);
    if (count < LANES) return read_apart(from, per_inner, count);
    vec x = fill(0);
    for (int i = 0; i < LANES; i++) x[i] = from[i * per_inner];
    return x;
}

INLINE void scattered(float *to, int64_t per_inner, vec x, int64_t count) {
    if (per_inner == 1) write(to, x, count);
    else if (count < LANES) write_apart(to, per_inner, x, count);
    else for (int i = 0; i < LANES; i++) to[i * per_inner] = x[i];
}

/* Defines an instruction that computes an expression of x and y, elements of a and b, and of its
 * number; y is x if there is no b. */
#define ELEMENTS(name, expression)                                                                 \
    static void name(const step *s, const np_instruction *in) {                                    \
        const np_operand *a = &in->a, *b = in->b.space ? &in->b : &in->a;                          \
        const float number __attribute__((unused)) = (float)in->number;                            \
        for (int64_t image = 0; image < s->images; image++)                                        \
            for (int64_t o = 0; o < in->outer; o++) {                                              \
                const float *from = place(s, a, image) + o * a->per_outer;                         \
                const float *with = place(s, b, image) + o * b->per_outer;                         \
                float *to = place(s, &in->out, image) + o * in->out.per_outer;                     \
                for (int64_t j = 0; j < in->inner; j += LANES) {                                   \
                    const int64_t now = at_most(in->inner - j, LANES);                             \
                    const vec x = gathered(from + j * a->per_inner, a->per_inner, now);            \
                    const vec y = gathered(with + j * b->per_inner, b->per_inner, now);            \
                    (void)x, (void)y;                                                              \
                    scattered(to + j * in->out.per_inner, in->out.per_inner, expression, now);     \
                }                                                                                  \
            }                                                                                      \
    }

ELEMENTS(copy_elements, x)
ELEMENTS(rectify, relu(x))
ELEMENTS(apply_elu, elu(x))
ELEMENTS(apply_sigmoid, sigmoid(x, MOST))
ELEMENTS(apply_tanh, tanh_(x))
ELEMENTS(negate, -x)
ELEMENTS(scale, x * number)
ELEMENTS(shift, x + number)
ELEMENTS(add, x + y)
ELEMENTS(subtract, x - y)
ELEMENTS(multiply, x * y)
ELEMENTS(fill_with, fill(number))

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
#define MIX __builtin_shufflevector

/* Transposes a block of 8 x 8 numbers, whose rows are `apart` and `to_apart` from each other. */
INLINE void transpose(const float *from, int64_t apart, float *to, int64_t to_apart) {
    eight x[8], y[8];
    for (int i = 0; i < 8; i++) x[i] = *(const eight *)(from + i * apart);
    for (int i = 0; i < 8; i += 2) {
        y[i] = MIX(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        y[i + 1] = MIX(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            x[i + 2 * k] = MIX(y[i + k], y[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            x[i + 2 * k + 1] = MIX(y[i + k], y[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        *(eight *)(to + i * to_apart) = MIX(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(eight *)(to + (i + 4) * to_apart) = MIX(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* Copies a tensor whose outer elements follow each other to one whose inner elements do. */
static void copy_transposed(const step *s, const np_instruction *in) {
    const int64_t apart = in->a.per_inner, to_apart = in->out.per_outer;
    const int64_t outer = in->outer & ~7, inner = in->inner & ~7;  /* of whole blocks */
    for (int64_t image = 0; image < s->images; image++) {
        const float *from = place(s, &in->a, image);
        float *to = place(s, &in->out, image);
        for (int64_t o = 0; o < outer; o += 8)
            for (int64_t j = 0; j < inner; j += 8)
                transpose(from + j * apart + o, apart, to + o * to_apart + j, to_apart);
        for (int64_t o = 0; o < in->outer; o++)
            for (int64_t j = o < outer ? inner : 0; j < in->inner; j++)
                to[o * to_apart + j] = from[j * apart + o];
    }
}

static void copy(const step *s, const np_instruction *in) {
    if (in->a.per_inner > 1 && in->a.per_outer == 1 && in->out.per_inner == 1)
        copy_transposed(s, in);
    else
        copy_elements(s, in);
}

/* Copies the rows of the table b that the levels a name: images x outer rows of `inner` numbers.
 * What is no level names row 0. */
static void gather(const step *s, const np_instruction *in) {
    const float levels = (float)s->program->header->levels;
    for (int64_t image = 0; image < s->images; image++)
        for (int64_t o = 0; o < in->outer; o++) {
            const float level = place(s, &in->a, image)[o * in->a.per_outer];
            const int64_t row = level >= 0 && level < levels ? (int64_t)level : 0;
            const float *from = s->program->constants + in->b.offset + row * in->inner;
            float *to = place(s, &in->out, image) + o * in->out.per_outer;
            for (int64_t j = 0; j < in->inner; j++) to[j * in->out.per_inner] = from[j];
        }
}

static void run_kind(const step *s, const np_kind *kind) {
    const np_instruction *in = s->program->instructions + kind->first;
    for (const np_instruction *end = in + kind->count; in < end; in++) {
        switch (in->operation) {
            case NP_PRODUCT: product(s, in); break;
            case NP_ATTENTION: attention(s, in); break;
            case NP_GATHER: gather(s, in); break;
            case NP_COPY: copy(s, in); break;
            case NP_RELU: rectify(s, in); break;
            case NP_ELU: apply_elu(s, in); break;
            case NP_SIGMOID: apply_sigmoid(s, in); break;
            case NP_TANH: apply_tanh(s, in); break;
            case NP_NEGATE: negate(s, in); break;
            case NP_SCALE: scale(s, in); break;
            case NP_SHIFT: shift(s, in); break;
            case NP_ADD: add(s, in); break;
            case NP_SUBTRACT: subtract(s, in); break;
            case NP_MULTIPLY: multiply(s, in); break;
            default: fill_with(s, in);
        }
    }
}
