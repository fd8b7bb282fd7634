/* rmap-bench: replays traces of real programs through librmap, and holds every mark against the kernel's own truth. */
#include <stdlib.h>
#include <string.h>

#include "job.h"

static const char usage[] =
    "usage: rmap-bench [--json] [--trace FILE]... [--snapshots DIR] [TRACES_DIR]\n"
    "\n"
    "Without --trace it replays the bundled traces in TRACES_DIR (default: traces).\n"
    "  --trace FILE      a trace of your own (record/record.py makes one); may be given several times\n"
    "  --snapshots DIR   where the snapshots of the marks are (default: beside the trace)\n"
    "  --json            the figures as JSON\n"
    "Exit status: 0 every mark holds, 1 some does not, 2 a trace or the command line is not to be used.\n";

#define TRACES_MAX 64

static const char *const bundled[] = {"bash", "py", "redis", "make", "web"};

int main(int argc, char **argv) {
  static char paths[sizeof bundled / sizeof *bundled][4096];
  static struct job jobs[TRACES_MAX];
  const char *traces[TRACES_MAX];
  const char *dir = "traces";
  size_t len = 0;
  bool json = false;
  struct job_options options = {.snapshots = NULL, .progress = true};

  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--json")) {
      json = true;
    } else if (!strcmp(argv[i], "--help")) {
      fputs(usage, stdout);
      return 0;
    } else if (!strcmp(argv[i], "--trace") && i + 1 < argc && len < TRACES_MAX) {
      traces[len++] = argv[++i];
    } else if (!strcmp(argv[i], "--snapshots") && i + 1 < argc) {
      options.snapshots = argv[++i];
    } else if (argv[i][0] != '-') {
      dir = argv[i];
    } else {
      fprintf(stderr, "rmap-bench: what is %s?\n%s", argv[i], usage);
      return 2;
    }
  }
  if (len == 0)
    for (; len < sizeof bundled / sizeof *bundled; len++) {
      snprintf(paths[len], sizeof paths[len], "%s/%s.mmt.gz", dir, bundled[len]);
      traces[len] = paths[len];
    }

  bool wrong = false;
  for (size_t i = 0; i < len; i++) {
    char error[512] = "";
    if (!job_run(&jobs[i], traces[i], &options, error, sizeof error)) {
      fprintf(stderr, "rmap-bench: %s\n", error);
      return 2;
    }
    wrong |= jobs[i].wrong;
    if (!json) {
      text_print(stdout, &jobs[i]);
      fflush(stdout);
    }
  }
  if (json) json_print(stdout, jobs, len);
  return wrong ? 1 : 0;
}
