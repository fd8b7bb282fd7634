//! Named cases, with their ranges drawn. A character is a page, the first one is page `BASE`.

use super::rig::*;
use crate::base::error::Error;
use crate::base::types::{VirtAddr, VmFlags};
use crate::machine::life_tests::on_every_engine;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::system::SoftSystem;
use crate::mm::address_space::MmLocked;

on_every_engine!(
    munmap_of_the_middle_leaves_both_ends_and_their_pages,
    mprotect_cuts_and_joins_back_to_one_vma_with_one_anon_vma,
    mprotect_over_a_hole_does_what_lies_below_it,
    mprotect_never_grants_what_the_file_forbids,
    t15_an_anonymous_vma_counts_offsets_from_where_it_was_made,
    a_fixed_mapping_replaces_what_is_there,
    a_fixed_mapping_that_must_not_replace_does_not,
    what_cannot_be_mapped_is_refused,
    without_an_address_the_highest_gap_is_taken_and_then_the_lowest,
    a_stack_keeps_its_guard_gap,
    shared_anonymous_memory_goes_with_its_last_mapping,
);

const P: MapFlags = MapFlags::PRIVATE;

/// ```text
///   before  |aaaaaaaaaaaa|
///   munmap      |----|
///   after   |aaaa|  |aaaa|
/// ```
fn munmap_of_the_middle_leaves_both_ends_and_their_pages<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 12, RW);
    (0..12).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    rig.m().munmap(rig.mm(), at(BASE + 4), bytes(4)).unwrap();
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 8, 4, RW)]);
    let tags: Vec<_> = (0..12).map(|n| rig.tag(BASE + n)).collect();
    assert_eq!((&tags[..4], &tags[4..8]), (&[Some(0), Some(1), Some(2), Some(3)][..], &[None; 4][..]));
    assert_eq!(rig.mm().data().counters.snapshot().rss_anon, 8);
    assert_eq!(rig.mm().table().nr_tables(), 2, "one ends with the hole, the other begins there");
    rig.map(BASE + 4, 4, RW);
    assert_eq!(rig.picture(), [(BASE, 12, RW)], "a range mapped between two that fit joins them");
    assert!(rig.has_anchors(1));
    rig.m().munmap(rig.mm(), at(BASE + 6), bytes(6)).unwrap();
    assert_eq!(rig.mm().table().nr_tables(), 1, "nobody needs the upper one");
    rig.check();
}

/// ```text
///   |aaaaaaaaaaaa|  rw       one VMA, one anon_vma
///   |aaaa|bbbb|aaaa|  r for b: three VMAs, one anon_vma
///   |aaaaaa|bb|aaaa|  rw for the first half of b: the boundary moves
///   |aaaaaaaaaaaa|  rw for the rest: one VMA again
/// ```
fn mprotect_cuts_and_joins_back_to_one_vma_with_one_anon_vma<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 12, RW);
    (0..12).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    let protect = |page: u64, pages, prot| rig.m().mprotect(rig.mm(), at(BASE + page), bytes(pages), prot);
    protect(4, 4, R).unwrap();
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 4, R), (BASE + 8, 4, RW)]);
    assert_eq!(rig.mm().data().counters.snapshot().data_vm, 8);
    protect(4, 2, RW).unwrap();
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 6, RW), (BASE + 6, 2, R), (BASE + 8, 4, RW)]);
    protect(7, 1, RW).unwrap();
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 6, RW), (BASE + 6, 1, R), (BASE + 7, 5, RW)]);
    protect(0, 12, RW).unwrap();
    rig.check();
    assert_eq!((rig.picture(), rig.has_anchors(1)), (vec![(BASE, 12, RW)], true));
    assert!((0..12).all(|n| rig.tag(BASE + n) == Some(n as u8)));
}

/// ```text
///   |rrrr|    |rrrr|     PROT_READ for the whole: done up to the hole
///   |-----write----|
/// ```
fn mprotect_over_a_hole_does_what_lies_below_it<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 4, R);
    rig.map(BASE + 8, 4, R);
    assert_eq!(rig.m().mprotect(rig.mm(), at(BASE), bytes(12), RW), Err(Error::NotMapped));
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 8, 4, R)]);
    assert_eq!(rig.m().mprotect(rig.mm(), at(BASE + 6), bytes(4), RW), Err(Error::NotMapped));
    assert_eq!(rig.m().mprotect(rig.mm(), at(BASE), 0, RW), Ok(()));
    assert_eq!(rig.m().mprotect(rig.mm(), VirtAddr(1), bytes(1), RW), Err(Error::Invalid));
    assert_eq!(rig.m().mprotect(rig.mm(), at(BASE), u64::MAX, RW), Err(Error::Invalid));
    rig.check();
}

fn mprotect_never_grants_what_the_file_forbids<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let flags = MapFlags::SHARED | MapFlags::READ_ONLY_FILE;
    let request = MapRequest { file: Some((rig.files[0].clone(), 0)), ..MapRequest::new(bytes(4), R, flags) };
    let addr = rig.m().mmap(rig.mm(), &request).unwrap();
    assert_eq!(rig.m().mprotect(rig.mm(), addr, bytes(4), RW), Err(Error::Access));
    assert_eq!(rig.m().mmap(rig.mm(), &MapRequest { prot: RW, ..request }), Err(Error::Access));
    rig.check();
}

/// ```text
///   |aaaaaaaa|         mapped at BASE, vm_pgoff = BASE
///       |aaaa|         what is left of it keeps the offsets of its pages
/// ```
fn t15_an_anonymous_vma_counts_offsets_from_where_it_was_made<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 8, RW);
    assert!(rig.touch(BASE + 5, 5));
    rig.m().munmap(rig.mm(), at(BASE), bytes(4)).unwrap();
    let held = rig.mm().read();
    let vma = held.find(at(BASE + 4)).unwrap();
    assert_eq!((vma.start(), vma.pgoff()), (at(BASE + 4), BASE + 4));
    drop(held);
    rig.check();
}

/// ```text
///   |aaaaaaaaaaaa|
///       |bbbb|         MAP_FIXED, other access: a is cut, and its pages there go
///       |cccc|         MAP_FIXED, as a: a is one VMA again, with empty pages in the middle
/// ```
fn a_fixed_mapping_replaces_what_is_there<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 12, RW);
    (0..12).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    rig.map(BASE + 4, 4, R);
    rig.check();
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 4, R), (BASE + 8, 4, RW)]);
    assert_eq!((rig.tag(BASE + 3), rig.tag(BASE + 4), rig.tag(BASE + 8)), (Some(3), None, Some(8)));
    rig.map(BASE + 4, 4, RW);
    rig.check();
    assert_eq!((rig.picture(), rig.has_anchors(1)), (vec![(BASE, 12, RW)], true));
}

fn a_fixed_mapping_that_must_not_replace_does_not<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 4, RW);
    let request =
        |page| MapRequest { addr: Some(at(page)), ..MapRequest::new(bytes(4), RW, P | MapFlags::FIXED_NOREPLACE) };
    assert_eq!(rig.m().mmap(rig.mm(), &request(BASE + 3)), Err(Error::Exists));
    assert_eq!(rig.m().mmap(rig.mm(), &request(BASE - 3)), Err(Error::Exists));
    assert_eq!(rig.m().mmap(rig.mm(), &request(BASE + 4)), Ok(at(BASE + 4)));
    assert_eq!(rig.picture(), [(BASE, 8, RW)]);
    rig.check();
}

fn what_cannot_be_mapped_is_refused<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let map = |request: &MapRequest<S>| rig.m().mmap(rig.mm(), request);
    let fixed = |addr: VirtAddr, len| MapRequest { addr: Some(addr), ..MapRequest::new(len, RW, P | MapFlags::FIXED) };
    assert_eq!(map(&MapRequest::new(0, RW, P)), Err(Error::Invalid));
    assert_eq!(map(&MapRequest::new(u64::MAX, RW, P)), Err(Error::Invalid));
    assert_eq!(map(&MapRequest::new(bytes(TASK_PAGES + 1), RW, P)), Err(Error::NoSpace));
    assert_eq!(map(&MapRequest::new(bytes(1), RW, P | MapFlags::SHARED)), Err(Error::Invalid));
    assert_eq!(map(&MapRequest::new(bytes(1), RW, MapFlags::empty())), Err(Error::Invalid));
    assert_eq!(map(&MapRequest::new(bytes(1), RW | VmFlags::LOCKED, P)), Err(Error::Invalid));
    assert_eq!(map(&MapRequest::new(bytes(1), RW, P | MapFlags::FIXED)), Err(Error::Invalid));
    assert_eq!(map(&fixed(VirtAddr(1), bytes(1))), Err(Error::Invalid));
    assert_eq!(map(&fixed(at(0), bytes(1))), Err(Error::Access));
    assert_eq!(map(&fixed(at(TASK_PAGES - 1), bytes(2))), Err(Error::NoSpace));
    assert_eq!(map(&fixed(VirtAddr(!4095), bytes(2))), Err(Error::NoSpace));
    let file = Some((rig.files[0].clone(), u64::MAX - 1));
    assert_eq!(map(&MapRequest { file, ..MapRequest::new(bytes(4), RW, P) }), Err(Error::Invalid));
    assert_eq!(rig.m().munmap(rig.mm(), at(BASE), 0), Err(Error::Invalid));
    assert_eq!(rig.m().munmap(rig.mm(), VirtAddr(5), bytes(1)), Err(Error::Invalid));
    assert_eq!(rig.m().munmap(rig.mm(), at(TASK_PAGES), bytes(1)), Err(Error::Invalid));
    assert_eq!(rig.m().munmap(rig.mm(), at(BASE), u64::MAX), Err(Error::Invalid));
    assert_eq!(rig.m().munmap(rig.mm(), at(BASE), bytes(8)), Ok(()), "a hole is no error");
    assert_eq!(rig.picture(), []);
}

fn without_an_address_the_highest_gap_is_taken_and_then_the_lowest<S: SoftSystem>() {
    use crate::base::sync::atomic::Ordering;
    let rig = Rig::<S>::new();
    let state = rig.mm().data();
    state.mmap_base.store(at(2000).0, Ordering::Relaxed);
    let map = |pages| rig.m().mmap(rig.mm(), &MapRequest::new(bytes(pages), RW, P)).unwrap().vpn();
    assert_eq!((map(4), map(4)), (1996, 1992));
    assert_eq!(rig.picture(), [(1992, 8, RW)]);
    let hinted = |page, pages| {
        let request = MapRequest { addr: Some(VirtAddr(at(page).0 + 7)), ..MapRequest::new(bytes(pages), RW, P) };
        rig.m().mmap(rig.mm(), &request).unwrap().vpn()
    };
    assert_eq!(hinted(100, 4), 100);
    assert_eq!(hinted(102, 4), 1988, "what is there already is not replaced");
    assert_eq!(map(1900), 2000, "below there is no room: the lowest gap from a third of the address space on");
    state.bottom_up.store(true, Ordering::Relaxed);
    state.mmap_base.store(at(50).0, Ordering::Relaxed);
    assert_eq!((map(50), map(4)), (50, 104));
    rig.check();
}

/// ```text
///          |stack|     a mapping keeps 256 pages away from it, wherever it is free to choose
/// ```
fn a_stack_keeps_its_guard_gap<S: SoftSystem>() {
    use crate::base::sync::atomic::Ordering;
    let rig = Rig::<S>::new();
    let state = rig.mm().data();
    state.mmap_base.store(at(2000).0, Ordering::Relaxed);
    let stack = MapRequest {
        addr: Some(at(1990)),
        ..MapRequest::new(bytes(10), RW, P | MapFlags::FIXED | MapFlags::GROWSDOWN)
    };
    rig.m().mmap(rig.mm(), &stack).unwrap();
    assert_eq!(rig.mm().data().counters.snapshot().stack_vm, 10);
    let addr = rig.m().mmap(rig.mm(), &MapRequest::new(bytes(4), RW, P)).unwrap();
    assert_eq!(addr.vpn(), 1990 - 256 - 4);
    let expand = |page: u64| rig.m().expand_stack(&rig.mm().write(), VirtAddr(at(page).0 + 9));
    assert_eq!(expand(1995), Ok(()));
    assert_eq!(expand(1989), Err(Error::NoSpace), "255 pages above the mapping below");
    assert_eq!(rig.m().mprotect(rig.mm(), addr, bytes(4), VmFlags::empty()), Ok(()));
    assert_eq!(expand(1989), Ok(()), "what is not accessible needs no gap");
    assert_eq!(rig.m().mprotect(rig.mm(), addr, bytes(4), R), Ok(()));
    assert_eq!(expand(1985), Err(Error::NoSpace));
    assert_eq!(expand(2001), Err(Error::NotMapped));
    rig.m().munmap(rig.mm(), addr, bytes(4)).unwrap();
    assert_eq!(expand(1985), Ok(()));
    state.stack_limit.store(bytes(20), Ordering::Relaxed);
    assert_eq!((expand(1980), expand(1979)), (Ok(()), Err(Error::NoSpace)));
    assert_eq!(rig.m().grow_stack(rig.mm(), at(1900), at(2000)), Ok(()));
    assert_eq!(rig.m().grow_stack(rig.mm(), at(1950), at(2000)), Ok(()));
    assert_eq!(rig.picture(), [(1900, 100, RW)]);
    assert_eq!(rig.m().grow_stack(rig.mm(), at(1800), at(1999)), Err(Error::NotMapped));
    rig.check();
}

fn shared_anonymous_memory_goes_with_its_last_mapping<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let free = rig.m().frames().free_frames();
    let addr = rig.m().mmap(rig.mm(), &MapRequest::new(bytes(100), RW, MapFlags::SHARED)).unwrap();
    (0..100).for_each(|n| assert!(rig.touch(addr.vpn() + n, n as u8)));
    rig.check();
    assert_eq!(rig.mm().data().counters.snapshot().rss_shmem, 100);
    rig.m().munmap(rig.mm(), addr, bytes(50)).unwrap();
    assert_eq!(rig.m().frames().free_frames(), free - 100, "the file still has them");
    rig.m().munmap(rig.mm(), VirtAddr(addr.0 + bytes(50)), bytes(50)).unwrap();
    assert_eq!(rig.m().frames().free_frames(), free);
}
