/* The engines, and the models beside them. */
#ifndef RMAP_MICRO_ENGINES_H
#define RMAP_MICRO_ENGINES_H

#include "harness.h"

/* All of them, *len in number. */
const struct engine *engines_all(size_t *len);

/* NULL: there is no such engine. `len` bytes of name. */
const struct engine *engine_named(const char *name, size_t len);

#endif
