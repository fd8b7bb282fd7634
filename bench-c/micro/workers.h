/* Threads: made for a sample, pinned, started together. */
#ifndef RMAP_MICRO_WORKERS_H
#define RMAP_MICRO_WORKERS_H

#include <stdbool.h>
#include <stdint.h>

#define WORKERS_MAX 64

/* What one thread does. */
struct job {
  void (*work)(void *state, unsigned thread, uint64_t times);
  void *state;
  unsigned thread;
  uint64_t chunk; /* operations between looks at the clock */
};

/* Processors that this process may use. */
unsigned workers_processors(void);
/* Keeps this thread on the i-th of them, counted round. */
void workers_pin(unsigned i);
/* Runs each job in a thread of its own for so long; rates[i] and done[i] receive the operations of job i, a second and in all. */
void workers_run(const struct job *jobs, unsigned len, uint64_t window_ns, double *rates, uint64_t *done);

#endif
