//! The bytes of page frames and of swap slots kept in memory: pages of 4 KiB, numbered from 0.
//!
//! A page without memory reads as zero. Memory is attached by [`make_zero`](PageStore::make_zero) or
//! [`ensure`](PageStore::ensure) and then stays until the store is dropped, whatever happens to the frame. So a racing
//! reader with a stale frame number reads living memory, and no method here needs a contract; frames that are freed and
//! handed out again cost no allocation.
//!
//! Bytes are kept in words of eight, each an atomic accessed Relaxed: programs race on their own memory, and that must
//! be defined behaviour here. A store of part of a word is a read-modify-write, so that two threads that write
//! neighbouring bytes do not undo each other. The store orders nothing: whoever hands a page from one thread to another
//! does that by the lock or the reference count that it hands it over with.

use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::base::types::PAGE_SIZE;
use core::alloc::Layout;
use core::cmp;
use core::ptr::NonNull;

/// Bytes in a word.
const WORD: usize = size_of::<u64>();
/// Words in a page.
const WORDS: usize = PAGE_SIZE as usize / WORD;

/// One page. Words are in memory order: byte i of the page is byte `i % 8`, as the machine stores it, of word `i / 8`.
#[repr(align(64))]
struct Words([AtomicU64; WORDS]);

impl Words {
    fn zero() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Numbered pages of bytes. See the [module](self).
pub struct PageStore {
    heap: Heap,
    /// Null, or the memory of that page. Set once by compare-exchange: Release, pairs with the Acquire in `words`;
    /// freed only by drop.
    pages: HeapVec<AtomicPtr<Words>>,
}

impl PageStore {
    /// `count` pages, all zero and without memory.
    pub fn new(heap: &Heap, count: u64) -> Result<Self> {
        let count = usize::try_from(count).map_err(|_| Error::NoMemory)?;
        let mut pages = heap.vec();
        pages.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        pages.extend((0..count).map(|_| AtomicPtr::new(core::ptr::null_mut())));
        Ok(Self { heap: heap.clone(), pages })
    }

    /// Pages in the store.
    pub fn count(&self) -> u64 {
        self.pages.len() as u64
    }

    #[inline]
    fn words(&self, page: u64) -> Option<&[AtomicU64; WORDS]> {
        let words = self.pages[page as usize].load(Ordering::Acquire);
        // SAFETY: `attach` published initialised memory, which stays until the store is dropped.
        unsafe { words.as_ref() }.map(|words| &words.0)
    }

    /// Attaches fresh, zero memory to a page that had none.
    #[cold]
    fn attach(&self, page: u64) -> Result<()> {
        let layout = Layout::new::<Words>();
        let fresh = self.heap.alloc(layout)?.cast::<Words>();
        // SAFETY: fresh memory of that layout, ours alone.
        unsafe { fresh.write(Words::zero()) };
        let place = &self.pages[page as usize];
        let empty = core::ptr::null_mut();
        // Release; pairs with the Acquire in `words`.
        if place.compare_exchange(empty, fresh.as_ptr(), Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: allocated above with this layout; not published, since the exchange failed.
            unsafe { self.heap.free(fresh.cast(), layout) };
        }
        Ok(())
    }

    /// Makes sure that the page has memory, so that writes to it are kept. Several threads may ask at once.
    pub fn ensure(&self, page: u64) -> Result<()> {
        if self.words(page).is_some() { Ok(()) } else { self.attach(page) }
    }

    /// Makes sure that the page has memory and that all of it is zero. The caller owns the page alone.
    pub fn make_zero(&self, page: u64) -> Result<()> {
        match self.words(page) {
            Some(words) => {
                clear(words);
                Ok(())
            }
            None => self.attach(page),
        }
    }

    /// Copies bytes `[offset, offset + out.len())` of the page out.
    pub fn read(&self, page: u64, offset: usize, out: &mut [u8]) {
        assert_within_page(offset, out.len());
        let Some(words) = self.words(page) else {
            out.fill(0);
            return;
        };
        let (head, rest) = out.split_at_mut(up_to_word(offset, out.len()));
        let (body, tail) = rest.as_chunks_mut::<WORD>();
        let mut at = offset / WORD;
        if !head.is_empty() {
            read_part(&words[at], offset % WORD, head);
            at += 1;
        }
        for (out, word) in body.iter_mut().zip(&words[at..]) {
            *out = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if !tail.is_empty() {
            read_part(&words[at + body.len()], 0, tail);
        }
    }

    /// Copies `data` to bytes `[offset, offset + data.len())` of the page. A page without memory stays zero.
    pub fn write(&self, page: u64, offset: usize, data: &[u8]) {
        assert_within_page(offset, data.len());
        let Some(words) = self.words(page) else { return };
        let (head, rest) = data.split_at(up_to_word(offset, data.len()));
        let (body, tail) = rest.as_chunks::<WORD>();
        let mut at = offset / WORD;
        if !head.is_empty() {
            write_part(&words[at], offset % WORD, head);
            at += 1;
        }
        for (data, word) in body.iter().zip(&words[at..]) {
            word.store(u64::from_ne_bytes(*data), Ordering::Relaxed);
        }
        if !tail.is_empty() {
            write_part(&words[at + body.len()], 0, tail);
        }
    }

    /// Copies one page to another. A target without memory stays zero.
    pub fn copy(&self, from: u64, to: u64) {
        let Some(to) = self.words(to) else { return };
        match self.words(from) {
            Some(from) => {
                for (to, from) in to.iter().zip(from) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            None => clear(to),
        }
    }

    /// Whether every byte of the page is zero. While others write, the answer is of no one moment.
    pub fn is_zero(&self, page: u64) -> bool {
        self.words(page).is_none_or(|words| words.iter().all(|word| word.load(Ordering::Relaxed) == 0))
    }

    /// Compares two pages as strings of bytes. While others write, the answer is of no one moment: write-protect first,
    /// or compare again.
    pub fn compare(&self, a: u64, b: u64) -> cmp::Ordering {
        let word =
            |words: Option<&[AtomicU64; WORDS]>, i: usize| words.map_or(0, |words| words[i].load(Ordering::Relaxed));
        let (a, b) = (self.words(a), self.words(b));
        (0..WORDS)
            .map(|i| (word(a, i), word(b, i)))
            .find(|(a, b)| a != b)
            .map_or(cmp::Ordering::Equal, |(a, b)| a.to_ne_bytes().cmp(&b.to_ne_bytes()))
    }
}

fn clear(words: &[AtomicU64; WORDS]) {
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
}

fn assert_within_page(offset: usize, len: usize) {
    let inside = offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE as usize);
    assert!(inside, "{len} bytes at {offset} do not lie in one page");
}

/// How many of `len` bytes at `offset` lie before the next word, when `offset` is not the start of one.
fn up_to_word(offset: usize, len: usize) -> usize {
    (offset.next_multiple_of(WORD) - offset).min(len)
}

fn read_part(word: &AtomicU64, start: usize, out: &mut [u8]) {
    out.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[start..start + out.len()]);
}

fn write_part(word: &AtomicU64, start: usize, data: &[u8]) {
    let change = |old: u64| {
        let mut bytes = old.to_ne_bytes();
        bytes[start..start + data.len()].copy_from_slice(data);
        u64::from_ne_bytes(bytes)
    };
    let mut old = word.load(Ordering::Relaxed);
    while let Err(now) = word.compare_exchange_weak(old, change(old), Ordering::Relaxed, Ordering::Relaxed) {
        old = now;
    }
}

impl core::fmt::Debug for PageStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PageStore").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Drop for PageStore {
    fn drop(&mut self) {
        for page in &self.pages {
            // Relaxed: `&mut self` came to this thread after all that others did here.
            if let Some(words) = NonNull::new(page.load(Ordering::Relaxed)) {
                // SAFETY: (1) allocated in `attach` with this layout and published once; (2) `&mut self`: no reader is
                // left; (3) it is initialised.
                unsafe {
                    core::ptr::drop_in_place(words.as_ptr());
                    self.heap.free(words.cast(), Layout::new::<Words>());
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;
    use proptest::prelude::*;

    const SIZE: usize = PAGE_SIZE as usize;

    fn bytes(store: &PageStore, page: u64) -> Vec<u8> {
        let mut all = vec![0xAA; SIZE];
        store.read(page, 0, &mut all);
        all
    }

    proptest! {
        #[test]
        fn reads_and_writes_at_any_offset_agree_with_an_array(
            writes in prop::collection::vec((0..SIZE, prop::collection::vec(any::<u8>(), 0..40)), 1..30),
            at in 0..SIZE, len in 0..100_usize,
        ) {
            let store = PageStore::new(&Heap::global().unwrap(), 1).unwrap();
            store.ensure(0).unwrap();
            let mut model = vec![0; SIZE];
            for (offset, data) in writes {
                let data = &data[..data.len().min(SIZE - offset)];
                store.write(0, offset, data);
                model[offset..offset + data.len()].copy_from_slice(data);
            }
            prop_assert_eq!(&bytes(&store, 0), &model);
            let mut part = vec![0xAA; len.min(SIZE - at)];
            store.read(0, at, &mut part);
            prop_assert_eq!(&part[..], &model[at..at + part.len()]);
        }

        #[test]
        fn pages_compare_as_strings_of_bytes(a in prop::collection::vec(0..3_u8, 24), b in prop::collection::vec(0..3_u8, 24)) {
            let store = PageStore::new(&Heap::global().unwrap(), 2).unwrap();
            for (page, data) in [(0, &a), (1, &b)] {
                store.ensure(page).unwrap();
                store.write(page, 4_000, data);
            }
            prop_assert_eq!(store.compare(0, 1), a.cmp(&b));
            prop_assert_eq!(store.is_zero(0), a.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_page_without_memory_is_zero_and_takes_no_writes() {
        let store = PageStore::new(&Heap::global().unwrap(), 2).unwrap();
        store.write(0, 10, &[1, 2, 3]);
        assert!(store.is_zero(0) && bytes(&store, 0).iter().all(|byte| *byte == 0));
        store.ensure(1).unwrap();
        store.write(1, 0, &[1]);
        assert_eq!(store.compare(0, 1), cmp::Ordering::Less);
        store.copy(0, 1);
        assert!(store.is_zero(1));
    }

    #[test]
    #[should_panic(expected = "do not lie in one page")]
    fn an_access_across_the_end_is_refused() {
        PageStore::new(&Heap::global().unwrap(), 2).unwrap().read(0, SIZE - 1, &mut [0; 2]);
    }

    #[test]
    fn neighbouring_bytes_written_at_once_are_both_kept() {
        let store = PageStore::new(&Heap::global().unwrap(), 1).unwrap();
        crate::base::testing::scope(|s| {
            for byte in 0..4 {
                let store = &store;
                s.spawn(move || {
                    store.ensure(0).unwrap();
                    for round in 0..60_000_u32 {
                        store.write(0, 8 + byte, &[round as u8]);
                        let mut back = [0];
                        store.read(0, 8 + byte, &mut back);
                        assert_eq!(back[0], round as u8);
                    }
                });
            }
        });
    }

    #[test]
    fn running_out_is_an_error_and_all_memory_returns() {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        countdown.fail_after(0);
        assert!(PageStore::new(&heap, 4).is_err());
        countdown.fail_after(1);
        let store = PageStore::new(&heap, 4).unwrap();
        assert_eq!(store.make_zero(2), Err(Error::NoMemory));
        assert_eq!(store.ensure(2), Err(Error::NoMemory));
        assert!(countdown.lift());
        store.make_zero(2).unwrap();
        drop(store);
        assert_eq!(heap.in_use(), 0);
    }
}
