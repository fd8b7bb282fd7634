/* The command line. */
#ifndef RMAP_MICRO_OPTIONS_H
#define RMAP_MICRO_OPTIONS_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define ENGINES_MAX 16

struct options {
  const char *json, *csv, *baseline; /* paths; NULL: none */
  bool list, quick;
  bool filtered;
  regex_t filter;
  const struct engine *engines[ENGINES_MAX];
  size_t engines_len;
  unsigned threads; /* the most that run a case */
  double seconds;   /* measured for each result */
  unsigned rounds;  /* samples that these are divided into */
};

/* Reads the command line. What cannot be used ends the process with a message and status 2. */
void options_read(struct options *options, int argc, char **argv);
/* Says what is wrong with the command line or a file that it names, and ends the process with status 2. */
_Noreturn void options_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether a text is one that --filter asks for. */
bool options_want(const struct options *options, const char *text);

#endif
