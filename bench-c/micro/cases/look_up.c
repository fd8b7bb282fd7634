/* Page to read-locked anchor and back: threads on one page, on pages of one family, on pages that have nothing in common. */
#include "../systems/system.h"

struct state {
  struct system *sys;
  struct space *parent, **spaces;
  uint64_t *frames;
  unsigned threads;
};

/* The space whose page a thread looks up: the parent, a child that has copied the page, or a stranger. */
static struct space *space_for(struct state *s, const struct run *run, uint64_t addr) {
  const struct system_ops *ops = s->sys->ops;
  struct space *space;
  if (param_is(run, "same", "nothing")) {
    space = ops->space_new(s->sys);
    CHECK(ops->map(s->sys, space, 1, NULL) == addr);
  } else {
    space = ops->fork(s->sys, s->parent);
  }
  if (!param_is(run, "same", "page")) ops->touch(s->sys, space, addr, true);
  return space;
}

static void *setup(struct run *run) {
  struct system *sys = system_component(run, &(struct system_config){.frames = run->threads + 1, .span = 1});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .parent = sys->ops->space_new(sys), .threads = run->threads};
  uint64_t addr = sys->ops->map(sys, s->parent, 1, NULL);
  sys->ops->touch(sys, s->parent, addr, true);
  s->spaces = must_calloc(run->threads, sizeof(struct space *));
  s->frames = must_calloc(run->threads, sizeof *s->frames);
  bool supported = true;
  for (unsigned t = 0; t < run->threads; t++) {
    s->spaces[t] = space_for(s, run, addr);
    s->frames[t] = sys->ops->frame(sys, s->spaces[t], addr);
    supported &= sys->ops->look_up(sys, s->frames[t]);
  }
  if (supported) return s;
  run->test->teardown(s);
  return run_unsupported(run, "librmap has no look-up for this engine");
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  uint64_t frame = s->frames[thread];
  for (uint64_t i = 0; i < times; i++) CHECK(s->sys->ops->look_up(s->sys, frame));
}

static void teardown(void *state) {
  struct state *s = state;
  for (unsigned t = s->threads; t-- > 0;) s->sys->ops->exit(s->sys, s->spaces[t]);
  s->sys->ops->exit(s->sys, s->parent);
  s->sys->ops->free(s->sys);
  free(s->spaces);
  free(s->frames);
  free(s);
}

TESTCASE(.name = "look_up", .about = "page to locked anchor and back, threads on what is the same or not",
         .source = "Peter Zijlstra, \"mm: Optimize page_lock_anon_vma() fast-path\", Linux 3.0; the kernel's code timed in user space",
         .unit = UNIT_RATE, .threaded = true, .variants = VARIANTS("same=page", "same=root", "same=nothing"),
         .quick = VARIANTS("same=page", "same=root", "same=nothing"), .setup = setup, .testcase = testcase,
         .teardown = teardown);
