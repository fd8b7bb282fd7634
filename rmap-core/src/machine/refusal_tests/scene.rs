//! The machine that operations are tried on: two processes with memory of every kind, and no free slot in any slab.

use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, PgOff, VirtAddr, VmFlags};
use crate::machine::life_tests::{RW, SHARED_RW, World, at};
use crate::machine::swap::Backing;
use crate::machine::system::{Access, FileExt, FileOps, SoftSystem, VmaExt, VmaOps};
use crate::machine::{ChargeHook, MachineConfig};
use crate::mm::{FileRef, MmRef, Vma, VmaBounds};
use crate::tests::exhaust::Exhaust;
use crate::tests::trip::pass;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::vec::Vec;

/// A machine whose engine can be left without a free slot.
pub(super) trait Scarce: SoftSystem<Engine: Exhaust> {}
impl<S: SoftSystem<Engine: Exhaust>> Scarce for S {}

/// The embedder: fills pages with their offset. A test can make each of its functions panic.
pub(super) struct Filler;

impl VmaOps for Filler {
    fn open(&self, _: usize, _: VmaBounds) {
        pass("open");
    }
    fn close(&self, _: usize, _: VmaBounds) {
        pass("close");
    }
    fn fault(&self, _: usize, pgoff: PgOff, out: &mut [u8; PAGE_SIZE as usize]) -> Result<()> {
        pass("fault");
        out[7] = pgoff as u8;
        Ok(())
    }
    fn missing(&self, _: usize, _: u64, _: VirtAddr, _: Access) -> Result<()> {
        pass("missing");
        Err(Error::Bus)
    }
}

impl FileOps for Filler {
    fn read_page(&self, _: usize, pgoff: PgOff, out: &mut [u8; PAGE_SIZE as usize]) -> Result<()> {
        pass("read_page");
        out[7] = pgoff as u8 + 1;
        Ok(())
    }
}

pub(super) static FILLER: Filler = Filler;

/// The scene. Addresses are page numbers.
///
/// ```text
///   100      110      118      120        1f8   208        300      308    310   318    400   408    500   508
///   |- RW  --|-- R ---|-- RW --|          |- RW -|         |- file -|      |- RX -|     |shared|     |shmem|
///    ^^^ ^s                                    ^^           ^  ^                         ^            ^
///   680  682     700  708        800   808          a00
///   |stack|      |uffd|          |- ops -|          |heap
///    ^                            ^
/// ```
///
/// `^`: touched, `s`: in swap. The child was forked when all but the ends of the first were touched, and wrote 0x101.
pub(super) struct Scene<S: Scarce> {
    pub(super) world: World<S>,
    pub(super) parent: MmRef<S>,
    pub(super) child: MmRef<S>,
    pub(super) file: FileRef<S>,
    hoard: Vec<NonNull<Vma<S>>>,
}

impl<S: Scarce> Scene<S> {
    /// The scene over `heap`. Left behind when a test fails: destructors that check for leaks would hide why.
    pub(super) fn new(heap: Heap, charge: Option<ChargeHook>) -> ManuallyDrop<Self> {
        let change = |config: &mut MachineConfig| {
            config.swap = Some((Backing::memory(&config.heap, 64).unwrap(), 64));
            config.fault_around = 4;
            config.charge = charge;
        };
        let world = World::<S>::with(heap, 64, change);
        let parent = world.mm();
        let file = world.machine.new_file(32, FileExt { ops: Some(&FILLER), ..FileExt::default() }).unwrap();
        let shmem = world.machine.new_shmem(8).unwrap();
        let plain = VmaExt::default();
        world.map(&parent, 0x100, 0x10, RW);
        world.map(&parent, 0x110, 8, RW - VmFlags::WRITE);
        world.map(&parent, 0x118, 8, RW);
        world.map(&parent, 0x1f8, 0x10, RW);
        world.map_with(&parent, 0x300, 8, RW, Some((&file, 0)), plain);
        world.map_with(&parent, 0x310, 8, (RW - VmFlags::WRITE) | VmFlags::EXEC, Some((&file, 16)), plain);
        world.map_with(&parent, 0x400, 8, SHARED_RW, Some((&file, 8)), plain);
        world.map_with(&parent, 0x500, 8, SHARED_RW, Some((&shmem, 0)), plain);
        world.map(&parent, 0x680, 2, RW | VmFlags::GROWSDOWN);
        world.map_with(&parent, 0x700, 8, RW | VmFlags::UFFD_MISSING, None, VmaExt { ops: Some(&FILLER), private: 1 });
        world.map_with(&parent, 0x800, 8, RW, None, VmaExt { ops: Some(&FILLER), private: 2 });
        world.machine.set_brk_start(&parent, at(0xa00));
        for vpn in [0x101, 0x102, 0x104, 0x1ff, 0x200, 0x300, 0x400, 0x500, 0x681, 0x800] {
            world.poke(&parent, vpn, vpn as u8);
        }
        world.peek(&parent, 0x303);
        assert_eq!(world.machine.swap_out(world.page(&parent, 0x104)), Ok(true));
        let child = world.machine.fork(&parent).unwrap();
        world.poke(&child, 0x101, 1);
        // A frame that was freed has its memory already: the next comes new.
        assert_eq!(world.machine.swap_out(world.page(&child, 0x101)), Ok(true));
        world.peek(&child, 0x101);
        world.check();
        world.machine.rmap().arena().rcu.drain();
        let arena = world.machine.rmap().arena();
        arena.nodes.exhaust();
        world.machine.rmap().engine().exhaust();
        let hoard = arena.exhaust();
        ManuallyDrop::new(Self { world, parent, child, file, hoard })
    }

    /// Ends everything: no page, slot or byte is left.
    pub(super) fn end(this: ManuallyDrop<Self>) {
        let Self { world, parent, child, file, hoard } = ManuallyDrop::into_inner(this);
        world.machine.rmap().arena().restore(hoard);
        world.machine.exit(child);
        world.machine.exit(parent);
        drop(file);
        world.end();
    }
}
