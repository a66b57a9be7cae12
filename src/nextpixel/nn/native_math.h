/* What the programs in C of this folder share: above all the exponential of a float32 number, for loops that the
 * compiler turns into vectors.
 */
#ifndef NATIVE_MATH_H
#define NATIVE_MATH_H
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

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

/* e^x and e^x - 1; both with a small relative error. */
typedef struct { float whole, less_one; } power;

/* Raises e to x <= 0: e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r - 1 = r + r^2 p(r), where p is fitted so that
 * the largest relative error is least. Powers below e^-87, all denormal ones among them, are 0; NaN stays NaN. */
INLINE power raise(float x) {
    const float bounded = x < -87.0f ? -87.0f : x;
    const float shifted = bounded * 1.44269504f + 0x1.8p23f; /* the last bits are n, rounded to an integer */
    const float n = shifted - 0x1.8p23f, scale = as_float((as_bits(shifted) << 23) + 0x3f800000);
    const float r = (bounded - n * 0x1.63p-1f) + n * 2.12194440e-4f;
    float p = 0.0013946732506155968f;
    p = p * r + 0.008366754278540611f;
    p = p * r + 0.04166627675294876f;
    p = p * r + 0.16666541993618011f;
    p = p * r + 0.5f;
    const float q = p * (r * r) + r;
    return (power){x < -87.0f ? 0.0f : scale + scale * q, (scale - 1.0f) + scale * q};
}

INLINE float below(float x) { return x > 0 ? -x : x; } /* -|x| */

INLINE long least(long a, long b) { return a < b ? a : b; }

#endif
