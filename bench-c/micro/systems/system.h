/*
 * What the cases drive: a memory manager with address spaces, faults and forks. There are two: librmap's machine, and a small one in
 * plain C (vm.h) that keeps its reverse map in librmap's component, or in one of the models. The second is the same for all of them, so
 * that what differs is the reverse map.
 */
#ifndef RMAP_MICRO_SYSTEM_H
#define RMAP_MICRO_SYSTEM_H

#include "../harness.h"

struct space; /* an address space */
struct system_file;

struct system_config {
  uint64_t frames;
  uint64_t span;       /* pages that fit into an address space, in all, those between regions included */
  uint64_t swap_slots; /* machine only */
  bool apart;          /* a page is left free after each private region, else neighbours share an anchor */
};

/* What a walk found. */
struct walked {
  uint64_t candidates; /* 0: the system cannot tell */
  uint64_t mappings;   /* 0 when no entry was looked at */
};

struct usage {
  uint64_t anchors, links, bytes; /* of the reverse map, without what every frame has */
  uint64_t frame_bytes;           /* what every frame has for it */
};

struct system {
  const struct system_ops *ops;
};

struct system_ops {
  void (*free)(struct system *sys);
  struct space *(*space_new)(struct system *sys);
  struct space *(*fork)(struct system *sys, struct space *parent);
  void (*exit)(struct system *sys, struct space *space);
  struct system_file *(*file_new)(struct system *sys, uint64_t pages);
  void (*file_free)(struct system *sys, struct system_file *file);
  /* Private memory, or the file from its first page; returns the address. A region of a file cannot be written. */
  uint64_t (*map)(struct system *sys, struct space *space, uint64_t pages, struct system_file *file);
  /* The whole of a region. */
  void (*unmap)(struct system *sys, struct space *space, uint64_t addr, uint64_t pages);
  /* An access: faults if it must. */
  void (*touch)(struct system *sys, struct space *space, uint64_t addr, bool write);
  /* The frame at an address; 0: none. */
  uint64_t (*frame)(struct system *sys, struct space *space, uint64_t addr);
  /* Keeps a frame from being given away, so that it can be walked. False: it is free. */
  bool (*hold)(struct system *sys, uint64_t frame);
  void (*unhold)(struct system *sys, uint64_t frame);
  /* All who map a frame that is held. `check`: each candidate is held against its page-table entry. */
  struct walked (*walk)(struct system *sys, uint64_t frame, bool check);
  /* Frame to anchor, locked and unlocked again. False: not supported. NULL: the machine has none. */
  bool (*look_up)(struct system *sys, uint64_t frame);
  void (*usage)(struct system *sys, struct usage *usage);
};

/* Over librmap's machine. NULL: not for this engine; run_unsupported() was called. */
struct system *system_machine(struct run *run, const struct system_config *config);
/* The small manager in plain C, over librmap's component or a model. NULL likewise. */
struct system *system_component(struct run *run, const struct system_config *config);
/* Either, as the parameter `over` says: machine or component. */
struct system *system_of(struct run *run, const struct system_config *config);

/* The machine under a system_machine, for what only machines do. */
struct rmap_machine *system_rmap_machine(struct system *sys);
struct rmap_machine_mm *space_rmap_mm(struct space *space);

/* A hold, a walk, and its end. */
struct walked system_walk(struct system *sys, uint64_t frame, bool check);

/* Anchors, ties between them and regions, and bytes, as figures. */
void system_figures(struct system *sys, struct run *run);

#endif
