//! mremap, with its ranges drawn. A character is a page, the first one is page `BASE`.

use super::rig::*;
use crate::base::error::{Error, Result};
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::machine::life_tests::on_every_engine;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::SoftSystem;
use crate::mm::address_space::MmLocked;
use crate::page::pte::PageTable;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};

on_every_engine!(
    a_range_shrinks_and_grows,
    what_grows_up_to_a_neighbour_joins_it,
    a_part_moves_with_its_pages,
    a_fixed_target_is_replaced,
    dontunmap_leaves_an_empty_range,
    t3_a_touched_vma_moves_between_untouched_neighbours,
    t3_a_forked_vma_joins_no_untouched_neighbour,
    t3_a_forked_vma_takes_in_no_new_memory,
    t15_an_untouched_vma_counts_anew_where_it_moves,
    a_length_of_zero_maps_shared_pages_again,
    a_private_file_mapping_moves_with_both_kinds_of_pages,
    several_vmas_move_together,
    several_vmas_leave_empty_ranges_behind,
    a_move_that_shrinks_cuts_off_several_vmas,
    what_cannot_be_moved_is_refused,
    t4_a_moving_page_is_always_found,
);

/// Looks for a moving page.
const WALKS: u64 = 20_000;

const MAYMOVE: MremapFlags = MremapFlags::MAYMOVE;
const FIXED: MremapFlags = MremapFlags::MAYMOVE.union(MremapFlags::FIXED);
const DONTUNMAP: MremapFlags = MremapFlags::MAYMOVE.union(MremapFlags::FIXED).union(MremapFlags::DONTUNMAP);

impl<S: SoftSystem> Rig<S> {
    fn remap(&self, old: u64, old_pages: u64, new_pages: u64, flags: MremapFlags, to: Option<u64>) -> Result<u64> {
        let to = to.map(at);
        let done = self.m().mremap(self.mm(), at(old), bytes(old_pages), bytes(new_pages), flags, to);
        self.check();
        done.map(VirtAddr::vpn)
    }

    /// Maps and touches `pages` pages.
    fn filled(&self, page: u64, pages: u64) {
        self.map(page, pages, RW);
        (0..pages).for_each(|n| assert!(self.touch(page + n, n as u8)));
    }

    fn tags(&self, page: u64, pages: u64) -> Vec<Option<u8>> {
        (page..page + pages).map(|page| self.tag(page)).collect()
    }

    fn is_prepared(&self, page: u64) -> bool {
        let held = self.mm().read();
        self.m().rmap().engine().is_prepared(held.find(at(page)).unwrap())
    }
}

fn some(tags: core::ops::Range<u8>) -> Vec<Option<u8>> {
    tags.map(Some).collect()
}

/// ```text
///   |aaaaaaaaaaaa|
///   |aaaa|              shrinks
///   |aaaaaaaa|          grows in place
///   |aaaaaaaa|bb|       the gap is too small for 12: NoSpace, or it moves
/// ```
fn a_range_shrinks_and_grows<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 12);
    assert_eq!(rig.remap(BASE, 12, 4, MremapFlags::empty(), None), Ok(BASE));
    assert_eq!(rig.remap(BASE, 4, 8, MremapFlags::empty(), None), Ok(BASE));
    assert_eq!(rig.picture(), [(BASE, 8, RW)]);
    assert_eq!((rig.tags(BASE, 4), rig.tags(BASE + 4, 4)), (some(0..4), vec![None; 4]));
    rig.map(BASE + 10, 2, R);
    assert_eq!(rig.remap(BASE, 8, 12, MremapFlags::empty(), None), Err(Error::NoSpace));
    let moved = rig.remap(BASE, 8, 12, MAYMOVE, None).unwrap();
    assert_ne!(moved, BASE);
    assert_eq!(rig.picture(), [(BASE + 10, 2, R), (moved, 12, RW)]);
    assert_eq!(rig.tags(moved, 4), some(0..4));
    assert_eq!(rig.mm().data().counters.snapshot().total_vm, 14);
    assert_eq!(rig.mm().data().counters.snapshot().hiwater_vm, 14);
}

/// ```text
///   |aaaa|    |bbbb|    a grows up to b, which is as it would be: one VMA
/// ```
fn what_grows_up_to_a_neighbour_joins_it<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 4);
    rig.filled(BASE + 8, 4);
    assert!(rig.has_anchors(2));
    assert_eq!(rig.remap(BASE, 4, 8, MremapFlags::empty(), None), Ok(BASE));
    let two = [(BASE, 8, RW), (BASE + 8, 4, RW)];
    assert_eq!(rig.picture(), if Rig::<S>::ANCHORS { &two[..] } else { &[(BASE, 12, RW)] }, "two anchors: two VMAs");
    rig.m().munmap(rig.mm(), at(BASE + 8), bytes(4)).unwrap();
    rig.map(BASE + 12, 4, RW);
    assert_eq!(rig.remap(BASE, 8, 12, MremapFlags::empty(), None), Ok(BASE));
    assert_eq!(rig.picture(), [(BASE, 16, RW)]);
}

/// ```text
///   |aaaa====aaaa|             the middle moves, across a page table's end
///   |aaaa|  |aaaa|  |====|
/// ```
fn a_part_moves_with_its_pages<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 12);
    assert_eq!(rig.remap(BASE + 4, 4, 4, FIXED, Some(BASE + 14)), Ok(BASE + 14));
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 8, 4, RW), (BASE + 14, 4, RW)]);
    assert_eq!((rig.tags(BASE + 14, 4), rig.tags(BASE + 4, 4)), (some(4..8), vec![None; 4]));
    assert!(rig.has_anchors(1));
    // Back where it came from it fits, and is one VMA with its neighbours again.
    assert_eq!(rig.remap(BASE + 14, 4, 4, FIXED, Some(BASE + 4)), Ok(BASE + 4));
    assert_eq!((rig.picture(), rig.tags(BASE, 12)), (vec![(BASE, 12, RW)], some(0..12)));
}

/// ```text
///   |aaaa|   |bbbbbbbb|      a moves over the middle of b, and grows
///            |bb|aaaaaa|
/// ```
fn a_fixed_target_is_replaced<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 4);
    rig.map(BASE + 6, 8, R);
    assert_eq!(rig.remap(BASE, 4, 6, FIXED, Some(BASE + 8)), Ok(BASE + 8));
    assert_eq!(rig.picture(), [(BASE + 6, 2, R), (BASE + 8, 6, RW)]);
    assert_eq!(rig.tags(BASE + 8, 6), [some(0..4), vec![None; 2]].concat());
    // Smaller at the new place: the rest goes.
    assert_eq!(rig.remap(BASE + 8, 6, 2, FIXED, Some(BASE)), Ok(BASE));
    assert_eq!(rig.picture(), [(BASE, 2, RW), (BASE + 6, 2, R)]);
}

/// ```text
///   |aaaa|          |    |     DONTUNMAP: the pages are at the new place, the old one is empty and works
/// ```
fn dontunmap_leaves_an_empty_range<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 4);
    rig.m().mlock(rig.mm(), at(BASE), bytes(4), false).unwrap();
    assert_eq!(rig.remap(BASE, 4, 4, DONTUNMAP, Some(BASE + 20)), Ok(BASE + 20));
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 20, 4, RW)]);
    assert_eq!((rig.tags(BASE, 4), rig.tags(BASE + 20, 4)), (vec![None; 4], some(0..4)));
    assert!(!rig.is_prepared(BASE) && rig.is_prepared(BASE + 20));
    let now = rig.mm().data().counters.snapshot();
    assert_eq!((now.total_vm, now.locked_vm), (8, 4), "the lock goes with the pages");
    assert!(rig.touch(BASE + 1, 77));
    assert_eq!((rig.tag(BASE + 1), rig.tag(BASE + 21), rig.has_anchors(2)), (Some(77), Some(1), true));
    rig.check();
    // A part: the VMA stays whole, and keeps its ties for the pages that are left.
    assert_eq!(rig.remap(BASE + 21, 1, 1, DONTUNMAP, Some(BASE + 30)), Ok(BASE + 30));
    assert_eq!((rig.tag(BASE + 30), rig.tags(BASE + 20, 3)), (Some(1), vec![Some(0), None, Some(2)]));
    assert!(rig.touch(BASE + 21, 99));
    rig.check();
}

/// ```text
///   |uuuu|    |uuuu|     never touched
///        |ffff|          moves in between, touched: one VMA, and the anchor is that of f
/// ```
fn t3_a_touched_vma_moves_between_untouched_neighbours<S: SoftSystem>() {
    for flags in [FIXED, DONTUNMAP] {
        let rig = Rig::<S>::new();
        // Mapped where it goes to, so that its offsets fit there, then moved away.
        rig.map(BASE, 12, RW);
        (4..8).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
        rig.remap(BASE + 4, 4, 4, FIXED, Some(BASE + 40)).unwrap();
        rig.m().munmap(rig.mm(), at(BASE), bytes(4)).unwrap();
        rig.m().munmap(rig.mm(), at(BASE + 8), bytes(4)).unwrap();
        rig.map(BASE, 4, RW);
        rig.map(BASE + 8, 4, RW);
        assert!(!rig.is_prepared(BASE) && !rig.is_prepared(BASE + 8));
        assert_eq!(rig.remap(BASE + 40, 4, 4, flags, Some(BASE + 4)), Ok(BASE + 4));
        let left = if flags == DONTUNMAP { vec![(BASE, 12, RW), (BASE + 40, 4, RW)] } else { vec![(BASE, 12, RW)] };
        assert_eq!((rig.picture(), rig.has_anchors(1)), (left, true));
        assert_eq!(rig.tags(BASE + 4, 4), some(4..8));
        assert!(rig.is_prepared(BASE));
        // What was never touched gets its pages under the same anchor, and all are found.
        (0..12).for_each(|n| assert!(rig.touch(BASE + n, 100 + n as u8)));
        rig.check();
    }
}

/// As above, but the process was forked: its pages are tied to another process too, and with `anon_vma` the VMA stays
/// alone. Other engines tie nobody to more than there was.
fn t3_a_forked_vma_joins_no_untouched_neighbour<S: SoftSystem>() {
    for flags in [FIXED, DONTUNMAP] {
        let rig = Rig::<S>::new();
        rig.map(BASE, 8, RW);
        (4..8).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
        rig.remap(BASE + 4, 4, 4, FIXED, Some(BASE + 40)).unwrap();
        let child = rig.m().fork(rig.mm_ref()).unwrap();
        rig.m().munmap(&child, at(BASE), bytes(4)).unwrap();
        rig.m()
            .mmap(
                &child,
                &MapRequest {
                    addr: Some(at(BASE)),
                    ..MapRequest::new(bytes(4), RW, MapFlags::PRIVATE | MapFlags::FIXED)
                },
            )
            .unwrap();
        rig.m().mremap(&child, at(BASE + 40), bytes(4), bytes(4), flags, Some(at(BASE + 4))).unwrap();
        let vmas: Vec<_> = child.read().vmas().map(|vma| (vma.start().vpn(), vma.pages())).collect();
        let alone = [(BASE, 4), (BASE + 4, 4)];
        let expected = if Rig::<S>::ENGINE == "anon_vma" { &alone[..] } else { &[(BASE, 8)] };
        assert_eq!(&vmas[..expected.len()], expected, "the neighbour would be tied to the parent's pages");
        rig.m().check().unwrap();
        // The page that parent and child share is found in both, at either place.
        let pfn = child.table().load(at(BASE + 5)).pfn().unwrap();
        let page = rig.m().rmap().pages().page(pfn).unwrap();
        let mut found = Vec::new();
        let lock = page.lock();
        rig.m().rmap().for_each_mapping(page, |vma, addr, _| {
            found.push((vma.mm().id(), addr.vpn()));
            ControlFlow::Continue(())
        });
        drop(lock);
        assert_eq!(found, [(rig.mm().id(), BASE + 41), (child.id(), BASE + 5)]);
        rig.m().exit(child);
    }
}

/// ```text
///   ....[aaaa)....      new memory comes before and behind what fork has copied
/// ```
fn t3_a_forked_vma_takes_in_no_new_memory<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE + 4, 4);
    let child = rig.m().fork(rig.mm_ref()).unwrap();
    for (mm, forked) in [(rig.mm_ref(), false), (&child, true)] {
        for page in [BASE, BASE + 8] {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            let request = MapRequest { addr: Some(at(page)), ..MapRequest::new(bytes(4), RW, flags) };
            rig.m().mmap(mm, &request).unwrap();
        }
        let vmas: Vec<_> = mm.read().vmas().map(|vma| (vma.start().vpn(), vma.pages())).collect();
        let apart = forked && Rig::<S>::ENGINE == "anon_vma";
        let expected = if apart { &[(BASE, 4), (BASE + 4, 4), (BASE + 8, 4)][..] } else { &[(BASE, 12)] };
        assert_eq!(vmas, expected);
    }
    rig.m().exit(child);
}

fn t15_an_untouched_vma_counts_anew_where_it_moves<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.map(BASE, 4, RW);
    rig.map(BASE + 20, 4, RW);
    assert_eq!(rig.remap(BASE, 4, 4, FIXED, Some(BASE + 24)), Ok(BASE + 24));
    assert_eq!(rig.picture(), [(BASE + 20, 8, RW)]);
    let held = rig.mm().read();
    assert_eq!(held.find(at(BASE + 20)).unwrap().pgoff(), BASE + 20);
}

fn a_length_of_zero_maps_shared_pages_again<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let addr = rig.m().mmap(rig.mm(), &MapRequest::new(bytes(8), RW, MapFlags::SHARED)).unwrap().vpn();
    assert!(rig.touch(addr + 3, 3));
    let again = rig.remap(addr + 2, 0, 4, MAYMOVE, None).unwrap();
    let mut byte = [0];
    rig.m().read(rig.mm(), at(again + 1), &mut byte).unwrap();
    assert_eq!((byte, rig.tag(addr + 3)), ([3], Some(3)));
    assert!(rig.touch(again + 2, 4));
    rig.m().read(rig.mm(), at(addr + 4), &mut byte).unwrap();
    assert_eq!(byte, [4]);
    let counters = rig.mm().data().counters.snapshot();
    assert_eq!((counters.total_vm, counters.shared_vm), (12, 12));
    rig.map(BASE, 4, RW);
    assert_eq!(rig.remap(BASE, 0, 4, MAYMOVE, None), Err(Error::Invalid));
    assert_eq!(rig.remap(addr, 0, 4, MremapFlags::empty(), None), Err(Error::NoSpace));
    let before = rig.state();
    for to in [addr, addr - 2] {
        assert_eq!(rig.remap(addr, 0, 4, FIXED, Some(to)), Err(Error::Invalid), "the source would go first");
    }
    assert_eq!(rig.state(), before);
    assert_eq!(rig.remap(addr, 0, 2, FIXED, Some(addr + 4)), Ok(addr + 4), "in place of others of its pages");
}

/// ```text
///   |fffffff|  private, of a file; pages 1 and 5 are written: copies, under an anchor beside i_mmap
/// ```
fn a_private_file_mapping_moves_with_both_kinds_of_pages<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    let file = Some((rig.files[0].clone(), 10));
    rig.m().mmap(rig.mm(), &MapRequest { addr: Some(at(BASE)), file, ..MapRequest::new(bytes(8), RW, flags) }).unwrap();
    assert!(rig.touch(BASE + 1, 1) && rig.touch(BASE + 5, 5));
    let mut byte = [9];
    rig.m().read(rig.mm(), at(BASE + 2), &mut byte).unwrap();
    rig.check();
    // Whole: the order of visits protects. A part that grows: the locks do.
    assert_eq!(rig.remap(BASE, 8, 8, FIXED, Some(BASE + 600)), Ok(BASE + 600));
    assert_eq!((rig.tag(BASE + 601), rig.tag(BASE + 605)), (Some(1), Some(5)));
    assert_eq!(rig.remap(BASE + 604, 4, 6, FIXED, Some(BASE)), Ok(BASE));
    assert_eq!((rig.tag(BASE + 1), rig.tag(BASE + 601)), (Some(5), Some(1)));
    let held = rig.mm().read();
    assert_eq!((held.find(at(BASE)).unwrap().pgoff(), held.find(at(BASE + 600)).unwrap().pgoff()), (14, 10));
}

/// ```text
///   |aaaa|rrrr|  |bbbb|      a fixed move of the same length takes all three, and the gap
/// ```
fn several_vmas_move_together<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 8);
    rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(4), R).unwrap();
    rig.map(BASE + 10, 4, VmFlags::READ | VmFlags::EXEC);
    assert_eq!(rig.remap(BASE + 2, 10, 10, FIXED, Some(BASE + 102)), Ok(BASE + 102));
    let rx = VmFlags::READ | VmFlags::EXEC;
    assert_eq!(
        rig.picture(),
        [(BASE, 2, RW), (BASE + 12, 2, rx), (BASE + 102, 2, RW), (BASE + 104, 4, R), (BASE + 110, 2, rx)]
    );
    assert_eq!(rig.tags(BASE + 102, 6), some(2..8));
    assert_eq!(rig.remap(BASE + 102, 8, 9, FIXED, Some(BASE)), Err(Error::NotMapped), "not while it grows");
}

/// ```text
///   |aaaa|rrrr|      the end of the one and the beginning of the other leave, and their ranges stay
/// ```
fn several_vmas_leave_empty_ranges_behind<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 8);
    rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(4), R).unwrap();
    assert_eq!(rig.remap(BASE + 2, 4, 4, DONTUNMAP, Some(BASE + 102)), Ok(BASE + 102));
    assert_eq!(rig.picture(), [(BASE, 4, RW), (BASE + 4, 4, R), (BASE + 102, 2, RW), (BASE + 104, 2, R)]);
    assert_eq!(rig.tags(BASE, 8), [Some(0), Some(1), None, None, None, None, Some(6), Some(7)]);
    assert_eq!(rig.tags(BASE + 102, 4), some(2..6));
}

/// ```text
///   |aaaa|rrrr|      two pages move, the next four go
/// ```
fn a_move_that_shrinks_cuts_off_several_vmas<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 8);
    rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(4), R).unwrap();
    assert_eq!(rig.remap(BASE, 6, 2, FIXED, Some(BASE + 100)), Ok(BASE + 100));
    assert_eq!(rig.picture(), [(BASE + 6, 2, R), (BASE + 100, 2, RW)]);
    assert_eq!(rig.tags(BASE + 100, 2), some(0..2));
    assert_eq!(rig.tags(BASE, 8), [None, None, None, None, None, None, Some(6), Some(7)]);
    let before = rig.state();
    assert_eq!(rig.remap(BASE + 100, 4, 3, FIXED, Some(BASE + 200)), Err(Error::NotMapped), "not what is kept");
    assert_eq!(rig.state(), before);
}

fn what_cannot_be_moved_is_refused<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 8);
    let before = rig.state();
    let none = MremapFlags::empty();
    for (old, old_pages, new_pages, flags, to, error) in [
        (BASE + 8, 1, 2, MAYMOVE, None, Error::NotMapped),
        (BASE + 4, 8, 9, MAYMOVE, None, Error::NotMapped),
        (BASE, 4, 8, none, None, Error::NoSpace),
        (BASE, 4, 0, MAYMOVE, None, Error::Invalid),
        (BASE, 4, 4, MremapFlags::FIXED, Some(BASE + 20), Error::Invalid),
        (BASE, 4, 4, FIXED, None, Error::Invalid),
        (BASE, 4, 8, DONTUNMAP, Some(BASE + 20), Error::Invalid),
        (BASE, 4, 4, FIXED, Some(BASE + 3), Error::Invalid),
        (BASE, 4, 4, FIXED, Some(TASK_PAGES - 2), Error::Invalid),
        (BASE, 4, 4, FIXED, Some(2), Error::Access),
        (BASE, 4, 1 << 40, MAYMOVE, None, Error::NoSpace),
    ] {
        assert_eq!(rig.remap(old, old_pages, new_pages, flags, to), Err(error));
    }
    let odd = |old: u64, old_len, new_len| rig.m().mremap(rig.mm(), VirtAddr(old), old_len, new_len, MAYMOVE, None);
    assert_eq!(odd(at(BASE).0 + 1, 4096, 4096), Err(Error::Invalid));
    assert_eq!(odd(at(BASE).0, 4096, u64::MAX), Err(Error::Invalid));
    assert_eq!(odd(at(BASE).0, u64::MAX - 4096, 4096), Err(Error::Invalid));
    assert_eq!(rig.state(), before);
}

/// A page moves to and fro, with its whole VMA, a part of it, growing, and leaving the range behind, while another
/// thread looks for it: it is always somewhere, and at no place twice. At two places it may be found: it moved from one
/// to the other meanwhile (T4, G1).
fn t4_a_moving_page_is_always_found<S: SoftSystem>() {
    let rig = Rig::<S>::new();
    rig.filled(BASE, 4);
    let pfn = rig.mm().table().load(at(BASE + 1)).pfn().unwrap();
    let page = rig.m().rmap().pages().page(pfn).unwrap();
    let walks = AtomicU64::new(0);
    crate::base::testing::scope(|scope| {
        scope.spawn(|| {
            while walks.load(Ordering::Relaxed) < WALKS {
                let mut found = Vec::new();
                let lock = page.lock();
                rig.m().rmap().for_each_mapping(page, |_, addr, _| {
                    found.push(addr);
                    ControlFlow::Continue(())
                });
                drop(lock);
                let right = matches!(found[..], [_]) || matches!(found[..], [one, other] if one != other);
                // Ends the other thread too, whatever was found.
                let was = walks.fetch_add(if right { 1 } else { WALKS }, Ordering::Relaxed);
                assert!(right, "found at {found:?} after {was} walks");
            }
        });
        let (m, mm) = (rig.m(), rig.mm());
        let remap = |old, pages, new_pages, flags, to| {
            m.mremap(mm, at(old), bytes(pages), bytes(new_pages), flags, Some(at(to))).unwrap();
        };
        while walks.load(Ordering::Relaxed) < WALKS {
            remap(BASE, 4, 4, FIXED, BASE + 20);
            remap(BASE + 20, 4, 4, FIXED, BASE);
            remap(BASE + 1, 1, 1, FIXED, BASE + 30);
            remap(BASE + 30, 1, 1, FIXED, BASE + 1);
            remap(BASE, 4, 7, FIXED, BASE + 700);
            remap(BASE + 700, 7, 4, FIXED, BASE);
            remap(BASE, 2, 2, DONTUNMAP, BASE + 50);
            remap(BASE + 50, 2, 2, FIXED, BASE);
        }
    });
    rig.check();
    assert!(rig.tags(BASE, 2) == some(0..2));
}
