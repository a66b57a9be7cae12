/* Decodes the code of images that are as large as a program: prog, code, number of images. Prints
 * the CRC-32C of their levels, in one byte each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { TOGETHER = 64 };

static void *aligned(int64_t size) {
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    if (!memory) exit(1);
    return memset(memory, 0, size);
}

static void *contents(const char *path, int64_t *size) {
    FILE *input = fopen(path, "rb");
    if (!input || fseek(input, 0, SEEK_END)) exit(1);
    *size = ftell(input);
    char *bytes = aligned(*size);
    rewind(input);
    if ((int64_t)fread(bytes, 1, *size, input) != *size) exit(1);
    return bytes;
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    int64_t size, code_size;
    void *file = contents(arguments[1], &size), *code = contents(arguments[2], &code_size);
    const int64_t images = atoi(arguments[3]), needed = np_memory(file, size);
    if (needed < 0) return printf("%s\n", np_error(-needed)), 1;
    const np_program *program = np_open(file, size, aligned(needed));
    const int64_t sites = np_number_of(program, NP_CHANNELS) * np_number_of(program, NP_HEIGHT) *
                          np_number_of(program, NP_WIDTH);
    const int64_t classes = np_number_of(program, NP_CLASSES);
    int64_t *levels = aligned(images * sites * 8), *ids = aligned(images * 8);
    np_coder coder;
    np_decode(&coder, code, code_size);
    if (classes && np_code_numbers(&coder, ids, images, classes)) return 1;
    for (int64_t first = 0; first < images; first += TOGETHER) {
        const int64_t some = images - first < TOGETHER ? images - first : TOGETHER;
        void *state = aligned(np_state_bytes(program, some));
        np_begin(program, state, some);
        for (int64_t image = 0; classes && image < some; image++) {
            np_input_at(program, state, image, NP_INPUT_CLASSES)[ids[first + image]] = 1;
            *np_input_at(program, state, image, NP_INPUT_PRESENT) = 1;
        }
        np_prepare(program, state, some);
        const np_job job = {levels + first * sites, 0, 0, 0, 1, 1, some, 0, &coder};
        const int64_t error = np_run(program, state, &job, 0, sites);
        if (error) return printf("%s\n", np_error(-error)), 1;
        free(state);
    }
    uint8_t *bytes = aligned(images * sites);
    for (int64_t i = 0; i < images * sites; i++) bytes[i] = (uint8_t)levels[i];
    printf("%08x\n", np_crc32c(bytes, images * sites));
    return 0;
}
