/* The main job: one trace replayed, and what came of it. */
#ifndef RMAP_BENCH_JOB_H
#define RMAP_BENCH_JOB_H

#include <stdbool.h>
#include <stdio.h>

#include "rmap.h"

#define JOB_MARKS 16

struct job_mark {
  char label[64];
  struct rmap_replay_mark mark; /* its strings are copied to the arrays beside it */
  char difference[256];
};

struct job {
  const char *trace;
  uint32_t engine;
  struct rmap_replay_stats stats;
  struct job_mark marks[JOB_MARKS];
  size_t marks_len;
  size_t marks_lost; /* beyond JOB_MARKS: checked, but not kept */
  bool wrong;        /* some mark does not hold what a replay must hold */
};

struct job_options {
  const char *snapshots; /* NULL: beside the trace */
  bool progress;
};

/* The engine with the name of LEN bytes; 0: there is none. */
uint32_t engine_named(const char *name, size_t len);

/* Replays TRACE under an engine. False: not to be done; ERROR says why. */
bool job_run(struct job *job, const char *trace, uint32_t engine, const struct job_options *options, char *error, size_t error_size);

/* Whether a mark holds: VMAs of all processes equal, all anonymous entries present, partition exact, walks equal to the oracle. */
bool job_mark_holds(const struct rmap_replay_mark *mark);

/* What came of one replay, in full. */
void text_print(FILE *out, const struct job *job);
/* One line for each engine: replays of one trace, the first of which the others are compared with. */
void table_print(FILE *out, const struct job *jobs, size_t engines);
/* All replays: trace by trace, engine by engine. */
void json_print(FILE *out, const struct job *jobs, size_t traces, size_t engines);

#endif
