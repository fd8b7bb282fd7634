//! Calls with handles that are good: of the wrong moment, with the wrong locks, numbers or structs.

use super::empty_stats;
use crate::embedder::{Embedder, LEVEL, RW, call, ok, pfn_of};
use crate::table::{PAGES, addr_of, ops};
use core::ptr::{null, null_mut, without_provenance_mut};
use rmap::act::*;
use rmap::anon::*;
use rmap::context::*;
use rmap::file::*;
use rmap::handle::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::pte_ops::*;
use rmap::status::rmap_status::{self, *};
use rmap::vma::*;
use rmap::vma_look::*;
use rmap::walk::*;

impl Embedder {
    pub(super) fn wrong_lock(
        &self,
        which: usize,
        at: u64,
        frame: usize,
        call: u8,
    ) -> Option<(rmap_status, &'static str)> {
        let (mm, ctx, page) = (self.spaces[which].mm, self.ctx, self.page(frame));
        let mut out = null_mut();
        let out = &raw mut out;
        let (mut n, mut flag) = (0, false);
        let (n, flag) = (&raw mut n, &raw mut flag);
        let mut found = rmap_referenced { young: 0, contended: false, vm_flags: 0 };
        let found = &raw mut found;
        ok!(rmap_mm_read_lock(mm));
        let vma = self.next_vma(which, at);
        if let (0, Some(vma)) = (call % 3, vma) {
            // Held for reading, and needed for writing.
            let (first, last) = self.bounds(vma);
            let done = one_of!(
                call / 3,
                rmap_mm_write_unlock(mm),
                rmap_mm_write_trylock(mm),
                rmap_vma_free(mm, vma),
                rmap_vma_split(mm, vma, addr_of(first + 1), out),
                rmap_vma_adjust(mm, vma, addr_of(first), addr_of(last)),
                rmap_vma_set_flags(mm, vma, RW),
                rmap_synchronize(ctx),
                rmap_file_free(self.files[0]),
                rmap_free(ctx),
            );
            ok!(rmap_mm_read_unlock(mm));
            return Some(done);
        }
        ok!(rmap_mm_read_unlock(mm));
        if call % 3 == 1 {
            ok!(rmap_page_trylock(page));
            let done = one_of!(
                call / 3,
                rmap_page_trylock(page),
                rmap_synchronize(ctx),
                rmap_free(ctx),
                rmap_file_free(self.files[1]),
                rmap_page_release(ctx, page),
            );
            ok!(rmap_page_unlock(page));
            return Some(done);
        }
        let vma = vma?;
        let first = addr_of(self.bounds_unlocked(mm, vma));
        Some(one_of!(
            call / 3,
            rmap_mm_read_unlock(mm),
            rmap_mm_write_unlock(mm),
            rmap_page_unlock(page),
            rmap_vma_new(mm, first, first + 4096, RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), out),
            rmap_vma_free(mm, vma),
            rmap_vma_find(mm, first, out),
            rmap_vma_merge(mm, vma, vma),
            rmap_anon_vma_prepare(vma),
            rmap_vma_move_lock(mm, vma),
            rmap_vma_move_unlock(mm, vma),
            rmap_page_mappings(ctx, page, null_mut(), 0, n),
            rmap_try_to_unmap(ctx, page, 0, null(), flag),
            rmap_page_referenced(ctx, page, found),
            rmap_page_mkclean(ctx, page, null_mut()),
            rmap_page_add_anon(page, vma, first, false, LEVEL),
            rmap_page_move_anon(page, vma, first),
            rmap_file_add_page(self.files[0], page, 0),
            rmap_file_remove_page(self.files[0], page),
        ))
    }

    /// The first page of a VMA, asked under its lock.
    fn bounds_unlocked(&self, mm: *mut rmap_mm, vma: *mut rmap_vma) -> u64 {
        ok!(rmap_mm_read_lock(mm));
        let first = self.bounds(vma).0;
        ok!(rmap_mm_read_unlock(mm));
        first
    }

    pub(super) fn wrong_number(
        &self,
        which: usize,
        at: u64,
        frame: usize,
        call: u8,
    ) -> Option<(rmap_status, &'static str)> {
        let (page, mut out) = (self.page(frame), null_mut());
        let out = &raw mut out;
        let free = self.is_free(frame);
        self.under_lock(which, at, |mm, vma| {
            let (first, last) = self.bounds(vma);
            let (start, end) = (addr_of(first), addr_of(last));
            let new = |start, end| call!(rmap_vma_new(mm, start, end, RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), out));
            let mut addr = 0;
            let addr = &raw mut addr;
            let fresh = || if free { RMAP_ERR_STALE } else { call!(rmap_page_add_new_anon(page, vma, start, LEVEL)) };
            one_of!(
                call,
                new(start, end),
                new(start + 1, end),
                new(start, start),
                new(end, start),
                new(addr_of(PAGES) + 1, addr_of(PAGES + 1)),
                rmap_vma_split(mm, vma, start, out),
                rmap_vma_split(mm, vma, end, out),
                rmap_vma_split(mm, vma, start + 8, out),
                rmap_vma_merge(mm, vma, vma),
                rmap_vma_shift(mm, vma, vma, start),
                rmap_vma_adjust(mm, vma, start, start),
                rmap_vma_adjust(mm, vma, start + 1, end),
                rmap_vma_adjust(mm, vma, end, end + 4096),
                rmap_vma_move(mm, vma, start, start, end, out),
                rmap_vma_move(mm, vma, end, addr_of(PAGES), addr_of(PAGES + 1), out),
                rmap_vma_move(mm, vma, start + 1, addr_of(PAGES), addr_of(PAGES + 1), out),
                rmap_vma_set_flags(mm, vma, rmap_vma_flags(vma) ^ RMAP_VM_SHARED),
                rmap_mm_find_gap(mm, 1, addr_of(PAGES), 4096, false, addr),
                rmap_mm_find_gap(mm, 0, addr_of(PAGES), 0, false, addr),
                rmap_page_add_new_anon(page, vma, start + 1, LEVEL),
                rmap_page_add_new_anon(page, vma, end, LEVEL),
                rmap_page_add_new_anon(page, vma, start, 7),
                rmap_page_add_new_anon(page, vma, start, rmap_level::RMAP_LEVEL_ENTIRE as u32),
                rmap_page_remove(page, vma, end, LEVEL, null_mut()),
                rmap_page_remove(page, vma, start, 7, null_mut()),
                if rmap_page_is_mapped(page) { fresh() } else { rmap_page_remove(page, vma, start, LEVEL, null_mut()) },
                if rmap_page_is_mapped(page) { fresh() } else { rmap_page_dup(page, vma, start, LEVEL) },
                rmap_mm_fork_begin(mm, mm),
            )
        })
    }

    pub(super) fn wrong_frame(&self, frame: usize, call: u8) -> Option<(rmap_status, &'static str)> {
        let (page, ctx, pfn) = (self.page(frame), self.ctx, pfn_of(frame));
        let mut last = false;
        let last = &raw mut last;
        let known = &self.frames[frame];
        if self.is_free(frame) {
            return Some(one_of!(
                call,
                rmap_page_get(page),
                rmap_page_put(page, last),
                rmap_page_pin(page),
                rmap_page_unpin(page, last),
                rmap_page_unlock(page),
                rmap_page_break_compound(ctx, pfn),
                rmap_page_make_compound(ctx, pfn, 0),
            ));
        }
        if known.pins == 0 && call.is_multiple_of(4) {
            return Some(one_of!(0_u8, rmap_page_unpin(page, last)));
        }
        Some(one_of!(
            call,
            rmap_page_claim(page),
            rmap_page_release(ctx, page),
            rmap_page_unlock(page),
            rmap_page_make_compound(ctx, pfn, 0),
            rmap_page_break_compound(ctx, pfn),
            rmap_page_set_flags(page, RMAP_PG_LOCKED),
            rmap_page_clear_flags(page, RMAP_PG_WAITERS),
            rmap_page_set_flags(page, 1 << 31),
        ))
    }

    pub(super) fn wrong_shape(&self, frame: usize, call: u8) -> (rmap_status, &'static str) {
        unsafe extern "C" fn no(_: *mut rmap_page, _: *mut rmap_vma, _: u64, _: *mut core::ffi::c_void) -> bool {
            false
        }
        let (ctx, page) = (self.ctx, self.page(frame));
        let config = |size, engine, flags| rmap_config {
            size,
            engine,
            flags,
            allocator: rmap_allocator { alloc: None, free: None, arg: null_mut() },
        };
        let whole = size_of::<rmap_config>();
        let new = |config: rmap_config| {
            let mut made = without_provenance_mut(0x1234);
            let status = call!(rmap_new(&raw const config, &raw mut made));
            assert_eq!(made.addr(), 0x1234, "an output of a refused call was written");
            status
        };
        let mm_new = |ops: rmap_pte_ops| {
            let mut made = null_mut();
            call!(rmap_mm_new(ctx, &raw const ops, null_mut(), null_mut(), &raw mut made))
        };
        let control = |size, flags| rmap_walk_control {
            size,
            flags,
            rmap_one: Some(no),
            done: None,
            invalid_vma: None,
            anon_lock: None,
            resched: None,
            arg: null_mut(),
        };
        let walk = |control: rmap_walk_control| call!(rmap_walk(ctx, page, &raw const control, null_mut()));
        let unmap = |size: usize, flags| {
            let hooks = rmap_unmap_hooks { size, swap_dup: None, unmapped: None, arg: null_mut() };
            let mut gone = false;
            call!(rmap_try_to_unmap(ctx, page, flags, &raw const hooks, &raw mut gone))
        };
        let stats = |size| {
            let mut stats = rmap_stats { size, ..empty_stats() };
            call!(rmap_stats(ctx, &raw mut stats))
        };
        let init = |size| {
            let mut config = config(whole, 1, 0);
            call!(rmap_config_init(&raw mut config, size))
        };
        ok!(rmap_page_trylock(page));
        let done = one_of!(
            call,
            new(config(4, 1, 0)),
            new(config(whole, 99, 0)),
            new(config(whole, 1, 1)),
            init(8),
            stats(8),
            mm_new(rmap_pte_ops { size: 16, ..ops() }),
            mm_new(rmap_pte_ops { set: None, ..ops() }),
            mm_new(rmap_pte_ops { lock: None, ..ops() }),
            mm_new(rmap_pte_ops { clear: ops().clear_flush, ..ops() }),
            walk(control(0, 0)),
            walk(control(size_of::<rmap_walk_control>(), 64)),
            walk(rmap_walk_control { rmap_one: None, ..control(size_of::<rmap_walk_control>(), 0) }),
            unmap(0, 0),
            unmap(size_of::<rmap_unmap_hooks>(), 1 << 20),
            rmap_pages_add(ctx, 0x5000, 0, null_mut()),
            rmap_pages_add(ctx, u64::MAX, 2, null_mut()),
            rmap_pages_add(ctx, 0x5000, 1, without_provenance_mut(0x1008)),
            rmap_pages_add(ctx, pfn_of(3), 100, null_mut()),
            rmap_page_make_compound(ctx, pfn_of(1), 1),
            rmap_page_make_compound(ctx, pfn_of(0), 300),
            rmap_page_make_compound(ctx, 0x5000, 1),
        );
        ok!(rmap_page_unlock(page));
        done
    }

    pub(super) fn wrong_free(&self, which: usize, call: u8) -> Option<(rmap_status, &'static str)> {
        let mm = self.spaces[which].mm;
        let has_pages = |file| self.frames.iter().any(|frame| frame.file.is_some_and(|(of, _)| of == file));
        match call % 3 {
            0 => Some(one_of!(0_u8, rmap_free(self.ctx))),
            1 => (call!(rmap_mm_nr_vmas(mm)) != 0).then(|| one_of!(0_u8, rmap_mm_free(mm))),
            _ => {
                let file = usize::from(call / 3) % 2;
                has_pages(file).then(|| one_of!(0_u8, rmap_file_free(self.files[file])))
            }
        }
    }
}
