/*
 * A tree of processes as real ones are: 84 of 100 frames have one mapper, the others nearly all are shared by the whole tree. shell: 6
 * processes of 40 regions; database: 24 of 150; the tree is binary, so the forks are up to 4 deep. Of 100 operations 80 walk a frame, 15 map,
 * touch and unmap a region, 5 are the life of a child that writes ten pages; these weights are chosen, not measured.
 */
#include "../systems/system.h"

#define REGION 8 /* pages */
#define PROCESSES_MAX 24
#define REGIONS_MAX 150
#define SINGLE 0.84
#define THREADS_FRAMES 64 /* that a thread may need for itself */

struct state {
  struct system *sys;
  struct space *spaces[PROCESSES_MAX];
  uint64_t addrs[REGIONS_MAX];
  uint64_t processes, regions;
  uint64_t *frames; /* of the tree, each once: nothing in it is written any more */
  uint64_t frames_len;
};

static uint64_t page_addr(const struct state *s, uint64_t *seed) {
  return s->addrs[random_below(seed, s->regions)] + random_below(seed, REGION) * PAGE;
}

/* The part of the pages that every process writes, so that SINGLE of all frames have one mapper. */
static double copied_part(uint64_t processes) {
  double p = (double)processes;
  return SINGLE / (p - SINGLE * (p - 1));
}

static void grow_tree(struct state *s) {
  const struct system_ops *ops = s->sys->ops;
  uint64_t seed = 1, copied = (uint64_t)(copied_part(s->processes) * 1000);
  s->spaces[0] = ops->space_new(s->sys);
  for (uint64_t r = 0; r < s->regions; r++) {
    s->addrs[r] = ops->map(s->sys, s->spaces[0], REGION, NULL);
    for (uint64_t p = 0; p < REGION; p++) ops->touch(s->sys, s->spaces[0], s->addrs[r] + p * PAGE, true);
  }
  for (uint64_t i = 1; i < s->processes; i++) s->spaces[i] = ops->fork(s->sys, s->spaces[(i - 1) / 2]);
  for (uint64_t at = 0; at < s->regions * REGION; at++) {
    bool write = random_below(&seed, 1000) < copied;
    for (uint64_t i = 0; write && i < s->processes; i++)
      ops->touch(s->sys, s->spaces[i], s->addrs[at / REGION] + at % REGION * PAGE, true);
  }
}

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void list_frames(struct state *s) {
  uint64_t pages = s->regions * REGION, len = 0;
  s->frames = must_calloc(s->processes * pages, sizeof *s->frames);
  for (uint64_t i = 0; i < s->processes; i++)
    for (uint64_t at = 0; at < pages; at++)
      s->frames[len++] = s->sys->ops->frame(s->sys, s->spaces[i], s->addrs[at / REGION] + at % REGION * PAGE);
  qsort(s->frames, len, sizeof *s->frames, compare);
  for (uint64_t i = 0; i < len; i++)
    if (i == 0 || s->frames[i] != s->frames[s->frames_len - 1]) s->frames[s->frames_len++] = s->frames[i];
}

static void count_sharing(struct state *s, struct run *run) {
  uint64_t single = 0;
  for (uint64_t i = 0; i < s->frames_len; i++) single += system_walk(s->sys, s->frames[i], true).mappings == 1;
  run_figure(run, "single_mapper", (double)single / (double)s->frames_len);
}

static void *setup(struct run *run) {
  bool shell = param_is(run, "tree", "shell");
  uint64_t processes = shell ? 6 : PROCESSES_MAX, regions = shell ? 40 : REGIONS_MAX, pages = regions * REGION;
  struct system_config config = {.frames = pages * (processes + 1) + run->threads * THREADS_FRAMES,
                                 .span = (regions + run->threads) * (REGION + 1),
                                 .apart = true};
  struct system *sys = system_of(run, &config);
  if (!sys) return NULL;
  struct state *s = must_calloc(1, sizeof *s);
  *s = (struct state){.sys = sys, .processes = processes, .regions = regions};
  grow_tree(s);
  list_frames(s);
  count_sharing(s, run);
  system_figures(sys, run);
  return s;
}

static void live(const struct state *s, struct space *parent, uint64_t *seed) {
  struct space *child = s->sys->ops->fork(s->sys, parent);
  for (unsigned i = 0; i < 10; i++) s->sys->ops->touch(s->sys, child, page_addr(s, seed), true);
  s->sys->ops->exit(s->sys, child);
}

static void map_and_unmap(const struct state *s, struct space *space) {
  uint64_t addr = s->sys->ops->map(s->sys, space, REGION, NULL);
  s->sys->ops->touch(s->sys, space, addr, true);
  s->sys->ops->unmap(s->sys, space, addr, REGION);
}

static void testcase(void *state, unsigned thread, uint64_t times) {
  static _Thread_local uint64_t seed;
  const struct state *s = state;
  if (!seed) seed = thread + 1;
  for (uint64_t i = 0; i < times; i++) {
    uint64_t dice = random_below(&seed, 100);
    struct space *space = s->spaces[random_below(&seed, s->processes)];
    if (dice < 80)
      CHECK(system_walk(s->sys, s->frames[random_below(&seed, s->frames_len)], true).mappings >= 1);
    else if (dice < 95)
      map_and_unmap(s, space);
    else
      live(s, space, &seed);
  }
}

static void teardown(void *state) {
  struct state *s = state;
  while (s->processes) s->sys->ops->exit(s->sys, s->spaces[--s->processes]);
  s->sys->ops->free(s->sys);
  free(s->frames);
  free(s);
}

TESTCASE(.name = "mixed", .about = "walks, mappings and short-lived children in a tree of processes",
         .source = "sharing, regions and depth as in the recorded traces of a shell pipeline and a database (bench-c/traces)",
         .unit = UNIT_RATE, .threaded = true,
         .variants = VARIANTS("over=component tree=shell", "over=component tree=database", "over=machine tree=shell",
                              "over=machine tree=database"),
         .quick = VARIANTS("over=component tree=shell", "over=machine tree=shell"), .setup = setup, .testcase = testcase,
         .teardown = teardown);
