//! The ties of one VMA to anon_vmas: the kernel's `anon_vma_chain` list, as an array from the oldest anon_vma to the
//! VMA's own.
//!
//! Each link remembers where the anon_vma's tree keeps the VMA. Two links (a VMA that was never forked, and a child of
//! the first generation) lie in the VMA itself; more in an array whose capacity is a power of two.
//!
//! | `len` | where the links are |
//! |---|---|
//! | 0 | nowhere: the VMA was never written |
//! | 1, 2 | `body.near` |
//! | more | `body.far`, an array of `capacity(len)` |

use super::node::AnonVma;
use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::base::sync::cell::UnsafeCell;
use crate::ds::interval_tree::Place;
use crate::mm::System;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// One tie.
pub(super) struct Link<S: System> {
    pub(super) anon_vma: NonNull<AnonVma<S>>,
    pub(super) place: Place,
}

impl<S: System> Clone for Link<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: System> Copy for Link<S> {}

impl<S: System> Link<S> {
    /// The anon_vma; slots stay valid.
    #[inline]
    pub(super) fn node<'a>(self) -> &'a AnonVma<S> {
        // SAFETY: a link holds its anon_vma by being in its tree (it is freed after the tree is empty), and slots
        // outlive VMAs.
        unsafe { self.anon_vma.as_ref() }
    }
}

const NEAR: usize = 2;

union Body<S: System> {
    near: [MaybeUninit<Link<S>>; NEAR],
    far: NonNull<Link<S>>,
}

/// The links of one VMA, oldest first.
pub(super) struct Chain<S: System> {
    len: u32,
    cap: u32,
    body: Body<S>,
}

impl<S: System> Chain<S> {
    pub(super) const fn new() -> Self {
        Self { len: 0, cap: NEAR as u32, body: Body { near: [MaybeUninit::uninit(); NEAR] } }
    }

    /// Makes an empty chain one to the same anon_vmas as `source`, tied to nothing yet, with room for `more`. On
    /// failure it stays empty.
    pub(super) fn copy_anchors(&mut self, heap: &Heap, source: &Self, more: usize) -> Result<()> {
        debug_assert!(self.len == 0 && self.cap as usize == NEAR);
        let room = source.links().len() + more;
        if room > NEAR {
            let cap = room.next_power_of_two();
            let layout = Layout::array::<Link<S>>(cap).map_err(|_| Error::NoMemory)?;
            self.body.far = heap.alloc(layout)?.cast();
            self.cap = cap as u32;
        }
        for link in source.links() {
            self.push(Link { anon_vma: link.anon_vma, place: Place::default() });
        }
        Ok(())
    }

    /// Gives the array back. Every chain ends here or is empty and near.
    pub(super) fn free(&mut self, heap: &Heap) {
        if self.cap as usize > NEAR
            && let Ok(layout) = Layout::array::<Link<S>>(self.cap as usize)
        {
            // SAFETY: (1) a capacity over `NEAR` means that `far` is in use, (2) from `with_room`, with this layout.
            unsafe { heap.free(self.body.far.cast(), layout) };
        }
        *self = Self::new();
    }

    fn base(&self) -> *const Link<S> {
        if self.cap as usize > NEAR {
            // SAFETY: a capacity over `NEAR` means that `far` is in use.
            unsafe { self.body.far.as_ptr() }
        } else {
            (&raw const self.body).cast() // `near` lies at the union's start
        }
    }

    fn base_mut(&mut self) -> *mut Link<S> {
        if self.cap as usize > NEAR {
            // SAFETY: as in `base`.
            unsafe { self.body.far.as_ptr() }
        } else {
            (&raw mut self.body).cast()
        }
    }

    /// The links.
    #[inline]
    pub(super) fn links(&self) -> &[Link<S>] {
        // SAFETY: the first `len` links are initialised (`push`).
        unsafe { core::slice::from_raw_parts(self.base(), self.len as usize) }
    }

    /// The links, to change their places.
    #[inline]
    pub(super) fn links_mut(&mut self) -> &mut [Link<S>] {
        // SAFETY: as in `links`; `&mut self`.
        unsafe { core::slice::from_raw_parts_mut(self.base_mut(), self.len as usize) }
    }

    /// Appends; there is room.
    #[inline]
    pub(super) fn push(&mut self, link: Link<S>) {
        debug_assert!(self.len < self.cap);
        // SAFETY: there is room.
        unsafe { self.base_mut().add(self.len as usize).write(link) };
        self.len += 1;
    }

    /// Bytes outside the VMA.
    pub(super) fn far_bytes(&self) -> usize {
        if self.cap as usize > NEAR { self.cap as usize * size_of::<Link<S>>() } else { 0 }
    }
}

/// The engine's data in a VMA.
pub struct VmaAnon<S: System> {
    /// Where new pages of this VMA belong. Set once under mmap_lock (shared suffices: a compare-exchange decides
    /// between threads), Release; pairs with the Acquire in `get`. Cleared and changed under mmap_lock (write).
    anon_vma: AtomicPtr<AnonVma<S>>,
    /// Links in the chain, for neighbours that look while another thread prepares: 0 or 1 then. Relaxed, but for the
    /// first link, which is published by it: Release; pairs with the Acquire in `links_in_tree`.
    len: AtomicU32,
    /// Changed by the winner of `anon_vma`'s compare-exchange, or under mmap_lock (write) and, while the VMA is in a
    /// tree, the root's lock (write). Read under either, under the root's once `len` is not 0.
    chain: UnsafeCell<Chain<S>>,
}

// SAFETY: `chain` is guarded as its comment says; the rest is atomic.
unsafe impl<S: System> Send for VmaAnon<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for VmaAnon<S> {}

impl<S: System> Default for VmaAnon<S> {
    fn default() -> Self {
        Self {
            anon_vma: AtomicPtr::new(core::ptr::null_mut()),
            len: AtomicU32::new(0),
            chain: UnsafeCell::new(Chain::new()),
        }
    }
}

impl<S: System> VmaAnon<S> {
    /// The VMA's own anon_vma. VMA lock held, so that it stays.
    #[inline]
    pub fn get(&self) -> Option<&AnonVma<S>> {
        // SAFETY: a VMA is linked to its anon_vma, which is therefore alive; slots stay valid in any case.
        unsafe { self.anon_vma.load(Ordering::Acquire).as_ref() }
    }

    /// Makes `node` the VMA's own anon_vma, unless another thread was faster.
    #[inline]
    pub(super) fn win(&self, node: &AnonVma<S>) -> bool {
        let node = core::ptr::from_ref(node).cast_mut();
        if mutant("prepare_without_exchange") {
            let before = self.anon_vma.load(Ordering::Acquire);
            self.anon_vma.store(node, Ordering::Release);
            return before.is_null();
        }
        self.anon_vma.compare_exchange(core::ptr::null_mut(), node, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Sets or clears the own anon_vma. mmap_lock held exclusively, or the VMA not yet reachable.
    #[inline]
    pub(super) fn set(&self, node: Option<&AnonVma<S>>) {
        let node = node.map_or(core::ptr::null_mut(), |n| core::ptr::from_ref(n).cast_mut());
        self.anon_vma.store(node, Ordering::Release);
    }

    /// Links of the chain; without mmap_lock held exclusively 0 may stand for a 1 that is being made.
    #[inline]
    pub fn links(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// The chain.
    ///
    /// # Safety
    /// mmap_lock is held exclusively and, if the VMA is in a tree, the root's lock; or this thread has just won
    /// [`win`](Self::win), or the VMA is not reachable yet; and no other reference to the chain is alive.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn chain_mut(&self) -> &mut Chain<S> {
        // SAFETY: the caller's contract.
        self.chain.with_mut(|chain| unsafe { &mut *chain })
    }

    /// Says how many links the chain has. mmap_lock held exclusively, or the VMA not yet reachable.
    #[inline]
    pub(super) fn set_links(&self, n: usize) {
        self.len.store(n as u32, Ordering::Relaxed);
    }

    /// Replaces the chain and returns the old one.
    ///
    /// # Safety
    /// As for [`chain_mut`](Self::chain_mut).
    pub(super) unsafe fn replace_chain(&self, chain: Chain<S>) -> Chain<S> {
        self.len.store(chain.links().len() as u32, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        core::mem::replace(unsafe { self.chain_mut() }, chain)
    }

    /// The first link of a VMA that had none.
    ///
    /// # Safety
    /// This thread has just won [`win`](Self::win).
    #[inline]
    pub(super) unsafe fn set_only_link(&self, link: Link<S>) {
        // SAFETY: the winner alone writes the chain; everybody else waits for mmap_lock, which this thread holds
        // shared.
        unsafe { self.chain_mut() }.push(link);
        self.len.store(1, Ordering::Release);
    }

    /// The chain, to copy it.
    ///
    /// # Safety
    /// mmap_lock is held exclusively.
    #[inline]
    pub(super) unsafe fn chain(&self) -> &Chain<S> {
        // SAFETY: changed under mmap_lock (the field).
        self.chain.with(|chain| unsafe { &*chain })
    }

    /// The links, for whoever has found the VMA in a tree; none while the first is being made by another thread.
    ///
    /// # Safety
    /// The root's lock is held for as long as the result is used, and the VMA is in a tree of that family.
    pub(super) unsafe fn links_in_tree(&self) -> &[Link<S>] {
        if self.len.load(Ordering::Acquire) == 0 {
            return &[];
        }
        // SAFETY: changed under the root's lock from the first link on (the field), which the Acquire has made visible.
        self.chain.with(|chain| unsafe { &*chain }).links()
    }

    /// Bytes of the chain, in the VMA and outside.
    pub(super) fn bytes(&self) -> usize {
        // SAFETY: read under mmap_lock (contract of `Engine::vma_footprint`); only capacity and tag are looked at.
        size_of::<Self>() + self.chain.with(|chain| unsafe { &*chain }).far_bytes()
    }
}
