# SPDX-License-Identifier: MIT OR Apache-2.0
"""The translation, on events made by hand: what a recording shows too rarely to wait for."""

import itertools
import os
import struct
import tempfile
import unittest

import syscalls as sc
from elf import first_segment_pages
from perf_data import Mapping
from translate import TranslateError, Translator

ROOT = 100
HEAD = ["H mmt 1 4096", "N 1", "M 1 7f00 21 3 pG - 0", "w 1 7f20 g"]


def mapping(addr, n, name="//anon", ino=0, prot=3, flags=2, pgoff=0):
    """An MMAP2 record, in pages."""
    return Mapping(addr, n, pgoff, 0xfe, 0, ino, 0, prot, flags, name)


def execed(pid, *mappings):
    """The events of an exec with one argument page."""
    return [(pid, "enter", sc.EXECVE, (0,) * 6), (pid, "rss", 77), (pid, "exec", "prog"),
            (pid, "mmap2", mapping(0x7f00, 0x21, "[stack]"))] + [(pid, "mmap2", m) for m in mappings] + [
                (pid, "exit", sc.EXECVE, 0)]


def call(pid, nr, ret, *args, within=()):
    """A system call with what happens within it; addresses and lengths in bytes."""
    return [(pid, "enter", nr, tuple(args) + (0,) * (6 - len(args)))] + list(within) + [(pid, "exit", nr, ret)]


def translate(*events, marks=()):
    """The trace's lines, comments left out; event i is at time i + 1."""
    stamped = [(time, event[1], event[0]) + tuple(event[2:]) for time, event in enumerate(itertools.chain(*events), 1)]
    text = "\n".join(Translator(ROOT).run(stamped, list(marks)))
    return [line for line in text.split("\n") if not line.startswith("#")]


class Translation(unittest.TestCase):
    """Lines after the root's exec."""

    def check(self, events, lines, **options):
        self.assertEqual(translate(execed(ROOT), *events, **options), HEAD + lines)

    def test_failed_calls_leave_nothing(self):
        self.check([call(ROOT, sc.MUNMAP, -22, 0x10000, 0x1000), call(ROOT, sc.MMAP, -12, 0, 0x1000, 3, 0x22, -1, 0),
                    call(ROOT, sc.MPROTECT, -12, 0x10000, 0x1000, 1), call(ROOT, sc.MADVISE, -22, 0x10000, 0x1000, 4),
                    call(ROOT, sc.EXECVE, -2)], [])

    def test_madvise_past_a_hole(self):
        self.check([call(ROOT, sc.MADVISE, -sc.ENOMEM, 0x10000, 0x2001, 4)], ["A 1 10 3 4"])

    def test_a_freed_range_is_mapped_by_another_thread(self):
        """munmap has not returned yet when a thread maps the same range: unmap first."""
        within = call(101, sc.MMAP, 0x10000, 0, 0x1000, 3, 0x22, within=[(101, "mmap2", mapping(0x10, 1))])
        self.check([[(ROOT, "newtask", 101, sc.CLONE_VM | sc.CLONE_THREAD)],
                    call(ROOT, sc.MUNMAP, 0, 0x10000, 0x1000, within=within)], ["U 1 10 1", "M 1 10 1 3 p - 0"])

    def test_mmap_stands_where_its_record_does(self):
        """Another thread's fault on the new mapping can come before mmap returns."""
        file = mapping(0x10, 4, "/a/b c", 7)
        self.check([[(ROOT, "newtask", 101, sc.CLONE_VM | sc.CLONE_THREAD)],
                    call(ROOT, sc.MMAP, 0x10000, 0, 0x4000, 1, 1, 3, 0x2000,
                         within=[(ROOT, "mmap2", file), (101, "fault", 0x11, "r", False)])],
                   ["O 1 fe:00:7 b_c", "M 1 10 4 1 s 1 2", "r 1 11"])

    def test_vfork_shares_and_fork_copies(self):
        self.check([[(ROOT, "newtask", 101, sc.CLONE_VM), (101, "fault", 0x7f20, "w", True), (101, "end"),
                     (ROOT, "newtask", 102, 0), (102, "fault", 0x7f20, "w", False), (102, "end"), (ROOT, "end")]],
                   ["w 1 7f20 k", "F 1 2", "w 2 7f20", "D 2", "D 1"])

    def test_exec_by_a_thread(self):
        """The leader ends, the thread takes its pid."""
        begin, *rest = execed(ROOT)
        self.check([[(ROOT, "newtask", 101, sc.CLONE_VM | sc.CLONE_THREAD), (101,) + begin[1:], (ROOT, "end")], rest],
                   ["D 1"] + [line.replace(" 1", " 2") for line in HEAD[1:2]]
                   + ["M 2 7f00 21 3 pG - 0", "w 2 7f20 g"])

    def test_exec_cuts_the_image(self):
        """
        [rrrrrrrrrrrr]   first record: the whole image
            [xxx]        the next of the same file
        """
        elf = [mapping(0x400, 12, "/no/such/file", 9, 1), mapping(0x404, 3, "/no/such/file", 9, 5, pgoff=4),
               mapping(0x7e0, 2, "[vdso]", prot=5)]
        self.assertEqual(translate(execed(ROOT, *elf)), HEAD + [
            "O 1 fe:00:9 file", "M 1 400 4 1 p 1 0", "M 1 404 3 5 p 1 4", "M 1 7e0 2 5 k - 0"])

    def test_the_layout_comes_before_the_kernels_faults(self):
        *begin, end = execed(ROOT, mapping(0x400, 1))
        self.assertEqual(translate(begin, [(ROOT, "fault", 0x400, "w", True)], [end]),
                         HEAD + ["M 1 400 1 3 p - 0", "w 1 400 k"])

    def test_the_stack_grows_before_the_fault(self):
        self.check([[(ROOT, "fault", 0x7eff, "w", False), (ROOT, "mmap2", mapping(0x7eff, 0x22, "[stack]"))]],
                   ["G 1 7eff 22", "w 1 7eff"])

    def test_brk(self):
        self.check([call(ROOT, sc.BRK, 0x50000, 0), call(ROOT, sc.BRK, 0x52001, 0x52001),
                    call(ROOT, sc.BRK, 0x51000, 0x51000)], ["M 1 50 3 3 p - 0", "U 1 51 2"])

    def test_mremap_and_mlock_round(self):
        self.check([call(ROOT, sc.MREMAP, 0x90000, 0x10000, 0x1001, 0x3000, 1),
                    call(ROOT, sc.MLOCK, 0, 0x90fff, 2, 0xdead), call(ROOT, sc.MLOCK2, 0, 0x90000, 1, 1)],
                   ["R 1 10 2 90 3 1", "L 1 90 2 mlock", "L 1 90 1 mlock2"])

    def test_mlockall(self):
        self.check([call(ROOT, sc.MMAP, 0x10000, 0, 0x1000, 3, 0x22), call(ROOT, sc.MLOCKALL, 0, 3),
                    call(ROOT, sc.MMAP, 0x20000, 0, 0x1000, 3, 0x22), call(ROOT, sc.MUNLOCKALL, 0),
                    call(ROOT, sc.MMAP, 0x30000, 0, 0x1000, 3, 0x22)],
                   ["M 1 10 1 3 p - 0", "L 1 10 1 mlock", "L 1 7f00 21 mlock", "M 1 20 1 3 pL - 0",
                    "L 1 10 1 munlock", "L 1 20 1 munlock", "L 1 7f00 21 munlock", "M 1 30 1 3 p - 0"])

    def test_marks(self):
        """Events of the stop time's past come before the mark."""
        self.check([[(ROOT, "fault", 0x7f1f, "w", False), (ROOT, "fault", 0x7f1e, "w", False)]],
                   ["w 1 7f1f", "I 100 1", "= a.snap", "w 1 7f1e", "I 100 1", "= b.snap"],
                   marks=[(6, "a", [ROOT]), (9, "b", [ROOT])])

    def test_contradictions(self):
        for events, reason in (
                ([[(555, "fault", 1, "r", False)]], "pid 555: .*nobody created"),
                ([call(ROOT, sc.MMAP, 0x10000, 0, 0x1000, 1, 2, 3, 0)], "MMAP2"),
                ([call(ROOT, sc.BRK, 0x50000, 0x50000)], "before brk"),
                ([call(ROOT, sc.PROCESS_MADVISE, 1)], "process_madvise"),
                ([[(ROOT, "enter", sc.BRK, (0,) * 6), (ROOT, "exit", sc.MMAP, 0)]], "ends within")):
            with self.assertRaisesRegex(TranslateError, reason):
                translate(execed(ROOT), *events)
        with self.assertRaisesRegex(TranslateError, "pid 7 is in the snapshot"):
            translate(execed(ROOT), marks=[(99, "a", [7])])


class Elf(unittest.TestCase):
    """How far the first segment reaches."""

    def test_first_segment(self):
        image = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        image += struct.pack("<IIQQQQQQ", 6, 4, 64, 64, 64, 112, 112, 8)
        image += struct.pack("<IIQQQQQQ", 1, 5, 0x10, 0x1010, 0x1010, 0x2ff0, 0x9000, 0x200000)
        with tempfile.NamedTemporaryFile() as file:
            file.write(image)
            file.flush()
            stat = os.stat(file.name)
            device = os.major(stat.st_dev), os.minor(stat.st_dev)
            self.assertEqual(first_segment_pages(file.name, *device, stat.st_ino), 3)
            self.assertIsNone(first_segment_pages(file.name, *device, stat.st_ino + 1))
        self.assertIsNone(first_segment_pages(file.name, *device, stat.st_ino))


if __name__ == "__main__":
    unittest.main()
