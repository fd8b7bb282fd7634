/* An earlier run's JSON. */
#ifndef RMAP_MICRO_BASELINE_H
#define RMAP_MICRO_BASELINE_H

#include "result.h"

struct baseline;

/* Reads the JSON of an earlier run. NULL: it cannot be read, or is none; *reason says why. */
struct baseline *baseline_read(const char *path, const char **reason);
/* The median of the same result there; 0: there is none. */
double baseline_median(const struct baseline *baseline, const struct result *result);
void baseline_free(struct baseline *baseline);

#endif
