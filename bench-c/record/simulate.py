# SPDX-License-Identifier: MIT OR Apache-2.0
"""A small memory manager with Linux semantics that replays an mmt trace.

It knows only what decides a trace's truth: which VMAs an address space has, and which frame backs each private
(anonymous or copied) page. File and shared pages have no frame here: the kernel maps more of them than it faults.

It shares no code with the recorder, so that one cannot excuse the other's mistakes.
"""

import bisect
import gzip
from collections import Counter

PROT_WRITE = 2
STACK_GUARD_GAP = 256
MREMAP_DONTUNMAP = 4
MADV_DONTNEED, MADV_DONTFORK, MADV_DOFORK = 4, 10, 11
MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED = 18, 19, 23, 24
MADV_GUARD_INSTALL = 102
ZAPPING = (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL)
FORK_ADVICE = {MADV_DONTFORK: ("dontfork", True), MADV_DOFORK: ("dontfork", False),
               MADV_WIPEONFORK: ("wipeonfork", True), MADV_KEEPONFORK: ("wipeonfork", False)}


class TraceError(Exception):
    """A trace that cannot be replayed, with the line at fault."""


class Vma:
    """[start, end) in pages; `obj` is None for anonymous memory."""

    __slots__ = ("start", "end", "prot", "shared", "obj", "pgoff", "special", "growsdown", "locked", "dontfork",
                 "wipeonfork")

    def __init__(self, start, end, prot, flags, obj, pgoff):
        self.start, self.end, self.prot = start, end, prot
        self.shared, self.special = "s" in flags, "k" in flags
        self.growsdown, self.locked = "G" in flags, "L" in flags
        self.obj, self.pgoff = obj, pgoff
        self.dontfork = self.wipeonfork = False

    def part(self, start, end):
        """A copy of what lies within [start, end)."""
        new = Vma.__new__(Vma)
        for name in Vma.__slots__:
            setattr(new, name, getattr(self, name))
        new.start, new.end = max(start, self.start), min(end, self.end)
        new.pgoff = self.pgoff + new.start - self.start
        return new

    def has_private_pages(self):
        """Can a page of this VMA be the process's own?"""
        return not self.shared and not self.special


class Mm:
    """An address space: VMAs in address order, and vpn -> frame of its private pages."""

    def __init__(self, frames):
        self.starts, self.vmas = [], []
        self.pages = {}
        self.frames = frames

    def find(self, vpn):
        """The VMA that contains vpn, or None."""
        at = bisect.bisect_right(self.starts, vpn) - 1
        if at >= 0 and vpn < self.vmas[at].end:
            return self.vmas[at]
        return None

    def isolate(self, start, end):
        """Split at both ends; the slice of VMAs that lie within [start, end)."""
        for edge in (start, end):
            at = bisect.bisect_left(self.starts, edge) - 1
            if at >= 0 and edge < self.vmas[at].end:
                whole = self.vmas[at]
                self.vmas[at:at + 1] = [whole.part(whole.start, edge), whole.part(edge, whole.end)]
                self.starts.insert(at + 1, edge)
        return slice(bisect.bisect_left(self.starts, start), bisect.bisect_left(self.starts, end))

    def insert(self, vma):
        """Add a VMA where nothing is mapped."""
        at = bisect.bisect_left(self.starts, vma.start)
        self.starts.insert(at, vma.start)
        self.vmas.insert(at, vma)

    def touched(self, start, end):
        """The vpns in [start, end) that have a private page."""
        if end - start < len(self.pages):
            return [vpn for vpn in range(start, end) if vpn in self.pages]
        return [vpn for vpn in self.pages if start <= vpn < end]

    def zap(self, start, end):
        """Drop the private pages in [start, end)."""
        for vpn in self.touched(start, end):
            self.frames.drop(self.pages.pop(vpn))

    def unmap(self, start, end):
        """munmap."""
        within = self.isolate(start, end)
        del self.vmas[within], self.starts[within]
        self.zap(start, end)

    def write(self, vpn):
        """Make vpn's page the process's own: a new frame unless it is the only user of the one it has."""
        frame = self.pages.get(vpn)
        if frame is not None:
            if self.frames.users[frame] == 1:
                return
            self.frames.drop(frame)
        self.pages[vpn] = self.frames.new()

    def populate(self, start, end):
        """What mm_populate leaves behind: private writable pages are written, others only read."""
        for vma in self.vmas[self.isolate(start, end)]:
            if vma.prot & PROT_WRITE and vma.has_private_pages():
                for vpn in range(vma.start, vma.end):
                    self.write(vpn)

    def fork(self):
        """A copy that shares every private page."""
        child = Mm(self.frames)
        for vma in self.vmas:
            if not vma.dontfork:
                copy = vma.part(vma.start, vma.end)
                copy.locked = False
                child.insert(copy)
        child.pages = dict(self.pages)
        self.frames.users.update(child.pages.values())
        for vma in self.vmas:
            if vma.dontfork or vma.wipeonfork:
                child.zap(vma.start, vma.end)
        return child

    def remap(self, old, oldn, new, newn, flags):
        """mremap: VMAs and their pages move together."""
        if old != new:
            self.unmap(new, new + newn)
        if newn < oldn:
            self.unmap(old + newn, old + oldn)
        if not oldn:
            source = self.find(old)
            pieces = [source.part(old, source.end)]
        else:
            pieces = [vma.part(vma.start, vma.end) for vma in self.vmas[self.isolate(old, old + min(oldn, newn))]]
        if not pieces:
            raise TraceError("mremap of nothing")
        moved = {vpn - old + new: self.pages.pop(vpn) for vpn in self.touched(old, old + oldn)}
        if oldn and not flags & MREMAP_DONTUNMAP:
            self.unmap(old, old + oldn)
        for vma in pieces:
            vma.start, vma.end = vma.start - old + new, vma.end - old + new
        pieces[-1].end = new + newn
        for vma in pieces:
            self.insert(vma)
        self.pages.update(moved)
        if pieces[-1].locked and newn > oldn:
            self.populate(new + oldn, new + newn)

    def grow(self, start, end):
        """The VMA that ends at `end` now starts at `start`."""
        vma = self.find(end - 1)
        if vma is None or vma.end != end:
            raise TraceError("no stack ends at %x" % end)
        self.starts[self.starts.index(vma.start)] = start
        vma.start = start

    def grow_to(self, vpn):
        """Stack growth by a fault below it; the VMA, or None where no stack may grow to vpn."""
        at = bisect.bisect_right(self.starts, vpn)
        if at == len(self.vmas) or not self.vmas[at].growsdown:
            return None
        if at and not self.vmas[at - 1].growsdown and self.vmas[at - 1].end + STACK_GUARD_GAP > vpn:
            return None
        self.grow(vpn, self.vmas[at].end)
        return self.vmas[at]


class Frames:
    """How many address spaces' pages each frame backs."""

    def __init__(self):
        self.users = Counter()
        self.last = 0

    def new(self):
        """A frame with one user."""
        self.last += 1
        self.users[self.last] = 1
        return self.last

    def drop(self, frame):
        """One user less."""
        self.users[frame] -= 1
        if not self.users[frame]:
            del self.users[frame]


class Machine:
    """Applies a trace line by line; `at_mark(machine, label)` is called at each checkpoint."""

    def __init__(self, at_mark=None):
        self.frames = Frames()
        self.mms = {}
        self.objects = {}
        self.pids = {}
        self.at_mark = at_mark
        self.failed_faults = 0

    def replay(self, path):
        """The whole trace at `path`."""
        with gzip.open(path, "rt") as trace:
            for number, line in enumerate(trace, 1):
                try:
                    self.apply(line.split())
                except (ValueError, KeyError, IndexError, TypeError, AttributeError, TraceError) as error:
                    raise TraceError("%s:%d: %s: %s: %r" % (path, number, type(error).__name__, error, line)) from None

    def apply(self, f):
        """One event, as its fields."""
        op = f[0]
        if op in "rwx":
            self.fault(self.mms[f[1]], op, int(f[2], 16), "g" in f[3:])
        elif op in "MUPRALG":
            mm = self.mms[f[1]]
            getattr(self, "op_" + op)(mm, *f[2:])
        elif op == "N":
            self.mms[f[1]] = Mm(self.frames)
        elif op == "F":
            self.mms[f[2]] = self.mms[f[1]].fork()
        elif op == "D":
            mm = self.mms.pop(f[1])
            for frame in mm.pages.values():
                self.frames.drop(frame)
        elif op == "O":
            self.objects[f[1]] = f[2]
        elif op == "I":
            self.pids[int(f[1])] = f[2]
        elif op == "=":
            if self.at_mark:
                self.at_mark(self, f[1])
            self.pids = {}
        elif op == "H":
            if f[1:] != ["mmt", "1", "4096"]:
                raise TraceError("not an mmt 1 trace of 4096-byte pages")
        elif op != "#":
            raise TraceError("unknown event")

    def fault(self, mm, kind, vpn, touched_in_exec):
        """A page fault. One that the kernel answers with a signal or EFAULT changes nothing."""
        vma = mm.find(vpn) or mm.grow_to(vpn)
        needed = {"r": 7, "w": PROT_WRITE, "x": 4}[kind]
        if vma is None or not (touched_in_exec or vma.prot & needed):
            self.failed_faults += 1
        elif kind == "w" and vma.has_private_pages():
            mm.write(vpn)

    def op_M(self, mm, vpn, n, prot, flags, obj, pgoff):
        """mmap, or brk."""
        start, end = int(vpn, 16), int(vpn, 16) + int(n, 16)
        mm.unmap(start, end)
        obj = None if obj == "-" else self.objects[obj]
        mm.insert(Vma(start, end, int(prot), flags, obj, int(pgoff, 16)))
        if "P" in flags or "L" in flags:
            mm.populate(start, end)

    def op_U(self, mm, vpn, n):
        """munmap; the whole VMA where n is 0."""
        start, end = int(vpn, 16), int(vpn, 16) + int(n, 16)
        mm.unmap(start, end if end > start else mm.find(start).end)

    def op_P(self, mm, vpn, n, prot):
        """mprotect."""
        start = int(vpn, 16)
        for vma in mm.vmas[mm.isolate(start, start + int(n, 16))]:
            vma.prot = int(prot)

    def op_R(self, mm, old, oldn, new, newn, flags):
        """mremap."""
        mm.remap(int(old, 16), int(oldn, 16), int(new, 16), int(newn, 16), int(flags))

    def op_A(self, mm, vpn, n, advice):
        """madvise."""
        start, end, advice = int(vpn, 16), int(vpn, 16) + int(n, 16), int(advice)
        if advice in ZAPPING:
            mm.zap(start, end)
        elif advice == MADV_POPULATE_WRITE:
            mm.populate(start, end)
        elif advice in FORK_ADVICE:
            name, value = FORK_ADVICE[advice]
            for vma in mm.vmas[mm.isolate(start, end)]:
                setattr(vma, name, value)

    def op_L(self, mm, vpn, n, call):
        """mlock, mlock2 (lock on fault), munlock."""
        start, end = int(vpn, 16), int(vpn, 16) + int(n, 16)
        for vma in mm.vmas[mm.isolate(start, end)]:
            vma.locked = call != "munlock"
        if call == "mlock":
            mm.populate(start, end)

    def op_G(self, mm, vpn, n):
        """Stack growth."""
        mm.grow(int(vpn, 16), int(vpn, 16) + int(n, 16))
