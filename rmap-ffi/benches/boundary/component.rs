//! Operations of the component.

use super::through_c::{Context, END, PAGE, RW, in_fork, must};
use crate::Pair;
use crate::family::{ADDR, Space, bounds_at};
use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::null_mut;
use rmap::anon::{rmap_anon_vma_prepare, rmap_page_dup, rmap_page_remove};
use rmap::handle::{rmap_page, rmap_vma};
use rmap::lookup::{
    rmap_anon_vma_lock, rmap_anon_vma_put, rmap_anon_vma_unlock_read, rmap_page_get_anon_vma,
    rmap_page_lock_anon_vma_read,
};
use rmap::mm::{rmap_mm_read_lock, rmap_mm_read_unlock, rmap_mm_write_lock, rmap_mm_write_unlock};
use rmap::page::{rmap_page_lock, rmap_page_mapcount, rmap_page_unlock};
use rmap::vma::{RMAP_PGOFF_VPN, rmap_vma_fork, rmap_vma_free, rmap_vma_new};
use rmap::vma_look::rmap_vma_find;
use rmap::walk::{rmap_walk, rmap_walk_control};
use rmap_core::base::types::VmFlags;
use rmap_core::engine::{Engine, Lookup, Wait};
use rmap_core::mm::address_space::MmLocked;
use rmap_core::rmap::account::Level;

/// Operations in one change of a layout: freed VMAs are taken back when it ends, as in the C suite.
const BATCH: u64 = 256;

/// A C function by a pointer that the compiler knows nothing of.
macro_rules! c {
    ($name:ident($($argument:tt),*)) => { black_box($name as unsafe extern "C" fn($($argument),*) -> _) };
}

/// Calls `work` with the size of each batch.
fn batches(times: u64, mut work: impl FnMut(u64)) {
    let mut left = times;
    while left != 0 {
        let batch = left.min(BATCH);
        work(batch);
        left -= batch;
    }
}

pub(crate) fn pairs() -> Vec<Pair> {
    let mut all = vec![mapcount(), page_lock(), mmap_lock(), find(), look_up(), get_and_put(), map_and_unmap()];
    all.extend([1, 10, 1_000].map(walk_n));
    all.extend([own_page(), prepare_unlink()]);
    all.extend([1, 16].map(fork_unlink));
    all
}

fn mapcount() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (page, theirs) = (space.page_of(0, space.process()), context.page_of(0, context.process()));
    let theirs = theirs.cast_const();
    let count = black_box(rmap_page_mapcount as unsafe extern "C" fn(_) -> u32);
    Pair::new(
        "page_mapcount",
        1,
        move |times| (0..times).for_each(|_| assert_eq!(black_box(page).mapcount(), 1)),
        // SAFETY: a living page.
        move |times| (0..times).for_each(|_| assert_eq!(unsafe { count(theirs) }, 1)),
    )
}

fn page_lock() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (page, theirs) = (space.page_of(0, space.process()), context.page_of(0, context.process()));
    let (lock, unlock) = (c!(rmap_page_lock(_)), c!(rmap_page_unlock(_)));
    Pair::new(
        "page_lock",
        2,
        move |times| (0..times).for_each(|_| drop(black_box(page).lock())),
        move |times| {
            for _ in 0..times {
                // SAFETY: a living page; locked here.
                unsafe {
                    must(lock(theirs));
                    must(unlock(theirs));
                }
            }
        },
    )
}

fn mmap_lock() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (mm, (theirs, _)) = (space.mm(), context.mm());
    let (lock, unlock) = (c!(rmap_mm_read_lock(_)), c!(rmap_mm_read_unlock(_)));
    Pair::new(
        "mmap_lock",
        2,
        move |times| (0..times).for_each(|_| drop(black_box(mm).read())),
        move |times| {
            for _ in 0..times {
                // SAFETY: a living address space; locked here.
                unsafe {
                    must(lock(theirs));
                    must(unlock(theirs));
                }
            }
        },
    )
}

fn find() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (vma, theirs) = (space.process(), context.process());
    let find = c!(rmap_vma_find(_, _, _));
    Pair::new(
        "vma_find",
        1,
        move |times| {
            let held = vma.mm().read();
            (0..times).for_each(|_| assert!(black_box(held.find(black_box(ADDR))).is_some()));
        },
        move |times| {
            let mut found = null_mut();
            // SAFETY: a living address space; its lock is held.
            unsafe {
                must(rmap_mm_read_lock(theirs.mm));
                (0..times).for_each(|_| must(find(theirs.mm, black_box(ADDR).0, &raw mut found)));
                must(rmap_mm_read_unlock(theirs.mm));
            }
        },
    )
}

fn look_up() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (page, theirs) = (space.page_of(0, space.process()), context.page_of(0, context.process()));
    let (lock, unlock) = (c!(rmap_page_lock_anon_vma_read(_, _, _)), c!(rmap_anon_vma_unlock_read(_)));
    Pair::new(
        "look_up",
        2,
        move |times| {
            for _ in 0..times {
                let Lookup::Found(anchor) = space.engine().lock_anchor(black_box(page), Wait::Block) else {
                    panic!("a mapped page has an anchor")
                };
                drop(black_box(anchor));
            }
        },
        move |times| {
            let mut held = rmap_anon_vma_lock { anon_vma: null_mut(), root: null_mut() };
            for _ in 0..times {
                // SAFETY: a living page; locked here.
                unsafe {
                    must(lock(context.ctx, theirs, &raw mut held));
                    must(unlock(&raw mut held));
                }
            }
        },
    )
}

fn get_and_put() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (page, theirs) = (space.page_of(0, space.process()), context.page_of(0, context.process()));
    let (get, put) = (c!(rmap_page_get_anon_vma(_, _, _)), c!(rmap_anon_vma_put(_, _)));
    Pair::new(
        "get_and_put",
        2,
        move |times| (0..times).for_each(|_| drop(black_box(space.engine().get_anon_vma(black_box(page))))),
        move |times| {
            let mut held = null_mut();
            for _ in 0..times {
                // SAFETY: a living page; the reference is this thread's.
                unsafe {
                    must(get(context.ctx, theirs, &raw mut held));
                    must(put(context.ctx, held));
                }
            }
        },
    )
}

/// One mapping more of a page that is mapped, and one less.
fn map_and_unmap() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (parent, parents) = (space.process(), context.process());
    let (page, theirs) = (space.page_of(0, parent), context.page_of(0, parents));
    let (child, childs) = (space.fork(parent), context.fork(parents));
    let (dup, remove) = (c!(rmap_page_dup(_, _, _, _)), c!(rmap_page_remove(_, _, _, _, _)));
    Pair::new(
        "page_dup_remove",
        2,
        move |times| {
            for _ in 0..times {
                space.rmap.page_dup_rmap(black_box(page), child, ADDR, Level::Single).expect("not pinned");
                space.rmap.page_remove_rmap(black_box(page), child, ADDR, Level::Single);
            }
        },
        move |times| {
            for _ in 0..times {
                // SAFETY: a living page and VMA.
                unsafe {
                    must(dup(theirs, childs.vma, ADDR.0, PAGE));
                    must(remove(theirs, childs.vma, ADDR.0, PAGE, null_mut()));
                }
            }
        },
    )
}

unsafe extern "C" fn count(_: *mut rmap_page, _: *mut rmap_vma, _: u64, visited: *mut c_void) -> bool {
    // SAFETY: what the control's `arg` says.
    unsafe { *visited.cast::<u64>() += 1 };
    true
}

/// Walks of a page that `visited` are to visit. Its lock is held all the time.
fn walks(name: String, visited: u64, ours: (&'static Space, u64), theirs: (Context, *mut rmap_page)) -> Pair {
    let walk = c!(rmap_walk(_, _, _, _));
    let (space, pfn) = ours;
    let page = space.rmap.pages().page(rmap_core::base::types::Pfn(pfn)).expect("a frame of the context");
    Pair::new(
        name,
        1 + visited,
        move |times| {
            let _locked = page.lock();
            (0..times).for_each(|_| assert_eq!(space.walk(black_box(page)), visited));
        },
        move |times| {
            // SAFETY: a living page.
            must(unsafe { rmap_page_lock(theirs.1) });
            for _ in 0..times {
                let mut seen = 0_u64;
                let control = rmap_walk_control {
                    size: size_of::<rmap_walk_control>(),
                    flags: 0,
                    rmap_one: Some(count),
                    done: None,
                    invalid_vma: None,
                    anon_lock: None,
                    resched: None,
                    arg: (&raw mut seen).cast(),
                };
                // SAFETY: a living page whose lock is held.
                must(unsafe { walk(theirs.0.ctx, theirs.1, &raw const control, null_mut()) });
                assert_eq!(seen, visited);
            }
            // SAFETY: locked above.
            must(unsafe { rmap_page_unlock(theirs.1) });
        },
    )
}

fn walk_n(visited: u64) -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (parent, parents) = (space.process(), context.process());
    let (page, theirs) = (space.page_of(0, parent), context.page_of(0, parents));
    for _ in 1..visited {
        space.share(page, space.fork(parent));
        context.share(0, context.fork(parents));
    }
    walks(format!("walk_n/{visited}"), visited, (space, 0), (context, theirs))
}

/// The page of one child among 1,000.
fn own_page() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (parent, parents) = (space.process(), context.process());
    let family: Vec<_> = (0..1_000).map(|_| (space.fork(parent), context.fork(parents))).collect();
    let (child, childs) = family[500];
    space.page_of(0, child);
    let theirs = context.page_of(0, childs);
    walks("fan_out/one_child".into(), 1, (space, 0), (context, theirs))
}

/// A VMA is made, prepared and freed with its anon_vma.
fn prepare_unlink() -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let (mm, (theirs, _)) = (space.mm(), context.mm());
    let (new, prepare) = (c!(rmap_vma_new(_, _, _, _, _, _, _, _)), c!(rmap_anon_vma_prepare(_)));
    let free = c!(rmap_vma_free(_, _));
    Pair::new(
        "prepare_unlink",
        3,
        move |times| {
            batches(times, |batch| {
                let held = mm.write();
                for _ in 0..batch {
                    let flags = VmFlags::READ | VmFlags::WRITE;
                    let vma = space.rmap.vma_new(&held, bounds_at(ADDR), flags, None, ()).expect("a free range");
                    space.engine().prepare(vma).expect("memory");
                    space.rmap.vma_free(&held, vma).expect("one of its own");
                }
            });
        },
        move |times| {
            batches(times, |batch| {
                let mut vma = null_mut();
                // SAFETY: a living address space; its lock is held.
                unsafe {
                    must(rmap_mm_write_lock(theirs));
                    for _ in 0..batch {
                        must(new(theirs, ADDR.0, END, RW, null_mut(), RMAP_PGOFF_VPN, null_mut(), &raw mut vma));
                        must(prepare(vma));
                        must(free(theirs, vma));
                    }
                    must(rmap_mm_write_unlock(theirs));
                }
            });
        },
    )
}

/// A VMA is forked, after so many generations, and the copy freed.
fn fork_unlink(depth: usize) -> Pair {
    let (space, context) = (Space::new(1), Context::new(1));
    let parent = space.line(depth);
    let parents = (1..depth).fold(context.process(), |region, _| context.fork(region));
    let (mm, (theirs, _)) = (space.mm(), context.mm());
    let (fork, free) = (c!(rmap_vma_fork(_, _, _, _)), c!(rmap_vma_free(_, _)));
    Pair::new(
        format!("fork_unlink/{depth}"),
        2,
        move |times| {
            batches(times, |batch| {
                let held = parent.mm().write();
                let child = mm.write_nested();
                for _ in 0..batch {
                    let copy = space.rmap.vma_fork(&child, &held, parent).expect("memory");
                    space.rmap.vma_free(&child, copy).expect("one of its own");
                }
            });
        },
        move |times| {
            batches(times, |batch| {
                let mut copy = null_mut();
                in_fork(theirs, parents.mm, || {
                    for _ in 0..batch {
                        // SAFETY: living objects; both locks are held.
                        unsafe {
                            must(fork(theirs, parents.mm, parents.vma, &raw mut copy));
                            must(free(theirs, copy));
                        }
                    }
                });
            });
        },
    )
}
