//! The operations that change how pages are mapped.

use crate::model::{self, HEAP, LOCKS, MAY, Object, Place, Places, RW};
use crate::op::{Lock, Op, What};
use crate::runner::{Outcome, Runner, at, bytes};
use rmap_core::base::error::{Error, Result};
use rmap_core::base::types::VmFlags;
use rmap_core::machine::advise::Advice;
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::remap::MremapFlags;
use rmap_core::mm::address_space::MmLocked;
use std::rc::Rc;

const FIXED: MapFlags = MapFlags::FIXED.union(MapFlags::FIXED_NOREPLACE);
const MAY_SHIFT: u32 = VmFlags::MAYREAD.bits().trailing_zeros();

fn locks(lock: Lock) -> VmFlags {
    match lock {
        Lock::Now => VmFlags::LOCKED,
        Lock::OnFault => LOCKS,
        Lock::Off => VmFlags::empty(),
    }
}

impl Runner {
    pub(crate) fn map(&mut self, op: Op, fail: Option<u8>) -> Outcome {
        let Op::Map { mm, at: place, pages, prot, what, mut flags } = op else { unreachable!() };
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        let fixed = flags.intersects(FIXED);
        let (object, shared) = match what {
            What::Anon => (None, false),
            What::SharedAnon => (None, true),
            What::File { which, pgoff } => {
                let pgoff = pgoff.map_or(page % 64 % 20, u64::from);
                (Some((usize::from(which), pgoff)), flags.contains(MapFlags::SHARED))
            }
        };
        flags.set(MapFlags::SHARED, shared);
        flags.set(MapFlags::PRIVATE, !shared);
        let request = MapRequest {
            addr: (fixed || place < 192).then(|| at(page)),
            file: object.map(|(object, pgoff)| (self.files[object].clone(), pgoff)),
            ..MapRequest::new(bytes(pages), prot, flags)
        };
        let done = self.limited(fail, |this| this.machine.mmap(&this.processes[which].mm, &request));
        if self.ran_out(&done, false) {
            return Err(Error::NoMemory);
        }
        let process = &mut self.processes[which];
        let taken = |start: u64| process.places.range(start..start + pages).next().is_some();
        let stack = flags.contains(MapFlags::GROWSDOWN);
        let sealed = flags.contains(MapFlags::READ_ONLY_FILE) && shared;
        let expected = if stack && (shared || object.is_some()) {
            Err(Error::Invalid)
        } else if sealed && prot.contains(VmFlags::WRITE) {
            Err(Error::Access)
        } else if flags.contains(MapFlags::FIXED_NOREPLACE) && taken(page) {
            Err(Error::Exists)
        } else {
            Ok(())
        };
        assert_eq!(done.map(|_| ()), expected);
        let start = done?.vpn();
        assert!(if fixed { start == page } else { !taken(start) }, "mapped at page {start}");
        let object = match (object, shared) {
            (None, true) => {
                let held = process.mm.read();
                let file = held.find(at(start)).and_then(|vma| vma.file()).expect("shared memory is a file");
                let pages = (0..pages).map(|_| Rc::new([0; 4096])).collect();
                self.objects.push(Object { id: file.id(), is_file: false, pages });
                Some((self.objects.len() - 1, 0))
            }
            (object, _) => object,
        };
        let mut kept = prot | MAY | process.future;
        kept.set(VmFlags::SHARED, shared);
        kept.set(VmFlags::GROWSDOWN, stack);
        kept -= if sealed { VmFlags::MAYWRITE } else { VmFlags::empty() };
        kept |= if flags.contains(MapFlags::LOCKED) { VmFlags::LOCKED } else { VmFlags::empty() };
        for n in 0..pages {
            let object = object.map(|(object, pgoff)| (object, pgoff + n));
            process.places.insert(start + n, Place { flags: kept, object, name: None, own: None, guard: false });
        }
        Ok(start)
    }

    pub(crate) fn unmap(&mut self, mm: u8, place: u8, pages: u8, fail: Option<u8>) -> Outcome {
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        let done = self.limited(fail, |this| this.machine.munmap(&this.processes[which].mm, at(page), bytes(pages)));
        if self.ran_out(&done, false) {
            return Err(Error::NoMemory);
        }
        assert_eq!(done, Ok(()));
        model::unmap(&mut self.processes[which].places, page, pages);
        Ok(page)
    }

    /// An operation that goes VMA by VMA, and may run out of memory on the way: then each page is as before or as it
    /// was to become.
    fn by_vma(
        &mut self,
        which: usize,
        fail: Option<u8>,
        takes_frames: bool,
        change: impl FnOnce(&mut Places) -> Result<()>,
        act: impl FnOnce(&Self) -> Result<()>,
    ) -> Outcome {
        let done = self.limited(fail, |this| act(this));
        let mut after = self.processes[which].places.clone();
        let expected = change(&mut after);
        if self.ran_out(&done, takes_frames) {
            let real = self.layout(which);
            for (page, place) in &mut self.processes[which].places {
                let changed = after.get(page).filter(|after| real.get(page) == Some(&after.layout()));
                if let Some(changed) = changed {
                    *place = changed.clone();
                }
            }
        } else {
            assert_eq!(done, expected);
            self.processes[which].places = after;
        }
        done.map(|()| 0)
    }

    pub(crate) fn protect(&mut self, mm: u8, place: u8, pages: u8, prot: VmFlags, fail: Option<u8>) -> Outcome {
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        let change = |places: &mut Places| {
            for n in page..page + pages {
                let place = places.get_mut(&n).ok_or(Error::NotMapped)?;
                if !VmFlags::from_bits_retain(place.flags.bits() >> MAY_SHIFT).contains(prot) {
                    return Err(Error::Access);
                }
                place.flags = (place.flags - VmFlags::ACCESS) | prot;
            }
            Ok(())
        };
        self.by_vma(which, fail, false, change, |this| {
            this.machine.mprotect(&this.processes[which].mm, at(page), bytes(pages), prot)
        })
    }

    pub(crate) fn lock(&mut self, mm: u8, place: u8, pages: u8, lock: Lock, fail: Option<u8>) -> Outcome {
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        let flags = locks(lock);
        let change = |places: &mut Places| {
            let hole = model::up_to_hole(places, page, pages, |place| place.flags = (place.flags - LOCKS) | flags);
            if hole { Err(Error::NotMapped) } else { Ok(()) }
        };
        let mut range = self.processes[which].places.range(page..page + pages);
        let present =
            range.all(|(_, place)| place.has(VmFlags::ACCESS) && !place.guard && self.bytes_of(place).is_ok());
        let mm = self.processes[which].mm.clone();
        let done = self.limited(fail, |this| match lock {
            Lock::Off => this.machine.munlock(&mm, at(page), bytes(pages)),
            _ => this.machine.mlock(&mm, at(page), bytes(pages), lock == Lock::OnFault),
        });
        if lock == Lock::Now && done == Err(Error::NoMemory) && !self.refused {
            // Locked, but some page could not be had.
            let hole = change(&mut self.processes[which].places);
            assert_eq!(hole, Ok(()));
            assert!(!present || self.may_run_out(true), "every page could be had");
            return Err(Error::NoMemory);
        }
        self.by_vma(which, None, false, change, |_| done)
    }

    pub(crate) fn lock_all(&mut self, op: Op, fail: Option<u8>) -> Outcome {
        let Op::LockAll { mm, current, future, onfault } = op else { unreachable!() };
        let which = self.which(mm);
        let mm = self.processes[which].mm.clone();
        let done = self.limited(fail, |this| {
            if current || future {
                this.machine.mlockall(&mm, current, future, onfault)
            } else {
                this.machine.munlockall(&mm)
            }
        });
        assert_eq!(done, Ok(()));
        let flags = locks(if onfault { Lock::OnFault } else { Lock::Now });
        let process = &mut self.processes[which];
        process.future = if future { flags } else { VmFlags::empty() };
        let now = if current { flags } else { VmFlags::empty() };
        if !current && future {
            return Ok(0);
        }
        // What cannot be changed for want of memory is left as it is.
        let real = self.refused.then(|| self.layout(which));
        for (page, place) in &mut self.processes[which].places {
            let changed = Place { flags: (place.flags - LOCKS) | now, ..place.clone() };
            if real.as_ref().is_none_or(|real| real.get(page) == Some(&changed.layout())) {
                *place = changed;
            }
        }
        Ok(0)
    }

    pub(crate) fn name(&mut self, mm: u8, place: u8, pages: u8, name: Option<u8>, fail: Option<u8>) -> Outcome {
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        let files: Vec<_> = self.objects.iter().map(|object| object.is_file).collect();
        let change = |places: &mut Places| {
            model::all(places, page, pages, |place| {
                if place.object.is_some_and(|(object, _)| files[object]) {
                    return Err(Error::NotSupported);
                }
                place.name = name;
                Ok(())
            })
        };
        let text = name.map(|name| [name]);
        self.by_vma(which, fail, false, change, |this| {
            let text = text.as_ref().map(|text| &text[..]);
            this.machine.set_name(&this.processes[which].mm, at(page), bytes(pages), text)
        })
    }

    pub(crate) fn advise(&mut self, mm: u8, place: u8, pages: u8, advice: Advice, fail: Option<u8>) -> Outcome {
        let (which, pages) = (self.which(mm), u64::from(pages));
        let page = self.page_of(which, place);
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return self.populate(which, page, pages, advice, fail);
        }
        let change = |places: &mut Places| model::all(places, page, pages, |place| advise_place(place, advice));
        let before = if advice == Advice::Free { self.lazy_in(which, page, pages) } else { Vec::new() };
        let done = self.by_vma(which, fail, false, change, |this| {
            this.machine.madvise(&this.processes[which].mm, at(page), bytes(pages), advice)
        });
        if advice == Advice::Free {
            self.adopt_lazy(which, &before);
        }
        done
    }

    pub(crate) fn brk(&mut self, mm: u8, place: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let page = self.page_of(which, place);
        let after = self.limited(fail, |this| this.machine.brk(&this.processes[which].mm, at(page))).vpn();
        let process = &mut self.processes[which];
        let before = process.brk;
        let moves = page >= HEAP && (page <= before || page < model::heap_end(&process.places, before));
        let same = after == before && self.refused;
        assert!(same || after == if moves { page } else { before }, "the heap ends at {after}, and ended at {before}");
        if after < before {
            model::unmap(&mut process.places, after, before - after);
        }
        let flags = RW | MAY | process.future;
        for n in before..after {
            process.places.insert(n, Place { flags, object: None, name: None, own: None, guard: false });
        }
        process.brk = after;
        Ok(after)
    }

    /// A stack grows down to a page by a call of its own.
    pub(crate) fn grow(&mut self, mm: u8, place: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let page = self.page_of(which, place);
        let Some(end) = self.stack_end(which, page) else { return Ok(0) };
        let done = self.limited(fail, |this| this.machine.grow_stack(&this.processes[which].mm, at(page), at(end)));
        if self.ran_out(&done, false) {
            return Err(Error::NoMemory);
        }
        let places = &mut self.processes[which].places;
        let (start, stack) = places.range(page..).next().map(|(n, place)| (*n, place.clone())).expect("a stack");
        match done {
            // A stack that was moved may have no offsets left.
            Err(error) => assert_eq!(error, Error::NoSpace),
            Ok(()) => model::grow_to(places, page, start, &stack),
        }
        done.map(|()| page)
    }

    pub(crate) fn remap(&mut self, op: Op, fail: Option<u8>) -> Outcome {
        let Op::Remap { mm, at: place, old, new, flags, to } = op else { unreachable!() };
        let which = self.which(mm);
        let (page, to) = (self.page_of(which, place), self.page_of(which, to));
        let old = u64::from(old);
        let new = if flags.contains(MremapFlags::DONTUNMAP) { old } else { u64::from(new) };
        let stays = flags.contains(MremapFlags::DONTUNMAP);
        let target = flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP).then(|| at(to));
        let places = &self.processes[which].places;
        if stays && places.range(page..page + old).any(|(_, place)| place.has(VmFlags::LOCKED)) {
            // The lock leaves the whole of each VMA, whose ends the model does not know.
            return Ok(0);
        }
        let several = old == new && (page..page + old).any(|n| !places.contains_key(&n));
        let done = self.limited(fail, |this| {
            this.machine.mremap(&this.processes[which].mm, at(page), bytes(old), bytes(new), flags, target)
        });
        if self.ran_out(&done, false) {
            // VMAs moved that came before the one that could not.
            self.adopt_moves(which, page, old, to);
            return Err(Error::NoMemory);
        }
        let places = &mut self.processes[which].places;
        match done {
            // A gap that moves with its VMAs leaves alone what is at its new place.
            Ok(start) if several => {
                for (from, pages) in runs(places, page, old) {
                    model::remap(places, from, pages, pages, stays, start.vpn() + from - page);
                }
            }
            Ok(start) => model::remap(places, page, old, new, stays, start.vpn()),
            Err(error) => assert!(matches!(error, Error::NotMapped | Error::Invalid | Error::NoSpace), "{error:?}"),
        }
        done.map(|start| start.vpn())
    }

    /// mremap of several VMAs ran out of memory: takes over how many of their pages have moved.
    fn adopt_moves(&mut self, which: usize, page: u64, old: u64, to: u64) {
        let real = self.layout(which);
        let places = &self.processes[which].places;
        let matches = |places: &Places| places.iter().map(|(n, place)| (*n, place.layout())).eq(real.clone());
        let moved = (0..=old).map(|moved| {
            let mut after = places.clone();
            for (from, pages) in runs(places, page, moved) {
                model::remap(&mut after, from, pages, pages, false, to + from - page);
            }
            after
        });
        if let Some(after) = moved.into_iter().find(matches) {
            self.processes[which].places = after;
        }
    }
}

/// The mapped ranges in `page..page + pages`, as first page and pages.
fn runs(places: &Places, page: u64, pages: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for n in places.range(page..page + pages).map(|(n, _)| *n) {
        match runs.last_mut() {
            Some((from, pages)) if *from + *pages == n => *pages += 1,
            _ => runs.push((n, 1)),
        }
    }
    runs
}

/// What an advice does to a page.
fn advise_place(place: &mut Place, advice: Advice) -> Result<()> {
    let allowed = |yes: bool| if yes { Ok(()) } else { Err(Error::Invalid) };
    let (anonymous, private) = (place.object.is_none(), !place.has(VmFlags::SHARED));
    let mut set = |flags, on| place.flags.set(flags, on);
    match advice {
        Advice::DontNeed => {
            allowed(!place.has(VmFlags::LOCKED))?;
            place.own = None;
        }
        Advice::DontNeedLocked => place.own = None,
        // What becomes of the contents is the machine's to decide.
        Advice::Free => allowed(!place.has(VmFlags::LOCKED) && anonymous)?,
        Advice::GuardInstall => {
            allowed(!place.has(VmFlags::LOCKED))?;
            place.own = None;
            place.guard = true;
        }
        Advice::GuardRemove => place.guard = false,
        Advice::WipeOnFork => {
            allowed(anonymous)?;
            set(VmFlags::WIPEONFORK, true);
        }
        Advice::KeepOnFork => set(VmFlags::WIPEONFORK, false),
        Advice::DontFork => set(VmFlags::DONTFORK, true),
        Advice::DoFork => set(VmFlags::DONTFORK, false),
        Advice::DontDump => set(VmFlags::DONTDUMP, true),
        Advice::DoDump => set(VmFlags::DONTDUMP, false),
        Advice::Mergeable if private => set(VmFlags::MERGEABLE, true),
        Advice::Unmergeable => set(VmFlags::MERGEABLE, false),
        Advice::HugePage => {
            set(VmFlags::NOHUGEPAGE, false);
            set(VmFlags::HUGEPAGE, true);
        }
        Advice::NoHugePage => {
            set(VmFlags::HUGEPAGE, false);
            set(VmFlags::NOHUGEPAGE, true);
        }
        _ => {}
    }
    Ok(())
}
