/* A program with page tables of its own: its own entry format, tables made on demand, sparse frames with contents, fork
 * and copy-on-write, swap-out by whoever comes along. Four threads write, fork, unmap and exit; each asks who maps its
 * pages, and gets exactly the entries that its tables have.
 *
 * Each thread owns a family of processes. Any thread may take any page out of all tables (as reclaim does), under the
 * page lock. So under the page lock a family's owner knows all entries of its pages. */
#include "support.h"

#define THREADS 4
#define PROCESSES 5
#define SPAN 96                     /* pages in an address space */
#define LEAF 32                     /* entries in a table */
#define RANGE 80                    /* frames in each of three ranges */
#define FRAMES (3 * RANGE)
#define FIRST_ADDR ((uint64_t)0x7f0000000000)

static struct rmap_ctx *ctx;
static const uint64_t ranges[3] = {0x1000, 0x80000, 0x700000000};

static uint64_t pfn_of(unsigned frame)
{
    return ranges[frame / RANGE] + frame % RANGE;
}

static unsigned frame_of(uint64_t pfn)
{
    unsigned r = pfn >= ranges[2] ? 2 : pfn >= ranges[1] ? 1 : 0;
    CHECK(pfn - ranges[r] < RANGE);
    return r * RANGE + (unsigned)(pfn - ranges[r]);
}

/* ---- frames ---- */

static struct {
    pthread_mutex_t lock;
    unsigned free[FRAMES], count;
    uint64_t contents[FRAMES];      /* page-table locks of the frame's entries */
    unsigned swap_uses[FRAMES];     /* entries that stand for the frame in swap; atomic */
} mem;

/* A frame with one reference, or NULL when all are in use. */
static struct rmap_page *frame_alloc(void)
{
    struct rmap_page *page = NULL;
    pthread_mutex_lock(&mem.lock);
    if (mem.count != 0)
        page = rmap_page(ctx, pfn_of(mem.free[--mem.count]));
    pthread_mutex_unlock(&mem.lock);
    if (page != NULL)
        OK(rmap_page_claim(page));
    return page;
}

static void frame_put(struct rmap_page *page)
{
    bool last;
    OK(rmap_page_put(page, &last));
    if (!last)
        return;
    OK(rmap_page_release(ctx, page));
    pthread_mutex_lock(&mem.lock);
    mem.free[mem.count++] = frame_of(rmap_page_pfn(page));
    pthread_mutex_unlock(&mem.lock);
}

/* ---- entries: the program's own format ----
 *
 *   0                            nothing
 *   'P' | flags << 8 | pfn << 16 present; flags: 1 may write, 2 used, 4 written
 *   'S' | frame << 16            swapped: the frame whose contents are kept */

static uint64_t pack(const struct rmap_pte *pte)
{
    uint64_t flags = 0;
    switch (pte->kind) {
    case RMAP_PTE_NONE:
        return 0;
    case RMAP_PTE_PRESENT:
        flags |= (pte->flags & RMAP_PTE_WRITE) ? 1 : 0;
        flags |= (pte->flags & RMAP_PTE_YOUNG) ? 2 : 0;
        flags |= (pte->flags & RMAP_PTE_DIRTY) ? 4 : 0;
        return 'P' | flags << 8 | pte->pfn << 16;
    case RMAP_PTE_SWAP:
        return 'S' | pte->value << 16;
    default:
        abort();
    }
}

static void unpack(uint64_t word, struct rmap_pte *pte)
{
    memset(pte, 0, sizeof *pte);
    if ((word & 0xff) == 'P') {
        pte->kind = RMAP_PTE_PRESENT;
        pte->flags = ((word >> 8 & 1) ? RMAP_PTE_WRITE : 0) | ((word >> 8 & 2) ? RMAP_PTE_YOUNG : 0)
            | ((word >> 8 & 4) ? RMAP_PTE_DIRTY : 0);
        pte->pfn = word >> 16;
    } else if ((word & 0xff) == 'S') {
        pte->kind = RMAP_PTE_SWAP;
        pte->value = word >> 16;
    }
}

static uint64_t present(uint64_t pfn, bool write)
{
    return 'P' | (uint64_t)(write ? 7 : 2) << 8 | pfn << 16;
}

/* ---- tables ---- */

struct leaf {
    pthread_mutex_t lock;
    uint64_t words[LEAF];           /* lock to change, atomic to look */
};

struct process {
    struct rmap_mm *mm;             /* NULL: this place is free */
    struct leaf *leaves[SPAN / LEAF];   /* set once, atomic */
};

static struct leaf *leaf_of(struct process *p, uint64_t addr)
{
    uint64_t n = (addr - FIRST_ADDR) / PAGE;
    return n < SPAN ? __atomic_load_n(&p->leaves[n / LEAF], __ATOMIC_ACQUIRE) : NULL;
}

static uint64_t *word_of(struct process *p, uint64_t addr)
{
    struct leaf *leaf = leaf_of(p, addr);
    return leaf == NULL ? NULL : &leaf->words[(addr - FIRST_ADDR) / PAGE % LEAF];
}

static uint64_t word_at(struct process *p, uint64_t addr)
{
    uint64_t *word = word_of(p, addr);
    return word == NULL ? 0 : __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void put_word(struct process *p, uint64_t addr, uint64_t word)
{
    __atomic_store_n(word_of(p, addr), word, __ATOMIC_RELEASE);
}

/* The table of an address, made if there is none. Only the family's owner comes here. */
static struct leaf *leaf_make(struct process *p, uint64_t addr)
{
    struct leaf *leaf = leaf_of(p, addr);
    if (leaf == NULL) {
        leaf = (struct leaf *)calloc(1, sizeof *leaf);
        CHECK(leaf != NULL);
        pthread_mutex_init(&leaf->lock, NULL);
        __atomic_store_n(&p->leaves[(addr - FIRST_ADDR) / PAGE / LEAF], leaf, __ATOMIC_RELEASE);
    }
    return leaf;
}

static void op_load(void *table, uint64_t addr, struct rmap_pte *pte)
{
    struct process *p = (struct process *)table;
    if (word_of(p, addr) == NULL) {
        memset(pte, 0, sizeof *pte);
        pte->kind = RMAP_PTE_NO_TABLE;
    } else {
        unpack(word_at(p, addr), pte);
    }
}

static bool op_lock(void *table, uint64_t addr, bool nested, void **cookie)
{
    struct leaf *leaf = leaf_of((struct process *)table, addr);
    (void)nested;
    if (leaf == NULL)
        return false;
    pthread_mutex_lock(&leaf->lock);
    *cookie = leaf;
    return true;
}

static void op_unlock(void *table, void *cookie)
{
    (void)table;
    pthread_mutex_unlock(&((struct leaf *)cookie)->lock);
}

static void op_set(void *table, uint64_t addr, const struct rmap_pte *pte)
{
    put_word((struct process *)table, addr, pack(pte));
}

static void op_clear_flush(void *table, uint64_t addr, struct rmap_pte *old)
{
    unpack(__atomic_exchange_n(word_of((struct process *)table, addr), 0, __ATOMIC_ACQ_REL), old);
}

static bool op_young(void *table, uint64_t addr)
{
    uint64_t young = (uint64_t)2 << 8;
    return (__atomic_fetch_and(word_of((struct process *)table, addr), ~young, __ATOMIC_ACQ_REL) & young) != 0;
}

static struct rmap_pte_ops ops;

/* ---- swap: a swapped page stays in the swap cache, its slot is its frame ---- */

static bool swap_dup(uint64_t slot, void *arg)
{
    ++*(unsigned *)arg;
    __atomic_fetch_add(&mem.swap_uses[slot], 1, __ATOMIC_ACQ_REL);
    return true;
}

/* One entry less stands for the page. Its lock is held; the caller has a reference. */
static void swap_free(struct rmap_page *page)
{
    unsigned frame = frame_of(rmap_page_pfn(page));
    if (__atomic_sub_fetch(&mem.swap_uses[frame], 1, __ATOMIC_ACQ_REL) == 0) {
        OK(rmap_page_clear_flags(page, RMAP_PG_SWAP_CACHE));
        frame_put(page);            /* the cache's reference */
    }
}

/* Takes any page out of all tables. No lock held. */
static unsigned reclaim(unsigned frame)
{
    struct rmap_page *page = rmap_page(ctx, pfn_of(frame));
    struct rmap_unmap_hooks hooks;
    unsigned unmapped = 0;
    bool gone;

    if (rmap_page_get(page) != RMAP_OK)
        return 0;
    if (rmap_page_trylock(page) == RMAP_OK) {
        if (rmap_page_is_mapped(page) && (rmap_page_flags(page) & RMAP_PG_SWAP_CACHE) == 0) {
            OK(rmap_page_get(page));
            OK(rmap_page_set_private(page, frame));
            OK(rmap_page_set_flags(page, RMAP_PG_SWAP_CACHE));
            /* The cache's own use, so that no fault frees the slot before this is done. */
            __atomic_store_n(&mem.swap_uses[frame], 1, __ATOMIC_RELEASE);
            memset(&hooks, 0, sizeof hooks);
            hooks.size = sizeof hooks;
            hooks.swap_dup = swap_dup;
            hooks.arg = &unmapped;
            OK(rmap_try_to_unmap(ctx, page, RMAP_TTU_SYNC, &hooks, &gone));
            swap_free(page);
        }
        OK(rmap_page_unlock(page));
    }
    frame_put(page);
    return unmapped;
}

/* ---- one family ---- */

struct family {
    struct process processes[PROCESSES];
    uint64_t expected[PROCESSES][SPAN];     /* what the program wrote, 0: nothing */
    uint64_t seed;
    unsigned id, found, swapped, shared;
};

static struct family families[THREADS];

static unsigned pick(struct family *f, unsigned below)
{
    f->seed ^= f->seed << 13;
    f->seed ^= f->seed >> 7;
    f->seed ^= f->seed << 17;
    return (unsigned)(f->seed >> 33) % below;
}

/* Asks who maps a page of this family, and compares with all of its tables. Returns how many. mmap_lock may be held. */
static size_t check_page(struct family *f, struct rmap_page *page)
{
    struct rmap_mapping list[PROCESSES * 2];
    struct rmap_pte pte;
    size_t n, i, expected = 0;
    unsigned p, v;

    OK(rmap_page_lock(page));
    OK(rmap_page_mappings(ctx, page, list, PROCESSES * 2, &n));
    for (p = 0; p < PROCESSES; p++) {
        for (v = 0; v < SPAN && f->processes[p].mm != NULL; v++) {
            uint64_t addr = FIRST_ADDR + v * PAGE;
            unpack(word_at(&f->processes[p], addr), &pte);
            if (pte.kind != RMAP_PTE_PRESENT || pte.pfn != rmap_page_pfn(page))
                continue;
            expected++;
            for (i = 0; i < n && !(list[i].mm == f->processes[p].mm && list[i].addr == addr); i++)
                ;
            CHECK(i < n && list[i].pte.pfn == pte.pfn);
        }
    }
    CHECK(n == expected && n == rmap_page_mapcount(page));
    OK(rmap_page_unlock(page));
    f->found += (unsigned)n;
    f->shared += n > 1;
    return n;
}

/* Maps a page that was swapped: the entry at addr says which. mmap_lock held. */
static void swap_in(struct process *p, struct rmap_vma *vma, uint64_t addr, uint64_t word)
{
    struct rmap_page *page = rmap_page(ctx, pfn_of((unsigned)(word >> 16)));
    struct leaf *leaf = leaf_of(p, addr);

    OK(rmap_page_get(page));        /* this entry is a use of the slot, and only this thread takes it away */
    OK(rmap_page_lock(page));
    pthread_mutex_lock(&leaf->lock);
    CHECK(word_at(p, addr) == word);
    OK(rmap_page_add_anon(page, vma, addr, false, RMAP_LEVEL_PAGE));
    OK(rmap_page_get(page));        /* the mapping's */
    put_word(p, addr, present(rmap_page_pfn(page), false));
    pthread_mutex_unlock(&leaf->lock);
    swap_free(page);
    OK(rmap_page_unlock(page));
    frame_put(page);
}

/* Copy-on-write: makes the entry writable, with the page or a copy. mmap_lock held. False: out of frames, or look
 * again. */
static bool make_writable(struct process *p, struct rmap_vma *vma, uint64_t addr, uint64_t word)
{
    struct rmap_page *page = rmap_page(ctx, word >> 16), *copy;
    struct leaf *leaf = leaf_of(p, addr);
    bool reuse;

    if (rmap_page_get(page) != RMAP_OK)
        return false;
    OK(rmap_page_lock(page));
    pthread_mutex_lock(&leaf->lock);
    if ((word_at(p, addr) & 0xff) != 'P' || word_at(p, addr) >> 16 != word >> 16) {
        pthread_mutex_unlock(&leaf->lock);
        OK(rmap_page_unlock(page));
        frame_put(page);
        return false;
    }
    reuse = rmap_page_mapcount(page) == 1 && (rmap_page_flags(page) & RMAP_PG_SWAP_CACHE) == 0;
    if (reuse) {
        OK(rmap_page_move_anon(page, vma, addr));
        put_word(p, addr, present(word >> 16, true));
    }
    pthread_mutex_unlock(&leaf->lock);
    OK(rmap_page_unlock(page));
    if (reuse) {
        frame_put(page);
        return true;
    }
    copy = frame_alloc();
    if (copy == NULL) {
        frame_put(page);
        return false;
    }
    pthread_mutex_lock(&leaf->lock);
    if ((word_at(p, addr) & 0xff) != 'P' || word_at(p, addr) >> 16 != word >> 16) {
        pthread_mutex_unlock(&leaf->lock);
        frame_put(copy);
        frame_put(page);
        return false;
    }
    mem.contents[frame_of(rmap_page_pfn(copy))] = mem.contents[frame_of(word >> 16)];
    put_word(p, addr, 0);
    OK(rmap_page_remove(page, vma, addr, RMAP_LEVEL_PAGE, NULL));
    OK(rmap_page_add_new_anon(copy, vma, addr, RMAP_LEVEL_PAGE));
    put_word(p, addr, present(rmap_page_pfn(copy), true));
    pthread_mutex_unlock(&leaf->lock);
    frame_put(page);                /* the mapping's */
    frame_put(page);                /* ours */
    return true;
}

/* A program writes. */
static void do_write(struct family *f, unsigned which, unsigned v)
{
    struct process *p = &f->processes[which];
    uint64_t addr = FIRST_ADDR + v * PAGE, word, value = (uint64_t)f->id << 56 | (f->seed >> 8);
    struct rmap_page *page = NULL;
    struct rmap_vma *vma;
    struct leaf *leaf;
    unsigned tries;

    OK(rmap_mm_read_lock(p->mm));
    if (rmap_vma_find(p->mm, addr, &vma) != RMAP_OK) {
        OK(rmap_mm_read_unlock(p->mm));
        return;
    }
    OK(rmap_anon_vma_prepare(vma));
    leaf = leaf_make(p, addr);
    for (tries = 0; tries < 1000; tries++) {
        word = word_at(p, addr);
        if (word == 0) {
            struct rmap_page *fresh = frame_alloc();
            if (fresh == NULL)
                break;
            pthread_mutex_lock(&leaf->lock);
            if (word_at(p, addr) != 0) {    /* it only looked empty */
                pthread_mutex_unlock(&leaf->lock);
                frame_put(fresh);
                continue;
            }
            mem.contents[frame_of(rmap_page_pfn(fresh))] = 0;
            OK(rmap_page_add_new_anon(fresh, vma, addr, RMAP_LEVEL_PAGE));
            put_word(p, addr, present(rmap_page_pfn(fresh), true));
            pthread_mutex_unlock(&leaf->lock);
        } else if ((word & 0xff) == 'S') {
            swap_in(p, vma, addr, word);
        } else if ((word >> 8 & 1) == 0) {
            if (!make_writable(p, vma, addr, word) && word_at(p, addr) == word)
                break;
        } else {
            pthread_mutex_lock(&leaf->lock);
            word = word_at(p, addr);
            if ((word & 0xff) == 'P' && (word >> 8 & 1) != 0) {
                mem.contents[frame_of(word >> 16)] = value;
                f->expected[which][v] = value;
                page = rmap_page(ctx, word >> 16);
                OK(rmap_page_get(page));
            }
            pthread_mutex_unlock(&leaf->lock);
            if (page != NULL)
                break;
        }
    }
    if (page != NULL) {
        CHECK(check_page(f, page) <= 1);
        frame_put(page);
    }
    OK(rmap_mm_read_unlock(p->mm));
}

/* A program reads: the value written last, through whatever has happened to the page. */
static void do_read(struct family *f, unsigned which, unsigned v)
{
    struct process *p = &f->processes[which];
    uint64_t addr = FIRST_ADDR + v * PAGE, word;
    struct rmap_page *page = NULL;
    struct rmap_vma *vma;
    struct leaf *leaf;

    OK(rmap_mm_read_lock(p->mm));
    if (rmap_vma_find(p->mm, addr, &vma) == RMAP_OK && (leaf = leaf_of(p, addr)) != NULL) {
        while (((word = word_at(p, addr)) & 0xff) == 'S')
            swap_in(p, vma, addr, word);
        pthread_mutex_lock(&leaf->lock);
        word = word_at(p, addr);
        if ((word & 0xff) == 'P') {
            CHECK(mem.contents[frame_of(word >> 16)] == f->expected[which][v]);
            page = rmap_page(ctx, word >> 16);
            OK(rmap_page_get(page));
        } else if (word == 0) {
            CHECK(f->expected[which][v] == 0);
        }
        pthread_mutex_unlock(&leaf->lock);
        if (page != NULL) {
            check_page(f, page);
            frame_put(page);
        }
    }
    OK(rmap_mm_read_unlock(p->mm));
}

/* Takes away whatever stands at an address. mmap_lock held for writing. */
static void zap_one(struct family *f, unsigned which, struct rmap_vma *vma, unsigned v)
{
    struct process *p = &f->processes[which];
    uint64_t addr = FIRST_ADDR + v * PAGE, word;
    struct leaf *leaf = leaf_of(p, addr);
    struct rmap_page *page;

    f->expected[which][v] = 0;
    if (leaf == NULL)
        return;
    pthread_mutex_lock(&leaf->lock);
    word = word_at(p, addr);
    put_word(p, addr, 0);
    if ((word & 0xff) == 'P') {
        page = rmap_page(ctx, word >> 16);
        OK(rmap_page_remove(page, vma, addr, RMAP_LEVEL_PAGE, NULL));
        pthread_mutex_unlock(&leaf->lock);
        frame_put(page);
        return;
    }
    pthread_mutex_unlock(&leaf->lock);
    if (word != 0) {
        page = rmap_page(ctx, pfn_of((unsigned)(word >> 16)));
        OK(rmap_page_get(page));
        OK(rmap_page_lock(page));
        swap_free(page);
        OK(rmap_page_unlock(page));
        frame_put(page);
    }
}

/* munmap, cutting VMAs at the ends of the range. mmap_lock held for writing. */
static void unmap_range(struct family *f, unsigned which, unsigned first, unsigned last)
{
    struct process *p = &f->processes[which];
    uint64_t start = FIRST_ADDR + first * PAGE, end = FIRST_ADDR + last * PAGE;
    struct rmap_vma *vma;
    unsigned v;

    while (rmap_vma_find_next(p->mm, start, &vma) == RMAP_OK && rmap_vma_start(vma) < end) {
        struct rmap_vma *above;
        if (rmap_vma_start(vma) < start)
            OK(rmap_vma_split(p->mm, vma, start, &vma));
        if (rmap_vma_end(vma) > end)
            OK(rmap_vma_split(p->mm, vma, end, &above));
        for (v = first; v < last; v++)
            if (FIRST_ADDR + v * PAGE >= rmap_vma_start(vma) && FIRST_ADDR + v * PAGE < rmap_vma_end(vma))
                zap_one(f, which, vma, v);
        OK(rmap_vma_free(p->mm, vma));
    }
}

/* munmap, and often mmap of the same range again. */
static void do_remap(struct family *f, unsigned which)
{
    struct process *p = &f->processes[which];
    unsigned first = pick(f, SPAN), last = first + 1 + pick(f, SPAN - first);
    struct rmap_vma *vma, *low;

    OK(rmap_mm_write_lock(p->mm));
    unmap_range(f, which, first, last);
    if (pick(f, 4) != 0) {
        uint64_t start = FIRST_ADDR + first * PAGE, end = FIRST_ADDR + last * PAGE;
        OK(rmap_vma_new(p->mm, start, end, ANON, NULL, RMAP_PGOFF_VPN, NULL, &vma));
        if (first != 0 && rmap_vma_find(p->mm, start - PAGE, &low) == RMAP_OK && rmap_vma_can_merge(p->mm, low, vma))
            OK(rmap_vma_merge(p->mm, low, vma));
    }
    OK(rmap_mm_write_unlock(p->mm));
}

static void do_fork(struct family *f, unsigned from, unsigned to)
{
    struct process *parent = &f->processes[from], *child = &f->processes[to];
    struct rmap_vma *vma, *copy;
    uint64_t at = 0, addr, word;

    memset(child, 0, sizeof *child);
    OK(rmap_mm_new(ctx, &ops, child, child, &child->mm));
    OK(rmap_mm_write_lock(parent->mm));
    OK(rmap_mm_write_lock_nested(child->mm));
    OK(rmap_mm_fork_begin(child->mm, parent->mm));
    for (; rmap_vma_find_next(parent->mm, at, &vma) == RMAP_OK; at = rmap_vma_end(vma)) {
        OK(rmap_vma_fork(child->mm, parent->mm, vma, &copy));
        for (addr = rmap_vma_start(vma); addr < rmap_vma_end(vma); addr += PAGE) {
            struct leaf *source = leaf_of(parent, addr), *target;
            if (source == NULL)
                continue;
            target = leaf_make(child, addr);
            pthread_mutex_lock(&source->lock);
            pthread_mutex_lock(&target->lock);
            /* Under the lock: an entry that is being replaced looks empty to whoever peeks. */
            word = word_at(parent, addr);
            if ((word & 0xff) == 'P') {
                struct rmap_page *page = rmap_page(ctx, word >> 16);
                OK(rmap_page_dup(page, copy, addr, RMAP_LEVEL_PAGE));
                OK(rmap_page_get(page));
                word &= ~((uint64_t)1 << 8);
                put_word(parent, addr, word);
            } else if (word != 0) {
                __atomic_fetch_add(&mem.swap_uses[word >> 16], 1, __ATOMIC_ACQ_REL);
            }
            put_word(child, addr, word);
            pthread_mutex_unlock(&target->lock);
            pthread_mutex_unlock(&source->lock);
        }
    }
    OK(rmap_mm_fork_end(child->mm, parent->mm));
    OK(rmap_mm_write_unlock(child->mm));
    OK(rmap_mm_write_unlock(parent->mm));
    memcpy(f->expected[to], f->expected[from], sizeof f->expected[to]);
}

static void do_exit(struct family *f, unsigned which)
{
    struct process *p = &f->processes[which];
    unsigned i;

    OK(rmap_mm_write_lock(p->mm));
    unmap_range(f, which, 0, SPAN);
    CHECK(rmap_mm_nr_vmas(p->mm) == 0);
    OK(rmap_mm_write_unlock(p->mm));
    OK(rmap_mm_free(p->mm));
    for (i = 0; i < SPAN / LEAF; i++) {
        if (p->leaves[i] != NULL) {
            pthread_mutex_destroy(&p->leaves[i]->lock);
            free(p->leaves[i]);
        }
    }
    memset(p, 0, sizeof *p);
}

static void do_birth(struct family *f, unsigned which)
{
    struct process *p = &f->processes[which];
    struct rmap_vma *vma;

    memset(p, 0, sizeof *p);
    memset(f->expected[which], 0, sizeof f->expected[which]);
    OK(rmap_mm_new(ctx, &ops, p, p, &p->mm));
    OK(rmap_mm_write_lock(p->mm));
    OK(rmap_vma_new(p->mm, FIRST_ADDR, FIRST_ADDR + SPAN * PAGE, ANON, NULL, RMAP_PGOFF_VPN, NULL, &vma));
    OK(rmap_mm_write_unlock(p->mm));
}

static unsigned rounds = 60000;

/* More than one step maps: a fork shares all pages of a process. */
#define MAPPINGS (2 * SPAN)

static void *family_main(void *arg)
{
    struct family *f = (struct family *)arg;
    struct rmap_referenced referenced;
    struct rmap_page *page;
    unsigned round, which, other, frame;

    OK(rmap_reserve(ctx, MAPPINGS));
    do_birth(f, 0);
    for (round = 0; round < rounds; round++) {
        OK(rmap_unreserve(ctx, MAPPINGS));
        OK(rmap_reserve(ctx, MAPPINGS));
        which = pick(f, PROCESSES);
        other = pick(f, PROCESSES);
        if (f->processes[which].mm == NULL) {
            if (f->processes[other].mm != NULL)
                do_fork(f, other, which);
            continue;
        }
        switch (pick(f, 40)) {
        case 0:
            do_remap(f, which);
            break;
        case 1:
            if (which != 0)
                do_exit(f, which);
            break;
        case 2:
        case 3:
        case 4:
        case 5:
            f->swapped += reclaim(pick(f, FRAMES));
            break;
        case 6:
            frame = pick(f, FRAMES);
            page = rmap_page(ctx, pfn_of(frame));
            if (rmap_page_get(page) == RMAP_OK) {
                if (rmap_page_trylock(page) == RMAP_OK) {
                    OK(rmap_page_referenced(ctx, page, &referenced));
                    CHECK(referenced.young <= PROCESSES);
                    OK(rmap_page_unlock(page));
                }
                frame_put(page);
            }
            break;
        default:
            if (pick(f, 2) == 0)
                do_write(f, which, pick(f, SPAN));
            else
                do_read(f, which, pick(f, SPAN));
        }
    }
    for (which = 0; which < PROCESSES; which++)
        if (f->processes[which].mm != NULL)
            do_exit(f, which);
    OK(rmap_unreserve(ctx, MAPPINGS));
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    struct rmap_config config = test_config();
    struct rmap_stats stats;
    unsigned i, found = 0, swapped = 0, shared = 0;
    const char *wish = getenv("RMAP_TEST_ROUNDS");

    if (wish != NULL)
        rounds = (unsigned)atoi(wish);
    memset(&ops, 0, sizeof ops);
    ops.size = sizeof ops;
    ops.load = op_load;
    ops.lock = op_lock;
    ops.unlock = op_unlock;
    ops.set = op_set;
    ops.clear_flush = op_clear_flush;
    ops.test_and_clear_young = op_young;
    pthread_mutex_init(&mem.lock, NULL);
    OK(rmap_new(&config, &ctx));
    for (i = 0; i < 3; i++)
        OK(rmap_pages_add(ctx, ranges[i], RANGE, NULL));
    for (i = 0; i < FRAMES; i++)
        mem.free[mem.count++] = FRAMES - 1 - i;

    for (i = 0; i < THREADS; i++) {
        families[i].id = i + 1;
        families[i].seed = 0x9e3779b97f4a7c15u + i;
        CHECK(pthread_create(&threads[i], NULL, family_main, &families[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        found += families[i].found;
        swapped += families[i].swapped;
        shared += families[i].shared;
    }
    CHECK(mem.count == FRAMES);
    CHECK(found > rounds / 8 && swapped > 0 && shared > 0);
    OK(rmap_synchronize(ctx));
    stats.size = sizeof stats;
    OK(rmap_stats(ctx, &stats));
    CHECK(stats.mms == 0 && stats.vmas == 0 && stats.anon_vmas == 0 && stats.anon_mapped == 0);
    CHECK(stats.engine_bytes == 0 || !has_anchors());
    OK(rmap_free(ctx));
    printf("embedder: %u mappings found, %u pages with several, %u entries swapped out\n", found, shared, swapped);
    return 0;
}
