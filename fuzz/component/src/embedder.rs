//! The embedder: its frames, files, swap and address spaces, and what it does with pages.
//!
//! A swapped page stays in the swap cache, and its slot is its frame. Frames have no contents.

use crate::Op;
use crate::memory::Memory;
use crate::misuse::Strangers;
use crate::table::{NONE, PAGES, Table, addr_of, ops};
use core::ffi::c_void;
use core::ptr::null_mut;
use rmap::act::*;
use rmap::anon::*;
use rmap::context::*;
use rmap::file::*;
use rmap::handle::*;
use rmap::lookup::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::pte_ops::*;
use rmap::reserve::*;
use rmap::status::rmap_status::{self, *};
use rmap::vma::*;
use rmap::vma_look::*;

/// Calls a function of the C ABI.
macro_rules! call {
    ($call:expr) => {
        // SAFETY: handles name what lives, pointers are valid, and locks are held, as the embedder knows; in a misuse
        // they are what a checked build promises to find out.
        unsafe { $call }
    };
}
pub(crate) use call;

/// Calls a function that must do it.
macro_rules! ok {
    ($call:expr) => {
        assert_eq!($crate::embedder::call!($call), rmap::status::rmap_status::RMAP_OK, stringify!($call))
    };
}
pub(crate) use ok;

/// Frames, in two ranges.
pub(crate) const FRAMES: usize = 24;
const SPACES: usize = 4;
/// Pages of each file.
const FILE_PAGES: u64 = 32;
const ANONS: usize = 4;

pub(crate) fn pfn_of(frame: usize) -> u64 {
    if frame < FRAMES / 2 { 0x100 + frame as u64 } else { 0x9_0000 + (frame - FRAMES / 2) as u64 }
}

pub(crate) fn frame_of(pfn: u64) -> usize {
    (0..FRAMES).find(|frame| pfn_of(*frame) == pfn).expect("one of the embedder's")
}

pub(crate) const RW: u64 = RMAP_VM_READ | RMAP_VM_WRITE | RMAP_VM_MAYREAD | RMAP_VM_MAYWRITE;
const PRESENT: u32 = rmap_pte_kind::RMAP_PTE_PRESENT as u32;
const SWAP: u32 = rmap_pte_kind::RMAP_PTE_SWAP as u32;
pub(crate) const LEVEL: u32 = rmap_level::RMAP_LEVEL_PAGE as u32;

pub(crate) fn is_present(pte: rmap_pte) -> bool {
    pte.kind == PRESENT
}

pub(crate) fn present(pfn: u64, write: bool) -> rmap_pte {
    let used = if write { RMAP_PTE_WRITE | RMAP_PTE_DIRTY } else { 0 };
    rmap_pte { kind: PRESENT, flags: RMAP_PTE_YOUNG | used, pfn, value: 0 }
}

/// An address space.
pub(crate) struct Space {
    pub(crate) mm: *mut rmap_mm,
    pub(crate) table: Box<Table>,
}

/// What the embedder knows of a frame.
#[derive(Default, Clone, Copy)]
pub(crate) struct Frame {
    /// Entries that stand for the page in swap, and whoever is at work on it.
    pub(crate) swap_uses: u32,
    pub(crate) pins: u32,
    pub(crate) file: Option<(usize, u64)>,
}

/// See the [module](self).
pub(crate) struct Embedder {
    pub(crate) ctx: *mut rmap_ctx,
    pub(crate) spaces: Vec<Space>,
    pub(crate) frames: [Frame; FRAMES],
    pub(crate) files: [*mut rmap_file; 2],
    /// References to anon_vmas.
    anons: Vec<*mut rmap_anon_vma>,
    /// Handles of what is gone.
    pub(crate) gone_vmas: Vec<*mut rmap_vma>,
    pub(crate) gone_mms: Vec<*mut rmap_mm>,
    pub(crate) gone_file: *mut rmap_file,
    pub(crate) strangers: Strangers,
    memory: Box<Memory>,
}

impl Embedder {
    pub(crate) fn new(engine: u8) -> Self {
        let memory = Box::<Memory>::default();
        let mut config = rmap_config { size: 0, engine: 0, flags: 0, allocator: memory.allocator() };
        ok!(rmap_config_init(&raw mut config, size_of::<rmap_config>()));
        config.engine = 1 + u32::from(engine % 4);
        config.allocator = memory.allocator();
        let mut ctx = null_mut();
        ok!(rmap_new(&raw const config, &raw mut ctx));
        ok!(rmap_pages_add(ctx, pfn_of(0), FRAMES as u64 / 2, null_mut()));
        ok!(rmap_pages_add(ctx, pfn_of(FRAMES / 2), FRAMES as u64 / 2, null_mut()));
        let file = |anonymous| {
            let mut file = null_mut();
            ok!(rmap_file_new(ctx, FILE_PAGES, anonymous, null_mut(), &raw mut file));
            file
        };
        let (files, gone_file) = ([file(false), file(true)], file(false));
        ok!(rmap_file_free(gone_file));
        let mut this = Self {
            ctx,
            spaces: Vec::new(),
            frames: [Frame::default(); FRAMES],
            files,
            anons: Vec::new(),
            gone_vmas: Vec::new(),
            gone_mms: Vec::new(),
            gone_file,
            strangers: Strangers::new(config.engine),
            memory,
        };
        this.birth();
        this
    }

    pub(crate) fn page(&self, frame: usize) -> *mut rmap_page {
        call!(rmap_page(self.ctx, pfn_of(frame)))
    }

    pub(crate) fn space(&self, mm: u8) -> usize {
        usize::from(mm) % self.spaces.len()
    }

    pub(crate) fn is_free(&self, frame: usize) -> bool {
        call!(rmap_page_refcount(self.page(frame))) == 0
    }

    pub(crate) fn is_swap_cached(&self, frame: usize) -> bool {
        call!(rmap_page_flags(self.page(frame))) & RMAP_PG_SWAP_CACHE != 0
    }

    /// A frame with one reference.
    fn frame_alloc(&self) -> Option<usize> {
        let frame = (0..FRAMES).find(|frame| self.is_free(*frame))?;
        ok!(rmap_page_claim(self.page(frame)));
        Some(frame)
    }

    pub(crate) fn frame_put(&mut self, frame: usize) {
        let mut last = false;
        ok!(rmap_page_put(self.page(frame), &raw mut last));
        self.frame_freed(frame, last);
    }

    fn frame_freed(&mut self, frame: usize, last: bool) {
        if last {
            ok!(rmap_page_release(self.ctx, self.page(frame)));
            self.frames[frame] = Frame::default();
        }
    }

    /// One use of a slot less. The caller has a reference to the page, and its lock.
    fn swap_free(&mut self, frame: usize) {
        self.frames[frame].swap_uses -= 1;
        if self.frames[frame].swap_uses == 0 {
            ok!(rmap_page_clear_flags(self.page(frame), RMAP_PG_SWAP_CACHE));
            self.frame_put(frame);
        }
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::New if self.spaces.len() < SPACES => self.birth(),
            Op::Exit { mm } if self.spaces.len() > 1 => self.exit(self.space(mm)),
            Op::New | Op::Exit { .. } => {}
            Op::Fork { mm } if self.spaces.len() < SPACES => self.fork(self.space(mm)),
            Op::Fork { .. } => {}
            Op::Write { mm, at } => self.access(self.space(mm), u64::from(at) % PAGES, true),
            Op::Read { mm, at } => self.access(self.space(mm), u64::from(at) % PAGES, false),
            Op::Zap { mm, at } => self.zap_page(self.space(mm), u64::from(at) % PAGES),
            Op::SwapOut { frame, flags } => self.swap_out(usize::from(frame) % FRAMES, u32::from(flags) & 7),
            Op::Evict { file, pgoff } => self.evict(usize::from(file) % 2, u64::from(pgoff) % PAGES),
            Op::Referenced { frame } => self.referenced(usize::from(frame) % FRAMES),
            Op::MkClean { frame } => self.mkclean(usize::from(frame) % FRAMES),
            Op::Pin { frame } => self.pin(usize::from(frame) % FRAMES),
            Op::Unpin { frame } => self.unpin(usize::from(frame) % FRAMES),
            Op::GetAnon { frame } => self.get_anon(usize::from(frame) % FRAMES),
            Op::PutAnon => {
                if let Some(anon) = self.anons.pop() {
                    ok!(rmap_anon_vma_put(self.ctx, anon));
                }
            }
            Op::LockAnon { frame, held } => self.lock_anon(usize::from(frame) % FRAMES, held),
            Op::Synchronize => ok!(rmap_synchronize(self.ctx)),
            Op::Misuse(misuse) => self.misuse(misuse),
            layout => self.change_layout(layout),
        }
    }

    /// A program reads or writes a page.
    fn access(&mut self, which: usize, at: u64, write: bool) {
        let mm = self.spaces[which].mm;
        ok!(rmap_mm_read_lock(mm));
        let mut vma = null_mut();
        if call!(rmap_vma_find(mm, addr_of(at), &raw mut vma)) == RMAP_OK {
            let flags = call!(rmap_vma_flags(vma));
            if flags & RMAP_VM_WRITE != 0 || !write {
                self.spaces[which].table.make(at);
                // An entry may come back from swap first, and be written then.
                let mut tries = 0;
                while !self.fault(which, vma, at, write) {
                    tries += 1;
                    assert!(tries < 4, "a fault that never ends");
                }
            }
        }
        ok!(rmap_mm_read_unlock(mm));
    }

    /// One step of a fault; whether it was the last. mmap_lock held, the table is there.
    fn fault(&mut self, which: usize, vma: *mut rmap_vma, at: u64, write: bool) -> bool {
        let pte = self.spaces[which].table.entry(at);
        let mut info = empty_info();
        ok!(rmap_vma_get_info(vma, &raw mut info));
        let shared = info.flags & RMAP_VM_SHARED != 0;
        match pte.kind {
            SWAP => self.swap_in(which, vma, at, pte.value as usize),
            PRESENT if !write || pte.flags & RMAP_PTE_WRITE != 0 => {
                self.spaces[which].table.set(at, rmap_pte { flags: pte.flags | RMAP_PTE_YOUNG, ..pte });
                return true;
            }
            PRESENT if shared => {
                self.spaces[which].table.set(at, present(pte.pfn, true));
                return true;
            }
            PRESENT => return self.make_writable(which, vma, at, frame_of(pte.pfn)),
            _ if !info.file.is_null() && (shared || !write) => {
                let file = self.files.iter().position(|file| *file == info.file).expect("one of the embedder's");
                let pgoff = info.pgoff + (addr_of(at) - info.start) / crate::table::PAGE;
                return self.map_file(which, vma, at, (file, pgoff), shared && write);
            }
            _ => return self.map_new(which, vma, at),
        }
        false
    }

    /// Maps a page that is nobody's yet; `true` also when there is no frame.
    fn map_new(&mut self, which: usize, vma: *mut rmap_vma, at: u64) -> bool {
        ok!(rmap_anon_vma_prepare(vma));
        let Some(frame) = self.frame_alloc() else { return true };
        ok!(rmap_reserve(self.ctx, 1));
        ok!(rmap_page_add_new_anon(self.page(frame), vma, addr_of(at), LEVEL));
        self.spaces[which].table.set(at, present(pfn_of(frame), true));
        ok!(rmap_unreserve(self.ctx, 1));
        true
    }

    fn map_file(&mut self, which: usize, vma: *mut rmap_vma, at: u64, place: (usize, u64), write: bool) -> bool {
        let cached = (0..FRAMES).find(|frame| self.frames[*frame].file == Some(place));
        let frame = match cached {
            Some(frame) => {
                let mut found = null_mut();
                ok!(rmap_file_find_page(self.files[place.0], place.1, &raw mut found));
                assert_eq!(found, self.page(frame));
                frame
            }
            None => {
                let Some(frame) = self.frame_alloc() else { return true };
                ok!(rmap_page_lock(self.page(frame)));
                ok!(rmap_file_add_page(self.files[place.0], self.page(frame), place.1));
                ok!(rmap_page_unlock(self.page(frame)));
                self.frames[frame].file = Some(place);
                frame
            }
        };
        ok!(rmap_reserve(self.ctx, 1));
        ok!(rmap_page_lock(self.page(frame)));
        ok!(rmap_page_add_file(self.page(frame), vma, addr_of(at), LEVEL));
        self.spaces[which].table.set(at, present(pfn_of(frame), write));
        ok!(rmap_page_unlock(self.page(frame)));
        ok!(rmap_unreserve(self.ctx, 1));
        true
    }

    fn swap_in(&mut self, which: usize, vma: *mut rmap_vma, at: u64, frame: usize) {
        let page = self.page(frame);
        ok!(rmap_anon_vma_prepare(vma));
        ok!(rmap_reserve(self.ctx, 1));
        // This one becomes the mapping's.
        ok!(rmap_page_get(page));
        ok!(rmap_page_lock(page));
        ok!(rmap_page_add_anon(page, vma, addr_of(at), false, LEVEL));
        self.spaces[which].table.set(at, present(pfn_of(frame), false));
        self.swap_free(frame);
        ok!(rmap_page_unlock(page));
        ok!(rmap_unreserve(self.ctx, 1));
    }

    /// Copy-on-write: the page, or a copy of it; whether that was the last step.
    fn make_writable(&mut self, which: usize, vma: *mut rmap_vma, at: u64, frame: usize) -> bool {
        let page = self.page(frame);
        ok!(rmap_anon_vma_prepare(vma));
        if self.frames[frame].file.is_none() && call!(rmap_page_mapcount(page)) == 1 && !self.is_swap_cached(frame) {
            ok!(rmap_page_lock(page));
            ok!(rmap_page_move_anon(page, vma, addr_of(at)));
            self.spaces[which].table.set(at, present(pfn_of(frame), true));
            ok!(rmap_page_unlock(page));
            return true;
        }
        self.zap_entry(which, vma, at);
        self.map_new(which, vma, at)
    }

    /// What is mapped at a page goes. mmap_lock held.
    pub(crate) fn zap_entry(&mut self, which: usize, vma: *mut rmap_vma, at: u64) {
        let pte = self.spaces[which].table.entry(at);
        match pte.kind {
            PRESENT => {
                let (frame, mut last) = (frame_of(pte.pfn), false);
                self.spaces[which].table.set(at, NONE);
                ok!(rmap_page_remove(self.page(frame), vma, addr_of(at), LEVEL, &raw mut last));
                assert_eq!(last, call!(rmap_page_mapcount(self.page(frame))) == 0);
                self.frame_put(frame);
            }
            SWAP => {
                let frame = pte.value as usize;
                self.spaces[which].table.set(at, NONE);
                ok!(rmap_page_get(self.page(frame)));
                ok!(rmap_page_lock(self.page(frame)));
                self.swap_free(frame);
                ok!(rmap_page_unlock(self.page(frame)));
                self.frame_put(frame);
            }
            _ => {}
        }
    }

    fn zap_page(&mut self, which: usize, at: u64) {
        let mm = self.spaces[which].mm;
        ok!(rmap_mm_read_lock(mm));
        let mut vma = null_mut();
        if call!(rmap_vma_find(mm, addr_of(at), &raw mut vma)) == RMAP_OK {
            self.zap_entry(which, vma, at);
        }
        ok!(rmap_mm_read_unlock(mm));
    }

    /// Calls `act` with a page that is in use, referenced and locked.
    fn with_locked(&mut self, frame: usize, act: impl FnOnce(&mut Self, *mut rmap_page)) {
        if self.is_free(frame) {
            return;
        }
        let page = self.page(frame);
        ok!(rmap_page_get(page));
        ok!(rmap_page_trylock(page));
        act(self, page);
        ok!(rmap_page_unlock(page));
        self.frame_put(frame);
    }

    /// Takes a page out of all tables: an anonymous one goes to swap.
    fn swap_out(&mut self, frame: usize, flags: u32) {
        unsafe extern "C" fn dup(slot: u64, uses: *mut c_void) -> bool {
            // SAFETY: the uses below, valid for the call.
            let uses = unsafe { &mut *uses.cast::<(u64, u32)>() };
            assert_eq!(slot, uses.0, "another page's slot");
            uses.1 += 1;
            true
        }
        self.with_locked(frame, |this, page| {
            let anon = this.frames[frame].file.is_none();
            if !call!(rmap_page_is_mapped(page)) || this.is_swap_cached(frame) {
                return;
            }
            if anon {
                ok!(rmap_page_get(page));
                ok!(rmap_page_set_private(page, frame as u64));
                ok!(rmap_page_set_flags(page, RMAP_PG_SWAP_CACHE));
                this.frames[frame].swap_uses = 1;
            }
            let mut uses = (frame as u64, 0_u32);
            let arg = (&raw mut uses).cast();
            let hooks =
                rmap_unmap_hooks { size: size_of::<rmap_unmap_hooks>(), swap_dup: Some(dup), unmapped: None, arg };
            let mut gone = false;
            ok!(rmap_try_to_unmap(this.ctx, page, flags, &raw const hooks, &raw mut gone));
            assert_eq!(gone, call!(rmap_page_mapcount(page)) == 0);
            if anon {
                this.frames[frame].swap_uses += uses.1;
                this.swap_free(frame);
            }
        });
    }

    /// Takes a page that nothing maps out of its file.
    fn evict(&mut self, file: usize, pgoff: u64) {
        let Some(frame) = (0..FRAMES).find(|frame| self.frames[*frame].file == Some((file, pgoff))) else { return };
        self.with_locked(frame, |this, page| {
            let mapped = call!(rmap_page_is_mapped(page));
            let expected = if mapped { RMAP_ERR_BUSY } else { RMAP_OK };
            assert_eq!(call!(rmap_file_remove_page(this.files[file], page)), expected);
            if !mapped {
                this.frames[frame].file = None;
                this.frame_put(frame);
            }
        });
    }

    fn referenced(&mut self, frame: usize) {
        self.with_locked(frame, |this, page| {
            let mut found = rmap_referenced { young: 0, contended: false, vm_flags: 0 };
            ok!(rmap_page_referenced(this.ctx, page, &raw mut found));
            assert!(!found.contended && found.young <= call!(rmap_page_mapcount(page)));
        });
    }

    fn mkclean(&mut self, frame: usize) {
        self.with_locked(frame, |this, page| {
            let mut cleaned = 0;
            ok!(rmap_page_mkclean(this.ctx, page, &raw mut cleaned));
            assert!(cleaned <= call!(rmap_page_mapcount(page)));
        });
    }

    fn pin(&mut self, frame: usize) {
        match call!(rmap_page_pin(self.page(frame))) {
            RMAP_OK => self.frames[frame].pins += 1,
            RMAP_ERR_AGAIN => {}
            other => assert!(other == RMAP_ERR_STALE && self.is_free(frame), "{other:?}"),
        }
    }

    fn unpin(&mut self, frame: usize) {
        if self.frames[frame].pins != 0 {
            let mut last = false;
            ok!(rmap_page_unpin(self.page(frame), &raw mut last));
            self.frames[frame].pins -= 1;
            self.frame_freed(frame, last);
        }
    }

    fn get_anon(&mut self, frame: usize) {
        if self.anons.len() == ANONS || self.is_free(frame) {
            return;
        }
        let mut anon = null_mut();
        match call!(rmap_page_get_anon_vma(self.ctx, self.page(frame), &raw mut anon)) {
            RMAP_OK => self.anons.push(anon),
            other => assert!(refuses_anon(other), "{other:?}"),
        }
    }

    /// Locks the anon_vma of a page, and lets go of it. `held`: of one to which there is a reference.
    fn lock_anon(&mut self, frame: usize, held: bool) {
        let mut lock = rmap_anon_vma_lock { anon_vma: null_mut(), root: null_mut() };
        let done = match self.anons.last() {
            Some(anon) if held => call!(rmap_anon_vma_lock_read(self.ctx, *anon, &raw mut lock)),
            _ if self.is_free(frame) => return,
            _ => call!(rmap_page_trylock_anon_vma_read(self.ctx, self.page(frame), &raw mut lock)),
        };
        match done {
            RMAP_OK => ok!(rmap_anon_vma_unlock_read(&raw mut lock)),
            other => assert!(refuses_anon(other), "{other:?}"),
        }
    }

    /// Everything goes, and librmap has nothing left.
    pub(crate) fn finish(mut self) {
        while let Some(anon) = self.anons.pop() {
            ok!(rmap_anon_vma_put(self.ctx, anon));
        }
        (0..FRAMES).for_each(|frame| (0..self.frames[frame].pins).for_each(|_| self.unpin(frame)));
        while !self.spaces.is_empty() {
            self.exit(0);
        }
        for frame in 0..FRAMES {
            if let Some((file, pgoff)) = self.frames[frame].file {
                self.evict(file, pgoff);
            }
        }
        self.files.iter().for_each(|file| ok!(rmap_file_free(*file)));
        assert!((0..FRAMES).all(|frame| self.is_free(frame)), "frames are left");
        self.strangers.go();
        ok!(rmap_free(self.ctx));
        assert_eq!(self.memory.out.get(), 0);
    }
}

/// How a page without an anon_vma, or an engine without any, says so.
fn refuses_anon(status: rmap_status) -> bool {
    matches!(status, RMAP_ERR_NOT_MAPPED | RMAP_ERR_NOT_SUPPORTED | RMAP_ERR_INVAL | RMAP_ERR_AGAIN)
}

pub(crate) fn empty_info() -> rmap_vma_info {
    rmap_vma_info { start: 0, end: 0, pgoff: 0, flags: 0, mm: null_mut(), file: null_mut(), private_data: null_mut() }
}

/// A new address space over these tables.
pub(crate) fn new_mm(ctx: *mut rmap_ctx, table: &Table) -> *mut rmap_mm {
    let (ops, table) = (ops(), core::ptr::from_ref(table).cast_mut().cast());
    let mut mm = null_mut();
    ok!(rmap_mm_new(ctx, &raw const ops, table, null_mut(), &raw mut mm));
    mm
}
