use super::*;
use crate::base::error::Error;
use crate::base::sync::atomic::Ordering;
use crate::base::types::PgOff;
use crate::engine::Engine;
use crate::machine::system::{Access, VmaOps};
use crate::page::flags::PageFlags;
use crate::page::pte::LockedTable;
use crate::page::pte::PteFlags;
use crate::rmap::unmap::POISON_MARKER;

on_every_engine!(
    a_read_shows_the_zero_page_and_a_write_makes_a_page,
    without_a_zero_page_a_read_makes_a_page,
    what_is_not_there_or_not_allowed_is_refused,
    bytes_cross_pages,
    a_stack_grows_to_the_fault,
    t14_the_last_writer_owns_the_page,
    an_exclusive_page_is_written_in_place,
    a_page_that_somebody_looks_at_is_copied,
    a_missing_page_is_the_handlers,
    operations_fill_pages,
    a_pin_keeps_its_page_over_fork,
    a_pin_for_reading_makes_the_page_its_own,
    one_mms_accesses_share_no_lock_with_anothers,
);

fn a_read_shows_the_zero_page_and_a_write_makes_a_page<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    w.map(&mm, 0x100, 4, RW);
    assert_eq!(w.peek(&mm, 0x100), 0);
    assert_eq!(w.pte(&mm, 0x100), Pte::Special { pfn: w.machine.zero_pfn() });
    assert_eq!(w.check().special, 1);
    w.poke(&mm, 0x100, 5);
    w.poke(&mm, 0x101, 6);
    assert_eq!((w.peek(&mm, 0x100), w.peek(&mm, 0x101), w.peek(&mm, 0x102)), (5, 6, 0));
    let report = w.check();
    assert_eq!((report.anon, report.mappings, report.special), (2, 2, 1));
    assert_eq!(mm.data().counters.snapshot().rss_anon, 2);
    w.machine.exit(mm);
    w.end();
}

fn without_a_zero_page_a_read_makes_a_page<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    mm.data().no_zeropage.store(true, Ordering::Relaxed);
    w.map(&mm, 0x100, 4, RW);
    assert_eq!(w.peek(&mm, 0x100), 0);
    assert_eq!((w.check().anon, w.check().special), (1, 0));
    w.machine.exit(mm);
    w.end();
}

fn what_is_not_there_or_not_allowed_is_refused<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    w.map(&mm, 0x100, 1, VmFlags::READ);
    w.map(&mm, 0x110, 1, VmFlags::empty());
    w.map(&mm, 0x120, 1, SHARED_RW);
    w.map(&mm, 0x130, 1, RW);
    let fault = |vpn, access| w.machine.fault(&mm, at(vpn), access);
    assert_eq!(fault(0xff, Access::Read), Err(Error::NotMapped));
    assert_eq!(fault(0x100, Access::Write), Err(Error::Access));
    assert_eq!(fault(0x100, Access::Exec), Err(Error::Access));
    assert_eq!(fault(0x100, Access::Read), Ok(()));
    assert_eq!(fault(0x110, Access::Read), Err(Error::Access));
    // Shared, without a file and without operations.
    assert_eq!(fault(0x120, Access::Read), Err(Error::Bus));
    assert_eq!(fault(0x120, Access::Write), Err(Error::Bus));
    w.poke(&mm, 0x130, 1);
    w.machine.zap_range(
        crate::mm::address_space::MmLocked::find(&mm.write(), at(0x130)).unwrap(),
        at(0x130),
        at(0x131),
    );
    mm.table().lock(at(0x130), false).unwrap().set(at(0x130), Pte::Marker(POISON_MARKER));
    assert_eq!(fault(0x130, Access::Read), Err(Error::Bus));
    mm.table().lock(at(0x130), false).unwrap().set(at(0x130), Pte::Marker(POISON_MARKER + 1));
    assert_eq!(fault(0x130, Access::Read), Err(Error::Access));
    assert_eq!(w.machine.read(&mm, VirtAddr(u64::MAX), &mut [0, 0]), Err(Error::NotMapped));
    w.check();
    w.machine.exit(mm);
    w.end();
}

fn bytes_cross_pages<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    // The last page of one table, and the first two of the next.
    w.map(&mm, 0x1ff, 3, RW);
    let data: Vec<u8> = (0..9_000_u32).map(|i| i as u8).collect();
    w.machine.write(&mm, VirtAddr(at(0x1ff).0 + 100), &data).unwrap();
    let mut back = vec![0; data.len() + 2];
    w.machine.read(&mm, VirtAddr(at(0x1ff).0 + 99), &mut back).unwrap();
    assert_eq!((back[0], &back[1..=data.len()], back[data.len() + 1]), (0, &data[..], 0));
    // What lies before the page that failed is stored.
    assert_eq!(w.machine.write(&mm, VirtAddr(at(0x202).0 - 2), &[1, 2, 3]), Err(Error::NotMapped));
    w.machine.read(&mm, VirtAddr(at(0x202).0 - 2), &mut back[..2]).unwrap();
    assert_eq!(back[..2], [1, 2]);
    assert_eq!(w.check().anon, 3);
    w.machine.exit(mm);
    w.end();
}

/// P wrote the page, and ten children have it. When all but one have let go, the one that writes keeps the frame, and
/// walks for it visit nobody else.
fn t14_the_last_writer_owns_the_page<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let parent = w.mm();
    w.map(&parent, 0x100, 2, RW);
    w.poke(&parent, 0x100, 1);
    w.poke(&parent, 0x101, 1);
    let children: Vec<_> = (0..10).map(|_| w.machine.fork(&parent).unwrap()).collect();
    assert_eq!(w.candidates(&parent, 0x100), 11);
    let frame = w.page(&parent, 0x100).pfn();
    // Everybody writes a page of their own, the last child keeps the old frame.
    w.poke(&parent, 0x100, 2);
    for (i, child) in children.iter().enumerate() {
        w.poke(child, 0x100, 10 + i as u8);
        w.check();
    }
    let last = &children[9];
    assert_eq!((w.page(last, 0x100).pfn(), w.peek(last, 0x100)), (frame, 19));
    if <S::Design as Engine<S>>::NAME == "anon_vma" {
        assert_eq!(w.candidates(last, 0x100), 1);
        assert_eq!(w.candidates(&parent, 0x101), 11);
    }
    assert_eq!((w.peek(&parent, 0x100), w.peek(&children[3], 0x100)), (2, 13));
    for mm in children {
        w.machine.exit(mm);
        w.check();
    }
    w.machine.exit(parent);
    w.end();
}

fn an_exclusive_page_is_written_in_place<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    w.map(&mm, 0x100, 1, RW);
    w.poke(&mm, 0x100, 1);
    let page = w.page(&mm, 0x100);
    mm.table().lock(at(0x100), false).unwrap().wrprotect(at(0x100));
    // Others may look at it: it is exclusive, and stays.
    page.get();
    w.poke(&mm, 0x100, 2);
    assert!(!page.put());
    assert_eq!(w.page(&mm, 0x100).pfn(), page.pfn());
    w.machine.exit(mm);
    w.end();
}

fn a_page_that_somebody_looks_at_is_copied<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let (parent, child) = forked(&w);
    w.machine.exit(parent);
    let page = w.page(&child, 0x100);
    assert!(!page.has(PageFlags::ANON_EXCLUSIVE));
    page.get();
    w.poke(&child, 0x100, 9);
    assert_ne!(w.page(&child, 0x100).pfn(), page.pfn());
    let mut byte = [0];
    w.machine.frames().read(page.pfn(), 7, &mut byte);
    assert_eq!(byte, [1]);
    w.machine.put_page(page);
    w.check();
    w.machine.exit(child);
    w.end();
}

/// A parent that has written page 0x100, and its child.
fn forked<S: SoftSystem>(w: &World<S>) -> (MmRef<S>, MmRef<S>) {
    let parent = w.mm();
    w.map(&parent, 0x100, 4, RW);
    w.poke(&parent, 0x100, 1);
    let child = w.machine.fork(&parent).unwrap();
    (parent, child)
}

fn a_stack_grows_to_the_fault<S: SoftSystem>() {
    let w = World::<S>::new(16);
    let mm = w.mm();
    w.map(&mm, 0x400, 2, RW | VmFlags::GROWSDOWN);
    w.map(&mm, 0x100, 1, RW);
    w.poke(&mm, 0x400, 1);
    w.poke(&mm, 0x3f0, 2);
    assert_eq!((w.peek(&mm, 0x3f8), w.peek(&mm, 0x400)), (0, 1));
    assert_eq!(mm.data().counters.snapshot().stack_vm, 18);
    w.check();
    // Not into the guard gap above what lies below.
    assert_eq!(w.machine.fault(&mm, at(0x120), Access::Write), Err(Error::NoSpace));
    assert_eq!(w.machine.fault(&mm, at(0x402), Access::Write), Err(Error::NotMapped));
    w.check();
    w.machine.exit(mm);
    w.end();
}

type Missing = dyn Fn(u64, VirtAddr) -> crate::base::error::Result<()> + Send + Sync;

/// Operations that do what a test says.
#[derive(Default)]
struct Ops {
    missing: Mutex<Option<Arc<Missing>>>,
    fills: bool,
    calls: Mutex<Vec<&'static str>>,
}

impl VmaOps for Ops {
    fn open(&self, _: usize, _: VmaBounds) {
        self.calls.lock().unwrap().push("open");
    }
    fn close(&self, _: usize, _: VmaBounds) {
        self.calls.lock().unwrap().push("close");
    }
    fn fault(&self, private: usize, pgoff: PgOff, out: &mut [u8; 4096]) -> crate::base::error::Result<()> {
        if !self.fills {
            return Err(Error::NotSupported);
        }
        out[7] = (private as u64 + pgoff) as u8;
        Ok(())
    }
    fn missing(&self, _: usize, mm: u64, addr: VirtAddr, _: Access) -> crate::base::error::Result<()> {
        let missing = self.missing.lock().unwrap().clone();
        missing.expect("nobody said what to do")(mm, addr)
    }
}

impl Ops {
    fn leaked(fills: bool) -> &'static Self {
        crate::base::testing::forever(Self { fills, ..Self::default() })
    }
    fn ext(&'static self, private: usize) -> VmaExt {
        VmaExt { ops: Some(self), private }
    }
}

fn a_missing_page_is_the_handlers<S: SoftSystem>() {
    let w = Arc::new(World::<S>::new(32));
    let ops = Ops::leaked(false);
    let mm = w.mm();
    let shmem = w.machine.new_shmem(8).unwrap();
    w.map_with(&mm, 0x100, 4, RW | VmFlags::UFFD_MISSING, None, ops.ext(0));
    w.map_with(&mm, 0x200, 4, SHARED_RW | VmFlags::UFFD_MISSING, Some((&shmem, 0)), ops.ext(0));
    let (world, monitored) = (w.clone(), mm.clone());
    *ops.missing.lock().unwrap() = Some(Arc::new(move |id, addr| {
        assert_eq!(id, monitored.id());
        if addr == at(0x103) {
            return Err(Error::Io);
        }
        if addr == at(0x102) {
            return world.machine.uffd_zeropage(&monitored, addr);
        }
        let mut bytes = [0; 4096];
        bytes[7] = addr.vpn() as u8;
        world.machine.uffd_copy(&monitored, addr, &bytes)
    }));
    assert_eq!((w.peek(&mm, 0x100), w.peek(&mm, 0x102)), (0, 0));
    w.poke(&mm, 0x101, 77);
    assert_eq!((w.peek(&mm, 0x101), w.peek(&mm, 0x201)), (77, 1));
    w.poke(&mm, 0x102, 5);
    assert_eq!(w.machine.fault(&mm, at(0x103), Access::Read), Err(Error::Io));
    let report = w.check();
    assert_eq!((report.anon, report.file, report.special), (3, 1, 0));
    let bytes = [0; 4096];
    assert_eq!(w.machine.uffd_copy(&mm, at(0x101), &bytes), Err(Error::Exists));
    assert_eq!(w.machine.uffd_copy(&mm, at(0x201), &bytes), Err(Error::Exists));
    assert_eq!(w.machine.uffd_zeropage(&mm, at(0x102)), Err(Error::Exists));
    assert_eq!(w.machine.uffd_zeropage(&mm, at(0x202)), Err(Error::NotSupported));
    assert_eq!(w.machine.uffd_copy(&mm, at(0x300), &bytes), Err(Error::NotMapped));
    assert_eq!(w.machine.uffd_copy(&mm, VirtAddr(at(0x103).0 + 1), &bytes), Err(Error::Invalid));
    // A child's faults are its own.
    let child = w.machine.fork(&mm).unwrap();
    assert_eq!((w.peek(&child, 0x103), w.peek(&child, 0x101)), (0, 77));
    assert_eq!(w.machine.uffd_copy(&child, at(0x103), &bytes), Err(Error::Invalid));
    w.check();
    w.machine.exit(child);
    w.machine.exit(mm);
    *ops.missing.lock().unwrap() = None;
    drop(shmem);
    assert_eq!(*ops.calls.lock().unwrap(), ["open", "open", "close", "close", "close", "close"]);
    Arc::into_inner(w).expect("the last reference").end();
}

fn operations_fill_pages<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let ops = Ops::leaked(true);
    let plain = Ops::leaked(false);
    let mm = w.mm();
    w.map_with(&mm, 0x100, 4, RW, None, ops.ext(3));
    w.map_with(&mm, 0x200, 4, SHARED_RW, None, ops.ext(4));
    w.map_with(&mm, 0x300, 4, RW, None, plain.ext(0));
    w.map_with(&mm, 0x400, 4, SHARED_RW, None, plain.ext(0));
    assert_eq!((w.peek(&mm, 0x101), w.peek(&mm, 0x202), w.peek(&mm, 0x300)), (0x01 + 3, 0x02 + 4, 0));
    assert_eq!(w.machine.fault(&mm, at(0x400), Access::Read), Err(Error::Bus));
    let child = w.machine.fork(&mm).unwrap();
    w.check();
    w.poke(&mm, 0x101, 50);
    w.poke(&mm, 0x202, 60);
    assert_eq!((w.peek(&child, 0x101), w.peek(&child, 0x202)), (4, 60));
    assert!(matches!(w.machine.pin(&child, at(0x202), true), Err(Error::NotSupported)));
    w.check();
    // Out and in: those who share it meet again.
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x202)), Ok(true));
    w.poke(&child, 0x202, 61);
    assert_eq!(w.peek(&mm, 0x202), 61);
    w.check();
    w.machine.exit(mm);
    w.machine.exit(child);
    w.end();
}

fn a_pin_keeps_its_page_over_fork<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let mm = w.mm();
    w.map(&mm, 0x100, 3, RW);
    for vpn in 0x100..0x103 {
        w.poke(&mm, vpn, 1);
    }
    let pinned = w.machine.pin(&mm, VirtAddr(at(0x101).0 + 5), true).unwrap();
    assert_eq!(mm.data().counters.snapshot().pinned_vm, 1);
    let child = w.machine.fork(&mm).unwrap();
    w.check();
    assert_ne!(w.page(&child, 0x101).pfn(), pinned.pfn());
    assert_eq!(w.page(&child, 0x100).pfn(), w.page(&mm, 0x100).pfn());
    // The pin's holder and the program see one another.
    w.machine.frames().write(pinned.pfn(), 7, &[2]);
    assert_eq!((w.peek(&mm, 0x101), w.peek(&child, 0x101)), (2, 1));
    w.poke(&mm, 0x101, 3);
    assert_eq!(w.page(&mm, 0x101).pfn(), pinned.pfn());
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x101)), Ok(false));
    w.check();
    w.machine.unpin(pinned);
    assert_eq!(mm.data().counters.snapshot().pinned_vm, 0);
    // A pin that outlives its address space.
    let pinned = w.machine.pin(&mm, at(0x101), false).unwrap();
    w.machine.exit(mm);
    w.check();
    let mut byte = [0];
    w.machine.frames().read(pinned.pfn(), 7, &mut byte);
    assert_eq!(byte, [3]);
    w.machine.unpin(pinned);
    w.machine.exit(child);
    w.end();
}

fn a_pin_for_reading_makes_the_page_its_own<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let (parent, child) = forked(&w);
    let pinned = w.machine.pin(&child, at(0x100), false).unwrap();
    let page = w.page(&child, 0x100);
    assert_eq!(page.pfn(), pinned.pfn());
    assert_ne!(page.pfn(), w.page(&parent, 0x100).pfn());
    assert!(page.has(PageFlags::ANON_EXCLUSIVE));
    let Pte::Present { flags, .. } = w.pte(&child, 0x100) else { panic!() };
    assert!(!flags.contains(PteFlags::WRITE));
    w.poke(&child, 0x100, 8);
    let mut byte = [0];
    w.machine.frames().read(pinned.pfn(), 7, &mut byte);
    assert_eq!(byte, [8]);
    w.machine.unpin(pinned);
    // Of memory never touched: no pin of the zero page.
    let pinned = w.machine.pin(&child, at(0x101), false).unwrap();
    assert_ne!(pinned.pfn(), w.machine.zero_pfn());
    w.machine.unpin(pinned);
    w.check();
    w.machine.exit(parent);
    w.machine.exit(child);
    w.end();
}

#[cfg(debug_assertions)]
fn one_mms_accesses_share_no_lock_with_anothers<S: SoftSystem>() {
    use crate::base::sync::{audit, rank};
    let w = World::<S>::new(32);
    let mms = [w.mm(), w.mm()];
    let locks = mms.each_ref().map(|mm| {
        w.map(mm, 0x100, 4, RW);
        w.poke(mm, 0x100, 1);
        let taken = audit::record(|| {
            w.poke(mm, 0x101, 1);
            assert_eq!(w.peek(mm, 0x100), 1);
        });
        // Leaf locks are those of allocators.
        taken.into_iter().filter(|lock| lock.rank != rank::LEAF).map(|lock| lock.address).collect::<Vec<_>>()
    });
    assert!(!locks[0].is_empty() && locks[0].iter().all(|lock| !locks[1].contains(lock)));
    for mm in mms {
        w.machine.exit(mm);
    }
    w.end();
}

#[cfg(not(debug_assertions))]
fn one_mms_accesses_share_no_lock_with_anothers<S: SoftSystem>() {}
