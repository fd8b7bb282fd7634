//! Handles: what a C program holds of librmap's objects, and who owns what.
//!
//! | handle | names | owned by | given back by |
//! |---|---|---|---|
//! | `rmap_ctx` | a `Context` | the program | `rmap_free` |
//! | `rmap_mm`, `rmap_file` | a `Slot` with a reference to the object | the program | `rmap_mm_free`, `rmap_file_free` |
//! | `rmap_vma` | a VMA | its address space | `rmap_vma_free`, or a merge |
//! | `rmap_page` | a page descriptor | the context | `rmap_free` |
//! | `rmap_anon_vma` | an `anon_vma` | whoever holds a reference | `rmap_anon_vma_put` |
//!
//! A handle is a plain pointer, and checks cost a few instructions: NULL, alignment, and for pages the owner's tag. In
//! a **checked** build (feature `checked`, or debug assertions) the upper 16 bits of the handles of address spaces,
//! files and VMAs carry the generation of their slot. Slots are type-stable, so a stale handle can be looked at as long
//! as its context lives, and is found stale until the generation has come round, 32,768 owners later.

use crate::context::Context;
use crate::pte_ops::Table;
use crate::status::Outcome;
use crate::status::rmap_status::{RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_NULL, RMAP_ERR_STALE};
use core::ffi::c_void;
use core::ptr::NonNull;
use rmap_core::base::alloc::Heap;
use rmap_core::base::href::Href;
use rmap_core::base::slab::{Slab, SlabItem, SlabLink};
use rmap_core::base::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
// Renamed, since cbindgen looks at the last segment of a path only.
use rmap_core::engine::anon_vma::AnonVma as CoreAnonVma;
use rmap_core::engine::any::AnyEngine;
use rmap_core::mm::{File as CoreFile, Mm as CoreMm, System, Vma as CoreVma};
use rmap_core::page::Page;
use rmap_core::rmap::Rmap as CoreRmap;

/// A context: one set of page frames and the address spaces over them. Contexts share nothing.
pub struct rmap_ctx {
    _opaque: [u8; 0],
}
/// An address space (the kernel's `mm_struct`).
pub struct rmap_mm {
    _opaque: [u8; 0],
}
/// A region of an address space (the kernel's `vm_area_struct`).
pub struct rmap_vma {
    _opaque: [u8; 0],
}
/// The descriptor of a page frame (the kernel's `struct page`).
pub struct rmap_page {
    _opaque: [u8; 0],
}
/// A file as memory management sees it (the kernel's `address_space`).
pub struct rmap_file {
    _opaque: [u8; 0],
}
/// What anonymous pages point to (the kernel's `anon_vma`).
pub struct rmap_anon_vma {
    _opaque: [u8; 0],
}

/// The memory manager behind this interface, when the embedder has its own page tables.
pub(crate) struct Component;

impl System for Component {
    type Engine = AnyEngine<Self>;
    type Table = Table;
    type MmData = Owner<Mm>;
    type VmaData = Private;
    type FileData = Owner<File>;
}

pub(crate) type Mm = CoreMm<Component>;
pub(crate) type Vma = CoreVma<Component>;
pub(crate) type File = CoreFile<Component>;
pub(crate) type AnonVma = CoreAnonVma<Component>;
pub(crate) type Rmap = CoreRmap<Component>;

/// Whether handles carry generations.
pub(crate) const CHECKED: bool = cfg!(any(feature = "checked", debug_assertions));

/// The bits of a handle that are an address. Programs' addresses are below them on all 64-bit systems of today.
const ADDRESS: usize = (1 << 48) - 1;

const _: () = assert!(size_of::<usize>() == 8, "generations live in the upper 16 bits of 64");

/// A pointer of the program's that librmap keeps and gives back. Set and read without a lock: the program's own rules
/// say what that means.
#[derive(Debug, Default)]
pub(crate) struct Private(AtomicPtr<c_void>);

impl Private {
    pub(crate) fn new(pointer: *mut c_void) -> Self {
        Self(AtomicPtr::new(pointer))
    }
    #[inline]
    pub(crate) fn get(&self) -> *mut c_void {
        self.0.load(Ordering::Acquire)
    }
    /// Release; pairs with the Acquire in `get`: whoever finds a pointer finds what it points to.
    pub(crate) fn set(&self, pointer: *mut c_void) {
        self.0.store(pointer, Ordering::Release);
    }
}

impl Clone for Private {
    fn clone(&self) -> Self {
        Self::new(self.get())
    }
}

impl PartialEq for Private {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// What an address space or a file knows of the boundary.
pub(crate) struct Owner<T: 'static> {
    pub(crate) ctx: NonNull<Context>,
    /// Where its handle points.
    pub(crate) slot: NonNull<Slot<T>>,
    pub(crate) private: Private,
}

// SAFETY: context and slot are Sync and outlive their objects (`rmap_free` refuses while any is left).
unsafe impl<T: Send + Sync> Send for Owner<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync> Sync for Owner<T> {}

impl<T> Owner<T> {
    #[inline]
    pub(crate) fn ctx(&self) -> &Context {
        // SAFETY: a context outlives its objects (`rmap_free` refuses while any is left).
        unsafe { self.ctx.as_ref() }
    }
    #[inline]
    pub(crate) fn slot(&self) -> &Slot<T> {
        // SAFETY: slots are type-stable as long as the context lives.
        unsafe { self.slot.as_ref() }
    }
}

/// What a handle of an address space or a file points to: type-stable, while the object comes and goes.
#[repr(align(16))]
pub(crate) struct Slot<T> {
    link: SlabLink,
    /// Odd while somebody's. Release when changed; pairs with the Acquire in `generation`.
    generation: AtomicU32,
    /// The object, a reference to it the slot's; null: nobody's. Release when set; pairs with the Acquire in `get`.
    object: AtomicPtr<T>,
}

impl<T: Send + Sync> SlabItem for Slot<T> {
    fn vacant(link: SlabLink) -> Self {
        Self { link, generation: AtomicU32::new(0), object: AtomicPtr::new(core::ptr::null_mut()) }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

impl<T: Send + Sync> Slot<T> {
    /// The object; `RMAP_ERR_STALE` when the slot is nobody's.
    #[inline]
    pub(crate) fn get(&self) -> Outcome<&T> {
        // SAFETY: the slot holds a reference to its object until `vacate`, which is the program's last call with the
        // handle.
        unsafe { self.object.load(Ordering::Acquire).as_ref() }.ok_or(RMAP_ERR_STALE)
    }

    /// Gives the slot an object, to which it keeps the reference.
    pub(crate) fn fill(&self, object: Href<T>) {
        self.object.store(Href::into_raw(object).as_ptr(), Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// One more reference to the object.
    pub(crate) fn reference(&self) -> Outcome<Href<T>> {
        let object = NonNull::from(self.get()?);
        // SAFETY: from `Href::into_raw` in `fill`, and the slot's reference is alive.
        Ok(unsafe { Href::from_borrowed(object) })
    }

    /// Takes the object out, and gives the slot back. `None`: another thread was faster.
    pub(crate) fn vacate(&self, slots: &Slab<Self>) -> Option<Href<T>> {
        let object = NonNull::new(self.object.swap(core::ptr::null_mut(), Ordering::AcqRel))?;
        self.generation.fetch_add(1, Ordering::Release);
        // SAFETY: (1) from `Href::into_raw` in `fill`, taken back once, by the swap; (2) the slot came from `slots` in
        // `Slot::take`.
        unsafe {
            slots.give(NonNull::from(self));
            Some(Href::from_raw(object))
        }
    }

    /// A vacant slot.
    pub(crate) fn take(slots: &Slab<Self>) -> Outcome<NonNull<Self>> {
        Ok(slots.take()?)
    }
}

/// What handles with a generation point to.
pub(crate) trait Named {
    type Handle;
    fn generation(&self) -> u32;
}

impl Named for Vma {
    type Handle = rmap_vma;
    #[inline]
    fn generation(&self) -> u32 {
        Vma::generation(self)
    }
}

impl Named for Slot<Mm> {
    type Handle = rmap_mm;
    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Named for Slot<File> {
    type Handle = rmap_file;
    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
}

/// The handle of an object.
#[inline]
pub(crate) fn seal<T: Named>(object: &T) -> *mut T::Handle {
    let pointer = core::ptr::from_ref(object).cast_mut().cast::<T::Handle>();
    if CHECKED { pointer.map_addr(|at| at | usize::from(object.generation() as u16) << 48) } else { pointer }
}

/// The object of a handle.
///
/// # Safety
/// The handle is NULL or came from [`seal`], and its context lives; in a build that is not checked, so does the object.
#[inline]
pub(crate) unsafe fn open<'a, T: Named>(handle: *const T::Handle) -> Outcome<&'a T> {
    if handle.is_null() {
        return Err(RMAP_ERR_NULL);
    }
    let pointer = if CHECKED { handle.map_addr(|at| at & ADDRESS) } else { handle }.cast::<T>();
    if !pointer.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the caller's contract; what generations are of is type-stable.
    let object = unsafe { &*pointer };
    if CHECKED && usize::from(object.generation() as u16) != handle.addr() >> 48 {
        return Err(RMAP_ERR_STALE);
    }
    Ok(object)
}

/// The context of a handle.
///
/// # Safety
/// The handle is NULL or names a living context.
#[inline]
pub(crate) unsafe fn open_ctx<'a>(handle: *const rmap_ctx) -> Outcome<&'a Context> {
    let pointer = handle.cast::<Context>();
    if !pointer.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }.ok_or(RMAP_ERR_NULL)
}

/// The address space of a handle.
///
/// # Safety
/// As for [`open`].
#[inline]
pub(crate) unsafe fn open_mm<'a>(handle: *const rmap_mm) -> Outcome<&'a Mm> {
    // SAFETY: the caller's contract.
    unsafe { open::<Slot<Mm>>(handle) }?.get()
}

/// The file of a handle.
///
/// # Safety
/// As for [`open`].
#[inline]
pub(crate) unsafe fn open_file<'a>(handle: *const rmap_file) -> Outcome<&'a File> {
    // SAFETY: the caller's contract.
    unsafe { open::<Slot<File>>(handle) }?.get()
}

/// The VMA of a handle.
///
/// # Safety
/// As for [`open`].
#[inline]
pub(crate) unsafe fn open_vma<'a>(handle: *const rmap_vma) -> Outcome<&'a Vma> {
    // SAFETY: the caller's contract.
    unsafe { open::<Vma>(handle) }
}

/// The VMA of a handle, which is linked into its address space.
///
/// # Safety
/// As for [`open`].
#[inline]
pub(crate) unsafe fn open_linked<'a>(handle: *const rmap_vma) -> Outcome<&'a Vma> {
    // SAFETY: the caller's contract.
    let vma = unsafe { open_vma(handle) }?;
    // Freed, and waiting for its grace period.
    if CHECKED && !vma.is_linked() { Err(RMAP_ERR_STALE) } else { Ok(vma) }
}

/// The descriptor of a handle.
///
/// # Safety
/// The handle is NULL or a descriptor's, and its context lives.
#[inline]
pub(crate) unsafe fn open_page<'a>(handle: *const rmap_page) -> Outcome<&'a Page> {
    let pointer = handle.cast::<Page>();
    if !pointer.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }.ok_or(RMAP_ERR_NULL)
}

/// The descriptor of a handle, which is of this context.
///
/// # Safety
/// As for [`open_page`].
#[inline]
pub(crate) unsafe fn open_page_of<'a>(ctx: &Context, handle: *const rmap_page) -> Outcome<&'a Page> {
    // SAFETY: the caller's contract.
    let page = unsafe { open_page(handle) }?;
    if page.owner() == ctx.tag { Ok(page) } else { Err(RMAP_ERR_FOREIGN) }
}

/// The handle of a descriptor.
#[inline]
pub(crate) fn seal_page(page: &Page) -> *mut rmap_page {
    core::ptr::from_ref(page).cast_mut().cast()
}

/// The context that a VMA belongs to.
#[inline]
pub(crate) fn ctx_of(vma: &Vma) -> &Context {
    vma.mm().data().ctx()
}

/// Writes an output.
///
/// # Safety
/// `out` is NULL or valid for a `T`.
#[inline]
pub(crate) unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: the caller's contract.
        unsafe { out.write(value) }
    }
}

/// An output that must not be NULL.
#[inline]
pub(crate) fn need<T>(out: *const T) -> Outcome {
    if out.is_null() { Err(RMAP_ERR_NULL) } else { Ok(()) }
}

/// Slots over `heap`.
pub(crate) fn slots<T: Send + Sync>(heap: &Heap) -> Slab<Slot<T>> {
    Slab::new(heap)
}
