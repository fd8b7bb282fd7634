/* The reverse map of the small manager in librmap: what any program with page tables of its own writes. The book is the context. */
#include <string.h>

#include "ledger.h"

#define RW (RMAP_VM_READ | RMAP_VM_WRITE)

/* The page tables, as librmap sees them. */

static void load_entry(void *table, uint64_t addr, struct rmap_pte *pte) {
  uint64_t word = atomic_load_explicit(table_entry(table, addr), memory_order_acquire);
  memset(pte, 0, sizeof *pte);
  pte->kind = word ? RMAP_PTE_PRESENT : RMAP_PTE_NONE;
  pte->flags = word & ENTRY_WRITE ? RMAP_PTE_WRITE : 0;
  pte->pfn = entry_frame(word);
}

static bool lock_entry(void *table, uint64_t addr, bool nested, void **cookie) {
  (void)nested;
  *cookie = table_lock(table, addr);
  return true;
}

static void unlock_entry(void *table, void *cookie) {
  (void)table;
  pthread_mutex_unlock(cookie);
}

/* Entries of swap and migration do not occur: nobody unmaps by way of librmap. */
static void set_entry(void *table, uint64_t addr, const struct rmap_pte *pte) {
  CHECK(pte->kind == RMAP_PTE_PRESENT || pte->kind == RMAP_PTE_NONE);
  uint64_t word = pte->kind == RMAP_PTE_NONE ? 0 : entry_make(pte->pfn, pte->flags & RMAP_PTE_WRITE);
  atomic_store_explicit(table_entry(table, addr), word, memory_order_release);
}

static void clear_entry(void *table, uint64_t addr, struct rmap_pte *old) {
  load_entry(table, addr, old);
  atomic_store_explicit(table_entry(table, addr), 0, memory_order_release);
}

static const struct rmap_pte_ops tables = {
    .size = sizeof tables,
    .load = load_entry,
    .lock = lock_entry,
    .unlock = unlock_entry,
    .set = set_entry,
    .clear_flush = clear_entry,
};

static void *make(uint32_t engine, uint64_t frames) {
  struct rmap_config config;
  struct rmap_ctx *ctx;
  MUST(rmap_config_init(&config, sizeof config));
  config.engine = engine;
  enum rmap_status status = rmap_new(&config, &ctx);
  if (status == RMAP_ERR_NOT_SUPPORTED) return NULL;
  MUST(status);
  MUST(rmap_pages_add(ctx, 1, frames, NULL));
  return ctx;
}

static void free_ctx(void *book) { MUST(rmap_free(book)); }

static void space_made(void *book, struct space *space) { MUST(rmap_mm_new(book, &tables, &space->table, space, &space->mm)); }

static void space_gone(void *book, struct space *space) {
  (void)book;
  MUST(rmap_mm_free(space->mm));
}

static void read_lock(struct space *space) { MUST(rmap_mm_read_lock(space->mm)); }
static void read_unlock(struct space *space) { MUST(rmap_mm_read_unlock(space->mm)); }
static void write_lock(struct space *space, bool nested) {
  MUST(nested ? rmap_mm_write_lock_nested(space->mm) : rmap_mm_write_lock(space->mm));
}
static void write_unlock(struct space *space) { MUST(rmap_mm_write_unlock(space->mm)); }

static void fork_begin(struct space *child, struct space *parent) { MUST(rmap_mm_fork_begin(child->mm, parent->mm)); }
static void fork_end(struct space *child, struct space *parent) { MUST(rmap_mm_fork_end(child->mm, parent->mm)); }

static void region_made(struct space *space, struct region *region) {
  struct rmap_file *file = region->file ? region->file->file : NULL;
  MUST(rmap_vma_new(space->mm, region->addr, region->addr + region->pages * PAGE, file ? RMAP_VM_READ : RW, file,
                    file ? 0 : RMAP_PGOFF_VPN, region, &region->vma));
}

static void region_forked(struct space *child, struct region *copy, struct space *parent, struct region *region) {
  MUST(rmap_vma_fork(child->mm, parent->mm, region->vma, &copy->vma));
}

static void region_gone(struct space *space, struct region *region) { MUST(rmap_vma_free(space->mm, region->vma)); }
static void prepare(struct region *region) { MUST(rmap_anon_vma_prepare(region->vma)); }
static void reserve(void *book, size_t mappings) { MUST(rmap_reserve(book, mappings)); }
static void unreserve(void *book, size_t mappings) { MUST(rmap_unreserve(book, mappings)); }

static void file_made(void *book, struct system_file *file) {
  MUST(rmap_file_new(book, file->pages, false, file, &file->file));
  for (uint64_t i = 0; i < file->pages; i++) {
    struct rmap_page *page = rmap_page(book, file->frames[i]);
    MUST(rmap_page_lock(page));
    MUST(rmap_file_add_page(file->file, page, i));
    MUST(rmap_page_unlock(page));
  }
}

static void file_gone(void *book, struct system_file *file) {
  for (uint64_t i = 0; i < file->pages; i++) {
    struct rmap_page *page = rmap_page(book, file->frames[i]);
    bool last;
    MUST(rmap_page_lock(page));
    MUST(rmap_file_remove_page(file->file, page));
    MUST(rmap_page_unlock(page));
    MUST(rmap_page_put(page, &last)); /* the file's; the caller's is left */
  }
  MUST(rmap_file_free(file->file));
}

static void claim(void *book, uint64_t frame) { MUST(rmap_page_claim(rmap_page(book, frame))); }
static bool get(void *book, uint64_t frame) { return rmap_page_get(rmap_page(book, frame)) == RMAP_OK; }

static bool put(void *book, uint64_t frame) {
  struct rmap_page *page = rmap_page(book, frame);
  bool last;
  MUST(rmap_page_put(page, &last));
  if (last) MUST(rmap_page_release(book, page));
  return last;
}

static void added_new(void *book, uint64_t frame, struct place p) {
  MUST(rmap_page_add_new_anon(rmap_page(book, frame), p.region->vma, p.addr, RMAP_LEVEL_PAGE));
}

static void added_file(void *book, uint64_t frame, struct place p) {
  MUST(rmap_page_add_file(rmap_page(book, frame), p.region->vma, p.addr, RMAP_LEVEL_PAGE));
}

static void copied(void *book, uint64_t frame, struct place child) {
  MUST(rmap_page_dup(rmap_page(book, frame), child.region->vma, child.addr, RMAP_LEVEL_PAGE));
}

static void removed(void *book, uint64_t frame, struct place p) {
  MUST(rmap_page_remove(rmap_page(book, frame), p.region->vma, p.addr, RMAP_LEVEL_PAGE, NULL));
}

/* A page whose lock is taken is copied instead: whoever holds it may be walking. */
static bool reuse(void *book, uint64_t frame, struct place p) {
  struct rmap_page *page = rmap_page(book, frame);
  if (rmap_page_mapcount(page) != 1 || rmap_page_trylock(page) != RMAP_OK) return false;
  MUST(rmap_page_move_anon(page, p.region->vma, p.addr));
  MUST(rmap_page_unlock(page));
  return true;
}

static bool hold(void *book, uint64_t frame) {
  if (!get(book, frame)) return false;
  MUST(rmap_page_lock(rmap_page(book, frame)));
  return true;
}

static bool unhold(void *book, uint64_t frame) {
  MUST(rmap_page_unlock(rmap_page(book, frame)));
  return put(book, frame);
}

static bool count(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, void *arg) {
  (void)page, (void)vma, (void)addr;
  ++*(uint64_t *)arg;
  return true;
}

static struct walked walk(void *book, uint64_t frame, bool check) {
  struct walked walked = {0, 0};
  if (check) {
    size_t n;
    MUST(rmap_page_mappings(book, rmap_page(book, frame), NULL, 0, &n));
    walked.mappings = n;
  } else {
    struct rmap_walk_control control = {.size = sizeof control, .rmap_one = count, .arg = &walked.candidates};
    MUST(rmap_walk(book, rmap_page(book, frame), &control, NULL));
  }
  return walked;
}

static bool look_up(void *book, uint64_t frame) {
  struct rmap_anon_vma_lock lock;
  enum rmap_status status = rmap_page_lock_anon_vma_read(book, rmap_page(book, frame), &lock);
  if (status == RMAP_ERR_NOT_SUPPORTED) return false;
  MUST(status);
  MUST(rmap_anon_vma_unlock_read(&lock));
  return true;
}

static void usage(void *book, struct usage *usage) {
  struct rmap_stats stats = {.size = sizeof stats};
  MUST(rmap_stats(book, &stats));
  *usage = (struct usage){.anchors = stats.anon_vmas, .bytes = stats.engine_bytes, .frame_bytes = RMAP_PAGE_DESC_SIZE};
}

const struct ledger component_ledger = {
    .threads = true,
    .make = make,
    .free = free_ctx,
    .space_made = space_made,
    .space_gone = space_gone,
    .read_lock = read_lock,
    .read_unlock = read_unlock,
    .write_lock = write_lock,
    .write_unlock = write_unlock,
    .fork_begin = fork_begin,
    .fork_end = fork_end,
    .region_made = region_made,
    .region_forked = region_forked,
    .region_gone = region_gone,
    .prepare = prepare,
    .reserve = reserve,
    .unreserve = unreserve,
    .file_made = file_made,
    .file_gone = file_gone,
    .claim = claim,
    .get = get,
    .put = put,
    .added_new = added_new,
    .added_file = added_file,
    .copied = copied,
    .removed = removed,
    .reuse = reuse,
    .hold = hold,
    .unhold = unhold,
    .walk = walk,
    .look_up = look_up,
    .usage = usage,
};
