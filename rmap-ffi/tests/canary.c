/* Defects on purpose, each named on the command line: whatever looks for such defects must report it. Some are the program's own;
 * those whose name begins with "library" show in the library's code, which must have been looked at too. */
#include "support.h"

#include <limits.h>

static struct rmap_ctx *a_context(void)
{
    struct rmap_config config = test_config();
    struct rmap_ctx *ctx;
    config.allocator.alloc = malloc_take;
    config.allocator.free = malloc_give;
    OK(rmap_new(&config, &ctx));
    OK(rmap_pages_add(ctx, 1, 64, NULL));
    return ctx;
}

static void use_after_free(void)
{
    char *volatile block = (char *)malloc(8);   /* so that no compiler sees what it reads */
    CHECK(block != NULL);
    block[3] = 1;
    free(block);
    CHECK(block[3] < 127);
}

static void library_use_after_free(void)
{
    struct rmap_ctx *ctx = a_context();
    struct rmap_page *page = rmap_page(ctx, 7);
    OK(rmap_free(ctx));
    rmap_page_mapcount(page);
}

static void leak(void)
{
    void *volatile block = malloc(8);
    CHECK(block != NULL);
    block = NULL;
}

static void library_leak(void)
{
    unsigned i;
    for (i = 0; i < 8; i++)
        CHECK(a_context() != NULL);
}

static void overflow(void)
{
    volatile int most = INT_MAX;
    CHECK(most + 1 != 0);
}

static unsigned counter;

static void *count(void *arg)
{
    (void)arg;
    counter++;
    return NULL;
}

/* Both threads' figures go to one place. */
static struct rmap_stats stats;

static void *ask(void *ctx)
{
    OK(rmap_stats((struct rmap_ctx *)ctx, &stats));
    return NULL;
}

static void two_threads(void *(*body)(void *), void *arg)
{
    pthread_t threads[2];
    CHECK(pthread_create(&threads[0], NULL, body, arg) == 0);
    CHECK(pthread_create(&threads[1], NULL, body, arg) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_join(threads[1], NULL) == 0);
}

static void race(void)
{
    two_threads(count, NULL);
    CHECK(counter != 0);
}

/* A correct program: one thread hands a value over to another by a release store. For those who see no order in that. */
static unsigned value, ready;

static void *hand_over(void *arg)
{
    (void)arg;
    if (__atomic_fetch_add(&ready, 1, __ATOMIC_ACQ_REL) == 0) {
        value = 7;
        __atomic_fetch_add(&ready, 1, __ATOMIC_RELEASE);
    } else {
        while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) != 3)
            ;
        CHECK(value == 7);
    }
    return NULL;
}

static void message(void)
{
    two_threads(hand_over, NULL);
}

static pthread_mutex_t locks[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};

static void lock_order(void)
{
    unsigned first;
    for (first = 0; first < 2; first++) {
        pthread_mutex_lock(&locks[first]);
        pthread_mutex_lock(&locks[1 - first]);
        pthread_mutex_unlock(&locks[1 - first]);
        pthread_mutex_unlock(&locks[first]);
    }
}

static void library_race(void)
{
    struct rmap_ctx *ctx = a_context();
    stats.size = sizeof stats;
    two_threads(ask, ctx);
    OK(rmap_free(ctx));
}

static const struct {
    const char *name;
    void (*run)(void);
} defects[] = {
    {"use-after-free", use_after_free},
    {"library-use-after-free", library_use_after_free},
    {"leak", leak},
    {"library-leak", library_leak},
    {"overflow", overflow},
    {"race", race},
    {"library-race", library_race},
    {"lock-order", lock_order},
    {"message", message},
};

int main(int argc, char **argv)
{
    size_t i;
    if (argc < 2) {
        OK(rmap_free(a_context()));
        return 0;
    }
    for (i = 0; i < sizeof defects / sizeof defects[0]; i++)
        if (strcmp(defects[i].name, argv[1]) == 0) {
            defects[i].run();
            return 0;
        }
    fprintf(stderr, "canary: no defect \"%s\"\n", argv[1]);
    return 2;
}
