/* Measuring one case with one set of parameters: all engines in turns. */
#ifndef RMAP_MICRO_MEASURE_H
#define RMAP_MICRO_MEASURE_H

#include "options.h"
#include "result.h"

/* Measures with so many threads, and adds one result for each engine and role. */
void measure(const struct options *options, const struct testcase *test, const char *params, unsigned threads,
             struct results *results);

#endif
