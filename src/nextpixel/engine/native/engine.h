/* The engine: draws and scores images by a program, with the same bits on every machine.
 *
 * A program is a file made by nextpixel: instructions with relative places, and the weights. The
 * engine allocates nothing and needs no library, not even C's own. To build it with your own
 * compiler: cc -O3 -ffp-contract=off engine.c run.c
 *
 * Callers own all memory. A program may be used by several threads at once, a state by one and by
 * its helper, see `np_help`.
 */
#ifndef NEXTPIXEL_ENGINE_H
#define NEXTPIXEL_ENGINE_H

#include <stdint.h>

#if defined(_WIN32)
#define NP_API __declspec(dllexport)
#else
#define NP_API __attribute__((visibility("default")))
#endif

/* --- what callers need ------------------------------------------------------------------------ */

typedef struct np_program np_program;

/* An entropy coder, see coder.h. */
typedef struct {
    uint8_t *bytes;        /* to write or to read */
    int64_t at, size;      /* of the bytes */
    uint64_t number, range;
    int64_t decodes;       /* 1 if it decodes, 0 if it encodes */
} np_coder;

/* A job: images to draw or to score. All arrays are images x channels x height x width. */
typedef struct {
    int64_t *levels;       /* drawn levels; read where they are known, and when scoring */
    const double *noise;   /* in [0, 1), one for each site; NULL to score or to code */
    const uint8_t *known;  /* 1 where the level is given; NULL if none is */
    uint32_t *intervals;   /* where to write low and width of each level's interval, or NULL */
    double temperature;
    double guidance;       /* not 1: the images are followed by the same ones without context */
    int64_t images;
    void *crew;            /* shared with a thread that calls `np_help`; NULL if none does */
    np_coder *coder;       /* codes all levels that are not known, site by site; or NULL */
} np_job;

/* Checks a file (aligned to 8 bytes). Returns the bytes of memory that `np_open` needs, at most a
 * few more than 64 times the size of the file; or minus an error. */
NP_API int64_t np_memory(const void *file, int64_t size);

/* Copies a file to `memory` (aligned to 64 bytes), ready to run; NULL if the file is wrong. The
 * program always runs with the instructions that are chosen now. */
NP_API const np_program *np_open(const void *file, int64_t size, void *memory);

/* Begins to encode to bytes, of which `np_run` may write 4 for each level and 8 more. */
NP_API void np_encode(np_coder *coder, uint8_t *bytes, int64_t size);

/* Ends an encoding, and returns the number of bytes, or minus an error. */
NP_API int64_t np_finish(np_coder *coder);

/* Begins to decode. */
NP_API void np_decode(np_coder *coder, uint8_t *bytes, int64_t size);

/* Codes numbers in [0, most), each as likely as any other; most is at most 2^30. Returns 0, or minus
 * an error. */
NP_API int64_t np_code_numbers(np_coder *coder, int64_t *numbers, int64_t count, int64_t most);

/* Describes an error in a sentence. */
NP_API const char *np_error(int64_t error);

/* Returns a number of the program, by its place in `enum np_number`; -1 if there is none. */
NP_API int64_t np_number_of(const np_program *program, int64_t which);

/* Returns the bytes of state (aligned to 64 bytes) for a number of images, with guidance twice as
 * many as are drawn; -1 if there are fewer than 1 or more than NP_MOST_IMAGES. */
NP_API int64_t np_state_bytes(const np_program *program, int64_t images);

/* Begins images: clears the state. Then fill the inputs, then call `np_prepare`. */
NP_API void np_begin(const np_program *program, void *state, int64_t images);

/* Returns where input `which` (see `enum np_input`) of an image lies; NULL if it has none. */
NP_API float *np_input_at(const np_program *program, void *state, int64_t image, int64_t which);

/* Computes what all sites share. */
NP_API void np_prepare(const np_program *program, void *state, int64_t images);

/* Runs the sites from `first` to `end - 1`, which follow those already run; a site is
 * (row * width + column) * channels + channel. Returns 0, or minus an error. */
NP_API int64_t np_run(const np_program *program, void *state, const np_job *job, int64_t first,
                      int64_t end);

/* Returns the bytes of a crew (aligned to 64 bytes, all 0), the memory that two threads share while
 * they run the same images; their number as for `np_state_bytes`. 0 if a second thread would be of
 * no use. */
NP_API int64_t np_crew_bytes(const np_program *program, int64_t images);

/* Helps the thread that runs a job with this crew, until it has needed no help for a moment. Call it
 * again and again until `np_run` has returned; then wait for the last call before you free anything.
 * Returns how many pieces of work it did. */
NP_API int64_t np_help(const np_program *program, void *crew);

/* Returns where the parameters of the distribution at a site lie, after `np_run` ran it; NULL if
 * there is no such site. */
NP_API const float *np_parameters(const np_program *program, const void *state, int64_t image,
                                  int64_t site);

/* Fills noise[0 .. count - 1] with the uniform numbers of an image. */
NP_API void np_noise(uint64_t seed, uint64_t number, double *noise, int64_t count);

/* Chooses the best instructions of this processor up to those wanted, for programs that are opened
 * from now on: 0 those that every one has, 1 AVX2, 2 AVX-512. Returns the choice. The results are
 * the same. Without it, 2 is wanted. */
NP_API int64_t np_choose(int64_t wanted);

/* Computes the checksum of bytes. */
NP_API uint64_t np_checksum(const void *bytes, int64_t size);

/* Computes the CRC-32C (Castagnoli) of bytes, as in RFC 3720. */
NP_API uint32_t np_crc32c(const uint8_t *bytes, int64_t size);

/* Returns "nextpixel engine " and the digest of what this library was built from. */
NP_API const char *np_build(void);

enum np_number {
    NP_CHANNELS, NP_HEIGHT, NP_WIDTH, NP_LEVELS, NP_GROUPS, NP_PERIOD, NP_PARAMETERS, NP_CLASSES,
    NP_VECTOR, NP_MAP,
    NP_STATE  /* numbers from one image's state to the next one's */
};
enum np_input { NP_INPUT_CLASSES, NP_INPUT_VECTOR, NP_INPUT_PRESENT, NP_INPUT_MAP, NP_INPUTS };
enum np_errors {
    NP_NO_PROGRAM = 1, NP_OTHER_VERSION, NP_TRUNCATED, NP_DAMAGED, NP_WRONG_HEADER, NP_WRONG_PLACE,
    NP_WRONG_INSTRUCTION, NP_WRONG_LEVEL, NP_NOT_FINITE, NP_WRONG_SITE, NP_WRONG_JOB,
    NP_WRONG_NOISE, NP_NO_ROOM
};

/* --- the file --------------------------------------------------------------------------------- */

#define NP_VERSION 1
#define NP_TOTAL ((int64_t)1 << 30)        /* of the integer CDF */
#define NP_WIDEST 64                       /* columns of the widest panel of weights */
#define NP_CREW 512                        /* bytes of a crew before the helper's memory */
#ifndef NP_LARGE
#define NP_LARGE 16384                     /* multiplications of a product that is shared */
#endif
#define NP_MOST_IMAGES ((int64_t)1 << 20)  /* in a state */
#define NP_MOST_STATE ((int64_t)1 << 28)   /* numbers of an image */

enum np_operation {
    NP_PRODUCT, NP_ATTENTION, NP_GATHER, NP_COPY, NP_RELU, NP_ELU, NP_SIGMOID, NP_TANH, NP_NEGATE,
    NP_SCALE, NP_SHIFT, NP_ADD, NP_SUBTRACT, NP_MULTIPLY, NP_FILL,
    NP_OPERATIONS
};
enum np_space { NP_NOWHERE, NP_IN_STATE, NP_IN_CONSTANTS };
enum np_distribution { NP_BERNOULLI, NP_CATEGORICAL, NP_MIXTURE };

/* Where a tensor lies: at `offset + row / period * per_row + col / period * per_col`, in numbers.
 * The state begins anew for each image. */
typedef struct { int32_t space, offset, per_row, per_col, per_outer, per_inner; } np_operand;

/* An instruction; the tensors are images x outer x inner, unless instructions.h says otherwise. */
typedef struct {
    int32_t operation, inner, depth, relu;
    int32_t outer, outer_per_row, outer_per_col;
    int32_t weight;  /* the number of a product's matrix; an attention's scratch in the state */
    np_operand out, a, b, more;
    double number;
} np_instruction;

/* The matrix of a product, depth x columns, in the constants. */
typedef struct { int64_t offset, depth, columns; } np_matrix;

/* The instructions for sites of one kind, and where they leave the distribution's parameters. */
typedef struct { int32_t first, count; np_operand out; } np_kind;

/* All places are in bytes from the beginning of the file, multiples of 8. */
typedef struct {
    char magic[8];
    int64_t version, size;
    uint64_t checksum;  /* of all that follows this number */
    int64_t channels, height, width, levels, groups, period;
    int64_t distribution, components, parameters;
    double max_log_scale;
    int64_t state;      /* numbers for each image */
    int64_t newest, newest_count;  /* in the state: the newest levels */
    int64_t inputs[NP_INPUTS], input_counts[NP_INPUTS];
    int64_t kinds, kind_count, instructions, instruction_count, matrices, matrix_count;
    int64_t constants, constant_count;
    int64_t plain_count;  /* constants before the matrices, which follow each other */
    int64_t description, description_size;  /* JSON, for people */
} np_header;

/* --- what engine.c and run.c share ------------------------------------------------------------ */

/* Run.c defines one for each set of instructions. */
typedef struct {
    int64_t (*run)(const np_program *, void *, const np_job *, int64_t, int64_t);
    void (*prepare)(const np_program *, void *, int64_t);
    int64_t (*help)(const np_program *, void *);
    int64_t panel;         /* columns of a panel of weights */
} np_variant;

struct np_program {
    const np_variant *variant;
    const np_header *header;
    const np_kind *kinds;
    const np_instruction *instructions;
    const float *constants;
    float **packed;        /* each matrix in panels of columns */
    int64_t state;         /* numbers for each image, so that images lie apart in the cache */
    int64_t scratch;       /* bytes after the images, for products and distributions */
    int64_t deepest;       /* the longest sum of a product */
    int64_t largest;       /* the most results of a large product of an image, or 0 */
    int64_t finite;        /* whether all weights are, so that zeros may be skipped */
};

/* Finds the kind of a site. Kind 0 prepares the images. */
static inline int64_t np_kind_of(const np_header *h, int64_t row, int64_t col, int64_t group) {
    const int64_t p = h->period, g = h->groups;
    if (row == 0 && col == 0) return 1 + group;
    if (col == 0) return 1 + g + (row % p) * g + group;
    return 1 + g + p * g + (row % p * p + col % p) * g + group;
}

/* Whether an instruction is a product that is large enough for two threads. */
static inline int np_is_large(const np_instruction *in) {
    const int64_t results = (int64_t)in->outer * in->inner;
    return in->operation == NP_PRODUCT && (in->inner > NP_WIDEST || in->outer > 1) &&
           results > 0 && in->depth >= NP_LARGE / results;
}

/* Returns the size of the distribution's arrays: 8 of them, a multiple of 8 numbers each. */
static inline int64_t np_board_size(const np_header *h) {
    return ((h->levels > h->components ? h->levels : h->components) + 7) / 8 * 8;
}

#define np_copy __builtin_memcpy

#endif
