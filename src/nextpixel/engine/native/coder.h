/* A range coder (Martin, 1979): levels to bits by the intervals of the integer CDF. Included by
 * engine.c and run.c.
 *
 * An encoder keeps an interval [number, number + range) of all numbers that begin with the words
 * written so far; a level makes it a part of itself. A decoder keeps where in the interval its
 * number lies. The range has at least 2^48 when it is shared by 2^30, so rounding costs 2^-18 nats
 * a level at most. Words have 16 bits, the high byte first. A decoder reads zeros after the end.
 */
#ifndef NEXTPIXEL_CODER_H
#define NEXTPIXEL_CODER_H

#include "engine.h"

#define NP_FULL ((uint64_t)1 << 48)

static inline void np_begin_code(np_coder *c, uint8_t *bytes, int64_t size, int64_t decodes) {
    *c = (np_coder){bytes, 0, size, 0, UINT64_MAX, decodes};
}

/* Adds 1 to the words written. */
static inline void np_carry(np_coder *c) {
    for (int64_t at = c->at; at-- > 0 && ++c->bytes[at] == 0;) {}
}

/* Writes the highest word of the number. Returns 0 or an error. */
static inline int np_write_word(np_coder *c) {
    if (c->size - c->at < 2) return -NP_NO_ROOM;
    c->bytes[c->at++] = (uint8_t)(c->number >> 56);
    c->bytes[c->at++] = (uint8_t)(c->number >> 48);
    c->number <<= 16;
    return 0;
}

static inline uint64_t np_read_word(np_coder *c) {
    uint64_t word = 0;
    for (int i = 0; i < 2; i++) word = word << 8 | (c->at < c->size ? c->bytes[c->at++] : 0);
    return word;
}

/* Encodes the interval [low, low + width) of NP_TOTAL. Returns 0 or an error. */
static inline int np_encode_interval(np_coder *c, int64_t low, int64_t width) {
    const uint64_t share = c->range / NP_TOTAL, before = share * (uint64_t)low;
    c->number += before;
    if (c->number < before) np_carry(c);
    for (c->range = share * (uint64_t)width; c->range < NP_FULL; c->range <<= 16) {
        const int error = np_write_word(c);
        if (error) return error;
    }
    return 0;
}

/* Returns a number in the next interval, in [0, NP_TOTAL) even if the bytes are damaged. */
static inline int64_t np_next_number(const np_coder *c) {
    const uint64_t u = c->number / (c->range / NP_TOTAL);
    return u < NP_TOTAL ? (int64_t)u : NP_TOTAL - 1;
}

/* Goes on behind the interval in which the number was found. */
static inline void np_skip_interval(np_coder *c, int64_t low, int64_t width) {
    const uint64_t share = c->range / NP_TOTAL;
    c->number -= share * (uint64_t)low;
    for (c->range = share * (uint64_t)width; c->range < NP_FULL; c->range <<= 16)
        c->number = c->number << 16 | np_read_word(c);
}

#endif
