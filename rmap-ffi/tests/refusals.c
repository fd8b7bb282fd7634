/* Every function that may answer RMAP_ERR_NOMEM and is not in allocation.c: the machine's, and those of the component
 * that only some engines need memory for. Each is called without memory, then with one allocation granted, and so on,
 * until it succeeds. Refused, it has changed nothing; called again with memory, it succeeds; at the end all is back. */
#include "refusing.h"

#define RW ((uint64_t)(RMAP_VM_READ | RMAP_VM_WRITE))
#define AT(vpn) ((uint64_t)(vpn) << 12)
#define FRAMES 512
/* A chunk of a slab is at least so large; what else is asked for on the way to one is smaller. */
#define CHUNK ((size_t)8192)

static struct rmap_machine *machine;
static struct rmap_machine_mm *parent, *child, *hoarder;
static struct rmap_machine_file *file;

static int32_t read_page(void *arg, uint64_t pgoff, void *page)
{
    (void)arg;
    memset(page, (int)pgoff, PAGE);
    return 0;
}

static enum rmap_status map_at(struct rmap_machine_mm *mm, uint64_t vpn, uint64_t pages, uint64_t flags,
                               struct rmap_machine_file *of)
{
    struct rmap_map_request request;
    uint64_t addr;
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    request.addr = AT(vpn);
    request.len = AT(pages);
    request.prot = RW;
    request.flags = flags | RMAP_MAP_FIXED;
    request.file = of;
    return rmap_machine_mmap(mm, &request, &addr);
}

static void write_at(struct rmap_machine_mm *mm, uint64_t vpn)
{
    OK(rmap_machine_write(mm, AT(vpn), "text", 5));
}

/* Takes what slabs and frames have left, so that whoever comes next asks the allocator: regions without a neighbour,
 * and a page for each while there is memory. */
static void hoard(void)
{
    uint64_t mapped = 0, touched;
    memory.largest = CHUNK - 1;
    while (map_at(hoarder, 0x10000 + 2 * mapped, 1, RMAP_MAP_PRIVATE, NULL) == RMAP_OK)
        CHECK(++mapped < 4096);
    memory.largest = SIZE_MAX;
    memory.countdown = 0;
    for (touched = 0; touched < mapped; touched++)
        if (rmap_machine_fault(hoarder, AT(0x10000 + 2 * touched), RMAP_ACCESS_WRITE) != RMAP_OK)
            break;
    memory.countdown = -1;
}

/*     100   110      200   208      300   308      400  402      500   508
 *     |- RW -|       |file|         |shared file|  |stack|       |locked|
 *      ^ s                                           ^                        touched, in swap; both processes
 */
static void scene(void)
{
    struct rmap_machine_config config = machine_config(FRAMES, 32);
    uint64_t pfn;
    bool gone;

    config.fault_around = 1;
    config.allocator = refusing_allocator();
    OK(rmap_machine_new(&config, &machine));
    OK(rmap_machine_mm_new(machine, &hoarder));
    OK(rmap_machine_mm_new(machine, &parent));
    OK(rmap_machine_file_new(machine, 32, read_page, NULL, &file));
    OK(map_at(parent, 0x100, 16, RMAP_MAP_PRIVATE, NULL));
    OK(map_at(parent, 0x200, 8, RMAP_MAP_PRIVATE, file));
    OK(map_at(parent, 0x300, 8, RMAP_MAP_SHARED, file));
    OK(map_at(parent, 0x400, 2, RMAP_MAP_PRIVATE | RMAP_MAP_GROWSDOWN, NULL));
    OK(map_at(parent, 0x500, 8, RMAP_MAP_PRIVATE, NULL));
    OK(map_at(parent, 0x600, 8, RMAP_MAP_PRIVATE | RMAP_MAP_UFFD_MISSING, NULL));
    OK(rmap_machine_mlock(parent, AT(0x500), AT(8), true));
    OK(rmap_machine_set_brk_start(parent, AT(0x800)));
    write_at(parent, 0x101);
    write_at(parent, 0x102);
    write_at(parent, 0x401);
    OK(rmap_machine_pfn(parent, AT(0x102), &pfn));
    OK(rmap_machine_swap_out(machine, pfn, &gone));
    CHECK(gone);
    OK(rmap_machine_fork(parent, &child));
    write_at(parent, 0x103);
    hoard();
}

static void end(void)
{
    OK(rmap_machine_exit(child));
    OK(rmap_machine_exit(parent));
    OK(rmap_machine_exit(hoarder));
    OK(rmap_machine_file_free(file));
    OK(rmap_machine_free(machine));
    CHECK(memory.bytes == 0);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 1099511628211u;
}

/* A picture as a number that does not depend on the order of its lines, nor on how VMAs and entries are numbered: one
 * that was cut and made whole again is the last that a walk visits. */
static uint64_t sum_of_lines(const char *picture)
{
    uint64_t sum = 0, line = 0;
    for (; *picture != 0; picture++) {
        line = mix(line, (unsigned char)*picture);
        if (*picture == '\n') {
            sum += line;
            line = 0;
        }
        if (*picture == 'V' || *picture == 'P')
            picture += strspn(picture + 1, "0123456789");
    }
    return sum;
}

/* All that a program can see, as one number: figures, and of each page who maps it, and its picture. The picture shows
 * what a failed fork may leave: entries without write access; so that is looked at without. */
static uint64_t state(bool pictures)
{
    static char picture[1 << 16];
    struct rmap_machine_stats stats;
    struct rmap_machine_mapping found[8];
    struct rmap_machine_counters counters;
    uint64_t hash = 14695981039346656037u, pfn, sum;
    size_t n, i;

    stats.size = sizeof stats;
    OK(rmap_machine_stats(machine, &stats));
    hash = mix(mix(mix(hash, stats.mms), stats.vmas), stats.free_frames);
    hash = mix(mix(mix(hash, stats.anon_mapped), stats.file_mapped), stats.swap_used);
    counters.size = sizeof counters;
    OK(rmap_machine_counters(parent, &counters));
    hash = mix(mix(mix(hash, counters.total_vm), counters.rss_anon), counters.locked_vm);
    for (pfn = 1; pfn < 1 + FRAMES; pfn++) {
        if (rmap_machine_page_mappings(machine, pfn, found, 8, &n) != RMAP_OK || n == 0)
            continue;
        /* In whatever order. */
        for (sum = i = 0; i < n; i++)
            sum += mix(mix(14695981039346656037u, found[i].mm), found[i].addr);
        hash = mix(hash, sum);
        if (!pictures)
            continue;
        OK(rmap_machine_dump_dot(machine, pfn, NULL, picture, sizeof picture, &n));
        CHECK(n < sizeof picture);
        hash = mix(hash, sum_of_lines(picture));
    }
    return hash;
}

/* ---- the functions ---- */

#define STEP(name, call)                        \
    static enum rmap_status name(void)          \
    {                                           \
        return call;                            \
    }

static enum rmap_status step_mm_new(void)
{
    struct rmap_machine_mm *mm;
    enum rmap_status status = rmap_machine_mm_new(machine, &mm);
    if (status == RMAP_OK)
        OK(rmap_machine_exit(mm));
    return status;
}

static enum rmap_status step_fork(void)
{
    struct rmap_machine_mm *mm;
    enum rmap_status status = rmap_machine_fork(parent, &mm);
    if (status == RMAP_OK)
        OK(rmap_machine_exit(mm));
    return status;
}

/* exec takes its argument away when it succeeds. */
static enum rmap_status step_exec(void)
{
    struct rmap_machine_mm *fresh;
    enum rmap_status status = rmap_machine_exec(child, &fresh);
    if (status == RMAP_OK)
        child = fresh;
    return status;
}

static enum rmap_status step_file_new(void)
{
    struct rmap_machine_file *made;
    enum rmap_status status = rmap_machine_file_new(machine, 4, read_page, NULL, &made);
    if (status == RMAP_OK)
        OK(rmap_machine_file_free(made));
    return status;
}

static enum rmap_status step_shmem_new(void)
{
    struct rmap_machine_file *made;
    enum rmap_status status = rmap_machine_shmem_new(machine, 4, &made);
    if (status == RMAP_OK)
        OK(rmap_machine_file_free(made));
    return status;
}

static enum rmap_status step_mremap(void)
{
    uint64_t addr;
    return rmap_machine_mremap(parent, AT(0x101), AT(4), AT(4), RMAP_MREMAP_MAYMOVE | RMAP_MREMAP_FIXED, AT(0x900), &addr);
}

static enum rmap_status step_pin(void)
{
    struct rmap_machine_pinned pinned;
    enum rmap_status status = rmap_machine_pin(child, AT(0x101), true, &pinned);
    if (status == RMAP_OK)
        OK(rmap_machine_unpin(machine, &pinned));
    return status;
}

static enum rmap_status step_swap_out(void)
{
    uint64_t pfn;
    bool gone;
    OK(rmap_machine_pfn(parent, AT(0x103), &pfn));
    return rmap_machine_swap_out(machine, pfn, &gone);
}

static enum rmap_status step_stats(void)
{
    struct rmap_machine_stats stats;
    stats.size = sizeof stats;
    return rmap_machine_stats(machine, &stats);
}

static enum rmap_status step_oracle_mappings(void)
{
    struct rmap_machine_mapping found[8];
    uint64_t pfn;
    size_t n;
    OK(rmap_machine_pfn(parent, AT(0x101), &pfn));
    return rmap_machine_oracle_mappings(machine, pfn, found, 8, &n);
}

static enum rmap_status step_dump_dot(void)
{
    uint64_t pfn;
    size_t n;
    OK(rmap_machine_pfn(parent, AT(0x101), &pfn));
    return rmap_machine_dump_dot(machine, pfn, NULL, NULL, 0, &n);
}

static enum rmap_status step_uffd_copy(void)
{
    static char page[RMAP_PAGE_SIZE];
    return rmap_machine_uffd_copy(parent, AT(0x602), page);
}

static enum rmap_status step_read(void)
{
    char byte;
    return rmap_machine_read(child, AT(0x102), &byte, 1);
}

STEP(step_check, rmap_machine_check(machine, NULL, 0))
STEP(step_mmap, map_at(parent, 0x900, 4, RMAP_MAP_PRIVATE, NULL))
STEP(step_mmap_over, map_at(parent, 0x104, 4, RMAP_MAP_PRIVATE, file))
STEP(step_mmap_shared, map_at(parent, 0x900, 4, RMAP_MAP_SHARED, NULL))
STEP(step_munmap, rmap_machine_munmap(parent, AT(0x101), AT(4)))
STEP(step_mprotect, rmap_machine_mprotect(parent, AT(0x101), AT(4), RMAP_VM_READ))
STEP(step_madvise, rmap_machine_madvise(parent, AT(0x101), AT(4), 10 /* DONTFORK */))
STEP(step_mlock, rmap_machine_mlock(parent, AT(0x101), AT(4), true))
STEP(step_munlock, rmap_machine_munlock(parent, AT(0x502), AT(4)))
STEP(step_set_name, rmap_machine_set_name(parent, AT(0x101), AT(4), "heap"))
STEP(step_fault, rmap_machine_fault(parent, AT(0x105), RMAP_ACCESS_WRITE))
STEP(step_fault_copy, rmap_machine_fault(child, AT(0x101), RMAP_ACCESS_WRITE))
STEP(step_fault_file, rmap_machine_fault(parent, AT(0x202), RMAP_ACCESS_READ))
STEP(step_fault_file_copy, rmap_machine_fault(parent, AT(0x203), RMAP_ACCESS_WRITE))
STEP(step_fault_shared, rmap_machine_fault(parent, AT(0x304), RMAP_ACCESS_WRITE))
STEP(step_uffd_zeropage, rmap_machine_uffd_zeropage(parent, AT(0x603)))
STEP(step_write, rmap_machine_write(parent, AT(0x106), "x", 1))

static const struct step {
    const char *name;
    enum rmap_status (*call)(void);
} steps[] = {
    {"rmap_machine_mm_new", step_mm_new},
    {"rmap_machine_fork", step_fork},
    {"rmap_machine_exec", step_exec},
    {"rmap_machine_file_new", step_file_new},
    {"rmap_machine_shmem_new", step_shmem_new},
    {"rmap_machine_mmap", step_mmap},
    {"rmap_machine_mmap", step_mmap_over},
    {"rmap_machine_mmap", step_mmap_shared},
    {"rmap_machine_munmap", step_munmap},
    {"rmap_machine_mprotect", step_mprotect},
    {"rmap_machine_mremap", step_mremap},
    {"rmap_machine_madvise", step_madvise},
    {"rmap_machine_mlock", step_mlock},
    {"rmap_machine_munlock", step_munlock},
    {"rmap_machine_set_name", step_set_name},
    {"rmap_machine_fault", step_fault},
    {"rmap_machine_fault", step_fault_copy},
    {"rmap_machine_fault", step_fault_file},
    {"rmap_machine_fault", step_fault_file_copy},
    {"rmap_machine_fault", step_fault_shared},
    {"rmap_machine_read", step_read},
    {"rmap_machine_write", step_write},
    {"rmap_machine_pin", step_pin},
    {"rmap_machine_uffd_copy", step_uffd_copy},
    {"rmap_machine_uffd_zeropage", step_uffd_zeropage},
    {"rmap_machine_swap_out", step_swap_out},
    {"rmap_machine_stats", step_stats},
    {"rmap_machine_check", step_check},
    {"rmap_machine_oracle_mappings", step_oracle_mappings},
    {"rmap_machine_dump_dot", step_dump_dot},
};

/* One function with `granted` allocations. Returns whether it was refused one. */
static bool step_with(const struct step *step, long granted)
{
    enum rmap_status status;
    uint64_t before;
    /* full_scan draws every VMA that may have pages, and a refused fault may have made one ready for them. */
    bool refused, pictures = step->call != step_fork && test_engine() != RMAP_ENGINE_FULL_SCAN;

    scene();
    before = state(pictures);
    memory.refused = 0;
    memory.countdown = granted;
    status = step->call();
    memory.countdown = -1;
    refused = memory.refused > 0;
    if (status != RMAP_OK) {
        if (status != RMAP_ERR_NOMEM || !refused || state(pictures) != before)
            fprintf(stderr, "%s with %ld allocations: %s\n", step->name, granted, rmap_strerror(status));
        IS(RMAP_ERR_NOMEM, status);
        CHECK(refused && state(pictures) == before);
        note_refused(step->name);
        OK(step->call());
    }
    OK(rmap_machine_check(machine, NULL, 0));
    end();
    return refused;
}

static void the_machine_is_made_or_not(void)
{
    struct rmap_machine_config config = machine_config(FRAMES, 32);
    struct rmap_machine *made;
    long n;
    config.allocator = refusing_allocator();
    for (n = 0;; n++) {
        enum rmap_status status;
        memory.countdown = n;
        status = rmap_machine_new(&config, &made);
        memory.countdown = -1;
        if (status == RMAP_OK)
            break;
        IS(RMAP_ERR_NOMEM, status);
        CHECK(memory.bytes == 0);
        note_refused("rmap_machine_new");
    }
    OK(rmap_machine_free(made));
    CHECK(memory.bytes == 0);
}

/* Functions of the component that need memory with some engines, or for a moment: without rmap_reserve none is there,
 * and nothing is mapped. */
static void what_was_not_reserved_is_refused(void)
{
    struct rmap_config config;
    struct rmap_ctx *ctx;
    struct space s, copy;
    struct rmap_vma *vma, *of_file, *copied, *hoarded, *moved;
    struct rmap_file *plain;
    struct rmap_page *page, *other, *cached;
    enum rmap_status status;
    size_t n;
    unsigned i;
    bool last;

    OK(rmap_config_init(&config, sizeof config));
    config.engine = test_engine();
    config.allocator = refusing_allocator();
    OK(rmap_new(&config, &ctx));
    OK(rmap_pages_add(ctx, 300, 8, NULL));
    space_init(&s, ctx);
    space_init(&copy, ctx);
    OK(rmap_file_new(ctx, 4, false, NULL, &plain));
    OK(rmap_mm_write_lock(s.mm));
    vma = map_anon(&s, 0, 8);
    OK(rmap_vma_new(s.mm, page_addr(8), page_addr(12), ANON | RMAP_VM_SHARED, plain, 0, NULL, &of_file));
    OK(rmap_anon_vma_prepare(vma));
    page = rmap_page(ctx, 300);
    other = rmap_page(ctx, 301);
    cached = rmap_page(ctx, 302);
    OK(rmap_page_claim(page));
    OK(rmap_page_claim(other));
    OK(rmap_page_claim(cached));
    OK(rmap_page_lock(cached));
    OK(rmap_file_add_page(plain, cached, 1));
    OK(rmap_page_unlock(cached));

#define UNRESERVED(of, call)                                    \
    do {                                                        \
        status = (call);                                        \
        if (status != RMAP_OK) {                                \
            IS(RMAP_ERR_NOMEM, status);                         \
            CHECK(rmap_page_mapcount(of) == mapped);            \
            note_refused(#call);                                \
            OK(rmap_reserve(ctx, 1));                           \
            OK(call);                                           \
            OK(rmap_unreserve(ctx, 1));                         \
        }                                                       \
        CHECK(rmap_page_mapcount(of) == mapped + 1);            \
    } while (0)

    memory.countdown = 0;
    status = rmap_reserve(ctx, 1000);
    memory.countdown = -1;
    if (status != RMAP_OK) {
        IS(RMAP_ERR_NOMEM, status);
        note_refused("rmap_reserve");
        IS(RMAP_ERR_INVAL, rmap_unreserve(ctx, 1));
    } else {
        OK(rmap_unreserve(ctx, 1000));
    }
    {
        uint32_t mapped = 0;
        UNRESERVED(page, rmap_page_add_new_anon(page, vma, page_addr(0), RMAP_LEVEL_PAGE));
        OK(rmap_page_lock(other));
        UNRESERVED(other, rmap_page_add_anon(other, vma, page_addr(1), true, RMAP_LEVEL_PAGE));
        OK(rmap_page_unlock(other));
        UNRESERVED(cached, rmap_page_add_file(cached, of_file, page_addr(9), RMAP_LEVEL_PAGE));
        OK(rmap_mm_write_lock_nested(copy.mm));
        OK(rmap_mm_fork_begin(copy.mm, s.mm));
        OK(rmap_vma_fork(copy.mm, s.mm, vma, &copied));
        mapped = 1;
        UNRESERVED(page, rmap_page_dup(page, copied, page_addr(0), RMAP_LEVEL_PAGE));
        OK(rmap_mm_fork_end(copy.mm, s.mm));
    }
    OK(rmap_page_remove(page, copied, page_addr(0), RMAP_LEVEL_PAGE, NULL));
    OK(rmap_vma_free(copy.mm, copied));
    OK(rmap_mm_write_unlock(copy.mm));
    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_mm_free(copy.mm));

    /* A VMA for a copy, when the slab has none left. */
    OK(rmap_mm_write_lock(s.mm));
    memory.largest = CHUNK - 1;
    for (i = 0; rmap_vma_new(s.mm, page_addr(1000 + 2 * i), page_addr(1001 + 2 * i), ANON, NULL, RMAP_PGOFF_VPN, NULL,
                             &hoarded) == RMAP_OK; i++)
        CHECK(i < 4096);
    memory.largest = SIZE_MAX;
    memory.countdown = 0;
    status = rmap_vma_move(s.mm, vma, page_addr(0), page_addr(20), page_addr(24), &moved);
    memory.countdown = -1;
    IS(RMAP_ERR_NOMEM, status);
    note_refused("rmap_vma_move");
    OK(rmap_vma_move(s.mm, vma, page_addr(0), page_addr(20), page_addr(24), &moved));
    OK(rmap_vma_free(s.mm, moved));
    while (rmap_vma_find_next(s.mm, page_addr(999), &hoarded) == RMAP_OK)
        OK(rmap_vma_free(s.mm, hoarded));
    OK(rmap_mm_write_unlock(s.mm));

    OK(rmap_page_lock(page));
    memory.countdown = 0;
    status = rmap_dump_dot(ctx, page, NULL, NULL, 0, &n);
    memory.countdown = -1;
    IS(RMAP_ERR_NOMEM, status);
    note_refused("rmap_dump_dot");
    OK(rmap_dump_dot(ctx, page, NULL, NULL, 0, &n));
    OK(rmap_page_unlock(page));

    OK(rmap_mm_write_lock(s.mm));
    OK(rmap_page_remove(page, vma, page_addr(0), RMAP_LEVEL_PAGE, NULL));
    OK(rmap_page_remove(other, vma, page_addr(1), RMAP_LEVEL_PAGE, NULL));
    OK(rmap_page_remove(cached, of_file, page_addr(9), RMAP_LEVEL_PAGE, NULL));
    OK(rmap_vma_free(s.mm, vma));
    OK(rmap_vma_free(s.mm, of_file));
    OK(rmap_mm_write_unlock(s.mm));
    OK(rmap_mm_free(s.mm));
    OK(rmap_page_lock(cached));
    OK(rmap_file_remove_page(plain, cached));
    OK(rmap_page_unlock(cached));
    OK(rmap_page_put(cached, &last));
    OK(rmap_page_put(cached, &last));
    OK(rmap_page_put(page, &last));
    OK(rmap_page_put(other, &last));
    OK(rmap_page_release(ctx, cached));
    OK(rmap_page_release(ctx, page));
    OK(rmap_page_release(ctx, other));
    OK(rmap_file_free(plain));
    OK(rmap_free(ctx));
    CHECK(memory.bytes == 0);
}

int main(void)
{
    size_t i;
    unsigned refused = 0;

    the_machine_is_made_or_not();
    what_was_not_reserved_is_refused();
    for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        long granted = 0;
        while (step_with(&steps[i], granted)) {
            granted++;
            refused++;
        }
    }
    CHECK(refused > 50);
    printf("refusals: %u allocations refused in turn\n", refused);
    return 0;
}
