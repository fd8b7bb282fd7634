/* librmap makes no call to malloc: this program has its own malloc, and counts who calls it from inside the library. */
#include "support.h"

/* ---- the malloc of this process: takes, and never gives back ---- */

static char arena[32 << 20];
static size_t arena_used;
/* Calls of malloc and its kin by a thread that is inside the library. */
static unsigned calls;
static __thread int inside;

static void count_call(void)
{
    if (inside)
        __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

static void *get(size_t size, size_t align)
{
    size_t at = __atomic_fetch_add(&arena_used, size + align + 16, __ATOMIC_RELAXED);
    char *block = arena + at + 16;
    if (at + size + align + 16 > sizeof arena)
        abort();
    block += (align - (size_t)block % align) % align;
    memcpy(block - sizeof size, &size, sizeof size);
    return block;
}

void *malloc(size_t size)
{
    count_call();
    return get(size, 16);
}

void free(void *block)
{
    if (block != NULL)
        count_call();
}

void *calloc(size_t n, size_t size)
{
    count_call();
    return get(n * size, 16);
}

void *realloc(void *block, size_t size)
{
    size_t old;
    void *fresh;
    count_call();
    fresh = get(size, 16);
    if (block != NULL) {
        memcpy(&old, (char *)block - sizeof old, sizeof old);
        memcpy(fresh, block, old < size ? old : size);
    }
    return fresh;
}

int posix_memalign(void **out, size_t align, size_t size)
{
    count_call();
    *out = get(size, align);
    return 0;
}

void *aligned_alloc(size_t align, size_t size)
{
    count_call();
    return get(size, align);
}

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size)
{
    count_call();
    return get(size, align);
}

/* ---- the library at work ---- */

#define THREADS 4
#define ROUNDS 3000

static struct rmap_ctx *ctx;
static struct space shared;
static struct rmap_vma *shared_vma;
static struct rmap_file *file;

/* VMAs, forks, walks; locks that all threads want. */
static void work(unsigned id)
{
    static struct space all[THREADS][2];
    struct space *parent = &all[id][0], *child = &all[id][1];
    struct rmap_vma *vma, *high;
    struct rmap_page *page, *common = rmap_page(ctx, 1000);
    unsigned i;

    for (i = 0; i < ROUNDS; i++) {
        space_init(parent, ctx);
        OK(rmap_mm_write_lock(parent->mm));
        vma = map_anon(parent, 0, 32);
        OK(rmap_anon_vma_prepare(vma));
        page = touch(ctx, parent, vma, 3, 1001 + id);
        OK(rmap_vma_split(parent->mm, vma, page_addr(16), &high));
        OK(rmap_vma_new(parent->mm, page_addr(40), page_addr(41), ANON, file, 0, NULL, &high));
        OK(rmap_mm_write_unlock(parent->mm));
        space_init(child, ctx);
        space_fork(ctx, child, parent);
        CHECK(count_mappings(ctx, page) == 2);
        space_exit(ctx, child);
        space_exit(ctx, parent);

        /* One address space, one page and one root for all threads. */
        OK(rmap_mm_write_lock(shared.mm));
        OK(rmap_vma_split(shared.mm, shared_vma, page_addr(8), &high));
        OK(rmap_vma_merge(shared.mm, shared_vma, high));
        OK(rmap_mm_write_unlock(shared.mm));
        CHECK(count_mappings(ctx, common) == 1);
    }
}

static void *thread_main(void *arg)
{
    inside = 1;
    work(*(unsigned *)arg);
    inside = 0;
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    unsigned ids[THREADS], i;
    void *volatile block;       /* so that the compiler keeps the calls */

    inside = 1;
    OK(rmap_new(NULL, &ctx));
    OK(rmap_pages_add(ctx, 1000, 16, NULL));
    OK(rmap_file_new(ctx, 4, false, NULL, &file));
    space_init(&shared, ctx);
    OK(rmap_mm_write_lock(shared.mm));
    shared_vma = map_anon(&shared, 0, 16);
    OK(rmap_anon_vma_prepare(shared_vma));
    touch(ctx, &shared, shared_vma, 1, 1000);
    OK(rmap_mm_write_unlock(shared.mm));
    IS(RMAP_ERR_NULL, rmap_page_lock(NULL));
    inside = 0;
    for (i = 0; i < THREADS; i++) {
        ids[i] = i;
        CHECK(pthread_create(&threads[i], NULL, thread_main, &ids[i]) == 0);
    }
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    inside = 1;
    space_exit(ctx, &shared);
    OK(rmap_file_free(file));
    OK(rmap_free(ctx));
    inside = 0;
    CHECK(__atomic_load_n(&calls, __ATOMIC_RELAXED) == 0);
    block = malloc(1);
    inside = 1;
    free(block);
    block = malloc(1);
    CHECK(__atomic_load_n(&calls, __ATOMIC_RELAXED) == 2);
    inside = 0;
    printf("malloc: not called\n");
    return 0;
}
