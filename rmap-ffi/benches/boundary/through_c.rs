//! A context of the C ABI's: address spaces with one anonymous region at one address, page tables of one entry. The
//! twin of `family`.

use crate::family::ADDR;
use core::ffi::c_void;
use core::ptr::{self, null_mut};
use rmap::anon::{rmap_anon_vma_prepare, rmap_page_add_new_anon, rmap_page_dup};
use rmap::context::{rmap_config, rmap_config_init, rmap_new};
use rmap::handle::{rmap_ctx, rmap_mm, rmap_page, rmap_vma};
use rmap::mm::{
    rmap_mm_fork_begin, rmap_mm_fork_end, rmap_mm_new, rmap_mm_write_lock, rmap_mm_write_lock_nested,
    rmap_mm_write_unlock,
};
use rmap::page::{rmap_page_claim, rmap_page_get, rmap_pages_add};
use rmap::pte_ops::{rmap_pte, rmap_pte_kind, rmap_pte_ops};
use rmap::status::rmap_status;
use rmap::vma::{RMAP_PGOFF_VPN, RMAP_VM_READ, RMAP_VM_WRITE, rmap_vma_fork, rmap_vma_new};
use rmap_core::base::sync::atomic::{AtomicU64, Ordering};

/// Pages of a region.
pub(crate) const END: u64 = ADDR.0 + (16 << 12);
pub(crate) const RW: u64 = RMAP_VM_READ | RMAP_VM_WRITE;
/// Of `enum rmap_level`.
pub(crate) const PAGE: u32 = 0;

/// The call succeeded, as every program that calls looks.
#[inline]
pub(crate) fn must(status: rmap_status) {
    assert_eq!(status, rmap_status::RMAP_OK);
}

/// 1 + the number of the frame at [`ADDR`], or 0.
type Entry = AtomicU64;

/// The functions on page tables. Nothing here looks at or changes an entry but by the program's own hand.
unsafe extern "C" fn load(table: *mut c_void, addr: u64, pte: *mut rmap_pte) {
    // SAFETY: (1) `table` is what `Context::mm` gave; (2) `pte` is an output.
    unsafe {
        let word = (*table.cast::<Entry>()).load(Ordering::Relaxed);
        let there = word != 0 && addr == ADDR.0;
        let kind = if there { rmap_pte_kind::RMAP_PTE_PRESENT } else { rmap_pte_kind::RMAP_PTE_NONE };
        pte.write(rmap_pte { kind: kind as u32, flags: 0, pfn: if there { word - 1 } else { 0 }, value: 0 });
    }
}
unsafe extern "C" fn lock(_: *mut c_void, _: u64, _: bool, cookie: *mut *mut c_void) -> bool {
    // SAFETY: `cookie` is an output.
    unsafe { cookie.write(null_mut()) };
    true
}
unsafe extern "C" fn unlock(_: *mut c_void, _: *mut c_void) {}
unsafe extern "C" fn set(_: *mut c_void, _: u64, _: *const rmap_pte) {
    unreachable!("nothing that is timed changes an entry");
}
unsafe extern "C" fn clear(_: *mut c_void, _: u64, _: *mut rmap_pte) {
    unreachable!("nothing that is timed changes an entry");
}

/// A context. It lives as long as the program.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) ctx: *mut rmap_ctx,
}

/// A region and its address space.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    pub(crate) mm: *mut rmap_mm,
    pub(crate) vma: *mut rmap_vma,
    entry: &'static Entry,
}

impl Context {
    /// A context with `pages` frames.
    pub(crate) fn new(pages: u64) -> Self {
        let mut ctx = null_mut();
        // SAFETY: outputs are valid; the rest as documented.
        unsafe {
            let mut config = core::mem::zeroed::<rmap_config>();
            must(rmap_config_init(&raw mut config, size_of::<rmap_config>()));
            must(rmap_new(&raw const config, &raw mut ctx));
            must(rmap_pages_add(ctx, 0, pages, null_mut()));
        }
        Self { ctx }
    }

    /// An empty address space.
    pub(crate) fn mm(self) -> (*mut rmap_mm, &'static Entry) {
        let entry: &'static Entry = Box::leak(Box::default());
        let ops = rmap_pte_ops {
            size: size_of::<rmap_pte_ops>(),
            load: Some(load),
            lock: Some(lock),
            unlock: Some(unlock),
            set: Some(set),
            clear_flush: Some(clear),
            // SAFETY: what is left are optional functions, and none is a null pointer.
            ..unsafe { core::mem::zeroed() }
        };
        let mut mm = null_mut();
        // SAFETY: the table lives as long as the program, and the functions keep their contract.
        must(unsafe {
            rmap_mm_new(self.ctx, &raw const ops, ptr::from_ref(entry).cast_mut().cast(), null_mut(), &raw mut mm)
        });
        (mm, entry)
    }

    /// An address space with a region at [`ADDR`] that was written.
    pub(crate) fn process(self) -> Region {
        let (mm, entry) = self.mm();
        let mut vma = null_mut();
        // SAFETY: living objects; the lock is held.
        unsafe {
            must(rmap_mm_write_lock(mm));
            must(rmap_vma_new(mm, ADDR.0, END, RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), &raw mut vma));
            must(rmap_anon_vma_prepare(vma));
            must(rmap_mm_write_unlock(mm));
        }
        Region { mm, vma, entry }
    }

    /// The copy of a region in a new address space.
    pub(crate) fn fork(self, parent: Region) -> Region {
        let (mm, entry) = self.mm();
        let mut vma = null_mut();
        in_fork(mm, parent.mm, || {
            // SAFETY: living objects; both locks are held.
            must(unsafe { rmap_vma_fork(mm, parent.mm, parent.vma, &raw mut vma) });
        });
        Region { mm, vma, entry }
    }

    /// A page that `region` was the first to map.
    pub(crate) fn page_of(self, pfn: u64, region: Region) -> *mut rmap_page {
        region.entry.store(1 + pfn, Ordering::Relaxed);
        let page = self.page(pfn);
        // SAFETY: a living VMA, and a frame that nobody has.
        unsafe {
            must(rmap_page_claim(page));
            must(rmap_page_add_new_anon(page, region.vma, ADDR.0, PAGE));
        }
        page
    }

    /// The descriptor of a frame.
    pub(crate) fn page(self, pfn: u64) -> *mut rmap_page {
        // SAFETY: a living context.
        unsafe { rmap::page::rmap_page(self.ctx, pfn) }
    }

    /// Maps the page in a child too.
    pub(crate) fn share(self, pfn: u64, child: Region) {
        child.entry.store(1 + pfn, Ordering::Relaxed);
        // SAFETY: a living VMA and page; the mapping has a reference.
        unsafe {
            must(rmap_page_get(self.page(pfn)));
            must(rmap_page_dup(self.page(pfn), child.vma, ADDR.0, PAGE));
        }
    }
}

/// Does what may be done between the beginning of a fork and its end.
pub(crate) fn in_fork(child: *mut rmap_mm, parent: *mut rmap_mm, work: impl FnOnce()) {
    // SAFETY: living address spaces, the parent's lock first.
    unsafe {
        must(rmap_mm_write_lock(parent));
        must(rmap_mm_write_lock_nested(child));
        must(rmap_mm_fork_begin(child, parent));
        work();
        must(rmap_mm_fork_end(child, parent));
        must(rmap_mm_write_unlock(child));
        must(rmap_mm_write_unlock(parent));
    }
}
