/* The floor: each frame has a dense array of its mappings, and nothing is locked. One thread only. */
#include "plain.h"

struct mapping {
  struct space *space;
  uint64_t addr;
};

struct array {
  struct mapping *items;
  uint32_t len, cap;
};

struct flat_book {
  struct plain_book plain;
  struct array *arrays; /* of each frame */
};

static void *make(uint32_t engine, uint64_t frames) {
  struct flat_book *book = must_calloc(1, sizeof *book);
  (void)engine;
  plain_init(&book->plain, frames);
  book->arrays = must_calloc(frames + 1, sizeof *book->arrays);
  return book;
}

static void free_book(void *arg) {
  struct flat_book *book = arg;
  for (uint64_t i = 0; i <= book->plain.frames; i++) free(book->arrays[i].items);
  free(book->arrays);
  plain_destroy(&book->plain);
  free(book);
}

static struct array *array_of(void *book, uint64_t frame) { return &((struct flat_book *)book)->arrays[frame]; }

static void added(void *book, uint64_t frame, struct place p) {
  struct array *array = array_of(book, frame);
  if (array->len == array->cap) {
    array->cap = array->cap ? 2 * array->cap : 1;
    array->items = realloc(array->items, array->cap * sizeof *array->items);
    CHECK(array->items != NULL);
  }
  array->items[array->len++] = (struct mapping){p.space, p.addr};
}

/* The last takes its place. */
static void removed(void *book, uint64_t frame, struct place p) {
  struct array *array = array_of(book, frame);
  uint32_t i = array->len;
  while (i > 0 && (array->items[i - 1].space != p.space || array->items[i - 1].addr != p.addr)) i--;
  CHECK(i > 0);
  array->items[i - 1] = array->items[--array->len];
}

static bool reuse(void *book, uint64_t frame, struct place p) {
  (void)p;
  return array_of(book, frame)->len == 1;
}

static struct walked walk(void *book, uint64_t frame, bool check) {
  struct walked walked = {0, 0};
  const struct array *array = array_of(book, frame);
  for (uint32_t i = 0; i < array->len; i++) {
    const struct mapping *m = &array->items[i];
    /* Both words are read, as by someone who uses them. */
    walked.candidates += (m->space != NULL) & (m->addr >= TABLE_BASE);
    if (check) walked.mappings += plain_is_mapped(m->space, m->addr, frame);
  }
  return walked;
}

static bool look_up(void *book, uint64_t frame) { return array_of(book, frame)->len > 0; }

static void usage(void *arg, struct usage *usage) {
  struct flat_book *book = arg;
  *usage = (struct usage){.frame_bytes = sizeof(struct array)};
  for (uint64_t i = 1; i <= book->plain.frames; i++) usage->bytes += book->arrays[i].cap * sizeof(struct mapping);
}

const struct ledger flat_ledger = {
    PLAIN_LEDGER,
    .threads = false,
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
