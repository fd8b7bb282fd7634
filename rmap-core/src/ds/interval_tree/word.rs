//! The tagged word that stands wherever the set can continue: in the root, in a leaf's cells, in an inner node's
//! children.

use crate::ds::group::Group;
use crate::ds::interval_tree::inner::Inner;
use crate::ds::interval_tree::leaf::Leaf;
use crate::ds::pool::Block;
use core::ptr::NonNull;

/// A pointer with its kind in the two low bits. The set's exclusive lock guards every change of one.
///
/// | low bits | rest | meaning | where |
/// |---|---|---|---|
/// | 00 | 0 | nothing | root |
/// | 00 | pointer | one item, its interval in the item | root, leaf |
/// | 01 | pointer | a group of items of equal intervals, named by its head chunk | root, leaf |
/// | 10 | pointer | a leaf | root, inner node |
/// | 11 | pointer | an inner node | root, inner node |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Word(*mut ());

/// What a word says.
pub(super) enum View {
    /// Nothing.
    Empty,
    /// One item.
    Item(NonNull<()>),
    /// Items of equal intervals.
    Group(Group),
    /// A leaf.
    Leaf(Leaf),
    /// An inner node.
    Inner(Inner),
}

const KIND: usize = 3;
const GROUP: usize = 1;
const LEAF: usize = 2;

impl Word {
    /// Nothing.
    pub(super) const EMPTY: Self = Self(core::ptr::null_mut());

    /// One item.
    pub(super) fn item(item: NonNull<()>) -> Self {
        Self(item.as_ptr())
    }
    /// A group.
    pub(super) fn group(head: Block) -> Self {
        Self::tagged(head, GROUP)
    }
    /// A leaf.
    pub(super) fn leaf(leaf: &Leaf) -> Self {
        Self::tagged(leaf.block(), LEAF)
    }
    /// An inner node.
    pub(super) fn inner(inner: &Inner) -> Self {
        Self::tagged(inner.block(), KIND)
    }

    fn tagged(block: Block, kind: usize) -> Self {
        Self(block.ptr().as_ptr().map_addr(|addr| addr | kind))
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_null()
    }

    /// What the word says.
    ///
    /// # Safety
    /// The word stands in the set (its root, or a node reached from it), and the caller holds the set's lock as long as
    /// it uses the result: exclusively for what changes a node.
    #[inline]
    pub(super) unsafe fn view(self) -> View {
        let Some(ptr) = NonNull::new(self.0.map_addr(|addr| addr & !KIND)) else { return View::Empty };
        // SAFETY: (1) the tag was put by the constructor of that kind; (2) a word leaves the set before its node is
        // given back; (3) the lock, as the caller's contract says.
        unsafe {
            match self.0.addr() & KIND {
                0 => View::Item(ptr),
                GROUP => View::Group(Group::at(Block::at(ptr))),
                LEAF => View::Leaf(Leaf::at(Block::at(ptr))),
                _ => View::Inner(Inner::at(Block::at(ptr))),
            }
        }
    }

    /// Some item of a cell: itself, or a member of its group.
    ///
    /// # Safety
    /// As for [`view`](Self::view), and the word is an item's or a group's that has a member.
    #[inline]
    pub(super) unsafe fn any_item(self) -> NonNull<()> {
        // SAFETY: the caller's contract.
        match unsafe { self.view() } {
            View::Item(item) => item,
            View::Group(group) => group.any(),
            View::Empty | View::Leaf(_) | View::Inner(_) => unreachable!("not a cell"),
        }
    }
}
