#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "workers.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* The value of the first line that begins with `key`, after the colon; the whole first line when key is "". */
static void read_line(const char *path, const char *key, char *out, size_t size) {
  char line[512];
  FILE *file = fopen(path, "r");
  snprintf(out, size, "unknown");
  if (!file) return;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, key, strlen(key))) continue;
    const char *value = line;
    if (*key) value += strcspn(line, ":") + 1;
    value += strspn(value, " \t");
    snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
    break;
  }
  fclose(file);
}

void host_describe(struct host *host) {
  struct utsname name;
  time_t now = time(NULL);
  struct tm utc;
  memset(host, 0, sizeof *host);
  read_line("/proc/cpuinfo", "model name", host->cpu, sizeof host->cpu);
  read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "", host->governor, sizeof host->governor);
  if (uname(&name) == 0)
    snprintf(host->kernel, sizeof host->kernel, "%.30s %.60s %.30s", name.sysname, name.release, name.machine);
  snprintf(host->compiler, sizeof host->compiler, "%s", COMPILER);
  strftime(host->date, sizeof host->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
  host->cores = workers_processors();
  if (getloadavg(&host->load, 1) != 1) host->load = -1;
}
