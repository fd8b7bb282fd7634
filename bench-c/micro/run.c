/* What a case asks of its run. */
#include <string.h>

#include "harness.h"

void *run_unsupported(struct run *run, const char *reason) {
  run->unsupported = reason;
  return NULL;
}

void run_figure(struct run *run, const char *name, double value) {
  CHECK(run->figures_len < FIGURES_MAX);
  run->figures[run->figures_len++] = (struct figure){name, value};
}

static const char *param_text(const struct run *run, const char *key) {
  size_t len = strlen(key);
  for (const char *at = run->params; *at; at += strspn(at, " ")) {
    if (!strncmp(at, key, len) && at[len] == '=') return at + len + 1;
    at += strcspn(at, " ");
  }
  fprintf(stderr, "%s: no parameter %s in \"%s\"\n", run->test->name, key, run->params);
  exit(1);
}

uint64_t param(const struct run *run, const char *key) { return strtoull(param_text(run, key), NULL, 10); }

bool param_is(const struct run *run, const char *key, const char *text) {
  const char *found = param_text(run, key);
  size_t len = strlen(text);
  return !strncmp(found, text, len) && (found[len] == ' ' || found[len] == '\0');
}

void *must_calloc(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (!memory && count && size) {
    fprintf(stderr, "rmap-micro: out of memory\n");
    exit(1);
  }
  return memory;
}
