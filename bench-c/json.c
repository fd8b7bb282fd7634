/* What came of the replays, for programs. */
#include "job.h"
#include "json_string.h"

static void field(FILE *out, const char *indent, const char *name, uint64_t value) {
  fprintf(out, "%s\"%s\": %llu,\n", indent, name, (unsigned long long)value);
}

static void print_mark(FILE *out, const struct job_mark *kept) {
  const struct rmap_replay_mark *m = &kept->mark;
  const char *in = "              ";
  fprintf(out, "            {\n%s\"label\": ", in);
  json_string(out, kept->label);
  fprintf(out, ",\n%s\"holds\": %s,\n%s\"snapshot\": %s,\n", in, job_mark_holds(m) ? "true" : "false", in,
          m->has_snapshot ? "true" : "false");
  field(out, in, "processes", m->processes);
  field(out, in, "processes_with_equal_vmas", m->vmas_equal);
  field(out, in, "vma_runs", m->runs);
  field(out, in, "anon_entries", m->anon_entries);
  field(out, in, "anon_present", m->anon_present);
  field(out, in, "anon_only_here", m->anon_extra);
  field(out, in, "sharer_sets", m->sets);
  field(out, in, "sharer_sets_exact", m->sets_exact);
  field(out, in, "file_both", m->file_both);
  field(out, in, "file_only_here", m->file_only_here);
  field(out, in, "file_only_there", m->file_only_there);
  field(out, in, "pages_walked", m->pages_walked);
  field(out, in, "mappings", m->mappings);
  field(out, in, "candidates", m->candidates);
  field(out, in, "mismatches", m->mismatches);
  field(out, in, "walk_median_ns", m->walk_median_ns);
  field(out, in, "walk_p99_ns", m->walk_p99_ns);
  field(out, in, "rmap_bytes", m->rmap_bytes);
  field(out, in, "vmas", m->vmas);
  field(out, in, "anchors", m->anchors);
  field(out, in, "links", m->links);
  fprintf(out, "%s\"difference\": ", in);
  json_string(out, kept->difference);
  fprintf(out, "\n            }");
}

static void print_engine(FILE *out, const struct job *job) {
  const struct rmap_replay_stats *s = &job->stats;
  const char *in = "          ";
  fprintf(out, "        {\n%s\"engine\": ", in);
  json_string(out, rmap_engine_name(job->engine));
  fprintf(out, ",\n");
  field(out, in, "replay_ns", s->replay_ns);
  field(out, in, "peak_rmap_bytes", s->peak_rmap_bytes);
  if (s->counts_locks) {
    field(out, in, "locks", s->locks);
    field(out, in, "rmap_locks", s->rmap_locks);
  }
  fprintf(out, "%s\"marks\": [\n", in);
  for (size_t k = 0; k < job->marks_len; k++) {
    print_mark(out, &job->marks[k]);
    fprintf(out, k + 1 < job->marks_len ? ",\n" : "\n");
  }
  fprintf(out, "%s]\n        }", in);
}

/* What is the trace's, and the same under every engine. */
static void print_trace(FILE *out, const struct job *job) {
  const struct rmap_replay_stats *s = &job->stats;
  const char *in = "      ";
  fprintf(out, "%s\"trace\": ", in);
  json_string(out, job->trace);
  fprintf(out, ",\n");
  field(out, in, "events", s->events);
  field(out, in, "address_spaces", s->address_spaces);
  field(out, in, "forks", s->forks);
  field(out, in, "peak_vmas", s->peak_vmas);
  field(out, in, "faults", s->faults);
  field(out, in, "failed_faults", s->failed_faults);
  field(out, in, "peak_pages", s->peak_pages);
}

void json_print(FILE *out, const struct job *jobs, size_t traces, size_t engines) {
  fprintf(out, "{\n  \"version\": \"%s\",\n  \"traces\": [\n", rmap_version_string());
  for (size_t i = 0; i < traces; i++, jobs += engines) {
    fprintf(out, "    {\n");
    print_trace(out, jobs);
    fprintf(out, "      \"engines\": [\n");
    for (size_t k = 0; k < engines; k++) {
      print_engine(out, &jobs[k]);
      fprintf(out, k + 1 < engines ? ",\n" : "\n");
    }
    fprintf(out, "      ]\n    }%s\n", i + 1 < traces ? "," : "");
  }
  fprintf(out, "  ]\n}\n");
}
