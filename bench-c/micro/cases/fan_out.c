/*
 * A parent with many children, each of which has copied every page: with one anchor for the family all these pages are on one list. Which
 * child's page is walked is a seeded sequence; `ops` says how many were, `sampled` of how many the candidates were counted.
 */
#include "../systems/system.h"

#define SAMPLE 1000

struct state {
  struct system *sys;
  struct space *parent, **children;
  uint64_t children_len, pages, addr;
  uint64_t *frames; /* that are walked */
  uint64_t frames_len, seed;
  bool check;
};

static void make_children(struct state *s) {
  const struct system_ops *ops = s->sys->ops;
  s->children = must_calloc(s->children_len, sizeof(struct space *));
  for (uint64_t c = 0; c < s->children_len; c++) {
    s->children[c] = ops->fork(s->sys, s->parent);
    for (uint64_t p = 0; p < s->pages; p++) ops->touch(s->sys, s->children[c], s->addr + p * PAGE, true);
  }
}

static void add_frames(struct state *s, struct space *space, uint64_t pages) {
  for (uint64_t p = 0; p < pages; p++)
    s->frames[s->frames_len++] = s->sys->ops->frame(s->sys, space, s->addr + p * PAGE);
}

static void choose_frames(struct state *s, const struct run *run) {
  s->frames = must_calloc(s->children_len * s->pages, sizeof *s->frames);
  if (param_is(run, "page", "parent"))
    add_frames(s, s->parent, s->pages);
  else if (param_is(run, "page", "one_child"))
    add_frames(s, s->children[s->children_len - 1], 1);
  else
    for (uint64_t c = 0; c < s->children_len; c++) add_frames(s, s->children[c], s->pages);
}

/* Every page here is mapped once. A child's page has one candidate where each process has an anchor of its own. */
static void count_candidates(struct state *s, struct run *run) {
  uint64_t n = s->frames_len < SAMPLE ? s->frames_len : SAMPLE, candidates = 0;
  for (uint64_t i = 0; i < n; i++) {
    uint64_t frame = s->frames[random_below(&s->seed, s->frames_len)];
    candidates += system_walk(s->sys, frame, false).candidates;
    CHECK(system_walk(s->sys, frame, true).mappings == 1);
  }
  if (run->engine->value == RMAP_ENGINE_ANON_VMA)
    CHECK(candidates == n * (param_is(run, "page", "parent") ? s->children_len + 1 : 1));
  run_figure(run, "candidates_per_mapping", (double)candidates / (double)n);
  run_figure(run, "sampled", (double)n);
}

static void *setup(struct run *run) {
  uint64_t children = param(run, "children"), pages = param(run, "pages");
  struct system *sys = system_component(run, &(struct system_config){.frames = (children + 1) * pages, .span = pages});
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .parent = sys->ops->space_new(sys), .children_len = children, .pages = pages, .seed = 1};
  s->addr = sys->ops->map(sys, s->parent, pages, NULL);
  for (uint64_t p = 0; p < pages; p++) sys->ops->touch(sys, s->parent, s->addr + p * PAGE, true);
  make_children(s);
  choose_frames(s, run);
  s->check = param_is(run, "check", "pte");
  count_candidates(s, run);
  system_figures(sys, run);
  return s;
}

static void check_walk(const struct state *s, struct walked walked) {
  CHECK(s->check ? walked.mappings == 1 : walked.candidates >= 1);
}

/* One page is held all the time: the walk alone is timed. */
static void walk_one(const struct state *s, uint64_t times) {
  CHECK(s->sys->ops->hold(s->sys, s->frames[0]));
  for (uint64_t i = 0; i < times; i++) check_walk(s, s->sys->ops->walk(s->sys, s->frames[0], s->check));
  s->sys->ops->unhold(s->sys, s->frames[0]);
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  struct state *s = state;
  (void)thread;
  if (s->frames_len == 1)
    walk_one(s, times);
  else
    for (uint64_t i = 0; i < times; i++)
      check_walk(s, system_walk(s->sys, s->frames[random_below(&s->seed, s->frames_len)], s->check));
}

static void teardown(void *state) {
  struct state *s = state;
  while (s->children_len) s->sys->ops->exit(s->sys, s->children[--s->children_len]);
  s->sys->ops->exit(s->sys, s->parent);
  s->sys->ops->free(s->sys);
  free(s->children);
  free(s->frames);
  free(s);
}

TESTCASE(.name = "fan_out", .about = "walk of a page of one child, or of the parent, among children that have copied everything",
         .source = "1,000 children with 1,000 copied pages each: Rik van Riel, "
                   "\"mm: change anon_vma linking to fix multi-process server scalability issue\", Linux 2.6.34",
         .unit = UNIT_NS,
         .variants = VARIANTS("children=1000 pages=1000 page=one_child check=none",
                              "children=1000 pages=1000 page=child check=none",
                              "children=1000 pages=1000 page=child check=pte",
                              "children=1000 pages=1000 page=parent check=pte"),
         .quick = VARIANTS("children=100 pages=100 page=one_child check=none", "children=100 pages=100 page=child check=pte",
                           "children=100 pages=100 page=parent check=pte"),
         .setup = setup, .testcase = testcase, .teardown = teardown);
