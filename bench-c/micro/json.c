/* The machine, the options, and one object a result. */
#include <string.h>

#include "../json_string.h"
#include "report.h"

static void field(FILE *out, const char *name, const char *text) {
  fprintf(out, "\"%s\": ", name);
  json_string(out, text);
  fprintf(out, ", ");
}

static void number(FILE *out, const char *name, double value) { fprintf(out, "\"%s\": %.10g, ", name, value); }

static void print_host(FILE *out, const struct host *host) {
  fprintf(out, "  \"machine\": {");
  field(out, "cpu", host->cpu);
  field(out, "kernel", host->kernel);
  field(out, "governor", host->governor);
  field(out, "compiler", host->compiler);
  field(out, "date", host->date);
  number(out, "load", host->load);
  fprintf(out, "\"cores\": %u},\n", host->cores);
}

static void print_options(FILE *out, const struct options *options) {
  fprintf(out, "  \"options\": {");
  number(out, "seconds", options->seconds);
  number(out, "rounds", options->rounds);
  number(out, "threads", options->threads);
  fprintf(out, "\"quick\": %s},\n", options->quick ? "true" : "false");
}

/* Parameters that are numbers are numbers. */
static void print_params(FILE *out, const char *params) {
  fprintf(out, "\"params\": {");
  for (const char *at = params; *at;) {
    int key = (int)strcspn(at, "="), value = (int)strcspn(at + key + 1, " ");
    const char *text = at + key + 1;
    bool numeric = (int)strspn(text, "0123456789") == value;
    const char *quote = numeric ? "" : "\"";
    fprintf(out, "%s\"%.*s\": %s%.*s%s", at == params ? "" : ", ", key, at, quote, value, text, quote);
    at = text + value;
    at += *at == ' ';
  }
  fprintf(out, "}, ");
}

static void print_measured(FILE *out, const struct result *r) {
  const struct summary *s = &r->summary;
  number(out, "median", s->median);
  number(out, "min", s->min);
  number(out, "max", s->max);
  number(out, "n", s->n);
  number(out, "dropped", s->dropped);
  number(out, "ops", (double)r->ops);
  if (r->ratio > 0) number(out, "ratio", r->ratio);
  if (r->kernel > 0) number(out, "kernel", r->kernel);
  if (r->baseline > 0) number(out, "baseline", r->baseline);
  fprintf(out, "\"figures\": {");
  for (unsigned i = 0; i < r->figures_len; i++)
    fprintf(out, "%s\"%s\": %.10g", i ? ", " : "", r->figures[i].name, r->figures[i].value);
  fprintf(out, "}");
}

static void print_result(FILE *out, const struct result *r) {
  fprintf(out, "    {");
  field(out, "case", r->test->name);
  field(out, "key", r->params);
  print_params(out, r->params);
  field(out, "role", r->role);
  field(out, "engine", r->engine->name);
  number(out, "threads", r->threads);
  field(out, "unit", unit_name(r->test->unit));
  field(out, "better", r->test->unit == UNIT_RATE ? "higher" : "lower");
  fprintf(out, "\"supported\": %s, ", r->unsupported ? "false" : "true");
  if (r->unsupported) {
    fprintf(out, "\"reason\": ");
    json_string(out, r->unsupported);
  } else {
    print_measured(out, r);
  }
  fprintf(out, "}");
}

void report_json(FILE *out, const struct host *host, const struct options *options, const struct results *results) {
  fprintf(out, "{\n  \"suite\": \"rmap-micro\",\n  \"librmap\": \"%s\",\n", rmap_version_string());
  print_host(out, host);
  print_options(out, options);
  fprintf(out, "  \"results\": [\n");
  for (size_t i = 0; i < results->len; i++) {
    print_result(out, &results->items[i]);
    fprintf(out, i + 1 < results->len ? ",\n" : "\n");
  }
  fprintf(out, "  ]\n}\n");
}
