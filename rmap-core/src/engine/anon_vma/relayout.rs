//! Split, merge, adjust: how the ties of up to four VMAs change in one step.
//!
//! New ties are made before old ones go, all under one hold of the root's lock. So a failure leaves everything as it
//! was, and no walk sees a VMA twice or not at all. All VMAs involved that are prepared share one anon_vma, and
//! therefore their chains (T2), and one root.

use super::chain::Chain;
use super::node::AnonVma;
use super::topology::{same_anchors, tie_all, untie};
use super::{AnonVmaSystem, ties};
use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::ds::interval_tree::NeedNodes;
use crate::engine::Relayout;
use crate::mm::{Arena, Vma, VmaKey};
use core::ptr::NonNull;

/// What happens to the ties of one VMA.
struct Retie<'a, S: AnonVmaSystem> {
    vma: &'a Vma<S>,
    /// What it will be known by; `None`: it disappears.
    key: Option<NonNull<VmaKey<S>>>,
    /// Before the commit the ties to come; afterwards those that were.
    chain: Chain<S>,
}

/// A change of layout with the memory that it needs.
pub struct Plan<'a, S: AnonVmaSystem> {
    arena: &'a Arena<S>,
    /// The anon_vma that all prepared VMAs involved share; `None`: none is prepared.
    own: Option<&'a AnonVma<S>>,
    /// The VMA that stays, the one that appears, the one that disappears, the neighbour.
    steps: [Option<Retie<'a, S>>; 4],
}

impl<'a, S: AnonVmaSystem> Plan<'a, S> {
    /// The VMA lock is held exclusively.
    pub(super) fn new(change: &Relayout<'a, S>) -> Result<Self> {
        let (vma, bounds) = change.vma;
        let mut plan = Self { arena: vma.mm().arena(), own: None, steps: [const { None }; 4] };
        let involved = [Some(vma), change.remove, change.shift.map(|(v, _)| v)];
        let Some((donor, own)) = involved.into_iter().flatten().find_map(|v| Some((v, ties(v).get()?))) else {
            return Ok(plan);
        };
        plan.own = Some(own);
        let tied = |v: &Vma<S>| ties(v).get().is_some();
        plan.step(0, vma, Some(vma.next_key(bounds)), donor)?;
        if let Some(new) = change.insert {
            plan.step(1, new, Some(new.current_key()), donor)?;
        }
        if let Some(gone) = change.remove.filter(|v| tied(v)) {
            plan.step(2, gone, None, gone)?;
        }
        if let Some((other, at)) = change.shift.filter(|(v, _)| tied(v)) {
            plan.step(3, other, Some(other.next_key(at)), other)?;
        }
        Ok(plan)
    }

    /// Plans for one VMA, with memory for ties to the anon_vmas that `source` is tied to.
    fn step(&mut self, n: usize, vma: &'a Vma<S>, key: Option<NonNull<VmaKey<S>>>, source: &Vma<S>) -> Result<()> {
        let chain = match key {
            // SAFETY: the VMA lock is held exclusively (contract of `plan_relayout`).
            Some(_) => same_anchors(self.arena, unsafe { ties(source).chain() })?,
            None => Chain::new(),
        };
        self.steps[n] = Some(Retie { vma, key, chain });
        Ok(())
    }

    /// See [`Engine::commit_relayout`](crate::engine::Engine::commit_relayout).
    pub(super) fn commit(&mut self, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        let Some(own) = self.own else {
            apply();
            return Ok(());
        };
        // Lock order: mmap_lock -> i_mmap_rwsem -> anon_vma root.
        let mut held = own.lock_root();
        for n in 0..self.steps.len() {
            let Some(Retie { key: Some(key), chain, .. }) = &mut self.steps[n] else { continue };
            // SAFETY: the lock is held exclusively; VMAs stay alive until they are untied.
            if unsafe { tie_all(self.arena, chain, *key) }.is_err() {
                for step in self.steps[..n].iter().flatten() {
                    let Some(key) = step.key else { continue };
                    // SAFETY: tied in an earlier turn of the loop.
                    unsafe { untie(self.arena, step.chain.links(), key) };
                }
                return Err(NeedNodes);
            }
        }
        for step in self.steps.iter_mut().flatten() {
            // SAFETY: (1) the lock is held exclusively; (2) new ties are made; (3) the old keys are still current.
            unsafe { step.untie_old(self.arena, own) };
        }
        if mutant("relayout_two_steps") {
            drop(held);
            held = own.lock_root();
        }
        apply();
        drop(held);
        Ok(())
    }
}

impl<S: AnonVmaSystem> Retie<'_, S> {
    /// Undoes the ties that were, and makes the new chain the VMA's.
    ///
    /// # Safety
    /// The root's lock and the VMA lock are held exclusively, the new ties are made, and the old keys are still
    /// current.
    unsafe fn untie_old(&mut self, arena: &Arena<S>, own: &AnonVma<S>) {
        let data = ties(self.vma);
        let had = data.get().is_some();
        let has = self.key.is_some();
        // SAFETY: the caller's contract, for all three.
        unsafe {
            self.chain = data.replace_chain(core::mem::replace(&mut self.chain, Chain::new()));
            untie(arena, self.chain.links(), self.vma.current_key());
            let active = &mut own.guarded_mut().num_active_vmas;
            *active = *active + u32::from(has) - u32::from(had);
        }
        data.set(has.then_some(own));
    }
}

impl<S: AnonVmaSystem> Drop for Plan<'_, S> {
    fn drop(&mut self) {
        for step in self.steps.iter_mut().flatten() {
            step.chain.free(&self.arena.heap);
        }
    }
}
