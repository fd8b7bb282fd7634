/* What the models have in common: their own mmap_lock, references that are counted in an array, no notion of regions and files. */
#ifndef RMAP_MICRO_PLAIN_H
#define RMAP_MICRO_PLAIN_H

#include "ledger.h"

/* The first member of each model's book. */
struct plain_book {
  uint64_t frames;
  _Atomic uint32_t *refs; /* of each frame; 0: free */
};

void plain_init(struct plain_book *book, uint64_t frames);
void plain_destroy(struct plain_book *book);

void plain_space_made(void *book, struct space *space);
void plain_space_gone(void *book, struct space *space);
void plain_read_lock(struct space *space);
void plain_unlock(struct space *space);
void plain_write_lock(struct space *space, bool nested);
void plain_claim(void *book, uint64_t frame);
bool plain_get(void *book, uint64_t frame);
bool plain_put(void *book, uint64_t frame);

/* Whether the entry of a mapping still says so. */
static inline bool plain_is_mapped(const struct space *space, uint64_t addr, uint64_t frame) {
  return entry_frame(atomic_load_explicit(table_entry(&space->table, addr), memory_order_acquire)) == frame;
}

/* The members of a ledger that are the same in all models. */
#define PLAIN_LEDGER                                                                                        \
  .space_made = plain_space_made, .space_gone = plain_space_gone, .read_lock = plain_read_lock,             \
  .read_unlock = plain_unlock, .write_lock = plain_write_lock, .write_unlock = plain_unlock,                \
  .claim = plain_claim, .get = plain_get, .put = plain_put, .hold = plain_get, .unhold = plain_put

#endif
