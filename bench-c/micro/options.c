#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "engines.h"
#include "workers.h"

static const char usage[] =
    "usage: rmap-micro [OPTION]...\n"
    "\n"
    "  --list             the cases, their parameters, and where they are known from\n"
    "  --filter REGEX     only cases whose \"name key=value ...\" matches (extended; a plain word is a substring)\n"
    "  --engines A,B      only these engines and models; ratios are to the first\n"
    "  --threads N        at most so many threads, but two where a case does two things at once (default: as many as\n"
    "                     there are processors, at most 8)\n"
    "  --seconds S        measured for each result (default 0.1)\n"
    "  --quick            small sizes and short samples\n"
    "  --json FILE        the results, the machine and the options as JSON\n"
    "  --csv FILE         the results as CSV\n"
    "  --baseline FILE    the JSON of an earlier run: each result's ratio to it\n"
    "Exit status: 0 done, 1 a result is wrong, 2 the command line or a file is not to be used.\n";

_Noreturn void options_wrong(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "rmap-micro: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  exit(2);
}

static void read_engines(struct options *options, const char *names) {
  options->engines_len = 0;
  for (const char *at = names;; at++) {
    size_t len = strcspn(at, ",");
    const struct engine *engine = engine_named(at, len);
    if (!engine) options_wrong("there is no engine \"%.*s\"", (int)len, at);
    for (size_t i = 0; i < options->engines_len; i++)
      if (options->engines[i] == engine) options_wrong("engine %s is named twice", engine->name);
    options->engines[options->engines_len++] = engine;
    at += len;
    if (!*at) return;
  }
}

static unsigned read_threads(const char *text) {
  char *end;
  errno = 0;
  unsigned long n = strtoul(text, &end, 10);
  if (errno || *end || end == text || text[0] == '-' || n < 1 || n > WORKERS_MAX)
    options_wrong("--threads takes a number from 1 to %d, not \"%s\"", WORKERS_MAX, text);
  return (unsigned)n;
}

static double read_seconds(const char *text) {
  char *end;
  double s = strtod(text, &end);
  if (*end || end == text || !isfinite(s) || s <= 0 || s > 3600)
    options_wrong("--seconds takes a number above 0, not \"%s\"", text);
  return s;
}

static void read_filter(struct options *options, const char *text) {
  char reason[128];
  if (options->filtered) options_wrong("--filter is given twice");
  int error = regcomp(&options->filter, text, REG_EXTENDED | REG_NOSUB);
  if (error) {
    regerror(error, &options->filter, reason, sizeof reason);
    options_wrong("--filter \"%s\": %s", text, reason);
  }
  options->filtered = true;
}

static void set_defaults(struct options *options) {
  *options = (struct options){.threads = workers_processors() < 8 ? workers_processors() : 8, .rounds = 9};
  const struct engine *all = engines_all(&options->engines_len);
  for (size_t i = 0; i < options->engines_len; i++) options->engines[i] = &all[i];
}

void options_read(struct options *options, int argc, char **argv) {
  set_defaults(options);
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i];
    if (!strcmp(name, "--help")) {
      fputs(usage, stdout);
      exit(0);
    }
    if (!strcmp(name, "--list") || !strcmp(name, "--quick")) {
      *(name[2] == 'l' ? &options->list : &options->quick) = true;
      continue;
    }
    const char *value = i + 1 < argc ? argv[++i] : NULL;
    if (strncmp(name, "--", 2)) options_wrong("what is %s?\n%s", name, usage);
    const char **path = !strcmp(name, "--json")       ? &options->json
                        : !strcmp(name, "--csv")      ? &options->csv
                        : !strcmp(name, "--baseline") ? &options->baseline
                                                      : NULL;
    bool known = path || !strcmp(name, "--filter") || !strcmp(name, "--engines") || !strcmp(name, "--threads") ||
                 !strcmp(name, "--seconds");
    if (!known) options_wrong("what is %s?\n%s", name, usage);
    if (!value) options_wrong("%s needs a value", name);
    if (path)
      *path = value;
    else if (!strcmp(name, "--filter"))
      read_filter(options, value);
    else if (!strcmp(name, "--engines"))
      read_engines(options, value);
    else if (!strcmp(name, "--threads"))
      options->threads = read_threads(value);
    else
      options->seconds = read_seconds(value);
  }
  if (options->quick) options->rounds = 5;
  if (options->seconds == 0) options->seconds = options->quick ? 0.01 : 0.1;
}

bool options_want(const struct options *options, const char *text) {
  return !options->filtered || regexec(&options->filter, text, 0, NULL, 0) == 0;
}
