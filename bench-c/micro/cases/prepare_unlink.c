/* A region is made, prepared for anonymous pages, and freed with its anchor. Making and freeing alone is subtracted. */
#include "../systems/ledger.h"

#define BATCH 256 /* as in fork_unlink */

struct state {
  struct system *sys;
  struct space *space, *other;
};

static void *setup(struct run *run) {
  if (run->engine->ledger) return run_unsupported(run, "keeps nothing of regions");
  uint64_t live = param(run, "live");
  struct system_config config = {.frames = live + 1, .span = 2 * live + 1, .apart = true};
  struct system *sys = system_component(run, &config);
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->space = sys->ops->space_new(sys);
  s->other = sys->ops->space_new(sys);
  for (uint64_t i = 0; i < live; i++) sys->ops->touch(sys, s->other, sys->ops->map(sys, s->other, 1, NULL), true);
  system_figures(sys, run);
  return s;
}

static void make_regions(const struct state *s, bool prepare, uint64_t times) {
  struct rmap_mm *mm = s->space->mm;
  struct rmap_vma *vma;
  for (uint64_t i = 0; i < times; i++) {
    if (i % BATCH == 0) MUST(rmap_mm_write_lock(mm));
    MUST(rmap_vma_new(mm, TABLE_BASE, TABLE_BASE + 16 * PAGE, RMAP_VM_READ | RMAP_VM_WRITE, NULL, RMAP_PGOFF_VPN, NULL, &vma));
    if (prepare) MUST(rmap_anon_vma_prepare(vma));
    MUST(rmap_vma_free(mm, vma));
    if (i % BATCH == BATCH - 1 || i + 1 == times) MUST(rmap_mm_write_unlock(mm));
  }
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  (void)thread;
  make_regions(state, true, times);
}

static void less(void *state, unsigned thread, uint64_t times) {
  (void)thread;
  make_regions(state, false, times);
}

static void teardown(void *state) {
  struct state *s = state;
  s->sys->ops->exit(s->sys, s->space);
  s->sys->ops->exit(s->sys, s->other);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "prepare_unlink", .about = "anon_vma_prepare and unlink_anon_vmas of a region, with so many others alive",
         .source = "the kernel's mm/rmap.c timed in user space", .unit = UNIT_NS,
         .variants = VARIANTS("live=0", "live=100000"), .quick = VARIANTS("live=0", "live=1000"), .setup = setup,
         .testcase = testcase, .less = less, .teardown = teardown);
