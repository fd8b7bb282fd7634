# SPDX-License-Identifier: MIT OR Apache-2.0
# A small C project, written here and built by make -j4: a mark while compilers run, another while programs are linked.
#
#     build.sh [MODULES]      how many modules (default 18)
set -e
modules=${1:-18}
: "${RMAP_MARK:?set by record.py}"
# `make test-record` must not hand its own jobs and variables down.
unset MAKEFLAGS MAKELEVEL MFLAGS
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
cd "$project"

cat > ledger.h <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct entry { struct entry *next; long amount; char name[24]; };
struct ledger { struct entry *first; long sum; unsigned count; };
static inline void enter(struct ledger *l, const char *name, long amount) {
  struct entry *e = calloc(1, sizeof *e);
  if (!e) abort();
  snprintf(e->name, sizeof e->name, "%s", name);
  e->amount = amount;
  e->next = l->first;
  l->first = e;
  l->sum += amount;
  l->count++;
}
C

# The shell writes them without a process of its own for each piece.
say() {
    printf '%s\n' "$@"
}

# Module m has 8 + m functions: the compilers do not all end at the same moment.
m=1
while [ $m -le "$modules" ]; do
    {
        say '#include "ledger.h"'
        body=
        f=0
        while [ $f -lt $((8 + m)) ]; do
            say "static long step_$f(struct ledger *l, const long *v, int n) {" \
                "  long best = 0;" \
                "  for (int i = 0; i < n; i++) {" \
                "    best += v[i] * $((f + 3)) % ($m + best % 7 + 9);" \
                "    if (best > $((f * 100))) enter(l, \"m$m f$f\", best);" \
                "  }" \
                "  for (struct entry *e = l->first; e; e = e->next)" \
                "    if (!strncmp(e->name, \"m$m\", 2)) best ^= e->amount << $((f % 8));" \
                "  return best;" \
                "}"
            body="$body + step_$f(l, v, n)"
            f=$((f + 1))
        done
        say "long module_$m(struct ledger *l, const long *v, int n) { return 0$body; }"
    } > module_$m.c
    m=$((m + 1))
done

# Two programs that call every module.
for program in audit report; do
    {
        say '#include "ledger.h"'
        body=
        m=1
        while [ $m -le "$modules" ]; do
            say "long module_$m(struct ledger *, const long *, int);"
            body="$body + module_$m(&l, v, 8)"
            m=$((m + 1))
        done
        say "int main(void) {" \
            "  struct ledger l = {0};" \
            "  long v[] = {3, 1, 4, 1, 5, 9, 2, 6}, sum = 0$body;" \
            "  printf(\"$program: %ld in %u entries\\n\", sum + l.sum, l.count);" \
            "  return 0;" \
            "}"
    } > $program.c
done

# The marks are recipes: make starts them among the compilers and the linkers, in the order of the prerequisites.
first=
rest=
m=1
while [ $m -le "$modules" ]; do
    if [ $m -le $((modules / 2)) ]; then first="$first module_$m.o"; else rest="$rest module_$m.o"; fi
    m=$((m + 1))
done
{
    say "FIRST :=$first" "REST :=$rest"
    cat <<'MAKE'
SHELL := /bin/bash
CFLAGS := -O2 -g -Wall -flto=2
MARK = ( echo $@ > "$$RMAP_MARK"; read -r reply < "$$RMAP_ACK"; [ "$$reply" = "ok $@" ] ) && true

.PHONY: all objects make-compile make-link
all: audit make-link report
objects: $(FIRST) make-compile $(REST) audit.o report.o
%.o: %.c ledger.h
	@echo "  CC $@"; \
	gcc $(CFLAGS) -MMD -MF $*.d -c -o $@ $< && tr ' ' '\n' < $*.d | grep -c '\.h$$' > $*.headers
libledger.a: objects
	@echo "  AR $@"; gcc-ar rcs $@ $(FIRST) $(REST)
audit report: %: libledger.a
	@echo "  LD $@"; gcc $(CFLAGS) -o $@ $@.o $< && size $@ | tail -n 1
make-compile:
	@sleep 0.05; $(MARK)
make-link: libledger.a
	@sleep 0.22; $(MARK)
MAKE
} > Makefile
make -j4 --no-print-directory
./audit
./report
