#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Replays traces and compares every checkpoint with the snapshot beside the trace.

    check.py TRACE.mmt.gz...

Exit status 0 if at every mark the VMAs are equal and the partition of the anonymous pages into frames is exact.
"""

import gzip
import os
import sys
from collections import defaultdict

from simulate import Machine, TraceError

PRESENT, SWAPPED, FILE_OR_SHARED = 1 << 63, 1 << 62, 1 << 61
PFN_MASK = (1 << 55) - 1
SWAP_TYPE_MASK, MARKER_TYPE = 0x1f, 31
KPF_ZERO_PAGE = 1 << 24
PROT = {"r": 1, "w": 2, "x": 4}


class Snapshot:
    """The kernel's own truth: per pid its VMAs and where its anonymous pages are."""

    def __init__(self, path):
        self.vmas = {}
        self.swapped = set()
        entries, zero = [], set()
        with gzip.open(path, "rt") as lines:
            for number, line in enumerate(lines, 1):
                f = line.split()
                try:
                    if f[0] == "P":
                        self.vmas[int(f[1])] = []
                    elif f[0] == "V":
                        self.add_vma(f)
                    elif f[0] == "@":
                        entries.append((int(f[1]), int(f[2], 16), int(f[3], 16)))
                    elif f[0] == "K":
                        if int(f[4], 16) & KPF_ZERO_PAGE:
                            zero.add(int(f[1], 16))
                    elif f[0] != "T":
                        raise ValueError("unknown line")
                except (ValueError, KeyError, IndexError) as error:
                    raise TraceError("%s:%d: %s: %r" % (path, number, error, line)) from None
        self.anon = {}
        for pid, vpn, entry in entries:
            if entry & PRESENT:
                if not entry & FILE_OR_SHARED and entry & PFN_MASK not in zero:
                    self.anon[pid, vpn] = entry & PFN_MASK
            elif entry & SWAPPED and entry & SWAP_TYPE_MASK != MARKER_TYPE:
                self.swapped.add((pid, vpn))

    def add_vma(self, f):
        """A V line. The vsyscall page is no VMA of the process."""
        if f[8:] == ["[vsyscall]"]:
            return
        start = int(f[2], 16)
        prot = sum(PROT.get(c, 0) for c in f[4][:3])
        obj = None if f[7] == "0" else "%s:%s" % (f[6], f[7])
        self.vmas[int(f[1])].append((start, start + int(f[3], 16), prot, f[4][3] == "s", obj, int(f[5], 16)))


def merged(vmas):
    """(start, end, prot, shared, obj, pgoff) with neighbours of equal attributes made one; pgoff 0 for anonymous."""
    out = []
    for start, end, prot, shared, obj, pgoff in vmas:
        pgoff = pgoff if obj else 0
        if out:
            last = out[-1]
            follows = not obj or last[5] + start - last[0] == pgoff
            if last[1] == start and last[2:5] == (prot, shared, obj) and follows:
                out[-1] = (last[0], end) + last[2:]
                continue
        out.append((start, end, prot, shared, obj, pgoff))
    return out


class Comparison:
    """One mark: the replayed state against the snapshot."""

    def __init__(self, machine, label, snapshot):
        self.label = label
        self.processes = len(snapshot.vmas)
        self.anon = len(snapshot.anon)
        self.swapped = len(snapshot.swapped)
        self.problems = []
        self.extra = []
        self.compare_vmas(machine, snapshot)
        self.compare_partition(machine, snapshot)

    def exact(self):
        """Nothing differs."""
        return not self.problems and not self.extra

    def problem(self, text, *args):
        """One difference that a faithful trace cannot have."""
        self.problems.append(text % args)

    def compare_vmas(self, machine, snapshot):
        """Coverage, protection, sharing, object and offset of every process."""
        for pid, theirs in snapshot.vmas.items():
            if pid not in machine.pids:
                self.problem("pid %d is in the snapshot, not in the trace", pid)
                continue
            mm = machine.mms[machine.pids[pid]]
            ours = set(merged((v.start, v.end, v.prot, v.shared, v.obj, v.pgoff) for v in mm.vmas))
            theirs = set(merged(theirs))
            for name, only in (("trace", ours - theirs), ("snapshot", theirs - ours)):
                for start, end, prot, shared, obj, pgoff in sorted(only, key=lambda v: v[0]):
                    self.problem("pid %d: only in the %s: %x-%x prot %d %s %s %x", pid, name, start, end, prot,
                                 "s" if shared else "p", obj or "-", pgoff)

    def compare_partition(self, machine, snapshot):
        """Two pages share a PFN if and only if they share a frame."""
        frame_of, pfn_of = defaultdict(set), defaultdict(set)
        for (pid, vpn), pfn in snapshot.anon.items():
            mm = machine.mms.get(machine.pids.get(pid))
            frame = mm.pages.get(vpn) if mm else None
            if frame is None:
                self.problem("pid %d: anonymous page %x was never faulted in", pid, vpn)
                continue
            frame_of[pfn].add(frame)
            pfn_of[frame].add(pfn)
        for pfn, frames in frame_of.items():
            if len(frames) > 1:
                self.problem("pfn %x: the trace has %d frames for it", pfn, len(frames))
        for frame, pfns in pfn_of.items():
            if len(pfns) > 1:
                self.problem("frame %d: the kernel has %d frames for it", frame, len(pfns))
        for pid in snapshot.vmas:
            mm = machine.mms.get(machine.pids.get(pid))
            for vpn in mm.pages if mm else ():
                if (pid, vpn) not in snapshot.anon and (pid, vpn) not in snapshot.swapped:
                    self.extra.append((pid, vpn))

    def __str__(self):
        return "%s: %d processes, %d anonymous pages, %d swapped: %s, %d extra" % (
            self.label, self.processes, self.anon, self.swapped,
            "%d differ" % len(self.problems) if self.problems else "exact", len(self.extra))


def snapshot_path(trace, label):
    """The snapshot of a mark lies beside the trace."""
    beside = os.path.join(os.path.dirname(trace), label)
    for path in (beside + ".gz", beside + ".snap.gz"):
        if os.path.exists(path):
            return path
    raise TraceError("%s: no snapshot %s.gz beside it" % (trace, label))


def check(trace):
    """The trace's comparisons, one a mark, and the machine at its end."""
    comparisons = []

    def at_mark(machine, label):
        comparisons.append(Comparison(machine, label, Snapshot(snapshot_path(trace, label))))

    machine = Machine(at_mark)
    machine.replay(trace)
    return comparisons, machine


def main(traces):
    """The command."""
    if not traces:
        print(__doc__, file=sys.stderr)
        return 2
    good = True
    for trace in traces:
        try:
            comparisons, machine = check(trace)
        except (TraceError, OSError) as error:
            print("check.py: %s" % error, file=sys.stderr)
            good = False
            continue
        for comparison in comparisons:
            print("%s: %s" % (trace, comparison))
            for problem in comparison.problems[:20]:
                print("    " + problem)
            for pid, vpn in comparison.extra[:5]:
                print("    pid %d: page %x in the trace only" % (pid, vpn))
            good = good and comparison.exact()
        print("%s: %d marks, %d faults that fail" % (trace, len(comparisons), machine.failed_faults))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
