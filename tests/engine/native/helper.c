/* Draws an image with a helper that misbehaves: helper FILE KIND. Prints the checksum of the
 * integer CDF, and how many pieces the helper took. To be compiled with sanitizers. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "run.c"

/* What the helper does: helps; takes pieces and never finishes them; finishes them by chance in
 * time or too late, when the offer is over; or says that all of the offer before is done. */
enum { HELPS, DROPS, DAWDLES, LIES };

static const np_program *program;
static struct np_crew *crew;
static int kind, running, finished;

static void *aligned(int64_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(1);
    return memset(memory, 0, bytes);
}

static void dawdle(long microseconds) {
    const struct timespec time = {0, microseconds * 1000};
    nanosleep(&time, 0);
}

static void *misbehave(void *unused) {
    int64_t taken = 0;
    uint32_t random = 1;
    __atomic_store_n(&running, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        if (kind == HELPS) { taken += np_help(program, crew); continue; }
        const uint64_t open = __atomic_load_n(&crew->open, __ATOMIC_ACQUIRE), offer = open >> 32;
        if (!(uint32_t)open) continue;
        const np_instruction *in = crew->in;
        step s = crew->work;
        const int64_t piece = take(crew, offer);
        if (piece < 0) continue;
        taken++;
        if (kind == DROPS) continue;
        random = random * 1664525 + 1013904223;
        float *sums = sums_of(program, crew);
        const int64_t rows = s.images * in->outer, columns = piece_of(in, rows);
        const int late = random >> 30;
        if (kind == LIES) {
            for (int64_t i = 0; i < rows * in->inner; i++) sums[i] = 1e30f;
            __atomic_store_n(&crew->done, (offer - 1) << 32 | 0xffffffff, __ATOMIC_RELEASE);
            continue;
        }
        s.scratch = crew->memory, s.crew = 0;
        if (late == 1) dawdle(200);
        const int64_t used = list_inputs(&s, in, rows);
        if (late == 2) dawdle(50);
        product_part(&s, in, used, piece * columns, at_most((piece + 1) * columns, in->inner), sums);
        if (late == 3) dawdle(1);
        __atomic_store_n(&crew->done, offer << 32 | (uint64_t)1 << piece, __ATOMIC_RELEASE);
    }
    return (void *)taken;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    FILE *input = fopen(arguments[1], "rb");
    if (!input || fseek(input, 0, SEEK_END)) return 1;
    const int64_t size = ftell(input);
    char *file = aligned(size);
    rewind(input);
    if ((int64_t)fread(file, 1, size, input) != size) return 1;
    kind = atoi(arguments[2]);

    program = np_open(file, size, aligned(np_memory(file, size)));
    const int64_t sites = np_number_of(program, NP_CHANNELS) * np_number_of(program, NP_HEIGHT) *
                          np_number_of(program, NP_WIDTH);
    double *noise = aligned(sites * 8);
    int64_t *levels = aligned(sites * 8);
    uint32_t *intervals = aligned(sites * 8);
    void *state = aligned(np_state_bytes(program, 1));
    np_noise(0, 0, noise, sites);
    np_begin(program, state, 1);
    np_prepare(program, state, 1);
    crew = aligned(np_crew_bytes(program, 1));
    pthread_t helper;
    if (pthread_create(&helper, 0, misbehave, 0)) return 1;
    while (!__atomic_load_n(&running, __ATOMIC_ACQUIRE)) dawdle(10);
    const np_job job = {levels, noise, 0, intervals, 1, 1, 1, crew, 0};
    const int64_t error = np_run(program, state, &job, 0, sites);
    void *taken;
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    pthread_join(helper, &taken);
    if (error) return 1;
    printf("%016llx %lld\n", (unsigned long long)np_checksum(intervals, sites * 8),
           (long long)taken);
    return 0;
}
