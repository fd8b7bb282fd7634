//! Random operations against a model: a map from pages to what a program could find out about them.

use super::rig::*;
use crate::base::error::Error;
use crate::base::types::VmFlags;
use crate::machine::advise::Advice;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::SoftSystem;
use crate::mm::address_space::MmLocked;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Pages of the window that operations name: the end of one page table and the beginning of the next.
const WINDOW: u64 = 40;
const MAY: VmFlags = VmFlags::MAYREAD.union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);
const LOCKS: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Anon,
    SharedAnon,
    File { which: usize, pgoff: u64, shared: bool },
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Map { page: Option<u64>, pages: u64, prot: VmFlags, kind: Kind },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, prot: VmFlags },
    Remap { page: u64, old: u64, new: u64, flags: MremapFlags, to: u64 },
    Advise { page: u64, pages: u64, advice: Advice },
    Lock { page: u64, pages: u64, on: bool },
    Name { page: u64, pages: u64, name: Option<u8> },
    Brk { page: u64 },
    Write { page: u64, tag: u8 },
    Read { page: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    flags: VmFlags,
    file: Option<(u64, u64)>,
    name: Option<Vec<u8>>,
    /// Its own contents, if it was written through a private mapping.
    own: Option<u8>,
}

#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    /// Contents of files by number and page.
    files: BTreeMap<(u64, u64), u8>,
    /// Sizes of files.
    sizes: BTreeMap<u64, u64>,
    brk: u64,
}

impl Model {
    /// Visits the pages of a range from below until `visit` or a hole ends it; returns whether there is a hole.
    fn up_to_hole(&mut self, page: u64, pages: u64, mut visit: impl FnMut(&mut Page)) -> bool {
        for n in page..page + pages {
            let Some(found) = self.pages.get_mut(&n) else { return true };
            visit(found);
        }
        false
    }

    /// Visits all pages of a range; returns whether there is a hole.
    fn all(&mut self, page: u64, pages: u64, mut visit: impl FnMut(&mut Page)) -> bool {
        let mut hole = false;
        for n in page..page + pages {
            match self.pages.get_mut(&n) {
                Some(found) => visit(found),
                None => hole = true,
            }
        }
        hole
    }

    fn unmap(&mut self, page: u64, pages: u64) {
        (page..page + pages).for_each(|n| drop(self.pages.remove(&n)));
    }

    fn remap(&mut self, page: u64, old: u64, new: u64, flags: MremapFlags, to: u64) {
        if to == page {
            if new < old {
                self.unmap(page + new, old - new);
            }
        } else {
            self.unmap(to, new);
        }
        let source: Vec<_> = (page..page + old.min(new)).map(|n| self.pages.get(&n).cloned()).collect();
        let last = self.pages.get(&(page + old.max(1) - 1)).cloned();
        if to != page {
            if flags.contains(MremapFlags::DONTUNMAP) {
                // Locks go with the pages; the VMA that loses them is found by its lock alone.
                (page..page + old).for_each(|n| {
                    if let Some(left) = self.pages.get_mut(&n) {
                        left.own = None;
                    }
                });
            } else {
                self.unmap(page, old);
            }
            for (n, found) in source.into_iter().enumerate() {
                if let Some(found) = found {
                    self.pages.insert(to + n as u64, found);
                }
            }
        }
        for n in old..new {
            let Some(last) = &last else { continue };
            let file = last.file.map(|(id, pgoff)| (id, pgoff + n - (old.max(1) - 1)));
            self.pages.insert(to + n, Page { own: None, file, ..last.clone() });
        }
    }

    /// What a program reads, or why it cannot.
    fn read(&self, page: u64) -> Result<u8, Error> {
        let found = self.pages.get(&page).ok_or(Error::NotMapped)?;
        if !found.flags.intersects(VmFlags::ACCESS) {
            return Err(Error::Access);
        }
        match (found.own, found.file) {
            (Some(tag), _) => Ok(tag),
            (None, None) => Ok(0),
            (None, Some(place)) if place.1 >= self.sizes[&place.0] => Err(Error::Bus),
            (None, Some(place)) => Ok(self.files.get(&place).copied().unwrap_or(0)),
        }
    }

    fn write(&mut self, page: u64, tag: u8) -> Result<(), Error> {
        let found = self.pages.get_mut(&page).ok_or(Error::NotMapped)?;
        if !found.flags.contains(VmFlags::WRITE) {
            return Err(Error::Access);
        }
        match found.file {
            Some(place) if found.own.is_none() && place.1 >= self.sizes[&place.0] => return Err(Error::Bus),
            Some(place) if found.flags.contains(VmFlags::SHARED) => drop(self.files.insert(place, tag)),
            _ => found.own = Some(tag),
        }
        Ok(())
    }
}

fn apply<S: SoftSystem>(rig: &Rig<S>, model: &mut Model, op: Op) {
    let (m, mm) = (rig.m(), rig.mm());
    match op {
        Op::Map { page, pages, prot, kind } => apply_map(rig, model, page, pages, prot, kind),
        Op::Unmap { page, pages } => {
            m.munmap(mm, at(page), bytes(pages)).unwrap();
            model.unmap(page, pages);
        }
        Op::Protect { page, pages, prot } => {
            let done = m.mprotect(mm, at(page), bytes(pages), prot);
            let hole = model.up_to_hole(page, pages, |page| page.flags = (page.flags - VmFlags::ACCESS) | prot);
            assert_eq!(done, if hole { Err(Error::NotMapped) } else { Ok(()) });
        }
        Op::Remap { .. } => apply_remap(rig, model, op),
        Op::Advise { page, pages, advice } => apply_advise(rig, model, page, pages, advice),
        Op::Lock { page, pages, on } => {
            let done =
                if on { m.mlock(mm, at(page), bytes(pages), true) } else { m.munlock(mm, at(page), bytes(pages)) };
            let hole = model.up_to_hole(page, pages, |page| page.flags.set(LOCKS, on));
            assert_eq!(done, if hole { Err(Error::NotMapped) } else { Ok(()) });
        }
        Op::Name { page, pages, name } => {
            let name = name.map(|name| vec![name]);
            let done = m.set_name(mm, at(page), bytes(pages), name.as_deref());
            let named: Vec<u64> = rig.files.iter().map(|file| file.id()).collect();
            let mut refused = false;
            let hole = model.all(page, pages, |page| {
                refused |= page.file.is_some_and(|(id, _)| named.contains(&id));
                if !refused {
                    page.name.clone_from(&name);
                }
            });
            let expected = match (refused, hole) {
                (true, _) => Err(Error::NotSupported),
                (_, true) => Err(Error::NotMapped),
                _ => Ok(()),
            };
            assert_eq!(done, expected);
        }
        Op::Brk { page } => {
            let before = model.brk;
            let after = m.brk(mm, at(page)).vpn();
            let free = (before..=page).all(|n| !model.pages.contains_key(&n));
            let moves = page >= HEAP && (page < before || free);
            assert_eq!(after, if moves { page } else { before }, "was {before}");
            if after < before {
                model.unmap(after, before - after);
            }
            for n in before..after {
                model.pages.insert(n, Page { flags: RW | MAY, file: None, name: None, own: None });
            }
            model.brk = after;
        }
        Op::Write { page, tag } => {
            assert_eq!(m.write(mm, at(page), &[tag]), model.write(page, tag));
        }
        Op::Read { page } => {
            let mut byte = [0];
            assert_eq!(m.read(mm, at(page), &mut byte).map(|()| byte[0]), model.read(page), "page {page}");
        }
    }
}

fn apply_map<S: SoftSystem>(rig: &Rig<S>, model: &mut Model, page: Option<u64>, pages: u64, prot: VmFlags, kind: Kind) {
    let (m, mm) = (rig.m(), rig.mm());
    let (share, file) = match kind {
        Kind::Anon => (MapFlags::PRIVATE, None),
        Kind::SharedAnon => (MapFlags::SHARED, None),
        Kind::File { which, pgoff, shared } => {
            let share = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
            (share, Some((rig.files[which].clone(), pgoff)))
        }
    };
    let fixed = if page.is_some() { MapFlags::FIXED } else { MapFlags::empty() };
    let request = MapRequest { addr: page.map(at), file, ..MapRequest::new(bytes(pages), prot, share | fixed) };
    let start = m.mmap(mm, &request).unwrap().vpn();
    assert!(page.is_none_or(|page| page == start));
    assert!(page.is_some() || (start..start + pages).all(|n| !model.pages.contains_key(&n)));
    let (id, first, size) = {
        let held = mm.read();
        let vma = held.find(at(start)).unwrap();
        let file = vma.file().map(|file| (file.id(), file.size()));
        (file.map(|(id, _)| id), vma.bounds().pgoff_of(at(start)), file.map(|(_, size)| size))
    };
    if let (Some(id), Some(size)) = (id, size) {
        model.sizes.insert(id, size);
    }
    let shared = if share == MapFlags::SHARED { VmFlags::SHARED } else { VmFlags::empty() };
    for n in 0..pages {
        let file = id.map(|id| (id, first + n));
        model.pages.insert(start + n, Page { flags: prot | MAY | shared, file, name: None, own: None });
    }
}

fn apply_remap<S: SoftSystem>(rig: &Rig<S>, model: &mut Model, op: Op) {
    let (m, mm) = (rig.m(), rig.mm());
    let Op::Remap { page, old, new, flags, to } = op else { return };
    let new = if flags.contains(MremapFlags::DONTUNMAP) { old } else { new };
    let target = flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP).then(|| at(to));
    let locked = |n| model.pages.get(&n).is_some_and(|page| page.flags.contains(VmFlags::LOCKED));
    if (page..page + old).any(locked) && flags.contains(MremapFlags::DONTUNMAP) {
        // The lock leaves the whole VMA, whose ends the model does not know.
        return;
    }
    let several = old == new && (page..page + old).any(|n| !model.pages.contains_key(&n));
    match m.mremap(mm, at(page), bytes(old), bytes(new), flags, target) {
        // A gap that moves with its VMAs leaves alone what is at its new place.
        Ok(start) if several => {
            let mut from = page;
            while from < page + old {
                let run = (from..page + old).take_while(|n| model.pages.contains_key(n)).count() as u64;
                if run != 0 {
                    model.remap(from, run, run, flags, start.vpn() + from - page);
                }
                from += run.max(1);
            }
        }
        Ok(start) => model.remap(page, old, new, flags, start.vpn()),
        Err(Error::NotMapped | Error::Invalid | Error::NoSpace) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn apply_advise<S: SoftSystem>(rig: &Rig<S>, model: &mut Model, page: u64, pages: u64, advice: Advice) {
    let (m, mm) = (rig.m(), rig.mm());
    let done = m.madvise(mm, at(page), bytes(pages), advice);
    let mut refused = false;
    let hole = model.all(page, pages, |page| {
        refused |= match advice {
            Advice::DontNeed => page.flags.contains(VmFlags::LOCKED),
            Advice::WipeOnFork => page.file.is_some(),
            _ => false,
        };
        if refused {
            return;
        }
        match advice {
            Advice::DontNeed => page.own = None,
            Advice::DontFork => page.flags |= VmFlags::DONTFORK,
            Advice::DoFork => page.flags -= VmFlags::DONTFORK,
            Advice::WipeOnFork => page.flags |= VmFlags::WIPEONFORK,
            _ => unreachable!(),
        }
    });
    let expected = match (refused, hole) {
        (true, _) => Err(Error::Invalid),
        (_, true) => Err(Error::NotMapped),
        _ => Ok(()),
    };
    assert_eq!(done, expected);
}

/// Every page is as the model says: its VMA, and what a program reads.
fn compare<S: SoftSystem>(rig: &Rig<S>, model: &Model, read: bool) {
    let real: Vec<_> = rig.pages().into_iter().map(|(page, attr)| (page, attr.flags, attr.file, attr.name)).collect();
    let expected: Vec<_> = model.pages.iter().map(|(page, p)| (*page, p.flags, p.file, p.name.clone())).collect();
    assert_eq!(real, expected);
    for page in model.pages.keys().copied().filter(|_| read) {
        let mut byte = [0];
        let done = rig.m().read(rig.mm(), at(page), &mut byte).map(|()| byte[0]);
        assert_eq!(done, model.read(page), "page {page}");
    }
}

/// Neighbours that could be one VMA are one.
fn all_is_joined<S: SoftSystem>(rig: &Rig<S>) {
    let held = rig.mm().write();
    for (low, high) in held.vmas().zip(held.vmas().skip(1)) {
        assert!(!rig.m().rmap().can_merge(&held, low, high), "{low:?} and {high:?}");
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let page = BASE - WINDOW / 2..BASE + WINDOW / 2;
    let range = (page.clone(), 1..12_u64);
    let prot = prop_oneof![3 => Just(RW), 2 => Just(R), 1 => Just(VmFlags::empty())];
    let kind = prop_oneof![
        4 => Just(Kind::Anon),
        1 => Just(Kind::SharedAnon),
        2 => (0..2_usize, 0..60_u64, any::<bool>())
            .prop_map(|(which, pgoff, shared)| Kind::File { which, pgoff, shared }),
        // At the same offset from the page everywhere, so that neighbours fit.
        2 => (0..2_usize, any::<bool>()).prop_map(|(which, shared)| Kind::File { which, pgoff: u64::MAX, shared }),
    ];
    let flags = prop_oneof![
        Just(MremapFlags::empty()),
        Just(MremapFlags::MAYMOVE),
        Just(MremapFlags::MAYMOVE | MremapFlags::FIXED),
        Just(MremapFlags::all()),
    ];
    let advice = prop_oneof![
        3 => Just(Advice::DontNeed),
        1 => Just(Advice::DontFork),
        1 => Just(Advice::DoFork),
        1 => Just(Advice::WipeOnFork),
    ];
    let map = (prop::option::weighted(0.9, page.clone()), 1..12_u64, prot.clone(), kind);
    let place = |kind, page: Option<u64>| match (kind, page) {
        (Kind::File { which, pgoff: u64::MAX, shared }, page) => {
            Kind::File { which, pgoff: page.map_or(0, |page| page + WINDOW - BASE), shared }
        }
        (kind, _) => kind,
    };
    prop_oneof![
        6 => map.prop_map(move |(page, pages, prot, kind)| Op::Map { page, pages, prot, kind: place(kind, page) }),
        2 => range.clone().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        4 => (range.clone(), prot).prop_map(|((page, pages), prot)| Op::Protect { page, pages, prot }),
        6 => (range.clone(), 1..12_u64, flags, page.clone())
            .prop_map(|((page, old), new, flags, to)| Op::Remap { page, old, new, flags, to }),
        3 => (range.clone(), advice).prop_map(|((page, pages), advice)| Op::Advise { page, pages, advice }),
        2 => (range.clone(), any::<bool>()).prop_map(|((page, pages), on)| Op::Lock { page, pages, on }),
        1 => (range, prop::option::of(b'a'..b'c'))
            .prop_map(|((page, pages), name)| Op::Name { page, pages, name }),
        1 => (HEAP - 2..HEAP + 8).prop_map(|page| Op::Brk { page }),
        10 => (page.clone(), 1..=u8::MAX).prop_map(|(page, tag)| Op::Write { page, tag }),
        3 => page.prop_map(|page| Op::Read { page }),
    ]
}

/// Where the heap begins, in the window.
const HEAP: u64 = BASE + 8;

/// Runs `ops` beside the model, and compares after each.
fn run<S: SoftSystem>(ops: Vec<Op>) {
    let rig = Rig::<S>::new();
    rig.m().set_brk_start(rig.mm(), at(HEAP));
    let mut model = Model { brk: HEAP, ..Model::default() };
    let left_behind = |op: &Op| matches!(op, Op::Remap { flags, .. } if flags.contains(MremapFlags::DONTUNMAP));
    let joined = !ops.iter().any(left_behind);
    for op in ops {
        apply(&rig, &mut model, op);
        compare(&rig, &model, false);
        rig.check();
        if joined {
            all_is_joined(&rig);
        }
    }
    compare(&rig, &model, true);
    rig.check();
}

/// The test for one engine.
macro_rules! agrees_with_the_model {
    ($engine:ident $toy:ident $system:ident) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

            #[test]
            fn $engine(ops in prop::collection::vec(any_op(), 1..50)) {
                run::<crate::machine::system::$system>(ops);
            }
        }
    };
}

mod random_changes_of_layout_agree_with_the_model {
    use super::*;
    crate::tests::each_engine!(agrees_with_the_model);
}
