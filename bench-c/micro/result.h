/* One result: a case with one set of parameters, one engine, one role. */
#ifndef RMAP_MICRO_RESULT_H
#define RMAP_MICRO_RESULT_H

#include "harness.h"
#include "stats.h"

struct result {
  const struct testcase *test;
  const struct engine *engine;
  const char *params;
  const char *role; /* "" when the case has one role */
  unsigned threads;
  const char *unsupported; /* NULL: the members from here on are there */
  struct summary summary;
  uint64_t ops;    /* operations in all samples */
  double ratio;    /* to the first engine; 0: none */
  double kernel;   /* nanoseconds of the kernel's own code; 0: none */
  double baseline; /* ratio to an earlier run; 0: none */
  struct figure figures[FIGURES_MAX];
  unsigned figures_len;
};

struct results {
  struct result *items;
  size_t len, cap;
};

/* Keeps a copy. */
void results_add(struct results *results, const struct result *result);

const char *unit_name(enum unit unit);

#endif
