# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads perf.data, the binary file, into events in time order.

The binary form is what perf's own tools read; its text form loses fields (command names with blanks, full MMAP2
records) and costs a second pass. The layout is tools/perf/Documentation/perf.data-file-format.txt in Linux.

Each event is a tuple (time in ns, kind, tid, ...), by kind:

    fault    vpn, r|w|x, taken in the kernel
    enter    nr, arguments           a system call begins
    exit     nr, return value        it ends
    newtask  pid, clone flags        in the parent
    rss      mm_id                   anonymous pages of an mm that is not the current one
    exec     comm                    the task has its new mm
    mmap2    Mapping
    end                              the task exits
"""

import operator
import struct
from collections import namedtuple

from perf_record import PerfError, field_offsets

Mapping = namedtuple("Mapping", "addr len pgoff major minor ino generation prot flags name")

HEADER = struct.Struct("<IHH")
MAGIC = b"PERFILE2"
RECORD_LOST, RECORD_COMM, RECORD_EXIT = 2, 3, 4
RECORD_THROTTLE, RECORD_SAMPLE, RECORD_MMAP2, RECORD_LOST_SAMPLES = 5, 9, 10, 13
RECORD_COMPRESSED = 81
MISC_COMM_EXEC, MISC_MMAP_BUILD_ID = 1 << 13, 1 << 14
TASK = struct.Struct("<II")
EXIT = struct.Struct("<IIIIQ")
MMAP2 = struct.Struct("<IIQQQIIQQII")

# enum perf_event_sample_format, in the order in which a sample has them, up to RAW; each 8 bytes wide.
IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD = (
    1 << 16, 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 9, 1 << 7, 1 << 8)
# What `perf record -d` also asks for: DATA_SRC comes after the raw data and is not read.
RAW, DATA_SRC = 1 << 10, 1 << 15
IN_SAMPLE = (IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD)
# The trailer of every other record.
IN_TRAILER = (TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER)

FAULT_WRITE, FAULT_INSTRUCTION = 1 << 1, 1 << 4
USER_END = 1 << 47


class Layout:
    """Where an event's sample_type puts the fields: offsets after the record header, or back from its end."""

    def __init__(self, sample_type):
        unknown = sample_type & ~(sum(IN_SAMPLE) | RAW | DATA_SRC)
        if unknown or not sample_type & IDENTIFIER:
            raise PerfError("perf.data: sample type %#x is not what was asked for" % sample_type)
        present = [bit for bit in IN_SAMPLE if sample_type & bit]
        self.raw = 8 + 8 * len(present)
        self.tid, self.time, self.cpu = (8 + 8 * present.index(bit) for bit in (TID, TIME, CPU))
        trailer = [bit for bit in IN_TRAILER if sample_type & bit]
        self.trailer_time, self.trailer_cpu = (8 * (len(trailer) - trailer.index(bit)) for bit in (TIME, CPU))


class PerfData:
    """The recorder's events, of one perf.data file."""

    def __init__(self, path):
        with open(path, "rb") as data:
            self.bytes = data.read()
        self.layouts = {}
        self.decoders = {}
        self.cpu_time = {}
        self.read_header()

    def fail(self, offset, reason):
        """perf.data has no lines: say the offset."""
        raise PerfError("perf.data: at %#x: %s" % (offset, reason))

    def read_header(self):
        """The attributes' section: which event has which id, tracepoint and layout."""
        if self.bytes[:8] != MAGIC:
            self.fail(0, "not a perf.data file")
        attr_size, attrs, attrs_size, self.start, self.size = struct.unpack_from("<QQQQQ", self.bytes, 16)
        tracepoints = {}
        for event, decode in (("exceptions:page_fault_user", self.decode_fault(False)),
                              ("exceptions:page_fault_kernel", self.decode_fault(True)),
                              ("raw_syscalls:sys_enter", self.decode_enter),
                              ("raw_syscalls:sys_exit", self.decode_exit),
                              ("task:task_newtask", self.decode_newtask),
                              ("kmem:rss_stat", self.decode_rss)):
            number, fields = field_offsets(event)
            tracepoints[number] = (decode, {name: offset for name, (offset, _) in fields.items()})
        for at in range(attrs, attrs + attrs_size, attr_size):
            kind, _, config, _, sample_type = struct.unpack_from("<IIQQQ", self.bytes, at)
            ids, ids_size = struct.unpack_from("<QQ", self.bytes, at + attr_size - 16)
            layout = Layout(sample_type)
            for number in struct.unpack_from("<%dQ" % (ids_size // 8), self.bytes, ids):
                self.layouts[number] = layout
                # 2: PERF_TYPE_TRACEPOINT; the other event only carries the task and mapping records.
                if kind == 2:
                    self.decoders[number] = tracepoints[config]

    def events(self):
        """All events, in time order."""
        events = []
        at, end = self.start, self.start + self.size
        if end > len(self.bytes):
            self.fail(at, "the file is cut short")
        while at < end:
            kind, misc, size = HEADER.unpack_from(self.bytes, at)
            if size < 8 or at + size > end:
                self.fail(at, "bad record size %d" % size)
            event = None
            try:
                if kind == RECORD_SAMPLE:
                    event = self.sample(at)
                elif kind == RECORD_MMAP2:
                    event = self.mmap2(at, size, misc)
                elif kind == RECORD_COMM and misc & MISC_COMM_EXEC:
                    _, tid = TASK.unpack_from(self.bytes, at + 8)
                    event = (self.trailer_time(at, size), "exec", tid, self.string(at + 16))
                elif kind == RECORD_EXIT:
                    tid = EXIT.unpack_from(self.bytes, at + 8)[2]
                    event = (self.trailer_time(at, size), "end", tid)
                elif kind in (RECORD_LOST, RECORD_LOST_SAMPLES, RECORD_THROTTLE):
                    self.fail(at, "the kernel lost events: record again with a larger --buffer")
                elif kind == RECORD_COMPRESSED:
                    self.fail(at, "compressed data (perf config: record.compression-level)")
            except (struct.error, KeyError, ValueError) as error:
                self.fail(at, "record type %d cannot be read: %r" % (kind, error))
            if event and event[0]:
                events.append(event)
            at += size
        events.sort(key=operator.itemgetter(0))
        return events

    def clock(self, time, cpu):
        """A CPU's buffer is in order, the clock that stamps it may step back by a few ns: never let it."""
        last = self.cpu_time.get(cpu, 0)
        if time < last:
            return last
        self.cpu_time[cpu] = time
        return time

    def trailer_time(self, at, size):
        """The time of a record that is no sample; 0 if perf made it up, to tell what was there before it."""
        end = at + size
        number, = struct.unpack_from("<Q", self.bytes, end - 8)
        if not number:
            return 0
        layout = self.layouts[number]
        time, = struct.unpack_from("<Q", self.bytes, end - layout.trailer_time)
        return self.clock(time, struct.unpack_from("<I", self.bytes, end - layout.trailer_cpu)[0])

    def string(self, at):
        """A NUL-terminated string."""
        return self.bytes[at:self.bytes.index(b"\0", at)].decode(errors="backslashreplace")

    def mmap2(self, at, size, misc):
        """A mapping: its inode, not a build id, must be in the record."""
        if misc & MISC_MMAP_BUILD_ID:
            self.fail(at, "build ids instead of inodes (perf config: record.build-id=mmap)")
        _, tid, addr, length, pgoff, major, minor, ino, generation, prot, flags = MMAP2.unpack_from(self.bytes, at + 8)
        name = self.string(at + 8 + MMAP2.size)
        mapping = Mapping(addr >> 12, length >> 12, pgoff >> 12, major, minor, ino, generation, prot, flags, name)
        return (self.trailer_time(at, size), "mmap2", tid, mapping)

    def sample(self, at):
        """A tracepoint's sample."""
        number, = struct.unpack_from("<Q", self.bytes, at + 8)
        layout = self.layouts[number]
        tid, = struct.unpack_from("<I", self.bytes, at + layout.tid + 4)
        time, = struct.unpack_from("<Q", self.bytes, at + layout.time)
        cpu, = struct.unpack_from("<I", self.bytes, at + layout.cpu)
        decode, offsets = self.decoders[number]
        # A u32 size precedes the raw data.
        return decode(self.clock(time, cpu), tid, at + layout.raw + 4, offsets)

    def decode_fault(self, kernel):
        """Decoder of page faults; None for addresses that no process can map."""
        def decode(time, tid, raw, offsets):
            address, = struct.unpack_from("<Q", self.bytes, raw + offsets["address"])
            error_code, = struct.unpack_from("<Q", self.bytes, raw + offsets["error_code"])
            if address >= USER_END:
                return None
            access = "x" if error_code & FAULT_INSTRUCTION else "w" if error_code & FAULT_WRITE else "r"
            return (time, "fault", tid, address >> 12, access, kernel)
        return decode

    def decode_enter(self, time, tid, raw, offsets):
        """A system call begins."""
        number, = struct.unpack_from("<q", self.bytes, raw + offsets["id"])
        return (time, "enter", tid, number, struct.unpack_from("<6Q", self.bytes, raw + offsets["args"]))

    def decode_exit(self, time, tid, raw, offsets):
        """A system call ends."""
        number, = struct.unpack_from("<q", self.bytes, raw + offsets["id"])
        return (time, "exit", tid, number, struct.unpack_from("<q", self.bytes, raw + offsets["ret"])[0])

    def decode_newtask(self, time, tid, raw, offsets):
        """fork, vfork, clone: the parent is the current task."""
        pid, = struct.unpack_from("<i", self.bytes, raw + offsets["pid"])
        return (time, "newtask", tid, pid, struct.unpack_from("<Q", self.bytes, raw + offsets["clone_flags"])[0])

    def decode_rss(self, time, tid, raw, offsets):
        """Another address space than the current one has gained or lost anonymous pages."""
        return (time, "rss", tid, struct.unpack_from("<I", self.bytes, raw + offsets["mm_id"])[0])
