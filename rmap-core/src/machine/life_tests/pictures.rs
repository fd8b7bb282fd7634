//! Pictures of pages: the same state is the same text, byte for byte, under every engine.
//!
//! They stand in `docs/pictures`, and `RMAP_WRITE_PICTURES=1 cargo test pictures` writes them anew.

use super::{PAGE, RW, SHARED_RW, World, at, on_every_engine};
use crate::base::alloc::Heap;
use crate::base::alloc::testing::Countdown;
use crate::base::error::Error;
use crate::base::types::VmFlags;
use crate::engine::Engine;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::system::{FileExt, SoftSystem, VmaExt};
use crate::mm::{Mm, MmRef};
use crate::page::Page;
use std::path::Path;
use std::string::String;
use std::sync::atomic::{AtomicBool, Ordering};

on_every_engine!(
    a_page_after_its_first_fault_after_fork_and_after_copy_on_write,
    a_page_of_a_file,
    a_page_in_swap_is_drawn_alone,
    a_large_family_is_drawn_whole,
    without_memory_nothing_is_drawn,
    pictures_are_taken_while_others_fork_split_and_exit,
);

fn draw<S: SoftSystem>(world: &World<S>, page: &Page, caption: &str) -> String {
    let mut out = String::new();
    let _locked = page.lock();
    world.machine.rmap().dump_dot(page, caption, &mut out).unwrap();
    out
}

/// The page that `mm` has at `vpn`, as in the file of that name.
#[track_caller]
fn compare<S: SoftSystem>(world: &World<S>, mm: &Mm<S>, vpn: u64, name: &str, caption: &str) {
    let drawn = draw(world, world.page(mm, vpn), caption);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/pictures/{name}.dot"));
    if std::env::var_os("RMAP_WRITE_PICTURES").is_some() {
        std::fs::write(&path, &drawn).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(drawn, expected, "{}: RMAP_WRITE_PICTURES=1 writes it anew", path.display());
}

/// The first page of three, and the address space that has them.
fn one_process<S: SoftSystem>(world: &World<S>) -> (MmRef<S>, u64) {
    let mm = world.mm();
    let request = MapRequest {
        addr: Some(at(0x400)),
        ..MapRequest::new(3 * PAGE, VmFlags::READ | VmFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED)
    };
    world.machine.mmap(&mm, &request).unwrap();
    (mm, 0x400)
}

fn a_page_after_its_first_fault_after_fork_and_after_copy_on_write<S: SoftSystem>() {
    let world = World::<S>::new(64);
    let (parent, start) = one_process(&world);
    let vpn = start + 1;
    let is = |mm: &Mm<S>, situation: &str, caption: &str| {
        let name = format!("{}-{situation}", <S::Engine as Engine<S>>::NAME);
        compare(&world, mm, vpn, &name, caption);
    };
    world.poke(&parent, vpn, 1);
    is(&parent, "first-fault", "after the first fault");
    let child = world.machine.fork(&parent).unwrap();
    is(&child, "fork", "after fork");
    world.poke(&child, vpn, 2);
    is(&child, "cow", "after copy-on-write in the child: its copy");
    is(&parent, "cow-old", "after copy-on-write in the child: the old page");
    world.machine.exit(parent);
    world.machine.exit(child);
    world.end();
}

/// Such as know each entry do without `i_mmap`; else the same under every engine.
fn a_page_of_a_file<S: SoftSystem>() {
    let world = World::<S>::new(64);
    let file = world.machine.new_file(8, FileExt::default()).unwrap();
    let (reader, other) = (world.mm(), world.mm());
    world.map_with(&reader, 0x400, 4, RW, Some((&file, 2)), VmaExt::default());
    world.map_with(&other, 0x800, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
    world.peek(&reader, 0x401);
    let name = if world.machine.rmap().engine().finds_entries() { "pte_chain-file" } else { "file" };
    compare(&world, &reader, 0x401, name, "a file that two map, and one has touched");
    world.machine.exit(reader);
    world.machine.exit(other);
    drop(file);
    world.end();
}

/// Its word is a hint, and is not followed.
fn a_page_in_swap_is_drawn_alone<S: SoftSystem>() {
    let world = World::<S>::new(64);
    let (mm, vpn) = one_process(&world);
    world.poke(&mm, vpn, 1);
    let page = world.page(&mm, vpn);
    page.get();
    world.machine.swap_out(page).unwrap();
    assert!(!page.is_mapped());
    let drawn = draw(&world, page, "");
    assert!(drawn.contains(r"mapping a hint | ANON\l"), "{drawn}");
    assert!(!drawn.contains("->") && !drawn.contains("mm "), "{drawn}");
    world.machine.put_page(page);
    world.machine.exit(mm);
    world.end();
}

/// More than there is room for at first; each VMA of the family once, whoever else there is.
fn a_large_family_is_drawn_whole<S: SoftSystem>() {
    const CHILDREN: usize = 60;
    let world = World::<S>::new(512);
    let (parent, vpn) = one_process(&world);
    world.poke(&parent, vpn, 1);
    let children: Vec<_> = (0..CHILDREN).map(|_| world.machine.fork(&parent).unwrap()).collect();
    let drawn = draw(&world, world.page(&parent, vpn), r#"a "caption" of C:\l & <more>"#);
    let count = |what: &str| drawn.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("VMA\\l"), CHILDREN + 1, "{drawn}");
    assert_eq!(count("PTE"), CHILDREN + 1, "{drawn}");
    assert_eq!(count("subgraph"), CHILDREN + 1, "{drawn}");
    assert!(drawn.contains(r#"label="a \"caption\" of C:\\l &amp; <more>";"#), "{drawn}");
    assert_eq!(drawn, draw(&world, world.page(&parent, vpn), r#"a "caption" of C:\l & <more>"#));
    children.into_iter().for_each(|child| world.machine.exit(child));
    world.machine.exit(parent);
    world.end();
}

fn without_memory_nothing_is_drawn<S: SoftSystem>() {
    let countdown = Countdown::leaked();
    let world = World::<S>::with(countdown.heap(), 512, |_| {});
    let (parent, vpn) = one_process(&world);
    world.poke(&parent, vpn, 1);
    let children: Vec<_> = (0..60).map(|_| world.machine.fork(&parent).unwrap()).collect();
    let page = world.page(&parent, vpn);
    let (whole, before) = (draw(&world, page, ""), world.heap.in_use());
    for allowed in 0.. {
        let mut out = String::new();
        countdown.fail_after(allowed);
        let drawn = {
            let _locked = page.lock();
            world.machine.rmap().dump_dot(page, "", &mut out)
        };
        let refused = countdown.lift();
        assert_eq!(world.heap.in_use(), before);
        if !refused {
            assert_eq!((drawn, out), (Ok(()), whole));
            assert!(allowed > 8, "it grew at least once");
            break;
        }
        assert_eq!((drawn, out.as_str()), (Err(Error::NoMemory), ""));
    }
    children.into_iter().for_each(|child| world.machine.exit(child));
    world.machine.exit(parent);
    world.end();
}

/// No mmap_lock is held for a picture, so whatever it reads is changed by others meanwhile. Each is whole: the page's
/// own process maps it all the time.
fn pictures_are_taken_while_others_fork_split_and_exit<S: SoftSystem>() {
    let world = World::<S>::new(512);
    let (parent, vpn) = one_process(&world);
    world.poke(&parent, vpn, 1);
    world.poke(&parent, vpn + 1, 1);
    let page = world.page(&parent, vpn);
    let stop = AtomicBool::new(false);
    crate::base::testing::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let drawn = draw(&world, page, "");
                assert!(drawn.contains("subgraph cluster_mm_1 {") && drawn.ends_with("}\n"), "{drawn}");
            }
        });
        s.spawn(|| {
            let flags = [VmFlags::READ, VmFlags::READ | VmFlags::WRITE];
            for flag in flags.iter().cycle().take(400) {
                world.machine.mprotect(&parent, at(vpn + 1), PAGE, *flag).unwrap();
            }
        });
        for _ in 0..200 {
            let child = world.machine.fork(&parent).unwrap();
            world.poke(&child, vpn, 2);
            let grandchild = world.machine.fork(&child).unwrap();
            world.machine.exit(child);
            world.machine.exit(grandchild);
        }
        stop.store(true, Ordering::Relaxed);
    });
    world.machine.exit(parent);
    world.end();
}

/// A sink that takes so many bytes.
struct Narrow(usize);

impl core::fmt::Write for Narrow {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(core::fmt::Error)?;
        Ok(())
    }
}

#[test]
fn a_sink_that_refuses_is_said() {
    let heap = Heap::global().unwrap();
    let world = World::<crate::machine::system::AnonVmaSystem>::with(heap, 64, |_| {});
    let (mm, vpn) = one_process(&world);
    world.poke(&mm, vpn, 1);
    let page = world.page(&mm, vpn);
    let length = draw(&world, page, "caption").len();
    let with = |bytes| {
        let _locked = page.lock();
        world.machine.rmap().dump_dot(page, "caption", &mut Narrow(bytes))
    };
    assert!((0..length).all(|bytes| with(bytes) == Err(Error::Io)) && with(length) == Ok(()));
    world.machine.exit(mm);
    world.end();
}
