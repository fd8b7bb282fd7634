# SPDX-License-Identifier: MIT OR Apache-2.0
"""Records real programs on this machine and holds each trace to its snapshots. Needs root and perf."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from check import check
from perf_data import PerfData
from perf_record import PerfError
from record import FAILED

HERE = os.path.dirname(os.path.abspath(__file__))
RECORD = os.path.join(HERE, "record.py")
ABLE = os.geteuid() == 0 and shutil.which("perf")


class Recording(unittest.TestCase):
    """A folder for the output, and the recorder run in it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_record(self, *arguments, **options):
        command = [sys.executable, "-B", RECORD, "-o", self.path("t.mmt.gz")] + list(arguments)
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                              **options)

    def record(self, *arguments):
        """The recording's comparisons, each of which must be exact."""
        done = self.run_record(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout)
        comparisons, _ = check(self.path("t.mmt.gz"))
        for comparison in comparisons:
            self.assertTrue(comparison.exact(), "\n".join([str(comparison)] + comparison.problems[:10]))
        return comparisons

    def workload(self, *command):
        """Labels and processes of a workload's marks."""
        return [(c.label, c.processes) for c in self.record("--", *command)]


@unittest.skipUnless(ABLE, "needs root and perf")
class Workloads(Recording):
    """The programs in workloads/, which place their marks themselves."""

    def script(self, name):
        return os.path.join(HERE, "workloads", name)

    def test_pipeline(self):
        self.assertEqual(self.workload("bash", self.script("pipeline.sh")),
                         [("nested.snap", 7), ("background.snap", 3)])

    def test_fork_pool(self):
        self.assertEqual(self.workload(sys.executable, "-B", self.script("fork_pool.py")),
                         [("family.snap", 9), ("after-vfork.snap", 10), ("alone.snap", 1)])

    def test_mappings(self):
        with open(self.path("file"), "wb") as file:
            file.write(bytes(range(256)) * 512)
        self.assertEqual(self.workload(sys.executable, "-B", self.script("mappings.py"), self.path("file")),
                         [("maps.snap", 2), ("moves.snap", 2), ("heap.snap", 2), ("advice.snap", 2),
                          ("locked.snap", 1), ("shm.snap", 2), ("execed.snap", 2)])

    @unittest.skipUnless(shutil.which("gcc") and shutil.which("make"), "needs gcc and make")
    def test_build(self):
        """At the least: the shell, make, and the recipe that asks for the mark, in a subshell."""
        comparisons = self.record("--", "sh", self.script("build.sh"), "6")
        self.assertEqual([c.label for c in comparisons], ["make-compile.snap", "make-link.snap"])
        self.assertGreaterEqual(min(c.processes for c in comparisons), 4)

    def test_web_server(self):
        """The master, the client, the workers (one may have ended just now), and the program that asks for a mark."""
        comparisons = self.record("--", sys.executable, "-B", self.script("web_server.py"), "--workers", "4",
                                  "--requests", "20", "--articles", "500")
        self.assertEqual([c.label for c in comparisons], ["web-program.snap", "web-late.snap"])
        for comparison, least in zip(comparisons, (6, 5)):
            self.assertGreaterEqual(comparison.processes, least)


@unittest.skipUnless(ABLE, "needs root and perf")
class Marks(Recording):
    """Marks by the clock and on demand."""

    def test_busy_shell(self):
        """The tree is stopped in the middle of forks, execs and exits."""
        loop = "i=0; while [ $i -lt 120 ]; do ( true | cat | sed s/a/b/ ); x=$(echo $i | tr 1 2); i=$((i + 1)); done"
        marks = [option for n in range(1, 11) for option in ("--mark", "%.2f" % (0.04 * n))]
        self.assertGreater(len(self.record(*marks, "--", "sh", "-c", loop)), 2)

    def test_vfork_storm(self):
        """A parent in vfork does not stop: the mark must come all the same."""
        loop = "import subprocess\nfor i in range(80): subprocess.run(['true'])"
        self.record("--mark", "0.1", "--mark", "0.2", "--mark", "0.3", "--", sys.executable, "-c", loop)

    def test_label(self):
        comparisons = self.record("--mark", "0.2=here", "--", "sleep", "0.6")
        self.assertEqual([c.label for c in comparisons], ["here.snap"])

    def test_the_command_may_change_its_folder(self):
        command = ["-o", "t.mmt.gz", "--", "sh", "-c", "cd /; echo m > $RMAP_MARK; read -r x < $RMAP_ACK; echo $x"]
        done = subprocess.run([sys.executable, "-B", RECORD] + command, cwd=self.folder, stdout=subprocess.PIPE,
                              universal_newlines=True)
        self.assertEqual((done.returncode, done.stdout), (0, "ok m\n"))
        self.assertTrue(check(self.path("t.mmt.gz"))[0][0].exact())

    def test_orphans_belong_to_the_tree(self):
        script = "(setsid sleep 2 &); sleep 0.2; echo m > $RMAP_MARK; read -r x < $RMAP_ACK"
        self.assertEqual(self.workload("sh", "-c", script), [("m.snap", 2)])

    def test_what_was_stopped_stays_stopped(self):
        script = ("sleep 9 & kill -STOP $!; echo m > $RMAP_MARK; read -r x < $RMAP_ACK; "
                  "read -r pid name state rest < /proc/$!/stat; kill -KILL $!; [ $state = T ]")
        self.workload("sh", "-c", script)

    def test_refused(self):
        script = "for l in a a ../b; do echo $l > $RMAP_MARK; read -r x < $RMAP_ACK; echo \"said $x\"; done"
        done = self.run_record("--", "sh", "-c", script)
        self.assertEqual(done.returncode, FAILED)
        self.assertEqual([line[5:8] for line in done.stdout.splitlines() if line.startswith("said")],
                         ["ok ", "err", "err"])


@unittest.skipUnless(ABLE, "needs root and perf")
class Failures(Recording):
    """What is not recorded is said."""

    def test_exit_status_is_the_commands(self):
        self.assertEqual(self.run_record("--", "sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.run_record("--", "sh", "-c", "kill -9 $$").returncode, 137)

    def test_no_such_command(self):
        done = self.run_record("--", "/no/such/command")
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("cannot run the command", done.stdout)
        self.assertEqual(os.listdir(self.folder), [])

    def test_without_perf(self):
        done = self.run_record("--", "true", env={"PATH": self.folder})
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("perf is not installed", done.stdout)

    def test_without_root(self):
        code = "import os, sys; sys.path.insert(0, %r); import record; os.setuid(65534); sys.exit(record.main(%r))" % (
            HERE, ["-o", self.path("t.mmt.gz"), "--", "true"])
        done = subprocess.run([sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True)
        self.assertEqual(done.returncode, FAILED, done.stdout)
        self.assertIn("root is needed", done.stdout)

    def test_bad_data(self):
        """Lost events, a cut file, a broken record."""
        self.run_record("--keep", self.path("perf.data"), "--", "true")
        with open(self.path("perf.data"), "rb") as file:
            data = bytearray(file.read())
        start, size = struct.unpack_from("<QQ", data, 40)
        lost = struct.pack("<IHHQQ", 2, 0, 24, 1, 5)
        with_lost = data[:start + size] + lost
        struct.pack_into("<Q", with_lost, 48, size + len(lost))
        broken = bytearray(data)
        struct.pack_into("<H", broken, start + 6, 3)
        for wrong, reason in ((with_lost, "lost events"), (data[:start + size // 2], "cut short"),
                              (broken, "bad record size"), (b"junk" * 99, "not a perf.data")):
            with open(self.path("wrong.data"), "wb") as file:
                file.write(wrong)
            with self.assertRaisesRegex(PerfError, "perf.data: at 0x.*" + reason):
                PerfData(self.path("wrong.data")).events()

    def test_nothing_of_the_recorder_is_left(self):
        self.run_record("--mark", "0.1", "--", "sleep", "0.3")
        self.assertEqual(sorted(os.listdir(self.folder)), ["t-1.snap.gz", "t.mmt.gz"])
        with gzip.open(self.path("t.mmt.gz"), "rt") as trace:
            self.assertEqual(trace.readline(), "H mmt 1 4096\n")


if __name__ == "__main__":
    unittest.main()
