/* What came of a replay, for people. */
#include <string.h>

#include "job.h"

typedef unsigned long long ull;

static double per(double a, double b) { return b > 0 ? a / b : 0; }

static void print_mark(FILE *out, const struct job_mark *kept) {
  const struct rmap_replay_mark *m = &kept->mark;
  fprintf(out, "  mark %s: %s\n", kept->label, job_mark_holds(m) ? "holds" : "DOES NOT HOLD");
  if (m->has_snapshot) {
    fprintf(out, "    against the kernel   %llu of %llu processes with equal VMAs (%llu runs)\n", (ull)m->vmas_equal,
            (ull)m->processes, (ull)m->runs);
    fprintf(out, "    anonymous PTEs       %llu of %llu present, partition %s (%llu of %llu sets of sharers), %llu only here\n",
            (ull)m->anon_present, (ull)m->anon_entries, m->sets_exact == m->sets ? "exact" : "NOT EXACT",
            (ull)m->sets_exact, (ull)m->sets, (ull)m->anon_extra);
    fprintf(out, "    file pages           %llu in both, %llu only here, %llu only there\n", (ull)m->file_both,
            (ull)m->file_only_here, (ull)m->file_only_there);
  } else {
    fprintf(out, "    against the kernel   no snapshot found beside the trace\n");
  }
  fprintf(out, "    walks                %llu pages, %llu mappings, %.2f candidates per mapping, %llu mismatches with the oracle\n",
          (ull)m->pages_walked, (ull)m->mappings, per((double)m->candidates, (double)m->mappings), (ull)m->mismatches);
  fprintf(out, "    time of a walk       median %llu ns, p99 %llu ns\n", (ull)m->walk_median_ns, (ull)m->walk_p99_ns);
  fprintf(out, "    reverse map          %llu B: %.1f per VMA, %.1f per mapped page; %llu anchors, %llu links, %llu VMAs\n",
          (ull)m->rmap_bytes, per((double)m->rmap_bytes, (double)m->vmas),
          per((double)m->rmap_bytes, (double)m->pages_walked), (ull)m->anchors, (ull)m->links, (ull)m->vmas);
  if (kept->difference[0]) fprintf(out, "    first difference     %s\n", kept->difference);
}

void text_print(FILE *out, const struct job *job) {
  const struct rmap_replay_stats *s = &job->stats;
  double seconds = (double)s->replay_ns / 1e9;
  fprintf(out, "%s\n", job->trace);
  fprintf(out, "  %llu processes, %llu forks, %llu VMAs at the peak, %llu faults (%llu failed), %llu pages at the peak\n",
          (ull)s->address_spaces, (ull)s->forks, (ull)s->peak_vmas, (ull)s->faults, (ull)s->failed_faults,
          (ull)s->peak_pages);
  fprintf(out, "  %llu events in %.3f s: %.0f events/s\n", (ull)s->events, seconds, per((double)s->events, seconds));
  for (size_t i = 0; i < job->marks_len; i++) print_mark(out, &job->marks[i]);
  if (job->marks_lost) fprintf(out, "  and %zu marks more, checked and not shown\n", job->marks_lost);
  fprintf(out, "\n");
}

/* Over all walks of all marks; the median and the p99 are those of the slowest mark. */
struct walks {
  double candidates, mappings;
  uint64_t median, p99;
};

static struct walks walks_of(const struct job *job) {
  struct walks all = {0};
  for (size_t i = 0; i < job->marks_len; i++) {
    const struct rmap_replay_mark *m = &job->marks[i].mark;
    all.candidates += (double)m->candidates;
    all.mappings += (double)m->mappings;
    if (m->walk_median_ns > all.median) all.median = m->walk_median_ns;
    if (m->walk_p99_ns > all.p99) all.p99 = m->walk_p99_ns;
  }
  return all;
}

void table_print(FILE *out, const struct job *jobs, size_t engines) {
  fprintf(out, "  %-10s %10s %7s %11s %9s %12s %7s %14s %7s %10s %10s %7s\n", "engine", "replay ms", "ratio", "walk median",
          "p99 ns", "cand/mapping", "ratio", "rmap B at peak", "ratio", "locks", "rmap locks", "ratio");
  struct walks first = walks_of(&jobs[0]);
  for (size_t k = 0; k < engines; k++) {
    const struct rmap_replay_stats *s = &jobs[k].stats;
    struct walks w = walks_of(&jobs[k]);
    fprintf(out, "  %-10s %10.1f %7.2f %11llu %9llu %12.3f %7.2f %14llu %7.2f", rmap_engine_name(jobs[k].engine),
            (double)s->replay_ns / 1e6, per((double)s->replay_ns, (double)jobs[0].stats.replay_ns), (ull)w.median,
            (ull)w.p99, per(w.candidates, w.mappings), per(w.candidates, first.candidates), (ull)s->peak_rmap_bytes,
            per((double)s->peak_rmap_bytes, (double)jobs[0].stats.peak_rmap_bytes));
    if (s->counts_locks)
      fprintf(out, " %10llu %10llu %7.2f", (ull)s->locks, (ull)s->rmap_locks,
              per((double)s->rmap_locks, (double)jobs[0].stats.rmap_locks));
    else
      fprintf(out, " %10s %10s %7s", "-", "-", "-");
    fprintf(out, "%s\n", jobs[k].wrong ? "   A MARK DOES NOT HOLD" : "");
  }
  fprintf(out, "\n");
}
