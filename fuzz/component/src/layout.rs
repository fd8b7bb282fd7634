//! What the embedder does with address spaces and VMAs.

use crate::Op;
use crate::embedder::{Embedder, LEVEL, RW, Space, call, empty_info, frame_of, is_present, new_mm, ok};
use crate::table::{PAGES, addr_of, page_of};
use core::ptr::null_mut;
use rmap::anon::*;
use rmap::handle::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::pte_ops::*;
use rmap::reserve::*;
use rmap::status::rmap_status::*;
use rmap::vma::*;
use rmap::vma_look::*;

/// Handles of what is gone that are kept.
const GONE: usize = 16;

impl Embedder {
    pub(crate) fn birth(&mut self) {
        let table = Box::default();
        let mm = new_mm(self.ctx, &table);
        self.spaces.push(Space { mm, table });
    }

    /// The VMA that a page lies in, if one does. mmap_lock held.
    pub(crate) fn vma_at(&self, which: usize, at: u64) -> Option<*mut rmap_vma> {
        let mut vma = null_mut();
        let found = call!(rmap_vma_find(self.spaces[which].mm, addr_of(at), &raw mut vma));
        (found == RMAP_OK).then_some(vma)
    }

    /// The first VMA that ends after a page.
    pub(crate) fn next_vma(&self, which: usize, at: u64) -> Option<*mut rmap_vma> {
        let mut vma = null_mut();
        let found = call!(rmap_vma_find_next(self.spaces[which].mm, addr_of(at), &raw mut vma));
        (found == RMAP_OK).then_some(vma)
    }

    /// First page, and the first after it.
    pub(crate) fn bounds(&self, vma: *mut rmap_vma) -> (u64, u64) {
        (page_of(call!(rmap_vma_start(vma))), page_of(call!(rmap_vma_end(vma))))
    }

    fn is_range_free(&self, which: usize, start: u64, end: u64) -> bool {
        self.next_vma(which, start).is_none_or(|vma| self.bounds(vma).0 >= end)
    }

    fn zap_range(&mut self, which: usize, vma: *mut rmap_vma, start: u64, end: u64) {
        (start..end).for_each(|at| self.zap_entry(which, vma, at));
    }

    /// Empties a VMA and frees it. mmap_lock held for writing.
    fn free_vma(&mut self, which: usize, vma: *mut rmap_vma) {
        let (start, end) = self.bounds(vma);
        self.zap_range(which, vma, start, end);
        ok!(rmap_vma_free(self.spaces[which].mm, vma));
        self.keep_gone(vma);
    }

    fn keep_gone(&mut self, vma: *mut rmap_vma) {
        if self.gone_vmas.len() == GONE {
            self.gone_vmas.remove(0);
        }
        self.gone_vmas.push(vma);
    }

    pub(crate) fn exit(&mut self, which: usize) {
        let mm = self.spaces[which].mm;
        ok!(rmap_mm_write_lock(mm));
        while let Some(vma) = self.next_vma(which, 0) {
            self.free_vma(which, vma);
        }
        ok!(rmap_mm_write_unlock(mm));
        ok!(rmap_mm_free(mm));
        self.spaces.remove(which);
        self.gone_mms.truncate(GONE);
        self.gone_mms.insert(0, mm);
    }

    /// A copy of an address space with all its entries.
    pub(crate) fn fork(&mut self, parent: usize) {
        self.birth();
        let child = self.spaces.len() - 1;
        let (from, to) = (self.spaces[parent].mm, self.spaces[child].mm);
        ok!(rmap_reserve(self.ctx, PAGES as usize));
        ok!(rmap_mm_write_lock(from));
        ok!(rmap_mm_write_lock_nested(to));
        ok!(rmap_mm_fork_begin(to, from));
        let mut at = 0;
        while let Some(vma) = self.next_vma(parent, at) {
            let (start, end) = self.bounds(vma);
            at = end;
            let flags = call!(rmap_vma_flags(vma));
            if flags & RMAP_VM_DONTFORK != 0 {
                continue;
            }
            let mut copy = null_mut();
            ok!(rmap_vma_fork(to, from, vma, &raw mut copy));
            assert_eq!(call!(rmap_vma_flags(copy)), flags & !RMAP_VM_LOCKED);
            if flags & RMAP_VM_WIPEONFORK == 0 {
                (start..end).for_each(|at| self.copy_entry(parent, child, copy, at));
            }
        }
        ok!(rmap_mm_fork_end(to, from));
        ok!(rmap_mm_write_unlock(to));
        ok!(rmap_mm_write_unlock(from));
        ok!(rmap_unreserve(self.ctx, PAGES as usize));
    }

    fn copy_entry(&mut self, parent: usize, child: usize, copy: *mut rmap_vma, at: u64) {
        let pte = self.spaces[parent].table.entry(at);
        if is_present(pte) {
            let page = self.page(frame_of(pte.pfn));
            match call!(rmap_page_dup(page, copy, addr_of(at), LEVEL)) {
                RMAP_OK => {}
                // Pinned: the child's copy would be made here. It has none.
                other => return assert_eq!(other, RMAP_ERR_BUSY),
            }
            ok!(rmap_page_get(page));
            let shared = call!(rmap_vma_flags(copy)) & RMAP_VM_SHARED != 0;
            let flags = if shared { pte.flags } else { pte.flags & !RMAP_PTE_WRITE };
            self.spaces[parent].table.set(at, rmap_pte { flags, ..pte });
            self.spaces[child].table.make(at);
            self.spaces[child].table.set(at, rmap_pte { flags, ..pte });
        } else if pte.kind == rmap_pte_kind::RMAP_PTE_SWAP as u32 {
            self.frames[pte.value as usize].swap_uses += 1;
            self.spaces[child].table.make(at);
            self.spaces[child].table.set(at, pte);
        }
    }

    pub(crate) fn change_layout(&mut self, op: Op) {
        let (Op::Map { mm, at, .. }
        | Op::Unmap { mm, at }
        | Op::Split { mm, at }
        | Op::Merge { mm, at }
        | Op::Shift { mm, at, .. }
        | Op::Adjust { mm, at, .. }
        | Op::Move { mm, at, .. }
        | Op::SetFlags { mm, at, .. }
        | Op::Name { mm, at, .. }) = op
        else {
            unreachable!("not a change of layout")
        };
        let (which, at) = (self.space(mm), u64::from(at) % PAGES);
        let mm = self.spaces[which].mm;
        ok!(rmap_mm_write_lock(mm));
        match (op, self.next_vma(which, at)) {
            (Op::Map { pages, what, .. }, _) => self.map(which, at, 1 + u64::from(pages) % 16, what),
            (_, None) => {}
            (Op::Unmap { .. }, Some(vma)) => self.free_vma(which, vma),
            (Op::Split { .. }, Some(vma)) => {
                let (start, end) = self.bounds(vma);
                let mut high = null_mut();
                let inside = start < at && at < end;
                let expected = if inside { RMAP_OK } else { RMAP_ERR_INVAL };
                assert_eq!(call!(rmap_vma_split(mm, vma, addr_of(at), &raw mut high)), expected);
                if inside {
                    assert_eq!((self.bounds(vma), self.bounds(high)), ((start, at), (at, end)));
                }
            }
            (Op::Merge { .. }, Some(low)) => self.merge(which, low),
            (Op::Shift { to, .. }, Some(low)) => {
                let (start, boundary) = self.bounds(low);
                let Some(high) = self.vma_at(which, boundary) else { return ok!(rmap_mm_write_unlock(mm)) };
                let end = self.bounds(high).1;
                let to = u64::from(to) % PAGES;
                let fits = call!(rmap_vma_can_merge(mm, low, high)) && start < to && to < end && to != boundary;
                let done = call!(rmap_vma_shift(mm, low, high, addr_of(to)));
                assert!(!fits || done == RMAP_OK, "{done:?}");
                let now = if done == RMAP_OK { to } else { boundary };
                assert_eq!((self.bounds(low), self.bounds(high)), ((start, now), (now, end)));
            }
            (Op::Adjust { start, end, .. }, Some(vma)) => {
                self.adjust(which, vma, u64::from(start) % PAGES, u64::from(end) % (PAGES + 1));
            }
            (Op::Move { to, .. }, Some(vma)) => self.move_vma(which, vma, u64::from(to) % PAGES),
            (Op::SetFlags { which: bits, .. }, Some(vma)) => self.set_flags(which, vma, bits),
            (Op::Name { name, .. }, Some(vma)) => {
                let name = (name & 1 != 0).then_some(c"name");
                ok!(rmap_vma_set_name(mm, vma, name.map_or(core::ptr::null(), |name| name.as_ptr())));
                let mut length = usize::MAX;
                ok!(rmap_vma_name(mm, vma, null_mut(), 0, &raw mut length));
                assert_eq!(length, name.map_or(0, |name| name.count_bytes()));
            }
            _ => unreachable!("not a change of layout"),
        }
        ok!(rmap_mm_write_unlock(mm));
    }

    fn map(&mut self, which: usize, at: u64, pages: u64, what: u8) {
        let end = (at + pages).min(PAGES);
        let (file, shared, pgoff) = match what % 8 {
            0..=3 => (null_mut(), 0, RMAP_PGOFF_VPN),
            // So that neighbours fit.
            n => (self.files[usize::from(n) & 1], if n >= 6 { RMAP_VM_SHARED } else { 0 }, at % 16),
        };
        let free = self.is_range_free(which, at, end);
        let flags = RW | shared | if what & 0x80 != 0 { RMAP_VM_LOCKED } else { 0 };
        let (mm, mut vma) = (self.spaces[which].mm, null_mut());
        let done = call!(rmap_vma_new(mm, addr_of(at), addr_of(end), flags, file, pgoff, null_mut(), &raw mut vma));
        assert_eq!(done, if free { RMAP_OK } else { RMAP_ERR_EXISTS });
        if free {
            let mut info = empty_info();
            ok!(rmap_vma_get_info(vma, &raw mut info));
            assert_eq!((info.start, info.end, info.flags, info.file), (addr_of(at), addr_of(end), flags, file));
        }
    }

    fn merge(&mut self, which: usize, low: *mut rmap_vma) {
        let mm = self.spaces[which].mm;
        let (start, boundary) = self.bounds(low);
        let Some(high) = self.next_vma(which, boundary) else { return };
        let end = self.bounds(high).1;
        let may = call!(rmap_vma_can_merge(mm, low, high));
        let expected = if may { RMAP_OK } else { RMAP_ERR_INVAL };
        assert_eq!(call!(rmap_vma_merge(mm, low, high)), expected);
        if may {
            assert_eq!(self.bounds(low), (start, end));
            self.keep_gone(high);
        }
    }

    fn adjust(&mut self, which: usize, vma: *mut rmap_vma, start: u64, end: u64) {
        let old = self.bounds(vma);
        if start >= end || start >= old.1 || end <= old.0 {
            return;
        }
        let mut info = empty_info();
        ok!(rmap_vma_get_info(vma, &raw mut info));
        // What it gives up is empty.
        self.zap_range(which, vma, old.0, start.max(old.0));
        self.zap_range(which, vma, end.min(old.1), old.1);
        let free = (start >= old.0 || self.is_range_free(which, start, old.0))
            && (end <= old.1 || self.is_range_free(which, old.1, end));
        let negative = start < old.0 && info.pgoff < old.0 - start;
        let done = call!(rmap_vma_adjust(self.spaces[which].mm, vma, addr_of(start), addr_of(end)));
        let refused = matches!(done, RMAP_ERR_EXISTS | RMAP_ERR_INVAL);
        assert!(if free && !negative { done == RMAP_OK } else { refused }, "{done:?}, and the range is free: {free}");
        assert_eq!(self.bounds(vma), if done == RMAP_OK { (start, end) } else { old });
    }

    /// mremap: a copy, its entries, and the source goes.
    fn move_vma(&mut self, which: usize, source: *mut rmap_vma, to: u64) {
        let mm = self.spaces[which].mm;
        let (start, end) = self.bounds(source);
        let to_end = to + (end - start);
        if to_end > PAGES {
            return;
        }
        let free = self.is_range_free(which, to, to_end);
        let mut copy = null_mut();
        let done = call!(rmap_vma_move(mm, source, addr_of(start), addr_of(to), addr_of(to_end), &raw mut copy));
        assert_eq!(done, if free { RMAP_OK } else { RMAP_ERR_EXISTS });
        if !free {
            return;
        }
        ok!(rmap_vma_move_lock(mm, source));
        for n in 0..end - start {
            let (old, new) = (start + n, to + n);
            let pte = self.spaces[which].table.entry(old);
            if is_present(pte) || pte.kind == rmap_pte_kind::RMAP_PTE_SWAP as u32 {
                self.spaces[which].table.make(new);
                self.spaces[which].table.set(new, pte);
                if is_present(pte) {
                    let page = self.page(frame_of(pte.pfn));
                    ok!(rmap_page_moved(page, source, addr_of(old), copy, addr_of(new)));
                }
                self.spaces[which].table.set(old, crate::table::NONE);
            }
        }
        ok!(rmap_vma_move_unlock(mm, source));
        self.free_vma(which, source);
    }

    fn set_flags(&mut self, which: usize, vma: *mut rmap_vma, bits: u8) {
        const FLAGS: [u64; 6] = [
            RMAP_VM_LOCKED,
            RMAP_VM_DONTFORK,
            RMAP_VM_WIPEONFORK,
            RMAP_VM_MERGEABLE,
            RMAP_VM_WRITE,
            // One that librmap does not know.
            1 << 40,
        ];
        let old = call!(rmap_vma_flags(vma));
        let flags = old ^ FLAGS[usize::from(bits) % FLAGS.len()];
        ok!(rmap_vma_set_flags(self.spaces[which].mm, vma, flags));
        assert_eq!(call!(rmap_vma_flags(vma)), flags);
        if flags & RMAP_VM_WRITE == 0 {
            // As mprotect does.
            let (start, end) = self.bounds(vma);
            for at in start..end {
                let pte = self.spaces[which].table.entry(at);
                if is_present(pte) {
                    self.spaces[which].table.set(at, rmap_pte { flags: pte.flags & !RMAP_PTE_WRITE, ..pte });
                }
            }
        }
    }
}
