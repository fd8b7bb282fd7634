//! The units of the field. A page is 4,096 bytes; addresses are bytes, everything called `vpn`, `pgoff` or `pfn` is
//! pages.

use bitflags::bitflags;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Entries in one page table, and pages under one PMD.
pub const PTRS_PER_TABLE: u64 = 512;
/// log2 of the pages that one PMD maps.
pub const PMD_ORDER: u8 = 9;

/// A page frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

/// A virtual address in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(pub u64);

/// An offset in pages: into a file, or of an anonymous page as its VMA's `vm_pgoff` counts it.
pub type PgOff = u64;

impl VirtAddr {
    /// The virtual page number.
    #[inline]
    pub const fn vpn(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }
    /// The address of virtual page `vpn`.
    #[inline]
    pub const fn from_vpn(vpn: u64) -> Self {
        Self(vpn << PAGE_SHIFT)
    }
    /// The start of the page that holds this address.
    #[inline]
    #[must_use]
    pub const fn page_down(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
    /// Bytes into the page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
    /// Whether it is the first byte of a page.
    #[inline]
    pub const fn is_page_aligned(self) -> bool {
        self.page_offset() == 0
    }
    /// `pages` pages further on.
    #[inline]
    #[must_use]
    pub const fn add_pages(self, pages: u64) -> Self {
        Self(self.0 + (pages << PAGE_SHIFT))
    }
}

bitflags! {
    /// The flags of a VMA, named as the kernel names them (without `VM_`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct VmFlags: u64 {
        /// May be read.
        const READ = 1;
        /// May be written.
        const WRITE = 1 << 1;
        /// May be executed.
        const EXEC = 1 << 2;
        /// Changes are seen by every mapper (`MAP_SHARED`).
        const SHARED = 1 << 3;
        /// mprotect may grant READ.
        const MAYREAD = 1 << 4;
        /// mprotect may grant WRITE.
        const MAYWRITE = 1 << 5;
        /// mprotect may grant EXEC.
        const MAYEXEC = 1 << 6;
        /// Grows towards lower addresses when touched just below: a stack.
        const GROWSDOWN = 1 << 8;
        /// A missing page calls the embedder's handler (userfaultfd's missing mode).
        const UFFD_MISSING = 1 << 9;
        /// Pages are not to be evicted (mlock).
        const LOCKED = 1 << 13;
        /// Never dumped, never merged: device-like or vdso memory.
        const SPECIAL = 1 << 14;
        /// Not copied by fork (`MADV_DONTFORK`).
        const DONTFORK = 1 << 17;
        /// May not be grown by mremap.
        const DONTEXPAND = 1 << 18;
        /// mlock with `MLOCK_ONFAULT`.
        const LOCKONFAULT = 1 << 19;
        /// Counted against the commit limit.
        const ACCOUNT = 1 << 20;
        /// The child of a fork gets an empty region (`MADV_WIPEONFORK`).
        const WIPEONFORK = 1 << 25;
        /// Never dumped (`MADV_DONTDUMP`).
        const DONTDUMP = 1 << 26;
        /// May use large pages.
        const HUGEPAGE = 1 << 29;
        /// Must not use large pages.
        const NOHUGEPAGE = 1 << 30;
        /// KSM may merge its pages.
        const MERGEABLE = 1 << 31;
    }
}

impl VmFlags {
    /// READ, WRITE and EXEC.
    pub const ACCESS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);
    /// VMAs that are never merged.
    pub const NO_MERGE: Self = Self::SPECIAL.union(Self::DONTEXPAND);

    /// `rwxp` as /proc/PID/maps shows it.
    pub const fn perms(self) -> [char; 4] {
        const fn letter(flags: VmFlags, flag: VmFlags, set: char, clear: char) -> char {
            if flags.contains(flag) { set } else { clear }
        }
        [
            letter(self, Self::READ, 'r', '-'),
            letter(self, Self::WRITE, 'w', '-'),
            letter(self, Self::EXEC, 'x', '-'),
            letter(self, Self::SHARED, 's', 'p'),
        ]
    }

    /// Whether a write fault must copy: private and possibly writable.
    #[inline]
    pub const fn is_cow(self) -> bool {
        self.bits() & (Self::SHARED.bits() | Self::MAYWRITE.bits()) == Self::MAYWRITE.bits()
    }
}
