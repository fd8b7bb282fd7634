/* What a program can do wrong gives a status and changes nothing. */
#include "support.h"

static struct rmap_ctx *ctx, *other_ctx;
static struct space s, other;
static struct rmap_vma *vma, *second, *foreign;
static struct rmap_page *page, *fresh, *foreign_page;
static struct rmap_file *file, *foreign_file;

/* All that a program can see, as one number. mmap_lock of s held. */
static uint64_t state(void)
{
    struct rmap_stats stats;
    struct rmap_vma_info info;
    struct rmap_vma *at;
    uint64_t end = 0, hash = 14695981039346656037u;
    unsigned i;

#define MIX(value) (hash = (hash ^ (uint64_t)(value)) * 1099511628211u)
    stats.size = sizeof stats;
    OK(rmap_stats(ctx, &stats));
    MIX(stats.mms), MIX(stats.files), MIX(stats.vmas), MIX(stats.anon_vmas), MIX(stats.anon_mapped);
    MIX(stats.anon_large), MIX(stats.file_mapped);
    for (; rmap_vma_find_next(s.mm, end, &at) == RMAP_OK; end = info.end) {
        OK(rmap_vma_get_info(at, &info));
        MIX(info.start), MIX(info.end), MIX(info.pgoff), MIX(info.flags), MIX(info.file != NULL);
        MIX(info.private_data != NULL);
    }
    for (i = 0; i < 8; i++) {
        struct rmap_page *p = rmap_page(ctx, 200 + i);
        MIX(rmap_page_mapcount(p)), MIX(rmap_page_refcount(p)), MIX(rmap_page_flags(p)), MIX(rmap_page_index(p));
    }
    return hash;
}

/* A refused call: the status is right, and everything is as it was. */
#define REFUSED(expected, call)                 \
    do {                                        \
        uint64_t before_ = state();             \
        IS(expected, call);                     \
        CHECK(state() == before_);              \
    } while (0)

#define UNTOUCHED ((void *)0x1234)

static void null_is_refused(void)
{
    struct rmap_pte_ops ops = plain_ops();
    struct rmap_mm *mm = (struct rmap_mm *)UNTOUCHED;
    struct rmap_vma *v = (struct rmap_vma *)UNTOUCHED;
    struct rmap_file *f = (struct rmap_file *)UNTOUCHED;
    struct rmap_page *p = (struct rmap_page *)UNTOUCHED;
    struct rmap_anon_vma *a = (struct rmap_anon_vma *)UNTOUCHED;
    struct rmap_anon_vma_lock lock;
    struct rmap_walk_control control;
    bool flag;
    size_t n;
    uint64_t addr;

    memset(&control, 0, sizeof control);
    control.size = sizeof control;
    REFUSED(RMAP_ERR_NULL, rmap_config_init(NULL, sizeof(struct rmap_config)));
    REFUSED(RMAP_ERR_NULL, rmap_new(NULL, NULL));
    REFUSED(RMAP_OK, rmap_free(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_synchronize(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_stats(NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_stats(ctx, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_pages_add(NULL, 0, 1, NULL));
    CHECK(rmap_page(NULL, 0) == NULL && rmap_page_pfn(NULL) == UINT64_MAX && rmap_page_mapcount(NULL) == 0);
    CHECK(rmap_page_flags(NULL) == 0 && rmap_page_private(NULL) == 0 && rmap_page_head(NULL) == NULL);
    CHECK(rmap_page_refcount(NULL) == 0 && rmap_page_index(NULL) == 0 && !rmap_page_is_mapped(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_claim(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_release(ctx, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_release(NULL, page));
    REFUSED(RMAP_ERR_NULL, rmap_page_get(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_put(NULL, &flag));
    REFUSED(RMAP_ERR_NULL, rmap_page_put(page, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_lock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_lock_nested(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_trylock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_unlock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_pin(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_unpin(page, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_set_flags(NULL, 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_clear_flags(NULL, 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_set_private(NULL, 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_make_compound(NULL, 0, 1));
    REFUSED(RMAP_ERR_NULL, rmap_page_break_compound(NULL, 0));

    REFUSED(RMAP_ERR_NULL, rmap_mm_new(NULL, &ops, NULL, NULL, &mm));
    REFUSED(RMAP_ERR_NULL, rmap_mm_new(ctx, NULL, NULL, NULL, &mm));
    REFUSED(RMAP_ERR_NULL, rmap_mm_new(ctx, &ops, NULL, NULL, NULL));
    ops.set = NULL;
    REFUSED(RMAP_ERR_NULL, rmap_mm_new(ctx, &ops, NULL, NULL, &mm));
    ops = plain_ops();
    ops.clear = ops.clear_flush;
    REFUSED(RMAP_ERR_NULL, rmap_mm_new(ctx, &ops, NULL, NULL, &mm));
    CHECK(mm == UNTOUCHED);
    REFUSED(RMAP_OK, rmap_mm_free(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_mm_read_lock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_mm_write_lock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_mm_write_unlock(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_mm_fork_begin(NULL, s.mm));
    REFUSED(RMAP_ERR_NULL, rmap_mm_fork_end(s.mm, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_mm_find_gap(NULL, 0, PAGE, PAGE, false, &addr));
    REFUSED(RMAP_ERR_NULL, rmap_mm_find_gap(s.mm, 0, PAGE, PAGE, false, NULL));
    CHECK(rmap_mm_private(NULL) == NULL && rmap_mm_nr_vmas(NULL) == 0);

    REFUSED(RMAP_ERR_NULL, rmap_vma_new(NULL, page_addr(60), page_addr(61), ANON, NULL, RMAP_PGOFF_VPN, NULL, &v));
    REFUSED(RMAP_ERR_NULL, rmap_vma_new(s.mm, page_addr(60), page_addr(61), ANON, NULL, RMAP_PGOFF_VPN, NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_free(s.mm, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_split(s.mm, vma, page_addr(1), NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_split(s.mm, NULL, page_addr(1), &v));
    REFUSED(RMAP_ERR_NULL, rmap_vma_merge(s.mm, vma, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_adjust(s.mm, NULL, page_addr(1), page_addr(2)));
    REFUSED(RMAP_ERR_NULL, rmap_vma_shift(s.mm, NULL, vma, page_addr(1)));
    REFUSED(RMAP_ERR_NULL, rmap_vma_move(s.mm, vma, page_addr(0), page_addr(60), page_addr(61), NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_fork(NULL, s.mm, vma, &v));
    REFUSED(RMAP_ERR_NULL, rmap_vma_find(s.mm, 0, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_get_info(NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_vma_set_name(s.mm, NULL, "x"));
    REFUSED(RMAP_ERR_NULL, rmap_vma_name(s.mm, vma, NULL, 1, &n));
    CHECK(!rmap_vma_can_merge(s.mm, NULL, vma) && rmap_vma_start(NULL) == 0 && rmap_vma_mm(NULL) == NULL);
    CHECK(v == UNTOUCHED);

    REFUSED(RMAP_ERR_NULL, rmap_anon_vma_prepare(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_add_new_anon(NULL, vma, page_addr(3), 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_add_new_anon(fresh, NULL, page_addr(3), 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_add_anon(NULL, vma, page_addr(3), false, 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_move_anon(page, NULL, page_addr(3)));
    REFUSED(RMAP_ERR_NULL, rmap_page_dup(NULL, vma, page_addr(3), 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_remove(NULL, vma, page_addr(3), 0, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_file_new(NULL, 1, false, NULL, &f));
    REFUSED(RMAP_ERR_NULL, rmap_file_new(ctx, 1, false, NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_file_add_page(NULL, fresh, 0));
    REFUSED(RMAP_ERR_NULL, rmap_file_find_page(file, 0, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_add_file(fresh, NULL, page_addr(3), 0));
    REFUSED(RMAP_ERR_NULL, rmap_page_get_anon_vma(ctx, page, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_get_anon_vma(ctx, NULL, &a));
    REFUSED(RMAP_ERR_NULL, rmap_anon_vma_put(ctx, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_anon_vma_lock_read(ctx, NULL, &lock));
    REFUSED(RMAP_ERR_NULL, rmap_page_lock_anon_vma_read(ctx, page, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_anon_vma_unlock_read(NULL));
    REFUSED(RMAP_ERR_NULL, rmap_walk(ctx, page, NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_walk(ctx, page, &control, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_walk_locked(ctx, page, NULL, &control, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_mappings(ctx, page, NULL, 1, &n));
    REFUSED(RMAP_ERR_NULL, rmap_page_mappings(ctx, page, NULL, 0, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_try_to_unmap(ctx, page, 0, NULL, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_referenced(ctx, page, NULL));
    REFUSED(RMAP_ERR_NULL, rmap_page_mkclean(ctx, NULL, NULL));
    CHECK(f == UNTOUCHED && p == UNTOUCHED && a == UNTOUCHED);
}

static bool no(struct rmap_page *p, struct rmap_vma *v, uint64_t addr, void *arg)
{
    (void)p, (void)v, (void)addr, (void)arg;
    return false;
}

static void malformed_arguments_are_refused(void)
{
    struct rmap_config config;
    struct rmap_ctx *made = (struct rmap_ctx *)UNTOUCHED;
    struct rmap_pte_ops ops = plain_ops();
    struct rmap_walk_control control;
    struct rmap_unmap_hooks hooks;
    struct rmap_stats stats;
    struct rmap_mm *mm;
    struct rmap_vma *v;
    uint64_t addr;
    bool flag;

    /* Sizes, engines, flags. */
    REFUSED(RMAP_ERR_INVAL, rmap_config_init(&config, 8));
    OK(rmap_config_init(&config, sizeof config));
    config.engine = 99;
    REFUSED(RMAP_ERR_NOT_SUPPORTED, rmap_new(&config, &made));
    OK(rmap_config_init(&config, sizeof config));
    config.flags = 1;
    REFUSED(RMAP_ERR_NOT_SUPPORTED, rmap_new(&config, &made));
    OK(rmap_config_init(&config, sizeof config));
    config.size = 4;
    REFUSED(RMAP_ERR_INVAL, rmap_new(&config, &made));
    CHECK(made == UNTOUCHED);
    stats.size = 8;
    REFUSED(RMAP_ERR_INVAL, rmap_stats(ctx, &stats));
    ops.size = 16;
    REFUSED(RMAP_ERR_INVAL, rmap_mm_new(ctx, &ops, NULL, NULL, &mm));

    /* Ranges of frames. */
    REFUSED(RMAP_ERR_INVAL, rmap_pages_add(ctx, 5000, 0, NULL));
    REFUSED(RMAP_ERR_INVAL, rmap_pages_add(ctx, UINT64_MAX, 2, NULL));
    REFUSED(RMAP_ERR_INVAL, rmap_pages_add(ctx, 5000, 1, (void *)0x1008));
    REFUSED(RMAP_ERR_EXISTS, rmap_pages_add(ctx, 203, 100, NULL));
    REFUSED(RMAP_ERR_INVAL, rmap_page_make_compound(ctx, 201, 1));
    REFUSED(RMAP_ERR_INVAL, rmap_page_make_compound(ctx, 200, 0));
    REFUSED(RMAP_ERR_INVAL, rmap_page_make_compound(ctx, 200, 300));
    REFUSED(RMAP_ERR_INVAL, rmap_page_make_compound(ctx, 999999, 1));
    REFUSED(RMAP_ERR_BUSY, rmap_page_make_compound(ctx, 200, 1));
    REFUSED(RMAP_ERR_INVAL, rmap_page_break_compound(ctx, 200));

    /* Bounds. */
#define NEW(start, end) rmap_vma_new(s.mm, start, end, ANON, NULL, RMAP_PGOFF_VPN, NULL, &v)
    REFUSED(RMAP_ERR_INVAL, NEW(page_addr(60) + 1, page_addr(61)));
    REFUSED(RMAP_ERR_INVAL, NEW(page_addr(60), page_addr(61) + 1));
    REFUSED(RMAP_ERR_INVAL, NEW(page_addr(60), page_addr(60)));
    REFUSED(RMAP_ERR_INVAL, NEW(page_addr(61), page_addr(60)));
    REFUSED(RMAP_ERR_EXISTS, NEW(page_addr(15), page_addr(61)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_new(s.mm, page_addr(60), page_addr(62), ANON, file, UINT64_MAX - 1, NULL, &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_new(s.mm, page_addr(60), page_addr(61), ANON, file, RMAP_PGOFF_VPN, NULL, &v));
    REFUSED(RMAP_ERR_INVAL,
            rmap_vma_new(s.mm, page_addr(60), page_addr(61), ANON | RMAP_VM_SHARED, NULL, RMAP_PGOFF_VPN, NULL, &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_set_flags(s.mm, vma, ANON | RMAP_VM_SHARED));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_split(s.mm, vma, page_addr(0), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_split(s.mm, vma, page_addr(16), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_split(s.mm, vma, page_addr(3) + 8, &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_adjust(s.mm, vma, page_addr(3), page_addr(3)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_adjust(s.mm, vma, page_addr(0) + 1, page_addr(3)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_adjust(s.mm, vma, page_addr(17), page_addr(18)));
    REFUSED(RMAP_ERR_EXISTS, rmap_vma_adjust(s.mm, vma, page_addr(0), page_addr(21)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_merge(s.mm, vma, second));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_merge(s.mm, vma, vma));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_shift(s.mm, vma, second, page_addr(8)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_move(s.mm, vma, page_addr(16), page_addr(60), page_addr(61), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_move(s.mm, vma, page_addr(0) + 1, page_addr(60), page_addr(61), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_move(s.mm, vma, page_addr(0), page_addr(61), page_addr(60), &v));
    REFUSED(RMAP_ERR_EXISTS, rmap_vma_move(s.mm, vma, page_addr(0), page_addr(20), page_addr(21), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_mm_find_gap(s.mm, 1, page_addr(60), PAGE, false, &addr));
    REFUSED(RMAP_ERR_INVAL, rmap_mm_find_gap(s.mm, 0, page_addr(60), 0, false, &addr));
    REFUSED(RMAP_ERR_NOSPACE, rmap_mm_find_gap(s.mm, page_addr(0), page_addr(8), PAGE, false, &addr));

    /* Mappings. */
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_new_anon(fresh, vma, page_addr(3) + 1, RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_new_anon(fresh, vma, page_addr(16), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_new_anon(fresh, vma, page_addr(3), 7));
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_new_anon(fresh, vma, page_addr(3), RMAP_LEVEL_ENTIRE));
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_new_anon(fresh, second, page_addr(20), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_BUSY, rmap_page_add_new_anon(page, vma, page_addr(3), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_INVAL, rmap_page_add_file(page, vma, page_addr(3), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_NOT_MAPPED, rmap_page_remove(fresh, vma, page_addr(3), RMAP_LEVEL_PAGE, &flag));
    REFUSED(RMAP_ERR_INVAL, rmap_page_remove(page, vma, page_addr(16), RMAP_LEVEL_PAGE, &flag));
    REFUSED(RMAP_ERR_NOT_MAPPED, rmap_page_dup(fresh, vma, page_addr(3), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_INVAL, rmap_page_set_flags(page, RMAP_PG_LOCKED));
    REFUSED(RMAP_ERR_INVAL, rmap_page_clear_flags(page, RMAP_PG_WAITERS));
    REFUSED(RMAP_ERR_INVAL, rmap_page_set_flags(page, 0x80000000u));
    REFUSED(RMAP_ERR_BUSY, rmap_page_claim(page));
    REFUSED(RMAP_ERR_BUSY, rmap_page_release(ctx, page));
    REFUSED(RMAP_ERR_STALE, rmap_page_put(rmap_page(ctx, 207), &flag));
    REFUSED(RMAP_ERR_STALE, rmap_page_get(rmap_page(ctx, 207)));
    REFUSED(RMAP_ERR_STALE, rmap_page_unpin(page, &flag));
    REFUSED(RMAP_ERR_INVAL, rmap_page_lock((struct rmap_page *)((char *)page + 4)));
    REFUSED(RMAP_ERR_INVAL, rmap_vma_split(s.mm, (struct rmap_vma *)((char *)vma + 8), page_addr(3), &v));
    REFUSED(RMAP_ERR_INVAL, rmap_mm_read_trylock((struct rmap_mm *)((char *)s.mm + 4)));

    /* Controls. */
    memset(&control, 0, sizeof control);
    control.rmap_one = no;
    OK(rmap_page_lock(page));
    REFUSED(RMAP_ERR_INVAL, rmap_walk(ctx, page, &control, NULL));
    control.size = sizeof control;
    control.flags = 64;
    REFUSED(RMAP_ERR_NOT_SUPPORTED, rmap_walk(ctx, page, &control, NULL));
    memset(&hooks, 0, sizeof hooks);
    REFUSED(RMAP_ERR_INVAL, rmap_try_to_unmap(ctx, page, 0, &hooks, &flag));
    REFUSED(RMAP_ERR_NOT_SUPPORTED, rmap_try_to_unmap(ctx, page, 1u << 20, NULL, &flag));
    /* Its only reference is its mapping's. */
    REFUSED(RMAP_ERR_BUSY, rmap_try_to_unmap(ctx, page, 0, NULL, &flag));
    OK(rmap_page_unlock(page));
}

static void strangers_are_refused(void)
{
    struct rmap_vma *v;
    struct rmap_anon_vma *a;
    struct rmap_anon_vma_lock lock;
    struct rmap_mm *mm;
    struct rmap_pte_ops ops = plain_ops();
    size_t n;

    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_free(s.mm, foreign));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_split(s.mm, foreign, page_addr(1), &v));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_merge(s.mm, vma, foreign));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_adjust(s.mm, foreign, page_addr(0), page_addr(1)));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_shift(s.mm, vma, foreign, page_addr(1)));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_move(s.mm, foreign, page_addr(0), page_addr(60), page_addr(61), &v));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_set_flags(s.mm, foreign, ANON));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_set_name(s.mm, foreign, "x"));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_move_lock(s.mm, foreign));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_new(s.mm, page_addr(60), page_addr(61), ANON, foreign_file, 0, NULL, &v));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_add_new_anon(foreign_page, vma, page_addr(3), RMAP_LEVEL_PAGE));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_remove(foreign_page, vma, page_addr(3), RMAP_LEVEL_PAGE, NULL));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_release(ctx, foreign_page));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_get_anon_vma(ctx, foreign_page, &a));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_trylock_anon_vma_read(ctx, foreign_page, &lock));
    REFUSED(RMAP_ERR_FOREIGN, rmap_page_mappings(ctx, foreign_page, NULL, 0, &n));
    REFUSED(RMAP_ERR_FOREIGN, rmap_file_add_page(file, foreign_page, 0));
    OK(rmap_mm_write_lock_nested(other.mm));
    REFUSED(RMAP_ERR_FOREIGN, rmap_mm_fork_begin(other.mm, s.mm));
    REFUSED(RMAP_ERR_FOREIGN, rmap_vma_fork(other.mm, s.mm, vma, &v));
    OK(rmap_mm_write_unlock(other.mm));
    REFUSED(RMAP_ERR_INVAL, rmap_mm_fork_begin(s.mm, s.mm));
    REFUSED(RMAP_ERR_NOT_MAPPED, rmap_page_get_anon_vma(ctx, fresh, &a));
    OK(rmap_mm_new(ctx, &ops, NULL, NULL, &mm));
    OK(rmap_mm_write_lock_nested(mm));
    IS(RMAP_ERR_FOREIGN, rmap_vma_free(mm, vma));
    IS(RMAP_ERR_BUSY, rmap_mm_fork_begin(s.mm, mm));
    OK(rmap_mm_write_unlock(mm));
    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_mm_free(mm));
    OK(rmap_mm_write_lock(s.mm));
}

/* Without the lock that it needs, a function says so. s.mm's lock is not held by the calls, only by state(). */
static void locks_are_asked_for(void)
{
    struct rmap_vma *v;
    struct rmap_anon_vma_lock lock;
    struct rmap_referenced referenced;
    struct rmap_walk_control control;
    size_t n;
    uint64_t before = state(), addr;
    bool flag;

    memset(&control, 0, sizeof control);
    control.size = sizeof control;
    control.rmap_one = no;
    OK(rmap_mm_write_unlock(s.mm));
    IS(RMAP_ERR_LOCK, rmap_vma_new(s.mm, page_addr(60), page_addr(61), ANON, NULL, RMAP_PGOFF_VPN, NULL, &v));
    IS(RMAP_ERR_LOCK, rmap_vma_free(s.mm, vma));
    IS(RMAP_ERR_LOCK, rmap_vma_split(s.mm, vma, page_addr(4), &v));
    IS(RMAP_ERR_LOCK, rmap_vma_merge(s.mm, vma, second));
    IS(RMAP_ERR_LOCK, rmap_vma_find(s.mm, page_addr(4), &v));
    IS(RMAP_ERR_LOCK, rmap_mm_find_gap(s.mm, 0, PAGE, PAGE, false, &addr));
    IS(RMAP_ERR_LOCK, rmap_anon_vma_prepare(vma));
    IS(RMAP_ERR_LOCK, rmap_mm_write_unlock(s.mm));
    IS(RMAP_ERR_LOCK, rmap_mm_read_unlock(s.mm));
    IS(RMAP_ERR_LOCK, rmap_page_unlock(page));
    IS(RMAP_ERR_LOCK, rmap_walk(ctx, page, &control, NULL));
    IS(RMAP_ERR_LOCK, rmap_page_mappings(ctx, page, NULL, 0, &n));
    IS(RMAP_ERR_LOCK, rmap_try_to_unmap(ctx, page, 0, NULL, &flag));
    IS(RMAP_ERR_LOCK, rmap_page_referenced(ctx, page, &referenced));
    IS(RMAP_ERR_LOCK, rmap_page_mkclean(ctx, page, NULL));
    IS(RMAP_ERR_LOCK, rmap_page_add_anon(page, vma, page_addr(3), false, RMAP_LEVEL_PAGE));
    IS(RMAP_ERR_LOCK, rmap_page_move_anon(page, vma, page_addr(1)));
    IS(RMAP_ERR_LOCK, rmap_file_add_page(file, fresh, 0));
    memset(&lock, 0, sizeof lock);
    IS(RMAP_ERR_LOCK, rmap_anon_vma_unlock_read(&lock));
    OK(rmap_mm_read_lock(s.mm));
    IS(RMAP_ERR_LOCK, rmap_mm_write_unlock(s.mm));
    IS(RMAP_ERR_LOCK, rmap_vma_split(s.mm, vma, page_addr(4), &v));
    IS(RMAP_ERR_AGAIN, rmap_mm_write_trylock(s.mm));
    /* With a lock held that must not be. */
    IS(RMAP_ERR_LOCK, rmap_synchronize(ctx));
    IS(RMAP_ERR_LOCK, rmap_file_free(file));
    OK(rmap_mm_read_unlock(s.mm));
    OK(rmap_page_lock(page));
    IS(RMAP_ERR_LOCK, rmap_walk_locked(ctx, page, &lock, &control, NULL));
    IS(RMAP_ERR_LOCK, rmap_free(ctx));
    OK(rmap_page_unlock(page));
    /* What is linked or in use stays. */
    IS(RMAP_ERR_BUSY, rmap_mm_free(s.mm));
    IS(RMAP_ERR_BUSY, rmap_free(ctx));
    OK(rmap_mm_write_lock(s.mm));
    CHECK(state() == before);
}

/* Handles that outlived what they named. */
static void stale_handles_are_found(void)
{
    struct rmap_vma *gone, *next, *v;
    struct rmap_mm *mm;
    struct rmap_file *f;
    struct rmap_pte_ops ops = plain_ops();
    struct rmap_vma_info info;

    OK(rmap_mm_write_unlock(s.mm));
    if (strstr(rmap_version_string(), "checked") == NULL) {
        printf("misuse: SKIPPED stale handles: this build does not check them\n");
        OK(rmap_mm_write_lock(s.mm));
        return;
    }
    OK(rmap_mm_write_lock(s.mm));
    gone = map_anon(&s, 100, 101);
    OK(rmap_vma_free(s.mm, gone));
    /* Before its grace period, after it, and when somebody else has its place. */
    REFUSED(RMAP_ERR_STALE, rmap_vma_free(s.mm, gone));
    REFUSED(RMAP_ERR_STALE, rmap_anon_vma_prepare(gone));
    REFUSED(RMAP_ERR_STALE, rmap_page_add_new_anon(fresh, gone, page_addr(100), RMAP_LEVEL_PAGE));
    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_synchronize(ctx));
    OK(rmap_mm_write_lock(s.mm));
    REFUSED(RMAP_ERR_STALE, rmap_vma_free(s.mm, gone));
    REFUSED(RMAP_ERR_STALE, rmap_vma_get_info(gone, &info));
    next = map_anon(&s, 100, 101);
    REFUSED(RMAP_ERR_STALE, rmap_vma_free(s.mm, gone));
    REFUSED(RMAP_ERR_STALE, rmap_vma_split(s.mm, gone, page_addr(100), &v));
    CHECK(rmap_vma_start(gone) == 0 && rmap_vma_start(next) == page_addr(100));
    OK(rmap_vma_free(s.mm, next));

    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_mm_new(ctx, &ops, NULL, NULL, &mm));
    OK(rmap_mm_free(mm));
    IS(RMAP_ERR_STALE, rmap_mm_free(mm));
    IS(RMAP_ERR_STALE, rmap_mm_read_lock(mm));
    OK(rmap_file_new(ctx, 1, false, NULL, &f));
    OK(rmap_file_free(f));
    IS(RMAP_ERR_STALE, rmap_file_free(f));
    CHECK(rmap_file_pages(f) == 0);
    OK(rmap_mm_write_lock(s.mm));
}

int main(void)
{
    struct rmap_config config = test_config();
    unsigned i;

    OK(rmap_new(&config, &ctx));
    OK(rmap_new(NULL, &other_ctx));
    OK(rmap_pages_add(ctx, 200, 8, NULL));
    OK(rmap_pages_add(other_ctx, 200, 8, NULL));
    foreign_page = rmap_page(other_ctx, 200);
    OK(rmap_file_new(ctx, 4, false, NULL, &file));
    OK(rmap_file_new(other_ctx, 4, false, NULL, &foreign_file));
    space_init(&s, ctx);
    space_init(&other, other_ctx);
    OK(rmap_mm_write_lock(other.mm));
    foreign = map_anon(&other, 0, 4);
    OK(rmap_mm_write_unlock(other.mm));

    OK(rmap_mm_write_lock(s.mm));
    vma = map_anon(&s, 0, 16);
    second = map_anon(&s, 20, 24);
    OK(rmap_anon_vma_prepare(vma));
    page = touch(ctx, &s, vma, 1, 200);
    fresh = rmap_page(ctx, 203);
    OK(rmap_page_claim(fresh));

    null_is_refused();
    malformed_arguments_are_refused();
    strangers_are_refused();
    locks_are_asked_for();
    stale_handles_are_found();

    CHECK(count_mappings(ctx, page) == 1);
    OK(rmap_mm_write_unlock(s.mm));
    for (i = 0; i < 2; i++) {
        bool last;
        if (i == 0)
            OK(rmap_page_put(fresh, &last));
        else
            OK(rmap_page_release(ctx, fresh));
    }
    space_exit(ctx, &s);
    space_exit(other_ctx, &other);
    OK(rmap_file_free(file));
    OK(rmap_file_free(foreign_file));
    OK(rmap_free(ctx));
    OK(rmap_free(other_ctx));
    for (i = 0; i < 18; i++)
        CHECK(strcmp(rmap_strerror((int)i), rmap_strerror(-1)) != 0);
    printf("misuse: done\n");
    return 0;
}
