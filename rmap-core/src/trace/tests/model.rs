//! A memory manager of maps and nothing else, which knows only what decides a replay's truth: VMAs, and the frame of
//! each anonymous page. Pages of files have none. Not fast, and without an engine: what it and the machine agree on is
//! not an engine's doing.

use crate::base::error::{Error, Result};
use crate::base::types::VmFlags;
use crate::trace::compare::{PresentPage, ProcessState, VmaRun};
use crate::trace::mmt::{LockCall, MapKind, Want};
use crate::trace::replay::{Mapping, Target};
use crate::trace::{Object, Span};
use std::collections::BTreeMap;

#[derive(Clone, Copy)]
struct Vma {
    run: VmaRun,
    /// GROWSDOWN, LOCKED, DONTFORK, WIPEONFORK.
    flags: VmFlags,
}

impl Vma {
    fn has(&self, flag: VmFlags) -> bool {
        self.flags.contains(flag)
    }

    fn has_own_pages(&self) -> bool {
        !self.run.shared && !self.run.special
    }

    /// Cuts it at `vpn`, which lies inside; it keeps the part below. Returns the part from there.
    fn cut(&mut self, vpn: u64) -> Self {
        let below = vpn - self.run.span.vpn;
        let span = Span { vpn, pages: self.run.span.pages - below };
        let above = Self { run: VmaRun { span, pgoff: self.run.pgoff + below, ..self.run }, ..*self };
        self.run.span.pages = below;
        above
    }

    fn moved_to(self, vpn: u64) -> Self {
        Self { run: VmaRun { span: Span { vpn, ..self.run.span }, ..self.run }, ..self }
    }
}

#[derive(Default)]
struct Mm {
    /// By first page.
    vmas: BTreeMap<u64, Vma>,
    /// Frames of anonymous pages.
    pages: BTreeMap<u64, u64>,
}

impl Mm {
    fn find(&self, vpn: u64) -> Option<&Vma> {
        self.vmas.range(..=vpn).next_back().map(|(_, vma)| vma).filter(|vma| vpn < vma.run.span.end())
    }

    /// Cuts at both ends, and returns the first pages of the VMAs in between.
    fn isolate(&mut self, span: Span) -> Vec<u64> {
        for edge in [span.vpn, span.end()] {
            if let Some((_, vma)) = self.vmas.range_mut(..edge).next_back()
                && edge < vma.run.span.end()
            {
                let above = vma.cut(edge);
                self.vmas.insert(edge, above);
            }
        }
        self.vmas.range(span.vpn..span.end()).map(|(start, _)| *start).collect()
    }

    fn change(&mut self, span: Span, mut change: impl FnMut(&mut Vma)) {
        for start in self.isolate(span) {
            if let Some(vma) = self.vmas.get_mut(&start) {
                change(vma);
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Model {
    mms: Vec<Mm>,
    /// How many pages are on each frame.
    users: BTreeMap<u64, u64>,
    frames: u64,
}

impl Model {
    fn zap(&mut self, mm: usize, span: Span) {
        let gone: Vec<_> = self.mms[mm].pages.range(span.vpn..span.end()).map(|(vpn, frame)| (*vpn, *frame)).collect();
        for (vpn, frame) in gone {
            self.mms[mm].pages.remove(&vpn);
            self.drop_frame(frame);
        }
    }

    fn drop_frame(&mut self, frame: u64) {
        let users = self.users.get_mut(&frame).expect("a frame in use");
        *users -= 1;
        if *users == 0 {
            self.users.remove(&frame);
        }
    }

    fn write(&mut self, mm: usize, vpn: u64) {
        if let Some(frame) = self.mms[mm].pages.get(&vpn).copied() {
            if self.users[&frame] == 1 {
                return;
            }
            self.drop_frame(frame);
        }
        self.frames += 1;
        self.users.insert(self.frames, 1);
        self.mms[mm].pages.insert(vpn, self.frames);
    }

    fn populate(&mut self, mm: usize, span: Span) {
        for start in self.mms[mm].isolate(span) {
            let vma = self.mms[mm].vmas[&start];
            if vma.run.prot.contains(VmFlags::WRITE) && vma.has_own_pages() {
                (start..vma.run.span.end()).for_each(|vpn| self.write(mm, vpn));
            }
        }
    }

    fn unmap_all(&mut self, mm: usize, span: Span) {
        for start in self.mms[mm].isolate(span) {
            self.mms[mm].vmas.remove(&start);
        }
        self.zap(mm, span);
    }

    /// The frames of an address space.
    pub(super) fn pages(&self, mm: usize) -> &BTreeMap<u64, u64> {
        &self.mms[mm].pages
    }

    /// First and last page but one, and protection, of each VMA.
    pub(super) fn shape(&self, mm: usize) -> Vec<(u64, u64, u64)> {
        let shape = |vma: &Vma| (vma.run.span.vpn, vma.run.span.end(), vma.run.prot.bits());
        self.mms[mm].vmas.values().map(shape).collect()
    }

    pub(super) fn frames_in_use(&self) -> usize {
        self.users.len()
    }
}

impl Target for Model {
    type Mm = usize;
    type Object = Object;

    fn new_mm(&mut self) -> Result<usize> {
        self.mms.push(Mm::default());
        Ok(self.mms.len() - 1)
    }

    fn fork(&mut self, parent: &usize) -> Result<usize> {
        let child = self.new_mm()?;
        let mut copy = Mm::default();
        let parent = &self.mms[*parent];
        for vma in parent.vmas.values().filter(|vma| !vma.has(VmFlags::DONTFORK)) {
            copy.vmas.insert(vma.run.span.vpn, Vma { flags: vma.flags - VmFlags::LOCKED, ..*vma });
            if !vma.has(VmFlags::WIPEONFORK) {
                copy.pages.extend(parent.pages.range(vma.run.span.vpn..vma.run.span.end()));
            }
        }
        for frame in copy.pages.values() {
            *self.users.get_mut(frame).expect("a frame in use") += 1;
        }
        self.mms[child] = copy;
        Ok(child)
    }

    fn destroy(&mut self, mm: usize) {
        self.zap(mm, Span { vpn: 0, pages: 1 << 52 });
        self.mms[mm] = Mm::default();
    }

    fn new_object(&mut self, object: Object, _: bool) -> Result<Object> {
        Ok(object)
    }

    fn map(&mut self, mm: &usize, mapping: &Mapping<'_, Object>) -> Result<()> {
        let &Mapping { span, prot, kind, object } = mapping;
        self.unmap_all(*mm, span);
        let shared = kind.contains(MapKind::SHARED);
        let special = kind.contains(MapKind::SPECIAL);
        let run = VmaRun {
            span,
            prot,
            shared,
            object: object.map(|(object, _)| *object),
            pgoff: object.map_or(0, |(_, pgoff)| pgoff),
            special,
        };
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::GROWSDOWN, kind.contains(MapKind::STACK));
        flags.set(VmFlags::LOCKED, kind.contains(MapKind::LOCKED));
        self.mms[*mm].vmas.insert(span.vpn, Vma { run, flags });
        if kind.intersects(MapKind::POPULATE | MapKind::LOCKED) {
            self.populate(*mm, span);
        }
        Ok(())
    }

    fn unmap(&mut self, mm: &usize, span: Span) -> Result<()> {
        let whole = || self.mms[*mm].find(span.vpn).map(|vma| vma.run.span).ok_or(Error::NotMapped);
        let span = if span.pages == 0 { whole()? } else { span };
        self.unmap_all(*mm, span);
        Ok(())
    }

    fn protect(&mut self, mm: &usize, span: Span, prot: VmFlags) -> Result<()> {
        self.mms[*mm].change(span, |vma| vma.run.prot = prot);
        Ok(())
    }

    fn remap(&mut self, mm: &usize, old: Span, new: Span, flags: u32) -> Result<()> {
        let mm = *mm;
        if old.vpn != new.vpn {
            self.unmap_all(mm, new);
        }
        if new.pages < old.pages {
            self.unmap_all(mm, Span { vpn: old.vpn + new.pages, pages: old.pages - new.pages });
        }
        let kept = Span { vpn: old.vpn, pages: old.pages.min(new.pages) };
        let mut pieces: Vec<Vma> = if old.pages == 0 {
            self.mms[mm].find(old.vpn).map(|vma| vma.clone().cut(old.vpn)).into_iter().collect()
        } else {
            let starts = self.mms[mm].isolate(kept);
            starts.iter().map(|start| self.mms[mm].vmas[start]).collect()
        };
        let last = pieces.last_mut().ok_or(Error::NotMapped)?;
        let locked = last.has(VmFlags::LOCKED);
        last.run.span.pages = old.vpn + new.pages - last.run.span.vpn;
        let moved: Vec<_> = self.mms[mm].pages.range(kept.vpn..kept.end()).map(|(vpn, frame)| (*vpn, *frame)).collect();
        self.mms[mm].pages.retain(|vpn, _| !(kept.vpn..kept.end()).contains(vpn));
        if old.pages != 0 && flags & 4 == 0 {
            self.unmap_all(mm, kept);
        }
        for piece in pieces {
            let piece = piece.moved_to(piece.run.span.vpn - old.vpn + new.vpn);
            self.mms[mm].vmas.insert(piece.run.span.vpn, piece);
        }
        self.mms[mm].pages.extend(moved.into_iter().map(|(vpn, frame)| (vpn - old.vpn + new.vpn, frame)));
        if locked && new.pages > old.pages {
            self.populate(mm, Span { vpn: new.vpn + old.pages, pages: new.pages - old.pages });
        }
        Ok(())
    }

    fn advise(&mut self, mm: &usize, span: Span, advice: u32) -> Result<()> {
        match advice {
            4 => self.zap(*mm, span),
            10 | 11 => self.mms[*mm].change(span, |vma| vma.flags.set(VmFlags::DONTFORK, advice == 10)),
            18 | 19 => self.mms[*mm].change(span, |vma| vma.flags.set(VmFlags::WIPEONFORK, advice == 18)),
            // Hints that change neither VMAs nor who shares a page.
            0..=3 | 8 | 9 | 12..=17 => {}
            _ => return Err(Error::NotSupported),
        }
        Ok(())
    }

    fn lock(&mut self, mm: &usize, span: Span, call: LockCall) -> Result<()> {
        self.mms[*mm].change(span, |vma| vma.flags.set(VmFlags::LOCKED, call != LockCall::Unlock));
        if call == LockCall::Lock {
            self.populate(*mm, span);
        }
        Ok(())
    }

    fn grow(&mut self, mm: &usize, span: Span) -> Result<()> {
        let vmas = &mut self.mms[*mm].vmas;
        let found = vmas.values().find(|vma| vma.run.span.end() == span.end()).map(|vma| vma.run.span.vpn);
        let mut vma = found.and_then(|start| vmas.remove(&start)).ok_or(Error::NotMapped)?;
        vma.run.span = span;
        vmas.insert(span.vpn, vma);
        Ok(())
    }

    fn fault(&mut self, mm: &usize, vpn: u64, want: Want) -> Result<()> {
        let needs = match want {
            Want::Read => VmFlags::ACCESS,
            Want::Write => VmFlags::WRITE,
            Want::Exec => VmFlags::EXEC,
        };
        if self.mms[*mm].find(vpn).is_none()
            && let Some((_, above)) = self.mms[*mm].vmas.range(vpn..).next()
            && above.has(VmFlags::GROWSDOWN)
        {
            let span = Span { vpn, pages: above.run.span.end() - vpn };
            self.grow(mm, span)?;
        }
        let vma = *self.mms[*mm].find(vpn).ok_or(Error::NotMapped)?;
        if !vma.run.prot.intersects(needs) {
            return Err(Error::Access);
        }
        if want == Want::Write && vma.has_own_pages() {
            self.write(*mm, vpn);
        }
        Ok(())
    }

    fn vmas(&self, mm: &usize) -> u64 {
        self.mms[*mm].vmas.len() as u64
    }

    fn state(&self, mm: &usize, pid: u32) -> ProcessState {
        let Mm { vmas, pages } = &self.mms[*mm];
        ProcessState {
            pid,
            vmas: vmas.values().map(|vma| vma.run).collect(),
            pages: pages.iter().map(|(vpn, frame)| PresentPage { vpn: *vpn, frame: *frame, anonymous: true }).collect(),
            swapped: Vec::new(),
        }
    }
}
