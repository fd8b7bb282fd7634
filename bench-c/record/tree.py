# SPDX-License-Identifier: MIT OR Apache-2.0
"""A process tree: find it, stop it, let it go on."""

import os
import signal
import time

STOPPED, DEAD = "T", "ZX"
SIGSTOP_PENDING = 1 << (signal.SIGSTOP - 1)
ATTEMPTS, ATTEMPT_SECONDS, PAUSE = 20, 1.0, 0.002


class TreeError(Exception):
    """The tree cannot be stopped."""


def read_stat(path):
    """(state, ppid) of a task's stat file, or None if the task is gone. The name in it may hold any character."""
    try:
        with open(path, "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0].decode(), int(fields[1])


def find_tree(parent, excluded):
    """[(pid, ppid, depth, state)] of parent's descendants, parents first, without `excluded` and without zombies.

    The parent is a child subreaper, so a process whose own parent has died is still among its descendants.
    """
    children, states = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = read_stat("/proc/%s/stat" % name)
            if found:
                states[int(name)] = found[0]
                children.setdefault(found[1], []).append(int(name))
    tree, waiting = [], [(pid, parent, 0) for pid in sorted(children.get(parent, ()), reverse=True)]
    while waiting:
        pid, ppid, depth = waiting.pop()
        if pid in excluded:
            continue
        if states[pid] not in DEAD:
            tree.append((pid, ppid, depth, states[pid]))
        waiting += [(child, pid, depth + 1) for child in sorted(children.get(pid, ()), reverse=True)]
    return tree


def threads_stopped(pid):
    """Is every thread of a process stopped? None if the process is gone."""
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
    except FileNotFoundError:
        return None
    states = [read_stat("/proc/%d/task/%s/stat" % (pid, task)) for task in tasks]
    return all(found is None or found[0] == STOPPED or found[0] in DEAD for found in states)


def stops_already(pid):
    """Is a process stopped by now, or about to be? Until it runs again and stops, the signal is pending."""
    try:
        with open("/proc/%d/status" % pid, errors="replace") as status:
            pending = [int(line.split()[1], 16) for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (FileNotFoundError, ProcessLookupError):
        return False
    if any(mask & SIGSTOP_PENDING for mask in pending):
        return True
    # Between a look at its state and this one the signal may have been taken.
    found = read_stat("/proc/%d/stat" % pid)
    return found is not None and found[0] == STOPPED


class StoppedTree:
    """Context manager: the tree is stopped within, and `members` are its [(pid, ppid, depth)].

    Parents are stopped first and continued last, so a parent that waits with WUNTRACED sees no stopped child.
    """

    def __init__(self, parent, excluded):
        self.parent, self.excluded = parent, excluded
        self.members = []
        self.signalled = []

    def __enter__(self):
        for _ in range(ATTEMPTS):
            if self.try_to_stop():
                return self
            # A parent in vfork cannot stop while its child is stopped before exec: let both go on, and try again.
            self.resume()
            time.sleep(PAUSE)
        raise TreeError("the process tree does not stop: %s" % " ".join(
            str(pid) for pid, _, _, _ in find_tree(self.parent, self.excluded) if threads_stopped(pid) is False))

    def __exit__(self, *_):
        self.resume()

    def try_to_stop(self):
        """Stop what runs until a second look finds the same stopped tree."""
        deadline = time.monotonic() + ATTEMPT_SECONDS
        before = None
        while time.monotonic() < deadline:
            found = find_tree(self.parent, self.excluded)
            # Signals first, questions later: short-lived processes are part of the picture.
            for pid, _, _, state in found:
                # What others have stopped is not to be continued here.
                if state != STOPPED and pid not in self.signalled and not stops_already(pid):
                    try:
                        os.kill(pid, signal.SIGSTOP)
                        self.signalled.append(pid)
                    except ProcessLookupError:
                        pass
            members = [(pid, ppid, depth) for pid, ppid, depth, _ in found]
            if members == before and all(threads_stopped(pid) for pid, _, _ in members):
                self.members = members
                return True
            before = members
            time.sleep(PAUSE)
        return False

    def resume(self):
        """Let go on what was stopped here, and only that."""
        for pid in reversed(self.signalled):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.signalled = []
