/*
 * The model of what a C author writes by hand: each frame has a mutex and a singly linked list of its mappings. A mapping is found again
 * by a search of the list.
 */
#include "plain.h"

struct mapping {
  struct mapping *next;
  struct space *space;
  uint64_t addr;
};

struct list {
  pthread_mutex_t lock;
  struct mapping *first; /* lock */
};

struct pv_book {
  struct plain_book plain;
  struct list *lists; /* of each frame */
};

static void *make(uint32_t engine, uint64_t frames) {
  struct pv_book *book = must_calloc(1, sizeof *book);
  (void)engine;
  plain_init(&book->plain, frames);
  book->lists = must_calloc(frames + 1, sizeof *book->lists);
  for (uint64_t i = 0; i <= frames; i++) pthread_mutex_init(&book->lists[i].lock, NULL);
  return book;
}

static void free_book(void *arg) {
  struct pv_book *book = arg;
  for (uint64_t i = 0; i <= book->plain.frames; i++) pthread_mutex_destroy(&book->lists[i].lock);
  free(book->lists);
  plain_destroy(&book->plain);
  free(book);
}

static struct list *locked_list(void *book, uint64_t frame) {
  struct list *list = &((struct pv_book *)book)->lists[frame];
  pthread_mutex_lock(&list->lock);
  return list;
}

static void added(void *book, uint64_t frame, struct place p) {
  struct mapping *mapping = must_calloc(1, sizeof *mapping);
  struct list *list = locked_list(book, frame);
  *mapping = (struct mapping){list->first, p.space, p.addr};
  list->first = mapping;
  pthread_mutex_unlock(&list->lock);
}

static void removed(void *book, uint64_t frame, struct place p) {
  struct list *list = locked_list(book, frame);
  struct mapping **at = &list->first;
  while (*at && ((*at)->space != p.space || (*at)->addr != p.addr)) at = &(*at)->next;
  CHECK(*at != NULL);
  struct mapping *gone = *at;
  *at = gone->next;
  pthread_mutex_unlock(&list->lock);
  free(gone);
}

static bool reuse(void *book, uint64_t frame, struct place p) {
  (void)p;
  struct list *list = locked_list(book, frame);
  bool alone = list->first && !list->first->next;
  pthread_mutex_unlock(&list->lock);
  return alone;
}

static struct walked walk(void *book, uint64_t frame, bool check) {
  struct walked walked = {0, 0};
  struct list *list = locked_list(book, frame);
  for (const struct mapping *m = list->first; m; m = m->next) {
    walked.candidates++;
    if (check) walked.mappings += plain_is_mapped(m->space, m->addr, frame);
  }
  pthread_mutex_unlock(&list->lock);
  return walked;
}

static bool look_up(void *book, uint64_t frame) {
  pthread_mutex_unlock(&locked_list(book, frame)->lock);
  return true;
}

static void usage(void *arg, struct usage *usage) {
  struct pv_book *book = arg;
  *usage = (struct usage){.frame_bytes = sizeof(struct list)};
  for (uint64_t i = 1; i <= book->plain.frames; i++)
    for (const struct mapping *m = book->lists[i].first; m; m = m->next) usage->bytes += sizeof *m;
}

const struct ledger pv_list_ledger = {
    PLAIN_LEDGER,
    .threads = true,
    .make = make,
    .free = free_book,
    .added_new = added,
    .added_file = added,
    .copied = added,
    .removed = removed,
    .reuse = reuse,
    .walk = walk,
    .look_up = look_up,
    .usage = usage,
};
