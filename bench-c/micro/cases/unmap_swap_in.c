/* A shared page is taken out of all page tables (try_to_unmap), then each sharer touches it and has it back. */
#include "../systems/system.h"

#define SHARERS_MAX 64

struct state {
  struct system *sys;
  struct space *spaces[SHARERS_MAX];
  uint64_t sharers, addr;
};

static void *setup(struct run *run) {
  uint64_t sharers = param(run, "sharers");
  CHECK(sharers <= SHARERS_MAX);
  struct system *sys = system_machine(run, &(struct system_config){.frames = sharers + 8, .swap_slots = 64});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->sharers = sharers;
  s->spaces[0] = sys->ops->space_new(sys);
  s->addr = sys->ops->map(sys, s->spaces[0], 1, NULL);
  sys->ops->touch(sys, s->spaces[0], s->addr, true);
  for (uint64_t i = 1; i < sharers; i++) s->spaces[i] = sys->ops->fork(sys, s->spaces[0]);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  const struct system_ops *ops = s->sys->ops;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) {
    bool gone;
    MUST(rmap_machine_swap_out(system_rmap_machine(s->sys), ops->frame(s->sys, s->spaces[0], s->addr), &gone));
    CHECK(gone);
    for (uint64_t k = 0; k < s->sharers; k++) ops->touch(s->sys, s->spaces[k], s->addr, false);
  }
}

/* The sharers share it again. */
static void teardown(void *state) {
  struct state *s = state;
  CHECK(system_walk(s->sys, s->sys->ops->frame(s->sys, s->spaces[0], s->addr), true).mappings == s->sharers);
  while (s->sharers) s->sys->ops->exit(s->sys, s->spaces[--s->sharers]);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "unmap_swap_in", .about = "a page goes to swap and comes back to each of its sharers",
         .source = "try_to_unmap of shared pages, the work of Hugh Dickins's anonmm and Andrea Arcangeli's anon_vma: Dave McCracken, "
                   "\"Object-based Reverse Mapping\", OLS 2004",
         .unit = UNIT_NS, .variants = VARIANTS("sharers=1", "sharers=4", "sharers=16", "sharers=64"),
         .quick = VARIANTS("sharers=1", "sharers=16"), .setup = setup, .testcase = testcase, .teardown = teardown);
