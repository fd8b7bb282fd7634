#include "job.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

struct run {
  struct job *job;
  bool show;
  bool shown;
  time_t last;
};

static void copy_string(char *to, size_t size, const char *from) {
  size_t len = from ? strlen(from) : 0;
  if (len >= size) len = size - 1;
  if (len) memcpy(to, from, len);
  to[len] = '\0';
}

uint32_t engine_named(const char *name, size_t len) {
  const char *known;
  for (uint32_t engine = 1; (known = rmap_engine_name(engine)); engine++)
    if (strlen(known) == len && !memcmp(known, name, len)) return engine;
  return 0;
}

/* Before a file page is one only where the trace touched it, so file pages are no criterion. */
bool job_mark_holds(const struct rmap_replay_mark *m) {
  bool state = !m->has_snapshot || (m->vmas_equal == m->processes && m->anon_present == m->anon_entries &&
                                    m->sets_exact == m->sets);
  return state && m->mismatches == 0;
}

static void on_mark(void *arg, const struct rmap_replay_mark *mark) {
  struct job *job = ((struct run *)arg)->job;
  if (!job_mark_holds(mark)) job->wrong = true;
  if (job->marks_len == JOB_MARKS) {
    job->marks_lost++;
    return;
  }
  struct job_mark *kept = &job->marks[job->marks_len++];
  kept->mark = *mark;
  copy_string(kept->label, sizeof kept->label, mark->label);
  copy_string(kept->difference, sizeof kept->difference, mark->difference);
  kept->mark.label = NULL;
  kept->mark.difference = NULL;
  kept->mark.state = NULL;
}

static void on_progress(void *arg, uint64_t events, uint64_t pages) {
  struct run *run = arg;
  time_t now = time(NULL);
  if (!run->show || now == run->last) return;
  run->last = now;
  run->shown = true;
  fprintf(stderr, "\r%s, %s: %llu events, %llu pages mapped ", run->job->trace, rmap_engine_name(run->job->engine),
          (unsigned long long)events, (unsigned long long)pages);
  fflush(stderr);
}

bool job_run(struct job *job, const char *trace, uint32_t engine, const struct job_options *options, char *error, size_t error_size) {
  memset(job, 0, sizeof *job);
  job->trace = trace;
  job->engine = engine;
  job->stats.size = sizeof job->stats;
  struct run run = {.job = job, .show = options->progress && isatty(STDERR_FILENO), .last = time(NULL)};
  struct rmap_replay_config config;
  rmap_replay_config_init(&config);
  config.trace = trace;
  config.engine = engine;
  config.snapshots = options->snapshots;
  config.mark = on_mark;
  config.progress = on_progress;
  config.arg = &run;
  enum rmap_status status = rmap_replay(&config, &job->stats, error, error_size);
  if (run.shown) fprintf(stderr, "\r\033[K");
  if (status != RMAP_OK && error_size && !error[0])
    snprintf(error, error_size, "%s: %s", trace, rmap_strerror(status));
  return status == RMAP_OK;
}
