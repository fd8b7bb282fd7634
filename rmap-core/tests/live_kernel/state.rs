//! What is compared: entries and VMAs, as the kernel and the machine both have them.

/// An entry of a page table. Numbers are the side's own: only who has the same one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    None,
    /// The zero page.
    Zero,
    /// A frame that is mapped anonymously.
    Anon(u64),
    /// A frame of a file or of shared memory.
    File(u64),
    /// A slot in swap.
    Swap(u64),
    /// Part of a guard region.
    Guard,
}

/// What a VMA maps. Numbers are the side's own, as with entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    None,
    /// The kernel's.
    Inode(u64),
    /// The machine's.
    File(u64),
}

/// A VMA, in pages of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VmaLine {
    pub(crate) first: u64,
    pub(crate) pages: u64,
    /// 1 read, 2 write, 4 execute.
    pub(crate) prot: u32,
    pub(crate) shared: bool,
    pub(crate) object: Object,
    /// 0 for memory without an object.
    pub(crate) pgoff: u64,
}
