/* Results, for people and for programs. */
#ifndef RMAP_MICRO_REPORT_H
#define RMAP_MICRO_REPORT_H

#include "host.h"
#include "options.h"
#include "result.h"

void report_summary(FILE *out, const struct result *result);
void report_json(FILE *out, const struct host *host, const struct options *options, const struct results *results);
void report_csv(FILE *out, const struct results *results);

#endif
