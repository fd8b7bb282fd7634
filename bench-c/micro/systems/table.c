#include "table.h"

static uint64_t locks_of(const struct table *table) { return (table->pages + TABLE_LOCKED - 1) / TABLE_LOCKED; }

void table_init(struct table *table, uint64_t pages) {
  table->pages = pages;
  table->entries = must_calloc(pages, sizeof *table->entries);
  table->locks = must_calloc(locks_of(table), sizeof *table->locks);
  for (uint64_t i = 0; i < locks_of(table); i++) pthread_mutex_init(&table->locks[i], NULL);
}

void table_destroy(struct table *table) {
  for (uint64_t i = 0; i < locks_of(table); i++) pthread_mutex_destroy(&table->locks[i]);
  free(table->locks);
  free(table->entries);
}
