//! Address spaces, their regions, and files: the forward half of memory management.
//!
//! | file | what it is |
//! |---|---|
//! | [`address_space`] | [`Mm`]: one address space, its regions in order of address |
//! | [`vma`] | [`Vma`]: one region |
//! | [`mod@file`] | [`File`]: a file's page cache and the VMAs that map it (the kernel's `address_space` and `i_mmap`) |
//! | [`arena`] | the memory and the grace periods that all of these share |

pub mod address_space;
pub mod arena;
pub mod file;
pub mod vma;

pub use address_space::{Mm, MmRef, MmWrite};
pub use arena::Arena;
pub use file::{File, FileRef};
pub use vma::{NewVma, Vma, VmaBounds, VmaKey};

use crate::page::pte::PageTable;

/// What an engine keeps in an address space and in a VMA. Its verbs are [`Engine`](crate::engine::Engine).
pub trait EngineData: Sized + Send + Sync {
    /// In each address space.
    type Mm: Send + Sync;
    /// In each VMA. The default is "nothing yet"; a VMA is back at it when it is freed.
    type Vma: Default + Send + Sync;
}

/// The choices that a whole memory manager is built from. Everything is generic over one `System`, so an engine or a
/// kind of page table is picked by type and costs nothing at run time.
pub trait System: Sized + Send + Sync + 'static {
    /// How the candidates of a page are found.
    type Engine: EngineData;
    /// Who keeps the page tables.
    type Table: PageTable;
    /// The embedder's own data in an address space.
    type MmData: Send + Sync;
    /// The embedder's own data in a VMA (operations, a handler, a pointer). Copied when a VMA is split, copied or
    /// forked.
    type VmaData: Clone + Default + PartialEq + Send + Sync;
    /// The embedder's own data in a file.
    type FileData: Send + Sync;
}
