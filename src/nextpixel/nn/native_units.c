/* The elementwise functions of gated residual layers and their gradients, each in one pass.
 *
 * Compiled on the user's machine and loaded by native_units.py. Maps are channels-last: sites of some
 * numbers next to each other, float32 or, where `half` is set, bfloat16. All numbers are computed as
 * float32. Loops are written for the compiler to turn into vectors.
 */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define SHARED 32768 /* numbers from which threads share the work */

/* Sizes of the narrow maps. The wide ones have twice as many channels, and a border around each image: columns to
 * the left and to the right, and rows above. */
typedef struct { int64_t images, height, width, channels, left, right, above, half, threads; } maps;

INLINE float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t as_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

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

/* e^x and e^x - 1; both with a small relative error. */
typedef struct { float whole, less_one; } power;

/* Raises e to x <= 0: e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r - 1 = r + r^2 p(r), where p is fitted so that
 * the largest relative error is least. Powers below e^-87, all denormal ones among them, are 0; NaN stays NaN. */
INLINE power raise(float x) {
    const float least = x < -87.0f ? -87.0f : x;
    const float shifted = least * 1.44269504f + 0x1.8p23f; /* the last bits are n, rounded to an integer */
    const float n = shifted - 0x1.8p23f, scale = as_float((as_bits(shifted) << 23) + 0x3f800000);
    const float r = (least - n * 0x1.63p-1f) + n * 2.12194440e-4f;
    float p = 0.0013946732506155968f;
    p = p * r + 0.008366754278540611f;
    p = p * r + 0.04166627675294876f;
    p = p * r + 0.16666541993618011f;
    p = p * r + 0.5f;
    const float q = p * (r * r) + r;
    return (power){x < -87.0f ? 0.0f : scale + scale * q, (scale - 1.0f) + scale * q};
}

INLINE float below(float x) { return x > 0 ? -x : x; } /* -|x| */

/* --- ELU of x and of -x, next to each other ------------------------------------------------------- */

INLINE void elus(const int half, long channels, const void *restrict x, void *restrict out, long in, long at) {
#pragma omp simd
    for (long i = 0; i < channels; i++) {
        const float here = get(x, in + i, half), less_one = raise(below(here)).less_one;
        put(out, at + i, here > 0 ? here : less_one, half);
        put(out, at + channels + i, here < 0 ? -here : less_one, half);
    }
}

INLINE void elu_gradients(const int half, long channels, const void *restrict x, const void *restrict gradient,
                          void *restrict out, long in, long at) {
#pragma omp simd
    for (long i = 0; i < channels; i++) {
        const float here = get(x, in + i, half), slope = raise(below(here)).whole;
        const float first = get(gradient, at + i, half) * (here > 0 ? 1.0f : slope);
        const float second = get(gradient, at + channels + i, half) * (here < 0 ? 1.0f : slope);
        put(out, in + i, first - second, half);
    }
}

/* --- x + a sigmoid(b), where a and b are the halves of the channels of y --------------------------- */

INLINE void gates(const int half, long channels, const void *restrict x, const void *restrict y, void *restrict out,
                  long in, long at) {
#pragma omp simd
    for (long i = 0; i < channels; i++) {
        const float b = get(y, at + channels + i, half), e = raise(below(b)).whole;
        const float open = (b < 0 ? e : 1.0f) / (1.0f + e);
        put(out, in + i, get(x, in + i, half) + get(y, at + i, half) * open, half);
    }
}

INLINE void gate_gradients(const int half, long channels, const void *restrict y, const void *restrict gradient,
                           void *restrict out, long in, long at) {
#pragma omp simd
    for (long i = 0; i < channels; i++) {
        const float b = get(y, at + channels + i, half), e = raise(below(b)).whole, part = 1.0f / (1.0f + e);
        const float back = get(gradient, in + i, half), open = (b < 0 ? e : 1.0f) * part;
        put(out, at + i, back * open, half);
        put(out, at + channels + i, back * get(y, at + i, half) * (e * part * part), half);
    }
}

/* --- over all sites ------------------------------------------------------------------------------ */

/* Returns where a row, counted over all images, begins in a wide map. */
INLINE long begin(const maps *m, long row) {
    const long line = row + (row / m->height + 1) * m->above;
    return (line * (m->left + m->width + m->right) + m->left) * 2 * m->channels;
}

/* Writes the zeros around a row of a wide map, and those above an image with its first row. */
static void clear_border(const maps *m, long row, char *out) {
    const long size = m->half ? 2 : 4, site = 2 * m->channels * size, line = (m->left + m->width + m->right) * site;
    char *first = out + begin(m, row) * size, *left = first - m->left * site;
    if (row % m->height == 0) memset(left - m->above * line, 0, m->above * line);
    memset(left, 0, m->left * site);
    memset(first + m->width * site, 0, m->right * site);
}

#define EACH_ROW \
    const long rows = m->images * m->height; \
    _Pragma("omp parallel for num_threads(m->threads) if (rows * m->width * m->channels >= SHARED)") \
    for (long row = 0; row < rows; row++)

/* Calls a function at each site of a row, with the places of its numbers in narrow and wide maps. */
#define EACH_SITE(function, ...) \
    for (long in = row * m->width * m->channels, at = begin(m, row), end = in + m->width * m->channels; in < end; \
         in += m->channels, at += 2 * m->channels) { \
        if (m->half) function(1, m->channels, __VA_ARGS__, in, at); \
        else function(0, m->channels, __VA_ARGS__, in, at); \
    }

void concat_elu(const maps *m, const void *x, void *out) {
    EACH_ROW {
        clear_border(m, row, out);
        EACH_SITE(elus, x, out)
    }
}

void concat_elu_gradient(const maps *m, const void *x, const void *gradient, void *out) {
    EACH_ROW EACH_SITE(elu_gradients, x, gradient, out)
}

void gate(const maps *m, const void *x, const void *y, void *out) {
    EACH_ROW EACH_SITE(gates, x, y, out)
}

void gate_gradient(const maps *m, const void *y, const void *gradient, void *out) {
    EACH_ROW EACH_SITE(gate_gradients, y, gradient, out)
}
