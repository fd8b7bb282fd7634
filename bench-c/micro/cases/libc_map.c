/* Every process maps the C library: threads map, touch and unmap a file that thousands of regions map, while one more walks its page. */
#include "../systems/system.h"

#define SPACES 60
#define FILE_PAGES 4

struct state {
  struct system *sys;
  struct system_file *file;
  struct space *spaces[SPACES], **own; /* own: of each thread */
  unsigned threads;
  uint64_t vmas, frame;
};

static void *setup(struct run *run) {
  uint64_t vmas = param(run, "vmas"), each = vmas / SPACES;
  struct system *sys = system_of(run, &(struct system_config){.frames = 64, .span = (each + 2) * FILE_PAGES});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .file = sys->ops->file_new(sys, FILE_PAGES), .threads = run->threads, .vmas = each * SPACES};
  uint64_t addr = 0;
  for (unsigned i = 0; i < SPACES; i++) {
    s->spaces[i] = sys->ops->space_new(sys);
    for (uint64_t r = 0; r < each; r++) {
      addr = sys->ops->map(sys, s->spaces[i], FILE_PAGES, s->file);
      sys->ops->touch(sys, s->spaces[i], addr, false);
    }
  }
  s->frame = sys->ops->frame(sys, s->spaces[SPACES - 1], addr);
  s->own = must_calloc(run->threads, sizeof(struct space *));
  for (unsigned t = 0; t < run->threads; t++) s->own[t] = sys->ops->space_new(sys);
  CHECK(system_walk(sys, s->frame, true).mappings == s->vmas);
  return s;
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  const struct system_ops *ops = s->sys->ops;
  for (uint64_t i = 0; i < times; i++) {
    uint64_t addr = ops->map(s->sys, s->own[thread], FILE_PAGES, s->file);
    ops->touch(s->sys, s->own[thread], addr, false);
    ops->unmap(s->sys, s->own[thread], addr, FILE_PAGES);
  }
}

static void beside(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  for (uint64_t i = 0; i < times; i++) CHECK(system_walk(s->sys, s->frame, true).mappings >= s->vmas);
}

static void teardown(void *state) {
  struct state *s = state;
  for (unsigned t = 0; t < s->threads; t++) s->sys->ops->exit(s->sys, s->own[t]);
  for (unsigned i = SPACES; i-- > 0;) s->sys->ops->exit(s->sys, s->spaces[i]);
  s->sys->ops->file_free(s->sys, s->file);
  s->sys->ops->free(s->sys);
  free(s->own);
  free(s);
}

TESTCASE(.name = "libc_map", .about = "map, touch and unmap a file that many regions map; walk of its page meanwhile",
         .source = "6,000 VMAs on libc.so under UnixBench's execl: Huang Shijie, "
                   "\"mm: split the file's i_mmap tree for NUMA\", linux-mm, April 2026", .unit = UNIT_RATE,
         .threaded = true, .role = "map", .beside_role = "walk",
         .variants = VARIANTS("over=component vmas=6000", "over=machine vmas=6000"),
         .quick = VARIANTS("over=component vmas=600", "over=machine vmas=600"), .setup = setup, .testcase = testcase,
         .beside = beside, .teardown = teardown);
