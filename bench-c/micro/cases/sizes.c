/* Bytes of the reverse map: what every frame has, what one more region, fork or mapping adds. librmap is asked through its machine. */
#include "../systems/system.h"

#define REGIONS 1000
#define FORKS 100
#define PAGES 4 /* of each region */

struct state {
  struct system *sys;
  struct space *parent, *children[FORKS];
  unsigned forks;
  double bytes;
};

static double used(struct system *sys) {
  struct usage usage;
  sys->ops->usage(sys, &usage);
  return (double)usage.bytes;
}

static void measure_what(struct state *s, const struct run *run) {
  struct usage usage;
  double before = used(s->sys);
  const struct system_ops *ops = s->sys->ops;
  ops->usage(s->sys, &usage);
  s->bytes = (double)usage.frame_bytes;
  if (param_is(run, "what", "frame")) return;
  uint64_t pages = param_is(run, "what", "vma") ? 1 : PAGES;
  for (unsigned r = 0; r < REGIONS; r++) {
    uint64_t addr = ops->map(s->sys, s->parent, PAGES, NULL);
    for (uint64_t p = 0; p < pages; p++) ops->touch(s->sys, s->parent, addr + p * PAGE, true);
  }
  s->bytes = (used(s->sys) - before) / REGIONS;
  if (param_is(run, "what", "vma")) return;
  before = used(s->sys);
  for (; s->forks < FORKS; s->forks++) s->children[s->forks] = ops->fork(s->sys, s->parent);
  s->bytes = (used(s->sys) - before) / FORKS;
  if (param_is(run, "what", "mapping")) s->bytes /= REGIONS * PAGES;
}

static void *setup(struct run *run) {
  struct system_config config = {.frames = REGIONS * PAGES, .span = REGIONS * (PAGES + 1), .apart = true};
  struct system *sys = run->engine->ledger ? system_component(run, &config) : system_machine(run, &config);
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->parent = sys->ops->space_new(sys);
  measure_what(s, run);
  return s;
}

static double count(void *state) { return ((struct state *)state)->bytes; }

static void teardown(void *state) {
  struct state *s = state;
  while (s->forks) s->sys->ops->exit(s->sys, s->children[--s->forks]);
  s->sys->ops->exit(s->sys, s->parent);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "sizes",
         .about = "bytes a frame; bytes that a region with one page, a fork of 1,000 regions of four, and each mapping of that fork add",
         .source = "metadata of a phone after boot: \"mm: introduce ANON_VMA_LAZY for deferred anon_vma creation\", linux-mm, May 2026; "
                   "the chains of Linux 2.5, half of whose memory was links until Andrew Morton gave a node a cache line",
         .unit = UNIT_BYTES, .variants = VARIANTS("what=frame", "what=vma", "what=fork", "what=mapping"),
         .quick = VARIANTS("what=frame", "what=vma", "what=fork", "what=mapping"), .setup = setup, .count = count,
         .teardown = teardown);
