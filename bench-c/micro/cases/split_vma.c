/* mprotect of every second page cuts a region into thousands, which all stay with one anchor. */
#include "../systems/system.h"

#define READ ((uint64_t)RMAP_VM_READ)
#define RW ((uint64_t)(RMAP_VM_READ | RMAP_VM_WRITE))

struct state {
  struct system *sys;
  struct space *space;
  uint64_t addr, vmas, seed;
  bool cut;
};

static void protect(const struct state *s, uint64_t page, uint64_t prot) {
  MUST(rmap_machine_mprotect(space_rmap_mm(s->space), s->addr + page * PAGE, PAGE, prot));
}

static void *setup(struct run *run) {
  uint64_t vmas = param(run, "vmas");
  struct rmap_machine_stats stats = {.size = sizeof stats};
  struct system *sys = system_machine(run, &(struct system_config){.frames = vmas});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .space = sys->ops->space_new(sys), .vmas = vmas, .seed = 1};
  s->cut = param_is(run, "do", "cut_and_merge");
  s->addr = sys->ops->map(sys, s->space, vmas, NULL);
  for (uint64_t p = 0; p < vmas; p++) sys->ops->touch(sys, s->space, s->addr + p * PAGE, true);
  for (uint64_t p = 1; p < vmas; p += 2) protect(s, p, READ);
  MUST(rmap_machine_stats(system_rmap_machine(sys), &stats));
  CHECK(stats.vmas == vmas);
  system_figures(sys, run);
  run_figure(run, "bytes_per_vma", (double)stats.rmap_bytes / (double)vmas);
  return s;
}

/* The page of a region within: both neighbours merge with it, and are cut off again. */
static void cut_and_merge(struct state *s) {
  uint64_t page = 1 + 2 * random_below(&s->seed, s->vmas / 2 - 1);
  protect(s, page, RW);
  protect(s, page, READ);
}

static void walk(struct state *s) {
  uint64_t addr = s->addr + random_below(&s->seed, s->vmas) * PAGE;
  CHECK(system_walk(s->sys, s->sys->ops->frame(s->sys, s->space, addr), true).mappings == 1);
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) s->cut ? cut_and_merge(s) : walk(s);
}

static void teardown(void *state) {
  struct state *s = state;
  s->sys->ops->exit(s->sys, s->space);
  s->sys->ops->free(s->sys);
  free(s);
}

TESTCASE(.name = "split_vma", .about = "a region cut into thousands: walk of one of its pages; one more cut and merge",
         .source = "Michel Lespinasse, \"mm anon rmap: replace same_anon_vma linked list with an interval tree\", Linux 3.7",
         .unit = UNIT_NS, .variants = VARIANTS("vmas=20000 do=walk", "vmas=20000 do=cut_and_merge"),
         .quick = VARIANTS("vmas=2000 do=walk", "vmas=2000 do=cut_and_merge"), .setup = setup, .testcase = testcase,
         .teardown = teardown);
