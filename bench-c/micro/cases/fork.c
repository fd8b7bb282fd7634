/* A fork and the exit of the child, by how many forks led to the parent: each generation's regions are tied to the anchors of all before. */
#include "../systems/system.h"

#define REGION 16 /* pages */
#define DEPTH_MAX 256

struct state {
  struct system *sys;
  struct space *line[DEPTH_MAX];
  uint64_t depth;
};

static void *setup(struct run *run) {
  uint64_t depth = param(run, "depth");
  struct system *sys = system_of(run, &(struct system_config){.frames = depth + 2 * REGION, .span = REGION});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->depth = depth;
  s->line[0] = sys->ops->space_new(sys);
  uint64_t addr = sys->ops->map(sys, s->line[0], REGION, NULL);
  for (uint64_t i = 0; i < REGION; i++) sys->ops->touch(sys, s->line[0], addr + i * PAGE, true);
  for (uint64_t i = 1; i < depth; i++) {
    s->line[i] = sys->ops->fork(sys, s->line[i - 1]);
    sys->ops->touch(sys, s->line[i], addr, true);
  }
  CHECK(system_walk(sys, sys->ops->frame(sys, s->line[depth - 1], addr + PAGE), true).mappings == depth);
  system_figures(sys, run);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) s->sys->ops->exit(s->sys, s->sys->ops->fork(s->sys, s->line[s->depth - 1]));
}

static void teardown(void *state) {
  struct state *s = state;
  while (s->depth) s->sys->ops->exit(s->sys, s->line[--s->depth]);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "fork", .about = "fork of a space of 16 pages and exit of the child, after so many generations",
         .source = "anon_vma chains, one link for each ancestor: Rik van Riel, "
                   "\"mm: change anon_vma linking to fix multi-process server scalability issue\", Linux 2.6.34",
         .unit = UNIT_NS,
         .variants = VARIANTS("over=component depth=1", "over=component depth=4", "over=component depth=16",
                              "over=component depth=64", "over=component depth=256", "over=machine depth=1",
                              "over=machine depth=4", "over=machine depth=16", "over=machine depth=64",
                              "over=machine depth=256"),
         .quick = VARIANTS("over=component depth=1", "over=component depth=16", "over=component depth=256",
                           "over=machine depth=16"),
         .setup = setup, .testcase = testcase, .teardown = teardown);
