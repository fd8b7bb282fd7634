//! What processes have in memory, as a program could find out: for each page how it is mapped, and its bytes.
//!
//! The model knows no VMAs, entries, frames or swap. What the machine may decide for itself it takes over from it after
//! each step, and holds the machine to it from then on: see [`Runner::adopt`](crate::runner::Runner).

use rmap_core::base::error::{Error, Result};
use rmap_core::base::types::VmFlags;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A page's contents.
pub(crate) type Bytes = [u8; 4096];

pub(crate) const MAY: VmFlags = VmFlags::MAYREAD.union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);
pub(crate) const RW: VmFlags = VmFlags::READ.union(VmFlags::WRITE);
pub(crate) const LOCKS: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);

/// First page that may be mapped, and the first that may not any more.
pub(crate) const MIN_PAGE: u64 = 16;
pub(crate) const TASK_PAGES: u64 = 4096;
/// Where a heap begins: among the pages that operations name.
pub(crate) const HEAP: u64 = 1036;
/// Pages that a stack may grow to by faults.
pub(crate) const STACK_LIMIT: u64 = 64;
/// Pages that stay free below a stack.
const STACK_GAP: u64 = 256;

/// A page that a process has for itself.
#[derive(Clone)]
pub(crate) struct Own {
    /// It keeps its number until it is gone; a pin is of a number.
    pub(crate) id: u64,
    pub(crate) bytes: Rc<Bytes>,
    /// The program needs its contents no more, until it writes to it (MADV_FREE).
    pub(crate) lazy: bool,
}

/// What a process has at one page.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) flags: VmFlags,
    /// The object and the page of it; `None`: anonymous memory.
    pub(crate) object: Option<(usize, u64)>,
    pub(crate) name: Option<u8>,
    pub(crate) own: Option<Own>,
    /// Every access fails.
    pub(crate) guard: bool,
}

impl Place {
    pub(crate) fn has(&self, flags: VmFlags) -> bool {
        self.flags.intersects(flags)
    }

    pub(crate) fn empty(&mut self) {
        self.own = None;
        self.guard = false;
    }

    /// How the page is mapped: all but its contents.
    pub(crate) fn layout(&self) -> Layout {
        Layout { flags: self.flags, object: self.object, name: self.name, guard: self.guard }
    }
}

/// How a page is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) flags: VmFlags,
    pub(crate) object: Option<(usize, u64)>,
    pub(crate) name: Option<u8>,
    pub(crate) guard: bool,
}

/// The pages of a process.
pub(crate) type Places = BTreeMap<u64, Place>;

/// A file, or shared memory.
pub(crate) struct Object {
    /// The machine's number of it.
    pub(crate) id: u64,
    /// Named files cannot give their VMAs names.
    pub(crate) is_file: bool,
    pub(crate) pages: Vec<Rc<Bytes>>,
}

/// What a page of a file holds at first.
pub(crate) fn file_page(private: usize, pgoff: u64) -> Bytes {
    core::array::from_fn(|i| (i as u64 / 8 + pgoff * 3 + private as u64) as u8)
}

/// Which page an operation names.
pub(crate) fn vpn(places: &Places, at: u8) -> u64 {
    let at = u64::from(at);
    match at {
        0..192 => 992 + at % 64,
        192..224 => 1520 + (at - 192),
        _ => {
            let nth = (at - 224) as usize * places.len() / 32;
            places.keys().nth(nth).copied().unwrap_or(992)
        }
    }
}

/// Visits the pages of a range from below until a hole ends it; returns whether there is one.
pub(crate) fn up_to_hole(places: &mut Places, page: u64, pages: u64, mut visit: impl FnMut(&mut Place)) -> bool {
    for n in page..page + pages {
        let Some(found) = places.get_mut(&n) else { return true };
        visit(found);
    }
    false
}

/// Visits all pages of a range until `visit` refuses one, which makes the range Invalid; a hole makes it NotMapped.
pub(crate) fn all(
    places: &mut Places,
    page: u64,
    pages: u64,
    mut visit: impl FnMut(&mut Place) -> Result<()>,
) -> Result<()> {
    let mut done = Ok(());
    for n in page..page + pages {
        match places.get_mut(&n) {
            Some(found) => visit(found)?,
            None => done = Err(Error::NotMapped),
        }
    }
    done
}

pub(crate) fn unmap(places: &mut Places, page: u64, pages: u64) {
    (page..page + pages).for_each(|n| drop(places.remove(&n)));
}

/// `old` pages become `new` pages at `to`. What the move leaves behind is empty, if it stays.
pub(crate) fn remap(places: &mut Places, page: u64, old: u64, new: u64, stays: bool, to: u64) {
    if to == page {
        if new < old {
            unmap(places, page + new, old - new);
        }
    } else {
        unmap(places, to, new);
    }
    let source: Vec<_> = (page..page + old.min(new)).map(|n| places.get(&n).cloned()).collect();
    let last = places.get(&(page + old.max(1) - 1)).cloned();
    if to != page {
        if stays {
            (page..page + old).for_each(|n| {
                if let Some(left) = places.get_mut(&n) {
                    left.empty();
                }
            });
        } else {
            unmap(places, page, old);
        }
        for (n, found) in source.into_iter().enumerate() {
            if let Some(found) = found {
                places.insert(to + n as u64, found);
            }
        }
    }
    for n in old..new {
        let Some(last) = &last else { continue };
        let object = last.object.map(|(object, pgoff)| (object, pgoff + n - (old.max(1) - 1)));
        places.insert(to + n, Place { own: None, guard: false, object, ..last.clone() });
    }
}

/// A fault at a page that nothing is mapped at: a stack above it, which ends at `end`, grows down to it.
pub(crate) fn grow_by_fault(places: &mut Places, page: u64, end: u64) -> Result<()> {
    let stack = places.range(page..).next().map(|(start, stack)| (*start, stack.clone()));
    let (start, stack) = stack.filter(|(_, stack)| stack.has(VmFlags::GROWSDOWN)).ok_or(Error::NotMapped)?;
    let below = places.range(..start).next_back();
    let near = below.is_some_and(|(below, place)| {
        place.has(VmFlags::ACCESS) && !place.has(VmFlags::GROWSDOWN) && page - (below + 1) < STACK_GAP
    });
    if near || end - page > STACK_LIMIT {
        return Err(Error::NoSpace);
    }
    grow_to(places, page, start, &stack);
    Ok(())
}

/// The stack that begins at `start` begins at `page`.
pub(crate) fn grow_to(places: &mut Places, page: u64, start: u64, stack: &Place) {
    for n in page..start {
        places.insert(n, Place { own: None, guard: false, ..stack.clone() });
    }
}

/// The first page above `page`, itself included, that a heap may not reach.
pub(crate) fn heap_end(places: &Places, page: u64) -> u64 {
    places.range(page..).next().map_or(TASK_PAGES, |(start, above)| {
        if above.has(VmFlags::GROWSDOWN) { start.saturating_sub(STACK_GAP) } else { *start }
    })
}
