#!/bin/sh
# Holds rmap-bench draw to its command line and its output, and the SVGs in docs/pictures to the texts beside them.
#
# usage: test_draw.sh RMAP_BENCH. Needs Graphviz. RMAP_WRITE_PICTURES=1 writes what is expected, and the SVGs, anew.
set -eu
bench=$1
here=$(dirname "$0")
pictures=$here/../docs/pictures
expected=$here/test_draw.dot
trace=$here/traces/bash.mmt.gz
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "test_draw: $*" >&2
  exit 1
}

# drawn ARGUMENTS...: a page of the heap that four nested shells share.
drawn() { "$bench" draw --trace "$trace" --at bash.snap --page 22257:56174402a123 "$@"; }

# refused WORDS COMMAND...: exit status 2, and these words on standard error.
refused() {
  words=$1
  shift
  status=0
  "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
  [ "$status" = 2 ] || fail "$*: exit status $status"
  [ ! -s "$scratch/out" ] || fail "$*: writes to standard output"
  grep -qF -e "$words" "$scratch/err" || fail "$*: does not say '$words': $(cat "$scratch/err")"
}

# texts SVG: what is written in a picture, wherever it is drawn.
texts() { grep -o '<text [^>]*>[^<]*' "$1" | sed 's/<text [^>]*>//' | sort; }

drawn >"$scratch/bash.dot"
if [ "${RMAP_WRITE_PICTURES:-}" = 1 ]; then
  cp "$scratch/bash.dot" "$expected"
  for svg in "$pictures"/*.svg; do dot -Tsvg -o "$svg" "${svg%.svg}.dot"; done
fi
diff -u "$expected" "$scratch/bash.dot" || fail 'the page of the bundled trace is drawn otherwise'
drawn --engine anon_vma -o "$scratch/again.dot"
diff -u "$expected" "$scratch/again.dot" || fail 'with --engine and -o it is drawn otherwise'
for engine in objrmap pte_chain full_scan; do
  drawn --engine "$engine" | grep -q "^  label=.*, engine $engine\";\$" || fail "--engine $engine is not drawn"
done
drawn -o "$scratch/bash.svg"
dot -Tsvg -o "$scratch/dot.svg" "$expected"
cmp "$scratch/bash.svg" "$scratch/dot.svg" || fail 'the SVG is not of the same text'

for svg in "$pictures"/*.svg; do
  dot -Tsvg -o "$scratch/now.svg" "${svg%.svg}.dot"
  texts "$svg" >"$scratch/committed"
  texts "$scratch/now.svg" | diff -u "$scratch/committed" - || fail "$svg is not of the text beside it"
done

draw="$bench draw --trace $trace"
refused 'draw needs --trace, --at and --page' $draw --at bash.snap
refused 'has no mark nowhere' $draw --at nowhere --page 22257:1000
refused 'has no process 1 at mark bash.snap' $draw --at bash.snap --page 1:1000
refused 'process 22257 has no page at 0x1000' $draw --at bash.snap --page 22257:1000
for page in 22257 22257: :1000 x:1000 -1:1000 22257:-1 22257:g 4294967296:1000 22257:10000000000000000; do
  refused "--page takes PID:ADDR, not $page" $draw --at bash.snap --page "$page"
done
refused 'there is no engine magic' drawn --engine magic
refused 'cannot be written' drawn -o "$scratch/no/such.dot"
refused 'cannot be written' drawn -o "$scratch/no/such.svg"
refused 'what is --frobnicate?' drawn --frobnicate 1
refused '-o needs a value' drawn -o
refused 'nowhere.mmt' "$bench" draw --trace nowhere.mmt --at end --page 1:1000
refused 'needs Graphviz' env PATH=/nowhere "$bench" draw --trace "$trace" --at x --page 1:1000 -o "$scratch/x.svg"
"$bench" draw --help | grep -q '^usage: rmap-bench draw' || fail 'no help'
echo 'test_draw: done'
