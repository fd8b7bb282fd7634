#include "stats.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double median_of(double *values, size_t len) {
  qsort(values, len, sizeof *values, compare);
  return len % 2 ? values[len / 2] : (values[len / 2 - 1] + values[len / 2]) / 2;
}

static double calmest(const struct samples *samples) {
  double least = samples->reference[0];
  for (unsigned i = 1; i < samples->len; i++)
    if (samples->reference[i] < least) least = samples->reference[i];
  return least;
}

struct summary summarize(const struct samples *samples, double limit) {
  double kept[SAMPLES_MAX];
  struct summary s = {.n = 0};
  double least = calmest(samples);
  if (limit < least) limit = least;
  for (unsigned i = 0; i < samples->len; i++)
    if (samples->reference[i] <= limit) kept[s.n++] = samples->values[i];
  s.dropped = samples->len - s.n;
  s.median = median_of(kept, s.n);
  s.min = kept[0];
  s.max = kept[s.n - 1];
  return s;
}
