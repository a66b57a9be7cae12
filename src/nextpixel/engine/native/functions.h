/* Vectors, and elementary functions to about an ulp, without a library: the same operations in
 * the same order on every machine. Included by run.c. */

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int64_t)(BYTES / sizeof(float)))
#define DLANES ((int64_t)(BYTES / sizeof(double)))
#define INLINE static inline __attribute__((always_inline))
#define ALONE static __attribute__((noinline))
#define VECTOR(type) __attribute__((vector_size(BYTES), aligned(sizeof(type)), may_alias))

typedef float vec VECTOR(float);
typedef int32_t ivec VECTOR(int32_t);
typedef uint32_t uvec VECTOR(uint32_t);
typedef double dvec VECTOR(double);
typedef int64_t divec VECTOR(int64_t);
typedef uint64_t duvec VECTOR(uint64_t);

/* Defines for float and double (the same names with a d):
 *
 * expm1_: e^x - 1 where that is finite, and its parts: e^x = scale (1 + p), scale = 2^n and
 * p = e^r - 1 for r = x - n ln 2. Adding 1.5 * 2^mantissa rounds x / ln 2 to the integer n, which
 * then stands in the lowest bits. ln 2 is high + low, and n * high is exact.
 */
#define FUNCTIONS(d, real, vec, ivec, uvec, mantissa, bias, terms, high, low)                      \
    INLINE vec fill##d(real x) { return x - (vec){0}; }                                            \
    INLINE vec choose##d(ivec mask, vec yes, vec no) {                                             \
        return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));                                     \
    }                                                                                              \
    INLINE vec clamp##d(vec x, real most) {                                                        \
        x = choose##d((ivec)(x > most), fill##d(most), x);                                         \
        return choose##d((ivec)(x < -most), fill##d(-most), x);                                    \
    }                                                                                              \
    INLINE vec expm1_##d(vec x, vec *scale, vec *p) {                                              \
        const vec magic = fill##d((real)3 * ((int64_t)1 << (mantissa - 1)));                       \
        const vec shifted = x * (real)1.4426950408889634 + magic, n = shifted - magic;             \
        const vec r = x - n * (real)high - n * (real)low;                                          \
        vec sum = fill##d(0);                                                                      \
        real term = 1;                                                                             \
        for (int i = 2; i <= terms; i++) term /= i;                                                \
        for (int i = terms; i >= 2; i--) { sum = sum * r + term; term *= i; }                      \
        *p = sum * r * r + r;                                                                      \
        *scale = (vec)(((uvec)shifted - (uvec)magic + bias) << mantissa);                          \
        return *scale * *p + (*scale - 1);                                                         \
    }                                                                                              \
    INLINE vec exp_##d(vec x, real most) {                                                         \
        vec s, p;                                                                                  \
        expm1_##d(clamp##d(x, most), &s, &p);                                                      \
        return s + s * p;                                                                          \
    }                                                                                              \
    INLINE vec sigmoid##d(vec x, real most) {                                                      \
        vec s, p;                                                                                  \
        expm1_##d(clamp##d(-x, most), &s, &p);                                                     \
        return 1 / (1 + s + s * p);                                                                \
    }                                                                                              \
    INLINE vec tanh_##d(vec x) {                                                                   \
        vec s, p;                                                                                  \
        const vec e = expm1_##d(clamp##d(2 * x, 40), &s, &p);                                      \
        return e / (e + 2);                                                                        \
    }

FUNCTIONS(, float, vec, ivec, uvec, 23, 127, 8, 0x1.62e4p-1, 0x1.7f7d1cp-20)
FUNCTIONS(d, double, dvec, divec, duvec, 52, 1023, 14, 0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56)

#define MOST 87    /* e^MOST and e^-MOST are normal numbers */
#define MOSTD 700

INLINE vec elu(vec x) {
    vec s, p;
    const vec e = expm1_(clamp(x, MOST), &s, &p);
    return choose((ivec)(x > 0), x, e);
}
INLINE vec relu(vec x) { return choose((ivec)(x < 0), fill(0), x); } /* NaN stays NaN */

static double exp1(double x) { return exp_d(filld(x), MOSTD)[0]; }
static double sigmoid1(double x) { return sigmoidd(filld(x), MOSTD)[0]; }
static double tanh1(double x) { return tanh_d(filld(x))[0]; }
static double expm1one(double x) {
    dvec s, p;
    return expm1_d(clampd(filld(x), MOSTD), &s, &p)[0];
}

/* The natural logarithm of a positive, normal number x = m 2^n: log m = 2 artanh((m-1)/(m+1)). */
static double log1_(double x) {
    int64_t bits;
    np_copy(&bits, &x, 8);
    int64_t n = (bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffLL) | 0x3ff0000000000000LL;
    double m;
    np_copy(&m, &bits, 8);
    if (m > 1.4142135623730951) m *= 0.5, n++;
    const double t = (m - 1) / (m + 1), u = t * t;
    double sum = 0;
    for (int i = 23; i >= 3; i -= 2) sum = sum * u + 1.0 / i;
    return (double)n * 0x1.62e42fefa39efp-1 + (2 * t + 2 * t * u * sum);
}
