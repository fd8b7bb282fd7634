#include "engines.h"

#include <string.h>

#include "systems/ledger.h"

static const struct engine engines[] = {
    {.name = "anon_vma", .value = RMAP_ENGINE_ANON_VMA},
    {.name = "objrmap", .value = RMAP_ENGINE_OBJRMAP},
    {.name = "pte_chain", .value = RMAP_ENGINE_PTE_CHAIN},
    {.name = "full_scan", .value = RMAP_ENGINE_FULL_SCAN},
    {.name = "pv_list", .ledger = &pv_list_ledger},
    {.name = "flat", .ledger = &flat_ledger},
};

const struct engine *engines_all(size_t *len) {
  *len = sizeof engines / sizeof *engines;
  return engines;
}

const struct engine *engine_named(const char *name, size_t len) {
  size_t all;
  const struct engine *engine = engines_all(&all);
  for (; all > 0; all--, engine++)
    if (strlen(engine->name) == len && !memcmp(engine->name, name, len)) return engine;
  return NULL;
}
