//! What an embedder can do wrong. Each call here must be refused, and change nothing that a program can see.
//!
//! A checked build finds out NULL, handles of what is gone, of another context, and those that no object can have; locks
//! that are not held; sizes of structs that never were; ranges, addresses, levels and flags that make no sense; frames
//! in the wrong state. What it cannot find out (a handle made of thin air, a lock that another thread holds) is not
//! tried.

use crate::embedder::{Embedder, FRAMES, LEVEL, RW, call, empty_info, new_mm, ok, pfn_of};
use crate::table::{PAGES, Table, addr_of, ops};
use arbitrary::Arbitrary;
use core::ptr::{null, null_mut, without_provenance_mut};
use rmap::act::*;
use rmap::anon::*;
use rmap::context::*;
use rmap::file::*;
use rmap::handle::*;
use rmap::lookup::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::pte_ops::*;
use rmap::status::rmap_status::{self, *};
use rmap::vma::*;
use rmap::walk::*;

/// What is wrong with a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Bad {
    Null,
    /// Of what is gone; where nothing is, NULL.
    Gone(u8),
    /// Not aligned as any object is.
    Crooked,
    /// Of another context.
    Strange,
}

/// A call that must be refused. The numbers choose among calls of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Misuse {
    /// A VMA's handle is bad.
    Vma { mm: u8, at: u8, bad: Bad, call: u8 },
    /// A page's.
    Page { mm: u8, at: u8, frame: u8, bad: Bad, call: u8 },
    /// An address space's.
    Mm { bad: Bad, call: u8 },
    /// A file's or a context's.
    Other { frame: u8, bad: Bad, call: u8 },
    /// A lock is not held, or one is that must not be.
    Lock { mm: u8, at: u8, frame: u8, call: u8 },
    /// A range, an address or a level makes no sense.
    Number { mm: u8, at: u8, frame: u8, call: u8 },
    /// A frame is in another state.
    Frame { frame: u8, call: u8 },
    /// A struct has a size that it never had, or flags that nobody knows.
    Shape { frame: u8, call: u8 },
    /// What is in use is freed.
    Busy { mm: u8, call: u8 },
}

/// Another context, and what is in it.
pub(crate) struct Strangers {
    ctx: *mut rmap_ctx,
    mm: *mut rmap_mm,
    vma: *mut rmap_vma,
    page: *mut rmap_page,
    file: *mut rmap_file,
    _table: Box<Table>,
}

impl Strangers {
    pub(crate) fn new(engine: u32) -> Self {
        let mut config = rmap_config {
            size: 0,
            engine: 0,
            flags: 0,
            allocator: rmap_allocator { alloc: None, free: None, arg: null_mut() },
        };
        ok!(rmap_config_init(&raw mut config, size_of::<rmap_config>()));
        config.engine = engine;
        let (mut ctx, mut vma, mut file) = (null_mut(), null_mut(), null_mut());
        ok!(rmap_new(&raw const config, &raw mut ctx));
        ok!(rmap_pages_add(ctx, pfn_of(0), 4, null_mut()));
        let page = call!(rmap_page(ctx, pfn_of(0)));
        ok!(rmap_page_claim(page));
        ok!(rmap_file_new(ctx, 4, false, null_mut(), &raw mut file));
        let table = Box::default();
        let mm = new_mm(ctx, &table);
        ok!(rmap_mm_write_lock(mm));
        ok!(rmap_vma_new(mm, addr_of(0), addr_of(4), RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), &raw mut vma));
        ok!(rmap_mm_write_unlock(mm));
        Self { ctx, mm, vma, page, file, _table: table }
    }

    pub(crate) fn go(&self) {
        ok!(rmap_mm_write_lock(self.mm));
        ok!(rmap_vma_free(self.mm, self.vma));
        ok!(rmap_mm_write_unlock(self.mm));
        ok!(rmap_mm_free(self.mm));
        ok!(rmap_file_free(self.file));
        let mut last = false;
        ok!(rmap_page_put(self.page, &raw mut last));
        ok!(rmap_page_release(self.ctx, self.page));
        ok!(rmap_free(self.ctx));
    }
}

/// A handle that no object can have.
fn crooked<T>(handle: *mut T) -> *mut T {
    handle.cast::<u8>().wrapping_add(4).cast()
}

/// One of the calls.
macro_rules! one_of {
    ($number:expr, $($call:expr),* $(,)?) => {{
        // A call may be one of the closures that make a shape, and is not unsafe then.
        #[allow(unused_unsafe)]
        let calls: &[&dyn Fn() -> rmap_status] = &[$(&|| call!($call)),*];
        let number = usize::from($number) % calls.len();
        (calls[number](), [$(stringify!($call)),*][number])
    }};
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

    /// All that a program can see.
    fn state(&self) -> (Vec<[u64; 5]>, Vec<[u64; 4]>, [u64; 6]) {
        let mut vmas = Vec::new();
        for space in &self.spaces {
            let mut at = 0;
            let mut vma = null_mut();
            let locked = call!(rmap_mm_read_trylock(space.mm)) == RMAP_OK;
            while call!(rmap_vma_find_next(space.mm, at, &raw mut vma)) == RMAP_OK {
                let mut info = empty_info();
                ok!(rmap_vma_get_info(vma, &raw mut info));
                vmas.push([info.start, info.end, info.pgoff, info.flags, info.file.addr() as u64]);
                at = info.end;
            }
            if locked {
                ok!(rmap_mm_read_unlock(space.mm));
            }
            vmas.extend(
                space.table.entries().map(|(at, pte)| [at, pte.kind.into(), pte.flags.into(), pte.pfn, pte.value]),
            );
        }
        let page = |frame| {
            let page = self.page(frame);
            let counts = call!(rmap_page_mapcount(page)) as u64 | u64::from(call!(rmap_page_refcount(page))) << 32;
            [counts, call!(rmap_page_flags(page)).into(), call!(rmap_page_index(page)), call!(rmap_page_private(page))]
        };
        let mut stats = empty_stats();
        ok!(rmap_stats(self.ctx, &raw mut stats));
        let stats = [stats.mms, stats.files, stats.anon_vmas, stats.anon_mapped, stats.anon_large, stats.file_mapped];
        (vmas, (0..FRAMES).map(page).collect(), stats)
    }

    pub(crate) fn misuse(&mut self, misuse: Misuse) {
        let before = self.state();
        let refused = match misuse {
            Misuse::Vma { mm, at, bad, call } => self.wrong_vma(self.space(mm), u64::from(at) % PAGES, bad, call),
            Misuse::Page { mm, at, frame, bad, call } => {
                self.wrong_page(self.space(mm), u64::from(at) % PAGES, usize::from(frame) % FRAMES, bad, call)
            }
            Misuse::Mm { bad, call } => Some(self.wrong_mm(bad, call)),
            Misuse::Other { frame, bad, call } => Some(self.wrong_other(usize::from(frame) % FRAMES, bad, call)),
            Misuse::Lock { mm, at, frame, call } => {
                self.wrong_lock(self.space(mm), u64::from(at) % PAGES, usize::from(frame) % FRAMES, call)
            }
            Misuse::Number { mm, at, frame, call } => {
                self.wrong_number(self.space(mm), u64::from(at) % PAGES, usize::from(frame) % FRAMES, call)
            }
            Misuse::Frame { frame, call } => self.wrong_frame(usize::from(frame) % FRAMES, call),
            Misuse::Shape { frame, call } => Some(self.wrong_shape(usize::from(frame) % FRAMES, call)),
            Misuse::Busy { mm, call } => self.wrong_free(self.space(mm), call),
        };
        if let Some((status, call)) = refused {
            assert!(status != RMAP_OK && status != RMAP_ERR_INTERNAL, "{call}: {status:?}");
            assert_eq!(self.state(), before, "{call} was refused ({status:?}), and has changed something");
        }
    }

    /// Calls `act` with a VMA under mmap_lock.
    fn under_lock<T>(&self, which: usize, at: u64, act: impl FnOnce(*mut rmap_mm, *mut rmap_vma) -> T) -> Option<T> {
        let mm = self.spaces[which].mm;
        ok!(rmap_mm_write_lock(mm));
        let done = self.next_vma(which, at).map(|vma| act(mm, vma));
        ok!(rmap_mm_write_unlock(mm));
        done
    }

    fn wrong_vma(&self, which: usize, at: u64, bad: Bad, call: u8) -> Option<(rmap_status, &'static str)> {
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

    fn wrong_page(
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

    fn wrong_mm(&self, bad: Bad, call: u8) -> (rmap_status, &'static str) {
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

    fn wrong_other(&self, frame: usize, bad: Bad, call: u8) -> (rmap_status, &'static str) {
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

    fn wrong_lock(&self, which: usize, at: u64, frame: usize, call: u8) -> Option<(rmap_status, &'static str)> {
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

    fn wrong_number(&self, which: usize, at: u64, frame: usize, call: u8) -> Option<(rmap_status, &'static str)> {
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

    fn wrong_frame(&self, frame: usize, call: u8) -> Option<(rmap_status, &'static str)> {
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
        if known.pins == 0 && call % 4 == 0 {
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

    fn wrong_shape(&self, frame: usize, call: u8) -> (rmap_status, &'static str) {
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

    fn wrong_free(&self, which: usize, call: u8) -> Option<(rmap_status, &'static str)> {
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

fn empty_stats() -> rmap_stats {
    rmap_stats {
        size: size_of::<rmap_stats>(),
        mms: 0,
        files: 0,
        vmas: 0,
        anon_vmas: 0,
        anon_mapped: 0,
        anon_large: 0,
        file_mapped: 0,
        bytes: 0,
        engine_bytes: 0,
    }
}
