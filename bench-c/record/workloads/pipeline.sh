# SPDX-License-Identifier: MIT OR Apache-2.0
# Pipelines and nested subshells, with a mark at the deepest one and another while a job runs in the background.
set -e
mark() {
    echo "$1" > "$RMAP_MARK"
    read -r reply < "$RMAP_ACK"
    [ "$reply" = "ok $1" ]
}
nest() {
    if [ "$1" -gt 0 ]; then
        ( lines=$(seq 1 "$1" | sort -r | tr '\n' ' '); nest $(($1 - 1)) )
    else
        mark nested
    fi
}
seq 1 2000 | sort -r | head -5 | cat > /dev/null
nest 6
sleep 5 &
( mark background )
kill $!
