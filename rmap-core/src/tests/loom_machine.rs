//! Faults of relatives on one page (G6), in the machine itself: its page tables are 16 pages wide in models, and frames
//! have no bytes. Larger scenes are a random scheduler's.
//!
//! | model | race |
//! |---|---|
//! | `swap_in_by_two_sharers` | both bring a page in: they meet at one frame (T1), and nobody writes what the other sees |
//! | `cow_reuse_against_fork` | one writes a page that the other hands on and gives up |
//! | `cow_reuse_against_exit` | or only gives up: then it may be written in place |
#![cfg(all(test, loom))]

use super::run_model;
use crate::base::alloc::Heap;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::swap::Backing;
use crate::machine::system::{Access, AnonVmaSystem};
use crate::machine::{Machine, MachineConfig};
use crate::mm::MmRef;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::frames::Contents;
use crate::page::pte::{PageTable, Pte, PteFlags};
use crate::page::radix::ADDRESS_END;
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;

type Mm = MmRef<AnonVmaSystem>;

/// A machine, a parent with one page, and its child that shares it.
struct World {
    machine: Machine<AnonVmaSystem>,
    parent: Mm,
    at: VirtAddr,
}

impl World {
    fn new() -> (Self, Mm) {
        let heap = Heap::global().expect("memory");
        let mut config = MachineConfig::new(&heap, 4);
        config.contents = Contents::MetadataOnly;
        config.swap = Some((Backing::Nowhere, 1));
        config.fault_around = 1;
        config.min_addr = VirtAddr(PAGE_SIZE);
        config.task_size = ADDRESS_END;
        let machine = Machine::new(config).expect("memory");
        let parent = machine.mm_new().expect("memory");
        let request = MapRequest::new(PAGE_SIZE, VmFlags::READ | VmFlags::WRITE, MapFlags::PRIVATE);
        let at = machine.mmap(&parent, &request).expect("memory");
        machine.fault(&parent, at, Access::Write).expect("memory");
        let child = machine.fork(&parent).expect("memory");
        (Self { machine, parent, at }, child)
    }
    fn fault(&self, mm: &Mm, access: Access) {
        self.machine.fault(mm, self.at, access).expect("memory");
    }
    fn pte(&self, mm: &Mm) -> Pte {
        mm.table().load(self.at)
    }
    fn page(&self, mm: &Mm) -> &Page {
        self.machine.rmap().pages().page(self.pte(mm).pfn().expect("a page")).expect("a frame")
    }
    fn writes(&self, mm: &Mm) -> bool {
        matches!(self.pte(mm), Pte::Present { flags, .. } if flags.contains(PteFlags::WRITE))
    }
    /// All exit, and all memory is there again.
    fn end(&self, mms: impl IntoIterator<Item = Mm>) {
        mms.into_iter().for_each(|mm| self.machine.exit(mm));
        self.machine.exit(self.parent.clone());
        self.machine.trim_swap_cache();
        assert_eq!(self.machine.swap_store().map_or(0, |swap| swap.used()), 0);
        assert_eq!(self.machine.frames().free_frames(), self.machine.frames().total() - 1);
    }
}

/// The parent and the child come for the page that is in swap.
fn swap_in(name: &str, bound: usize, parents: Access, childs: Access) {
    run_model(name, Some(bound), move || {
        let (world, child) = World::new();
        assert_eq!(world.machine.swap_out(world.page(&world.parent)), Ok(true));
        let world = Arc::new(world);
        let other = thread::spawn({
            let world = world.clone();
            move || {
                world.fault(&child, childs);
                child
            }
        });
        world.fault(&world.parent, parents);
        let child = other.join().unwrap();
        let (mine, its) = (world.page(&world.parent), world.page(&child));
        if (parents, childs) == (Access::Read, Access::Read) {
            assert!(core::ptr::eq(mine, its), "one page became two");
            let _locked = mine.lock();
            let mut found = 0;
            world.machine.rmap().for_each_mapping(mine, |_, _, _| {
                found += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(found, 2, "a sharer is missed");
            assert!(!mine.has(PageFlags::ANON_EXCLUSIVE));
        } else {
            assert!(!core::ptr::eq(mine, its), "a page is shared with its writer");
        }
        world.end([child]);
    });
}

#[test]
fn loom_swap_in_by_two_sharers() {
    swap_in("swap_in_by_two_sharers, read", 2, Access::Read, Access::Read);
    swap_in("swap_in_by_two_sharers, write", 1, Access::Write, Access::Read);
}

#[test]
fn loom_cow_reuse_against_fork() {
    run_model("cow_reuse_against_fork", Some(3), || {
        let (world, child) = World::new();
        let world = Arc::new(world);
        let forker = thread::spawn({
            let world = world.clone();
            move || {
                let grandchild = world.machine.fork(&child).expect("memory");
                world.machine.exit(child);
                grandchild
            }
        });
        world.fault(&world.parent, Access::Write);
        let grandchild = forker.join().unwrap();
        assert!(world.writes(&world.parent) && !world.writes(&grandchild));
        assert!(!core::ptr::eq(world.page(&world.parent), world.page(&grandchild)), "a page is shared with its writer");
        world.end([grandchild]);
    });
}

#[test]
fn loom_cow_reuse_against_exit() {
    run_model("cow_reuse_against_exit", Some(3), || {
        let (world, child) = World::new();
        let world = Arc::new(world);
        let other = thread::spawn({
            let world = world.clone();
            move || world.machine.exit(child)
        });
        world.fault(&world.parent, Access::Write);
        other.join().unwrap();
        assert!(world.writes(&world.parent));
        let page = world.page(&world.parent);
        assert_eq!((page.mapcount(), page.refcount()), (1, 1));
        assert!(page.has(PageFlags::ANON_EXCLUSIVE));
        world.end([]);
    });
}
