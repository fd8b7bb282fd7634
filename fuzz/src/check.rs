//! What is held against the machine after each step.

use crate::access::same_bytes;
use crate::model::{Layout, Own};
use crate::runner::{Runner, at};
use rmap_core::machine::advise::GUARD_MARKER;
use rmap_core::mm::address_space::MmLocked;
use rmap_core::page::pte::{PageTable, Pte};
use std::collections::BTreeMap;

impl Runner {
    /// Takes over what the machine may decide, and checks the rest.
    pub(crate) fn settle(&mut self) {
        for which in 0..self.processes.len() {
            self.adopt(which);
            self.compare(which);
        }
        if let Err(broken) = self.machine.check() {
            panic!("{broken}");
        }
        let mut present = 0;
        let listed = self.machine.for_each_mm(|mm| present += mm.data().counters.rss() as i64);
        assert_eq!(listed, Ok(()));
        assert_eq!(self.charges.charged.get(), present, "pages charged, and present");
    }

    /// How the pages of a process are mapped, as its VMAs and entries say.
    pub(crate) fn layout(&self, which: usize) -> BTreeMap<u64, Layout> {
        let mm = &self.processes[which].mm;
        let held = mm.read();
        let mut pages = BTreeMap::new();
        for vma in held.vmas() {
            let object = vma.file().map(|file| {
                let number = self.objects.iter().position(|object| object.id == file.id());
                number.expect("an object of the program's")
            });
            let name = held.name_of(vma).map(|name| name[0]);
            for n in 0..vma.pages() {
                let page = vma.start().vpn() + n;
                let object = object.map(|object| (object, vma.pgoff() + n));
                let guard = mm.table().load(at(page)) == Pte::Marker(GUARD_MARKER);
                pages.insert(page, Layout { flags: vma.flags(), object, name, guard });
            }
        }
        pages
    }

    /// Takes over what the machine decided: that a page of a file was copied ahead of a write (mlock, MAP_POPULATE),
    /// that contents which nobody needs are gone (MADV_FREE).
    fn adopt(&mut self, which: usize) {
        let mut fresh = Vec::new();
        let process = &self.processes[which];
        for (&page, place) in &process.places {
            let entry = process.mm.table().load(at(page));
            let own = match entry {
                Pte::Swap(_) => true,
                Pte::Present { pfn, .. } => {
                    self.machine.rmap().pages().page(pfn).is_some_and(|page| page.mapping().load().is_anon())
                }
                _ => false,
            };
            let copied = own && place.own.is_none() && place.object.is_some();
            let lost = entry.is_none() && place.own.as_ref().is_some_and(|own| own.lazy);
            if copied || lost {
                fresh.push((page, if copied { self.bytes_of(place).ok() } else { None }));
            }
        }
        for (page, bytes) in fresh {
            self.last_id += 1;
            let id = self.last_id;
            let Some(place) = self.processes[which].places.get_mut(&page) else { continue };
            place.own = bytes.map(|bytes| Own { id, bytes, lazy: false });
        }
    }

    /// Every page is mapped as the model says, and holds what the model says, wherever it is.
    fn compare(&self, which: usize) {
        let process = &self.processes[which];
        let places = process.places.iter().map(|(page, place)| (*page, place.layout()));
        let real = self.layout(which);
        if !real.iter().map(|(page, layout)| (*page, *layout)).eq(places.clone()) {
            let places: BTreeMap<_, _> = places.collect();
            let wrong = real.iter().find(|(page, layout)| places.get(page) != Some(layout));
            let missing = places.iter().find(|(page, layout)| real.get(page) != Some(layout));
            panic!("process {which}: mapped {wrong:?}, expected {missing:?}");
        }
        for (&page, place) in &process.places {
            let mut seen = [0; 4096];
            match process.mm.table().load(at(page)) {
                Pte::Present { pfn, .. } | Pte::Special { pfn } => self.machine.frames().read(pfn, 0, &mut seen),
                Pte::Swap(entry) => self.in_swap(entry.slot, &mut seen),
                _ => {
                    let lost = place.own.is_some();
                    assert!(!lost, "process {which}: what it wrote to page {page} is nowhere");
                    continue;
                }
            }
            let bytes = self.bytes_of(place).expect("what is present stands behind it");
            same_bytes(&seen, &bytes, || format!("of process {which} in page {page}"));
        }
    }

    /// What a slot holds: in the swap cache, or in the store.
    fn in_swap(&self, slot: u64, out: &mut [u8; 4096]) {
        let swap = self.machine.swap_store().expect("an entry names a slot");
        match swap.cache_lookup(slot) {
            Some(pfn) => self.machine.frames().read(pfn, 0, out),
            None => assert_eq!(swap.read(slot, out), Ok(())),
        }
    }
}
