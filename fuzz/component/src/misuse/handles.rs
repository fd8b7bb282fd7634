//! Handles that are bad.

use super::{Bad, empty_stats};
use crate::embedder::{Embedder, LEVEL, RW, call, empty_info, ok};
use crate::table::{PAGES, addr_of};
use core::ptr::{null, null_mut};
use rmap::act::*;
use rmap::anon::*;
use rmap::context::*;
use rmap::file::*;
use rmap::handle::*;
use rmap::lookup::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::status::rmap_status;
use rmap::vma::*;
use rmap::vma_look::*;
use rmap::walk::*;

/// A handle that no object can have.
fn crooked<T>(handle: *mut T) -> *mut T {
    handle.cast::<u8>().wrapping_add(4).cast()
}

impl Embedder {
    fn bad_vma(&self, bad: Bad, good: *mut rmap_vma) -> *mut rmap_vma {
        match bad {
            Bad::Null => null_mut(),
            Bad::Gone(nth) => {
                self.gone_vmas.get(usize::from(nth) % self.gone_vmas.len().max(1)).copied().unwrap_or(null_mut())
            }
            Bad::Crooked => crooked(good),
            Bad::Strange => self.strangers.vma,
        }
    }

    fn bad_mm(&self, bad: Bad) -> *mut rmap_mm {
        match bad {
            Bad::Gone(nth) => {
                self.gone_mms.get(usize::from(nth) % self.gone_mms.len().max(1)).copied().unwrap_or(null_mut())
            }
            Bad::Crooked => crooked(self.spaces[0].mm),
            // An address space says itself of which context it is.
            Bad::Null | Bad::Strange => null_mut(),
        }
    }

    fn bad_page(&self, bad: Bad, good: *mut rmap_page) -> *mut rmap_page {
        match bad {
            // Descriptors are never gone.
            Bad::Null | Bad::Gone(_) => null_mut(),
            Bad::Crooked => crooked(good),
            Bad::Strange => self.strangers.page,
        }
    }

    pub(super) fn wrong_vma(&self, which: usize, at: u64, bad: Bad, call: u8) -> Option<(rmap_status, &'static str)> {
        let page = self.page(0);
        self.under_lock(which, at, |mm, vma| {
            let wrong = self.bad_vma(bad, vma);
            let (first, last) = self.bounds(vma);
            let mut out = null_mut();
            let out = &raw mut out;
            let mut info = empty_info();
            let info = &raw mut info;
            match call % 2 {
                // Of any context, if it lives.
                0 if bad == Bad::Strange => one_of!(
                    call / 2,
                    rmap_vma_free(mm, wrong),
                    rmap_vma_set_private(mm, wrong, null_mut()),
                    rmap_page_add_new_anon(page, wrong, addr_of(0), LEVEL),
                    rmap_page_remove(page, wrong, addr_of(0), LEVEL, null_mut()),
                    rmap_page_dup(page, wrong, addr_of(0), LEVEL),
                ),
                0 => one_of!(
                    call / 2,
                    rmap_anon_vma_prepare(wrong),
                    rmap_vma_get_info(wrong, info),
                    rmap_page_add_new_anon(page, wrong, addr_of(first), LEVEL),
                    rmap_page_remove(page, wrong, addr_of(first), LEVEL, null_mut()),
                    rmap_page_dup(page, wrong, addr_of(first), LEVEL),
                    rmap_page_add_file(page, wrong, addr_of(first), LEVEL),
                    rmap_page_add_anon(page, wrong, addr_of(first), false, LEVEL),
                    rmap_page_move_anon(page, wrong, addr_of(first)),
                    rmap_page_moved(page, wrong, addr_of(first), vma, addr_of(first)),
                    rmap_page_moved(page, vma, addr_of(first), wrong, addr_of(first)),
                    rmap_vma_move_unlock(mm, wrong),
                ),
                _ => one_of!(
                    call / 2,
                    rmap_vma_free(mm, wrong),
                    rmap_vma_split(mm, wrong, addr_of(first + 1), out),
                    rmap_vma_merge(mm, vma, wrong),
                    rmap_vma_merge(mm, wrong, vma),
                    rmap_vma_adjust(mm, wrong, addr_of(first), addr_of(last)),
                    rmap_vma_shift(mm, vma, wrong, addr_of(first)),
                    rmap_vma_shift(mm, wrong, vma, addr_of(first)),
                    rmap_vma_move(mm, wrong, addr_of(first), addr_of(first), addr_of(last), out),
                    rmap_vma_move_lock(mm, wrong),
                    rmap_vma_set_flags(mm, wrong, RW),
                    rmap_vma_set_name(mm, wrong, c"name".as_ptr()),
                    rmap_vma_set_private(mm, wrong, null_mut()),
                ),
            }
        })
    }

    pub(super) fn wrong_page(
        &self,
        which: usize,
        at: u64,
        frame: usize,
        bad: Bad,
        call: u8,
    ) -> Option<(rmap_status, &'static str)> {
        let wrong = self.bad_page(bad, self.page(frame));
        let (mut n, mut flag) = (0, false);
        let (n, flag) = (&raw mut n, &raw mut flag);
        let mut anon = null_mut();
        let anon = &raw mut anon;
        let ctx = self.ctx;
        self.under_lock(which, at, |_, vma| {
            let addr = addr_of(self.bounds(vma).0);
            match call % 2 {
                // Of which context it is, these need not know.
                0 if bad != Bad::Strange => one_of!(
                    call / 2,
                    rmap_page_claim(wrong),
                    rmap_page_get(wrong),
                    rmap_page_put(wrong, flag),
                    rmap_page_lock(wrong),
                    rmap_page_lock_nested(wrong),
                    rmap_page_trylock(wrong),
                    rmap_page_unlock(wrong),
                    rmap_page_pin(wrong),
                    rmap_page_unpin(wrong, flag),
                    rmap_page_set_flags(wrong, RMAP_PG_DIRTY),
                    rmap_page_clear_flags(wrong, RMAP_PG_DIRTY),
                    rmap_page_set_private(wrong, 7),
                ),
                _ => one_of!(
                    call / 2,
                    rmap_page_release(ctx, wrong),
                    rmap_page_add_new_anon(wrong, vma, addr, LEVEL),
                    rmap_page_add_anon(wrong, vma, addr, false, LEVEL),
                    rmap_page_move_anon(wrong, vma, addr),
                    rmap_page_dup(wrong, vma, addr, LEVEL),
                    rmap_page_remove(wrong, vma, addr, LEVEL, flag),
                    rmap_page_add_file(wrong, vma, addr, LEVEL),
                    rmap_file_add_page(self.files[0], wrong, 0),
                    rmap_file_remove_page(self.files[0], wrong),
                    rmap_page_get_anon_vma(ctx, wrong, anon),
                    rmap_page_mappings(ctx, wrong, null_mut(), 0, n),
                    rmap_try_to_unmap(ctx, wrong, 0, null(), flag),
                    rmap_page_mkclean(ctx, wrong, null_mut()),
                ),
            }
        })
    }

    pub(super) fn wrong_mm(&self, bad: Bad, call: u8) -> (rmap_status, &'static str) {
        let (mm, wrong) = (self.spaces[0].mm, self.bad_mm(bad));
        if call % 16 == 15 && !wrong.is_null() {
            return one_of!(0_u8, rmap_mm_free(wrong));
        }
        let (mut vma, mut addr) = (null_mut(), 0);
        let (vma, addr) = (&raw mut vma, &raw mut addr);
        one_of!(
            call,
            rmap_mm_read_lock(wrong),
            rmap_mm_read_trylock(wrong),
            rmap_mm_read_unlock(wrong),
            rmap_mm_write_lock(wrong),
            rmap_mm_write_lock_nested(wrong),
            rmap_mm_write_trylock(wrong),
            rmap_mm_write_unlock(wrong),
            rmap_mm_fork_begin(wrong, mm),
            rmap_mm_fork_begin(mm, wrong),
            rmap_mm_fork_end(wrong, mm),
            rmap_mm_find_gap(wrong, addr_of(0), addr_of(PAGES), 4096, false, addr),
            rmap_vma_find(wrong, addr_of(0), vma),
            rmap_vma_find_next(wrong, addr_of(0), vma),
            rmap_vma_new(wrong, addr_of(0), addr_of(1), RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), vma),
        )
    }

    pub(super) fn wrong_other(&self, frame: usize, bad: Bad, call: u8) -> (rmap_status, &'static str) {
        let (page, ctx) = (self.page(frame), self.ctx);
        let file = match bad {
            Bad::Null => null_mut(),
            Bad::Gone(_) => self.gone_file,
            Bad::Crooked => crooked(self.files[0]),
            Bad::Strange => self.strangers.file,
        };
        let other = if bad == Bad::Crooked { crooked(ctx) } else { null_mut() };
        let mut stats = empty_stats();
        let (mut found, mut made, mut n) = (null_mut(), null_mut(), 0);
        let (stats, found, made, n) = (&raw mut stats, &raw mut found, &raw mut made, &raw mut n);
        let (mm, mut vma) = (self.spaces[0].mm, null_mut());
        let vma = &raw mut vma;
        match call % 3 {
            0 if bad != Bad::Strange => one_of!(
                call / 3,
                rmap_file_set_pages(file, 3),
                rmap_file_find_page(file, 0, found),
                rmap_file_add_page(file, page, 0),
                rmap_file_remove_page(file, page),
            ),
            1 => {
                ok!(rmap_mm_write_lock(mm));
                // Where no VMA is: only the file can be wrong. NULL is anonymous memory, whose pgoff it is not.
                let file = if file.is_null() { self.gone_file } else { file };
                let (start, end) = (addr_of(PAGES), addr_of(PAGES + 1));
                let done = one_of!(0_u8, rmap_vma_new(mm, start, end, RW, file, 0, null_mut(), vma));
                ok!(rmap_mm_write_unlock(mm));
                done
            }
            _ => one_of!(
                call / 3,
                rmap_synchronize(other),
                rmap_stats(other, stats),
                rmap_stats(ctx, null_mut()),
                rmap_pages_add(other, 0x5000, 1, null_mut()),
                rmap_new(null(), null_mut()),
                rmap_file_new(other, 1, false, null_mut(), made),
                rmap_file_new(ctx, 1, false, null_mut(), null_mut()),
                rmap_page_mappings(other, page, null_mut(), 0, n),
                rmap_page_mappings(ctx, page, null_mut(), 1, n),
                rmap_page_mappings(ctx, page, null_mut(), 0, null_mut()),
                rmap_anon_vma_put(ctx, null_mut()),
                rmap_anon_vma_unlock_read(null_mut()),
                rmap_walk(ctx, page, null(), null_mut()),
                rmap_try_to_unmap(ctx, page, 0, null(), null_mut()),
                rmap_page_referenced(ctx, page, null_mut()),
            ),
        }
    }
}
