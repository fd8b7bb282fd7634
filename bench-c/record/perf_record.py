# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs `perf record` on a process that is about to exec the command.

perf attaches to the waiting process and its children inherit the events. It does not start the command itself: perf
takes a stopped direct child for a finished one, and a mark stops the whole tree.
"""

import os
import signal
import subprocess

from syscalls import RECORDED

TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# Faults on kernel addresses are the kernel's own.
USER_ADDRESS = "address < 0x800000000000"
EVENTS = (
    ("exceptions:page_fault_user", USER_ADDRESS),
    ("exceptions:page_fault_kernel", USER_ADDRESS),
    # Two events with a filter, not a pair for each system call: every event is inherited at every fork.
    ("raw_syscalls:sys_enter", " || ".join("id == %d" % nr for nr in RECORDED)),
    ("raw_syscalls:sys_exit", " || ".join("id == %d" % nr for nr in RECORDED)),
    ("task:task_newtask", None),
    # An address space that is not the current one gains anonymous pages: exec's argument pages, which never fault.
    ("kmem:rss_stat", "curr == 0 && member == 1"),
)


class PerfError(Exception):
    """perf cannot record, or has not recorded everything."""


class PerfRecord:
    """A running `perf record`, its events enabled once the constructor returns."""

    def __init__(self, pid, directory, buffer_mib):
        self.data = os.path.join(directory, "perf.data")
        self.log = os.path.join(directory, "perf.log")
        control, ack = (os.path.join(directory, name) for name in ("perf.control", "perf.ack"))
        os.mkfifo(control)
        os.mkfifo(ack)
        # Both ends open here: perf's opens never block, and its death is seen by its log, not by a hang.
        control_fd, ack_fd = os.open(control, os.O_RDWR), os.open(ack, os.O_RDWR | os.O_NONBLOCK)
        command = ["perf", "record", "-q", "-o", self.data, "-p", str(pid), "-k", "CLOCK_MONOTONIC", "-d", "-c", "1",
                   "--sample-cpu", "-B", "-N", "--no-bpf-event", "-m", "%dM" % buffer_mib,
                   "-D", "-1", "--control", "fifo:%s,%s" % (control, ack)]
        for event, condition in EVENTS:
            command += ["-e", event]
            if condition:
                command += ["--filter", condition]
        try:
            with open(self.log, "wb") as log:
                # A session of its own: the terminal's interrupt is for the command.
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                start_new_session=True)
        except FileNotFoundError:
            raise PerfError("perf is not installed (Linux tools package)") from None
        try:
            os.write(control_fd, b"enable\n")
            self._wait_for_ack(ack_fd)
        finally:
            os.close(control_fd)
            os.close(ack_fd)

    def _wait_for_ack(self, ack_fd):
        reply = b""
        while b"ack" not in reply:
            try:
                reply += os.read(ack_fd, 64)
            except BlockingIOError:
                try:
                    status = self.process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue
                raise PerfError("perf record failed with status %d: %s" % (status, self._said())) from None

    def _said(self):
        with open(self.log, errors="replace") as log:
            return " ".join(log.read().split()) or "(no message)"

    def finish(self):
        """Stop recording; the path of perf's data."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait()
        if status not in (0, -signal.SIGINT, 128 + signal.SIGINT):
            raise PerfError("perf record ended with status %d: %s" % (status, self._said()))
        return self.data

    def abandon(self):
        """End perf without caring for its data."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def field_offsets(event):
    """{field: (offset, size)} of a tracepoint's raw data, and its id, from tracefs (which perf has mounted)."""
    group, name = event.split(":")
    for tracing in TRACING:
        directory = os.path.join(tracing, "events", group, name)
        if os.path.exists(directory):
            break
    else:
        raise PerfError("no tracepoint %s in tracefs" % event)
    fields = {}
    with open(os.path.join(directory, "format")) as lines:
        for line in lines:
            parts = dict(part.strip().split(":", 1) for part in line.split(";") if ":" in part)
            if "field" in parts:
                declared = parts["field"].split()[-1].split("[")[0]
                fields[declared] = (int(parts["offset"]), int(parts["size"]))
    with open(os.path.join(directory, "id")) as number:
        return int(number.read()), fields
