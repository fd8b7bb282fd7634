//! What programs do with their pages, and what is done to them: accesses, pins, fork and exit, reclaim.

use crate::model::{self, Bytes, LOCKS, Own, Place};
use crate::runner::{Outcome, Pin, Process, Runner, at, bytes};
use rmap_core::base::error::{Error, Result};
use rmap_core::base::types::{VirtAddr, VmFlags};
use rmap_core::machine::advise::Advice;
use rmap_core::machine::system::Access;
use rmap_core::mm::address_space::MmLocked;
use rmap_core::page::flags::PageFlags;
use rmap_core::page::mapping::Mapping;
use rmap_core::page::pte::{PageTable, Pte};
use std::rc::Rc;

/// Pins at a time.
const PINS: usize = 8;

impl Runner {
    /// Where the stack ends that would grow down to a page that nothing is mapped at; `None`: there is none.
    pub(crate) fn stack_end(&self, which: usize, page: u64) -> Option<u64> {
        let held = self.processes[which].mm.read();
        let vma = held.find_vma(at(page)).filter(|vma| vma.start() > at(page))?;
        vma.has(VmFlags::GROWSDOWN).then(|| vma.end().vpn())
    }

    /// Whether an access may reach a page; a stack that grows for it has grown.
    fn reach(&mut self, which: usize, page: u64, access: Access, end: Option<u64>) -> Result<()> {
        let places = &mut self.processes[which].places;
        if !places.contains_key(&page) {
            model::grow_by_fault(places, page, end.ok_or(Error::NotMapped)?)?;
        }
        let place = &self.processes[which].places[&page];
        let needed = if access == Access::Read { VmFlags::ACCESS } else { access.needs() };
        if !place.has(needed) || place.guard {
            return Err(Error::Access);
        }
        self.bytes_of(place).map(|_| ())
    }

    /// What is read at a place. [`Error::Bus`]: nothing stands behind it.
    pub(crate) fn bytes_of(&self, place: &Place) -> Result<Rc<Bytes>> {
        thread_local!(static ZERO: Rc<Bytes> = Rc::new([0; 4096]));
        match (&place.own, place.object) {
            (Some(own), _) => Ok(own.bytes.clone()),
            (None, None) => Ok(ZERO.with(Rc::clone)),
            (None, Some((object, pgoff))) => self.objects[object].pages.get(pgoff as usize).cloned().ok_or(Error::Bus),
        }
    }

    /// The process's own page has these bytes now.
    pub(crate) fn set_own(&mut self, which: usize, page: u64, bytes: Rc<Bytes>) {
        self.last_id += 1;
        let id = self.last_id;
        let place = self.processes[which].places.get_mut(&page).expect("mapped");
        let id = place.own.as_ref().map_or(id, |own| own.id);
        place.own = Some(Own { id, bytes, lazy: false });
    }

    /// Holds an access to what the model says of it. `Ok`: it was made. An access that ran out of memory may have grown
    /// a stack before.
    fn accessed<T>(&mut self, done: Result<T>, which: usize, page: u64, access: Access, end: Option<u64>) -> Result<T> {
        if self.ran_out(&done, true) {
            if self.layout(which).contains_key(&page) {
                let _ = self.reach(which, page, access, end);
            }
            return Err(Error::NoMemory);
        }
        let expected = self.reach(which, page, access, end);
        assert_eq!(done.as_ref().err(), expected.err().as_ref(), "{access:?} at page {page} of process {which}");
        done
    }

    pub(crate) fn write(&mut self, mm: u8, place: u8, offset: usize, data: &[u8], fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let page = self.page_of(which, place);
        let end = self.stack_end(which, page);
        let addr = VirtAddr(at(page).0 + offset as u64);
        let done = self.limited(fail, |this| this.machine.write(&this.processes[which].mm, addr, data));
        self.accessed(done, which, page, Access::Write, end)?;
        let place = &self.processes[which].places[&page];
        let shared = place.object.filter(|_| place.has(VmFlags::SHARED));
        let mut bytes = self.bytes_of(place)?;
        Rc::make_mut(&mut bytes)[offset..offset + data.len()].copy_from_slice(data);
        match shared {
            Some((object, pgoff)) => self.objects[object].pages[pgoff as usize] = bytes,
            None => self.set_own(which, page, bytes),
        }
        Ok(page)
    }

    pub(crate) fn read(&mut self, mm: u8, place: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let page = self.page_of(which, place);
        self.read_page(which, page, fail)
    }

    pub(crate) fn read_page(&mut self, which: usize, page: u64, fail: Option<u8>) -> Outcome {
        let end = self.stack_end(which, page);
        let mut seen = [0xee; 4096];
        let done = self.limited(fail, |this| this.machine.read(&this.processes[which].mm, at(page), &mut seen));
        self.accessed(done, which, page, Access::Read, end)?;
        let bytes = self.bytes_of(&self.processes[which].places[&page])?;
        same_bytes(&seen, &bytes, || format!("read by process {which} at page {page}"));
        Ok(page)
    }

    /// An instruction is fetched.
    pub(crate) fn fetch(&mut self, mm: u8, place: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let page = self.page_of(which, place);
        let end = self.stack_end(which, page);
        let done = self.limited(fail, |this| this.machine.fault(&this.processes[which].mm, at(page), Access::Exec));
        self.accessed(done, which, page, Access::Exec, end).map(|()| page)
    }

    /// Pages are faulted in up to the first that cannot be had.
    pub(crate) fn populate(
        &mut self,
        which: usize,
        page: u64,
        pages: u64,
        advice: Advice,
        fail: Option<u8>,
    ) -> Outcome {
        let access = if advice == Advice::PopulateWrite { Access::Write } else { Access::Read };
        let mm = self.processes[which].mm.clone();
        let before = self.processes[which].places.clone();
        let ends: Vec<_> = (page..page + pages).map(|n| self.stack_end(which, n)).collect();
        let done = self.limited(fail, |this| this.machine.madvise(&mm, at(page), bytes(pages), advice));
        let expected = (0..pages).try_for_each(|n| self.reach(which, page + n, access, ends[n as usize]));
        if self.ran_out(&done, true) {
            // Stacks have grown up to where memory ran out.
            let real = self.layout(which);
            self.processes[which].places.retain(|n, _| before.contains_key(n) || real.contains_key(n));
            return Err(Error::NoMemory);
        }
        assert_eq!(done, expected);
        done.map(|()| page)
    }

    pub(crate) fn pin(&mut self, mm: u8, place: u8, write: bool, fail: Option<u8>) -> Outcome {
        if self.pins.len() == PINS {
            return Ok(0);
        }
        let which = self.which(mm);
        let page = self.page_of(which, place);
        let end = self.stack_end(which, page);
        let access = if write { Access::Write } else { Access::Read };
        let done = self.limited(fail, |this| this.machine.pin(&this.processes[which].mm, at(page), write));
        let pinned = self.accessed(done, which, page, access, end)?;
        let place = &self.processes[which].places[&page];
        let sees = match place.object {
            // Of a file's page that was not copied, a pin for reading sees the file.
            Some(object) if place.has(VmFlags::SHARED) || (!write && place.own.is_none()) => Err(object),
            _ => {
                let lazy = !write && place.own.as_ref().is_some_and(|own| own.lazy);
                let bytes = self.bytes_of(place)?;
                self.set_own(which, page, bytes);
                let own = self.processes[which].places.get_mut(&page).and_then(|place| place.own.as_mut());
                let own = own.expect("just set");
                own.lazy = lazy;
                Ok(own.id)
            }
        };
        self.pins.push(Pin { pinned, write, sees });
        Ok(page)
    }

    /// The bytes that a pin sees, as long as they are modelled.
    fn seen_by(&mut self, nth: usize) -> Option<&mut Rc<Bytes>> {
        match self.pins[nth].sees {
            Ok(id) => {
                let places = self.processes.iter_mut().flat_map(|process| process.places.values_mut());
                let mut owns = places.filter_map(|place| place.own.as_mut());
                owns.find(|own| own.id == id).map(|own| &mut own.bytes)
            }
            Err((object, pgoff)) => self.objects[object].pages.get_mut(pgoff as usize),
        }
    }

    pub(crate) fn pin_write(&mut self, nth: u8, byte: u8) -> Outcome {
        if self.pins.is_empty() {
            return Ok(0);
        }
        let nth = usize::from(nth) % self.pins.len();
        let (pfn, write) = (self.pins[nth].pinned.pfn(), self.pins[nth].write);
        if write {
            self.machine.frames().write(pfn, 100, &[byte]);
        }
        let mut now = [0; 4096];
        self.machine.frames().read(pfn, 0, &mut now);
        if let Some(bytes) = self.seen_by(nth) {
            if write {
                Rc::make_mut(bytes)[100] = byte;
            }
            same_bytes(&now, bytes, || "seen by a pin".to_string());
        }
        Ok(0)
    }

    pub(crate) fn unpin(&mut self, nth: u8) -> Outcome {
        if !self.pins.is_empty() {
            let pin = self.pins.swap_remove(usize::from(nth) % self.pins.len());
            self.machine.unpin(pin.pinned);
        }
        Ok(0)
    }

    pub(crate) fn fork(&mut self, mm: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        if self.is_full() {
            return Ok(0);
        }
        let done = self.limited(fail, |this| this.machine.fork(&this.processes[which].mm));
        // Pinned pages are copied, and the copies go when the child does.
        if done.is_err() && !self.pins.is_empty() {
            self.refused = true;
        }
        if self.ran_out(&done, true) {
            return Err(Error::NoMemory);
        }
        let child = done?;
        let parent = &self.processes[which];
        let mut places = parent.places.clone();
        places.retain(|_, place| !place.has(VmFlags::DONTFORK));
        for place in places.values_mut() {
            place.flags -= LOCKS;
            if place.has(VmFlags::WIPEONFORK) {
                place.empty();
            }
            if let Some(own) = &mut place.own {
                self.last_id += 1;
                own.id = self.last_id;
            }
        }
        let brk = parent.brk;
        self.processes.push(Process { mm: child, places, brk, future: VmFlags::empty() });
        Ok(0)
    }

    pub(crate) fn exec(&mut self, mm: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let done = self.limited(fail, |this| this.machine.exec(&this.processes[which].mm));
        if self.ran_out(&done, false) {
            return Err(Error::NoMemory);
        }
        self.processes.remove(which);
        self.enter(done?);
        Ok(0)
    }

    pub(crate) fn swap_out(&mut self, mm: u8, place: u8, fail: Option<u8>) -> Outcome {
        let which = self.which(mm);
        let n = self.page_of(which, place);
        let Some(page) = self.present(which, n) else { return Ok(0) };
        let pfn = page.pfn();
        let pinned = page.pins() != 0;
        let locked = self.processes.iter().any(|process| {
            let mut places = process.places.iter();
            places.any(|(n, place)| place.has(VmFlags::LOCKED) && process.mm.table().load(at(*n)).pfn() == Some(pfn))
        });
        let done =
            self.limited(fail, |this| this.present(which, n).map_or(Ok(false), |page| this.machine.swap_out(page)));
        match done {
            Ok(out) => assert!(!out || !(pinned || locked), "a page went that must stay"),
            Err(error) => assert!(error == Error::NoSpace || self.ran_out(&done, false), "{error:?}"),
        }
        done.map(u64::from)
    }

    pub(crate) fn referenced(&mut self, mm: u8, place: u8) -> Outcome {
        let which = self.which(mm);
        let Some(page) = self.present(which, self.page_of(which, place)) else { return Ok(0) };
        let _locked = page.lock();
        let found = self.machine.rmap().page_referenced(page);
        assert!(!found.contended && found.young <= page.mapcount(), "{found:?}");
        Ok(0)
    }

    pub(crate) fn mkclean(&mut self, mm: u8, place: u8) -> Outcome {
        let which = self.which(mm);
        let Some(page) = self.present(which, self.page_of(which, place)) else { return Ok(0) };
        let _locked = page.lock();
        if matches!(page.mapping().load(), Mapping::File(_)) && self.machine.rmap().page_mkclean(page) != 0 {
            page.set(PageFlags::DIRTY);
        }
        Ok(0)
    }

    /// The pages of a range with contents of the process's own, and whether each is in swap.
    pub(crate) fn lazy_in(&self, which: usize, page: u64, pages: u64) -> Vec<(u64, bool)> {
        let process = &self.processes[which];
        let owned = process.places.range(page..page + pages).filter(|(_, place)| place.own.is_some());
        owned.map(|(n, _)| (*n, matches!(process.mm.table().load(at(*n)), Pte::Swap(_)))).collect()
    }

    /// After MADV_FREE: what was in swap may be gone, and what is marked may go.
    pub(crate) fn adopt_lazy(&mut self, which: usize, before: &[(u64, bool)]) {
        for &(n, swapped) in before {
            let gone = swapped && self.processes[which].mm.table().load(at(n)).is_none();
            let lazy = self.present(which, n).is_some_and(|page| page.has(PageFlags::LAZY_FREE));
            let Some(place) = self.processes[which].places.get_mut(&n) else { continue };
            if gone {
                place.own = None;
            } else if let Some(own) = &mut place.own {
                own.lazy |= lazy;
            }
        }
    }
}

#[track_caller]
pub(crate) fn same_bytes(seen: &Bytes, expected: &Bytes, whose: impl Fn() -> String) {
    if seen != expected {
        let n = (0..4096).find(|n| seen[*n] != expected[*n]).unwrap_or(0);
        panic!("byte {n} {}: {:#x}, expected {:#x}", whose(), seen[n], expected[n]);
    }
}
