/*
 * A small memory manager in plain C: regions, page tables, faults, copy-on-write, fork, exit. What is in its ledger is not its business.
 *
 * Locks, outermost first: mmap_lock (the parent's, then the child's), table lock (the parent's, then the child's), the ledger's own.
 */
#include <string.h>

#include "frames.h"
#include "ledger.h"

struct vm {
  struct system base;
  const struct ledger *ledger;
  void *book;
  uint64_t span;
  bool apart;
  bool reserves; /* before it maps */
  struct frames frames;
};

static struct vm *of(struct system *sys) { return (struct vm *)sys; }

struct rmap_ctx *component_ctx(struct system *sys) { return of(sys)->book; }

static void put_frame(struct vm *vm, uint64_t frame) {
  if (vm->ledger->put(vm->book, frame)) frames_free(&vm->frames, frame);
}

static uint64_t new_frame(struct vm *vm) {
  uint64_t frame = frames_alloc(&vm->frames);
  vm->ledger->claim(vm->book, frame);
  return frame;
}

static struct space *vm_space_new(struct system *sys) {
  struct space *space = must_calloc(1, sizeof *space);
  table_init(&space->table, of(sys)->span);
  of(sys)->ledger->space_made(of(sys)->book, space);
  return space;
}

/* The first region that ends after an address, as an index. */
static size_t region_at(const struct space *space, uint64_t addr) {
  size_t low = 0, high = space->len;
  while (low < high) {
    size_t middle = (low + high) / 2;
    const struct region *r = space->regions[middle];
    if (r->addr + r->pages * PAGE <= addr)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static struct region *region_insert(struct space *space, size_t at, uint64_t addr, uint64_t pages,
                                    struct system_file *file) {
  struct region *region = must_calloc(1, sizeof *region);
  *region = (struct region){.addr = addr, .pages = pages, .file = file};
  if (space->len == space->cap) {
    space->cap = space->cap ? 2 * space->cap : 4;
    space->regions = realloc(space->regions, space->cap * sizeof *space->regions);
    CHECK(space->regions != NULL);
  }
  memmove(space->regions + at + 1, space->regions + at, (space->len - at) * sizeof *space->regions);
  space->regions[at] = region;
  space->len++;
  return region;
}

/* The first address after a region where another may begin. */
static uint64_t after(const struct vm *vm, const struct region *region) {
  return region->addr + (region->pages + (vm->apart && !region->file)) * PAGE;
}

/* After the last region, or in the first gap that is large enough. */
static uint64_t find_gap(const struct vm *vm, const struct space *space, uint64_t pages, size_t *at) {
  uint64_t end = TABLE_BASE + space->table.pages * PAGE;
  uint64_t addr = space->len ? after(vm, space->regions[space->len - 1]) : TABLE_BASE;
  *at = space->len;
  if (addr + pages * PAGE <= end) return addr;
  addr = TABLE_BASE;
  for (size_t i = 0; i < space->len; i++) {
    *at = i;
    if (addr + (pages + vm->apart) * PAGE <= space->regions[i]->addr) return addr;
    addr = after(vm, space->regions[i]);
  }
  fprintf(stderr, "an address space of the small manager is full\n");
  exit(1);
}

static uint64_t vm_map(struct system *sys, struct space *space, uint64_t pages, struct system_file *file) {
  const struct ledger *ledger = of(sys)->ledger;
  size_t at;
  ledger->write_lock(space, false);
  uint64_t addr = find_gap(of(sys), space, pages, &at);
  struct region *region = region_insert(space, at, addr, pages, file);
  if (ledger->region_made) ledger->region_made(space, region);
  ledger->write_unlock(space);
  return addr;
}

/* Takes every page out of a region, table lock by table lock. mmap_lock held for writing. */
static void region_empty(struct vm *vm, struct space *space, struct region *region) {
  uint64_t end = region->addr + region->pages * PAGE;
  for (uint64_t addr = region->addr; addr < end;) {
    pthread_mutex_t *lock = table_lock(&space->table, addr);
    do {
      entry *e = table_entry(&space->table, addr);
      uint64_t frame = entry_frame(atomic_load_explicit(e, memory_order_relaxed));
      if (frame) {
        atomic_store_explicit(e, 0, memory_order_release);
        vm->ledger->removed(vm->book, frame, (struct place){space, region, addr});
        put_frame(vm, frame);
      }
      addr += PAGE;
    } while (addr < end && table_index(&space->table, addr) % TABLE_LOCKED);
    pthread_mutex_unlock(lock);
  }
}

static void region_remove(struct vm *vm, struct space *space, size_t at) {
  struct region *region = space->regions[at];
  region_empty(vm, space, region);
  if (vm->ledger->region_gone) vm->ledger->region_gone(space, region);
  space->len--;
  memmove(space->regions + at, space->regions + at + 1, (space->len - at) * sizeof *space->regions);
  free(region);
}

static void vm_unmap(struct system *sys, struct space *space, uint64_t addr, uint64_t pages) {
  const struct ledger *ledger = of(sys)->ledger;
  ledger->write_lock(space, false);
  size_t at = region_at(space, addr);
  CHECK(at < space->len && space->regions[at]->addr == addr && space->regions[at]->pages == pages);
  region_remove(of(sys), space, at);
  ledger->write_unlock(space);
}

static void vm_exit(struct system *sys, struct space *space) {
  const struct ledger *ledger = of(sys)->ledger;
  ledger->write_lock(space, false);
  while (space->len) region_remove(of(sys), space, space->len - 1);
  ledger->write_unlock(space);
  ledger->space_gone(of(sys)->book, space);
  table_destroy(&space->table);
  free(space->regions);
  free(space);
}

/* Shares one page with the child, write-protected on both sides. Both table locks held. */
static void share_page(struct vm *vm, entry *from, struct place child) {
  uint64_t frame = entry_frame(atomic_load_explicit(from, memory_order_relaxed));
  if (!frame) return;
  vm->ledger->get(vm->book, frame);
  vm->ledger->copied(vm->book, frame, child);
  atomic_store_explicit(from, entry_make(frame, false), memory_order_release);
  atomic_store_explicit(table_entry(&child.space->table, child.addr), entry_make(frame, false), memory_order_release);
}

static void region_share(struct vm *vm, struct space *parent, struct space *child, struct region *copy) {
  uint64_t end = copy->addr + copy->pages * PAGE;
  for (uint64_t addr = copy->addr; addr < end;) {
    pthread_mutex_t *from = table_lock(&parent->table, addr), *to = table_lock(&child->table, addr);
    do {
      share_page(vm, table_entry(&parent->table, addr), (struct place){child, copy, addr});
      addr += PAGE;
    } while (addr < end && table_index(&parent->table, addr) % TABLE_LOCKED);
    pthread_mutex_unlock(to);
    pthread_mutex_unlock(from);
  }
}

static struct space *vm_fork(struct system *sys, struct space *parent) {
  struct vm *vm = of(sys);
  const struct ledger *ledger = vm->ledger;
  struct space *child = vm_space_new(sys);
  ledger->write_lock(parent, false);
  ledger->write_lock(child, true);
  if (ledger->fork_begin) ledger->fork_begin(child, parent);
  for (size_t i = 0; i < parent->len; i++) {
    struct region *r = parent->regions[i], *copy = region_insert(child, i, r->addr, r->pages, r->file);
    if (ledger->region_forked) ledger->region_forked(child, copy, parent, r);
    if (vm->reserves) ledger->reserve(vm->book, copy->pages);
    region_share(vm, parent, child, copy);
    if (vm->reserves) ledger->unreserve(vm->book, copy->pages);
  }
  if (ledger->fork_end) ledger->fork_end(child, parent);
  ledger->write_unlock(child);
  ledger->write_unlock(parent);
  return child;
}

static struct system_file *vm_file_new(struct system *sys, uint64_t pages) {
  struct system_file *file = must_calloc(1, sizeof *file);
  file->pages = pages;
  file->frames = must_calloc(pages, sizeof *file->frames);
  for (uint64_t i = 0; i < pages; i++) file->frames[i] = new_frame(of(sys));
  if (of(sys)->ledger->file_made) of(sys)->ledger->file_made(of(sys)->book, file);
  return file;
}

static void vm_file_free(struct system *sys, struct system_file *file) {
  if (of(sys)->ledger->file_gone) of(sys)->ledger->file_gone(of(sys)->book, file);
  for (uint64_t i = 0; i < file->pages; i++) put_frame(of(sys), file->frames[i]);
  free(file->frames);
  free(file);
}

static uint64_t map_file_page(struct vm *vm, struct place place) {
  const struct system_file *file = place.region->file;
  uint64_t frame = file->frames[(place.addr - place.region->addr) / PAGE];
  vm->ledger->get(vm->book, frame);
  vm->ledger->added_file(vm->book, frame, place);
  return entry_make(frame, false);
}

static uint64_t map_new_page(struct vm *vm, struct place place) {
  uint64_t frame = new_frame(vm);
  vm->ledger->added_new(vm->book, frame, place);
  return entry_make(frame, true);
}

/* Copy-on-write: the page is the space's alone afterwards. */
static uint64_t copy_on_write(struct vm *vm, uint64_t frame, struct place place) {
  if (vm->ledger->reuse(vm->book, frame, place)) return entry_make(frame, true);
  vm->ledger->removed(vm->book, frame, place);
  uint64_t word = map_new_page(vm, place);
  put_frame(vm, frame);
  return word;
}

static void vm_touch(struct system *sys, struct space *space, uint64_t addr, bool write) {
  struct vm *vm = of(sys);
  vm->ledger->read_lock(space);
  size_t at = region_at(space, addr);
  CHECK(at < space->len && space->regions[at]->addr <= addr);
  struct place place = {space, space->regions[at], addr};
  CHECK(!write || !place.region->file);
  if (vm->ledger->prepare && !place.region->file) vm->ledger->prepare(place.region);
  if (vm->reserves) vm->ledger->reserve(vm->book, 1);
  pthread_mutex_t *lock = table_lock(&space->table, addr);
  entry *e = table_entry(&space->table, addr);
  uint64_t word = atomic_load_explicit(e, memory_order_relaxed), old = word;
  if (!word)
    word = place.region->file ? map_file_page(vm, place) : map_new_page(vm, place);
  else if (write && !(word & ENTRY_WRITE))
    word = copy_on_write(vm, entry_frame(word), place);
  if (word != old) atomic_store_explicit(e, word, memory_order_release);
  pthread_mutex_unlock(lock);
  if (vm->reserves) vm->ledger->unreserve(vm->book, 1);
  vm->ledger->read_unlock(space);
}

static uint64_t vm_frame(struct system *sys, struct space *space, uint64_t addr) {
  (void)sys;
  return entry_frame(atomic_load_explicit(table_entry(&space->table, addr), memory_order_acquire));
}

static bool vm_hold(struct system *sys, uint64_t frame) {
  return frame && of(sys)->ledger->hold(of(sys)->book, frame);
}

static void vm_unhold(struct system *sys, uint64_t frame) {
  if (of(sys)->ledger->unhold(of(sys)->book, frame)) frames_free(&of(sys)->frames, frame);
}

static struct walked vm_walk(struct system *sys, uint64_t frame, bool check) {
  return of(sys)->ledger->walk(of(sys)->book, frame, check);
}

static bool vm_look_up(struct system *sys, uint64_t frame) { return of(sys)->ledger->look_up(of(sys)->book, frame); }

static void vm_usage(struct system *sys, struct usage *usage) { of(sys)->ledger->usage(of(sys)->book, usage); }

static void vm_free(struct system *sys) {
  of(sys)->ledger->free(of(sys)->book);
  frames_destroy(&of(sys)->frames);
  free(sys);
}

static const struct system_ops vm_ops = {
    .free = vm_free,
    .space_new = vm_space_new,
    .fork = vm_fork,
    .exit = vm_exit,
    .file_new = vm_file_new,
    .file_free = vm_file_free,
    .map = vm_map,
    .unmap = vm_unmap,
    .touch = vm_touch,
    .frame = vm_frame,
    .hold = vm_hold,
    .unhold = vm_unhold,
    .walk = vm_walk,
    .look_up = vm_look_up,
    .usage = vm_usage,
};

struct system *system_component(struct run *run, const struct system_config *config) {
  const struct ledger *ledger = run->engine->ledger ? run->engine->ledger : &component_ledger;
  bool threads = run->threads > 1 || run->test->beside;
  if (threads && !ledger->threads) return run_unsupported(run, "has no lock: one thread only");
  void *book = ledger->make(run->engine->value, config->frames);
  if (!book) return run_unsupported(run, "librmap does not have this engine");
  struct vm *vm = must_calloc(1, sizeof *vm);
  vm->base.ops = &vm_ops;
  vm->ledger = ledger;
  vm->book = book;
  vm->span = config->span;
  vm->apart = config->apart;
  vm->reserves = ledger->reserve && run->engine->value == RMAP_ENGINE_PTE_CHAIN;
  frames_init(&vm->frames, config->frames);
  return &vm->base;
}
