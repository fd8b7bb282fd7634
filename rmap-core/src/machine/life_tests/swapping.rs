use super::*;
use crate::base::error::Error;
use crate::base::file::FileStore;
use crate::base::types::PAGE_SIZE;
use crate::engine::Engine;
use crate::machine::system::Access;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;

on_every_engine!(
    g6_contents_come_back,
    t1_a_shared_page_comes_back_to_the_oldest_anchor,
    sharers_meet_at_one_frame,
    the_last_to_come_back_owns_the_page,
    a_page_in_swap_is_shared_by_fork_and_nobodys_alone,
    what_is_locked_or_pinned_stays,
    a_page_that_stays_for_one_of_its_mappers,
    a_full_store_is_an_error_and_changes_nothing,
    without_a_store_pages_stay,
    without_memory_for_its_slot_a_page_stays,
    a_page_that_cannot_be_written_stays_in_the_cache,
    entries_that_go_give_their_slots_back,
    lazily_freed_pages_go_if_they_are_clean,
    a_slot_whose_page_was_locked_is_found_later,
    an_entry_that_goes_while_its_fault_waits,
);

fn out<S: SoftSystem>(w: &World<S>, mm: &Mm<S>, vpn: u64) {
    assert_eq!(w.machine.swap_out(w.page(mm, vpn)), Ok(true));
    assert!(matches!(w.pte(mm, vpn), Pte::Swap(_)));
    w.check();
}

fn g6_contents_come_back<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let mm = w.mm();
    w.map(&mm, 0x100, 20, RW);
    for vpn in 0x100..0x114 {
        w.poke(&mm, vpn, vpn as u8);
    }
    let free = w.machine.frames().free_frames();
    for vpn in 0x100..0x114 {
        out(&w, &mm, vpn);
    }
    assert_eq!(w.machine.frames().free_frames(), free + 20);
    let figures = mm.data().counters.snapshot();
    assert_eq!((figures.rss_anon, figures.swap_ents), (0, 20));
    for vpn in (0x100..0x114).rev() {
        if vpn % 2 == 0 {
            assert_eq!(w.peek(&mm, vpn), vpn as u8);
        } else {
            w.machine.write(&mm, at(vpn), &[1]).unwrap();
            assert_eq!(w.peek(&mm, vpn), vpn as u8);
        }
        assert!(w.page(&mm, vpn).has(PageFlags::ANON_EXCLUSIVE));
        w.check();
    }
    assert_eq!(w.machine.swap_store().unwrap().used(), 0);
    w.machine.exit(mm);
    w.end();
}

/// P, and its child C. The page goes out while both have it, and C faults first: the page must be found from P too.
fn t1_a_shared_page_comes_back_to_the_oldest_anchor<S: SoftSystem>() {
    for access in [Access::Read, Access::Write] {
        let w = World::<S>::new(32);
        let parent = w.mm();
        w.map(&parent, 0x100, 2, RW);
        w.poke(&parent, 0x100, 1);
        w.poke(&parent, 0x101, 2);
        let oldest = w.page(&parent, 0x101).mapping().load();
        let child = w.machine.fork(&parent).unwrap();
        // The child's own VMA has its own anchor by now.
        w.poke(&child, 0x101, 3);
        out(&w, &parent, 0x100);
        w.machine.fault(&child, at(0x100), access).unwrap();
        w.check();
        if access == Access::Read {
            assert_eq!(w.page(&child, 0x100).mapping().load(), oldest);
        }
        assert_eq!(w.peek(&parent, 0x100), 1);
        if access == Access::Read {
            assert_eq!(w.page(&parent, 0x100).pfn(), w.page(&child, 0x100).pfn());
        } else {
            assert_ne!(w.page(&child, 0x100).mapping().load(), Mapping::None);
            assert_ne!(w.page(&parent, 0x100).pfn(), w.page(&child, 0x100).pfn());
        }
        assert_eq!(w.peek(&child, 0x100), 1);
        w.check();
        w.machine.exit(parent);
        w.check();
        w.machine.exit(child);
        w.end();
    }
}

fn sharers_meet_at_one_frame<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    let mut family: Vec<_> = (0..4).map(|_| w.machine.fork(&parent).unwrap()).collect();
    family.push(parent);
    out(&w, &family[0], 0x100);
    assert_eq!(w.check().swap_entries, 5);
    for (i, mm) in family.iter().enumerate() {
        assert_eq!(w.peek(mm, 0x100), 1);
        assert_eq!(w.page(mm, 0x100).pfn(), w.page(&family[0], 0x100).pfn());
        let report = w.check();
        assert_eq!((report.anon, report.swap_cached), (1, u64::from(i < 4)), "in the cache until the last has come");
    }
    for mm in family {
        w.machine.exit(mm);
        w.check();
    }
    w.end();
}

fn the_last_to_come_back_owns_the_page<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    let child = w.machine.fork(&parent).unwrap();
    let sibling = w.machine.fork(&parent).unwrap();
    out(&w, &parent, 0x100);
    w.machine.exit(parent);
    // Read in, and kept in the cache for the child.
    assert_eq!(w.peek(&sibling, 0x100), 1);
    let frame = w.page(&sibling, 0x100).pfn();
    w.check();
    w.poke(&sibling, 0x100, 2);
    assert_ne!(w.page(&sibling, 0x100).pfn(), frame);
    w.check();
    w.poke(&child, 0x100, 3);
    assert!(w.page(&child, 0x100).has(PageFlags::ANON_EXCLUSIVE));
    if <S::Design as Engine<S>>::NAME == "anon_vma" {
        assert_eq!(w.candidates(&child, 0x100), 1);
    }
    assert_eq!(w.machine.swap_store().unwrap().used(), 0);
    assert_eq!((w.peek(&sibling, 0x100), w.peek(&child, 0x100)), (2, 3));
    w.check();
    w.machine.exit(sibling);
    w.machine.exit(child);
    w.end();
}

fn a_page_in_swap_is_shared_by_fork_and_nobodys_alone<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    out(&w, &parent, 0x100);
    assert!(matches!(w.pte(&parent, 0x100), Pte::Swap(entry) if entry.exclusive));
    let child = w.machine.fork(&parent).unwrap();
    for mm in [&parent, &child] {
        assert!(matches!(w.pte(mm, 0x100), Pte::Swap(entry) if !entry.exclusive));
    }
    w.check();
    w.poke(&child, 0x100, 2);
    assert_eq!((w.peek(&parent, 0x100), w.peek(&child, 0x100)), (1, 2));
    w.check();
    w.machine.exit(parent);
    w.machine.exit(child);
    w.end();
}

fn what_is_locked_or_pinned_stays<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let mm = w.mm();
    w.map(&mm, 0x100, 2, RW | VmFlags::LOCKED);
    w.map(&mm, 0x200, 2, RW);
    w.poke(&mm, 0x100, 1);
    w.poke(&mm, 0x200, 1);
    assert!(w.page(&mm, 0x100).has(PageFlags::MLOCKED));
    let child = w.machine.fork(&mm).unwrap();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(false));
    assert!(w.pte(&child, 0x100).pfn().is_some(), "nobody lost it");
    let pinned = w.machine.pin(&mm, at(0x200), true).unwrap();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x200)), Ok(false));
    assert_eq!(w.machine.swap_store().unwrap().used(), 0);
    w.machine.unpin(pinned);
    w.check();
    // The flag of a locked VMA that is gone does not hold the page.
    w.machine.exit(mm);
    out(&w, &child, 0x100);
    assert_eq!(w.peek(&child, 0x100), 1);
    w.machine.exit(child);
    w.end();
}

/// The parent's VMA becomes locked without its pages being told: walks find out on the way, maybe after they have been
/// to the child.
fn a_page_that_stays_for_one_of_its_mappers<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    let child = w.machine.fork(&parent).unwrap();
    let lock = |mm: &MmRef<S>, locked: bool| {
        let held = mm.write();
        let vma = crate::mm::address_space::MmLocked::find(&held, at(0x100)).unwrap();
        held.set_flags(vma, if locked { RW | VmFlags::LOCKED } else { RW }).unwrap();
        mm.data().counters.locked_vm.store(u64::from(locked), crate::base::sync::atomic::Ordering::Relaxed);
    };
    lock(&child, true);
    let page = w.page(&child, 0x100);
    assert_eq!(w.machine.swap_out(page), Ok(false));
    assert!(matches!(w.pte(&parent, 0x100), Pte::Swap(_)));
    assert_eq!(w.check().swap_cached, 1);
    // Who shares it finds it in the cache, and cannot write to it.
    w.poke(&child, 0x100, 5);
    assert_ne!(w.page(&child, 0x100).pfn(), page.pfn());
    assert_eq!(w.peek(&parent, 0x100), 1);
    assert_eq!(w.page(&parent, 0x100).pfn(), page.pfn());
    assert_eq!(w.check().swap_cached, 0);
    lock(&child, false);
    w.machine.exit(parent);
    w.machine.exit(child);
    w.end();
}

fn a_full_store_is_an_error_and_changes_nothing<S: SoftSystem>() {
    let heap = Heap::global().unwrap();
    let w = World::<S>::with(heap.clone(), 32, |config| config.swap = Some((Backing::memory(&heap, 2).unwrap(), 2)));
    let mm = w.mm();
    w.map(&mm, 0x100, 4, RW);
    for vpn in 0x100..0x103 {
        w.poke(&mm, vpn, 1);
    }
    out(&w, &mm, 0x100);
    out(&w, &mm, 0x101);
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x102)), Err(Error::NoSpace));
    w.check();
    assert_eq!(w.peek(&mm, 0x101), 1);
    out(&w, &mm, 0x102);
    drop(heap);
    w.machine.exit(mm);
    w.end();
}

fn without_a_store_pages_stay<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 32, |config| config.swap = None);
    let mm = w.mm();
    w.map(&mm, 0x100, 4, RW);
    w.poke(&mm, 0x100, 1);
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(false));
    w.check();
    w.machine.exit(mm);
    w.end();
}

/// With memory as the backing, the slot's is found before an entry changes (G4).
fn without_memory_for_its_slot_a_page_stays<S: SoftSystem>() {
    let countdown = crate::base::alloc::testing::Countdown::leaked();
    let heap = countdown.heap();
    let w = World::<S>::with(heap.clone(), 32, |config| config.swap = Some((Backing::memory(&heap, 4).unwrap(), 4)));
    drop(heap);
    let mm = w.mm();
    w.map(&mm, 0x100, 4, RW);
    w.poke(&mm, 0x100, 1);
    let page = w.page(&mm, 0x100);
    // The backing's memory is the only one that it asks for.
    countdown.fail_after(0);
    assert_eq!(w.machine.swap_out(page), Err(Error::NoMemory));
    assert!(countdown.lift());
    assert!(page.is_mapped());
    assert_eq!((w.check().swap_cached, w.machine.swap_store().unwrap().used()), (0, 0));
    assert_eq!(w.peek(&mm, 0x100), 1);
    out(&w, &mm, 0x100);
    w.machine.exit(mm);
    w.end();
}

/// A file is only known to fail once its entries have been replaced: they fault the page back, as it was.
fn a_page_that_cannot_be_written_stays_in_the_cache<S: SoftSystem>() {
    let broken = Backing::File(FileStore::unwritable(4 * PAGE_SIZE));
    let w = World::<S>::with(Heap::global().unwrap(), 32, |config| config.swap = Some((broken, 4)));
    let mm = w.mm();
    w.map(&mm, 0x100, 4, RW);
    w.poke(&mm, 0x100, 1);
    let page = w.page(&mm, 0x100);
    assert_eq!(w.machine.swap_out(page), Err(Error::Io));
    assert!(!page.is_mapped());
    assert_eq!(w.check().swap_cached, 1);
    assert_eq!(w.peek(&mm, 0x100), 1);
    assert_eq!(w.page(&mm, 0x100).pfn(), page.pfn());
    assert_eq!(w.check().swap_cached, 0);
    w.machine.exit(mm);
    w.end();
}

fn entries_that_go_give_their_slots_back<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 3, RW);
    for vpn in 0x100..0x103 {
        w.poke(&parent, vpn, 1);
    }
    let child = w.machine.fork(&parent).unwrap();
    for vpn in 0x100..0x103 {
        out(&w, &parent, vpn);
    }
    assert_eq!(w.peek(&child, 0x101), 1);
    let zap = |mm: &MmRef<S>, vpn| {
        let held = mm.write();
        let vma = crate::mm::address_space::MmLocked::find(&held, at(vpn)).unwrap();
        w.machine.zap_range(vma, at(vpn), at(vpn + 1));
        drop(held);
        w.check();
    };
    let used = || w.machine.swap_store().unwrap().used();
    zap(&parent, 0x100);
    assert_eq!(used(), 3);
    zap(&child, 0x100);
    assert_eq!(used(), 2);
    // In the cache, mapped by the child: the parent's was the last entry.
    zap(&parent, 0x101);
    assert_eq!((used(), w.check().swap_cached), (1, 0));
    assert_eq!(w.peek(&child, 0x101), 1);
    w.poke(&child, 0x101, 2);
    // In the cache, mapped by nobody any more.
    assert_eq!(w.peek(&parent, 0x102), 1);
    zap(&parent, 0x102);
    assert_eq!(w.check().swap_cached, 1);
    w.machine.exit(child);
    assert_eq!((used(), w.check().swap_cached), (0, 0));
    w.machine.exit(parent);
    w.end();
}

fn lazily_freed_pages_go_if_they_are_clean<S: SoftSystem>() {
    use crate::page::pte::{LockedTable, PteFlags};
    let w = World::<S>::new(32);
    let mm = w.mm();
    w.map(&mm, 0x100, 2, RW);
    w.poke(&mm, 0x100, 1);
    w.poke(&mm, 0x101, 2);
    for vpn in 0x100..0x102 {
        let page = w.page(&mm, vpn);
        let mut table = mm.table().lock(at(vpn), false).unwrap();
        table.set(at(vpn), Pte::present(page.pfn(), PteFlags::WRITE));
        page.set(PageFlags::LAZY_FREE);
    }
    w.machine.write(&mm, at(0x101), &[1]).unwrap();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(true));
    assert_eq!(w.pte(&mm, 0x100), Pte::None);
    out(&w, &mm, 0x101);
    assert_eq!((w.peek(&mm, 0x100), w.peek(&mm, 0x101)), (0, 2));
    w.check();
    w.machine.exit(mm);
    w.end();
}

/// The last entry of a slot goes while somebody holds the lock of the page in the cache.
fn a_slot_whose_page_was_locked_is_found_later<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    let child = w.machine.fork(&parent).unwrap();
    out(&w, &parent, 0x100);
    assert_eq!(w.peek(&child, 0x100), 1);
    let page = w.page(&child, 0x100);
    page.get();
    let locked = page.lock();
    crate::base::testing::scope(|s| {
        s.spawn(|| w.machine.exit(parent));
    });
    drop(locked);
    w.machine.put_page(page);
    assert_eq!(w.check().swap_cached, 1);
    assert_eq!(w.machine.trim_swap_cache(), 1);
    assert_eq!((w.check().swap_cached, w.peek(&child, 0x100)), (0, 1));
    w.machine.exit(child);
    w.end();
}

/// A fault waits for the lock of the page in the cache, and its entry goes meanwhile.
fn an_entry_that_goes_while_its_fault_waits<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 1, RW);
    w.poke(&parent, 0x100, 1);
    let child = w.machine.fork(&parent).unwrap();
    out(&w, &parent, 0x100);
    assert_eq!(w.peek(&child, 0x100), 1);
    let page = w.page(&child, 0x100);
    let references = page.refcount();
    let locked = page.lock();
    crate::base::testing::scope(|s| {
        let fault = s.spawn(|| w.machine.fault(&parent, at(0x100), Access::Read));
        while page.refcount() == references {
            std::thread::yield_now();
        }
        // A thread of its own: this one holds a page lock, and mmap_lock comes before that.
        let zap = s.spawn(|| {
            let held = parent.read();
            let vma = crate::mm::address_space::MmLocked::find(&held, at(0x100)).unwrap();
            w.machine.zap_range(vma, at(0x100), at(0x101));
        });
        zap.join().unwrap();
        drop(locked);
        assert_eq!(fault.join().unwrap(), Ok(()));
    });
    assert_eq!(w.pte(&parent, 0x100), Pte::None);
    assert_eq!(w.check().swap_cached, 0, "the fault has seen to it");
    assert_eq!((w.peek(&parent, 0x100), w.peek(&child, 0x100)), (0, 1));
    w.machine.exit(parent);
    w.machine.exit(child);
    w.end();
}
