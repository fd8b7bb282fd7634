use super::*;
use crate::base::alloc::testing::Countdown;
use crate::base::error::Error;
use crate::base::types::Pfn;
use crate::engine::Engine;
use crate::machine::advise::Advice;
use crate::mm::address_space::MmLocked;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PteFlags};
use crate::rmap::account::Level;
use core::ops::ControlFlow;

on_every_engine!(
    a_child_sees_what_was_and_not_what_comes,
    advice_decides_what_a_child_gets,
    figures_of_a_child_are_exact,
    a_page_lock_holder_sees_everybody_while_generations_come_and_go,
    t7_a_walk_meets_a_child_that_is_half_made,
    t13_a_page_swapped_out_in_the_middle_of_a_fork_is_found_by_both,
    a_large_page_is_shared_by_small_entries,
    a_large_entry_is_split_without_memory,
    exec_and_exit_count_users,
    a_dropped_machine_ends_what_still_runs,
);

fn a_child_sees_what_was_and_not_what_comes<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x1fe, 6, RW);
    for vpn in 0x1fe..0x202 {
        w.poke(&parent, vpn, vpn as u8);
    }
    let child = w.machine.fork(&parent).unwrap();
    assert_eq!(w.check().mappings, 8);
    assert_eq!(w.check().anon, 4);
    w.poke(&parent, 0x1fe, 1);
    w.poke(&child, 0x201, 2);
    assert_eq!((w.peek(&child, 0x1fe), w.peek(&parent, 0x201)), (0xfe, 0x01));
    assert_eq!((w.peek(&child, 0x200), w.peek(&child, 0x203)), (0x00, 0));
    w.machine.exit(parent);
    w.check();
    assert_eq!((w.peek(&child, 0x1fe), w.peek(&child, 0x201)), (0xfe, 2));
    w.machine.exit(child);
    w.end();
}

fn advice_decides_what_a_child_gets<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 2, RW);
    w.map(&parent, 0x200, 2, RW | VmFlags::DONTFORK);
    w.map(&parent, 0x300, 2, RW | VmFlags::WIPEONFORK);
    w.map(&parent, 0x400, 2, RW | VmFlags::LOCKED);
    for vpn in [0x100, 0x200, 0x300, 0x400] {
        w.poke(&parent, vpn, 1);
    }
    let child = w.machine.fork(&parent).unwrap();
    let mut byte = [0];
    assert_eq!(w.machine.read(&child, at(0x200), &mut byte), Err(Error::NotMapped));
    assert_eq!((w.peek(&child, 0x100), w.peek(&child, 0x300), w.peek(&child, 0x400)), (1, 0, 1));
    assert_eq!((w.peek(&parent, 0x200), w.peek(&parent, 0x300)), (1, 1));
    let figures = child.data().counters.snapshot();
    assert_eq!((figures.total_vm, figures.locked_vm), (6, 0));
    w.check();
    w.machine.exit(parent);
    w.machine.exit(child);
    w.end();
}

fn figures_of_a_child_are_exact<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let shmem = w.machine.new_shmem(4).unwrap();
    let parent = w.mm();
    w.map(&parent, 0x100, 8, RW);
    w.map_with(&parent, 0x200, 4, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
    w.map_with(&parent, 0x300, 4, RW, Some((&shmem, 0)), VmaExt::default());
    for vpn in [0x100, 0x101, 0x102, 0x200, 0x201, 0x301] {
        w.poke(&parent, vpn, 1);
    }
    w.peek(&parent, 0x300);
    assert_eq!(w.machine.swap_out(w.page(&parent, 0x101)), Ok(true));
    let child = w.machine.fork(&parent).unwrap();
    w.check();
    let (p, c) = (parent.data().counters.snapshot(), child.data().counters.snapshot());
    assert_eq!((p.rss_anon, p.rss_shmem, p.swap_ents), (3, 3, 1));
    assert_eq!((c.rss_anon, c.swap_ents, c.total_vm, c.pinned_vm), (3, 1, 16, 0));
    w.machine.exit(parent);
    w.check();
    w.machine.exit(child);
    drop(shmem);
    w.end();
}

/// A chain of forks in which everybody has children, and all orders of exit.
fn a_page_lock_holder_sees_everybody_while_generations_come_and_go<S: SoftSystem>() {
    for order in 0..6 {
        let w = World::<S>::new(64);
        let first = w.mm();
        w.map(&first, 0x100, 8, RW);
        w.poke(&first, 0x100, 1);
        let mut family = vec![first];
        for generation in 1..6 {
            let newest = w.machine.fork(&family[generation - 1]).unwrap();
            w.poke(&newest, 0x100 + generation as u64, 1);
            family.push(newest);
            w.check();
        }
        while !family.is_empty() {
            let gone = family.remove((order * 5 + family.len()) % family.len());
            w.machine.exit(gone);
            w.check();
        }
        w.end();
    }
}

/// The frame at `vpn`, and who maps it, as a walk sees it.
fn walk<S: SoftSystem>(w: &World<S>, pfn: Pfn) -> Vec<(u64, VirtAddr)> {
    let page = w.machine.rmap().pages().page(pfn).unwrap();
    let _locked = page.lock();
    let mut found = Vec::new();
    w.machine.rmap().for_each_mapping(page, |vma, addr, _| {
        found.push((vma.mm().id(), addr));
        ControlFlow::Continue(())
    });
    found.sort_unstable();
    found
}

/// Fork asks for charges before each table: the first VMA of the child is complete then, the second one linked and
/// empty.
fn t7_a_walk_meets_a_child_that_is_half_made<S: SoftSystem>() {
    for refuse in [false, true] {
        let (charges, hook) = Charges::new();
        let w = Arc::new(World::<S>::with(Heap::global().unwrap(), 64, |config| config.charge = Some(hook)));
        let parent = w.mm();
        w.map(&parent, 0x100, 2, RW);
        w.map(&parent, 0x300, 2, RW);
        for vpn in [0x100, 0x101, 0x300] {
            w.poke(&parent, vpn, 1);
        }
        let (one, out, two) =
            (w.page(&parent, 0x100).pfn(), w.page(&parent, 0x101).pfn(), w.page(&parent, 0x300).pfn());
        let (world, again, id) = (w.clone(), charges.clone(), parent.id());
        // Asked for the child's first table: wait for the second.
        charges.next(move |child| {
            again.next(move |child_again| {
                assert_eq!(child, child_again);
                std::thread::spawn(move || {
                    assert_eq!(walk(&world, one), [(id, at(0x100)), (child, at(0x100))]);
                    assert_eq!(walk(&world, two), [(id, at(0x300))]);
                    let page = world.machine.rmap().pages().page(out).unwrap();
                    assert_eq!(world.machine.swap_out(page), Ok(true));
                })
                .join()
                .unwrap();
                !refuse
            });
            true
        });
        let child = w.machine.fork(&parent);
        assert_eq!(child.is_err(), refuse);
        w.check();
        charges.check(&w);
        assert_eq!(w.peek(&parent, 0x101), 1);
        if let Ok(child) = child {
            assert_eq!((w.peek(&child, 0x101), w.peek(&child, 0x300)), (1, 1));
            w.check();
            w.machine.exit(child);
        }
        // The parent goes on as before.
        w.poke(&parent, 0x100, 2);
        w.check();
        w.machine.exit(parent);
        charges.check(&w);
        Arc::into_inner(w).expect("the last reference").end();
    }
}

/// The page goes to swap after the child's VMA was linked and before its entry is copied: the child gets an entry of
/// the same slot.
fn t13_a_page_swapped_out_in_the_middle_of_a_fork_is_found_by_both<S: SoftSystem>() {
    let (charges, hook) = Charges::new();
    let w = Arc::new(World::<S>::with(Heap::global().unwrap(), 64, |config| config.charge = Some(hook)));
    let parent = w.mm();
    w.map(&parent, 0x100, 2, RW);
    w.poke(&parent, 0x100, 1);
    let pfn = w.page(&parent, 0x100).pfn();
    let world = w.clone();
    charges.next(move |_| {
        let page = world.machine.rmap().pages().page(pfn).unwrap();
        crate::base::testing::scope(|s| {
            s.spawn(|| assert_eq!(world.machine.swap_out(page), Ok(true)));
        });
        true
    });
    let child = w.machine.fork(&parent).unwrap();
    assert_eq!(w.pte(&child, 0x100), w.pte(&parent, 0x100));
    assert!(matches!(w.pte(&child, 0x100), Pte::Swap(entry) if !entry.exclusive));
    charges.check(&w);
    w.check();
    assert_eq!((w.peek(&child, 0x100), w.peek(&parent, 0x100)), (1, 1));
    assert_eq!(w.page(&child, 0x100).pfn(), w.page(&parent, 0x100).pfn());
    assert!(!w.page(&child, 0x100).has(PageFlags::SWAP_CACHE));
    w.check();
    charges.check(&w);
    w.machine.exit(parent);
    w.machine.exit(child);
    Arc::into_inner(w).expect("the last reference").end();
}

fn exec_and_exit_count_users<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let mm = w.mm();
    w.map(&mm, 0x100, 2, RW);
    w.poke(&mm, 0x100, 1);
    // A vfork child runs in it, and starts a program of its own.
    assert!(mm.try_get_user());
    let program = w.machine.exec(&mm).unwrap();
    assert_eq!(w.peek(&mm, 0x100), 1);
    assert_eq!(w.machine.read(&program, at(0x100), &mut [0]), Err(Error::NotMapped));
    let after = w.machine.exec(&mm).unwrap();
    assert_eq!(mm.users(), 0);
    assert_eq!(w.machine.read(&mm, at(0x100), &mut [0]), Err(Error::NotMapped));
    assert_eq!(w.check().mms, 2);
    drop(mm);
    w.machine.exit(program);
    w.machine.exit(after);
    w.end();
}

fn a_dropped_machine_ends_what_still_runs<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let file = w.machine.new_file(4, crate::machine::system::FileExt::default()).unwrap();
    let mm = w.mm();
    w.map(&mm, 0x100, 2, RW);
    w.map_with(&mm, 0x200, 2, SHARED_RW, Some((&file, 0)), VmaExt::default());
    w.poke(&mm, 0x100, 1);
    w.poke(&mm, 0x200, 1);
    let child = w.machine.fork(&mm).unwrap();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(true));
    let World { machine, heap } = w;
    drop(machine);
    assert_eq!(child.nr_regions() + mm.nr_regions(), 0);
    drop((mm, child, file));
    assert_eq!(heap.in_use(), 0);
}

/// Maps a compound page of 512 by one entry at 0x200.
fn map_large<'w, S: SoftSystem>(w: &'w World<S>, mm: &Mm<S>, flags: PteFlags) -> &'w Page {
    let rmap = w.machine.rmap();
    let head = w.machine.frames().alloc_order(rmap.pages(), 9).unwrap();
    head.set(PageFlags::UPTODATE);
    let held = mm.read();
    let vma = held.find(at(0x200)).unwrap();
    rmap.engine().prepare(vma).unwrap();
    let _reserved = rmap.reserve(1 + 512).unwrap();
    rmap.page_add_new_anon_rmap(head, vma, at(0x200), Level::Entire).unwrap();
    mm.table().set_large(at(0x200), head.pfn(), flags).unwrap();
    w.machine.account_page(vma, Pte::present(head.pfn(), flags | PteFlags::LARGE));
    head
}

fn a_large_page_is_shared_by_small_entries<S: SoftSystem>() {
    let w = World::<S>::new(1_200);
    let parent = w.mm();
    w.map(&parent, 0x200, 0x200, RW);
    map_large(&w, &parent, PteFlags::WRITE | PteFlags::DIRTY);
    w.poke(&parent, 0x2ff, 7);
    assert_eq!((w.check().mappings, w.machine.rmap().anon_large()), (512, 1));
    let child = w.machine.fork(&parent).unwrap();
    assert_eq!((w.check().mappings, w.machine.rmap().anon_large()), (1_024, 0));
    w.poke(&parent, 0x2ff, 8);
    w.poke(&child, 0x200, 9);
    assert_eq!((w.peek(&child, 0x2ff), w.peek(&parent, 0x200)), (7, 0));
    w.check();
    w.machine.exit(parent);
    w.check();
    w.machine.exit(child);
    w.end();
}

/// Another address space maps each page by itself, so that each may need memory for its second mapping when the large
/// entry is split; and there is none to be had.
fn a_large_entry_is_split_without_memory<S: SoftSystem>() {
    let countdown = Countdown::leaked();
    let w = World::<S>::with(countdown.heap(), 1_200, |_| {});
    let one = w.mm();
    w.map(&one, 0x200, 0x200, RW);
    let rmap = w.machine.rmap();
    rmap.engine().prepare(one.read().find(at(0x200)).unwrap()).unwrap();
    let other = w.machine.fork(&one).unwrap();
    let head = map_large(&w, &one, PteFlags::DIRTY);
    {
        let held = other.read();
        let vma = held.find(at(0x200)).unwrap();
        let _reserved = rmap.reserve(512).unwrap();
        other.table().alloc(at(0x200)).unwrap();
        let mut table = other.table().lock(at(0x200), false).unwrap();
        for n in 0..512 {
            let page = rmap.pages().page(Pfn(head.pfn().0 + n)).unwrap();
            page.get();
            rmap.page_dup_rmap(page, vma, at(0x200 + n), Level::Single).unwrap();
            table.set(at(0x200 + n), Pte::present(page.pfn(), PteFlags::empty()));
            w.machine.account_page(vma, Pte::present(page.pfn(), PteFlags::empty()));
        }
    }
    countdown.fail_after(0);
    w.machine.madvise(&one, at(0x210), 0x10 * PAGE, Advice::DontNeed).unwrap();
    assert!(!countdown.lift(), "nobody asked for memory");
    assert_eq!((w.check().mappings, rmap.anon_large()), (512 + 496, 0));
    w.machine.exit(other);
    w.check();
    w.machine.exit(one);
    w.end();
}
