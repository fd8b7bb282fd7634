/*
 * The engines stand ready at the same time and take turns, sample by sample, so that what the machine does meanwhile happens to all of
 * them. The reference loop runs before and after each sample; when the slower of the two took much longer than the group's median, the
 * sample is dropped.
 */
#include "measure.h"

#include "clock.h"
#include "workers.h"

#define SLOW 1.5             /* times the median of the reference loop */
#define CHUNK_NS 50000u      /* what is done between two looks at the clock takes about so long */
#define TIMES_MAX (1u << 22) /* operations between two looks, however short they are */

typedef void operation(void *state, unsigned thread, uint64_t times);

struct subject {
  struct run run;
  void *state;
  uint64_t chunk[2];         /* of testcase and beside */
  struct samples samples[2]; /* of testcase and beside */
  uint64_t ops[2];
};

struct group {
  const struct options *options;
  const struct testcase *test;
  struct subject subjects[ENGINES_MAX];
  size_t len;
};

/* How many operations take about CHUNK_NS. This warms up, too. */
static uint64_t calibrate(operation *work, void *state, unsigned thread) {
  uint64_t times = 1;
  for (;;) {
    uint64_t start = clock_cpu_ns();
    work(state, thread, times);
    uint64_t took = clock_cpu_ns() - start;
    if (took >= CHUNK_NS || times >= TIMES_MAX) return times;
    times *= took < CHUNK_NS / 8 ? 8 : 2;
  }
}

static double cpu_time_of(operation *work, void *state, uint64_t times) {
  uint64_t start = clock_cpu_ns();
  work(state, 0, times);
  return (double)(clock_cpu_ns() - start);
}

/*
 * Nanoseconds of one operation. Chunks of what is to be subtracted stand between chunks of the operation; what costs nothing beside them
 * may come out below nothing, and counts as that.
 */
static void sample_time(struct subject *s, double window_ns, uint64_t least, double *value) {
  const struct testcase *test = s->run.test;
  double took = 0, less = 0;
  uint64_t done = 0;
  do {
    took += cpu_time_of(test->testcase, s->state, s->chunk[0]);
    if (test->less) less += cpu_time_of(test->less, s->state, s->chunk[0]);
    done += s->chunk[0];
  } while (took < window_ns || done < least);
  s->ops[0] += done;
  value[0] = took > less ? (took - less) / (double)done : 0;
}

/* Operations a second: of the threads that run testcase together, and of the one beside them. */
static void sample_rate(struct subject *s, double window_ns, double *value) {
  const struct testcase *test = s->run.test;
  unsigned len = s->run.threads + (test->beside ? 1 : 0);
  struct job jobs[WORKERS_MAX + 1] = {{.work = NULL}};
  double rates[WORKERS_MAX + 1];
  uint64_t done[WORKERS_MAX + 1];
  for (unsigned i = 0; i < len; i++) {
    unsigned role = i < s->run.threads ? 0 : 1;
    jobs[i] = (struct job){role ? test->beside : test->testcase, s->state, i, s->chunk[role]};
  }
  workers_run(jobs, len, (uint64_t)window_ns, rates, done);
  value[0] = value[1] = 0;
  for (unsigned i = 0; i < len; i++) {
    unsigned role = i < s->run.threads ? 0 : 1;
    value[role] += rates[i];
    s->ops[role] += done[i];
  }
}

static void sample(struct subject *s, const struct options *options) {
  double window_ns = options->seconds * 1e9 / options->rounds;
  uint64_t least = options->quick ? 0 : s->run.test->least / options->rounds + 1;
  double value[2] = {0, 0};
  double before = clock_reference_ns();
  if (s->run.threads > 1 || s->run.test->beside) {
    sample_rate(s, window_ns, value);
  } else {
    sample_time(s, window_ns, least, value);
    if (s->run.test->unit == UNIT_RATE) value[0] = 1e9 / value[0];
  }
  double after = clock_reference_ns();
  for (unsigned role = 0; role < 2; role++) {
    struct samples *kept = &s->samples[role];
    kept->values[kept->len] = value[role];
    kept->reference[kept->len++] = before > after ? before : after;
  }
}

static void set_up(struct group *g, const char *params, unsigned threads) {
  for (size_t i = 0; i < g->options->engines_len; i++) {
    struct subject *s = &g->subjects[g->len++];
    *s = (struct subject){
        .run = {.test = g->test, .engine = g->options->engines[i], .params = params, .threads = threads}};
    s->state = g->test->setup(&s->run);
    if (s->run.unsupported || g->test->unit == UNIT_BYTES) continue;
    s->chunk[0] = calibrate(g->test->testcase, s->state, 0);
    if (g->test->less) calibrate(g->test->less, s->state, 0);
    if (g->test->beside) s->chunk[1] = calibrate(g->test->beside, s->state, threads);
  }
}

/* The slowest reference loop that a sample may have beside it. */
static double reference_limit(const struct group *g) {
  double all[ENGINES_MAX * SAMPLES_MAX];
  size_t len = 0;
  for (size_t i = 0; i < g->len; i++)
    for (unsigned k = 0; k < g->subjects[i].samples[0].len; k++) all[len++] = g->subjects[i].samples[0].reference[k];
  return len ? SLOW * median_of(all, len) : 0;
}

static void take_samples(struct group *g) {
  for (unsigned round = 0; round < g->options->rounds; round++)
    for (size_t i = 0; i < g->len; i++) {
      struct subject *s = &g->subjects[(i + round) % g->len];
      if (!s->run.unsupported) sample(s, g->options);
    }
}

static void count_once(struct group *g) {
  for (size_t i = 0; i < g->len; i++) {
    struct subject *s = &g->subjects[i];
    if (s->run.unsupported) continue;
    s->samples[0].values[0] = g->test->count(s->state);
    s->samples[0].reference[0] = 0;
    s->samples[0].len = 1;
    s->ops[0] = 1;
  }
}

static void add_results(const struct group *g, unsigned role, struct results *results) {
  double limit = reference_limit(g), first = 0;
  const char *names[2] = {g->test->role ? g->test->role : "", g->test->beside_role};
  for (size_t i = 0; i < g->len; i++) {
    const struct subject *s = &g->subjects[i];
    struct result result = {.test = g->test, .engine = s->run.engine, .params = s->run.params, .role = names[role],
                            .threads = s->run.threads, .unsupported = s->run.unsupported, .ops = s->ops[role]};
    if (!result.unsupported) {
      result.summary = summarize(&s->samples[role], limit);
      if (i == 0) first = result.summary.median;
      if (first > 0) result.ratio = result.summary.median / first;
      result.figures_len = s->run.figures_len;
      for (unsigned k = 0; k < s->run.figures_len; k++) result.figures[k] = s->run.figures[k];
    }
    results_add(results, &result);
  }
}

void measure(const struct options *options, const struct testcase *test, const char *params, unsigned threads,
             struct results *results) {
  static struct group g; /* too large for the stack */
  g.options = options;
  g.test = test;
  g.len = 0;
  workers_pin(0);
  set_up(&g, params, threads);
  if (test->unit == UNIT_BYTES)
    count_once(&g);
  else
    take_samples(&g);
  for (unsigned role = 0; role <= (test->beside ? 1u : 0u); role++) add_results(&g, role, results);
  for (size_t i = 0; i < g.len; i++)
    if (!g.subjects[i].run.unsupported) test->teardown(g.subjects[i].state);
}
