/*
 * What a case sees. A case is one file in cases/: it says what is measured, sets it up, and has one testcase() that does the operation.
 * Threads, pinning, warm-up, repetition, medians, the interleaving of the engines and all output are the harness's.
 */
#ifndef RMAP_MICRO_HARNESS_H
#define RMAP_MICRO_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "rmap.h"

#define PAGE ((uint64_t)RMAP_PAGE_SIZE)

enum unit {
  UNIT_NS,   /* processor time of one operation, one thread */
  UNIT_RATE, /* operations a second of all threads together; of one alone, a second of its processor time */
  UNIT_BYTES /* counted once, not timed */
};

/* An engine by name: one of librmap's, or a model in plain C. */
struct engine {
  const char *name;
  uint32_t value;            /* of enum rmap_engine; 0: a model */
  const struct ledger *ledger; /* how the model keeps its reverse map; NULL: librmap does */
};

/* A figure that stands beside a result: memory, candidates, what is left over. */
struct figure {
  const char *name;
  double value;
};

#define FIGURES_MAX 8

/* One case with one set of parameters under one engine. */
struct run {
  const struct testcase *test;
  const struct engine *engine;
  const char *params; /* "key=value key=value" */
  unsigned threads;   /* that run testcase() */
  const char *unsupported; /* why the engine cannot do this; NULL: it can */
  struct figure figures[FIGURES_MAX];
  unsigned figures_len;
};

struct testcase {
  const char *name;
  const char *about;
  const char *source;           /* where the case is known from */
  enum unit unit;
  const char *const *variants;  /* parameters of each, NULL-terminated */
  const char *const *quick;     /* the same for --quick */
  uint64_t least;               /* operations that are timed at least, but with --quick; 0: as many as fit into the time */
  bool threaded;                /* measured with 1, 2, 4 ... threads */
  const char *role;             /* what testcase() does, when there is a beside() */
  const char *beside_role;      /* what beside() does */
  /* Makes what the operations work on. NULL: run_unsupported() was called. */
  void *(*setup)(struct run *run);
  /* Does the operation so many times. `thread` is 0 .. threads - 1; threads share the state. */
  void (*testcase)(void *state, unsigned thread, uint64_t times);
  /* Optional, UNIT_NS: a part of the operation that is not to count; measured the same way and subtracted. */
  void (*less)(void *state, unsigned thread, uint64_t times);
  /* Optional, UNIT_RATE: one more thread does this meanwhile, and is a result of its own. Its number is `threads`. */
  void (*beside)(void *state, unsigned thread, uint64_t times);
  /* UNIT_BYTES, in place of testcase: the result. */
  double (*count)(void *state);
  void (*teardown)(void *state);
};

/* Puts the case into the table. */
#define TESTCASE(...)                                                                                      \
  static const struct testcase this_case = {__VA_ARGS__};                                                  \
  static const struct testcase *const this_entry __attribute__((used, section("testcases"))) = &this_case

/* A list of parameters for `variants` and `quick`. */
#define VARIANTS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Says that the engine cannot do this. Returns NULL, for setup() to return. */
void *run_unsupported(struct run *run, const char *reason);
/* Adds a figure to the result. */
void run_figure(struct run *run, const char *name, double value);
/* The number, or the text, of a parameter. It is a bug of the case if there is none. */
uint64_t param(const struct run *run, const char *key);
bool param_is(const struct run *run, const char *key, const char *text);

/* A seeded sequence: the same in every run. */
static inline uint64_t random_next(uint64_t *seed) {
  uint64_t x = *seed += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}
static inline uint64_t random_below(uint64_t *seed, uint64_t bound) { return random_next(seed) % bound; }

void *must_calloc(size_t count, size_t size);

#define MUST(call)                                                                                \
  do {                                                                                            \
    enum rmap_status status_ = (call);                                                            \
    if (status_ != RMAP_OK) {                                                                     \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, rmap_strerror((int)status_)); \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

/* What must be true of a result, and is cheap to know. */
#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                              \
    }                                                                       \
  } while (0)

#endif
