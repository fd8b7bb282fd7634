/* One region is forked and the copy unlinked, by how many forks led to the parent. The same for a region that never had pages is subtracted. */
#include "../systems/ledger.h"

#define DEPTH_MAX 256
#define BATCH 256 /* freed regions are taken back when a change of layout ends: so many operations are one change */

struct state {
  struct system *sys;
  struct space *line[DEPTH_MAX], *other;
  uint64_t depth;
};

static void *setup(struct run *run) {
  if (run->engine->ledger) return run_unsupported(run, "keeps nothing of regions");
  uint64_t depth = param(run, "depth");
  struct system *sys = system_component(run, &(struct system_config){.frames = 4, .span = 64});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  s->sys = sys;
  s->depth = depth;
  s->line[0] = sys->ops->space_new(sys);
  s->other = sys->ops->space_new(sys);
  sys->ops->touch(sys, s->line[0], sys->ops->map(sys, s->line[0], 16, NULL), true);
  for (uint64_t i = 1; i < depth; i++) s->line[i] = sys->ops->fork(sys, s->line[i - 1]);
  sys->ops->map(sys, s->line[depth - 1], 16, NULL);
  system_figures(sys, run);
  return s;
}

static void fork_region(struct state *s, size_t which, uint64_t times) {
  struct rmap_mm *parent = s->line[s->depth - 1]->mm, *child = s->other->mm;
  struct rmap_vma *vma = s->line[s->depth - 1]->regions[which]->vma, *copy;
  for (uint64_t done = 0; done < times;) {
    uint64_t batch = times - done < BATCH ? times - done : BATCH;
    MUST(rmap_mm_write_lock(parent));
    MUST(rmap_mm_write_lock_nested(child));
    MUST(rmap_mm_fork_begin(child, parent));
    for (uint64_t i = 0; i < batch; i++) {
      MUST(rmap_vma_fork(child, parent, vma, &copy));
      MUST(rmap_vma_free(child, copy));
    }
    MUST(rmap_mm_fork_end(child, parent));
    MUST(rmap_mm_write_unlock(child));
    MUST(rmap_mm_write_unlock(parent));
    done += batch;
  }
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  (void)thread;
  fork_region(state, 0, times);
}

static void less(void *state, unsigned thread, uint64_t times) {
  (void)thread;
  fork_region(state, 1, times);
}

static void teardown(void *state) {
  struct state *s = state;
  s->sys->ops->exit(s->sys, s->other);
  while (s->depth) s->sys->ops->exit(s->sys, s->line[--s->depth]);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "fork_unlink", .about = "anon_vma_fork and unlink_anon_vmas of one region, after so many generations",
         .source = "Rik van Riel, \"mm: change anon_vma linking to fix multi-process server scalability issue\", Linux 2.6.34; "
                   "the kernel's code timed in user space",
         .unit = UNIT_NS,
         .variants = VARIANTS("depth=1", "depth=4", "depth=16", "depth=64", "depth=256"),
         .quick = VARIANTS("depth=1", "depth=16", "depth=256"), .setup = setup, .testcase = testcase, .less = less,
         .teardown = teardown);
