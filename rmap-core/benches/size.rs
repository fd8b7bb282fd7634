//! Size: what ten million mappings, a chain of 100,000 forks, a line of 1,000 living generations, 100,000 VMAs and a
//! walk of a million mappings cost, an element, at a hundredth, at a tenth and at the whole of that. All on a stack of
//! 128 KiB: nothing recurses in proportion to what it is given.
//!
//! `cargo bench -p rmap-core --bench size -- [--test] [SCENE]`; `--test`: a thousandth, for CI.

mod common;

use common::{Space, cpu_time};
use rmap_core::base::alloc::Heap;
use rmap_core::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use rmap_core::engine::Engine;
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::system::{
    Access, AnonVmaSystem, FileExt, FullScanSystem, ObjrmapSystem, PteChainSystem, SoftSystem,
};
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::mm::address_space::MmLocked;
use rmap_core::mm::{FileRef, MmRef};
use rmap_core::page::Page;
use rmap_core::page::frames::Contents;
use rmap_core::page::pte::PageTable;
use std::ops::ControlFlow;
use std::time::Duration;

/// Bytes of the stack that everything runs on.
const STACK: usize = 128 << 10;
/// Where the first region lies.
const START: u64 = 1 << 30;
/// Processes that share the pages of `mappings`.
const SHARERS: u64 = 10;

/// A scene of `n` elements: what each of its phases took, and how many elements that was.
type Phases = Vec<(&'static str, Duration, u64)>;

/// An engine's name, and the scene on it.
type OnEngine = (&'static str, fn(u64) -> Phases);

struct Scene {
    name: &'static str,
    /// Elements of the whole.
    n: u64,
    engines: &'static [OnEngine],
}

/// A function for each engine.
macro_rules! each {
    ($scene:ident) => {
        &[
            ("anon_vma", $scene::<AnonVmaSystem>),
            ("objrmap", $scene::<ObjrmapSystem>),
            ("pte_chain", $scene::<PteChainSystem>),
            ("full_scan", $scene::<FullScanSystem>),
        ]
    };
}

const SCENES: &[Scene] = &[
    Scene { name: "mappings", n: 10_000_000, engines: each!(mappings) },
    Scene { name: "fork_chain", n: 100_000, engines: each!(fork_chain) },
    Scene { name: "live_chain", n: 1_000, engines: each!(live_chain) },
    Scene { name: "vmas", n: 100_000, engines: each!(vmas) },
    // pte_chain takes a mapping out by looking through the page's chain: of a million, that takes the square.
    Scene {
        name: "file_walk",
        n: 1_000_000,
        engines: &[
            ("anon_vma", file_walk::<AnonVmaSystem>),
            ("objrmap", file_walk::<ObjrmapSystem>),
            ("full_scan", file_walk::<FullScanSystem>),
        ],
    },
    // The other engines have no component of one entry an address space here.
    Scene { name: "anon_walk", n: 1_000_000, engines: &[("anon_vma", anon_walk)] },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let divisor = if args.iter().any(|arg| arg == "--test") { 1_000 } else { 1 };
    let chosen = args.iter().find(|arg| !arg.starts_with("--")).cloned();
    let run = move || {
        println!("ns an element               engine      phase            n/100     n/10        n   n : n/100");
        for scene in SCENES.iter().filter(|scene| chosen.as_ref().is_none_or(|name| name == scene.name)) {
            for (engine, run) in scene.engines {
                report(scene, engine, *run, divisor);
            }
        }
    };
    std::thread::Builder::new().stack_size(STACK).spawn(run).expect("a thread").join().expect("no panic");
}

fn report(scene: &Scene, engine: &str, run: fn(u64) -> Phases, divisor: u64) {
    let n = (scene.n / divisor).max(200);
    let columns = [n / 100, n / 10, n].map(|n| run(n.max(2)));
    for (i, (phase, ..)) in columns[2].iter().enumerate() {
        let [small, medium, whole] = columns.each_ref().map(|phases| {
            let (_, took, elements) = phases[i];
            took.as_nanos() as f64 / elements.max(1) as f64
        });
        let ratio = whole / small.max(0.1);
        let name = format!("{} {n}", scene.name);
        println!("SIZE {name:<22} {engine:<11} {phase:<14} {small:>9.0} {medium:>8.0} {whole:>8.0} {ratio:>11.2}");
    }
}

/// A machine of `frames` frames without contents.
fn machine<S: SoftSystem>(frames: u64) -> Machine<S> {
    let heap = Heap::global().expect("memory");
    let mut config = MachineConfig::new(&heap, frames + 2);
    config.contents = Contents::MetadataOnly;
    config.fault_around = 1;
    Machine::new(config).expect("memory")
}

fn map<S: SoftSystem>(m: &Machine<S>, mm: &MmRef<S>, page: u64, pages: u64, prot: VmFlags, file: Option<&FileRef<S>>) {
    let request = MapRequest {
        addr: Some(at(page)),
        file: file.map(|file| (file.clone(), 0)),
        ..MapRequest::new(pages * PAGE_SIZE, prot, MapFlags::PRIVATE | MapFlags::FIXED)
    };
    m.mmap(mm, &request).expect("room");
}

const RW: VmFlags = VmFlags::READ.union(VmFlags::WRITE);

fn at(page: u64) -> VirtAddr {
    VirtAddr(START + page * PAGE_SIZE)
}

fn page_at<'m, S: SoftSystem>(m: &'m Machine<S>, mm: &MmRef<S>, page: u64) -> &'m Page {
    let pfn = mm.table().load(at(page)).pfn().expect("it was touched");
    m.rmap().pages().page(pfn).expect("one of the machine's")
}

/// Mappings that a walk shows.
fn walk<S: SoftSystem>(m: &Machine<S>, page: &Page) -> u64 {
    let mut found = 0;
    let _locked = page.lock();
    m.rmap().for_each_mapping(page, |_, _, _| {
        found += 1;
        ControlFlow::Continue(())
    });
    found
}

/// `n` mappings: a tenth as many pages, each mapped by ten processes. The root exits first.
fn mappings<S: SoftSystem>(n: u64) -> Phases {
    let pages = n.div_ceil(SHARERS);
    let m = machine::<S>(pages);
    let root = m.mm_new().expect("memory");
    map(&m, &root, 0, pages, RW, None);
    let touch = cpu_time(|| {
        for page in 0..pages {
            m.fault(&root, at(page), Access::Write).expect("a frame");
        }
    });
    let mut family = vec![root];
    let fork = cpu_time(|| {
        for _ in 1..SHARERS {
            family.push(m.fork(&family[0]).expect("memory"));
        }
    });
    let mut found = 0;
    let walks = cpu_time(|| {
        for page in 0..pages {
            found += walk(&m, page_at(&m, &family[0], page));
        }
    });
    assert_eq!(found, pages * SHARERS);
    let exit = cpu_time(|| family.drain(..).for_each(|mm| m.exit(mm)));
    vec![
        ("touch", touch, pages),
        ("fork", fork, pages * (SHARERS - 1)),
        ("walk", walks, found),
        ("exit", exit, pages * SHARERS),
    ]
}

/// `n` generations, each parent exiting when it has forked. Each child writes what it got.
fn fork_chain<S: SoftSystem>(n: u64) -> Phases {
    let m = machine::<S>(8);
    let mut mm = m.mm_new().expect("memory");
    map(&m, &mm, 0, 2, RW, None);
    m.fault(&mm, at(0), Access::Write).expect("a frame");
    let mut most = 0;
    let took = cpu_time(|| {
        for _ in 0..n {
            let child = m.fork(&mm).expect("memory");
            m.exit(std::mem::replace(&mut mm, child));
            m.fault(&mm, at(0), Access::Write).expect("a frame");
            most = most.max(m.rmap().engine().footprint().anchors);
        }
    });
    assert!(most <= 3, "{most} anchors (G5)");
    assert_eq!(walk(&m, page_at(&m, &mm, 0)), 1);
    m.exit(mm);
    vec![("generation", took, n)]
}

/// `n` generations that all live. The root's page is everybody's; the root exits first.
fn live_chain<S: SoftSystem>(n: u64) -> Phases {
    let m = machine::<S>(8);
    let root = m.mm_new().expect("memory");
    map(&m, &root, 0, 1, RW, None);
    m.fault(&root, at(0), Access::Write).expect("a frame");
    let mut line = vec![root];
    let fork = cpu_time(|| {
        for i in 1..n as usize {
            line.push(m.fork(&line[i - 1]).expect("memory"));
        }
    });
    let mut found = 0;
    let walks = cpu_time(|| found = walk(&m, page_at(&m, &line[0], 0)));
    assert_eq!(found, n);
    let exit = cpu_time(|| line.drain(..).for_each(|mm| m.exit(mm)));
    vec![("fork", fork, n - 1), ("walk", walks, n), ("exit", exit, n)]
}

/// `n` VMAs in one address space that cannot join, a page in each.
fn vmas<S: SoftSystem>(n: u64) -> Phases {
    let m = machine::<S>(n);
    let mm = m.mm_new().expect("memory");
    let insert = cpu_time(|| {
        for page in 0..n {
            map(&m, &mm, page, 1, if page % 2 == 0 { RW } else { RW | VmFlags::EXEC }, None);
        }
    });
    let touch = cpu_time(|| {
        for page in 0..n {
            m.fault(&mm, at(page), Access::Write).expect("a frame");
        }
    });
    let find = cpu_time(|| {
        let held = mm.read();
        // Not in order: 7,919 is prime to `n`.
        for i in 0..n {
            assert!(held.find(at(i * 7_919 % n)).is_some());
        }
    });
    // Who looks through every VMA, or every one that shares an anchor with the page's, needs the square of their number
    // for all pages.
    let walked = if matches!(<S::Engine as Engine<S>>::NAME, "full_scan" | "objrmap") { n.min(100) } else { n };
    let walks = cpu_time(|| {
        for page in 0..walked {
            assert_eq!(walk(&m, page_at(&m, &mm, page)), 1);
        }
    });
    let unmap = cpu_time(|| m.munmap(&mm, at(0), n * PAGE_SIZE).expect("whole VMAs"));
    assert_eq!((mm.read().vmas().count(), m.rmap().arena().live_vmas()), (0, 0));
    for page in 0..n {
        map(&m, &mm, page, 1, if page % 2 == 0 { RW } else { RW | VmFlags::EXEC }, None);
        m.fault(&mm, at(page), Access::Write).expect("a frame");
    }
    let exit = cpu_time(|| m.exit(mm));
    vec![
        ("mmap", insert, n),
        ("touch", touch, n),
        ("find", find, n),
        ("walk", walks, walked),
        ("munmap", unmap, n),
        ("exit", exit, n),
    ]
}

/// One page of a file in `n` VMAs.
fn file_walk<S: SoftSystem>(n: u64) -> Phases {
    let m = machine::<S>(8);
    let file = m.new_file(1, FileExt::default()).expect("memory");
    let mm = m.mm_new().expect("memory");
    let mapped = cpu_time(|| {
        for page in 0..n {
            map(&m, &mm, page, 1, VmFlags::READ, Some(&file));
            m.fault(&mm, at(page), Access::Read).expect("the file's page");
        }
    });
    let mut found = 0;
    let walks = cpu_time(|| found = walk(&m, page_at(&m, &mm, 0)));
    assert_eq!(found, n);
    let exit = cpu_time(|| m.exit(mm));
    vec![("mmap and touch", mapped, n), ("walk", walks, n), ("exit", exit, n)]
}

/// One anonymous page in `n` processes, forked from one.
fn anon_walk(n: u64) -> Phases {
    let space = Space::new(1);
    let parent = space.process();
    let page = space.page_of(0, parent);
    let fork = cpu_time(|| {
        for _ in 1..n {
            space.share(page, space.fork(parent));
        }
    });
    let locked = page.lock();
    let mut found = 0;
    let walks = cpu_time(|| found = space.walk_mappings(page));
    drop(locked);
    assert_eq!(found, n);
    vec![("fork", fork, n), ("walk", walks, n)]
}
