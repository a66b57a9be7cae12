/* Draws digits by a program of nextpixel, and writes them one below the other as a PGM picture. */
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"

static void stop(const char *what) {
    fprintf(stderr, "draw_digits: %s\n", what);
    exit(1);
}

static void *allocate(int64_t size) {
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
    if (memory == NULL) stop("there is not enough memory");
    return memory;
}

int main(int argc, char **argv) {
    if (argc != 5) stop("usage: draw_digits PROGRAM DIGIT COUNT PICTURE");
    const int64_t digit = atoi(argv[2]), count = atoi(argv[3]);

    FILE *in = fopen(argv[1], "rb");
    if (in == NULL || fseek(in, 0, SEEK_END)) stop("the program cannot be read");
    const int64_t size = ftell(in);
    void *file = allocate(size);
    rewind(in);
    if (fread(file, 1, size, in) != (size_t)size) stop("the program cannot be read");
    fclose(in);

    const int64_t needed = np_memory(file, size);
    if (needed < 0) stop(np_error(-needed));
    const np_program *program = np_open(file, size, allocate(needed));
    free(file); /* it was copied */
    const int64_t classes = np_number_of(program, NP_CLASSES);
    const int64_t height = np_number_of(program, NP_HEIGHT), width = np_number_of(program, NP_WIDTH);
    if (digit < 0 || digit >= classes || count < 1) stop("there is no such digit, or no picture");
    if (np_number_of(program, NP_CHANNELS) != 1 || np_number_of(program, NP_LEVELS) != 256)
        stop("this program draws no grey pictures of 256 levels");

    const int64_t sites = height * width;
    int64_t *levels = allocate(count * sites * sizeof *levels);
    double *noise = allocate(count * sites * sizeof *noise);
    void *state = allocate(np_state_bytes(program, count));
    np_begin(program, state, count);
    for (int64_t i = 0; i < count; i++) {
        np_noise(0, i, noise + i * sites, sites); /* seed 0, picture i: as in Python */
        np_input_at(program, state, i, NP_INPUT_CLASSES)[digit] = 1;
        *np_input_at(program, state, i, NP_INPUT_PRESENT) = 1;
    }
    np_prepare(program, state, count);
    const np_job job = {levels, noise, NULL, NULL, 1.0, 1.0, count, NULL, NULL};
    const int64_t error = np_run(program, state, &job, 0, sites);
    if (error) stop(np_error(-error));

    FILE *out = fopen(argv[4], "wb");
    if (out == NULL) stop("the picture cannot be written");
    fprintf(out, "P5 %d %d 255\n", (int)width, (int)(count * height));
    for (int64_t i = 0; i < count * sites; i++) fputc((int)levels[i], out);
    if (fclose(out)) stop("the picture cannot be written");
    return 0;
}
