/* The machine through the C ABI: processes that share pages and write them, swap, files, the program's functions, what is refused, and
 * replays. All memory comes from an allocator that counts, and all of it is given back. */
#include "support.h"

#include <unistd.h>

#define PROT ((uint64_t)(RMAP_VM_READ | RMAP_VM_WRITE))
#define ROOM 16

static uint64_t taken, charged;
static pthread_mutex_t taken_lock = PTHREAD_MUTEX_INITIALIZER;

static void *take(void *arg, size_t size, size_t align)
{
    void *memory = NULL;
    CHECK(arg == &taken);
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size) != 0)
        return NULL;
    pthread_mutex_lock(&taken_lock);
    taken += size;
    pthread_mutex_unlock(&taken_lock);
    return memory;
}

static void give(void *arg, void *memory, size_t size, size_t align)
{
    CHECK(arg == &taken && (uintptr_t)memory % align == 0);
    pthread_mutex_lock(&taken_lock);
    taken -= size;
    pthread_mutex_unlock(&taken_lock);
    free(memory);
}

static bool charge(void *arg, uint64_t mm, uint64_t pages)
{
    CHECK(mm != 0);
    if (charged + pages > *(uint64_t *)arg)
        return false;
    charged += pages;
    return true;
}

static void uncharge(void *arg, uint64_t mm, uint64_t pages)
{
    (void)arg;
    CHECK(mm != 0 && charged >= pages);
    charged -= pages;
}

static uint64_t charge_limit = 1000;

static struct rmap_machine_config a_config(void)
{
    struct rmap_machine_config config;
    OK(rmap_machine_config_init(&config, sizeof config));
    config.engine = test_engine();
    config.frames = 256;
    config.first_pfn = 100;
    config.fault_around = 1;
    config.swap = RMAP_SWAP_MEMORY;
    config.swap_slots = 64;
    config.charge = charge;
    config.uncharge = uncharge;
    config.charge_arg = &charge_limit;
    config.allocator.alloc = take;
    config.allocator.free = give;
    config.allocator.arg = &taken;
    return config;
}

static struct rmap_machine *a_machine(void)
{
    struct rmap_machine_config config = a_config();
    struct rmap_machine *machine;
    OK(rmap_machine_new(&config, &machine));
    return machine;
}

static void gone(struct rmap_machine *machine)
{
    OK(rmap_machine_free(machine));
    CHECK(taken == 0 && charged == 0);
}

static void holds(struct rmap_machine *machine)
{
    char reason[256] = "";
    if (rmap_machine_check(machine, reason, sizeof reason) != RMAP_OK) {
        fprintf(stderr, "the machine does not hold: %s\n", reason);
        abort();
    }
}

static struct rmap_map_request a_request(uint64_t pages)
{
    struct rmap_map_request request;
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    request.len = pages * PAGE;
    request.prot = PROT;
    request.flags = RMAP_MAP_PRIVATE;
    return request;
}

static uint64_t map(struct rmap_machine_mm *mm, uint64_t pages)
{
    struct rmap_map_request request = a_request(pages);
    uint64_t addr;
    OK(rmap_machine_mmap(mm, &request, &addr));
    return addr;
}

static void put_text(struct rmap_machine_mm *mm, uint64_t addr, const char *text)
{
    OK(rmap_machine_write(mm, addr, text, strlen(text) + 1));
}

static void reads(struct rmap_machine_mm *mm, uint64_t addr, const char *text)
{
    char found[64];
    CHECK(strlen(text) < sizeof found);
    OK(rmap_machine_read(mm, addr, found, strlen(text) + 1));
    CHECK(strcmp(found, text) == 0);
}

static uint64_t frame(struct rmap_machine_mm *mm, uint64_t addr)
{
    uint64_t pfn;
    OK(rmap_machine_pfn(mm, addr, &pfn));
    return pfn;
}

/* Who maps a frame: the walk and the scan agree on it. */
static size_t mapped_by(struct rmap_machine *machine, uint64_t pfn, struct rmap_machine_mapping *found)
{
    struct rmap_machine_mapping scan[ROOM];
    size_t n, in_scan, i;
    OK(rmap_machine_page_mappings(machine, pfn, found, ROOM, &n));
    OK(rmap_machine_oracle_mappings(machine, pfn, scan, ROOM, &in_scan));
    CHECK(n == in_scan && n <= ROOM);
    for (i = 0; i < n; i++)
        CHECK(found[i].mm == scan[i].mm && found[i].addr == scan[i].addr);
    return n;
}

static void a_child_shares_pages_until_they_are_written(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *parent, *child;
    struct rmap_machine_mapping found[ROOM];
    struct rmap_machine_counters counters;
    struct rmap_machine_stats stats;
    uint64_t addr, shared;
    size_t n;

    OK(rmap_machine_mm_new(machine, &parent));
    addr = map(parent, 4);
    put_text(parent, addr, "from the parent");
    put_text(parent, addr + PAGE, "only read");
    OK(rmap_machine_fork(parent, &child));
    CHECK(rmap_machine_mm_id(parent) != rmap_machine_mm_id(child));
    reads(child, addr, "from the parent");

    shared = frame(parent, addr);
    CHECK(frame(child, addr) == shared && mapped_by(machine, shared, found) == 2);
    CHECK(found[0].mm == rmap_machine_mm_id(parent) && found[1].mm == rmap_machine_mm_id(child));
    CHECK(found[0].addr == addr && found[1].addr == addr);
    /* More than there is room for. */
    OK(rmap_machine_page_mappings(machine, shared, found, 1, &n));
    CHECK(n == 2);
    OK(rmap_machine_page_mappings(machine, shared, NULL, 0, &n));
    CHECK(n == 2);
    holds(machine);

    put_text(child, addr, "from the child");
    reads(parent, addr, "from the parent");
    reads(child, addr, "from the child");
    CHECK(frame(child, addr) != frame(parent, addr));
    CHECK(mapped_by(machine, frame(parent, addr), found) == 1 && mapped_by(machine, frame(child, addr), found) == 1);
    CHECK(frame(child, addr + PAGE) == frame(parent, addr + PAGE));
    holds(machine);

    counters.size = sizeof counters;
    OK(rmap_machine_counters(child, &counters));
    CHECK(counters.total_vm == 4 && counters.rss_anon == 2 && counters.hiwater_rss == 2 && counters.swap_ents == 0);
    stats.size = sizeof stats;
    OK(rmap_machine_stats(machine, &stats));
    CHECK(stats.frames == 256 && stats.mms == 2 && stats.vmas == 2 && stats.anon_mapped == 3 && stats.bytes > 0);
    CHECK(stats.free_frames == rmap_machine_free_frames(machine) && stats.free_frames == 256 - 3 - 1);
    CHECK(!has_anchors() || (stats.anchors > 0 && stats.links > 0));
    CHECK(stats.rmap_bytes > 0 && stats.bytes <= taken);
    CHECK(charged == 4);

    /* Memory that was only read is the zero page, which nobody's reverse map has. */
    reads(parent, addr + 2 * PAGE, "");
    CHECK(mapped_by(machine, frame(parent, addr + 2 * PAGE), found) == 0);
    OK(rmap_machine_exec(child, &child));
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_fault(child, addr, RMAP_ACCESS_READ));
    holds(machine);
    OK(rmap_machine_exit(child));
    reads(parent, addr, "from the parent");
    OK(rmap_machine_exit(parent));
    gone(machine);
}

static void what_was_swapped_out_comes_back(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *parent, *child;
    struct rmap_machine_mapping found[ROOM];
    struct rmap_machine_counters counters;
    struct rmap_machine_stats stats;
    struct rmap_machine_pinned pinned;
    uint64_t addr, pfn;
    bool out;

    OK(rmap_machine_mm_new(machine, &parent));
    addr = map(parent, 2);
    put_text(parent, addr, "bytes that go out and in");
    put_text(parent, addr + PAGE, "bytes that stay");
    OK(rmap_machine_fork(parent, &child));
    OK(rmap_machine_swap_out(machine, frame(parent, addr), &out));
    CHECK(out);
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_pfn(parent, addr, &pfn));
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_pfn(child, addr, &pfn));
    counters.size = sizeof counters;
    OK(rmap_machine_counters(child, &counters));
    CHECK(counters.swap_ents == 1 && counters.rss_anon == 1);
    stats.size = sizeof stats;
    OK(rmap_machine_stats(machine, &stats));
    CHECK(stats.swap_slots == 64 && stats.swap_used == 1);
    holds(machine);
    reads(child, addr, "bytes that go out and in");
    put_text(child, addr, "others");
    reads(parent, addr, "bytes that go out and in");
    holds(machine);

    /* What is pinned or locked stays. */
    OK(rmap_machine_pin(parent, addr, true, &pinned));
    CHECK(pinned.pfn == frame(parent, addr));
    OK(rmap_machine_swap_out(machine, pinned.pfn, &out));
    CHECK(!out && frame(parent, addr) == pinned.pfn);
    holds(machine);
    OK(rmap_machine_unpin(machine, &pinned));
    IS(RMAP_ERR_STALE, rmap_machine_unpin(machine, &pinned));
    OK(rmap_machine_mlock(parent, addr, PAGE, false));
    OK(rmap_machine_swap_out(machine, frame(parent, addr), &out));
    CHECK(!out);
    OK(rmap_machine_munlock(parent, addr, PAGE));
    OK(rmap_machine_swap_out(machine, frame(parent, addr), &out));
    CHECK(out);
    reads(parent, addr, "bytes that go out and in");
    /* A frame that is free has nobody. */
    CHECK(mapped_by(machine, 100 + 255, found) == 0);
    OK(rmap_machine_swap_out(machine, 100 + 255, &out));
    CHECK(!out);
    OK(rmap_machine_exit(parent));
    OK(rmap_machine_exit(child));
    gone(machine);
}

static void the_layout_is_changed_by_system_calls(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *mm;
    struct rmap_map_request request;
    struct rmap_machine_counters counters;
    uint64_t addr, to, end, pfn;

    OK(rmap_machine_mm_new(machine, &mm));
    request = a_request(4);
    request.flags |= RMAP_MAP_FIXED | RMAP_MAP_POPULATE;
    request.addr = 0x400000;
    OK(rmap_machine_mmap(mm, &request, &addr));
    CHECK(addr == 0x400000);
    put_text(mm, addr + 3 * PAGE, "moves");
    pfn = frame(mm, addr + 3 * PAGE);
    OK(rmap_machine_mprotect(mm, addr, PAGE, RMAP_VM_READ));
    IS(RMAP_ERR_ACCESS, rmap_machine_write(mm, addr, "x", 1));
    OK(rmap_machine_mprotect(mm, addr, PAGE, PROT));
    OK(rmap_machine_mremap(mm, addr, 4 * PAGE, 4 * PAGE, RMAP_MREMAP_MAYMOVE | RMAP_MREMAP_FIXED, 0x800000, &to));
    CHECK(to == 0x800000 && frame(mm, to + 3 * PAGE) == pfn);
    reads(mm, to + 3 * PAGE, "moves");
    holds(machine);
    OK(rmap_machine_madvise(mm, to + 3 * PAGE, PAGE, 4));
    reads(mm, to + 3 * PAGE, "");
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_machine_madvise(mm, to, PAGE, 77));
    OK(rmap_machine_set_name(mm, to, PAGE, "arena"));
    OK(rmap_machine_set_name(mm, to, PAGE, NULL));
    IS(RMAP_ERR_INVAL, rmap_machine_set_name(mm, to, PAGE, "[arena]"));
    OK(rmap_machine_munmap(mm, to, 4 * PAGE));
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_read(mm, to, &pfn, 1));

    OK(rmap_machine_set_brk_start(mm, 0x10000000));
    OK(rmap_machine_brk(mm, 0x10000000 + 3 * PAGE, &end));
    CHECK(end == 0x10000000 + 3 * PAGE);
    put_text(mm, end - PAGE, "heap");
    OK(rmap_machine_brk(mm, 0, &end));
    CHECK(end == 0x10000000 + 3 * PAGE);
    OK(rmap_machine_mlockall(mm, true, true, false));
    counters.size = sizeof counters;
    OK(rmap_machine_counters(mm, &counters));
    CHECK(counters.locked_vm == 3 && counters.rss_anon == 3);
    OK(rmap_machine_munlockall(mm));
    IS(RMAP_ERR_INVAL, rmap_machine_mlockall(mm, false, false, false));

    request = a_request(1);
    request.flags |= RMAP_MAP_GROWSDOWN;
    OK(rmap_machine_mmap(mm, &request, &addr));
    put_text(mm, addr - 2 * PAGE, "the stack has grown");
    OK(rmap_machine_counters(mm, &counters));
    CHECK(counters.stack_vm == 3);
    holds(machine);
    OK(rmap_machine_exit(mm));
    gone(machine);
}

static int32_t read_page(void *arg, uint64_t pgoff, void *page)
{
    unsigned *reads_done = (unsigned *)arg;
    if (pgoff == 7)
        return RMAP_ERR_IO;
    ++*reads_done;
    memset(page, 'a' + (int)pgoff, (size_t)PAGE);
    return RMAP_OK;
}

static void files_are_read_and_shared(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *a, *b;
    struct rmap_machine_file *file, *memory;
    struct rmap_map_request request;
    struct rmap_machine_mapping found[ROOM];
    uint64_t at, again, shared;
    unsigned reads_done = 0;
    char byte;
    bool out;

    OK(rmap_machine_file_new(machine, 8, read_page, &reads_done, &file));
    CHECK(rmap_machine_file_pages(file) == 8);
    OK(rmap_machine_mm_new(machine, &a));
    OK(rmap_machine_mm_new(machine, &b));
    request = a_request(8);
    request.file = file;
    OK(rmap_machine_mmap(a, &request, &at));
    request.pgoff = 2;
    request.len = 6 * PAGE;
    OK(rmap_machine_mmap(b, &request, &again));
    OK(rmap_machine_read(a, at + 3 * PAGE, &byte, 1));
    CHECK(byte == 'd');
    OK(rmap_machine_read(b, again + PAGE, &byte, 1));
    CHECK(byte == 'd' && reads_done == 1);
    CHECK(mapped_by(machine, frame(a, at + 3 * PAGE), found) == 2);
    OK(rmap_machine_write(b, again + PAGE, "!", 1));
    OK(rmap_machine_read(a, at + 3 * PAGE, &byte, 1));
    CHECK(byte == 'd' && mapped_by(machine, frame(a, at + 3 * PAGE), found) == 1);
    IS(RMAP_ERR_IO, rmap_machine_fault(a, at + 7 * PAGE, RMAP_ACCESS_READ));
    /* A clean page of a file goes, and is read again. */
    OK(rmap_machine_swap_out(machine, frame(a, at + 3 * PAGE), &out));
    CHECK(out);
    OK(rmap_machine_read(a, at + 3 * PAGE, &byte, 1));
    CHECK(byte == 'd' && reads_done == 2);

    OK(rmap_machine_shmem_new(machine, 2, &memory));
    request = a_request(2);
    request.flags = RMAP_MAP_SHARED;
    request.file = memory;
    OK(rmap_machine_mmap(a, &request, &at));
    OK(rmap_machine_mmap(b, &request, &again));
    put_text(a, at + PAGE, "for both");
    reads(b, again + PAGE, "for both");
    shared = frame(a, at + PAGE);
    CHECK(mapped_by(machine, shared, found) == 2 && frame(b, again + PAGE) == shared);
    holds(machine);
    IS(RMAP_ERR_BUSY, rmap_machine_file_free(memory));
    IS(RMAP_ERR_BUSY, rmap_machine_free(machine));
    OK(rmap_machine_exit(a));
    OK(rmap_machine_exit(b));
    OK(rmap_machine_file_free(memory));
    IS(RMAP_ERR_BUSY, rmap_machine_free(machine));
    OK(rmap_machine_file_free(file));
    CHECK(rmap_machine_free_frames(machine) == 255);
    gone(machine);
}

struct watched {
    int regions;
    uint64_t pages;
    unsigned missing;
    struct rmap_machine_mm *mm;
};

static void on_open(void *private_data, uint64_t start, uint64_t end, uint64_t pgoff)
{
    struct watched *w = (struct watched *)private_data;
    (void)pgoff;
    w->regions++;
    w->pages += (end - start) / PAGE;
}

static void on_close(void *private_data, uint64_t start, uint64_t end, uint64_t pgoff)
{
    struct watched *w = (struct watched *)private_data;
    (void)start, (void)end, (void)pgoff;
    w->regions--;
    /* mmap_lock is held. */
    if (w->mm)
        IS(RMAP_ERR_LOCK, rmap_machine_munmap(w->mm, PAGE, PAGE));
}

static int32_t on_fault(void *private_data, uint64_t pgoff, void *page)
{
    (void)private_data, (void)pgoff;
    strcpy((char *)page, "made by the program");
    return RMAP_OK;
}

static int32_t on_missing(void *private_data, struct rmap_machine_mm *mm, uint64_t addr, uint32_t access)
{
    struct watched *w = (struct watched *)private_data;
    char page[RMAP_PAGE_SIZE] = "filled by the handler";
    CHECK(addr % PAGE == 0 && (access == RMAP_ACCESS_READ || access == RMAP_ACCESS_WRITE));
    if (w->missing++ == 2)
        return RMAP_ERR_BUS;
    return rmap_machine_uffd_copy(mm, addr, page);
}

static void the_program_acts_for_its_regions(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *mm, *child;
    struct rmap_machine_vma_ops ops;
    struct rmap_map_request request;
    struct watched w;
    uint64_t at;

    memset(&w, 0, sizeof w);
    memset(&ops, 0, sizeof ops);
    ops.size = sizeof ops;
    ops.open = on_open;
    ops.close = on_close;
    ops.fault = on_fault;
    ops.missing = on_missing;
    OK(rmap_machine_mm_new(machine, &mm));
    request = a_request(4);
    request.ops = &ops;
    request.private_data = &w;
    OK(rmap_machine_mmap(mm, &request, &at));
    CHECK(w.regions == 1 && w.pages == 4);
    reads(mm, at + PAGE, "made by the program");
    OK(rmap_machine_fork(mm, &child));
    CHECK(w.regions == 2);
    OK(rmap_machine_exit(child));
    CHECK(w.regions == 1);
    OK(rmap_machine_munmap(mm, at + PAGE, PAGE));
    CHECK(w.regions == 2);
    w.mm = mm;
    OK(rmap_machine_munmap(mm, at, 4 * PAGE));
    CHECK(w.regions == 0);
    w.mm = NULL;

    request.flags |= RMAP_MAP_UFFD_MISSING;
    OK(rmap_machine_mmap(mm, &request, &at));
    /* They were copied. */
    memset(&ops, 0, sizeof ops);
    reads(mm, at, "filled by the handler");
    put_text(mm, at + PAGE, "written over it");
    CHECK(w.missing == 2);
    IS(RMAP_ERR_BUS, rmap_machine_fault(mm, at + 2 * PAGE, RMAP_ACCESS_READ));
    OK(rmap_machine_uffd_zeropage(mm, at + 2 * PAGE));
    reads(mm, at + 2 * PAGE, "");
    IS(RMAP_ERR_EXISTS, rmap_machine_uffd_zeropage(mm, at + 2 * PAGE));
    CHECK(w.missing == 3);
    holds(machine);
    OK(rmap_machine_exit(mm));
    CHECK(w.regions == 0);
    gone(machine);
}

static void the_charge_function_refuses(void)
{
    struct rmap_machine *machine = a_machine();
    struct rmap_machine_mm *mm, *child = NULL;
    uint64_t addr;

    OK(rmap_machine_mm_new(machine, &mm));
    addr = map(mm, 8);
    charge_limit = 2;
    put_text(mm, addr, "one");
    put_text(mm, addr + PAGE, "two");
    IS(RMAP_ERR_NOMEM, rmap_machine_write(mm, addr + 2 * PAGE, "3", 1));
    IS(RMAP_ERR_NOMEM, rmap_machine_fork(mm, &child));
    CHECK(child == NULL && charged == 2);
    charge_limit = 1000;
    holds(machine);
    OK(rmap_machine_exit(mm));
    gone(machine);
}

#define NEVER ((uint64_t)0x5555)

static void misuse_is_refused(void)
{
    struct rmap_machine *machine = a_machine(), *other = a_machine(), *made = NULL;
    struct rmap_machine_mm *mm, *stale, *fresh = NULL;
    struct rmap_machine_file *foreign, *file = NULL;
    struct rmap_machine_config config;
    struct rmap_map_request request;
    struct rmap_machine_vma_ops ops;
    struct rmap_machine_counters counters;
    struct rmap_machine_stats stats;
    struct rmap_machine_pinned pinned = {0, 0, false};
    struct rmap_machine_mapping mapping = {0, 0};
    uint64_t addr = NEVER, at;
    size_t n = 7;
    char buf[8], page[RMAP_PAGE_SIZE];
    bool out;

    memset(page, 0, sizeof page);
    OK(rmap_machine_mm_new(machine, &mm));
    at = map(mm, 1);
    put_text(mm, at, "x");

    /* Configurations. */
    IS(RMAP_ERR_NULL, rmap_machine_config_init(NULL, sizeof config));
    IS(RMAP_ERR_INVAL, rmap_machine_config_init(&config, 8));
    IS(RMAP_ERR_NULL, rmap_machine_new(NULL, NULL));
#define CONFIG(status, change)                                                          \
    do {                                                                                \
        config = a_config();                                                            \
        change;                                                                         \
        IS(status, rmap_machine_new(&config, &made));                                   \
        CHECK(made == NULL);                                                            \
    } while (0)
    CONFIG(RMAP_ERR_INVAL, config.size = 16);
    CONFIG(RMAP_ERR_NOT_SUPPORTED, config.engine = 9);
    CONFIG(RMAP_ERR_NOT_SUPPORTED, config.flags = 1);
    CONFIG(RMAP_ERR_NOT_SUPPORTED, config.contents = 9);
    CONFIG(RMAP_ERR_NOT_SUPPORTED, config.swap = 9);
    CONFIG(RMAP_ERR_INVAL, config.swap = RMAP_SWAP_NOWHERE);
    CONFIG(RMAP_ERR_INVAL, config.fault_around = 3);
    CONFIG(RMAP_ERR_INVAL, config.min_addr = 1);
    CONFIG(RMAP_ERR_INVAL, config.task_size = 0);
    CONFIG(RMAP_ERR_INVAL, config.uncharge = NULL);
    CONFIG(RMAP_ERR_INVAL, config.allocator.free = NULL);
    CONFIG(RMAP_ERR_IO, (config.swap = RMAP_SWAP_FILE, config.swap_path = "/nowhere/at/all"));

    /* NULL. */
    OK(rmap_machine_free(NULL));
    OK(rmap_machine_exit(NULL));
    OK(rmap_machine_file_free(NULL));
    IS(RMAP_ERR_NULL, rmap_machine_stats(NULL, &stats));
    IS(RMAP_ERR_NULL, rmap_machine_stats(machine, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_check(NULL, NULL, 0));
    IS(RMAP_ERR_NULL, rmap_machine_mm_new(NULL, &fresh));
    IS(RMAP_ERR_NULL, rmap_machine_mm_new(machine, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_fork(NULL, &fresh));
    IS(RMAP_ERR_NULL, rmap_machine_fork(mm, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_exec(NULL, &fresh));
    IS(RMAP_ERR_NULL, rmap_machine_exec(mm, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_counters(mm, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_file_new(NULL, 1, NULL, NULL, &file));
    IS(RMAP_ERR_NULL, rmap_machine_file_new(machine, 1, NULL, NULL, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_shmem_new(machine, 1, NULL));
    request = a_request(1);
    IS(RMAP_ERR_NULL, rmap_machine_mmap(NULL, &request, &addr));
    IS(RMAP_ERR_NULL, rmap_machine_mmap(mm, NULL, &addr));
    IS(RMAP_ERR_NULL, rmap_machine_mmap(mm, &request, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_munmap(NULL, at, PAGE));
    IS(RMAP_ERR_NULL, rmap_machine_mremap(mm, at, PAGE, PAGE, 0, 0, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_brk(mm, 0, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_read(mm, at, NULL, 1));
    OK(rmap_machine_read(mm, at, NULL, 0));
    IS(RMAP_ERR_NULL, rmap_machine_write(mm, at, NULL, 1));
    IS(RMAP_ERR_NULL, rmap_machine_uffd_copy(mm, at, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_pin(mm, at, true, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_unpin(machine, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_pfn(mm, at, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_swap_out(machine, 101, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_page_mappings(machine, 101, NULL, 1, &n));
    IS(RMAP_ERR_NULL, rmap_machine_page_mappings(machine, 101, &mapping, 1, NULL));
    IS(RMAP_ERR_NULL, rmap_machine_oracle_mappings(machine, 101, NULL, 1, &n));
    CHECK(rmap_machine_mm_id(NULL) == 0 && rmap_machine_file_pages(NULL) == 0 && rmap_machine_free_frames(NULL) == 0);

    /* Malformed. */
    IS(RMAP_ERR_INVAL, rmap_machine_munmap((struct rmap_machine_mm *)((char *)mm + 4), at, PAGE));
    IS(RMAP_ERR_INVAL, rmap_machine_mm_new((struct rmap_machine *)((char *)machine + 1), &fresh));
    request.size = 8;
    IS(RMAP_ERR_INVAL, rmap_machine_mmap(mm, &request, &addr));
    request = a_request(1);
    request.flags |= (uint64_t)1 << 40;
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_machine_mmap(mm, &request, &addr));
    request = a_request(1);
    request.prot = RMAP_VM_SHARED;
    IS(RMAP_ERR_INVAL, rmap_machine_mmap(mm, &request, &addr));
    request = a_request(0);
    IS(RMAP_ERR_INVAL, rmap_machine_mmap(mm, &request, &addr));
    memset(&ops, 0, sizeof ops);
    request = a_request(1);
    request.ops = &ops;
    IS(RMAP_ERR_INVAL, rmap_machine_mmap(mm, &request, &addr));
    OK(rmap_machine_file_new(other, 1, NULL, NULL, &foreign));
    request = a_request(1);
    request.file = foreign;
    IS(RMAP_ERR_FOREIGN, rmap_machine_mmap(mm, &request, &addr));
    request = a_request(1);
    request.addr = at;
    request.flags |= RMAP_MAP_FIXED_NOREPLACE;
    IS(RMAP_ERR_EXISTS, rmap_machine_mmap(mm, &request, &addr));
    IS(RMAP_ERR_INVAL, rmap_machine_munmap(mm, at + 1, PAGE));
    IS(RMAP_ERR_INVAL, rmap_machine_mprotect(mm, at, PAGE, 0x1000));
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_machine_mremap(mm, at, PAGE, PAGE, 64, 0, &addr));
    IS(RMAP_ERR_INVAL, rmap_machine_fault(mm, at, 3));
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_read(mm, 0, buf, sizeof buf));
    IS(RMAP_ERR_INVAL, rmap_machine_uffd_copy(mm, at, page));
    IS(RMAP_ERR_STALE, rmap_machine_unpin(machine, &pinned));
    pinned.mm = rmap_machine_mm_id(mm);
    pinned.pfn = 1;
    IS(RMAP_ERR_FOREIGN, rmap_machine_unpin(machine, &pinned));
    pinned.pfn = frame(mm, at);
    IS(RMAP_ERR_STALE, rmap_machine_unpin(machine, &pinned));
    IS(RMAP_ERR_FOREIGN, rmap_machine_swap_out(machine, 99, &out));
    IS(RMAP_ERR_FOREIGN, rmap_machine_page_mappings(machine, 99, NULL, 0, &n));
    IS(RMAP_ERR_FOREIGN, rmap_machine_oracle_mappings(machine, 356, NULL, 0, &n));
    counters.size = 8;
    IS(RMAP_ERR_INVAL, rmap_machine_counters(mm, &counters));
    stats.size = 8;
    IS(RMAP_ERR_INVAL, rmap_machine_stats(machine, &stats));
    CHECK(addr == NEVER && n == 7 && fresh == NULL && file == NULL && mapping.addr == 0);
    reads(mm, at, "x");

    /* Stale. */
    OK(rmap_machine_fork(mm, &stale));
    OK(rmap_machine_exit(stale));
    if (strstr(rmap_version_string(), "checked") == NULL) {
        printf("machine: SKIPPED stale handles: this build does not check them\n");
    } else {
        IS(RMAP_ERR_STALE, rmap_machine_exit(stale));
        OK(rmap_machine_mm_new(machine, &fresh));
        IS(RMAP_ERR_STALE, rmap_machine_munmap(stale, at, PAGE));
        CHECK(rmap_machine_mm_id(stale) == 0);
        OK(rmap_machine_exit(fresh));
    }
    IS(RMAP_ERR_BUSY, rmap_machine_free(machine));
    holds(machine);
    OK(rmap_machine_exit(mm));
    OK(rmap_machine_free(machine));
    OK(rmap_machine_file_free(foreign));
    gone(other);
}

static char trace_path[64];

static void write_trace(const char *text)
{
    FILE *file = fopen(trace_path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

struct heard {
    unsigned marks;
    struct rmap_replay_mark last;
};

static void on_mark(void *arg, const struct rmap_replay_mark *mark)
{
    struct heard *heard = (struct heard *)arg;
    CHECK(strcmp(mark->label, "end") == 0 && strcmp(mark->difference, "") == 0);
    heard->marks++;
    heard->last = *mark;
}

static void traces_are_replayed(void)
{
    struct rmap_replay_config config;
    struct rmap_replay_stats stats;
    struct heard heard;
    char error[256], expected[128], small[12];
    int fd;

    strcpy(trace_path, "/tmp/rmap-trace-XXXXXX");
    fd = mkstemp(trace_path);
    CHECK(fd >= 0 && close(fd) == 0);
    memset(&heard, 0, sizeof heard);
    memset(&stats, 0x55, sizeof stats);
    stats.size = sizeof stats;
    OK(rmap_replay_config_init(&config));
    config.engine = test_engine();
    CHECK(config.size == sizeof config);
    config.trace = trace_path;
    config.mark = on_mark;
    config.arg = &heard;

    /* Two pages written, then shared; the child writes one of them. */
    write_trace("H mmt 1 4096\nN 1\nM 1 400 4 3 p - 0\nw 1 400\nw 1 401\nr 1 900\nF 1 2\nw 2 401\nI 7 1\nI 8 2\n= end\nD 1\nD 2\n");
    strcpy(error, "untouched");
    OK(rmap_replay(&config, &stats, error, sizeof error));
    CHECK(strcmp(error, "untouched") == 0);
    CHECK(stats.address_spaces == 2 && stats.forks == 1 && stats.peak_vmas == 2 && stats.peak_pages == 3);
    CHECK(stats.faults == 4 && stats.failed_faults == 1 && stats.replay_ns > 0 && stats.events > 10);
    CHECK(!stats.counts_locks && stats.locks == 0 && stats.rmap_locks == 0 && stats.size == sizeof stats);
    CHECK(heard.marks == 1 && !heard.last.has_snapshot && heard.last.processes == 0);
    CHECK(heard.last.pages_walked == 3 && heard.last.mappings == 4 && heard.last.candidates >= 4);
    CHECK(heard.last.mismatches == 0 && heard.last.vmas == 2 && heard.last.mms == 2 && heard.last.anon_pages == 3);
    CHECK(!has_anchors() || (heard.last.anchors > 0 && heard.last.links > 0));
    CHECK(heard.last.rmap_bytes > 0);

    /* A bad line is named. */
    write_trace("H mmt 1 4096\nthis is no event\n");
    memset(&stats, 0x55, sizeof stats);
    stats.size = sizeof stats;
    IS(RMAP_ERR_INVAL, rmap_replay(&config, &stats, error, sizeof error));
    sprintf(expected, "%s:2: ", trace_path);
    CHECK(strncmp(error, expected, strlen(expected)) == 0 && strlen(error) > strlen(expected));
    CHECK(stats.events == UINT64_MAX / 3);
    IS(RMAP_ERR_INVAL, rmap_replay(&config, NULL, small, sizeof small));
    CHECK(strncmp(small, error, sizeof small - 1) == 0 && small[sizeof small - 1] == 0);
    IS(RMAP_ERR_INVAL, rmap_replay(&config, NULL, NULL, 0));

    /* A snapshot that was asked for is missing; so is a trace. */
    write_trace("H mmt 1 4096\nN 1\n= end\n");
    config.snapshots = "/tmp/rmap-no-such-directory";
    IS(RMAP_ERR_INVAL, rmap_replay(&config, NULL, error, sizeof error));
    CHECK(strstr(error, ":3: ") && strstr(error, "/tmp/rmap-no-such-directory/end.gz"));
    OK(rmap_replay_config_init(&config));
    config.trace = "/tmp/rmap-no-such-directory/x.mmt";
    IS(RMAP_ERR_INVAL, rmap_replay(&config, NULL, error, sizeof error));
    CHECK(strstr(error, "/tmp/rmap-no-such-directory/x.mmt: ") == error);

    /* Misuse. */
    config.trace = NULL;
    IS(RMAP_ERR_NULL, rmap_replay(&config, NULL, error, sizeof error));
    CHECK(strcmp(error, rmap_strerror(RMAP_ERR_NULL)) == 0);
    IS(RMAP_ERR_NULL, rmap_replay(NULL, NULL, error, sizeof error));
    stats.size = sizeof stats - 1;
    config.trace = trace_path;
    IS(RMAP_ERR_INVAL, rmap_replay(&config, &stats, error, sizeof error));
    IS(RMAP_ERR_NULL, rmap_replay_config_init(NULL));
    config.trace = trace_path;
    config.engine = 9;
    IS(RMAP_ERR_NOT_SUPPORTED, rmap_replay(&config, NULL, error, sizeof error));
    config.size = 8;
    IS(RMAP_ERR_INVAL, rmap_replay(&config, NULL, error, sizeof error));
    CHECK(unlink(trace_path) == 0);
}

int main(void)
{
    a_child_shares_pages_until_they_are_written();
    what_was_swapped_out_comes_back();
    the_layout_is_changed_by_system_calls();
    files_are_read_and_shared();
    the_program_acts_for_its_regions();
    the_charge_function_refuses();
    misuse_is_refused();
    traces_are_replayed();
    printf("machine: done\n");
    return 0;
}
