/* rmap-micro: the operations of reverse mapping, each design beside the others, through include/rmap.h alone. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "baseline.h"
#include "clock.h"
#include "kernel.h"
#include "measure.h"
#include "report.h"
#include "workers.h"

/* The table of cases: the linker gathers the entries, in the order of the files. */
extern const struct testcase *const __start_testcases[];
extern const struct testcase *const __stop_testcases[];

static const char *const *variants_of(const struct options *options, const struct testcase *test) {
  return options->quick ? test->quick : test->variants;
}

static bool wanted(const struct options *options, const struct testcase *test, const char *params) {
  char text[256];
  snprintf(text, sizeof text, "%s %s", test->name, params);
  return options_want(options, text);
}

static void list(const struct options *options) {
  for (const struct testcase *const *test = __start_testcases; test < __stop_testcases; test++) {
    bool named = false;
    for (const char *const *v = variants_of(options, *test); *v; v++) {
      if (!wanted(options, *test, *v)) continue;
      if (!named) printf("%s: %s\n    from %s\n", (*test)->name, (*test)->about, (*test)->source);
      named = true;
      printf("    %s %s\n", (*test)->name, *v);
    }
  }
}

/* Threads of the next measurement after one with `threads`; 0: there is none. A thread beside them takes a place too. */
static unsigned more_threads(const struct options *options, const struct testcase *test, unsigned threads) {
  unsigned most = options->threads - (test->beside && options->threads > 1 ? 1 : 0);
  if (!test->threaded || threads >= most) return 0;
  return 2 * threads < most ? 2 * threads : most;
}

static void finish(struct result *result, const struct baseline *baseline) {
  if (result->unsupported) return;
  if (result->engine->value == RMAP_ENGINE_ANON_VMA) result->kernel = kernel_figure(result);
  double before = baseline ? baseline_median(baseline, result) : 0;
  if (before > 0) result->baseline = result->summary.median / before;
}

static void progress(const struct testcase *test, const char *params, unsigned threads) {
  bool line = isatty(STDERR_FILENO) != 0;
  fprintf(stderr, line ? "\r\033[K%s %s, %u thread%s" : "%s %s, %u thread%s\n", test->name, params, threads,
          threads == 1 ? "" : "s");
  fflush(stderr);
}

static void run_variant(const struct options *options, const struct testcase *test, const char *params,
                        const struct baseline *baseline, struct results *results) {
  for (unsigned threads = 1; threads; threads = more_threads(options, test, threads)) {
    size_t from = results->len;
    progress(test, params, threads);
    measure(options, test, params, threads, results);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    for (size_t i = from; i < results->len; i++) {
      finish(&results->items[i], baseline);
      report_summary(stdout, &results->items[i]);
    }
  }
}

static void run_all(const struct options *options, const struct baseline *baseline, struct results *results) {
  for (const struct testcase *const *test = __start_testcases; test < __stop_testcases; test++)
    for (const char *const *v = variants_of(options, *test); *v; v++)
      if (wanted(options, *test, *v)) run_variant(options, *test, *v, baseline, results);
  if (results->len == 0) options_wrong("no case matches the filter");
}

static FILE *open_output(const char *path) {
  FILE *file = path ? fopen(path, "w") : NULL;
  if (path && !file) options_wrong("%s: %s", path, strerror(errno));
  return file;
}

static void close_output(FILE *file, const char *path) {
  if (file && (ferror(file) | fclose(file))) options_wrong("%s: cannot be written", path);
}

int main(int argc, char **argv) {
  struct options options;
  struct host host;
  struct results results = {.items = NULL};
  struct baseline *baseline = NULL;
  setvbuf(stdout, NULL, _IOLBF, 0); /* progress on stderr stands between the lines */
  options_read(&options, argc, argv);
  if (options.list) {
    list(&options);
  } else {
    const char *reason;
    if (options.baseline && !(baseline = baseline_read(options.baseline, &reason)))
      options_wrong("%s: %s", options.baseline, reason);
    FILE *json = open_output(options.json), *csv = open_output(options.csv);
    host_describe(&host);
    uint64_t start = clock_wall_ns();
    run_all(&options, baseline, &results);
    fprintf(stderr, "%zu results in %.1f s\n", results.len, (double)(clock_wall_ns() - start) / 1e9);
    if (json) report_json(json, &host, &options, &results);
    if (csv) report_csv(csv, &results);
    close_output(json, options.json);
    close_output(csv, options.csv);
  }
  if (fflush(stdout) || ferror(stdout)) options_wrong("the output cannot be written");
  baseline_free(baseline);
  free(results.items);
  if (options.filtered) regfree(&options.filter);
  return 0;
}
