/* Pictures through the C ABI: a machine, and a program with page tables of its own, draw the very texts that stand in
 * docs/pictures; a text that does not fit is cut off; what cannot be drawn is refused. Runs beside ../docs. */
#include "support.h"

#include <unistd.h>

#define ROOM 8192
#define CHILDREN 40
#define MAPPINGS (2 * CHILDREN)

static char drawn[ROOM], expected[ROOM];

/* Compares what was drawn with a file. */
static void is_picture(const char *name, size_t length)
{
    char path[128];
    size_t n;
    FILE *file;
    sprintf(path, "../docs/pictures/%s-%s.dot", rmap_engine_name(test_engine()), name);
    file = fopen(path, "r");
    CHECK(file);
    n = fread(expected, 1, sizeof expected - 1, file);
    expected[n] = 0;
    fclose(file);
    if (strlen(drawn) != length || strcmp(drawn, expected) != 0) {
        fprintf(stderr, "%s is not what is drawn:\n%s", path, drawn);
        abort();
    }
}

static void machine_draws(struct rmap_machine *machine, struct rmap_machine_mm *mm, uint64_t addr, const char *name,
                          const char *caption)
{
    uint64_t pfn;
    size_t length;
    OK(rmap_machine_pfn(mm, addr, &pfn));
    OK(rmap_machine_dump_dot(machine, pfn, caption, drawn, sizeof drawn, &length));
    is_picture(name, length);
}

static void a_machine_draws_its_pages(void)
{
    struct rmap_machine_config config;
    struct rmap_machine *machine;
    struct rmap_machine_mm *parent, *child;
    struct rmap_map_request request;
    uint64_t at = page_addr(1), addr, free_frame;
    size_t length = 77;
    OK(rmap_machine_config_init(&config, sizeof config));
    config.frames = 64;
    config.engine = test_engine();
    OK(rmap_machine_new(&config, &machine));
    OK(rmap_machine_mm_new(machine, &parent));
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    request.addr = BASE;
    request.len = 3 * PAGE;
    request.prot = RMAP_VM_READ | RMAP_VM_WRITE;
    request.flags = RMAP_MAP_PRIVATE | RMAP_MAP_FIXED;
    OK(rmap_machine_mmap(parent, &request, &addr));

    OK(rmap_machine_write(parent, at, "1", 1));
    machine_draws(machine, parent, at, "first-fault", "after the first fault");
    OK(rmap_machine_fork(parent, &child));
    machine_draws(machine, child, at, "fork", "after fork");
    OK(rmap_machine_write(child, at, "2", 1));
    machine_draws(machine, child, at, "cow", "after copy-on-write in the child: its copy");
    machine_draws(machine, parent, at, "cow-old", "after copy-on-write in the child: the old page");

    OK(rmap_machine_pfn(child, at, &free_frame));
    OK(rmap_machine_exit(child));
    length = 77;
    strcpy(drawn, "untouched");
    IS(RMAP_ERR_NOT_MAPPED, rmap_machine_dump_dot(machine, free_frame, NULL, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_FOREIGN, rmap_machine_dump_dot(machine, 1 << 20, NULL, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_machine_dump_dot(NULL, 1, NULL, drawn, sizeof drawn, &length));
    CHECK(length == 77 && strcmp(drawn, "untouched") == 0);
    OK(rmap_machine_exit(parent));
    OK(rmap_machine_free(machine));
}

static struct {
    long left; /* allocations still granted; negative: all */
    unsigned refused;
} memory = {-1, 0};

static void *take(void *arg, size_t size, size_t align)
{
    void *block = NULL;
    CHECK(arg == &memory);
    if (memory.left == 0) {
        memory.refused++;
        return NULL;
    }
    if (memory.left > 0)
        memory.left--;
    return posix_memalign(&block, align < sizeof(void *) ? sizeof(void *) : align, size) == 0 ? block : NULL;
}

static void give(void *arg, void *block, size_t size, size_t align)
{
    CHECK(arg == &memory && size != 0 && align != 0);
    free(block);
}

static struct rmap_ctx *a_context(void)
{
    struct rmap_config config;
    struct rmap_ctx *ctx;
    OK(rmap_config_init(&config, sizeof config));
    config.engine = test_engine();
    config.allocator.alloc = take;
    config.allocator.free = give;
    config.allocator.arg = &memory;
    OK(rmap_new(&config, &ctx));
    OK(rmap_pages_add(ctx, 1, 64, NULL));
    OK(rmap_reserve(ctx, MAPPINGS));
    return ctx;
}

static void gone(struct rmap_ctx *ctx)
{
    OK(rmap_unreserve(ctx, MAPPINGS));
    OK(rmap_free(ctx));
}

static size_t draw(struct rmap_ctx *ctx, struct rmap_page *page, const char *caption, size_t size)
{
    size_t length;
    OK(rmap_page_lock(page));
    OK(rmap_dump_dot(ctx, page, caption, size ? drawn : NULL, size, &length));
    OK(rmap_page_unlock(page));
    return length;
}

/* The parent, with three pages, of which the second is written. */
static struct rmap_page *a_parent(struct rmap_ctx *ctx, struct space *parent)
{
    struct rmap_page *page;
    struct rmap_vma *vma;
    space_init(parent, ctx);
    OK(rmap_mm_write_lock(parent->mm));
    vma = map_anon(parent, 0, 3);
    OK(rmap_anon_vma_prepare(vma));
    page = touch(ctx, parent, vma, 1, 0x40);
    OK(rmap_mm_write_unlock(parent->mm));
    return page;
}

static void a_program_draws_its_pages(void)
{
    static struct space parent, child;
    struct rmap_ctx *ctx = a_context();
    struct rmap_page *page = a_parent(ctx, &parent), *copy;
    struct rmap_vma *vma;
    is_picture("first-fault", draw(ctx, page, "after the first fault", sizeof drawn));

    space_init(&child, ctx);
    space_fork(ctx, &child, &parent);
    plain_at(&child.table, page_addr(1))->flags &= ~(uint32_t)RMAP_PTE_YOUNG;
    is_picture("fork", draw(ctx, page, "after fork", sizeof drawn));

    OK(rmap_mm_write_lock(child.mm));
    OK(rmap_vma_find(child.mm, page_addr(1), &vma));
    zap(ctx, &child, vma, 1);
    copy = touch(ctx, &child, vma, 1, 2);
    OK(rmap_mm_write_unlock(child.mm));
    is_picture("cow", draw(ctx, copy, "after copy-on-write in the child: its copy", sizeof drawn));
    is_picture("cow-old", draw(ctx, page, "after copy-on-write in the child: the old page", sizeof drawn));

    space_exit(ctx, &child);
    space_exit(ctx, &parent);
    gone(ctx);
}

/* What does not fit is cut off, and the length is that of the whole. */
static void a_text_is_cut_off(void)
{
    static struct space parent;
    struct rmap_ctx *ctx = a_context();
    struct rmap_page *page = a_parent(ctx, &parent);
    const char *caption = "\"a\" \\ & b\n\001 \303\251 \377";
    size_t length = draw(ctx, page, caption, 0), size;
    CHECK(length < sizeof expected && draw(ctx, page, caption, sizeof drawn) == length);
    strcpy(expected, drawn);
    CHECK(strlen(expected) == length);
    CHECK(strstr(expected, "  label=\"\\\"a\\\" \\\\ &amp; b\\n? \303\251 \357\277\275\";\n"));
    for (size = 1; size <= length + 2; size++) {
        memset(drawn, 0x55, sizeof drawn);
        CHECK(draw(ctx, page, caption, size) == length);
        CHECK(strlen(drawn) < size && drawn[size] == 0x55);
        CHECK(strncmp(drawn, expected, strlen(drawn)) == 0);
        CHECK(strlen(drawn) + 3 >= (size <= length ? size : length));
    }
    space_exit(ctx, &parent);
    gone(ctx);
}

static void what_cannot_be_drawn_is_refused(void)
{
    static struct space parent, children[CHILDREN];
    struct rmap_ctx *ctx = a_context(), *other = a_context();
    struct rmap_page *page = a_parent(ctx, &parent);
    size_t length = 77, whole;
    long left;
    int i;
    strcpy(drawn, "untouched");
    IS(RMAP_ERR_LOCK, rmap_dump_dot(ctx, page, NULL, drawn, sizeof drawn, &length));
    OK(rmap_page_lock(page));
    IS(RMAP_ERR_FOREIGN, rmap_dump_dot(other, page, NULL, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_dump_dot(NULL, page, NULL, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_dump_dot(ctx, NULL, NULL, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_dump_dot(ctx, page, NULL, NULL, 1, &length));
    IS(RMAP_ERR_NULL, rmap_dump_dot(ctx, page, NULL, drawn, sizeof drawn, NULL));
    OK(rmap_page_unlock(page));

    /* Each allocation in turn, of a picture for which the first room is too small. */
    for (i = 0; i < CHILDREN; i++) {
        space_init(&children[i], ctx);
        space_fork(ctx, &children[i], &parent);
    }
    whole = draw(ctx, page, NULL, 0);
    OK(rmap_page_lock(page));
    for (left = 0;; left++) {
        enum rmap_status status;
        memory.left = left;
        memory.refused = 0;
        status = rmap_dump_dot(ctx, page, NULL, drawn, sizeof drawn, &length);
        memory.left = -1;
        if (memory.refused == 0) {
            OK(status);
            break;
        }
        IS(RMAP_ERR_NOMEM, status);
        CHECK(length == 77 && strcmp(drawn, "untouched") == 0);
    }
    CHECK(left > 8 && length == whole && strncmp(drawn, "digraph", 7) == 0);
    OK(rmap_page_unlock(page));
    for (i = 0; i < CHILDREN; i++)
        space_exit(ctx, &children[i]);
    space_exit(ctx, &parent);
    gone(ctx);
    gone(other);
}

static unsigned marks;

static void on_mark(void *arg, const struct rmap_replay_mark *mark)
{
    size_t length = 77;
    CHECK(arg == &marks && mark->state != NULL);
    marks++;
    strcpy(drawn, "untouched");
    IS(RMAP_ERR_INVAL, rmap_replay_dump_dot(mark->state, 9, 0x401000, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NOT_MAPPED, rmap_replay_dump_dot(mark->state, 8, 0x402000, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NOT_MAPPED, rmap_replay_dump_dot(mark->state, 8, UINT64_MAX, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_replay_dump_dot(NULL, 8, 0x401000, drawn, sizeof drawn, &length));
    IS(RMAP_ERR_NULL, rmap_replay_dump_dot(mark->state, 8, 0x401000, drawn, sizeof drawn, NULL));
    CHECK(length == 77 && strcmp(drawn, "untouched") == 0);
    OK(rmap_replay_dump_dot(mark->state, 8, 0x401fff, drawn, sizeof drawn, &length));
    CHECK(strlen(drawn) == length && strstr(drawn, "subgraph cluster_mm_2 {"));
    sprintf(expected, ", a&amp;b: 0x401000 of process 8 (mm 2), engine %s\";\n", rmap_engine_name(test_engine()));
    CHECK(strstr(drawn, expected) && strstr(drawn, "ANON\\lindex 0x401\\lmapcount 1\\lanon-exclusive\\l"));
}

static void a_trace_is_drawn_at_its_mark(void)
{
    struct rmap_replay_config config;
    char path[] = "/tmp/rmap-trace-XXXXXX", error[256] = "";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    CHECK(fd >= 0 && file);
    fputs("H mmt 1 4096\nN 1\nM 1 400 4 3 p - 0\nw 1 401\nF 1 2\nw 2 401\nI 7 1\nI 8 2\n= a&b\nD 1\nD 2\n", file);
    CHECK(fclose(file) == 0);
    OK(rmap_replay_config_init(&config));
    config.engine = test_engine();
    config.trace = path;
    config.mark = on_mark;
    config.arg = &marks;
    OK(rmap_replay(&config, NULL, error, sizeof error));
    CHECK(marks == 1 && unlink(path) == 0);
}

int main(void)
{
    a_machine_draws_its_pages();
    a_program_draws_its_pages();
    a_text_is_cut_off();
    what_cannot_be_drawn_is_refused();
    a_trace_is_drawn_at_its_mark();
    printf("dot: done\n");
    return 0;
}
