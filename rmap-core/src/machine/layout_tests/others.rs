//! brk, mlock, madvise and names.

use super::rig::*;
use crate::base::error::Error;
use crate::base::types::{VirtAddr, VmFlags};
use crate::machine::advise::Advice;
use crate::machine::life_tests::on_every_engine;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::{Access, SoftSystem, VmaExt, VmaOps};
use crate::mm::VmaBounds;
use crate::mm::address_space::MmLocked;
use crate::page::flags::PageFlags;
use crate::page::pte::{PageTable, Pte, PteFlags};
use core::sync::atomic::{AtomicI64, Ordering};

on_every_engine!(
    the_heap_grows_and_shrinks_at_its_end,
    mlock_faults_pages_in_and_munlock_lets_them_go,
    mlockall_locks_what_is_there_and_what_comes,
    populate_faults_pages_in,
    populate_is_refused_where_pages_are_there_and_access_is_not,
    madvise_over_a_hole_does_the_rest,
    what_is_freed_lazily_is_clean_until_it_is_written,
    a_guard_region_is_not_accessible_until_it_is_removed,
    guard_regions_are_inherited,
    names_part_vmas,
    what_the_system_keeps_of_a_vma_parts_vmas,
    operations_hear_of_every_vma_that_comes_and_goes,
);

fn the_heap_grows_and_shrinks_at_its_end<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let brk = |page: u64, odd: u64| rig.m().brk(rig.mm(), VirtAddr(at(page).0 + odd));
    rig.m().set_brk_start(rig.mm(), at(BASE));
    assert_eq!(brk(0, 0), at(BASE), "asks where it is");
    assert_eq!(brk(BASE + 4, 5), VirtAddr(at(BASE + 4).0 + 5));
    assert_eq!(rig.picture(), [(BASE, 5, RW)]);
    (0..5).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    assert_eq!(brk(BASE + 8, 0), at(BASE + 8));
    assert_eq!(rig.picture(), [(BASE, 8, RW)]);
    assert_eq!(brk(BASE + 2, 0), at(BASE + 2));
    assert_eq!(rig.picture(), [(BASE, 2, RW)]);
    rig.check();
    rig.map(BASE + 10, 1, R);
    assert_eq!(brk(BASE + 10, 0), at(BASE + 2), "a page stays free before what is above");
    assert_eq!(brk(BASE + 9, 0), at(BASE + 9));
    assert_eq!(brk(BASE - 1, 0), at(BASE + 9));
    assert_eq!(brk(BASE, 0), at(BASE));
    assert_eq!(rig.picture(), [(BASE + 10, 1, R)]);
    rig.check();
}

/// ```text
///   |aaaaaaaaaaaa|      mlock of the middle cuts, munlock joins
///       |LLLL|
/// ```
fn mlock_faults_pages_in_and_munlock_lets_them_go<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 12, RW);
    let (m, mm) = (rig.m(), rig.mm());
    m.mlock(mm, VirtAddr(at(BASE + 4).0 + 9), bytes(3), false).unwrap();
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 4, RW), (BASE + 8, 4, RW)]);
    let now = mm.data().counters.snapshot();
    assert_eq!((now.locked_vm, now.rss_anon), (4, 4));
    let page = m.rmap().pages().page(mm.table().load(at(BASE + 5)).pfn().unwrap()).unwrap();
    assert!(page.has(PageFlags::MLOCKED));
    assert_eq!(m.madvise(mm, at(BASE), bytes(12), Advice::DontNeed), Err(Error::Invalid));
    assert_eq!(m.madvise(mm, at(BASE + 4), bytes(1), Advice::Free), Err(Error::Invalid));
    m.munlock(mm, at(BASE), bytes(12)).unwrap();
    assert!(!page.has(PageFlags::MLOCKED));
    assert_eq!((rig.picture(), mm.data().counters.snapshot().locked_vm), (vec![(BASE, 12, RW)], 0));
    assert_eq!(m.mlock(mm, at(BASE + 10), bytes(4), true), Err(Error::NotMapped));
    assert_eq!(mm.data().counters.snapshot().locked_vm, 2, "what lies below the hole is locked");
    assert_eq!(mm.data().counters.snapshot().rss_anon, 4, "on fault: not yet there");
    assert_eq!(m.mlock(mm, at(BASE), u64::MAX, true), Err(Error::Invalid));
    rig.check();
}

fn mlockall_locks_what_is_there_and_what_comes<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let (m, mm) = (rig.m(), rig.mm());
    rig.map(BASE, 4, RW);
    rig.map(BASE + 10, 4, R);
    let special = MapRequest::new(bytes(2), R, MapFlags::PRIVATE | MapFlags::SPECIAL);
    let vdso = m.mmap(mm, &special).unwrap();
    assert_eq!(m.mlockall(mm, false, false, false), Err(Error::Invalid));
    m.mlockall(mm, true, true, false).unwrap();
    rig.check();
    assert_eq!(mm.data().counters.snapshot().locked_vm, 8);
    assert!(matches!(mm.table().load(at(BASE + 10)), Pte::Special { .. }), "read: the zero page");
    rig.map(BASE + 20, 4, RW);
    let now = mm.data().counters.snapshot();
    assert_eq!((now.locked_vm, now.rss_anon), (12, 8));
    assert_eq!(m.mremap(mm, at(BASE + 20), bytes(4), bytes(6), MremapFlags::default(), None), Ok(at(BASE + 20)));
    assert_eq!(mm.data().counters.snapshot().rss_anon, 10);
    m.mprotect(mm, at(BASE + 10), bytes(4), RW).unwrap();
    assert_eq!(mm.data().counters.snapshot().rss_anon, 14, "locked pages are copied when they become writable");
    m.munlockall(mm).unwrap();
    assert_eq!(mm.data().counters.snapshot().locked_vm, 0);
    rig.map(BASE + 40, 4, RW);
    assert_eq!(mm.data().counters.snapshot().locked_vm, 0);
    m.munmap(mm, vdso, bytes(2)).unwrap();
    rig.check();
}

fn populate_faults_pages_in<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let (m, mm) = (rig.m(), rig.mm());
    let request = MapRequest::new(bytes(8), RW, MapFlags::PRIVATE | MapFlags::POPULATE);
    let addr = m.mmap(mm, &request).unwrap();
    assert_eq!(mm.data().counters.snapshot().rss_anon, 8);
    let none = m.mmap(mm, &MapRequest { prot: VmFlags::empty(), ..request.clone() }).unwrap();
    assert_eq!(mm.data().counters.snapshot().rss_anon, 8, "what may not be accessed is passed over");
    assert_eq!(m.madvise(mm, none, bytes(8), Advice::PopulateRead), Err(Error::Access));
    m.madvise(mm, addr, bytes(8), Advice::DontNeed).unwrap();
    assert_eq!(mm.data().counters.snapshot().rss_anon, 0);
    m.madvise(mm, addr, bytes(3), Advice::PopulateRead).unwrap();
    m.madvise(mm, addr, bytes(2), Advice::PopulateWrite).unwrap();
    assert_eq!(mm.data().counters.snapshot().rss_anon, 2);
    assert_eq!(m.madvise(mm, at(BASE), bytes(1), Advice::PopulateWrite), Err(Error::NotMapped));
    rig.check();
}

/// Found by the fuzz target machine_ops: pages that were there were taken for accessible.
fn populate_is_refused_where_pages_are_there_and_access_is_not<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let (m, mm) = (rig.m(), rig.mm());
    let addr = rig.map(BASE, 4, RW);
    (0..4).for_each(|n| assert!(rig.touch(BASE + n, 1)));
    m.mprotect(mm, addr, bytes(4), VmFlags::empty()).unwrap();
    assert_eq!(m.madvise(mm, addr, bytes(4), Advice::PopulateRead), Err(Error::Access));
    m.mprotect(mm, addr, bytes(4), R).unwrap();
    m.madvise(mm, addr, bytes(4), Advice::PopulateRead).unwrap();
    assert_eq!(m.madvise(mm, addr, bytes(4), Advice::PopulateWrite), Err(Error::Access));
    rig.check();
}

/// ```text
///   |aaaaaa|  |aaaa|     DONTNEED over the hole: both sides are done, and the hole is reported
///      |-------|
/// ```
fn madvise_over_a_hole_does_the_rest<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 6, RW);
    rig.map(BASE + 8, 4, RW);
    for n in 0..12 {
        let mapped = !(6..8).contains(&n);
        assert_eq!(rig.touch(BASE + n, n as u8), mapped);
    }
    let (m, mm) = (rig.m(), rig.mm());
    assert_eq!(m.madvise(mm, at(BASE + 3), bytes(7), Advice::DontNeed), Err(Error::NotMapped));
    let left: Vec<_> = (0..12).filter(|n| rig.tag(BASE + n).is_some()).collect();
    assert_eq!(left, [0, 1, 2, 10, 11]);
    assert_eq!(m.madvise(mm, at(BASE), bytes(12), Advice::DontFork), Err(Error::NotMapped));
    let dontfork = |page| rig.mm().read().find(at(page)).unwrap().has(VmFlags::DONTFORK);
    assert!(dontfork(BASE) && dontfork(BASE + 8));
    assert_eq!(m.madvise(mm, at(BASE), bytes(6), Advice::DoFork), Ok(()));
    assert!(!dontfork(BASE));
    assert_eq!(m.madvise(mm, VirtAddr(7), bytes(6), Advice::DoFork), Err(Error::Invalid));
    assert_eq!(m.madvise(mm, at(BASE), 0, Advice::DoFork), Ok(()));
    assert_eq!(Advice::from_number(10), Some(Advice::DontFork));
    assert_eq!(Advice::from_number(99), None);
    rig.check();
}

fn what_is_freed_lazily_is_clean_until_it_is_written<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 4, RW);
    (0..4).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    let (m, mm) = (rig.m(), rig.mm());
    let child = m.fork(rig.mm_ref()).unwrap();
    assert!(rig.touch(BASE, 10));
    m.madvise(mm, at(BASE), bytes(4), Advice::Free).unwrap();
    let bits = |page| match mm.table().load(at(page)) {
        Pte::Present { pfn, flags } => (m.rmap().pages().page(pfn).unwrap().flags(), flags),
        other => panic!("{other:?}"),
    };
    let (page, entry) = bits(BASE);
    assert!(page.contains(PageFlags::LAZY_FREE) && !page.contains(PageFlags::DIRTY));
    assert!(!entry.intersects(PteFlags::DIRTY | PteFlags::YOUNG));
    assert!(!bits(BASE + 1).0.contains(PageFlags::LAZY_FREE), "the child has it too");
    assert!(rig.touch(BASE, 11));
    assert!(bits(BASE).1.contains(PteFlags::DIRTY));
    assert_eq!(rig.tag(BASE), Some(11));
    m.exit(child);
    rig.check();
    let shared = m.mmap(mm, &MapRequest::new(bytes(1), RW, MapFlags::SHARED)).unwrap();
    assert_eq!(m.madvise(mm, shared, bytes(1), Advice::Free), Err(Error::Invalid));
    assert_eq!(m.madvise(mm, shared, bytes(1), Advice::WipeOnFork), Err(Error::Invalid));
}

/// Also in a VMA that had no page before, of a file too.
fn guard_regions_are_inherited<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let (m, mm) = (rig.m(), rig.mm());
    rig.map(BASE, 4, RW);
    let of_file = MapRequest {
        addr: Some(at(BASE + 10)),
        file: Some((rig.files[0].clone(), 0)),
        ..MapRequest::new(bytes(4), RW, MapFlags::SHARED | MapFlags::FIXED)
    };
    m.mmap(mm, &of_file).unwrap();
    for start in [BASE, BASE + 10] {
        m.madvise(mm, at(start + 1), bytes(2), Advice::GuardInstall).unwrap();
    }
    let child = m.fork(rig.mm_ref()).unwrap();
    for start in [BASE, BASE + 10] {
        for (n, expected) in [Ok(()), Err(Error::Access), Err(Error::Access), Ok(())].into_iter().enumerate() {
            assert_eq!(m.fault(&child, at(start + n as u64), Access::Write), expected);
        }
        m.madvise(&child, at(start), bytes(4), Advice::GuardRemove).unwrap();
        assert_eq!(m.fault(&child, at(start + 1), Access::Write), Ok(()));
        assert_eq!(m.fault(mm, at(start + 1), Access::Write), Err(Error::Access));
    }
    m.exit(child);
    rig.check();
}

fn a_guard_region_is_not_accessible_until_it_is_removed<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 8, RW);
    (0..8).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    let (m, mm) = (rig.m(), rig.mm());
    m.madvise(mm, at(BASE + 2), bytes(3), Advice::GuardInstall).unwrap();
    assert_eq!(m.fault(mm, at(BASE + 3), Access::Read), Err(Error::Access));
    assert!(!rig.touch(BASE + 3, 1));
    rig.check();
    m.madvise(mm, at(BASE), bytes(8), Advice::DontNeed).unwrap();
    assert_eq!((rig.tag(BASE + 1), rig.touch(BASE + 3, 1)), (None, false), "no page is a guard's");
    assert!(rig.touch(BASE + 1, 1));
    m.mremap(mm, at(BASE), bytes(8), bytes(8), MremapFlags::MAYMOVE | MremapFlags::FIXED, Some(at(BASE + 50))).unwrap();
    assert!(!rig.touch(BASE + 53, 1), "it moves with its VMA");
    m.madvise(mm, at(BASE + 50), bytes(8), Advice::GuardRemove).unwrap();
    assert!(rig.touch(BASE + 53, 1));
    assert_eq!((rig.tag(BASE + 51), rig.picture()), (Some(1), vec![(BASE + 50, 8, RW)]));
    rig.check();
}

/// ```text
///   |aaaaaaaaaaaa|
///   |aaaa|nnnn|aaaa|    a name parts VMAs, and its going joins them
/// ```
fn names_part_vmas<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 12, RW);
    let name = |page, pages, name| rig.m().set_name(rig.mm(), at(page), bytes(pages), name);
    name(BASE + 4, 4, Some(&b"heap of mine"[..])).unwrap();
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 4, RW), (BASE + 8, 4, RW)]);
    name(BASE + 2, 2, Some(&b"heap of mine"[..])).unwrap();
    assert_eq!(rig.picture(), [(BASE, 2, RW), (BASE + 2, 6, RW), (BASE + 8, 4, RW)]);
    assert_eq!(rig.pages()[3].1.name.as_deref(), Some(&b"heap of mine"[..]));
    rig.m().mprotect(rig.mm(), at(BASE), bytes(12), R).unwrap();
    assert_eq!(rig.picture().len(), 3);
    name(BASE, 12, None).unwrap();
    assert_eq!(rig.picture(), [(BASE, 12, R)]);
    assert_eq!(name(BASE, 4, Some(&[b'x'; 80][..])), Err(Error::Invalid));
    assert_eq!(name(BASE, 4, Some(&b"a[b"[..])), Err(Error::Invalid));
    let file = Some((rig.files[0].clone(), 0));
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    let request = MapRequest { addr: Some(at(BASE + 20)), file, ..MapRequest::new(bytes(1), R, flags) };
    rig.m().mmap(rig.mm(), &request).unwrap();
    assert_eq!(name(BASE + 20, 1, Some(&b"f"[..])), Err(Error::NotSupported));
    rig.check();
}

fn what_the_system_keeps_of_a_vma_parts_vmas<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    for (n, private) in [7, 7, 8].into_iter().enumerate() {
        let (addr, ext) = (Some(at(BASE + 2 * n as u64)), VmaExt { ops: None, private });
        let request = MapRequest { addr, ext, ..MapRequest::new(bytes(2), RW, flags) };
        rig.m().mmap(rig.mm(), &request).unwrap();
    }
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 2, RW)]);
    for prot in [R, RW] {
        rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(2), prot).unwrap();
    }
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 2, RW)]);
}

/// Counts VMAs as their operations hear of them.
struct Counting(AtomicI64);

impl VmaOps for Counting {
    fn open(&self, _: usize, _: VmaBounds) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn close(&self, _: usize, _: VmaBounds) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn operations_hear_of_every_vma_that_comes_and_goes<S: SoftSystem>() {
    // Each engine's own.
    let heard: &'static Counting = crate::base::testing::forever(Counting(AtomicI64::new(0)));
    let rig = Rig::<S>::new();
    let (m, mm) = (rig.m(), rig.mm());
    let ext = VmaExt { ops: Some(heard), private: 7 };
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    let map = |page, pages| {
        let request = MapRequest { addr: Some(at(page)), ext, ..MapRequest::new(bytes(pages), RW, flags) };
        m.mmap(mm, &request).unwrap();
    };
    let vmas = || {
        let counted = heard.0.load(Ordering::Relaxed);
        assert_eq!(counted, rig.picture().len() as i64);
        counted
    };
    map(BASE, 8);
    map(BASE + 8, 4);
    assert_eq!(vmas(), 2, "a VMA with operations joins no other: close would be called for a range that stays");
    m.mprotect(mm, at(BASE + 2), bytes(2), R).unwrap();
    assert_eq!(vmas(), 4);
    map(BASE + 3, 6);
    assert_eq!(vmas(), 4);
    m.mremap(mm, at(BASE + 9), bytes(2), bytes(4), MremapFlags::MAYMOVE, None).unwrap();
    assert_eq!(vmas(), 5);
    let child = m.fork(rig.mm_ref()).unwrap();
    assert_eq!(heard.0.load(Ordering::Relaxed), 10);
    m.exit(child);
    m.munmap(mm, VirtAddr(0), bytes(TASK_PAGES)).unwrap();
    assert_eq!(vmas(), 0);
}
