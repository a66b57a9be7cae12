/* Two threads at one image. Included by instructions.h.
 *
 * The thread that runs the program offers the columns of its larger products in pieces. Both
 * threads take pieces until none is left; the helper writes its sums into memory of its own, from
 * where they are copied. The results are the same, whoever computes them.
 *
 * Nobody waits long: a piece that the helper took and does not finish soon (the system may have
 * given its processor to another process) is computed again, and the offer is over. What a late
 * helper then reads may be wrong, but lies in memory that exists, and nobody looks at its sums.
 * Tools that look for data races report this.
 */

#define MOST_PIECES 32
#define PATIENCE 64       /* multiplications of a piece for each look at whether it is done */
#define IDLE_LOOKS 20000  /* for an offer, before a helper gives up for now: 0.1 to 1 ms */

/* What the threads share. The first two words are written often, and so lie apart. Each has the
 * number of an offer in its high half. */
struct np_crew {
    uint64_t open, padding[15];  /* and how many pieces nobody has taken */
    uint64_t done, padding2[15]; /* and a bit for each piece that the helper has finished */
    const np_instruction *in;
    step work;
    char memory[];               /* of the helper: the inputs that it lists, and its sums */
};

INLINE void look_again(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns the columns of a piece. */
INLINE int64_t piece_of(const np_instruction *in, int64_t rows) {
    const int64_t least = rows == 1 ? NP_WIDEST : PANEL, most = least * MOST_PIECES;
    return (in->inner + most - 1) / most * least;
}

/* Takes a piece of an offer; returns -1 if none is left. */
INLINE int64_t take(struct np_crew *crew, uint64_t offer) {
    uint64_t now = __atomic_load_n(&crew->open, __ATOMIC_ACQUIRE);
    while (now >> 32 == offer && (uint32_t)now)
        if (__atomic_compare_exchange_n(&crew->open, &now, now - 1, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            return (uint32_t)now - 1;
    return -1;
}

INLINE float *sums_of(const np_program *p, struct np_crew *crew) {
    return (float *)(crew->memory + p->scratch);
}

/* Copies the helper's sums in some columns. */
static void fetch(const step *s, const np_instruction *in, int64_t begin, int64_t end) {
    const float *from = sums_of(s->program, s->crew);
    for (int64_t row = 0; row < s->images * in->outer; row++, from += in->inner) {
        line l;
        find_lines(s, in, row, 1, &l);
        np_copy(l.out + begin, from + begin, (uint64_t)(end - begin) * sizeof(float));
    }
}

/* Computes a product together with a helper, if there is one. */
static void product_of_two(const step *s, const np_instruction *in) {
    struct np_crew *crew = s->crew;
    const int64_t rows = s->images * in->outer, columns = piece_of(in, rows);
    const int64_t pieces = (in->inner + columns - 1) / columns;
    const int64_t patience = 16 + rows * in->depth * columns / PATIENCE;
    const uint64_t open = __atomic_load_n(&crew->open, __ATOMIC_RELAXED);
    const uint64_t offer = (uint32_t)((open >> 32) + 1);
    crew->in = in, crew->work = *s;
    __atomic_store_n(&crew->open, offer << 32 | (uint64_t)pieces, __ATOMIC_RELEASE);
    const int64_t used = list_inputs(s, in, rows);
    uint64_t left = ((uint64_t)1 << pieces) - 1;
    for (int64_t piece; (piece = take(crew, offer)) >= 0; left &= ~((uint64_t)1 << piece))
        product_part(s, in, used, piece * columns, at_most((piece + 1) * columns, in->inner), 0);
    for (int64_t looks = 0; left; looks++) {
        const uint64_t done = __atomic_load_n(&crew->done, __ATOMIC_ACQUIRE);
        const uint64_t ready = done >> 32 == offer ? left & (uint32_t)done : 0;
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t begin = piece * columns, end = at_most(begin + columns, in->inner);
            if (ready >> piece & 1) fetch(s, in, begin, end);
            else if (looks == patience && left >> piece & 1)
                product_part(s, in, used, begin, end, 0);
        }
        left = looks == patience ? 0 : left & ~ready;
        if (left) look_again();
    }
}

_Static_assert(sizeof(struct np_crew) <= NP_CREW, "what comes before a crew's memory");

/* Takes pieces of what a thread offers, until it has offered nothing for some time. Returns how
 * many it took. */
static int64_t help(const np_program *program, struct np_crew *crew) {
    const np_instruction *in = 0;
    step s = {0};
    uint64_t last = ~(uint64_t)0, bits = 0; /* no offer has this number */
    int64_t used = 0, taken = 0;
    for (int64_t idle = 0; idle < IDLE_LOOKS; idle++, look_again()) {
        const uint64_t now = __atomic_load_n(&crew->open, __ATOMIC_ACQUIRE), offer = now >> 32;
        if (!(uint32_t)now) continue;
        /* If the offer is over meanwhile, these may be torn, and there is nothing to take. */
        if (offer != last) in = crew->in, s = crew->work, bits = 0;
        const int64_t piece = take(crew, offer);
        if (piece < 0) continue;
        const int64_t rows = s.images * in->outer, columns = piece_of(in, rows);
        if (offer != last) {
            s.scratch = crew->memory, s.crew = 0;
            used = list_inputs(&s, in, rows);
        }
        last = offer, idle = 0, taken++;
        product_part(&s, in, used, piece * columns, at_most((piece + 1) * columns, in->inner),
                     sums_of(program, crew));
        bits |= (uint64_t)1 << piece;
        __atomic_store_n(&crew->done, offer << 32 | bits, __ATOMIC_RELEASE);
    }
    return taken;
}
