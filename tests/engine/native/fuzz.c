/* Damages a program in many ways and runs what still opens: fuzz FILE TIMES SEED. To be compiled with
 * sanitizers, which end it where it touches memory that it does not own. */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static uint64_t state = 1;

static uint64_t random64(void) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 0x2545F4914F6CDD1DULL;
}

static void *aligned(int64_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(3);
    return memory;
}

/* Changes a number of 4 or 8 bytes: to a near one, an extreme one or any other. */
static void change(char *at, int64_t bytes) {
    static const int64_t extremes[] = {0, 1, -1, 2, 64, 1 << 16, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    int64_t number = 0;
    memcpy(&number, at, bytes);
    switch (random64() % 4) {
        case 0: number = extremes[random64() % (sizeof extremes / sizeof *extremes)]; break;
        case 1: number = (int64_t)random64(); break;
        default: number += (int64_t)(random64() % 65) - 32;
    }
    memcpy(at, &number, bytes);
}

/* Changes some numbers in the header, a kind, an instruction or a matrix. */
static void damage(char *file, int64_t size) {
    np_header *h = (np_header *)file;
    const np_header old = *h;
    for (uint64_t times = 1 + random64() % 3; times; times--) {
        const int64_t header = sizeof old - offsetof(np_header, channels);
        switch (random64() % 8) {
            case 0: change((char *)&h->channels + random64() % (header / 8) * 8, 8); break;
            case 1: change(file + old.kinds + random64() % (old.kind_count * sizeof(np_kind) / 4) * 4, 4); break;
            case 2: change(file + old.matrices + random64() % (old.matrix_count * sizeof(np_matrix) / 8) * 8, 8); break;
            case 3: change(file + random64() % (size / 8) * 8, 8); break;
            default: change(file + old.instructions + random64() % (old.instruction_count * sizeof(np_instruction) / 4) * 4, 4);
        }
    }
    memcpy(h, &old, offsetof(np_header, checksum)); /* found by simpler checks */
    const char *from = (char *)&h->channels;
    h->checksum = np_checksum(from, size - (from - file));
}

static const np_program *helped;
static void *crew;
static int finished;
static int64_t crews;

static void *help(void *unused) {
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) np_help(helped, crew);
    return unused;
}

/* Draws one or two images by a program, if it opens, with a helper if it has large products. Returns whether it did. */
static int run(const char *file, int64_t size) {
    const int64_t needed = np_memory(file, size), images = 1 + random64() % 2;
    if (needed < 0) return np_error(-needed)[0] ? 0 : (exit(4), 0);
    if (needed > 1 << 28) return 0;
    void *memory = aligned(needed);
    const np_program *program = np_open(file, size, memory);
    if (!program) exit(5);
    const int64_t bytes = np_state_bytes(program, images), pixels = np_number_of(program, NP_HEIGHT) * np_number_of(program, NP_WIDTH);
    const int64_t sites = np_number_of(program, NP_CHANNELS) * pixels;
    if (bytes < 1 << 28 && sites < 1 << 12) {
        void *slabs = aligned(bytes);
        int64_t *levels = calloc(images * sites, 8);
        double *noise = calloc(images * sites, 8);
        uint32_t *intervals = calloc(images * sites, 8);
        np_begin(program, slabs, images);
        for (int64_t i = 0; i < images; i++) {
            np_noise(random64(), i, noise + i * sites, sites);
            float *present = np_input_at(program, slabs, i, NP_INPUT_PRESENT);
            if (present) *present = 1;
        }
        np_prepare(program, slabs, images);
        const int64_t shared = np_crew_bytes(program, images);
        crew = shared ? memset(aligned(shared), 0, shared) : 0;
        pthread_t helper;
        finished = 0, helped = program, crews += shared > 0;
        if (crew && pthread_create(&helper, 0, help, 0)) exit(7);
        const np_job job = {levels, noise, 0, intervals, 1, 1, images, crew, 0};
        np_run(program, slabs, &job, 0, sites);
        __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
        if (crew) pthread_join(helper, 0);
        free(slabs), free(levels), free(noise), free(intervals), free(crew);
    }
    free(memory);
    return 1;
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    FILE *input = fopen(arguments[1], "rb");
    if (!input || fseek(input, 0, SEEK_END)) return 1;
    const int64_t size = ftell(input), times = atoi(arguments[2]);
    char *whole = aligned(size), *file = aligned(size);
    rewind(input);
    if ((int64_t)fread(whole, 1, size, input) != size || !run(whole, size)) return 1;
    int64_t opened = 0;
    for (int64_t i = 0; i < times; i++) {
        state = 0x9E3779B97F4A7C15ULL * (atoi(arguments[3]) + i + 1) | 1;
        memcpy(file, whole, size);
        damage(file, size);
        opened += run(file, size);
        const int64_t shorter = random64() % size; /* cut off, in memory of exactly that size */
        char *part = malloc(shorter ? shorter : 1);
        memcpy(part, file, shorter);
        if (np_memory(part, shorter) >= 0) return 6;
        free(part);
    }
    printf("%lld of %lld opened, %lld with a helper\n", (long long)opened, (long long)times,
           (long long)crews);
    free(whole), free(file), fclose(input);
    return 0;
}
