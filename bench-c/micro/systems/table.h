/* A page table of the small manager: one array of entries, and a lock for every 512 of them. */
#ifndef RMAP_MICRO_TABLE_H
#define RMAP_MICRO_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "../harness.h"

#define TABLE_BASE ((uint64_t)1 << 32) /* the address of the first entry */
#define TABLE_LOCKED 512u              /* entries under one lock */

/* 0: nothing is mapped. Else bit 0 is set, bit 1 is leave to write, and the frame stands above. Changed under the lock, read without. */
typedef _Atomic uint64_t entry;

#define ENTRY_PRESENT ((uint64_t)1)
#define ENTRY_WRITE ((uint64_t)2)
#define ENTRY_FRAME_SHIFT 2

struct table {
  uint64_t pages;
  entry *entries;
  pthread_mutex_t *locks;
};

void table_init(struct table *table, uint64_t pages);
void table_destroy(struct table *table);

static inline uint64_t table_index(const struct table *table, uint64_t addr) {
  uint64_t index = (addr - TABLE_BASE) / PAGE;
  CHECK(index < table->pages);
  return index;
}
static inline entry *table_entry(const struct table *table, uint64_t addr) {
  return &table->entries[table_index(table, addr)];
}
static inline pthread_mutex_t *table_lock(const struct table *table, uint64_t addr) {
  pthread_mutex_t *lock = &table->locks[table_index(table, addr) / TABLE_LOCKED];
  pthread_mutex_lock(lock);
  return lock;
}

static inline uint64_t entry_make(uint64_t frame, bool write) {
  return frame << ENTRY_FRAME_SHIFT | (write ? ENTRY_WRITE : 0) | ENTRY_PRESENT;
}
/* The frame; 0: none. */
static inline uint64_t entry_frame(uint64_t word) { return word >> ENTRY_FRAME_SHIFT; }

#endif
