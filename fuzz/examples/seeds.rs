//! Seeds from traces of real programs: `cargo run --example seeds -- FOLDER`.
//!
//! Each trace is cut into pieces of as many events as a program may have. What a piece maps is laid out in the window of
//! pages that programs can name, in the order in which it comes, at most eight pages of each mapping: neighbours stay
//! neighbours, and whoever forked, wrote and unmapped does so still. FOLDER gets a folder for each target.

use rmap_core::machine::advise::Advice;
use rmap_core::machine::map::MapFlags;
use rmap_core::machine::remap::MremapFlags;
use rmap_core::trace::mmt::{Event, LockCall, MapKind, MmId, ObjectId, Trace, Want};
use rmap_core::trace::source::FileLines;
use rmap_core::trace::{Lines, Span};
use rmap_fuzz::op::{At, Lock, Op, Program, What};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

const TRACES: [&str; 5] = ["bash", "make", "py", "redis", "web"];
/// Operations of a piece, and pieces of a trace.
const OPS: usize = 160;
const PIECES: usize = 12;
/// Events between two pieces.
const STRIDE: usize = 1500;
/// Lines of a seed of text.
const LINES: usize = 60;
/// Pages of a mapping that are kept, and pages of the window.
const MOST: u64 = 8;
const WINDOW: u64 = 64;

/// Where a piece has laid out what a trace maps.
#[derive(Default)]
struct Window {
    /// Pages by first page in the trace: pages there, and first page in the window.
    spans: BTreeMap<(MmId, u64), (u64, u64)>,
    next: u64,
    mms: Vec<MmId>,
}

impl Window {
    fn mm(&mut self, mm: MmId) -> u8 {
        let known = self.mms.iter().position(|other| *other == mm);
        known.unwrap_or_else(|| {
            self.mms.push(mm);
            self.mms.len() - 1
        }) as u8
    }

    /// The page in the window of a page of the trace.
    fn at(&mut self, mm: MmId, vpn: u64) -> At {
        let below = self.spans.range(..=(mm, vpn)).next_back();
        let span = below.filter(|((of, start), (pages, _))| *of == mm && vpn < start + pages);
        match span {
            Some(((_, start), (_, at))) => ((at + (vpn - start) % MOST) % WINDOW) as At,
            None => self.place(mm, Span { vpn, pages: 1 }),
        }
    }

    fn place(&mut self, mm: MmId, span: Span) -> At {
        let at = self.next;
        self.next = (self.next + span.pages.clamp(1, MOST)) % WINDOW;
        self.spans.insert((mm, span.vpn), (span.pages.max(1), at));
        at as At
    }

    fn forked(&mut self, parent: MmId, child: MmId) {
        let copies: Vec<_> = self
            .spans
            .range((parent, 0)..=(parent, u64::MAX))
            .map(|((_, start), span)| ((child, *start), *span))
            .collect();
        self.spans.extend(copies);
    }

    /// What an event is in a program, if it is anything.
    fn op(&mut self, event: &Event<'_>) -> Option<Op> {
        let pages = |span: Span| span.pages.clamp(1, MOST) as u8;
        Some(match *event {
            Event::Fork { parent, child } => {
                let mm = self.mm(parent);
                self.mm(child);
                self.forked(parent, child);
                Op::Fork { mm }
            }
            Event::Destroy { mm } => {
                let number = self.mm(mm);
                self.mms.remove(usize::from(number));
                Op::Exit { mm: number }
            }
            Event::Map { mm, span, prot, kind, object, pgoff } => {
                let shared = kind.contains(MapKind::SHARED);
                let what = match object {
                    Some(ObjectId(id)) => {
                        What::File { which: if shared { 2 } else { (id % 2) as u8 }, pgoff: Some((pgoff % 12) as u8) }
                    }
                    None if shared => What::SharedAnon,
                    None => What::Anon,
                };
                let mut flags = MapFlags::FIXED;
                flags.set(MapFlags::SHARED, shared);
                flags.set(MapFlags::POPULATE, kind.contains(MapKind::POPULATE));
                flags.set(MapFlags::GROWSDOWN, kind.contains(MapKind::STACK));
                Op::Map { mm: self.mm(mm), at: self.place(mm, span), pages: pages(span), prot, what, flags }
            }
            Event::Unmap { mm, span } => Op::Unmap { mm: self.mm(mm), at: self.at(mm, span.vpn), pages: pages(span) },
            Event::Protect { mm, span, prot } => {
                Op::Protect { mm: self.mm(mm), at: self.at(mm, span.vpn), pages: pages(span), prot }
            }
            Event::Remap { mm, old, new, flags } => {
                let flags = MremapFlags::from_bits_truncate(flags) | MremapFlags::MAYMOVE;
                let at = self.at(mm, old.vpn);
                Op::Remap { mm: self.mm(mm), at, old: pages(old), new: pages(new), flags, to: self.place(mm, new) }
            }
            Event::Advise { mm, span, advice } => {
                let advice = Advice::from_number(advice)?;
                Op::Advise { mm: self.mm(mm), at: self.at(mm, span.vpn), pages: pages(span), advice }
            }
            Event::Lock { mm, span, call } => {
                let lock = match call {
                    LockCall::Lock => Lock::Now,
                    LockCall::LockOnFault => Lock::OnFault,
                    LockCall::Unlock => Lock::Off,
                };
                Op::Lock { mm: self.mm(mm), at: self.at(mm, span.vpn), pages: pages(span), lock }
            }
            Event::Grow { mm, span } => Op::Grow { mm: self.mm(mm), at: self.at(mm, span.vpn) },
            Event::Fault { mm, vpn, want, .. } => {
                let (mm, at) = (self.mm(mm), self.at(mm, vpn));
                match want {
                    Want::Write => Op::Write { mm, at, offset: (vpn % 4096) as u16, byte: vpn as u8 | 1, len: 8 },
                    Want::Read => Op::Read { mm, at },
                    Want::Exec => Op::Fetch { mm, at },
                }
            }
            _ => return None,
        })
    }
}

/// A piece begins with one process; others that it has are its children, so that each event has a process of its own.
fn piece<L: Lines>(trace: &mut Trace<L>) -> Result<Vec<Op>, Box<dyn Error>> {
    let mut window = Window::default();
    let mut ops = Vec::new();
    while ops.len() < OPS {
        let Some(event) = trace.next_event()? else { break };
        let known = window.mms.len();
        let op = window.op(&event);
        if !matches!(event, Event::Fork { .. }) && window.mms.len() > known.max(1) {
            ops.push(Op::Fork { mm: 0 });
        }
        ops.extend(op);
    }
    Ok(ops)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder?")?;
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-c/traces");
    let write = |target: &str, name: String, bytes: &[u8]| -> Result<(), Box<dyn Error>> {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    };
    for name in TRACES {
        let path = traces.join(format!("{name}.mmt.gz"));
        let mut trace = Trace::new(FileLines::open(&path)?);
        for number in 0..PIECES {
            let program = Program::to_bytes(&piece(&mut trace)?);
            for target in ["machine_ops", "oom", "engines_agree"] {
                write(target, format!("{name}-{number}"), &program)?;
            }
            for _ in 0..STRIDE {
                trace.next_event()?;
            }
        }
        let mut lines = FileLines::open(&path)?;
        let (mut text, mut line) = (String::from("M"), String::new());
        // Without the header, which the target puts there.
        lines.next_line(&mut line)?;
        for _ in 0..LINES {
            lines.next_line(&mut line)?;
            text += &line;
            text.push('\n');
        }
        write("trace_parser", name.to_string(), text.as_bytes())?;
    }
    let whole = "T 1.000000002\nP 7 1 0 sh\nV 7 10 2 rw-p 0 00:00 0 -\n@ 7 10 8100000000000064\nK 100 1 1 0\n";
    write("trace_parser", "snapshot".to_string(), format!("S{whole}").as_bytes())?;
    Ok(())
}
