//! What an embedder can do wrong. Each call here must be refused, and change nothing that a program can see.
//!
//! A checked build finds out NULL, handles of what is gone, of another context, and those that no object can have; locks
//! that are not held; sizes of structs that never were; ranges, addresses, levels and flags that make no sense; frames
//! in the wrong state. What it cannot find out (a handle made of thin air, a lock that another thread holds) is not
//! tried.

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

mod handles;
mod states;

use crate::embedder::{Embedder, FRAMES, RW, call, empty_info, new_mm, ok, pfn_of};
use crate::table::{PAGES, Table, addr_of};
use arbitrary::Arbitrary;
use core::ptr::null_mut;
use rmap::context::*;
use rmap::file::*;
use rmap::handle::*;
use rmap::mm::*;
use rmap::page::*;
use rmap::status::rmap_status::*;
use rmap::vma::*;
use rmap::vma_look::*;

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

impl Embedder {
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
