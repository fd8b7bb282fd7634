# SPDX-License-Identifier: MIT OR Apache-2.0
"""How far the first segment of an ELF file reaches.

exec maps a first segment as long as the whole image, to reserve it, and then unmaps what is too much. Only the mapping
leaves a record.
"""

import os
import struct

IDENT_64_LITTLE = b"\x7fELF\x02\x01"
PT_LOAD = 1
PROGRAM_HEADERS = struct.Struct("<32xQ14xHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
PAGE_SHIFT, PAGE_MASK = 12, 0xfff


def first_segment_pages(path, major, minor, ino):
    """The pages of the first PT_LOAD, or None where the file is no longer to be seen (or is another by now)."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            if (os.major(stat.st_dev), os.minor(stat.st_dev), stat.st_ino) != (major, minor, ino):
                return None
            header = file.read(64)
            if not header.startswith(IDENT_64_LITTLE):
                return None
            offset, size, count = PROGRAM_HEADERS.unpack_from(header)
            file.seek(offset)
            table = file.read(size * count)
    except OSError:
        return None
    for at in range(0, len(table) - PROGRAM_HEADER.size + 1, size):
        kind, _, _, vaddr, _, file_size, _, _ = PROGRAM_HEADER.unpack_from(table, at)
        if kind == PT_LOAD:
            return ((vaddr & PAGE_MASK) + file_size + PAGE_MASK) >> PAGE_SHIFT
    return None
