/*
 * Generations, each of which writes a page. exiting: each parent exits after its fork, without end; what is left over is a figure, and so is
 * what it does to the next generation's time. nested: all generations fork first, then all but the last exit; its forks are timed.
 */
#include "../systems/system.h"

#define REGION 16 /* pages */

struct state {
  struct system *sys;
  struct space *last;
  uint64_t addr;
  bool exiting;
};

static void next_generation(struct state *s) {
  struct space *child = s->sys->ops->fork(s->sys, s->last);
  s->sys->ops->touch(s->sys, child, s->addr, true);
  s->sys->ops->exit(s->sys, s->last);
  s->last = child;
}

static void nest(struct state *s, uint64_t generations) {
  struct space **line = must_calloc(generations, sizeof *line);
  for (uint64_t i = 0; i < generations; i++) {
    line[i] = s->last;
    s->last = s->sys->ops->fork(s->sys, s->last);
    s->sys->ops->touch(s->sys, s->last, s->addr, true);
  }
  for (uint64_t i = 0; i < generations; i++) s->sys->ops->exit(s->sys, line[i]);
  free(line);
}

/* G5: memory is bounded by regions, not by history. */
static void check_bound(struct run *run, const struct state *s) {
  struct usage usage;
  s->sys->ops->usage(s->sys, &usage);
  if (s->exiting && run->engine->value == RMAP_ENGINE_ANON_VMA) CHECK(usage.anchors <= 3);
}

static void *setup(struct run *run) {
  uint64_t generations = param(run, "generations");
  bool exiting = param_is(run, "ancestors", "exiting");
  uint64_t frames = 3 * REGION + (exiting ? 0 : generations);
  struct system *sys = system_of(run, &(struct system_config){.frames = frames, .span = REGION});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .last = sys->ops->space_new(sys), .exiting = exiting};
  s->addr = sys->ops->map(sys, s->last, REGION, NULL);
  for (uint64_t i = 0; i < REGION; i++) sys->ops->touch(sys, s->last, s->addr + i * PAGE, true);
  if (exiting)
    for (uint64_t i = 0; i < generations; i++) next_generation(s);
  else
    nest(s, generations);
  CHECK(system_walk(sys, sys->ops->frame(sys, s->last, s->addr + PAGE), true).mappings == 1);
  check_bound(run, s);
  system_figures(sys, run);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) {
    if (s->exiting)
      next_generation(s);
    else
      s->sys->ops->exit(s->sys, s->sys->ops->fork(s->sys, s->last));
  }
}

static void teardown(void *state) {
  struct state *s = state;
  s->sys->ops->exit(s->sys, s->last);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "fork_chain", .about = "forks after a long line of ancestors that are gone; anchors left over",
         .source = "Konstantin Khlebnikov, \"mm: prevent endless growth of anon_vma hierarchy\", Linux 3.19", .unit = UNIT_NS,
         .variants = VARIANTS("over=component ancestors=exiting generations=100",
                              "over=component ancestors=exiting generations=1000",
                              "over=component ancestors=exiting generations=10000",
                              "over=component ancestors=nested generations=10",
                              "over=component ancestors=nested generations=100",
                              "over=component ancestors=nested generations=1000",
                              "over=machine ancestors=exiting generations=10000",
                              "over=machine ancestors=nested generations=1000"),
         .quick = VARIANTS("over=component ancestors=exiting generations=100",
                           "over=component ancestors=exiting generations=1000",
                           "over=component ancestors=nested generations=10",
                           "over=component ancestors=nested generations=100",
                           "over=machine ancestors=exiting generations=1000",
                           "over=machine ancestors=nested generations=100"),
         .setup = setup, .testcase = testcase, .teardown = teardown);
