/* One line a result; figures stand in one column as name=value, parted by spaces. */
#include "report.h"

void report_csv(FILE *out, const struct results *results) {
  fprintf(out, "case,params,role,engine,threads,unit,supported,median,min,max,n,dropped,ops,ratio,kernel,baseline,figures\n");
  for (size_t i = 0; i < results->len; i++) {
    const struct result *r = &results->items[i];
    const struct summary *s = &r->summary;
    fprintf(out, "%s,%s,%s,%s,%u,%s,%d,", r->test->name, r->params, r->role, r->engine->name, r->threads,
            unit_name(r->test->unit), r->unsupported == NULL);
    if (r->unsupported) {
      fprintf(out, ",,,,,,,,,\n");
      continue;
    }
    fprintf(out, "%.3f,%.3f,%.3f,%u,%u,%llu,%.4f,%.1f,%.4f,", s->median, s->min, s->max, s->n, s->dropped,
            (unsigned long long)r->ops, r->ratio, r->kernel, r->baseline);
    for (unsigned k = 0; k < r->figures_len; k++)
      fprintf(out, "%s%s=%.10g", k ? " " : "", r->figures[k].name, r->figures[k].value);
    fprintf(out, "\n");
  }
}
