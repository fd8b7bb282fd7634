//! An engine that is chosen at run time, for callers whose types are fixed: the C ABI.
//!
//! It is a branch before each verb and nothing else. A VMA has room for the data of every engine, of which one is used.

use super::anon_vma::{self, AnonVmaEngine};
use super::full_scan::{self, FullScanEngine};
use super::objrmap::{self, ObjrmapEngine};
use super::pte_chain::{self, PteChain};
use super::sketch::Sketch;
use super::{Engine, Footprint, Holds, Lookup, Relayout, Wait};
use crate::base::error::Result;
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::mm::{Arena, EngineData, Mm, System, Vma};
use crate::page::Page;
use core::ops::ControlFlow;

/// Declares whatever there is one of for each engine: `Variant = "name": engine, part of a VMA: data in a VMA`.
macro_rules! engines {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $engine:ident, $part:ident: $vma:ty;)*) => {
        /// Which engine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EngineKind {
            $($(#[$doc])* $variant,)*
        }

        impl EngineKind {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on every command line and in every table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The engine of that name.
            pub fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }
        }

        /// One of the engines. See the [module](self).
        #[allow(clippy::large_enum_variant, reason = "one for each context")]
        pub enum AnyEngine<S: System> {
            $($(#[$doc])* $variant($engine<S>),)*
        }

        impl<S: AnySystem> AnyEngine<S> {
            /// The engine of that kind, for the objects of `arena`.
            pub fn of_kind(kind: EngineKind, arena: &Arena<S>) -> Result<Self> {
                Ok(match kind {
                    $(EngineKind::$variant => Self::$variant($engine::new(arena)?),)*
                })
            }

            /// Which it is.
            #[inline]
            pub fn kind(&self) -> EngineKind {
                match self {
                    $(Self::$variant(_) => EngineKind::$variant,)*
                }
            }
        }

        /// The data of one of the engines in an address space.
        pub enum AnyMm<S: System> {
            $($(#[$doc])* $variant(<$engine<S> as EngineData>::Mm),)*
        }

        /// The data of all engines in a VMA, of which those of one are used.
        pub struct AnyVma<S: System> {
            $($part: $vma,)*
        }

        impl<S: System> Default for AnyVma<S> {
            fn default() -> Self {
                Self { $($part: Default::default(),)* }
            }
        }

        $(impl<S: System> Holds<$vma> for AnyVma<S> {
            #[inline]
            fn part(&self) -> &$vma {
                &self.$part
            }
        })*

        /// A locked anchor of one of the engines.
        pub enum AnyAnchor<'a, S: AnySystem> {
            $($(#[$doc])* $variant(<$engine<S> as Engine<S>>::Anchor<'a>),)*
        }

        /// What one of the engines holds while entries move.
        pub enum AnyMoveLock<'a, S: AnySystem> {
            $($(#[$doc])* $variant(<$engine<S> as Engine<S>>::MoveLock<'a>),)*
        }

        /// A planned change of one of the engines.
        #[allow(clippy::large_enum_variant, reason = "it lives on the stack for one change of layout")]
        pub enum AnyPlan<'a, S: AnySystem> {
            $($(#[$doc])* $variant(<$engine<S> as Engine<S>>::Plan<'a>),)*
        }
    };
}

engines! {
    /// The one of Linux 2.6.34 to today.
    AnonVma = "anon_vma": AnonVmaEngine, anon_vma: anon_vma::VmaAnon<S>;
    /// The one of Linux 2.6.7 to 2.6.33.
    Objrmap = "objrmap": ObjrmapEngine, objrmap: objrmap::VmaAnon<S>;
    /// The one of Linux 2.5.
    PteChain = "pte_chain": PteChain, pte_chain: pte_chain::VmaPrepared;
    /// The one of Linux before 2.5.
    FullScan = "full_scan": FullScanEngine, full_scan: full_scan::VmaScan<S>;
}

/// A system whose engine is chosen at run time. Implemented by itself.
pub trait AnySystem: System<Engine = AnyEngine<Self>> {}

impl<S: System<Engine = AnyEngine<S>>> AnySystem for S {}

impl<S: System> EngineData for AnyEngine<S> {
    type Mm = AnyMm<S>;
    type Vma = AnyVma<S>;
}

impl<S: System> Holds<pte_chain::MmSeat> for AnyMm<S> {
    #[inline]
    fn part(&self) -> &pte_chain::MmSeat {
        match self {
            Self::PteChain(seat) => seat,
            _ => unreachable!("another engine's"),
        }
    }
}

/// What the engine answers.
macro_rules! ask {
    ($any:expr, $engine:ident => $answer:expr) => {
        match $any {
            AnyEngine::AnonVma($engine) => $answer,
            AnyEngine::Objrmap($engine) => $answer,
            AnyEngine::PteChain($engine) => $answer,
            AnyEngine::FullScan($engine) => $answer,
        }
    };
}

/// What the engine answers, in the variant of `$type` that is its own.
macro_rules! wrap {
    ($any:expr, $type:ident, $engine:ident => $answer:expr, $map:ident) => {
        match $any {
            AnyEngine::AnonVma($engine) => $answer.$map($type::AnonVma),
            AnyEngine::Objrmap($engine) => $answer.$map($type::Objrmap),
            AnyEngine::PteChain($engine) => $answer.$map($type::PteChain),
            AnyEngine::FullScan($engine) => $answer.$map($type::FullScan),
        }
    };
}

/// What the engine answers that made `$made`.
macro_rules! ask_of {
    ($any:expr, $type:ident: $made:expr, ($engine:ident, $own:ident) => $answer:expr) => {
        match ($any, $made) {
            (AnyEngine::AnonVma($engine), $type::AnonVma($own)) => $answer,
            (AnyEngine::Objrmap($engine), $type::Objrmap($own)) => $answer,
            (AnyEngine::PteChain($engine), $type::PteChain($own)) => $answer,
            (AnyEngine::FullScan($engine), $type::FullScan($own)) => $answer,
            _ => unreachable!("another engine's"),
        }
    };
}

impl<S: AnySystem> Engine<S> for AnyEngine<S> {
    const NAME: &'static str = "any";

    type Anchor<'a>
        = AnyAnchor<'a, S>
    where
        S: 'a;
    type MoveLock<'a>
        = AnyMoveLock<'a, S>
    where
        S: 'a;
    type Plan<'a>
        = AnyPlan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        Self::of_kind(EngineKind::AnonVma, arena)
    }
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    fn mm_data(&self, arena: &Arena<S>) -> Result<AnyMm<S>> {
        wrap!(self, AnyMm, engine => engine.mm_data(arena), map)
    }
    fn mm_made(&self, mm: &Mm<S>) -> Result<()> {
        ask!(self, engine => engine.mm_made(mm))
    }
    fn mm_gone(&self, mm: &Mm<S>) {
        ask!(self, engine => engine.mm_gone(mm));
    }
    fn fork_begin(&self, child: &Mm<S>, parent: &Mm<S>) -> Result<()> {
        ask!(self, engine => engine.fork_begin(child, parent))
    }
    fn fork_end(&self, child: &Mm<S>, parent: &Mm<S>) {
        ask!(self, engine => engine.fork_end(child, parent));
    }

    #[inline]
    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        ask!(self, engine => engine.prepare(vma))
    }
    #[inline]
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        ask!(self, engine => engine.is_prepared(vma))
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        ask!(self, engine => engine.fork(child, parent))
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        ask!(self, engine => engine.copy(copy, source))
    }
    fn may_merge(&self, a: &Vma<S>, b: &Vma<S>) -> bool {
        ask!(self, engine => engine.may_merge(a, b))
    }
    fn may_take_in_new(&self, vma: &Vma<S>) -> bool {
        ask!(self, engine => engine.may_take_in_new(vma))
    }
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<AnyPlan<'a, S>> {
        wrap!(self, AnyPlan, engine => engine.plan_relayout(change), map)
    }
    fn commit_relayout(&self, plan: &mut AnyPlan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        ask_of!(self, AnyPlan: plan, (engine, plan) => engine.commit_relayout(plan, apply))
    }
    fn unlink(&self, vma: &Vma<S>) {
        ask!(self, engine => engine.unlink(vma));
    }
    fn lock_for_move<'a>(&'a self, vma: &'a Vma<S>) -> Option<AnyMoveLock<'a, S>> {
        wrap!(self, AnyMoveLock, engine => engine.lock_for_move(vma), map)
    }
    unsafe fn unlock_move(&self, vma: &Vma<S>) {
        // SAFETY: the caller's contract.
        ask!(self, engine => unsafe { engine.unlock_move(vma) });
    }

    #[inline]
    fn reserve(&self, n: usize) -> Result<()> {
        ask!(self, engine => Engine::<S>::reserve(engine, n))
    }
    #[inline]
    fn unreserve(&self, n: usize) {
        ask!(self, engine => Engine::<S>::unreserve(engine, n));
    }
    #[inline]
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, exclusive: bool) {
        ask!(self, engine => engine.anchor_page(page, vma, addr, exclusive));
    }
    #[inline]
    fn reanchor(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        ask!(self, engine => engine.reanchor(page, vma, addr));
    }
    #[inline]
    fn page_mapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        ask!(self, engine => engine.page_mapped(page, vma, addr));
    }
    #[inline]
    fn page_unmapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        ask!(self, engine => engine.page_unmapped(page, vma, addr));
    }
    #[inline]
    fn entire_mapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        ask!(self, engine => engine.entire_mapped(head, vma, addr));
    }
    #[inline]
    fn entire_unmapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        ask!(self, engine => engine.entire_unmapped(head, vma, addr));
    }
    #[inline]
    fn page_moved(&self, page: &Page, from: (&Vma<S>, VirtAddr), to: (&Vma<S>, VirtAddr)) {
        ask!(self, engine => engine.page_moved(page, from, to));
    }

    #[inline]
    fn finds_entries(&self) -> bool {
        ask!(self, engine => Engine::<S>::finds_entries(engine))
    }
    #[inline]
    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<AnyAnchor<'_, S>> {
        wrap!(self, AnyAnchor, engine => engine.lock_anchor(page, wait), map)
    }
    #[inline]
    fn walk_anchor(
        &self,
        anchor: &AnyAnchor<'_, S>,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        ask_of!(self, AnyAnchor: anchor, (engine, anchor) => engine.walk_anchor(anchor, first, last, visit))
    }
    #[inline]
    fn walk_page(
        &self,
        page: &Page,
        wait: Wait,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> Lookup<ControlFlow<()>> {
        ask!(self, engine => engine.walk_page(page, wait, first, last, visit))
    }
    fn is_contended(&self, anchor: &AnyAnchor<'_, S>) -> bool {
        ask_of!(self, AnyAnchor: anchor, (engine, anchor) => engine.is_contended(anchor))
    }

    fn draw(&self, anchor: &AnyAnchor<'_, S>, sketch: &mut Sketch) {
        ask_of!(self, AnyAnchor: anchor, (engine, anchor) => engine.draw(anchor, sketch));
    }

    fn footprint(&self) -> Footprint {
        ask!(self, engine => Engine::<S>::footprint(engine))
    }
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint {
        ask!(self, engine => engine.vma_footprint(vma))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::engine::Kernel;
    use crate::machine::system::{AnonVmaSystem, FullScanSystem, ObjrmapSystem, PteChainSystem};

    #[test]
    fn engines_are_found_by_their_names() {
        fn name<S: Kernel>() -> &'static str {
            <S::Design as Engine<S>>::NAME
        }
        let names =
            [name::<AnonVmaSystem>(), name::<ObjrmapSystem>(), name::<PteChainSystem>(), name::<FullScanSystem>()];
        assert!(EngineKind::ALL.iter().map(|kind| kind.name()).eq(names));
        assert!(EngineKind::ALL.iter().all(|kind| EngineKind::by_name(kind.name()) == Some(*kind)));
        assert_eq!(EngineKind::by_name("any"), None);
    }
}
