//! Walks: every VMA that may map a page, and every entry that does.

use crate::context::Context;
use crate::handle::{
    Component, Rmap, Vma, need, open_ctx, open_page_of, put, rmap_ctx, rmap_mm, rmap_page, rmap_vma, seal, seal_page,
};
use crate::held::Inside;
use crate::lookup::{anon_vmas, open_anchor, rmap_anon_vma_lock};
use crate::page::need_locked;
use crate::pte_ops::{encode, rmap_pte};
use crate::status::rmap_status::{RMAP_ERR_AGAIN, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED, RMAP_ERR_NULL, RMAP_OK};
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ops::ControlFlow;
use rmap_core::base::types::VirtAddr;
use rmap_core::engine::Lookup;
use rmap_core::engine::any::AnyAnchor;
use rmap_core::page::Page;
use rmap_core::rmap::walk::{WalkControl, WalkEnd};

/// Walk flag: do not wait for the anon_vma's or the file's lock.
pub const RMAP_WALK_TRY: u32 = 1;

/// How a walk ended.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum rmap_walk_end {
    /// Every candidate was visited.
    RMAP_WALK_COMPLETE = 0,
    /// `rmap_one` or `done` ended it.
    RMAP_WALK_STOPPED = 1,
    /// The page is not mapped, or belongs to nobody: nobody was visited.
    RMAP_WALK_UNMAPPED = 2,
}

/// How a walk goes. Set `size`; only `rmap_one` is needed, the rest may be 0.
///
/// Context of every function: under the anon_vma root or i_mmap_rwsem for reading, with the VMA alive and in place
/// (G2). It may ask the getters of the VMA and the page, take page-table locks of its own tables, and count mappings;
/// it may not walk, prepare, change a layout, take an mmap_lock or a page lock (but by try), throw, or jump out.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_walk_control {
    /// The size of this struct, as the program knows it.
    pub size: usize,
    /// Bits of `RMAP_WALK_*`.
    pub flags: u32,
    /// Called for each candidate: a VMA, and the address at which it may map the page (of a compound page, its first
    /// page that lies in the VMA). Returns whether to go on.
    pub rmap_one:
        Option<unsafe extern "C" fn(page: *mut rmap_page, vma: *mut rmap_vma, addr: u64, arg: *mut c_void) -> bool>,
    /// Asked after each candidate whether the walk has done what it was for.
    pub done: Option<unsafe extern "C" fn(page: *mut rmap_page, arg: *mut c_void) -> bool>,
    /// Asked before each candidate whether to pass over the VMA.
    pub invalid_vma: Option<unsafe extern "C" fn(vma: *mut rmap_vma, arg: *mut c_void) -> bool>,
    /// Takes the lock of an anonymous page's anon_vma instead of the walk, into `lock`: RMAP_OK, RMAP_ERR_AGAIN for a
    /// lock that is not free, anything else for a page that is not mapped. The walk unlocks it.
    pub anon_lock: Option<
        unsafe extern "C" fn(page: *mut rmap_page, lock: *mut rmap_anon_vma_lock, arg: *mut c_void) -> rmap_status,
    >,
    /// Called between candidates: a point to give way. It may not wait for a walk or a change of layout.
    pub resched: Option<unsafe extern "C" fn(arg: *mut c_void)>,
    /// Passed to each.
    pub arg: *mut c_void,
}

/// One entry that maps a page.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_mapping {
    /// The address space.
    pub mm: *mut rmap_mm,
    /// The VMA.
    pub vma: *mut rmap_vma,
    /// The address of the entry.
    pub addr: u64,
    /// The entry.
    pub pte: rmap_pte,
}

/// The program's side of a walk: a control that was checked. It is read once, where its members are used, and never
/// copied whole.
#[derive(Clone, Copy)]
struct Visitor(*const rmap_walk_control);

impl Visitor {
    /// # Safety
    /// `control` is NULL or valid for its size as long as the result is used, and its functions keep their contract.
    #[inline]
    unsafe fn new(control: *const rmap_walk_control) -> Outcome<Self> {
        if control.is_null() {
            return Err(RMAP_ERR_NULL);
        }
        if !control.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: the caller's contract: `size` is there, and then as much as it says.
        unsafe {
            if (*control).size < size_of::<rmap_walk_control>() {
                return Err(RMAP_ERR_INVAL);
            }
            if (*control).flags & !RMAP_WALK_TRY != 0 {
                return Err(RMAP_ERR_NOT_SUPPORTED);
            }
            if (*control).rmap_one.is_none() {
                return Err(RMAP_ERR_NULL);
            }
        }
        Ok(Self(control))
    }

    /// Walks, with the anon_vma locked or not, and the core's view of the control.
    fn walk(
        &self,
        context: &Context,
        page: &Page,
        locked: Option<&AnyAnchor<'_, Component>>,
    ) -> Outcome<rmap_walk_end> {
        // SAFETY: valid (`new`).
        let rmap_walk_control { flags, rmap_one, done, invalid_vma, anon_lock, resched, arg, .. } =
            unsafe { self.0.read() };
        let one = rmap_one.ok_or(RMAP_ERR_NULL)?;
        let rmap_one = |vma: &Vma, addr: VirtAddr| {
            // SAFETY: the program's function, called as its contract says.
            let more = unsafe { one(seal_page(page.head()), seal(vma), addr.0, arg) };
            if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let is_done = done.map(|done| {
            move |page: &Page| {
                // SAFETY: the program's function, called as its contract says.
                unsafe { done(seal_page(page), arg) }
            }
        });
        let is_invalid = invalid_vma.map(|invalid| {
            move |vma: &Vma| {
                // SAFETY: as above.
                unsafe { invalid(seal(vma), arg) }
            }
        });
        let give_way = resched.map(|resched| {
            move || {
                // SAFETY: as above.
                unsafe { resched(arg) }
            }
        });
        if anon_lock.is_some() {
            anon_vmas(context)?;
        }
        let take_lock = anon_lock.map(|lock| locker(lock, arg));
        let mut control = WalkControl::new(rmap_one);
        control.done = is_done.as_ref().map(|f| f as _);
        control.invalid_vma = is_invalid.as_ref().map(|f| f as _);
        control.resched = give_way.as_ref().map(|f| f as _);
        control.anon_lock = take_lock.as_ref().map(|f| f as _);
        control.try_lock = flags & RMAP_WALK_TRY != 0;
        let inside = Inside::new();
        let end = match locked {
            Some(anchor) => context.rmap.rmap_walk_locked(page, anchor, &mut control),
            None => context.rmap.rmap_walk(page, &mut control),
        };
        drop(inside);
        match end {
            WalkEnd::Complete => Ok(rmap_walk_end::RMAP_WALK_COMPLETE),
            WalkEnd::Stopped => Ok(rmap_walk_end::RMAP_WALK_STOPPED),
            WalkEnd::Unmapped => Ok(rmap_walk_end::RMAP_WALK_UNMAPPED),
            WalkEnd::Contended => Err(RMAP_ERR_AGAIN),
        }
    }
}

type AnonLock = unsafe extern "C" fn(*mut rmap_page, *mut rmap_anon_vma_lock, *mut c_void) -> rmap_status;

/// The core's view of `anon_lock`.
fn locker(lock: AnonLock, arg: *mut c_void) -> impl for<'a> Fn(&'a Rmap, &Page) -> Lookup<AnyAnchor<'a, Component>> {
    move |_, page| lock_by(lock, page, arg)
}

/// Asks the program for the lock of a page's anon_vma.
fn lock_by<'a>(lock: AnonLock, page: &Page, arg: *mut c_void) -> Lookup<AnyAnchor<'a, Component>> {
    let mut locked = rmap_anon_vma_lock { anon_vma: core::ptr::null_mut(), root: core::ptr::null_mut() };
    // SAFETY: the program's function, called as its contract says; `locked` is valid for the call.
    let status = unsafe { lock(seal_page(page), &raw mut locked, arg) };
    if status == RMAP_ERR_AGAIN {
        return Lookup::Contended;
    }
    if status != RMAP_OK {
        return Lookup::Unmapped;
    }
    // SAFETY: filled by one of this interface's locking functions, on this thread (contract of `anon_lock`).
    match unsafe { open_anchor(&locked) } {
        Ok(anchor) => {
            crate::held::released();
            Lookup::Found(AnyAnchor::AnonVma(anchor))
        }
        Err(_) => Lookup::Unmapped,
    }
}

/// Visits every VMA that may map a page, parents before children.
///
/// Parameters: ctx; page, of a compound page any; control, how; end, or NULL, receives how it ended.
/// Returns: RMAP_OK, also when it was stopped or there was nobody to visit; RMAP_ERR_AGAIN with RMAP_WALK_TRY, when it
/// would have to wait: nobody was visited; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_INVAL when the control's
/// size is too small; RMAP_ERR_NOT_SUPPORTED for an unknown flag; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: VMAs shown are good until the function returns to the walk.
/// Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_walk(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    control: *const rmap_walk_control,
    end: *mut rmap_walk_end,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context, a descriptor, and a control (Parameters).
        let (context, page, visitor) = unsafe { open_walk(ctx, page, control) }?;
        let ended = visitor.walk(context, page, None)?;
        // SAFETY: `end` is NULL or valid (Parameters).
        unsafe { put(end, ended) };
        Ok(())
    })
}

/// # Safety
/// Handles are NULL or living ones, `control` is as for `Visitor::new`.
#[inline]
unsafe fn open_walk<'a>(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    control: *const rmap_walk_control,
) -> Outcome<(&'a Context, &'a Page, Visitor)> {
    // SAFETY: the caller's contract, for all three.
    unsafe {
        let context = open_ctx(ctx)?;
        let page = open_page_of(context, page)?;
        let visitor = Visitor::new(control)?;
        need_locked(page)?;
        Ok((context, page, visitor))
    }
}

/// As rmap_walk, for a caller that has locked the anon_vma of an anonymous page.
///
/// Parameters: ctx; page; lock, filled by a locking function on this thread; control, whose anon_lock and flags are not
/// used; end, or NULL, receives how it ended.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when the page or lock is not locked; else as rmap_walk.
/// Ownership: the lock stays the caller's.
/// Context: the page lock and the lock held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_walk_locked(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    lock: *const rmap_anon_vma_lock,
    control: *const rmap_walk_control,
    end: *mut rmap_walk_end,
) -> rmap_status {
    boundary(|| {
        need(lock)?;
        // SAFETY: a living context, a descriptor, and a control (Parameters).
        let (context, page, visitor) = unsafe { open_walk(ctx, page, control) }?;
        // SAFETY: filled by a locking function on this thread (Parameters). The lock stays the program's: it is not
        // dropped.
        let anchor = ManuallyDrop::new(AnyAnchor::AnonVma(unsafe { open_anchor(&*lock) }?));
        let ended = visitor.walk(context, page, Some(&anchor))?;
        // SAFETY: `end` is NULL or valid (Parameters).
        unsafe { put(end, ended) };
        Ok(())
    })
}

/// Lists the entries that map a page.
///
/// Parameters: ctx; page, of a compound page any; out, room for cap entries, or NULL when cap is 0; cap; n, receives
/// how many there are, which may be more than cap.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: address spaces and VMAs in the list are not new references: they are good while the program knows that
/// they are there, as when it holds their mmap_lock.
/// Context: as for rmap_walk. Takes page-table locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_mappings(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    out: *mut rmap_mapping,
    cap: usize,
    n: *mut usize,
) -> rmap_status {
    boundary(|| {
        need(n)?;
        if cap != 0 {
            need(out)?;
        }
        // SAFETY: a living context, and a descriptor (Parameters).
        let (context, page) = unsafe {
            let context = open_ctx(ctx)?;
            (context, open_page_of(context, page)?)
        };
        need_locked(page)?;
        let mut count = 0;
        let inside = Inside::new();
        context.rmap.for_each_mapping(page, |vma, addr, pte| {
            if count < cap {
                let mapping =
                    rmap_mapping { mm: seal(vma.mm().data().slot()), vma: seal(vma), addr: addr.0, pte: encode(pte) };
                // SAFETY: `out` is valid for `cap` entries (Parameters).
                unsafe { out.add(count).write(mapping) };
            }
            count += 1;
            ControlFlow::Continue(())
        });
        drop(inside);
        // SAFETY: `n` is not NULL, and valid (Parameters).
        unsafe { put(n, count) };
        Ok(())
    })
}
