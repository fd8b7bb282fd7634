/* An allocator that may refuse, and which functions of the library answered RMAP_ERR_NOMEM for it: their names go to
 * standard output, where c_tests.rs compares them with what the header says. */
#ifndef REFUSING_H
#define REFUSING_H

#include "support.h"

static struct {
    long countdown;         /* allocations still granted; negative: all */
    unsigned refused, granted;
    size_t largest;         /* larger blocks are not granted */
    size_t bytes;
} memory = {-1, 0, 0, SIZE_MAX, 0};

static void *take(void *arg, size_t size, size_t align)
{
    void *block = NULL;
    CHECK(arg == &memory && size != 0);
    if (memory.countdown == 0 || size > memory.largest) {
        memory.refused++;
        return NULL;
    }
    if (memory.countdown > 0)
        memory.countdown--;
    if (posix_memalign(&block, align < sizeof(void *) ? sizeof(void *) : align, size) != 0)
        return NULL;
    memset(block, 0xa5, size);
    memory.bytes += size;
    memory.granted++;
    return block;
}

static void give(void *arg, void *block, size_t size, size_t align)
{
    CHECK(arg == &memory && block != NULL && memory.bytes >= size && align != 0);
    memory.bytes -= size;
    memset(block, 0x5a, size);
    free(block);
}

static inline struct rmap_allocator refusing_allocator(void)
{
    struct rmap_allocator allocator;
    memset(&allocator, 0, sizeof allocator);
    allocator.alloc = take;
    allocator.free = give;
    allocator.arg = &memory;
    return allocator;
}

/* A machine with swap in memory. */
static inline struct rmap_machine_config machine_config(uint64_t frames, uint64_t swap_slots)
{
    struct rmap_machine_config config;
    OK(rmap_machine_config_init(&config, sizeof config));
    config.engine = test_engine();
    config.frames = frames;
    config.swap = RMAP_SWAP_MEMORY;
    config.swap_slots = swap_slots;
    return config;
}

/* Notes that a call, as it stands in the source, was refused memory. Each function once. */
static inline void note_refused(const char *call)
{
    static char seen[128][48];
    size_t length = strcspn(call, "("), i;
    CHECK(length < sizeof seen[0]);
    for (i = 0; i < 128 && seen[i][0] != 0; i++)
        if (strncmp(seen[i], call, length) == 0 && seen[i][length] == 0)
            return;
    CHECK(i < 128);
    memcpy(seen[i], call, length);
    printf("refused: %s\n", seen[i]);
}

#endif
