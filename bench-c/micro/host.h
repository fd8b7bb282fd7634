/* The machine that measured. */
#ifndef RMAP_MICRO_HOST_H
#define RMAP_MICRO_HOST_H

struct host {
  char cpu[128], kernel[128], governor[64], compiler[128], date[32];
  unsigned cores;
  double load; /* of the last minute, when the run began */
};

void host_describe(struct host *host);

#endif
