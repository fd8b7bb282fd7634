/* How the small manager keeps its reverse map: what it tells, and whom it asks. */
#ifndef RMAP_MICRO_LEDGER_H
#define RMAP_MICRO_LEDGER_H

#include "system.h"
#include "table.h"

/* A range of an address space: pages, and their file if they have one. */
struct region {
  uint64_t addr, pages;
  struct system_file *file;
  struct rmap_vma *vma; /* librmap's, in its ledger; else NULL */
};

struct space {
  struct table table;
  struct region **regions; /* in order of address. mmap_lock */
  size_t len, cap;
  struct rmap_mm *mm;    /* librmap's, in its ledger; else NULL */
  pthread_rwlock_t lock; /* mmap_lock, where it is not librmap's */
};

struct system_file {
  uint64_t pages;
  uint64_t *frames;
  struct rmap_file *file; /* librmap's, in its ledger; else NULL */
};

/* One mapping. */
struct place {
  struct space *space;
  struct region *region;
  uint64_t addr;
};

struct ledger {
  bool threads; /* whether more than one may use it */
  /* The state for so many frames. NULL: the engine is not supported. */
  void *(*make)(uint32_t engine, uint64_t frames);
  void (*free)(void *book);

  /* Address spaces, and their mmap_lock. */
  void (*space_made)(void *book, struct space *space);
  void (*space_gone)(void *book, struct space *space);
  void (*read_lock)(struct space *space);
  void (*read_unlock)(struct space *space);
  void (*write_lock)(struct space *space, bool nested);
  void (*write_unlock)(struct space *space);

  /* Regions and forks: NULL where the ledger keeps nothing of them. mmap_lock held for writing, in prepare for reading. */
  void (*fork_begin)(struct space *child, struct space *parent);
  void (*fork_end)(struct space *child, struct space *parent);
  void (*region_made)(struct space *space, struct region *region);
  void (*region_forked)(struct space *child, struct region *copy, struct space *parent, struct region *region);
  void (*region_gone)(struct space *space, struct region *region);
  void (*prepare)(struct region *region);

  /* Memory for mappings that are about to be counted: NULL where none is needed ahead. Table locks not held. */
  void (*reserve)(void *book, size_t mappings);
  void (*unreserve)(void *book, size_t mappings);

  /* Files: NULL likewise. The frames are claimed. */
  void (*file_made)(void *book, struct system_file *file);
  void (*file_gone)(void *book, struct system_file *file);

  /* References. A mapping and a file own one each. */
  void (*claim)(void *book, uint64_t frame);
  bool (*get)(void *book, uint64_t frame);  /* false: the frame is free */
  bool (*put)(void *book, uint64_t frame);  /* whether it was the last; then the frame is free */

  /* Mappings. Table lock held. */
  void (*added_new)(void *book, uint64_t frame, struct place place);
  void (*added_file)(void *book, uint64_t frame, struct place place);
  void (*copied)(void *book, uint64_t frame, struct place child);
  void (*removed)(void *book, uint64_t frame, struct place place);
  bool (*reuse)(void *book, uint64_t frame, struct place place); /* whether nobody else maps it */

  bool (*hold)(void *book, uint64_t frame);
  bool (*unhold)(void *book, uint64_t frame); /* as put */
  struct walked (*walk)(void *book, uint64_t frame, bool check);
  bool (*look_up)(void *book, uint64_t frame);
  void (*usage)(void *book, struct usage *usage);
};

/* librmap's component. */
extern const struct ledger component_ledger;
/* A list of mappings for each frame, with a mutex: what is written by hand. */
extern const struct ledger pv_list_ledger;
/* A dense array of mappings for each frame, without a lock: the floor. */
extern const struct ledger flat_ledger;

/* Under a system_component over librmap: what cases need that time single calls of it. */
struct rmap_ctx *component_ctx(struct system *sys);

#endif
