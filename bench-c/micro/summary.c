/* One line a result: SUMMARY, then keys and values. */
#include "report.h"

static void print_params(FILE *out, const char *params) {
  for (; *params; params++) fputc(*params == ' ' ? ',' : *params, out);
}

void report_summary(FILE *out, const struct result *r) {
  fprintf(out, "SUMMARY case %s params ", r->test->name);
  print_params(out, r->params);
  if (r->role[0]) fprintf(out, " role %s", r->role);
  fprintf(out, " engine %s threads %u", r->engine->name, r->threads);
  if (r->unsupported) {
    fprintf(out, " not_supported \"%s\"\n", r->unsupported);
    return;
  }
  const struct summary *s = &r->summary;
  fprintf(out, " unit %s median %.1f min %.1f max %.1f n %u dropped %u ops %llu", unit_name(r->test->unit), s->median,
          s->min, s->max, s->n, s->dropped, (unsigned long long)r->ops);
  if (r->ratio > 0) fprintf(out, " ratio %.3f", r->ratio);
  if (r->kernel > 0) fprintf(out, " kernel %.1f to_kernel %.3f", r->kernel, s->median / r->kernel);
  if (r->baseline > 0) fprintf(out, " baseline %.3f", r->baseline);
  for (unsigned i = 0; i < r->figures_len; i++) fprintf(out, " %s %.10g", r->figures[i].name, r->figures[i].value);
  fprintf(out, "\n");
}
