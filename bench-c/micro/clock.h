/* Clocks, and the loop that tells how fast the machine is at the moment. */
#ifndef RMAP_MICRO_CLOCK_H
#define RMAP_MICRO_CLOCK_H

#include <stdint.h>

uint64_t clock_wall_ns(void);
/* Processor time of this thread. */
uint64_t clock_cpu_ns(void);
/* How long a fixed piece of work takes now, by the wall clock: longer when other programs have the processor, its caches or its clock. */
double clock_reference_ns(void);

#endif
