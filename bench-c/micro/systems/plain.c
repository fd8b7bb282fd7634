#include "plain.h"

void plain_init(struct plain_book *book, uint64_t frames) {
  book->frames = frames;
  book->refs = must_calloc(frames + 1, sizeof *book->refs);
}

void plain_destroy(struct plain_book *book) { free((void *)book->refs); }

void plain_space_made(void *book, struct space *space) {
  (void)book;
  pthread_rwlock_init(&space->lock, NULL);
}

void plain_space_gone(void *book, struct space *space) {
  (void)book;
  pthread_rwlock_destroy(&space->lock);
}

void plain_read_lock(struct space *space) { pthread_rwlock_rdlock(&space->lock); }
void plain_unlock(struct space *space) { pthread_rwlock_unlock(&space->lock); }

void plain_write_lock(struct space *space, bool nested) {
  (void)nested;
  pthread_rwlock_wrlock(&space->lock);
}

void plain_claim(void *book, uint64_t frame) { atomic_store(&((struct plain_book *)book)->refs[frame], 1); }

bool plain_get(void *book, uint64_t frame) {
  _Atomic uint32_t *refs = &((struct plain_book *)book)->refs[frame];
  uint32_t seen = atomic_load(refs);
  while (seen && !atomic_compare_exchange_weak(refs, &seen, seen + 1)) continue;
  return seen != 0;
}

bool plain_put(void *book, uint64_t frame) {
  return atomic_fetch_sub(&((struct plain_book *)book)->refs[frame], 1) == 1;
}
