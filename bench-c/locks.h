/* Locks that a replay takes. Another build of librmap counts them, so that the one that is timed does not. */
#ifndef RMAP_BENCH_LOCKS_H
#define RMAP_BENCH_LOCKS_H

#include "job.h"

/* Replays JOB's trace once more, and writes the counts into its figures. False: the counting library is not there, or did something else;
 * then the figures say that nothing was counted. */
bool locks_count(struct job *job);

#endif
