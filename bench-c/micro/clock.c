#include "clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_wall_ns(void) { return read_ns(CLOCK_MONOTONIC); }
uint64_t clock_cpu_ns(void) { return read_ns(CLOCK_THREAD_CPUTIME_ID); }

#define REFERENCE_WORDS 4096u /* 32 KiB: the first cache */
#define REFERENCE_STEPS 20000u

/* Each load's address comes from the one before. */
double clock_reference_ns(void) {
  static volatile uint64_t words[REFERENCE_WORDS];
  uint64_t start = clock_wall_ns(), at = 1;
  for (unsigned i = 0; i < REFERENCE_STEPS; i++) {
    uint64_t seen = words[at % REFERENCE_WORDS];
    at = (at + seen) * 6364136223846793005u + 1442695040888963407u;
  }
  words[0] = at & 1;
  return (double)(clock_wall_ns() - start);
}
