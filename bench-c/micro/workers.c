#include "workers.h"

#include <pthread.h>
#include <sched.h>

#include "clock.h"
#include "harness.h"
#include "systems/frames.h"

struct worker {
  const struct job *job;
  unsigned index;
  uint64_t window_ns;
  pthread_barrier_t *start;
  pthread_t thread;
  uint64_t done, took_ns;
};

/* The processors that this process had when it began: pinning a thread takes them from those that it makes. */
static const cpu_set_t *allowed(void) {
  static cpu_set_t set;
  if (CPU_COUNT(&set) == 0 && sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET(0, &set);
  return &set;
}

unsigned workers_processors(void) { return (unsigned)CPU_COUNT(allowed()); }

void workers_pin(unsigned i) {
  unsigned skip = i % workers_processors();
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, allowed()) || skip-- != 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
}

static void *worker_main(void *arg) {
  struct worker *w = arg;
  workers_pin(w->index);
  frames_use_shard(w->index);
  w->job->work(w->job->state, w->job->thread, w->job->chunk); /* warm-up */
  pthread_barrier_wait(w->start);
  uint64_t begin = clock_wall_ns(), now = begin;
  do {
    w->job->work(w->job->state, w->job->thread, w->job->chunk);
    w->done += w->job->chunk;
    now = clock_wall_ns();
  } while (now - begin < w->window_ns);
  w->took_ns = now - begin;
  return NULL;
}

void workers_run(const struct job *jobs, unsigned len, uint64_t window_ns, double *rates, uint64_t *done) {
  struct worker workers[WORKERS_MAX + 1];
  pthread_barrier_t start;
  CHECK(len <= WORKERS_MAX + 1);
  pthread_barrier_init(&start, NULL, len);
  for (unsigned i = 0; i < len; i++) {
    workers[i] = (struct worker){.job = &jobs[i], .index = i, .window_ns = window_ns, .start = &start};
    CHECK(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0);
  }
  for (unsigned i = 0; i < len; i++) {
    pthread_join(workers[i].thread, NULL);
    rates[i] = (double)workers[i].done * 1e9 / (double)workers[i].took_ns;
    done[i] = workers[i].done;
  }
  pthread_barrier_destroy(&start);
}
