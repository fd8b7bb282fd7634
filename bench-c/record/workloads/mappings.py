# SPDX-License-Identifier: MIT OR Apache-2.0
"""Every system call that the recorder follows, a mark after each group, with a forked copy of each state alive."""

import ctypes
import os
import sys
import threading

from mark import mark

PAGE = 4096
READ, WRITE, PRIVATE, SHARED, FIXED, ANONYMOUS = 1, 2, 2, 1, 0x10, 0x20
GROWSDOWN, LOCKED, POPULATE = 0x100, 0x2000, 0x8000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
DONTNEED, FREE, DONTFORK, WIPEONFORK, POPULATE_WRITE = 4, 8, 10, 18, 23

libc = ctypes.CDLL(None, use_errno=True)
for name in ("mmap", "mremap", "sbrk", "shmat"):
    getattr(libc, name).restype = ctypes.c_void_p


def call(name, *args):
    """A libc function by name; pointers and lengths are longs."""
    result = getattr(libc, name)(*[arg if isinstance(arg, bytes) else ctypes.c_long(arg) for arg in args])
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "%s: %s" % (name, os.strerror(ctypes.get_errno())))
    return result


def mmap(n, flags=PRIVATE, prot=READ | WRITE, fd=-1, offset=0, at=0):
    """n pages; anonymous without a file."""
    return call("mmap", at, n * PAGE, prot, flags | (ANONYMOUS if fd < 0 else 0) | (FIXED if at else 0), fd,
                offset * PAGE)


def touch(address, pages):
    """Write to pages of a mapping."""
    for i in pages:
        ctypes.c_char.from_address(address + i * PAGE).value = b"x"


def look(address, pages):
    """Read pages of a mapping."""
    return [ctypes.c_char.from_address(address + i * PAGE).value for i in pages]


def recurse(nested):
    """Grow the main stack: repr recurses in C."""
    sys.setrecursionlimit(100000)
    try:
        repr(nested)
    except RecursionError:
        pass


class Child:
    """A fork that keeps the state of now until released."""

    def __init__(self, work=lambda: None):
        ready, self.hold = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.hold[1])
            work()
            os.write(ready[1], b"x")
            os.read(self.hold[0], 1)
            os._exit(0)
        os.read(ready[0], 1)

    def release(self):
        """Let it end."""
        os.close(self.hold[1])
        os.waitpid(self.pid, 0)


def maps_and_protection(path):
    """mmap over mmap, holes, files, mprotect."""
    area = mmap(64)
    touch(area, range(0, 64, 3))
    look(area, range(1, 64, 6))
    call("munmap", area + 10 * PAGE, 5 * PAGE)
    mmap(4, at=area + 20 * PAGE)
    touch(area, (20, 22))
    call("mprotect", area + 30 * PAGE, 8 * PAGE, READ)
    call("mprotect", area + 33 * PAGE, 2 * PAGE, 0)
    fd = os.open(path, os.O_RDWR)
    private, shared = mmap(16, fd=fd), mmap(16, flags=SHARED, fd=fd, offset=4)
    touch(private, (1, 2, 9))
    touch(shared, (0, 5))
    call("munmap", private + 4 * PAGE, PAGE)
    os.close(fd)
    anonymous = mmap(8, flags=SHARED)
    touch(anonymous, range(4))
    touch(mmap(8, flags=PRIVATE | POPULATE), (1,))
    child = Child(lambda: touch(area, (0, 3, 21)))
    touch(private, (2, 3))
    mark("maps")
    child.release()


def moves():
    """mremap: shrink, grow, move, onto, copy."""
    areas = [mmap(16) for _ in range(4)]
    for area in areas:
        touch(area, range(0, 16, 2))
    child = Child()
    shrunk = call("mremap", areas[0], 16 * PAGE, 6 * PAGE, 0)
    grown = call("mremap", areas[1], 16 * PAGE, 40 * PAGE, MREMAP_MAYMOVE)
    touch(grown, (2, 30))
    target = mmap(32)
    touch(target, range(32))
    call("mremap", areas[2], 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + 8 * PAGE)
    call("mremap", areas[3], 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0)
    touch(areas[3], (0, 1))
    touch(shrunk, (1,))
    mark("moves")
    child.release()


def heap_and_stack():
    """brk up and down, deep recursion, MAP_GROWSDOWN."""
    call("sbrk", 40 * PAGE)
    top = call("sbrk", 0)
    touch(top - 30 * PAGE, range(20))
    call("sbrk", -15 * PAGE)
    call("sbrk", 25 * PAGE)
    touch(top, range(3))
    nested = []
    for _ in range(4000):
        nested = [nested]
    child = Child(lambda: recurse(nested))
    recurse(nested)
    base = mmap(600)
    call("munmap", base, 600 * PAGE)
    stack = mmap(8, flags=PRIVATE | GROWSDOWN, at=base + 500 * PAGE)
    touch(stack, (7, 0, -1, -2))
    mark("heap")
    child.release()


def advice():
    """madvise and mlock."""
    area = mmap(64)
    touch(area, range(40))
    call("madvise", area, 8 * PAGE, DONTNEED)
    call("madvise", area + 8 * PAGE, 4 * PAGE, DONTFORK)
    call("madvise", area + 16 * PAGE, 4 * PAGE, WIPEONFORK)
    call("madvise", area + 44 * PAGE, 4 * PAGE, POPULATE_WRITE)
    touch(area, (2, 3))
    child = Child()
    call("mlock", area + 50 * PAGE, 4 * PAGE)
    call("mlock", area + 20 * PAGE, 4 * PAGE)
    call("mlock2", area + 55 * PAGE, 4 * PAGE, 1)
    call("munlock", area + 51 * PAGE, PAGE)
    touch(mmap(4, flags=PRIVATE | LOCKED), (0,))
    mark("advice")
    call("munlock", area, 64 * PAGE)
    child.release()
    small = mmap(3)
    call("mlockall", 2)
    mmap(5)
    call("munlockall")
    mark("locked")
    touch(small, (1,))


def shared_memory():
    """System V shared memory."""
    number = call("shmget", 0, 8 * PAGE, 0o1600)
    address = call("shmat", number, 0, 0)
    call("shmctl", number, 0, 0)
    touch(address, range(4))
    child = Child(lambda: touch(address, range(6)))
    mark("shm")
    child.release()
    call("shmdt", address)


def exec_from_thread():
    """A thread execs with arguments of many pages: the argument pages, and a thread that takes the leader's pid."""
    argv = [sys.executable, os.path.abspath(__file__), "execed"] + ["x" * 5000] * 20
    thread = threading.Thread(target=os.execv, args=(sys.executable, argv))
    thread.start()
    thread.join()


def main():
    """The workload; the exec starts it again for its last mark."""
    if sys.argv[1:2] == ["execed"]:
        child = Child()
        mark("execed")
        child.release()
        return
    maps_and_protection(sys.argv[1])
    moves()
    heap_and_stack()
    advice()
    shared_memory()
    exec_from_thread()


if __name__ == "__main__":
    main()
