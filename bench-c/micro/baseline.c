/*
 * A JSON reader of the size of the need: it takes any JSON, keeps the members of each object in the array "results" that name a result,
 * and passes over the rest.
 */
#include "baseline.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define TEXT_MAX 128
#define DEPTH_MAX 64

struct entry {
  char name[TEXT_MAX], params[TEXT_MAX], role[TEXT_MAX], engine[TEXT_MAX], unit[TEXT_MAX];
  double threads, median;
};

struct baseline {
  struct entry *entries;
  size_t len, cap;
};

struct reader {
  const char *at;
  struct baseline *baseline;
  struct entry *entry; /* of the result that is being read; NULL: none */
  bool bad;
};

static void skip_space(struct reader *r) {
  while (isspace((unsigned char)*r->at)) r->at++;
}

static bool take(struct reader *r, char c) {
  skip_space(r);
  if (*r->at != c) return false;
  r->at++;
  return true;
}

/* A string, cut to fit. Escapes of other characters than themselves do not occur in names. */
static void read_string(struct reader *r, char *out) {
  size_t len = 0;
  if (!take(r, '"')) r->bad = true;
  while (!r->bad && *r->at != '"') {
    if (*r->at == '\\') r->at++;
    if (!*r->at) r->bad = true;
    if (!r->bad && len + 1 < TEXT_MAX) out[len++] = *r->at;
    if (!r->bad) r->at++;
  }
  if (!r->bad) r->at++;
  out[len] = '\0';
}

static char *text_member(struct entry *entry, const char *key) {
  if (!strcmp(key, "case")) return entry->name;
  if (!strcmp(key, "key")) return entry->params;
  if (!strcmp(key, "role")) return entry->role;
  if (!strcmp(key, "engine")) return entry->engine;
  if (!strcmp(key, "unit")) return entry->unit;
  return NULL;
}

static void keep(struct baseline *b, const struct entry *entry) {
  if (b->len == b->cap) {
    b->cap = b->cap ? 2 * b->cap : 256;
    b->entries = realloc(b->entries, b->cap * sizeof *b->entries);
    CHECK(b->entries != NULL);
  }
  b->entries[b->len++] = *entry;
}

static void read_value(struct reader *r, const char *key, unsigned depth);

/* depth 2, in "results": a result. */
static void read_object(struct reader *r, const char *key, unsigned depth) {
  struct entry entry = {.median = 0};
  bool result = depth == 2 && !strcmp(key, "results");
  if (result) r->entry = &entry;
  if (!take(r, '}')) {
    do {
      char name[TEXT_MAX];
      skip_space(r);
      read_string(r, name);
      if (!take(r, ':')) r->bad = true;
      if (!r->bad) read_value(r, name, depth + 1);
    } while (!r->bad && take(r, ','));
    if (!take(r, '}')) r->bad = true;
  }
  if (!result) return;
  r->entry = NULL;
  if (!r->bad && entry.median > 0) keep(r->baseline, &entry);
}

static void read_array(struct reader *r, const char *key, unsigned depth) {
  if (take(r, ']')) return;
  do read_value(r, key, depth + 1);
  while (!r->bad && take(r, ','));
  if (!take(r, ']')) r->bad = true;
}

static void read_word(struct reader *r) {
  static const char *const words[] = {"true", "false", "null"};
  for (size_t i = 0; i < 3; i++)
    if (!strncmp(r->at, words[i], strlen(words[i]))) {
      r->at += strlen(words[i]);
      return;
    }
  r->bad = true;
}

static void read_number(struct reader *r, const char *key, bool member) {
  char *end;
  double value = strtod(r->at, &end);
  r->at = end;
  if (member && !strcmp(key, "threads")) r->entry->threads = value;
  if (member && !strcmp(key, "median")) r->entry->median = value;
}

/* depth 3, in a result: one of its members. */
static void read_value(struct reader *r, const char *key, unsigned depth) {
  bool member = r->entry && depth == 3;
  skip_space(r);
  if (depth > DEPTH_MAX) {
    r->bad = true;
  } else if (take(r, '{')) {
    read_object(r, key, depth);
  } else if (take(r, '[')) {
    read_array(r, key, depth);
  } else if (*r->at == '"') {
    char ignored[TEXT_MAX], *out = member ? text_member(r->entry, key) : NULL;
    read_string(r, out ? out : ignored);
  } else if (*r->at == '-' || isdigit((unsigned char)*r->at)) {
    read_number(r, key, member);
  } else {
    read_word(r);
  }
}

/* The whole file, with a NUL after it; NULL: it cannot be read. */
static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  size_t len = 0, cap = 1 << 16, got;
  char *text = must_calloc(1, cap);
  while ((got = fread(text + len, 1, cap - len - 1, file)) > 0) {
    len += got;
    if (cap - len < 2) {
      cap *= 2;
      text = realloc(text, cap);
      CHECK(text != NULL);
    }
  }
  bool failed = ferror(file) != 0;
  int error = errno;
  fclose(file);
  text[len] = '\0';
  if (!failed) return text;
  free(text);
  errno = error;
  return NULL;
}

struct baseline *baseline_read(const char *path, const char **reason) {
  char *text = read_file(path);
  if (!text) {
    *reason = strerror(errno);
    return NULL;
  }
  struct baseline *baseline = must_calloc(1, sizeof *baseline);
  struct reader r = {.at = text, .baseline = baseline};
  read_value(&r, "", 0);
  skip_space(&r);
  bool good = !r.bad && *r.at == '\0' && baseline->len > 0;
  *reason = r.bad || *r.at ? "not JSON" : "no results in it";
  free(text);
  if (good) return baseline;
  baseline_free(baseline);
  return NULL;
}

double baseline_median(const struct baseline *baseline, const struct result *r) {
  for (size_t i = 0; i < baseline->len; i++) {
    const struct entry *e = &baseline->entries[i];
    if (!strcmp(e->name, r->test->name) && !strcmp(e->params, r->params) && !strcmp(e->role, r->role) &&
        !strcmp(e->engine, r->engine->name) && !strcmp(e->unit, unit_name(r->test->unit)) && e->threads == r->threads)
      return e->median;
  }
  return 0;
}

void baseline_free(struct baseline *baseline) {
  if (!baseline) return;
  free(baseline->entries);
  free(baseline);
}
