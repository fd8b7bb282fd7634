# SPDX-License-Identifier: MIT OR Apache-2.0
"""Turns the kernel's events into an mmt trace.

A line's place in the trace is when the kernel changed the address space, as nearly as the events tell, because another
thread may map a range the moment it is free:

  mmap, shmat       at the MMAP2 record, which is made under mmap_lock
  munmap, madvise   when the call begins (a slot is kept for the line until its result is known)
  all others        when the call returns
  stack growth      before the fault that grew it
"""

import syscalls as sc
from address_space import AddressSpace
from calls import CallError, Calls
from elf import first_segment_pages
from mmt_trace import Trace, object_key

STACK, HEAP, ANONYMOUS_NAME = "[stack]", "[heap]", "//anon"
EXECS = (sc.EXECVE, sc.EXECVEAT)


class TranslateError(Exception):
    """The events contradict what a memory manager does: the trace would be wrong."""


def is_special(mapping):
    """vdso, vvar: the kernel's own pages."""
    return mapping.name.startswith("[") and not mapping.ino and mapping.name not in (STACK, HEAP)


class Task:
    """A thread: its process, its mm, and the system call or exec that it is in."""

    def __init__(self, process, mm):
        self.process = process
        self.mm = mm
        self.last_fault = None
        self.execed = None
        self.leave()

    def leave(self):
        """Out of the system call."""
        self.nr = self.args = self.slot = self.mapping = None
        self.arg_mm, self.arg_pages = None, 0


class Exec:
    """What happens to the new mm until exec returns.

    Its mappings come before its faults: the first record of an ELF image can be cut only when all are known.
    """

    def __init__(self):
        self.mappings, self.faults, self.stack = [], [], None

    def cut(self):
        """(mapping, pages) of the layout: the first record of an ELF object spans the whole image."""
        seen = set()
        for i, mapping in enumerate(self.mappings):
            n, key = mapping.len, object_key(mapping)
            if mapping.ino and key not in seen:
                seen.add(key)
                n = min(n, first_segment_pages(mapping.name, mapping.major, mapping.minor, mapping.ino) or n)
                # Should the file be gone: the next segment, at least, lies beyond the first.
                n = min([n] + [later.addr - mapping.addr for later in self.mappings[i + 1:]
                               if object_key(later) == key and later.addr > mapping.addr])
            yield mapping, n


class Translator:
    """A state machine for each task, and the trace that they write."""

    def __init__(self, root):
        self.trace = Trace()
        self.calls = Calls(self.trace)
        self.tasks = {root: Task(root, None)}
        self.last_mm = 0

    def run(self, events, marks):
        """Translate events in time order; `marks` are (time, label, pids in the snapshot)."""
        marks = sorted(marks)
        handlers = {name: getattr(self, "on_" + name)
                    for name in ("fault", "enter", "exit", "newtask", "rss", "exec", "mmap2", "end")}
        for event in events:
            while marks and marks[0][0] < event[0]:
                self.mark(*marks.pop(0))
            time, kind, tid = event[:3]
            try:
                if tid not in self.tasks:
                    self.take_leaders_pid(tid)
                handlers[kind](time, tid, *event[3:])
            except (TranslateError, CallError) as error:
                raise TranslateError("%.9f: pid %d: %s" % (time / 1e9, tid, error)) from None
        for mark in marks:
            self.mark(*mark)
        return self.trace.text()

    def mark(self, time, label, pids):
        """A checkpoint: every process of its snapshot must be known."""
        alive = {tid: task.mm.number for tid, task in self.tasks.items() if task.mm}
        for pid in pids:
            if pid not in alive:
                raise TranslateError("mark %s: pid %d is in the snapshot but has no events" % (label, pid))
        for tid in sorted(alive):
            self.trace.emit("I %d %d", tid, alive[tid])
        self.trace.emit("= %s.snap", label)

    def new_mm(self):
        """The next dense id."""
        self.last_mm += 1
        return self.last_mm

    def put_mm(self, mm):
        """A user less; the last one destroys it."""
        if mm:
            mm.users -= 1
            if not mm.users:
                self.trace.emit("D %d", mm.number)

    # Tasks.

    def on_newtask(self, _time, tid, child, clone_flags):
        """fork copies the mm, CLONE_VM (threads, vfork) shares it."""
        parent, mm = self.tasks[tid], self.tasks[tid].mm
        if mm is None:
            raise TranslateError("fork before the command")
        if clone_flags & sc.CLONE_VM:
            mm.users += 1
        else:
            number = self.new_mm()
            self.trace.emit("F %d %d", mm.number, number)
            mm = mm.fork(number)
        self.tasks[child] = Task(parent.process if clone_flags & sc.CLONE_THREAD else child, mm)

    def on_end(self, _time, tid):
        """The task is gone."""
        task = self.tasks.pop(tid)
        self.finish_exec(task)
        self.put_mm(task.mm)

    def on_rss(self, _time, tid, mm_id):
        """Within exec, a page for the arguments in the mm to come; elsewhere of no interest."""
        task = self.tasks[tid]
        if task.nr in EXECS and not task.execed and task.arg_mm in (None, mm_id):
            task.arg_mm = mm_id
            task.arg_pages += 1

    def take_leaders_pid(self, tid):
        """A thread that execs takes the pid of its leader, which has ended."""
        threads = [other for other, task in self.tasks.items() if task.process == tid and task.nr in EXECS]
        if len(threads) != 1:
            raise TranslateError("an event of a task that nobody created")
        self.tasks[tid] = self.tasks.pop(threads[0])

    def on_exec(self, time, tid, comm):
        """The point of no return: a new mm."""
        task = self.tasks[tid]
        if task.nr not in EXECS:
            raise TranslateError("exec without the system call")
        self.put_mm(task.mm)
        task.mm = AddressSpace(self.new_mm())
        task.execed = Exec()
        self.trace.emit("N %d", task.mm.number)
        self.trace.emit("# %.6f pid %d exec %s mm %d", time / 1e9, tid, comm, task.mm.number)

    def finish_exec(self, task):
        """exec returns (or its task dies in it): the layout, the argument pages, the kernel's own faults."""
        execed, mm = task.execed, task.mm
        if not execed:
            return
        task.execed = None
        if execed.stack:
            if not task.arg_pages:
                raise TranslateError("exec touched no argument page: kmem:rss_stat does not tell on this kernel")
            self.map_recorded(mm, execed.stack, execed.stack.len, "pG")
            top = execed.stack.addr + execed.stack.len
            for vpn in range(top - 1, top - 1 - task.arg_pages, -1):
                self.trace.emit("w %d %x g", mm.number, vpn)
        for mapping, n in execed.cut():
            self.map_recorded(mm, mapping, n, "k" if is_special(mapping) else "p")
        self.trace.lines.extend(execed.faults)

    def map_recorded(self, mm, mapping, n, flags):
        """A mapping that no system call's arguments describe, from its record."""
        self.trace.map_line(None, mm, mapping.addr, n, mapping.prot & 7, flags, mapping, mapping.pgoff)

    # Faults and mappings outside system calls.

    def on_fault(self, _time, tid, vpn, access, kernel):
        """A page fault."""
        task = self.tasks[tid]
        if task.mm is None:
            return
        line = "%s %d %x%s" % (access, task.mm.number, vpn, " k" if kernel else "")
        if task.execed:
            task.execed.faults.append(line)
        else:
            task.last_fault = (len(self.trace.lines), vpn)
            self.trace.lines.append(line)

    def on_mmap2(self, _time, tid, mapping):
        """A mapping made or changed."""
        task = self.tasks[tid]
        if task.mm is None:
            return
        if task.execed:
            if mapping.name == STACK:
                task.execed.stack = mapping
            else:
                task.execed.mappings.append(mapping)
        elif task.nr in (sc.MMAP, sc.SHMAT, sc.REMAP_FILE_PAGES):
            task.mapping = mapping
            if mapping.ino:
                self.trace.object(mapping)
            self.trace.keep_slot(task)
        elif task.nr is None:
            if mapping.name in (STACK, ANONYMOUS_NAME):
                self.grow_stack(task, mapping)
            else:
                shared = mapping.flags & sc.MAP_SHARED
                flags = "k" if is_special(mapping) else "s" if shared else "p"
                self.map_recorded(task.mm, mapping, mapping.len, flags)

    def grow_stack(self, task, mapping):
        """The fault comes before the record of the growth that it causes, the line after."""
        end = mapping.addr + mapping.len
        line = "G %d %x %x" % (task.mm.number, mapping.addr, mapping.len)
        if task.last_fault and mapping.addr <= task.last_fault[1] < end:
            at = task.last_fault[0]
            self.trace.lines[at] = line + "\n" + self.trace.lines[at]
            task.last_fault = None
        else:
            self.trace.lines.append(line)
        task.mm.add(mapping.addr, end)

    # System calls.

    def on_enter(self, _time, tid, nr, args):
        """Calls that take mappings away keep their place now."""
        task = self.tasks[tid]
        task.nr, task.args = nr, args
        if task.mm and nr in (sc.MUNMAP, sc.MADVISE, sc.BRK, sc.SHMDT):
            self.trace.keep_slot(task)

    def on_exit(self, _time, tid, nr, ret):
        """The result is known: write the line."""
        task = self.tasks[tid]
        if task.nr is None and task.mm is None:
            return
        if task.execed:
            self.finish_exec(task)
        elif task.nr != nr:
            raise TranslateError("system call %d ends within %s" % (nr, task.nr))
        elif task.mm and nr not in EXECS:
            self.calls.returned(task, nr, ret)
        task.leave()
