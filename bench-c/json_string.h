/* Strings in JSON. */
#ifndef RMAP_BENCH_JSON_STRING_H
#define RMAP_BENCH_JSON_STRING_H

#include <stdio.h>

/* Writes a string with its quotes. */
static inline void json_string(FILE *out, const char *text) {
  fputc('"', out);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\')
      fprintf(out, "\\%c", *c);
    else if (*c < 0x20)
      fprintf(out, "\\u%04x", *c);
    else
      fputc(*c, out);
  }
  fputc('"', out);
}

#endif
