/* Threads fault fresh pages one by one, and unmap them when the region is full. */
#include "../systems/system.h"

#define REGION 512 /* pages */

struct lane {
  _Alignas(64) struct space *space;
  uint64_t addr, next;
};

struct state {
  struct system *sys;
  struct lane *lanes;
  unsigned threads;
  bool shared;
};

static void *setup(struct run *run) {
  uint64_t pages = run->threads * (uint64_t)REGION;
  /* Shards of free frames may hold some back from another thread. */
  struct system *sys = system_of(run, &(struct system_config){.frames = 2 * pages, .span = 2 * pages});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .threads = run->threads, .shared = param_is(run, "mm", "one")};
  s->lanes = aligned_alloc(_Alignof(struct lane), run->threads * sizeof *s->lanes);
  CHECK(s->lanes != NULL);
  for (unsigned t = 0; t < run->threads; t++) {
    struct space *space = t && s->shared ? s->lanes[0].space : sys->ops->space_new(sys);
    s->lanes[t] = (struct lane){space, sys->ops->map(sys, space, REGION, NULL), 0};
  }
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  const struct system_ops *ops = s->sys->ops;
  struct lane *lane = &s->lanes[thread];
  for (uint64_t i = 0; i < times; i++) {
    if (lane->next == REGION) {
      ops->unmap(s->sys, lane->space, lane->addr, REGION);
      lane->addr = ops->map(s->sys, lane->space, REGION, NULL);
      lane->next = 0;
    }
    ops->touch(s->sys, lane->space, lane->addr + lane->next++ * PAGE, true);
  }
}

static void teardown(void *state) {
  struct state *s = state;
  for (unsigned t = 0; t < s->threads; t++)
    if (t == 0 || !s->shared) s->sys->ops->exit(s->sys, s->lanes[t].space);
  s->sys->ops->free(s->sys);
  free(s->lanes);
  free(s);
}

TESTCASE(.name = "page_fault", .about = "faults on fresh pages, the region unmapped and mapped again after each 512",
         .source = "will-it-scale's page_fault1, as processes and as threads (Anton Blanchard)", .unit = UNIT_RATE,
         .threaded = true,
         .variants = VARIANTS("over=component mm=one", "over=component mm=many", "over=machine mm=one", "over=machine mm=many"),
         .quick = VARIANTS("over=component mm=one", "over=component mm=many", "over=machine mm=one", "over=machine mm=many"),
         .setup = setup, .testcase = testcase, .teardown = teardown);
