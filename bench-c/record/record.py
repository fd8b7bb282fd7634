#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Records a command's process tree into an mmt trace, with snapshots of the kernel's own state at marks.

The command finds two FIFOs in its environment: a mark where it asks for one is
    echo LABEL > "$RMAP_MARK"; read -r reply < "$RMAP_ACK"
"""

import argparse
import ctypes
import gzip
import os
import platform
import re
import selectors
import shutil
import signal
import sys
import tempfile
import time

from perf_data import PerfData
from perf_record import PerfError, PerfRecord
from snapshot import SnapshotError, write_snapshot
from translate import TranslateError, Translator
from tree import StoppedTree, TreeError

PR_SET_CHILD_SUBREAPER, PR_SET_THP_DISABLE = 36, 41
# As env(1) and timeout(1): failure of the recorder, not of the command.
FAILED, CANNOT_EXEC = 125, 127
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


class RecordError(Exception):
    """Nothing can be recorded, or not all of it."""


def prctl(option, value):
    """prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise RecordError("prctl(%d): %s" % (option, os.strerror(ctypes.get_errno())))


class Command:
    """The recorded command: forked at once, it waits for start() before it execs."""

    def __init__(self, argv, environment):
        start_read, self._start = os.pipe()
        self._failure, failure_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._start)
            self._exec(argv, environment, start_read, failure_write)
        os.close(start_read)
        os.close(failure_write)
        self.pidfd = os.pidfd_open(self.pid)
        self.status = None

    @staticmethod
    def _exec(argv, environment, start, failure):
        try:
            if os.read(start, 1):
                # Python ignores these; the command must not.
                for name in ("SIGPIPE", "SIGXFSZ"):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
                # Huge pages and large folios would make one fault map many pages.
                prctl(PR_SET_THP_DISABLE, 1)
                os.execvpe(argv[0], argv, environment)
        except (OSError, RecordError) as error:
            os.write(failure, str(error).encode())
        finally:
            os._exit(CANNOT_EXEC)

    def start(self):
        """Let it exec; the pipe closes by that."""
        os.write(self._start, b"x")
        os.close(self._start)
        reason = os.read(self._failure, 4096).decode()
        if reason:
            raise RecordError("cannot run the command: " + reason)

    def terminate(self):
        """End it, should it still run."""
        if self.status is None:
            os.kill(self.pid, signal.SIGTERM)

    def reap(self):
        """Its exit status, as a shell's $?."""
        _, status = os.waitpid(self.pid, 0)
        self.status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Recorder:
    """One recording, from the fork to the trace."""

    def __init__(self, options, directory):
        self.options = options
        self.directory = directory
        self.marks = []
        self.failed_marks = 0
        self.out_directory = os.path.dirname(options.output) or "."
        self.mark_fifo, self.ack_fifo = (os.path.join(directory, name) for name in ("mark", "ack"))
        for fifo in (self.mark_fifo, self.ack_fifo):
            os.mkfifo(fifo)
        # Open for both: the end of one writer or reader is then never the end of the FIFO, and no open blocks.
        self.requests = os.open(self.mark_fifo, os.O_RDWR | os.O_NONBLOCK)
        self.acks = os.open(self.ack_fifo, os.O_RDWR | os.O_NONBLOCK)

    def run(self):
        """Record the command; its exit status."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        environment = dict(os.environ, RMAP_MARK=self.mark_fifo, RMAP_ACK=self.ack_fifo)
        self.command = Command(self.options.command, environment)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.perf = PerfRecord(self.command.pid, self.directory, self.options.buffer)
        try:
            self.command.start()
            self.watch()
            data = self.perf.finish()
        except BaseException:
            self.perf.abandon()
            self.command.terminate()
            raise
        self.write_trace(data)
        return FAILED if self.failed_marks else self.command.status

    def watch(self):
        """Take the marks, by the clock and on demand, until the command ends."""
        began = time.monotonic()
        timed = sorted(self.options.mark)
        pending = b""
        with selectors.DefaultSelector() as selector:
            for file in (self.requests, self.command.pidfd, os.pidfd_open(self.perf.process.pid)):
                selector.register(file, selectors.EVENT_READ)
            while self.command.status is None:
                timeout = max(0, began + timed[0][0] - time.monotonic()) if timed else None
                ready = {key.fd for key, _ in selector.select(timeout)}
                if timed and time.monotonic() >= began + timed[0][0]:
                    self.try_mark(timed.pop(0)[1])
                if self.requests in ready:
                    *labels, pending = (pending + os.read(self.requests, 4096)).split(b"\n")
                    for label in labels:
                        self.answer(label.decode(errors="replace").strip())
                if self.command.pidfd in ready:
                    self.command.reap()
                elif self.perf.process.poll() == 0:
                    # The last task's events end before its memory is freed: perf can be the first to be gone.
                    self.command.reap()
                elif self.perf.process.poll() is not None:
                    raise RecordError("perf ended before the command, with status %d" % self.perf.process.poll())
        for seconds, label in timed:
            print("record: no mark %s: the command ended before %g s" % (label, seconds), file=sys.stderr)

    def answer(self, label):
        """A mark that the command asked for: it waits for a line in the other FIFO."""
        try:
            # Whoever did not wait has left an answer, which is not this one's.
            os.read(self.acks, 4096)
        except BlockingIOError:
            pass
        os.write(self.acks, self.try_mark(label).encode())

    def try_mark(self, label):
        """A mark that fails is said and spoils the exit status, but the recording goes on."""
        try:
            self.mark(label)
            return "ok %s\n" % label
        except (RecordError, TreeError, SnapshotError, OSError) as error:
            self.failed_marks += 1
            print("record: mark %s: %s" % (label, error), file=sys.stderr)
            return "error %s\n" % error

    def mark(self, label):
        """Stop the tree, write its snapshot, let it go on."""
        if not LABEL.match(label):
            raise RecordError("a label has letters, digits, '_', '.', '-' only")
        if label in [known for _, known, _ in self.marks]:
            raise RecordError("the label is taken already")
        with StoppedTree(os.getpid(), {self.perf.process.pid}) as tree:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            # Else the command has just ended: nothing to see.
            if tree.members:
                # Complete or not there: a process can still be killed under the snapshot.
                partial = os.path.join(self.directory, "snap.gz")
                write_snapshot(partial, now, tree.members)
                os.replace(partial, os.path.join(self.out_directory, label + ".snap.gz"))
                self.marks.append((now, label, [pid for pid, _, _ in tree.members]))

    def write_trace(self, data):
        """perf's data, translated. A failed recording leaves no trace behind."""
        lines = Translator(self.command.pid).run(PerfData(data).events(), self.marks)
        with gzip.open(self.options.output, "wt", compresslevel=6) as out:
            for line in lines:
                out.write(line + "\n")


def parse_mark(text):
    """SECONDS or SECONDS=LABEL."""
    seconds, _, label = text.partition("=")
    if label and not LABEL.match(label):
        raise argparse.ArgumentTypeError("bad label %r" % label)
    try:
        return float(seconds), label
    except ValueError:
        raise argparse.ArgumentTypeError("%r is not SECONDS or SECONDS=LABEL" % text) from None


def parse_options(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(prog="record.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="OUT.mmt.gz", required=True)
    parser.add_argument("--mark", metavar="SECONDS[=LABEL]", action="append", default=[], type=parse_mark,
                        help="take a snapshot that long after the start; repeatable")
    parser.add_argument("--buffer", metavar="MIB", type=int, default=32,
                        help="perf's buffer for each CPU, a power of two (default %(default)s)")
    parser.add_argument("--keep", metavar="PERF.DATA", help="keep perf's own data")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND ARGS")
    options = parser.parse_args(arguments)
    if not options.output.endswith(".mmt.gz"):
        parser.error("the output's name must end in .mmt.gz")
    stem = os.path.basename(options.output)[:-len(".mmt.gz")]
    options.mark = [(seconds, label or "%s-%d" % (stem, number))
                    for number, (seconds, label) in enumerate(sorted(options.mark), 1)]
    return options


def check_host():
    """Say at once what this host lacks."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise RecordError("only Linux on x86-64 is known")
    if os.geteuid():
        raise RecordError("root is needed (tracepoints, page frame numbers)")
    if not shutil.which("perf"):
        raise RecordError("perf is not installed (Linux tools package)")


def main(arguments):
    """The command."""
    options = parse_options(arguments)
    directory = None

    def terminated(*_):
        raise RecordError("terminated")

    signal.signal(signal.SIGTERM, terminated)
    try:
        check_host()
        # Beside the output: perf's data may be larger than /tmp.
        # Absolute: the command finds its FIFOs there, wherever it goes.
        directory = tempfile.mkdtemp(prefix=".record-", dir=os.path.abspath(os.path.dirname(options.output)))
        recorder = Recorder(options, directory)
        status = recorder.run()
        print("record: %s: marks: %s" % (options.output, " ".join(mark[1] for mark in recorder.marks) or "none"),
              file=sys.stderr)
        return status
    except (RecordError, PerfError, TreeError, SnapshotError, TranslateError, OSError) as error:
        print("record: %s" % error, file=sys.stderr)
        return FAILED
    finally:
        if directory:
            if options.keep and os.path.exists(os.path.join(directory, "perf.data")):
                shutil.move(os.path.join(directory, "perf.data"), options.keep)
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
