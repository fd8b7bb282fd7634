/* librmap's machine: frames without contents, so that no time goes into copying them. */
#include <stdatomic.h>

#include "system.h"

struct machine_system {
  struct system base;
  struct rmap_machine *machine;
  atomic_uintptr_t regions; /* mapped so far */
  bool apart;
};

#define RW (RMAP_VM_READ | RMAP_VM_WRITE)

/* A space is the machine's own handle. */
struct rmap_machine_mm *space_rmap_mm(struct space *space) { return (struct rmap_machine_mm *)space; }
static struct space *of_mm(struct rmap_machine_mm *mm) { return (struct space *)mm; }
struct rmap_machine *system_rmap_machine(struct system *sys) { return ((struct machine_system *)sys)->machine; }

static void machine_free(struct system *sys) {
  MUST(rmap_machine_free(system_rmap_machine(sys)));
  free(sys);
}

static struct space *machine_space_new(struct system *sys) {
  struct rmap_machine_mm *mm;
  MUST(rmap_machine_mm_new(system_rmap_machine(sys), &mm));
  return of_mm(mm);
}

static struct space *machine_fork(struct system *sys, struct space *parent) {
  struct rmap_machine_mm *mm;
  (void)sys;
  MUST(rmap_machine_fork(space_rmap_mm(parent), &mm));
  return of_mm(mm);
}

static void machine_exit(struct system *sys, struct space *space) {
  (void)sys;
  MUST(rmap_machine_exit(space_rmap_mm(space)));
}

static struct system_file *machine_file_new(struct system *sys, uint64_t pages) {
  struct rmap_machine_file *file;
  MUST(rmap_machine_file_new(system_rmap_machine(sys), pages, NULL, NULL, &file));
  return (struct system_file *)file;
}

static void machine_file_free(struct system *sys, struct system_file *file) {
  (void)sys;
  MUST(rmap_machine_file_free((struct rmap_machine_file *)file));
}

/* Each region has a private word of its own: neighbours do not become one. */
static uint64_t machine_map(struct system *sys, struct space *space, uint64_t pages, struct system_file *file) {
  struct machine_system *machine = (struct machine_system *)sys;
  uint64_t gap = machine->apart && !file ? PAGE : 0;
  struct rmap_map_request request = {.size = sizeof request,
                                     .len = pages * PAGE + gap,
                                     .prot = file ? RMAP_VM_READ : RW,
                                     .flags = RMAP_MAP_PRIVATE,
                                     .file = (struct rmap_machine_file *)file};
  uint64_t addr;
  request.private_data = (void *)(1 + atomic_fetch_add(&machine->regions, 1));
  MUST(rmap_machine_mmap(space_rmap_mm(space), &request, &addr));
  if (gap) MUST(rmap_machine_munmap(space_rmap_mm(space), addr + pages * PAGE, gap));
  return addr;
}

static void machine_unmap(struct system *sys, struct space *space, uint64_t addr, uint64_t pages) {
  (void)sys;
  MUST(rmap_machine_munmap(space_rmap_mm(space), addr, pages * PAGE));
}

static void machine_touch(struct system *sys, struct space *space, uint64_t addr, bool write) {
  (void)sys;
  MUST(rmap_machine_fault(space_rmap_mm(space), addr, write ? RMAP_ACCESS_WRITE : RMAP_ACCESS_READ));
}

static uint64_t machine_frame(struct system *sys, struct space *space, uint64_t addr) {
  uint64_t pfn;
  (void)sys;
  return rmap_machine_pfn(space_rmap_mm(space), addr, &pfn) == RMAP_OK ? pfn : 0;
}

/* The walk itself holds the frame. */
static bool machine_hold(struct system *sys, uint64_t frame) {
  (void)sys;
  return frame != 0;
}

static void machine_unhold(struct system *sys, uint64_t frame) { (void)sys, (void)frame; }

static struct walked machine_walk(struct system *sys, uint64_t frame, bool check) {
  size_t n;
  (void)check;
  MUST(rmap_machine_page_mappings(system_rmap_machine(sys), frame, NULL, 0, &n));
  return (struct walked){.mappings = n};
}

static void machine_usage(struct system *sys, struct usage *usage) {
  struct rmap_machine_stats stats = {.size = sizeof stats};
  MUST(rmap_machine_stats(system_rmap_machine(sys), &stats));
  *usage = (struct usage){stats.anchors, stats.links, stats.rmap_bytes, RMAP_PAGE_DESC_SIZE};
}

static const struct system_ops machine_ops = {
    .free = machine_free,
    .space_new = machine_space_new,
    .fork = machine_fork,
    .exit = machine_exit,
    .file_new = machine_file_new,
    .file_free = machine_file_free,
    .map = machine_map,
    .unmap = machine_unmap,
    .touch = machine_touch,
    .frame = machine_frame,
    .hold = machine_hold,
    .unhold = machine_unhold,
    .walk = machine_walk,
    .usage = machine_usage,
};

struct system *system_machine(struct run *run, const struct system_config *config) {
  struct rmap_machine_config c;
  if (run->engine->ledger) return run_unsupported(run, "a model has no machine");
  struct machine_system *sys = must_calloc(1, sizeof *sys);
  sys->base.ops = &machine_ops;
  sys->apart = config->apart;
  MUST(rmap_machine_config_init(&c, sizeof c));
  c.engine = run->engine->value;
  c.frames = config->frames + 1; /* one is the zero page */
  c.first_pfn = 1;
  c.contents = RMAP_CONTENTS_METADATA;
  c.swap = RMAP_SWAP_NOWHERE;
  c.swap_slots = config->swap_slots;
  enum rmap_status status = rmap_machine_new(&c, &sys->machine);
  if (status == RMAP_ERR_NOT_SUPPORTED) {
    free(sys);
    return run_unsupported(run, "librmap does not have this engine");
  }
  MUST(status);
  return &sys->base;
}
