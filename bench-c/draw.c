#include "draw.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "job.h"

const char draw_usage[] =
    "usage: rmap-bench draw --trace FILE --at MARK --page PID:ADDR [--engine NAME] [-o FILE.dot|FILE.svg]\n"
    "\n"
    "Replays a trace and draws the reverse map of one page at a mark.\n"
    "  --trace FILE      the trace\n"
    "  --at MARK         the name of the mark\n"
    "  --page PID:ADDR   the page: a process of the mark, and an address in hexadecimal\n"
    "  --engine NAME     anon_vma (the default), objrmap, pte_chain, full_scan\n"
    "  -o FILE           where to; FILE.svg needs Graphviz (default: DOT on standard output)\n"
    "Exit status: 0 drawn, 2 it is not to be drawn.\n";

struct drawing {
  const char *trace;
  const char *at;
  const char *out; /* NULL: standard output */
  uint32_t engine;
  bool has_page;
  uint32_t pid;
  uint64_t addr;
  /* What came of it. */
  bool at_mark;
  enum rmap_status status;
  char *dot;
};

static int refuse(const char *format, ...) {
  va_list values;
  va_start(values, format);
  fprintf(stderr, "rmap-bench: ");
  vfprintf(stderr, format, values);
  fprintf(stderr, "\n");
  va_end(values);
  return 2;
}

static bool parse_page(struct drawing *drawing, const char *text) {
  char *end;
  errno = 0;
  unsigned long pid = strtoul(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != ':' || errno || pid > UINT32_MAX) return false;
  const char *addr = end + 1;
  if (!strchr("0123456789abcdefABCDEF", addr[0]) || !addr[0]) return false;
  drawing->addr = strtoull(addr, &end, 16);
  drawing->pid = (uint32_t)pid;
  drawing->has_page = true;
  return !*end && !errno;
}

static bool is_svg(const char *path) {
  size_t len = path ? strlen(path) : 0;
  return len > 4 && !strcmp(path + len - 4, ".svg");
}

static bool has_graphviz(void) { return system("dot -V >/dev/null 2>&1") == 0; }

static void on_mark(void *arg, const struct rmap_replay_mark *mark) {
  struct drawing *drawing = arg;
  size_t length = 0;
  if (drawing->at_mark || strcmp(mark->label, drawing->at)) return;
  drawing->at_mark = true;
  drawing->status = rmap_replay_dump_dot(mark->state, drawing->pid, drawing->addr, NULL, 0, &length);
  if (drawing->status != RMAP_OK) return;
  drawing->dot = malloc(length + 1);
  if (!drawing->dot)
    drawing->status = RMAP_ERR_NOMEM;
  else
    drawing->status = rmap_replay_dump_dot(mark->state, drawing->pid, drawing->addr, drawing->dot, length + 1, &length);
}

/* The path is Graphviz's to open, so no shell sees it. */
static FILE *pipe_to_graphviz(const char *path, pid_t *child) {
  int ends[2];
  if (pipe(ends)) return NULL;
  signal(SIGPIPE, SIG_IGN); /* should it end early, its exit status says so */
  *child = fork();
  if (*child == 0) {
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    close(ends[1]);
    execlp("dot", "dot", "-Tsvg", "-o", path, (char *)NULL);
    _exit(127);
  }
  close(ends[0]);
  if (*child < 0) close(ends[1]);
  return *child < 0 ? NULL : fdopen(ends[1], "w");
}

static bool write_out(const struct drawing *drawing) {
  bool svg = is_svg(drawing->out), done;
  pid_t child = 0;
  int status = 0;
  FILE *file = svg ? pipe_to_graphviz(drawing->out, &child) : drawing->out ? fopen(drawing->out, "w") : stdout;
  if (!file) return false;
  done = fputs(drawing->dot, file) >= 0;
  done = (file == stdout ? fflush(file) : fclose(file)) == 0 && done;
  if (svg) done = waitpid(child, &status, 0) == child && status == 0 && done;
  return done;
}

static int draw(struct drawing *drawing) {
  struct rmap_replay_config config;
  char error[512] = "";
  rmap_replay_config_init(&config);
  config.trace = drawing->trace;
  config.engine = drawing->engine;
  config.mark = on_mark;
  config.arg = drawing;
  enum rmap_status status = rmap_replay(&config, NULL, error, sizeof error);
  if (status != RMAP_OK) return refuse("%s", error[0] ? error : rmap_strerror(status));
  if (!drawing->at_mark) return refuse("%s has no mark %s", drawing->trace, drawing->at);
  if (drawing->status == RMAP_ERR_INVAL)
    return refuse("%s has no process %" PRIu32 " at mark %s", drawing->trace, drawing->pid, drawing->at);
  if (drawing->status == RMAP_ERR_NOT_MAPPED)
    return refuse("process %" PRIu32 " has no page at 0x%" PRIx64, drawing->pid, drawing->addr);
  if (drawing->status != RMAP_OK) return refuse("%s", rmap_strerror(drawing->status));
  if (!write_out(drawing)) return refuse("%s cannot be written", drawing->out ? drawing->out : "standard output");
  return 0;
}

int draw_main(int argc, char **argv) {
  struct drawing drawing = {.engine = RMAP_ENGINE_ANON_VMA};
  for (int i = 0; i < argc; i++) {
    const char *option = argv[i], *value = i + 1 < argc ? argv[++i] : NULL;
    if (!strcmp(option, "--help")) {
      fputs(draw_usage, stdout);
      return 0;
    } else if (!value) {
      return refuse("%s needs a value, or is no option\n%s", option, draw_usage);
    } else if (!strcmp(option, "--trace")) {
      drawing.trace = value;
    } else if (!strcmp(option, "--at")) {
      drawing.at = value;
    } else if (!strcmp(option, "--page")) {
      if (!parse_page(&drawing, value)) return refuse("--page takes PID:ADDR, not %s", value);
    } else if (!strcmp(option, "--engine")) {
      drawing.engine = engine_named(value, strlen(value));
      if (!drawing.engine) return refuse("there is no engine %s", value);
    } else if (!strcmp(option, "-o")) {
      drawing.out = value;
    } else {
      return refuse("what is %s?\n%s", option, draw_usage);
    }
  }
  if (!drawing.trace || !drawing.at || !drawing.has_page)
    return refuse("draw needs --trace, --at and --page\n%s", draw_usage);
  if (is_svg(drawing.out) && !has_graphviz())
    return refuse("%s needs Graphviz, whose command dot is not there; a name that ends in .dot does not", drawing.out);
  int status = draw(&drawing);
  free(drawing.dot);
  return status;
}
