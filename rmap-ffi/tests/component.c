/* Each noun of the header once, on one thread: VMAs change, files, moves, look-ups, walks, compound pages, acting. */
#include "support.h"

static struct rmap_ctx *ctx;

/* A VMA is cut, its flags changed and back, and made whole; pages are found throughout. */
static void vmas_change_and_pages_are_found(void)
{
    struct space s;
    struct rmap_vma *low, *high, *found;
    struct rmap_page *page;
    struct rmap_vma_info info;
    char name[8];
    size_t length;
    uint64_t gap;

    space_init(&s, ctx);
    CHECK(rmap_mm_private(s.mm) == &s);
    OK(rmap_mm_write_lock(s.mm));
    low = map_anon(&s, 0, 16);
    OK(rmap_anon_vma_prepare(low));
    page = touch(ctx, &s, low, 9, 100);
    CHECK(rmap_page_index(page) == page_addr(9) / PAGE);

    OK(rmap_vma_split(s.mm, low, page_addr(8), &high));
    CHECK(rmap_vma_end(low) == page_addr(8) && rmap_vma_start(high) == page_addr(8));
    CHECK(count_mappings(ctx, page) == 1);
    OK(rmap_vma_shift(s.mm, low, high, page_addr(12)));
    CHECK(rmap_vma_start(high) == page_addr(12) && count_mappings(ctx, page) == 1);
    OK(rmap_vma_set_flags(s.mm, high, ANON & ~(uint64_t)RMAP_VM_WRITE));
    CHECK(!rmap_vma_can_merge(s.mm, low, high));
    IS(RMAP_ERR_INVAL, rmap_vma_merge(s.mm, low, high));
    OK(rmap_vma_set_flags(s.mm, high, ANON));
    OK(rmap_vma_set_name(s.mm, high, "heap of sorts"));
    OK(rmap_vma_name(s.mm, high, name, sizeof name, &length));
    CHECK(length == 13 && strcmp(name, "heap of") == 0);
    CHECK(!rmap_vma_can_merge(s.mm, low, high));
    OK(rmap_vma_set_name(s.mm, high, NULL));
    OK(rmap_vma_set_private(s.mm, high, NULL));
    CHECK(!rmap_vma_can_merge(s.mm, low, high));
    OK(rmap_vma_set_private(s.mm, high, &s));
    OK(rmap_vma_merge(s.mm, low, high));
    CHECK(rmap_mm_nr_vmas(s.mm) == 1 && count_mappings(ctx, page) == 1);

    OK(rmap_vma_adjust(s.mm, low, page_addr(4), page_addr(20)));
    OK(rmap_vma_get_info(low, &info));
    CHECK(info.start == page_addr(4) && info.end == page_addr(20) && info.pgoff == page_addr(4) / PAGE);
    CHECK(info.flags == ANON && info.mm == s.mm && info.file == NULL && info.private_data == &s);
    OK(rmap_vma_find(s.mm, page_addr(19), &found));
    CHECK(found == low && rmap_vma_mm(found) == s.mm && rmap_vma_private(found) == &s);
    IS(RMAP_ERR_NOT_MAPPED, rmap_vma_find(s.mm, page_addr(20), &found));
    OK(rmap_mm_find_gap(s.mm, BASE, page_addr(64), 8 * PAGE, false, &gap));
    CHECK(gap == page_addr(20));
    OK(rmap_mm_find_gap(s.mm, BASE, page_addr(64), 8 * PAGE, true, &gap));
    CHECK(gap == page_addr(56));
    OK(rmap_mm_write_unlock(s.mm));
    space_exit(ctx, &s);
}

/* mremap: entries move under the lock that keeps walks away; the page keeps its index. */
static void a_page_is_found_where_it_moved(void)
{
    struct space s;
    struct rmap_vma *from, *to;
    struct rmap_page *page;
    struct rmap_pte pte;
    struct rmap_mapping mapping;
    size_t n;

    space_init(&s, ctx);
    OK(rmap_mm_write_lock(s.mm));
    from = map_anon(&s, 0, 8);
    OK(rmap_anon_vma_prepare(from));
    page = touch(ctx, &s, from, 5, 101);
    OK(rmap_vma_move(s.mm, from, page_addr(4), page_addr(40), page_addr(44), &to));
    OK(rmap_vma_move_lock(s.mm, from));
    pthread_mutex_lock(&s.table.lock);
    plain_load(&s.table, page_addr(5), &pte);
    plain_set(&s.table, page_addr(41), &pte);
    OK(rmap_page_moved(page, from, page_addr(5), to, page_addr(41)));
    IS(RMAP_ERR_INVAL, rmap_page_moved(page, from, page_addr(5), to, page_addr(39)));
    plain_clear_flush(&s.table, page_addr(5), &pte);
    pthread_mutex_unlock(&s.table.lock);
    OK(rmap_vma_move_unlock(s.mm, from));
    OK(rmap_vma_free(s.mm, from));
    OK(rmap_page_lock(page));
    OK(rmap_page_mappings(ctx, page, &mapping, 1, &n));
    OK(rmap_page_unlock(page));
    CHECK(n == 1 && mapping.addr == page_addr(41) && mapping.vma == to && mapping.mm == s.mm);
    CHECK(mapping.pte.kind == RMAP_PTE_PRESENT && mapping.pte.pfn == 101);
    OK(rmap_mm_write_unlock(s.mm));
    space_exit(ctx, &s);
}

struct seen {
    unsigned candidates, asked, skipped;
    struct rmap_mm *skip;
    struct rmap_vma *order[4];
};

static bool see(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, void *arg)
{
    struct seen *seen = (struct seen *)arg;
    CHECK(rmap_page_pfn(page) == 102 && addr == page_addr(1));
    CHECK(rmap_vma_start(vma) == page_addr(0) && rmap_vma_private(vma) != NULL);
    CHECK(seen->candidates < 4);
    seen->order[seen->candidates++] = vma;
    return true;
}

static bool is_done(struct rmap_page *page, void *arg)
{
    CHECK(rmap_page_is_mapped(page));
    ((struct seen *)arg)->asked++;
    return false;
}

static bool is_invalid(struct rmap_vma *vma, void *arg)
{
    struct seen *seen = (struct seen *)arg;
    if (rmap_vma_mm(vma) != seen->skip)
        return false;
    seen->skipped++;
    return true;
}

static enum rmap_status take_lock(struct rmap_page *page, struct rmap_anon_vma_lock *lock, void *arg)
{
    ((struct seen *)arg)->asked += 100;
    return rmap_page_trylock_anon_vma_read(ctx, page, lock);
}

static bool stop(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, void *arg)
{
    (void)page, (void)vma, (void)addr, (void)arg;
    return false;
}

/* A page of four: its anon_vma is locked by the program, before and inside a walk, and kept by a reference. */
static void anon_vmas_are_locked_and_kept(struct rmap_page *page, struct rmap_walk_control *control, struct seen *seen)
{
    struct rmap_anon_vma *anon;
    struct rmap_anon_vma_lock lock;
    enum rmap_walk_end end;

    memset(seen, 0, sizeof *seen);
    control->anon_lock = take_lock;
    OK(rmap_walk(ctx, page, control, &end));
    CHECK(end == RMAP_WALK_COMPLETE && seen->candidates == 4 && seen->asked == 104);

    memset(seen, 0, sizeof *seen);
    OK(rmap_page_lock_anon_vma_read(ctx, page, &lock));
    OK(rmap_walk_locked(ctx, page, &lock, control, &end));
    OK(rmap_anon_vma_unlock_read(&lock));
    CHECK(end == RMAP_WALK_COMPLETE && seen->candidates == 4 && lock.anon_vma == NULL);
    IS(RMAP_ERR_LOCK, rmap_anon_vma_unlock_read(&lock));

    OK(rmap_page_get_anon_vma(ctx, page, &anon));
    OK(rmap_anon_vma_lock_read(ctx, anon, &lock));
    CHECK(lock.anon_vma == anon && lock.root == anon);
    OK(rmap_anon_vma_unlock_read(&lock));
    OK(rmap_anon_vma_put(ctx, anon));
}

/* Another engine's anchors are its own. */
static void anon_vmas_are_not_had(struct rmap_page *page, struct rmap_walk_control *control)
{
    struct rmap_anon_vma *anon;
    struct rmap_anon_vma_lock lock;

    IS(RMAP_ERR_NOT_SUPPORTED, rmap_page_get_anon_vma(ctx, page, &anon));
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_page_lock_anon_vma_read(ctx, page, &lock));
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_page_trylock_anon_vma_read(ctx, page, &lock));
    control->anon_lock = take_lock;
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_walk(ctx, page, control, NULL));
}

/* Walks see the family, the parent first; a child's own page has one candidate. */
static void walks_visit_the_family(void)
{
    static struct space parent, child[3];
    struct rmap_vma *vma, *own;
    struct rmap_page *page;
    struct rmap_walk_control control;
    struct seen seen;
    enum rmap_walk_end end;
    unsigned i;

    space_init(&parent, ctx);
    OK(rmap_mm_write_lock(parent.mm));
    vma = map_anon(&parent, 0, 4);
    OK(rmap_anon_vma_prepare(vma));
    page = touch(ctx, &parent, vma, 1, 102);
    OK(rmap_mm_write_unlock(parent.mm));
    for (i = 0; i < 3; i++) {
        space_init(&child[i], ctx);
        space_fork(ctx, &child[i], &parent);
    }
    CHECK(rmap_page_mapcount(page) == 4 && rmap_page_refcount(page) == 4);
    CHECK((rmap_page_flags(page) & RMAP_PG_ANON_EXCLUSIVE) == 0);
    CHECK(count_mappings(ctx, page) == 4);

    memset(&control, 0, sizeof control);
    control.size = sizeof control;
    control.rmap_one = see;
    control.done = is_done;
    control.invalid_vma = is_invalid;
    control.arg = &seen;
    memset(&seen, 0, sizeof seen);
    seen.skip = child[1].mm;
    OK(rmap_page_lock(page));
    OK(rmap_walk(ctx, page, &control, &end));
    CHECK(end == RMAP_WALK_COMPLETE && seen.candidates == 3 && seen.asked == 3 && seen.skipped == 1);
    CHECK(seen.order[0] == vma);

    control.rmap_one = stop;
    control.flags = RMAP_WALK_TRY;
    OK(rmap_walk(ctx, page, &control, &end));
    CHECK(end == RMAP_WALK_STOPPED);
    control.rmap_one = see;
    if (test_engine() == RMAP_ENGINE_ANON_VMA)
        anon_vmas_are_locked_and_kept(page, &control, &seen);
    else
        anon_vmas_are_not_had(page, &control);
    OK(rmap_page_unlock(page));

    /* Copy-on-write in a child: its page is its own. */
    OK(rmap_mm_read_lock(child[2].mm));
    OK(rmap_vma_find(child[2].mm, page_addr(1), &own));
    zap(ctx, &child[2], own, 1);
    page = touch(ctx, &child[2], own, 1, 103);
    OK(rmap_mm_read_unlock(child[2].mm));
    CHECK(count_mappings(ctx, page) == 1);

    for (i = 0; i < 3; i++)
        space_exit(ctx, &child[i]);
    /* The last to map it: it belongs to the parent alone again. */
    page = rmap_page(ctx, 102);
    OK(rmap_mm_read_lock(parent.mm));
    OK(rmap_page_lock(page));
    OK(rmap_page_move_anon(page, vma, page_addr(1)));
    OK(rmap_page_unlock(page));
    OK(rmap_mm_read_unlock(parent.mm));
    CHECK((rmap_page_flags(page) & RMAP_PG_ANON_EXCLUSIVE) != 0);
    space_exit(ctx, &parent);
}

static bool dup_slot(uint64_t slot, void *arg)
{
    CHECK(slot == 77);
    ++*(unsigned *)arg;
    return true;
}

/* Age, pin, swap out and in. */
static void an_anonymous_page_is_aged_and_swapped(void)
{
    static struct space parent, child;
    struct rmap_vma *vma, *theirs;
    struct rmap_page *page;
    struct rmap_referenced referenced;
    struct rmap_unmap_hooks hooks;
    unsigned uses = 0;
    bool gone, last;

    space_init(&parent, ctx);
    space_init(&child, ctx);
    OK(rmap_mm_write_lock(parent.mm));
    vma = map_anon(&parent, 0, 4);
    OK(rmap_anon_vma_prepare(vma));
    page = touch(ctx, &parent, vma, 2, 104);
    OK(rmap_mm_write_unlock(parent.mm));
    space_fork(ctx, &child, &parent);

    OK(rmap_page_lock(page));
    OK(rmap_page_referenced(ctx, page, &referenced));
    CHECK(referenced.young == 2 && !referenced.contended && referenced.vm_flags == ANON);
    OK(rmap_page_referenced(ctx, page, &referenced));
    CHECK(referenced.young == 0);
    IS(RMAP_ERR_AGAIN, rmap_page_pin(page));

    /* Not in the swap cache: it stays. */
    OK(rmap_page_get(page));
    OK(rmap_try_to_unmap(ctx, page, 0, NULL, &gone));
    CHECK(!gone && rmap_page_mapcount(page) == 2);
    memset(&hooks, 0, sizeof hooks);
    hooks.size = sizeof hooks;
    hooks.swap_dup = dup_slot;
    hooks.arg = &uses;
    OK(rmap_page_set_private(page, 77));
    OK(rmap_page_set_flags(page, RMAP_PG_SWAP_CACHE));
    OK(rmap_try_to_unmap(ctx, page, RMAP_TTU_SYNC | RMAP_TTU_BATCH_FLUSH, &hooks, &gone));
    CHECK(gone && uses == 2 && rmap_page_refcount(page) == 1);
    CHECK(plain_at(&child.table, page_addr(2))->kind == RMAP_PTE_SWAP);
    CHECK(plain_at(&child.table, page_addr(2))->value == 77);
    OK(rmap_page_unlock(page));

    /* The child faults it in first; the parent finds it too. */
    OK(rmap_mm_read_lock(child.mm));
    OK(rmap_vma_find(child.mm, page_addr(2), &theirs));
    OK(rmap_page_get(page));
    OK(rmap_page_lock(page));
    pthread_mutex_lock(&child.table.lock);
    OK(rmap_page_add_anon(page, theirs, page_addr(2), false, RMAP_LEVEL_PAGE));
    plain_at(&child.table, page_addr(2))->kind = RMAP_PTE_PRESENT;
    plain_at(&child.table, page_addr(2))->flags = 0;
    plain_at(&child.table, page_addr(2))->pfn = 104;
    pthread_mutex_unlock(&child.table.lock);
    OK(rmap_page_unlock(page));
    OK(rmap_mm_read_unlock(child.mm));
    CHECK(count_mappings(ctx, page) == 1);
    OK(rmap_page_put(page, &last));
    CHECK(!last);
    memset(plain_at(&parent.table, page_addr(2)), 0, sizeof(struct rmap_pte));
    space_exit(ctx, &child);
    space_exit(ctx, &parent);
    CHECK(rmap_page_refcount(page) == 0);
}

static bool no_table_lock(void *table, uint64_t addr, bool nested, void **cookie)
{
    (void)table, (void)addr, (void)nested, (void)cookie;
    return false;
}

static void no_table_unlock(void *table, void *cookie)
{
    (void)table, (void)cookie;
    abort();
}

/* A candidate without a table is passed over, and nothing is unlocked that was not locked. */
static void a_missing_table_is_passed_over(void)
{
    static struct space parent;
    struct rmap_pte_ops ops = plain_ops();
    struct rmap_mm *child;
    struct rmap_vma *vma, *copy;
    struct rmap_page *page;
    bool gone;

    ops.lock = no_table_lock;
    ops.unlock = no_table_unlock;
    space_init(&parent, ctx);
    OK(rmap_mm_new(ctx, &ops, &parent.table, NULL, &child));
    OK(rmap_mm_write_lock(parent.mm));
    vma = map_anon(&parent, 0, 4);
    OK(rmap_anon_vma_prepare(vma));
    page = touch(ctx, &parent, vma, 2, 106);
    OK(rmap_mm_write_lock_nested(child));
    OK(rmap_mm_fork_begin(child, parent.mm));
    OK(rmap_vma_fork(child, parent.mm, vma, &copy));
    OK(rmap_mm_fork_end(child, parent.mm));
    OK(rmap_page_lock(page));
    OK(rmap_page_get(page));
    OK(rmap_page_set_flags(page, RMAP_PG_LAZY_FREE));
    plain_at(&parent.table, page_addr(2))->flags = 0;
    OK(rmap_try_to_unmap(ctx, page, RMAP_TTU_SYNC, NULL, &gone));
    CHECK(gone && rmap_page_refcount(page) == 1);
    OK(rmap_page_unlock(page));
    OK(rmap_vma_free(child, copy));
    OK(rmap_mm_write_unlock(child));
    OK(rmap_mm_write_unlock(parent.mm));
    OK(rmap_mm_free(child));
    OK(rmap_page_put(page, &gone));
    OK(rmap_page_release(ctx, page));
    space_exit(ctx, &parent);
}

/* A file mapped shared and private; its page is cleaned, unmapped, removed. */
static void a_file_is_mapped_cleaned_and_unmapped(void)
{
    static struct space one, two;
    struct rmap_file *file, *another;
    struct rmap_vma *shared, *private_vma;
    struct rmap_page *page = rmap_page(ctx, 105), *found;
    struct rmap_pte pte = {RMAP_PTE_PRESENT, RMAP_PTE_WRITE | RMAP_PTE_DIRTY, 105, 0};
    uint32_t cleaned;
    bool gone, last;

    space_init(&one, ctx);
    space_init(&two, ctx);
    OK(rmap_file_new(ctx, 8, false, &one, &file));
    OK(rmap_file_new(ctx, 8, true, NULL, &another));
    CHECK(rmap_file_private(file) == &one && rmap_file_pages(file) == 8);
    OK(rmap_file_set_pages(file, 16));
    CHECK(rmap_file_pages(file) == 16);

    OK(rmap_page_claim(page));
    IS(RMAP_ERR_LOCK, rmap_file_add_page(file, page, 3));
    OK(rmap_page_lock(page));
    OK(rmap_file_add_page(file, page, 3));
    IS(RMAP_ERR_BUSY, rmap_file_add_page(another, page, 3));
    OK(rmap_file_find_page(file, 3, &found));
    CHECK(found == page && rmap_page_index(page) == 3 && rmap_page_refcount(page) == 3);
    OK(rmap_page_put(found, &last));
    IS(RMAP_ERR_NOT_MAPPED, rmap_file_find_page(file, 4, &found));
    OK(rmap_page_unlock(page));

    OK(rmap_mm_write_lock(one.mm));
    OK(rmap_vma_new(one.mm, page_addr(0), page_addr(4), ANON | RMAP_VM_SHARED, file, 2, NULL, &shared));
    OK(rmap_page_get(page));
    IS(RMAP_ERR_INVAL, rmap_page_add_file(page, shared, page_addr(2), RMAP_LEVEL_PAGE));
    OK(rmap_page_add_file(page, shared, page_addr(1), RMAP_LEVEL_PAGE));
    plain_set(&one.table, page_addr(1), &pte);
    OK(rmap_mm_write_unlock(one.mm));
    OK(rmap_mm_write_lock(two.mm));
    OK(rmap_vma_new(two.mm, page_addr(8), page_addr(12), ANON, file, 3, NULL, &private_vma));
    OK(rmap_page_get(page));
    OK(rmap_page_add_file(page, private_vma, page_addr(8), RMAP_LEVEL_PAGE));
    plain_set(&two.table, page_addr(8), &pte);
    OK(rmap_mm_write_unlock(two.mm));
    CHECK(count_mappings(ctx, page) == 2);
    IS(RMAP_ERR_BUSY, rmap_file_free(file));

    OK(rmap_page_lock(page));
    OK(rmap_page_mkclean(ctx, page, &cleaned));
    CHECK(cleaned == 1 && plain_at(&one.table, page_addr(1))->flags == 0);
    CHECK(plain_at(&two.table, page_addr(8))->flags == (RMAP_PTE_WRITE | RMAP_PTE_DIRTY));
    IS(RMAP_ERR_BUSY, rmap_file_remove_page(file, page));
    OK(rmap_try_to_unmap(ctx, page, 0, NULL, &gone));
    CHECK(gone && plain_at(&one.table, page_addr(1))->kind == RMAP_PTE_NONE);
    CHECK((rmap_page_flags(page) & RMAP_PG_DIRTY) != 0);
    IS(RMAP_ERR_FOREIGN, rmap_file_remove_page(another, page));
    OK(rmap_file_remove_page(file, page));
    OK(rmap_page_unlock(page));
    OK(rmap_page_put(page, &last));
    OK(rmap_page_put(page, &last));
    CHECK(last);
    OK(rmap_page_release(ctx, page));
    IS(RMAP_ERR_BUSY, rmap_file_free(file));
    space_exit(ctx, &one);
    space_exit(ctx, &two);
    OK(rmap_file_free(file));
    OK(rmap_file_free(another));
}

/* A compound page mapped by one entry, pinned, and refused to fork. */
static void a_compound_page_is_mapped_whole(void)
{
    static struct space s, child;
    struct rmap_vma *vma, *copy;
    struct rmap_page *head = rmap_page(ctx, 512), *tail = rmap_page(ctx, 515);
    struct rmap_stats stats;
    unsigned n;
    size_t count;
    bool last;

    space_init(&s, ctx);
    space_init(&child, ctx);
    OK(rmap_page_make_compound(ctx, 512, 2));
    IS(RMAP_ERR_BUSY, rmap_page_make_compound(ctx, 512, 1));
    CHECK(rmap_page_head(tail) == head);
    IS(RMAP_ERR_INVAL, rmap_page_claim(tail));
    OK(rmap_page_claim(head));
    OK(rmap_mm_write_lock(s.mm));
    vma = map_anon(&s, 16, 32);
    OK(rmap_anon_vma_prepare(vma));
    IS(RMAP_ERR_INVAL, rmap_page_add_new_anon(tail, vma, page_addr(16), RMAP_LEVEL_ENTIRE));
    IS(RMAP_ERR_INVAL, rmap_page_add_new_anon(head, vma, page_addr(30), RMAP_LEVEL_ENTIRE));
    OK(rmap_page_add_new_anon(head, vma, page_addr(16), RMAP_LEVEL_ENTIRE));
    for (n = 0; n < 4; n++) {
        struct rmap_pte pte = {RMAP_PTE_PRESENT, RMAP_PTE_WRITE | RMAP_PTE_LARGE, 0, 0};
        pte.pfn = 512 + n;
        plain_set(&s.table, page_addr(16 + n), &pte);
    }
    CHECK(rmap_page_mapcount(tail) == 1 && rmap_page_is_mapped(tail));
    CHECK(count_mappings(ctx, tail) == 1);
    stats.size = sizeof stats;
    OK(rmap_stats(ctx, &stats));
    CHECK(stats.anon_large == 1 && stats.mms == 2 && stats.vmas == 1 && stats.anon_vmas == (has_anchors() ? 1 : 0));

    OK(rmap_page_pin(head));
    CHECK(rmap_page_refcount(tail) == 2);
    OK(rmap_mm_write_lock_nested(child.mm));
    OK(rmap_mm_fork_begin(child.mm, s.mm));
    OK(rmap_vma_fork(child.mm, s.mm, vma, &copy));
    IS(RMAP_ERR_BUSY, rmap_page_dup(head, copy, page_addr(16), RMAP_LEVEL_ENTIRE));
    OK(rmap_mm_fork_end(child.mm, s.mm));
    OK(rmap_mm_write_unlock(child.mm));
    OK(rmap_page_unpin(head, &last));
    CHECK(!last);
    IS(RMAP_ERR_STALE, rmap_page_unpin(head, &last));

    memset(plain_at(&s.table, page_addr(16)), 0, 4 * sizeof(struct rmap_pte));
    IS(RMAP_ERR_NOT_MAPPED, rmap_page_remove(head, vma, page_addr(16), RMAP_LEVEL_PAGE, &last));
    OK(rmap_page_remove(head, vma, page_addr(16), RMAP_LEVEL_ENTIRE, &last));
    CHECK(last);
    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_page_put(head, &last));
    CHECK(last);
    OK(rmap_page_release(ctx, head));
    CHECK(rmap_page_head(tail) == tail);
    OK(rmap_page_lock(head));
    OK(rmap_page_mappings(ctx, head, NULL, 0, &count));
    CHECK(count == 0);
    OK(rmap_page_unlock(head));
    space_exit(ctx, &child);
    space_exit(ctx, &s);
}

/* More than the tests map. */
#define MAPPINGS 1000

/* An engine that keeps something for each mapping refuses one that nothing was reserved for, and nothing has changed. */
static void nothing_is_mapped_unreserved(void)
{
    static struct space s;
    struct rmap_vma *vma;
    struct rmap_page *page = rmap_page(ctx, 109);
    bool needed = test_engine() == RMAP_ENGINE_PTE_CHAIN, last;

    space_init(&s, ctx);
    OK(rmap_mm_write_lock(s.mm));
    vma = map_anon(&s, 0, 1);
    OK(rmap_anon_vma_prepare(vma));
    OK(rmap_page_claim(page));
    if (needed) {
        IS(RMAP_ERR_NOMEM, rmap_page_add_new_anon(page, vma, page_addr(0), RMAP_LEVEL_PAGE));
        CHECK(!rmap_page_is_mapped(page));
    }
    OK(rmap_reserve(ctx, 1));
    OK(rmap_page_add_new_anon(page, vma, page_addr(0), RMAP_LEVEL_PAGE));
    OK(rmap_unreserve(ctx, 1));
    OK(rmap_page_remove(page, vma, page_addr(0), RMAP_LEVEL_PAGE, NULL));
    OK(rmap_mm_write_unlock(s.mm));
    CHECK(rmap_page_mapcount(page) == 0);
    OK(rmap_page_put(page, &last));
    CHECK(last);
    OK(rmap_page_release(ctx, page));
    space_exit(ctx, &s);
}

int main(void)
{
    void *memory = NULL;
    struct rmap_config config = test_config();
    struct rmap_stats stats;

    CHECK(rmap_version() == RMAP_VERSION);
    OK(rmap_new(&config, &ctx));
    OK(rmap_pages_add(ctx, 100, 10, NULL));
    CHECK(posix_memalign(&memory, RMAP_PAGE_DESC_ALIGN, 8 * RMAP_PAGE_DESC_SIZE) == 0);
    OK(rmap_pages_add(ctx, 512, 8, memory));
    IS(RMAP_ERR_EXISTS, rmap_pages_add(ctx, 105, 1, NULL));
    CHECK((void *)rmap_page(ctx, 513) == (void *)((char *)memory + RMAP_PAGE_DESC_SIZE));
    CHECK(rmap_page(ctx, 99) == NULL && rmap_page(ctx, 110) == NULL && rmap_page(ctx, 520) == NULL);
    CHECK(rmap_page_pfn(rmap_page(ctx, 107)) == 107);

    nothing_is_mapped_unreserved();
    OK(rmap_reserve(ctx, MAPPINGS));
    vmas_change_and_pages_are_found();
    a_page_is_found_where_it_moved();
    walks_visit_the_family();
    an_anonymous_page_is_aged_and_swapped();
    a_missing_table_is_passed_over();
    a_file_is_mapped_cleaned_and_unmapped();
    a_compound_page_is_mapped_whole();
    OK(rmap_unreserve(ctx, MAPPINGS));
    IS(RMAP_ERR_INVAL, rmap_unreserve(ctx, 1));

    OK(rmap_synchronize(ctx));
    stats.size = sizeof stats;
    OK(rmap_stats(ctx, &stats));
    CHECK(stats.mms == 0 && stats.files == 0 && stats.vmas == 0 && stats.anon_vmas == 0);
    CHECK(stats.anon_mapped == 0 && stats.anon_large == 0 && stats.file_mapped == 0);
    CHECK(stats.engine_bytes == 0 || !has_anchors());
    OK(rmap_free(ctx));
    free(memory);
    printf("component: done\n");
    return 0;
}
