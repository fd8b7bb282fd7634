# SPDX-License-Identifier: MIT OR Apache-2.0
"""The trace's lines for system calls, once their result is known."""

import syscalls as sc

PAGE_SHIFT, PAGE_MASK = 12, 0xfff
MREMAP_DONTUNMAP = 4


class CallError(Exception):
    """A system call that the trace cannot show."""


def page(address):
    """The page that holds an address."""
    return address >> PAGE_SHIFT


def pages(length):
    """How many pages a length takes."""
    return (length + PAGE_MASK) >> PAGE_SHIFT


class Calls:
    """One method a call: (task, mm, return value, the call's arguments)."""

    def __init__(self, trace):
        self.trace = trace
        self.handlers = {
            sc.MMAP: self.mmap, sc.MPROTECT: self.mprotect, sc.PKEY_MPROTECT: self.mprotect, sc.MUNMAP: self.munmap,
            sc.BRK: self.brk, sc.MREMAP: self.mremap, sc.MADVISE: self.madvise, sc.SHMAT: self.shmat,
            sc.SHMDT: self.shmdt, sc.MLOCK: self.mlock, sc.MLOCK2: self.mlock, sc.MUNLOCK: self.munlock,
            sc.MLOCKALL: self.mlockall, sc.MUNLOCKALL: self.munlockall, sc.REMAP_FILE_PAGES: self.remap_file_pages,
            sc.PROCESS_MADVISE: self.process_madvise,
        }

    def returned(self, task, nr, ret):
        """A call of a task is over."""
        self.handlers[nr](task, task.mm, ret, *task.args)

    def mmap(self, task, mm, ret, _addr, length, prot, flags, _fd, offset):
        """mmap."""
        if ret < 0:
            return
        if task.mapping is None and not flags & sc.MAP_ANONYMOUS:
            raise CallError("mmap of a file left no MMAP2 record")
        text = "s" if flags & sc.MAP_SHARED else "p"
        text += "G" if flags & sc.MAP_GROWSDOWN else ""
        text += "P" if flags & sc.MAP_POPULATE and not flags & sc.MAP_NONBLOCK else ""
        text += "L" if flags & sc.MAP_LOCKED or mm.lock_future == "mlock" else ""
        vpn, n = page(ret), pages(length)
        pgoff = 0 if flags & sc.MAP_ANONYMOUS else page(offset)
        self.trace.map_line(task, mm, vpn, n, prot & 7, text, task.mapping, pgoff)
        if mm.lock_future == "mlock2":
            self.trace.emit("L %d %x %x mlock2", mm.number, vpn, n)

    def munmap(self, task, mm, ret, addr, length, *_):
        """munmap."""
        if ret == 0:
            self.trace.unmap(task, mm, page(addr), pages(length))

    def mprotect(self, _task, mm, ret, addr, length, prot, *_):
        """mprotect, pkey_mprotect."""
        vpn, n = page(addr), pages(length)
        if prot & sc.PROT_GROWSDOWN:
            start = mm.start_of(vpn)
            vpn, n = start, n + vpn - start
        if ret == 0 and n:
            self.trace.emit("P %d %x %x %d", mm.number, vpn, n, prot & 7)

    def brk(self, task, mm, ret, *_):
        """brk returns the break, changed or not; the first call tells where it begins."""
        new, old = pages(ret), mm.brk
        mm.brk = new
        if old is None and task.args[0]:
            raise CallError("brk(%#x) before brk(0) told where the heap begins" % task.args[0])
        if old is None or new == old:
            return
        if new > old:
            flags = "pL" if mm.lock_future == "mlock" else "p"
            self.trace.map_line(task, mm, old, new - old, 3, flags, None, 0)
        else:
            self.trace.unmap(task, mm, new, old - new)

    def mremap(self, _task, mm, ret, old, old_length, new_length, flags, *_):
        """mremap."""
        if ret < 0:
            return
        vpn, oldn, newn, new = page(old), pages(old_length), pages(new_length), page(ret)
        self.trace.emit("R %d %x %x %x %x %d", mm.number, vpn, oldn, new, newn, flags)
        if not flags & MREMAP_DONTUNMAP:
            mm.remove(vpn, vpn + oldn)
        mm.add(new, new + newn)

    def madvise(self, task, mm, ret, addr, length, advice, *_):
        """madvise goes on past holes and then says ENOMEM."""
        if ret in (0, -sc.ENOMEM) and length:
            self.trace.place(task, "A %d %x %x %d" % (mm.number, page(addr), pages(length), advice & 0xffffffff))

    def process_madvise(self, _task, _mm, ret, *_):
        """Its ranges are in memory that no event shows."""
        if ret > 0:
            raise CallError("process_madvise cannot be recorded")

    def shmat(self, task, mm, ret, *_):
        """shmat: the record has its size and protection."""
        if ret < 0:
            return
        if task.mapping is None:
            raise CallError("shmat left no MMAP2 record")
        mapping = task.mapping
        self.trace.map_line(task, mm, mapping.addr, mapping.len, mapping.prot & 7, "s", mapping, mapping.pgoff)
        mm.shm[mapping.addr] = mapping.len

    def shmdt(self, task, mm, ret, addr, *_):
        """shmdt."""
        if ret == 0:
            self.trace.unmap(task, mm, page(addr), mm.shm.pop(page(addr), 0))

    def remap_file_pages(self, task, mm, ret, addr, size, *_):
        """remap_file_pages is an mmap of the same object; the record may span neighbours that it merged with."""
        if ret == 0 and task.mapping:
            mapping = task.mapping
            self.trace.map_line(task, mm, page(addr), pages(size), mapping.prot & 7, "s", mapping,
                          mapping.pgoff + page(addr) - mapping.addr)

    def mlock(self, task, mm, ret, addr, length, flags, *_):
        """mlock; mlock2 with MLOCK_ONFAULT populates nothing. mlock's third argument is stale."""
        if ret == 0 and length:
            on_fault = task.nr == sc.MLOCK2 and flags & sc.MLOCK_ONFAULT
            self.trace.emit("L %d %x %x %s", mm.number, page(addr), pages(addr + length) - page(addr),
                      "mlock2" if on_fault else "mlock")

    def munlock(self, _task, mm, ret, addr, length, *_):
        """munlock."""
        if ret == 0 and length:
            self.trace.emit("L %d %x %x munlock", mm.number, page(addr), pages(addr + length) - page(addr))

    def mlockall(self, _task, mm, ret, flags, *_):
        """mlockall, as a line for each range there is."""
        if ret:
            return
        call = "mlock2" if flags & sc.MCL_ONFAULT else "mlock"
        mm.lock_future = call if flags & sc.MCL_FUTURE else None
        if flags & sc.MCL_CURRENT:
            self.lock_all(mm, call)

    def munlockall(self, _task, mm, ret, *_):
        """munlockall."""
        if ret == 0:
            mm.lock_future = None
            self.lock_all(mm, "munlock")

    def lock_all(self, mm, call):
        """L lines for all ranges."""
        for start, end in mm.merged_ranges():
            self.trace.emit("L %d %x %x %s", mm.number, start, end - start, call)
