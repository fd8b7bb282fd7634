# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the translation must remember of an address space: who uses it, and what later system calls refer to."""

import bisect


class AddressSpace:
    """An mm. `ranges` are [start, end) in pages without attributes: mlockall names none of them in the trace."""

    def __init__(self, number):
        self.number = number
        self.users = 1
        self.brk = None
        self.lock_future = None
        self.shm = {}
        self.ranges = []

    def fork(self, number):
        """The child's copy. Locks are not inherited."""
        child = AddressSpace(number)
        child.brk, child.shm, child.ranges = self.brk, dict(self.shm), list(self.ranges)
        return child

    def remove(self, start, end):
        """[start, end) is no longer mapped."""
        low = bisect.bisect_right(self.ranges, (start, start))
        if low and self.ranges[low - 1][1] > start:
            low -= 1
        high = bisect.bisect_left(self.ranges, (end, end))
        kept = []
        for old_start, old_end in self.ranges[low:high]:
            if old_start < start:
                kept.append((old_start, start))
            if old_end > end:
                kept.append((end, old_end))
        self.ranges[low:high] = kept

    def add(self, start, end):
        """[start, end) is mapped, in place of what was there."""
        self.remove(start, end)
        bisect.insort(self.ranges, (start, end))

    def start_of(self, vpn):
        """Where the range that holds vpn begins."""
        at = bisect.bisect_right(self.ranges, (vpn, 1 << 64)) - 1
        if at >= 0 and vpn < self.ranges[at][1]:
            return self.ranges[at][0]
        return vpn

    def merged_ranges(self):
        """The ranges, neighbours made one."""
        merged = []
        for start, end in self.ranges:
            if merged and merged[-1][1] == start:
                start = merged.pop()[0]
            merged.append((start, end))
        return merged
