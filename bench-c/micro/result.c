#include "result.h"

void results_add(struct results *results, const struct result *result) {
  if (results->len == results->cap) {
    results->cap = results->cap ? 2 * results->cap : 64;
    results->items = realloc(results->items, results->cap * sizeof *results->items);
    CHECK(results->items != NULL);
  }
  results->items[results->len++] = *result;
}

const char *unit_name(enum unit unit) {
  switch (unit) {
    case UNIT_NS: return "ns";
    case UNIT_RATE: return "ops/s";
    case UNIT_BYTES: return "B";
  }
  return "";
}
