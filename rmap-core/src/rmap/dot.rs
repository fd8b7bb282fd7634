//! The reverse map of one page as a picture, in the language of Graphviz (DOT).
//!
//! ```text
//!  page ────▶ anchors, files ◀───▶ [ mm 2:  VMAs ────▶ entries ]      dot -Tsvg page.dot
//! ```
//!
//! What is drawn: the page with its mapping word, what that leads to and what the engine keeps around it, every VMA
//! that a walk visits, and the entry at each candidate address: one that maps the page with a thick border, others
//! dashed. The picture is of one moment as far as the anchor's lock makes it one; entries are each of their own.

use super::Rmap;
use super::walk::Sync;
use crate::base::alloc::try_push;
use crate::base::error::{Error, Result};
use crate::base::types::VirtAddr;
use crate::engine::sketch::{Edge, Line, Node, Shape, Sketch, Tie};
use crate::engine::{Engine, Kernel, Kind, Lookup, Wait, kind_of};
use crate::mm::Vma;
use crate::page::Page;
use crate::page::pte::{LockedTable, PageTable, Pte};
use core::fmt::{self, Write};
use core::ops::ControlFlow;

/// Nodes that there is room for at first.
const ROOM: usize = 32;

impl<S: Kernel> Rmap<S> {
    /// Writes the reverse map of a page (of all pages of a compound page), under a caption.
    ///
    /// [`Error::NoMemory`]: nothing was written. [`Error::Io`]: `out` has refused a part.
    ///
    /// The page lock is held, and no lock below it. Takes the anchor's lock or `i_mmap_rwsem`, shared, and PTE locks;
    /// calls the heap and `out` under the page lock.
    pub fn dump_dot(&self, page: &Page, caption: impl fmt::Display, out: &mut impl Write) -> Result<()> {
        let page = page.head();
        debug_assert!(page.is_locked(), "a picture is taken with the page lock held");
        let mut room = ROOM;
        let sketch = loop {
            let mut sketch = Sketch::new(&self.arena.heap, room, page)?;
            self.draw(page, &mut sketch);
            if !sketch.is_short() {
                break sketch;
            }
            room *= 2;
        };
        let mut by_mm = self.arena.heap.vec();
        for (n, node) in sketch.nodes().iter().enumerate() {
            try_push(&mut by_mm, (node.mm, n))?;
        }
        by_mm.sort_unstable();
        write(&sketch, &by_mm, caption, out).map_err(|_| Error::Io)
    }

    /// Fills a sketch of a page as far as there is room.
    fn draw(&self, page: &Page, sketch: &mut Sketch) {
        let (first, last) = sketch.pgoffs();
        let candidate = |sketch: &mut Sketch, vma: &Vma<S>, addr| {
            self.draw_candidate(page, vma, addr, sketch);
            if sketch.is_short() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let file = match kind_of::<S>(page) {
            Kind::None => return,
            Kind::Anon => None,
            Kind::File(file) => {
                let title = if file.is_anonymous() { "shared memory" } else { "file" };
                let node = sketch.file(file, &[Line::Text(title), Line::Number("pages", file.size())]);
                sketch.word(node);
                Some((file, node))
            }
        };
        if let Some((file, node)) = file.filter(|_| !self.engine.finds_entries()) {
            let held = file.i_mmap_read();
            let _ = file.for_each_vma(&held, first, last, |vma, addr| candidate(sketch, vma, addr));
            sketch.lead_to_vmas(node, "i_mmap");
        } else if let Lookup::Found(anchor) = self.engine.lock_anchor(page, Wait::Block) {
            let visit = |vma: &Vma<S>, addr| candidate(sketch, vma, addr);
            if self.engine.walk_anchor(&anchor, first, last, visit).is_continue() {
                self.engine.draw(&anchor, sketch);
            }
        }
    }

    /// A VMA that a walk visits, and its entries that map the page; if none does, the one that could.
    fn draw_candidate(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, sketch: &mut Sketch) {
        let (bounds, mm) = (vma.bounds(), vma.mm().id());
        let lines = [
            Line::Text("VMA"),
            Line::Range(bounds.start, bounds.end),
            Line::Hex("pgoff", bounds.pgoff),
            Line::Flags(vma.flags()),
        ];
        sketch.vma(vma, mm, &lines);
        let mut maps = false;
        let _ = self.page_vma_mapped_walk(page, vma, addr, Sync::No, |at, table| {
            maps = true;
            sketch.entry(vma, mm, at, table.get(at), true);
            if sketch.is_short() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if !maps {
            // What stands in the place of a VMA that is about to come is another's.
            let pte = if vma.is_coming() { Pte::None } else { vma.mm().table().load(addr) };
            sketch.entry(vma, mm, addr, pte, false);
        }
    }
}

/// What Graphviz reads between quotes as the text that went in: `"` and `\` have a meaning there, `&` begins an entity.
/// What an SVG may not have, as control characters other than the end of a line, becomes a question mark.
struct Quoted<'w, W>(&'w mut W);

impl<W: Write> Write for Quoted<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '&' => self.0.write_str("&amp;"),
            '\n' => self.0.write_str("\\n"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => self.0.write_char('?'),
            c => self.0.write_char(c),
        })
    }
}

const HEAD: &str = r##"  graph [rankdir=LR, bgcolor="#ffffff", fontname="Helvetica", fontsize=12, labelloc=t];
  graph [ranksep=0.9, nodesep=0.3];
  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=11, margin="0.12,0.07"];
  edge [fontname="Helvetica", fontsize=9, arrowsize=0.7];
"##;

/// Writes a sketch; `by_mm`: the places of its nodes, those of an address space together.
fn write(
    sketch: &Sketch,
    by_mm: &[(Option<u64>, usize)],
    caption: impl fmt::Display,
    out: &mut impl Write,
) -> fmt::Result {
    out.write_str("digraph reverse_map {\n")?;
    out.write_str(HEAD)?;
    out.write_str("  label=\"")?;
    write!(Quoted(out), "{caption}")?;
    out.write_str("\";\n")?;
    for group in by_mm.chunk_by(|a, b| a.0 == b.0) {
        let Some(mm) = group[0].0 else {
            group.iter().try_for_each(|&(_, n)| write_node(sketch, n, "  ", out))?;
            continue;
        };
        write!(out, "  subgraph cluster_mm_{mm} {{\n    label=\"mm {mm}\"; style=rounded; color=\"#7a869a\";\n")?;
        group.iter().try_for_each(|&(_, n)| write_node(sketch, n, "    ", out))?;
        out.write_str("  }\n")?;
    }
    sketch.edges().iter().try_for_each(|edge| write_edge(sketch, edge, out))?;
    out.write_str("}\n")
}

fn write_node(sketch: &Sketch, n: usize, indent: &str, out: &mut impl Write) -> fmt::Result {
    let node: &Node = &sketch.nodes()[n];
    write!(out, "{indent}{node} [label=\"")?;
    if node.shape != Shape::Page {
        write!(out, "{node}: ")?;
    }
    for line in sketch.lines_of(n) {
        write!(Quoted(out), "{line}")?;
        out.write_str("\\l")?;
    }
    out.write_str(match node.shape {
        Shape::Page => r##"", color="#9a6b00", fillcolor="#fff3d6", penwidth=2];"##,
        Shape::Anchor => r##"", color="#1c5fa8", fillcolor="#e3f0ff"];"##,
        Shape::File => r##"", color="#1c5fa8", fillcolor="#e3f0ff", shape=folder];"##,
        Shape::Vma => r##"", color="#23723a", fillcolor="#e6f6e8"];"##,
        Shape::Mapping => r##"", color="#7d3a78", fillcolor="#f6e9f5", penwidth=2];"##,
        Shape::Miss => r##"", color="#7d3a78", fillcolor="#ffffff", style="filled,rounded,dashed"];"##,
    })?;
    out.write_char('\n')
}

fn write_edge(sketch: &Sketch, edge: &Edge, out: &mut impl Write) -> fmt::Result {
    let (from, to) = sketch.ends(edge);
    write!(out, "  {from} -> {to} [label=\"")?;
    Quoted(out).write_str(edge.word)?;
    // Edges back to the left do not push what they lead to.
    out.write_str(match edge.tie {
        Tie::Word => r##"", color="#9a6b00", penwidth=2];"##,
        Tie::Beside => r##"", color="#1c5fa8", constraint=false];"##,
        Tie::Leads => r##"", color="#1c5fa8"];"##,
        Tie::Chain => r##"", color="#23723a", constraint=false];"##,
        Tie::Own => r##"", color="#23723a", penwidth=2, constraint=false];"##,
        Tie::Maps => r##"", color="#7d3a78", penwidth=2];"##,
        Tie::Misses => r##"", color="#7d3a78", style=dashed];"##,
    })?;
    out.write_char('\n')
}
