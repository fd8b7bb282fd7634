//! The trace: from lines to [`Event`]s. The format is in the [module above](super).
//!
//! [`Trace`] reads one line at a time and remembers which address spaces live, which objects were announced and which
//! pids the coming mark has: so a trace that it accepts makes sense as a sequence, not only line by line. `Display` of
//! an event is its line.

use super::fields::{Fields, check_span, nonempty, object};
use super::{Lines, Object, Span, TraceError};
use crate::base::types::VmFlags;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use bitflags::bitflags;
use core::fmt;

/// The header of the version that is read here.
pub const HEADER: &str = "H mmt 1 4096";

/// The number of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmId(pub u32);

/// The number of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl fmt::Display for MmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

bitflags! {
    /// How something is mapped.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct MapKind: u8 {
        /// `p`: writes are the process's own.
        const PRIVATE = 1;
        /// `s`: writes are seen by all who map it.
        const SHARED = 1 << 1;
        /// `k`: the kernel's own pages; none of them is tracked.
        const SPECIAL = 1 << 2;
        /// `G`: grows down.
        const STACK = 1 << 3;
        /// `P`: faulted in at once.
        const POPULATE = 1 << 4;
        /// `L`: locked, and so faulted in at once.
        const LOCKED = 1 << 5;
    }
}

const LETTERS: [(char, MapKind); 6] = [
    ('p', MapKind::PRIVATE),
    ('s', MapKind::SHARED),
    ('k', MapKind::SPECIAL),
    ('G', MapKind::STACK),
    ('P', MapKind::POPULATE),
    ('L', MapKind::LOCKED),
];

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LETTERS.iter().filter(|(_, flag)| self.contains(*flag)).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// What a fault wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To execute.
    Exec,
}

/// How a page came to be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// By a fault in the program.
    User,
    /// By a fault in the kernel, on the program's behalf.
    Kernel,
    /// Without a fault: by exec.
    NoFault,
}

/// How pages are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockCall {
    /// At once, so they are faulted in.
    Lock,
    /// When they are faulted in.
    LockOnFault,
    /// Not any more.
    Unlock,
}

/// One thing that happened. The letters are those of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// `O`
    Object {
        /// Its number from now on.
        id: ObjectId,
        /// What it is.
        object: Object,
        /// The last part of its path.
        name: &'a str,
    },
    /// `N`
    New {
        /// The new, empty address space.
        mm: MmId,
    },
    /// `F`
    Fork {
        /// The address space that is copied.
        parent: MmId,
        /// The copy.
        child: MmId,
    },
    /// `D`
    Destroy {
        /// The address space that goes.
        mm: MmId,
    },
    /// `M`
    Map {
        /// Where.
        mm: MmId,
        /// What is replaced.
        span: Span,
        /// READ, WRITE, EXEC.
        prot: VmFlags,
        /// The letters.
        kind: MapKind,
        /// `None`: anonymous memory.
        object: Option<ObjectId>,
        /// Offset into the object.
        pgoff: u64,
    },
    /// `U`
    Unmap {
        /// Where.
        mm: MmId,
        /// No pages: the whole VMA at `vpn`.
        span: Span,
    },
    /// `P`
    Protect {
        /// Where.
        mm: MmId,
        /// What.
        span: Span,
        /// READ, WRITE, EXEC.
        prot: VmFlags,
    },
    /// `R`
    Remap {
        /// Where.
        mm: MmId,
        /// What moves or changes its size. No pages: shared memory is mapped once more.
        old: Span,
        /// Where and how large it is then.
        new: Span,
        /// The system call's: 1 may move, 2 fixed, 4 leave the old VMA in place.
        flags: u32,
    },
    /// `A`
    Advise {
        /// Where.
        mm: MmId,
        /// What.
        span: Span,
        /// The system call's number.
        advice: u32,
    },
    /// `L`
    Lock {
        /// Where.
        mm: MmId,
        /// What.
        span: Span,
        /// How.
        call: LockCall,
    },
    /// `G`
    Grow {
        /// Where.
        mm: MmId,
        /// All that the stack's VMA is now.
        span: Span,
    },
    /// `r`, `w`, `x`
    Fault {
        /// Where.
        mm: MmId,
        /// The page.
        vpn: u64,
        /// What it was for.
        want: Want,
        /// By whom.
        touch: Touch,
    },
    /// `I`
    Pid {
        /// A process.
        pid: u32,
        /// Its address space.
        mm: MmId,
    },
    /// `=`
    Mark {
        /// Names the snapshot beside the trace.
        label: &'a str,
    },
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Object { id, object, name } => write!(f, "O {id} {object} {name}"),
            Self::New { mm } => write!(f, "N {mm}"),
            Self::Fork { parent, child } => write!(f, "F {parent} {child}"),
            Self::Destroy { mm } => write!(f, "D {mm}"),
            Self::Map { mm, span, prot, kind, object, pgoff } => {
                write!(f, "M {mm} {span} {} {kind} ", prot.bits())?;
                match object {
                    Some(id) => write!(f, "{id} {pgoff:x}"),
                    None => write!(f, "- {pgoff:x}"),
                }
            }
            Self::Unmap { mm, span } => write!(f, "U {mm} {span}"),
            Self::Protect { mm, span, prot } => write!(f, "P {mm} {span} {}", prot.bits()),
            Self::Remap { mm, old, new, flags } => write!(f, "R {mm} {old} {new} {flags}"),
            Self::Advise { mm, span, advice } => write!(f, "A {mm} {span} {advice}"),
            Self::Lock { mm, span, call } => {
                let call = match call {
                    LockCall::Lock => "mlock",
                    LockCall::LockOnFault => "mlock2",
                    LockCall::Unlock => "munlock",
                };
                write!(f, "L {mm} {span} {call}")
            }
            Self::Grow { mm, span } => write!(f, "G {mm} {span}"),
            Self::Fault { mm, vpn, want, touch } => {
                let want = match want {
                    Want::Read => 'r',
                    Want::Write => 'w',
                    Want::Exec => 'x',
                };
                let touch = match touch {
                    Touch::User => "",
                    Touch::Kernel => " k",
                    Touch::NoFault => " g",
                };
                write!(f, "{want} {mm} {vpn:x}{touch}")
            }
            Self::Pid { pid, mm } => write!(f, "I {pid} {mm}"),
            Self::Mark { label } => write!(f, "= {label}"),
        }
    }
}

/// What the lines so far have announced.
#[derive(Debug, Default)]
struct Announced {
    /// Address spaces, and whether each lives.
    mms: BTreeMap<MmId, bool>,
    objects: BTreeSet<ObjectId>,
    /// Of the mark to come.
    pids: BTreeSet<u32>,
}

impl Announced {
    /// One line, neither header nor comment, to an event.
    fn event<'l>(&mut self, line: &'l str) -> Result<Event<'l>, String> {
        let mut f = Fields::new(line);
        let event = match f.next("the letter of the event")? {
            "O" => self.object(&mut f)?,
            "N" => Event::New { mm: self.new_mm(&mut f)? },
            "F" => Event::Fork { parent: self.mm(&mut f)?, child: self.new_mm(&mut f)? },
            "D" => {
                let mm = self.mm(&mut f)?;
                self.mms.insert(mm, false);
                Event::Destroy { mm }
            }
            "M" => self.map(&mut f)?,
            "U" => Event::Unmap { mm: self.mm(&mut f)?, span: f.span_or_empty()? },
            "P" => Event::Protect { mm: self.mm(&mut f)?, span: f.span()?, prot: prot(&mut f)? },
            "R" => self.remap(&mut f)?,
            "A" => Event::Advise { mm: self.mm(&mut f)?, span: f.span()?, advice: f.id("advice")? },
            "L" => Event::Lock { mm: self.mm(&mut f)?, span: f.span()?, call: lock_call(&mut f)? },
            "G" => Event::Grow { mm: self.mm(&mut f)?, span: f.span()? },
            "r" => self.fault(&mut f, Want::Read)?,
            "w" => self.fault(&mut f, Want::Write)?,
            "x" => self.fault(&mut f, Want::Exec)?,
            "I" => self.pid(&mut f)?,
            "=" => {
                self.pids.clear();
                Event::Mark { label: label(&mut f)? }
            }
            "H" => return Err("a second header".to_string()),
            other => return Err(format!("{other:?} is no event")),
        };
        f.end()?;
        Ok(event)
    }

    fn object<'l>(&mut self, f: &mut Fields<'l>) -> Result<Event<'l>, String> {
        let (id, text, name) = (ObjectId(f.id("object")?), f.next("dev:ino")?, f.next("name")?);
        let object = object(text)?;
        if self.objects.insert(id) {
            Ok(Event::Object { id, object, name })
        } else {
            Err(format!("object {id} was announced before"))
        }
    }

    fn new_mm(&mut self, f: &mut Fields<'_>) -> Result<MmId, String> {
        let mm = MmId(f.id("mm")?);
        if self.mms.contains_key(&mm) {
            return Err(format!("mm {mm} was announced before"));
        }
        self.mms.insert(mm, true);
        Ok(mm)
    }

    fn mm(&self, f: &mut Fields<'_>) -> Result<MmId, String> {
        let mm = MmId(f.id("mm")?);
        match self.mms.get(&mm) {
            Some(true) => Ok(mm),
            Some(false) => Err(format!("mm {mm} was destroyed")),
            None => Err(format!("mm {mm} was never announced")),
        }
    }

    fn map<'l>(&self, f: &mut Fields<'l>) -> Result<Event<'l>, String> {
        let (mm, span, prot, kind) = (self.mm(f)?, f.span()?, prot(f)?, map_kind(f)?);
        let object = self.object_or_none(f)?;
        Ok(Event::Map { mm, span, prot, kind, object, pgoff: f.pgoff(span.pages)? })
    }

    fn object_or_none(&self, f: &mut Fields<'_>) -> Result<Option<ObjectId>, String> {
        let text = f.next("object")?;
        if text == "-" {
            return Ok(None);
        }
        let id = ObjectId(Fields::new(text).id("object")?);
        if self.objects.contains(&id) { Ok(Some(id)) } else { Err(format!("object {id} was never announced")) }
    }

    fn remap<'l>(&self, f: &mut Fields<'l>) -> Result<Event<'l>, String> {
        let mm = self.mm(f)?;
        let old = check_span(Span { vpn: f.vpn("old")?, pages: f.hex("oldn")? })?;
        let new = check_span(Span { vpn: f.vpn("new")?, pages: f.hex("newn")? })?;
        Ok(Event::Remap { mm, old, new: nonempty(new)?, flags: f.id("flags")? })
    }

    fn fault<'l>(&self, f: &mut Fields<'l>, want: Want) -> Result<Event<'l>, String> {
        let (mm, vpn) = (self.mm(f)?, f.vpn("vpn")?);
        let touch = match if f.more() { f.next("k or g")? } else { "" } {
            "" => Touch::User,
            "k" => Touch::Kernel,
            "g" => Touch::NoFault,
            other => return Err(format!("{other:?} is neither k nor g")),
        };
        Ok(Event::Fault { mm, vpn, want, touch })
    }

    fn pid<'l>(&mut self, f: &mut Fields<'l>) -> Result<Event<'l>, String> {
        let (pid, mm) = (f.id("pid")?, self.mm(f)?);
        if self.pids.insert(pid) { Ok(Event::Pid { pid, mm }) } else { Err(format!("pid {pid} stands there twice")) }
    }
}

fn prot(f: &mut Fields<'_>) -> Result<VmFlags, String> {
    let prot = f.dec("prot")?;
    let flags = VmFlags::from_bits(prot).filter(|flags| VmFlags::ACCESS.contains(*flags));
    flags.ok_or_else(|| format!("prot {prot} is more than 1 read, 2 write, 4 execute"))
}

fn map_kind(f: &mut Fields<'_>) -> Result<MapKind, String> {
    let text = f.next("flags")?;
    let mut kind = MapKind::empty();
    for c in text.chars() {
        let (_, flag) = LETTERS.iter().find(|(letter, _)| *letter == c).ok_or_else(|| format!("{c:?} is no flag"))?;
        if kind.contains(*flag) {
            return Err(format!("flag {c:?} stands there twice"));
        }
        kind |= *flag;
    }
    let exactly_one = MapKind::PRIVATE | MapKind::SHARED | MapKind::SPECIAL;
    if (kind & exactly_one).bits().is_power_of_two() {
        Ok(kind)
    } else {
        Err(format!("flags {text:?} have not exactly one of p, s and k"))
    }
}

fn lock_call(f: &mut Fields<'_>) -> Result<LockCall, String> {
    match f.next("call")? {
        "mlock" => Ok(LockCall::Lock),
        "mlock2" => Ok(LockCall::LockOnFault),
        "munlock" => Ok(LockCall::Unlock),
        other => Err(format!("{other:?} is neither mlock, mlock2 nor munlock")),
    }
}

/// A mark's label: the name of a file beside the trace, and of nothing elsewhere.
fn label<'l>(f: &mut Fields<'l>) -> Result<&'l str, String> {
    let label = f.next("label")?;
    if label.starts_with('.') || label.contains(['/', '\\']) {
        return Err(format!("label {label:?} is no name of a file beside the trace"));
    }
    Ok(label)
}

/// A trace being read. See the [module](self).
#[derive(Debug)]
pub struct Trace<L> {
    lines: L,
    /// The line that was read last.
    text: String,
    /// Its number, from 1.
    number: u64,
    header: bool,
    announced: Announced,
}

impl<L: Lines> Trace<L> {
    /// A trace whose first line is the next of `lines`.
    pub fn new(lines: L) -> Self {
        Self { lines, text: String::new(), number: 0, header: false, announced: Announced::default() }
    }

    /// The number, from 1, of the line of the event that [`next_event`](Self::next_event) returned last.
    pub fn line(&self) -> u64 {
        self.number
    }

    /// The name of the trace.
    pub fn name(&self) -> &str {
        self.lines.name()
    }

    /// An error at the line that was read last.
    pub fn error(&self, reason: impl Into<String>) -> TraceError {
        TraceError { file: self.name().to_string(), line: self.number, reason: reason.into() }
    }

    /// The next event, or `None` at the end. After an error the trace is of no further use.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, TraceError> {
        loop {
            self.number += 1;
            match self.lines.next_line(&mut self.text) {
                Ok(true) if !self.header && self.text == HEADER => self.header = true,
                Ok(true) if self.header && self.text.starts_with('#') => {}
                Ok(true) if self.header => break,
                Ok(false) if self.header => return Ok(None),
                Ok(_) => return Err(self.error(format!("the first line is not the header {HEADER:?}"))),
                Err(reason) => return Err(self.error(reason)),
            }
        }
        let Self { lines, text, number, announced, .. } = self;
        let at = |reason| TraceError { file: lines.name().to_string(), line: *number, reason };
        announced.event(text).map(Some).map_err(at)
    }
}
