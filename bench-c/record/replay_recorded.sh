#!/bin/sh
# Records a small shell command, and replays it: every mark must hold, with no mismatch. Root and Linux perf needed.
set -eu
here=$(dirname "$0")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/small.sh" <<'END'
x=$(seq 1 200 | sort -r | head -n 3)
( y=$x; echo "in the subshell: $y" >/dev/null; echo inside > "$RMAP_MARK"; read -r reply < "$RMAP_ACK" )
echo after > "$RMAP_MARK"
read -r reply < "$RMAP_ACK"
END
python3 "$here/record.py" -o "$dir/small.mmt.gz" -- bash "$dir/small.sh"
"$RMAP_BENCH" --trace "$dir/small.mmt.gz" | tee "$dir/out"
[ "$(grep -c 'mark .*: holds' "$dir/out")" = 2 ]
[ "$(grep -c ' 0 mismatches' "$dir/out")" = 2 ]
echo 'recorded and replayed: 2 marks hold, 0 mismatches'
