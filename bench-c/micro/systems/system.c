#include "system.h"

struct system *system_of(struct run *run, const struct system_config *config) {
  return param_is(run, "over", "machine") ? system_machine(run, config) : system_component(run, config);
}

struct walked system_walk(struct system *sys, uint64_t frame, bool check) {
  struct walked walked = {0, 0};
  if (!sys->ops->hold(sys, frame)) return walked;
  walked = sys->ops->walk(sys, frame, check);
  sys->ops->unhold(sys, frame);
  return walked;
}

void system_figures(struct system *sys, struct run *run) {
  struct usage usage;
  sys->ops->usage(sys, &usage);
  run_figure(run, "anchors", (double)usage.anchors);
  run_figure(run, "links", (double)usage.links);
  run_figure(run, "rmap_bytes", (double)usage.bytes);
}
