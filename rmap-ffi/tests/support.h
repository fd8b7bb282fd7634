/* What the C tests share: checks, and the plainest page tables that rmap_pte_ops allows. C99 and C++11. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "rmap.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);   \
            abort();                                                                    \
        }                                                                               \
    } while (0)

/* Checks a status, and shows what it was instead. */
#define IS(expected, call)                                                              \
    do {                                                                                \
        int status_ = (int)(call);                                                      \
        if (status_ != (int)(expected)) {                                               \
            fprintf(stderr, "%s:%d: %s: %s, expected %s\n", __FILE__, __LINE__, #call,  \
                    rmap_strerror(status_), rmap_strerror((int)(expected)));            \
            abort();                                                                    \
        }                                                                               \
    } while (0)

#define OK(call) IS(RMAP_OK, call)

/* The engine to test with: RMAP_TEST_ENGINE names it, anon_vma if it is not set. */
static inline uint32_t test_engine(void)
{
    const char *wish = getenv("RMAP_TEST_ENGINE");
    uint32_t engine;
    if (wish == NULL)
        return RMAP_ENGINE_ANON_VMA;
    for (engine = 1; rmap_engine_name(engine) == NULL || strcmp(rmap_engine_name(engine), wish) != 0; engine++)
        CHECK(engine < 100);
    return engine;
}

/* Whether it keeps objects of its own for the pages of a region. */
static inline bool has_anchors(void)
{
    return test_engine() == RMAP_ENGINE_ANON_VMA || test_engine() == RMAP_ENGINE_OBJRMAP;
}

static inline void *malloc_take(void *arg, size_t size, size_t align)
{
    void *block = NULL;
    (void)arg;
    return posix_memalign(&block, align < sizeof block ? sizeof block : align, size) == 0 ? block : NULL;
}

static inline void malloc_give(void *arg, void *block, size_t size, size_t align)
{
    (void)arg, (void)size, (void)align;
    free(block);
}

/* A context with the engine to test with. RMAP_TEST_MALLOC gives it malloc for its memory, so that what watches malloc
 * (a sanitizer, valgrind) sees each block of it. */
static inline struct rmap_config test_config(void)
{
    struct rmap_config config;
    OK(rmap_config_init(&config, sizeof config));
    config.engine = test_engine();
    if (getenv("RMAP_TEST_MALLOC") != NULL) {
        config.allocator.alloc = malloc_take;
        config.allocator.free = malloc_give;
    }
    return config;
}

#define PAGE ((uint64_t)RMAP_PAGE_SIZE)
/* Where the plain tables begin, and how many pages they have. */
#define BASE ((uint64_t)0x400000)
#define PAGES 256

/* One address space's entries, as librmap shows them, under one lock. */
struct plain {
    pthread_mutex_t lock;
    struct rmap_pte entries[PAGES];
    unsigned flushes;
};

static inline struct rmap_pte *plain_at(void *table, uint64_t addr)
{
    struct plain *t = (struct plain *)table;
    CHECK(addr % PAGE == 0 && addr >= BASE && addr < BASE + PAGES * PAGE);
    return &t->entries[(addr - BASE) / PAGE];
}

static inline void plain_load(void *table, uint64_t addr, struct rmap_pte *pte)
{
    struct rmap_pte none = {RMAP_PTE_NO_TABLE, 0, 0, 0};
    *pte = addr >= BASE && addr < BASE + PAGES * PAGE ? *plain_at(table, addr) : none;
}

static inline bool plain_lock(void *table, uint64_t addr, bool nested, void **cookie)
{
    (void)nested;
    if (addr < BASE || addr >= BASE + PAGES * PAGE)
        return false;
    pthread_mutex_lock(&((struct plain *)table)->lock);
    *cookie = table;
    return true;
}

static inline void plain_unlock(void *table, void *cookie)
{
    CHECK(table == cookie);
    pthread_mutex_unlock(&((struct plain *)table)->lock);
}

static inline void plain_set(void *table, uint64_t addr, const struct rmap_pte *pte)
{
    *plain_at(table, addr) = *pte;
}

static inline void plain_clear_flush(void *table, uint64_t addr, struct rmap_pte *old)
{
    *old = *plain_at(table, addr);
    memset(plain_at(table, addr), 0, sizeof *old);
    ((struct plain *)table)->flushes++;
}

static inline struct rmap_pte_ops plain_ops(void)
{
    struct rmap_pte_ops ops;
    memset(&ops, 0, sizeof ops);
    ops.size = sizeof ops;
    ops.load = plain_load;
    ops.lock = plain_lock;
    ops.unlock = plain_unlock;
    ops.set = plain_set;
    ops.clear_flush = plain_clear_flush;
    return ops;
}

static inline void plain_init(struct plain *t)
{
    memset(t, 0, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
}

/* An address space with plain tables. */
struct space {
    struct plain table;
    struct rmap_mm *mm;
};

static inline void space_init(struct space *s, struct rmap_ctx *ctx)
{
    struct rmap_pte_ops ops = plain_ops();
    plain_init(&s->table);
    OK(rmap_mm_new(ctx, &ops, &s->table, s, &s->mm));
}

static inline uint64_t page_addr(unsigned n)
{
    return BASE + n * PAGE;
}

/* Private anonymous memory that may be written. */
#define ANON ((uint64_t)(RMAP_VM_READ | RMAP_VM_WRITE | RMAP_VM_MAYREAD | RMAP_VM_MAYWRITE))

/* Maps pages [first, last) anonymously. mmap_lock held for writing. */
static inline struct rmap_vma *map_anon(struct space *s, unsigned first, unsigned last)
{
    struct rmap_vma *vma;
    OK(rmap_vma_new(s->mm, page_addr(first), page_addr(last), ANON, NULL, RMAP_PGOFF_VPN, s, &vma));
    return vma;
}

/* Maps a fresh page of frame `pfn` at page n of the prepared VMA. mmap_lock held. */
static inline struct rmap_page *touch(struct rmap_ctx *ctx, struct space *s, struct rmap_vma *vma, unsigned n,
                                      uint64_t pfn)
{
    struct rmap_page *page = rmap_page(ctx, pfn);
    struct rmap_pte pte = {RMAP_PTE_PRESENT, RMAP_PTE_WRITE | RMAP_PTE_YOUNG | RMAP_PTE_DIRTY, 0, 0};
    pte.pfn = pfn;
    OK(rmap_page_claim(page));
    pthread_mutex_lock(&s->table.lock);
    OK(rmap_page_add_new_anon(page, vma, page_addr(n), RMAP_LEVEL_PAGE));
    *plain_at(&s->table, page_addr(n)) = pte;
    pthread_mutex_unlock(&s->table.lock);
    return page;
}

/* Takes away what is mapped at page n, and frees the frame if that was the last. mmap_lock held. */
static inline void zap(struct rmap_ctx *ctx, struct space *s, struct rmap_vma *vma, unsigned n)
{
    struct rmap_pte old;
    struct rmap_page *page;
    bool last;
    pthread_mutex_lock(&s->table.lock);
    plain_clear_flush(&s->table, page_addr(n), &old);
    if (old.kind != RMAP_PTE_PRESENT) {
        pthread_mutex_unlock(&s->table.lock);
        return;
    }
    page = rmap_page(ctx, old.pfn);
    OK(rmap_page_remove(page, vma, page_addr(n), RMAP_LEVEL_PAGE, NULL));
    pthread_mutex_unlock(&s->table.lock);
    OK(rmap_page_put(page, &last));
    if (last)
        OK(rmap_page_release(ctx, page));
}

/* How many entries map a page. */
static inline size_t count_mappings(struct rmap_ctx *ctx, struct rmap_page *page)
{
    size_t n;
    OK(rmap_page_lock(page));
    OK(rmap_page_mappings(ctx, page, NULL, 0, &n));
    OK(rmap_page_unlock(page));
    return n;
}

/* Forks all VMAs and entries. */
static inline void space_fork(struct rmap_ctx *ctx, struct space *child, struct space *parent)
{
    uint64_t at = 0;
    struct rmap_vma *vma, *copy;
    unsigned n;
    OK(rmap_mm_write_lock(parent->mm));
    OK(rmap_mm_write_lock_nested(child->mm));
    OK(rmap_mm_fork_begin(child->mm, parent->mm));
    while (rmap_vma_find_next(parent->mm, at, &vma) == RMAP_OK) {
        at = rmap_vma_end(vma);
        OK(rmap_vma_fork(child->mm, parent->mm, vma, &copy));
        pthread_mutex_lock(&parent->table.lock);
        pthread_mutex_lock(&child->table.lock);
        for (n = 0; n < PAGES; n++) {
            struct rmap_pte *pte = &parent->table.entries[n];
            if (page_addr(n) < rmap_vma_start(vma) || page_addr(n) >= at || pte->kind != RMAP_PTE_PRESENT)
                continue;
            OK(rmap_page_dup(rmap_page(ctx, pte->pfn), copy, page_addr(n), RMAP_LEVEL_PAGE));
            OK(rmap_page_get(rmap_page(ctx, pte->pfn)));
            pte->flags &= ~(uint32_t)RMAP_PTE_WRITE;
            child->table.entries[n] = *pte;
        }
        pthread_mutex_unlock(&child->table.lock);
        pthread_mutex_unlock(&parent->table.lock);
    }
    OK(rmap_mm_fork_end(child->mm, parent->mm));
    OK(rmap_mm_write_unlock(child->mm));
    OK(rmap_mm_write_unlock(parent->mm));
}

/* Unmaps everything and frees the address space. */
static inline void space_exit(struct rmap_ctx *ctx, struct space *s)
{
    struct rmap_vma *vma;
    unsigned n;
    OK(rmap_mm_write_lock(s->mm));
    while (rmap_vma_find_next(s->mm, 0, &vma) == RMAP_OK) {
        for (n = 0; n < PAGES; n++)
            if (page_addr(n) >= rmap_vma_start(vma) && page_addr(n) < rmap_vma_end(vma))
                zap(ctx, s, vma, n);
        OK(rmap_vma_free(s->mm, vma));
    }
    OK(rmap_mm_write_unlock(s->mm));
    OK(rmap_mm_free(s->mm));
    pthread_mutex_destroy(&s->table.lock);
}

#endif
