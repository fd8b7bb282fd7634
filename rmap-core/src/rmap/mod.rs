//! The reverse map itself: what is asked of it, whatever engine finds the candidates.
//!
//! | file | what it is |
//! |---|---|
//! | [`account`] | mappings come and go: `page_add_new_anon_rmap` and its kin |
//! | [`layout`] | VMAs are made, split, merged, adjusted, copied, forked and freed, in the address space, its file and the engine as one step |
//! | [`moving`] | entries move from a VMA to its copy, and no walk misses one |
//! | [`walk`] | `rmap_walk`, and from candidates to mappings (`page_vma_mapped_walk`) |
//! | [`unmap`] | `try_to_unmap` |
//! | [`referenced`] | `page_referenced` |
//! | [`mkclean`] | `page_mkclean` |
//! | [`dot`] | a page's reverse map, drawn |
#![forbid(unsafe_code)]

pub mod account;
pub mod dot;
pub mod layout;
pub mod mkclean;
pub mod moving;
pub mod referenced;
pub mod unmap;
pub mod walk;

use crate::base::alloc::Heap;
use crate::base::counter::StripedCounter;
use crate::base::error::Result;
use crate::base::href::Href;
use crate::engine::{Engine, Footprint, Kernel};
use crate::mm::{Arena, Mm, MmRef};
use crate::page::map::PageMap;

/// A context: one set of page frames, one engine, and the address spaces over them. Contexts share nothing.
pub struct Rmap<S: Kernel> {
    arena: Href<Arena<S>>,
    pages: PageMap,
    engine: S::Engine,
    /// Small pages mapped anonymously (the zone's NR_ANON_MAPPED), counted once however often they are mapped.
    anon_mapped: StripedCounter,
    /// Compound pages mapped by one entry (NR_ANON_THPS).
    anon_large: StripedCounter,
    /// Small pages of files mapped (NR_FILE_MAPPED).
    file_mapped: StripedCounter,
}

impl<S: Kernel> Rmap<S> {
    /// A context without frames and address spaces.
    pub fn new(heap: &Heap) -> Result<Self> {
        Self::with_engine(heap, <S::Engine as Engine<S>>::new)
    }

    /// The same, with an engine that `make` makes.
    pub fn with_engine(heap: &Heap, make: impl FnOnce(&Arena<S>) -> Result<S::Engine>) -> Result<Self> {
        let arena = Arena::new(heap)?;
        let engine = make(&arena)?;
        Ok(Self {
            pages: PageMap::new(heap),
            engine,
            anon_mapped: StripedCounter::new(),
            anon_large: StripedCounter::new(),
            file_mapped: StripedCounter::new(),
            arena,
        })
    }

    /// The memory that everything of this context shares.
    #[inline]
    pub fn arena(&self) -> &Href<Arena<S>> {
        &self.arena
    }
    /// The page descriptors.
    #[inline]
    pub fn pages(&self) -> &PageMap {
        &self.pages
    }
    /// The engine.
    #[inline]
    pub fn engine(&self) -> &S::Engine {
        &self.engine
    }
    /// Small pages mapped anonymously.
    pub fn anon_mapped(&self) -> u64 {
        self.anon_mapped.sum()
    }
    /// Compound pages mapped by one entry.
    pub fn anon_large(&self) -> u64 {
        self.anon_large.sum()
    }
    /// Small pages of files that are mapped.
    pub fn file_mapped(&self) -> u64 {
        self.file_mapped.sum()
    }

    /// An empty address space.
    pub fn mm_new(&self, table: S::Table, data: S::MmData) -> Result<MmRef<S>> {
        let mm = Mm::new(&self.arena, self.engine.mm_data(&self.arena)?, table, data)?;
        self.engine.mm_made(&mm)?;
        Ok(mm)
    }

    /// An address space without regions is about to be freed.
    pub fn mm_gone(&self, mm: &Mm<S>) {
        self.engine.mm_gone(mm);
    }

    /// The engine's memory: its own, its tree nodes', and that in the VMAs of `mms`.
    pub fn footprint<'a>(&self, mms: impl Iterator<Item = &'a Mm<S>>) -> Footprint {
        use crate::mm::address_space::MmLocked;
        let mut sum = self.engine.footprint();
        sum.bytes += self.arena.nodes.live_bytes() as u64;
        for mm in mms {
            for vma in mm.read().vmas() {
                sum += self.engine.vma_footprint(vma);
            }
        }
        sum
    }
}
