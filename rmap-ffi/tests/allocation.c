/* The program's allocator is asked for everything, and may refuse: each allocation of a long scenario fails in turn.
 * The call that met the refusal says so and has changed nothing; called again it succeeds; at the end all is back. */
#include "refusing.h"

#define CHILDREN 12
#define PIECES 80
#define FILES_VMAS 70

static struct rmap_ctx *ctx;
static struct space spaces[1 + CHILDREN];
static unsigned nr_spaces;

/* All that a program can see, as one number. No page lock held. VMAs of address spaces whose mmap_lock is not held are
 * left out. */
static uint64_t state(void)
{
    struct rmap_stats stats;
    struct rmap_vma_info info;
    struct rmap_vma *at;
    struct rmap_mapping list[2 * CHILDREN];
    char name[16];
    size_t length, n, k;
    uint64_t hash = 14695981039346656037u, end;
    unsigned i;

#define MIX(value) (hash = (hash ^ (uint64_t)(value)) * 1099511628211u)
    if (ctx == NULL)
        return 0;
    stats.size = sizeof stats;
    OK(rmap_stats(ctx, &stats));
    MIX(stats.mms), MIX(stats.files), MIX(stats.vmas), MIX(stats.anon_vmas), MIX(stats.anon_mapped);
    MIX(stats.file_mapped);
    for (i = 0; i < nr_spaces; i++) {
        MIX(rmap_mm_nr_vmas(spaces[i].mm));
        for (end = 0; rmap_vma_find_next(spaces[i].mm, end, &at) == RMAP_OK; end = info.end) {
            OK(rmap_vma_get_info(at, &info));
            OK(rmap_vma_name(spaces[i].mm, at, name, sizeof name, &length));
            MIX(info.start), MIX(info.end), MIX(info.pgoff), MIX(info.flags), MIX(info.file), MIX(length);
        }
    }
    for (i = 0; i < 8; i++) {
        struct rmap_page *page = rmap_page(ctx, 300 + i);
        if (page == NULL)
            continue;
        MIX(rmap_page_mapcount(page)), MIX(rmap_page_refcount(page)), MIX(rmap_page_flags(page));
        OK(rmap_page_lock(page));
        OK(rmap_page_mappings(ctx, page, list, 2 * CHILDREN, &n));
        OK(rmap_page_unlock(page));
        for (k = 0; k < n; k++)
            MIX(list[k].addr), MIX(list[k].mm);
    }
    return hash;
}

/* A call that may be refused memory, and then has changed nothing. */
#define TRY(call)                                                       \
    do {                                                                \
        unsigned refused_ = memory.refused;                             \
        /* No call takes as many as 16: farther from the refusal the state need not be known. */ \
        bool near_ = memory.countdown >= 0 && memory.countdown < 16;    \
        uint64_t before_ = near_ ? state() : 0;                         \
        enum rmap_status answer_ = (call);                              \
        if (answer_ != RMAP_OK) {                                       \
            IS(RMAP_ERR_NOMEM, answer_);                                \
            CHECK(memory.refused > refused_);                           \
            CHECK(near_ && state() == before_);                         \
            note_refused(#call);                                        \
            memory.countdown = -1;                                      \
            OK(call);                                                   \
        }                                                               \
    } while (0)

static void fork_one(struct space *child, struct space *parent, struct rmap_page *shared, unsigned at)
{
    struct rmap_pte_ops ops = plain_ops();
    struct rmap_vma *vma, *copy;
    uint64_t end = 0;

    plain_init(&child->table);
    TRY(rmap_mm_new(ctx, &ops, &child->table, child, &child->mm));
    nr_spaces++;
    OK(rmap_mm_write_lock(parent->mm));
    OK(rmap_mm_write_lock_nested(child->mm));
    TRY(rmap_mm_fork_begin(child->mm, parent->mm));
    for (; rmap_vma_find_next(parent->mm, end, &vma) == RMAP_OK; end = rmap_vma_end(vma)) {
        TRY(rmap_vma_fork(child->mm, parent->mm, vma, &copy));
        if (rmap_vma_start(copy) <= page_addr(at) && page_addr(at) < rmap_vma_end(copy)) {
            OK(rmap_page_dup(shared, copy, page_addr(at), RMAP_LEVEL_PAGE));
            OK(rmap_page_get(shared));
            *plain_at(&child->table, page_addr(at)) = *plain_at(&parent->table, page_addr(at));
        }
    }
    OK(rmap_mm_fork_end(child->mm, parent->mm));
    OK(rmap_mm_write_unlock(child->mm));
    OK(rmap_mm_write_unlock(parent->mm));
}

/* Everything that takes memory. */
static void scenario(void)
{
    struct rmap_config config;
    struct rmap_pte_ops ops = plain_ops();
    struct space *s = &spaces[0];
    struct rmap_vma *vma, *high, *moved, *v;
    struct rmap_file *file;
    struct rmap_page *page, *cached;
    unsigned i;
    bool last;

    OK(rmap_config_init(&config, sizeof config));
    config.allocator = refusing_allocator();
    TRY(rmap_new(&config, &ctx));
    TRY(rmap_pages_add(ctx, 300, 8, NULL));
    TRY(rmap_pages_add(ctx, 100, 8, NULL));
    plain_init(&s->table);
    TRY(rmap_mm_new(ctx, &ops, &s->table, s, &s->mm));
    nr_spaces = 1;
    TRY(rmap_file_new(ctx, 4, false, NULL, &file));

    OK(rmap_mm_write_lock(s->mm));
    TRY(rmap_vma_new(s->mm, page_addr(0), page_addr(PIECES), ANON, NULL, RMAP_PGOFF_VPN, s, &vma));
    TRY(rmap_anon_vma_prepare(vma));
    page = touch(ctx, s, vma, PIECES / 2, 300);
    /* Cut to pieces, from the top, and made whole again later: more VMAs than a slab's first chunk has. */
    for (i = PIECES - 1; i > 0; i--)
        TRY(rmap_vma_split(s->mm, vma, page_addr(i), &high));
    OK(rmap_vma_find(s->mm, page_addr(7), &v));
    TRY(rmap_vma_set_name(s->mm, v, "seven"));
    TRY(rmap_vma_set_name(s->mm, v, NULL));
    OK(rmap_mm_write_unlock(s->mm));

    for (i = 1; i <= CHILDREN / 2; i++)
        fork_one(&spaces[i], &spaces[i - 1], page, PIECES / 2);

    OK(rmap_mm_write_lock(s->mm));
    for (i = 1; i < PIECES; i++) {
        OK(rmap_vma_find(s->mm, page_addr(i), &high));
        TRY(rmap_vma_merge(s->mm, vma, high));
    }
    TRY(rmap_vma_adjust(s->mm, vma, page_addr(0), page_addr(PIECES + 4)));
    TRY(rmap_vma_split(s->mm, vma, page_addr(PIECES - 8), &high));
    TRY(rmap_vma_shift(s->mm, vma, high, page_addr(PIECES - 4)));
    TRY(rmap_vma_move(s->mm, high, page_addr(PIECES), page_addr(PIECES + 10), page_addr(PIECES + 14), &moved));
    for (i = 0; i < FILES_VMAS; i++)
        TRY(rmap_vma_new(s->mm, page_addr(100 + 2 * i), page_addr(101 + 2 * i), ANON, file, i % 3, NULL, &v));
    OK(rmap_mm_write_unlock(s->mm));

    cached = rmap_page(ctx, 301);
    OK(rmap_page_claim(cached));
    {
        unsigned refused = memory.refused;
        enum rmap_status status;
        OK(rmap_page_lock(cached));
        status = rmap_file_add_page(file, cached, 1);
        if (status != RMAP_OK) {
            IS(RMAP_ERR_NOMEM, status);
            CHECK(memory.refused > refused && rmap_page_refcount(cached) == 1);
            note_refused("rmap_file_add_page");
            memory.countdown = -1;
            OK(rmap_file_add_page(file, cached, 1));
        }
        OK(rmap_page_unlock(cached));
    }
    for (i = CHILDREN / 2 + 1; i <= CHILDREN; i++)
        fork_one(&spaces[i], s, page, PIECES / 2);
    CHECK(rmap_page_mapcount(page) == 1 + CHILDREN && count_mappings(ctx, page) == 1 + CHILDREN);

    OK(rmap_page_lock(cached));
    OK(rmap_file_remove_page(file, cached));
    OK(rmap_page_unlock(cached));
    OK(rmap_page_put(cached, &last));
    OK(rmap_page_put(cached, &last));
    CHECK(last);
    OK(rmap_page_release(ctx, cached));
    /* What is left to do may not be refused: it takes no memory, or does without. */
    memory.countdown = 0;
    while (nr_spaces > 0)
        space_exit(ctx, &spaces[--nr_spaces]);
    OK(rmap_file_free(file));
    OK(rmap_free(ctx));
    ctx = NULL;
    CHECK(memory.bytes == 0);
}

int main(void)
{
    long n;
    unsigned total;
    const char *wish = getenv("RMAP_TEST_ROUNDS");
    long step = wish != NULL ? 61 : 1;

    memory.countdown = -1;
    scenario();
    total = memory.granted;
    for (n = 0;; n += step) {
        memory.countdown = n;
        memory.granted = memory.refused = 0;
        scenario();
        if (n >= (long)total + 8)
            break;
        CHECK(n >= (long)total || memory.refused > 0);
    }
    printf("allocation: %u allocations refused in turn\n", total);
    return 0;
}
