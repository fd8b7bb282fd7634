# SPDX-License-Identifier: MIT OR Apache-2.0
"""A family of forks that write to data they share, a vfork and threads; marks while all are alive."""

import os
import subprocess
import sys
import threading

from mark import mark

PAGE = 4096
data = bytearray(600 * PAGE)


def write_part(who, step):
    """Touch every step-th page of the shared data."""
    for at in range(who * PAGE, len(data), step * PAGE):
        data[at] = who


def family(depth, pipe):
    """A chain of forks, each of which writes a part and waits until the pipe closes."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(pipe[1])
        write_part(depth, depth + 2)
        if depth:
            child = family(depth - 1, pipe)
        os.write(ready_write, b"x")
        os.read(pipe[0], 1)
        if depth:
            os.waitpid(child, 0)
        os._exit(0)
    os.read(ready_read, 1)
    return pid


def main():
    """The workload."""
    for at in range(0, len(data), PAGE):
        data[at] = 1
    barrier, go_on = threading.Barrier(5), threading.Event()

    def work(who):
        write_part(who, 7)
        barrier.wait()
        go_on.wait()

    pipe = os.pipe()
    families = [family(3, pipe) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    mark("family")
    subprocess.run([sys.executable, "-c", "pass"], check=True, close_fds=False)
    sleeper = subprocess.Popen(["sleep", "5"])
    write_part(0, 2)
    mark("after-vfork")
    sleeper.kill()
    sleeper.wait()
    os.close(pipe[1])
    go_on.set()
    for thread in threads:
        thread.join()
    for pid in families:
        os.waitpid(pid, 0)
    mark("alone")


if __name__ == "__main__":
    main()
