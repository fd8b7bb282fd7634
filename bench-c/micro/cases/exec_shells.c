/* Short-lived forks of a shell, as a configure script or a shell benchmark makes them: each faults ten pages and exits. */
#include "../systems/system.h"

#define REGIONS 100
#define REGION 4 /* pages */
#define FAULTS 10

struct state {
  struct system *sys;
  struct space *shell;
  uint64_t addrs[REGIONS], seed;
};

static void *setup(struct run *run) {
  struct system_config config = {
      .frames = REGIONS * REGION + FAULTS, .span = REGIONS * (REGION + 1), .apart = true};
  struct system *sys = system_of(run, &config);
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->seed = 1;
  s->shell = sys->ops->space_new(sys);
  for (unsigned r = 0; r < REGIONS; r++) {
    s->addrs[r] = sys->ops->map(sys, s->shell, REGION, NULL);
    for (uint64_t p = 0; p < REGION; p++) sys->ops->touch(sys, s->shell, s->addrs[r] + p * PAGE, true);
  }
  system_figures(sys, run);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) {
    struct space *child = s->sys->ops->fork(s->sys, s->shell);
    for (unsigned f = 0; f < FAULTS; f++) {
      uint64_t at = random_below(&s->seed, REGIONS * REGION);
      s->sys->ops->touch(s->sys, child, s->addrs[at / REGION] + at % REGION * PAGE, true);
    }
    s->sys->ops->exit(s->sys, child);
  }
}

static void teardown(void *state) {
  struct state *s = state;
  for (unsigned r = 0; r < REGIONS; r++)
    CHECK(system_walk(s->sys, s->sys->ops->frame(s->sys, s->shell, s->addrs[r]), true).mappings == 1);
  s->sys->ops->exit(s->sys, s->shell);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "exec_shells", .about = "fork of a space of 100 regions and 400 pages, ten copy-on-write faults, exit",
         .source = "Anton Blanchard's 10,000 concurrently exiting shells, 3 to 4 times as fast once a chain's nodes filled a cache line: "
                   "Andrew Morton, Linux 2.5",
         .unit = UNIT_NS, .least = 10000, .variants = VARIANTS("over=component", "over=machine"),
         .quick = VARIANTS("over=component", "over=machine"), .setup = setup, .testcase = testcase, .teardown = teardown);
