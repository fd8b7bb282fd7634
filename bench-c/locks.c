#include "locks.h"

#include <dlfcn.h>
#include <string.h>

/* Beside this program: its run path is its own folder. */
#define LIBRARY "librmap-counting.so"

struct counting {
  uint32_t (*version)(void);
  enum rmap_status (*config_init)(struct rmap_replay_config *config);
  enum rmap_status (*replay)(const struct rmap_replay_config *config, struct rmap_replay_stats *stats, char *error, size_t error_size);
};

/* C has no cast from an object's address to a function's. */
static bool find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol;
}

static bool load(struct counting *counting) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  return library && find(library, "rmap_version", &counting->version) &&
         find(library, "rmap_replay_config_init", &counting->config_init) &&
         find(library, "rmap_replay", &counting->replay) && counting->version() == rmap_version();
}

bool locks_count(struct job *job) {
  struct counting counting;
  struct rmap_replay_config config;
  struct rmap_replay_stats stats = {.size = sizeof stats};
  if (!load(&counting)) return false;
  counting.config_init(&config);
  config.trace = job->trace;
  config.engine = job->engine;
  if (counting.replay(&config, &stats, NULL, 0) != RMAP_OK || !stats.counts_locks) return false;
  /* It did the same. */
  if (stats.events != job->stats.events || stats.faults != job->stats.faults) return false;
  job->stats.counts_locks = true;
  job->stats.locks = stats.locks;
  job->stats.rmap_locks = stats.rmap_locks;
  return true;
}
