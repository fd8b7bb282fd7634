use super::*;
use crate::base::error::{Error, Result};
use crate::base::types::PgOff;
use crate::machine::system::{Access, FileExt, FileOps};
use crate::page::pte::PteFlags;

on_every_engine!(
    fault_around_maps_the_window,
    of_shared_memory_only_pages_that_exist_are_mapped_around,
    a_private_write_copies,
    a_shared_write_is_seen_and_noticed,
    behind_the_end_there_is_nothing,
    a_file_that_cannot_be_read_is_an_error,
    clean_pages_leave_and_come_back,
    files_that_nobody_uses_give_their_pages_back,
    a_fork_leaves_file_entries_to_fault,
);

/// Byte 7 of page n is n + `private`; reading page 13 fails.
struct Numbered;

impl FileOps for Numbered {
    fn read_page(&self, private: usize, pgoff: PgOff, out: &mut [u8; 4096]) -> Result<()> {
        if pgoff == 13 {
            return Err(Error::Io);
        }
        out[7] = (pgoff + private as u64) as u8;
        Ok(())
    }
}

fn numbered<S: SoftSystem>(w: &World<S>, pages: u64, private: usize) -> FileRef<S> {
    w.machine.new_file(pages, FileExt { ops: Some(&Numbered), private, ..FileExt::default() }).unwrap()
}

fn mapped<S: SoftSystem>(w: &World<S>, mm: &Mm<S>, vpns: core::ops::Range<u64>) -> Vec<u64> {
    vpns.filter(|vpn| w.pte(mm, *vpn).pfn().is_some()).collect()
}

fn fault_around_maps_the_window<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 128, |config| config.fault_around = 16);
    let file = numbered(&w, 100, 0);
    let mm = w.mm();
    //   table            | table
    //   1e5 ........ 1ff | 200 ... 21a      file pages 30 and on
    w.map_with(&mm, 0x1e5, 0x35, RW, Some((&file, 30)), VmaExt::default());
    assert_eq!(w.peek(&mm, 0x1f3), 30 + 0xe);
    assert_eq!(mapped(&w, &mm, 0x1e5..0x21a), (0x1f0..0x200).collect::<Vec<_>>());
    // The window begins with the VMA.
    w.machine.fault(&mm, at(0x1e6), Access::Exec).unwrap_err();
    w.peek(&mm, 0x1e6);
    assert_eq!(mapped(&w, &mm, 0x1e5..0x21a), (0x1e5..0x200).collect::<Vec<_>>());
    // It ends with it.
    w.peek(&mm, 0x212);
    assert_eq!(mapped(&w, &mm, 0x200..0x21a), (0x210..0x21a).collect::<Vec<_>>());
    let Pte::Present { flags, .. } = w.pte(&mm, 0x211) else { panic!() };
    assert_eq!(flags, PteFlags::empty());
    assert_eq!(w.check().file, 0x1b + 0xa);
    w.machine.exit(mm);
    drop(file);
    w.end();
}

fn of_shared_memory_only_pages_that_exist_are_mapped_around<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 64, |config| config.fault_around = 16);
    let shmem = w.machine.new_shmem(16).unwrap();
    let (a, b) = (w.mm(), w.mm());
    w.map_with(&a, 0x100, 16, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
    w.map_with(&b, 0x200, 16, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
    w.poke(&a, 0x103, 3);
    w.poke(&a, 0x105, 5);
    assert_eq!(w.peek(&b, 0x209), 0);
    assert_eq!(mapped(&w, &b, 0x200..0x210), [0x203, 0x205, 0x209]);
    assert_eq!(w.peek(&b, 0x205), 5);
    assert_eq!(b.data().counters.snapshot().rss_shmem, 3);
    w.check();
    w.machine.exit(a);
    w.machine.exit(b);
    drop(shmem);
    w.end();
}

fn a_private_write_copies<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let file = numbered(&w, 8, 0);
    let (a, b) = (w.mm(), w.mm());
    w.map_with(&a, 0x100, 8, RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&b, 0x100, 8, RW, Some((&file, 0)), VmaExt::default());
    // After a read, and without one.
    assert_eq!(w.peek(&a, 0x101), 1);
    w.poke(&a, 0x101, 50);
    w.machine.write(&a, at(0x102), &[9]).unwrap();
    assert_eq!((w.peek(&a, 0x101), w.peek(&a, 0x102)), (50, 2));
    assert_eq!((w.peek(&b, 0x101), w.peek(&b, 0x102)), (1, 2));
    let figures = a.data().counters.snapshot();
    assert_eq!((figures.rss_anon, figures.rss_file), (2, 0));
    w.check();
    w.machine.exit(a);
    w.machine.exit(b);
    drop(file);
    w.end();
}

fn a_shared_write_is_seen_and_noticed<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let file = numbered(&w, 8, 0);
    let (a, b) = (w.mm(), w.mm());
    w.map_with(&a, 0x100, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&b, 0x300, 4, RW, Some((&file, 2)), VmaExt::default());
    assert_eq!(w.peek(&b, 0x300), 2);
    assert_eq!(w.peek(&a, 0x102), 2);
    w.poke(&a, 0x102, 60);
    assert_eq!(w.peek(&b, 0x300), 60);
    let page = w.page(&a, 0x102);
    // Write-protected again, the next write is noticed again.
    {
        let _locked = page.lock();
        assert_eq!(w.machine.rmap().page_mkclean(page), 1);
    }
    let Pte::Present { flags, .. } = w.pte(&a, 0x102) else { panic!() };
    assert!(!flags.contains(PteFlags::WRITE));
    w.poke(&a, 0x102, 61);
    assert_eq!(w.peek(&b, 0x300), 61);
    w.check();
    w.machine.exit(a);
    w.machine.exit(b);
    drop(file);
    w.end();
}

fn behind_the_end_there_is_nothing<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 32, |config| config.fault_around = 16);
    let file = numbered(&w, 3, 0);
    let mm = w.mm();
    w.map_with(&mm, 0x100, 8, RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&mm, 0x200, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
    for access in [Access::Read, Access::Write] {
        assert_eq!(w.machine.fault(&mm, at(0x103), access), Err(Error::Bus));
        assert_eq!(w.machine.fault(&mm, at(0x207), access), Err(Error::Bus));
    }
    assert_eq!(w.peek(&mm, 0x102), 2);
    assert_eq!(mapped(&w, &mm, 0x100..0x108), [0x100, 0x101, 0x102]);
    assert_eq!(w.check().file, 3);
    w.machine.exit(mm);
    drop(file);
    w.end();
}

fn a_file_that_cannot_be_read_is_an_error<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 32, |config| config.fault_around = 16);
    let file = numbered(&w, 16, 0);
    let mm = w.mm();
    w.map_with(&mm, 0x100, 16, RW, Some((&file, 0)), VmaExt::default());
    assert_eq!(w.machine.fault(&mm, at(0x10d), Access::Read), Err(Error::Io));
    assert_eq!(w.machine.fault(&mm, at(0x10d), Access::Write), Err(Error::Io));
    w.check();
    // It hinders nobody around it.
    assert_eq!(w.peek(&mm, 0x10e), 14);
    assert_eq!(w.check().file, 15);
    w.machine.exit(mm);
    drop(file);
    w.end();
}

fn clean_pages_leave_and_come_back<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let file = numbered(&w, 8, 0);
    let (a, b) = (w.mm(), w.mm());
    w.map_with(&a, 0x100, 8, RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&b, 0x100, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
    assert_eq!((w.peek(&a, 0x101), w.peek(&b, 0x101)), (1, 1));
    let free = w.machine.frames().free_frames();
    assert_eq!(w.machine.swap_out(w.page(&a, 0x101)), Ok(true));
    assert_eq!(w.machine.frames().free_frames(), free + 1);
    assert_eq!((w.pte(&a, 0x101), w.pte(&b, 0x101)), (Pte::None, Pte::None));
    w.check();
    assert_eq!(w.peek(&a, 0x101), 1);
    w.poke(&b, 0x101, 70);
    assert_eq!(w.machine.swap_out(w.page(&a, 0x101)), Ok(false), "it is dirty");
    assert_eq!(w.peek(&a, 0x101), 70);
    w.check();
    w.machine.exit(a);
    w.machine.exit(b);
    drop(file);
    w.end();
}

fn files_that_nobody_uses_give_their_pages_back<S: SoftSystem>() {
    let w = World::<S>::new(600);
    let file = numbered(&w, 550, 0);
    let shmem = w.machine.new_shmem(8).unwrap();
    let mm = w.mm();
    w.map_with(&mm, 0x1000, 550, RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&mm, 0x100, 8, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
    for vpn in 0x1000..0x1000 + 550 {
        if vpn != 0x1000 + 13 {
            w.peek(&mm, vpn);
        }
    }
    w.poke(&mm, 0x100, 1);
    drop(shmem);
    w.machine.exit(mm);
    w.machine.tidy();
    // The file is still somebody's, the shared memory nobody's.
    assert_eq!(w.machine.frames().free_frames(), 600 - 1 - 549);
    assert_eq!(w.check().free, 50);
    // Frames run short: they are found.
    drop(file);
    let mm = w.mm();
    w.map(&mm, 0x100, 100, RW);
    for vpn in 0x100..0x164 {
        w.poke(&mm, vpn, 1);
    }
    w.check();
    w.machine.exit(mm);
    w.end();
}

fn a_fork_leaves_file_entries_to_fault<S: SoftSystem>() {
    let w = World::<S>::new(32);
    let file = numbered(&w, 8, 0);
    let mm = w.mm();
    w.map_with(&mm, 0x100, 8, RW, Some((&file, 0)), VmaExt::default());
    w.map_with(&mm, 0x200, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
    w.map(&mm, 0x300, 8, RW);
    w.peek(&mm, 0x101);
    w.poke(&mm, 0x202, 9);
    w.peek(&mm, 0x300);
    let child = w.machine.fork(&mm).unwrap();
    if <S::Design as crate::engine::Engine<S>>::NAME == "anon_vma" {
        assert_eq!(w.check().mappings, 2, "the child has none");
        assert_eq!(w.check().special, 1);
    }
    // A VMA that was written is copied with all that is in it.
    w.poke(&mm, 0x102, 8);
    let second = w.machine.fork(&mm).unwrap();
    assert_eq!(mapped(&w, &second, 0x100..0x108), [0x101, 0x102]);
    assert_eq!((w.peek(&child, 0x102), w.peek(&child, 0x202), w.peek(&second, 0x102)), (9, 9, 8));
    w.check();
    for mm in [mm, child, second] {
        w.machine.exit(mm);
    }
    drop(file);
    w.end();
}
