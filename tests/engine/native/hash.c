/* Prints the hash of the integer CDFs of some images that a program draws: hash FILE IMAGES. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static void *aligned(int64_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(1);
    return memset(memory, 0, bytes);
}

/* Gives an image its context: a class, a vector, and that it has one. */
static void fill_inputs(const np_program *program, void *state, int64_t image) {
    const int64_t classes = np_number_of(program, NP_CLASSES), length = np_number_of(program, NP_VECTOR);
    float *weights = np_input_at(program, state, image, NP_INPUT_CLASSES);
    float *vector = np_input_at(program, state, image, NP_INPUT_VECTOR);
    float *present = np_input_at(program, state, image, NP_INPUT_PRESENT);
    if (weights) weights[image % classes] = 1;
    for (int64_t i = 0; vector && i < length; i++) vector[i] = (float)((i + image) % 3 - 1);
    if (present) *present = 1;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    FILE *input = fopen(arguments[1], "rb");
    if (!input || fseek(input, 0, SEEK_END)) return 1;
    const int64_t size = ftell(input), images = atoi(arguments[2]);
    char *file = aligned(size);
    rewind(input);
    if ((int64_t)fread(file, 1, size, input) != size) return 1;

    const int64_t needed = np_memory(file, size);
    if (needed < 0) return printf("%s\n", np_error(-needed)), 1;
    const np_program *program = np_open(file, size, aligned(needed));
    const int64_t sites = np_number_of(program, NP_CHANNELS) * np_number_of(program, NP_HEIGHT) *
                          np_number_of(program, NP_WIDTH);
    double *noise = aligned(images * sites * 8);
    int64_t *levels = aligned(images * sites * 8);
    uint32_t *intervals = aligned(images * sites * 8);
    void *state = aligned(np_state_bytes(program, images));
    np_begin(program, state, images);
    for (int64_t image = 0; image < images; image++) {
        np_noise(0, image, noise + image * sites, sites);
        fill_inputs(program, state, image);
    }
    np_prepare(program, state, images);
    const np_job job = {levels, noise, 0, intervals, 1, 1, images, 0, 0};
    const int64_t error = np_run(program, state, &job, 0, sites);
    if (error) return printf("%s\n", np_error(-error)), 1;
    printf("%016llx\n", (unsigned long long)np_checksum(intervals, images * sites * 8));
    return 0;
}
