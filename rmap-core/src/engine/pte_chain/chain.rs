//! The chains of all pages: one list of entries for each, its nodes, and the walk over one while others change it. What
//! an entry names is not known here.
//!
//! Shapes and rules are those of the [engine's page](super); this is how a chain looks:
//!
//! ```text
//!   page's word ─▶ [ next | e  e  -  -  -  - ] ─▶ [ next | e  e  e  e  e  e ] ─▶ ...     the head alone has blanks
//! ```
//!
//! | page's word | meaning |
//! |---|---|
//! | 0 | no mapping |
//! | bit 0 set | the entry of the only mapping |
//! | pointer, low bits 000 | the first node of a list |
//! | pointer, bit 1 (`WALKED`) | besides: a walk is under way; entries stay in place, new ones come last |
//! | pointer, bit 2 (`DIRTY`) | besides: the walk puts the list in order when it ends |
//!
//! All are written under the chain's lock, with Release. A walk reads word, `next` and slots without it, with Acquire.

use crate::base::alloc::Heap;
use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::base::slab::{Slab, SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::base::sync::{CachePadded, SpinLock, load_to_change, rank};
use crate::base::types::VirtAddr;
use crate::page::Page;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// Entries in a node.
pub(super) const SLOTS: usize = 6;
/// Locks that all chains share.
const LOCKS: usize = if cfg!(loom) { 1 } else { 64 };

const ENTRY: u64 = 0b001;
const WALKED: u64 = 0b010;
const DIRTY: u64 = 0b100;
const BITS: u64 = 0b111;

/// What a blank slot has.
const BLANK: u64 = 0;

/// A mapping, in a word.
///
/// | bits | meaning |
/// |---|---|
/// | 0 | 1 |
/// | 1 to 23 | the number of the address space's seat |
/// | 24 to 63 | the virtual page |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// Bits of a seat's number: twice as many seats as Linux has processes at most.
    pub(super) const SEAT_BITS: u32 = 23;
    const VPN_SHIFT: u32 = 1 + Self::SEAT_BITS;

    pub(super) fn new(seat: u32, addr: VirtAddr) -> Self {
        debug_assert!(seat >> Self::SEAT_BITS == 0 && addr.vpn() >> (64 - Self::VPN_SHIFT) == 0, "{addr:?}");
        Self(ENTRY | u64::from(seat) << 1 | addr.vpn() << Self::VPN_SHIFT)
    }
    pub(super) fn seat(self) -> u32 {
        (self.0 >> 1) as u32 & ((1 << Self::SEAT_BITS) - 1)
    }
    pub(super) fn addr(self) -> VirtAddr {
        VirtAddr::from_vpn(self.0 >> Self::VPN_SHIFT)
    }
}

/// A part of a list: a cache line.
#[repr(C, align(64))]
pub(super) struct Node {
    link: SlabLink,
    /// The next node of the list, or null.
    next: AtomicPtr<Node>,
    /// Entries, or `BLANK`. All blank while the node is free.
    slots: [AtomicU64; SLOTS],
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Node>() == 64);

impl SlabItem for Node {
    fn vacant(link: SlabLink) -> Self {
        Self {
            link,
            next: AtomicPtr::new(core::ptr::null_mut()),
            slots: core::array::from_fn(|_| AtomicU64::new(BLANK)),
        }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

impl Node {
    fn next(&self) -> Option<&Node> {
        // SAFETY: null or a node of the same list; nodes stay nodes as long as the engine lives.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }
    fn set_next(&self, next: Option<&Node>) {
        let next = next.map_or(core::ptr::null_mut(), |next| core::ptr::from_ref(next).cast_mut());
        self.next.store(next, Ordering::Release);
    }
    fn blank(&self) -> Option<&AtomicU64> {
        self.slots.iter().find(|slot| load_to_change(slot) == BLANK)
    }
    /// Without the lock a hint.
    fn is_blank(&self) -> bool {
        self.slots.iter().all(|slot| slot.load(Ordering::Relaxed) == BLANK)
    }
    /// Takes an entry out.
    fn pop(&self) -> Option<u64> {
        let slot = self.slots.iter().find(|slot| load_to_change(slot) != BLANK)?;
        let entry = load_to_change(slot);
        slot.store(BLANK, Ordering::Release);
        Some(entry)
    }
    /// The slot of an entry.
    fn find(&self, entry: Entry) -> Option<&AtomicU64> {
        self.slots.iter().find(|slot| load_to_change(slot) == entry.0)
    }
}

/// What a page's word says.
enum Shape<'a> {
    Empty,
    Direct(Entry),
    List { head: &'a Node, bits: u64 },
}

fn shape<'a>(word: u64) -> Shape<'a> {
    if word & ENTRY != 0 {
        return Shape::Direct(Entry(word));
    }
    let head = core::ptr::with_exposed_provenance::<Node>((word & !BITS) as usize);
    // SAFETY: null or a node, whose provenance `pack` exposed; nodes stay nodes as long as the engine lives.
    match unsafe { head.as_ref() } {
        None => Shape::Empty,
        Some(head) => Shape::List { head, bits: word & BITS },
    }
}

fn pack(head: Option<&Node>, bits: u64) -> u64 {
    head.map_or(0, |head| core::ptr::from_ref(head).expose_provenance() as u64 | bits)
}

fn nodes(head: Option<&Node>) -> impl Iterator<Item = &Node> {
    core::iter::successors(head, |node| node.next())
}

/// What chains that share a lock write: on a cache line of its own.
struct Stripe {
    /// Innermost of all, and never held while anything is waited for.
    lock: SpinLock<{ rank::CHAIN }>,
    /// Entries in nodes. Written under `lock`; Relaxed.
    entries: AtomicU64,
}

impl Stripe {
    fn count(&self, change: i64) {
        // Not a read-modify-write: `lock` is held.
        let now = self.entries.load(Ordering::Relaxed).wrapping_add_signed(change);
        self.entries.store(now, Ordering::Relaxed);
    }
}

/// A part of a chain, to be shown.
pub(super) enum Part<'a> {
    /// A node, and how many entries are in it; they follow.
    Node(&'a Node, usize),
    /// An entry: of the node before it, or without one the page's only.
    Entry(Entry),
}

/// Locks and nodes of all chains. A chain's own word is in its page.
pub(super) struct Chains {
    stripes: [CachePadded<Stripe>; LOCKS],
    nodes: Slab<Node>,
    /// Nodes promised: what living reservations were made for, used or not. See [`reserve`](Self::reserve).
    promised: CachePadded<AtomicU64>,
}

impl Chains {
    pub(super) fn new(heap: &Heap) -> Self {
        let stripe = |_| CachePadded(Stripe { lock: SpinLock::new(), entries: AtomicU64::new(0) });
        Self { stripes: core::array::from_fn(stripe), nodes: Slab::new(heap), promised: CachePadded(AtomicU64::new(0)) }
    }

    fn stripe(&self, word: &AtomicU64) -> &Stripe {
        &self.stripes[core::ptr::from_ref(word).addr() / size_of::<Page>() % LOCKS]
    }

    // Memory.

    /// Promises `n` nodes, each of which may be taken once, until [`unreserve`](Self::unreserve) ends the promise.
    ///
    /// Why a promise is kept: the sum is raised first, then at least that many nodes are seen free. Whoever takes a
    /// node has promises left, so free nodes and what is left of promises fall together; promises that are made
    /// meanwhile see this one in the sum. The sum counts promises in full until they end: it may ask for too many,
    /// never for too few.
    pub(super) fn reserve(&self, n: u64) -> Result<()> {
        // Acquire; pairs with the Release in `unreserve`: what was taken by promises that have ended is seen taken. The
        // order of these changes decides between two that promise at once: the later sees both.
        let all = self.promised.fetch_add(n, Ordering::AcqRel) + n;
        self.nodes.reserve(all).inspect_err(|_| self.unreserve(n))
    }

    /// Ends promises for `n` nodes.
    pub(super) fn unreserve(&self, n: u64) {
        // Release; pairs with the Acquire in `reserve`.
        let before = self.promised.fetch_sub(n, Ordering::Release);
        debug_assert!(before >= n);
    }

    /// Takes over promises of the caller's: they hold until [`unreserve`](Self::unreserve), though the caller's end.
    pub(super) fn deposit(&self, n: u64) {
        // Relaxed: the caller's promises hold now, and end later in this thread.
        self.promised.fetch_add(n, Ordering::Relaxed);
    }

    /// A node with nothing in it, promised before.
    fn take(&self) -> &Node {
        loop {
            if let Some(node) = self.nodes.try_take() {
                // SAFETY: nodes stay nodes as long as the engine lives.
                return unsafe { node.as_ref() };
            }
            // There is one, or the caller has broken the contract: it was given back where this thread had looked
            // already.
            assert!(self.promised.load(Ordering::Relaxed) != 0, "a page is mapped, and no memory was reserved for it");
        }
    }

    /// Gives back a node that is in no list any more.
    fn give(&self, node: &Node) {
        debug_assert!(node.is_blank());
        node.set_next(None);
        // SAFETY: taken by `take`, unlinked under the chain's lock, and no walk is in it: callers say why.
        unsafe { self.nodes.give(NonNull::from(node)) };
    }

    /// Nodes in use, and the entries in them; of the past when others map and unmap.
    pub(super) fn in_use(&self) -> (u64, u64) {
        (self.nodes.live(), self.stripes.iter().map(|stripe| stripe.entries.load(Ordering::Relaxed)).sum())
    }

    /// Takes all nodes that can be had without an allocation, for good.
    #[cfg(test)]
    pub(super) fn exhaust(&self) {
        self.nodes.exhaust();
    }

    // Changes. PTE lock of the mapping held, so nobody else adds, removes or moves the same entry.

    /// Puts an entry into the chain of a page. Of what the caller promised it takes a node at most.
    pub(super) fn add(&self, page: &Page, entry: Entry) {
        let word = page.engine_word();
        let stripe = self.stripe(word);
        let _held = stripe.lock.lock();
        match shape(load_to_change(word)) {
            Shape::Empty => word.store(entry.0, Ordering::Release),
            Shape::Direct(first) => {
                let node = self.take();
                if !mutant("chain_lose_direct") {
                    node.slots[0].store(first.0, Ordering::Release);
                }
                node.slots[1].store(entry.0, Ordering::Release);
                word.store(pack(Some(node), 0), Ordering::Release);
                stripe.count(2);
            }
            Shape::List { head, bits } if bits & WALKED != 0 => {
                self.append(head, entry);
                word.store(pack(Some(head), bits | DIRTY), Ordering::Release);
                stripe.count(1);
            }
            Shape::List { head, .. } => {
                if let Some(slot) = head.blank() {
                    slot.store(entry.0, Ordering::Release);
                } else {
                    let node = self.take();
                    node.slots[0].store(entry.0, Ordering::Release);
                    node.set_next(Some(head));
                    word.store(pack(Some(node), 0), Ordering::Release);
                }
                stripe.count(1);
            }
        }
    }

    /// Puts an entry behind all others: the walk that is under way comes by it after them.
    fn append(&self, head: &Node, entry: Entry) {
        let occupied = |node: &Node| node.slots.iter().rposition(|slot| load_to_change(slot) != BLANK);
        let mut place = (head, 0);
        for node in nodes(Some(head)) {
            if let Some(last) = occupied(node) {
                place = (node, last + 1);
            }
        }
        let (last, mut slot) = place;
        let node = match last.next() {
            _ if slot < SLOTS => last,
            Some(blank) => {
                slot = 0;
                blank
            }
            None => {
                let node = self.take();
                node.slots[0].store(entry.0, Ordering::Release);
                last.set_next(Some(node));
                return;
            }
        };
        node.slots[slot].store(entry.0, Ordering::Release);
    }

    /// Takes an entry out of the chain of a page.
    pub(super) fn remove(&self, page: &Page, entry: Entry) {
        let word = page.engine_word();
        let stripe = self.stripe(word);
        let _held = stripe.lock.lock();
        let now = load_to_change(word);
        match shape(now) {
            Shape::Direct(only) if only == entry => word.store(0, Ordering::Release),
            Shape::List { head, bits } => {
                let Some(slot) = nodes(Some(head)).find_map(|node| node.find(entry)) else {
                    debug_assert!(false, "{entry:?} is not in the chain of {page:?}");
                    return;
                };
                slot.store(BLANK, Ordering::Release);
                stripe.count(-1);
                let walked = bits & WALKED != 0;
                // The head alone has blanks: one of its entries fills the hole. A walk could have passed the hole, and
                // not yet the entry.
                if (!walked || mutant("chain_fill_walked"))
                    && let Some(last) = head.pop()
                {
                    slot.store(last, Ordering::Release);
                }
                if walked {
                    word.store(now | DIRTY, Ordering::Release);
                } else {
                    self.shrink(word, stripe, head);
                }
            }
            _ => debug_assert!(false, "{entry:?} is not in the chain of {page:?}"),
        }
    }

    /// Puts `new` in the place of `old`: the mapping moves. Needs no memory, and a walk that is at the place sees it.
    pub(super) fn replace(&self, page: &Page, old: Entry, new: Entry) {
        let word = page.engine_word();
        let _held = self.stripe(word).lock.lock();
        let place = match shape(load_to_change(word)) {
            Shape::Direct(only) => (only == old).then_some(word),
            Shape::List { head, .. } => nodes(Some(head)).find_map(|node| node.find(old)),
            Shape::Empty => None,
        };
        debug_assert!(place.is_some(), "{old:?} is not in the chain of {page:?}");
        if let Some(place) = place {
            place.store(new.0, Ordering::Release);
        }
    }

    /// Gives back heads that are blank, and the last node of an entry that is alone. The lock is held and no walk is
    /// under way.
    fn shrink(&self, word: &AtomicU64, stripe: &Stripe, head: &Node) {
        let mut head = Some(head);
        while let Some(blank) = head.filter(|head| head.is_blank()) {
            head = blank.next();
            self.give(blank);
        }
        let alone = |node: &&Node| {
            node.next().is_none() && node.slots.iter().filter(|slot| load_to_change(slot) != BLANK).count() == 1
        };
        if let Some(node) = head.filter(alone)
            && let Some(only) = node.pop()
        {
            word.store(only, Ordering::Release);
            stripe.count(-1);
            self.give(node);
            return;
        }
        word.store(pack(head, 0), Ordering::Release);
    }

    /// Calls `show` with each part of a page's chain as it is at one moment, in order. `show` runs under the chain's
    /// lock: it may not wait, nor map or unmap.
    pub(super) fn show(&self, page: &Page, mut show: impl FnMut(Part<'_>)) {
        let word = page.engine_word();
        let _held = self.stripe(word).lock.lock();
        match shape(load_to_change(word)) {
            Shape::Empty => {}
            Shape::Direct(only) => show(Part::Entry(only)),
            Shape::List { head, .. } => {
                for node in nodes(Some(head)) {
                    let entries = || node.slots.iter().map(load_to_change).filter(|entry| *entry != BLANK);
                    show(Part::Node(node, entries().count()));
                    entries().for_each(|entry| show(Part::Entry(Entry(entry))));
                }
            }
        }
    }

    // Walks.

    /// Calls `visit` with every entry of a page that is there from now to the end of the walk, once; with those that
    /// come meanwhile if they come behind one that was visited since; with one that moves at its old place, at its new
    /// one, or at both. No lock is held while `visit` runs.
    ///
    /// Context: the lock of the page (of its compound page) is held, so that there is one walk at a time.
    pub(super) fn walk(&self, page: &Page, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> ControlFlow<()> {
        let word = page.engine_word();
        let mut seen = None;
        loop {
            match shape(word.load(Ordering::Acquire)) {
                Shape::Empty => return ControlFlow::Continue(()),
                Shape::Direct(only) if seen == Some(only) => return ControlFlow::Continue(()),
                Shape::Direct(only) => {
                    visit(only)?;
                    // What was copied from it, or took its place, is in the word now.
                    seen = Some(only);
                }
                Shape::List { .. } => {
                    if let Some((walk, head)) = Walk::begin(self, word) {
                        return walk.run(head, seen, visit);
                    }
                }
            }
        }
    }
}

/// A walk over a list. While it lives, entries stay in their slots, and nodes in the list, but for those that it gives
/// back itself.
struct Walk<'a> {
    chains: &'a Chains,
    word: &'a AtomicU64,
}

impl<'a> Walk<'a> {
    /// `None`: it is no list any more.
    fn begin(chains: &'a Chains, word: &'a AtomicU64) -> Option<(Self, &'a Node)> {
        let _held = chains.stripe(word).lock.lock();
        let Shape::List { head, bits } = shape(load_to_change(word)) else { return None };
        debug_assert!(bits & WALKED == 0, "two walks of one page: the page lock is not held");
        word.store(pack(Some(head), bits | WALKED), Ordering::Release);
        Some((Self { chains, word }, head))
    }

    /// `seen` was visited before.
    fn run(
        &self,
        head: &Node,
        seen: Option<Entry>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut node = head;
        loop {
            for slot in &node.slots {
                let mut last = seen;
                loop {
                    let entry = slot.load(Ordering::Acquire);
                    if entry == BLANK || last == Some(Entry(entry)) {
                        break;
                    }
                    visit(Entry(entry))?;
                    if mutant("chain_no_second_look") {
                        break;
                    }
                    // Looked at again: it may have moved before it was found.
                    last = Some(Entry(entry));
                }
            }
            let Some(next) = node.next() else { return ControlFlow::Continue(()) };
            if node.is_blank() {
                self.give_head(node, next);
            }
            node = next;
        }
    }

    /// Gives back a node that the walk has left, if it is the first and blank: who takes the next entry out need not
    /// look through it.
    fn give_head(&self, node: &Node, next: &Node) {
        let _held = self.chains.stripe(self.word).lock.lock();
        if let Shape::List { head, bits } = shape(load_to_change(self.word))
            && core::ptr::eq(head, node)
            && node.is_blank()
        {
            self.word.store(pack(Some(next), bits), Ordering::Release);
            self.chains.give(node);
        }
    }
}

impl Drop for Walk<'_> {
    /// Puts the list in order, if it was changed.
    fn drop(&mut self) {
        let stripe = self.chains.stripe(self.word);
        let _held = stripe.lock.lock();
        let Shape::List { head, bits } = shape(load_to_change(self.word)) else { return };
        if bits & DIRTY == 0 {
            self.word.store(pack(Some(head), 0), Ordering::Release);
            return;
        }
        // Entries of the head fill the blanks of the others.
        let mut head = head;
        let mut node = head;
        while let Some(next) = node.next() {
            node = next;
            while let Some(slot) = node.blank() {
                match head.pop() {
                    Some(entry) => slot.store(entry, Ordering::Release),
                    None => {
                        // Not the last, which is `node` at most.
                        let Some(rest) = head.next() else { break };
                        self.chains.give(head);
                        head = rest;
                        if core::ptr::eq(head, node) {
                            break;
                        }
                    }
                }
            }
        }
        self.chains.shrink(self.word, stripe, head);
    }
}
