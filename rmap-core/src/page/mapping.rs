//! The mapping word: to whom a page belongs, in one atomic, so that pointer and type never tear.
//!
//! | value | meaning | who may set it |
//! |---|---|---|
//! | 0 | belongs to nobody | whoever frees the frame, before the anchor's reference is dropped |
//! | pointer, low bits 00 | a page of that file (`address_space`) | page cache insertion, under the page lock |
//! | pointer, low bits 01 | anonymous: the pointer is the engine's (an `anon_vma`) | the first mapping; re-anchoring under the page lock |
//! | pointer, low bits 11 | merged by KSM: the pointer is a stable node | KSM, under the page lock |
//!
//! Life: set when the page is first mapped; stays while the page is unmapped (swap cache, migration, batched frees;
//! then it is a hint); may be re-anchored under the page lock; is reset when the frame is freed. An anonymous anchor is
//! overwritten **before** the anchor's reference is dropped: a look-up that finds its word unchanged has found a living
//! anchor.

use crate::base::sync::atomic::{AtomicUsize, Ordering};
use core::ptr::NonNull;

const ANON: usize = 0b01;
const KSM: usize = 0b11;
const KIND: usize = 0b11;

/// What a mapping word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Belongs to nobody.
    None,
    /// A page of a file.
    File(NonNull<()>),
    /// An anonymous page; the pointer is the engine's.
    Anon(NonNull<()>),
    /// A page merged by KSM; the pointer is a stable node.
    Ksm(NonNull<()>),
}

impl Mapping {
    /// Anonymous, merged or not.
    pub const fn is_anon(self) -> bool {
        matches!(self, Self::Anon(_) | Self::Ksm(_))
    }

    fn pack(self) -> usize {
        let (ptr, kind) = match self {
            Self::None => return 0,
            Self::File(ptr) => (ptr, 0),
            Self::Anon(ptr) => (ptr, ANON),
            Self::Ksm(ptr) => (ptr, KSM),
        };
        debug_assert!(ptr.as_ptr().expose_provenance() & KIND == 0, "an anchor is aligned to four bytes");
        ptr.as_ptr().expose_provenance() | kind
    }

    fn unpack(word: usize) -> Self {
        let Some(ptr) = NonNull::new(core::ptr::with_exposed_provenance_mut::<()>(word & !KIND)) else {
            return Self::None;
        };
        match word & KIND {
            ANON => Self::Anon(ptr),
            KSM => Self::Ksm(ptr),
            _ => Self::File(ptr),
        }
    }
}

/// The atomic word. See the [module](self).
#[derive(Debug)]
pub struct MappingWord(AtomicUsize);

impl MappingWord {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// What the word says now. Acquire: pairs with the Release in [`store`](Self::store), so the anchor's contents and
    /// the page's index are visible. Without the page lock the answer may be old at once: check again after taking the
    /// anchor.
    #[inline]
    pub fn load(&self) -> Mapping {
        Mapping::unpack(self.0.load(Ordering::Acquire))
    }

    /// Sets the word. Release; pairs with the Acquire in [`load`](Self::load). Page lock held, or the page not yet
    /// mapped.
    #[inline]
    pub fn store(&self, mapping: Mapping) {
        self.0.store(mapping.pack(), Ordering::Release);
    }

    /// Whether the word is still `mapping`: the second look of a look-up. Relaxed suffices: the lock or the reference
    /// taken on the anchor in between is the Acquire that orders it.
    #[inline]
    pub fn is_still(&self, mapping: Mapping) -> bool {
        self.0.load(Ordering::Relaxed) == mapping.pack()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_packing() {
        let anchor = NonNull::from(&0_u64).cast::<()>();
        let word = MappingWord::new();
        assert_eq!(word.load(), Mapping::None);
        for mapping in [Mapping::File(anchor), Mapping::Anon(anchor), Mapping::Ksm(anchor), Mapping::None] {
            word.store(mapping);
            assert_eq!(word.load(), mapping);
            assert!(word.is_still(mapping));
        }
    }
}
