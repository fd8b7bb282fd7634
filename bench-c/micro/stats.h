/* Samples, and what is made of them. */
#ifndef RMAP_MICRO_STATS_H
#define RMAP_MICRO_STATS_H

#include <stddef.h>

#define SAMPLES_MAX 64

struct samples {
  double values[SAMPLES_MAX];
  double reference[SAMPLES_MAX]; /* how long the reference loop took beside each */
  unsigned len;
};

struct summary {
  double median, min, max;
  unsigned n;       /* samples that were kept */
  unsigned dropped; /* samples taken while the machine was slow */
};

double median_of(double *values, size_t len);
/* The summary of the samples whose reference is at most `limit`; of the one with the least, if there is none. */
struct summary summarize(const struct samples *samples, double limit);

#endif
