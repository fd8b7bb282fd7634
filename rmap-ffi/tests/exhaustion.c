/* Without an allocator of the program's, memory comes from the system by mmap. This program has its own mmap, which
 * refuses from a given call on: every function answers RMAP_ERR_NOMEM or does without, nothing has changed, nothing
 * aborts; and when the system gives again, all goes on. Each round is a process of its own, since what the library got
 * from the system it keeps. */
#include "refusing.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* POSIX 2008 hides it. */
#ifdef __cplusplus
extern "C"
#endif
long syscall(long number, ...);

/* Calls of mmap still granted; negative: all. Only the thread that is inside the library counts. */
static long granted = -1;
static unsigned refused;

#ifdef __cplusplus
extern "C" {
#endif
void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
#ifdef __cplusplus
    noexcept(true)
#endif
{
    if (granted == 0) {
        refused++;
        return MAP_FAILED;
    }
    if (granted > 0)
        granted--;
    return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}
#ifdef __cplusplus
}
#endif

#define RW ((uint64_t)(RMAP_VM_READ | RMAP_VM_WRITE))
#define FRAMES 3000
#define TOUCHED 500

static struct rmap_machine *machine;
static struct rmap_machine_mm *parent;

/* What a program sees; it asks for little, and is asked with memory. */
static uint64_t state(void)
{
    struct rmap_machine_stats stats;
    struct rmap_machine_counters counters;
    uint64_t hash = 14695981039346656037u;
    if (machine == NULL)
        return 0;
    stats.size = sizeof stats;
    OK(rmap_machine_stats(machine, &stats));
#define MIX(value) (hash = (hash ^ (uint64_t)(value)) * 1099511628211u)
    MIX(stats.mms), MIX(stats.vmas), MIX(stats.free_frames), MIX(stats.anon_mapped), MIX(stats.swap_used);
    if (parent == NULL)
        return hash;
    counters.size = sizeof counters;
    OK(rmap_machine_counters(parent, &counters));
    MIX(counters.total_vm), MIX(counters.rss_anon), MIX(counters.swap_ents);
    return hash;
}

/* No call asks the system as often. */
#define NEAR 5

/* A call that the system may refuse memory to. The state is looked at when the refusal is near: looking asks, too. */
#define TRY(call)                                       \
    do {                                                \
        long left_ = granted;                           \
        uint64_t before_;                               \
        enum rmap_status answer_;                       \
        granted = -1;                                   \
        before_ = left_ >= 0 && left_ < NEAR ? state() : 0; \
        granted = left_;                                \
        refused = 0;                                    \
        answer_ = (call);                               \
        if (answer_ != RMAP_OK) {                       \
            IS(RMAP_ERR_NOMEM, answer_);                \
            CHECK(refused > 0 && left_ < NEAR);         \
            granted = -1;                               \
            CHECK(state() == before_);                  \
            if (machine != NULL)                        \
                OK(rmap_machine_check(machine, NULL, 0)); \
            note_refused(#call);                        \
            OK(call);                                   \
        }                                               \
    } while (0)

static void scenario(void)
{
    struct rmap_machine_config config = machine_config(FRAMES, 600);
    struct rmap_map_request request;
    struct rmap_machine_mm *child;
    uint64_t addr, more, i, pfn;
    bool gone;

    TRY(rmap_machine_new(&config, &machine));
    TRY(rmap_machine_mm_new(machine, &parent));
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    request.len = 2 * TOUCHED * PAGE;
    request.prot = RW;
    request.flags = RMAP_MAP_PRIVATE;
    TRY(rmap_machine_mmap(parent, &request, &addr));
    for (i = 0; i < TOUCHED; i++)
        TRY(rmap_machine_write(parent, addr + 2 * i * PAGE, &i, sizeof i));
    /* Pieces: a VMA each. */
    for (i = 0; i < TOUCHED; i++)
        TRY(rmap_machine_mprotect(parent, addr + 2 * i * PAGE, PAGE, RMAP_VM_READ));
    request.len = PAGE;
    for (i = 0; i < 40; i++)
        TRY(rmap_machine_mmap(parent, &request, &more));
    TRY(rmap_machine_fork(parent, &child));
    TRY(rmap_machine_mprotect(child, addr, 2 * TOUCHED * PAGE, RW));
    for (i = 0; i < TOUCHED; i += 2)
        TRY(rmap_machine_write(child, addr + 2 * i * PAGE, &i, sizeof i));
    for (i = 1; i < 400; i++) {
        OK(rmap_machine_pfn(parent, addr + 2 * i * PAGE, &pfn));
        TRY(rmap_machine_swap_out(machine, pfn, &gone));
    }
    for (i = 0; i < TOUCHED; i++) {
        uint64_t found = TOUCHED;
        TRY(rmap_machine_read(parent, addr + 2 * i * PAGE, &found, sizeof found));
        CHECK(found == i);
    }
    OK(rmap_machine_exit(child));
    OK(rmap_machine_exit(parent));
    parent = NULL;
    OK(rmap_machine_free(machine));
    machine = NULL;
}

int main(void)
{
    long n;
    int status = 0;

    for (n = 0; n < 1000 && status == 0; n++) {
        pid_t pid;
        fflush(stdout);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            granted = n;
            scenario();
            fflush(stdout);
            /* 1: nothing was refused. */
            _exit(granted > 0 ? 1 : 0);
        }
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    }
    CHECK(WEXITSTATUS(status) == 1 && n > 5);
    printf("exhaustion: %ld rounds\n", n);
    return 0;
}
