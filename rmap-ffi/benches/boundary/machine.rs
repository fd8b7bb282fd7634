//! Operations of the machine that are short enough: in a fork of 10 us a call of 5 ns cannot be seen.

use super::through_c::{RW, must};
use crate::Pair;
use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::null_mut;
use rmap::machine::access::{rmap_machine_read, rmap_machine_write};
use rmap::machine::config::{rmap_machine_config, rmap_machine_config_init, rmap_machine_new};
use rmap::machine::handle::rmap_machine_mm;
use rmap::machine::layout::{RMAP_MAP_PRIVATE, rmap_machine_mmap, rmap_map_request};
use rmap::machine::mm::rmap_machine_mm_new;
use rmap_core::base::alloc::Heap;
use rmap_core::base::types::{VirtAddr, VmFlags};
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::system::AnonVmaSystem;
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::mm::MmRef;

const PAGES: u64 = 16;

type Core = &'static Machine<AnonVmaSystem>;

/// A machine with one process that has written all pages of a region.
fn ours() -> (Core, MmRef<AnonVmaSystem>, VirtAddr) {
    let heap = Heap::global().expect("memory");
    let machine: Core = Box::leak(Box::new(Machine::new(MachineConfig::new(&heap, 256)).expect("memory")));
    let mm = machine.mm_new().expect("memory");
    let request = MapRequest::new(PAGES << 12, VmFlags::READ | VmFlags::WRITE, MapFlags::PRIVATE);
    let addr = machine.mmap(&mm, &request).expect("a free range");
    (0..PAGES).for_each(|page| machine.write(&mm, addr.add_pages(page), &[1]).expect("a free frame"));
    (machine, mm, addr)
}

/// The same in C.
fn theirs() -> (*mut rmap_machine_mm, u64) {
    let (mut machine, mut mm, mut addr) = (null_mut(), null_mut(), 0);
    // SAFETY: outputs are valid; the rest as documented.
    unsafe {
        let mut config = core::mem::zeroed::<rmap_machine_config>();
        must(rmap_machine_config_init(&raw mut config, size_of::<rmap_machine_config>()));
        config.frames = 256;
        must(rmap_machine_new(&raw const config, &raw mut machine));
        must(rmap_machine_mm_new(machine, &raw mut mm));
        let mut request = core::mem::zeroed::<rmap_map_request>();
        request.size = size_of::<rmap_map_request>();
        request.len = PAGES << 12;
        request.prot = RW;
        request.flags = RMAP_MAP_PRIVATE;
        must(rmap_machine_mmap(mm, &raw const request, &raw mut addr));
        (0..PAGES).for_each(|page| must(rmap_machine_write(mm, addr + (page << 12), (&raw const page).cast(), 1)));
    }
    (mm, addr)
}

pub(crate) fn pairs() -> Vec<Pair> {
    vec![read()]
}

fn read() -> Pair {
    let (machine, mm, addr) = ours();
    let (their_mm, their_addr) = theirs();
    let read = black_box(rmap_machine_read as unsafe extern "C" fn(_, _, *mut c_void, usize) -> _);
    Pair::new(
        "machine_read",
        1,
        move |times| {
            let mut byte = [0; 1];
            (0..times).for_each(|_| machine.read(&mm, black_box(addr), &mut byte).expect("mapped"));
        },
        move |times| {
            let mut byte = [0_u8; 1];
            // SAFETY: a living address space, and room for a byte.
            (0..times).for_each(|_| must(unsafe { read(their_mm, black_box(their_addr), (&raw mut byte).cast(), 1) }));
        },
    )
}
