//! The cases of the C suite that run over the machine, in Rust: each in a file of its case's name.

mod common;
mod on_machine {
    pub(crate) mod exec_shells;
    pub(crate) mod fork;
    pub(crate) mod fork_chain;
    pub(crate) mod libc_map;
    pub(crate) mod mixed;
    pub(crate) mod mremap_move;
    pub(crate) mod page_fault;
    pub(crate) mod rig;
    pub(crate) mod split_vma;
    pub(crate) mod unmap_swap_in;
}

use common::Figures;

fn main() {
    let mut figures = Figures::new();
    on_machine::fork::run(&mut figures);
    on_machine::fork_chain::run(&mut figures);
    on_machine::exec_shells::run(&mut figures);
    on_machine::split_vma::run(&mut figures);
    on_machine::mremap_move::run(&mut figures);
    on_machine::unmap_swap_in::run(&mut figures);
    on_machine::page_fault::run(&mut figures);
    on_machine::libc_map::run(&mut figures);
    on_machine::mixed::run(&mut figures);
}
