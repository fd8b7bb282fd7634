/* Figures of the kernel's own C code. */
#ifndef RMAP_MICRO_KERNEL_H
#define RMAP_MICRO_KERNEL_H

#include "result.h"

/* The same operation in Linux 6.12, compiled in user space on a quiet machine, in the case's unit; 0: not known. */
double kernel_figure(const struct result *result);

#endif
