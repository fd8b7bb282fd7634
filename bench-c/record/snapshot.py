# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the kernel's own truth about a stopped process tree: what is mapped where, and by which frame."""

import array
import gzip
import os
from collections import Counter

PAGE_SHIFT = 12
CHUNK = 1 << 17
PRESENT, SWAPPED = 1 << 63, 1 << 62
PFN_MASK = (1 << 55) - 1
# Where the kernel shows the vsyscall page, which has no pagemap.
USER_PAGES = 1 << 35


class SnapshotError(Exception):
    """/proc does not show what a snapshot needs."""


def read_comm(pid):
    """A process's name."""
    with open("/proc/%d/comm" % pid, errors="backslashreplace") as comm:
        return comm.read().rstrip("\n")


def read_maps(pid):
    """[(vpn, n, perms, pgoff, dev, ino, name)] of a process's VMAs."""
    vmas = []
    with open("/proc/%d/maps" % pid, errors="backslashreplace") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(None, 5)
            start, end = (int(address, 16) >> PAGE_SHIFT for address in fields[0].split("-"))
            name = fields[5] if len(fields) > 5 else ""
            if name.startswith("/"):
                name = os.path.basename(name)
            vmas.append((start, end - start, fields[1], int(fields[2], 16) >> PAGE_SHIFT, fields[3], fields[4], name))
    return vmas


def read_entries(pagemap, vpn, n):
    """(vpn, entry) of each page of a VMA that is present or swapped. Most of a large VMA is neither: skip by chunk."""
    nothing = bytes(8 * CHUNK)
    for start in range(vpn, vpn + n, CHUNK):
        wanted = 8 * min(CHUNK, vpn + n - start)
        data = os.pread(pagemap, wanted, 8 * start)
        if len(data) != wanted:
            raise SnapshotError("pagemap is short at page %x" % start)
        if data != nothing[:wanted]:
            for i, entry in enumerate(array.array("Q", data)):
                if entry & (PRESENT | SWAPPED):
                    yield start + i, entry


def read_word(file, index):
    """The index-th 64-bit word of a /proc file."""
    return int.from_bytes(os.pread(file, 8, 8 * index), "little")


def write_snapshot(path, time_ns, members):
    """The snapshot of the processes [(pid, ppid, depth)], stopped since time_ns."""
    users = Counter()
    with gzip.open(path, "wt", compresslevel=6) as out:
        out.write("T %d.%09d\n" % divmod(time_ns, 10**9))
        for pid, ppid, depth in members:
            out.write("P %d %d %d %s\n" % (pid, ppid, depth, read_comm(pid)))
            pagemap = os.open("/proc/%d/pagemap" % pid, os.O_RDONLY)
            try:
                for vma in read_maps(pid):
                    out.write(("V %d %x %x %s %x %s %s %s" % ((pid,) + vma)).rstrip() + "\n")
                    for vpn, entry in read_entries(pagemap, *vma[:2]) if vma[0] < USER_PAGES else ():
                        out.write("@ %d %x %016x\n" % (pid, vpn, entry))
                        if entry & PRESENT:
                            users[entry & PFN_MASK] += 1
            finally:
                os.close(pagemap)
        if 0 in users:
            raise SnapshotError("pagemap hides the frame numbers: root (CAP_SYS_ADMIN) is needed")
        write_frames(out, users)


def write_frames(out, users):
    """A K line for each frame: the kernel's count of its mappings, the snapshot's, and the flags."""
    files = [os.open("/proc/" + name, os.O_RDONLY) for name in ("kpagecount", "kpageflags")]
    try:
        for pfn in sorted(users):
            count, flags = (read_word(file, pfn) for file in files)
            out.write("K %x %d %d %x\n" % (pfn, count, users[pfn], flags))
    finally:
        for file in files:
            os.close(file)
