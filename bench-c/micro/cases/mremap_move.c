/* A region of pages moves to and fro, alone or with a child that shares it. */
#include "../systems/system.h"

#define FLAGS (RMAP_MREMAP_MAYMOVE | RMAP_MREMAP_FIXED)
#define PLACES (UINT64_C(1) << 40) /* two places, 64 GiB apart */

struct state {
  struct system *sys;
  struct space *space, *child;
  uint64_t pages, addr, other, frame;
};

static void move(struct state *s) {
  uint64_t addr;
  MUST(rmap_machine_mremap(space_rmap_mm(s->space), s->addr, s->pages * PAGE, s->pages * PAGE, FLAGS, s->other, &addr));
  CHECK(addr == s->other);
  s->other = s->addr;
  s->addr = addr;
}

static void *setup(struct run *run) {
  uint64_t pages = param(run, "pages");
  struct system *sys = system_machine(run, &(struct system_config){.frames = pages});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .space = sys->ops->space_new(sys), .pages = pages, .other = PLACES};
  s->addr = sys->ops->map(sys, s->space, pages, NULL);
  for (uint64_t p = 0; p < pages; p++) sys->ops->touch(sys, s->space, s->addr + p * PAGE, true);
  s->frame = sys->ops->frame(sys, s->space, s->addr);
  if (param_is(run, "child", "yes")) s->child = sys->ops->fork(sys, s->space);
  move(s);
  s->other = PLACES + (UINT64_C(64) << 30);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  (void)thread;
  for (uint64_t i = 0; i < times; i++) move(state);
}

/* After all these moves everybody is still found. */
static void teardown(void *state) {
  struct state *s = state;
  CHECK(system_walk(s->sys, s->frame, true).mappings == (s->child ? 2 : 1));
  s->sys->ops->exit(s->sys, s->space);
  if (s->child) s->sys->ops->exit(s->sys, s->child);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "mremap_move", .about = "mremap of so many pages to another address",
         .source = "Andrea Arcangeli, "
                   "\"mremap: enforce rmap src/dst vma ordering in case of vma_merge() succeeding in copy_vma()\", Linux 3.3",
         .unit = UNIT_NS,
         .variants = VARIANTS("pages=1 child=no", "pages=1 child=yes", "pages=512 child=no", "pages=512 child=yes"),
         .quick = VARIANTS("pages=1 child=no", "pages=64 child=yes"), .setup = setup, .testcase = testcase,
         .teardown = teardown);
