//! A picture of one page's reverse map, before it is drawn: nodes, what is written in them, and ties between them.
//!
//! ```text
//!   page ──mapping──▶ A1 ──leads──▶ V1 ──maps────▶ P1          page  the page
//!                     A2 ──leads──▶ V2 ┄┄misses┄┄▶ P2          A, F  anchors and files    V  VMAs    P  entries
//! ```
//!
//! The layer above puts in the page, the VMAs that a walk visits and the entries at their candidate addresses; the
//! engine adds what it keeps in between ([`Engine::draw`](super::Engine::draw)). A node is known by the object that it
//! stands for, and named by a letter and a number in order of arrival, never by an address: pictures of equal states
//! are equal.
//!
//! **Memory (T11).** A sketch is filled under an anchor's lock and page-table locks, so it allocates nothing then. One
//! that is full is [short](Sketch::is_short) from then on and takes nothing more: whoever fills it lets go of the
//! locks, makes a larger one, and starts over.

use crate::base::alloc::{Heap, HeapMap, HeapVec};
use crate::base::error::Result;
use crate::base::room::Roomy;
use crate::base::types::{PgOff, VirtAddr, VmFlags};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{Pte, PteFlags};
use core::fmt;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The page itself.
    Page,
    /// What anonymous pages point to, or whatever else an engine keeps.
    Anchor,
    /// A file.
    File,
    /// A VMA.
    Vma,
    /// A page-table entry that maps the page.
    Mapping,
    /// A page-table entry at a candidate address that does not.
    Miss,
}

/// What the names of nodes begin with, by [`Shape::series`].
const SERIES: [&str; 5] = ["page", "A", "F", "V", "P"];

impl Shape {
    /// With which others it is numbered.
    const fn series(self) -> usize {
        match self {
            Self::Page => 0,
            Self::Anchor => 1,
            Self::File => 2,
            Self::Vma => 3,
            Self::Mapping | Self::Miss => 4,
        }
    }
}

/// What an edge means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The page's mapping word.
    Word,
    /// From an anchor to another: its parent, the next of a list.
    Beside,
    /// To what a walk finds by it.
    Leads,
    /// From a VMA to an anchor that it is tied to.
    Chain,
    /// From a VMA to its own anchor, to which its new pages will point.
    Own,
    /// From a VMA to an entry that maps the page.
    Maps,
    /// From a VMA to an entry that could, and does not.
    Misses,
}

/// A line of text in a node.
#[derive(Debug, Clone, Copy)]
pub enum Line {
    /// These words.
    Text(&'static str),
    /// Words and a number, in decimal.
    Number(&'static str, u64),
    /// Words and a number, in hexadecimal.
    Hex(&'static str, u64),
    /// A range of addresses.
    Range(VirtAddr, VirtAddr),
    /// What may be done in a VMA.
    Flags(VmFlags),
    /// What an entry holds.
    Entry(Pte),
    /// The mapping word of a page that is mapped, or is not; what it leads to is where the edge [`Tie::Word`] goes.
    Word(Mapping, bool),
}

impl Line {
    fn write(self, f: &mut fmt::Formatter<'_>, target: Option<&Node>) -> fmt::Result {
        match self {
            Self::Text(words) => f.write_str(words),
            Self::Number(words, number) => write!(f, "{words} {number}"),
            Self::Hex(words, number) => write!(f, "{words} {number:#x}"),
            Self::Range(start, end) => write!(f, "{:#x}-{:#x}", start.0, end.0),
            Self::Flags(flags) => {
                f.write_str("flags ")?;
                flags.perms().iter().try_for_each(|letter| write!(f, "{letter}"))?;
                (flags - SHOWN_BY_LETTER).iter_names().try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::Entry(pte) => entry(f, pte),
            Self::Word(word, mapped) => {
                f.write_str("mapping ")?;
                let bits = match word {
                    Mapping::None => return f.write_str("0"),
                    Mapping::File(_) => "",
                    Mapping::Anon(_) => "ANON",
                    Mapping::Ksm(_) => "KSM",
                };
                match target {
                    Some(target) => write!(f, "{target}")?,
                    None if mapped => return f.write_str(bits),
                    None => f.write_str("a hint")?,
                }
                f.write_str(if bits.is_empty() { "" } else { " | " })?;
                f.write_str(bits)
            }
        }
    }
}

/// Flags that `rwxp` shows, or that follow from what was mapped.
const SHOWN_BY_LETTER: VmFlags = VmFlags::ACCESS
    .union(VmFlags::SHARED)
    .union(VmFlags::MAYREAD)
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC)
    .union(VmFlags::ACCOUNT);

fn entry(f: &mut fmt::Formatter<'_>, pte: Pte) -> fmt::Result {
    match pte {
        Pte::NoTable => f.write_str("no page table"),
        Pte::None => f.write_str("empty"),
        Pte::Present { pfn, flags } => {
            write!(f, "page {:#x}", pfn.0)?;
            f.write_str(if flags.contains(PteFlags::WRITE) { ", writable" } else { ", read-only" })?;
            for (flag, word) in
                [(PteFlags::YOUNG, ", young"), (PteFlags::DIRTY, ", dirty"), (PteFlags::LARGE, ", large")]
            {
                f.write_str(if flags.contains(flag) { word } else { "" })?;
            }
            Ok(())
        }
        Pte::Special { pfn } => write!(f, "page {:#x}, not counted", pfn.0),
        Pte::Swap(entry) => write!(f, "swap slot {}", entry.slot),
        Pte::Migration(entry) => write!(f, "page {:#x} being moved", entry.pfn.0),
        Pte::Marker(value) => write!(f, "marker {value:#x}"),
    }
}

/// A node's number in its sketch. One that did not fit stands for nothing, and ties to it are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(Option<u32>);

/// A node.
#[derive(Debug)]
pub struct Node {
    /// What it stands for.
    pub shape: Shape,
    /// Its number in its series, from 1.
    number: u32,
    /// The number of the address space that it lies in.
    pub mm: Option<u64>,
    /// The first of its lines; they go on to the next node's.
    lines: usize,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SERIES[self.shape.series()])?;
        if self.shape == Shape::Page { Ok(()) } else { write!(f, "{}", self.number) }
    }
}

/// An edge.
#[derive(Debug, Clone, Copy)]
pub struct Edge {
    from: u32,
    to: u32,
    /// What it means.
    pub tie: Tie,
    /// The word at it; "" for none.
    pub word: &'static str,
}

/// What a node is known by.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The address of what it stands for.
    Object(usize),
    /// The number of an address space, and where in it the entry is.
    Entry(u64, VirtAddr),
}

fn address<T>(object: &T) -> usize {
    core::ptr::from_ref(object).addr()
}

/// The picture. See the [module](self).
#[derive(Debug)]
pub struct Sketch {
    nodes: HeapVec<Node>,
    lines: HeapVec<Line>,
    edges: HeapVec<Edge>,
    known: HeapMap<Key, u32>,
    /// The last number of each series.
    numbers: [u32; SERIES.len()],
    short: bool,
    pgoffs: (PgOff, PgOff),
}

impl Sketch {
    /// A sketch of `page`, the head of a compound page, whose lock is held: nothing but the page yet, and room for
    /// about `room` nodes with lines and edges.
    pub fn new(heap: &Heap, room: usize, page: &Page) -> Result<Self> {
        let mut sketch = Self {
            nodes: HeapVec::with_room(heap, room)?,
            lines: HeapVec::with_room(heap, 6 * room)?,
            edges: HeapVec::with_room(heap, 4 * room)?,
            known: HeapMap::with_room(heap, room)?,
            numbers: [0; SERIES.len()],
            short: false,
            pgoffs: (page.index(), page.index() + page.nr_pages() - 1),
        };
        let word = page.mapping().load();
        sketch.add(
            Key::Object(address(page)),
            Shape::Page,
            None,
            &[
                Line::Hex("page", page.pfn().0),
                Line::Word(word, page.is_mapped()),
                Line::Hex("index", page.index()),
                Line::Number("mapcount", u64::from(page.mapcount())),
            ],
        );
        if page.nr_pages() != 1 {
            sketch.say(Line::Number("pages", page.nr_pages()));
        }
        for (flag, words) in
            [(PageFlags::ANON_EXCLUSIVE, "anon-exclusive"), (PageFlags::SWAP_CACHE, "in the swap cache")]
        {
            if page.has(flag) {
                sketch.say(Line::Text(words));
            }
        }
        Ok(sketch)
    }

    /// The page's offsets, first and last.
    pub fn pgoffs(&self) -> (PgOff, PgOff) {
        self.pgoffs
    }

    /// The node of an object, if it is in.
    pub fn find<T>(&self, object: &T) -> Option<NodeId> {
        self.known.get(&Key::Object(address(object))).map(|&id| NodeId(Some(id)))
    }

    /// The entry of an address space at `addr`, if it is in.
    pub fn find_entry(&self, mm: u64, addr: VirtAddr) -> Option<NodeId> {
        self.known.get(&Key::Entry(mm, addr)).map(|&id| NodeId(Some(id)))
    }

    /// The page.
    pub fn page(&self) -> NodeId {
        NodeId(Some(0))
    }

    /// A new anchor, or whatever else an engine keeps, with its lines; the first is its title.
    pub fn anchor<T>(&mut self, object: &T, lines: &[Line]) -> NodeId {
        self.add(Key::Object(address(object)), Shape::Anchor, None, lines)
    }

    /// A new file, as [`anchor`](Self::anchor).
    pub fn file<T>(&mut self, object: &T, lines: &[Line]) -> NodeId {
        self.add(Key::Object(address(object)), Shape::File, None, lines)
    }

    /// A VMA of the address space `mm`, as [`anchor`](Self::anchor), or the one that is in.
    pub fn vma<V>(&mut self, vma: &V, mm: u64, lines: &[Line]) -> NodeId {
        let known = self.find(vma);
        known.unwrap_or_else(|| self.add(Key::Object(address(vma)), Shape::Vma, Some(mm), lines))
    }

    /// An entry, at `addr` in a VMA of `mm` which is in, unless that is; it maps the page or it does not.
    pub fn entry<V>(&mut self, vma: &V, mm: u64, addr: VirtAddr, pte: Pte, maps: bool) {
        if self.find_entry(mm, addr).is_some() {
            return;
        }
        let (shape, tie) = if maps { (Shape::Mapping, Tie::Maps) } else { (Shape::Miss, Tie::Misses) };
        let id = self.add(Key::Entry(mm, addr), shape, Some(mm), &[Line::Hex("PTE", addr.0), Line::Entry(pte)]);
        if let Some(vma) = self.find(vma) {
            self.tie(vma, id, tie, "");
        }
    }

    /// A further line of the newest node.
    pub fn say(&mut self, line: Line) {
        self.short |= !self.lines.has_room();
        if !self.short {
            self.lines.push(line);
        }
    }

    /// Ties two nodes.
    pub fn tie(&mut self, from: NodeId, to: NodeId, tie: Tie, word: &'static str) {
        self.short |= !self.edges.has_room();
        if let (NodeId(Some(from)), NodeId(Some(to)), false) = (from, to, self.short) {
            self.edges.push(Edge { from, to, tie, word });
        }
    }

    /// Says which node the page's mapping word leads to.
    pub fn word(&mut self, target: NodeId) {
        self.tie(self.page(), target, Tie::Word, "mapping");
    }

    /// Ties a node to all VMAs: those that a walk visits.
    pub fn lead_to_vmas(&mut self, from: NodeId, word: &'static str) {
        for id in 0..self.nodes.len() {
            if self.nodes[id].shape == Shape::Vma {
                self.tie(from, NodeId(Some(id as u32)), Tie::Leads, word);
            }
        }
    }

    fn add(&mut self, key: Key, shape: Shape, mm: Option<u64>, lines: &[Line]) -> NodeId {
        self.short |= !(self.nodes.has_room() && self.known.has_room());
        if self.short {
            return NodeId(None);
        }
        let id = self.nodes.len() as u32;
        let number = &mut self.numbers[shape.series()];
        *number += 1;
        self.nodes.push(Node { shape, number: *number, mm, lines: self.lines.len() });
        self.known.insert(key, id);
        lines.iter().for_each(|line| self.say(*line));
        NodeId(Some(id))
    }

    /// Whether something did not fit.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// The nodes, the page first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The edges, in order of arrival.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Where an edge comes from, and where it goes.
    pub fn ends(&self, edge: &Edge) -> (&Node, &Node) {
        (&self.nodes[edge.from as usize], &self.nodes[edge.to as usize])
    }

    /// What is written in the n-th node, a line at a time; the first is its title.
    pub fn lines_of(&self, n: usize) -> impl Iterator<Item = impl fmt::Display> {
        let end = self.nodes.get(n + 1).map_or(self.lines.len(), |next| next.lines);
        let word = self.edges.iter().find(|edge| edge.tie == Tie::Word);
        let target = word.map(|edge| &self.nodes[edge.to as usize]);
        self.lines[self.nodes[n].lines..end].iter().map(move |line| fmt::from_fn(move |f| line.write(f, target)))
    }
}
