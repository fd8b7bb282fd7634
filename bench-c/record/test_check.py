# SPDX-License-Identifier: MIT OR Apache-2.0
"""The simulator and the checker: against bundled traces with a known truth, and against wrong traces."""

import gzip
import os
import tempfile
import unittest

from check import check
from simulate import Machine, TraceError

TRACES = os.environ.get("RMAP_TRACES") or os.path.join(os.path.dirname(__file__), "..", "traces")


def replay(*events):
    """A machine after some events."""
    machine = Machine()
    for event in ("H mmt 1 4096", "O 1 fe:00:7 file") + events:
        machine.apply(event.split())
    return machine


def shape(mm):
    """(start, end, prot) of each VMA."""
    return [(vma.start, vma.end, vma.prot) for vma in mm.vmas]


class Semantics(unittest.TestCase):
    """One operation each. The ranges are pages 0x10 and on."""

    def test_fork_shares_until_a_write(self):
        """
        parent 1 [ab..]   child 2 [aB..]   B: the child wrote
        """
        machine = replay("N 1", "M 1 10 4 3 p - 0", "w 1 10", "w 1 11", "F 1 2", "w 2 11", "r 2 12")
        parent, child = machine.mms["1"].pages, machine.mms["2"].pages
        self.assertEqual(parent[0x10], child[0x10])
        self.assertNotEqual(parent[0x11], child[0x11])
        self.assertNotIn(0x12, child)

    def test_the_last_writer_keeps_the_frame(self):
        machine = replay("N 1", "M 1 10 1 3 p - 0", "w 1 10", "F 1 2")
        before = machine.mms["1"].pages[0x10]
        machine.apply("D 2".split())
        machine.apply("w 1 10".split())
        self.assertEqual(machine.mms["1"].pages[0x10], before)

    def test_file_pages_have_frames_once_written(self):
        machine = replay("N 1", "M 1 10 4 3 p 1 0", "M 1 20 4 3 s 1 0", "r 1 10", "w 1 11", "w 1 20")
        self.assertEqual(set(machine.mms["1"].pages), {0x11})

    def test_map_over_a_mapping(self):
        """
        [..............]  10-20
             [....]       14-18 new, its page gone
        """
        machine = replay("N 1", "M 1 10 10 3 p - 0", "w 1 13", "w 1 14", "M 1 14 4 1 p - 0")
        mm = machine.mms["1"]
        self.assertEqual(shape(mm), [(0x10, 0x14, 3), (0x14, 0x18, 1), (0x18, 0x20, 3)])
        self.assertEqual(set(mm.pages), {0x13})

    def test_mprotect_and_a_fault_that_fails(self):
        machine = replay("N 1", "M 1 10 4 3 p - 0", "P 1 11 1 1", "w 1 11", "w 1 99")
        self.assertEqual(shape(machine.mms["1"]), [(0x10, 0x11, 3), (0x11, 0x12, 1), (0x12, 0x14, 3)])
        self.assertEqual((machine.mms["1"].pages, machine.failed_faults), ({}, 2))

    def test_mremap_moves_pages(self):
        machine = replay("N 1", "M 1 10 4 3 p - 0", "w 1 10", "w 1 13", "R 1 10 4 40 6 1")
        self.assertEqual(shape(machine.mms["1"]), [(0x40, 0x46, 3)])
        self.assertEqual(set(machine.mms["1"].pages), {0x40, 0x43})

    def test_mremap_dontunmap(self):
        machine = replay("N 1", "M 1 10 4 3 p - 0", "w 1 10", "R 1 10 4 40 4 5")
        self.assertEqual(shape(machine.mms["1"]), [(0x10, 0x14, 3), (0x40, 0x44, 3)])
        self.assertEqual(set(machine.mms["1"].pages), {0x40})

    def test_advice_at_fork(self):
        """
        [abcd]  b: not for children, c: empty for them
        """
        machine = replay("N 1", "M 1 10 4 3 p - 0", "w 1 10", "w 1 11", "w 1 12", "w 1 13",
                         "A 1 11 1 10", "A 1 12 1 18", "F 1 2")
        child = machine.mms["2"]
        self.assertEqual(shape(child), [(0x10, 0x11, 3), (0x12, 0x13, 3), (0x13, 0x14, 3)])
        self.assertEqual(set(child.pages), {0x10, 0x13})

    def test_populate_and_lock(self):
        machine = replay("N 1", "M 1 10 2 3 pP - 0", "M 1 20 2 1 pP - 0", "M 1 30 4 3 p - 0", "L 1 31 1 mlock",
                         "L 1 33 1 mlock2")
        self.assertEqual(set(machine.mms["1"].pages), {0x10, 0x11, 0x31})

    def test_stack_growth(self):
        machine = replay("N 1", "M 1 100 10 3 pG - 0", "w 1 fe", "G 1 f0 20")
        self.assertEqual(shape(machine.mms["1"]), [(0xf0, 0x110, 3)])

    def test_lines_that_cannot_be_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "bad.mmt.gz")
            for line in ("X 1", "M 1 10", "w 9 10", "w 1 zz", "R 1 90 1 91 1 1"):
                with gzip.open(path, "wt") as out:
                    out.write("H mmt 1 4096\nN 1\n%s\n" % line)
                with self.assertRaisesRegex(TraceError, "bad.mmt.gz:3: "):
                    Machine().replay(path)


@unittest.skipUnless(os.path.isdir(TRACES), "no bundled traces (RMAP_TRACES names their folder)")
class BundledTraces(unittest.TestCase):
    """bash, py and redis come from another recorder on another machine: they validate the simulator."""

    def compare(self, name, expected, extra=0):
        comparisons, _ = check(os.path.join(TRACES, name + ".mmt.gz"))
        self.assertEqual([(c.processes, c.anon) for c in comparisons], expected)
        for comparison in comparisons:
            self.assertEqual(comparison.problems, [])
        self.assertEqual(sum(len(c.extra) for c in comparisons), extra)

    def test_bash(self):
        # The one page too many is a `g` line of that recorder's.
        self.compare("bash", [(10, 1021)], extra=1)

    def test_py(self):
        self.compare("py", [(7, 103292)])

    def test_redis(self):
        self.compare("redis", [(1, 6362), (2, 13132)])

    def test_make(self):
        self.compare("make", [(13, 3901), (20, 12450)])

    def test_web(self):
        self.compare("web", [(13, 29015), (10, 28946)])

    def test_a_wrong_trace_is_found(self):
        """Without one process's events of any one kind the comparison must fail."""
        with tempfile.TemporaryDirectory() as directory:
            os.symlink(os.path.abspath(os.path.join(TRACES, "bash.snap.gz")), os.path.join(directory, "bash.snap.gz"))
            with gzip.open(os.path.join(TRACES, "bash.mmt.gz"), "rt") as trace:
                lines = list(trace)
            del lines[lines.index("= bash.snap\n") + 1:]
            sleep = [line.split()[2] for line in lines if line.startswith("I ")][-1]
            for left_out in "wMPIN":
                path = os.path.join(directory, "bash.mmt.gz")
                with gzip.open(path, "wt", compresslevel=1) as out:
                    out.writelines(line for line in lines if line[0] != left_out or sleep not in line.split())
                try:
                    comparisons, _ = check(path)
                    exact = not comparisons[0].problems
                except TraceError:
                    exact = False
                self.assertFalse(exact, "unnoticed: no %s of mm %s" % (left_out, sleep))


if __name__ == "__main__":
    unittest.main()
