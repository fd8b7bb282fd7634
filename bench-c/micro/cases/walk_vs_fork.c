/* Threads fork and exit children of a family while one more walks the page that all of it maps. */
#include "../systems/system.h"

struct state {
  struct system *sys;
  struct space **spaces; /* the first is the parent; thread t forks space t */
  uint64_t n, frame;
};

static void *setup(struct run *run) {
  uint64_t n = param(run, "siblings") + 1;
  struct system *sys = system_component(run, &(struct system_config){.frames = 1, .span = 1});
  if (!sys) return NULL;
  CHECK(run->threads <= n);
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .n = n, .spaces = must_calloc(n, sizeof(struct space *))};
  s->spaces[0] = sys->ops->space_new(sys);
  uint64_t addr = sys->ops->map(sys, s->spaces[0], 1, NULL);
  sys->ops->touch(sys, s->spaces[0], addr, true);
  for (uint64_t i = 1; i < n; i++) s->spaces[i] = sys->ops->fork(sys, s->spaces[0]);
  s->frame = sys->ops->frame(sys, s->spaces[0], addr);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  for (uint64_t i = 0; i < times; i++) s->sys->ops->exit(s->sys, s->sys->ops->fork(s->sys, s->spaces[thread]));
}

/* None of the family that stays may be missed. */
static void beside(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) CHECK(system_walk(s->sys, s->frame, false).candidates >= s->n);
}

static void teardown(void *state) {
  struct state *s = state;
  while (s->n) s->sys->ops->exit(s->sys, s->spaces[--s->n]);
  s->sys->ops->free(s->sys);
  free(s->spaces);
  free(s);
}

TESTCASE(.name = "walk_vs_fork", .about = "forks and exits in a family, and walks of the page that it shares, at once",
         .source = "the root's lock, which walks share since Ingo Molnar, "
                   "\"mm/rmap: Convert the struct anon_vma::mutex to an rwsem\", Linux 3.8",
         .unit = UNIT_RATE, .threaded = true, .role = "fork", .beside_role = "walk",
         .variants = VARIANTS("siblings=10", "siblings=1000"), .quick = VARIANTS("siblings=100"), .setup = setup,
         .testcase = testcase, .beside = beside, .teardown = teardown);
