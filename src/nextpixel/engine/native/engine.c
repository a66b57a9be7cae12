/* Opens programs: checks every place in a file, packs the weights, and chooses the instructions. */
#include "coder.h"
#include "engine.h"

#define MOST ((int64_t)1 << 31)  /* numbers in a space, and of anything that is counted */
#define ALIGNED 64               /* bytes */

#ifndef NP_DIGEST
#define NP_DIGEST "built elsewhere"
#endif

const char *np_build(void) { return "nextpixel engine " NP_DIGEST; }

/* --- instructions ----------------------------------------------------------------------------- */

extern const np_variant np_basic;

#ifdef NP_VARIANTS
extern const np_variant np_avx2, np_avx512;
static const np_variant *const variants[] = {&np_basic, &np_avx2, &np_avx512};

static void cpuid(uint32_t leaf, uint32_t *r) {
    __asm__("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* Finds the best instructions that the processor has and the operating system saves. */
static int64_t best_variant(void) {
    const uint32_t osxsave = 1u << 27, avx2 = 1u << 5;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    uint32_t r[4], saved, high;
    cpuid(0, r);
    if (r[0] < 7) return 0;
    cpuid(1, r);
    if (!(r[2] & osxsave)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    cpuid(7, r);
    if ((saved & 0x06) != 0x06 || !(r[1] & avx2)) return 0;
    return (saved & 0xe6) == 0xe6 && (r[1] & avx512) == avx512 ? 2 : 1;
}
#else
static const np_variant *const variants[] = {&np_basic};
static int64_t best_variant(void) { return 0; }
#endif

/* The choice, or -1 before there is one. Threads that choose at once choose the same. */
static int chosen = -1;

int64_t np_choose(int64_t wanted) {
    const int64_t best = best_variant(), choice = wanted < 0 ? 0 : wanted < best ? wanted : best;
    __atomic_store_n(&chosen, (int)choice, __ATOMIC_RELAXED);
    return choice;
}

static int64_t choice(void) {
    const int now = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    return now < 0 ? np_choose(2) : now;
}

/* --- errors ----------------------------------------------------------------------------------- */

const char *np_error(int64_t error) {
    switch (error) {
        case 0: return "no error";
        case NP_NO_PROGRAM: return "it is no program of nextpixel";
        case NP_OTHER_VERSION: return "it is a program of another version of nextpixel";
        case NP_TRUNCATED: return "the file is cut off, or longer than it says";
        case NP_DAMAGED: return "the file is damaged: its checksum differs";
        case NP_WRONG_HEADER: return "its header says something impossible";
        case NP_WRONG_PLACE: return "an instruction uses memory that it does not have";
        case NP_WRONG_INSTRUCTION: return "it has an instruction that does not exist";
        case NP_WRONG_LEVEL: return "a level is below 0, or not below the number of levels";
        case NP_NOT_FINITE: return "the model computes infinity or no number";
        case NP_WRONG_SITE: return "the sites are none of the picture";
        case NP_WRONG_JOB:
            return "there are no levels or images, or the temperature or guidance is no number";
        case NP_WRONG_NOISE: return "the noise is not in [0, 1)";
        case NP_NO_ROOM: return "there is no room for the bits";
        default: return "";
    }
}

/* --- checks of the header --------------------------------------------------------------------- */

uint64_t np_checksum(const void *bytes, int64_t size) {
    uint64_t sum = 0x9e3779b97f4a7c15ULL, word;
    for (int64_t i = 0; i + 8 <= size; i += 8) {
        np_copy(&word, (const char *)bytes + i, 8);
        sum = (sum ^ word) * 0xff51afd7ed558ccdULL;
        sum ^= sum >> 32;
    }
    if (size % 8) {
        word = 0;
        np_copy(&word, (const char *)bytes + size / 8 * 8, size % 8);
        sum = (sum ^ word) * 0xff51afd7ed558ccdULL;
        sum ^= sum >> 32;
    }
    return sum;
}

uint32_t np_crc32c(const uint8_t *bytes, int64_t size) {
    uint32_t table[256], sum = ~(uint32_t)0;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1) * 0x82f63b78;
    }
    for (int64_t i = 0; i < size; i++) sum = sum >> 8 ^ table[(sum ^ bytes[i]) & 0xff];
    return ~sum;
}

static int within(int64_t x, int64_t least, int64_t most) { return least <= x && x <= most; }

static int64_t check_file(const np_header *h, int64_t size) {
    if (size < (int64_t)sizeof *h || __builtin_memcmp(h->magic, "NPXPROG\n", 8))
        return NP_NO_PROGRAM;
    if (h->version != NP_VERSION) return NP_OTHER_VERSION;
    if (h->size != size || size % 8) return NP_TRUNCATED;
    const char *from = (const char *)&h->channels;
    const int64_t before = from - (const char *)h;
    return np_checksum(from, size - before) == h->checksum ? 0 : NP_DAMAGED;
}

/* Whether the numbers are possible. */
static int numbers_fit(const np_header *h) {
    const int64_t side = 1 << 16;
    if (!within(h->channels, 1, 64) || !within(h->height, 1, side) || !within(h->width, 1, side) ||
        h->channels * h->height * h->width >= MOST || !within(h->levels, 2, 1 << 20) ||
        (h->groups != 1 && h->groups != h->channels) || !within(h->period, 1, 64) ||
        !within(h->components, 0, 1 << 16) || !within(h->state, 1, NP_MOST_STATE))
        return 0;
    const int64_t c = h->channels, k = h->components, p = h->parameters;
    switch (h->distribution) {
        case NP_BERNOULLI: return p == 1 && k == 0 && h->levels == 2 && h->groups == c;
        case NP_CATEGORICAL: return p == h->levels && k == 0 && h->groups == c;
        case NP_MIXTURE:
            return p == k * (1 + 2 * c + c * (c - 1) / 2) && k >= 1 && h->groups == 1 &&
                   h->max_log_scale >= -7 && h->max_log_scale <= 40;
        default: return 0;
    }
}

/* Whether numbers lie in the state of an image. */
static int state_has(const np_header *h, int64_t at, int64_t count) {
    return within(at, 0, h->state) && within(count, 0, h->state - at);
}

/* Whether a part of the file lies inside it. */
static int file_has(const np_header *h, int64_t at, int64_t count, int64_t each) {
    return within(at, (int64_t)sizeof *h, h->size) && at % 8 == 0 && within(count, 0, MOST) &&
           count <= (h->size - at) / each;
}

static int64_t check_header(const np_header *h) {
    if (!numbers_fit(h)) return NP_WRONG_HEADER;
    int ok = state_has(h, h->newest, h->newest_count) &&
             h->newest_count == (h->groups == 1 ? h->channels : 1);
    for (int i = 0; i < NP_INPUTS; i++) ok &= state_has(h, h->inputs[i], h->input_counts[i]);
    ok = ok && file_has(h, h->kinds, h->kind_count, sizeof(np_kind)) &&
         file_has(h, h->instructions, h->instruction_count, sizeof(np_instruction)) &&
         file_has(h, h->matrices, h->matrix_count, sizeof(np_matrix)) &&
         file_has(h, h->constants, h->constant_count, sizeof(float)) &&
         within(h->plain_count, 0, h->constant_count) &&
         file_has(h, h->description, h->description_size, 1) &&
         h->kind_count == 1 + h->groups * (1 + h->period + h->period * h->period);
    return ok ? 0 : NP_WRONG_HEADER;
}

/* --- checks of the instructions --------------------------------------------------------------- */

/* The sites of a kind: rows and columns from the first to the last, counted in periods. */
typedef struct { int64_t row0, row1, col0, col1; } area;

/* Finds the sites of a kind; returns whether there are any. Kind 0 has one, at the beginning. */
static int sites_of(const np_header *h, int64_t kind, area *a) {
    const int64_t p = h->period, g = h->groups;
    *a = (area){0, 0, 0, 0};
    if (kind < 1 + g) return 1;
    kind = (kind - 1 - g) / g;
    if (kind < p) { /* the first column */
        a->row0 = kind ? kind : p;
    } else {
        kind -= p;
        a->row0 = kind / p, a->col0 = kind % p ? kind % p : p;
    }
    if (a->row0 >= h->height || a->col0 >= h->width) return 0;
    a->row1 = a->row0 / p + (h->height - 1 - a->row0) / p;
    a->col1 = a->col0 ? a->col0 / p + (h->width - 1 - a->col0) / p : 0;
    a->row0 /= p, a->col0 /= p;
    return 1;
}

/* The smallest and the largest of some numbers. */
typedef struct { int64_t least, most; } range;

static range moved(range r, int64_t by) {
    if (by < 0) r.least += by;
    else r.most += by;
    return r;
}

/* Finds the range of an affine function of the site over the sites of a kind. */
static range range_of(const area *a, int64_t base, int64_t per_row, int64_t per_col) {
    base += a->row0 * per_row + a->col0 * per_col;
    range r = moved((range){base, base}, (a->row1 - a->row0) * per_row);
    return moved(r, (a->col1 - a->col0) * per_col);
}

/* Whether outer x inner numbers of an operand lie in its space at every site of a kind. */
static int fits(const np_header *h, const area *a, const np_operand *o, int64_t outer,
                int64_t inner) {
    if (o->space != NP_IN_STATE && o->space != NP_IN_CONSTANTS) return 0;
    if (outer == 0 || inner == 0) return 1;
    range r = range_of(a, o->offset, o->per_row, o->per_col);
    r = moved(r, (outer - 1) * o->per_outer); /* below 2^62: both are below 2^31 */
    if (!within(r.least, 0, MOST) || !within(r.most, 0, MOST)) return 0;
    r = moved(r, (inner - 1) * o->per_inner);
    return r.least >= 0 && r.most < (o->space == NP_IN_STATE ? h->state : h->plain_count);
}

static int fits_if_any(const np_header *h, const area *a, const np_operand *o, int64_t outer,
                       int64_t inner) {
    return o->space == NP_NOWHERE || fits(h, a, o, outer, inner);
}

/* Whether an operand may be written. */
static int result_fits(const np_header *h, const area *a, const np_instruction *in, int64_t outer) {
    return in->out.space == NP_IN_STATE && fits(h, a, &in->out, outer, in->inner) &&
           outer * in->inner <= h->state; /* or it would take for ever */
}

static int product_fits(const np_header *h, const np_matrix *matrices, const area *a,
                        const np_instruction *in) {
    if (!within(in->weight, 0, h->matrix_count - 1) || in->outer < 1) return 0;
    const np_matrix *m = matrices + in->weight;
    return m->depth == in->depth && m->columns == in->inner && in->out.per_inner == 1 &&
           in->a.per_inner == 1 && (in->b.space == NP_NOWHERE || in->b.per_inner == 1) &&
           (in->more.space == NP_NOWHERE || in->more.per_inner == 1) &&
           result_fits(h, a, in, in->outer) && fits(h, a, &in->a, in->outer, in->depth) &&
           fits_if_any(h, a, &in->b, in->outer, in->inner) &&
           fits_if_any(h, a, &in->more, in->outer, in->inner);
}

static int attention_fits(const np_header *h, const area *a, const np_instruction *in) {
    const range keys = range_of(a, in->outer, in->outer_per_row, in->outer_per_col);
    const int64_t all = h->state + h->plain_count; /* more would take for ever */
    return keys.least >= 1 && keys.most <= MOST && in->depth >= 1 &&
           keys.most <= all / in->depth && keys.most <= all / in->inner && in->out.per_inner == 1 &&
           in->b.per_outer == 1 && in->more.per_inner == 1 && result_fits(h, a, in, 1) &&
           fits(h, a, &in->a, 1, in->depth) && fits(h, a, &in->b, keys.most, in->depth) &&
           fits(h, a, &in->more, keys.most, in->inner) && state_has(h, in->weight, keys.most);
}

static int gather_fits(const np_header *h, const area *a, const np_instruction *in) {
    const np_operand *table = &in->b;
    return in->outer >= 1 && table->space == NP_IN_CONSTANTS && table->offset >= 0 &&
           !table->per_row && !table->per_col &&
           table->offset + h->levels * in->inner <= h->plain_count &&
           fits(h, a, &in->a, in->outer, 1) && result_fits(h, a, in, in->outer);
}

static int64_t check_instruction(const np_header *h, const np_matrix *matrices, const area *a,
                                 const np_instruction *in) {
    int ok;
    if (!within(in->operation, 0, NP_OPERATIONS - 1) || in->inner < 1 || in->outer < 0 ||
        in->depth < 0)
        return NP_WRONG_INSTRUCTION;
    if (in->operation == NP_PRODUCT) ok = product_fits(h, matrices, a, in);
    else if (in->operation == NP_ATTENTION) ok = attention_fits(h, a, in);
    else if (in->operation == NP_GATHER) ok = gather_fits(h, a, in);
    else
        ok = result_fits(h, a, in, in->outer) && fits(h, a, &in->a, in->outer, in->inner) &&
             fits_if_any(h, a, &in->b, in->outer, in->inner);
    return ok ? 0 : NP_WRONG_PLACE;
}

/* --- checks of a file ------------------------------------------------------------------------- */

#define PART(type, h, part) ((const type *)((const char *)(h) + (h)->part))

/* Matrices follow each other, so all together are no larger than the file. */
static int64_t check_matrices(const np_header *h) {
    const np_matrix *m = PART(np_matrix, h, matrices);
    int64_t end = h->plain_count;
    for (int64_t i = 0; i < h->matrix_count; i++, m++) {
        if (!within(m->depth, 1, MOST) || !within(m->columns, 1, MOST) ||
            !within(m->offset, end, h->constant_count) ||
            m->depth > (h->constant_count - m->offset) / m->columns)
            return NP_WRONG_PLACE;
        end = m->offset + m->depth * m->columns;
    }
    return 0;
}

static int64_t check_kind(const np_header *h, int64_t number) {
    const np_kind *kind = PART(np_kind, h, kinds) + number;
    area a;
    if (!within(kind->first, 0, h->instruction_count) ||
        !within(kind->count, 0, h->instruction_count - kind->first))
        return NP_WRONG_PLACE;
    if (!sites_of(h, number, &a)) return 0;
    if (number > 0 && (kind->out.per_inner != 1 || !fits(h, &a, &kind->out, 1, h->parameters)))
        return NP_WRONG_PLACE;
    const np_instruction *in = PART(np_instruction, h, instructions) + kind->first;
    for (int64_t i = 0; i < kind->count; i++) {
        const int64_t error = check_instruction(h, PART(np_matrix, h, matrices), &a, in + i);
        if (error) return error;
    }
    return 0;
}

static int64_t check(const void *file, int64_t size) {
    const np_header *h = file;
    int64_t error = check_file(h, size);
    if (!error) error = check_header(h);
    if (!error) error = check_matrices(h);
    for (int64_t i = 0; !error && i < h->kind_count; i++) error = check_kind(h, i);
    return error;
}

/* --- programs --------------------------------------------------------------------------------- */

static int64_t aligned(int64_t bytes) { return (bytes + ALIGNED - 1) / ALIGNED * ALIGNED; }

static int64_t packed_numbers(const np_matrix *m, int64_t panel) {
    return m->depth * ((m->columns + panel - 1) / panel * panel);
}

/* The parts of a program in memory: the program, its packed matrices, and copies of the file's
 * header, kinds, instructions and plain constants. */
typedef struct { int64_t pointers, header, kinds, instructions, constants, matrices, end; } parts;

static parts parts_of(const np_header *h) {
    const np_matrix *m = PART(np_matrix, h, matrices);
    parts p;
    p.pointers = aligned(sizeof(np_program));
    p.header = p.pointers + aligned(h->matrix_count * (int64_t)sizeof(float *));
    p.kinds = p.header + aligned(sizeof *h);
    p.instructions = p.kinds + aligned(h->kind_count * (int64_t)sizeof(np_kind));
    p.constants = p.instructions + aligned(h->instruction_count * (int64_t)sizeof(np_instruction));
    p.matrices = p.constants + aligned(h->plain_count * (int64_t)sizeof(float));
    p.end = p.matrices;
    for (int64_t i = 0; i < h->matrix_count; i++)
        p.end += packed_numbers(m + i, NP_WIDEST) * (int64_t)sizeof(float);
    return p;
}

int64_t np_memory(const void *file, int64_t size) {
    const int64_t error = check(file, size);
    return error ? -error : parts_of(file).end;
}

/* Packs a matrix into panels of some columns. */
static void pack(const float *w, int64_t depth, int64_t columns, int64_t panel, float *to) {
    for (int64_t begin = 0; begin < columns; begin += panel)
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = begin; j < begin + panel; j++)
                *to++ = j < columns ? w[k * columns + j] : 0;
}

static int are_finite(const float *w, int64_t count) {
    int finite = 1;
    for (int64_t i = 0; i < count; i++) finite &= w[i] - w[i] == 0;
    return finite;
}

static void pack_all(np_program *p, const np_header *h, float *to) {
    const np_matrix *m = PART(np_matrix, h, matrices);
    const int64_t panel = p->variant->panel;
    p->deepest = p->finite = 1;
    for (int64_t i = 0; i < h->matrix_count; to += packed_numbers(m, panel), i++, m++) {
        const float *w = PART(float, h, constants) + m->offset;
        p->finite &= are_finite(w, m->depth * m->columns);
        if (m->depth > p->deepest) p->deepest = m->depth;
        pack(w, m->depth, m->columns, panel, to);
        p->packed[i] = to;
    }
}

/* Returns the most results that a large product has for an image; 0 if there is none. */
static int64_t largest_of(const np_header *h) {
    const np_instruction *in = PART(np_instruction, h, instructions);
    int64_t most = 0;
    for (int64_t i = 0; i < h->instruction_count; i++, in++) {
        const int64_t results = (int64_t)in->outer * in->inner;
        /* No site runs an instruction with more results than the state has numbers. */
        if (np_is_large(in) && within(results, most, h->state)) most = results;
    }
    return most;
}

const np_program *np_open(const void *file, int64_t size, void *memory) {
    np_program *p = memory;
    const np_header *h = file;
    if (check(file, size)) return 0;
    const parts at = parts_of(h);
#define COPIED(part, from, count, type)                                                            \
    (type *)np_copy((char *)memory + at.part, (const char *)file + (from),                         \
                    (count) * sizeof(type))
    p->variant = variants[choice()];
    p->header = COPIED(header, 0, 1, np_header);
    p->kinds = COPIED(kinds, h->kinds, h->kind_count, np_kind);
    p->instructions = COPIED(instructions, h->instructions, h->instruction_count, np_instruction);
    p->constants = COPIED(constants, h->constants, h->plain_count, float);
    p->packed = (float **)((char *)memory + at.pointers);
    pack_all(p, h, (float *)((char *)memory + at.matrices));
    /* An odd number of cache lines, so that images do not share the same places of a cache. */
    const int64_t lines = aligned(h->state * (int64_t)sizeof(float)) / ALIGNED;
    p->state = (lines | 1) * ALIGNED / (int64_t)sizeof(float);
    const int64_t of_product = p->deepest * (int64_t)(sizeof(int32_t) + sizeof(float));
    const int64_t of_board = 8 * np_board_size(h) * (int64_t)sizeof(double);
    p->scratch = aligned(of_product > of_board ? of_product : of_board);
    p->largest = largest_of(h);
    return p;
}

int64_t np_number_of(const np_program *p, int64_t which) {
    const np_header *h = p->header;
    switch (which) {
        case NP_CHANNELS: return h->channels;
        case NP_HEIGHT: return h->height;
        case NP_WIDTH: return h->width;
        case NP_LEVELS: return h->levels;
        case NP_GROUPS: return h->groups;
        case NP_PERIOD: return h->period;
        case NP_PARAMETERS: return h->parameters;
        case NP_CLASSES: return h->input_counts[NP_INPUT_CLASSES];
        case NP_VECTOR: return h->input_counts[NP_INPUT_VECTOR];
        case NP_MAP: return h->input_counts[NP_INPUT_MAP];
        case NP_STATE: return p->state;
        default: return -1;
    }
}

/* --- images ----------------------------------------------------------------------------------- */

int64_t np_state_bytes(const np_program *p, int64_t images) {
    if (!within(images, 1, NP_MOST_IMAGES)) return -1;
    return images * p->state * (int64_t)sizeof(float) + p->scratch;
}

void np_begin(const np_program *p, void *state, int64_t images) {
    const int64_t size = np_state_bytes(p, images);
    if (size > 0) __builtin_memset(state, 0, (uint64_t)size);
}

float *np_input_at(const np_program *p, void *state, int64_t image, int64_t which) {
    if (!within(which, 0, NP_INPUTS - 1) || !p->header->input_counts[which]) return 0;
    return (float *)state + image * p->state + p->header->inputs[which];
}

void np_prepare(const np_program *p, void *state, int64_t images) {
    if (within(images, 1, NP_MOST_IMAGES)) p->variant->prepare(p, state, images);
}

static int is_finite(double x) { return x - x == 0; }

int64_t np_run(const np_program *p, void *state, const np_job *job, int64_t first, int64_t end) {
    const np_header *h = p->header;
    if (first < 0 || first > end || end > h->channels * h->height * h->width) return -NP_WRONG_SITE;
    if (!job->levels || !within(job->images, 1, NP_MOST_IMAGES) || !(job->temperature > 0) ||
        !is_finite(job->temperature) || !is_finite(job->guidance))
        return -NP_WRONG_JOB;
    if (job->coder && (job->noise || job->coder->range < NP_FULL)) return -NP_WRONG_JOB;
    return p->variant->run(p, state, job, first, end);
}

int64_t np_crew_bytes(const np_program *p, int64_t images) {
    if (!p->largest || !within(images, 1, NP_MOST_IMAGES)) return 0;
    return NP_CREW + p->scratch + images * p->largest * (int64_t)sizeof(float);
}

int64_t np_help(const np_program *p, void *crew) { return p->variant->help(p, crew); }

const float *np_parameters(const np_program *p, const void *state, int64_t image, int64_t site) {
    const np_header *h = p->header;
    if (!within(site, 0, h->channels * h->height * h->width - 1)) return 0;
    const int64_t pixel = site / h->channels, row = pixel / h->width, col = pixel % h->width;
    const int64_t group = h->groups > 1 ? site % h->channels : 0;
    const np_operand *o = &p->kinds[np_kind_of(h, row, col, group)].out;
    const int64_t at = o->offset + row / h->period * o->per_row + col / h->period * o->per_col;
    if (o->space == NP_IN_CONSTANTS) return p->constants + at;
    return (const float *)state + image * p->state + at;
}

/* --- coding ----------------------------------------------------------------------------------- */

void np_encode(np_coder *c, uint8_t *bytes, int64_t size) { np_begin_code(c, bytes, size, 0); }

int64_t np_finish(np_coder *c) {
    /* The range is at least 2^48, so the interval has a number whose other words are 0. */
    const uint64_t before = c->number;
    c->number += NP_FULL - 1;
    if (c->number < before) np_carry(c);
    const int error = np_write_word(c);
    return error ? error : c->at;
}

void np_decode(np_coder *c, uint8_t *bytes, int64_t size) {
    np_begin_code(c, bytes, size, 1);
    for (int i = 0; i < 4; i++) c->number = c->number << 16 | np_read_word(c);
}

int64_t np_code_numbers(np_coder *c, int64_t *numbers, int64_t count, int64_t most) {
    if (!within(most, 1, NP_TOTAL) || c->range < NP_FULL) return -NP_WRONG_JOB;
    const int64_t width = NP_TOTAL / most; /* the last number has what is left over */
    for (int64_t i = 0; i < count; i++) {
        if (c->decodes) numbers[i] = np_next_number(c) / width;
        if (c->decodes && numbers[i] >= most) numbers[i] = most - 1;
        if (!within(numbers[i], 0, most - 1)) return -NP_WRONG_LEVEL;
        const int64_t low = numbers[i] * width, last = numbers[i] == most - 1;
        const int64_t mine = last ? NP_TOTAL - low : width;
        const int error = c->decodes ? 0 : np_encode_interval(c, low, mine);
        if (error) return error;
        if (c->decodes) np_skip_interval(c, low, mine);
    }
    return 0;
}

/* --- noise ------------------------------------------------------------------------------------ */

static uint64_t high_product(uint64_t a, uint64_t b) {
    const uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    const uint64_t low = a0 * b0, middle = a1 * b0 + (low >> 32);
    const uint64_t other = a0 * b1 + (uint32_t)middle;
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

/* Computes a block of Philox 4x64-10 (Salmon et al., 2011). */
static void philox(uint64_t x[4], uint64_t key0, uint64_t key1) {
    for (int round = 0; round < 10; round++) {
        const uint64_t high0 = high_product(x[0], 0xD2E7470EE14C6C93ULL);
        const uint64_t high1 = high_product(x[2], 0xCA5A826395121157ULL);
        const uint64_t low0 = x[0] * 0xD2E7470EE14C6C93ULL, low1 = x[2] * 0xCA5A826395121157ULL;
        x[0] = high1 ^ x[1] ^ key0, x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1, x[3] = low0;
        key0 += 0x9E3779B97F4A7C15ULL, key1 += 0xBB67AE8584CAA73BULL;
    }
}

/* The numbers of NumPy's Generator.random with Philox. */
void np_noise(uint64_t seed, uint64_t number, double *noise, int64_t count) {
    for (int64_t i = 0; i < count; i += 4) {
        uint64_t x[4] = {(uint64_t)(i / 4 + 1), 0, 0, 0};
        philox(x, seed, number);
        for (int64_t j = 0; j < 4 && i + j < count; j++)
            noise[i + j] = (double)(x[j] >> 11) * 0x1p-53;
    }
}
