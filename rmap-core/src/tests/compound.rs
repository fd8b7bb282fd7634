//! A compound page: mapped by one entry, split into an entry for each of its pages, shared, unmapped.

use super::oracle::check;
use super::toy::{RW, TestSystem, at};
use super::world::{FindFor, World};
use crate::base::types::Pfn;
use crate::engine::Engine;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::account::Level;
use core::ops::ControlFlow;
use std::vec::Vec;

on_every_toy!(a_large_mapping_is_one_until_it_is_split);

/// ```text
///   page    0    4    8     16
///           [----anon-------)
///                  L            one large entry at page 4, which becomes four
/// ```
fn a_large_mapping_is_one_until_it_is_split<S: TestSystem>() {
    const ORDER: u8 = 2;
    const PAGES: u64 = 1 << ORDER;
    let mut world = World::<S>::with_one(16, 16);
    world.map(0, 0, 8, RW, None).unwrap();
    let mut frames: Vec<Pfn> = (0..8).map(|_| world.alloc().unwrap()).collect();
    frames.sort_unstable();
    let first = frames[frames.iter().position(|pfn| pfn.0.is_multiple_of(PAGES)).unwrap()];
    world.rmap.pages().make_compound(first, ORDER).unwrap();
    let tails = (1..PAGES).map(|n| Pfn(first.0 + n));
    {
        let head = world.page(first);
        tails.clone().for_each(|tail| assert!(core::ptr::eq(world.page(tail).head(), head)));
        let mm = world.mm(0).write();
        let vma = mm.mm_ref_find(at(4)).unwrap();
        world.rmap.engine().prepare(vma).unwrap();
        let reserved = world.rmap.reserve(1 + PAGES as usize).unwrap();
        let mut table = mm.table().lock(at(4), false).unwrap();
        world.rmap.page_add_new_anon_rmap(head, vma, at(4), Level::Entire).unwrap();
        table.set(at(4), Pte::present(first, PteFlags::WRITE | PteFlags::LARGE));
        drop(table);
        assert_eq!((world.rmap.anon_large(), world.rmap.anon_mapped(), head.entire_mapcount()), (1, 0, 1));
        assert_eq!(seen(&world, first), [(4, true)]);

        let mut table = mm.table().lock(at(4), false).unwrap();
        world.rmap.page_split_rmap(head, vma, at(4));
        for n in 0..PAGES {
            table.set(at(4 + n), Pte::present(Pfn(first.0 + n), PteFlags::WRITE));
        }
        drop((table, reserved));
        assert_eq!((world.rmap.anon_large(), world.rmap.anon_mapped(), head.entire_mapcount()), (0, PAGES, 0));
        assert_eq!(u64::from(head.refcount()), PAGES, "each entry has a reference");
        for n in 0..PAGES {
            let page = world.page(Pfn(first.0 + n));
            assert_eq!(page.mapcount(), 1);
            assert!(page.has(PageFlags::ANON_EXCLUSIVE), "all pages of an exclusive page are exclusive");
        }
        assert_eq!(seen(&world, first), [(4, false), (5, false), (6, false), (7, false)]);

        for n in 0..PAGES {
            let page = world.page(Pfn(first.0 + n));
            let mut table = mm.table().lock(at(4 + n), false).unwrap();
            table.clear_flush(at(4 + n));
            let last = world.rmap.page_remove_rmap(page, vma, at(4 + n), Level::Single);
            drop(table);
            assert_eq!((last, head.is_mapped(), page.put()), (n == PAGES - 1, n != PAGES - 1, n == PAGES - 1));
        }
        assert_eq!(world.rmap.anon_mapped(), 0);
        world.rmap.pages().break_compound(first).unwrap();
        for tail in tails {
            world.page(tail).clear(PageFlags::ANON_EXCLUSIVE);
        }
        head.set_refcount(1);
    }
    frames.into_iter().for_each(|pfn| world.put(pfn));
    check(&world);
    world.end();
}

/// The pages at which a walk of the compound page sees it mapped, and whether by a large entry.
fn seen<S: TestSystem>(world: &World<S>, pfn: Pfn) -> Vec<(u64, bool)> {
    let page = world.page(pfn);
    let _locked = page.lock();
    let mut seen = Vec::new();
    world.rmap.for_each_mapping(page, |_, addr, pte| {
        let large = matches!(pte, Pte::Present { flags, .. } if flags.contains(PteFlags::LARGE));
        seen.push((addr.vpn() - at(0).vpn(), large));
        ControlFlow::Continue(())
    });
    seen
}
