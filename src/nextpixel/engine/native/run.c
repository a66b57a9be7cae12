/* Runs programs. Compiled once for each set of instructions (-DNP_VARIANT=name) without
 * contraction: every sum, product and function rounds at the same places on every machine. */
#include "coder.h"
#include "engine.h"

#pragma STDC FP_CONTRACT OFF

#include "functions.h"
#include "instructions.h"
#include "distributions.h"

#ifndef NP_VARIANT
#define NP_VARIANT basic
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

/* Rounding and denormals as IEEE says, whatever the process has set. */
#if defined(__x86_64__)
typedef uint32_t float_mode;
INLINE float_mode get_mode(void) { return __builtin_ia32_stmxcsr(); }
INLINE void set_mode(float_mode mode) { __builtin_ia32_ldmxcsr(mode); }
#define STRICT 0x1f80
#elif defined(__aarch64__)
typedef uint64_t float_mode;
INLINE float_mode get_mode(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
INLINE void set_mode(float_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#define STRICT 0
#else
typedef int float_mode;
INLINE float_mode get_mode(void) { return 0; }
INLINE void set_mode(float_mode mode) { (void)mode; }
#define STRICT 0
#endif

INLINE int is_known(const np_job *job, int64_t at) { return job->known && job->known[at]; }

/* Whether the level at a place is given: it is neither drawn nor decoded. */
INLINE int is_given(const np_job *job, int64_t at) {
    return is_known(job, at) || !(job->noise || (job->coder && job->coder->decodes));
}

/* Writes the newest levels before a site into the state of all images; at the first one they are
 * 0. Returns 0 or an error. */
static int show_newest(const step *s, const np_job *job, int64_t channel) {
    const np_header *h = s->program->header;
    const int64_t size = h->height * h->width, at = s->pixel - (channel == 0);
    const int64_t from = h->groups > 1 ? (channel ? channel : h->channels) - 1 : 0;
    for (int64_t i = 0; i < s->images && at >= 0; i++)
        for (int64_t j = 0; j < h->newest_count; j++) {
            const int64_t image = i % job->images;
            const int64_t level = job->levels[(image * h->channels + from + j) * size + at];
            if (level < 0 || level >= h->levels) return -NP_WRONG_LEVEL;
            s->state[i * s->program->state + h->newest + j] = (float)level;
        }
    return 0;
}

/* Makes an integer of the noise at a place. Returns -1 if it is not in [0, 1). */
INLINE int64_t noise_at(const np_job *job, int64_t at) {
    const double noise = job->noise[at];
    return noise >= 0 && noise < 1 ? (int64_t)(noise * (double)NP_TOTAL) : -1;
}

/* Chooses the level of a site in an image: draws it, decodes it, or finds that of a given one. */
static int choose_level(const step *s, board *b, const np_job *job, const np_kind *kind,
                        int64_t image, int64_t channel) {
    const np_header *h = s->program->header;
    const int64_t size = h->height * h->width, pixel = s->pixel;
    int64_t *of_pixel = job->levels + image * h->channels * size + pixel;
    const int64_t at = (image * h->channels + channel) * size + pixel;
    const int given = is_given(job, at);
    for (int64_t c = 0; c < channel + given; c++)
        if (of_pixel[c * size] < 0 || of_pixel[c * size] >= h->levels) return -NP_WRONG_LEVEL;
    np_coder *coder = is_known(job, at) ? 0 : job->coder;
    if (given && !coder && (job->coder || !job->intervals)) return 0;
    question q = {place(s, &kind->out, image), 0, channel, of_pixel, size, -1, 0};
    if (s->images > job->images) q.null = place(s, &kind->out, image + job->images);
    if (given) q.level = job->levels[at];
    else if (coder) q.u = np_next_number(coder);
    else if ((q.u = noise_at(job, at)) < 0) return -NP_WRONG_NOISE;
    interval found = {0, 0, 0};
    int error = find_interval(b, &q, &found);
    if (!error && coder && given) error = np_encode_interval(coder, found.low, found.width);
    if (error) return error;
    if (coder && !given) np_skip_interval(coder, found.low, found.width);
    if (!given) job->levels[at] = found.level;
    if (job->intervals) {
        job->intervals[2 * at] = (uint32_t)found.low;
        job->intervals[2 * at + 1] = (uint32_t)found.width;
    }
    return 0;
}

/* Alone, so that nothing is computed in another mode. */
ALONE int64_t run_sites(const np_program *program, float *state, const np_job *job,
                        int64_t first, int64_t end) {
    const np_header *h = program->header;
    step s = step_of(program, state, (job->guidance == 1 ? 1 : 2) * job->images, job->crew);
    board b = make_board(h, s.scratch, job);
    for (int64_t site = first; site < end; site++) {
        const int64_t channel = site % h->channels, pixel = site / h->channels;
        const int64_t row = pixel / h->width, col = pixel % h->width;
        s.pixel = pixel, s.row = row / h->period, s.col = col / h->period;
        const int64_t group = h->groups > 1 ? channel : 0;
        const np_kind *kind = program->kinds + np_kind_of(h, row, col, group);
        if (channel < h->groups) {
            const int error = show_newest(&s, job, channel);
            if (error) return error;
            run_kind(&s, kind);
        }
        for (int64_t image = 0; image < job->images; image++) {
            const int error = choose_level(&s, &b, job, kind, image, channel);
            if (error) return error;
        }
    }
    return 0;
}

ALONE void prepare_images(const np_program *program, float *state, int64_t images) {
    const step s = step_of(program, state, images, 0);
    run_kind(&s, program->kinds);
}

static int64_t run(const np_program *program, void *state, const np_job *job, int64_t first,
                   int64_t end) {
    const float_mode mode = get_mode();
    set_mode(STRICT);
    const int64_t error = run_sites(program, state, job, first, end);
    set_mode(mode);
    return error;
}

static void prepare(const np_program *program, void *state, int64_t images) {
    const float_mode mode = get_mode();
    set_mode(STRICT);
    prepare_images(program, state, images);
    set_mode(mode);
}

ALONE int64_t help_images(const np_program *program, void *crew) { return help(program, crew); }

static int64_t help_strictly(const np_program *program, void *crew) {
    const float_mode mode = get_mode();
    set_mode(STRICT);
    const int64_t taken = help_images(program, crew);
    set_mode(mode);
    return taken;
}

extern const np_variant JOIN(np_, NP_VARIANT);
const np_variant JOIN(np_, NP_VARIANT) = {run, prepare, help_strictly, PANEL};
