/*
 * The operations of the reverse map, timed through the C ABI, beside the kernel's own C code (6.12, compiled in user space on a quiet
 * machine of this kind). The same operations in Rust: rmap-core/benches. Walks only count, as there: no page table is looked at.
 *
 * One line per figure: SUMMARY name ours_ns kernel_ns ratio. Medians of several rounds. Making and freeing the VMA itself is subtracted, as
 * it is not in the kernel's figures.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rmap.h"

#define PAGE ((uint64_t)RMAP_PAGE_SIZE)
#define BASE ((uint64_t)1 << 32)
#define ROUNDS 9
#define RW (RMAP_VM_READ | RMAP_VM_WRITE)

#define MUST(call)                                                                                   \
  do {                                                                                               \
    enum rmap_status status_ = (call);                                                               \
    if (status_ != RMAP_OK) {                                                                        \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, rmap_strerror((int)status_));    \
      exit(1);                                                                                       \
    }                                                                                                \
  } while (0)

/* Page tables that hold nothing: no figure here looks at an entry. */
static void no_load(void *table, uint64_t addr, struct rmap_pte *pte) {
  (void)table, (void)addr;
  memset(pte, 0, sizeof *pte);
}
static bool no_lock(void *table, uint64_t addr, bool nested, void **cookie) {
  (void)table, (void)addr, (void)nested, (void)cookie;
  return false;
}
static void no_unlock(void *table, void *cookie) { (void)table, (void)cookie; }
static void no_set(void *table, uint64_t addr, const struct rmap_pte *pte) { (void)table, (void)addr, (void)pte; }
static void no_flush(void *table, uint64_t start, uint64_t end) { (void)table, (void)start, (void)end; }

static const struct rmap_pte_ops no_tables = {
    .size = sizeof no_tables,
    .load = no_load,
    .lock = no_lock,
    .unlock = no_unlock,
    .set = no_set,
    .clear_flush = no_load,
    .flush = no_flush,
};

static struct rmap_ctx *ctx;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef void operation(void *arg, unsigned times);

static double time_of(operation *run, void *arg, unsigned times) {
  uint64_t start = now_ns();
  run(arg, times);
  return (double)(now_ns() - start) / times;
}

/*
 * Runs ROUNDS rounds of `times` operations, and prints the median of one. With `less`, each round runs that too, and what it takes is
 * subtracted: the part of an operation that the kernel's figure does not have in it.
 */
static void figure(const char *name, double kernel, operation *run, void *arg, operation *less, void *less_arg,
                   unsigned times) {
  double ns[ROUNDS];
  run(arg, times / 4 + 1);
  if (less) less(less_arg, times / 4 + 1);
  for (int round = 0; round < ROUNDS; round++) {
    ns[round] = time_of(run, arg, times);
    if (less) ns[round] -= time_of(less, less_arg, times);
  }
  qsort(ns, ROUNDS, sizeof *ns, compare);
  double median = ns[ROUNDS / 2];
  printf("SUMMARY %-28s %10.1f %10.1f %6.2f   (%.1f .. %.1f)\n", name, median, kernel, median / kernel, ns[0],
         ns[ROUNDS - 1]);
  fflush(stdout);
}

static struct rmap_mm *new_mm(void) {
  struct rmap_mm *mm;
  MUST(rmap_mm_new(ctx, &no_tables, NULL, NULL, &mm));
  return mm;
}

static struct rmap_vma *new_vma(struct rmap_mm *mm, uint64_t start) {
  struct rmap_vma *vma;
  MUST(rmap_vma_new(mm, start, start + 16 * PAGE, RW, NULL, start / PAGE, NULL, &vma));
  return vma;
}

static struct rmap_page *anon_page(uint64_t pfn, struct rmap_vma *vma) {
  struct rmap_page *page = rmap_page(ctx, pfn);
  MUST(rmap_page_claim(page));
  MUST(rmap_anon_vma_prepare(vma));
  MUST(rmap_page_add_new_anon(page, vma, rmap_vma_start(vma), RMAP_LEVEL_PAGE));
  return page;
}

/* Freed VMAs are taken back when a layout change ends: a batch of operations here is one change, as a munmap of many VMAs is. */
#define BATCH 256

static void next_batch(struct rmap_mm *mm, unsigned i) {
  if (i % BATCH != BATCH - 1) return;
  MUST(rmap_mm_write_unlock(mm));
  MUST(rmap_mm_write_lock_nested(mm));
}

/* A VMA is made, prepared, and freed with its anon_vma. */
static void prepare_unlink(void *arg, unsigned times) {
  struct rmap_mm *mm = arg;
  for (unsigned i = 0; i < times; i++) {
    next_batch(mm, i);
    struct rmap_vma *vma = new_vma(mm, BASE);
    MUST(rmap_anon_vma_prepare(vma));
    MUST(rmap_vma_free(mm, vma));
  }
}

/* The same without the anon_vma. */
static void new_free(void *arg, unsigned times) {
  struct rmap_mm *mm = arg;
  for (unsigned i = 0; i < times; i++) {
    next_batch(mm, i);
    MUST(rmap_vma_free(mm, new_vma(mm, BASE)));
  }
}

struct pair {
  struct rmap_mm *parent, *child;
  struct rmap_vma *vma;
};

static void fork_unlink(void *arg, unsigned times) {
  struct pair *pair = arg;
  for (unsigned i = 0; i < times; i++) {
    next_batch(pair->child, i);
    struct rmap_vma *copy;
    MUST(rmap_vma_fork(pair->child, pair->parent, pair->vma, &copy));
    MUST(rmap_vma_free(pair->child, copy));
  }
}

static bool count(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, void *arg) {
  (void)page, (void)vma, (void)addr;
  ++*(uint64_t *)arg;
  return true;
}

struct walked {
  struct rmap_page *page;
  uint64_t expected;
};

static void walk(void *arg, unsigned times) {
  struct walked *walked = arg;
  uint64_t visited = 0;
  struct rmap_walk_control control = {.size = sizeof control, .rmap_one = count, .arg = &visited};
  MUST(rmap_page_lock(walked->page));
  for (unsigned i = 0; i < times; i++) MUST(rmap_walk(ctx, walked->page, &control, NULL));
  MUST(rmap_page_unlock(walked->page));
  if (visited != walked->expected * times) {
    fprintf(stderr, "a walk visited %f VMAs, not %llu\n", (double)visited / times, (unsigned long long)walked->expected);
    exit(1);
  }
}

static void look_up(void *arg, unsigned times) {
  struct rmap_page *page = arg;
  for (unsigned i = 0; i < times; i++) {
    struct rmap_anon_vma_lock lock;
    MUST(rmap_page_lock_anon_vma_read(ctx, page, &lock));
    MUST(rmap_anon_vma_unlock_read(&lock));
  }
}

int main(void) {
  struct rmap_config config;
  MUST(rmap_config_init(&config, sizeof config));
  MUST(rmap_new(&config, &ctx));
  MUST(rmap_pages_add(ctx, 1, 64, NULL));
  printf("librmap %s through C; ns an operation: ours, kernel's, ratio (least .. most)\n", rmap_version_string());

  struct rmap_mm *mm = new_mm(), *other = new_mm();
  MUST(rmap_mm_write_lock(mm));
  figure("anon_vma_prepare_unlink", 33, prepare_unlink, mm, new_free, mm, 50000);

  /* A line of forks: each generation's VMA is tied to the anon_vmas of all before it. */
  static const struct {
    unsigned depth;
    double kernel;
    unsigned times;
  } forks[] = {{1, 50, 50000}, {4, 93, 50000}, {16, 292, 20000}, {64, 1725, 5000}, {256, 14600, 1000}};
  MUST(rmap_mm_write_unlock(mm));
  struct rmap_mm *line[257];
  struct rmap_vma *vmas[257];
  line[0] = new_mm();
  MUST(rmap_mm_write_lock(line[0]));
  vmas[0] = new_vma(line[0], BASE);
  struct rmap_page *oldest = anon_page(1, vmas[0]);
  MUST(rmap_mm_write_unlock(line[0]));
  unsigned grown = 1;
  for (size_t f = 0; f < sizeof forks / sizeof *forks; f++) {
    for (; grown < forks[f].depth; grown++) {
      line[grown] = new_mm();
      MUST(rmap_mm_write_lock(line[grown - 1]));
      MUST(rmap_mm_write_lock_nested(line[grown]));
      MUST(rmap_vma_fork(line[grown], line[grown - 1], vmas[grown - 1], &vmas[grown]));
      MUST(rmap_mm_write_unlock(line[grown]));
      MUST(rmap_mm_write_unlock(line[grown - 1]));
    }
    struct pair pair = {line[grown - 1], other, vmas[grown - 1]};
    char name[32];
    snprintf(name, sizeof name, "anon_vma_fork_unlink/%u", forks[f].depth);
    MUST(rmap_mm_write_lock(pair.parent));
    struct rmap_vma *untouched = new_vma(pair.parent, 2 * BASE);
    struct pair bare = {pair.parent, other, untouched};
    MUST(rmap_mm_write_lock_nested(other));
    figure(name, forks[f].kernel, fork_unlink, &pair, fork_unlink, &bare, forks[f].times);
    MUST(rmap_vma_free(pair.parent, untouched));
    MUST(rmap_mm_write_unlock(other));
    MUST(rmap_mm_write_unlock(pair.parent));
  }

  /* One parent with n children: the parent's page, and a child's own. */
  static const struct {
    unsigned n;
    double kernel;
    unsigned times;
  } walks[] = {{1, 23, 200000}, {10, 80, 100000}, {1000, 7700, 2000}, {10000, 106000, 200}};
  static struct rmap_mm *kids[10000];
  static struct rmap_vma *kid_vmas[10000];
  struct rmap_mm *parent = new_mm();
  MUST(rmap_mm_write_lock(parent));
  struct rmap_vma *vma = new_vma(parent, BASE);
  struct walked walked = {anon_page(2, vma), 0};
  unsigned born = 1;
  for (size_t w = 0; w < sizeof walks / sizeof *walks; w++) {
    for (; born < walks[w].n; born++) {
      kids[born] = new_mm();
      MUST(rmap_mm_write_lock_nested(kids[born]));
      MUST(rmap_vma_fork(kids[born], parent, vma, &kid_vmas[born]));
      MUST(rmap_mm_write_unlock(kids[born]));
    }
    char name[32];
    snprintf(name, sizeof name, "walk/%u", walks[w].n);
    walked.expected = walks[w].n;
    figure(name, walks[w].kernel, walk, &walked, NULL, NULL, walks[w].times);
    if (walks[w].n == 1000) {
      MUST(rmap_mm_write_unlock(parent));
      MUST(rmap_mm_read_lock(kids[999]));
      struct walked own = {anon_page(3, kid_vmas[999]), 1};
      MUST(rmap_mm_read_unlock(kids[999]));
      figure("walk/own_of_1000_siblings", 17, walk, &own, NULL, NULL, 200000);
      MUST(rmap_mm_write_lock(parent));
    }
  }
  MUST(rmap_mm_write_unlock(parent));
  figure("look_up", 6.4, look_up, oldest, NULL, NULL, 1000000);

  struct rmap_stats stats = {.size = sizeof stats};
  MUST(rmap_stats(ctx, &stats));
  printf("SUMMARY sizes: page %d B, anon_vmas %llu, VMAs %llu, %llu B in all, %llu B of them the engine's\n",
         (int)RMAP_PAGE_DESC_SIZE, (unsigned long long)stats.anon_vmas, (unsigned long long)stats.vmas,
         (unsigned long long)stats.bytes, (unsigned long long)stats.engine_bytes);
  /* The process ends here, and with it all that was made: a benchmark owes no tidying up. */
  return 0;
}
