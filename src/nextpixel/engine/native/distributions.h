/* Distributions: from parameters to the integer CDF, which shares NP_TOTAL among the levels; each
 * gets at least 1. Sums of probabilities have 8 parts, element i in part i % 8, which are added up
 * in order. Included by run.c. */

/* What a distribution needs besides its parameters; arrays in the scratch, of `size` numbers. */
typedef struct {
    const np_header *h;
    double temperature, guidance;
    int64_t size;
    double *log_p;              /* three arrays: numbers to work on, and with guidance two more */
    double *e;
    uint32_t *widths;
    double *pi, *mean, *sharp;  /* of the components of a mixture, filled up to a multiple of 8 */
} board;

/* What is asked of a distribution: the interval of a channel of a pixel that holds u, or that of
 * `level` if u < 0. */
typedef struct {
    const float *p, *null;       /* parameters, and with guidance those without context */
    int64_t channel;
    const int64_t *pixel;        /* the levels of the pixel: channel c at c * per_channel */
    int64_t per_channel, u, level;
} question;

/* An interval of the integer CDF: [low, low + width) of NP_TOTAL. */
typedef struct { int64_t level, low, width; } interval;

static board make_board(const np_header *h, void *memory, const np_job *job) {
    const int64_t n = np_board_size(h);
    double *at = memory, t = job->temperature;
    t = t < 1e-30 ? 1e-30 : t > 1e30 ? 1e30 : t; /* beyond, nothing changes but overflows */
    return (board){h, t, job->guidance, n, at, at + 3 * n, (uint32_t *)(at + 4 * n), at + 5 * n,
                   at + 6 * n, at + 7 * n};
}

INLINE dvec read_doubles(const double *from, int64_t count) {
    if (count >= DLANES) return *(const dvec *)from;
    double some[DLANES] = {0};
    for (int64_t i = 0; i < count; i++) some[i] = from[i];
    return *(dvec *)some;
}

INLINE void write_doubles(double *to, dvec x, int64_t count) {
    if (count >= DLANES) *(dvec *)to = x;
    else for (int64_t i = 0; i < count; i++) to[i] = x[i];
}

/* Computes e^((x - most) / temperature) of n numbers, and returns the sum. */
static double exponentials(const double *x, int64_t n, double most, double temperature, double *e) {
    double parts[PARTS] = {0}, total = 0;
    for (int64_t i = 0; i < n; i += DLANES) {
        const dvec logits = (read_doubles(x + i, n - i) - most) / temperature;
        write_doubles(e + i, exp_d(logits, MOSTD), n - i);
    }
    for (int64_t i = 0; i < n; i++) parts[i % PARTS] += e[i];
    for (int i = 0; i < PARTS; i++) total += parts[i];
    return total;
}

static double highest(const double *x, int64_t n) {
    double most = x[0];
    for (int64_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* Whether all parameters are finite. */
static int are_finite(const float *p, int64_t n) {
    int finite = 1;
    for (int64_t i = 0; i < n; i++) finite &= p[i] - p[i] == 0;
    return finite;
}

/* --- probabilities in a table ----------------------------------------------------------------- */

/* Shares NP_TOTAL among the levels by their logits. Returns 0 or an error. */
static int share(board *b, const double *logits) {
    const int64_t n = b->h->levels;
    int64_t likeliest = 0, rest = NP_TOTAL;
    for (int64_t i = 0; i < n; i++) {
        if (!(logits[i] <= 1e300)) return -NP_NOT_FINITE;
        if (logits[i] > logits[likeliest]) likeliest = i;
    }
    if (!(logits[likeliest] >= -1e300)) return -NP_NOT_FINITE;
    const double total = exponentials(logits, n, logits[likeliest], b->temperature, b->e);
    const double scale = (double)(NP_TOTAL - n) / total;
    for (int64_t i = 0; i < n; i++) {
        b->widths[i] = (uint32_t)(int32_t)(b->e[i] * scale) + 1;
        rest -= b->widths[i];
    }
    b->widths[likeliest] += (uint32_t)rest; /* a few, as every width was rounded down */
    return 0;
}

static interval find_shared(const board *b, const question *q) {
    interval found = {0, 0, b->widths[0]};
    while (q->u < 0 ? found.level < q->level : found.low + found.width <= q->u) {
        found.low += found.width;
        found.width = b->widths[++found.level];
    }
    return found;
}

/* --- Bernoulli -------------------------------------------------------------------------------- */

static interval find_bernoulli(const board *b, const question *q) {
    const double p = sigmoid1((double)q->p[0] / b->temperature);
    const int64_t one = (int64_t)(p * (double)(NP_TOTAL - 2)) + 1;
    const interval both[2] = {{0, 0, NP_TOTAL - one}, {1, NP_TOTAL - one, one}};
    return both[q->u < 0 ? q->level : q->u >= NP_TOTAL - one];
}

/* --- mixtures of logistics -------------------------------------------------------------------- */

/* Computes log sigmoid(t) = min(t, 0) - log(1 + e^-|t|). */
static double log_sigmoid(double t) {
    return (t < 0 ? t : 0) - log1_(1 + exp1(t < 0 ? t : -t));
}

/* Computes the logarithm of a level's bin under a logistic, without cancellation. */
static double log_bin(double x, double mean, double sharp, double half) {
    const double z = (x - mean) * sharp, width = half * sharp;
    const int first = x < half - 1, last = x > 1 - half;
    double log_p = 0;
    if (!last) log_p += log_sigmoid(z + width);
    if (!first) log_p += log_sigmoid(width - z);
    if (!first && !last) {
        const double gap = -expm1one(-2 * width);
        log_p += log1_(gap > 1e-300 ? gap : 1e-300);
    }
    return log_p;
}

/* Computes the mean of a component in a channel, given the levels of the channels before it. */
static double mean_of(const np_header *h, const float *p, const question *q, int64_t c, int64_t j) {
    const int64_t k = h->components;
    const float *means = p + k, *couplings = means + 2 * h->channels * k;
    const double half = 1.0 / (double)(h->levels - 1);
    double mean = (double)means[c * k + j];
    for (int64_t d = 0; d < c; d++) {
        const double x = 2 * (double)q->pixel[d * q->per_channel] * half - 1;
        mean += tanh1((double)couplings[(c * (c - 1) / 2 + d) * k + j]) * x;
    }
    return mean;
}

/* Computes the sharpness of a component in a channel: one divided by its scale. */
static double sharpness_of(const np_header *h, const float *p, int64_t c, int64_t j) {
    double scale = (double)p[h->components * (1 + h->channels + c) + j];
    if (!(scale > -7)) scale = -7;
    if (scale > h->max_log_scale) scale = h->max_log_scale;
    return exp1(-scale);
}

/* Prepares the mixture of a channel: weighs the components by the channels before it. */
static void mix(board *b, const float *p, const question *q) {
    const np_header *h = b->h;
    const int64_t k = h->components, padded = (k + PARTS - 1) / PARTS * PARTS;
    const double half = 1.0 / (double)(h->levels - 1);
    for (int64_t j = k; j < padded; j++) b->pi[j] = b->mean[j] = b->sharp[j] = 0;
    for (int64_t j = 0; j < k; j++) {
        b->log_p[j] = (double)p[j];
        for (int64_t c = 0; c < q->channel; c++) {
            const double x = 2 * (double)q->pixel[c * q->per_channel] * half - 1;
            b->log_p[j] += log_bin(x, mean_of(h, p, q, c, j), sharpness_of(h, p, c, j), half);
        }
        b->mean[j] = mean_of(h, p, q, q->channel, j);
        b->sharp[j] = sharpness_of(h, p, q->channel, j) / b->temperature;
    }
    const double total =
        exponentials(b->log_p, k, highest(b->log_p, k), b->temperature, b->pi);
    for (int64_t j = 0; j < k; j++) b->pi[j] /= total;
}

/* Computes the integer CDF of a mixture: the width of all levels below one. Two are set aside for
 * each level, so that none gets less than 1 where rounding lets the sum fall by one. */
static int64_t mixture_cdf(const board *b, int64_t level) {
    const int64_t n = b->h->levels;
    if (level <= 0 || level >= n) return level <= 0 ? 0 : NP_TOTAL;
    const double edge = (double)(2 * level - n) / (double)(n - 1);
    double parts[PARTS] = {0}, sum = 0;
    for (int64_t j = 0; j < b->h->components; j += PARTS)
        for (int64_t i = 0; i < PARTS; i += DLANES) {
            const dvec pi = *(dvec *)(b->pi + j + i), mean = *(dvec *)(b->mean + j + i);
            const dvec sharp = *(dvec *)(b->sharp + j + i);
            *(dvec *)(parts + i) += pi * sigmoidd((edge - mean) * sharp, MOSTD);
        }
    for (int i = 0; i < PARTS; i++) sum += parts[i];
    if (sum > 1) sum = 1;
    return (int64_t)(sum * (double)(NP_TOTAL - 2 * n)) + 2 * level;
}

static interval find_mixture(const board *b, const question *q) {
    int64_t low = 0, high = b->h->levels; /* the CDF at low is at most u, and at high above it */
    if (q->u < 0) low = q->level, high = q->level + 1;
    int64_t at_low = mixture_cdf(b, low), at_high = mixture_cdf(b, high);
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2, at = mixture_cdf(b, middle);
        if (at <= q->u) low = middle, at_low = at;
        else high = middle, at_high = at;
    }
    return (interval){low, at_low, at_high - at_low};
}

/* --- guidance --------------------------------------------------------------------------------- */

/* Computes the probability of a level under the mixture that was prepared. */
static double mixture_pmf(const board *b, int64_t level) {
    const int64_t n = b->h->levels;
    const double half = 1.0 / (double)(n - 1);
    const double low = (double)(2 * level - n) * half, high = (double)(2 * level + 2 - n) * half;
    double sum = 0;
    for (int64_t j = 0; j < b->h->components; j++) {
        double part = b->pi[j];
        if (level < n - 1) part *= sigmoid1((high - b->mean[j]) * b->sharp[j]);
        if (level > 0) part *= sigmoid1(-((low - b->mean[j]) * b->sharp[j]));
        if (level > 0 && level < n - 1) part *= -expm1one(-2 * half * b->sharp[j]);
        sum += part;
    }
    return sum;
}

/* Computes the logarithm of every level's probability, at a temperature of 1. */
static void log_probabilities(board *b, const float *p, const question *q, double *to) {
    const int64_t n = b->h->levels;
    if (b->h->distribution == NP_BERNOULLI) {
        to[1] = sigmoid1((double)p[0]), to[0] = sigmoid1(-(double)p[0]);
    } else if (b->h->distribution == NP_CATEGORICAL) {
        for (int64_t i = 0; i < n; i++) to[i] = (double)p[i];
        const double total = exponentials(to, n, highest(to, n), 1, to);
        for (int64_t i = 0; i < n; i++) to[i] /= total;
    } else {
        const double temperature = b->temperature;
        b->temperature = 1;
        mix(b, p, q);
        b->temperature = temperature;
        for (int64_t i = 0; i < n; i++) to[i] = mixture_pmf(b, i);
    }
    for (int64_t i = 0; i < n; i++) to[i] = log1_(to[i] > 1e-300 ? to[i] : 1e-300);
}

static int find_guided(board *b, const question *q, interval *found) {
    double *null = b->log_p + b->size, *given = null + b->size;
    log_probabilities(b, q->p, q, given);
    log_probabilities(b, q->null, q, null);
    for (int64_t i = 0; i < b->h->levels; i++) null[i] += b->guidance * (given[i] - null[i]);
    const int error = share(b, null);
    if (!error) *found = find_shared(b, q);
    return error;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Answers a question. Returns 0 or an error. */
static int find_interval(board *b, const question *q, interval *found) {
    const int64_t n = b->h->parameters;
    if (!are_finite(q->p, n) || (q->null && !are_finite(q->null, n))) return -NP_NOT_FINITE;
    if (q->null) return find_guided(b, q, found);
    if (b->h->distribution == NP_BERNOULLI) {
        *found = find_bernoulli(b, q);
    } else if (b->h->distribution == NP_CATEGORICAL) {
        for (int64_t i = 0; i < b->h->levels; i++) b->log_p[i] = (double)q->p[i];
        const int error = share(b, b->log_p);
        if (error) return error;
        *found = find_shared(b, q);
    } else {
        mix(b, q->p, q);
        *found = find_mixture(b, q);
    }
    return 0;
}
