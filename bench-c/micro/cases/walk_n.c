/*
 * A walk of a page that n spaces map. in_order: what stands for them lies in memory as it was made. scattered: it lies where as many others
 * have been freed in random order.
 */
#include "../systems/system.h"

struct state {
  struct system *sys;
  struct space **spaces; /* the first is the parent */
  uint64_t n, frame;
  bool check;
};

static void shuffle(struct space **spaces, uint64_t n) {
  uint64_t seed = 1;
  for (uint64_t i = n; i > 1; i--) {
    uint64_t k = random_below(&seed, i);
    struct space *moved = spaces[i - 1];
    spaces[i - 1] = spaces[k];
    spaces[k] = moved;
  }
}

/* Children that each have a page of their own come and go. */
static void scatter(struct state *s, uint64_t addr) {
  const struct system_ops *ops = s->sys->ops;
  for (uint64_t i = 1; i < s->n; i++) {
    s->spaces[i] = ops->fork(s->sys, s->spaces[0]);
    ops->touch(s->sys, s->spaces[i], addr, true);
  }
  shuffle(s->spaces + 1, s->n - 1);
  for (uint64_t i = 1; i < s->n; i++) ops->exit(s->sys, s->spaces[i]);
}

static void *setup(struct run *run) {
  uint64_t n = param(run, "n");
  bool scattered = param_is(run, "order", "scattered");
  struct system *sys = system_component(run, &(struct system_config){.frames = scattered ? n : 1, .span = 1});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .n = n, .check = param_is(run, "check", "pte")};
  s->spaces = must_calloc(n, sizeof(struct space *));
  s->spaces[0] = sys->ops->space_new(sys);
  uint64_t addr = sys->ops->map(sys, s->spaces[0], 1, NULL);
  if (scattered) scatter(s, addr);
  sys->ops->touch(sys, s->spaces[0], addr, true);
  for (uint64_t i = 1; i < n; i++) s->spaces[i] = sys->ops->fork(sys, s->spaces[0]);
  s->frame = sys->ops->frame(sys, s->spaces[0], addr);
  CHECK(system_walk(sys, s->frame, true).mappings == n);
  struct usage usage;
  sys->ops->usage(sys, &usage);
  run_figure(run, "candidates", (double)system_walk(sys, s->frame, false).candidates);
  run_figure(run, "mappings", (double)n);
  run_figure(run, "bytes_per_mapping", (double)usage.bytes / (double)n);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  CHECK(s->sys->ops->hold(s->sys, s->frame));
  for (uint64_t i = 0; i < times; i++) {
    struct walked walked = s->sys->ops->walk(s->sys, s->frame, s->check);
    CHECK(s->check ? walked.mappings == s->n : walked.candidates >= s->n);
  }
  s->sys->ops->unhold(s->sys, s->frame);
}

static void teardown(void *state) {
  struct state *s = state;
  while (s->n) s->sys->ops->exit(s->sys, s->spaces[--s->n]);
  s->sys->ops->free(s->sys);
  free(s->spaces);
  free(s);
}

#define SIZES(order, check)                                                                                           \
  "n=1 order=" order " check=" check, "n=10 order=" order " check=" check, "n=100 order=" order " check=" check,      \
      "n=1000 order=" order " check=" check, "n=10000 order=" order " check=" check, "n=100000 order=" order " check=" check

TESTCASE(.name = "walk_n", .about = "walk of a page that n spaces map, with and without a look at each page-table entry",
         .source = "the walk itself, page_referenced and try_to_unmap of every kernel since Linux 2.5; timed in user space",
         .unit = UNIT_NS,
         .variants = VARIANTS(SIZES("in_order", "none"), SIZES("in_order", "pte"), SIZES("scattered", "none"),
                              SIZES("scattered", "pte")),
         .quick = VARIANTS("n=1 order=in_order check=none", "n=10 order=in_order check=pte",
                           "n=1000 order=in_order check=none", "n=1000 order=in_order check=pte",
                           "n=1000 order=scattered check=none", "n=10000 order=in_order check=none"),
         .setup = setup, .testcase = testcase, .teardown = teardown);
