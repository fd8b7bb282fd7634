# SPDX-License-Identifier: MIT OR Apache-2.0
"""The trace in the making: its lines, the slots kept in it, its objects."""

import os


def object_key(mapping):
    """Which file it is: an inode number alone is used again once its file is gone."""
    return mapping.major, mapping.minor, mapping.ino, mapping.generation


class Trace:
    """Lines in their order. None is a slot that a system call keeps until its result is known."""

    def __init__(self):
        self.lines = ["H mmt 1 4096"]
        self.objects = {}

    def text(self):
        """The lines without the slots of calls that failed."""
        return (line for line in self.lines if line is not None)

    def emit(self, text, *args):
        """Append a line."""
        self.lines.append(text % args)

    def object(self, mapping):
        """The trace's id of a mapped file."""
        key = object_key(mapping)
        if key not in self.objects:
            self.objects[key] = len(self.objects) + 1
            name = os.path.basename(mapping.name.replace(" (deleted)", "")) or "-"
            self.emit("O %d %02x:%02x:%d %s", self.objects[key], mapping.major, mapping.minor, mapping.ino,
                      "_".join(name.split()))
        return self.objects[key]

    def place(self, task, line):
        """Put a system call's line into the slot kept for it, or at the end."""
        if task.slot is None:
            self.lines.append(line)
        else:
            self.lines[task.slot] = line

    def keep_slot(self, task):
        """The line of the call in flight belongs here."""
        task.slot = len(self.lines)
        self.lines.append(None)

    def map_line(self, task, mm, vpn, n, prot, flags, mapping, pgoff):
        """An M line."""
        is_file = bool(mapping and mapping.ino)
        obj = self.object(mapping) if is_file else "-"
        line = "M %d %x %x %d %s %s %x" % (mm.number, vpn, n, prot, flags, obj, pgoff if is_file else 0)
        if task:
            self.place(task, line)
        else:
            self.lines.append(line)
        if "k" not in flags:
            mm.add(vpn, vpn + n)

    def unmap(self, task, mm, vpn, n):
        """A U line."""
        self.place(task, "U %d %x %x" % (mm.number, vpn, n))
        mm.remove(vpn, vpn + n)
