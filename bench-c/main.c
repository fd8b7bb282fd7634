/* rmap-bench: replays traces of real programs under every engine, and holds every mark against the kernel's own truth. */
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "job.h"
#include "locks.h"

static const char usage[] =
    "usage: rmap-bench [--json] [--quick] [--engines NAME,...] [--trace FILE]... [--snapshots DIR] [TRACES_DIR]\n"
    "       rmap-bench draw --trace FILE --at MARK --page PID:ADDR [-o FILE.dot|FILE.svg]    (draw --help)\n"
    "\n"
    "Without --trace it replays the bundled traces in TRACES_DIR (default: traces).\n"
    "  --engines NAME,.. of anon_vma, objrmap, pte_chain, full_scan (default: all); ratios are to the first\n"
    "  --quick           of the bundled traces two small ones\n"
    "  --trace FILE      a trace of your own (record/record.py makes one); may be given several times\n"
    "  --snapshots DIR   where the snapshots of the marks are (default: beside the trace)\n"
    "  --json            the figures as JSON\n"
    "Exit status: 0 every mark holds, 1 some does not, 2 a trace or the command line is not to be used.\n";

#define TRACES_MAX 64
#define ENGINES_MAX 8

/* Small ones first: --quick takes two. */
static const char *const bundled[] = {"bash", "redis", "py", "make", "web"};
#define BUNDLED (sizeof bundled / sizeof *bundled)
#define QUICK 2

struct command {
  const char *traces[TRACES_MAX];
  size_t traces_len;
  uint32_t engines[ENGINES_MAX];
  size_t engines_len;
  const char *dir;
  bool json, quick;
  struct job_options options;
};

/* Names with commas between them. */
static bool parse_engines(struct command *command, const char *names) {
  for (command->engines_len = 0;; names++) {
    size_t len = strcspn(names, ",");
    uint32_t engine = engine_named(names, len);
    if (!engine || command->engines_len == ENGINES_MAX) {
      fprintf(stderr, "rmap-bench: there is no engine %.*s\n", (int)len, names);
      return false;
    }
    command->engines[command->engines_len++] = engine;
    names += len;
    if (!*names) return true;
  }
}

static bool parse(struct command *command, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    bool more = i + 1 < argc;
    if (!strcmp(argv[i], "--json")) {
      command->json = true;
    } else if (!strcmp(argv[i], "--quick")) {
      command->quick = true;
    } else if (!strcmp(argv[i], "--help")) {
      fputs(usage, stdout);
      exit(0);
    } else if (!strcmp(argv[i], "--engines") && more) {
      if (!parse_engines(command, argv[++i])) return false;
    } else if (!strcmp(argv[i], "--trace") && more && command->traces_len < TRACES_MAX) {
      command->traces[command->traces_len++] = argv[++i];
    } else if (!strcmp(argv[i], "--snapshots") && more) {
      command->options.snapshots = argv[++i];
    } else if (argv[i][0] != '-') {
      command->dir = argv[i];
    } else {
      fprintf(stderr, "rmap-bench: what is %s?\n%s", argv[i], usage);
      return false;
    }
  }
  return true;
}

static void add_bundled(struct command *command) {
  static char paths[BUNDLED][4096];
  size_t len = command->quick ? QUICK : BUNDLED;
  for (; command->traces_len < len; command->traces_len++) {
    char *path = paths[command->traces_len];
    snprintf(path, sizeof paths[0], "%s/%s.mmt.gz", command->dir, bundled[command->traces_len]);
    command->traces[command->traces_len] = path;
  }
}

/* One trace under every engine. False: it cannot be replayed. */
static bool replay_all(const struct command *command, struct job *jobs, const char *trace) {
  for (size_t k = 0; k < command->engines_len; k++) {
    char error[512] = "";
    if (!job_run(&jobs[k], trace, command->engines[k], &command->options, error, sizeof error)) {
      fprintf(stderr, "rmap-bench: %s\n", error);
      return false;
    }
    if (!locks_count(&jobs[k])) fprintf(stderr, "rmap-bench: %s, %s: locks are not counted\n", trace, rmap_engine_name(jobs[k].engine));
  }
  if (!command->json) {
    text_print(stdout, jobs);
    table_print(stdout, jobs, command->engines_len);
    fflush(stdout);
  }
  return true;
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "draw")) return draw_main(argc - 2, argv + 2);
  struct command command = {.dir = "traces", .options = {.progress = true}};
  if (!parse(&command, argc, argv)) return 2;
  if (!command.engines_len) parse_engines(&command, "anon_vma,objrmap,pte_chain,full_scan");
  if (!command.traces_len) add_bundled(&command);

  size_t len = command.traces_len * command.engines_len;
  struct job *jobs = calloc(len, sizeof *jobs);
  if (!jobs) {
    fprintf(stderr, "rmap-bench: out of memory\n");
    return 2;
  }
  int status = 0;
  for (size_t i = 0; i < command.traces_len && status != 2; i++)
    if (!replay_all(&command, &jobs[i * command.engines_len], command.traces[i])) status = 2;
  for (size_t i = 0; i < len && status != 2; i++)
    if (jobs[i].wrong) status = 1;
  if (command.json && status != 2) json_print(stdout, jobs, command.traces_len, command.engines_len);
  free(jobs);
  return status;
}
