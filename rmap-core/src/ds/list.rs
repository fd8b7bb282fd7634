//! A list whose links lie in its items, in the order of insertion: what goes in or out needs no memory and no search.
//!
//! ```text
//!   list: first --> item --> item --> item <-- last
//!                   | <----- | <----- |
//! ```
//!
//! An item can be in several lists at once, by a [`Link`] for each; a marker type that implements [`Linked`] says which
//! link a list goes by.
//!
//! The list has no lock: its owner's guards it and the links of all that is in it, held shared for what takes `&self`,
//! exclusively for what takes `&mut self`.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// An item's place in one list. It belongs to that list.
pub struct Link<T> {
    prev: Cell<Option<NonNull<T>>>,
    next: Cell<Option<NonNull<T>>>,
}

// SAFETY: two pointers, which only the list looks at: under its owner's lock.
unsafe impl<T> Send for Link<T> {}
// SAFETY: as for Send.
unsafe impl<T> Sync for Link<T> {}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self { prev: Cell::new(None), next: Cell::new(None) }
    }
}

/// Says which link of its items a list goes by.
pub trait Linked<T> {
    /// The link. Always the same one of an item.
    fn link(item: &T) -> &Link<T>;
}

/// A list of `T` by the links that `L` names. See the [module](self).
pub struct List<T, L> {
    first: Option<NonNull<T>>,
    last: Option<NonNull<T>>,
    by: PhantomData<fn() -> L>,
}

// SAFETY: a list gives out `&T` and nothing else of `T`.
unsafe impl<T: Sync, L> Send for List<T, L> {}
// SAFETY: as for Send; what takes `&self` changes nothing.
unsafe impl<T: Sync, L> Sync for List<T, L> {}

impl<T, L> List<T, L> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { first: None, last: None, by: PhantomData }
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<T, L> Default for List<T, L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, L: Linked<T>> List<T, L> {
    /// Appends `item`: it is visited after all that are there.
    ///
    /// # Safety
    /// 1. `item` is in no list by this link.
    /// 2. It stays alive and in place until it is removed, and nobody has a `&mut` to it meanwhile.
    #[inline]
    pub unsafe fn push_back(&mut self, item: NonNull<T>) {
        // SAFETY: (2) of the contract, for this item and for those that are in already.
        unsafe {
            L::link(item.as_ref()).prev.set(self.last);
            match self.last {
                Some(last) => L::link(last.as_ref()).next.set(Some(item)),
                None => self.first = Some(item),
            }
        }
        self.last = Some(item);
    }

    /// Takes `item` out. Its link is as it was before it went in.
    ///
    /// # Safety
    /// `item` is in this list.
    #[inline]
    pub unsafe fn remove(&mut self, item: NonNull<T>) {
        // SAFETY: what is in the list is alive (contract of `push_back`), its neighbours too.
        unsafe {
            let link = L::link(item.as_ref());
            let (prev, next) = (link.prev.take(), link.next.take());
            match prev {
                Some(prev) => L::link(prev.as_ref()).next.set(next),
                None => self.first = next,
            }
            match next {
                Some(next) => L::link(next.as_ref()).prev.set(prev),
                None => self.last = prev,
            }
        }
    }

    /// The items, in the order in which they were appended.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        // SAFETY: what is in the list is alive (contract of `push_back`), and stays there while the list is borrowed.
        let at = |item: NonNull<T>| unsafe { item.as_ref() };
        core::iter::successors(self.first.map(at), move |item| L::link(item).next.get().map(at))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Item(Link<Item>);
    struct ByItsLink;
    impl Linked<Item> for ByItsLink {
        fn link(item: &Item) -> &Link<Item> {
            &item.0
        }
    }

    /// Removes from every place of lists of every length up to 4, and appends again.
    #[test]
    fn order_is_that_of_insertion_whoever_goes() {
        for len in 1..5 {
            for gone in 0..len {
                let items: Vec<Item> = (0..len).map(|_| Item(Link::default())).collect();
                let mut list = List::<Item, ByItsLink>::new();
                let mut model: Vec<*const Item> = Vec::new();
                let push = |list: &mut List<_, _>, model: &mut Vec<_>, item| {
                    // SAFETY: alive until the end of the loop, and in no list.
                    unsafe { list.push_back(NonNull::from(item)) };
                    model.push(core::ptr::from_ref(item));
                };
                items.iter().for_each(|item| push(&mut list, &mut model, item));
                let check = |list: &List<Item, ByItsLink>, model: &[*const Item]| {
                    assert_eq!(list.iter().map(core::ptr::from_ref).collect::<Vec<_>>(), model);
                    assert_eq!(list.is_empty(), model.is_empty());
                };
                check(&list, &model);
                // SAFETY: it is in the list.
                unsafe { list.remove(NonNull::from(&items[gone])) };
                model.remove(gone);
                check(&list, &model);
                push(&mut list, &mut model, &items[gone]);
                check(&list, &model);
                for item in &items {
                    // SAFETY: as above.
                    unsafe { list.remove(NonNull::from(item)) };
                    model.retain(|left| !core::ptr::eq(*left, item));
                    check(&list, &model);
                }
            }
        }
    }
}
